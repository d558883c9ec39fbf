//! The world's clock: what happens next, and what follows.

mod apps;
mod attack;
mod check;
mod session;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
    time::Duration,
};

use ftp_helper::engine::policy::{ActiveOpen, Limits, Mode, OnDaemonLoss, Opaque, Policy, Server, SourcePort};
use ftp_helper_common::{
    addr::Addr,
    canon::bit,
    key::{HOOK_IN, HOOK_OUT, SessionKey},
    tcp,
};

use self::session::Session;
use super::{
    Options,
    daemon::{Daemon, SWEEP},
    kernel::{End, InFlight, Kernel, Packet, Sizes, Taken, Verdict},
    rng::Rng,
    script::{Parties, Ports, write},
    tcp::{Style, Tcp, reset},
};

/// A second.
pub const SECOND: u64 = 1_000_000_000;
/// A millisecond.
const MILLI: u64 = 1_000_000;
/// A microsecond.
const MICRO: u64 = 1_000;
/// Events of one world at most.
const STEPS: u64 = 1_000_000;
/// Simulated time begins here.
const BEGIN: u64 = 1000 * SECOND;
/// How long a session may take.
const SESSION_MAX: u64 = 900 * SECOND;

/// An invariant that does not hold.
#[derive(Clone, Debug)]
pub struct Broken {
    /// The session that it is about.
    pub session: Option<usize>,
    /// What.
    pub what: String,
}

/// What a world has seen, so that a run can tell that it was about something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Steps.
    pub steps: u64,
    /// Sessions.
    pub sessions: u64,
    /// Announcements that opened by right.
    pub announcements: u64,
    /// Of them, opened by the fast path.
    pub fast: u64,
    /// Data connections.
    pub used: u64,
    /// SYNs that were denied.
    pub denied: u64,
    /// Parked SYNs that were sent on.
    pub unparked: u64,
    /// Times that a session was sighted again.
    pub resynced: u64,
    /// Two CPUs at one session.
    pub races: u64,
    /// Records that found no room.
    pub ring_full: u64,
    /// Segments that passed unrecorded.
    pub unrecorded: u64,
    /// Sessions that were tainted, killed, or opaque.
    pub barred: u64,
    /// Sessions that a daemon took over.
    pub adopted: u64,
    /// Announcements that were refused.
    pub refused: u64,
    /// SYNs into the range of an encrypted session.
    pub in_range: u64,
    /// Parked SYNs that were denied after all.
    pub given_up: u64,
    /// Pinholes that a reset gave back.
    pub rearmed: u64,
    /// Packets that the line has damaged.
    pub damaged: u64,
}

impl std::ops::AddAssign for Summary {
    fn add_assign(&mut self, o: Self) {
        self.steps += o.steps;
        self.sessions += o.sessions;
        self.announcements += o.announcements;
        self.fast += o.fast;
        self.used += o.used;
        self.denied += o.denied;
        self.unparked += o.unparked;
        self.resynced += o.resynced;
        self.races += o.races;
        self.ring_full += o.ring_full;
        self.unrecorded += o.unrecorded;
        self.barred += o.barred;
        self.adopted += o.adopted;
        self.refused += o.refused;
        self.in_range += o.in_range;
        self.given_up += o.given_up;
        self.rearmed += o.rearmed;
        self.damaged += o.damaged;
    }
}

/// What happens at some time.
#[derive(Debug)]
enum Ev {
    /// A packet reaches the gateway.
    Gate(u8, Packet),
    /// A control segment that was judged is committed, and passes.
    Commit(usize),
    /// A packet reaches its host.
    Arrive(Packet),
    /// A socket's timer.
    Tick(usize),
    /// Somebody in a session has something to do.
    Drive(usize),
    /// An initiator tries again, from another port.
    Retry(usize),
    /// A SYN when the time of its pinhole is over.
    Late(usize, Packet),
    /// A session begins.
    Start(usize),
    /// A session that has not ended by itself is let go of.
    Reap(usize),
    /// The daemon looks at what there is.
    Daemon,
    /// The daemon's heartbeat.
    Beat,
    /// Somebody does something nasty.
    Attack,
    /// Something befalls the daemon.
    Outage,
    /// A dead daemon comes back.
    Back,
}

struct Entry(u64, u64, Ev);

