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
    packet::View,
    scratch::{Scratch, launder, sheet},
};

/// Where the checksum is in a TCP header, and in an IPv4 header.
const TCP_SUM: u32 = 16;
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
        let done = if view.v6 {
            address_v6(ctx, view, &*old, &*new, source)
        } else {
            address_v4(ctx, view, &*old, &*new, source)
        };
        done && (old_port == new_port || port(ctx, view, old_port, new_port, source))
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

#[inline(always)]
fn address_v4(ctx: &TcContext, view: &View, old: &Addr, new: &Addr, source: bool) -> bool {
    let skb = ctx.as_ptr().cast::<__sk_buff>();
    let (o, n) = (old.words()[3], new.words()[3]);
    let at = view.l3 + if source { 12 } else { 16 };
    // SAFETY: the helpers check the offsets; the value is read only.
    unsafe {
        bpf_l4_csum_replace(skb, view.tcp + TCP_SUM, o as u64, n as u64, PSEUDO | 4) == 0
            && bpf_l3_csum_replace(skb, view.l3 + IP_SUM, o as u64, n as u64, 4) == 0
            && bpf_skb_store_bytes(skb.cast(), at, addr_of!(n).cast(), 4, 0) == 0
    }
}

#[inline(always)]
fn address_v6(ctx: &TcContext, view: &View, old: &Addr, new: &Addr, source: bool) -> bool {
    let skb = ctx.as_ptr().cast::<__sk_buff>();
    let at = view.l3 + if source { 8 } else { 24 };
    // SAFETY: both addresses are 16 bytes long, read only; the helpers check the offsets.
    unsafe {
        let (old, new) = (core::ptr::from_ref(old).cast_mut().cast(), core::ptr::from_ref(new).cast_mut());
        let change = bpf_csum_diff(old, 16, new.cast(), 16, 0);
        if change < 0 {
            return false;
        }
        let sum = view.tcp + TCP_SUM;
        (bpf_l4_csum_replace(skb, sum, 0, change as u64, PSEUDO | IPV6) == 0
            || bpf_l4_csum_replace(skb, sum, 0, change as u64, PSEUDO) == 0)
            && bpf_skb_store_bytes(skb.cast(), at, new.cast(), 16, 0) == 0
    }
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
