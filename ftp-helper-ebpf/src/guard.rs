//! First SYNs into guarded networks.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, BPF_F_INGRESS},
    helpers::{bpf_redirect, bpf_skb_load_bytes},
    programs::{TcContext, XdpContext},
};
use aya_log_ebpf::debug;
use ftp_helper_common::{
    addr::Addr,
    counter::Counter,
    key::{HOOK_IN, HOOK_OUT},
    policy::{FEW_MAX, FewNet, KernelPolicy, MANY, PORT_CHUNKS, PORTS_PER_CHUNK, mode, policy_flag},
    reason::Reason,
    record::{MAX_PARKED_FRAME, SynRecord, kind},
    state::{BlindPair, bound, pinhole_flag},
    tcp,
};

use crate::{
    blind, flow,
    frame::Frame,
    maps::{BLIND_PAIRS, DENIED, FEW, FLOWS, INITIATORS, NETS, PARKED, PINHOLES, PORTS, UNPARK_MARK},
    mark, nat,
    packet::View,
    pinhole,
    programs::{DROP, PASS},
    range, record,
    rules::{self, net},
    scratch::{self, OF_HOOKS, Scratch, launder},
    util::{compare_exchange, count, count_code, increment, now, zero},
};

/// A SYN without ACK.
#[inline(never)]
pub fn guard(ctx: &TcContext, view: &View, hook: u8) -> i32 {
    let (Some(policy), Some(s)) = (rules::policy(), scratch::scratch(OF_HOOKS)) else { return PASS };
    if mark::is_unparked(ctx, hook) {
        return unpark(ctx, view, s, policy);
    }
    match judge::<true>(ctx, view, s, policy, hook, || hook == HOOK_OUT && rules::came_from_outside(ctx)) {
        Word::Left => {
            mark::put(ctx, policy, hook, false);
            PASS
        }
        Word::Negotiated => permit(ctx, policy, hook, Counter::SynPassed),
        Word::InRange => permit(ctx, policy, hook, Counter::SynInRange),
        Word::Denied(reason) => deny(ctx, view, s, hook, reason),
    }
}

/// Whether an arriving SYN is one that the guard at TC ingress would drop for good. Then it is counted and told.
#[inline(always)]
pub fn shields(ctx: &XdpContext, view: &View, s: *mut Scratch, policy: &KernelPolicy) -> bool {
    let Word::Denied(reason) = judge::<false>(ctx, view, s, policy, HOOK_IN, || false) else { return false };
    let time = now();
    if may_be_early(policy, view, reason, time) && parkable(ctx, view, s).is_some() {
        return false;
    }
    count(Counter::SynShielded);
    Denied { hook: HOOK_IN, drop: true, reason, ifindex: ctx.ingress_ifindex() as u32, time }.tell(s);
    debug!(ctx, "SYN to port {} denied in XDP: {}", view.destination_port, reason);
    true
}

/// What the guard says of a SYN.
enum Word {
    /// It is no business of ours.
    Left,
    /// There is a pinhole for it.
    Negotiated,
    /// An encrypted session's range covers it.
    InRange,
    /// Nobody negotiated it, or not so: the reason's code.
    Denied(u16),
}

/// Judges a SYN; its ends are in the working memory then, unless it is left alone. With `BIND` its pinhole is bound to it.
/// `judged` tells whether another hook has judged it.
#[inline(always)]
fn judge<const BIND: bool>(
    ctx: &impl Frame,
    view: &View,
    s: *mut Scratch,
    policy: &KernelPolicy,
    hook: u8,
    judged: impl FnOnce() -> bool,
) -> Word {
    let bits = if hook == HOOK_IN { policy.guards_in } else { policy.guards_out };
    let bits = bits & guards_of_port(policy, view.destination_port);
    let negotiable = BIND && view.destination_port >= LOWEST_PORT;
    if (bits == 0 && !negotiable) || !view.ends(ctx, s) {
        return Word::Left;
    }
    // The pinhole first: where there is one nothing else needs to be asked. One that no guard asks for is bound as
    // well, so that its connection is accounted for and keeps its session alive.
    let reason = if view.fragment {
        Reason::Fragment as u16
    } else if view.flags & (tcp::FIN | tcp::RST) != 0 {
        Reason::SynFlags as u16
    } else if view.destination_port >= LOWEST_PORT {
        pass_by_pinhole::<BIND>(view, s, hook)
    } else {
        Reason::NoPinhole as u16
    };
    if reason == 0 {
        return Word::Negotiated;
    }
    if bits == 0 || !is_guarded(s, policy, bits) || judged() {
        return Word::Left;
    }
    if reason == Reason::NoPinhole as u16 && is_repeated(view, s, hook) {
        return Word::Negotiated;
    }
    if policy.flags & policy_flag::RANGES != 0
        && !view.fragment
        && reason != Reason::SynFlags as u16
        && range::admits(view, s, policy, hook)
    {
        return Word::InRange;
    }
    Word::Denied(reason)
}

