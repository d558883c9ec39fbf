//! Metrics for Prometheus: one page over HTTP, in the OpenMetrics text format.
//!
//! The page holds what `status` tells, and is made anew from a [`Snapshot`] each time that it is asked for. Every metric is
//! documented in `docs/metrics.md`.

mod encode;
mod serve;

use std::{collections::BTreeMap, ops::RangeInclusive};

use ftp_helper_common::reason::Reason;

pub use self::{encode::encode, serve::serve};

/// What the metrics tell, at one moment.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Snapshot {
    /// Version of the daemon.
    pub version: String,
    /// `observe`, `drop` or `mark`.
    pub mode: String,
    /// Seconds since the daemon started.
    pub uptime_seconds: f64,
    /// Sessions now, and at most.
    pub sessions: (u64, u64),
    /// Unconsumed pinholes now, and at most.
    pub pinholes: (u64, u64),
    /// Data connections now, and at most.
    pub data_connections: (u64, u64),
    /// Age of the daemon's sign of life, seconds.
    pub heartbeat_age_seconds: f64,
    /// From this age on the kernel takes the daemon for gone, seconds.
    pub heartbeat_stale_after_seconds: f64,
    /// Interfaces that the kernel side is attached to.
    pub interfaces: u64,
    /// Configured names and patterns that no interface matches.
    pub interfaces_missing: u64,
    /// Programs that are attached.
    pub programs: Vec<Program>,
    /// The kernel's counters by name ([`ftp_helper_common::counter::Counter`]).
    pub kernel: BTreeMap<String, u64>,
    /// The kernel's counters by reason ([`Reason`]).
    pub reasons: BTreeMap<String, u64>,
    /// Counters of the engine that have no metric of their own, by name.
    pub engine: BTreeMap<String, u64>,
    /// What the engine counted by reason.
    pub by_reason: ByReason,
    /// Events by their kind.
    pub events: BTreeMap<String, u64>,
    /// Pinholes that the fast path opened, and that the daemon opened.
    pub opened: (u64, u64),
    /// Data connections that have ended.
    pub transfers: u64,
    /// Payload bytes of those that the initiators sent, and that the responders sent.
    pub data_bytes: (u64, u64),
    /// How long pinholes of the fast path were open until the daemon had vouched for them.
    pub confirm_latency: Histogram,
    /// Changes to the fed sets of nftables by what came of them; empty where none are fed.
    pub nftables: BTreeMap<String, u64>,
}

/// A program that is attached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program {
    /// To which interface.
    pub interface: String,
    /// Which one: `ingress`, `egress` or `shield`.
    pub program: &'static str,
    /// How: `tcx`, `clsact`, `native` or `generic`.
    pub hook: &'static str,
}

/// Counters by [`Reason`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ByReason {
    /// Announcements that opened nothing.
    pub refused: BTreeMap<String, u64>,
    /// Connections without a pinhole.
    pub denied: BTreeMap<String, u64>,
    /// Pinholes taken back.
    pub revoked: BTreeMap<String, u64>,
    /// Sessions tainted, killed or opaque.
    pub standing: BTreeMap<String, u64>,
    /// Control packets that were not followed, or dropped.
    pub stray: BTreeMap<String, u64>,
}

/// How often something took how long.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Histogram {
    /// Upper end of each bucket in seconds, ascending, the last infinite, and what is in that bucket alone.
    pub buckets: Vec<(f64, u64)>,
    /// All of it together, seconds.
    pub sum_seconds: f64,
}

impl Snapshot {
    /// Adds a zero for everything that may be counted and was not yet: a series that begins when something happens first
    /// hides just that from whoever looks at its growth.
    pub fn with_zeros(mut self) -> Self {
        let ByReason { refused, denied, revoked, standing, stray } = &mut self.by_reason;
        for (counts, codes) in [
            (&mut self.reasons, 1..=69),
            (denied, 1..=19),
            (stray, 20..=39),
            (refused, 70..=109),
            (standing, 110..=139),
            (revoked, 140..=169),
        ] {
            add_zeros(counts, &codes);
        }
        add_zeros(&mut self.by_reason.standing, &(170..=u16::MAX));
        for kind in crate::event::Kind::ALL {
            self.events.entry(kind.as_str().to_owned()).or_default();
        }
        self
    }
}

fn add_zeros(counts: &mut BTreeMap<String, u64>, codes: &RangeInclusive<u16>) {
    for reason in Reason::ALL.iter().filter(|r| codes.contains(&(**r as u16))) {
        counts.entry(reason.as_str().to_owned()).or_default();
    }
}
