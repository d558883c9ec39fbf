//! The sans-I/O heart: records and `now` in, actions out.
//!
//! The [`Engine`] follows every control connection byte by byte: it puts segments in order (`stream`), cuts lines
//! (`line`), reads commands and replies (`grammar`), matches replies to commands (`dialogue`), judges what is
//! announced by the `policy`, and says what the kernel side is to do. It has no clock, no sockets and no threads, so
//! that the daemon, `replay`, the simulator of the tests and the fuzzers run the same code.
//!
//! A driver calls one of the `handle_*` methods, then drains [`Engine::poll_action`]; a [`Action::Command`] is carried
//! out and its outcome given back through [`Engine::handle_outcome`] (a driver without a kernel side answers
//! [`Outcome::Done`]), after which there may be more actions. [`Engine::poll_timeout`] says when
//! [`Engine::handle_timeout`] is due.

mod added;
mod audit;
mod core;
mod dialogue;
mod flow;
pub mod grammar;
mod kernel;
mod latency;
mod line;
mod order;
mod pinhole;
pub mod policy;
mod record;
mod resume;
mod saved;
mod session;
mod stats;
mod story;
mod stream;
mod table;
mod view;

#[cfg(test)]
mod tests;

use std::{collections::HashMap, net::SocketAddr};

use ftp_helper_common::{
    addr::Addr,
    command::{Command, Outcome, op},
    key::{FlowKey, SessionKey},
    reason::Reason,
    record::SegmentRecord,
    state::{ADDED_ID, FlowState, SessionState, flag, pending},
};

use self::{added::Added, core::Core, saved::Saved, session::Session, table::BySession};
pub use self::{
    audit::Place,
    latency::{LATENCY_BOUNDS, Latency},
    order::{NotKilled, Order},
    pinhole::mode as negotiated_by,
    policy::Policy,
    record::{Record, RecordError},
    resume::Left,
    saved::SAVED_MAX,
    stats::{DENIED_PORTS, Denials, Stats},
    story::{Entry, Story},
    view::{PinholeView, SessionView, Visible},
};
use crate::event::{Event, Kind, Pinhole};

/// `CLOCK_MONOTONIC` in nanoseconds in the daemon, the time of capture in `replay`.
pub type Nanos = u64;

/// What a driver has to do.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Have the kernel side carry this out, and tell [`Engine::handle_outcome`] what it did.
    Command(Command),
    /// Tell people and programs.
    Event(Event),
}

/// Follows control connections; see the module's description.
pub struct Engine {
    sessions: BySession<Box<Session>>,
    /// Sessions to be taken over of which the first unread record tells more than the kernel's table.
    orphans: HashMap<u64, (SessionKey, SessionState, Option<Nanos>)>,
    /// Pinholes that an operator has added, by their ids.
    added: HashMap<u64, Added>,
    /// The last one that the kernel did not open, and why.
    not_added: Option<(u64, Reason)>,
    core: Core,
}

impl Engine {
    /// An engine that knows nothing yet. `wall_offset` is what has to be added to `now` to get nanoseconds since
    /// 1970-01-01 UTC.
    pub fn new(policy: Policy, wall_offset: u64) -> Self {
        Self {
            sessions: BySession::default(),
            orphans: HashMap::new(),
            added: HashMap::new(),
            not_added: None,
            core: Core::new(policy, wall_offset),
        }
    }

    /// Has it ask the kernel at once about each pinhole that the fast path has opened, and not only about those that are not
    /// used within a moment: where time is a capture's, and asking costs nobody anything.
    pub fn ask_at_once(&mut self) {
        self.core.asks_at_once = true;
    }

    /// Takes a record of the kernel's, or one that `replay` made of a packet.
    pub fn handle_record(&mut self, now: Nanos, record: &Record<'_>) {
        // What is told to people comes by a ring buffer of its own.
        if !matches!(record, Record::Denied(_) | Record::Stray(_)) {
            self.core.read_up_to = self.core.read_up_to.max(record.time());
        }
        self.run_due(now);
        self.core.stats.records += 1;
        match record {
            Record::Session(r) => self.start(now, r),
            Record::Segment(r, payload) => self.segment(now, r, payload),
            Record::FlowStart(r) => {
                if r.mode == pending::ADDED {
                    self.added_used(r.session);
                }
                if let Some(other) = flow::start(&mut self.sessions, &mut self.core, now, r) {
                    self.settle(now, other);
                }
            }
            Record::FlowRearmed(r) => flow::rearmed(&mut self.sessions, &mut self.core, now, r),
            Record::FlowEnd(r) => flow::end(&mut self.sessions, &mut self.core, now, r),
            Record::Denied(r) => self.core.denied(now, r, |id| self.sessions.get(&id).map(|s| s.key)),
            Record::Stray(r) => self.core.stray(now, r),
        }
        self.settle(now, record.session());
    }

