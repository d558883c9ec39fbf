//! Whether a control segment is what its sender sent.
//!
//! Its receiver throws a segment with a wrong checksum away: whoever could make us read one would have told us what the
//! other end never hears (A54). Looked at are segments that are read, and where the device has not done it already.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_csum_level, bpf_skb_load_bytes},
    programs::TcContext,
};
use ftp_helper_common::{canon::Text as _, record::CHUNK};

use crate::{
    packet::View,
    scratch::{self, BUFFER, InScratch, OF_HOOKS, Scratch, launder},
};

/// `BPF_CSUM_LEVEL_QUERY`: not negative where the device has verified.
const QUERY: u64 = 0;
/// Where headers go, behind any payload; and how many words they are at most.
const HEADERS: u32 = 3072;
const HEADER_WORDS: u32 = 30;
const TCP: u64 = 6;

/// 1 if the checksums of the segment in hand hold; `n` bytes of payload are in the buffer. The sum of the pseudo-header
/// alone holds too: a device is to complete it, after us. A segment of several records is taken as it is: only what the
/// stack has put together and verified is so long, or what an MTU above 2 KiB brings, and the fast path opens nothing by it.
#[inline(never)]
pub fn holds(ctx: &TcContext, s: *mut Scratch, view: &View, n: u32) -> u32 {
    // SAFETY: the helper only reads the packet's state.
    if view.len > CHUNK as u32 || unsafe { bpf_csum_level(ctx.as_ptr().cast(), QUERY) } >= 0 {
        return 1;
    }
    let from = if view.v6 { view.tcp } else { view.l3 };
    // 1..=128, which kernels before 6.8 see only in this form.
    let (ip, all) = (view.tcp - from, (launder(s, view.payload - from - 1) & 127) + 1);
    // SAFETY: the buffer in this CPU's working memory has room for 128 bytes there.
    let read = unsafe {
        let to = addr_of_mut!((*s).buffer).cast::<u8>().add(HEADERS as usize);
        bpf_skb_load_bytes(ctx.as_ptr(), from, to.cast(), all) == 0
    };
    if !read || view.payload - from > 127 {
        return 0;
    }
    if !view.v6 && fold(ftp_sum_header(0, ip)) != 0xffff {
        return 0;
    }
    let pseudo = pseudo(s, view);
    let at = HEADERS + ip + 16;
    let field = InScratch(s).at(at) as u32 | (InScratch(s).at(at + 1) as u32) << 8;
    if fold(pseudo) == field || fold(add(add(pseudo, ftp_sum_header(ip, all)), ftp_sum_payload(n))) == 0xffff {
        1
    } else {
        0
    }
}

/// The sum of the pseudo-header (RFC 9293 section 3.1). An IPv4 address lies there mapped, and the 0xffff in that changes
/// no such sum.
#[inline(always)]
fn pseudo(s: *mut Scratch, view: &View) -> u64 {
    let length = view.len + (view.payload - view.tcp);
    let mut total = (TCP << 8) + (length as u16).swap_bytes() as u64;
    let mut i = 0;
    while i < 8 {
        // SAFETY: `s` is this CPU's working memory; the two addresses are its first 32 bytes.
        total += unsafe { addr_of!((*s).ends).cast::<u32>().add(i).read() } as u64;
        i += 1;
    }
    total
}

/// Sums up the headers in the buffer between two positions, multiples of four. A global function, which the verifier looks
/// at once, as the next one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ftp_sum_header(from: u32, to: u32) -> u64 {
    let Some(s) = scratch::scratch(OF_HOOKS) else { return 0 };
    let mut total = 0;
    let mut i = 0;
    while i < HEADER_WORDS {
        let at = from + i * 4;
        if at >= to {
            break;
        }
        // SAFETY: the mask keeps the position inside the buffer of this CPU's working memory.
        let word = unsafe {
            let at = (HEADERS + at) & (BUFFER as u32 - 4);
            addr_of!((*s).buffer).cast::<u8>().add(at as usize).cast::<u32>().read()
        };
        total += word as u64;
        i += 1;
    }
    total
}

/// Sums up `n` bytes of payload in the buffer.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ftp_sum_payload(n: u32) -> u64 {
    let Some(s) = scratch::scratch(OF_HOOKS) else { return 0 };
    let text = InScratch(s);
    let mut total = 0;
    let mut i = 0;
    while i < CHUNK as u32 / 8 {
        if (i + 1) * 8 > n {
            break;
        }
        total = add(total, text.word(i));
        i += 1;
    }
    // What is left of a word is filled up with zeros.
    let left = n & 7;
    if left == 0 { total } else { add(total, text.word(n >> 3) & ((1 << (left * 8)) - 1)) }
}

/// Adds with the carry brought round (RFC 1071: the order of bytes does not matter, nor how many are added at once).
#[inline(always)]
fn add(a: u64, b: u64) -> u64 {
    let sum = a.wrapping_add(b);
    sum.wrapping_add((sum < a) as u64)
}

/// Folds a sum to 16 bits.
#[inline(always)]
fn fold(sum: u64) -> u32 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u32
}
