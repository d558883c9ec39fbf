//! For the benchmarks: what a control segment, and a whole transfer, cost at the least. The calls into the kernel that none
//! can do without, and nothing else: no judging, no changes.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::{EbpfContext as _, bindings::__sk_buff, programs::TcContext};
use ftp_helper_common::{
    key::{CLIENT, HOOK_IN, HOOK_OUT, SERVER},
    record::kind,
    state::ClientState,
    tcp,
};

use crate::{
    flow,
    maps::{CLIENTS, FLOWS, FlowSlot, PINHOLES, PinholeSlot, SESSIONS, SessionSlot},
    packet::{self, Kind, View},
    pinhole,
    programs::{DROP, PASS},
    record, rules,
    scratch::{self, OF_HOOKS, Scratch},
    util::{fetch_add, lock, now, unlock, zero},
};

/// Only an entry that is not there yet is written.
const NO_EXIST: u64 = 1;

/// Which control segments open a pinhole, and take it back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Opens {
    /// None.
    Nothing,
    /// Each.
    All,
    /// The server's that begin with 227 or 229.
    Replies,
}

/// A control segment by itself. What is not of a control connection passes.
#[inline(always)]
pub fn run(ctx: &TcContext, opens: Opens) -> i32 {
    let mut view = View::place();
    // SAFETY: integers and booleans; whoever reads one of them reads what `view` has set.
    let view = unsafe { &mut *view.as_mut_ptr() };
    if packet::view::<14>(ctx, view) != Kind::Tcp {
        return PASS;
    }
    let to_control = rules::is_control(view.destination_port);
    if !to_control && !rules::is_control(view.source_port) {
        return PASS;
    }
    control(ctx, view, to_control, opens)
}

/// All of a transfer: the segments of its control connection, and of its data connection the SYN, the SYN-ACK and the FINs. All
/// else passes.
#[inline(always)]
pub fn transfer(ctx: &TcContext) -> i32 {
    let mut view = View::place();
    // SAFETY: integers and booleans; whoever reads one of them reads what `view` has set.
    let view = unsafe { &mut *view.as_mut_ptr() };
    if packet::view::<14>(ctx, view) != Kind::Tcp {
        return PASS;
    }
    let to_control = rules::is_control(view.destination_port);
    if to_control || rules::is_control(view.source_port) {
        return control(ctx, view, to_control, Opens::Replies);
    }
    if view.flags & (tcp::SYN | tcp::FIN) == 0 {
        return PASS;
    }
    data(ctx, view)
}

/// A control segment with a payload: its session is found, locked to be read and locked to be written; its bytes are copied and
/// recorded. One that opens a pinhole opens it and takes it back, and counts it for its client. The first segment of a connection
/// makes its session and its client's count.
#[inline(always)]
fn control(ctx: &TcContext, view: &View, to_control: bool, opens: Opens) -> i32 {
    if view.len == 0 {
        return PASS;
    }
    let Some(s) = scratch::scratch(OF_HOOKS) else { return DROP };
    if !view.ends(ctx, s) {
        return DROP;
    }
    let side = if to_control { CLIENT } else { SERVER };
    // SAFETY: `s` is this CPU's working memory, `slot` a live value of the table.
    unsafe {
        let (ends, key) = (&*addr_of_mut!((*s).ends), addr_of_mut!((*s).key));
        if to_control {
            (*key).client = ends.initiator;
            (*key).server = ends.responder;
            (*key).client_port = ends.initiator_port;
            (*key).server_port = ends.responder_port;
        } else {
            (*key).client = ends.responder;
            (*key).server = ends.initiator;
            (*key).client_port = ends.responder_port;
            (*key).server_port = ends.initiator_port;
        }
        let Some(slot) = SESSIONS.get_ptr_mut(&*key) else { return begin(s) };
        let at = addr_of_mut!((*slot).lock);
        lock(at);
        unlock(at);
        let n = record::load_payload(ctx, s, view);
        let opened = match opens {
            Opens::Nothing => false,
            Opens::All => true,
            Opens::Replies => side == SERVER && n >= 3 && announces(s),
        };
        if opened && !open_and_remove(s) {
            return DROP;
        }
        record::describe(s, ctx, view, side, HOOK_IN, kind::SEGMENT);
        if !record::segment(ctx, s, view, n, false) {
            return DROP;
        }
        lock(at);
        unlock(at);
    }
    PASS
}

/// Whether the bytes in hand, three at least, begin as a reply does that announces a port.
#[inline(always)]
fn announces(s: *mut Scratch) -> bool {
    // SAFETY: `s` is this CPU's working memory; the buffer begins at a multiple of eight.
    let code = u32::from_be(unsafe { addr_of!((*s).buffer).cast::<u32>().read() }) >> 8;
    code == u32::from_be_bytes(*b"\x00227") || code == u32::from_be_bytes(*b"\x00229")
}

