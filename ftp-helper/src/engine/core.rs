//! What all sessions share: policy, counters, tables, and the queue of actions.

use std::collections::{HashMap, HashSet, VecDeque};

use ftp_helper_common::{
    command::{Command, Outcome, op},
    key::{FlowKey, SessionKey},
    reason::Reason,
    record::{SegmentRecord, SynRecord},
};

use super::{
    Action, Nanos, Order,
    policy::{Mode, Policy},
    session::Session,
    stats::{Stats, count},
    story::Stories,
    table::{Flow, Timers, Unconsumed},
    view::{ends, socket},
};
use crate::event::{Connection, Event, Kind, Pinhole};

/// How often a command is given again that the kernel was too busy for.
const RETRIES: u8 = 8;
/// Ids of sessions that were let go of, so that late records don't bring them back.
const FORGOTTEN: usize = 256;
/// Connections that are not followed, told once each, until so many are.
const TOLD: usize = 4096;

/// What all sessions share.
pub(super) struct Core {
    pub(super) policy: Policy,
    pub(super) actions: VecDeque<Action>,
    pub(super) stats: Stats,
    pub(super) timers: Timers,
    pub(super) flows: HashMap<FlowKey, Flow>,
    pub(super) unconsumed: Unconsumed,
    /// Bytes that all sessions keep out of order.
    pub(super) kept: usize,
    /// What the kernel wrote until then has been read.
    pub(super) read_up_to: Nanos,
    /// What was said in each session and what came of it.
    pub(super) stories: Stories,
    /// Who has asked for what is being done, where an operator has.
    pub(super) order: Option<Order>,
    /// Whether the kernel is asked at once about what the fast path has opened.
    pub(super) asks_at_once: bool,
    wall_offset: u64,
    forgotten: VecDeque<u64>,
    retries: HashMap<(u64, u32), u8>,
    told: HashSet<(SessionKey, u16)>,
}

impl Core {
    pub(super) fn new(policy: Policy, wall_offset: u64) -> Self {
        Self {
            policy,
            actions: VecDeque::new(),
            stats: Stats::default(),
            timers: Timers::default(),
            flows: HashMap::new(),
            unconsumed: Unconsumed::default(),
            kept: 0,
            read_up_to: 0,
            stories: Stories::default(),
            order: None,
            asks_at_once: false,
            wall_offset,
            forgotten: VecDeque::new(),
            retries: HashMap::new(),
            told: HashSet::new(),
        }
    }

    pub(super) fn set_wall_offset(&mut self, offset: u64) {
        self.wall_offset = offset;
    }

    pub(super) fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// Whether nothing is kept for any session; what is told once, ids that were let go of, and the stories of sessions that
    /// are over, are bounded by themselves.
    pub(super) fn is_idle(&self) -> bool {
        self.actions.is_empty()
            && self.timers.next().is_none()
            && self.flows.is_empty()
            && self.unconsumed.is_empty()
            && self.retries.is_empty()
            && self.kept == 0
            && self.stories.is_idle()
    }

    /// Queues a command.
    pub(super) fn command(&mut self, command: Command) {
        self.actions.push_back(Action::Command(command));
    }

    /// Queues an event.
    pub(super) fn event(&mut self, mut event: Event) {
        if let Some(Order { uid, note }) = &self.order {
            (event.uid, event.note) = (Some(*uid), Some(note.clone()));
        }
        self.stories.event(&event);
        *self.stats.events.entry(event.event.as_str()).or_default() += 1;
        self.actions.push_back(Action::Event(event));
    }

    /// Nanoseconds since 1970-01-01 UTC.
    pub(super) fn wall(&self, now: Nanos) -> u64 {
        now.saturating_add(self.wall_offset)
    }

    /// An event about nothing in particular yet.
    pub(super) fn blank(&self, now: Nanos, kind: Kind) -> Event {
        Event::new(kind, self.wall(now))
    }

    /// Queues an event about a session.
    pub(super) fn session_event(
        &mut self,
        now: Nanos,
        session: &Session,
        kind: Kind,
        reason: Option<Reason>,
        pinhole: Option<Pinhole>,
    ) {
        let (client, server) = ends(&session.key);
        let event = self.blank(now, kind).of_session(session.id, client, server);
        let range = if kind == Kind::Opaque { self.policy.opaque_range(session.key.server) } else { None };
        let detail = range.map(|r| format!("the server's ports {}-{} are open to the client", r.start(), r.end()));
        self.event(Event { reason, pinhole, detail, ..event });
    }

