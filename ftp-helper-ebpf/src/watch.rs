//! Control connections: their handshake, and every segment after it.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::{
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
    programs::TcContext,
};
use aya_log_ebpf::debug;
use ftp_helper_common::{
    addr::Addr,
    canon::{self, Judgement, Made, SEGMENT_MAX, bit},
    command::Outcome,
    counter::Counter,
    key::{CLIENT, HOOK_IN, HOOK_OUT, PairKey, SessionKey},
    policy::{KernelPolicy, mode, policy_flag},
    reason::Reason,
    record::kind,
    state::{BlindPair, HalfOpen, PinholeState, flag, pending, pinhole_flag},
    tcp,
};

use crate::{
    checksum,
    maps::{ALIASES, BENCH, BLIND_PAIRS, BLIND_UNTIL, HALF_OPEN, MIDSTREAM, SESSIONS, SessionSlot},
    nat,
    packet::View,
    pinhole,
    programs::{DROP, PASS},
    range, record,
    rules::{self, InTables},
    scratch::{self, InScratch, OF_HOOKS, Scratch},
    util::{copy, count, count_reason, lock, now, same, unlock, zero},
};

const ANY: u64 = 0;
const NO_EXIST: u64 = 1;
/// How often an unread session tells that it lives, nanoseconds.
const SIGN_OF_LIFE: u64 = 1_000_000_000;
/// How long after a blind segment denied SYNs are kept, nanoseconds, and how many.
const PARK_FOR: u64 = 1_000_000_000;
const PARK_BUDGET: u32 = 8;

/// A packet between two control ports.
#[inline(always)]
pub fn ambiguous() -> i32 {
    count_reason(Reason::BothControlPorts);
    PASS
}

/// A packet of a control connection, sent by `side`.
#[inline(never)]
pub fn watch(ctx: &TcContext, view: &View, side: u8, hook: u8) -> i32 {
    let (Some(policy), Some(s)) = (rules::policy(), scratch::scratch(OF_HOOKS)) else { return PASS };
    if hook == HOOK_OUT && rules::came_from_outside(ctx) {
        return PASS;
    }
    if !view.ends(ctx, s) {
        return PASS;
    }
    // SAFETY: `s` is this CPU's working memory, here and below.
    let key = unsafe {
        let ends = &*addr_of!((*s).ends);
        let k = addr_of_mut!((*s).key);
        if side == CLIENT {
            (*k).client = ends.initiator;
            (*k).server = ends.responder;
            (*k).client_port = ends.initiator_port;
            (*k).server_port = ends.responder_port;
        } else {
            (*k).client = ends.responder;
            (*k).server = ends.initiator;
            (*k).client_port = ends.responder_port;
            (*k).server_port = ends.initiator_port;
        }
        &*k
    };
    if !nat::is_on() {
        return follow(ctx, view, side, hook, s, policy, key);
    }
    // As it is outside. SAFETY: as above.
    let seen = unsafe {
        copy(view, addr_of_mut!((*s).seen));
        &mut *addr_of_mut!((*s).seen)
    };
    nat::control::begin(s, seen, hook);
    match follow(ctx, seen, side, hook, s, policy, key) {
        PASS => nat::control::send_on(ctx, view, s, hook),
        verdict => verdict,
    }
}

/// A packet of a control connection, as it is outside.
#[inline(always)]
fn follow(
    ctx: &TcContext,
    view: &View,
    side: u8,
    hook: u8,
    s: *mut Scratch,
    policy: &KernelPolicy,
    key: &SessionKey,
) -> i32 {
    if view.flags & tcp::SYN != 0 {
        return handshake(ctx, view, side, hook, key);
    }
    let bare_ack = view.len == 0 && view.flags & (tcp::FIN | tcp::RST) == 0;
    if bare_ack {
        if side == CLIENT && HALF_OPEN.get_ptr(key).is_some() {
            return begin(ctx, view, hook, s, policy);
        }
        return PASS;
    }
    let mut slot = SESSIONS.get_ptr_mut(key);
    if slot.is_none() && side == CLIENT && HALF_OPEN.get_ptr(key).is_some() {
        let verdict = begin(ctx, view, hook, s, policy);
        if verdict != PASS {
            return verdict;
        }
        slot = SESSIONS.get_ptr_mut(key);
    }
    let Some(slot) = slot else { return midstream(ctx, view, side, hook, s) };
    followed(ctx, view, side, hook, s, policy, slot)
}

