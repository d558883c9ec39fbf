//! What outlives the daemon of a session that the kernel does not see through.
//!
//! The kernel's table tells the next daemon all about a dialogue that the kernel follows itself. What the engine alone knows, half
//! a line, commands that are unanswered, is saved after each record: it says what the dialogue had come to where the ring
//! buffer was read up to, so that the next daemon goes on with the first record that nobody has counted as read. A record that
//! was dealt with and not counted comes once more; its bytes are old then.

use serde::{Deserialize, Serialize};

use super::{
    Nanos,
    dialogue::Dialogue,
    kernel::SavedKernel,
    line::Assembler,
    session::{Session, Standing, Waiting},
    stream::Stream,
};

/// Bytes of one saved session at most; of a longer one nothing is saved.
pub const SAVED_MAX: usize = ftp_helper_common::state::SAVED_BYTES;

/// As it is read.
#[derive(Deserialize)]
pub(super) struct Saved {
    pub(super) streams: [Stream; 2],
    pub(super) lines: [Assembler; 2],
    pub(super) waiting: Vec<Waiting>,
    pub(super) dialogue: Dialogue,
    pub(super) kernel: SavedKernel,
    pub(super) fin: [Option<u32>; 2],
    pub(super) reset: bool,
    pub(super) started: Nanos,
    pub(super) logged_out: Nanos,
}

/// The same as it is written: the fields in the same order.
#[derive(Serialize)]
struct Saving<'a> {
    streams: &'a [Stream; 2],
    lines: &'a [Assembler; 2],
    waiting: &'a [Waiting],
    dialogue: &'a Dialogue,
    kernel: SavedKernel,
    fin: [Option<u32>; 2],
    reset: bool,
    started: Nanos,
    logged_out: Nanos,
}

impl Saved {
    /// Reads what was saved; `None` of what can't be read.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        // Behind it there are zeroes.
        postcard::take_from_bytes(bytes).ok().map(|(saved, _)| saved)
    }
}

impl Session {
    /// Writes what another daemon needs to go on into `to`; its length. `None` where the kernel's tables tell it all, and where it
    /// does not fit.
    pub(super) fn save(&self, to: &mut [u8; SAVED_MAX]) -> Option<usize> {
        let alone = self.kernel.is_blind() || self.dialogue.is_intricate();
        if self.standing != Standing::Good || !alone {
            return None;
        }
        let saving = Saving {
            streams: &self.streams,
            lines: &self.lines,
            waiting: &self.waiting,
            dialogue: &self.dialogue,
            kernel: self.kernel.save(),
            fin: self.fin,
            reset: self.reset,
            started: self.started,
            logged_out: self.logged_out,
        };
        postcard::to_slice(&saving, to).ok().map(|written| written.len())
    }
}
