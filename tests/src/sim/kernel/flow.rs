//! Data connections.

use ftp_helper::engine::Record;
use ftp_helper_common::{
    key::{HOOK_IN, PinholeKey, SessionKey, TupleKey},
    record::{FlowRecord, kind},
    state::{FlowState, PinholeState, bound, pending, pinhole_flag},
    tcp,
};

use super::{Happened, Kernel, Packet, Rec, Verdict};

const WINDOW_MAX: i32 = 1 << 30;

/// How a packet ends a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Fin,
    Reset,
    /// It carried nothing: the pinhole may be open again.
    Rearm,
}

/// What becomes of a connection that begins: in the table; not, and passes; not, and does not pass.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begun {
    Yes,
    Unknown,
    Refused,
}

impl Kernel {
    pub(super) fn flow(&mut self, now: u64, hook: u8, p: &Packet) -> Verdict {
        if p.flags & tcp::SYN != 0 {
            return if p.flags & (tcp::FIN | tcp::RST) == 0 { self.answered(now, hook, p) } else { Verdict::Pass };
        }
        let key = tuple(hook, p);
        let Some(flow) = self.flows.get_mut(&key) else {
            if p.flags & tcp::RST != 0 {
                self.refused(hook, p);
            }
            return Verdict::Pass;
        };
        match advance(now, hook, p, flow) {
            None => Verdict::Pass,
            Some(How::Rearm) => {
                let flow = *flow;
                self.give_back(now, &key, &flow)
            }
            Some(how) => {
                let flow = *flow;
                self.end(now, &key, &flow, how)
            }
        }
    }

    fn end(&mut self, now: u64, key: &TupleKey, flow: &FlowState, how: How) -> Verdict {
        let told = describe(now, key, flow);
        let reset = u8::from(how == How::Reset);
        if !self.tell_flow(now, Rec::FlowEnd(FlowRecord { kind: kind::FLOW_END, reset, ..told })) {
            return Verdict::Drop;
        }
        self.flows.remove(key);
        Verdict::Pass
    }

    fn give_back(&mut self, now: u64, key: &TupleKey, flow: &FlowState) -> Verdict {
        let told = describe(now, key, flow);
        let state = PinholeState {
            session: flow.session,
            deadline: flow.deadline,
            seq: flow.seq,
            mode: flow.mode,
            flags: flow.flags | pinhole_flag::REARMED,
            control: flow.control,
            ..PinholeState::default()
        };
        let ends = key.to_flow(flow.hook);
        let pin = PinholeKey {
            initiator: ends.initiator,
            responder: ends.responder,
            port: ends.responder_port,
            hook: flow.hook,
            pad: 0,
        };
        let passive = flow.mode == pending::PASV || flow.mode == pending::EPSV;
        let (client, server) = if passive { (pin.initiator, pin.responder) } else { (pin.responder, pin.initiator) };
        let [client_port, server_port] = flow.control;
        let back = self.rearm_pinhole(&pin, &state, &SessionKey { client, server, client_port, server_port });
        let rec = if back {
            Rec::FlowRearmed(FlowRecord { kind: kind::FLOW_REARMED, ..told })
        } else {
            Rec::FlowEnd(FlowRecord { kind: kind::FLOW_END, reset: 1, ..told })
        };
        if !self.record(rec) {
            if back {
                self.remove_pinhole(&pin, flow.session);
            }
            if !self.observes() && !self.is_stale(now) {
                return Verdict::Drop;
            }
            self.happened.push(Happened::Untold(flow.session));
        } else if back {
            self.happened.push(Happened::Rearmed(pin, state));
        }
        self.flows.remove(key);
        Verdict::Pass
    }

    fn answered(&mut self, now: u64, hook: u8, p: &Packet) -> Verdict {
        let pin = answered_pinhole(hook, p);
        let Some(hole) = self.pinholes.get(&pin).copied() else { return self.answered_in_range(now, hook, p) };
        if hole.bound != bound(p.ack.wrapping_sub(1), p.to.port) {
            return Verdict::Pass;
        }
        let flow = FlowState {
            session: hole.session,
            control: hole.control,
            start: now,
            last: now,
            isn: [hole.isn(), p.seq],
            deadline: hole.deadline,
            seq: hole.seq,
            mode: hole.mode,
            hook: hook ^ 1,
            flags: hole.flags,
            ..FlowState::default()
        };
        match self.begin_flow(now, tuple(hook, p), flow) {
            Begun::Refused => return Verdict::Drop,
            Begun::Yes if self.remove_pinhole(&pin, hole.session) => self.happened.push(Happened::Used(pin, hole)),
            Begun::Yes | Begun::Unknown => {}
        }
        Verdict::Pass
    }

