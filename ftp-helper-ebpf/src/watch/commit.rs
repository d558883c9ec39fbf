//! The end of a segment's way: it is recorded, its session's entry is changed as was judged, and it passes.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;
use ftp_helper_common::{
    canon::{self, Judgement, Made, bit},
    counter::Counter,
    key::CLIENT,
    policy::mode,
    reason::Reason,
    state::flag,
    tcp,
};

use crate::{
    blind::note_blind,
    maps::{BENCH, SessionSlot},
    packet::View,
    pinhole,
    programs::{DROP, PASS},
    range, record, rules,
    scratch::{self, Scratch},
    util::{copy, count, count_code, count_reason, lock, now, same, unlock, zero},
};

/// How often an unread session tells that it lives, nanoseconds.
const SIGN_OF_LIFE: u64 = 1_000_000_000;
/// An opaque or tainted segment, whose bytes nobody wants.
pub(super) const UNREAD: u32 = 1 << 31;

/// Records, commits, and lets pass. What was made of the segment stands in the record; `n` is the number of payload
/// bytes in the buffer.
#[inline(never)]
pub(super) fn finish(ctx: &TcContext, view: &View, s: *mut Scratch, slot: *mut SessionSlot, n: u32) -> i32 {
    let Some(policy) = rules::policy() else { return PASS };
    let unread = n & UNREAD != 0;
    let n = n & !UNREAD;
    // SAFETY: `s` is this CPU's working memory, here and below.
    let (mut made, flags, last) = unsafe { ((*s).record.made, (*s).state.flags, (*s).state.last) };
    let blind = !unread && (flags & flag::BLIND != 0 || made.has(bit::BLIND));
    if blind && view.len != 0 {
        note_blind(s);
    }
    let mut unseen = 0;
    let wanted = !unread || made.has(bit::FIN) || made.has(bit::RESET) || now().wrapping_sub(last) > SIGN_OF_LIFE;
    if wanted && !record::segment(ctx, s, view, n, blind) {
        if rules::is_stale(policy) {
            // The daemon is gone. What was judged needs no second reader; the rest passes and blinds.
            unseen = flag::UNRECORDED;
            if view.len != 0 && !blind && !made.has(bit::JUDGED) && !made.has(bit::OLD) {
                made = Made(made.0 | Made::blind(Reason::DaemonLoss).0);
            }
            count(Counter::PassedUnrecorded);
        } else if policy.mode == mode::OBSERVE {
            unseen = flag::LOST;
            count_reason(Reason::Unrecorded);
        } else {
            if made.has(bit::OPEN) {
                take_back(s);
            }
            count_reason(Reason::RingFull);
            count(Counter::ControlDropped);
            return DROP;
        }
    }
    tally(made);
    if BENCH.load() != 0 {
        // SAFETY: as above.
        unsafe { copy(addr_of!((*s).state), addr_of_mut!((*s).before)) };
    }
    commit(s, slot, made.0, unseen, wanted && unseen == 0);
    if BENCH.load() != 0 {
        // The next run finds all as it was, and opens the pinhole anew.
        // SAFETY: as above; a live value of the table that nobody else works on in a benchmark.
        unsafe { copy(addr_of!((*s).before), addr_of_mut!((*slot).state)) };
        if made.has(bit::OPEN) {
            take_back(s);
        }
        return PASS;
    }
    if made.has(bit::OPEN) {
        // SAFETY: as above.
        debug!(ctx, "session {:x} opens port {}", unsafe { (*s).state.id }, made.port());
    }
    PASS
}