/// Lets a SYN through that somebody negotiated.
#[inline(always)]
fn permit(ctx: &TcContext, policy: &KernelPolicy, hook: u8, counter: Counter) -> i32 {
    mark::put(ctx, policy, hook, true);
    count(counter);
    PASS
}

/// TCP that names the hosts to pass: whom it reaches, its destination address does not tell.
#[inline(never)]
pub fn source_routed() -> i32 {
    count_code(Reason::SourceRoute as u16);
    match rules::policy() {
        Some(policy) if policy.mode != mode::OBSERVE => DROP,
        _ => PASS,
    }
}

/// A fragment, or a packet whose headers can't be followed: towards a guarded network, or of a control port as far as its
/// ports can be read, it does not pass.
#[inline(never)]
pub fn fragment(ctx: &TcContext, view: &View, hook: u8, reason: u16) -> i32 {
    let (Some(policy), Some(s)) = (rules::policy(), scratch::scratch(OF_HOOKS)) else { return PASS };
    let bits = if hook == HOOK_IN { policy.guards_in } else { policy.guards_out };
    let control = rules::is_control(view.destination_port) || rules::is_control(view.source_port);
    if !control && (bits == 0 || !view.ends(ctx, s) || !is_guarded(s, policy, bits)) {
        return PASS;
    }
    if hook == HOOK_OUT && rules::came_from_outside(ctx) {
        return PASS;
    }
    count_code(reason & 0x7f);
    if policy.mode == mode::OBSERVE { PASS } else { DROP }
}

/// Looks for the pinhole of this SYN, and binds it with `BIND`; 0, or why there is none.
#[inline(never)]
fn pass_by_pinhole<const BIND: bool>(view: &View, s: *mut Scratch, hook: u8) -> u16 {
    // SAFETY: `s` is this CPU's working memory; `p` is a live value of the table, changed under its lock only.
    unsafe {
        let ends = &*addr_of!((*s).ends);
        let key = pinhole::key_in(s, &ends.initiator, &ends.responder, ends.responder_port, hook);
        let Some(p) = PINHOLES.get_ptr_mut(key) else { return Reason::NoPinhole as u16 };
        if (*p).state.deadline <= now() {
            return Reason::Expired as u16;
        }
        if (*p).state.flags & pinhole_flag::SOURCE_20 != 0 && view.source_port != 20 {
            return Reason::SourcePortNot20 as u16;
        }
        let wanted = bound(view.seq, view.source_port);
        let was = (*p).state.bound;
        // Before anybody counts on it; a SYN that comes again has its translation.
        if BIND && nat::is_on() && hook == HOOK_IN && was == 0 && !nat::learn(&*addr_of!((*p).state)) {
            return Reason::FlowsFull as u16;
        }
        if was == wanted {
            return 0;
        }
        // Of two SYNs at once, one binds it.
        let is_ours = was == 0 || was as u16 == view.source_port;
        if is_ours && (!BIND || compare_exchange(addr_of_mut!((*p).state.bound), was, wanted) == was) {
            return 0;
        }
        Reason::OtherSourcePort as u16
    }
}

/// Whether this SYN's pinhole is consumed already: the same SYN may still come again, until its sender has seen the
/// answer.
#[inline(always)]
fn is_repeated(view: &View, s: *mut Scratch, hook: u8) -> bool {
    flow::began_lately(view.destination_port)
        // SAFETY: a live value of the table; the field is set before the entry is.
        && FLOWS.get_ptr(flow::tuple_in(s, hook)).is_some_and(|f| unsafe { (*f).state.isn[0] == view.seq })
}

/// Keeps a SYN that may only have come too early; any other is denied.
#[inline(never)]
fn deny(ctx: &TcContext, view: &View, s: *mut Scratch, hook: u8, reason: u16) -> i32 {
    let Some(policy) = rules::policy() else { return PASS };
    let drop = policy.mode == mode::DROP;
    let syn = Denied { hook, drop, reason, ifindex: record::ifindex(ctx), time: now() };
    if may_be_early(policy, view, reason, syn.time) && !mark::comes_again(ctx, hook) {
        syn.describe(s);
        if park(ctx, view, s) {
            return DROP;
        }
    }
    mark::put(ctx, policy, hook, false);
    syn.tell(s);
    if !drop {
        return PASS;
    }
    debug!(ctx, "SYN to port {} denied: {}", view.destination_port, reason);
    DROP
}

