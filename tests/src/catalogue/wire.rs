//! The back end (w): the daemon on a lab's gateway, and frames that two raw sockets send through it.
//!
//! C's and S's addresses lie behind the hosts of the lab, which know nothing of them and keep silent: both ends are played
//! here, with the same numbers as on the other back ends. Whether a frame passes shows on the other side: either it
//! arrives, or what is sent right behind it arrives first.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use ftp_helper::{
    api::Standing,
    event::Event,
    lab::{HOST_INTERFACE, Host, INSIDE_INTERFACE, Lab, LabOptions, OUTSIDE_INTERFACE},
};
use ftp_helper_common::{
    key::{CLIENT, HOOK_IN},
    tcp,
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::{
        socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt},
        time::TimeVal,
    },
    unistd::Pid,
};

use super::{
    BEHIND, Begin, Came, DENIED, Data, Host as End, Knob, LOGIN, Seen, Segment, Step, Stimulus, address, p1, talk::Talk,
};
use crate::{
    gateway::{Events, Gateway, PATIENCE, Settings, list, until},
    packet::Packet,
    testrun::at,
};

/// How long events may be behind.
const TELLING: Duration = Duration::from_secs(10);

/// A raw socket on a host of the lab, and the gateway's Ethernet address there.
struct Raw {
    socket: OwnedFd,
    interface: i32,
    gateway: [u8; 6],
    own: [u8; 6],
}

/// The lab, the daemon, and both ends.
pub struct Wire {
    // Dropped in this order: the daemon before its gateway.
    gateway: Gateway,
    events: Events,
    ends: [Raw; 2],
    knob: [&'static str; 2],
    next_port: u16,
    /// The hook of the clients' packets.
    hook: u8,
    /// The control port of the sessions.
    pub control_port: u16,
    marker: u32,
    /// Gone last.
    _lab: Lab,
}

/// A session on the wire.
struct Run<'a> {
    wire: &'a mut Wire,
    talk: Talk,
    killed: bool,
    /// Data connections that are running, by what ends them.
    running: Vec<Packet>,
}

impl Wire {
    /// Builds the lab and starts the daemon. The client is outside, where its packets pass `HOOK_IN`, or inside.
    ///
    /// # Errors
    /// Where that is not possible.
    pub fn new(hook: u8) -> Result<Self> {
        // What one CPU sends arrives in its order.
        let mut cpus = CpuSet::new();
        cpus.set(0)?;
        sched_setaffinity(Pid::from_raw(0), &cpus)?;
        let lab = Lab::new(&LabOptions::default())?;
        let outside = hook == HOOK_IN;
        let (client, server) = if outside { (lab.client(), lab.server()) } else { (lab.server(), lab.client()) };
        let (its, others) =
            if outside { (OUTSIDE_INTERFACE, INSIDE_INTERFACE) } else { (INSIDE_INTERFACE, OUTSIDE_INTERFACE) };
        route(&lab, client, server)?;
        let gateway = Gateway::start(&lab, &settings(["", ""]), &[])?;
        let events = gateway.follow()?;
        let ends = [Raw::new(client, mac(lab.gateway(), its)?)?, Raw::new(server, mac(lab.gateway(), others)?)?];
        let (knob, next_port, control_port) = (["", ""], 20_000, 21);
        Ok(Self { gateway, events, ends, knob, next_port, hook, control_port, marker: 0, _lab: lab })
    }

    /// Runs a stimulus, and what must follow it.
    ///
    /// # Errors
    /// What is not as it must be.
    pub fn run(&mut self, s: &Stimulus) -> Result<Came> {
        self.set(s.knob)?;
        let mut run = self.session(s.v6);
        let came = run.stimulus(s);
        let ended = run.end();
        let came = came.and_then(|came| ended.map(|()| came))?;
        let mut run = self.session(s.v6);
        let again = run.again(s.v6).context("P1 in a new session");
        run.end()?;
        again.map(|()| came)
    }

