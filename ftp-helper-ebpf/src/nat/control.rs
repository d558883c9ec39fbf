//! Control connections of translated hosts: what they announce is rewritten before anybody judges it, and the numbers of
//! both streams follow.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_get_prandom_u32, bpf_skb_load_bytes},
    programs::TcContext,
};
use ftp_helper_common::{
    canon::{REWRITE_MAX, REWRITTEN_MAX, Rules as _, Text as _},
    counter::Counter,
    key::{HOOK_IN, HOOK_OUT, SERVER},
    nat::announced,
    policy::{KernelPolicy, mode},
    state::pending,
    tcp,
};

use super::write;
use crate::{
    maps::{ALIASES, INWARD, PINHOLES},
    packet::View,
    pinhole,
    programs::{DROP, PASS},
    rules::{self, InTables},
    scratch::{self, InScratch, Scratch, launder},
    util::{copy, count, lock, now, unlock},
};

/// What [`rewrite`] returns where the segment must not go on before the daemon has told the inside address.
pub const UNKNOWN: u32 = u32::MAX;
/// How many ports are tried where one is taken.
const TRIES: u32 = 8;
/// The port that active mode's data connections come from, as a rule.
const FTP_DATA: u16 = 20;
/// TCP's option of selective acknowledgements, and its end and filler (RFC 2018 section 3, RFC 9293 section 3.2).
const SACK: u8 = 5;
const END: u8 = 0;
const FILLER: u8 = 1;
/// Blocks of that option at most, and bytes of all options.
const BLOCKS: u32 = 4;
const OPTIONS_MAX: u32 = 40;

/// Takes down who the inside end of the session in hand is, and gives what leaves its numbers of outside.
#[inline(never)]
pub fn begin(s: *mut Scratch, view: &mut View, hook: u8) {
    // SAFETY: `s` is this CPU's working memory; a live value of the table, changed under its lock only.
    unsafe {
        ((*s).known, (*s).old_len, (*s).new_len) = (0, 0, 0);
        if view.flags & tcp::SYN != 0 {
            return;
        }
        let Some(a) = ALIASES.get_ptr_mut(&*addr_of!((*s).key)) else { return };
        let at = addr_of_mut!((*a).lock);
        lock(at);
        copy(addr_of!((*a).state), addr_of_mut!((*s).alias));
        unlock(at);
        (*s).known = 1;
        let alias = &*addr_of!((*s).alias);
        if hook == HOOK_OUT && alias.is_moved() {
            view.seq = alias.outward(view.seq);
        }
    }
}

/// The text in hand, `n` bytes of a leaving segment, gets the endpoint of outside if it announces one. Returns its length, or
/// [`UNKNOWN`].
#[inline(always)]
pub fn rewrite(side: u8, n: u32) -> u32 {
    ftp_announce(side as u32, n)
}

/// A global function, which the verifier looks at once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ftp_announce(side: u32, n: u32) -> u32 {
    let (Some(policy), Some(s)) = (rules::policy(), scratch::scratch(scratch::OF_HOOKS)) else { return n };
    let kind = kind(s, side as u8, n);
    // SAFETY: `s` is this CPU's working memory, here and below.
    let (seq, len) = unsafe { ((*s).seen.seq, (*s).seen.len) };
    if kind == pending::NONE || n > REWRITE_MAX || n != len {
        return n;
    }
    // SAFETY: as above.
    unsafe {
        if (*s).known == 0 {
            let goes_on = policy.mode == mode::OBSERVE || rules::is_stale(policy);
            return if goes_on { n } else { UNKNOWN };
        }
        if !(*addr_of!((*s).alias)).is_translated() {
            return n;
        }
        let mut inside = scratch::announced(kind, false);
        let by_name = inside != 0 && kind != pending::EPSV;
        if inside == 0 {
            // It may know its public address.
            inside = scratch::announced(kind, true);
        }
        if inside == 0 {
            return n;
        }
        let last = (*s).alias.last;
        let again = last != 0 && (last >> 32) as u32 == seq && (last >> 16) as u16 as u32 == inside;
        let known_up_to = if side as u8 == SERVER { (*s).state.next[1] } else { (*s).state.next[0] };
        if !again && tcp::distance(seq, known_up_to) < 0 {
            // Part of what was sent before, or another line in its place: no announcement, whatever it looks like.
            return n;
        }
        let public = if again { last as u16 as u32 } else { choose(s, policy, kind as u32, inside) };
        if public == 0 {
            return n;
        }
        if public != inside && (inside < 1024 || InTables(policy, s).port_denied(inside)) {
            // Whoever judges sees the public port only: behind it there would be a service of the inside host (rule 3).
            return n;
        }
        let mut new = n;
        if by_name || public != inside {
            (*s).endpoint.addr =
                if kind == pending::PASV || kind == pending::EPSV { (*s).key.server } else { (*s).key.client };
            (*s).endpoint.port = public as u16;
            new = scratch::rewrite(n, kind);
            if new == 0 || new > REWRITTEN_MAX {
                return n;
            }
            take_over(s, new);
            ((*s).old_len, (*s).new_len) = (n, new);
            (*s).seen.len = new;
            (*s).segment.len = new;
            (*s).record.segment_len = new;
        }
        if !again {
            let alias = addr_of_mut!((*s).alias);
            (*alias).last = announced(seq, inside as u16, public as u16);
            if new != n {
                let counted = (*alias).uncounted(seq);
                (*alias).grow(counted, new.wrapping_sub(n));
            }
            keep(s);
            count(Counter::Rewritten);
        }
        new
    }
}

