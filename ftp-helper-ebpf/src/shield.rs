//! The shield: in XDP, before the stack has made anything of a packet, first SYNs are dropped that the guard at TC ingress
//! would drop.
//!
//! It only looks. What it does not drop for certain goes on, to be judged at TC ingress as if there were no shield: there
//! pinholes are bound, SYNs that came too early are kept, and fragments and headers that can't be followed are dropped.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    programs::XdpContext,
};
use ftp_helper_common::{policy::mode, tcp};

use crate::{
    frame::Frame as _,
    guard,
    packet::{self, Kind},
    rules,
    scratch::{self, OF_HOOKS},
};

/// `LINK` is the length of the link-layer header.
#[inline(always)]
pub fn shield<const LINK: u32>(ctx: &XdpContext) -> u32 {
    let mut view = packet::View::place();
    // SAFETY: integers and booleans; whoever reads one of them reads what `view` has set.
    let view = unsafe { &mut *view.as_mut_ptr() };
    if !matches!(packet::view::<LINK>(ctx, view), Kind::Tcp) || view.flags & (tcp::SYN | tcp::ACK) != tcp::SYN {
        return XDP_PASS;
    }
    if rules::is_control(view.destination_port) || rules::is_control(view.source_port) {
        return XDP_PASS;
    }
    // Where drivers strip other headers before it, some leave them in sight of XDP: what does not end where its IP header
    // says was not read aright. (Ethernet pads short frames.)
    if LINK == 0 && view.payload.wrapping_add(view.len) != ctx.total() {
        return XDP_PASS;
    }
    let (Some(policy), Some(s)) = (rules::policy(), scratch::scratch(OF_HOOKS)) else { return XDP_PASS };
    // In mode `mark` the ruleset decides, and `observe` drops nothing.
    if policy.mode == mode::DROP && guard::shields(ctx, view, s, policy) { XDP_DROP } else { XDP_PASS }
}
