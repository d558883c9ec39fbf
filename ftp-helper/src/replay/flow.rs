//! Plays the kernel side for the engine: pinholes and the data connections that use them.

use std::collections::HashMap;

use ftp_helper_common::{
    command::Command,
    key::{FlowKey, PinholeKey},
    record::{FlowRecord, kind},
    state::pinhole_flag,
    tcp,
};

use super::packet::Segment;
use crate::engine::Record;

/// The pinholes that are open and the data connections that are running.
#[derive(Default)]
pub(super) struct Flows {
    pinholes: HashMap<PinholeKey, Pinhole>,
    /// The unconsumed pinhole of each session.
    of_session: HashMap<u64, PinholeKey>,
    running: HashMap<FlowKey, Flow>,
}

#[derive(Clone, Copy)]
struct Pinhole {
    session: u64,
    seq: u32,
    deadline: u64,
    mode: u8,
    flags: u8,
    /// Source port and initial sequence number of the SYN that is bound to it.
    bound: Option<(u16, u32)>,
}

struct Flow {
    pinhole: Pinhole,
    hook: u8,
    start: u64,
    /// Next sequence number of initiator and responder, as far as seen.
    next: [u32; 2],
    bytes: [u64; 2],
    fins: [bool; 2],
    initiator_start: u32,
}

impl Flows {
    /// Opens a pinhole, replacing the session's unconsumed one; `false` if a live one of another session has its key.
    pub(super) fn open(&mut self, now: u64, deadline: u64, command: &Command) -> bool {
        let Command { session, seq, pinhole: key, mode, pinhole_flags, .. } = *command;
        if self.pinholes.get(&key).is_some_and(|p| p.session != session && p.deadline > now) {
            return false;
        }
        self.revoke(session, None);
        self.take(&key);
        self.put(key, Pinhole { session, seq, deadline, mode, flags: pinhole_flags, bound: None });
        true
    }

    /// Takes back the session's unconsumed pinhole, if it is that of the announcement at `seq`.
    pub(super) fn revoke(&mut self, session: u64, seq: Option<u32>) {
        if let Some(key) = self.of_session.get(&session).copied()
            && let Some(pinhole) = self.pinholes.get(&key)
            && seq.is_none_or(|seq| seq == pinhole.seq)
        {
            self.take(&key);
        }
    }