impl PartialEq for Entry {
    fn eq(&self, o: &Self) -> bool {
        (self.0, self.1) == (o.0, o.1)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, o: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(o))
    }
}
impl Ord for Entry {
    fn cmp(&self, o: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(o.0, o.1))
    }
}

/// A world.
pub struct World {
    /// Steps so far: packets at the gateway and at hosts, commits, turns of the daemon, attacks.
    pub step: u64,
    /// The same with timers.
    events: u64,
    options: Options,
    now: u64,
    rng: Rng,
    /// What the line does to packets: of its own seed, so that a quiet line changes nothing else.
    noise: Rng,
    queue: BinaryHeap<Reverse<Entry>>,
    pushed: u64,
    kernel: Kernel,
    daemon: Daemon,
    policy: Policy,
    sessions: Vec<Session>,
    socks: Vec<Tcp>,
    /// Which socket has which ends, and whose session it is.
    table: HashMap<(End, End), usize>,
    owner: Vec<usize>,
    armed: Vec<u64>,
    /// Sessions in which somebody may have something to do.
    dirty: Vec<usize>,
    /// Who listens: session, and whether the next attempt is refused.
    listeners: HashMap<End, (usize, bool)>,
    by_id: BTreeMap<u64, usize>,
    in_flight: BTreeMap<usize, (Box<InFlight>, Packet)>,
    next_flight: usize,
    /// Announcements that were judged while another CPU had judged a segment of their session and not committed it: either order
    /// of the two is right, and the daemon may go by the other one.
    unordered: u64,
    /// Packets on their way.
    on_the_way: usize,
    recent: Vec<(u8, Packet)>,
    daemon_at: u64,
    /// Whether it is about to read.
    reading: bool,
    next_sweep: u64,
    next_port: u16,
    over: usize,
    inside: Vec<Addr>,
    summary: Summary,
    telling: bool,
    told: Vec<(Option<usize>, String)>,
}

