//! The daemon's commands, each checked against the entry as it is now.

use core::ptr::addr_of_mut;

use aya_ebpf::{EbpfContext as _, bindings::bpf_spin_lock, helpers::bpf_skb_load_bytes, programs::TcContext};
use ftp_helper_common::{
    command::{Command, Outcome, op},
    counter::Counter,
    key::{HOOK_IN, HOOK_OUT},
    nat::Alias,
    policy::KernelPolicy,
    state::{ADDED_ID, PinholeState, flag, pending, pinhole_flag},
};

use crate::{
    guard::{self, Denied},
    maps::{ALIASES, AliasSlot, CLIENTS, FLOWS, PINHOLES, PinholeSlot, SESSIONS, SessionSlot},
    nat, pinhole, range, rules,
    scratch::{self, OF_COMMANDS, Scratch},
    util::{count, lock, now, unlock, zero},
};

/// Carries out the command in the packet; the return value is an [`Outcome`].
#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    let (Some(policy), Some(s)) = (rules::policy(), scratch::scratch(OF_COMMANDS)) else {
        return Outcome::Malformed as i32;
    };
    // SAFETY: the command program's own working memory; the buffer is larger than a command and aligned to eight.
    let c = unsafe {
        let at = addr_of_mut!((*s).buffer).cast::<Command>();
        if bpf_skb_load_bytes(ctx.as_ptr(), 0, at.cast(), size_of::<Command>() as u32) != 0 {
            return Outcome::Malformed as i32;
        }
        &*at.cast_const()
    };
    let outcome = match c.op {
        op::FORGET_FLOW => forget_flow(c, s),
        op::FORGET_CLIENT => forget_client(c),
        op::DENY => deny(c, s),
        op::FORGET_TRANSLATION => nat::forget(c),
        op::FORGET_RANGE => range::sweep(&c.pinhole) as u32,
        op::ADD => add(c, policy),
        op::REMOVE => take_away(c),
        _ => match SESSIONS.get_ptr_mut(&c.key) {
            None => Outcome::NoSession as u32,
            Some(slot) => match c.op {
                op::OPEN => open(c, slot, policy),
                op::CONFIRM => confirm(c, slot),
                op::REVOKE => revoke(c, slot),
                op::STANDING => standing(c, slot),
                op::RESYNC => resync(c, slot),
                op::FORGET => forget(c, slot),
                op::ALIAS => alias(c, slot),
                _ => Outcome::Malformed as u32,
            },
        },
    };
    outcome as i32
}

#[inline(never)]
fn open(c: &Command, slot: *mut SessionSlot, policy: &KernelPolicy) -> u32 {
    // SAFETY: `slot` is a live value of the table, changed under its lock only; here and below.
    unsafe {
        let at = addr_of_mut!((*slot).lock);
        lock(at);
        let (id, flags, old) = ((*slot).state.id, (*slot).state.flags, (*slot).state.pinhole);
        let old_seq = (*slot).state.pinhole_seq;
        unlock(at);
        if id != c.session {
            return Outcome::NoSession as u32;
        }
        if flags & flag::BARRED != 0 {
            return Outcome::Barred as u32;
        }
        if flags & flag::UNRECORDED != 0 {
            return Outcome::Unseen as u32;
        }
        // A daemon that is behind must not replace what the kernel, which sees, has opened for a later announcement.
        let younger = flags & flag::BLIND == 0 && old_seq != c.seq && old_seq != c.replaces;
        if younger && old.port != 0 && PINHOLES.get_ptr(&old).is_some() {
            return Outcome::MovedOn as u32;
        }
        // Whatever becomes of the new one: the client has given up the old one, and its share of the quota is free.
        if old != c.pinhole {
            pinhole::revoke(&old, id);
        }
        let state = PinholeState {
            session: id,
            deadline: now().wrapping_add(policy.timeout),
            seq: c.seq,
            mode: c.mode,
            flags: c.pinhole_flags | pinhole_flag::CONFIRMED,
            control: [c.key.client_port, c.key.server_port],
            inside_port: if nat::is_on() && c.pinhole.hook == HOOK_IN {
                nat::inside_port(&c.key, id, c.pinhole.port as u32) as u16
            } else {
                0
            },
            ..PinholeState::default()
        };
        let new = PinholeSlot { state, lock: bpf_spin_lock { val: 0 }, pad: 0 };
        let outcome = pinhole::open(&c.pinhole, &new, policy.per_client, &c.pinhole);
        if outcome != Outcome::Done as u32 {
            return outcome;
        }
        lock(at);
        let still = (*slot).state.id == id && (*slot).state.flags & flag::BARRED == 0;
        // Another CPU may have committed an announcement in the meantime.
        let younger = (*slot).state.pinhole_seq != old_seq;
        if still && !younger {
            (*slot).state.version = (*slot).state.version.wrapping_add(1);
            (*slot).state.pinhole = c.pinhole;
            (*slot).state.pinhole_seq = c.seq;
        }
        unlock(at);
        if !still || younger {
            pinhole::remove(&c.pinhole, id);
            return if still { Outcome::MovedOn as u32 } else { Outcome::Barred as u32 };
        }
    }
    count(Counter::OpenedSlow);
    Outcome::Done as u32
}

