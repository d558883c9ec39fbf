//! One control connection: from records to steps of the dialogue.

use ftp_helper_common::{
    addr::Addr,
    canon::bit,
    key::{CLIENT, FlowKey, SERVER, SessionKey},
    reason::Reason,
    record::SegmentRecord,
    state::flag,
    tcp::{self, distance},
};
use serde::{Deserialize, Serialize};

use super::{
    Nanos,
    core::Core,
    dialogue::{Dialogue, Rules, Step},
    kernel::KernelSide,
    line::{Assembler, may_be_urgent},
    pinhole::{self, Pinhole},
    policy::{LineEndings, Policy},
    stats::count,
    stream::{Fault, Stream, WINDOW},
    view::{PinholeView, SessionView, Visible, ends},
};
use crate::event::{Event, Kind};

/// Bytes that one session may keep out of order, upkeep included.
const SESSION_ROOM: usize = 64 << 10;
/// Bytes that all sessions together may keep out of order.
const TOTAL_ROOM: usize = 64 << 20;
/// How long a segment waits for what it acknowledges, nanoseconds.
const CAUSE_WAIT: Nanos = 1_000_000_000;
/// How long a session stays after its end, for what is sent again, nanoseconds.
const LINGER: Nanos = 3_000_000_000;
/// How long a session stays when only one side has ended it and nothing more is heard, nanoseconds.
const HALF_CLOSED: Nanos = 120_000_000_000;
/// Refusals of one session that are told at once at most, and after how many nanoseconds one more is.
const REFUSALS_TOLD: u32 = 32;
const REFUSALS_EVERY: Nanos = 1_000_000_000;

/// Whether a session may open anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// It may.
    Good,
    /// It may not any more.
    Tainted(Reason),
    /// And its control packets are dropped.
    Killed(Reason),
    /// It is encrypted.
    Opaque(Reason),
}

/// A segment that acknowledges bytes whose record has not come yet.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Waiting {
    side: u8,
    seq: u32,
    ack: u32,
    fin: bool,
    data: Vec<u8>,
    until: Nanos,
}

/// One control connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: u64,
    pub(super) key: SessionKey,
    pub(super) client_hook: u8,
    /// The address that the end inside has there, if it is known to be another.
    pub(super) inside: Option<Addr>,
    pub(super) standing: Standing,
    pub(super) last: Nanos,
    /// Data connections that are running.
    pub(super) running: u32,
    pub(super) transfers: u64,
    pub(super) bytes: [u64; 2],
    /// When its timer is set for.
    pub(super) timer: Nanos,
    pub(super) pinhole: Option<Pinhole>,
    pub(super) kernel: KernelSide,
    pub(super) dialogue: Dialogue,
    pub(super) started: Nanos,
    /// Since when the client is not logged in.
    pub(super) logged_out: Nanos,
    pub(super) streams: [Stream; 2],
    pub(super) lines: [Assembler; 2],
    pub(super) waiting: Vec<Waiting>,
    /// Sequence number of each side's FIN.
    pub(super) fin: [Option<u32>; 2],
    pub(super) reset: bool,
    ended: bool,
    /// The interface of each side's last packet, 0 if none was seen.
    interfaces: [u32; 2],
    /// That one has changed was told.
    moved: bool,
    /// Refusals that may still be told, and since when.
    refusals: (u32, Nanos),
}

impl Session {
    /// A session whose handshake was seen.
    pub(super) fn new(now: Nanos, record: &SegmentRecord) -> Self {
        let mut session = Self::empty(now, record.session, record.key, record.client_hook, record.start);
        session.dialogue = Dialogue::new(record.start[0]);
        session
    }

    /// Takes a segment, or a part of one.
    pub(super) fn segment(&mut self, now: Nanos, core: &mut Core, record: &SegmentRecord, payload: &[u8]) {
        self.last = now;
        let kept = self.kept();
        self.note_record(now, core, record);
        self.note_interface(now, core, record);
        self.take(now, core, record, payload);
        self.settle_with_kernel(now, core);
        core.kept = (core.kept + self.kept()).saturating_sub(kept);
    }