    fn session(&mut self, v6: bool) -> Run<'_> {
        self.next_port += 1;
        let mut talk = Talk::new(v6, self.hook, self.next_port);
        talk.dialogue.server.set_port(self.control_port);
        Run { wire: self, talk, killed: false, running: Vec::new() }
    }

    /// Puts the policy of a stimulus in force.
    fn set(&mut self, knob: Knob) -> Result<()> {
        if self.knob != knob.toml {
            self.gateway.reload(&settings(knob.toml))?;
            self.knob = knob.toml;
        }
        Ok(())
    }

    /// Sends a frame from one end; whether it arrives at the other.
    fn send(&mut self, from: usize, packet: &Packet) -> Result<bool> {
        let wanted = signature(packet);
        self.ends[1 - from].empty()?;
        self.ends[from].send(packet)?;
        self.marker += 1;
        let mark = self.marker.to_be_bytes();
        // A datagram right behind it, on the same way.
        let v6 = packet.from.is_ipv6();
        let (a, b) = if from == 0 { (End::C, End::S) } else { (End::S, End::C) };
        let mut behind = Packet::new(at(address(a, v6), 9), at(address(b, v6), 9), 0, 0, 0).with(mark);
        behind.protocol = 17;
        self.ends[from].send(&behind)?;
        let mut arrived = false;
        self.ends[1 - from].until(|frame| {
            arrived |= is(frame, &wanted);
            frame.windows(4).any(|w| w == mark)
        })?;
        Ok(arrived)
    }

    /// Handshakes that nobody completes, while a session lives: no session begins by them, that one opens, and a new one
    /// does (A82).
    ///
    /// # Errors
    /// What is not as it must be.
    pub fn flood(&mut self, handshakes: u16) -> Result<()> {
        self.set(super::DEFAULT)?;
        let before = self.gateway.status()?.sessions.live;
        let mut run = self.session(false);
        run.begin(Begin::LoggedIn)?;
        for port in 1024..1024 + handshakes {
            let [syn, answer, _] = Talk::new(false, run.wire.hook, port).handshake();
            run.wire.ends[0].send(&syn.1)?;
            run.wire.ends[1].send(&answer.1)?;
        }
        run.p1(false, BEHIND[0])?;
        run.expect(|came| if came.opened == [BEHIND[0]] { Ok(()) } else { Err(format!("{came:?}")) })?;
        run.end()?;
        let mut run = self.session(false);
        run.again(false)?;
        run.end()?;
        let status = self.gateway.status()?;
        ensure!(status.sessions.live <= before + 2, "{} sessions, {before} before", status.sessions.live);
        let seen = status.counters["half_open"];
        ensure!(seen >= u64::from(handshakes), "{seen} handshakes were seen");
        Ok(())
    }
}

