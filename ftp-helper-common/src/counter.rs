//! The kernel's counters: one per-CPU array, verdicts first, then one counter for each [`Reason`].

use crate::reason::Reason;

/// How many counters are set aside for reasons.
pub const REASONS: u32 = 192;
/// Where the reasons begin.
pub const FIRST_REASON: u32 = 32;
/// Number of counters.
pub const COUNT: u32 = FIRST_REASON + REASONS;

macro_rules! counters {
    ($( $(#[doc = $doc:literal])+ $name:ident = $code:literal $text:literal, )*) => {
        /// What is counted in the kernel beside the reasons.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u32)]
        pub enum Counter {
            $( $(#[doc = $doc])+ $name = $code, )*
        }

        impl Counter {
            /// Every counter.
            pub const ALL: &[Self] = &[$( Self::$name, )*];

            /// The name in `status` and in the metrics.
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$name => $text, )* }
            }
        }
    };
}

counters! {
    /// Segments of followed control connections.
    Control = 0 "control_segments",
    /// Those that the kernel judged by itself.
    Judged = 1 "control_judged",
    /// Those that were sent again.
    Retransmitted = 2 "control_retransmitted",
    /// Control packets that were dropped.
    ControlDropped = 3 "control_dropped",
    /// Handshakes begun.
    HalfOpen = 4 "half_open",
    /// Sessions begun.
    Sessions = 5 "sessions",
    /// Pinholes that the fast path opened.
    OpenedFast = 6 "opened_fast",
    /// Pinholes that the daemon opened.
    OpenedSlow = 7 "opened_slow",
    /// Pinholes taken back before they were used.
    Revoked = 8 "revoked",
    /// Pinholes used: the responder answered.
    Used = 9 "used",
    /// Pinholes armed again after a reset.
    Rearmed = 10 "rearmed",
    /// SYNs into guarded ranges that had a pinhole.
    SynPassed = 11 "syn_passed",
    /// SYNs into guarded ranges that had none and were dropped for good.
    SynDenied = 12 "syn_denied",
    /// SYNs that `observe` passed, or `mark` without the mark, although they had no pinhole.
    SynWouldDeny = 13 "syn_would_deny",
    /// SYNs that were kept for a session that the daemon is still reading; those that it gives up are denied then.
    SynParked = 14 "syn_parked",
    /// Parked SYNs that came back through the egress hook.
    SynUnparked = 15 "syn_unparked",
    /// Data connections that ended.
    FlowsEnded = 16 "flows_ended",
    /// Records written.
    Records = 17 "records",
    /// Diagnostic records lost for want of room; no verdict depends on them.
    TelemetryLost = 18 "telemetry_lost",
    /// Times that a session went blind.
    Blinded = 19 "blinded",
    /// Times that a blind session was sighted again.
    Resynced = 20 "resynced",
    /// Control segments that passed unrecorded because the daemon was gone.
    PassedUnrecorded = 21 "passed_unrecorded",
    /// SYNs into guarded ranges that an encrypted session's range let through.
    SynInRange = 22 "syn_in_range",
    /// Announcements that were rewritten for the other side of an address translation.
    Rewritten = 23 "rewritten",
    /// Data connections whose addresses are translated.
    Translated = 24 "translated",
    /// SYNs of those denied that the shield dropped in XDP, before the stack saw them.
    SynShielded = 25 "syn_shielded",
    /// ICMP errors about them that were translated.
    TranslatedIcmp = 26 "translated_icmp",
}

/// The counter of a reason.
#[inline(always)]
pub const fn of_reason(reason: Reason) -> u32 {
    FIRST_REASON + reason as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_do_not_reach_into_the_reasons() {
        for (i, c) in Counter::ALL.iter().enumerate() {
            assert_eq!(*c as usize, i);
        }
        assert!((Counter::ALL.len() as u32) <= FIRST_REASON);
    }
}
