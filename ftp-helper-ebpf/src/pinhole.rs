//! Opening and taking back pinholes: the only code that does, for the hooks and for the daemon's commands alike.

use core::ptr::addr_of_mut;

use ftp_helper_common::{
    addr::Addr,
    command::Outcome,
    counter::Counter,
    key::{PinholeKey, SessionKey},
    state::{ClientState, PinholeState, flag, pending},
};

use crate::{
    maps::{CLIENTS, PINHOLES, PinholeSlot, SESSIONS, SessionSlot},
    scratch::Scratch,
    util::{compare_exchange, count, fetch_add, lock, now, unlock},
};

const NO_EXIST: u64 = 1;

/// Opens a pinhole for `slot.state.session`, whose client may hold `limit`; one more while the session still holds `replaced`, which
/// goes when the new one is there. One of the same session at the same key is renewed; a live one of another session is left alone.
/// The lock in `slot` is not looked at.
#[inline(never)]
pub fn open(key: &PinholeKey, slot: &PinholeSlot, limit: u32, replaced: &PinholeKey) -> u32 {
    let state = &slot.state;
    let client = client_of(key, state.mode);
    let mut quota = take(&client, limit);
    if quota == Outcome::Quota as u32 && is_held(replaced, state.session) {
        quota = take(&client, limit + 1);
    }
    if quota != Outcome::Done as u32 {
        // Renewing asks for nothing more than the session has.
        return if renew(key, state) == Outcome::Done as u32 { Outcome::Done as u32 } else { quota };
    }
    // As a rule nothing is there: looking first would be a look-up more.
    if PINHOLES.insert(key, slot, NO_EXIST).is_ok() {
        return Outcome::Done as u32;
    }
    let mut outcome = renew(key, state);
    if outcome == Outcome::NoPinhole as u32 && PINHOLES.insert(key, slot, NO_EXIST).is_ok() {
        return Outcome::Done as u32;
    }
    release(&client);
    if outcome == Outcome::NoPinhole as u32 {
        outcome = Outcome::Full as u32;
    }
    outcome
}

/// Whether an unconsumed pinhole of the session is there.
#[inline(always)]
fn is_held(key: &PinholeKey, session: u64) -> bool {
    if key.port == 0 {
        return false;
    }
    // SAFETY: a live value of the table; one word.
    PINHOLES.get_ptr_mut(key).is_some_and(|p| unsafe { (*p).state.session } == session)
}

/// Renews a pinhole of the same session; removes one whose time is over, which makes room (`NoPinhole`).
#[inline(never)]
fn renew(key: &PinholeKey, state: &PinholeState) -> u32 {
    let Some(p) = PINHOLES.get_ptr_mut(key) else { return Outcome::NoPinhole as u32 };
    // SAFETY: `p` is a live value of the table; the lock serialises with the other writers.
    unsafe {
        let at = addr_of_mut!((*p).lock);
        lock(at);
        let (owner, deadline) = ((*p).state.session, (*p).state.deadline);
        if owner == state.session {
            (*p).state = *state;
        }
        unlock(at);
        if owner == state.session {
            return Outcome::Done as u32;
        }
        if deadline > now() {
            return Outcome::Taken as u32;
        }
    }
    remove(key, 0);
    Outcome::NoPinhole as u32
}

/// Takes back a pinhole if it belongs to `session` (0: to anybody); whether it was there.
#[inline(never)]
pub fn remove(key: &PinholeKey, session: u64) -> u32 {
    let Some(p) = PINHOLES.get_ptr_mut(key) else { return 0 };
    // SAFETY: `p` is a live value of the table; both fields are only ever replaced together, by another pinhole.
    let (owner, mode) = unsafe { ((*p).state.session, (*p).state.mode) };
    if session != 0 && owner != session {
        return 0;
    }
    // Of two that remove at once, one succeeds, and that one gives back the quota.
    if PINHOLES.remove(key).is_err() {
        return 0;
    }
    release(&client_of(key, mode));
    1
}

/// Takes back the unconsumed pinhole of a session.
#[inline(always)]
pub fn revoke(key: &PinholeKey, session: u64) {
    if key.port != 0 && remove(key, session) != 0 {
        count(Counter::Revoked);
    }
}

