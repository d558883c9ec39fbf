//! The kernel's side of a session: what it opened, what it is asked to do, and how it sees again.

mod side;

use ftp_helper_common::{
    canon::pinhole_key,
    command::{Command, Outcome, op},
    key::{PinholeKey, SERVER},
    reason::Reason,
    state::{SessionState, flag, pending},
    tcp::distance,
};

use self::side::Fast;
pub(super) use self::side::{KernelSide, SavedKernel};
use super::{
    Nanos,
    core::Core,
    dialogue::Announcement,
    pinhole::{self, Pinhole, Stage, judge},
    session::{Session, Standing},
    stats::count,
    view::ends,
};
use crate::event::{self, By, Event, Kind, PinholeState};

/// How long a data connection's record may be behind the kernel's word that the pinhole is gone, nanoseconds.
const USED_WAIT: Nanos = 200_000_000;
/// How long the kernel may be at work on one segment before it is asked again, nanoseconds.
const SETTLE_WAIT: Nanos = 1_000_000;
/// How long the kernel is not asked about a pinhole that the fast path has opened: most are used by then. Longer than the daemon
/// waits between two looks, so that what a look finds opened the next one may find used, without a timer in between.
const USE_WAIT: Nanos = 5_000_000;
/// How often the kernel is asked once more to see again, while it is behind.
const RESYNCS: u8 = 6;
/// Openings that were taken back before the kernel has answered, at most; a driver answers after each record.
const SUPERSEDED: usize = 64;

impl Session {
    /// Opens what was announced, or vouches for what the kernel has opened.
    pub(super) fn open(&mut self, now: Nanos, core: &mut Core, a: &Announcement, doubtful: bool) {
        let fast = self.kernel.take(a.side, a.seq);
        let refused = if self.is_closing() {
            Some(Reason::SessionClosing)
        } else if doubtful && fast.is_none() {
            Some(Reason::DaemonLoss)
        } else if fast.is_none() && self.quota_used_up(core) {
            // Where the fast path opened, the kernel has counted.
            Some(Reason::ClientQuota)
        } else {
            None
        };
        if let Some(reason) = refused {
            count(&mut core.stats.refused, reason);
            if self.may_tell_refusal(now, core) {
                let shown = self.show_refused(a);
                core.session_event(now, self, Kind::Refused, Some(reason), Some(shown));
            }
            if let Some(fast) = fast {
                self.diverged(now, core, &fast);
            }
            return;
        }
        core.stats.announcements += 1;
        let key = pinhole_key(&self.key, self.client_hook, a.kind, a.port);
        let timeout = pinhole::timeout(&core.policy);
        let opened = fast.map_or(now, |f| f.time.min(now));
        let agreed = fast.filter(|f| f.port == a.port && (f.kind == 0 || f.kind == a.kind));
        if self.kernel.opened.take() == Some(agreed.map_or(a.seq, |f| f.seq)) {
            // It stood in the table when the session was taken over, and what is left of it was taken over too; a daemon before
            // this one did not live to count the record as read.
            core.stats.taken_by_fast_path += u64::from(agreed.is_some());
            return;
        }
        let mut hole = Pinhole {
            key,
            deadline: opened.saturating_add(timeout),
            seq: agreed.map_or(a.seq, |f| f.seq),
            line: a.seq,
            kind: a.kind,
            stage: Stage::Asked,
        };
        if let Some(old) = self.drop_pinhole(core) {
            self.tell_revoked(now, core, old, Reason::Replaced);
        }
        self.kernel.returnable = None;
        if agreed.is_some() {
            // Most are used at once: only what is still there a moment later is asked for, which is a call into the kernel.
            hole.stage =
                if core.asks_at_once { Stage::Provisional } else { Stage::Unsettled(now.saturating_add(USE_WAIT)) };
            core.stats.taken_by_fast_path += 1;
            self.kernel.last = hole.seq;
            self.tell_opened(now, core, &hole, By::Kernel);
            if self.kernel.used == Some(hole.seq) {
                self.kernel.returnable = Some(hole.seq);
                return;
            }
            self.kernel.unconfirmed = agreed.and_then(|f| f.exactly).map(|at| (hole.seq, at));
            if core.asks_at_once {
                self.ask_confirm(core, &hole);
            }
        } else {
            if let Some(fast) = fast {
                self.diverged(now, core, &fast);
            }
            self.ask_open(core, &hole);
            self.kernel.last = hole.seq;
            self.kernel.own = Some((a.side, a.seq, a.kind, a.port));
        }
        core.unconsumed.add(self.key.client, &key, self.id);
        self.pinhole = Some(hole);
    }

