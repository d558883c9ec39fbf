//! How a session begins: the handshake of a control connection, and those that were seen without one.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::{
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
    programs::TcContext,
};
use aya_log_ebpf::debug;
use ftp_helper_common::{
    counter::Counter,
    key::{CLIENT, SessionKey},
    policy::{KernelPolicy, mode},
    reason::Reason,
    record::kind,
    state::{HalfOpen, flag, pending},
    tcp,
};

use crate::{
    maps::{ALIASES, HALF_OPEN, MIDSTREAM, SESSIONS, SessionSlot},
    nat,
    packet::View,
    pinhole,
    programs::{DROP, PASS},
    range, record, rules,
    scratch::Scratch,
    util::{count, count_reason, now, zero},
};

const ANY: u64 = 0;
const NO_EXIST: u64 = 1;

/// SYN and SYN-ACK.
#[inline(always)]
pub(super) fn handshake(ctx: &TcContext, view: &View, side: u8, hook: u8, key: &SessionKey) -> i32 {
    let answer = view.flags & tcp::ACK != 0;
    if view.flags & (tcp::RST | tcp::FIN) != 0 || answer == (side == CLIENT) {
        return PASS;
    }
    if !answer {
        // Data in a SYN would reach the server before any session exists: such a connection is not followed.
        if view.len != 0 {
            let half = HalfOpen { data_in_syn: 1, client_hook: hook, ..HalfOpen::default() };
            let _ = HALF_OPEN.insert(key, &half, ANY);
        }
        return PASS;
    }
    if let Some(live) = SESSIONS.get_ptr(key) {
        // SAFETY: a live value of the table; one word.
        if unsafe { (*live).state.flags } & flag::CLOSING == 0 {
            return PASS;
        }
    }
    let data_in_syn = match HALF_OPEN.get_ptr(key) {
        // SAFETY: a value of the table; one byte.
        Some(half) => unsafe { (*half).data_in_syn },
        None => 0,
    };
    let half = HalfOpen {
        start: [view.ack, view.seq.wrapping_add(1)],
        client_hook: hook ^ 1,
        data_in_syn,
        pad: [0; 2],
        ifindex: record::ifindex(ctx),
    };
    // The table makes room by itself; a handshake that falls out of it is picked up as midstream, and opens nothing.
    let _ = HALF_OPEN.insert(key, &half, ANY);
    count(Counter::HalfOpen);
    PASS
}

/// The client's first segment after the SYN-ACK: the session begins.
#[inline(never)]
pub(super) fn begin(ctx: &TcContext, view: &View, hook: u8, s: *mut Scratch, policy: &KernelPolicy) -> i32 {
    // SAFETY: `s` is this CPU's working memory.
    let key = unsafe { &*addr_of!((*s).key) };
    let Some(half) = HALF_OPEN.get_ptr(key) else { return PASS };
    // SAFETY: a value of the table; entries are replaced whole by the same handshake only.
    let half = unsafe { *half };
    if view.flags & (tcp::ACK | tcp::RST) != tcp::ACK
        || view.seq != half.start[0]
        || view.ack != half.start[1]
        || half.client_hook != hook
    {
        return PASS;
    }
    let _ = HALF_OPEN.remove(key);
    if let Some(old) = SESSIONS.get_ptr_mut(key) {
        // SAFETY: a live value of the table; the key of its pinhole changes only with its version.
        let (pin, id, flags, its_hook) =
            unsafe { ((*old).state.pinhole, (*old).state.id, (*old).state.flags, (*old).state.client_hook) };
        if flags & flag::CLOSING == 0 {
            return PASS;
        }
        if flags & flag::RANGE != 0 {
            range::release(&range::key(key, its_hook));
        }
        pinhole::revoke(&pin, id);
        let _ = SESSIONS.remove(key);
        if nat::is_on() {
            let _ = ALIASES.remove(key);
        }
    }
    // SAFETY: as above; the helpers take no arguments.
    unsafe {
        let time = bpf_ktime_get_ns();
        let n = addr_of_mut!((*s).state);
        zero(n);
        // A CPU begins no two sessions within a microsecond.
        (*n).id = time & !0x3ff | (bpf_get_smp_processor_id() as u64 & 0x3ff);
        (*n).last = now();
        (*n).start = half.start;
        (*n).next = half.start;
        (*n).command_end = half.start[0];
        (*n).unanswered = 1;
        (*n).pending = pending::GREETING;
        (*n).client_hook = hook;
        (*n).ifindex = [record::ifindex(ctx), half.ifindex];
    }
    record::describe(s, ctx, view, CLIENT, hook, kind::SESSION);
    // SAFETY: as above. A segment that carries data gets a record of its own.
    unsafe { (*s).record.segment_len = 0 };
    if half.data_in_syn != 0 {
        record::stray(s, Reason::DataInSyn as u16);
        let _ = MIDSTREAM.insert(key, &0, ANY);
        return PASS;
    }
    // SAFETY: as above.
    let slot = unsafe {
        (*s).state_lock = [0; 2];
        &*addr_of!((*s).state).cast::<SessionSlot>()
    };
    if SESSIONS.insert(key, slot, NO_EXIST).is_err() {
        record::stray(s, Reason::SessionsFull as u16);
        let _ = MIDSTREAM.insert(key, &0, ANY);
        return PASS;
    }
    if !record::segment(ctx, s, &View { len: 0, ..*view }, 0, false) {
        let unseen = if rules::is_stale(policy) {
            flag::UNRECORDED
        } else if policy.mode == mode::OBSERVE {
            count_reason(Reason::Unrecorded);
            flag::LOST
        } else {
            // The server sends its SYN-ACK again, and the client acknowledges again.
            let _ = SESSIONS.remove(key);
            let _ = HALF_OPEN.insert(key, &half, ANY);
            count_reason(Reason::RingFull);
            return DROP;
        };
        if let Some(p) = SESSIONS.get_ptr_mut(key) {
            // SAFETY: the entry that was just made; nobody else knows it yet.
            unsafe { (*p).state.flags |= unseen };
        }
    }
    count(Counter::Sessions);
    // SAFETY: as above.
    debug!(ctx, "session {:x} begins", unsafe { (*s).state.id });
    PASS
}

/// A control connection that was there before we were, or found no room.
#[inline(never)]
pub(super) fn midstream(ctx: &TcContext, view: &View, side: u8, hook: u8, s: *mut Scratch) -> i32 {
    // SAFETY: `s` is this CPU's working memory.
    let key = unsafe { &*addr_of!((*s).key) };
    // The last segments of a session that is gone are no news.
    if view.len == 0 || MIDSTREAM.insert(key, &0, NO_EXIST).is_err() {
        return PASS;
    }
    // SAFETY: as above.
    unsafe { (*s).state.id = 0 };
    record::describe(s, ctx, view, side, hook, kind::STRAY);
    record::stray(s, Reason::Midstream as u16);
    PASS
}
