//! Ranges for encrypted sessions (`opaque = "range"`): while such a session lives, its client may reach the passive ports
//! that the administrator gave its server.
//!
//! One entry for each pair of hosts that has such sessions, with their number. Only the command program makes and removes
//! entries, one command after the other; the hooks count down when they see a session end.

use core::ptr::addr_of_mut;

use ftp_helper_common::{
    canon::Rules as _,
    command::Outcome,
    key::{PinholeKey, SessionKey},
    policy::{KernelPolicy, policy_flag},
    state::{RangeState, pending},
};

use crate::{
    flow,
    maps::{FLOWS, RANGES},
    packet::View,
    pinhole, rules,
    rules::InTables,
    scratch::Scratch,
    util::fetch_add,
};

const NO_EXIST: u64 = 1;

/// The entry of a session's hosts.
#[inline(always)]
pub fn key(session: &SessionKey, client_hook: u8) -> PinholeKey {
    PinholeKey { initiator: session.client, responder: session.server, port: 0, hook: client_hook, pad: 0 }
}

/// Counts one session more. For the command program.
#[inline(always)]
pub fn take(key: &PinholeKey, session: u64) -> Outcome {
    let mut entry = RANGES.get_ptr_mut(key);
    if entry.is_none() {
        let _ = RANGES.insert(key, &RangeState::default(), NO_EXIST);
        entry = RANGES.get_ptr_mut(key);
    }
    let Some(r) = entry else { return Outcome::Full };
    // SAFETY: a live value of the table; each field is one word.
    unsafe {
        (*r).session = session;
        fetch_add(addr_of_mut!((*r).sessions), 1);
    }
    Outcome::Done
}

/// Counts one session less.
#[inline(always)]
pub fn release(key: &PinholeKey) {
    let Some(r) = RANGES.get_ptr_mut(key) else { return };
    // SAFETY: as in `take`. Whoever releases has taken, and clears the session's flag for it under the session's lock.
    unsafe { fetch_add(addr_of_mut!((*r).sessions), u64::MAX) };
}

/// Removes an entry that no session counts on. For the command program.
#[inline(always)]
pub fn sweep(key: &PinholeKey) -> Outcome {
    let Some(r) = RANGES.get_ptr_mut(key) else { return Outcome::NoPinhole };
    // SAFETY: one word; nobody but this program counts up.
    if unsafe { addr_of_mut!((*r).sessions).read_volatile() } != 0 {
        return Outcome::Busy;
    }
    if RANGES.remove(key).is_err() { Outcome::NoPinhole } else { Outcome::Done }
}

/// Whether a SYN goes from a client with such a session to a passive port of its server.
#[inline(never)]
pub fn admits(view: &View, s: *mut Scratch, policy: &KernelPolicy, hook: u8) -> bool {
    // SAFETY: `s` is this CPU's working memory.
    let key = unsafe {
        let ends = &*addr_of_mut!((*s).ends);
        pinhole::key_in(s, &ends.initiator, &ends.responder, 0, hook)
    };
    covers(s, policy, key, view.destination_port).is_some()
}

/// Whether this is the responder's SYN-ACK to such a connection, for the first time. What is known of the connection is
/// then in the working memory.
#[inline(never)]
pub fn answered(view: &View, s: *mut Scratch, policy: &KernelPolicy, hook: u8) -> bool {
    // SAFETY: `s` is this CPU's working memory; entries of the tables are read only.
    unsafe {
        let ends = &*addr_of_mut!((*s).ends);
        let key = pinhole::key_in(s, &ends.responder, &ends.initiator, 0, hook ^ 1);
        let Some(session) = covers(s, policy, key, view.source_port) else { return false };
        let isn = [view.ack.wrapping_sub(1), view.seq];
        if FLOWS.get_ptr(flow::tuple_in(s, hook)).is_some_and(|f| (*f).state.isn == isn) {
            return false;
        }
        let flow = addr_of_mut!((*s).flow);
        (*flow).session = session;
        (*flow).deadline = 0;
        (*flow).seq = 0;
        (*flow).mode = pending::RANGE;
        (*flow).flags = 0;
        (*flow).control = [0; 2];
        (*flow).isn = isn;
    }
    true
}

/// The session that opened the range of these two hosts, if the port is in it.
#[inline(always)]
fn covers(s: *mut Scratch, policy: &KernelPolicy, key: &PinholeKey, port: u16) -> Option<u64> {
    if policy.flags & policy_flag::RANGES == 0 {
        return None;
    }
    let r = RANGES.get_ptr(key)?;
    // SAFETY: a live value of the table; each field is one word.
    let (sessions, session) = unsafe { ((*r).sessions, (*r).session) };
    if sessions == 0 || rules::is_closed(policy) {
        return None;
    }
    let (low, high) = rules::opaque_range(s, policy, &key.responder)?;
    let denied = InTables(policy, s).port_denied(port as u32);
    (port >= low && port <= high && !denied).then_some(session)
}
