//! For `cargo xtask bench path`: what a control segment costs at the least. The calls into the kernel that none can do
//! without, and nothing else: no reading, no judging, no changes.

use core::ptr::addr_of_mut;

use aya_ebpf::{bindings::bpf_spin_lock, programs::TcContext};
use ftp_helper_common::{
    key::{CLIENT, HOOK_IN},
    record::kind,
    state::PinholeState,
};

use crate::{
    maps::{CLIENTS, PINHOLES, PinholeSlot, SESSIONS},
    packet::{self, Kind},
    programs::{DROP, PASS},
    record,
    scratch::{self, OF_HOOKS, Scratch},
    util::{fetch_add, lock, unlock},
};

/// A control segment: its session is found, locked to be read and locked to be written; its bytes are copied and
/// recorded. With `pinhole`, one is opened and taken back, and counted for its client. The packet is the client's.
#[inline(always)]
pub fn run(ctx: &TcContext, pinhole: bool) -> i32 {
    let mut view = packet::View::place();
    // SAFETY: integers and booleans; whoever reads one of them reads what `view` has set.
    let view = unsafe { &mut *view.as_mut_ptr() };
    if packet::view::<14>(ctx, view) != Kind::Tcp {
        return DROP;
    }
    let Some(s) = scratch::scratch(OF_HOOKS) else { return DROP };
    if !view.ends(ctx, s) {
        return DROP;
    }
    // SAFETY: `s` is this CPU's working memory, `slot` a live value of the table.
    unsafe {
        let (ends, key) = (&*addr_of_mut!((*s).ends), addr_of_mut!((*s).key));
        (*key).client = ends.initiator;
        (*key).server = ends.responder;
        (*key).client_port = ends.initiator_port;
        (*key).server_port = ends.responder_port;
        let Some(slot) = SESSIONS.get_ptr_mut(&*key) else { return DROP };
        let at = addr_of_mut!((*slot).lock);
        lock(at);
        unlock(at);
        let n = record::load_payload(ctx, s, view);
        if pinhole && !open_and_remove(s) {
            return DROP;
        }
        record::describe(s, ctx, view, CLIENT, HOOK_IN, kind::SEGMENT);
        if !record::segment(ctx, s, view, n, false) {
            return DROP;
        }
        lock(at);
        unlock(at);
    }
    PASS
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
