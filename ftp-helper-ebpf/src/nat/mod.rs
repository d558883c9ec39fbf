//! Address translation, where `[nat]` is configured: beside the kernel's own, which knows nothing of FTP.
//!
//! Everything else here speaks of connections as they are outside. What leaves gets its outside form before it is judged
//! ([`outward`]), what arrives gets its inside form afterwards ([`inward`]); `control` does the same for control
//! connections and for what they announce. A data connection is translated from the SYN on that a pinhole lets through, by
//! its exact five-tuple, and no longer than it lives.

pub mod control;
mod icmp;
mod write;

pub use self::icmp::icmp;

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::programs::TcContext;
use ftp_helper_common::{
    command::{Command, Outcome},
    counter::Counter,
    key::{HOOK_IN, HOOK_OUT, SessionKey, TupleKey},
    nat::{Alias, Translation},
    policy::{KernelPolicy, mode},
    reason::Reason,
    state::{PinholeState, pending},
    tcp,
};

use crate::{
    flow,
    maps::{ALIASES, INWARD, NAT, OUTWARD, PINHOLES},
    packet::View,
    programs::{DROP, PASS},
    rules,
    scratch::{self, OF_HOOKS, Scratch},
    util::{copy, count, count_reason, lock, now, unlock},
};

/// How long the end of a data connection may take on the wire, nanoseconds: the last ACK, and what is sent again.
const LINGER: u64 = 10_000_000_000;
const ANY: u64 = 0;

/// Whether addresses are translated at all.
#[inline(always)]
pub fn is_on() -> bool {
    NAT.load() != 0
}

/// A leaving packet of a translated data connection seems to come from the public end. The verdict on it; `PASS` is not final.
#[inline(never)]
pub fn outward(ctx: &TcContext, view: &mut View) -> i32 {
    let Some(s) = scratch::scratch(OF_HOOKS) else { return PASS };
    if !view.ends(ctx, s) {
        return PASS;
    }
    let tuple = flow::tuple_in(s, HOOK_OUT);
    let Some(t) = OUTWARD.get_ptr(tuple) else {
        if view.flags & (tcp::SYN | tcp::ACK) == tcp::SYN {
            give_way(tuple);
        }
        return PASS;
    };
    // SAFETY: a live value of the table; `s` is this CPU's working memory.
    unsafe {
        if is_over(t) {
            return PASS;
        }
        copy(t, addr_of_mut!((*s).translation));
    }
    if view.fragment {
        return fragment();
    }
    if write::end(ctx, view, s, true) {
        // SAFETY: as above.
        view.source_port = unsafe { (*s).translation.port };
    }
    PASS
}

/// The first fragment of a translated connection's packet. The others bear no ports by which they could be told, and so the
/// whole can't be translated: none of it is to arrive by halves.
#[inline(always)]
fn fragment() -> i32 {
    count_reason(Reason::FragmentTranslated);
    match rules::policy() {
        Some(policy) if policy.mode != mode::OBSERVE => DROP,
        _ => PASS,
    }
}

/// An arriving packet of a translated data connection goes on to the inside end. The verdict on it.
#[inline(never)]
pub fn inward(ctx: &TcContext, view: &View, policy: &KernelPolicy) -> i32 {
    let Some(s) = scratch::scratch(OF_HOOKS) else { return PASS };
    if !view.ends(ctx, s) {
        return PASS;
    }
    let Some(t) = INWARD.get_ptr(flow::tuple_in(s, HOOK_IN)) else { return PASS };
    // SAFETY: a live value of the table; `s` is this CPU's working memory.
    unsafe {
        if is_over(t) {
            return PASS;
        }
        copy(t, addr_of_mut!((*s).translation));
    }
    if view.fragment {
        return fragment();
    }
    if write::end(ctx, view, s, false) {
        put_mark(ctx, policy);
    }
    PASS
}

/// To the ruleset it is a new connection that nobody has translated: the mark says who has let it in.
#[inline(always)]
fn put_mark(ctx: &TcContext, policy: &KernelPolicy) {
    // SAFETY: the context is readable.
    let mark = unsafe { (*ctx.skb.skb).mark };
    ctx.set_mark(mark & !policy.mark_mask | policy.mark_value);
}

/// A SYN goes through this pinhole, and its ends are in the working memory: from now on its connection is translated, if its
/// responder is. Whether there was room.
#[inline(always)]
pub fn learn(pin: &PinholeState) -> bool {
    pin.inside_port == 0 || ftp_learn() != 0
}

