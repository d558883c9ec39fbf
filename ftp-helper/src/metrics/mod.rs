//! Metrics for Prometheus: one page over HTTP, in the OpenMetrics text format.
//!
//! The page holds what `status` tells, and is made anew from a [`Snapshot`] each time that it is asked for.

mod encode;
mod serve;

use std::collections::BTreeMap;

pub use self::{encode::encode, serve::serve};

/// What the metrics tell, at one moment.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Snapshot {
    /// Version of the daemon.
    pub version: String,
    /// `observe` or `drop`.
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
    /// Interfaces that the kernel side is attached to.
    pub interfaces: u64,
    /// The kernel's counters by name ([`ftp_helper_common::counter::Counter`]).
    pub kernel: BTreeMap<String, u64>,
    /// The kernel's counters by reason ([`ftp_helper_common::reason::Reason`]).
    pub reasons: BTreeMap<String, u64>,
    /// The engine's counters by name.
    pub engine: BTreeMap<String, u64>,
    /// Changes to the fed sets of nftables by what came of them; empty where none are fed.
    pub nftables: BTreeMap<String, u64>,
}