    /// Takes the kernel's answer to an [`Action::Command`].
    pub fn handle_outcome(&mut self, now: Nanos, command: &Command, outcome: Outcome) {
        // A pinhole that is being opened is asked about again, and not at once.
        if command.op != op::CONFIRM && self.core.retries(command, outcome) {
            return;
        }
        if command.session & ADDED_ID != 0 {
            return self.added_outcome(now, command, outcome);
        }
        let Some(session) = self.sessions.get_mut(&command.session) else { return };
        if outcome == Outcome::NoSession {
            session.closed_by_kernel(now, &mut self.core);
        } else {
            session.outcome(now, &mut self.core, command, outcome);
        }
        self.settle(now, command.session);
    }

    /// Does what is due at `now`. The driver has given every record that it found until then; while there are more, what
    /// is due is done with the next one.
    pub fn handle_timeout(&mut self, now: Nanos) {
        self.core.read_up_to = self.core.read_up_to.max(now);
        self.run_due(now);
    }

    /// The time of the youngest record that was given: what the kernel wrote before has been read.
    pub fn read_up_to(&self) -> Nanos {
        self.core.read_up_to
    }

    /// When [`Self::handle_timeout`] is due; `None` while nothing is.
    pub fn poll_timeout(&self) -> Option<Nanos> {
        self.core.timers.next()
    }

