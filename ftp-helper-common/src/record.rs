//! Records: what the kernel writes to the daemon.
//!
//! Three ring buffers. `EVENTS` carries what the engine must see: no room there means that the packet does not pass (or,
//! in `observe`, that the session is lost and counted). `TELEMETRY` carries what is only told to people; no verdict
//! depends on it. `PARKED` carries whole first SYNs that came too early.

use crate::{
    addr::Addr,
    canon::Made,
    key::{FlowKey, SessionKey},
};

/// Kinds of records, the first byte of each.
pub mod kind {
    /// A segment of a control connection: [`super::SegmentRecord`], then payload.
    pub const SEGMENT: u8 = 1;
    /// The client's ACK of the handshake: [`super::SegmentRecord`] without payload.
    pub const SESSION: u8 = 2;
    /// The responder answered the SYN: [`super::FlowRecord`].
    pub const FLOW_START: u8 = 3;
    /// The data connection ended: [`super::FlowRecord`].
    pub const FLOW_END: u8 = 4;
    /// A SYN that had no pinhole: [`super::SynRecord`] (telemetry).
    pub const DENIED: u8 = 5;
    /// A control packet that is not followed or was dropped: [`super::SegmentRecord`] without payload (telemetry).
    pub const STRAY: u8 = 6;
    /// A first SYN, parked: [`super::SynRecord`], then the whole frame.
    pub const PARKED: u8 = 7;
    /// A data connection began anew after a reset: [`super::FlowRecord`].
    pub const FLOW_REARMED: u8 = 8;
}

/// Payload bytes in one record at most; a longer segment becomes several records.
pub const CHUNK: usize = 2048;

/// A segment of a control connection, as the kernel saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct SegmentRecord {
    /// [`kind`].
    pub kind: u8,
    /// [`crate::key::CLIENT`] or [`crate::key::SERVER`].
    pub side: u8,
    /// TCP flags, see [`crate::tcp`].
    pub tcp_flags: u8,
    /// [`crate::key::HOOK_IN`] or [`crate::key::HOOK_OUT`].
    pub hook: u8,
    /// Interface that the packet passed.
    pub ifindex: u32,
    /// The session, or 0 in a stray.
    pub session: u64,
    /// `CLOCK_MONOTONIC` (coarse), nanoseconds.
    pub time: u64,
    /// What the kernel made of the segment.
    pub made: Made,
    /// The two ends.
    pub key: SessionKey,
    /// Sequence number of the segment's first byte.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Payload length of the whole segment.
    pub segment_len: u32,
    /// Where this record's payload begins in the segment.
    pub offset: u32,
    /// The session's epoch when the segment was judged.
    pub epoch: u32,
    /// First sequence number of each side's data (ISN + 1).
    pub start: [u32; 2],
    /// Next sequence number of each side before this segment.
    pub next: [u32; 2],
    /// [`crate::state::flag`] before this segment.
    pub flags: u16,
    /// Why, in a stray: a [`crate::reason::Reason`].
    pub reason: u16,
    /// The endpoint of an announcement as the kernel parsed it; port 0 where there is none.
    pub endpoint_port: u16,
    /// `state::pending` before this segment.
    pub pending: u8,
    /// Unanswered commands before this segment.
    pub unanswered: u8,
    /// The endpoint's address.
    pub endpoint: Addr,
    /// The hook that the client's packets pass.
    pub client_hook: u8,
    /// Zero.
    pub pad: [u8; 3],
    /// How long after `time`, which is coarse, the segment opened a pinhole, nanoseconds; 0 if it opened none.
    pub late: u32,
}

/// A data connection began or ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct FlowRecord {
    /// [`kind`].
    pub kind: u8,
    /// The hook that the initiator's packets pass.
    pub hook: u8,
    /// `state::pending::PASV`, `EPSV`, `PORT` or `EPRT`.
    pub mode: u8,
    /// 1 if a reset ended it.
    pub reset: u8,
    /// Sequence number of the announcement.
    pub seq: u32,
    /// The session.
    pub session: u64,
    /// `CLOCK_MONOTONIC` (coarse), nanoseconds.
    pub time: u64,
    /// `CLOCK_MONOTONIC` of its SYN-ACK.
    pub start: u64,
    /// Deadline of its pinhole: until then it may be given back.
    pub deadline: u64,
    /// Payload bytes that the initiator and the responder sent.
    pub bytes: [u64; 2],
    /// The two ends.
    pub key: FlowKey,
    /// Zero.
    pub pad: u32,
}

/// A SYN that was denied (or would have been), or parked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct SynRecord {
    /// [`kind`].
    pub kind: u8,
    /// The hook that it passed.
    pub hook: u8,
    /// 1 if it was dropped, 0 if `observe` passed it, or `mark` without the mark.
    pub dropped: u8,
    /// Zero.
    pub pad: u8,
    /// Interface that it passed.
    pub ifindex: u32,
    /// `CLOCK_MONOTONIC` (coarse), nanoseconds.
    pub time: u64,
    /// The two ends.
    pub key: FlowKey,
    /// A [`crate::reason::Reason`].
    pub reason: u16,
    /// Length of the frame that follows, in a parked SYN.
    pub frame_len: u16,
    /// Accelerated VLAN tag of the frame: protocol in the upper half (host byte order), TCI in the lower; 0 if none.
    pub vlan: u32,
    /// The frame's EtherType, host byte order.
    pub ethertype: u16,
    /// Zero.
    pub pad2: u16,
}

super::pod!(SegmentRecord, FlowRecord, SynRecord);

const _: () = assert!(size_of::<SegmentRecord>() == 32 + 36 + 36 + 8 + 16 + 8);
const _: () = assert!(size_of::<FlowRecord>() == 8 + 8 * 6 + 36 + 4);
const _: () = assert!(size_of::<SynRecord>() == 16 + 36 + 12);

/// Frame bytes of a parked SYN at most: link-layer header, two tags, IPv6 with extension headers, TCP with options.
pub const MAX_PARKED_FRAME: usize = 512;
