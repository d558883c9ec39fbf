//! Records, as they come out of the ring buffers.

use ftp_helper_common::{
    key::SERVER,
    record::{FlowRecord, SegmentRecord, SynRecord, kind},
};
use thiserror::Error;

/// A record of the kernel's, or one that `replay` made of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Record<'a> {
    /// The handshake of a control connection is complete.
    Session(SegmentRecord),
    /// A segment of a control connection, or a part of one, with its payload.
    Segment(SegmentRecord, &'a [u8]),
    /// A data connection began.
    FlowStart(FlowRecord),
    /// A data connection was reset before it carried anything; its pinhole is open again.
    FlowRearmed(FlowRecord),
    /// A data connection ended.
    FlowEnd(FlowRecord),
    /// A SYN without a pinhole.
    Denied(SynRecord),
    /// A control packet that is not followed, or was dropped.
    Stray(SegmentRecord),
}

/// What is wrong with the bytes of a record. Only a kernel side of another version writes such.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum RecordError {
    /// No first byte.
    #[error("an empty record")]
    Empty,
    /// Shorter than its kind.
    #[error("a record of kind {kind} has {have} bytes instead of at least {need}")]
    Short {
        /// The first byte.
        kind: u8,
        /// Bytes that are there.
        have: usize,
        /// Bytes that there should be.
        need: usize,
    },
    /// Neither of the engine's kinds.
    #[error("a record of unknown kind {0}")]
    Kind(u8),
    /// Neither client nor server.
    #[error("a record of side {0}, which is neither client (0) nor server (1)")]
    Side(u8),
}

impl<'a> Record<'a> {
    /// Reads a record, whatever its alignment. Parked SYNs are not the engine's.
    ///
    /// # Errors
    /// Bytes that the kernel side of this version does not write.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let &kind = bytes.first().ok_or(RecordError::Empty)?;
        let segment = || {
            let (record, payload) = head::<SegmentRecord>(kind, bytes)?;
            if record.side > SERVER {
                return Err(RecordError::Side(record.side));
            }
            let rest = record.segment_len.saturating_sub(record.offset) as usize;
            Ok((record, &payload[..payload.len().min(rest)]))
        };
        let flow = || head::<FlowRecord>(kind, bytes).map(|(r, _)| r);
        Ok(match kind {
            kind::SEGMENT => {
                let (record, payload) = segment()?;
                Self::Segment(record, payload)
            }
            kind::SESSION => Self::Session(segment()?.0),
            kind::STRAY => Self::Stray(segment()?.0),
            kind::FLOW_START => Self::FlowStart(flow()?),
            kind::FLOW_REARMED => Self::FlowRearmed(flow()?),
            kind::FLOW_END => Self::FlowEnd(flow()?),
            kind::DENIED => Self::Denied(head::<SynRecord>(kind, bytes)?.0),
            other => return Err(RecordError::Kind(other)),
        })
    }

    /// `CLOCK_MONOTONIC` (coarse) of when it was written, nanoseconds.
    pub fn time(&self) -> u64 {
        match self {
            Self::Session(r) | Self::Segment(r, _) | Self::Stray(r) => r.time,
            Self::FlowStart(r) | Self::FlowRearmed(r) | Self::FlowEnd(r) => r.time,
            Self::Denied(r) => r.time,
        }
    }

    /// The session that it belongs to, or 0.
    pub fn session(&self) -> u64 {
        match self {
            Self::Session(r) | Self::Segment(r, _) => r.session,
            Self::FlowStart(r) | Self::FlowRearmed(r) | Self::FlowEnd(r) => r.session,
            Self::Denied(_) | Self::Stray(_) => 0,
        }
    }
}

/// The fixed part of a record, and what follows it.
fn head<T: aya::Pod>(kind: u8, bytes: &[u8]) -> Result<(T, &[u8]), RecordError> {
    let need = size_of::<T>();
    let Some((fixed, rest)) = bytes.split_at_checked(need) else {
        return Err(RecordError::Short { kind, have: bytes.len(), need });
    };
    // SAFETY: `fixed` holds exactly the bytes of a `T`; a `Pod` has no invalid bit pattern, and the read asks for no
    // alignment.
    Ok((unsafe { fixed.as_ptr().cast::<T>().read_unaligned() }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<T: aya::Pod>(value: &T) -> Vec<u8> {
        // SAFETY: a `Pod` is plain bytes without padding.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }.to_vec()
    }

    #[test]
    fn every_kind_at_every_alignment() {
        let segment = SegmentRecord { kind: kind::SEGMENT, side: 1, seq: 7, segment_len: 5, ..Default::default() };
        let mut raw = vec![0];
        raw.extend(bytes(&segment));
        raw.extend(b"hello!!!");
        assert_eq!(Record::parse(&raw[1..]), Ok(Record::Segment(segment, b"hello")), "padding is cut off");
        let flow = FlowRecord { kind: kind::FLOW_END, session: 9, ..Default::default() };
        let record = bytes(&flow);
        assert_eq!(Record::parse(&record), Ok(Record::FlowEnd(flow)));
        assert_eq!(Record::parse(&record).map(|r| r.session()), Ok(9));
        let syn = SynRecord { kind: kind::DENIED, ..Default::default() };
        assert_eq!(Record::parse(&bytes(&syn)), Ok(Record::Denied(syn)));
    }

    #[test]
    fn what_is_no_record() {
        assert_eq!(Record::parse(b""), Err(RecordError::Empty));
        assert_eq!(Record::parse(&[99]), Err(RecordError::Kind(99)));
        assert_eq!(Record::parse(&[kind::PARKED; 200]), Err(RecordError::Kind(kind::PARKED)));
        assert_eq!(Record::parse(&[kind::DENIED; 9]), Err(RecordError::Short { kind: 5, have: 9, need: 64 }));
        let segment = SegmentRecord { kind: kind::SEGMENT, side: 2, ..Default::default() };
        assert_eq!(Record::parse(&bytes(&segment)), Err(RecordError::Side(2)));
    }
}
