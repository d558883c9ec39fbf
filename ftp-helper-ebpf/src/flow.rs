//! Data connections: their beginning, bytes and end.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::programs::TcContext;
use ftp_helper_common::{
    counter::Counter,
    key::{HOOK_IN, TupleKey},
    policy::mode,
    reason::Reason,
    record::{FlowRecord, kind},
    state::{FlowState, PinholeState, bound, pending, pinhole_flag},
    tcp,
};

use crate::{
    maps::{FLOWS, FlowSlot, PINHOLES, PinholeSlot, STARTED, STARTED_PORTS},
    nat,
    packet::View,
    pinhole,
    programs::{DROP, PASS},
    range, record, rules,
    scratch::{self, OF_HOOKS, Scratch},
    util::{copy, count, count_reason, lock, now, unlock, zero},
};

/// `BPF_ANY`: whatever is there.
const ANY: u64 = 0;
/// `BPF_NOEXIST`: only if nothing is there.
const NO_EXIST: u64 = 1;
/// How far a FIN or RST may lie from what was seen: more than any window.
const WINDOW_MAX: i32 = 1 << 30;
/// For how long a SYN may come again although it was answered, nanoseconds. Linux gives up after 127 s
/// (`tcp_syn_retries` = 6), others sooner.
const REPEATED_FOR: u64 = 130_000_000_000;
/// Beside the TCP flags: the pinhole is to be armed again.
const REARM: u8 = 0x80;

/// A SYN-ACK, FIN or RST, or a segment that crosses a mebibyte of sequence space.
#[inline(never)]
pub fn flow(ctx: &TcContext, view: &View, hook: u8) -> i32 {
    let Some(s) = scratch::scratch(OF_HOOKS) else { return PASS };
    if !view.ends(ctx, s) {
        return PASS;
    }
    if view.flags & tcp::SYN != 0 {
        return if view.flags & (tcp::FIN | tcp::RST) == 0 { answered(view, s, hook) } else { PASS };
    }
    let tuple = tuple_in(s, hook);
    let Some(f) = FLOWS.get_ptr_mut(tuple) else {
        if view.flags & tcp::RST != 0 {
            refused(view, s, hook);
        }
        return PASS;
    };
    match advance(view, s, f, hook) {
        0 => PASS,
        REARM => give_back(s),
        how => end(s, how),
    }
}

/// The connection in hand by where its ends lie, in the working memory; `hook` is the one that this packet passed.
#[inline(always)]
pub fn tuple_in<'a>(s: *mut Scratch, hook: u8) -> &'a TupleKey {
    // SAFETY: `s` is this CPU's working memory.
    unsafe {
        let ends = &*addr_of!((*s).ends);
        let k = addr_of_mut!((*s).tuple);
        if hook == HOOK_IN {
            (*k).outside = ends.initiator;
            (*k).inside = ends.responder;
            (*k).outside_port = ends.initiator_port;
            (*k).inside_port = ends.responder_port;
        } else {
            (*k).outside = ends.responder;
            (*k).inside = ends.initiator;
            (*k).outside_port = ends.responder_port;
            (*k).inside_port = ends.initiator_port;
        }
        &*k
    }
}

/// Whether a data connection whose responder has this port may have begun so lately that its SYN can still come again.
#[inline(always)]
pub fn began_lately(responder_port: u16) -> bool {
    // SAFETY: one word, which is only ever replaced whole.
    STARTED.get_ptr(responder_port as u32 & (STARTED_PORTS - 1)).is_none_or(|at| {
        let began = unsafe { at.read_volatile() };
        began != 0 && now().wrapping_sub(began) < REPEATED_FOR
    })
}

/// Accounts for a packet; 0, or how it ends the connection. The connection's state is then in the working memory.
#[inline(always)]
fn advance(view: &View, s: *mut Scratch, f: *mut FlowSlot, hook: u8) -> u8 {
    // SAFETY: `f` is a live value of the table, changed under its lock only; `s` is this CPU's working memory.
    unsafe {
        let time = now();
        let mut how = 0;
        let at = addr_of_mut!((*f).lock);
        lock(at);
        let st = addr_of_mut!((*f).state);
        let initiator = (*st).hook == hook;
        let isn = if initiator { (*st).isn[0] } else { (*st).isn[1] };
        let seen = if initiator { (*st).bytes[0] } else { (*st).bytes[1] };
        let end = view.seq.wrapping_add(view.len).wrapping_sub(isn).wrapping_sub(1);
        let step = tcp::distance(end, seen as u32);
        if step < WINDOW_MAX && step > -WINDOW_MAX {
            if step > 0 {
                if initiator {
                    (*st).bytes[0] = seen + step as u64;
                } else {
                    (*st).bytes[1] = seen + step as u64;
                }
            }
            (*st).last = time;
            if view.flags & tcp::RST != 0 {
                how = tcp::RST;
                // An initiator that never sent that SYN resets the answer (RFC 9293 section 3.5.2): no ACK flag.
                if initiator
                    && view.flags & tcp::ACK == 0
                    && end == 0
                    && (*st).bytes[0] == 0
                    && (*st).flags & pinhole_flag::REARMED == 0
                    && (*st).deadline > time
                {
                    how = REARM;
                }
            } else if view.flags & tcp::FIN != 0 {
                (*st).fins |= if initiator { 1 } else { 2 };
                if (*st).fins == 3 {
                    how = tcp::FIN;
                }
            }
        }
        copy(st, addr_of_mut!((*s).flow));
        unlock(at);
        how
    }
}

