//! From segments to steps of the dialogue: bytes are put in order, and what is whole is read.

use ftp_helper_common::{
    canon::bit,
    key::{CLIENT, SERVER},
    reason::Reason,
    record::SegmentRecord,
    tcp::{self, distance},
};
use serde::{Deserialize, Serialize};

use super::{Session, Standing};
use crate::{
    engine::{
        Nanos,
        core::Core,
        dialogue::{Rules, Step},
        line::may_be_urgent,
        pinhole,
        policy::LineEndings,
        stats::count,
        stream::{Fault, WINDOW},
        view::ends,
    },
    event::{Event, Kind},
};

/// Bytes that one session may keep out of order, upkeep included.
const SESSION_ROOM: usize = 64 << 10;
/// Bytes that all sessions together may keep out of order.
const TOTAL_ROOM: usize = 64 << 20;
/// How long a segment waits for what it acknowledges, nanoseconds.
const CAUSE_WAIT: Nanos = 1_000_000_000;

/// A segment that acknowledges bytes whose record has not come yet.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::engine) struct Waiting {
    side: u8,
    seq: u32,
    ack: u32,
    fin: bool,
    pub(super) data: Vec<u8>,
    pub(super) until: Nanos,
}

impl Session {
    /// The segment itself.
    pub(super) fn take(&mut self, now: Nanos, core: &mut Core, record: &SegmentRecord, payload: &[u8]) {
        let side = usize::from(record.side.min(SERVER));
        if record.tcp_flags & tcp::RST != 0 {
            if record.made.has(bit::RESET)
                || record.seq == self.streams[side].next()
                || record.seq == self.position(side)
            {
                self.reset = true;
                self.close(now, core);
            }
            return;
        }
        let seq = record.seq.wrapping_add(record.offset);
        let last = record.offset as usize + payload.len() >= record.segment_len as usize;
        let fin = record.tcp_flags & tcp::FIN != 0 && (last || payload.is_empty());
        if self.standing != Standing::Good {
            let end = record.seq.wrapping_add(record.segment_len);
            self.streams[side].advance_to(end);
            if fin {
                self.fin[side] = Some(end);
            }
            self.check_fin(now, core);
            return;
        }
        if fin && record.made.has(bit::FIN) {
            // The kernel has taken it back and opens nothing more, although what was said before may still be on its way.
            self.revoke(now, core, Reason::ControlClosed);
        }
        if record.tcp_flags & tcp::URG != 0 && !payload.is_empty() && !may_be_urgent(payload) {
            return self.taint(now, core, Reason::UrgentData);
        }
        let ahead = if record.tcp_flags & tcp::ACK != 0 { distance(record.ack, self.position(1 - side)) } else { 0 };
        if ahead > WINDOW {
            core.stats.acks_from_nowhere += 1;
        } else if ahead > 0 && (!payload.is_empty() || fin) {
            self.wait(now, core, record, seq, fin, payload);
        } else {
            self.deliver(now, core, side, seq, record.ack, fin, payload);
            self.retry_waiting(now, core);
        }
    }

    pub(super) fn finished(&self, side: usize) -> bool {
        self.fin[side] == Some(self.streams[side].next())
    }

    /// Keeps a segment until the records of what it acknowledges have come: the two sides' records are written by
    /// different CPUs, and what was sent upon what must not depend on their order.
    fn wait(&mut self, now: Nanos, core: &mut Core, record: &SegmentRecord, seq: u32, fin: bool, data: &[u8]) {
        if data.len() + size_of::<Waiting>() > self.room(core) {
            return self.taint(now, core, Reason::ReassemblyOverflow);
        }
        let (side, ack) = (record.side, record.ack);
        self.waiting.push(Waiting { side, seq, ack, fin, data: data.to_vec(), until: now.saturating_add(CAUSE_WAIT) });
    }

    /// Delivers what has waited long enough: until nothing moves any more.
    fn retry_waiting(&mut self, now: Nanos, core: &mut Core) {
        while let Some(i) =
            self.waiting.iter().position(|w| distance(w.ack, self.position(1 - usize::from(w.side))) <= 0)
        {
            let w = self.waiting.remove(i);
            self.deliver(now, core, w.side.into(), w.seq, w.ack, w.fin, &w.data);
        }
        if self.waiting.is_empty() {
            self.waiting = Vec::new();
        }
    }

    /// Puts bytes in order and reads what is whole.
    #[expect(clippy::too_many_arguments, reason = "a segment's parts")]
    fn deliver(&mut self, now: Nanos, core: &mut Core, side: usize, seq: u32, ack: u32, fin: bool, data: &[u8]) {
        if self.standing != Standing::Good {
            return;
        }
        let mut data = data;
        let next = self.streams[side].next();
        // A keep-alive of some systems carries one byte of nothing before the next (RFC 9293 section 3.8.4).
        if data == [0] && distance(next, seq) == 1 {
            return;
        }
        let end = seq.wrapping_add(data.len() as u32);
        if let Some(fin) = self.fin[side] {
            // Nothing comes after a FIN.
            let inside = distance(fin, seq).max(0) as usize;
            data = &data[..data.len().min(inside)];
        } else if fin && (0..=WINDOW).contains(&distance(end, next)) {
            if self.streams[side].goes_beyond(end) {
                // The stream ends where bytes have come already: one of the two is not the sender's.
                return self.taint(now, core, Reason::Overlap);
            }
            self.fin[side] = Some(end);
        }
        let room = self.room(core);
        match self.streams[side].accept(seq, ack, data, room) {
            Err(Fault::Conflict) => return self.taint(now, core, Reason::Overlap),
            Err(Fault::Overflow) => return self.taint(now, core, Reason::ReassemblyOverflow),
            Ok(Some(at)) => {
                let seq = seq.wrapping_add(at as u32);
                self.read(now, core, side, seq, ack, &data[at..]);
            }
            Ok(None) => {}
        }
        while let Some(piece) = self.streams[side].take_ready() {
            self.read(now, core, side, piece.seq, piece.ack, &piece.data);
        }
        self.check_fin(now, core);
    }