    /// Whether the command was given again because the kernel was busy.
    pub(super) fn retries(&mut self, command: &Command, outcome: Outcome) -> bool {
        let key = (command.session, command.op);
        if outcome != Outcome::Busy {
            self.retries.remove(&key);
            if matches!(outcome, Outcome::Malformed) {
                self.stats.commands_failed += 1;
            }
            return false;
        }
        let tries = self.retries.entry(key).or_default();
        *tries += 1;
        if *tries <= RETRIES {
            self.command(*command);
            return true;
        }
        self.retries.remove(&key);
        self.stats.commands_failed += 1;
        false
    }

    /// Asks the kernel to remove a session.
    pub(super) fn forget(&mut self, id: u64, key: SessionKey) {
        self.remember_forgotten(id);
        self.command(Command { op: op::FORGET, session: id, key, ..Command::default() });
    }

    /// Late records of this session are not to bring it back.
    pub(super) fn remember_forgotten(&mut self, id: u64) {
        if self.forgotten.len() == FORGOTTEN {
            self.forgotten.pop_front();
        }
        self.forgotten.push_back(id);
    }

    /// Whether the session was let go of a while ago.
    pub(super) fn is_forgotten(&self, id: u64) -> bool {
        self.forgotten.contains(&id)
    }

    /// A session for which there is no room.
    pub(super) fn no_room(&mut self, now: Nanos, record: &SegmentRecord) {
        self.stats.sessions_refused += 1;
        let (client, server) = ends(&record.key);
        let event = self.blank(now, Kind::SessionEnd).of_session(record.session, client, server);
        self.event(event.because(Reason::SessionsFull));
        self.forget(record.session, record.key);
    }

    /// A SYN without a pinhole.
    pub(super) fn denied(&mut self, now: Nanos, record: &SynRecord, key_of: impl Fn(u64) -> Option<SessionKey>) {
        let FlowKey { initiator, responder, initiator_port, responder_port } = record.key;
        let dropped = record.dropped != 0;
        let mut reason = Reason::from_code(record.reason).unwrap_or(Reason::NoPinhole);
        let mut event = self.blank(now, Kind::Denied);
        if let Some(id) = self.unconsumed.near_miss(initiator, responder, responder_port) {
            reason = Reason::OtherInitiator;
            if let Some(key) = key_of(id) {
                let (client, server) = ends(&key);
                event = event.of_session(id, client, server);
            }
        }
        self.stats.count_denied(responder_port, dropped, reason);
        event.connection = Some(Connection {
            dropped: Some(dropped),
            ..Connection::new(socket(initiator, initiator_port), socket(responder, responder_port))
        });
        self.event(event.because(reason));
    }

    /// A side's packets come by another interface of its zone than before; they pass.
    pub(super) fn moved(&mut self, now: Nanos, session: &Session, side: u8) {
        let (client, server) = ends(&session.key);
        let (from, to) = if side == 0 { (client, server) } else { (server, client) };
        count(&mut self.stats.strays, Reason::InterfaceChanged);
        let mut event = self.blank(now, Kind::Denied).of_session(session.id, client, server);
        event.connection = Some(Connection { dropped: Some(false), ..Connection::new(from, to) });
        self.event(event.because(Reason::InterfaceChanged));
    }

    /// A control packet that is not followed, or was dropped.
    pub(super) fn stray(&mut self, now: Nanos, record: &SegmentRecord) {
        let reason = Reason::from_code(record.reason).unwrap_or(Reason::Midstream);
        count(&mut self.stats.strays, reason);
        if self.told.len() >= TOLD {
            self.told.clear();
        }
        if !self.told.insert((record.key, record.reason)) {
            return;
        }
        let (client, server) = ends(&record.key);
        let never_followed =
            matches!(reason, Reason::Midstream | Reason::SessionsFull | Reason::DataInSyn | Reason::BothControlPorts);
        let mut event = self.blank(now, if never_followed { Kind::SessionEnd } else { Kind::Denied });
        (event.client, event.server) = (Some(client), Some(server));
        if record.session != 0 {
            event = event.of_session(record.session, client, server);
        }
        if !never_followed {
            let (from, to) = if record.side == 0 { (client, server) } else { (server, client) };
            let dropped = Some(self.policy.mode != Mode::Observe);
            event.connection = Some(Connection { dropped, ..Connection::new(from, to) });
        }
        self.event(event.because(reason));
    }
}