/// Opens a pinhole of no session; the daemon has held it against the policy.
#[inline(never)]
fn add(c: &Command, policy: &KernelPolicy) -> u32 {
    if c.session & ADDED_ID == 0 || c.pinhole.port < guard::LOWEST_PORT {
        return Outcome::Malformed as u32;
    }
    let lives = c.seq as u64 * 1_000_000;
    let lives = if lives > policy.timeout { policy.timeout } else { lives };
    let state = PinholeState {
        session: c.session,
        deadline: now().wrapping_add(lives),
        mode: pending::ADDED,
        flags: pinhole_flag::CONFIRMED,
        ..PinholeState::default()
    };
    pinhole::open(
        &c.pinhole,
        &PinholeSlot { state, lock: bpf_spin_lock { val: 0 }, pad: 0 },
        policy.per_client,
        &c.pinhole,
    )
}

/// Takes such a pinhole back.
#[inline(never)]
fn take_away(c: &Command) -> u32 {
    if c.session & ADDED_ID == 0 || pinhole::remove(&c.pinhole, c.session) == 0 {
        return Outcome::NoPinhole as u32;
    }
    count(Counter::Revoked);
    Outcome::Done as u32
}

/// Vouches for the pinhole that the fast path opened for an announcement.
#[inline(never)]
fn confirm(c: &Command, slot: *mut SessionSlot) -> u32 {
    // SAFETY: as in `open`; `p` is a live value of the table, changed under its lock only.
    unsafe {
        let at = addr_of_mut!((*slot).lock);
        lock(at);
        let same = (*slot).state.id == c.session && (*slot).state.pinhole_seq == c.seq;
        let key = (*slot).state.pinhole;
        unlock(at);
        if !same || key.port == 0 {
            // It is there, and the segment that opens it is not committed yet: it may be used, or taken back again.
            return if is_of(c) { Outcome::Busy as u32 } else { Outcome::NoPinhole as u32 };
        }
        // The session still names it, so nobody has taken it back: a connection has used it up.
        let Some(p) = PINHOLES.get_ptr_mut(&key) else { return Outcome::Used as u32 };
        let at = addr_of_mut!((*p).lock);
        lock(at);
        let same = (*p).state.session == c.session && (*p).state.seq == c.seq;
        if same {
            (*p).state.flags |= pinhole_flag::CONFIRMED;
        }
        unlock(at);
        if same { Outcome::Done as u32 } else { Outcome::Used as u32 }
    }
}