    /// Takes back what is unconsumed, and what a reset could make so.
    pub(super) fn revoke(&mut self, now: Nanos, core: &mut Core, reason: Reason) {
        self.kernel.returnable = None;
        let Some(hole) = self.drop_pinhole(core) else { return };
        self.ask_revoke(core, &hole.key, hole.seq);
        self.tell_revoked(now, core, hole, reason);
    }

    /// Records were missed: a pinhole that is gone may have been used or taken back by what nobody told of, and is not opened
    /// again.
    pub(super) fn lose_missing(&mut self, now: Nanos, core: &mut Core) {
        if self.pinhole.is_some_and(|p| matches!(p.stage, Stage::Missing { .. })) {
            self.revoke(now, core, Reason::DaemonLoss);
        }
    }

    /// A data connection has used the pinhole of this announcement.
    pub(super) fn used(&mut self, now: Nanos, core: &mut Core, seq: u32) -> Option<Pinhole> {
        self.last = now;
        self.kernel.used = Some(seq);
        if seq == self.kernel.last {
            self.kernel.returnable = Some(seq);
        }
        let spent = self.kernel.spent.take().filter(|p| p.seq == seq);
        if self.pinhole.is_some_and(|p| p.seq == seq) { self.drop_pinhole(core) } else { spent }
    }

    /// A reset has given the pinhole back in the kernel, which does not know of all that a session to which it is blind has
    /// come to: then it is taken back.
    pub(super) fn rearm(&mut self, now: Nanos, core: &mut Core, hole: Pinhole) {
        let barred = self.standing != Standing::Good || self.is_closing();
        let returns = self.kernel.returnable.take() == Some(hole.seq);
        if hole.deadline <= now || self.pinhole.is_some() || barred || !returns {
            return self.ask_revoke(core, &hole.key, hole.seq);
        }
        self.kernel.used = None;
        core.unconsumed.add(self.key.client, &hole.key, self.id);
        self.pinhole = Some(Pinhole { stage: Stage::Confirmed, ..hole });
    }

    /// The unconsumed pinhole of a session that is taken over.
    pub(super) fn adopt_pinhole(&mut self, now: Nanos, core: &mut Core, state: &SessionState, deadline: Option<Nanos>) {
        let kind = match (state.pinhole.initiator == self.key.client, state.active_kind) {
            (true, _) => pending::PASV,
            (false, pending::EPRT) => pending::EPRT,
            (false, _) => pending::PORT,
        };
        let timeout = pinhole::timeout(&core.policy);
        core.unconsumed.add(self.key.client, &state.pinhole, self.id);
        let hole = Pinhole {
            key: state.pinhole,
            deadline: deadline.unwrap_or(Nanos::MAX).min(now.saturating_add(timeout)),
            seq: state.pinhole_seq,
            line: state.pinhole_seq,
            kind,
            stage: Stage::Adopted,
        };
        self.pinhole = Some(hole);
        self.kernel.returnable = Some(hole.seq);
        // Nobody has vouched for it if the daemon before was gone when it opened.
        self.ask_confirm(core, &hole);
    }

    /// The policy is another one.
    pub(super) fn policy_changed(&mut self, now: Nanos, core: &mut Core) {
        if matches!(self.standing, Standing::Opaque(_)) {
            self.ask_opaque(core);
        }
        let Some(hole) = self.pinhole else { return };
        let a = Announcement { kind: hole.kind, addr: None, port: hole.key.port, side: SERVER, seq: hole.line };
        if judge(&core.policy, &self.key, self.client_hook, self.inside, &a).is_err() {
            self.revoke(now, core, Reason::PolicyChanged);
        }
    }

