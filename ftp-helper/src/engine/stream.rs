//! One direction of a control connection, put in order.
//!
//! The first copy of a byte counts. What is sent again must be the same bytes, as far as they are remembered: a receiver
//! behind us may have taken either copy, so two different ones mean that nobody can know what it reads.

pub(super) use ftp_helper_common::canon::WINDOW;
use ftp_helper_common::tcp::distance;
use serde::{Deserialize, Serialize};

/// How many bytes that were read already are remembered for comparison.
pub(super) const HISTORY: usize = 1024;
/// What a buffered piece costs beside its bytes.
const PIECE_COST: usize = 48;

/// What makes a stream unreadable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// The same bytes were sent twice with different contents.
    Conflict,
    /// More out of order than may be kept.
    Overflow,
}

/// Bytes in order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Piece {
    /// Sequence number of the first byte.
    pub(super) seq: u32,
    /// Acknowledgement number of the segment that brought them.
    pub(super) ack: u32,
    /// The bytes.
    pub(super) data: Vec<u8>,
}

/// One direction.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Stream {
    next: u32,
    /// The last bytes before `next`.
    #[serde(skip)]
    recent: Vec<u8>,
    /// Bytes behind a gap, in order, not overlapping.
    ahead: Vec<Piece>,
}

impl Stream {
    /// A stream whose next byte is `next`.
    pub(super) fn new(next: u32) -> Self {
        Self { next, recent: Vec::new(), ahead: Vec::new() }
    }

    /// Sequence number of the next byte that is missing.
    pub(super) fn next(&self) -> u32 {
        self.next
    }