#[inline(never)]
fn revoke(c: &Command, slot: *mut SessionSlot) -> u32 {
    // SAFETY: as in `open`.
    unsafe {
        let at = addr_of_mut!((*slot).lock);
        lock(at);
        let same = (*slot).state.id == c.session && (*slot).state.pinhole_seq == c.seq;
        let key = (*slot).state.pinhole;
        if same && key.port != 0 {
            (*slot).state.version = (*slot).state.version.wrapping_add(1);
            zero(addr_of_mut!((*slot).state.pinhole));
        }
        unlock(at);
        let same = same && key.port != 0;
        // One whose segment is not committed yet is found by its key.
        if !same && !is_of(c) {
            return Outcome::NoPinhole as u32;
        }
        let key = if same { &key } else { &c.pinhole };
        if pinhole::remove(key, c.session) == 0 {
            return Outcome::NoPinhole as u32;
        }
    }
    count(Counter::Revoked);
    Outcome::Done as u32
}

/// Whether the pinhole that the command names is there, and of its announcement.
#[inline(always)]
fn is_of(c: &Command) -> bool {
    let Some(p) = PINHOLES.get_ptr_mut(&c.pinhole) else { return false };
    // SAFETY: as in `open`; `p` is a live value of the table, changed under its lock only.
    unsafe {
        let at = addr_of_mut!((*p).lock);
        lock(at);
        let same = (*p).state.session == c.session && (*p).state.seq == c.seq;
        unlock(at);
        same
    }
}

#[inline(never)]
fn standing(c: &Command, slot: *mut SessionSlot) -> u32 {
    let bits = c.flags & (flag::TAINTED | flag::KILLED | flag::OPAQUE);
    let wants_range = c.flags & flag::RANGE != 0;
    let mut outcome = Outcome::Done;
    // SAFETY: as in `open`.
    unsafe {
        let at = addr_of_mut!((*slot).lock);
        lock(at);
        let same = (*slot).state.id == c.session;
        let key = (*slot).state.pinhole;
        let hook = (*slot).state.client_hook;
        let had_range = (*slot).state.flags & flag::RANGE != 0;
        let closing = (*slot).state.flags & flag::CLOSING != 0;
        // A session that is killed or ends opens no range, whatever it did before.
        let has_range = wants_range && bits & (flag::TAINTED | flag::KILLED) == 0 && !closing;
        if same {
            (*slot).state.version = (*slot).state.version.wrapping_add(1);
            (*slot).state.flags = (*slot).state.flags & !flag::RANGE | bits | if has_range { flag::RANGE } else { 0 };
            zero(addr_of_mut!((*slot).state.pinhole));
        }
        unlock(at);
        if !same {
            return Outcome::NoSession as u32;
        }
        if bits != 0 {
            pinhole::revoke(&key, c.session);
        }
        let hosts = range::key(&c.key, hook);
        if has_range && !had_range {
            outcome = range::take(&hosts, c.session);
        } else if had_range && !has_range {
            range::release(&hosts);
        }
        if outcome != Outcome::Done {
            lock(at);
            if (*slot).state.id == c.session {
                (*slot).state.flags &= !flag::RANGE;
            }
            unlock(at);
        }
    }
    outcome as u32
}

/// The dialogue is quiet, and both readers stand at the same place: the kernel may look again.
#[inline(never)]
fn resync(c: &Command, slot: *mut SessionSlot) -> u32 {
    // SAFETY: as in `open`.
    unsafe {
        let mut outcome = Outcome::Done as u32;
        let at = addr_of_mut!((*slot).lock);
        lock(at);
        let st = addr_of_mut!((*slot).state);
        if (*st).id != c.session {
            outcome = Outcome::NoSession as u32;
        } else if (*st).flags & flag::BARRED != 0 {
            outcome = Outcome::Barred as u32;
        } else if (*st).epoch != c.epoch || (*st).next[0] != c.next[0] || (*st).next[1] != c.next[1] {
            outcome = Outcome::MovedOn as u32;
        } else {
            let kept = (*st).flags & !(flag::BLIND | flag::LOGGED_IN | flag::EPSV_ALL | flag::ARMED | flag::UNRECORDED);
            (*st).flags = kept | c.flags & (flag::LOGGED_IN | flag::EPSV_ALL | flag::ARMED);
            (*st).version = (*st).version.wrapping_add(1);
            (*st).unanswered = 0;
            (*st).pending = pending::NONE;
            (*st).multiline = 0;
            let armed = c.flags & flag::ARMED != 0;
            (*st).active_kind = if armed { c.mode } else { 0 };
            (*st).active_port = c.pinhole.port;
            (*st).blind_reason = 0;
        }
        unlock(at);
        if outcome == Outcome::Done as u32 {
            count(Counter::Resynced);
        }
        outcome
    }
}

