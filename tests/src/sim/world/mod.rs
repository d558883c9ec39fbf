//! The world's clock: what happens next, and what follows.

mod apps;
mod attack;
mod begin;
mod check;
mod event;
mod network;
mod session;
mod summary;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
};

use ftp_helper::engine::policy::Policy;
use ftp_helper_common::{
    addr::Addr,
    key::{HOOK_IN, SessionKey},
};

pub use self::summary::Summary;
use self::{
    event::{Entry, Ev},
    session::Session,
};
use super::{
    Options,
    daemon::{Daemon, SWEEP},
    kernel::{End, InFlight, Kernel, Packet},
    rng::Rng,
    tcp::Tcp,
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

    fn session_of_key(&self, key: &SessionKey) -> Option<usize> {
        (0..self.sessions.len()).filter(|i| self.sessions[*i].key() == *key).max_by_key(|i| self.sessions[*i].started)
    }

    /// Whether everybody behaves, so that every transfer must come through.
    fn is_benign(&self) -> bool {
        let t = self.options.trouble;
        !t.attackers && !t.outages && !t.tight
    }
}