/// SYN and SYN-ACK.
#[inline(always)]
fn handshake(ctx: &TcContext, view: &View, side: u8, hook: u8, key: &SessionKey) -> i32 {
    let answer = view.flags & tcp::ACK != 0;
    if view.flags & (tcp::RST | tcp::FIN) != 0 || answer == (side == CLIENT) {
        return PASS;
    }
    if !answer {
        // Data in a SYN would reach the server before any session exists: such a connection is not followed.
        if view.len != 0 {
            let half = HalfOpen { data_in_syn: 1, client_hook: hook, ..HalfOpen::default() };
            let _ = HALF_OPEN.insert(key, &half, ANY);
        }
        return PASS;
    }
    if let Some(live) = SESSIONS.get_ptr(key) {
        // SAFETY: a live value of the table; one word.
        if unsafe { (*live).state.flags } & flag::CLOSING == 0 {
            return PASS;
        }
    }
    let data_in_syn = match HALF_OPEN.get_ptr(key) {
        // SAFETY: a value of the table; one byte.
        Some(half) => unsafe { (*half).data_in_syn },
        None => 0,
    };
    let half = HalfOpen {
        start: [view.ack, view.seq.wrapping_add(1)],
        client_hook: hook ^ 1,
        data_in_syn,
        pad: [0; 2],
        ifindex: record::ifindex(ctx),
    };
    // The table makes room by itself; a handshake that falls out of it is picked up as midstream, and opens nothing.
    let _ = HALF_OPEN.insert(key, &half, ANY);
    count(Counter::HalfOpen);
    PASS
}

/// The client's first segment after the SYN-ACK: the session begins.
#[inline(never)]
fn begin(ctx: &TcContext, view: &View, hook: u8, s: *mut Scratch, policy: &KernelPolicy) -> i32 {
    // SAFETY: `s` is this CPU's working memory.
    let key = unsafe { &*addr_of!((*s).key) };
    let Some(half) = HALF_OPEN.get_ptr(key) else { return PASS };
    // SAFETY: a value of the table; entries are replaced whole by the same handshake only.
    let half = unsafe { *half };
    if view.flags & (tcp::ACK | tcp::RST) != tcp::ACK
        || view.seq != half.start[0]
        || view.ack != half.start[1]
        || half.client_hook != hook
    {
        return PASS;
    }
    let _ = HALF_OPEN.remove(key);
    if let Some(old) = SESSIONS.get_ptr_mut(key) {
        // SAFETY: a live value of the table; the key of its pinhole changes only with its version.
        let (pin, id, flags, its_hook) =
            unsafe { ((*old).state.pinhole, (*old).state.id, (*old).state.flags, (*old).state.client_hook) };
        if flags & flag::CLOSING == 0 {
            return PASS;
        }
        if flags & flag::RANGE != 0 {
            range::release(&range::key(key, its_hook));
        }
        pinhole::revoke(&pin, id);
        let _ = SESSIONS.remove(key);
        if nat::is_on() {
            let _ = ALIASES.remove(key);
        }
    }
    // SAFETY: as above; the helpers take no arguments.
    unsafe {
        let time = bpf_ktime_get_ns();
        let n = addr_of_mut!((*s).state);
        zero(n);
        // A CPU begins no two sessions within a microsecond.
        (*n).id = time & !0x3ff | (bpf_get_smp_processor_id() as u64 & 0x3ff);
        (*n).last = now();
        (*n).start = half.start;
        (*n).next = half.start;
        (*n).command_end = half.start[0];
        (*n).unanswered = 1;
        (*n).pending = pending::GREETING;
        (*n).client_hook = hook;
        (*n).ifindex = [record::ifindex(ctx), half.ifindex];
    }
    record::describe(s, ctx, view, CLIENT, hook, kind::SESSION);
    // SAFETY: as above. A segment that carries data gets a record of its own.
    unsafe { (*s).record.segment_len = 0 };
    if half.data_in_syn != 0 {
        record::stray(s, Reason::DataInSyn as u16);
        let _ = MIDSTREAM.insert(key, &0, ANY);
        return PASS;
    }
    // SAFETY: as above.
    let slot = unsafe {
        (*s).state_lock = [0; 2];
        &*addr_of!((*s).state).cast::<SessionSlot>()
    };
    if SESSIONS.insert(key, slot, NO_EXIST).is_err() {
        record::stray(s, Reason::SessionsFull as u16);
        let _ = MIDSTREAM.insert(key, &0, ANY);
        return PASS;
    }
    if !record::segment(ctx, s, &View { len: 0, ..*view }, 0, false) {
        let unseen = if rules::is_stale(policy) {
            flag::UNRECORDED
        } else if policy.mode == mode::OBSERVE {
            count_reason(Reason::Unrecorded);
            flag::LOST
        } else {
            // The server sends its SYN-ACK again, and the client acknowledges again.
            let _ = SESSIONS.remove(key);
            let _ = HALF_OPEN.insert(key, &half, ANY);
            count_reason(Reason::RingFull);
            return DROP;
        };
        if let Some(p) = SESSIONS.get_ptr_mut(key) {
            // SAFETY: the entry that was just made; nobody else knows it yet.
            unsafe { (*p).state.flags |= unseen };
        }
    }
    count(Counter::Sessions);
    // SAFETY: as above.
    debug!(ctx, "session {:x} begins", unsafe { (*s).state.id });
    PASS
}

