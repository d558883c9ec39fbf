//! Plays the kernel side for the engine: control connections and their records, commands and their outcomes.

use std::collections::{HashMap, HashSet, VecDeque};

use ftp_helper_common::{
    canon::{Made, bit},
    command::{Command, Outcome, op},
    key::{CLIENT, HOOK_IN, HOOK_OUT, PinholeKey, SERVER, SessionKey},
    reason::Reason,
    record::{CHUNK, SegmentRecord, kind},
    state::{flag, pending},
    tcp,
};

use super::{Options, Outside, Summary, flow::Flows, packet::Segment};
use crate::{
    engine::{Action, Engine, Record},
    event::{Event, Kind},
};

/// Follows the control connections of a capture.
pub(super) struct Follower {
    engine: Engine,
    control_ports: Vec<u16>,
    /// How long a pinhole lives, nanoseconds.
    timeout: u64,
    /// The hook that the clients' packets pass.
    client_hook: u8,
    /// Time of the last packet; never goes back.
    now: u64,
    half_open: HashMap<SessionKey, HalfOpen>,
    sessions: HashMap<SessionKey, Session>,
    keys: HashMap<u64, SessionKey>,
    /// Connections that were told not to be followed.
    strays: HashSet<SessionKey>,
    flows: Flows,
    events: VecDeque<Event>,
    summary: Summary,
}

/// A handshake up to the server's SYN-ACK.
struct HalfOpen {
    /// The client's first sequence number.
    client: u32,
    /// The server's, from its SYN-ACK on.
    server: Option<u32>,
    data_in_syn: bool,
}

/// A control connection that is followed.
struct Session {
    id: u64,
    start: [u32; 2],
    next: [u32; 2],
    /// Each side's FIN came in its turn.
    finished: [bool; 2],
    /// Its packets are dropped.
    killed: bool,
}

impl Follower {
    /// Nothing has been seen yet.
    pub(super) fn new(options: Options) -> Self {
        let Options { policy, outside } = options;
        Self {
            control_ports: policy.control_ports.iter().copied().collect(),
            timeout: u64::try_from(policy.pinhole_timeout.as_nanos()).unwrap_or(u64::MAX),
            client_hook: if outside == Outside::Client { HOOK_IN } else { HOOK_OUT },
            engine: Engine::new(policy, 0),
            now: 0,
            half_open: HashMap::new(),
            sessions: HashMap::new(),
            keys: HashMap::new(),
            strays: HashSet::new(),
            flows: Flows::default(),
            events: VecDeque::new(),
            summary: Summary::default(),
        }
    }

    /// Whether a segment between these ports belongs to a control connection.
    pub(super) fn is_control(&self, from: u16, to: u16) -> bool {
        self.control_ports.contains(&from) || self.control_ports.contains(&to)
    }

    /// It is `time` now; what was due until then is done.
    pub(super) fn advance(&mut self, time: u64) {
        let time = time.max(self.now);
        while let Some(due) = self.engine.poll_timeout().filter(|due| *due <= time) {
            self.now = due.max(self.now);
            self.engine.handle_timeout(self.now);
            self.settle();
        }
        self.now = time;
    }

    /// The capture is over: connections that had ended are let go of, as if nothing had come for a while.
    pub(super) fn finish(&mut self) {
        self.advance(self.now.saturating_add(AFTERWARDS));
    }

    /// Takes a segment, whole.
    pub(super) fn segment(&mut self, segment: &Segment<'_>) {
        if self.is_control(segment.from.1, segment.to.1) {
            self.control(segment);
        } else if let Some(record) = self.flows.segment(self.now, segment) {
            if matches!(record, Record::FlowStart(_)) {
                self.summary.used += 1;
            }
            self.engine.handle_record(self.now, &record);
            self.settle();
        }
    }

    /// Takes a segment of a control connection whose IP header says more than there is: its receiver throws it away.
    pub(super) fn short(&mut self) {
        self.summary.short += 1;
    }

    /// Takes a fragment, which can't be followed.
    pub(super) fn fragment(&mut self) {
        self.summary.fragments += 1;
    }

    /// What happened since the last time.
    pub(super) fn events(&mut self) -> impl Iterator<Item = Event> {
        std::mem::take(&mut self.events).into_iter()
    }

    /// What has been seen.
    pub(super) fn summary(&self) -> Summary {
        Summary { still_open: self.engine.pinholes(self.now).count() as u64, ..self.summary }
    }