    /// The segment itself.
    fn take(&mut self, now: Nanos, core: &mut Core, record: &SegmentRecord, payload: &[u8]) {
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

    /// When something is due.
    pub(super) fn deadline(&self, now: Nanos, policy: &Policy) -> Nanos {
        let mut due = self.pinhole.map_or(Nanos::MAX, |p| p.due()).min(self.kernel.due());
        if let Some(w) = self.waiting.iter().map(|w| w.until).min() {
            due = due.min(w);
        }
        if self.ended {
            return now;
        }
        due.min(self.silence_ends(policy).0)
    }

    /// Does what is due.
    pub(super) fn timeout(&mut self, now: Nanos, core: &mut Core) {
        self.pinhole_timeout(now, core);
        self.sight_timeout(now, core);
        let before = self.waiting.len();
        let kept = self.kept();
        self.waiting.retain(|w| w.until > now);
        core.stats.acks_from_nowhere += (before - self.waiting.len()) as u64;
        core.kept = (core.kept + self.kept()).saturating_sub(kept);
        if self.waiting.len() < before {
            // Nothing else may come for long that would bring the kernel back.
            self.settle_with_kernel(now, core);
        }
        let (at, reason) = self.silence_ends(&core.policy);
        if at <= now && reason == Reason::Idle && self.is_used_by_another(core) {
            self.last = now;
        } else if at <= now {
            self.end(now, core, reason, true);
        }
    }

    /// Whether a data connection is running in the range of this encrypted session: which of its client's sessions it
    /// belongs to nobody can tell, so that it keeps them all.
    fn is_used_by_another(&self, core: &Core) -> bool {
        let hosts = |f: &FlowKey| (f.initiator, f.responder) == (self.key.client, self.key.server);
        matches!(self.standing, Standing::Opaque(_)) && core.flows.iter().any(|(key, f)| f.range && hosts(key))
    }

    /// Whether it is to be let go of.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Ends the session; `forget` where the kernel still has it.
    pub(super) fn end(&mut self, now: Nanos, core: &mut Core, reason: Reason, forget: bool) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let why = if matches!(reason, Reason::Closed | Reason::Reset) { Reason::ControlClosed } else { reason };
        self.revoke(now, core, why);
        core.kept = core.kept.saturating_sub(self.kept());
        self.drop_bytes();
        if forget {
            core.forget(self.id, self.key);
        } else {
            core.remember_forgotten(self.id);
        }
        core.session_event(now, self, Kind::SessionEnd, Some(reason), None);
        core.stories.end(self.id, self.key);
    }

    /// The kernel has no such session.
    pub(super) fn closed_by_kernel(&mut self, now: Nanos, core: &mut Core) {
        self.drop_pinhole(core);
        self.end(now, core, Reason::Forgotten, false);
    }

    /// The session may open nothing any more.
    pub(super) fn taint(&mut self, now: Nanos, core: &mut Core, reason: Reason) {
        let (standing, flags, kind) = match reason {
            Reason::Overlap | Reason::Operator => {
                (Standing::Killed(reason), flag::TAINTED | flag::KILLED, Kind::Killed)
            }
            Reason::AuthAccepted | Reason::ImplicitTls => (Standing::Opaque(reason), flag::OPAQUE, Kind::Opaque),
            _ => (Standing::Tainted(reason), flag::TAINTED, Kind::Tainted),
        };
        let why = if kind == Kind::Opaque { Reason::Auth } else { reason };
        self.revoke(now, core, why);
        self.standing = standing;
        if kind == Kind::Opaque {
            self.ask_opaque(core);
        } else if reason != Reason::Unrecorded {
            self.ask_standing(core, flags);
        }
        count(&mut core.stats.standing, reason);
        core.session_event(now, self, kind, Some(reason), None);
        self.drop_bytes();
    }

