//! ICMP errors about translated data connections (RFC 5508 section 4.2): what they quote is the packet as the side behind us
//! knows it, and the host that reports is not to be seen outside.
//!
//! Without this a path with a smaller MTU is a black hole: nobody would know the connection that "fragmentation needed" or
//! "packet too big" is about. A message is changed if it quotes exactly a learned five-tuple, and passes as it is otherwise.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::programs::TcContext;
use ftp_helper_common::{
    addr::Addr,
    counter::Counter,
    key::{HOOK_IN, HOOK_OUT},
};

use super::{is_over, put_mark, write};
use crate::{
    flow,
    frame::load,
    maps::{INWARD, OUTWARD},
    packet::{self, View},
    rules,
    scratch::{self, OF_HOOKS, Scratch},
    util::{copy, count},
};

/// Bytes of an ICMP header, before what an error quotes.
const HEADER: u32 = 8;
/// Destination unreachable, time exceeded, parameter problem (RFC 792).
const ERRORS_V4: [u8; 3] = [3, 11, 12];
/// Destination unreachable, packet too big, time exceeded, parameter problem (RFC 4443 section 2.1).
const LAST_ERROR_V6: u8 = 4;

/// An ICMP message, whole. One that can't be changed for want of memory passes half changed: with a checksum that is wrong, and
/// so nobody takes it.
#[inline(never)]
pub fn icmp(ctx: &TcContext, view: &View, hook: u8) {
    let Some(kind) = load::<u8>(ctx, view.tcp) else { return };
    let is_error = if view.v6 { kind >= 1 && kind <= LAST_ERROR_V6 } else { ERRORS_V4.contains(&kind) };
    if is_error && let Some(s) = scratch::scratch(OF_HOOKS) {
        error(ctx, view, s, hook);
    }
}

#[inline(always)]
fn error(ctx: &TcContext, view: &View, s: *mut Scratch, hook: u8) {
    let mut quoted = View::place();
    // SAFETY: integers and booleans, all of which `quoted` sets.
    let quoted = unsafe { &mut *quoted.as_mut_ptr() };
    if !packet::quoted(ctx, quoted, view.tcp + HEADER, view.v6) || !quoted.ends(ctx, s) {
        return;
    }
    // What arrives speaks of a packet that left, as it was outside; what leaves of one that arrived, as it is inside.
    let source = hook == HOOK_IN;
    let found =
        if source { INWARD.get_ptr(flow::tuple_in(s, HOOK_OUT)) } else { OUTWARD.get_ptr(flow::tuple_in(s, HOOK_IN)) };
    let Some(t) = found else { return };
    // SAFETY: a live value of the table; `s` is this CPU's working memory.
    unsafe {
        if is_over(t) {
            return;
        }
        copy(t, addr_of_mut!((*s).translation));
        let new = &*addr_of!((*s).translation);
        let ends = &*addr_of!((*s).ends);
        let old = if source { (&ends.initiator, ends.initiator_port) } else { (&ends.responder, ends.responder_port) };
        let Some(end) = end_of(ctx, view) else { return };
        let Some(other) = other_end(ctx, view, hook) else { return };
        // It goes to whoever sent what it quotes. Who reports is not known outside by an inside address, nor is a router.
        if (source && other != *old.0)
            || new.addr.is_v4() == view.v6
            || !write::quotation(ctx, view, quoted, end, old, (&new.addr, new.port), source)
        {
            return;
        }
        if other != new.addr && !write::sender(ctx, view, &other, &new.addr, !source) {
            return;
        }
    }
    if source && let Some(policy) = rules::policy() {
        put_mark(ctx, policy);
    }
    count(Counter::TranslatedIcmp);
}

/// Where an ICMP message ends, by its IP header.
#[inline(always)]
fn end_of(ctx: &TcContext, view: &View) -> Option<u32> {
    let at = if view.v6 { view.l3 + 4 } else { view.l3 + 2 };
    let length = u16::from_be(load::<u16>(ctx, at)?) as u32;
    Some(view.l3 + length + if view.v6 { 40 } else { 0 })
}

/// The address of an ICMP message that is to be replaced: where it goes to if it arrives, where it comes from if it leaves.
#[inline(always)]
fn other_end(ctx: &TcContext, view: &View, hook: u8) -> Option<Addr> {
    let first = hook == HOOK_OUT;
    if view.v6 {
        return load::<Addr>(ctx, view.l3 + if first { 8 } else { 24 });
    }
    let octets = load::<[u8; 4]>(ctx, view.l3 + if first { 12 } else { 16 })?;
    Some(Addr::v4(octets))
}