    /// The responder's SYN-ACK in the range of an encrypted session.
    fn answered_in_range(&mut self, now: u64, hook: u8, p: &Packet) -> Verdict {
        let Some(session) = self.covered(now, p.to.addr, p.from.addr, p.from.port, hook ^ 1) else {
            return Verdict::Pass;
        };
        let (key, isn) = (tuple(hook, p), [p.ack.wrapping_sub(1), p.seq]);
        if self.flows.get(&key).is_some_and(|f| f.isn == isn) {
            return Verdict::Pass;
        }
        let mode = pending::RANGE;
        let flow = FlowState { session, start: now, last: now, isn, mode, hook: hook ^ 1, ..FlowState::default() };
        if self.begin_flow(now, key, flow) == Begun::Refused { Verdict::Drop } else { Verdict::Pass }
    }

    fn begin_flow(&mut self, now: u64, key: TupleKey, flow: FlowState) -> Begun {
        self.flows.remove(&key);
        if self.flows.len() >= self.sizes.flows {
            return if self.observes() { Begun::Unknown } else { Begun::Refused };
        }
        self.flows.insert(key, flow);
        let told = FlowRecord { kind: kind::FLOW_START, ..describe(now, &key, &flow) };
        if !self.tell_flow(now, Rec::FlowStart(told)) {
            self.flows.remove(&key);
            return Begun::Refused;
        }
        Begun::Yes
    }

    fn refused(&mut self, hook: u8, p: &Packet) {
        let Some(hole) = self.pinholes.get_mut(&answered_pinhole(hook, p)) else { return };
        if hole.bound == bound(p.ack.wrapping_sub(1), p.to.port) && hole.flags & pinhole_flag::REARMED == 0 {
            hole.bound = 0;
            hole.flags |= pinhole_flag::REARMED;
        }
    }

    /// Tells of a data connection; whether the packet may pass.
    fn tell_flow(&mut self, now: u64, rec: Rec) -> bool {
        if self.record(rec.clone()) {
            return true;
        }
        let passes = self.observes() || self.is_stale(now);
        if passes && let Record::FlowStart(r) | Record::FlowRearmed(r) | Record::FlowEnd(r) = rec.view() {
            self.happened.push(Happened::Untold(r.session));
        }
        passes
    }
}

fn advance(now: u64, hook: u8, p: &Packet, f: &mut FlowState) -> Option<How> {
    let initiator = f.hook == hook;
    let side = usize::from(!initiator);
    let end = p.seq.wrapping_add(p.data.len() as u32).wrapping_sub(f.isn[side]).wrapping_sub(1);
    let step = tcp::distance(end, f.bytes[side] as u32);
    if step >= WINDOW_MAX || step <= -WINDOW_MAX {
        return None;
    }
    if step > 0 {
        f.bytes[side] += step as u64;
    }
    f.last = now;
    if p.flags & tcp::RST != 0 {
        let rearm = initiator
            && p.flags & tcp::ACK == 0
            && end == 0
            && f.bytes[0] == 0
            && f.flags & pinhole_flag::REARMED == 0
            && f.deadline > now;
        return Some(if rearm { How::Rearm } else { How::Reset });
    }
    if p.flags & tcp::FIN != 0 {
        f.fins |= if initiator { 1 } else { 2 };
        return (f.fins == 3).then_some(How::Fin);
    }
    None
}

fn describe(now: u64, key: &TupleKey, flow: &FlowState) -> FlowRecord {
    FlowRecord {
        hook: flow.hook,
        mode: flow.mode,
        seq: flow.seq,
        session: flow.session,
        time: now,
        start: flow.start,
        deadline: flow.deadline,
        bytes: flow.bytes,
        key: key.to_flow(flow.hook),
        ..FlowRecord::default()
    }
}

/// The connection by where its ends lie.
pub(super) fn tuple(hook: u8, p: &Packet) -> TupleKey {
    let (outside, inside) = if hook == HOOK_IN { (p.from, p.to) } else { (p.to, p.from) };
    TupleKey { outside: outside.addr, inside: inside.addr, outside_port: outside.port, inside_port: inside.port }
}

fn answered_pinhole(hook: u8, p: &Packet) -> PinholeKey {
    PinholeKey { initiator: p.to.addr, responder: p.from.addr, port: p.from.port, hook: hook ^ 1, pad: 0 }
}
