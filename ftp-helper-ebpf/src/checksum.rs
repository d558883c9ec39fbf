//! Whether a control segment is what its sender sent.
//!
//! Its receiver throws a segment with a wrong checksum away: whoever could make us read one would have told us what the
//! other end never hears (A54). Looked at are segments that are read, and where the device has not done it already.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_csum_diff, bpf_csum_level, bpf_skb_load_bytes},
    programs::TcContext,
};
use ftp_helper_common::record::CHUNK;

use crate::{
    packet::View,
    scratch::{self, BUFFER, OF_HOOKS, Scratch, launder},
};

/// `BPF_CSUM_LEVEL_QUERY`: not negative where the device has verified.
const QUERY: u64 = 0;
/// Where headers go, behind any payload.
const HEADERS: usize = 3072;
/// What the kernels before 6.13 sum up at once.
const PIECE: u32 = 512;
/// Pieces of the longest payload.
const PIECES: u32 = CHUNK as u32 / PIECE;
const TCP: u32 = 6;

/// 1 if the checksums of the segment in hand hold; `n` bytes of payload are in the buffer. The sum of the pseudo-header
/// alone holds too: a device is to complete it, after us. A segment of several records is taken as it is: only what the
/// stack has put together and verified is so long, or what an MTU above 2 KiB brings, and the fast path opens nothing by it.
#[inline(never)]
pub fn holds(ctx: &TcContext, s: *mut Scratch, view: &View, n: u32) -> u32 {
    // SAFETY: the helper only reads the packet's state.
    if view.len > CHUNK as u32 || unsafe { bpf_csum_level(ctx.as_ptr().cast(), QUERY) } >= 0 {
        return 1;
    }
    // SAFETY: `s` is this CPU's working memory; the addresses lie one behind the other. An IPv4 address is mapped, and the
    // 0xffff in that changes no such sum.
    let pseudo = unsafe { sum(addr_of!((*s).ends).cast(), 32) };
    let length = view.len + (view.payload - view.tcp);
    let pseudo = pseudo + (TCP << 8) as u64 + (length as u16).swap_bytes() as u64;
    let Some(header) = header(ctx, s, view.tcp, view.payload - view.tcp) else { return 0 };
    // SAFETY: as above; the TCP header is at least 20 bytes long.
    let field = unsafe { addr_of!((*s).buffer).cast::<u8>().add(HEADERS + 16).cast::<u16>().read() };
    let whole = fold(pseudo) == field as u32 || fold(pseudo + header + ftp_sum_payload(n)) == 0xffff;
    if !whole {
        return 0;
    }
    if view.v6 {
        return 1;
    }
    match self::header(ctx, s, view.l3, view.tcp - view.l3) {
        Some(ip) if fold(ip) == 0xffff => 1,
        _ => 0,
    }
}

/// Copies a header of 20 to 60 bytes behind the payload, and sums it up.
#[inline(always)]
fn header(ctx: &TcContext, s: *mut Scratch, at: u32, len: u32) -> Option<u64> {
    let len = launder(s, len) & 60;
    if len < 20 {
        return None;
    }
    // SAFETY: the buffer in this CPU's working memory has room for 60 bytes there.
    unsafe {
        let to = addr_of_mut!((*s).buffer).cast::<u8>().add(HEADERS);
        if bpf_skb_load_bytes(ctx.as_ptr(), at, to.cast(), len) != 0 {
            return None;
        }
        Some(sum(to, len))
    }
}

/// Sums up `n` bytes of payload in the buffer, with zeros behind them up to a multiple of four. A global function, which the
/// verifier looks at once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ftp_sum_payload(n: u32) -> u64 {
    let Some(s) = scratch::scratch(OF_HOOKS) else { return 0 };
    let mut total = 0;
    // SAFETY: the masks keep positions and lengths inside the buffer of this CPU's working memory.
    unsafe {
        let buffer = addr_of_mut!((*s).buffer).cast::<u8>();
        let mut i = 0;
        while i < 3 {
            buffer.add((launder(s, n + i) & (BUFFER as u32 - 1)) as usize).write(0);
            i += 1;
        }
        let mut piece = 0;
        while piece < PIECES {
            let at = piece * PIECE;
            if at >= n {
                break;
            }
            let left = launder(s, (n - at + 3) & !3);
            let len = if left >= PIECE { PIECE } else { left & (PIECE - 4) };
            total += sum(buffer.add(at as usize), len);
            piece += 1;
        }
    }
    total
}

/// The sum of 16-bit words as they lie in memory (RFC 1071: the order of bytes does not matter), not folded.
///
/// # Safety
/// `len` bytes, a multiple of four and not more than [`PIECE`], must be readable at `from`.
#[inline(always)]
unsafe fn sum(from: *const u8, len: u32) -> u64 {
    // SAFETY: the caller's promise.
    let sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, from.cast_mut().cast(), len, 0) };
    sum as u64 & 0xffff_ffff
}

/// Folds a sum to 16 bits.
#[inline(always)]
fn fold(sum: u64) -> u32 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u32
}
