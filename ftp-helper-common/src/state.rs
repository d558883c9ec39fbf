//! The values of the kernel's tables.
//!
//! In the kernel, a session and a pinhole carry a spin lock behind these fields (see [`Locked`]); the daemon reads them
//! with `BPF_F_LOCK`, so that it never sees half of a change.

use crate::key::{FlowKey, PinholeKey, SessionKey};

/// What the kernel knows about one control connection.
///
/// Index 0 of a pair is the client's, index 1 the server's ([`crate::key::CLIENT`], [`crate::key::SERVER`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct SessionState {
    /// Never used twice while the machine runs; never 0.
    pub id: u64,
    /// `CLOCK_MONOTONIC` (coarse) of the last segment, nanoseconds.
    pub last: u64,
    /// Hash of each side's last segment, see [`crate::canon::scan_line`]; 0 = unknown.
    pub last_hash: [u64; 2],
    /// Grows with every change of the entry: a decision made on an older one is not committed.
    pub version: u32,
    /// Grows each time the kernel loses sight of the dialogue.
    pub epoch: u32,
    /// Next sequence number of each side; while blind, the highest seen.
    pub next: [u32; 2],
    /// First sequence number of each side's data (ISN + 1).
    pub start: [u32; 2],
    /// Length of each side's last segment.
    pub last_len: [u32; 2],
    /// The sequence number just after the unanswered command.
    pub command_end: u32,
    /// Sequence number of the announcement that opened [`SessionState::pinhole`].
    pub pinhole_seq: u32,
    /// Interface of each side's last packet.
    pub ifindex: [u32; 2],
    /// The unconsumed pinhole; its port is 0 when there is none.
    pub pinhole: PinholeKey,
    /// Code of the multi-line reply that is being sent, or 0.
    pub multiline: u16,
    /// Port of the last PORT or EPRT, until it is opened or replaced.
    pub active_port: u16,
    /// Why the session is blind, a [`crate::reason::Reason`].
    pub blind_reason: u16,
    /// Bits `S_*`.
    pub flags: u16,
    /// Commands without a final reply: 0 or 1 while sighted.
    pub unanswered: u8,
    /// What the unanswered command is, `P_*`.
    pub pending: u8,
    /// The hook that the client's packets pass; the server's pass the other one.
    pub client_hook: u8,
    /// What kind the last PORT or EPRT was (`P_PORT`, `P_EPRT`), or 0.
    pub active_kind: u8,
}

/// What an unanswered command is.
pub mod pending {
    /// No command is unanswered.
    pub const NONE: u8 = 0;
    /// The server's greeting is awaited.
    pub const GREETING: u8 = 1;
    /// PASV.
    pub const PASV: u8 = 2;
    /// EPSV.
    pub const EPSV: u8 = 3;
    /// PORT.
    pub const PORT: u8 = 4;
    /// EPRT.
    pub const EPRT: u8 = 5;
    /// USER, PASS or ACCT: a 230 logs in.
    pub const LOGIN: u8 = 6;
    /// Any other command.
    pub const OTHER: u8 = 7;
    /// No command: a data connection of an encrypted session, in the range that the administrator gave its server.
    pub const RANGE: u8 = 8;
    /// No command either: a pinhole that an operator has added.
    pub const ADDED: u8 = 9;
}

/// The bit by which the id of an added pinhole differs from that of every session: those are times of a monotonic clock.
pub const ADDED_ID: u64 = 1 << 63;

/// Bits of [`SessionState::flags`].
pub mod flag {
    /// The client has logged in.
    pub const LOGGED_IN: u16 = 1;
    /// The dialogue stopped being canonical; the daemon carries on alone.
    pub const BLIND: u16 = 1 << 1;
    /// A FIN of the client was seen.
    pub const FIN_CLIENT: u16 = 1 << 2;
    /// A FIN of the server was seen.
    pub const FIN_SERVER: u16 = 1 << 3;
    /// A valid RST was seen.
    pub const RESET: u16 = 1 << 4;
    /// The session may open nothing any more.
    pub const TAINTED: u16 = 1 << 5;
    /// Its control packets are dropped.
    pub const KILLED: u16 = 1 << 6;
    /// AUTH was accepted, or TLS from the start: nothing is read any more.
    pub const OPAQUE: u16 = 1 << 7;
    /// Segments that the kernel judged have passed unrecorded since the last record.
    pub const UNRECORDED: u16 = 1 << 8;
    /// `observe` passed bytes that nobody read: lost for good.
    pub const LOST: u16 = 1 << 9;
    /// After EPSV ALL.
    pub const EPSV_ALL: u16 = 1 << 10;
    /// [`super::SessionState::active_port`] waits for a transfer command (`active_open = "transfer"`).
    pub const ARMED: u16 = 1 << 11;
    /// It counts in its hosts' [`super::RangeState`].
    pub const RANGE: u16 = 1 << 12;
    /// Either side's end was seen.
    pub const CLOSING: u16 = FIN_CLIENT | FIN_SERVER | RESET;
    /// Nothing may be opened for the session any more.
    pub const BARRED: u16 = TAINTED | KILLED | OPAQUE | LOST | CLOSING;
}

/// A handshake that has seen the server's SYN-ACK, not yet the client's ACK.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct HalfOpen {
    /// First sequence number of each side's data.
    pub start: [u32; 2],
    /// The hook that the client's packets pass.
    pub client_hook: u8,
    /// 1 if the client's SYN carried data: such a connection is not followed (RFC 7413).
    pub data_in_syn: u8,
    /// Zero.
    pub pad: [u8; 2],
    /// Interface that the SYN-ACK passed.
    pub ifindex: u32,
}