    /// What became of a command.
    pub(super) fn outcome(&mut self, now: Nanos, core: &mut Core, command: &Command, outcome: Outcome) {
        match command.op {
            op::OPEN => self.open_outcome(now, core, command.seq, outcome),
            op::CONFIRM => self.confirm_outcome(now, core, command.seq, outcome),
            op::RESYNC => {
                self.kernel.asked = false;
                if outcome == Outcome::Done {
                    core.stats.resyncs_applied += 1;
                    self.kernel.blind = false;
                } else if outcome == Outcome::MovedOn && self.kernel.asked_again < RESYNCS {
                    // The segment that the engine has read may not be committed yet, and no other may come for long.
                    self.kernel.asked = true;
                    self.kernel.again = Some(now.saturating_add(SETTLE_WAIT << self.kernel.asked_again));
                    self.kernel.asked_again += 1;
                } else if outcome == Outcome::Barred {
                    // It won't see again; asking once more changes nothing.
                    self.kernel.asked = true;
                }
            }
            op::STANDING if outcome == Outcome::Full => {
                core.session_event(now, self, Kind::Refused, Some(Reason::PinholesFull), None);
            }
            op::STANDING if outcome != Outcome::Done => core.stats.commands_failed += 1,
            _ => {}
        }
    }

    /// Does what is due for the pinhole.
    pub(super) fn pinhole_timeout(&mut self, now: Nanos, core: &mut Core) {
        let Some(hole) = self.pinhole else { return };
        if hole.deadline <= now {
            self.drop_pinhole(core);
            // The kernel lets nobody through any more; this frees its entry and the client's share.
            self.ask_revoke(core, &hole.key, hole.seq);
            core.stats.expired += 1;
            core.session_event(now, self, Kind::Expired, None, Some(hole.show(now)));
        } else if let Stage::Unsettled(until) = hole.stage
            && until <= now
        {
            self.pinhole = Some(Pinhole { stage: Stage::Provisional, ..hole });
            self.ask_confirm(core, &hole);
        } else if let Stage::Missing { since, until } = hole.stage
            && until <= now
        {
            if core.read_up_to <= since {
                // Behind: the record of its use may still be to come.
                let until = now.saturating_add(USED_WAIT);
                self.pinhole = Some(Pinhole { stage: Stage::Missing { since, until }, ..hole });
                return;
            }
            let hole = Pinhole { stage: Stage::Asked, ..hole };
            self.pinhole = Some(hole);
            self.ask_open(core, &hole);
        }
    }

    /// Asks for the session's standing in the kernel.
    pub(super) fn ask_standing(&mut self, core: &mut Core, flags: u16) {
        core.command(Command { flags, ..self.about(op::STANDING, 0) });
    }

    /// Tells the kernel that the session is encrypted, and whether its server has a range for such sessions.
    pub(super) fn ask_opaque(&mut self, core: &mut Core) {
        let range = if core.policy.opaque_range(self.key.server).is_some() { flag::RANGE } else { 0 };
        self.ask_standing(core, flag::OPAQUE | range);
    }

    /// Asks once more to see again, if it is time.
    pub(super) fn sight_timeout(&mut self, now: Nanos, core: &mut Core) {
        if self.kernel.due() <= now {
            self.kernel.again = None;
            self.kernel.asked = false;
            self.settle_with_kernel(now, core);
        }
    }

    /// After a segment: what the kernel opened and the engine did not is closed; a blind kernel is brought back.
    pub(super) fn settle_with_kernel(&mut self, now: Nanos, core: &mut Core) {
        let next = self.next();
        let read = |f: &Fast| distance(next[usize::from(f.side & 1)], f.end) >= 0;
        while let Some(i) = self.kernel.fast.iter().position(|f| self.standing != Standing::Good || read(f)) {
            let fast = self.kernel.remove(i);
            // Two CPUs may have had the same segment in hand, and both have told of it.
            if self.kernel.taken != Some((fast.side, fast.seq)) && !self.opened_too(core, &fast) {
                self.diverged(now, core, &fast);
            }
        }
        if self.kernel.blind && !self.kernel.asked && self.is_quiet() {
            self.kernel.asked = true;
            core.stats.resyncs_asked += 1;
            let mut flags = 0;
            if self.dialogue.logged_in() {
                flags |= flag::LOGGED_IN;
            }
            if self.dialogue.epsv_all() {
                flags |= flag::EPSV_ALL;
            }
            let mut command = Command { epoch: self.kernel.epoch, next, ..self.about(op::RESYNC, 0) };
            if let Some((kind, port)) = self.dialogue.armed() {
                flags |= flag::ARMED;
                (command.mode, command.pinhole.port) = (kind, port);
            }
            core.command(Command { flags, ..command });
        }
    }