/// Removes a data connection that is over, and tells.
#[inline(never)]
fn end(s: *mut Scratch, how: u8) -> i32 {
    // SAFETY: `s` is this CPU's working memory.
    unsafe {
        let state = &*addr_of!((*s).flow);
        let told = describe(s, state, kind::FLOW_END);
        (*told).reset = (how == tcp::RST) as u8;
        if !record::flow(&*told) && !may_go_untold() {
            count_reason(Reason::RingFull);
            return DROP;
        }
        if FLOWS.remove(&*addr_of!((*s).tuple)).is_err() {
            return PASS;
        }
        count(Counter::FlowsEnded);
    }
    if nat::is_on() {
        nat::end(s);
    }
    PASS
}

/// The initiator has reset a connection that carried nothing: its pinhole is open again, if its session still has a right
/// to it. What the record says is then true, whatever comes between.
#[inline(never)]
fn give_back(s: *mut Scratch) -> i32 {
    // SAFETY: `s` is this CPU's working memory.
    unsafe {
        let tuple = &*addr_of!((*s).tuple);
        // Two CPUs may have the same reset in hand: one of them removes the connection.
        if FLOWS.remove(tuple).is_err() {
            return PASS;
        }
        let state = &*addr_of!((*s).flow);
        let told = describe(s, state, kind::FLOW_REARMED);
        let hole = addr_of_mut!((*s).hole);
        *hole = PinholeState {
            session: state.session,
            deadline: state.deadline,
            seq: state.seq,
            mode: state.mode,
            flags: state.flags | pinhole_flag::REARMED,
            control: state.control,
            inside_port: if nat::is_on() { nat::inside_port_of(s) } else { 0 },
            ..PinholeState::default()
        };
        let ends = &(*told).key;
        let passive = state.mode == pending::PASV || state.mode == pending::EPSV;
        let session = addr_of_mut!((*s).key);
        (*session).client = if passive { ends.initiator } else { ends.responder };
        (*session).server = if passive { ends.responder } else { ends.initiator };
        (*session).client_port = state.control[0];
        (*session).server_port = state.control[1];
        let key = pinhole::key_in(s, &ends.initiator, &ends.responder, ends.responder_port, state.hook);
        (*s).hole_lock = [0; 2];
        let back = pinhole::rearm(key, &*hole.cast_const().cast::<PinholeSlot>(), &*session);
        if !back {
            (*told).kind = kind::FLOW_END;
            (*told).reset = 1;
        }
        let told = record::flow(&*told);
        if !told && back {
            // Nobody would know that it is open.
            pinhole::remove_of(key, &*hole);
        }
        if !told && !may_go_untold() {
            // The initiator resets the next answer.
            (*s).flow_lock = [0; 2];
            let _ = FLOWS.insert(tuple, &*addr_of!((*s).flow).cast::<FlowSlot>(), NO_EXIST);
            count_reason(Reason::RingFull);
            return DROP;
        }
        count(if back && told { Counter::Rearmed } else { Counter::FlowsEnded });
    }
    if nat::is_on() {
        // The connection that comes next, if one does, gets a translation of its own.
        nat::end(s);
    }
    PASS
}

/// The responder's SYN-ACK consumes the pinhole and makes the flow.
#[inline(never)]
fn answered(view: &View, s: *mut Scratch, hook: u8) -> i32 {
    // SAFETY: `s` is this CPU's working memory; `p` is a live value of the table, changed under its lock only.
    unsafe {
        let ends = &*addr_of!((*s).ends);
        let pin_key = pinhole::key_in(s, &ends.responder, &ends.initiator, ends.initiator_port, hook ^ 1);
        let time = now();
        let flow = addr_of_mut!((*s).flow);
        let Some(p) = PINHOLES.get_ptr_mut(pin_key) else {
            if !rules::policy().is_some_and(|p| range::answered(view, s, p, hook)) {
                return PASS;
            }
            return if begin(s, hook, time) == REFUSED { DROP } else { PASS };
        };
        let at = addr_of_mut!((*p).lock);
        lock(at);
        let held = (*p).state.bound;
        (*flow).session = (*p).state.session;
        (*flow).deadline = (*p).state.deadline;
        (*flow).seq = (*p).state.seq;
        (*flow).mode = (*p).state.mode;
        (*flow).flags = (*p).state.flags;
        (*flow).control = (*p).state.control;
        unlock(at);
        let isn = (held >> 32) as u32;
        if held == 0 || held as u16 != view.destination_port || view.ack != isn.wrapping_add(1) {
            return PASS;
        }
        (*flow).isn = [isn, view.seq];
        match begin(s, hook, time) {
            REFUSED => return DROP,
            BEGUN if pinhole::remove(pin_key, (*flow).session) != 0 => count(Counter::Used),
            _ => {}
        }
    }
    PASS
}

