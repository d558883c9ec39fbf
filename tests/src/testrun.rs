//! The programs as they are loaded into this kernel, run on single packets (`BPF_PROG_TEST_RUN`).
//!
//! Nothing is attached to an interface. Loading takes the verifier some seconds, so that the tests of one program share
//! one set of programs and tables ([`shared`]), one after the other: each begins with empty tables, the default policy
//! and hosts that no other test has used.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use ftp_helper::{
    dataplane::{Counters, Dataplane, Direction, FastPath, Guard, LinkLayer, Metadata, Options, Testbed},
    engine::{Record, policy::Mode, policy::Policy},
    lab,
};
use ftp_helper_common::{
    addr::Addr,
    command::{Command, Outcome, op},
    counter::Counter,
    key::{HOOK_IN, HOOK_OUT, PinholeKey, SessionKey, TupleKey},
    nat::Translation,
    policy::{KernelPolicy, policy_flag},
    reason::Reason,
    state::{FlowState, Locked, PinholeState, SessionState},
};

use crate::packet::Packet;

pub use ftp_helper::dataplane::Verdict;

/// Programs and tables in the kernel, and readers of their ring buffers.
pub struct Kernel {
    bed: Testbed,
    /// Counters at the last [`Self::expect`].
    seen: Counters,
    denied: BTreeMap<u16, [u64; 2]>,
    held: VecDeque<Vec<u8>>,
    /// Whether ring buffers are emptied after each packet.
    pub draining: bool,
    /// Programs for interfaces without an Ethernet header.
    pub bare: bool,
    /// Whether the packets came in by another interface, and by which.
    pub ingress_ifindex: u32,
    /// The mark that packets bear.
    pub mark: u32,
    /// The mark that the last packet went on with.
    pub marked: u32,
}

/// Sizes of the shared set: small, so that loading and looking through the tables is quick.
pub fn options() -> Options {
    Options { sessions: 4096, ring_bytes: 1 << 20, instance: None, ..Options::default() }
}

/// The shared set, emptied; `None` without root (see [`lab::require_root`]).
pub fn shared() -> Option<MutexGuard<'static, SharedKernel>> {
    static SHARED: Mutex<SharedKernel> = Mutex::new(SharedKernel(None));
    if !lab::require_root() {
        return None;
    }
    // A test that failed leaves nothing that the next one would not clear.
    let mut guard = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    match &mut guard.0 {
        Some(kernel) => kernel.reset(),
        empty => *empty = Some(Kernel::load(&options())),
    }
    Some(guard)
}

/// A [`Kernel`] that is loaded by now.
pub struct SharedKernel(Option<Kernel>);

impl std::ops::Deref for SharedKernel {
    type Target = Kernel;

    fn deref(&self) -> &Kernel {
        self.0.as_ref().expect("loaded before it is handed out")
    }
}

impl std::ops::DerefMut for SharedKernel {
    fn deref_mut(&mut self) -> &mut Kernel {
        self.0.as_mut().expect("loaded before it is handed out")
    }
}

impl Kernel {
    /// A set of its own. The caller has made sure that it may ([`lab::require_root`]).
    pub fn load(options: &Options) -> Self {
        let mut kernel = Self {
            bed: Testbed::load(options).expect("the programs load"),
            seen: Counters::default(),
            denied: BTreeMap::new(),
            held: VecDeque::new(),
            draining: true,
            bare: false,
            ingress_ifindex: 0,
            mark: 0,
            marked: 0,
        };
        kernel.reset();
        kernel
    }

    /// Empties the tables and puts the default policy in force: mode `drop`, both guards, a daemon that lives.
    pub fn reset(&mut self) {
        (self.draining, self.bare, self.ingress_ifindex, self.mark) = (true, false, 0, 0);
        self.clear();
        self.set(&policy(), &guards());
        self.live(true);
        self.drain();
        self.held.clear();
        self.restart_counting();
    }

    /// Removes every session, pinhole, data connection and client; what that counts is forgotten.
    pub fn clear(&mut self) {
        self.forget_all();
        self.restart_counting();
    }