impl World {
    /// The world of some options, about to begin.
    #[must_use]
    pub fn new(options: Options, telling: bool) -> Self {
        let mut dialogue = Rng::new(options.dialogue);
        let policy = policy(&mut dialogue, &options);
        let mut ports = Ports::default();
        let server_inside = dialogue.chance(600);
        let hook = if server_inside { HOOK_IN } else { HOOK_OUT };
        let (clients, servers) = (dialogue.from_to(1, 4) as usize, dialogue.from_to(1, 3) as usize);
        let mut sessions = Vec::new();
        for n in 0..options.sessions {
            // Of its own seed: with fewer sessions, those that remain say the same.
            let mut own = Rng::new(options.dialogue.wrapping_add(n as u64 + 1));
            let v4 = own.chance(700);
            let (client, server) = (host(v4, 1, own.below(clients)), host(v4, 2, own.below(servers)));
            let parties = Parties { client, server, hook, policy: &policy, may_be_barred: !options.trouble.outages };
            let length = own.from_to(2, 12) as usize;
            let script = write(&mut own, parties, &mut ports, length, options.trouble.nasty);
            // Few ports, so that they are used again.
            let client = End { addr: client, port: 30000 + own.below(3) as u16 };
            sessions.push(Session::new(script, client, End { addr: server, port: 21 }, hook));
        }
        let inside: Vec<Addr> = [true, false]
            .iter()
            .flat_map(|v4| (0..4).map(|n| host(*v4, if server_inside { 2 } else { 1 }, n)))
            .collect();
        let t = options.trouble;
        let sizes = if t.tight {
            Sizes { sessions: 6, pinholes: 4, flows: 4, clients: 3, ring: 3000 }
        } else {
            Sizes { sessions: 1000, pinholes: 1000, flows: 1000, clients: 1000, ring: 1 << 22 }
        };
        let mut world = Self {
            step: 0,
            events: 0,
            options,
            now: BEGIN,
            rng: Rng::new(options.network),
            noise: Rng::new(options.network ^ 0x006e_6f69_7365),
            queue: BinaryHeap::new(),
            pushed: 0,
            kernel: Kernel::new(&policy, sizes),
            daemon: Daemon::new(policy.clone()),
            policy,
            sessions,
            socks: Vec::new(),
            table: HashMap::new(),
            owner: Vec::new(),
            armed: Vec::new(),
            dirty: Vec::new(),
            listeners: HashMap::new(),
            by_id: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            next_flight: 0,
            unordered: 0,
            on_the_way: 0,
            recent: Vec::new(),
            daemon_at: u64::MAX,
            reading: false,
            next_sweep: BEGIN + SWEEP,
            next_port: 10000,
            over: 0,
            inside,
            summary: Summary::default(),
            telling,
            told: Vec::new(),
        };
        world.kernel.heartbeat = BEGIN;
        world.at(BEGIN + SECOND, Ev::Beat);
        for n in 0..options.sessions {
            let start = BEGIN + Rng::new(options.network ^ (n as u64 + 1)).from_to(0, 20 * SECOND);
            world.at(start, Ev::Start(n));
        }
        if t.attackers {
            world.at(BEGIN + SECOND, Ev::Attack);
        }
        if t.outages {
            let when = world.now + world.rng.from_to(SECOND, 20 * SECOND);
            world.at(when, Ev::Outage);
        }
        world
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn run(&mut self) -> Result<Summary, Broken> {
        while !self.is_over() {
            let Some(Reverse(Entry(at, _, ev))) = self.queue.pop() else { break };
            self.now = self.now.max(at);
            self.events += 1;
            if matches!(ev, Ev::Gate(..) | Ev::Commit(_) | Ev::Arrive(_) | Ev::Daemon | Ev::Attack) {
                self.step += 1;
            }
            self.happen(ev)?;
            while let Some(i) = self.dirty.pop() {
                self.drive(i)?;
            }
            self.plan_daemon();
            self.check()?;
            if self.events > STEPS {
                return Err(Broken { session: None, what: format!("no end after {STEPS} steps") });
            }
        }
        self.wind_down()?;
        self.summary.steps = self.step;
        self.summary.sessions = self.sessions.len() as u64;
        Ok(self.summary)
    }

    /// The last that was told about a session, or about everything.
    #[must_use]
    pub fn story(&self, about: Option<usize>) -> Vec<String> {
        const LINES: usize = 120;
        let of = |s: &&(Option<usize>, String)| about.is_none() || s.0.is_none() || s.0 == about;
        let all: Vec<String> = self.told.iter().filter(of).map(|(_, text)| text.clone()).collect();
        all[all.len().saturating_sub(LINES)..].to_vec()
    }

    fn is_over(&self) -> bool {
        self.over == self.sessions.len()
            && self.on_the_way == 0
            && !self.socks.iter().any(|s| !s.dead && s.timer != u64::MAX)
    }

    fn tell(&mut self, about: Option<usize>, text: impl FnOnce() -> String) {
        if self.telling {
            let name = about.map_or_else(String::new, |i| format!(" #{i}"));
            let t = (self.now - BEGIN) as f64 / SECOND as f64;
            self.told.push((about, format!("{:6} {t:10.6}{name} {}", self.step, text())));
        }
    }

    fn at(&mut self, time: u64, ev: Ev) {
        self.pushed += 1;
        self.queue.push(Reverse(Entry(time, self.pushed, ev)));
    }

    fn happen(&mut self, ev: Ev) -> Result<(), Broken> {
        match ev {
            Ev::Gate(hook, packet) => {
                self.on_the_way -= 1;
                self.gate(hook, packet)?;
            }
            Ev::Commit(n) => {
                self.on_the_way -= 1;
                if let Some((flight, packet)) = self.in_flight.remove(&n) {
                    self.commit(&flight)?;
                    self.onward(packet);
                }
            }
            Ev::Arrive(packet) => {
                self.on_the_way -= 1;
                self.arrive(packet);
            }
            Ev::Tick(sock) => {
                self.armed[sock] = u64::MAX;
                if self.socks[sock].timer <= self.now {
                    let mut out = Vec::new();
                    self.socks[sock].tick(self.now, &mut self.rng, &mut out);
                    self.after_socket(sock, out);
                } else {
                    self.arm(sock);
                }
            }
            Ev::Drive(i) => self.drive(i)?,
            Ev::Retry(i) => self.retry(i),
            Ev::Late(i, packet) => {
                self.tell(Some(i), || "a SYN comes too late".to_owned());
                self.send(packet);
            }
            Ev::Start(i) => self.start(i),
            Ev::Reap(i) => self.reap(i)?,
            Ev::Daemon => {
                if self.now < self.daemon_at {
                    return Ok(());
                }
                (self.daemon_at, self.reading) = (u64::MAX, false);
                if self.daemon.works(self.now) {
                    let most = if self.options.trouble.slow { self.rng.from_to(1, 60) as usize } else { usize::MAX };
                    self.daemon.turn(self.now, &mut self.kernel, most);
                    self.release();
                }
            }
            Ev::Beat => {
                self.at(self.now + SECOND, Ev::Beat);
                if self.daemon.works(self.now) {
                    self.kernel.heartbeat = self.now;
                    if self.now >= self.next_sweep {
                        self.next_sweep = self.now + SWEEP;
                        self.daemon.sweep(self.now, &mut self.kernel);
                        self.release();
                    }
                }
            }
            Ev::Attack => {
                let next = self.now + self.rng.from_to(10 * MILLI, 900 * MILLI);
                self.at(next, Ev::Attack);
                self.attack()?;
            }
            Ev::Outage => {
                if self.daemon.works(self.now) {
                    if self.rng.chance(500) {
                        let long = self.rng.from_to(SECOND / 10, 9 * SECOND);
                        self.daemon.stopped_until = self.now + long;
                        self.tell(None, || format!("the daemon stops for {} ms", long / MILLI));
                    } else {
                        let back = self.now + self.rng.from_to(SECOND / 10, 12 * SECOND);
                        self.note_engine_stats();
                        self.daemon.die();
                        self.tell(None, || "the daemon dies".to_owned());
                        self.at(back, Ev::Back);
                    }
                }
                let next = self.now + self.rng.from_to(5 * SECOND, 30 * SECOND);
                self.at(next, Ev::Outage);
            }
            Ev::Back => {
                self.tell(None, || "the daemon comes back".to_owned());
                self.daemon.come_back(self.now, &mut self.kernel);
                self.release();
            }
        }
        Ok(())
    }

    /// A packet at the gateway.
    fn gate(&mut self, hook: u8, packet: Packet) -> Result<(), Broken> {
        let about = self.about(&packet);
        if self.options.trouble.attackers {
            if self.recent.len() < 64 {
                self.recent.push((hook, packet.clone()));
            } else if self.rng.chance(50) {
                let at = self.rng.below(64);
                self.recent[at] = (hook, packet.clone());
            }
        }
        let taken = self.kernel.packet(self.now, hook, &packet);
        self.tell(about, || format!("gate {hook} {}: {}", show(&packet), show_taken(&taken)));
        match taken {
            Taken::Done(Verdict::Pass) => self.onward(packet),
            Taken::Done(Verdict::Drop) => {
                if self.kernel.observes() {
                    return Err(Broken { session: about, what: format!("observe has dropped {}", show(&packet)) });
                }
                if packet.flags & (tcp::SYN | tcp::ACK) == tcp::SYN {
                    self.summary.denied += 1;
                }
            }
            Taken::Judged(flight) => {
                let id = flight.snapshot.id;
                let beside = self.in_flight.values().any(|(f, _)| f.snapshot.id == id);
                self.unordered += u64::from(beside && flight.judgement.made.has(bit::OPEN));
                if self.options.trouble.races && self.rng.chance(150) {
                    let when = self.now + self.rng.from_to(MICRO, 3 * MILLI);
                    self.next_flight += 1;
                    self.in_flight.insert(self.next_flight, (flight, packet));
                    self.on_the_way += 1;
                    self.at(when, Ev::Commit(self.next_flight));
                } else {
                    self.commit(&flight)?;
                    self.onward(packet);
                }
            }
        }
        Ok(())
    }

    /// The second half of a packet's way.
    fn onward(&mut self, packet: Packet) {
        for delay in self.leg() {
            self.on_the_way += 1;
            let packet = self.over_the_line(&packet);
            self.at(self.now + delay, Ev::Arrive(packet));
        }
    }

    /// A copy of a packet, as a line that is noisy hands it on.
    fn over_the_line(&mut self, packet: &Packet) -> Packet {
        let mut packet = packet.clone();
        if self.options.trouble.noise && self.noise.chance(15) {
            packet.damaged = true;
            self.summary.damaged += 1;
            if !packet.data.is_empty() {
                let at = self.noise.below(packet.data.len());
                packet.data[at] ^= 1 << self.noise.below(8);
            }
        }
        packet
    }

    /// A host sends.
    fn send(&mut self, packet: Packet) {
        let hook = if self.inside.contains(&packet.from.addr) { HOOK_OUT } else { HOOK_IN };
        for delay in self.leg() {
            self.on_the_way += 1;
            let packet = self.over_the_line(&packet);
            self.at(self.now + delay, Ev::Gate(hook, packet));
        }
    }

    /// When the copies of a packet arrive; none if it is lost.
    fn leg(&mut self) -> Vec<u64> {
        let rng = &mut self.rng;
        let mut copies = Vec::with_capacity(1);
        if !self.options.trouble.network {
            copies.push(rng.from_to(100 * MICRO, 300 * MICRO));
            return copies;
        }
        if !rng.chance(40) {
            let late = if rng.chance(60) { rng.from_to(0, 60 * MILLI) } else { 0 };
            copies.push(rng.from_to(100 * MICRO, MILLI) + late);
        }
        if rng.chance(25) {
            copies.push(rng.from_to(100 * MICRO, 20 * MILLI));
        }
        if rng.chance(4) {
            copies.push(rng.from_to(SECOND / 2, 5 * SECOND));
        }
        copies
    }

    /// A packet at its host.
    fn arrive(&mut self, packet: Packet) {
        if packet.damaged {
            return;
        }
        let mut out = Vec::new();
        if let Some(&sock) = self.table.get(&(packet.to, packet.from))
            && !self.socks[sock].dead
        {
            self.socks[sock].packet_in(self.now, &packet, &mut self.rng, &mut out);
            return self.after_socket(sock, out);
        }
        if packet.flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) == tcp::SYN
            && let Some((i, refuse)) = self.listeners.get(&packet.to).copied()
            && self.expects(i, &packet)
        {
            if !refuse {
                let style = self.style();
                let sock = Tcp::accept(self.now, &packet, style, &mut self.rng, &mut out);
                let sock = self.add_socket(i, sock);
                self.accepted(i, sock, packet.to);
                return self.after_socket(sock, out);
            }
            self.listeners.insert(packet.to, (i, false));
        }
        if self.is_host(packet.to.addr)
            && let Some(answer) = reset(&packet)
        {
            self.send(answer);
        }
    }