/// A control connection that was there before we were, or found no room.
#[inline(never)]
fn midstream(ctx: &TcContext, view: &View, side: u8, hook: u8, s: *mut Scratch) -> i32 {
    // SAFETY: `s` is this CPU's working memory.
    let key = unsafe { &*addr_of!((*s).key) };
    // The last segments of a session that is gone are no news.
    if view.len == 0 || MIDSTREAM.insert(key, &0, NO_EXIST).is_err() {
        return PASS;
    }
    // SAFETY: as above.
    unsafe { (*s).state.id = 0 };
    record::describe(s, ctx, view, side, hook, kind::STRAY);
    record::stray(s, Reason::Midstream as u16);
    PASS
}

/// A segment of a session.
#[inline(always)]
fn followed(
    ctx: &TcContext,
    view: &View,
    side: u8,
    hook: u8,
    s: *mut Scratch,
    policy: &KernelPolicy,
    slot: *mut SessionSlot,
) -> i32 {
    // SAFETY: `slot` is a live value of the table, `s` this CPU's working memory.
    unsafe {
        let at = addr_of_mut!((*slot).lock);
        lock(at);
        copy(addr_of!((*slot).state), addr_of_mut!((*s).state));
        unlock(at);
        (*s).segment = canon::Segment {
            side,
            flags: view.flags,
            fragment: view.fragment,
            seq: view.seq,
            ack: view.ack,
            len: view.len,
        };
    }
    record::describe(s, ctx, view, side, hook, kind::SEGMENT);
    // SAFETY: as above.
    let (flags, client_hook) = unsafe { ((*s).state.flags, (*s).state.client_hook) };
    let wrong = if hook != client_hook ^ side {
        Reason::WrongHook
    } else if flags & flag::KILLED != 0 {
        Reason::Killed
    } else if view.fragment {
        Reason::Fragment
    } else {
        let unread = flags & (flag::OPAQUE | flag::TAINTED | flag::LOST) != 0;
        let n = if view.len != 0 && !unread { record::load_payload(ctx, s, view) } else { 0 };
        if view.len != 0 && !unread && n == 0 {
            Reason::UnreadableHeaders
        } else if !unread && checksum::holds(ctx, s, view, n) == 0 {
            Reason::BadChecksum
        } else {
            count(Counter::Control);
            let n = if nat::is_on() && hook == HOOK_OUT && n != 0 { nat::control::rewrite(side, n) } else { n };
            if n == nat::control::UNKNOWN {
                count_reason(Reason::InsideUnknown);
                count(Counter::ControlDropped);
                return DROP;
            }
            // What was rewritten is judged as it goes on. SAFETY: as above.
            let view = if nat::is_on() { unsafe { &*addr_of!((*s).seen) } } else { view };
            let made = consider(s, policy);
            record::set_made(s, Made(made));
            return finish(ctx, view, s, slot, n | if unread { UNREAD } else { 0 });
        }
    };
    record::stray(s, wrong as u16);
    if policy.mode == mode::OBSERVE {
        return PASS;
    }
    count(Counter::ControlDropped);
    DROP
}