    /// Removes every translation, those that linger too.
    pub fn forget_translations(&mut self) {
        for (hook, name) in [(HOOK_IN, "INWARD"), (HOOK_OUT, "OUTWARD")] {
            let all = self.bed.plane().translations(hook).expect("translations");
            let map = self.bed.plane_mut().ebpf_mut().map_mut(name).expect("a table");
            let mut map = aya::maps::HashMap::<_, TupleKey, Translation>::try_from(map).expect("a hash table");
            for (tuple, _) in all {
                map.remove(&tuple).expect("an entry");
            }
        }
    }

    /// Removes every session, pinhole, data connection and client.
    pub fn forget_all(&mut self) {
        for (key, state) in self.sessions() {
            self.command(&Command { op: op::FORGET, key, session: state.id, ..Command::default() });
        }
        for (tuple, state) in self.flows() {
            let flow = tuple.to_flow(state.hook);
            self.command(&Command { op: op::FORGET_FLOW, flow, mode: state.hook, ..Command::default() });
        }
        for (client, _) in self.bed.plane().clients().expect("clients") {
            let flow = ftp_helper_common::key::FlowKey { initiator: client, ..Default::default() };
            self.command(&Command { op: op::FORGET_CLIENT, flow, ..Command::default() });
        }
    }

    /// The loaded programs.
    pub fn plane(&mut self) -> &mut Dataplane {
        self.bed.plane_mut()
    }

    /// The same, to be read.
    pub fn plane_of(&self) -> &Dataplane {
        self.bed.plane()
    }

    /// Puts a policy and guards in force.
    pub fn set(&mut self, policy: &Policy, guards: &[Guard]) {
        self.bed.plane_mut().apply(policy, guards, FastPath::default()).expect("the policy fits");
    }

    /// Notes an interface as one that the programs are attached to.
    pub fn outside(&mut self, ifindex: u32) {
        let map = self.bed.plane_mut().ebpf_mut().map_mut("OUTSIDE").expect("a table");
        let mut map = aya::maps::HashMap::<_, u32, u32>::try_from(map).expect("a hash table");
        map.insert(ifindex, 1, 0).expect("room");
    }

    /// The default policy with something changed, beside the default guards.
    pub fn policy(&mut self, change: impl FnOnce(&mut Policy)) -> Policy {
        let mut p = policy();
        change(&mut p);
        self.set(&p, &guards());
        p
    }

    /// Whether the daemon counts as alive from now on, for an hour or not at all.
    pub fn live(&mut self, alive: bool) {
        const HOUR: u64 = 3_600_000_000_000;
        let beat = if alive { monotonic() + HOUR } else { monotonic().saturating_sub(HOUR).max(1) };
        self.bed.plane_mut().beat(beat).expect("the heartbeat");
    }

    /// Runs the program of `hook` on a packet.
    pub fn send(&mut self, hook: u8, packet: &Packet) -> Verdict {
        let bytes = if self.bare { packet.bare() } else { packet.frame() };
        self.send_bytes(hook, &bytes)
    }

    /// The same with bytes.
    pub fn send_bytes(&mut self, hook: u8, bytes: &[u8]) -> Verdict {
        let link = if self.bare { LinkLayer::None } else { LinkLayer::Ethernet };
        let metadata = Metadata { mark: self.mark, ingress_ifindex: self.ingress_ifindex };
        let (verdict, mark) = self.bed.run(hook, link, bytes, metadata).expect("a test run");
        self.marked = mark;
        if self.draining {
            self.drain();
        }
        verdict
    }

    /// Runs the shield on a packet: its verdict, to pass or to drop.
    pub fn shield(&mut self, packet: &Packet) -> Verdict {
        let (link, bytes) =
            if self.bare { (LinkLayer::None, packet.bare()) } else { (LinkLayer::Ethernet, packet.frame()) };
        let verdict = self.bed.shield(link, &bytes).expect("a test run");
        if self.draining {
            self.drain();
        }
        verdict
    }

    /// Runs the program of `hook` on a frame: the verdict, and the frame as it goes on.
    pub fn change(&mut self, hook: u8, bytes: &[u8]) -> (Verdict, Vec<u8>) {
        let metadata = Metadata { mark: self.mark, ingress_ifindex: self.ingress_ifindex };
        let (verdict, mark, after) =
            self.bed.change_frame(hook, LinkLayer::Ethernet, bytes, metadata).expect("a test run");
        self.marked = mark;
        if self.draining {
            self.drain();
        }
        (verdict, after)
    }