/// Changes the entry as the judgement says, unless somebody else has changed it since the snapshot.
#[inline(never)]
fn commit(s: *mut Scratch, slot: *mut SessionSlot, made: u64, unseen: u16, recorded: bool) {
    let made = Made(made);
    // SAFETY: `s` is this CPU's working memory; `slot` is a live value of the table, changed under its lock only.
    unsafe {
        // In the working memory, since the stack of this way is used up.
        let opened = &*addr_of!((*s).opened);
        copy(addr_of!((*s).state.pinhole), addr_of_mut!((*s).old));
        let old = &*addr_of!((*s).old);
        let (id, version) = ((*s).state.id, (*s).state.version);
        let judgement = Judgement { made, hash: (*s).hash };
        // The snapshot becomes what is committed.
        let next = addr_of_mut!((*s).state);
        canon::apply(&mut *next, &*addr_of!((*s).segment), &judgement);
        (*next).last = (*s).record.time;
        if (*s).segment.side == CLIENT {
            (*next).ifindex[0] = (*s).record.ifindex;
        } else {
            (*next).ifindex[1] = (*s).record.ifindex;
        }
        // A record that was written tells the daemon of the gap; from then on it follows again.
        if recorded {
            (*next).flags &= !flag::UNRECORDED;
        }
        (*next).flags |= unseen;
        if made.has(bit::OPEN) {
            copy(opened, addr_of_mut!((*next).pinhole));
            (*next).pinhole_seq = (*s).segment.seq;
        } else if made.has(bit::REVOKE) {
            zero(addr_of_mut!((*next).pinhole));
        }
        let end = (*s).segment.seq.wrapping_add((*s).segment.len);
        let client = (*s).segment.side == CLIENT;
        // An encrypted session that ends counts no longer for its hosts' range: whoever clears the flag counts down.
        let closing = (*next).flags & flag::CLOSING != 0;
        let mut ranged = false;
        if closing {
            (*next).flags &= !flag::RANGE;
        }
        // Without branches, each of which the verifier would follow to the end.
        let bit_of = |b: u64| (made.0 >> b.trailing_zeros()) as u16 & 1;
        let ends = bit_of(bit::RESET) * flag::RESET | bit_of(bit::FIN) * flag::FIN_CLIENT << ((*s).segment.side & 1);
        let mut lost = false;
        let mut twice = false;
        let mut theirs = false;
        let at = addr_of_mut!((*slot).lock);
        lock(at);
        if (*slot).state.id == id {
            if (*slot).state.version == version {
                ranged = closing && (*slot).state.flags & flag::RANGE != 0;
                copy(next, addr_of_mut!((*slot).state));
            } else {
                // Two segments at once, or a command of the daemon: nobody can say in which order. Blind, with both
                // high-water marks.
                lost = true;
                let e = addr_of_mut!((*slot).state);
                // Another CPU had the same segment in hand: what both have opened stays.
                twice = (*e).pinhole_seq == (*s).segment.seq && same(addr_of!((*e).pinhole), opened);
                (*e).version = (*e).version.wrapping_add(1);
                (*e).epoch = (*e).epoch.wrapping_add(1);
                // An end is an end, and what is taken back or superseded is given up, whatever else has happened: no
                // second segment says so.
                (*e).flags |= flag::BLIND | unseen | ends;
                if ends != 0 {
                    ranged = (*e).flags & flag::RANGE != 0;
                    (*e).flags &= !flag::RANGE;
                }
                if made.has(bit::REVOKE) || (made.has(bit::OPEN) && !twice) {
                    theirs = true;
                    copy(addr_of!((*e).pinhole), addr_of_mut!((*s).pin));
                    zero(addr_of_mut!((*e).pinhole));
                }
                (*e).blind_reason = Reason::Race as u16;
                if client {
                    if tcp::distance(end, (*e).next[0]) > 0 {
                        (*e).next[0] = end;
                    }
                } else if tcp::distance(end, (*e).next[1]) > 0 {
                    (*e).next[1] = end;
                }
            }
        }
        unlock(at);
        // From here on one state, whichever way it came.
        let came = scratch::launder(s, ranged as u32 | (lost as u32) << 1 | (twice as u32) << 2 | (theirs as u32) << 3);
        let (ranged, lost, twice, theirs) = (came & 1 != 0, came & 2 != 0, came & 4 != 0, came & 8 != 0);
        if ranged {
            range::release(&range::key(&(*s).key, (*s).state.client_hook));
        }
        if lost {
            count_reason(Reason::Race);
            count(Counter::Blinded);
            if made.has(bit::OPEN) && !twice {
                take_back(s);
            }
            if theirs {
                pinhole::revoke(&*addr_of!((*s).pin), id);
            }
        }
        // What was opened before is replaced, or revoked.
        let gone = made.has(bit::REVOKE) || (made.has(bit::OPEN) && !lost && *old != *opened);
        if gone {
            pinhole::revoke(old, id);
        }
    }
}

/// Removes what was just opened, since the segment does not pass, or not as judged.
#[inline(always)]
fn take_back(s: *mut Scratch) {
    // SAFETY: `s` is this CPU's working memory.
    unsafe { pinhole::remove(&*addr_of!((*s).opened), (*s).state.id) };
}

/// Counts what was made of a segment.
#[inline(always)]
fn tally(made: Made) {
    if made.has(bit::JUDGED) {
        count(Counter::Judged);
    }
    if made.has(bit::OLD) {
        count(Counter::Retransmitted);
    }
    if made.has(bit::OPEN) {
        count(Counter::OpenedFast);
    }
    if made.has(bit::BLIND) {
        count(Counter::Blinded);
        count_code(made.reason() & 0x7f);
    }
}

const _: () = assert!(flag::FIN_CLIENT << 1 == flag::FIN_SERVER);