    /// Reads bytes that are next in order.
    fn read(&mut self, now: Nanos, core: &mut Core, side: usize, seq: u32, ack: u32, data: &[u8]) {
        self.streams[side].consume(data);
        let lenient = core.policy.line_endings == LineEndings::Lenient;
        let (mut seq, mut data) = (seq, data);
        let mut steps = Vec::new();
        while !data.is_empty() && self.standing == Standing::Good {
            if side == usize::from(CLIENT)
                && let Some(reason) = self.client_may_not(seq, ack, data)
            {
                return self.taint(now, core, reason);
            }
            let line = match self.lines[side].feed(data, seq, ack, lenient) {
                Ok((n, line)) => {
                    (seq, data) = (seq.wrapping_add(n as u32), &data[n..]);
                    line
                }
                Err(reason) => return self.taint(now, core, reason),
            };
            let Some(line) = line else { continue };
            core.stories.line(self.id, core.wall(now), side, &line);
            let was_in = self.dialogue.logged_in();
            let (policy, key, hook, inside) = (&core.policy, &self.key, self.client_hook, self.inside);
            let judge = |a: &_| pinhole::judge(policy, key, hook, inside, a);
            let rules = Rules { active: pinhole::active_at(policy, hook), judge: &judge };
            if side == usize::from(CLIENT) {
                self.dialogue.client(&line, &rules, &mut steps);
            } else {
                self.dialogue.server(&line, &rules, &mut steps);
            }
            if was_in && !self.dialogue.logged_in() {
                self.logged_out = now;
            }
            for step in steps.drain(..) {
                self.step(now, core, step, &line.text);
            }
        }
    }

    /// Why the client may not say anything here.
    fn client_may_not(&self, seq: u32, ack: u32, data: &[u8]) -> Option<Reason> {
        /// The first byte of a TLS record that holds a handshake message (RFC 8446 section 5.1).
        const TLS_HANDSHAKE: u8 = 22;
        if self.dialogue.speaks_first(ack) {
            let hello = data[0] == TLS_HANDSHAKE && self.dialogue.is_first_byte(seq);
            return Some(if hello { Reason::ImplicitTls } else { Reason::ClientFirst });
        }
        if self.dialogue.is_first_byte(seq) && data[0] == TLS_HANDSHAKE {
            return Some(Reason::ImplicitTls);
        }
        self.dialogue.auth_pending().then_some(Reason::PipelinedAuth)
    }

    /// Does what follows from a line.
    fn step(&mut self, now: Nanos, core: &mut Core, step: Step, line: &[u8]) {
        if self.standing != Standing::Good {
            return;
        }
        match step {
            Step::Open(announcement, doubtful) => self.open(now, core, &announcement, doubtful),
            Step::Refuse(reason, announcement) => {
                count(&mut core.stats.refused, reason);
                if !self.may_tell_refusal(now, core) {
                    return;
                }
                let (client, server) = ends(&self.key);
                let event = core.blank(now, Kind::Refused).of_session(self.id, client, server).because(reason);
                let pinhole = announcement.map(|a| self.show_refused(&a));
                core.event(Event { pinhole, detail: Some(escape(line)), ..event });
            }
            Step::Revoke(reason) => self.revoke(now, core, reason),
            Step::RevokeOf(seq, reason) => {
                if self.pinhole.is_some_and(|p| p.line == seq) {
                    self.revoke(now, core, reason);
                }
            }
            Step::Taint(reason) | Step::Opaque(reason) => self.taint(now, core, reason),
        }
    }

    /// Notices the end of a stream.
    fn check_fin(&mut self, now: Nanos, core: &mut Core) {
        if self.finished(0) || self.finished(1) {
            self.close(now, core);
        }
    }

    /// The control connection ends: what is unconsumed is taken back.
    fn close(&mut self, now: Nanos, core: &mut Core) {
        self.revoke(now, core, Reason::ControlClosed);
    }

    /// Where a side's stream stands for those who acknowledge it: behind its FIN.
    fn position(&self, side: usize) -> u32 {
        self.streams[side].next().wrapping_add(u32::from(self.finished(side)))
    }

    /// Bytes that may still be kept.
    fn room(&self, core: &Core) -> usize {
        SESSION_ROOM.saturating_sub(self.kept()).min(TOTAL_ROOM.saturating_sub(core.kept))
    }
}

/// A line for people: without control characters, and not too long (it comes from the network).
fn escape(line: &[u8]) -> String {
    line[..line.len().min(120)].escape_ascii().to_string()
}