    fn control(&mut self, s: &Segment<'_>) {
        let key = |(client, server): (_, _)| {
            let ((client, client_port), (server, server_port)) = (client, server);
            SessionKey { client, server, client_port, server_port }
        };
        let from_server = self.control_ports.contains(&s.from.1);
        if from_server && self.control_ports.contains(&s.to.1) {
            return self.stray(key((s.from, s.to)), CLIENT, s, Reason::BothControlPorts);
        }
        let (key, side) = if from_server { (key((s.to, s.from)), SERVER) } else { (key((s.from, s.to)), CLIENT) };
        match s.flags & (tcp::SYN | tcp::ACK | tcp::RST) {
            tcp::SYN if side == CLIENT => {
                let client = s.seq.wrapping_add(1);
                let sent_again = self.sessions.get(&key).is_some_and(|known| known.start[0] == client)
                    || self.half_open.get(&key).is_some_and(|half| half.client == client);
                if !sent_again {
                    self.strays.remove(&key);
                    self.half_open.insert(key, HalfOpen { client, server: None, data_in_syn: s.len > 0 });
                }
                return;
            }
            SYN_ACK if side == SERVER => {
                let half = self.half_open.get(&key);
                let data_in_syn = half.is_some_and(|h| h.data_in_syn);
                if let Some(live) = self.sessions.get(&key) {
                    // The same again; or somebody's who was not asked.
                    if live.start[0] == s.ack || half.is_none_or(|h| h.client != s.ack) {
                        return;
                    }
                    // The server takes the port's next connection: the one before has ended, whether its end was captured
                    // or not.
                    self.reset(&key);
                }
                let server = Some(s.seq.wrapping_add(1));
                self.half_open.insert(key, HalfOpen { client: s.ack, server, data_in_syn });
                return;
            }
            _ if s.flags & tcp::SYN != 0 => return,
            _ => {}
        }
        if !self.sessions.contains_key(&key) && !self.begin(key, side, s) {
            return;
        }
        let Some(session) = self.sessions.get_mut(&key) else { return };
        if s.len == 0 && s.flags & (tcp::FIN | tcp::RST) == 0 {
            return;
        }
        if session.killed {
            let record = SegmentRecord {
                session: session.id,
                ..stray(key, side, self.client_hook, self.now, s, Reason::Killed)
            };
            self.engine.handle_record(self.now, &Record::Stray(record));
            return self.settle();
        }
        let ahead = tcp::distance(s.seq, session.next[usize::from(side)]);
        let finished = &mut session.finished[usize::from(side)];
        // Which reset is one the kernel side knows, that has counted what the engine does not read.
        let is_reset = s.flags & tcp::RST != 0 && (ahead == 0 || *finished && ahead == 1);
        *finished |= s.flags & (tcp::FIN | tcp::RST) == tcp::FIN && ahead == 0;
        let record = SegmentRecord {
            session: session.id,
            made: if is_reset { Made(bit::RESET) } else { Made::NOTHING },
            start: session.start,
            next: session.next,
            ..self::record(kind::SEGMENT, key, side, self.client_hook, self.now, s)
        };
        let end = s.seq.wrapping_add(s.len);
        let next = &mut session.next[usize::from(side)];
        if s.flags & tcp::RST == 0 && tcp::distance(end, *next) > 0 {
            *next = end;
        }
        let mut offset = 0;
        loop {
            let rest = s.payload.get(offset..).unwrap_or_default();
            let chunk = &rest[..rest.len().min(CHUNK)];
            let record = SegmentRecord { offset: u32::try_from(offset).unwrap_or(u32::MAX), ..record };
            self.engine.handle_record(self.now, &Record::Segment(record, chunk));
            self.settle();
            offset += chunk.len();
            if offset >= s.payload.len() {
                return;
            }
        }
    }