/// A permission that nobody has used up yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct PinholeState {
    /// The session it belongs to.
    pub session: u64,
    /// `CLOCK_MONOTONIC`, nanoseconds: not good any more from then on.
    pub deadline: u64,
    /// The SYN it is bound to, see [`bound`]; 0 = none yet. One word, so that a SYN binds it by one instruction and
    /// without the lock.
    pub bound: u64,
    /// Sequence number of the announcement.
    pub seq: u32,
    /// Bits of [`pinhole_flag`].
    pub flags: u8,
    /// `pending::PASV`, `EPSV`, `PORT` or `EPRT`.
    pub mode: u8,
    /// The control connection's ports, of client and server: with the pinhole's hosts they are the session's key.
    pub control: [u16; 2],
    /// The responder's port behind an address translation, host byte order; 0 where nothing is translated.
    pub inside_port: u16,
    /// Zero.
    pub pad: [u16; 2],
}

/// What a SYN binds a pinhole to: its sequence number in the upper half, its source port in the lowest 16 bits, and a
/// bit of its own, since both may be 0.
#[inline(always)]
pub const fn bound(isn: u32, source_port: u16) -> u64 {
    (isn as u64) << 32 | 1 << 16 | source_port as u64
}

impl PinholeState {
    /// Whether a SYN has bound it.
    #[inline(always)]
    pub const fn is_bound(&self) -> bool {
        self.bound != 0
    }

    /// Source port of the SYN that is bound to it, or 0.
    #[inline(always)]
    pub const fn source_port(&self) -> u16 {
        self.bound as u16
    }

    /// Initial sequence number of the SYN that is bound to it.
    #[inline(always)]
    pub const fn isn(&self) -> u32 {
        (self.bound >> 32) as u32
    }
}

/// Bits of [`PinholeState::flags`].
pub mod pinhole_flag {
    /// The daemon has vouched for it.
    pub const CONFIRMED: u8 = 1;
    /// It was bound again after a reset: not once more.
    pub const REARMED: u8 = 2;
    /// The initiator must use source port 20.
    pub const SOURCE_20: u8 = 4;
}

/// A data connection that is running.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct FlowState {
    /// The session it belongs to.
    pub session: u64,
    /// `CLOCK_MONOTONIC` of the SYN-ACK, nanoseconds.
    pub start: u64,
    /// `CLOCK_MONOTONIC` of the last packet that was looked at.
    pub last: u64,
    /// Bytes that the initiator and the responder have sent, as far as was looked.
    pub bytes: [u64; 2],
    /// Initial sequence numbers of initiator and responder.
    pub isn: [u32; 2],
    /// Deadline of the pinhole it came from: until then a reset may re-arm it.
    pub deadline: u64,
    /// Sequence number of the announcement.
    pub seq: u32,
    /// Bit 0: FIN of the initiator seen; bit 1: of the responder.
    pub fins: u8,
    /// `pending::PASV`, `EPSV`, `PORT` or `EPRT`.
    pub mode: u8,
    /// The hook that the initiator's packets pass.
    pub hook: u8,
    /// Flags of the pinhole it came from.
    pub flags: u8,
    /// The control connection's ports, of client and server.
    pub control: [u16; 2],
    /// Zero.
    pub pad: u32,
}

/// A value as it lies in a table with a spin lock behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Locked<T> {
    /// The value.
    pub state: T,
    /// The kernel's `struct bpf_spin_lock`; reads as 0 from user space.
    pub lock: u32,
    /// Zero.
    pub pad: u32,
}

/// What one client holds: one word, which the kernel changes by single instructions and without a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(8))]
pub struct ClientState {
    /// Unconsumed pinholes.
    pub pinholes: u32,
    /// 1 once the entry is being removed: nobody may count on it any more.
    pub dead: u32,
}

impl ClientState {
    /// The word of an entry that is being removed, which nobody has counted on.
    pub const DEAD: u64 = 1 << 32;
}

/// Encrypted sessions of two hosts that open the server's range.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct RangeState {
    /// How many there are.
    pub sessions: u64,
    /// The latest of them: its data connections are told as this one's.
    pub session: u64,
}

/// Bytes of what the daemon saves of a session for the next one (table `SAVED`).
pub const SAVED_BYTES: usize = 2048;

/// Two hosts with a blind session: their denied SYNs are worth keeping for a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct BlindPair {
    /// `CLOCK_MONOTONIC` until when.
    pub until: u64,
    /// SYNs that may still be kept until then.
    pub budget: u32,
    /// Zero.
    pub pad: u32,
}

super::pod!(
    BlindPair,
    RangeState,
    SessionState,
    HalfOpen,
    PinholeState,
    FlowState,
    ClientState,
    Locked<SessionState>,
    Locked<PinholeState>,
    Locked<FlowState>,
);

const _: () = assert!(size_of::<SessionState>() == 32 + 4 * 12 + 36 + 8 + 4);
const _: () = assert!(size_of::<PinholeState>() == 40 && size_of::<FlowState>() == 72 && size_of::<HalfOpen>() == 16);

/// What the kernel spends on a session and its pinhole: keys rounded to eight bytes, values with their locks, and the
/// 48 bytes and the bucket (16 bytes) of a preallocated hash table's element (kernel/bpf/hashtab.c).
pub const KERNEL_BYTES_PER_SESSION: usize = 2 * (48 + 16)
    + size_of::<SessionKey>().next_multiple_of(8)
    + size_of::<Locked<SessionState>>()
    + size_of::<PinholeKey>().next_multiple_of(8)
    + size_of::<Locked<PinholeState>>();
const _: () = assert!(KERNEL_BYTES_PER_SESSION <= 512);
const _: () = assert!(size_of::<FlowKey>() == 36);