#[inline(never)]
fn forget(c: &Command, slot: *mut SessionSlot) -> u32 {
    // SAFETY: as in `open`.
    unsafe {
        let at = addr_of_mut!((*slot).lock);
        lock(at);
        let same = (*slot).state.id == c.session;
        let key = (*slot).state.pinhole;
        let hook = (*slot).state.client_hook;
        let had_range = same && (*slot).state.flags & flag::RANGE != 0;
        if same {
            // A segment that is being judged must not commit.
            (*slot).state.version = (*slot).state.version.wrapping_add(1);
            (*slot).state.flags = (*slot).state.flags & !flag::RANGE | flag::RESET;
        }
        unlock(at);
        if !same {
            return Outcome::NoSession as u32;
        }
        pinhole::revoke(&key, c.session);
        let hosts = range::key(&c.key, hook);
        if had_range {
            range::release(&hosts);
        }
        range::sweep(&hosts);
    }
    if nat::is_on() {
        let _ = ALIASES.remove(&c.key);
    }
    if SESSIONS.remove(&c.key).is_err() { Outcome::NoSession as u32 } else { Outcome::Done as u32 }
}

/// Who the session's inside end is. Told once more, it changes nothing.
#[inline(never)]
fn alias(c: &Command, slot: *mut SessionSlot) -> u32 {
    if !nat::is_on() {
        return Outcome::Malformed as u32;
    }
    // SAFETY: a live value of the table; a session's id does not change.
    if unsafe { (*slot).state.id } != c.session {
        return Outcome::NoSession as u32;
    }
    if let Some(old) = ALIASES.get_ptr(&c.key) {
        // SAFETY: a live value of the table; neither field changes.
        let same = unsafe { (*old).state.session == c.session && (*old).state.addr == c.pinhole.initiator };
        if same {
            return Outcome::Done as u32;
        }
    }
    let new = AliasSlot {
        state: Alias { session: c.session, addr: c.pinhole.initiator, ..Alias::default() },
        lock: bpf_spin_lock { val: 0 },
        pad: 0,
    };
    if ALIASES.insert(&c.key, &new, 0).is_err() { Outcome::Full as u32 } else { Outcome::Done as u32 }
}

#[inline(never)]
fn forget_flow(c: &Command, s: *mut Scratch) -> u32 {
    // The mode's place holds the hook that the initiator's packets pass.
    let tuple = c.flow.to_tuple(c.mode & 1);
    if nat::is_on() {
        // SAFETY: the command program's own working memory.
        unsafe { (*s).tuple = tuple };
        nat::end(s);
    }
    if FLOWS.remove(&tuple).is_err() { Outcome::NoPinhole as u32 } else { Outcome::Done as u32 }
}

#[inline(never)]
fn forget_client(c: &Command) -> u32 {
    let key = c.flow.initiator;
    let Some(p) = CLIENTS.get_ptr_mut(&key) else { return Outcome::NoPinhole as u32 };
    if !pinhole::bury(p) {
        return Outcome::Busy as u32;
    }
    if CLIENTS.remove(&key).is_err() { Outcome::NoPinhole as u32 } else { Outcome::Done as u32 }
}

#[inline(never)]
fn deny(c: &Command, s: *mut Scratch) -> u32 {
    // SAFETY: the command program's own working memory; the command is in another part of it.
    unsafe { (*s).ends = c.flow };
    let hook = if c.mode == HOOK_OUT { HOOK_OUT } else { HOOK_IN };
    Denied { hook, drop: true, reason: c.flags, ifindex: c.epoch, time: now() }.tell(s);
    Outcome::Done as u32
}

const _: () = assert!(size_of::<Command>() <= scratch::BUFFER && align_of::<Command>() == 8);