    /// A segment of a connection that is not followed yet: the end of its handshake, or it never will be.
    fn begin(&mut self, key: SessionKey, side: u8, s: &Segment<'_>) -> bool {
        if s.flags & tcp::RST != 0 {
            self.half_open.remove(&key);
            return false;
        }
        let Some(&HalfOpen { client: first, server: Some(second), data_in_syn }) = self.half_open.get(&key) else {
            if s.len > 0 {
                self.stray(key, side, s, Reason::Midstream);
            }
            return false;
        };
        // The client's ACK of the handshake. It may have been captured behind what came after it, or not at all; then
        // the first segment within both windows stands for it.
        let near = |a: u32, b: u32| (0..WINDOW).contains(&tcp::distance(a, b));
        let start = [first, second];
        let (client, server) = if side == CLIENT { (s.seq, s.ack) } else { (s.ack, s.seq) };
        if s.flags & tcp::ACK == 0 || !near(client, start[0]) || !near(server, start[1]) {
            return false;
        }
        self.half_open.remove(&key);
        if data_in_syn {
            self.stray(key, side, s, Reason::DataInSyn);
            return false;
        }
        self.summary.sessions += 1;
        let id = self.summary.sessions;
        self.sessions.insert(key, Session { id, start, next: start, finished: [false; 2], killed: false });
        self.keys.insert(id, key);
        let record = SegmentRecord {
            session: id,
            seq: start[0],
            ack: start[1],
            tcp_flags: tcp::ACK,
            segment_len: 0,
            start,
            next: start,
            pending: pending::GREETING,
            unanswered: 1,
            ..record(kind::SESSION, key, CLIENT, self.client_hook, self.now, s)
        };
        self.engine.handle_record(self.now, &Record::Session(record));
        self.settle();
        true
    }

    /// The end of a session that was not captured.
    fn reset(&mut self, key: &SessionKey) {
        let Some(session) = self.sessions.remove(key) else { return };
        self.keys.remove(&session.id);
        let record = SegmentRecord {
            kind: kind::SEGMENT,
            tcp_flags: tcp::RST,
            hook: self.client_hook,
            client_hook: self.client_hook,
            session: session.id,
            time: self.now,
            made: Made(bit::RESET),
            key: *key,
            seq: session.next[0],
            start: session.start,
            next: session.next,
            ..SegmentRecord::default()
        };
        self.engine.handle_record(self.now, &Record::Segment(record, &[]));
        self.settle();
    }

    /// A control connection that is not followed; told once.
    fn stray(&mut self, key: SessionKey, side: u8, s: &Segment<'_>, reason: Reason) {
        if !self.strays.insert(key) {
            return;
        }
        let record = stray(key, side, self.client_hook, self.now, s, reason);
        self.engine.handle_record(self.now, &Record::Stray(record));
        self.settle();
    }

    /// Carries out what the engine wants, and keeps what it tells.
    fn settle(&mut self) {
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::Command(command) => {
                    let outcome = self.carry_out(&command);
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
    }

    fn carry_out(&mut self, command: &Command) -> Outcome {
        match command.op {
            op::OPEN => {
                let deadline = self.now.saturating_add(self.timeout);
                if !self.flows.open(self.now, deadline, command) {
                    return Outcome::Taken;
                }
                debug_assert_ne!(command.pinhole, PinholeKey::NONE);
            }
            op::STANDING => {
                let session = self.keys.get(&command.session).and_then(|key| self.sessions.get_mut(key));
                if let Some(session) = session {
                    session.killed = command.flags & flag::KILLED != 0;
                }
            }
            op::REVOKE => self.flows.revoke(command.session, Some(command.seq)),
            op::FORGET => {
                self.flows.revoke(command.session, None);
                if let Some(key) = self.keys.remove(&command.session) {
                    self.sessions.remove(&key);
                    // What still comes of it is told to nobody: its end was.
                    self.strays.insert(key);
                }
            }
            _ => {}
        }
        Outcome::Done
    }
}

/// What every record of a control segment says.
fn record(kind: u8, key: SessionKey, side: u8, client_hook: u8, time: u64, s: &Segment<'_>) -> SegmentRecord {
    SegmentRecord {
        kind,
        side,
        tcp_flags: s.flags,
        hook: if side == CLIENT { client_hook } else { HOOK_IN ^ HOOK_OUT ^ client_hook },
        client_hook,
        time,
        key,
        seq: s.seq,
        ack: s.ack,
        segment_len: s.len,
        ..SegmentRecord::default()
    }
}

/// The same of a segment that is not read.
fn stray(key: SessionKey, side: u8, client_hook: u8, time: u64, s: &Segment<'_>, reason: Reason) -> SegmentRecord {
    SegmentRecord { reason: reason as u16, ..record(kind::STRAY, key, side, client_hook, time, s) }
}

const SYN_ACK: u8 = tcp::SYN | tcp::ACK;

/// How long the clock goes on behind the last packet, nanoseconds: long enough for the engine to be sure that an ended
/// connection has ended.
pub(super) const AFTERWARDS: u64 = 5_000_000_000;

/// Sequence space that may lie between the handshake and the first segment that is seen of a connection.
const WINDOW: i32 = 1 << 20;