    /// What a socket has sent goes out, its timer is set, and its session goes on.
    fn after_socket(&mut self, sock: usize, out: Vec<Packet>) {
        for p in out {
            self.send(p);
        }
        let i = self.owner[sock];
        let control = self.sessions[i].c == Some(sock) || self.sessions[i].v == Some(sock);
        if !control && self.socks[sock].peer_done {
            self.socks[sock].close(self.now);
        }
        self.arm(sock);
        self.dirty.push(i);
    }

    fn arm(&mut self, sock: usize) {
        let due = self.socks[sock].timer;
        if due < self.armed[sock] {
            self.armed[sock] = due;
            self.at(due.max(self.now), Ev::Tick(sock));
        }
    }

    fn add_socket(&mut self, session: usize, sock: Tcp) -> usize {
        let n = self.socks.len();
        self.table.insert((sock.local, sock.remote), n);
        self.socks.push(sock);
        self.owner.push(session);
        self.armed.push(u64::MAX);
        n
    }

    fn style(&mut self) -> Style {
        if !self.options.trouble.network || self.rng.chance(650) {
            return Style::Whole;
        }
        let n = self.rng.from_to(2, 60) as usize;
        if self.rng.chance(100) { Style::Bytes } else { Style::Pieces(n) }
    }

    /// Sees to it that the daemon gets its turn.
    fn plan_daemon(&mut self) {
        if !self.daemon.works(self.now) {
            return;
        }
        let k = &self.kernel;
        let idle = k.events.is_empty() && k.telemetry.is_empty() && k.parked.is_empty();
        let due = if idle {
            let engine = self.daemon.engine.as_ref().and_then(|e| e.poll_timeout()).unwrap_or(u64::MAX);
            engine.min(self.daemon.gives_up_at().unwrap_or(u64::MAX)).max(self.now)
        } else if self.reading {
            return;
        } else if self.options.trouble.slow && self.rng.chance(300) {
            self.now + self.rng.from_to(0, 400 * MILLI)
        } else {
            self.now + self.rng.from_to(0, 200 * MICRO)
        };
        self.reading = !idle;
        if due < self.daemon_at {
            self.daemon_at = due;
            self.at(due, Ev::Daemon);
        }
    }

