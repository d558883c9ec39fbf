//! The policy, as the tables hold it.

use core::ptr::addr_of_mut;

use aya_ebpf::programs::TcContext;
use ftp_helper_common::{
    addr::Addr,
    canon::Rules,
    policy::{KernelPolicy, MAX_CONTROL_PORTS, NET_PREFIX_BASE, NetKey, on_loss},
};

use crate::{
    maps::{CONTROL_PORTS, HEARTBEAT, NO_DATA, Net, OUTSIDE, POLICY, SERVERS},
    scratch::Scratch,
    util::now,
};

const _: () = assert!(size_of::<Net>() == 28 && size_of::<NetKey>() == 24);

/// The policy in force.
#[inline(always)]
pub fn policy() -> Option<&'static KernelPolicy> {
    POLICY.get(0)
}

/// Whether the port is a control port.
#[inline(always)]
pub fn is_control(port: u16) -> bool {
    let ports = core::ptr::addr_of!(CONTROL_PORTS).cast::<u16>();
    let mut i = 0;
    while i < MAX_CONTROL_PORTS {
        // SAFETY: within the array. The verifier knows the values and drops the comparisons with 0.
        let p = unsafe { ports.add(i).read_volatile() };
        if p == 0 {
            return false;
        }
        if p == port {
            return true;
        }
        i += 1;
    }
    false
}

/// An LPM key for a whole address, in the working memory: valid until the next one.
#[inline(always)]
pub fn net<'a>(s: *mut Scratch, policy: &KernelPolicy, addr: &Addr) -> &'a Net {
    // SAFETY: `s` is this CPU's working memory; the key is a prefix length and a [`NetKey`], all of them words.
    unsafe {
        let key = addr_of_mut!((*s).net).cast::<u32>();
        key.write(NET_PREFIX_BASE + 128);
        key.add(1).write(policy.generation & 1);
        key.add(2).write(0);
        let words = addr.words();
        let mut i = 0;
        while i < 4 {
            key.add(3 + i).write(words[i]);
            i += 1;
        }
        &*key.cast::<Net>()
    }
}

/// Whether the daemon has not been heard of for too long.
#[inline(always)]
pub fn is_stale(policy: &KernelPolicy) -> bool {
    let Some(beat) = HEARTBEAT.get(0) else { return true };
    now().wrapping_sub(*beat) as i64 > policy.stale_after as i64
}

/// Whether the daemon is gone and policy says to close.
#[inline(always)]
pub fn is_closed(policy: &KernelPolicy) -> bool {
    policy.on_loss == on_loss::CLOSE && is_stale(policy)
}

/// Whether a packet at the egress hook came in by an outside interface: then it was judged there.
#[inline(always)]
pub fn came_from_outside(ctx: &TcContext) -> bool {
    // SAFETY: the context is readable.
    let ifindex = unsafe { (*ctx.skb.skb).ingress_ifindex };
    ifindex != 0 && OUTSIDE.get_ptr(ifindex).is_some()
}

/// The range of a server that its encrypted sessions open.
#[inline(always)]
pub fn opaque_range(s: *mut Scratch, policy: &KernelPolicy, server: &Addr) -> Option<(u16, u16)> {
    let entry = SERVERS.get(net(s, policy, server))?;
    (entry.opaque != 0 && entry.high != 0).then_some((entry.low, entry.high))
}

/// The tables as the reader asks for them.
#[derive(Clone, Copy)]
pub struct InTables<'a>(pub &'a KernelPolicy, pub *mut Scratch);

impl Rules for InTables<'_> {
    #[inline(always)]
    fn port_denied(self, port: u32) -> bool {
        let Some(set) = NO_DATA.get(self.0.generation & 1) else { return true };
        let word = (port >> 6) & 1023;
        // SAFETY: the mask keeps the position inside the array.
        let bits = unsafe { set.0.as_ptr().add(word as usize).read() };
        bits >> (port & 63) & 1 != 0
    }

    #[inline(always)]
    fn passive_range(self, server: &Addr) -> (u32, u32) {
        match SERVERS.get(net(self.1, self.0, server)) {
            Some(s) if s.high != 0 => (s.low as u32, s.high as u32),
            _ => (0, 65535),
        }
    }
}