    /// Whether bytes are kept behind a gap.
    pub(super) fn has_gap(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Whether bytes are kept that lie behind `end`.
    pub(super) fn goes_beyond(&self, end: u32) -> bool {
        self.ahead.last().is_some_and(|p| distance(p.seq.wrapping_add(p.data.len() as u32), end) > 0)
    }

    /// What is kept behind gaps, bytes and their upkeep.
    pub(super) fn buffered(&self) -> usize {
        self.ahead.iter().map(|p| p.data.len() + PIECE_COST).sum()
    }

    /// Heap that it uses.
    #[cfg(test)]
    pub(super) fn heap(&self) -> usize {
        self.recent.capacity()
            + self.ahead.capacity() * size_of::<Piece>()
            + self.ahead.iter().map(|p| p.data.capacity()).sum::<usize>()
    }

    /// Takes bytes; returns where in `data` the bytes begin that are next in order and need no copy. Whatever else is
    /// in order now comes out of [`Self::take_ready`]. At most `room` more may be kept.
    pub(super) fn accept(&mut self, seq: u32, ack: u32, data: &[u8], room: usize) -> Result<Option<usize>, Fault> {
        let mut seq = seq;
        let mut data = data;
        let mut skipped = 0;
        let ahead = distance(seq, self.next);
        if data.is_empty() || !(-WINDOW..=WINDOW).contains(&ahead) {
            return Ok(None);
        }
        if ahead < 0 {
            let old = data.len().min(ahead.unsigned_abs() as usize);
            self.compare_old(ahead.unsigned_abs() as usize, &data[..old])?;
            if old == data.len() {
                return Ok(None);
            }
            skipped = old;
            data = &data[old..];
            seq = self.next;
        }
        if self.ahead.is_empty() && seq == self.next {
            return Ok(Some(skipped));
        }
        self.keep(seq, ack, data, room)?;
        Ok(None)
    }

    /// The next piece that is in order.
    pub(super) fn take_ready(&mut self) -> Option<Piece> {
        if self.ahead.first()?.seq != self.next {
            return None;
        }
        let piece = self.ahead.remove(0);
        if self.ahead.is_empty() {
            self.ahead = Vec::new();
        }
        Some(piece)
    }

    /// Goes on behind `data`, which was next in order.
    pub(super) fn consume(&mut self, data: &[u8]) {
        self.next = self.next.wrapping_add(data.len() as u32);
        let keep = data.len().min(HISTORY);
        let old = (self.recent.len() + keep).saturating_sub(HISTORY);
        if self.recent.capacity() == 0 {
            self.recent.reserve_exact(HISTORY / 4);
        }
        self.recent.drain(..old);
        self.recent.extend_from_slice(&data[data.len() - keep..]);
    }

    /// Forgets all bytes; the high-water mark goes on.
    pub(super) fn drop_bytes(&mut self) {
        self.recent = Vec::new();
        self.ahead = Vec::new();
    }

    /// Moves the mark of a stream whose bytes nobody reads any more.
    pub(super) fn advance_to(&mut self, end: u32) {
        if (1..=WINDOW).contains(&distance(end, self.next)) {
            self.next = end;
        }
    }

    /// Compares bytes that begin `back` before the next one with what is remembered of them.
    fn compare_old(&self, back: usize, data: &[u8]) -> Result<(), Fault> {
        let remembered = self.recent.len();
        // The first byte that is remembered lies `remembered` back.
        let skip = back.saturating_sub(remembered);
        if skip >= data.len() {
            return Ok(());
        }
        let at = remembered - (back - skip);
        let data = &data[skip..];
        if self.recent[at..at + data.len()] == *data { Ok(()) } else { Err(Fault::Conflict) }
    }

    /// Keeps what is new of bytes behind a gap.
    fn keep(&mut self, seq: u32, ack: u32, data: &[u8], room: usize) -> Result<(), Fault> {
        let offset = |s: u32| s.wrapping_sub(self.next) as usize;
        let (begin, end) = (offset(seq), offset(seq) + data.len());
        let mut fresh: Vec<(usize, usize)> = Vec::new();
        let mut at = begin;
        for piece in &self.ahead {
            let (from, to) = (offset(piece.seq), offset(piece.seq) + piece.data.len());
            if to <= at || from >= end {
                continue;
            }
            if from > at {
                fresh.push((at, from));
            }
            let (low, high) = (from.max(begin), to.min(end));
            if piece.data[low - from..high - from] != data[low - begin..high - begin] {
                return Err(Fault::Conflict);
            }
            at = to;
        }
        if at < end {
            fresh.push((at, end));
        }
        let cost: usize = fresh.iter().map(|(from, to)| to - from + PIECE_COST).sum();
        if cost > room {
            return Err(Fault::Overflow);
        }
        for (from, to) in fresh {
            let seq = self.next.wrapping_add(from as u32);
            let place = self.ahead.partition_point(|p| offset_of(self.next, p.seq) < from);
            self.ahead.insert(place, Piece { seq, ack, data: data[from - begin..to - begin].to_vec() });
        }
        Ok(())
    }
}

fn offset_of(next: u32, seq: u32) -> usize {
    seq.wrapping_sub(next) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOM: usize = 1 << 20;

    /// Feeds a segment and takes everything that is in order.
    fn feed(s: &mut Stream, seq: u32, data: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        if let Some(at) = s.accept(seq, 0, data, ROOM)? {
            s.consume(&data[at..]);
            out.extend(&data[at..]);
        }
        while let Some(p) = s.take_ready() {
            s.consume(&p.data);
            out.extend(p.data);
        }
        Ok(())
    }

    #[test]
    fn gaps_overlaps_and_the_wrap() {
        let start = 0xffff_fffc_u32;
        let at = |n: u32| start.wrapping_add(n);
        let (mut s, mut out) = (Stream::new(start), Vec::new());
        feed(&mut s, at(4), b"efgh", &mut out).unwrap();
        feed(&mut s, at(12), b"mn", &mut out).unwrap();
        assert!(out.is_empty() && s.has_gap());
        feed(&mut s, at(6), b"ghijkl", &mut out).unwrap();
        feed(&mut s, at(0), b"abcdefghijklmn", &mut out).unwrap();
        assert_eq!(out, b"abcdefghijklmn");
        feed(&mut s, at(10), b"klmnop", &mut out).unwrap();
        assert_eq!(out, b"abcdefghijklmnop");
        assert!(!s.has_gap() && s.buffered() == 0);
        assert_eq!(s.next(), at(16));
    }

    #[test]
    fn conflicts_are_seen_before_and_behind_the_mark() {
        let (mut s, mut out) = (Stream::new(100), Vec::new());
        feed(&mut s, 100, b"PORT 1\r\n", &mut out).unwrap();
        assert_eq!(feed(&mut s, 100, b"PORT 1\r\n", &mut out), Ok(()));
        assert_eq!(feed(&mut s, 105, b"2", &mut out), Err(Fault::Conflict));
        assert_eq!(feed(&mut s, 105, b"2\r\nmore", &mut out), Err(Fault::Conflict));
        feed(&mut s, 112, b"abcd", &mut out).unwrap();
        assert_eq!(feed(&mut s, 108, b"xxxxaXcd", &mut out), Err(Fault::Conflict));
        assert_eq!(out, b"PORT 1\r\n");
    }

    #[test]
    fn what_is_far_away_is_no_part_and_what_is_too_much_is_told() {
        let mut s = Stream::new(0);
        assert_eq!(s.accept(WINDOW as u32 + 1, 0, b"x", ROOM), Ok(None));
        assert_eq!(s.accept(0u32.wrapping_sub(WINDOW as u32 + 1), 0, b"x", ROOM), Ok(None));
        assert!(!s.has_gap());
        assert_eq!(s.accept(10, 0, &[0; 100], 100), Err(Fault::Overflow));
        assert_eq!(s.accept(10, 0, &[0; 100], 200), Ok(None));
    }

    #[test]
    fn memory_of_what_was_read_is_bounded() {
        let mut s = Stream::new(0);
        for _ in 0..50 {
            s.consume(&[b'x'; 300]);
        }
        s.consume(&[b'y'; 5000]);
        assert_eq!(s.recent.len(), HISTORY);
        assert!(s.heap() <= 2 * HISTORY);
        assert_eq!(s.accept(0, 0, b"older than remembered", ROOM), Ok(None));
    }

    proptest! {
        #[test]
        fn any_order_gives_the_same_bytes(
            text in prop::collection::vec(any::<u8>(), 1..300),
            start in any::<u32>(),
            cuts in prop::collection::vec((any::<prop::sample::Index>(), 1usize..60), 0..60),
        ) {
            let (mut s, mut out) = (Stream::new(start), Vec::new());
            for (at, len) in &cuts {
                let at = at.index(text.len());
                let end = (at + len).min(text.len());
                feed(&mut s, start.wrapping_add(at as u32), &text[at..end], &mut out).unwrap();
                prop_assert!(text.starts_with(&out));
            }
            feed(&mut s, start, &text, &mut out).unwrap();
            prop_assert_eq!(&out, &text);
            prop_assert!(!s.has_gap());
        }
    }
}
