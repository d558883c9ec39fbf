//! Pinholes that an operator adds: of no session, for one connection, and open no longer than one that was negotiated.

use std::net::IpAddr;

use ftp_helper_common::{
    addr::Addr,
    command::{Command, Outcome, op},
    key::PinholeKey,
    reason::Reason,
    state::{ADDED_ID, PinholeState, pending},
};

use super::{
    Engine, Nanos, Order,
    pinhole::{self, Pinhole, Stage},
    policy::Policy,
    view::PinholeView,
};
use crate::event::{By, Event, Kind, SessionId};

/// An added pinhole that nobody has used yet.
#[derive(Debug)]
pub(super) struct Added {
    pub(super) hole: Pinhole,
    /// Who has added it; not known of one that a daemon before this one has added.
    order: Option<Order>,
    /// When its timer is set for.
    timer: Nanos,
}

impl Added {
    /// As `pinholes` shows it.
    pub(super) fn view(&self, id: u64, now: Nanos) -> PinholeView {
        PinholeView {
            owner: id,
            ends: None,
            inside: None,
            key: self.hole.key,
            order: self.order.clone(),
            pinhole: self.hole.show(now),
        }
    }
}

impl Engine {
    /// Adds a pinhole that is open for `lives` nanoseconds, and no longer than the policy lets one be; its id. The kernel may
    /// still refuse it: then [`Engine::pinhole`] has none of this id when the actions are carried out, and
    /// [`Engine::not_added`] says why.
    ///
    /// # Errors
    /// The policy does not allow it: why.
    pub fn add_pinhole(&mut self, now: Nanos, key: PinholeKey, lives: Nanos, order: &Order) -> Result<u64, Reason> {
        let lives = lives.min(pinhole::timeout(&self.core.policy));
        let hole = Pinhole {
            key,
            deadline: now.saturating_add(lives),
            seq: 0,
            line: 0,
            kind: pending::ADDED,
            stage: Stage::Asked,
        };
        let full = self.core.unconsumed.held(key.initiator) >= self.core.policy.per_client;
        let verdict = judge(&self.core.policy, &key).and(if full { Err(Reason::ClientQuota) } else { Ok(()) });
        let mut id = ADDED_ID | now;
        while self.added.contains_key(&id) {
            id = (id + 1) | ADDED_ID;
        }
        if let Err(reason) = verdict {
            self.refuse_added(now, id, &hole, reason, order);
            return Err(reason);
        }
        self.core.unconsumed.add(key.initiator, &key, id);
        // Rounded up: the deadline counts, and the kernel's clock is coarse.
        let millis = u32::try_from(lives.div_ceil(1_000_000)).unwrap_or(u32::MAX);
        self.core.command(Command { op: op::ADD, session: id, pinhole: key, seq: millis, ..Command::default() });
        self.insert_added(id, Added { hole, order: Some(order.clone()), timer: Nanos::MAX });
        Ok(id)
    }

    /// Why the kernel did not open the last pinhole that was to be added, if it has this id and the kernel did not.
    pub fn not_added(&self, id: u64) -> Option<Reason> {
        self.not_added.filter(|(last, _)| *last == id).map(|(_, reason)| reason)
    }

    /// Takes over a pinhole that a daemon before this one has added, as it stands in the kernel's table.
    pub fn adopt_added(&mut self, key: &PinholeKey, state: &PinholeState) {
        if state.mode != pending::ADDED || self.added.contains_key(&state.session) {
            return;
        }
        let hole = Pinhole {
            key: *key,
            deadline: state.deadline,
            seq: 0,
            line: 0,
            kind: pending::ADDED,
            stage: Stage::Confirmed,
        };
        self.core.unconsumed.add(key.initiator, key, state.session);
        self.insert_added(state.session, Added { hole, order: None, timer: Nanos::MAX });
    }

    /// What became of a command about an added pinhole.
    pub(super) fn added_outcome(&mut self, now: Nanos, command: &Command, outcome: Outcome) {
        if command.op != op::ADD || !self.added.contains_key(&command.session) {
            return;
        }
        let id = command.session;
        let reason = match outcome {
            Outcome::Done => {
                self.core.stats.added += 1;
                if let Some(added) = self.added.get_mut(&id) {
                    added.hole.stage = Stage::Confirmed;
                    let (hole, order) = (added.hole, added.order.clone());
                    let by = Some(By::Operator);
                    self.tell_added(now, id, &hole, order, Event { by, ..self.core.blank(now, Kind::Opened) });
                }
                return;
            }
            Outcome::Taken => Reason::PinholeTaken,
            Outcome::Quota => Reason::ClientQuota,
            Outcome::Full => Reason::PinholesFull,
            _ => Reason::LeftToDaemon,
        };
        if let Some(added) = self.drop_added(id) {
            let order = added.order.unwrap_or_default();
            self.refuse_added(now, id, &added.hole, reason, &order);
            self.not_added = Some((id, reason));
        }
    }