/// A key in the working memory: valid until the next one.
#[inline(always)]
pub fn key_in<'a>(s: *mut Scratch, initiator: &Addr, responder: &Addr, port: u16, hook: u8) -> &'a PinholeKey {
    // SAFETY: `s` is this CPU's working memory.
    unsafe {
        let k = addr_of_mut!((*s).pin);
        (*k).initiator = *initiator;
        (*k).responder = *responder;
        (*k).port = port;
        (*k).hook = hook;
        (*k).pad = 0;
        &*k
    }
}

/// Whose quota a pinhole counts against: the control connection's client, or where there is none, whoever may connect.
#[inline(always)]
fn client_of(key: &PinholeKey, mode: u8) -> Addr {
    let initiator = mode == pending::PASV || mode == pending::EPSV || mode == pending::ADDED;
    let client = if initiator { &key.initiator } else { &key.responder };
    client.quota_key()
}

/// Counts one pinhole more for a client, unless it has as many as it may.
#[inline(always)]
fn take(client: &Addr, limit: u32) -> u32 {
    let mut entry = CLIENTS.get_ptr_mut(client);
    if entry.is_none() {
        // Another CPU may be faster: then its entry is as good. A full table shows in the look-up.
        let _ = CLIENTS.insert(client, &ClientState::default(), NO_EXIST);
        entry = CLIENTS.get_ptr_mut(client);
    }
    let Some(c) = entry else { return Outcome::Full as u32 };
    // SAFETY: a live value of the table, one word: the number in its lower half, the mark of a dead one in the upper.
    unsafe {
        let was = fetch_add(c.cast(), 1);
        if was < limit as u64 {
            return Outcome::Done as u32;
        }
        fetch_add(c.cast(), u64::MAX);
    }
    Outcome::Quota as u32
}

/// Marks a client that holds nothing as dead, so that nobody counts on an entry that is being removed.
#[inline(always)]
pub fn bury(client: *mut ClientState) -> bool {
    // SAFETY: a live value of the table, one word.
    unsafe { compare_exchange(client.cast(), 0, ClientState::DEAD) == 0 }
}

#[inline(always)]
fn release(client: &Addr) {
    let Some(c) = CLIENTS.get_ptr_mut(client) else { return };
    // SAFETY: as in `take`. Whoever releases has taken, from this entry: one that holds something is not removed.
    unsafe { fetch_add(c.cast(), u64::MAX) };
}

/// Puts a pinhole back that a reset has freed, if its session still has a right to it; the quota is not asked again.
#[inline(always)]
pub fn rearm(key: &PinholeKey, slot: &PinholeSlot, session: &SessionKey) -> bool {
    let state = &slot.state;
    let Some(owner) = SESSIONS.get_ptr_mut(session) else { return false };
    if !holds(owner, state) {
        return false;
    }
    let client = client_of(key, state.mode);
    if take(&client, u32::MAX) != Outcome::Done as u32 {
        return false;
    }
    if PINHOLES.insert(key, slot, NO_EXIST).is_err() {
        release(&client);
        return false;
    }
    // Whoever has taken it back in the meantime has not found it.
    if !holds(owner, state) {
        remove_of(key, state);
        return false;
    }
    true
}

/// Whether the session lives, may open, and names the announcement's pinhole as its own: used up or not, nothing has
/// replaced it or taken it back.
#[inline(always)]
fn holds(slot: *mut SessionSlot, state: &PinholeState) -> bool {
    // SAFETY: `slot` is a live value of the table; the lock serialises with the writers.
    unsafe {
        let at = addr_of_mut!((*slot).lock);
        lock(at);
        let st = addr_of_mut!((*slot).state);
        let holds = (*st).id == state.session
            && (*st).flags & flag::BARRED == 0
            && (*st).pinhole.port != 0
            && (*st).pinhole_seq == state.seq;
        unlock(at);
        holds
    }
}

/// Takes back a pinhole if it is still that of this announcement: a newer one may have the same key.
#[inline(always)]
pub fn remove_of(key: &PinholeKey, state: &PinholeState) {
    let Some(p) = PINHOLES.get_ptr_mut(key) else { return };
    // SAFETY: `p` is a live value of the table; one word.
    if unsafe { (*p).state.seq } == state.seq {
        remove(key, state.session);
    }
}
