//! The mark of arriving SYNs: what mode `mark` tells the ruleset, and what tells a SYN that the daemon sent on.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use ftp_helper_common::{
    key::{HOOK_IN, HOOK_OUT},
    policy::{KernelPolicy, mode},
};

use crate::maps::UNPARK_MARK;

/// Whether this leaving packet is one that the daemon has sent to be turned round.
#[inline(always)]
pub fn is_unparked(ctx: &TcContext, hook: u8) -> bool {
    // SAFETY: the context is readable. What was forwarded came from elsewhere, whatever mark it bears.
    hook == HOOK_OUT && bears(ctx) && unsafe { (*ctx.skb.skb).ingress_ifindex == 0 }
}

/// Whether this arriving packet was turned round: its mark is still there.
#[inline(always)]
pub fn comes_again(ctx: &TcContext, hook: u8) -> bool {
    hook == HOOK_IN && bears(ctx)
}

/// Gives an arriving SYN the mark that it goes on with: in mode `mark` our bits are the configured value if it is
/// permitted, and zeros if not; the other bits stay, but for the mark of what was turned round, which nobody else is to
/// see.
#[inline(always)]
pub fn put(ctx: &TcContext, policy: &KernelPolicy, hook: u8, permitted: bool) {
    if hook != HOOK_IN {
        return;
    }
    // SAFETY: the context is readable.
    let was = unsafe { (*ctx.skb.skb).mark };
    let marking = policy.mode == mode::MARK;
    if was == 0 && !marking {
        return;
    }
    let mut mark = if bears(ctx) { 0 } else { was };
    if marking {
        mark &= !policy.mark_mask;
        if permitted {
            mark |= policy.mark_value;
        }
    }
    if mark != was {
        // LLVM may else reach the field, which was read before, through a pointer into the context, and the verifier refuses
        // that. SAFETY: the context's field is one that a classifier may write.
        unsafe { core::arch::asm!("*(u32 *)(r1 + {at}) = r2", in("r1") ctx.skb.skb, in("r2") mark, at = const MARK) };
    }
}

const MARK: usize = core::mem::offset_of!(__sk_buff, mark);

#[inline(always)]
fn bears(ctx: &TcContext) -> bool {
    let mark = UNPARK_MARK.load();
    // SAFETY: the context is readable.
    mark != 0 && unsafe { (*ctx.skb.skb).mark } == mark
}
