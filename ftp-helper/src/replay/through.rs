//! Follows a capture by the programs in the kernel, with the engine behind them.
//!
//! Each packet is run through the program of the hook that it would have passed, and what the program writes is the
//! engine's, whose commands go back to the kernel: as in the daemon, except for time. The engine's is the capture's: each
//! record is of the moment when its packet was captured. The programs go by the kernel's own clock, in which the whole
//! capture is over in a moment: there pinholes last as good as for ever, and it is the engine that takes back those whose
//! time is over, before it looks at the next packet.

use std::collections::{HashMap, VecDeque};

use anyhow::Context as _;
use ftp_helper_common::{
    canon::bit,
    command::{Command, Outcome, op},
    counter::Counter,
    key::{CLIENT, FlowKey, HOOK_IN, HOOK_OUT, PinholeKey, SERVER, SessionKey},
    record::SegmentRecord,
    tcp,
};

use super::{
    Options, Outside, Passed, Summary,
    capture::Packet,
    error::CaptureProblem,
    frame,
    packet::{self, Content, Segment, link},
    sides::{self, Sides, Way},
};
use crate::{
    dataplane::{self, FRAME_MAX, FastPath, Guard, LinkLayer, Metadata, Testbed, Verdict},
    engine::{Action, Engine, Nanos, Record, policy::Policy},
    event::{Event, Kind},
};

/// How long a pinhole lives in the kernel, where it is never to expire by itself: a hundred years.
const NEVER: std::time::Duration = std::time::Duration::from_secs(100 * 365 * 86_400);
/// Records of a single frame fit many times.
const RING: u32 = 1 << 18;
/// How often a session that nobody reads tells that it lives, nanoseconds.
const SIGN_OF_LIFE: Nanos = 1_000_000_000;
/// How often the kernel's tables are freed of what has no owner, in the capture's time.
const SWEEP: Nanos = 30_000_000_000;
/// Each CPU tells some hundred denied SYNs in 67 ms of its clock. After this long it tells again.
const TOLD_AGAIN: std::time::Duration = std::time::Duration::from_millis(70);
/// How long the clock goes on behind the last packet, as in the engine's own replay.
const AFTERWARDS: Nanos = super::follow::AFTERWARDS;

/// Follows the connections of a capture by the programs.
pub(super) struct Through {
    bed: Testbed,
    engine: Engine,
    control_ports: Vec<u16>,
    /// How long a pinhole lives, nanoseconds.
    timeout: Nanos,
    sides: Sides,
    /// Time of the last packet; never goes back.
    now: Nanos,
    next_sweep: Nanos,
    ids: Ids,
    /// The last pinhole of each session: its announcement, and when it is gone.
    opened: HashMap<u64, (u32, Nanos)>,
    /// When each control connection's last record was written.
    told: HashMap<SessionKey, Nanos>,
    running: HashMap<FlowKey, Running>,
    /// The hook of connections between two hosts that are each other's clients.
    either: HashMap<FlowKey, u8>,
    /// Denied SYNs that the programs have not told.
    untold: u64,
    events: VecDeque<Event>,
    summary: Summary,
    passed: Passed,
}

/// A data connection that is running.
struct Running {
    start: Nanos,
    hook: u8,
    /// When its pinhole would be gone; none once the kernel knows that it is.
    deadline: Option<Nanos>,
}

/// The kernel names sessions by its clock; here they are counted, as the engine's own replay counts them.
#[derive(Default)]
struct Ids {
    ours: HashMap<u64, u64>,
    kernels: HashMap<u64, u64>,
    last: u64,
}

/// What ends a replay.
pub(super) enum Trouble {
    Capture(CaptureProblem),
    Kernel(anyhow::Error),
}

impl From<anyhow::Error> for Trouble {
    fn from(e: anyhow::Error) -> Self {
        Self::Kernel(e)
    }
}