impl Run<'_> {
    fn begin(&mut self, begin: Begin) -> Result<()> {
        if begin == Begin::Nothing {
            return Ok(());
        }
        for (side, packet) in self.talk.handshake() {
            ensure!(self.wire.send(usize::from(side), &packet)?, "the handshake does not pass: {packet:?}");
        }
        if begin == Begin::LoggedIn {
            for (side, line) in LOGIN {
                self.control(&super::segment(side, format!("{line}\r\n").as_bytes()))?;
            }
        }
        Ok(())
    }

    /// The stimulus, and P1 in the same session.
    fn stimulus(&mut self, s: &Stimulus) -> Result<Came> {
        self.begin(s.begin).context("beginning")?;
        for (i, step) in s.steps.iter().enumerate() {
            self.step(step).with_context(|| format!("step {i}, {step:?}"))?;
        }
        let came = self.expect(|came| s.check(came))?;
        self.killed = came.standing == "killed";
        self.p1(s.v6 || s.by_epsv, BEHIND[0]).context("P1 in the same session")?;
        if s.goes_on() {
            // What was told before it is complete now.
            let opened: Vec<u16> = s.opens.iter().copied().chain([BEHIND[0]]).collect();
            self.expect(|came| if came.opened == opened { Ok(()) } else { Err(format!("P1: {came:?}")) })
        } else {
            self.settle()?;
            self.expect(|came| s.check(came))
        }
    }

    /// Waits for what must have come of it; events come later than what they tell.
    fn expect(&self, check: impl Fn(&Came) -> Result<(), String>) -> Result<Came> {
        self.settle()?;
        let begun = Instant::now();
        loop {
            let came = self.came()?;
            match check(&came) {
                Ok(()) => return Ok(came),
                Err(e) if begun.elapsed() > TELLING => bail!(e),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    fn p1(&mut self, epsv: bool, port: u16) -> Result<()> {
        for (side, line) in p1(epsv, port) {
            self.control(&super::segment(side, line.as_bytes()))?;
        }
        Ok(())
    }

    /// P1 in a session of its own, with its data connection.
    fn again(&mut self, v6: bool) -> Result<()> {
        self.begin(Begin::LoggedIn)?;
        self.p1(v6, BEHIND[1])?;
        let (from, to) = ((End::C, 47_000), (End::S, BEHIND[1]));
        self.data(&super::denied((End::A, 47_000), to))?;
        self.data(&super::syn(from, to))?;
        self.data(&super::answer(from, to))?;
        self.data(&super::denied((End::C, 47_001), to))?;
        let opened = |came: &Came| came.opened == [BEHIND[1]];
        self.expect(|came| if opened(came) { Ok(()) } else { Err(format!("{came:?}")) }).map(drop)
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Control(segment) => self.control(segment),
            Step::Data(data) => self.data(data),
            Step::Wait(ms) => {
                std::thread::sleep(Duration::from_millis(*ms));
                Ok(())
            }
        }
    }

    fn control(&mut self, segment: &Segment) -> Result<()> {
        // Whoever forges a segment is on the other side of the gateway than the one whose it would be.
        let from = usize::from(segment.side) ^ usize::from(segment.elsewhere);
        let (packet, _) = self.talk.packet(segment);
        let arrived = self.wire.send(from, &packet)?;
        let passes = match segment.seen {
            Seen::Pass => !self.killed,
            // The gateway's own stack may have its say.
            Seen::Unread => return Ok(()),
            Seen::Drop(_) | Seen::DropHeaders(_) => false,
        };
        if arrived != passes && !self.killed && segment.seen == Seen::Pass {
            // The daemon may have killed the session by now.
            self.settle()?;
            self.killed = self.came()?.standing == "killed";
            ensure!(self.killed, "dropped, and must pass");
            return Ok(());
        }
        ensure!(arrived == passes, "arrived: {arrived}, must: {passes}");
        Ok(())
    }

    fn data(&mut self, data: &Data) -> Result<()> {
        // What the daemon has to open it has opened.
        self.settle()?;
        let from = usize::from(data.from.0 == End::S);
        let arrived = self.wire.send(from, &self.talk.data(data).0)?;
        ensure!(arrived == data.passes, "arrived: {arrived}, must: {}", data.passes);
        if data.counts.contains(&("used", 1)) {
            let packet = self.talk.data(data).0;
            self.running.push(Packet::new(packet.to, packet.from, tcp::RST | tcp::ACK, packet.ack, packet.seq));
        }
        Ok(())
    }

    /// Ends all its connections, so that the next one finds nothing of them.
    fn end(&mut self) -> Result<()> {
        for reset in std::mem::take(&mut self.running) {
            let from = usize::from(reset.from.ip() == self.talk.dialogue.server.ip());
            self.wire.send(from, &reset)?;
        }
        let reset = Segment { flags: tcp::RST | tcp::ACK, ..super::segment(CLIENT, b"") };
        let packet = self.talk.packet(&reset).0;
        self.wire.send(0, &packet)?;
        self.settle()
    }

    /// Waits until the daemon has read everything that the kernel has written.
    fn settle(&self) -> Result<()> {
        let client = self.talk.dialogue.client;
        until("the daemon reads on", || {
            let status = self.wire.gateway.status().ok()?;
            let kernel = |name: &str| status.counters.get(name).copied().unwrap_or_default();
            (kernel("records") <= read(&status.engine)).then_some(())
        })
        .with_context(|| format!("the session of {client}"))
    }

    /// What came of it.
    fn came(&self) -> Result<Came> {
        let client = self.talk.dialogue.client;
        let events: Vec<Event> = self.wire.events.all().into_iter().filter(|e| e.client == Some(client)).collect();
        let sessions = self.wire.gateway.sessions()?;
        let standing = match sessions.iter().find(|s| s.client == client).map(|s| s.state) {
            None => "none",
            Some(Standing::Tainted) => "tainted",
            Some(Standing::Killed) => "killed",
            Some(Standing::Opaque) => "opaque",
            Some(Standing::Closing) => "closing",
            Some(_) => "good",
        };
        let pinholes = self.wire.gateway.pinholes()?;
        let left = pinholes.iter().filter(|p| p.client == Some(client)).map(|p| p.pinhole.port).collect();
        Ok(Came::of(&events, left, standing))
    }
}

/// Records that the engine has taken, without those that are only told.
fn read(engine: &std::collections::BTreeMap<String, u64>) -> u64 {
    let told = engine.iter().filter(|(name, _)| {
        (name.starts_with("stray.") && *name != "stray.interface_changed") || name.starts_with("denied.")
    });
    engine.get("records").copied().unwrap_or_default() - told.map(|(_, n)| n).sum::<u64>()
}

fn settings(knob: [&str; 2]) -> Settings {
    let all = [End::C, End::S, End::A].map(|h| [address(h, false), address(h, true)]).concat();
    let all = list(&all);
    let denied: Vec<String> = DENIED.iter().map(u16::to_string).collect();
    Settings {
        mode: "drop",
        top: String::new(),
        interfaces: format!("[\"{OUTSIDE_INTERFACE}\"]"),
        watch: "control_ports = [21, 2121]\n".to_owned(),
        guards: format!(
            "[[guard]]\nnetworks = {all}\n[[guard]]\ndirection = \"out\"\nnetworks = {all}\ninitiators = [\"0.0.0.0/0\", \"::/0\"]\n"
        ),
        policy: format!("active_inbound = true\ndeny_ports = [{}]\n{}", denied.join(", "), knob[0]),
        api: String::new(),
        sections: knob[1].to_owned(),
        nice: 0,
    }
}

/// Routes to the three hosts, which the lab's hosts do not have: they forward nothing and answer nothing.
fn route(lab: &Lab, client: &Host, server: &Host) -> Result<()> {
    for (end, host) in [(End::C, client), (End::A, client), (End::S, server)] {
        for (v6, via) in [(false, host.v4().to_string()), (true, host.v6().to_string())] {
            let mut ip = lab.gateway().command("ip");
            ip.args(["route", "replace", &address(end, v6).to_string(), "via", &via]);
            let done = ip.output().context("can't run ip")?;
            ensure!(done.status.success(), "ip: {}", String::from_utf8_lossy(&done.stderr));
        }
    }
    Ok(())
}

/// The Ethernet address of an interface.
fn mac(host: &Host, interface: &str) -> Result<[u8; 6]> {
    let found = host.run_in(|| -> nix::Result<_> {
        let of_it = nix::ifaddrs::getifaddrs()?.filter(|a| a.interface_name == interface);
        Ok(of_it.filter_map(|a| a.address).find_map(|a| a.as_link_addr().and_then(|l| l.addr())))
    })??;
    found.with_context(|| format!("{interface} has no Ethernet address"))
}

impl Raw {
    fn new(host: &Host, gateway: [u8; 6]) -> Result<Self> {
        let (socket, interface) = host.run_in(|| -> Result<_> {
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 100_000))?;
            let interface = nix::net::if_::if_nametoindex(HOST_INTERFACE)?.cast_signed();
            let to = link(interface);
            // SAFETY: the address is valid for reading with the length given.
            let bound = unsafe {
                libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&to).cast(), size_of::<libc::sockaddr_ll>() as u32)
            };
            ensure!(bound == 0, "can't listen to {HOST_INTERFACE}: {}", io::Error::last_os_error());
            Ok((socket, interface))
        })??;
        Ok(Self { socket, interface, gateway, own: mac(host, HOST_INTERFACE)? })
    }

    fn send(&self, packet: &Packet) -> Result<()> {
        let mut frame = packet.frame();
        frame[..6].copy_from_slice(&self.gateway);
        frame[6..12].copy_from_slice(&self.own);
        let to = link(self.interface);
        // SAFETY: the frame and the address are valid for reading with the lengths given.
        let n = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                std::ptr::from_ref(&to).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        ensure!(n >= 0, "can't send {} bytes: {}", frame.len(), io::Error::last_os_error());
        Ok(())
    }

    /// Forgets what has arrived.
    fn empty(&self) -> Result<()> {
        while self.receive(libc::MSG_DONTWAIT)?.is_some() {}
        Ok(())
    }

    /// Takes what arrives until one frame is the last.
    fn until(&self, mut last: impl FnMut(&[u8]) -> bool) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if self.receive(0)?.is_some_and(|frame| last(&frame)) {
                return Ok(());
            }
        }
        bail!("nothing arrives after {} s", PATIENCE.as_secs())
    }

    fn receive(&self, flags: i32) -> Result<Option<Vec<u8>>> {
        let mut frame = vec![0; 70_000];
        // SAFETY: the buffer is valid for writing with the length given.
        let n = unsafe { libc::recv(self.socket.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), flags) };
        if n < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error.into()) };
        }
        frame.truncate(n.cast_unsigned());
        Ok(Some(frame))
    }
}

/// Every protocol on an interface.
fn link(interface: i32) -> libc::sockaddr_ll {
    // SAFETY: an all-zero `sockaddr_ll` is a value of it.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    to.sll_ifindex = interface;
    to
}

/// What of a packet a gateway does not change: the addresses, and everything from TCP on.
fn signature(packet: &Packet) -> (Vec<u8>, Vec<u8>) {
    let bare = packet.bare();
    let v4 = packet.from.is_ipv4();
    let addresses = bare[if v4 { 12..20 } else { 8..40 }].to_vec();
    let header = if v4 { usize::from(bare[0] & 15) * 4 } else { 40 };
    (addresses, bare[header.min(bare.len())..].to_vec())
}

fn is(frame: &[u8], (addresses, rest): &(Vec<u8>, Vec<u8>)) -> bool {
    let Some(ip) = frame.get(14..) else { return false };
    let (at, header) = match ip.first().map(|b| b >> 4) {
        Some(4) => (12..20, usize::from(ip[0] & 15) * 4),
        Some(6) => (8..40, 40),
        _ => return false,
    };
    ip.get(at) == Some(addresses) && ip.get(header..).is_some_and(|r| r.starts_with(rest))
}

const _: () = assert!(CLIENT == 0);
