//! Writing records.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::{
    EbpfContext as _,
    bindings::__sk_buff,
    helpers::{bpf_ktime_get_ns, bpf_skb_load_bytes},
    programs::TcContext,
};
use ftp_helper_common::{
    canon::{Made, bit},
    counter::Counter,
    key::CLIENT,
    record::{CHUNK, FlowRecord, SegmentRecord, SynRecord, kind},
};

use crate::{
    maps::{AWAKE, EVENTS, TELEMETRY},
    packet::View,
    scratch::{BUFFER, Scratch, launder},
    util::{count, now},
};

/// `BPF_RB_NO_WAKEUP`: the daemon is reading by itself.
const NO_WAKEUP: u64 = 1;
/// `BPF_RB_FORCE_WAKEUP`.
const FORCE_WAKEUP: u64 = 2;
/// `BPF_RB_AVAIL_DATA` and `BPF_RB_RING_SIZE`.
const AVAIL_DATA: u64 = 0;
const RING_SIZE: u64 = 1;
/// What the ring buffer adds to a record, and rounds to.
const RECORD_OVERHEAD: u32 = 16;
/// Chunks of the largest segment (64 KiB).
const CHUNKS_MAX: u32 = 33;
const HEADER: usize = size_of::<SegmentRecord>();

/// Copies the first chunk of the payload into the working memory, with a NUL behind it; the number of bytes, 0 if the
/// packet does not hold what its header says.
#[inline(always)]
pub fn load_payload(ctx: &TcContext, s: *mut Scratch, view: &View) -> u32 {
    load_chunk(ctx, s, view.payload, view.len)
}

/// Fills the record's header with what is known of a segment before it is judged.
#[inline(always)]
pub fn describe(s: *mut Scratch, ctx: &TcContext, view: &View, side: u8, hook: u8, record_kind: u8) {
    // SAFETY: `s` is this CPU's working memory.
    unsafe {
        let r = addr_of_mut!((*s).record);
        (*r).kind = record_kind;
        (*r).side = side;
        (*r).tcp_flags = view.flags;
        (*r).hook = hook;
        (*r).ifindex = ifindex(ctx);
        (*r).session = (*s).state.id;
        (*r).time = now();
        (*r).made = Made::NOTHING;
        (*r).key = (*s).key;
        (*r).seq = view.seq;
        (*r).ack = view.ack;
        (*r).segment_len = view.len;
        (*r).offset = 0;
        (*r).epoch = (*s).state.epoch;
        (*r).start = (*s).state.start;
        (*r).next = (*s).state.next;
        (*r).flags = (*s).state.flags;
        (*r).reason = 0;
        (*r).endpoint_port = 0;
        (*r).pending = (*s).state.pending;
        (*r).unanswered = (*s).state.unanswered;
        (*r).endpoint = if side == CLIENT { (*s).key.client } else { (*s).key.server };
        // With the padding behind it.
        addr_of_mut!((*r).client_hook).cast::<u64>().write((*s).state.client_hook as u64);
    }
}

/// Writes the segment in hand, `n` bytes of it in the buffer, all of it or nothing; whether there was room.
#[inline(always)]
pub fn segment(ctx: &TcContext, s: *mut Scratch, view: &View, n: u32, urgent: bool) -> bool {
    if view.len > CHUNK as u32 && n != 0 {
        return long_segment(ctx, s, view, urgent) != 0;
    }
    put(s, n, wake(0, urgent))
}

/// A segment of several records.
#[inline(never)]
fn long_segment(ctx: &TcContext, s: *mut Scratch, view: &View, urgent: bool) -> u32 {
    let chunks = view.len / CHUNK as u32 + 1;
    let needed = view.len + chunks * (HEADER as u32 + RECORD_OVERHEAD);
    let free = EVENTS.query(RING_SIZE) - EVENTS.query(AVAIL_DATA);
    if free < needed as u64 {
        return 0;
    }
    let flags = wake(0, urgent);
    let mut c = 0u32;
    while c < CHUNKS_MAX {
        let offset = c * CHUNK as u32;
        if offset >= view.len {
            break;
        }
        let n = load_chunk(ctx, s, view.payload + offset, view.len - offset);
        if n == 0 {
            return 0;
        }
        // SAFETY: `s` is this CPU's working memory.
        unsafe { (*s).record.offset = offset };
        if !put(s, n, flags) {
            return 0;
        }
        c += 1;
    }
    1
}