    /// The next thing to do, in order.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.core.actions.pop_front()
    }

    /// Takes over a session that a daemon before this one followed, as it stands in the kernel's table.
    pub fn adopt(&mut self, now: Nanos, key: &SessionKey, state: &SessionState) {
        if state.id == 0 || self.sessions.contains_key(&state.id) {
            return;
        }
        self.take_over(now, key, &Left { state, deadline: None, saved: None });
    }

    /// Takes over a session before the records that a daemon before this one has not read: they are given next, and
    /// then [`Self::adopted_all`] is called. What the kernel sees through stands in its table; of what it is blind to,
    /// the earlier daemon has saved what it had read, or the first record says where it was when the kernel lost sight.
    pub fn adopt_before(&mut self, now: Nanos, key: &SessionKey, left: &Left<'_>) {
        let state = left.state;
        if state.id == 0 || self.sessions.contains_key(&state.id) {
            return;
        }
        let barred = flag::TAINTED | flag::KILLED | flag::OPAQUE | flag::LOST;
        // Where segments have passed unrecorded, what is left of the records does not lead up to the table.
        if state.flags & flag::BLIND == 0 || state.flags & (barred | flag::UNRECORDED) != 0 {
            return self.take_over(now, key, left);
        }
        match left.saved.and_then(Saved::parse) {
            Some(saved) => {
                self.core.stories.begin(state.id);
                let session = Session::restored(now, key, left, saved, &mut self.core);
                self.core.stats.restored += 1;
                self.add_adopted(now, session);
            }
            None => drop(self.orphans.insert(state.id, (*key, *state, left.deadline))),
        }
    }

    /// The records that a daemon before this one had left are read. Data connections are known by now; what is left of
    /// sessions that no record has told of is taken over.
    pub fn adopted_all(&mut self, now: Nanos) {
        for (_, (key, state, deadline)) in std::mem::take(&mut self.orphans) {
            if !self.sessions.contains_key(&state.id) && !self.core.is_forgotten(state.id) {
                self.take_over(now, &key, &Left { state: &state, deadline, saved: None });
            }
        }
        // A connection's record may have come before its session was known.
        for session in self.sessions.values_mut() {
            session.running = 0;
        }
        for flow in self.core.flows.values() {
            if let Some(session) = self.sessions.get_mut(&flow.session) {
                session.running += 1;
            }
        }
        let ids: Vec<u64> = self.sessions.keys().copied().collect();
        for id in ids {
            self.settle(now, id);
        }
    }

    /// Writes what another daemon needs to go on with a session, beside the kernel's tables, into `to`; its length. `None` where
    /// the tables tell all of it, and where it does not fit.
    pub fn save(&self, session: u64, to: &mut [u8; SAVED_MAX]) -> Option<usize> {
        self.sessions.get(&session)?.save(to)
    }

    /// What is known of the address that a session's inside end has there: `None` where nothing is translated. Until it is
    /// told, nothing is taken to be.
    pub fn translated(&mut self, session: u64, inside: Option<Addr>) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.inside = inside;
        }
    }

    /// Takes over a data connection that is running. Sessions first, so that it finds its own.
    pub fn adopt_flow(&mut self, now: Nanos, key: &FlowKey, state: &FlowState) {
        flow::adopt(&mut self.sessions, &mut self.core, key, state);
        self.settle(now, state.session);
    }

    /// Lets go of a data connection of which the kernel has heard nothing for long (`FORGET_FLOW` is the driver's, who
    /// sees the kernel's table).
    pub fn forget_flow(&mut self, now: Nanos, key: &FlowKey) {
        if let Some(id) = flow::forget(&mut self.sessions, &mut self.core, now, key) {
            self.settle(now, id);
        }
    }

    fn take_over(&mut self, now: Nanos, key: &SessionKey, left: &Left<'_>) {
        self.core.stories.begin(left.state.id);
        let session = Session::adopted(now, key, left, &mut self.core);
        self.add_adopted(now, session);
    }

    fn add_adopted(&mut self, now: Nanos, session: Session) {
        let id = session.id;
        self.core.stats.adopted += 1;
        self.sessions.insert(id, Box::new(session));
        self.settle(now, id);
    }

    /// Replaces the policy; revokes the unconsumed pinholes that the new one refuses.
    pub fn set_policy(&mut self, now: Nanos, policy: Policy) {
        self.core.set_policy(policy);
        let ids: Vec<u64> = self.sessions.keys().copied().collect();
        for id in ids {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.policy_changed(now, &mut self.core);
            }
            self.settle(now, id);
        }
        self.judge_added_again(now);
    }

    /// For a clean detach: revokes every unconsumed pinhole and ends every session.
    pub fn shutdown(&mut self, now: Nanos) {
        for id in self.added.keys().copied().collect::<Vec<_>>() {
            self.revoke_added(now, id, Reason::Shutdown, None);
        }
        for (_, mut session) in self.sessions.drain() {
            session.end(now, &mut self.core, Reason::Shutdown, true);
        }
        self.core.timers.clear();
        self.core.flows.clear();
        self.core.stats.sessions = 0;
    }

    /// Every session, in no particular order.
    pub fn sessions(&self) -> impl Iterator<Item = SessionView> {
        self.sessions.values().map(|s| s.view())
    }

    /// The ids and keys of all sessions, in no particular order.
    pub fn session_keys(&self) -> impl Iterator<Item = (u64, SessionKey)> {
        self.sessions.iter().map(|(id, s)| (*id, s.key))
    }

    /// Whether there is a session of this id.
    pub fn has_session(&self, id: u64) -> bool {
        self.sessions.contains_key(&id)
    }

    /// Whether this data connection is known.
    pub fn has_flow(&self, key: &FlowKey) -> bool {
        self.core.flows.contains_key(key)
    }

    /// The host was suspended for `time` nanoseconds, which its clock does not count and a pinhole's seconds do: what is over by
    /// now expires. `wall_offset` is the new one.
    pub fn handle_suspend(&mut self, now: Nanos, time: Nanos, wall_offset: u64) {
        self.core.set_wall_offset(wall_offset);
        let ids: Vec<u64> = self.sessions.keys().copied().collect();
        for id in ids {
            if let Some(hole) = self.sessions.get_mut(&id).and_then(|s| s.pinhole.as_mut()) {
                hole.deadline = hole.deadline.saturating_sub(time);
            }
            self.settle(now, id);
        }
        self.age_added(time);
        self.run_due(now);
    }

    /// The session that a data connection is of, and both ends of its control connection, as far as known; `None` of a
    /// connection that is not known.
    pub fn connection(&self, key: &FlowKey) -> Option<(u64, Option<(SocketAddr, SocketAddr)>)> {
        self.core.flows.get(key).map(|f| (f.session, f.ends()))
    }

    /// What was said in a session and what came of it, as far as it is kept.
    pub fn story(&self, session: u64) -> Option<Story> {
        self.core.stories.tell(session, self.sessions.get(&session).map(|s| &s.key))
    }

    /// Every data connection that is running, in no particular order.
    pub fn connections(&self) -> impl Iterator<Item = FlowKey> {
        self.core.flows.keys().copied()
    }

    /// Every unconsumed pinhole, in no particular order.
    pub fn pinholes(&self, now: Nanos) -> impl Iterator<Item = PinholeView> {
        let added = self.added.iter().map(move |(id, a)| a.view(*id, now));
        self.sessions.values().filter_map(move |s| s.pinhole_view(now)).chain(added)
    }

    /// The unconsumed pinhole of one session, or the added one, with this id.
    pub fn pinhole(&self, now: Nanos, owner: u64) -> Option<Pinhole> {
        self.pinhole_view(now, owner).map(|v| v.pinhole)
    }

    /// The same with all that is known of it.
    pub fn pinhole_view(&self, now: Nanos, owner: u64) -> Option<PinholeView> {
        match self.sessions.get(&owner) {
            Some(session) => session.pinhole_view(now),
            None => self.added.get(&owner).map(|a| a.view(owner, now)),
        }
    }

    /// One session.
    pub fn session(&self, id: u64) -> Option<SessionView> {
        self.sessions.get(&id).map(|s| s.view())
    }

    /// Whether nothing is kept any more: no session, no data connection, no pinhole, no bytes, no timer.
    pub fn is_idle(&self) -> bool {
        self.sessions.is_empty() && self.added.is_empty() && self.core.is_idle()
    }

    /// What was counted.
    pub fn stats(&self) -> &Stats {
        &self.core.stats
    }

    /// The policy in force.
    pub fn policy(&self) -> &Policy {
        &self.core.policy
    }

    /// A session begins with the client's ACK of the handshake.
    fn start(&mut self, now: Nanos, record: &SegmentRecord) {
        if record.session == 0 || self.sessions.contains_key(&record.session) || self.core.is_forgotten(record.session)
        {
            return;
        }
        if self.is_full(now, record) {
            return;
        }
        let session = Session::new(now, record);
        self.core.stories.begin(record.session);
        self.core.session_event(now, &session, Kind::SessionStart, None, None);
        self.core.stats.sessions_started += 1;
        self.sessions.insert(record.session, Box::new(session));
    }

    /// A segment of a session; one that is not known was followed by a daemon before this one.
    fn segment(&mut self, now: Nanos, record: &SegmentRecord, payload: &[u8]) {
        if !self.sessions.contains_key(&record.session) {
            if record.session == 0 || self.core.is_forgotten(record.session) || self.is_full(now, record) {
                return;
            }
            if let Some((key, state, deadline)) = self.orphans.remove(&record.session) {
                let left = Left { state: &state, deadline, saved: None };
                self.core.stories.begin(record.session);
                if record.flags & flag::BLIND == 0 {
                    let session = Session::rejoined(now, record, &left, &mut self.core);
                    self.core.stats.restored += 1;
                    self.add_adopted(now, session);
                } else {
                    self.take_over(now, &key, &left);
                }
            }
        }
        if !self.sessions.contains_key(&record.session) {
            let session = Session::found(now, record);
            self.core.stories.begin(record.session);
            self.core.session_event(now, &session, Kind::SessionStart, None, None);
            self.core.stats.sessions_started += 1;
            self.sessions.insert(record.session, Box::new(session));
        }
        if let Some(session) = self.sessions.get_mut(&record.session) {
            session.segment(now, &mut self.core, record, payload);
        }
    }

    /// Refuses a new session where there is no room for it: nothing that lives is evicted.
    fn is_full(&mut self, now: Nanos, record: &SegmentRecord) -> bool {
        if self.sessions.len() < self.core.policy.limits.sessions as usize {
            return false;
        }
        self.core.no_room(now, record);
        true
    }

    /// Lets go of a session that has ended, or sets its timer.
    fn settle(&mut self, now: Nanos, id: u64) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if session.has_ended() {
            self.core.timers.cancel(&mut session.timer, id);
            self.sessions.remove(&id);
        } else {
            let due = session.deadline(now, &self.core.policy);
            self.core.timers.set(&mut session.timer, id, due);
        }
        self.core.stats.sessions = self.sessions.len() as u64;
    }

    /// Runs the timers that are due.
    fn run_due(&mut self, now: Nanos) {
        while let Some(id) = self.core.timers.pop(now) {
            if id & ADDED_ID != 0 {
                self.added_timeout(now, id);
                continue;
            }
            if let Some(session) = self.sessions.get_mut(&id) {
                session.timer = Nanos::MAX;
                session.timeout(now, &mut self.core);
            }
            self.settle(now, id);
        }
    }
}
