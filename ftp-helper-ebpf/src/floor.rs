//! For the benchmarks: what a control segment costs at the least. The calls into the kernel that none can do
//! without, and nothing else: no reading, no judging, no changes.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::{bindings::bpf_spin_lock, programs::TcContext};
use ftp_helper_common::{
    key::{CLIENT, HOOK_IN, SERVER},
    record::kind,
    state::{ClientState, PinholeState},
};

use crate::{
    maps::{CLIENTS, PINHOLES, PinholeSlot, SESSIONS, SessionSlot},
    packet::{self, Kind},
    programs::{DROP, PASS},
    record, rules,
    scratch::{self, OF_HOOKS, Scratch},
    util::{fetch_add, lock, unlock, zero},
};

/// A control segment: its session is found, locked to be read and locked to be written; its bytes are copied and
/// recorded. With `pinhole`, one is opened and taken back, and counted for its client. What is not of a control connection passes; the
/// first segment of one makes its session and its client's count.
#[inline(always)]
pub fn run(ctx: &TcContext, pinhole: bool) -> i32 {
    let mut view = packet::View::place();
    // SAFETY: integers and booleans; whoever reads one of them reads what `view` has set.
    let view = unsafe { &mut *view.as_mut_ptr() };
    if packet::view::<14>(ctx, view) != Kind::Tcp {
        return PASS;
    }
    let to_control = rules::is_control(view.destination_port);
    if !to_control && !rules::is_control(view.source_port) || view.len == 0 {
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
        if pinhole && !open_and_remove(s) {
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
    // SAFETY: `s` is this CPU's working memory; `c` a live value of the table.
    unsafe {
        let key = addr_of_mut!((*s).pin);
        let client = (*s).key.client;
        (*key).initiator = client;
        (*key).responder = (*s).key.server;
        (*key).port = 1024;
        (*key).hook = HOOK_IN;
        (*key).pad = 0;
        let slot = PinholeSlot { state: PinholeState::default(), lock: bpf_spin_lock { val: 0 }, pad: 0 };
        for add in [1, u64::MAX] {
            let Some(c) = CLIENTS.get_ptr_mut(&client) else { return false };
            fetch_add(c.cast(), add);
        }
        PINHOLES.insert(&*key, &slot, 1).is_ok() && PINHOLES.remove(&*key).is_ok()
    }
}
