//! Commands: what the daemon asks the kernel to change.
//!
//! The daemon never writes the tables of sessions, pinholes, flows and clients. It runs a program in the kernel
//! (`BPF_PROG_TEST_RUN`) with a [`Command`] as the packet's data; the program checks the command against the entry as it
//! is at that moment, and its return value is an [`Outcome`].

use crate::key::{FlowKey, PinholeKey, SessionKey};

/// What is to be done.
pub mod op {
    /// Open [`super::Command::pinhole`] for the session, replacing an unconsumed one.
    pub const OPEN: u32 = 1;
    /// Vouch for the pinhole that the fast path opened for announcement `seq`.
    pub const CONFIRM: u32 = 2;
    /// Take back the session's unconsumed pinhole of announcement `seq`.
    pub const REVOKE: u32 = 3;
    /// Set the bits of `flags` in the session.
    pub const STANDING: u32 = 4;
    /// Bring the kernel back to sight.
    pub const RESYNC: u32 = 5;
    /// Remove the session, and its unconsumed pinhole.
    pub const FORGET: u32 = 6;
    /// Remove a data connection that nobody has heard of for long.
    pub const FORGET_FLOW: u32 = 7;
    /// Remove a client's entry if it holds nothing.
    pub const FORGET_CLIENT: u32 = 8;
    /// Remove the entry of two hosts' encrypted sessions if none counts on it.
    pub const FORGET_RANGE: u32 = 9;
    /// Count and tell as denied a SYN that was parked in vain.
    pub const DENY: u32 = 10;
    /// Set the inside address of the session's inside host, [`super::Command::pinhole`]'s initiator; zeros where nothing is
    /// translated.
    pub const ALIAS: u32 = 11;
    /// Remove a translation whose time is over.
    pub const FORGET_TRANSLATION: u32 = 12;
    /// Open [`super::Command::pinhole`] for no session: an operator asks for it. It is known by [`super::Command::session`],
    /// which begins with [`crate::state::ADDED_ID`].
    pub const ADD: u32 = 13;
    /// Take such a pinhole back.
    pub const REMOVE: u32 = 14;
}

/// The packet's data. It begins with an Ethernet header of zeros, since a test run insists on one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Command {
    /// Zero.
    pub ethernet: [u8; 16],
    /// [`op`].
    pub op: u32,
    /// The session's epoch that the daemon has seen (`RESYNC`), or the interface (`DENY`).
    pub epoch: u32,
    /// The session's id: an entry with another one is not touched.
    pub session: u64,
    /// The session's key.
    pub key: SessionKey,
    /// The announcement's sequence number (`OPEN`, `CONFIRM`, `REVOKE`), or for how many milliseconds it is open (`ADD`: never
    /// longer than one that was negotiated).
    pub seq: u32,
    /// Both sides' next sequence numbers (`RESYNC`).
    pub next: [u32; 2],
    /// The pinhole (`OPEN`, `CONFIRM`, `REVOKE`, `ADD`, `REMOVE`), the entry (`FORGET_RANGE`), or, as its port, the endpoint that waits for
    /// a transfer command (`RESYNC` with `ARMED`).
    pub pinhole: PinholeKey,
    /// The data connection (`FORGET_FLOW`), the translation's outside and inside end (`FORGET_TRANSLATION`), the client's quota key as the initiator (`FORGET_CLIENT`), or
    /// the SYN's two ends (`DENY`).
    pub flow: FlowKey,
    /// `state::flag` bits (`STANDING`: to be set, `RANGE` among them; `RESYNC`: `LOGGED_IN`, `EPSV_ALL`, `ARMED`), or a
    /// [`crate::reason::Reason`] (`DENY`).
    pub flags: u16,
    /// Mode of the pinhole (`OPEN`) or of the endpoint (`RESYNC` with `ARMED`), or the hook (`FORGET_FLOW`, `DENY`,
    /// `FORGET_TRANSLATION`: of the packets that it is for).
    pub mode: u8,
    /// `state::pinhole_flag` (`OPEN`).
    pub pinhole_flags: u8,
    /// Sequence number of the last announcement that the daemon has read before this one: an unconsumed pinhole of another
    /// is younger, and is not replaced (`OPEN`).
    pub replaces: u32,
}

super::pod!(Command);

const _: () = assert!(size_of::<Command>() == 16 + 16 + 36 + 12 + 36 + 36 + 8);

/// What a command did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Outcome {
    /// It is as it was asked for.
    Done = 0,
    /// There is no such session, or it has another id.
    NoSession = 1,
    /// The pinhole is not there (any more), or is another.
    NoPinhole = 2,
    /// The session's epoch or sequence numbers have moved on.
    MovedOn = 3,
    /// The session may open nothing.
    Barred = 4,
    /// Another live session holds exactly this pinhole.
    Taken = 5,
    /// A table is full.
    Full = 6,
    /// The client's quota is used up.
    Quota = 7,
    /// The kernel is at work on the segment that opens the pinhole (`CONFIRM`), or the client holds some (`FORGET_CLIENT`).
    Busy = 8,
    /// The command can't be read.
    Malformed = 9,
    /// The pinhole was the session's, and a connection has used it up (`CONFIRM`).
    Used = 10,
    /// Segments of the session have passed that the daemon has not seen, and may have taken back what it asks for (`OPEN`).
    Unseen = 11,
}

impl Outcome {
    /// The outcome with this number.
    pub const fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::Done,
            1 => Self::NoSession,
            2 => Self::NoPinhole,
            3 => Self::MovedOn,
            4 => Self::Barred,
            5 => Self::Taken,
            6 => Self::Full,
            7 => Self::Quota,
            8 => Self::Busy,
            9 => Self::Malformed,
            10 => Self::Used,
            11 => Self::Unseen,
            _ => return None,
        })
    }
}
