//! Taking up a dialogue that was going on already: after a restart of the daemon, or after records were missed.
//!
//! What the kernel was in sight of is taken over from it. What it was blind to is guessed at by nobody: both streams are
//! skipped up to a line's end, and nothing opens until whole exchanges have been read.

use ftp_helper_common::{
    key::SessionKey,
    reason::Reason,
    record::SegmentRecord,
    state::{SessionState, flag, pending},
};

use super::{
    Nanos,
    core::Core,
    dialogue::Dialogue,
    grammar::Endpoint,
    kernel::KernelSide,
    line::Assembler,
    saved::Saved,
    session::{Session, Standing},
    stream::Stream,
};

/// Whole exchanges before a dialogue that was joined blind is trusted.
const DOUBT_BLIND: u8 = 2;

/// What a daemon before this one has left of a session.
#[derive(Clone, Copy, Debug)]
pub struct Left<'a> {
    /// Its entry in the kernel's table.
    pub state: &'a SessionState,
    /// `CLOCK_MONOTONIC` of the end of its unconsumed pinhole, where that is known, nanoseconds.
    pub deadline: Option<Nanos>,
    /// What [`super::Engine::save`] has written of it.
    pub saved: Option<&'a [u8]>,
}

/// What is known of a dialogue that was going on already.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Snapshot {
    /// Next sequence numbers of client and server.
    pub(super) next: [u32; 2],
    /// `state::pending`.
    pub(super) pending: u8,
    /// Where the unanswered command ends.
    pub(super) command_end: u32,
    /// Code of the multi-line reply that is open, or 0.
    pub(super) multiline: u16,
    /// The client is logged in.
    pub(super) logged_in: bool,
    /// After EPSV ALL.
    pub(super) epsv_all: bool,
    /// The endpoint waits for a transfer command.
    pub(super) armed: bool,
    /// The last PORT or EPRT.
    pub(super) active: Option<(u8, Endpoint)>,
    /// The unanswered command has opened the pinhole.
    pub(super) opened: bool,
    /// Sequence number of the announcement that opened the pinhole.
    pub(super) pinhole_seq: u32,
    /// Whole exchanges until this is to be trusted.
    pub(super) doubt: u8,
}

impl Session {
    /// A session that the kernel follows and nobody told of: where its first record stands.
    pub(super) fn found(now: Nanos, record: &SegmentRecord) -> Self {
        let mut session = Self::empty(now, record.session, record.key, record.client_hook, record.next);
        session.rebase(record);
        session
    }

    /// A session as it stands in the kernel's table.
    pub(super) fn adopted(now: Nanos, key: &SessionKey, left: &Left<'_>, core: &mut Core) -> Self {
        let state = left.state;
        let mut session = Self::empty(now, state.id, *key, state.client_hook, state.next);
        session.last = state.last.min(now);
        let blind = state.flags & flag::BLIND != 0;
        let kind = state.active_kind;
        let endpoint = Endpoint { addr: key.client, port: state.active_port };
        session.resume(&Snapshot {
            next: state.next,
            pending: if blind && state.pending != pending::GREETING { pending::NONE } else { state.pending },
            command_end: state.command_end,
            multiline: state.multiline,
            logged_in: state.flags & flag::LOGGED_IN != 0,
            epsv_all: state.flags & flag::EPSV_ALL != 0,
            armed: state.flags & flag::ARMED != 0 && !blind,
            active: (kind != 0 && !blind).then_some((kind, endpoint)),
            opened: state.pinhole.port != 0 && state.pinhole.port == state.active_port,
            pinhole_seq: state.pinhole_seq,
            doubt: if blind { DOUBT_BLIND } else { 0 },
        });
        session.note_flags(state.flags);
        session.kernel.see(state.epoch, blind);
        session.kernel.join(state.next, state.pinhole_seq);
        if state.pinhole.port != 0 {
            session.adopt_pinhole(now, core, state, left.deadline);
        }
        if matches!(session.standing, Standing::Opaque(_)) {
            // The policy may be another one than that of the daemon before.
            session.ask_opaque(core);
        }
        session
    }