/// A global function, which the verifier looks at once. The pinhole's key is in the working memory.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ftp_learn() -> u32 {
    let Some(s) = scratch::scratch(OF_HOOKS) else { return 0 };
    // SAFETY: `s` is this CPU's working memory; live values of the tables.
    unsafe {
        let Some(p) = PINHOLES.get_ptr(&*addr_of!((*s).pin)) else { return 0 };
        let pin = &(*p).state;
        let tuple = flow::tuple_in(s, HOOK_IN);
        let key = addr_of_mut!((*s).key);
        let passive = pin.mode == pending::PASV || pin.mode == pending::EPSV;
        (*key).client = if passive { tuple.outside } else { tuple.inside };
        (*key).server = if passive { tuple.inside } else { tuple.outside };
        (*key).client_port = pin.control[0];
        (*key).server_port = pin.control[1];
        let Some(a) = ALIASES.get_ptr(&*key) else { return 0 };
        let inside = addr_of_mut!((*s).inside);
        (*inside).outside = tuple.outside;
        (*inside).outside_port = tuple.outside_port;
        (*inside).inside = (*a).state.addr;
        (*inside).inside_port = pin.inside_port;
        let t = addr_of_mut!((*s).translation);
        (*t).until = pin.deadline;
        (*t).pad = [0; 3];
        (*t).addr = tuple.inside;
        (*t).port = tuple.inside_port;
        if let Some(old) = OUTWARD.get_ptr(&*inside)
            && !is_over(old)
            && ((*old).addr != tuple.inside || (*old).port != tuple.inside_port)
        {
            // Two public ends of one connection would get each other's packets.
            return 0;
        }
        if OUTWARD.insert(&*inside, &*t, ANY).is_err() {
            return 0;
        }
        (*t).addr = (*inside).inside;
        (*t).port = pin.inside_port;
        if INWARD.insert(tuple, &*t, ANY).is_err() {
            let _ = OUTWARD.remove(&*inside);
            return 0;
        }
    }
    1
}

/// The responder has answered: the translation lives as long as its connection.
#[inline(never)]
pub fn live(s: *mut Scratch) {
    if until(s, 0) {
        count(Counter::Translated);
    }
}

/// The connection is over, and its last packets are still on their way.
#[inline(never)]
pub fn end(s: *mut Scratch) {
    until(s, now().wrapping_add(LINGER));
}

/// The port of the inside end of the connection whose tuple is in the working memory; 0 where nothing is translated.
#[inline(always)]
pub fn inside_port_of(s: *mut Scratch) -> u16 {
    // SAFETY: `s` is this CPU's working memory; a live value of the table.
    unsafe { INWARD.get_ptr(&*addr_of!((*s).tuple)).map_or(0, |t| (*t).port) }
}

/// The port behind the public one of a session's announcement; 0 where nothing is translated.
#[inline(never)]
pub fn inside_port(key: &SessionKey, session: u64, public: u32) -> u32 {
    let Some(a) = ALIASES.get_ptr_mut(key) else { return 0 };
    // SAFETY: a live value of the table, changed under its lock only.
    unsafe {
        let at = addr_of_mut!((*a).lock);
        lock(at);
        let (owner, last) = ((*a).state.session, (*a).state.last);
        unlock(at);
        let alias = Alias { last, addr: (*a).state.addr, ..Alias::default() };
        if owner != session || !alias.is_translated() { 0 } else { alias.inside_port(public as u16) as u32 }
    }
}

/// Removes a translation whose time is over. For the command program.
#[inline(never)]
pub fn forget(c: &Command) -> u32 {
    let tuple = c.flow.to_tuple(HOOK_IN);
    let inward = c.mode == HOOK_IN;
    let t = if inward { INWARD.get_ptr(&tuple) } else { OUTWARD.get_ptr(&tuple) };
    let Some(t) = t else { return Outcome::NoPinhole as u32 };
    // SAFETY: a live value of the table.
    if !unsafe { is_over(t) } {
        return Outcome::Busy as u32;
    }
    let removed = if inward { INWARD.remove(&tuple) } else { OUTWARD.remove(&tuple) };
    if removed.is_err() { Outcome::NoPinhole as u32 } else { Outcome::Done as u32 }
}

/// A connection that is over lingers here, and the kernel's own translation gives its public end to another: that one is
/// whose packets arrive from now on.
#[inline(always)]
fn give_way(tuple: &TupleKey) {
    let Some(t) = INWARD.get_ptr(tuple) else { return };
    // SAFETY: a live value of the table.
    if unsafe { (*t).until } != 0 {
        let _ = INWARD.remove(tuple);
    }
}

/// Sets until when the translation counts of the connection whose tuple is in the working memory; whether there is one.
#[inline(always)]
fn until(s: *mut Scratch, until: u64) -> bool {
    // SAFETY: `s` is this CPU's working memory; live values of the tables, of which one word is replaced.
    unsafe {
        let tuple = &*addr_of!((*s).tuple);
        let Some(t) = INWARD.get_ptr_mut(tuple) else { return false };
        let inside = addr_of_mut!((*s).inside);
        (*inside).outside = tuple.outside;
        (*inside).outside_port = tuple.outside_port;
        (*inside).inside = (*t).addr;
        (*inside).inside_port = (*t).port;
        addr_of_mut!((*t).until).write_volatile(until);
        if let Some(back) = OUTWARD.get_ptr_mut(&*inside) {
            addr_of_mut!((*back).until).write_volatile(until);
        }
    }
    true
}

/// # Safety
/// `t` must be a live value of a table.
#[inline(always)]
unsafe fn is_over(t: *const Translation) -> bool {
    // SAFETY: the caller's promise.
    let until = unsafe { addr_of!((*t).until).read_volatile() };
    until != 0 && until <= now()
}
