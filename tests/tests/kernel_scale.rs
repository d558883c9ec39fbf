//! 100,000 sessions of 10,000 clients, each with an open pinhole, through the programs and through the engine: what
//! they cost in memory, and that a full table refuses the next one and says so.

use std::{
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsFd as _, AsRawFd as _},
    time::{Duration, Instant},
};

use aya::maps::Map;
use ftp_helper::{
    dataplane::Options,
    engine::{
        Action, Engine, Policy,
        policy::{Limits, Mode},
    },
    event::Kind,
    lab,
};
use ftp_helper_common::{
    command::Outcome,
    key::{CLIENT, HOOK_IN, SERVER},
    reason::Reason,
    record::kind,
};
use ftp_helper_tests::{
    dialogue::Dialogue,
    gateway::until,
    packet::Packet,
    testrun::{Kernel, Verdict, guards, monotonic, parse},
};

const SESSIONS: u32 = 100_000;
const CLIENTS: u32 = 10_000;
/// What a session with its pinhole may cost, bytes.
const IN_KERNEL: f64 = 512.0;
const IN_ENGINE: f64 = 4096.0;

/// The engine with the kernel in front of it.
struct Pair {
    kernel: Kernel,
    engine: Engine,
    /// Events but the ordinary ones.
    odd: Vec<(Kind, Option<Reason>)>,
}

impl Pair {
    /// Sends a packet, and has the engine read what the kernel wrote.
    fn send(&mut self, hook: u8, packet: &Packet) {
        assert_eq!(self.kernel.send(hook, packet), Verdict::Pass, "{packet:?}");
        let now = monotonic();
        for record in self.kernel.records() {
            if record[0] == kind::PARKED {
                continue;
            }
            self.engine.handle_record(now, &parse(&record));
            self.act(now);
        }
    }

    /// Has the engine do what is due.
    fn time(&mut self) {
        let now = monotonic();
        self.engine.handle_timeout(now);
        self.act(now);
    }

    fn act(&mut self, now: u64) {
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::Command(command) => {
                    let outcome = self.kernel.command(&command);
                    assert_eq!(outcome, Outcome::Done, "{command:?}");
                    self.engine.handle_outcome(now, &command, outcome);
                }
                Action::Event(e) if matches!(e.event, Kind::SessionStart | Kind::Opened | Kind::Confirmed) => {}
                Action::Event(e) => self.odd.push((e.event, e.reason)),
            }
        }
    }

    fn say(&mut self, d: &mut Dialogue, side: u8, line: &str) {
        let packet = d.segment(side, format!("{line}\r\n").as_bytes());
        let next = &mut d.next[usize::from(side)];
        *next = next.wrapping_add(packet.payload.len() as u32);
        self.send(d.hook_of(side), &packet);
    }

    /// Session `n`: handshake, login and a pinhole.
    fn begin(&mut self, n: u32) {
        let client = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + n % CLIENTS);
        let server: IpAddr = [203, 0, 113, 5].into();
        let mut d = Dialogue::between((client.into(), server), HOOK_IN);
        let nth = (n / CLIENTS) as u16;
        d.client.set_port(40000 + nth);
        self.send(d.hook, &d.syn());
        self.send(d.hook_of(SERVER), &d.syn_ack());
        self.send(d.hook, &d.segment(CLIENT, b""));
        for (side, line) in [
            (SERVER, "220 ready"),
            (CLIENT, "USER me"),
            (SERVER, "331 password"),
            (CLIENT, "PASS secret"),
            (SERVER, "230 in"),
            (CLIENT, "EPSV"),
        ] {
            self.say(&mut d, side, line);
        }
        self.say(&mut d, SERVER, &format!("229 Extended (|||{}|)", 50000 + nth));
    }
}

#[test]
fn a_hundred_thousand_sessions() {
    if !lab::require_root() {
        return;
    }
    let started = Instant::now();
    let options = Options { sessions: SESSIONS, ring_bytes: 1 << 18, instance: None, ..Options::default() };
    let policy = Policy {
        mode: Mode::Drop,
        pinhole_timeout: Duration::from_secs(3600),
        limits: Limits { sessions: SESSIONS, ..Limits::default() },
        ..Policy::default()
    };
    let mut kernel = Kernel::load(&options);
    kernel.set(&policy, &guards());
    let per_entry = ["SESSIONS", "PINHOLES"].map(|name| bytes_per_entry(&mut kernel, name));
    let in_kernel: f64 = per_entry.iter().sum();
    assert!(in_kernel <= IN_KERNEL, "{per_entry:?} bytes of kernel memory for a session and a pinhole");

    let mut pair = Pair { kernel, engine: Engine::new(policy, 0), odd: Vec::new() };
    let before = resident();
    for n in 0..SESSIONS {
        pair.begin(n);
    }
    // About the last ones the kernel is asked a moment later.
    let confirmed = |pair: &mut Pair| {
        pair.time();
        (pair.engine.stats().confirmed == u64::from(SESSIONS)).then_some(())
    };
    until("all pinholes are confirmed", || confirmed(&mut pair)).unwrap();
    let in_engine = (resident() - before) as f64 / f64::from(SESSIONS);
    println!(
        "kernel: {per_entry:.1?} bytes an entry; engine: {in_engine:.0} bytes a session; {:.1?}",
        started.elapsed()
    );
    assert!(in_engine <= IN_ENGINE, "{in_engine} bytes of the daemon's memory for a session");
    assert_eq!(pair.odd, [], "events");
    assert_eq!(pair.engine.sessions().count(), SESSIONS as usize);
    assert_eq!(pair.engine.pinholes(monotonic()).count(), SESSIONS as usize);
    assert_eq!(pair.engine.stats().confirmed, u64::from(SESSIONS));
    assert_eq!(pair.kernel.sessions().len(), SESSIONS as usize);
    assert_eq!(pair.kernel.pinholes().len(), SESSIONS as usize);

    // One more: it passes and is refused, by name; nobody gives way.
    pair.kernel.restart_counting();
    pair.begin(SESSIONS);
    pair.kernel.expect("one more", &[("half_open", 1), ("sessions_full", 1)]);
    assert_eq!(pair.odd, [(Kind::SessionEnd, Some(Reason::SessionsFull))]);
    assert_eq!(pair.kernel.sessions().len(), SESSIONS as usize);
    assert_eq!(pair.kernel.pinholes().len(), SESSIONS as usize);
    assert_eq!(pair.engine.sessions().count(), SESSIONS as usize);
}

/// What the kernel says that a table takes, divided by its entries.
fn bytes_per_entry(kernel: &mut Kernel, name: &str) -> f64 {
    let Some(Map::HashMap(map)) = kernel.plane().ebpf_mut().map(name) else { panic!("no hash table {name}") };
    let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
    let info = std::fs::read_to_string(path).expect("the table's description");
    let field = |name: &str| {
        let line = info.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).expect(name);
        line.trim().parse::<f64>().expect("a number")
    };
    field("memlock") / field("max_entries")
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("/proc");
    let pages: u64 = text.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a number of pages");
    pages * nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().expect("a page size") as u64
}