/// The session that is not there yet, and its client.
#[inline(never)]
fn begin(s: *mut Scratch) -> i32 {
    // SAFETY: `s` is this CPU's working memory; a state of zeroes is one.
    let made = unsafe {
        zero(addr_of_mut!((*s).state));
        (*s).state_lock = [0; 2];
        let slot = &*addr_of!((*s).state).cast::<SessionSlot>();
        let key = &*addr_of!((*s).key);
        CLIENTS.insert(&key.client, &ClientState::default(), 0).is_ok() && SESSIONS.insert(key, slot, 0).is_ok()
    };
    if made { PASS } else { DROP }
}

/// An insertion and a removal, and the client's two look-ups.
#[inline(never)]
fn open_and_remove(s: *mut Scratch) -> bool {
    // SAFETY: `s` is this CPU's working memory, a state of zeroes one; `c` a live value of the table.
    unsafe {
        let key = addr_of_mut!((*s).pin);
        let client = (*s).key.client;
        (*key).initiator = client;
        (*key).responder = (*s).key.server;
        // No two sessions at once have the same: what one CPU inserts no other finds there.
        (*key).port = (*s).key.client_port;
        (*key).hook = HOOK_IN;
        (*key).pad = 0;
        zero(addr_of_mut!((*s).hole));
        (*s).hole_lock = [0; 2];
        let slot = &*addr_of!((*s).hole).cast::<PinholeSlot>();
        for add in [1, u64::MAX] {
            let Some(c) = CLIENTS.get_ptr_mut(&client) else { return false };
            fetch_add(c.cast(), add);
        }
        PINHOLES.insert(&*key, slot, NO_EXIST).is_ok() && PINHOLES.remove(&*key).is_ok()
    }
}

/// What begins and ends a data connection.
#[inline(never)]
fn data(ctx: &TcContext, view: &View) -> i32 {
    let Some(s) = scratch::scratch(OF_HOOKS) else { return DROP };
    if !view.ends(ctx, s) {
        return DROP;
    }
    let hook = if came_in(ctx) { HOOK_IN } else { HOOK_OUT };
    let done = if view.flags & tcp::SYN == 0 {
        end(s, hook)
    } else if view.flags & tcp::ACK == 0 {
        seek(s, hook);
        true
    } else {
        connect(s, hook)
    };
    if done { PASS } else { DROP }
}

/// Whether the packet has come by the interface that it is at, rather than leaves by it.
#[inline(always)]
fn came_in(ctx: &TcContext) -> bool {
    // SAFETY: the context is readable.
    unsafe {
        let skb = ctx.as_ptr().cast::<__sk_buff>();
        (*skb).ingress_ifindex == (*skb).ifindex
    }
}

/// The SYN: its pinhole is looked for. There is none, since its announcement has taken it back.
#[inline(always)]
fn seek(s: *mut Scratch, hook: u8) {
    // SAFETY: `s` is this CPU's working memory.
    let ends = unsafe { &*addr_of!((*s).ends) };
    let key = pinhole::key_in(s, &ends.initiator, &ends.responder, ends.responder_port, hook);
    let _ = PINHOLES.get_ptr(key);
}

/// The SYN-ACK: the connection's entry, and its record. The entry is removed at once, as a real one is at the connection's end,
/// so that none is left behind whatever becomes of the connection; what is removed of a real pinhole here, its announcement has removed.
#[inline(always)]
fn connect(s: *mut Scratch, hook: u8) -> bool {
    let tuple = flow::tuple_in(s, hook);
    // SAFETY: `s` is this CPU's working memory, and whatever lies there is a state: integers.
    let made = unsafe {
        (*s).flow_lock = [0; 2];
        FLOWS.insert(tuple, &*addr_of!((*s).flow).cast::<FlowSlot>(), NO_EXIST).is_ok() && FLOWS.remove(tuple).is_ok()
    };
    made && tell(s, kind::FLOW_START)
}

/// A FIN: its connection is looked for. The connection's end is recorded once, as it is in truth: with the FIN that arrives, which of a
/// download from the inside is the second.
#[inline(always)]
fn end(s: *mut Scratch, hook: u8) -> bool {
    let _ = FLOWS.get_ptr(flow::tuple_in(s, hook));
    hook == HOOK_OUT || tell(s, kind::FLOW_END)
}

/// Writes a record of a data connection; nobody reads what is in it.
#[inline(always)]
fn tell(s: *mut Scratch, record_kind: u8) -> bool {
    // SAFETY: `s` is this CPU's working memory.
    unsafe {
        let told = addr_of_mut!((*s).told);
        (*told).kind = record_kind;
        (*told).time = now();
        record::flow(&*told)
    }
}