    /// Parked SYNs that the daemon sends on.
    fn release(&mut self) {
        for (hook, packet) in std::mem::take(&mut self.daemon.released) {
            if hook == HOOK_IN && !self.kernel.unpark(hook, &packet) {
                continue;
            }
            self.summary.unparked += 1;
            self.on_the_way += 1;
            self.at(self.now, Ev::Gate(hook, packet));
        }
    }

    fn is_host(&self, addr: Addr) -> bool {
        self.sessions.iter().any(|s| s.client.addr == addr || s.server.addr == addr)
    }

    /// The session that a packet belongs to.
    fn about(&self, p: &Packet) -> Option<usize> {
        let of = |a, b| self.table.get(&(a, b)).map(|s| self.owner[*s]);
        of(p.from, p.to).or_else(|| of(p.to, p.from)).or_else(|| self.listeners.get(&p.to).map(|l| l.0))
    }

    fn session_of_key(&self, key: &SessionKey) -> Option<usize> {
        (0..self.sessions.len()).filter(|i| self.sessions[*i].key() == *key).max_by_key(|i| self.sessions[*i].started)
    }

    /// Whether everybody behaves, so that every transfer must come through.
    fn is_benign(&self) -> bool {
        let t = self.options.trouble;
        !t.attackers && !t.outages && !t.tight
    }
}

