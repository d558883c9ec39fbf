//! What the engine counts.

use std::collections::BTreeMap;

use ftp_helper_common::reason::Reason;

use super::latency::Latency;

/// Destination ports that denied connections are counted by, at most; the rest is counted in one.
pub const DENIED_PORTS: usize = 4096;

/// Counters since the engine was made, and the number of live sessions.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Records taken.
    pub records: u64,
    /// Live sessions.
    pub sessions: u64,
    /// Sessions begun.
    pub sessions_started: u64,
    /// Sessions taken over from a daemon before.
    pub adopted: u64,
    /// Of them those whose dialogue went on where an earlier daemon had saved it, or where its unread records begin.
    pub restored: u64,
    /// Sessions that were refused for want of room.
    pub sessions_refused: u64,
    /// Endpoints announced that the engine allowed.
    pub announcements: u64,
    /// Of these, opened by the fast path before the announcement went on.
    pub taken_by_fast_path: u64,
    /// Of these, opened by the daemon.
    pub opened_by_daemon: u64,
    /// Pinholes that an operator has added.
    pub added: u64,
    /// Pinholes of the fast path that were vouched for.
    pub confirmed: u64,
    /// Pinholes that the kernel opened and the engine would not have.
    pub divergences: u64,
    /// Data connections that went through a pinhole.
    pub used: u64,
    /// Pinholes whose time ran out.
    pub expired: u64,
    /// Pinholes taken back, by reason.
    pub revoked: BTreeMap<Reason, u64>,
    /// Announcements that opened nothing, by reason.
    pub refused: BTreeMap<Reason, u64>,
    /// Of these, not told: a session tells so many at once, and one a second.
    pub refusals_untold: u64,
    /// Sessions tainted, killed or opaque, by reason.
    pub standing: BTreeMap<Reason, u64>,
    /// Connections without a pinhole, by reason.
    pub denied: BTreeMap<Reason, u64>,
    /// Connections without a pinhole, by destination port; [`DENIED_PORTS`] ports at most.
    pub denied_ports: BTreeMap<u16, Denials>,
    /// The same for all ports beyond those.
    pub denied_other_ports: Denials,
    /// Control packets not followed or dropped, by reason.
    pub strays: BTreeMap<Reason, u64>,
    /// Times that the kernel was asked to see a dialogue again.
    pub resyncs_asked: u64,
    /// Times that it did.
    pub resyncs_applied: u64,
    /// Commands that the kernel could not carry out.
    pub commands_failed: u64,
    /// Segments that acknowledged bytes nobody has sent, dropped.
    pub acks_from_nowhere: u64,
    /// Events told, by kind.
    pub events: BTreeMap<&'static str, u64>,
    /// Data connections whose end was seen.
    pub transfers: u64,
    /// Payload bytes of those that the initiators and the responders sent.
    pub data_bytes: [u64; 2],
    /// How long pinholes of the fast path were open until they were vouched for.
    pub confirm_latency: Latency,
}

/// How often a destination port was asked for without a pinhole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Denials {
    /// Dropped.
    pub dropped: u64,
    /// Passed by `observe`: what would have been dropped.
    pub would_be: u64,
}

impl Stats {
    /// All refused announcements.
    pub fn refused_total(&self) -> u64 {
        self.refused.values().sum()
    }

    /// Counts a connection without a pinhole.
    pub(super) fn count_denied(&mut self, port: u16, dropped: bool, reason: Reason) {
        count(&mut self.denied, reason);
        let known = self.denied_ports.contains_key(&port) || self.denied_ports.len() < DENIED_PORTS;
        let entry = if known { self.denied_ports.entry(port).or_default() } else { &mut self.denied_other_ports };
        if dropped {
            entry.dropped += 1;
        } else {
            entry.would_be += 1;
        }
    }
}

/// Counts one more of a reason.
pub(super) fn count(counts: &mut BTreeMap<Reason, u64>, reason: Reason) {
    *counts.entry(reason).or_default() += 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_bounded() {
        let mut s = Stats::default();
        for port in 0..=u16::MAX {
            s.count_denied(port, port % 2 == 0, Reason::NoPinhole);
        }
        assert_eq!(s.denied_ports.len(), DENIED_PORTS);
        assert_eq!(s.denied_ports[&0], Denials { dropped: 1, would_be: 0 });
        let other = s.denied_other_ports;
        assert_eq!(other.dropped + other.would_be + DENIED_PORTS as u64, 65536);
        assert_eq!(s.denied[&Reason::NoPinhole], 65536);
    }
}