/// Sends a segment of the session in hand on, as it is on the other side; `view` is the packet as it is, the one in the
/// working memory is what was judged.
#[inline(never)]
pub fn send_on(ctx: &TcContext, view: &View, s: *mut Scratch, hook: u8) -> i32 {
    // SAFETY: `s` is this CPU's working memory.
    unsafe {
        if (*s).known == 0 {
            return PASS;
        }
        if hook == HOOK_OUT {
            let seq = (*s).seen.seq;
            if seq != view.seq && !write::number(ctx, view, 4, view.seq, seq) {
                return DROP;
            }
            let (old, new) = ((*s).old_len, (*s).new_len);
            if new != 0 && write::text(ctx, view, s, old, new) == 0 {
                return DROP;
            }
            return PASS;
        }
        let alias = &*addr_of!((*s).alias);
        if !alias.is_moved() || view.flags & tcp::ACK == 0 {
            return PASS;
        }
        let ack = alias.inward(view.ack);
        if ack != view.ack && !write::number(ctx, view, 8, view.ack, ack) {
            return DROP;
        }
    }
    if view.payload > view.tcp + 20 && !selective(ctx, view, s) { DROP } else { PASS }
}

/// The inside host reads what is selectively acknowledged by its own numbers; whether the packet may go on.
#[inline(always)]
fn selective(ctx: &TcContext, view: &View, s: *mut Scratch) -> bool {
    // 1..=64, which kernels before 6.8 see only in this form. There are some: the caller has looked.
    let n = (launder(s, view.payload - view.tcp - 21) & 63) + 1;
    if n > OPTIONS_MAX {
        return true;
    }
    // SAFETY: the sheet has room for twice 64 bytes.
    let loaded = unsafe {
        let sheet = scratch::sheet(s);
        bpf_skb_load_bytes(ctx.as_ptr(), view.tcp + 20, sheet.cast(), n) == 0
            && bpf_skb_load_bytes(ctx.as_ptr(), view.tcp + 20, sheet.add(64).cast(), n) == 0
    };
    loaded && (ftp_selective(n) == 0 || write::options(ctx, view, s, n))
}

/// Changes the blocks of selective acknowledgements among the options on the sheet; whether there are any. A global function,
/// which the verifier looks at once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ftp_selective(n: u32) -> u32 {
    let Some(s) = scratch::scratch(scratch::OF_HOOKS) else { return 0 };
    let t = InScratch(s);
    let mut at = 0;
    let mut k = 0;
    while k < OPTIONS_MAX {
        if at >= n {
            return 0;
        }
        let option = t.sheet(at);
        if option == END {
            return 0;
        }
        if option == SACK {
            return blocks(s, at, n);
        }
        let len = if option == FILLER { 1 } else { t.sheet(launder(s, at + 1)) as u32 };
        if len == 0 {
            return 0;
        }
        at = launder(s, at + len);
        k += 1;
    }
    0
}

/// The blocks of the option at `at`.
#[inline(always)]
fn blocks(s: *mut Scratch, at: u32, n: u32) -> u32 {
    let t = InScratch(s);
    // SAFETY: `s` is this CPU's working memory.
    let alias = unsafe { &*addr_of!((*s).alias) };
    let end = at + t.sheet(at + 1) as u32;
    let mut edge = 0;
    while edge < 2 * BLOCKS {
        let p = launder(s, at + 2 + edge * 4);
        if p + 4 > end || p + 4 > n {
            break;
        }
        let was = u32::from_be_bytes([t.sheet(p), t.sheet(p + 1), t.sheet(p + 2), t.sheet(p + 3)]);
        let [a, b, c, d] = alias.inward(was).to_be_bytes();
        t.write(p, a);
        t.write(p + 1, b);
        t.write(p + 2, c);
        t.write(p + 3, d);
        edge += 1;
    }
    1
}