/// Whether a SYN that is denied may only have come too early, so that it is worth a moment.
#[inline(always)]
fn may_be_early(policy: &KernelPolicy, view: &View, reason: u16, time: u64) -> bool {
    (reason == Reason::NoPinhole as u16 || reason == Reason::OtherSourcePort as u16)
        && policy.mode != mode::OBSERVE
        && view.len == 0
        && policy.flags & policy_flag::NO_PARKING == 0
        && UNPARK_MARK.load() != 0
        && blind::any_blind(time)
        && !rules::is_stale(policy)
}

/// A SYN that is denied, beside its ends, which are in the working memory.
pub struct Denied {
    pub hook: u8,
    pub drop: bool,
    pub reason: u16,
    pub ifindex: u32,
    pub time: u64,
}

impl Denied {
    /// Counts it, and tells it unless too many are.
    #[inline(always)]
    pub fn tell(&self, s: *mut Scratch) {
        // SAFETY: `s` is this CPU's working memory.
        let port = unsafe { (*s).ends.responder_port } as u32;
        let half = if self.drop { 0 } else { PORT_CHUNKS / 2 };
        if let Some(chunk) = DENIED.get_ptr_mut(half + port / PORTS_PER_CHUNK as u32) {
            // SAFETY: the mask keeps the position inside the entry.
            unsafe { increment(addr_of_mut!((*chunk).0).cast::<u64>().add((port & 63) as usize)) };
        }
        count_code(self.reason & 0x7f);
        count(if self.drop { Counter::SynDenied } else { Counter::SynWouldDeny });
        if may_tell(s, self.time) {
            record::denied(self.describe(s));
        } else {
            count(Counter::TelemetryLost);
        }
    }

    /// Its record, in the working memory.
    #[inline(always)]
    fn describe<'a>(&self, s: *mut Scratch) -> &'a SynRecord {
        // SAFETY: `s` is this CPU's working memory.
        unsafe {
            let syn = addr_of_mut!((*s).syn);
            (*syn).kind = kind::DENIED;
            (*syn).hook = self.hook;
            (*syn).dropped = self.drop as u8;
            (*syn).pad = 0;
            (*syn).ifindex = self.ifindex;
            (*syn).time = self.time;
            (*syn).key = (*s).ends;
            // The rest describes a parked frame.
            zero(addr_of_mut!((*syn).reason).cast::<[u32; 3]>());
            (*syn).reason = self.reason;
            &*syn
        }
    }
}

/// Whether one more denied SYN is told: a flood of them is counted, by reason and by port, but not told one by one.
#[inline(always)]
fn may_tell(s: *mut Scratch, time: u64) -> bool {
    // SAFETY: `s` is this CPU's working memory.
    unsafe {
        let window = time >> TELL_WINDOW;
        let at = addr_of_mut!((*s).told_window);
        if *at != window {
            *at = window;
            (*s).told_count = 0;
        }
        (*s).told_count += 1;
        (*s).told_count <= TELL_MAX
    }
}

/// A window of 2^26 ns, some 67 ms, and how many denied SYNs each CPU tells in one.
const TELL_WINDOW: u32 = 26;
const TELL_MAX: u64 = 256;

/// The budget that a whole SYN may be kept on, if its two hosts have a blind session and some of it is left.
#[inline(always)]
fn parkable(ctx: &impl Frame, view: &View, s: *mut Scratch) -> Option<*mut BlindPair> {
    let len = ctx.total();
    if len > MAX_PARKED_FRAME as u32 || len < view.l3 + 40 {
        return None;
    }
    // SAFETY: `s` is this CPU's working memory.
    let pair = unsafe { blind::pair(&(*s).ends.initiator, &(*s).ends.responder) };
    let entry = BLIND_PAIRS.get_ptr_mut(&pair)?;
    // SAFETY: a value of the table; each field is one word.
    unsafe { ((*entry).until >= now() && (*entry).budget != 0).then_some(entry) }
}