    /// Whether the control connection is ending.
    pub(super) fn is_closing(&self) -> bool {
        self.reset || self.finished(0) || self.finished(1)
    }

    /// Whether both streams are whole up to a line's end and the dialogue is quiet.
    pub(super) fn is_quiet(&self) -> bool {
        self.standing == Standing::Good
            && !self.is_closing()
            && self.waiting.is_empty()
            && self.streams.iter().all(|s| !s.has_gap())
            && self.lines.iter().all(Assembler::is_whole)
            && self.dialogue.is_quiet()
    }

    /// Both sides' next sequence numbers.
    pub(super) fn next(&self) -> [u32; 2] {
        [self.streams[0].next(), self.streams[1].next()]
    }

    /// Heap that it uses, without itself.
    #[cfg(test)]
    pub(super) fn heap(&self) -> usize {
        self.streams.iter().map(Stream::heap).sum::<usize>()
            + self.lines.iter().map(Assembler::heap).sum::<usize>()
            + self.dialogue.heap()
            + self.kernel.heap()
            + self.waiting.capacity() * size_of::<Waiting>()
            + self.waiting.iter().map(|w| w.data.capacity()).sum::<usize>()
    }

    /// As `sessions` shows it.
    pub(super) fn view(&self) -> SessionView {
        let (client, server) = ends(&self.key);
        let state = match self.standing {
            Standing::Tainted(r) => Visible::Tainted(r),
            Standing::Killed(r) => Visible::Killed(r),
            Standing::Opaque(r) => Visible::Opaque(r),
            Standing::Good if self.is_closing() => Visible::Closing,
            Standing::Good if !self.dialogue.greeted() => Visible::Greeting,
            Standing::Good if !self.dialogue.logged_in() => Visible::Login,
            Standing::Good => Visible::Ready,
        };
        SessionView {
            id: self.id,
            client,
            server,
            inside: self.inside.map(|a| a.to_ip()),
            state,
            blind: self.kernel.is_blind(),
            logged_in: self.dialogue.logged_in(),
            started: self.started,
            last: self.last,
            pinhole: self.pinhole.map(|p| p.show(self.last)),
            running: self.running,
            transfers: self.transfers,
            bytes: self.bytes,
        }
    }

    /// Its unconsumed pinhole, as `pinholes` shows it.
    pub(super) fn pinhole_view(&self, now: Nanos) -> Option<PinholeView> {
        let (client, server) = ends(&self.key);
        let inside = self.inside.map(|a| a.to_ip());
        self.pinhole.map(|p| PinholeView {
            owner: self.id,
            ends: Some((client, server)),
            inside,
            key: p.key,
            order: None,
            pinhole: p.show(now),
        })
    }

    pub(super) fn empty(now: Nanos, id: u64, key: SessionKey, client_hook: u8, next: [u32; 2]) -> Self {
        Self {
            id,
            key,
            client_hook,
            inside: None,
            standing: Standing::Good,
            last: now,
            running: 0,
            transfers: 0,
            bytes: [0; 2],
            timer: Nanos::MAX,
            pinhole: None,
            kernel: KernelSide::default(),
            dialogue: Dialogue::new(next[0]),
            started: now,
            logged_out: now,
            streams: next.map(Stream::new),
            lines: [Assembler::new(), Assembler::new()],
            waiting: Vec::new(),
            fin: [None; 2],
            reset: false,
            ended: false,
            interfaces: [0; 2],
            moved: false,
            refusals: (REFUSALS_TOLD, now),
        }
    }

