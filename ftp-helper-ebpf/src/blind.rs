//! Hosts that have a blind session: a SYN between them may be ahead of what the daemon has read.

use core::ptr::addr_of;

use ftp_helper_common::{addr::Addr, key::PairKey, state::BlindPair};

use crate::{
    maps::{BLIND_PAIRS, BLIND_UNTIL},
    scratch::Scratch,
    util::now,
};

const ANY: u64 = 0;
/// How long after a blind segment denied SYNs are kept, nanoseconds, and how many.
const PARK_FOR: u64 = 1_000_000_000;
const PARK_BUDGET: u32 = 8;

/// Remembers that the two hosts have a blind session: a SYN between them may be ahead of the daemon.
#[inline(never)]
pub fn note_blind(s: *mut Scratch) {
    // SAFETY: `s` is this CPU's working memory.
    let key = unsafe { &*addr_of!((*s).key) };
    let pair = pair(&key.client, &key.server);
    let entry = BlindPair { until: now().wrapping_add(PARK_FOR), budget: PARK_BUDGET, pad: 0 };
    let _ = BLIND_PAIRS.insert(&pair, &entry, ANY);
    if let Some(until) = BLIND_UNTIL.get_ptr_mut(0) {
        // SAFETY: one word, which only ever grows by what two CPUs' clocks may differ.
        unsafe { until.write_volatile(entry.until) };
    }
}

/// Whether any two hosts have had a blind session lately: without one, nobody's SYN can be too early.
#[inline(always)]
pub fn any_blind(time: u64) -> bool {
    // SAFETY: one word.
    BLIND_UNTIL.get_ptr_mut(0).is_some_and(|until| unsafe { until.read_volatile() } >= time)
}

/// Two hosts in the table's order.
#[inline(always)]
pub fn pair(a: &Addr, b: &Addr) -> PairKey {
    if before(a, b) { PairKey { low: *a, high: *b } } else { PairKey { low: *b, high: *a } }
}

#[inline(always)]
fn before(a: &Addr, b: &Addr) -> bool {
    let (a, b) = (a.words(), b.words());
    let mut i = 0;
    while i < 4 {
        if a[i] != b[i] {
            return a[i] < b[i];
        }
        i += 1;
    }
    true
}