    /// Whether the fast path has opened what the engine had opened by the same line before: one CPU had the segment in hand
    /// when the kernel was brought back to sight, and another saw a copy of it. The kernel's entry is then the younger one's.
    fn opened_too(&mut self, core: &mut Core, fast: &Fast) -> bool {
        let Some((side, line, kind, port)) = self.kernel.own else { return false };
        let within = distance(line, fast.seq) >= 0 && distance(line, fast.end) < 0;
        if self.standing != Standing::Good || side != fast.side || port != fast.port || !within {
            return false;
        }
        self.kernel.last = fast.seq;
        match &mut self.pinhole {
            Some(hole) if hole.line == line && hole.stage != Stage::Asked => {
                hole.seq = fast.seq;
                let hole = *hole;
                self.ask_confirm(core, &hole);
            }
            // It was used, or taken back, in the meantime.
            _ => self.ask_revoke(core, &pinhole_key(&self.key, self.client_hook, kind, port), fast.seq),
        }
        true
    }

    /// Lets go of the pinhole without telling anybody.
    pub(super) fn drop_pinhole(&mut self, core: &mut Core) -> Option<Pinhole> {
        let hole = self.pinhole.take()?;
        core.unconsumed.remove(self.key.client, &hole.key, self.id);
        Some(hole)
    }

    /// An endpoint that was not opened, for events.
    pub(super) fn show_refused(&self, a: &Announcement) -> event::Pinhole {
        let mut key = pinhole_key(&self.key, self.client_hook, a.kind, a.port);
        if let Some(addr) = a.addr {
            key.responder = addr;
        }
        pinhole::show(&key, a.kind, PinholeState::Provisional, 0)
    }

    fn open_outcome(&mut self, now: Nanos, core: &mut Core, seq: u32, outcome: Outcome) {
        if let Some(i) = self.kernel.superseded.iter().position(|(p, _)| p.seq == seq) {
            let (hole, reason) = self.kernel.superseded.remove(i);
            if self.kernel.superseded.is_empty() {
                self.kernel.superseded = Vec::new();
            }
            if outcome == Outcome::Done {
                let hole = Pinhole { stage: Stage::Confirmed, ..hole };
                core.stats.opened_by_daemon += 1;
                self.tell_opened(now, core, &hole, By::Daemon);
                self.tell_revoked(now, core, hole, reason);
            }
            return;
        }
        let Some(hole) = self.pinhole.filter(|p| p.seq == seq && p.stage == Stage::Asked) else { return };
        let reason = match outcome {
            Outcome::Done => {
                let hole = Pinhole { stage: Stage::Confirmed, ..hole };
                self.pinhole = Some(hole);
                core.stats.opened_by_daemon += 1;
                return self.tell_opened(now, core, &hole, By::Daemon);
            }
            Outcome::Taken => Reason::PinholeTaken,
            Outcome::Full => Reason::PinholesFull,
            Outcome::Quota => Reason::ClientQuota,
            Outcome::Barred => Reason::SessionClosing,
            Outcome::MovedOn | Outcome::Busy => Reason::Race,
            Outcome::Unseen => Reason::DaemonLoss,
            Outcome::NoPinhole | Outcome::NoSession | Outcome::Malformed | Outcome::Used => Reason::Forgotten,
        };
        self.drop_pinhole(core);
        count(&mut core.stats.refused, reason);
        if self.may_tell_refusal(now, core) {
            core.session_event(now, self, Kind::Refused, Some(reason), Some(hole.show(now)));
        }
    }

