//! One control connection: what is known of it, and what ends it.

mod reading;

use ftp_helper_common::{
    addr::Addr,
    key::{FlowKey, SERVER, SessionKey},
    reason::Reason,
    record::SegmentRecord,
    state::flag,
    tcp::distance,
};

pub(super) use self::reading::Waiting;
use super::{
    Nanos, core::Core, dialogue::Dialogue, kernel::KernelSide, line::Assembler, pinhole::Pinhole, policy::Policy,
    stats::count, stream::Stream,
};
use crate::event::Kind;

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