    /// A data connection has used it.
    pub(super) fn added_used(&mut self, id: u64) {
        drop(self.drop_added(id));
    }

    /// Its time may be over.
    pub(super) fn added_timeout(&mut self, now: Nanos, id: u64) {
        let Some(added) = self.added.get_mut(&id) else { return };
        added.timer = Nanos::MAX;
        if added.hole.deadline > now {
            return self.core.timers.set(&mut added.timer, id, added.hole.deadline);
        }
        let Some(Added { hole, .. }) = self.drop_added(id) else { return };
        self.ask_remove(id, &hole);
        self.core.stats.expired += 1;
        let event = self.core.blank(now, Kind::Expired);
        self.tell_added(now, id, &hole, None, event);
    }

    /// Takes it back; whether it was there.
    pub(super) fn revoke_added(&mut self, now: Nanos, id: u64, reason: Reason, order: Option<&Order>) -> bool {
        let Some(Added { hole, .. }) = self.drop_added(id) else { return false };
        self.ask_remove(id, &hole);
        super::stats::count(&mut self.core.stats.revoked, reason);
        let event = self.core.blank(now, Kind::Revoked).because(reason);
        self.tell_added(now, id, &hole, order.cloned(), event);
        true
    }

    /// The policy is another one: takes back what it does not allow.
    pub(super) fn judge_added_again(&mut self, now: Nanos) {
        let policy = &self.core.policy;
        let barred = self.added.iter().filter(|(_, a)| judge(policy, &a.hole.key).is_err()).map(|(id, _)| *id);
        for id in barred.collect::<Vec<_>>() {
            self.revoke_added(now, id, Reason::PolicyChanged, None);
        }
    }

    /// The host was suspended.
    pub(super) fn age_added(&mut self, time: Nanos) {
        for (id, added) in &mut self.added {
            added.hole.deadline = added.hole.deadline.saturating_sub(time);
            self.core.timers.set(&mut added.timer, *id, added.hole.deadline);
        }
    }

    fn insert_added(&mut self, id: u64, mut added: Added) {
        self.core.timers.set(&mut added.timer, id, added.hole.deadline);
        self.added.insert(id, added);
    }

    fn drop_added(&mut self, id: u64) -> Option<Added> {
        let mut added = self.added.remove(&id)?;
        self.core.timers.cancel(&mut added.timer, id);
        self.core.unconsumed.remove(added.hole.key.initiator, &added.hole.key, id);
        Some(added)
    }

    fn refuse_added(&mut self, now: Nanos, id: u64, hole: &Pinhole, reason: Reason, order: &Order) {
        super::stats::count(&mut self.core.stats.refused, reason);
        let event = self.core.blank(now, Kind::Refused).because(reason);
        self.tell_added(now, id, hole, Some(order.clone()), event);
    }

    fn tell_added(&mut self, now: Nanos, id: u64, hole: &Pinhole, order: Option<Order>, event: Event) {
        let (uid, note) = order.map(|o| (o.uid, o.note)).unzip();
        let (added, pinhole) = (Some(SessionId(id)), Some(hole.show(now)));
        self.core.event(Event { added, pinhole, uid, note, ..event });
    }

    fn ask_remove(&mut self, id: u64, hole: &Pinhole) {
        self.core.command(Command { op: op::REMOVE, session: id, pinhole: hole.key, ..Command::default() });
    }
}

/// Whether the policy allows such a pinhole: what it says of every pinhole, whatever negotiates it.
fn judge(policy: &Policy, key: &PinholeKey) -> Result<(), Reason> {
    let PinholeKey { initiator, responder, port, .. } = *key;
    if initiator.is_v4() != responder.is_v4() {
        return Err(Reason::AddressFamily);
    }
    if initiator == responder || !is_host(initiator) || !is_host(responder) {
        return Err(Reason::ThirdHost);
    }
    if policy.control_ports.contains(&port) {
        return Err(Reason::ControlPort);
    }
    if port < 1024 {
        return Err(Reason::LowPort);
    }
    if policy.deny_ports.contains(&port) {
        return Err(Reason::DeniedPort);
    }
    match policy.passive_range(responder) {
        Some(range) if !range.contains(&port) => Err(Reason::OutsideRange),
        _ => Ok(()),
    }
}

/// Whether it is the address of one host.
fn is_host(addr: Addr) -> bool {
    let ip = addr.to_ip();
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback() && !broadcast
}