/// Judges the segment in the working memory, and opens what it announces.
#[inline(always)]
fn consider(s: *mut Scratch, policy: &KernelPolicy) -> u64 {
    let made = Made(ftp_judge());
    if !made.has(bit::OPEN) {
        return made.0;
    }
    let why = if rules::is_closed(policy) {
        Reason::DaemonLoss
    } else if open(s, policy, made.0) != Outcome::Done as u32 {
        Reason::LeftToDaemon
    } else {
        return made.0;
    };
    made.0 & (bit::FIN | bit::RESET | bit::REVOKE) | Made::blind(why).0
}

/// An opaque or tainted segment, whose bytes nobody wants.
const UNREAD: u32 = 1 << 31;

/// Judges the segment in the working memory: a [`Made`]. A global function, which the verifier looks at once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ftp_judge() -> u64 {
    let (Some(policy), Some(s)) = (rules::policy(), scratch::scratch(OF_HOOKS)) else { return 0 };
    // SAFETY: `s` is this CPU's working memory; the reader writes only its slots.
    unsafe {
        let j = canon::judge(
            InScratch(s),
            &*addr_of!((*s).segment),
            &*addr_of!((*s).key),
            &*addr_of!((*s).state),
            policy,
            InTables(policy, s),
        );
        (*s).hash = j.hash;
        j.made.0
    }
}

/// Opens the pinhole of an announcement; 0 or an [`Outcome`].
#[inline(never)]
fn open(s: *mut Scratch, policy: &KernelPolicy, made: u64) -> u32 {
    let made = Made(made);
    // SAFETY: `s` is this CPU's working memory.
    unsafe {
        let mode = canon::opened_kind(&*addr_of!((*s).state), made);
        let active = mode == pending::PORT || mode == pending::EPRT;
        let source_20 = active && policy.flags & policy_flag::SOURCE_20 != 0;
        let key = canon::pinhole_key(&*addr_of!((*s).key), (*s).state.client_hook, mode, made.port());
        // The stack of this way is used up.
        let hole = addr_of_mut!((*s).hole);
        *hole = PinholeState {
            session: (*s).state.id,
            deadline: now().wrapping_add(policy.timeout),
            seq: (*s).segment.seq,
            mode,
            flags: if source_20 { pinhole_flag::SOURCE_20 } else { 0 },
            control: [(*s).key.client_port, (*s).key.server_port],
            inside_port: if nat::is_on() && key.hook == HOOK_IN {
                nat::inside_port(&*addr_of!((*s).key), (*s).state.id, made.port() as u32) as u16
            } else {
                0
            },
            ..PinholeState::default()
        };
        if active {
            (*s).record.endpoint = (*s).key.client;
        }
        // Kept beside the snapshot: `commit` makes it the session's.
        (*s).opened = key;
        // What it replaces goes when the segment is committed.
        pinhole::open(&*addr_of!((*s).opened), &*hole.cast(), policy.per_client, &*addr_of!((*s).state.pinhole))
    }
}

/// Records, commits, and lets pass. What was made of the segment stands in the record; `n` is the number of payload
/// bytes in the buffer.
#[inline(never)]
fn finish(ctx: &TcContext, view: &View, s: *mut Scratch, slot: *mut SessionSlot, n: u32) -> i32 {
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

/// Remembers that the two hosts have a blind session: a SYN between them may be ahead of the daemon.
#[inline(never)]
fn note_blind(s: *mut Scratch) {
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
        crate::util::count_code(made.reason() & 0x7f);
    }
}

const _: () = assert!(flag::FIN_CLIENT << 1 == flag::FIN_SERVER);
const _: () = assert!(SEGMENT_MAX as usize == ftp_helper_common::record::CHUNK && (Outcome::Done as u32) == 0);