    /// A session to which the kernel is blind, as a daemon before this one has saved it after the last record that it counted as
    /// read.
    pub(super) fn restored(now: Nanos, key: &SessionKey, left: &Left<'_>, saved: Saved, core: &mut Core) -> Self {
        let state = left.state;
        let next = [saved.streams[0].next(), saved.streams[1].next()];
        let mut session = Self::empty(now, state.id, *key, state.client_hook, next);
        session.last = state.last.min(now);
        (session.started, session.logged_out) = (saved.started.min(now), saved.logged_out.min(now));
        (session.dialogue, session.streams, session.lines) = (saved.dialogue, saved.streams, saved.lines);
        (session.waiting, session.fin, session.reset) = (saved.waiting, saved.fin, saved.reset);
        core.kept += session.kept();
        session.go_on(now, left, core, |kernel| kernel.restore(saved.kernel, next, state.pinhole_seq));
        session
    }

    /// A session that the kernel saw through until the first record that nobody has read, which is this one.
    pub(super) fn rejoined(now: Nanos, record: &SegmentRecord, left: &Left<'_>, core: &mut Core) -> Self {
        let state = left.state;
        let mut session = Self::empty(now, record.session, record.key, record.client_hook, record.next);
        session.last = state.last.min(now);
        session.rebase_on(record, 0);
        let opened_before = record.next;
        session.go_on(now, left, core, |kernel| kernel.rejoin(opened_before, state.pinhole_seq));
        session
    }

    /// What both have in common: the kernel's side.
    fn go_on(&mut self, now: Nanos, left: &Left<'_>, core: &mut Core, kernel: impl FnOnce(&mut KernelSide)) {
        let state = left.state;
        self.kernel.see(state.epoch, state.flags & flag::BLIND != 0);
        kernel(&mut self.kernel);
        if state.pinhole.port != 0 {
            self.adopt_pinhole(now, core, state, left.deadline);
        }
    }

    /// Goes on where the kernel stood before this record, since records were missed.
    pub(super) fn rebase(&mut self, record: &SegmentRecord) {
        let blind = record.flags & flag::BLIND != 0;
        let greeting = record.pending == pending::GREETING && record.next == record.start;
        let doubt = match (blind, record.unanswered != 0 && !greeting) {
            (true, _) => DOUBT_BLIND,
            (false, unanswered) => u8::from(unanswered),
        };
        self.rebase_on(record, doubt);
    }

    fn rebase_on(&mut self, record: &SegmentRecord, doubt: u8) {
        let blind = record.flags & flag::BLIND != 0;
        let greeting = record.pending == pending::GREETING && record.next == record.start;
        let unanswered = record.unanswered != 0;
        self.resume(&Snapshot {
            next: record.next,
            pending: match record.pending {
                _ if greeting => pending::GREETING,
                // Whatever it was, the kernel had lost sight of it; a half-read greeting leaves nothing to go by either.
                _ if blind || !unanswered || record.pending == pending::GREETING => pending::NONE,
                other => other,
            },
            command_end: record.next[0],
            logged_in: record.flags & flag::LOGGED_IN != 0,
            epsv_all: record.flags & flag::EPSV_ALL != 0,
            doubt,
            ..Snapshot::default()
        });
        self.note_flags(record.flags);
    }

    fn resume(&mut self, snapshot: &Snapshot) {
        self.dialogue = Dialogue::resumed(snapshot);
        self.streams = snapshot.next.map(Stream::new);
        self.waiting = Vec::new();
        let line = || if snapshot.doubt == DOUBT_BLIND { Assembler::midway() } else { Assembler::new() };
        self.lines = [line(), line()];
    }

    /// Standing that the kernel remembers from a daemon before this one.
    fn note_flags(&mut self, flags: u16) {
        if flags & flag::OPAQUE != 0 {
            self.standing = Standing::Opaque(Reason::AuthAccepted);
        } else if flags & flag::KILLED != 0 {
            self.standing = Standing::Killed(Reason::Killed);
        } else if flags & flag::TAINTED != 0 {
            self.standing = Standing::Tainted(Reason::SessionTainted);
        } else if flags & flag::LOST != 0 {
            self.standing = Standing::Tainted(Reason::Unrecorded);
        }
        self.reset |= flags & flag::RESET != 0;
        for (side, bit) in [(0, flag::FIN_CLIENT), (1, flag::FIN_SERVER)] {
            if flags & bit != 0 {
                self.fin[side] = Some(self.streams[side].next());
            }
        }
    }
}
