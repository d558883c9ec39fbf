//! The entry points.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use ftp_helper_common::{
    key::{CLIENT, HOOK_IN, HOOK_OUT, SERVER},
    reason::Reason,
    tcp,
};

use crate::{
    command,
    floor::{self, Opens},
    flow, guard, nat,
    packet::{self, Kind},
    rules, shield, watch,
};

/// Hands the packet to the next program and filter (`TCX_NEXT` has the same value).
pub const PASS: i32 = TC_ACT_UNSPEC;
/// Drops the packet.
pub const DROP: i32 = TC_ACT_SHOT;

/// Arriving on an Ethernet interface.
#[classifier]
pub fn ftp_ingress(ctx: TcContext) -> i32 {
    hook::<14>(&ctx, HOOK_IN)
}

/// Leaving by an Ethernet interface.
#[classifier]
pub fn ftp_egress(ctx: TcContext) -> i32 {
    hook::<14>(&ctx, HOOK_OUT)
}

/// Arriving on an interface without a link-layer header (tun, PPP, WireGuard).
#[classifier]
pub fn ftp_ingress_l3(ctx: TcContext) -> i32 {
    hook::<0>(&ctx, HOOK_IN)
}

/// Leaving by an interface without a link-layer header.
#[classifier]
pub fn ftp_egress_l3(ctx: TcContext) -> i32 {
    hook::<0>(&ctx, HOOK_OUT)
}

/// Arriving on an Ethernet interface, in the driver, before the stack sees it. Frames of several buffers are taken (large
/// MTUs): headers that are not in the first one are copied.
#[xdp(frags)]
pub fn ftp_shield(ctx: XdpContext) -> u32 {
    shield::shield::<14>(&ctx)
}

/// The same in generic XDP. There each packet is in one piece, unless the program takes several; then it may be copied, and
/// the copy does not know how long its link-layer header is (seen with Linux 6.18): TC would read it from the wrong place.
#[xdp]
pub fn ftp_shield_generic(ctx: XdpContext) -> u32 {
    shield::shield::<14>(&ctx)
}

/// The same on an interface without a link-layer header, for which there is generic XDP only.
#[xdp]
pub fn ftp_shield_l3(ctx: XdpContext) -> u32 {
    shield::shield::<0>(&ctx)
}

/// What the daemon runs to change the tables; never attached.
#[classifier]
pub fn ftp_command(ctx: TcContext) -> i32 {
    command::run(&ctx)
}

/// What the benchmarks compare with.
#[classifier]
pub fn ftp_empty(_ctx: TcContext) -> i32 {
    PASS
}

/// The same in XDP.
#[xdp(frags)]
pub fn ftp_empty_xdp(_ctx: XdpContext) -> u32 {
    aya_ebpf::bindings::xdp_action::XDP_PASS
}

/// What the benchmarks show as the least that a control segment costs.
#[classifier]
pub fn ftp_floor_segment(ctx: TcContext) -> i32 {
    floor::run(&ctx, Opens::Nothing)
}

/// The same for a segment that opens a pinhole.
#[classifier]
pub fn ftp_floor_pinhole(ctx: TcContext) -> i32 {
    floor::run(&ctx, Opens::All)
}

/// What they show as the least that a whole transfer costs.
#[classifier]
pub fn ftp_floor_transfer(ctx: TcContext) -> i32 {
    floor::transfer(&ctx)
}

/// `LINK` is the length of the link-layer header.
#[inline(always)]
fn hook<const LINK: u32>(ctx: &TcContext, hook: u8) -> i32 {
    let mut view = packet::View::place();
    // SAFETY: integers and booleans; whoever reads one of them reads what `view` has set.
    let view = unsafe { &mut *view.as_mut_ptr() };
    match packet::view::<LINK>(ctx, view) {
        Kind::Other => return PASS,
        Kind::Fragment => return guard::fragment(ctx, view, hook, Reason::Fragment as u16),
        Kind::Unreadable => return guard::fragment(ctx, view, hook, Reason::UnreadableHeaders as u16),
        Kind::SourceRouted => return guard::source_routed(),
        Kind::Icmp => {
            nat::icmp(ctx, view, hook);
            return PASS;
        }
        Kind::Tcp => {}
    }
    let to_control = rules::is_control(view.destination_port);
    let from_control = rules::is_control(view.source_port);
    if to_control || from_control {
        if to_control && from_control {
            return watch::ambiguous();
        }
        return watch::watch(ctx, view, if to_control { CLIENT } else { SERVER }, hook);
    }
    if !nat::is_on() {
        return data(ctx, view, hook);
    }
    if hook == HOOK_OUT {
        let verdict = nat::outward(ctx, view);
        return if verdict == PASS { data(ctx, view, hook) } else { verdict };
    }
    let verdict = data(ctx, view, hook);
    if verdict == PASS
        && let Some(policy) = rules::policy()
    {
        return nat::inward(ctx, view, policy);
    }
    verdict
}

/// A packet that is not of a control connection.
#[inline(always)]
fn data(ctx: &TcContext, view: &packet::View, hook: u8) -> i32 {
    if view.flags & (tcp::SYN | tcp::FIN | tcp::RST) == 0 {
        // Bulk data: a look-up once in a mebibyte of sequence space.
        if view.len == 0 || (view.seq ^ view.seq.wrapping_add(view.len)) >> 20 == 0 {
            return PASS;
        }
        return flow::flow(ctx, view, hook);
    }
    if view.flags & (tcp::SYN | tcp::ACK) == tcp::SYN {
        return guard::guard(ctx, view, hook);
    }
    flow::flow(ctx, view, hook)
}
