//! Data connections: begun, reset, ended. Each keeps its session alive and is told with it, even behind its end.

use ftp_helper_common::{
    key::{FlowKey, PinholeKey},
    reason::Reason,
    record::FlowRecord,
    state::{FlowState, pending},
};

use super::{
    Nanos,
    core::Core,
    pinhole::{self, Pinhole, Stage},
    session::Session,
    table::{BySession, Flow},
    view::{ends, socket},
};
use crate::event::{Connection, Kind, PinholeState, SessionId};

type Sessions = BySession<Box<Session>>;

/// The responder has answered: the pinhole is used up.
///
/// Returns the session that the connection was believed to be of until now, if it is another's: what encrypted sessions
/// share is told as the latest one's.
pub(super) fn start(sessions: &mut Sessions, core: &mut Core, now: Nanos, record: &FlowRecord) -> Option<u64> {
    core.stats.used += 1;
    let session = sessions.get_mut(&record.session);
    let control = session.as_ref().map(|s| s.key);
    let used = session.and_then(|s| s.used(now, core, record.seq));
    let range = record.mode == pending::RANGE;
    let mut flow = Flow { session: record.session, control, range, pinhole: used };
    let old = core.flows.get(&record.key).copied();
    let other = old.map(|old| old.session).filter(|id| *id != record.session);
    if let Some(old) = old.filter(|_| other.is_none()) {
        // The same connection told twice counts once.
        flow.pinhole = used.or(old.pinhole);
    } else if let Some(s) = sessions.get_mut(&record.session) {
        s.running += 1;
    }
    if let Some(s) = other.and_then(|id| sessions.get_mut(&id)) {
        s.running = s.running.saturating_sub(1);
    }
    core.flows.insert(record.key, flow);
    let key = pinhole_of(record);
    let mut event = core.blank(now, Kind::Used);
    event.added = added(record);
    if let Some((client, server)) = flow.ends() {
        event = event.of_session(record.session, client, server);
    }
    event.pinhole = Some(pinhole::show(&key, record.mode, PinholeState::Bound, 0));
    event.connection = Some(connection(&record.key));
    core.event(event);
    other
}

/// A reset before anything was carried: the pinhole is open again, until its deadline.
pub(super) fn rearmed(sessions: &mut Sessions, core: &mut Core, now: Nanos, record: &FlowRecord) {
    let Some(flow) = core.flows.remove(&record.key) else { return };
    if let Some(session) = sessions.get_mut(&flow.session) {
        session.running = session.running.saturating_sub(1);
        session.last = now;
        // Of one that a daemon before this one saw begin, the line that announced it is not known.
        let pinhole = Pinhole {
            key: pinhole_of(record),
            deadline: record.deadline,
            seq: record.seq,
            line: flow.pinhole.map_or(record.seq, |p| p.line),
            kind: record.mode,
            stage: Stage::Confirmed,
        };
        session.rearm(now, core, pinhole);
    }
}

/// A data connection has ended.
pub(super) fn end(sessions: &mut Sessions, core: &mut Core, now: Nanos, record: &FlowRecord) {
    let flow = core.flows.remove(&record.key);
    let id = flow.map_or(record.session, |f| f.session);
    let mut control = flow.and_then(|f| f.control);
    if let Some(session) = sessions.get_mut(&id) {
        control = Some(session.key);
        if flow.is_some() {
            session.running = session.running.saturating_sub(1);
        }
        session.last = now;
        session.transfers += 1;
        for (sum, bytes) in session.bytes.iter_mut().zip(record.bytes) {
            *sum = sum.saturating_add(bytes);
        }
    }
    core.stats.transfers += 1;
    for (sum, bytes) in core.stats.data_bytes.iter_mut().zip(record.bytes) {
        *sum = sum.saturating_add(bytes);
    }
    let mut event = core.blank(now, Kind::DataEnd);
    event.added = added(record);
    if let Some(key) = control {
        let (client, server) = ends(&key);
        event = event.of_session(id, client, server);
    }
    event.pinhole = Some(pinhole::show(&pinhole_of(record), record.mode, PinholeState::Bound, 0));
    event.connection = Some(Connection {
        bytes_out: Some(record.bytes[0]),
        bytes_back: Some(record.bytes[1]),
        duration_ms: Some(record.time.saturating_sub(record.start) / 1_000_000),
        ..connection(&record.key)
    });
    if record.reset != 0 {
        event = event.because(Reason::Reset);
    }
    core.event(event);
}

/// A data connection that a daemon before this one saw begin.
pub(super) fn adopt(sessions: &mut Sessions, core: &mut Core, key: &FlowKey, state: &FlowState) {
    let session = sessions.get_mut(&state.session);
    let control = session.as_ref().map(|s| s.key);
    let flow = Flow { session: state.session, control, range: state.mode == pending::RANGE, pinhole: None };
    if core.flows.insert(*key, flow).is_none()
        && let Some(session) = session
    {
        session.running += 1;
    }
}

/// Nobody has heard of a data connection for long: it no longer keeps its session alive.
pub(super) fn forget(sessions: &mut Sessions, core: &mut Core, now: Nanos, key: &FlowKey) -> Option<u64> {
    let flow = core.flows.remove(key)?;
    if let Some(session) = sessions.get_mut(&flow.session) {
        session.running = session.running.saturating_sub(1);
        session.last = now;
    }
    let mut event = core.blank(now, Kind::DataEnd);
    if let Some((client, server)) = flow.ends() {
        event = event.of_session(flow.session, client, server);
    }
    event.connection = Some(connection(key));
    core.event(event.because(Reason::Idle));
    Some(flow.session)
}

/// The id of the pinhole that an operator has added for this connection.
fn added(record: &FlowRecord) -> Option<SessionId> {
    (record.mode == pending::ADDED).then_some(SessionId(record.session))
}

fn pinhole_of(record: &FlowRecord) -> PinholeKey {
    let FlowKey { initiator, responder, responder_port, .. } = record.key;
    PinholeKey { initiator, responder, port: responder_port, hook: record.hook, pad: 0 }
}

fn connection(key: &FlowKey) -> Connection {
    Connection::new(socket(key.initiator, key.initiator_port), socket(key.responder, key.responder_port))
}
