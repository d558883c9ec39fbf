//! Control connections: every segment, and what is made of it.

mod commit;
mod handshake;

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::programs::TcContext;
use ftp_helper_common::{
    canon::{self, Made, SEGMENT_MAX, bit},
    command::Outcome,
    counter::Counter,
    key::{CLIENT, HOOK_IN, HOOK_OUT, SessionKey},
    policy::{KernelPolicy, mode, policy_flag},
    reason::Reason,
    record::kind,
    state::{PinholeState, flag, pending, pinhole_flag},
    tcp,
};

use self::{
    commit::{UNREAD, finish},
    handshake::{begin, handshake, midstream},
};
use crate::{
    checksum,
    maps::{HALF_OPEN, SESSIONS, SessionSlot},
    nat,
    packet::View,
    pinhole,
    programs::{DROP, PASS},
    record,
    rules::{self, InTables},
    scratch::{self, InScratch, OF_HOOKS, Scratch},
    util::{copy, count, count_reason, lock, now, unlock},
};

/// A packet between two control ports.
#[inline(always)]
pub fn ambiguous() -> i32 {
    count_reason(Reason::BothControlPorts);
    PASS
}

/// A packet of a control connection, sent by `side`.
#[inline(never)]
pub fn watch(ctx: &TcContext, view: &View, side: u8, hook: u8) -> i32 {
    let (Some(policy), Some(s)) = (rules::policy(), scratch::scratch(OF_HOOKS)) else { return PASS };
    if hook == HOOK_OUT && rules::came_from_outside(ctx) {
        return PASS;
    }
    if !view.ends(ctx, s) {
        return PASS;
    }
    // SAFETY: `s` is this CPU's working memory, here and below.
    let key = unsafe {
        let ends = &*addr_of!((*s).ends);
        let k = addr_of_mut!((*s).key);
        if side == CLIENT {
            (*k).client = ends.initiator;
            (*k).server = ends.responder;
            (*k).client_port = ends.initiator_port;
            (*k).server_port = ends.responder_port;
        } else {
            (*k).client = ends.responder;
            (*k).server = ends.initiator;
            (*k).client_port = ends.responder_port;
            (*k).server_port = ends.initiator_port;
        }
        &*k
    };
    if !nat::is_on() {
        return follow(ctx, view, side, hook, s, policy, key);
    }
    // As it is outside. SAFETY: as above.
    let seen = unsafe {
        copy(view, addr_of_mut!((*s).seen));
        &mut *addr_of_mut!((*s).seen)
    };
    nat::control::begin(s, seen, hook);
    match follow(ctx, seen, side, hook, s, policy, key) {
        PASS => nat::control::send_on(ctx, view, s, hook),
        verdict => verdict,
    }
}

/// A packet of a control connection, as it is outside.
#[inline(always)]
fn follow(
    ctx: &TcContext,
    view: &View,
    side: u8,
    hook: u8,
    s: *mut Scratch,
    policy: &KernelPolicy,
    key: &SessionKey,
) -> i32 {
    if view.flags & tcp::SYN != 0 {
        return handshake(ctx, view, side, hook, key);
    }
    let bare_ack = view.len == 0 && view.flags & (tcp::FIN | tcp::RST) == 0;
    if bare_ack {
        if side == CLIENT && HALF_OPEN.get_ptr(key).is_some() {
            return begin(ctx, view, hook, s, policy);
        }
        return PASS;
    }
    let mut slot = SESSIONS.get_ptr_mut(key);
    if slot.is_none() && side == CLIENT && HALF_OPEN.get_ptr(key).is_some() {
        let verdict = begin(ctx, view, hook, s, policy);
        if verdict != PASS {
            return verdict;
        }
        slot = SESSIONS.get_ptr_mut(key);
    }
    let Some(slot) = slot else { return midstream(ctx, view, side, hook, s) };
    followed(ctx, view, side, hook, s, policy, slot)
}