impl Through {
    /// Loads the programs.
    pub(super) fn load(options: Options, guards: &[Guard]) -> anyhow::Result<Self> {
        let Options { policy, outside } = options;
        let control_ports: Vec<u16> = policy.control_ports.iter().copied().collect();
        let mut bed = Testbed::load(&dataplane::Options {
            control_ports: control_ports.clone(),
            sessions: policy.limits.sessions,
            ring_bytes: RING,
            programs: &["ftp_ingress", "ftp_egress"],
            ..dataplane::Options::default()
        })?;
        // Nothing comes too early: what a packet announces has been read before the next one is looked at.
        let fast = FastPath { parking: false, ..FastPath::default() };
        bed.plane_mut().apply(&Policy { pinhole_timeout: NEVER, ..policy.clone() }, guards, fast)?;
        let timeout = Nanos::try_from(policy.pinhole_timeout.as_nanos()).unwrap_or(Nanos::MAX);
        let mut engine = Engine::new(policy, 0);
        engine.ask_at_once();
        Ok(Self {
            bed,
            control_ports,
            timeout,
            sides: Sides::new(if outside == Outside::Client { HOOK_IN } else { HOOK_OUT }),
            engine,
            now: 0,
            next_sweep: 0,
            ids: Ids::default(),
            opened: HashMap::new(),
            told: HashMap::new(),
            running: HashMap::new(),
            either: HashMap::new(),
            untold: 0,
            events: VecDeque::new(),
            summary: Summary::default(),
            passed: Passed::default(),
        })
    }

    /// Takes the next packet.
    pub(super) fn packet(&mut self, packet: &Packet) -> Result<(), Trouble> {
        let Packet { number, offset, time, link, data, .. } = packet;
        self.advance(*time)?;
        let content = packet::read(*link, data);
        super::check(packet, &content, |from, to| self.is_control(from, to)).map_err(Trouble::Capture)?;
        match &content {
            Content::CutHeader { .. } => {
                self.passed.headerless += 1;
                return Ok(());
            }
            Content::Tcp(s) if s.missing() > 0 && self.is_control(s.from.1, s.to.1) => self.summary.short += 1,
            Content::Tcp(s) if s.missing() > 0 => self.passed.cut += 1,
            Content::Fragment => self.summary.fragments += 1,
            _ => {}
        }
        let Some(frame) = frame::ethernet(*link, data) else { return Ok(()) };
        // Whatever else an IP packet is, the programs have to say what becomes of it.
        let Some((from, to)) = packet::ends(&frame) else { return Ok(()) };
        let segment = match packet::read(link::ETHERNET, &frame) {
            Content::Tcp(segment) => Some(segment),
            _ => None,
        };
        let hook = match &segment {
            Some(s) => self.hook(s)?,
            None => match self.sides.way(from, to) {
                Way::Hook(hook) => Some(hook),
                Way::Either => Some(HOOK_IN),
                Way::Unknown => None,
            },
        };
        let Some(hook) = hook else {
            self.passed.unplaced += 1;
            return Ok(());
        };
        if let Some(s) = &segment {
            self.age(s)?;
        }
        self.bed.stay_alive()?;
        let whole = segment.as_ref().is_some_and(|s| s.missing() == 0);
        let result = if frame.len() <= FRAME_MAX {
            self.run(hook, &frame, segment.as_ref())
        } else if let Some(pieces) = whole.then(|| frame::cut(&frame, FRAME_MAX)).flatten() {
            self.passed.pieces += 1;
            pieces.iter().try_for_each(|piece| self.run(hook, piece, segment.as_ref()))
        } else {
            // The programs read nothing behind the headers of a fragment, or of a data connection's packet.
            self.run(hook, &frame[..FRAME_MAX], segment.as_ref())
        };
        Ok(result.with_context(|| format!("packet {number} at byte {offset}"))?)
    }

    /// The capture is over: connections that had ended are let go of, as if nothing had come for a while.
    pub(super) fn finish(&mut self) -> anyhow::Result<()> {
        self.advance(self.now.saturating_add(AFTERWARDS))
    }

    /// What happened since the last time.
    pub(super) fn events(&mut self) -> impl Iterator<Item = Event> + use<> {
        std::mem::take(&mut self.events).into_iter()
    }

    /// What has been seen.
    pub(super) fn summary(&self) -> Summary {
        let still_open = self.engine.pinholes(self.now).count() as u64;
        let passed = Passed { divergences: self.engine.stats().divergences, ..self.passed };
        Summary { still_open, kernel: Some(passed), ..self.summary }
    }