    fn confirm_outcome(&mut self, now: Nanos, core: &mut Core, seq: u32, outcome: Outcome) {
        let asked = |p: &&mut Pinhole| p.seq == seq && matches!(p.stage, Stage::Provisional | Stage::Adopted);
        let Some(hole) = self.pinhole.as_mut().filter(asked) else { return };
        match outcome {
            // Used up before it could be vouched for: the kernel's entry goes on naming it. The record of that is on its
            // way, or found no room in `observe`, or was told to a daemon before.
            Outcome::Used => {
                let spent = self.drop_pinhole(core);
                self.kernel.spent = spent;
            }
            Outcome::NoPinhole if hole.stage == Stage::Adopted => drop(self.drop_pinhole(core)),
            Outcome::Done => {
                hole.stage = Stage::Confirmed;
                let shown = hole.show(now);
                core.stats.confirmed += 1;
                if let Some((_, opened)) = self.kernel.unconfirmed.take().filter(|(of, _)| *of == seq) {
                    core.stats.confirm_latency.add(now.saturating_sub(opened));
                }
                core.session_event(now, self, Kind::Confirmed, None, Some(shown));
            }
            Outcome::Busy => hole.stage = Stage::Unsettled(now.saturating_add(SETTLE_WAIT)),
            // Taken back by the kernel, or used by a session that has moved on; a record may be on its way.
            Outcome::NoPinhole => {
                hole.stage = Stage::Missing { since: now, until: now.saturating_add(USED_WAIT) };
            }
            _ => core.stats.commands_failed += 1,
        }
    }

    /// The kernel opened what the engine would not have.
    fn diverged(&mut self, now: Nanos, core: &mut Core, fast: &Fast) {
        core.stats.divergences += 1;
        self.kernel.last = fast.seq;
        let kind = if fast.kind == 0 { pending::PORT } else { fast.kind };
        let key = pinhole_key(&self.key, self.client_hook, kind, fast.port);
        self.ask_revoke(core, &key, fast.seq);
        let shown = pinhole::show(&key, kind, PinholeState::Provisional, 0);
        core.session_event(now, self, Kind::Revoked, Some(Reason::NotConfirmed), Some(shown));
    }

    /// Tells that a pinhole was taken back; later, where nobody knows yet whether it was open.
    fn tell_revoked(&mut self, now: Nanos, core: &mut Core, hole: Pinhole, reason: Reason) {
        if hole.stage == Stage::Asked {
            if self.kernel.superseded.len() < SUPERSEDED {
                self.kernel.superseded.push((hole, reason));
            }
            return;
        }
        count(&mut core.stats.revoked, reason);
        core.session_event(now, self, Kind::Revoked, Some(reason), Some(hole.show(now)));
    }

    fn tell_opened(&self, now: Nanos, core: &mut Core, hole: &Pinhole, by: By) {
        let (client, server) = ends(&self.key);
        let event = core.blank(now, Kind::Opened).of_session(self.id, client, server);
        core.event(Event { pinhole: Some(hole.show(now)), by: Some(by), ..event });
    }

    fn ask_open(&self, core: &mut Core, hole: &Pinhole) {
        core.command(Command {
            pinhole: hole.key,
            mode: hole.kind,
            pinhole_flags: pinhole::flags(&core.policy, hole.kind),
            replaces: self.kernel.last,
            ..self.about(op::OPEN, hole.seq)
        });
    }

    fn ask_confirm(&self, core: &mut Core, hole: &Pinhole) {
        core.command(Command { pinhole: hole.key, ..self.about(op::CONFIRM, hole.seq) });
    }

    fn ask_revoke(&self, core: &mut Core, pinhole: &PinholeKey, seq: u32) {
        core.command(Command { pinhole: *pinhole, ..self.about(op::REVOKE, seq) });
    }

    fn quota_used_up(&self, core: &Core) -> bool {
        // The one that it replaces does not count.
        let own = u32::from(self.pinhole.is_some());
        core.unconsumed.held(self.key.client).saturating_sub(own) >= core.policy.per_client
    }

    fn about(&self, op: u32, seq: u32) -> Command {
        Command { op, session: self.id, key: self.key, seq, ..Command::default() }
    }
}