/// Keeps a whole SYN for the daemon, if its hosts have a budget for it; whether it did. The daemon sends it on, or has it
/// counted and told as denied after all (`op::DENY`).
#[inline(never)]
fn park(ctx: &TcContext, view: &View, s: *mut Scratch) -> bool {
    let Some(entry) = parkable(ctx, view, s) else { return false };
    // SAFETY: a value of the table. Two CPUs may take the same piece of the budget: it is a bound on nuisance only.
    unsafe { (*entry).budget -= 1 };
    let len = ctx.len();
    let n = (launder(s, len - 1) & (MAX_PARKED_FRAME as u32 - 1)) + 1;
    // SAFETY: the context is readable; the frame goes behind the record in this CPU's working memory, which has room
    // for it.
    unsafe {
        let skb = ctx.as_ptr().cast::<__sk_buff>();
        let at = s.cast::<u8>();
        let header = at.cast::<SynRecord>();
        *header = (*s).syn;
        (*header).kind = kind::PARKED;
        (*header).frame_len = n as u16;
        (*header).ethertype = u16::from_be((*skb).protocol as u16);
        (*header).vlan = if (*skb).vlan_present != 0 {
            (u16::from_be((*skb).vlan_proto as u16) as u32) << 16 | (*skb).vlan_tci & 0xffff
        } else {
            0
        };
        if bpf_skb_load_bytes(ctx.as_ptr(), 0, at.add(size_of::<SynRecord>()).cast(), n) != 0 {
            return false;
        }
        let bytes = core::slice::from_raw_parts(at, size_of::<SynRecord>() + n as usize);
        if PARKED.output::<[u8]>(bytes, FORCE_WAKEUP).is_err() {
            return false;
        }
    }
    count(Counter::SynParked);
    true
}

const FORCE_WAKEUP: u64 = 2;
/// No pinhole is for a port below (RFC 2577 section 3).
pub const LOWEST_PORT: u16 = 1024;
const _: () = assert!(core::mem::offset_of!(SynRecord, reason) + 12 == size_of::<SynRecord>());
const _: () = assert!(size_of::<SynRecord>() + MAX_PARKED_FRAME <= size_of::<Scratch>());

/// Turns a parked SYN round, so that it arrives once more: there it finds its pinhole or does not. A forged mark gains
/// nothing, since without a live pinhole the packet goes no further, or in mode `mark` without the mark.
#[inline(always)]
fn unpark(ctx: &TcContext, view: &View, s: *mut Scratch, policy: &KernelPolicy) -> i32 {
    if !view.ends(ctx, s) {
        return DROP;
    }
    // SAFETY: `s` is this CPU's working memory.
    let key = unsafe {
        let ends = &*addr_of!((*s).ends);
        pinhole::key_in(s, &ends.initiator, &ends.responder, ends.responder_port, HOOK_IN)
    };
    if PINHOLES.get_ptr(key).is_none() && policy.mode != mode::MARK {
        return DROP;
    }
    count(Counter::SynUnparked);
    // SAFETY: the helper only notes where the packet goes.
    unsafe { bpf_redirect(record::ifindex(ctx), BPF_F_INGRESS as u64) as i32 }
}

/// The guards that cover a port.
#[inline(always)]
fn guards_of_port(policy: &KernelPolicy, port: u16) -> u64 {
    let chunks = (65536 / PORTS_PER_CHUNK) as u32;
    let index = (policy.generation & 1) * chunks + port as u32 / PORTS_PER_CHUNK as u32;
    let Some(chunk) = PORTS.get_ptr(index) else { return 0 };
    // SAFETY: the mask keeps the position inside the entry.
    unsafe { core::ptr::addr_of!((*chunk).0).cast::<u64>().add((port & 63) as usize).read() }
}

/// The guards of an address, where there are few networks.
#[inline(always)]
fn few_nets(policy: &KernelPolicy, addr: &Addr) -> u64 {
    let Some(few) = FEW.get(policy.generation & 1) else { return 0 };
    let a = addr.words();
    let mut bits = 0;
    let mut i = 0;
    while i < FEW_MAX {
        if i as u32 >= policy.few {
            break;
        }
        let FewNet { guards, addr, mask } = &few.0[i];
        let (n, m) = (addr.words(), mask.words());
        let differ = (a[0] & m[0] ^ n[0]) | (a[1] & m[1] ^ n[1]) | (a[2] & m[2] ^ n[2]) | (a[3] & m[3] ^ n[3]);
        if differ == 0 {
            bits |= *guards;
        }
        i += 1;
    }
    bits
}

/// Whether one of these guards covers the responder's network, and looks at this initiator.
#[inline(always)]
fn is_guarded(s: *mut Scratch, policy: &KernelPolicy, bits: u64) -> bool {
    // SAFETY: `s` is this CPU's working memory.
    let ends = unsafe { &*addr_of!((*s).ends) };
    let nets = if policy.few == MANY {
        let Some(nets) = NETS.get(net(s, policy, &ends.responder)) else { return false };
        *nets
    } else {
        few_nets(policy, &ends.responder)
    };
    let bits = bits & nets;
    if bits & policy.any_initiator != 0 {
        return true;
    }
    if bits == 0 {
        return false;
    }
    INITIATORS.get(net(s, policy, &ends.initiator)).is_some_and(|i| bits & *i != 0)
}
