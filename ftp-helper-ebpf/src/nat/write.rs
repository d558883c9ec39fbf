//! Changing packets: ends, numbers, options and text of a TCP segment, with its checksums.
//!
//! The helpers keep what the device is to do about checksums as it is: where it is to complete the sum, they change the
//! pseudo-header's part of it only.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, BPF_F_PSEUDO_HDR},
    helpers::{
        bpf_csum_diff, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_change_tail, bpf_skb_load_bytes,
        bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use ftp_helper_common::{addr::Addr, canon::REWRITTEN_MAX};

use crate::{
    frame::load,
    packet::View,
    scratch::{Scratch, launder, sheet},
};

/// Where the checksum is in a header of TCP, of ICMP, and of IPv4.
const TCP_SUM: u32 = 16;
const ICMP_SUM: u32 = 2;
const IP_SUM: u32 = 10;
/// `BPF_F_IPV6` (Linux 6.16): nothing in the packet makes up for an IPv6 address, so that a sum over the whole packet stays.
const IPV6: u64 = 1 << 7;
const PSEUDO: u64 = BPF_F_PSEUDO_HDR as u64;

/// Puts the translation in the working memory in the place of the packet's source, or of its destination; whether it could.
/// The ends as they are stand in the working memory.
#[inline(always)]
pub fn end(ctx: &TcContext, view: &View, s: *mut Scratch, source: bool) -> bool {
    // SAFETY: `s` is this CPU's working memory.
    unsafe {
        let ends = addr_of!((*s).ends);
        let old = if source { addr_of!((*ends).initiator) } else { addr_of!((*ends).responder) };
        let old_port = if source { (*ends).initiator_port } else { (*ends).responder_port };
        let new = addr_of!((*s).translation.addr);
        let new_port = (*s).translation.port;
        if (*new).is_v4() == view.v6 {
            return false;
        }
        let sum = view.tcp + TCP_SUM;
        let done = if view.v6 {
            address_v6(ctx, view.l3, sum, &*old, &*new, source)
        } else {
            address_v4(ctx, view.l3, Some(sum), &*old, &*new, source)
        };
        done && (old_port == new_port || port(ctx, view, old_port, new_port, source))
    }
}

/// Puts the translation in the working memory in the place of the quoted packet's source, or of its destination, in an ICMP
/// error whose own header begins at `outer.tcp` and which ends at `end`, and makes its checksum right. `old` is the end as the
/// quotation has it.
#[inline(always)]
pub fn quotation(
    ctx: &TcContext,
    outer: &View,
    quoted: &View,
    end: u32,
    old: (&Addr, u16),
    new: (&Addr, u16),
    source: bool,
) -> bool {
    let skb = ctx.as_ptr().cast::<__sk_buff>();
    let sum = outer.tcp + ICMP_SUM;
    let at = quoted.tcp + TCP_SUM;
    // What stands for the checksum of the quoted segment, where the quotation goes so far.
    let was = if at + 2 <= end { load::<u16>(ctx, at) } else { None };
    // SAFETY: the helpers check the offsets; the values are read only.
    unsafe {
        if quoted.v6 {
            let change = difference(old.0, new.0);
            if change < 0
                || bpf_l4_csum_replace(skb, sum, 0, change as u64, 0) != 0
                || bpf_skb_store_bytes(skb.cast(), quoted.l3 + at_v6(source), core::ptr::from_ref(new.0).cast(), 16, 0)
                    != 0
                || (was.is_some() && bpf_l4_csum_replace(skb, at, 0, change as u64, 0) != 0)
            {
                return false;
            }
        } else {
            // The quoted IP header's own checksum makes up for the address: ICMP's does not change for it.
            let (o, n) = (old.0.words()[3], new.0.words()[3]);
            if !address_v4(ctx, quoted.l3, None, old.0, new.0, source)
                || (was.is_some() && bpf_l4_csum_replace(skb, at, o as u64, n as u64, 4) != 0)
            {
                return false;
            }
        }
        let (o, n) = (old.1.to_be(), new.1.to_be());
        if bpf_l4_csum_replace(skb, sum, o as u64, n as u64, 2) != 0
            || bpf_skb_store_bytes(skb.cast(), quoted.tcp + if source { 0 } else { 2 }, addr_of!(n).cast(), 2, 0) != 0
        {
            return false;
        }
        let Some(was) = was else { return true };
        if bpf_l4_csum_replace(skb, at, o as u64, n as u64, 2) != 0 {
            return false;
        }
        let Some(is) = load::<u16>(ctx, at) else { return false };
        bpf_l4_csum_replace(skb, sum, was as u64, is as u64, 2) == 0
    }
}

/// Replaces the source, or the destination, of an ICMP message.
#[inline(always)]
pub fn sender(ctx: &TcContext, outer: &View, old: &Addr, new: &Addr, source: bool) -> bool {
    if outer.v6 {
        address_v6(ctx, outer.l3, outer.tcp + ICMP_SUM, old, new, source)
    } else {
        // ICMP's checksum has no pseudo-header, ICMPv6's has one (RFC 4443 section 2.3).
        address_v4(ctx, outer.l3, None, old, new, source)
    }
}

/// Replaces a number of the TCP header, as it stands there `at` bytes in.
#[inline(always)]
pub fn number(ctx: &TcContext, view: &View, at: u32, old: u32, new: u32) -> bool {
    let (old, new) = (old.to_be(), new.to_be());
    let skb = ctx.as_ptr().cast::<__sk_buff>();
    // SAFETY: the helpers check the offsets; the value is read only.
    unsafe {
        bpf_l4_csum_replace(skb, view.tcp + TCP_SUM, old as u64, new as u64, 4) == 0
            && bpf_skb_store_bytes(skb.cast(), view.tcp + at, addr_of!(new).cast(), 4, 0) == 0
    }
}

/// Replaces the TCP options by those on the sheet, `n` bytes (a multiple of four, 40 at most); what they were lies 64 bytes
/// behind them.
#[inline(always)]
pub fn options(ctx: &TcContext, view: &View, s: *mut Scratch, n: u32) -> bool {
    let n = (launder(s, n - 1) & 63) + 1;
    let skb = ctx.as_ptr().cast::<__sk_buff>();
    // SAFETY: the sheet has room for twice 64 bytes; the helpers check the packet's offsets.
    unsafe {
        let new = sheet(s);
        let old = new.add(64);
        let change = bpf_csum_diff(old.cast(), n, new.cast(), n, 0);
        change >= 0
            && bpf_l4_csum_replace(skb, view.tcp + TCP_SUM, 0, change as u64, 0) == 0
            && bpf_skb_store_bytes(skb.cast(), view.tcp + 20, new.cast(), n, 0) == 0
    }
}

/// Replaces the payload, `old` bytes, by `new` bytes of the buffer; whether it could. The packet may be half changed if not:
/// it must not go on then.
#[inline(never)]
pub fn text(ctx: &TcContext, view: &View, s: *mut Scratch, old: u32, new: u32) -> u32 {
    let skb = ctx.as_ptr().cast::<__sk_buff>();
    let old_len = (launder(s, old - 1) & (TEXT_MAX - 1)) + 1;
    let new_len = (launder(s, new - 1) & (TEXT_MAX - 1)) + 1;
    // SAFETY: sheet and buffer have room for TEXT_MAX bytes and what fills up the last word; the helpers check the packet's
    // offsets.
    unsafe {
        let was = sheet(s);
        let is = addr_of_mut!((*s).buffer).cast::<u8>();
        if bpf_skb_load_bytes(skb.cast(), view.payload, was.cast(), old_len) != 0 {
            return 0;
        }
        fill_up(was, old_len);
        fill_up(is, new_len);
        let change = bpf_csum_diff(was.cast(), (old_len + 3) & !3, is.cast(), (new_len + 3) & !3, 0);
        if change < 0 {
            return 0;
        }
        if old_len != new_len && !resize(ctx, view, old_len, new_len) {
            return 0;
        }
        if bpf_skb_store_bytes(skb.cast(), view.payload, is.cast(), new_len, 0) != 0
            || bpf_l4_csum_replace(skb, view.tcp + TCP_SUM, 0, change as u64, 0) != 0
        {
            return 0;
        }
    }
    1
}

/// Bytes of a text that is replaced, at most.
const TEXT_MAX: u32 = 256;
const _: () = assert!(REWRITTEN_MAX <= TEXT_MAX);

/// The packet's payload becomes longer or shorter.
#[inline(always)]
fn resize(ctx: &TcContext, view: &View, old: u32, new: u32) -> bool {
    let skb = ctx.as_ptr().cast::<__sk_buff>();
    let headers = view.payload - view.l3;
    let tcp = view.payload - view.tcp;
    let be = |v: u32| (v as u16).to_be();
    // The IPv6 header's length does not count that header; IPv4's does.
    let (at, base) = if view.v6 { (view.l3 + 4, headers - 40) } else { (view.l3 + 2, headers) };
    let field = be(base + new);
    // SAFETY: the helpers check the offsets; the value is read only.
    unsafe {
        // What the stack fills up to the device's least length is no part of the packet.
        bpf_skb_change_tail(skb, view.payload + new, 0) == 0
            && (view.v6 || bpf_l3_csum_replace(skb, view.l3 + IP_SUM, be(base + old) as u64, field as u64, 2) == 0)
            && bpf_skb_store_bytes(skb.cast(), at, addr_of!(field).cast(), 2, 0) == 0
            && bpf_l4_csum_replace(skb, view.tcp + TCP_SUM, be(tcp + old) as u64, be(tcp + new) as u64, PSEUDO | 2) == 0
    }
}

/// `sum` is where the checksum lies that a pseudo-header with this address is part of.
#[inline(always)]
fn address_v4(ctx: &TcContext, l3: u32, sum: Option<u32>, old: &Addr, new: &Addr, source: bool) -> bool {
    let skb = ctx.as_ptr().cast::<__sk_buff>();
    let (o, n) = (old.words()[3], new.words()[3]);
    // SAFETY: the helpers check the offsets; the value is read only.
    unsafe {
        sum.is_none_or(|sum| bpf_l4_csum_replace(skb, sum, o as u64, n as u64, PSEUDO | 4) == 0)
            && bpf_l3_csum_replace(skb, l3 + IP_SUM, o as u64, n as u64, 4) == 0
            && bpf_skb_store_bytes(skb.cast(), l3 + at_v4(source), addr_of!(n).cast(), 4, 0) == 0
    }
}

#[inline(always)]
fn address_v6(ctx: &TcContext, l3: u32, sum: u32, old: &Addr, new: &Addr, source: bool) -> bool {
    let skb = ctx.as_ptr().cast::<__sk_buff>();
    let change = difference(old, new);
    // SAFETY: the address is 16 bytes long, read only; the helpers check the offsets.
    unsafe {
        change >= 0
            && (bpf_l4_csum_replace(skb, sum, 0, change as u64, PSEUDO | IPV6) == 0
                || bpf_l4_csum_replace(skb, sum, 0, change as u64, PSEUDO) == 0)
            && bpf_skb_store_bytes(skb.cast(), l3 + at_v6(source), core::ptr::from_ref(new).cast(), 16, 0) == 0
    }
}

/// Where the address of one end lies in an IP header.
#[inline(always)]
const fn at_v4(source: bool) -> u32 {
    if source { 12 } else { 16 }
}

#[inline(always)]
const fn at_v6(source: bool) -> u32 {
    if source { 8 } else { 24 }
}

/// What another address changes in a sum; negative where that can't be told.
#[inline(always)]
fn difference(old: &Addr, new: &Addr) -> i64 {
    let (old, new) = (core::ptr::from_ref(old).cast_mut().cast(), core::ptr::from_ref(new).cast_mut().cast());
    // SAFETY: both addresses are 16 bytes long, read only.
    unsafe { bpf_csum_diff(old, 16, new, 16, 0) }
}

#[inline(always)]
fn port(ctx: &TcContext, view: &View, old: u16, new: u16, source: bool) -> bool {
    let (old, new) = (old.to_be(), new.to_be());
    let skb = ctx.as_ptr().cast::<__sk_buff>();
    // SAFETY: the helpers check the offsets; the value is read only.
    unsafe {
        bpf_l4_csum_replace(skb, view.tcp + TCP_SUM, old as u64, new as u64, 2) == 0
            && bpf_skb_store_bytes(skb.cast(), view.tcp + if source { 0 } else { 2 }, addr_of!(new).cast(), 2, 0) == 0
    }
}

/// Zeros up to the end of the last word.
///
/// # Safety
/// Three bytes behind the `n` (256 at most) must be writable.
#[inline(always)]
unsafe fn fill_up(at: *mut u8, n: u32) {
    let mut i = 0;
    while i < 3 {
        // SAFETY: the caller's promise.
        unsafe { at.add((n & 511) as usize + i).write_volatile(0) };
        i += 1;
    }
}