    /// What a record says of the kernel's view.
    fn note_record(&mut self, now: Nanos, core: &mut Core, record: &SegmentRecord) {
        self.kernel.note(record);
        if record.flags & flag::LOST != 0 && self.standing == Standing::Good {
            return self.taint(now, core, Reason::Unrecorded);
        }
        // Never backwards: what lies behind was read, or stood in the table that the session was taken over from.
        let next = self.next();
        let ahead = [0, 1].map(|side| distance(record.next[side], next[side]));
        let missed = ahead != [0, 0] && ahead.iter().all(|n| *n >= 0);
        if record.flags & flag::UNRECORDED != 0 && missed && self.standing == Standing::Good {
            self.lose_missing(now, core);
            self.rebase(record);
        }
    }

    /// Tells once that a side's packets come by another interface than before: routing may do that, and so may somebody
    /// else on the same side.
    fn note_interface(&mut self, now: Nanos, core: &mut Core, record: &SegmentRecord) {
        let last = std::mem::replace(&mut self.interfaces[usize::from(record.side.min(SERVER))], record.ifindex);
        if last == 0 || last == record.ifindex || std::mem::replace(&mut self.moved, true) {
            return;
        }
        core.moved(now, self, record.side);
    }

    /// Whether one more refusal may be told; one more is free every second. All are counted.
    pub(super) fn may_tell_refusal(&mut self, now: Nanos, core: &mut Core) -> bool {
        let (left, since) = self.refusals;
        let regained = now.saturating_sub(since) / REFUSALS_EVERY;
        let left = left.saturating_add(u32::try_from(regained).unwrap_or(u32::MAX)).min(REFUSALS_TOLD);
        self.refusals = (left.saturating_sub(1), since + regained * REFUSALS_EVERY);
        if left == 0 {
            core.stats.refusals_untold += 1;
        }
        left != 0
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

    fn finished(&self, side: usize) -> bool {
        self.fin[side] == Some(self.streams[side].next())
    }

    /// Where a side's stream stands for those who acknowledge it: behind its FIN.
    fn position(&self, side: usize) -> u32 {
        self.streams[side].next().wrapping_add(u32::from(self.finished(side)))
    }

    /// When the session ends if nothing more is heard, and why.
    fn silence_ends(&self, policy: &Policy) -> (Nanos, Reason) {
        let after = |from: Nanos, nanos: Nanos| from.saturating_add(nanos);
        if self.reset {
            return (after(self.last, LINGER), Reason::Reset);
        }
        if self.finished(0) && self.finished(1) {
            return (after(self.last, LINGER), Reason::Closed);
        }
        if self.running > 0 {
            return (Nanos::MAX, Reason::Idle);
        }
        if self.is_closing() {
            return (after(self.last, HALF_CLOSED), Reason::Closed);
        }
        let limit = |d: std::time::Duration| Nanos::try_from(d.as_nanos()).unwrap_or(Nanos::MAX);
        let idle = (after(self.last, limit(policy.limits.idle)), Reason::Idle);
        if self.standing != Standing::Good || self.dialogue.logged_in() {
            return idle;
        }
        idle.min((after(self.logged_out, limit(policy.limits.login)), Reason::LoginTimeout))
    }

    /// Bytes that may still be kept.
    fn room(&self, core: &Core) -> usize {
        SESSION_ROOM.saturating_sub(self.kept()).min(TOTAL_ROOM.saturating_sub(core.kept))
    }

    /// What is kept out of order, upkeep included.
    pub(super) fn kept(&self) -> usize {
        self.streams.iter().map(Stream::buffered).sum::<usize>()
            + self.waiting.iter().map(|w| w.data.len() + size_of::<Waiting>()).sum::<usize>()
    }

    pub(super) fn drop_bytes(&mut self) {
        for stream in &mut self.streams {
            stream.drop_bytes();
        }
        self.lines = [Assembler::new(), Assembler::new()];
        self.waiting = Vec::new();
    }
}

/// A line for people: without control characters, and not too long (it comes from the network).
fn escape(line: &[u8]) -> String {
    line[..line.len().min(120)].escape_ascii().to_string()
}