/// A segment of a session.
#[inline(always)]
fn followed(
    ctx: &TcContext,
    view: &View,
    side: u8,
    hook: u8,
    s: *mut Scratch,
    policy: &KernelPolicy,
    slot: *mut SessionSlot,
) -> i32 {
    // SAFETY: `slot` is a live value of the table, `s` this CPU's working memory.
    unsafe {
        let at = addr_of_mut!((*slot).lock);
        lock(at);
        copy(addr_of!((*slot).state), addr_of_mut!((*s).state));
        unlock(at);
        (*s).segment = canon::Segment {
            side,
            flags: view.flags,
            fragment: view.fragment,
            seq: view.seq,
            ack: view.ack,
            len: view.len,
        };
    }
    record::describe(s, ctx, view, side, hook, kind::SEGMENT);
    // SAFETY: as above.
    let (flags, client_hook) = unsafe { ((*s).state.flags, (*s).state.client_hook) };
    let wrong = if hook != client_hook ^ side {
        Reason::WrongHook
    } else if flags & flag::KILLED != 0 {
        Reason::Killed
    } else if view.fragment {
        Reason::Fragment
    } else {
        let unread = flags & (flag::OPAQUE | flag::TAINTED | flag::LOST) != 0;
        let n = if view.len != 0 && !unread { record::load_payload(ctx, s, view) } else { 0 };
        if view.len != 0 && !unread && n == 0 {
            Reason::UnreadableHeaders
        } else if !unread && checksum::holds(ctx, s, view, n) == 0 {
            Reason::BadChecksum
        } else {
            count(Counter::Control);
            let n = if nat::is_on() && hook == HOOK_OUT && n != 0 { nat::control::rewrite(side, n) } else { n };
            if n == nat::control::UNKNOWN {
                count_reason(Reason::InsideUnknown);
                count(Counter::ControlDropped);
                return DROP;
            }
            // What was rewritten is judged as it goes on. SAFETY: as above.
            let view = if nat::is_on() { unsafe { &*addr_of!((*s).seen) } } else { view };
            let made = consider(s, policy);
            record::set_made(s, Made(made));
            return finish(ctx, view, s, slot, n | if unread { UNREAD } else { 0 });
        }
    };
    record::stray(s, wrong as u16);
    if policy.mode == mode::OBSERVE {
        return PASS;
    }
    count(Counter::ControlDropped);
    DROP
}

/// Judges the segment in the working memory, and opens what it announces.
#[inline(always)]
fn consider(s: *mut Scratch, policy: &KernelPolicy) -> u64 {
    let made = Made(ftp_judge());
    if !made.has(bit::OPEN) {
        return made.0;
    }
    let why = if rules::is_closed(policy) {
        Reason::DaemonLoss
    } else if open(s, policy, made.0) != Outcome::Done as u32 {
        Reason::LeftToDaemon
    } else {
        return made.0;
    };
    made.0 & (bit::FIN | bit::RESET | bit::REVOKE) | Made::blind(why).0
}

/// Judges the segment in the working memory: a [`Made`]. A global function, which the verifier looks at once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ftp_judge() -> u64 {
    let (Some(policy), Some(s)) = (rules::policy(), scratch::scratch(OF_HOOKS)) else { return 0 };
    // SAFETY: `s` is this CPU's working memory; the reader writes only its slots.
    unsafe {
        let j = canon::judge(
            InScratch(s),
            &*addr_of!((*s).segment),
            &*addr_of!((*s).key),
            &*addr_of!((*s).state),
            policy,
            InTables(policy, s),
        );
        (*s).hash = j.hash;
        j.made.0
    }
}

/// Opens the pinhole of an announcement; 0 or an [`Outcome`].
#[inline(never)]
fn open(s: *mut Scratch, policy: &KernelPolicy, made: u64) -> u32 {
    let made = Made(made);
    // SAFETY: `s` is this CPU's working memory.
    unsafe {
        let mode = canon::opened_kind(&*addr_of!((*s).state), made);
        let active = mode == pending::PORT || mode == pending::EPRT;
        let source_20 = active && policy.flags & policy_flag::SOURCE_20 != 0;
        let key = canon::pinhole_key(&*addr_of!((*s).key), (*s).state.client_hook, mode, made.port());
        // The stack of this way is used up.
        let hole = addr_of_mut!((*s).hole);
        *hole = PinholeState {
            session: (*s).state.id,
            deadline: now().wrapping_add(policy.timeout),
            seq: (*s).segment.seq,
            mode,
            flags: if source_20 { pinhole_flag::SOURCE_20 } else { 0 },
            control: [(*s).key.client_port, (*s).key.server_port],
            inside_port: if nat::is_on() && key.hook == HOOK_IN {
                nat::inside_port(&*addr_of!((*s).key), (*s).state.id, made.port() as u32) as u16
            } else {
                0
            },
            ..PinholeState::default()
        };
        if active {
            (*s).record.endpoint = (*s).key.client;
        }
        // Kept beside the snapshot: `commit` makes it the session's.
        (*s).opened = key;
        // What it replaces goes when the segment is committed.
        pinhole::open(&*addr_of!((*s).opened), &*hole.cast(), policy.per_client, &*addr_of!((*s).state.pinhole))
    }
}

const _: () = assert!(SEGMENT_MAX as usize == ftp_helper_common::record::CHUNK && (Outcome::Done as u32) == 0);
