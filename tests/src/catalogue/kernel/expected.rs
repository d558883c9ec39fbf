//! What a packet and a command must count, by the tables as they stand before it and the reader compiled for the host.

use ftp_helper_common::{
    canon::{
        self, Judgement, Made, bit,
        host::{HostRules, HostText},
    },
    command::{Command, Outcome, op},
    key::{CLIENT, SERVER},
    reason::Reason,
    record::CHUNK,
    state::{SessionState, flag},
    tcp,
};

use super::{Counts, Run};
use crate::{packet::Packet, testrun::kernel_policy};

impl Run<'_> {
    /// What a packet counts that the kernel reads.
    pub(super) fn expect_read(&mut self, side: u8, packet: &Packet) -> Counts {
        let state = self.state();
        let syn = packet.flags & tcp::SYN != 0;
        if syn {
            let answers = side == SERVER && packet.flags & tcp::ACK != 0 && packet.flags & (tcp::FIN | tcp::RST) == 0;
            if !answers || state.is_some_and(|s| s.flags & flag::CLOSING == 0) {
                return Counts::new();
            }
            self.half = Some([packet.ack, packet.seq.wrapping_add(1)]);
            return Counts::from([("half_open", 1)]);
        }
        let Some(state) = state else {
            let begins = side == CLIENT && self.half == Some([packet.seq, packet.ack]);
            if begins && packet.flags & (tcp::ACK | tcp::RST) == tcp::ACK {
                self.half = None;
                if self.data_in_syn {
                    self.stray = true;
                    return Counts::from([("data_in_syn", 1)]);
                }
                return Counts::from([("sessions", 1), ("records", 1)]);
            }
            if packet.payload.is_empty() || std::mem::replace(&mut self.stray, true) {
                return Counts::new();
            }
            return Counts::from([("midstream", 1)]);
        };
        self.expect_followed(side, packet, &state)
    }

    fn expect_followed(&self, side: u8, packet: &Packet, state: &SessionState) -> Counts {
        let len = packet.payload.len();
        if len == 0 && packet.flags & (tcp::FIN | tcp::RST) == 0 {
            return Counts::new();
        }
        let unread = state.flags & (flag::OPAQUE | flag::TAINTED | flag::LOST) != 0;
        let Judgement { made, .. } = self.judge(side, packet, state, unread);
        let mut counts = Counts::from([("control_segments", 1)]);
        let mut add = |name: &'static str, n: u64| *counts.entry(name).or_default() += n;
        if !unread || made.has(bit::FIN) || made.has(bit::RESET) {
            add("records", if unread { 1 } else { len.div_ceil(CHUNK).max(1) as u64 });
        }
        for (what, name) in [
            (bit::JUDGED, "control_judged"),
            (bit::OLD, "control_retransmitted"),
            (bit::OPEN, "opened_fast"),
            (bit::BLIND, "blinded"),
        ] {
            if made.has(what) {
                add(name, 1);
            }
        }
        if made.has(bit::BLIND) {
            let reason = Reason::from_code(made.reason()).expect("a reason");
            add(reason.as_str(), 1);
        }
        let opened = made.has(bit::OPEN).then(|| {
            let kind = canon::opened_kind(state, made);
            canon::pinhole_key(&self.talk.dialogue.key(), state.client_hook, kind, made.port())
        });
        let replaced = made.has(bit::REVOKE) || opened.is_some_and(|key| key != state.pinhole);
        if replaced && self.is_live(&state.pinhole, state.id) {
            add("revoked", 1);
        }
        counts
    }

    /// What the reader on the host makes of a segment.
    fn judge(&self, side: u8, packet: &Packet, state: &SessionState, unread: bool) -> Judgement {
        let segment = canon::Segment {
            side,
            flags: packet.flags,
            fragment: false,
            seq: packet.seq,
            ack: packet.ack,
            len: packet.payload.len() as u32,
        };
        // The bytes of a session that nobody reads are not looked at.
        let bytes: &[u8] = if unread { &[] } else { &packet.payload };
        let policy = kernel_policy(&self.policy);
        let denied: Vec<u16> = self.policy.deny_ports.iter().chain(&self.policy.control_ports).copied().collect();
        let range = self.policy.passive_range(self.talk.dialogue.key().server);
        let range = range.map_or((0, 65535), |r| (*r.start(), *r.end()));
        let rules = HostRules { denied: &denied, range };
        let mut text = HostText::new(bytes);
        let key = self.talk.dialogue.key();
        let judgement = canon::judge(text.handle(), &segment, &key, state, &policy, rules);
        if !judgement.made.has(bit::OPEN) {
            return judgement;
        }
        let kind = canon::opened_kind(state, judgement.made);
        let pinhole = canon::pinhole_key(&key, state.client_hook, kind, judgement.made.port());
        if self.k.pinholes().iter().any(|(k, p)| *k == pinhole && p.session != state.id) {
            return Judgement { made: Made::blind(Reason::LeftToDaemon), ..judgement };
        }
        judgement
    }
}

/// What a command counts; `live` is the session's entry if its pinhole is there.
pub(super) fn command_counts(command: &Command, live: Option<&SessionState>, outcome: Outcome) -> Counts {
    let done = outcome == Outcome::Done;
    let revoked = match command.op {
        // Whatever becomes of the new one, the client has given up the old one.
        op::OPEN if matches!(outcome, Outcome::Done | Outcome::Taken | Outcome::Full | Outcome::Quota) => {
            live.is_some_and(|s| s.pinhole != command.pinhole)
        }
        op::STANDING | op::FORGET => done && live.is_some(),
        op::REVOKE => done,
        _ => false,
    };
    let mut counts = Counts::new();
    if revoked {
        counts.insert("revoked", 1);
    }
    match command.op {
        op::OPEN if done => drop(counts.insert("opened_slow", 1)),
        op::RESYNC if done => drop(counts.insert("resynced", 1)),
        _ => {}
    }
    counts
}