/// What the segment in hand announces, by its first bytes: `pending::PASV` and so on, or `NONE`.
#[inline(always)]
fn kind(s: *mut Scratch, side: u8, n: u32) -> u8 {
    if n < 8 {
        return pending::NONE;
    }
    let word = InScratch(s).word(0) as u32;
    if side == SERVER {
        return match word & 0xff_ffff {
            PASSIVE => pending::PASV,
            EXTENDED => pending::EPSV,
            _ => pending::NONE,
        };
    }
    match word & 0xdfdf_dfdf {
        PORT => pending::PORT,
        EPRT => pending::EPRT,
        _ => pending::NONE,
    }
}

const PASSIVE: u32 = u32::from_le_bytes(*b"227\0");
const EXTENDED: u32 = u32::from_le_bytes(*b"229\0");
const PORT: u32 = u32::from_le_bytes(*b"PORT");
const EPRT: u32 = u32::from_le_bytes(*b"EPRT");

/// The public port of an endpoint: a server's own unless another server behind the same address has announced it to the same
/// client; for a client, one of those that are kept free. 0 where there is none. Not inlined: the caller's stack is short.
#[inline(never)]
fn choose(s: *mut Scratch, policy: &KernelPolicy, kind: u32, inside: u32) -> u32 {
    let kind = kind as u8;
    let passive = kind == pending::PASV || kind == pending::EPSV;
    let mut candidate = inside;
    let [low, high] = policy.nat_ports;
    let mut k = 0;
    while k < TRIES {
        if !passive {
            if low == 0 || high < low {
                return 0;
            }
            // SAFETY: the helper takes no arguments.
            let chance = unsafe { bpf_get_prandom_u32() };
            let ports = (high - low) as u64 + 1;
            candidate = low as u32 + ((chance as u64 * ports) >> 32) as u32;
        }
        if is_free(s, policy, kind, candidate, passive && k == 0) {
            return candidate;
        }
        // Of the same number of digits, as a rule: then its reply keeps its length.
        k += 1;
        candidate = inside ^ k;
    }
    0
}

/// Whether nobody else has this public port towards the same host. A server's `own` port need not be allowed: that is for
/// those who judge to say.
#[inline(always)]
fn is_free(s: *mut Scratch, policy: &KernelPolicy, kind: u8, port: u32, own: bool) -> bool {
    if !own && (port < 1024 || InTables(policy, s).port_denied(port)) {
        return false;
    }
    // SAFETY: `s` is this CPU's working memory; a live value of the table.
    unsafe {
        let client_hook = if kind == pending::PASV || kind == pending::EPSV { HOOK_IN } else { HOOK_OUT };
        let (initiator, responder) = if client_hook == HOOK_IN {
            (addr_of!((*s).key.client), addr_of!((*s).key.server))
        } else {
            (addr_of!((*s).key.server), addr_of!((*s).key.client))
        };
        let key = pinhole::key_in(s, &*initiator, &*responder, port as u16, HOOK_IN);
        if let Some(p) = PINHOLES.get_ptr(key)
            && (*p).state.deadline > now()
            && (*p).state.session != (*s).alias.session
        {
            return false;
        }
        if client_hook == HOOK_IN {
            return true;
        }
        let tuple = addr_of_mut!((*s).tuple);
        (*tuple).outside = (*s).key.server;
        (*tuple).inside = (*s).key.client;
        (*tuple).outside_port = FTP_DATA;
        (*tuple).inside_port = port as u16;
        INWARD.get_ptr(&*tuple).is_none()
    }
}

/// The new line takes the place of the old one in the buffer.
#[inline(always)]
fn take_over(s: *mut Scratch, n: u32) {
    // SAFETY: sheet and buffer have room for so many bytes, and both begin at multiples of eight.
    unsafe {
        let from = scratch::sheet(s).cast::<u64>();
        let to = addr_of_mut!((*s).buffer).cast::<u64>();
        let mut i = 0;
        while i < REWRITTEN_MAX as usize / 8 {
            to.add(i).write_volatile(from.add(i).read_volatile());
            i += 1;
        }
        to.cast::<u8>().add((launder(s, n) & 255) as usize).write(0);
    }
}

/// Puts the alias in hand back into the table.
#[inline(always)]
fn keep(s: *mut Scratch) {
    // SAFETY: `s` is this CPU's working memory; a live value of the table, changed under its lock only.
    unsafe {
        let Some(a) = ALIASES.get_ptr_mut(&*addr_of!((*s).key)) else { return };
        let from = addr_of!((*s).alias);
        let at = addr_of_mut!((*a).lock);
        lock(at);
        if (*a).state.session == (*from).session {
            copy(from, addr_of_mut!((*a).state));
        }
        unlock(at);
    }
}