    fn is_control(&self, from: u16, to: u16) -> bool {
        self.control_ports.contains(&from) || self.control_ports.contains(&to)
    }

    /// It is `time` now; what was due until then is done.
    fn advance(&mut self, time: Nanos) -> anyhow::Result<()> {
        let time = time.max(self.now);
        while let Some(due) = self.engine.poll_timeout().filter(|due| *due <= time) {
            self.now = due.max(self.now);
            self.engine.handle_timeout(self.now);
            self.settle()?;
        }
        self.now = time;
        if time >= self.next_sweep {
            self.next_sweep = time.saturating_add(SWEEP);
            self.bed.plane().forget_idle()?;
        }
        Ok(())
    }

    /// The hook that a segment passes, if that is known.
    fn hook(&mut self, s: &Segment<'_>) -> anyhow::Result<Option<u8>> {
        let ports = [s.from.1, s.to.1].map(|port| self.control_ports.contains(&port));
        match ports {
            [false, true] => {
                self.sides.learn(s.from.0, s.to.0);
                return Ok(Some(self.sides.of_side(CLIENT)));
            }
            [true, false] => {
                self.sides.learn(s.to.0, s.from.0);
                return Ok(Some(self.sides.of_side(SERVER)));
            }
            [true, true] | [false, false] => {}
        }
        match self.sides.way(s.from.0, s.to.0) {
            Way::Hook(hook) => Ok(Some(hook)),
            Way::Either => self.either(s).map(Some),
            Way::Unknown => Ok(None),
        }
    }

    /// The hook of a connection that may pass either: where its pinhole waits.
    fn either(&mut self, s: &Segment<'_>) -> anyhow::Result<u8> {
        let key = forward(s);
        if s.flags & (tcp::SYN | tcp::ACK) == tcp::SYN {
            let at = |hook| PinholeKey { initiator: s.from.0, responder: s.to.0, port: s.to.1, hook, pad: 0 };
            let waits_outside = self.bed.plane().pinhole(&at(HOOK_OUT))?.is_some();
            self.either.insert(key, if waits_outside { HOOK_OUT } else { HOOK_IN });
        }
        let back = || self.either.get(&backward(s)).map(|hook| sides::other(*hook));
        Ok(self.either.get(&key).copied().or_else(back).unwrap_or(HOOK_IN))
    }

    /// Has the kernel know how much time has gone by, where it matters for a segment.
    fn age(&mut self, s: &Segment<'_>) -> anyhow::Result<()> {
        let old = self.now.saturating_sub(SIGN_OF_LIFE);
        if self.is_control(s.from.1, s.to.1) {
            let from_client = self.control_ports.contains(&s.to.1);
            let (client, server) = if from_client { (s.from, s.to) } else { (s.to, s.from) };
            let key = SessionKey { client: client.0, server: server.0, client_port: client.1, server_port: server.1 };
            if self.told.get(&key).is_some_and(|told| *told < old) {
                self.bed.age_session(&key)?;
            }
        } else if s.flags & tcp::RST != 0 {
            for key in [forward(s), backward(s)] {
                if let Some(running) = self.running.get_mut(&key)
                    && running.deadline.is_some_and(|deadline| deadline <= self.now)
                {
                    running.deadline = None;
                    self.bed.age_flow(&key.to_tuple(running.hook))?;
                }
            }
        }
        Ok(())
    }

    /// Runs a frame, and lets the engine read what the program has written of it.
    fn run(&mut self, hook: u8, frame: &[u8], segment: Option<&Segment<'_>>) -> anyhow::Result<()> {
        let is_syn =
            segment.is_some_and(|s| s.flags & (tcp::SYN | tcp::ACK) == tcp::SYN && !self.is_control(s.from.1, s.to.1));
        loop {
            let (verdict, _) = self.bed.run(hook, LinkLayer::Ethernet, frame, Metadata::default())?;
            if is_syn {
                let untold = self.bed.plane().counter(Counter::TelemetryLost)?;
                if std::mem::replace(&mut self.untold, untold) != untold {
                    // Too many denied SYNs in too short a time, by a clock that is not the capture's: once more.
                    std::thread::sleep(TOLD_AGAIN);
                    continue;
                }
            }
            if verdict == Verdict::Drop {
                self.passed.dropped += 1;
            }
            break;
        }
        let mut records = Vec::new();
        self.bed.records(|record| records.push(record.to_vec()))?;
        for bytes in records {
            let mut record = Record::parse(&bytes).context("a record of the kernel can't be read")?;
            self.translate(&mut record);
            self.engine.handle_record(self.now, &record);
            self.settle()?;
        }
        Ok(())
    }