/// What [`begin`] has come to: the connection is in the table; it is not, and passes; it is not, and does not pass.
const BEGUN: u32 = 0;
const UNKNOWN: u32 = 1;
const REFUSED: u32 = 2;

/// A data connection begins, with its SYN-ACK. What is known of it is in the working memory.
#[inline(never)]
fn begin(s: *mut Scratch, hook: u8, time: u64) -> u32 {
    // SAFETY: `s` is this CPU's working memory.
    unsafe {
        let flow = addr_of_mut!((*s).flow);
        (*flow).start = time;
        (*flow).last = time;
        zero(addr_of_mut!((*flow).bytes));
        (*flow).fins = 0;
        (*flow).hook = hook ^ 1;
        (*s).flow_lock = [0; 2];
        let tuple = tuple_in(s, hook);
        // One of the same tuple is a leftover, since the responder has just accepted a new connection, or another CPU's, which has a
        // copy of this packet in hand: either way it gives way.
        if FLOWS.insert(tuple, &*flow.cast_const().cast::<FlowSlot>(), ANY).is_err() {
            count_reason(Reason::FlowsFull);
            return if is_observing() { UNKNOWN } else { REFUSED };
        }
        if let Some(at) = STARTED.get_ptr_mut((*s).ends.initiator_port as u32 & (STARTED_PORTS - 1)) {
            at.write_volatile(time);
        }
        if nat::is_on() {
            nat::live(s);
        }
        let told = describe(s, &*flow, kind::FLOW_START);
        if !record::flow(&*told) && !may_go_untold() {
            // The responder sends it again.
            let _ = FLOWS.remove(tuple);
            count_reason(Reason::RingFull);
            return REFUSED;
        }
    }
    BEGUN
}

/// The responder's RST to a bare SYN frees the pinhole for one more try.
#[inline(always)]
fn refused(view: &View, s: *mut Scratch, hook: u8) {
    // SAFETY: `s` is this CPU's working memory; `p` is a live value of the table, changed under its lock only.
    unsafe {
        let ends = &*addr_of!((*s).ends);
        let key = pinhole::key_in(s, &ends.responder, &ends.initiator, ends.initiator_port, hook ^ 1);
        let Some(p) = PINHOLES.get_ptr_mut(key) else { return };
        let mut rearmed = false;
        let at = addr_of_mut!((*p).lock);
        lock(at);
        let st = addr_of_mut!((*p).state);
        let isn = view.ack.wrapping_sub(1);
        if (*st).bound == bound(isn, view.destination_port) && (*st).flags & pinhole_flag::REARMED == 0 {
            (*st).bound = 0;
            (*st).flags |= pinhole_flag::REARMED;
            rearmed = true;
        }
        unlock(at);
        if rearmed {
            count(Counter::Rearmed);
        }
    }
}

/// Fills the record of the connection whose tuple is in the working memory.
#[inline(always)]
fn describe(s: *mut Scratch, state: &FlowState, record_kind: u8) -> *mut FlowRecord {
    // SAFETY: `s` is this CPU's working memory.
    unsafe {
        let told = addr_of_mut!((*s).told);
        (*told).kind = record_kind;
        (*told).hook = state.hook;
        (*told).mode = state.mode;
        (*told).reset = 0;
        (*told).seq = state.seq;
        (*told).session = state.session;
        (*told).time = now();
        (*told).start = state.start;
        (*told).deadline = state.deadline;
        (*told).bytes = state.bytes;
        let tuple = &*addr_of!((*s).tuple);
        let key = addr_of_mut!((*told).key);
        if state.hook == HOOK_IN {
            (*key).initiator = tuple.outside;
            (*key).responder = tuple.inside;
            (*key).initiator_port = tuple.outside_port;
            (*key).responder_port = tuple.inside_port;
        } else {
            (*key).initiator = tuple.inside;
            (*key).responder = tuple.outside;
            (*key).initiator_port = tuple.inside_port;
            (*key).responder_port = tuple.outside_port;
        }
        (*told).pad = 0;
        told
    }
}

/// Whether a packet may pass although its record found no room.
#[inline(always)]
fn may_go_untold() -> bool {
    rules::policy().is_none_or(|p| p.mode == mode::OBSERVE || rules::is_stale(p))
}

#[inline(always)]
fn is_observing() -> bool {
    rules::policy().is_none_or(|p| p.mode == mode::OBSERVE)
}