    /// Takes a segment that belongs to no control connection; tells what it begins or ends.
    pub(super) fn segment(&mut self, now: u64, s: &Segment<'_>) -> Option<Record<'static>> {
        match s.flags & (tcp::SYN | tcp::ACK) {
            tcp::SYN => {
                self.syn(now, s);
                None
            }
            SYN_ACK => self.syn_ack(now, s),
            _ => {
                if let Some(key) = self.bound_to(s).filter(|_| s.flags & tcp::RST != 0) {
                    self.refused(&key);
                    return None;
                }
                self.running(now, s)
            }
        }
    }

    /// A first SYN is bound to the pinhole that it fits.
    fn syn(&mut self, now: u64, s: &Segment<'_>) {
        for hook in HOOKS {
            let key = PinholeKey { initiator: s.from.0, responder: s.to.0, port: s.to.1, hook, pad: 0 };
            if let Some(pinhole) = self.pinholes.get_mut(&key)
                && pinhole.deadline > now
                && (pinhole.flags & pinhole_flag::SOURCE_20 == 0 || s.from.1 == 20)
                && pinhole.bound.is_none_or(|(port, _)| port == s.from.1)
            {
                pinhole.bound = Some((s.from.1, s.seq));
            }
        }
    }

    /// The responder's answer uses the pinhole up.
    fn syn_ack(&mut self, now: u64, s: &Segment<'_>) -> Option<Record<'static>> {
        let key = self.bound_to(s)?;
        let bound = self.pinholes.get(&key)?.bound;
        if bound.is_none_or(|(_, isn)| isn.wrapping_add(1) != s.ack) {
            return None;
        }
        let pinhole = self.take(&key)?;
        let flow = Flow {
            pinhole,
            hook: key.hook,
            start: now,
            next: [s.ack, s.seq.wrapping_add(1)],
            bytes: [0; 2],
            fins: [false; 2],
            initiator_start: s.ack,
        };
        let flow_key =
            FlowKey { initiator: s.to.0, responder: s.from.0, initiator_port: s.to.1, responder_port: s.from.1 };
        let record = flow.record(kind::FLOW_START, flow_key, now, false);
        self.running.insert(flow_key, flow);
        Some(Record::FlowStart(record))
    }

    /// The responder refuses a bare SYN: the pinhole is as it was before, once.
    fn refused(&mut self, key: &PinholeKey) {
        if let Some(pinhole) = self.pinholes.get_mut(key)
            && pinhole.flags & pinhole_flag::REARMED == 0
        {
            pinhole.bound = None;
            pinhole.flags |= pinhole_flag::REARMED;
        }
    }

    /// A segment of a data connection that is running.
    fn running(&mut self, now: u64, s: &Segment<'_>) -> Option<Record<'static>> {
        let forward =
            FlowKey { initiator: s.from.0, responder: s.to.0, initiator_port: s.from.1, responder_port: s.to.1 };
        let backward =
            FlowKey { initiator: s.to.0, responder: s.from.0, initiator_port: s.to.1, responder_port: s.from.1 };
        let (key, side) = if self.running.contains_key(&forward) { (forward, 0) } else { (backward, 1) };
        let flow = self.running.get_mut(&key)?;
        let ahead = tcp::distance(s.seq, flow.next[side]);
        if s.flags & tcp::RST != 0 {
            // Exactly in order, or within the window as far as anybody can tell.
            if !(0..WINDOW).contains(&ahead) {
                return None;
            }
            let flow = self.running.remove(&key)?;
            // An initiator that never sent that SYN resets the answer (RFC 9293 section 3.5.2): no ACK flag.
            let refused = side == 0 && s.flags & tcp::ACK == 0 && s.seq == flow.initiator_start;
            let empty = flow.bytes[0] == 0 && refused;
            let flags = flow.pinhole.flags;
            if empty && flags & pinhole_flag::REARMED == 0 && flow.pinhole.deadline > now {
                let record = flow.record(kind::FLOW_REARMED, key, now, true);
                let hole = PinholeKey {
                    initiator: key.initiator,
                    responder: key.responder,
                    port: key.responder_port,
                    hook: flow.hook,
                    pad: 0,
                };
                self.put(hole, Pinhole { bound: None, flags: flags | pinhole_flag::REARMED, ..flow.pinhole });
                return Some(Record::FlowRearmed(record));
            }
            return Some(Record::FlowEnd(flow.record(kind::FLOW_END, key, now, true)));
        }
        let advance = tcp::distance(s.seq.wrapping_add(s.len), flow.next[side]);
        if let Ok(advance @ 1..) = u32::try_from(advance) {
            flow.bytes[side] += u64::from(advance);
            flow.next[side] = flow.next[side].wrapping_add(advance);
        }
        if s.flags & tcp::FIN != 0 {
            flow.fins[side] = true;
        }
        if flow.fins != [true; 2] {
            return None;
        }
        let flow = self.running.remove(&key)?;
        Some(Record::FlowEnd(flow.record(kind::FLOW_END, key, now, false)))
    }

    /// The pinhole whose SYN this segment of the responder answers.
    fn bound_to(&self, s: &Segment<'_>) -> Option<PinholeKey> {
        HOOKS
            .map(|hook| PinholeKey { initiator: s.to.0, responder: s.from.0, port: s.from.1, hook, pad: 0 })
            .into_iter()
            .find(|key| self.pinholes.get(key).and_then(|p| p.bound).is_some_and(|(port, _)| port == s.to.1))
    }

    fn put(&mut self, key: PinholeKey, pinhole: Pinhole) {
        self.of_session.insert(pinhole.session, key);
        self.pinholes.insert(key, pinhole);
    }

    fn take(&mut self, key: &PinholeKey) -> Option<Pinhole> {
        let pinhole = self.pinholes.remove(key)?;
        self.of_session.remove(&pinhole.session);
        Some(pinhole)
    }
}

impl Flow {
    fn record(&self, kind: u8, key: FlowKey, time: u64, reset: bool) -> FlowRecord {
        let Self { pinhole, hook, start, bytes, .. } = self;
        FlowRecord {
            kind,
            hook: *hook,
            mode: pinhole.mode,
            reset: reset.into(),
            seq: pinhole.seq,
            session: pinhole.session,
            time,
            start: *start,
            deadline: pinhole.deadline,
            bytes: *bytes,
            key,
            pad: 0,
        }
    }
}

const SYN_ACK: u8 = tcp::SYN | tcp::ACK;
const HOOKS: [u8; 2] = [ftp_helper_common::key::HOOK_IN, ftp_helper_common::key::HOOK_OUT];
/// Sequence space that a reset may lie ahead.
const WINDOW: i32 = 1 << 30;
