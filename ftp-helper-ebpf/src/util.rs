//! Small things that all programs need.

use aya_ebpf::{
    bindings::bpf_spin_lock,
    helpers::{bpf_ktime_get_coarse_ns, bpf_spin_lock as lock_helper, bpf_spin_unlock},
};
use ftp_helper_common::{
    counter::{self, Counter},
    reason::Reason,
};

use crate::maps::COUNTERS;

/// `CLOCK_MONOTONIC` at the resolution of the timer tick, nanoseconds: a few nanoseconds to read, and enough here.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper takes no arguments and has no side effects.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Counts an event.
#[inline(always)]
pub fn count(c: Counter) {
    add(c as u32);
}

/// Counts a reason.
#[inline(always)]
pub fn count_reason(r: Reason) {
    add(counter::of_reason(r));
}

/// Counts a reason by its number.
#[inline(always)]
pub fn count_code(code: u16) {
    add(counter::FIRST_REASON + code as u32);
}

#[inline(always)]
fn add(index: u32) {
    if let Some(p) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: the slot is this CPU's own.
        unsafe { *p += 1 }
    }
}

/// Takes the spin lock of a table's entry.
///
/// # Safety
/// `lock` must lie in a table's value, and [`unlock`] must follow with no call in between.
#[inline(always)]
pub unsafe fn lock(lock: *mut bpf_spin_lock) {
    // SAFETY: the caller's promise.
    unsafe { lock_helper(lock) };
}

/// Releases the spin lock.
///
/// # Safety
/// `lock` must be held.
#[inline(always)]
pub unsafe fn unlock(lock: *mut bpf_spin_lock) {
    // SAFETY: the caller's promise.
    unsafe { bpf_spin_unlock(lock) };
}

/// Sets a value to zeros, word by word. Written as an assignment it becomes a call of `memset`, which LLVM does not
/// expand for this target: a loop over single bytes, paid for by the verifier as well.
///
/// # Safety
/// `p` must be writable and aligned to four bytes, zeros a value of `T`, and its size a multiple of four.
#[inline(always)]
pub unsafe fn zero<T>(p: *mut T) {
    const { assert!(size_of::<T>() % 4 == 0) };
    let mut i = 0;
    while i < size_of::<T>() / 4 {
        // SAFETY: the caller's promise. Volatile, or LLVM makes the call of it again.
        unsafe { p.cast::<u32>().add(i).write_volatile(0) };
        i += 1;
    }
}

/// Copies a value between two places that do not overlap. An assignment through pointers may overlap for all that LLVM
/// knows, and becomes a call of `memmove`, with the same loop.
///
/// # Safety
/// `from` must be readable and `to` writable, both aligned, and one must not overlap the other.
#[inline(always)]
pub unsafe fn copy<T: Copy>(from: *const T, to: *mut T) {
    // SAFETY: the caller's promise.
    unsafe { core::ptr::copy_nonoverlapping(from, to, 1) };
}

/// Whether two values are the same, word by word. Written as a comparison it becomes a call of `bcmp`, and kernels before
/// 6.9 let nobody call anything under a lock.
///
/// # Safety
/// Both must be readable, aligned to four bytes and without padding, and their size a multiple of four.
#[inline(always)]
pub unsafe fn same<T>(a: *const T, b: *const T) -> bool {
    const { assert!(size_of::<T>() % 4 == 0) };
    let mut differ = 0;
    let mut i = 0;
    while i < size_of::<T>() / 4 {
        // SAFETY: the caller's promise. Volatile, or LLVM makes the call of it again.
        differ |= unsafe { a.cast::<u32>().add(i).read_volatile() ^ b.cast::<u32>().add(i).read_volatile() };
        i += 1;
    }
    differ == 0
}

/// Adds one to a shared counter, atomically (the target has no atomics in `core`).
///
/// # Safety
/// `p` must point into a table's value, aligned to eight bytes.
#[inline(always)]
pub unsafe fn increment(p: *mut u64) {
    // SAFETY: the caller's promise; the instruction touches these eight bytes only.
    unsafe { core::arch::asm!("lock *(u64 *)(r1 + 0) += r2", in("r1") p, in("r2") 1u64) };
}

/// Adds to a shared word, atomically; what it was before.
///
/// # Safety
/// `p` must point into a table's value, aligned to eight bytes.
#[inline(always)]
pub unsafe fn fetch_add(p: *mut u64, n: u64) -> u64 {
    let mut was = n;
    // SAFETY: the caller's promise; the instruction touches these eight bytes only.
    unsafe { core::arch::asm!("r2 = atomic_fetch_add((u64 *)(r1 + 0), r2)", in("r1") p, inout("r2") was) };
    was
}

/// Puts `new` in the place of `old`, atomically, if that is what the word holds; what it held.
///
/// # Safety
/// `p` must point into a table's value, aligned to eight bytes.
#[inline(always)]
pub unsafe fn compare_exchange(p: *mut u64, old: u64, new: u64) -> u64 {
    let mut was = old;
    // SAFETY: the caller's promise; the instruction touches these eight bytes only.
    unsafe { core::arch::asm!("r0 = cmpxchg_64(r1 + 0, r0, r2)", in("r1") p, in("r2") new, inout("r0") was) };
    was
}