fn policy(rng: &mut Rng, options: &Options) -> Policy {
    let t = options.trouble;
    Policy {
        mode: if t.observe { Mode::Observe } else { Mode::Drop },
        on_daemon_loss: rng.pick(&[OnDaemonLoss::Continue, OnDaemonLoss::Continue, OnDaemonLoss::Close]),
        active_inbound: rng.chance(700),
        active_open: rng.pick(&[
            ActiveOpen::Auto,
            ActiveOpen::Auto,
            ActiveOpen::Command,
            ActiveOpen::Reply,
            ActiveOpen::Transfer,
        ]),
        active_source_port: if rng.chance(150) { SourcePort::Twenty } else { SourcePort::Any },
        deny_ports: [3306, 5432].into(),
        servers: if rng.chance(350) {
            vec![Server {
                networks: vec!["198.51.100.0/24".parse().expect("a network"), "2001:db8:2::/48".parse().expect("one")],
                passive_ports: Some(40000..=40050),
                opaque: if rng.chance(600) { Opaque::Range } else { Opaque::Deny },
            }]
        } else {
            Vec::new()
        },
        per_client: if t.tight { 2 } else { 64 },
        limits: Limits {
            sessions: if t.tight { 6 } else { 1000 },
            login: Duration::from_secs(300),
            idle: Duration::from_secs(600),
        },
        ..Policy::default()
    }
}

/// A host: network 1 is that of the clients, 2 that of the servers, 3 that of the attackers.
fn host(v4: bool, network: u8, n: usize) -> Addr {
    let n = n as u8 + 1;
    if v4 {
        let net = match network {
            1 => [192, 0, 2],
            2 => [198, 51, 100],
            _ => [203, 0, 113],
        };
        return Addr::v4([net[0], net[1], net[2], n]);
    }
    // The quota counts by /64: a network each.
    Addr([0x20, 0x01, 0x0d, 0xb8, 0, network, 0, n, 0, 0, 0, 0, 0, 0, 0, n])
}

/// A packet in a line.
fn show(p: &Packet) -> String {
    let flags: String = [(tcp::SYN, 'S'), (tcp::ACK, 'A'), (tcp::FIN, 'F'), (tcp::RST, 'R'), (tcp::URG, 'U')]
        .iter()
        .filter(|(bit, _)| p.flags & bit != 0)
        .map(|(_, c)| *c)
        .collect();
    let end = |e: &End| format!("{}:{}", e.addr, e.port);
    let text = p.data[..p.data.len().min(60)].escape_ascii();
    format!("{} > {} {flags} seq={} ack={} len={} \"{text}\"", end(&p.from), end(&p.to), p.seq, p.ack, p.data.len())
}

fn show_taken(taken: &Taken) -> String {
    match taken {
        Taken::Done(v) => format!("{v:?}"),
        Taken::Judged(f) => format!("v{} e{} {:?}", f.snapshot.version, f.snapshot.epoch, f.judgement.made),
    }
}