/// Tells people about a control packet that is not followed, or was dropped, and counts it.
#[inline(never)]
pub fn stray(s: *mut Scratch, reason: u16) {
    // SAFETY: `s` is this CPU's working memory.
    let r = unsafe {
        (*s).record.kind = kind::STRAY;
        (*s).record.reason = reason;
        &*addr_of!((*s).record)
    };
    crate::util::count_code(reason);
    if TELEMETRY.output::<SegmentRecord>(r, wake(1, false)).is_err() {
        count(Counter::TelemetryLost);
    }
}

/// Tells people about a SYN without a pinhole.
#[inline(always)]
pub fn denied(record: &SynRecord) {
    if TELEMETRY.output::<SynRecord>(record, wake(1, false)).is_err() {
        count(Counter::TelemetryLost);
    }
}

/// Writes the beginning or end of a data connection; whether there was room.
#[inline(always)]
pub fn flow(record: &FlowRecord) -> bool {
    let written = EVENTS.output::<FlowRecord>(record, wake(0, false)).is_ok();
    if written {
        count(Counter::Records);
    }
    written
}

/// Sets what was made of the segment.
#[inline(always)]
pub fn set_made(s: *mut Scratch, made: Made) {
    // SAFETY: `s` is this CPU's working memory.
    unsafe {
        (*s).record.made = made;
        (*s).record.endpoint_port = made.port();
        if made.has(bit::OPEN) {
            // How long it waits for the daemon is less than a tick, and so coarse is the record's time.
            (*s).record.late = bpf_ktime_get_ns().wrapping_sub((*s).record.time) as u32;
        }
    }
}

/// Interface of the packet.
#[inline(always)]
pub fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the context is readable.
    unsafe { (*ctx.as_ptr().cast::<__sk_buff>()).ifindex }
}

#[inline(always)]
fn load_chunk(ctx: &TcContext, s: *mut Scratch, at: u32, left: u32) -> u32 {
    if left == 0 {
        return 0;
    }
    let n = if left > CHUNK as u32 { CHUNK as u32 } else { left };
    // 1..=CHUNK: the verifier sees the range only because LLVM can't see through the launder.
    let n = (launder(s, n - 1) & (CHUNK as u32 - 1)) + 1;
    // SAFETY: the buffer has room for CHUNK bytes and the NUL behind them.
    unsafe {
        let buffer = addr_of_mut!((*s).buffer).cast::<u8>();
        if bpf_skb_load_bytes(ctx.as_ptr(), at, buffer.cast(), n) != 0 {
            return 0;
        }
        buffer.add((n & (BUFFER as u32 - 1)) as usize).write(0);
    }
    n
}

/// Writes the record's header and `n` bytes of the buffer.
#[inline(always)]
fn put(s: *mut Scratch, n: u32, flags: u64) -> bool {
    let n = launder(s, n) & (BUFFER as u32 - 1);
    // SAFETY: header and buffer lie one behind the other; the mask keeps the length inside.
    let bytes = unsafe { core::slice::from_raw_parts(s.cast::<u8>(), HEADER + n as usize) };
    let written = EVENTS.output::<[u8]>(bytes, flags).is_ok();
    if written {
        count(Counter::Records);
    }
    written
}

/// Whether the reader of ring buffer `which` must be woken: at once if it is urgent, otherwise only if it sleeps.
#[inline(always)]
fn wake(which: u32, urgent: bool) -> u64 {
    let Some(awake) = AWAKE.get_ptr_mut(which) else { return FORCE_WAKEUP };
    // SAFETY: a word that anybody may set; the daemon clears it before it sleeps and looks once more.
    unsafe {
        if !urgent && awake.read_volatile() != 0 {
            return NO_WAKEUP;
        }
        awake.write_volatile(1);
    }
    FORCE_WAKEUP
}

const _: () = assert!(core::mem::offset_of!(SegmentRecord, client_hook) + 8 == HEADER && HEADER % 8 == 0);
const _: () = assert!(core::mem::offset_of!(Scratch, record) == 0 && core::mem::offset_of!(Scratch, buffer) == HEADER);