    /// From the kernel's clock and names to the capture's.
    fn translate(&mut self, record: &mut Record<'_>) {
        let now = self.now;
        match record {
            Record::Session(r) => {
                r.session = self.ids.begin(r.session);
                r.time = now;
                self.summary.sessions += 1;
                self.told.insert(r.key, now);
            }
            Record::Segment(r, _) => {
                self.ours(r);
                self.told.insert(r.key, now);
                if r.made.has(bit::OPEN) && r.offset == 0 {
                    self.opened.insert(r.session, (r.seq, now.saturating_add(self.timeout)));
                }
            }
            Record::Stray(r) => self.ours(r),
            Record::FlowStart(r) => {
                r.session = self.ids.ours(r.session);
                (r.time, r.start) = (now, now);
                self.summary.used += 1;
                let opened = self.opened.get(&r.session).filter(|(seq, _)| *seq == r.seq);
                let deadline = Some(opened.map_or(now, |(_, deadline)| *deadline));
                self.running.insert(r.key, Running { start: now, hook: r.hook, deadline });
            }
            Record::FlowRearmed(r) | Record::FlowEnd(r) => {
                r.session = self.ids.ours(r.session);
                r.time = now;
                r.start = self.running.remove(&r.key).map_or(now, |running| running.start);
                self.either.remove(&r.key);
            }
            Record::Denied(r) => r.time = now,
        }
    }

    fn ours(&self, record: &mut SegmentRecord) {
        record.session = self.ids.ours(record.session);
        record.time = self.now;
    }

    /// Carries out what the engine wants, and keeps what it tells.
    fn settle(&mut self) -> anyhow::Result<()> {
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::Command(command) => {
                    let session = self.ids.kernels(command.session);
                    let outcome = self.bed.plane().command(&Command { session, ..command })?;
                    if command.op == op::OPEN && outcome == Outcome::Done {
                        self.opened.insert(command.session, (command.seq, self.now.saturating_add(self.timeout)));
                    } else if command.op == op::FORGET {
                        self.told.remove(&command.key);
                        self.opened.remove(&command.session);
                        self.ids.end(command.session);
                    }
                    self.engine.handle_outcome(self.now, &command, outcome);
                }
                Action::Event(event) => {
                    if event.event == Kind::Opened {
                        self.summary.opened += 1;
                    }
                    self.events.push_back(event);
                }
            }
        }
        Ok(())
    }
}

impl Ids {
    /// A session begins.
    fn begin(&mut self, kernels: u64) -> u64 {
        self.last += 1;
        self.ours.insert(kernels, self.last);
        self.kernels.insert(self.last, kernels);
        self.last
    }

    /// A session is let go of.
    fn end(&mut self, ours: u64) {
        if let Some(kernels) = self.kernels.remove(&ours) {
            self.ours.remove(&kernels);
        }
    }

    /// Our number of a session, 0 for none.
    fn ours(&self, kernels: u64) -> u64 {
        self.ours.get(&kernels).copied().unwrap_or(0)
    }

    /// The kernel's number of a session, 0 for none.
    fn kernels(&self, ours: u64) -> u64 {
        self.kernels.get(&ours).copied().unwrap_or(0)
    }
}

/// The connection whose initiator sends this segment.
fn forward(s: &Segment<'_>) -> FlowKey {
    FlowKey { initiator: s.from.0, responder: s.to.0, initiator_port: s.from.1, responder_port: s.to.1 }
}

/// The connection whose responder sends this segment.
fn backward(s: &Segment<'_>) -> FlowKey {
    FlowKey { initiator: s.to.0, responder: s.from.0, initiator_port: s.to.1, responder_port: s.from.1 }
}
