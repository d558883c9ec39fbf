//! What the engine knows of the kernel's view of a session: what its fast path has opened, and whether it sees.

use ftp_helper_common::{
    canon::bit,
    reason::Reason,
    record::SegmentRecord,
    state::{flag, pending},
    tcp::distance,
};
use serde::{Deserialize, Serialize};

use crate::engine::{Nanos, pinhole::Pinhole};

/// Openings of the fast path whose bytes the engine has not read yet, at most.
const FAST: usize = 8;

/// What the engine knows of the kernel's view of a session.
#[derive(Debug, Default)]
pub(in crate::engine) struct KernelSide {
    /// What the fast path opened and the engine has not come to yet.
    pub(super) fast: Vec<Fast>,
    /// Pinholes that were taken back before the kernel had said that they are open, and why.
    pub(super) superseded: Vec<(Pinhole, Reason)>,
    /// The announcement whose pinhole was used last.
    pub(super) used: Option<u32>,
    /// The same until something else is announced, or it is taken back: a reset may still give its pinhole back.
    pub(super) returnable: Option<u32>,
    /// A pinhole that is used up by the kernel's word, until the record of that comes.
    pub(super) spent: Option<Pinhole>,
    /// The last announcement that was read, as the kernel names it.
    pub(super) last: u32,
    /// The last opening of the fast path that was read.
    pub(super) taken: Option<(u8, u32)>,
    /// The last line that the engine had opened itself, with its side, mode and port.
    pub(super) own: Option<(u8, u32, u8, u16)>,
    /// Where both streams stood when the session was taken over: what is older was told to nobody, or to a daemon before.
    joined: Option<[u32; 2]>,
    pub(super) epoch: u32,
    pub(super) blind: bool,
    /// The fast path's opening that is to be vouched for, and when exactly it was.
    pub(super) unconfirmed: Option<(u32, Nanos)>,
    /// The announcement that the session's entry named last when it was taken over: it has been opened already.
    pub(super) opened: Option<u32>,
    /// It was asked to see again, and has not answered.
    pub(super) asked: bool,
    /// It had not come to where the engine is: when it is asked once more, and how often it was.
    pub(super) again: Option<Nanos>,
    pub(super) asked_again: u8,
}

/// What outlives a daemon of [`KernelSide`].
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::engine) struct SavedKernel {
    fast: Vec<Fast>,
    used: Option<u32>,
    returnable: Option<u32>,
    last: u32,
    taken: Option<(u8, u32)>,
}

/// An opening of the fast path.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Fast {
    pub(super) side: u8,
    /// The segment, which the kernel names the opening by.
    pub(super) seq: u32,
    pub(super) end: u32,
    pub(super) port: u16,
    /// `state::pending` of what opened; 0 for an endpoint that waited for its transfer command.
    pub(super) kind: u8,
    pub(super) time: Nanos,
    /// When exactly, where that was told: `time` is a tick of the kernel's. Of no use to another daemon.
    #[serde(skip)]
    pub(super) exactly: Option<Nanos>,
}

impl KernelSide {
    /// Whether the kernel has lost sight of the dialogue.
    pub(in crate::engine) fn is_blind(&self) -> bool {
        self.blind
    }

    /// What its table says.
    pub(in crate::engine) fn see(&mut self, epoch: u32, blind: bool) {
        (self.epoch, self.blind) = (epoch, blind);
    }

    /// The session is taken over where both streams stand here: the state that it was taken from knows of every opening
    /// before, though records of them may still come. `announcement` is the one that opened last.
    pub(in crate::engine) fn join(&mut self, next: [u32; 2], announcement: u32) {
        self.joined = Some(next);
        self.last = announcement;
    }

    /// What another daemon has to know of this to go on.
    pub(in crate::engine) fn save(&self) -> SavedKernel {
        let Self { fast, used, returnable, last, taken, .. } = self;
        SavedKernel { fast: fast.clone(), used: *used, returnable: *returnable, last: *last, taken: *taken }
    }

    /// Goes on where another daemon has saved this; the session's entry has named `announcement` last.
    pub(in crate::engine) fn restore(&mut self, saved: SavedKernel, next: [u32; 2], announcement: u32) {
        self.joined = Some(next);
        (self.fast, self.used, self.returnable) = (saved.fast, saved.used, saved.returnable);
        (self.last, self.taken) = (saved.last, saved.taken);
        self.fast.truncate(FAST);
        // Opened for a record that nobody has counted as read: it comes once more.
        if announcement != saved.last {
            (self.opened, self.last) = (Some(announcement), announcement);
        }
    }

    /// Goes on where the streams stand here, of which every record is still to come; the session's entry has named `announcement`
    /// last, which may be that of one of them.
    pub(in crate::engine) fn rejoin(&mut self, next: [u32; 2], announcement: u32) {
        (self.joined, self.last) = (Some(next), announcement);
        self.opened = Some(announcement);
    }

    /// When it is asked once more to see again.
    pub(in crate::engine) fn due(&self) -> Nanos {
        self.again.unwrap_or(Nanos::MAX)
    }

    /// What a record says.
    pub(in crate::engine) fn note(&mut self, record: &SegmentRecord) {
        self.asked &= self.again.take().is_none();
        self.asked_again = 0;
        let went_blind = record.made.has(bit::BLIND);
        let epoch = record.epoch.wrapping_add(u32::from(went_blind));
        // Records of two CPUs may change places; the view never goes back.
        if distance(epoch, self.epoch) >= 0 {
            let blind = went_blind || record.flags & flag::BLIND != 0;
            if epoch != self.epoch || blind != self.blind {
                self.asked = false;
            }
            (self.epoch, self.blind) = (epoch, blind);
        }
        let end = record.seq.wrapping_add(record.segment_len);
        let told = self.joined.is_some_and(|next| distance(next[usize::from(record.side & 1)], end) >= 0);
        if record.made.has(bit::OPEN) && record.offset == 0 && !told && self.fast.len() < FAST {
            self.fast.push(Fast {
                side: record.side,
                seq: record.seq,
                end,
                port: record.made.port(),
                kind: match record.made.has(bit::PENDING) {
                    true if matches!(record.made.kind(), pending::PORT | pending::EPRT) => record.made.kind(),
                    true => 0,
                    false => record.pending,
                },
                time: record.time,
                exactly: (record.late != 0).then(|| record.time.saturating_add(record.late.into())),
            });
        }
    }

    /// Heap that it uses.
    #[cfg(test)]
    pub(in crate::engine) fn heap(&self) -> usize {
        self.fast.capacity() * size_of::<Fast>() + self.superseded.capacity() * size_of::<(Pinhole, Reason)>()
    }

    /// Takes the fast path's opening by the line at `seq`.
    pub(super) fn take(&mut self, side: u8, seq: u32) -> Option<Fast> {
        let within = |f: &Fast| f.side == side && distance(seq, f.seq) >= 0 && distance(seq, f.end) < 0;
        let i = self.fast.iter().position(within)?;
        let fast = self.remove(i);
        self.taken = Some((fast.side, fast.seq));
        Some(fast)
    }

    pub(super) fn remove(&mut self, i: usize) -> Fast {
        let fast = self.fast.remove(i);
        if self.fast.is_empty() {
            self.fast = Vec::new();
        }
        fast
    }
}