    /// Carries out a command.
    pub fn command(&self, command: &Command) -> Outcome {
        self.bed.plane().command(command).expect("a test run")
    }

    /// The records since the last call, in order: those of `EVENTS`, then diagnostic ones.
    pub fn records(&mut self) -> Vec<Vec<u8>> {
        self.drain();
        self.held.drain(..).collect()
    }

    /// Frees a full ring buffer; what it held is in [`Self::records`].
    pub fn drain(&mut self) {
        self.bed.records(|r| self.held.push_back(r.to_vec())).unwrap();
    }

    /// Frees the ring buffers and keeps nothing of them.
    pub fn discard(&mut self) {
        self.bed.records(|_| ()).unwrap();
    }

    /// Writes a session's entry past the programs: for benchmarks only.
    pub fn write_session(&mut self, key: &SessionKey, state: SessionState) {
        let map = self.bed.plane_mut().ebpf_mut().map_mut("SESSIONS").expect("a table");
        let mut map = aya::maps::HashMap::<_, SessionKey, Locked<SessionState>>::try_from(map).expect("a hash table");
        map.insert(key, Locked { state, lock: 0, pad: 0 }, 0).expect("room");
    }

    /// One session.
    pub fn session(&self, key: &SessionKey) -> Option<SessionState> {
        self.bed.plane().session(key).expect("sessions")
    }

    /// Every session.
    pub fn sessions(&self) -> Vec<(SessionKey, SessionState)> {
        self.bed.plane().sessions().expect("sessions")
    }

    /// Every unconsumed pinhole.
    pub fn pinholes(&self) -> Vec<(PinholeKey, PinholeState)> {
        self.bed.plane().pinholes().expect("pinholes")
    }

    /// The only pinhole.
    pub fn pinhole(&self) -> (PinholeKey, PinholeState) {
        let all = self.pinholes();
        assert_eq!(all.len(), 1, "{all:#?}\n{}", self.dump());
        all[0]
    }

    /// Every data connection.
    pub fn flows(&self) -> Vec<(TupleKey, FlowState)> {
        self.bed.plane().flows().expect("flows")
    }

    /// Unconsumed pinholes that the kernel counts against a client.
    pub fn held_by(&self, client: IpAddr) -> u32 {
        let key = Addr::from(client).quota_key();
        let all = self.bed.plane().clients().expect("clients");
        all.iter().find(|(a, _)| *a == key).map_or(0, |(_, c)| c.pinholes)
    }

    /// Forgets what was counted up to now.
    pub fn restart_counting(&mut self) {
        self.seen = self.bed.plane().counters().expect("counters");
        self.denied = self.bed.plane().denied_by_port().expect("denied ports");
    }

