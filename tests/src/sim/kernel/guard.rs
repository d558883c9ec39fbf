//! First SYNs: every port from 1024 on is guarded, in both directions.

use ftp_helper_common::{
    key::{FlowKey, PairKey, PinholeKey},
    reason::Reason,
    record::{SynRecord, kind},
    state::{bound, pinhole_flag},
    tcp,
};

use super::{Happened, Kernel, Packet, Rec, Verdict, flow::tuple};

impl Kernel {
    pub(super) fn guard(&mut self, now: u64, hook: u8, p: &Packet) -> Verdict {
        if p.to.port < 1024 {
            return Verdict::Pass;
        }
        let verdict = if p.flags & (tcp::FIN | tcp::RST) != 0 {
            Err(Reason::SynFlags)
        } else {
            self.pass_by_pinhole(now, hook, p)
        };
        match verdict {
            Ok(()) => Verdict::Pass,
            Err(reason) if reason != Reason::SynFlags && self.admits(now, hook, p) => {
                self.happened.push(Happened::InRange(pinhole_of(hook, p)));
                Verdict::Pass
            }
            Err(reason) => self.deny(now, hook, p, reason),
        }
    }

    fn admits(&self, now: u64, hook: u8, p: &Packet) -> bool {
        self.covered(now, p.from.addr, p.to.addr, p.to.port, hook).is_some()
    }

    /// A parked SYN that the daemon sends on, at the egress hook: whether it is turned round.
    #[must_use]
    pub fn unpark(&self, hook: u8, p: &Packet) -> bool {
        self.pinholes.contains_key(&pinhole_of(hook, p))
    }

    fn pass_by_pinhole(&mut self, now: u64, hook: u8, p: &Packet) -> Result<(), Reason> {
        let key = pinhole_of(hook, p);
        let Some(hole) = self.pinholes.get_mut(&key) else {
            let known = self.flows.get(&tuple(hook, p));
            return if known.is_some_and(|f| f.isn[0] == p.seq) { Ok(()) } else { Err(Reason::NoPinhole) };
        };
        if hole.deadline <= now {
            Err(Reason::Expired)
        } else if hole.flags & pinhole_flag::SOURCE_20 != 0 && p.from.port != 20 {
            Err(Reason::SourcePortNot20)
        } else if !hole.is_bound() || hole.source_port() == p.from.port {
            hole.bound = bound(p.seq, p.from.port);
            self.happened.push(Happened::SynPassed(key, *hole));
            Ok(())
        } else {
            Err(Reason::OtherSourcePort)
        }
    }

    fn deny(&mut self, now: u64, hook: u8, p: &Packet, reason: Reason) -> Verdict {
        let syn = SynRecord {
            kind: kind::DENIED,
            hook,
            dropped: u8::from(!self.observes()),
            time: now,
            key: FlowKey {
                initiator: p.from.addr,
                responder: p.to.addr,
                initiator_port: p.from.port,
                responder_port: p.to.port,
            },
            reason: reason as u16,
            ..SynRecord::default()
        };
        let may_be_early = matches!(reason, Reason::NoPinhole | Reason::OtherSourcePort) && p.data.is_empty();
        if may_be_early && !self.observes() && !self.is_stale(now) && self.park(now, syn, p) {
            return Verdict::Drop;
        }
        self.tell_denied(syn);
        self.drops()
    }

    pub(super) fn tell_denied(&mut self, syn: SynRecord) {
        let rec = Rec::Denied(syn);
        let _ = self.telemetry.put(rec.bytes(), rec);
    }

    fn park(&mut self, now: u64, syn: SynRecord, p: &Packet) -> bool {
        let Some(entry) = self.blind_pairs.get_mut(&pair(p)) else { return false };
        if entry.until < now || entry.budget == 0 {
            return false;
        }
        entry.budget -= 1;
        let parked = self.parked.put(160, (SynRecord { kind: kind::PARKED, ..syn }, p.clone()));
        self.kept += u64::from(parked);
        parked
    }
}

/// The pinhole that a SYN needs.
#[must_use]
pub(super) fn pinhole_of(hook: u8, p: &Packet) -> PinholeKey {
    PinholeKey { initiator: p.from.addr, responder: p.to.addr, port: p.to.port, hook, pad: 0 }
}

/// The two hosts of a packet in the table's order.
pub(super) fn pair(p: &Packet) -> PairKey {
    let (a, b) = (p.from.addr, p.to.addr);
    if a.words() <= b.words() { PairKey { low: a, high: b } } else { PairKey { low: b, high: a } }
}