    /// Every counter that has moved since the last call, by its name.
    pub fn counted(&mut self) -> BTreeMap<&'static str, u64> {
        let now = self.bed.plane().counters().expect("counters");
        let verdicts = Counter::ALL.iter().map(|c| (c.as_str(), now.get(*c) - self.seen.get(*c)));
        let reasons = Reason::ALL.iter().map(|r| (r.as_str(), now.reason(*r) - self.seen.reason(*r)));
        let moved = verdicts.chain(reasons).filter(|(_, n)| *n > 0).collect();
        self.seen = now;
        moved
    }

    /// Exactly these counters have moved since the last call, each by so much: no other has.
    #[track_caller]
    pub fn expect(&mut self, what: &str, moved: &[(&'static str, u64)]) {
        let counted = self.counted();
        let expected: BTreeMap<_, _> = moved.iter().copied().collect();
        assert_eq!(counted, expected, "{what}: counters (left: the kernel's)\n{}", self.dump());
    }

    /// SYNs by port since the last call: denied, and such that would have been.
    pub fn denied_ports(&mut self) -> BTreeMap<u16, [u64; 2]> {
        let now = self.bed.plane().denied_by_port().expect("denied ports");
        let before = std::mem::replace(&mut self.denied, now);
        let more = |(p, [a, b]): (&u16, &[u64; 2])| {
            let [c, d] = before.get(p).copied().unwrap_or_default();
            (*p, [a - c, b - d])
        };
        self.denied.iter().map(more).filter(|(_, n)| *n != [0; 2]).collect()
    }

    /// What stands in the tables, for the message of a test that fails.
    pub fn dump(&self) -> String {
        format!(
            "sessions: {:#?}\npinholes: {:#?}\nflows: {:#?}",
            self.bed.plane().sessions(),
            self.bed.plane().pinholes(),
            self.bed.plane().flows()
        )
    }
}

/// The default policy of these tests: mode `drop`, active mode towards inside clients allowed.
pub fn policy() -> Policy {
    Policy { mode: Mode::Drop, active_inbound: true, deny_ports: [3306].into(), ..Policy::default() }
}

/// A policy as the reader on the host takes it: what it looks at, and nothing else.
pub fn kernel_policy(p: &Policy) -> KernelPolicy {
    KernelPolicy {
        modes: p.modes.0,
        active_open: p.active_open as u8,
        servers: p.servers.len() as u32,
        flags: if p.active_inbound { policy_flag::ACTIVE_INBOUND } else { 0 },
        ..KernelPolicy::default()
    }
}

/// Ports that the default guards leave alone.
pub const EXCEPT: [std::ops::RangeInclusive<u16>; 2] = [3389..=3389, 8080..=8090];

/// The default guards: both directions, both networks of [`hosts`], every port from 1024 on but [`EXCEPT`].
pub fn guards() -> Vec<Guard> {
    let networks = ["203.0.113.0/24", "198.18.0.0/15", "8.0.0.0/16", "2001:db8:5::/48", "2001:db8:86dd::/48"];
    let guard = |direction| Guard {
        direction,
        networks: networks.iter().map(|n| n.parse().expect("a network")).collect(),
        initiators: everybody(),
        ports: 1024..=65535,
        except: EXCEPT.to_vec(),
    };
    vec![guard(Direction::In), guard(Direction::Out)]
}

/// Every host of both families.
pub fn everybody() -> Vec<ipnet::IpNet> {
    ["0.0.0.0/0", "::/0"].map(|n| n.parse().expect("a network")).to_vec()
}

/// A client and a server that no other test has seen; both in the default guards' networks.
pub fn hosts(v6: bool) -> (IpAddr, IpAddr) {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    if v6 {
        // The quota counts by /64: each client has one of its own.
        let host = |net: u16, n: u32| Ipv6Addr::new(0x2001, 0xdb8, 5, n as u16, net, 0, 0, 1);
        return (host(1, n).into(), host(2, n | 0x8000).into());
    }
    let client = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + (n & 0x1_ffff));
    (client.into(), Ipv4Addr::new(203, 0, 113, (n % 254) as u8 + 1).into())
}

/// Two hosts for the programs without an Ethernet header. A test run takes the first 14 bytes of any packet for such a
/// header, and the packet's protocol from it: there, bytes 4 and 5 of an IPv6 source address (0 and 1 of an IPv4 one)
/// have to spell it.
pub fn bare_hosts(v6: bool) -> (IpAddr, IpAddr) {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let n = NEXT.fetch_add(1, Ordering::Relaxed) as u16;
    let [a, b] = n.to_be_bytes();
    if v6 {
        let host = |end| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0x86dd, n, 0, 0, 0, end));
        return (host(1), host(2));
    }
    (Ipv4Addr::new(8, 0, a | 0x80, b).into(), Ipv4Addr::new(8, 0, a, b).into())
}

/// The other hook.
pub const fn other(hook: u8) -> u8 {
    if hook == HOOK_IN { HOOK_OUT } else { HOOK_IN }
}

/// `CLOCK_MONOTONIC`, nanoseconds.
pub fn monotonic() -> u64 {
    let t = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("a clock");
    Duration::from(t).as_nanos() as u64
}

/// Waits until the kernel's coarse clock has passed a point in time.
pub fn wait_until(time: u64) {
    // The coarse clock lags by a timer tick, 10 ms at most.
    while monotonic() < time + 10_000_000 {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// An address and a port.
pub fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

/// Reads a record.
#[track_caller]
pub fn parse(record: &[u8]) -> Record<'_> {
    Record::parse(record).expect("a record of this version")
}
