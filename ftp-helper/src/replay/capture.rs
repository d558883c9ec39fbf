//! Reads capture files: pcap and pcapng, packet by packet.

use std::{fs::File, io::Read, path::Path};

use pcap_file::{
    Endianness, PcapError, TsResolution,
    pcap::PcapParser,
    pcapng::{PcapNgParser, blocks::interface_description::InterfaceDescriptionOption},
};

use super::error::CaptureProblem;

/// A packet as it was captured.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Packet {
    /// Counts from 1.
    pub(super) number: u64,
    /// Where it begins in the file.
    pub(super) offset: u64,
    /// Nanoseconds since 1970-01-01 UTC; 0 where the capture does not say.
    pub(super) time: u64,
    /// Number of its link type.
    pub(super) link: u32,
    /// Its bytes, as far as they were captured.
    pub(super) data: Vec<u8>,
    /// Bytes that were not.
    pub(super) uncaptured: u32,
}

/// A capture that is being read.
pub(super) struct Capture {
    from: Box<dyn Read>,
    buffer: Vec<u8>,
    /// Where the unread part of the buffer begins.
    start: usize,
    /// Where that is in the file.
    offset: u64,
    ended: bool,
    format: Format,
    packets: u64,
}

enum Format {
    Pcap(PcapParser),
    PcapNg(PcapNgParser),
}

/// What the parsers make of the next bytes.
enum Parsed {
    /// A packet was put in place; this many bytes are done with.
    Packet(usize),
    /// Something else; this many bytes are done with.
    Other(usize),
    /// More bytes are needed.
    More,
}

impl Capture {
    /// Opens a file; also tells its length.
    pub(super) fn open(path: &Path) -> Result<(Self, u64), CaptureProblem> {
        let file = File::open(path).map_err(CaptureProblem::Open)?;
        let length = file.metadata().map_err(CaptureProblem::Open)?.len();
        Ok((Self::new(Box::new(file))?, length))
    }

    /// Begins to read.
    pub(super) fn new(from: Box<dyn Read>) -> Result<Self, CaptureProblem> {
        let mut input = Input { from, buffer: Vec::new(), ended: false };
        input.at_least(0, 4, 0)?;
        let Some(magic) = input.buffer.first_chunk::<4>().copied() else {
            return Err(if input.buffer.is_empty() {
                CaptureProblem::Foreign { hint: ": it is empty" }
            } else {
                CaptureProblem::Truncated { offset: 0, what: "the file's header".into() }
            });
        };
        let is_ng = match magic {
            [0xa1, 0xb2, 0xc3, 0xd4]
            | [0xd4, 0xc3, 0xb2, 0xa1]
            | [0xa1, 0xb2, 0x3c, 0x4d]
            | [0x4d, 0x3c, 0xb2, 0xa1] => false,
            [0x0a, 0x0d, 0x0d, 0x0a] => true,
            [0x1f, 0x8b, ..] => {
                return Err(CaptureProblem::Foreign { hint: ": it is compressed; unpack it with gunzip" });
            }
            [0x28, 0xb5, 0x2f, 0xfd] => {
                return Err(CaptureProblem::Foreign { hint: ": it is compressed; unpack it with unzstd" });
            }
            _ => return Err(CaptureProblem::Foreign { hint: "" }),
        };
        let mut want = HEADER;
        loop {
            input.at_least(0, want, 0)?;
            let parsed = if is_ng {
                PcapNgParser::new(&input.buffer).map(|(rest, p)| (rest.len(), Format::PcapNg(p)))
            } else {
                PcapParser::new(&input.buffer).map(|(rest, p)| (rest.len(), Format::Pcap(p)))
            };
            match parsed {
                Ok((rest, format)) => {
                    let start = input.buffer.len() - rest;
                    let Input { from, buffer, ended } = input;
                    return Ok(Self { from, buffer, start, offset: start as u64, ended, format, packets: 0 });
                }
                Err(PcapError::IncompleteBuffer) if input.ended => {
                    return Err(CaptureProblem::Truncated { offset: 0, what: "the file's header".into() });
                }
                Err(PcapError::IncompleteBuffer) if want < BLOCK_MAX => want *= 2,
                Err(e) => {
                    return Err(CaptureProblem::Damaged {
                        offset: 0,
                        packet: 0,
                        what: format!("bad file header: {e}"),
                    });
                }
            }
        }
    }

    /// Reads the next packet; `false` at the end of the file.
    pub(super) fn next(&mut self, packet: &mut Packet) -> Result<bool, CaptureProblem> {
        loop {
            let unread = self.buffer.get(self.start..).unwrap_or_default();
            if unread.is_empty() && self.ended {
                return Ok(false);
            }
            let parsed = match &mut self.format {
                Format::Pcap(parser) => pcap(parser, unread, packet),
                Format::PcapNg(parser) => pcapng(parser, unread, packet),
            };
            match parsed {
                Ok(Parsed::Packet(length)) => {
                    self.packets += 1;
                    packet.number = self.packets;
                    packet.offset = self.offset;
                    self.advance(length);
                    return Ok(true);
                }
                Ok(Parsed::Other(length)) => self.advance(length),
                Ok(Parsed::More) if self.ended => {
                    let what = format!("packet {}", self.packets + 1);
                    return Err(CaptureProblem::Truncated { offset: self.offset, what });
                }
                Ok(Parsed::More) if unread.len() >= BLOCK_MAX => {
                    return Err(self.damaged(format!("a packet of more than {BLOCK_MAX} bytes")));
                }
                Ok(Parsed::More) => self.fill()?,
                Err(e) => return Err(self.damaged(e)),
            }
        }
    }

    /// How far the file has been read.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    fn advance(&mut self, length: usize) {
        self.start += length;
        self.offset += length as u64;
    }

    fn fill(&mut self) -> Result<(), CaptureProblem> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let want = self.buffer.len() + CHUNK;
        let Self { from, buffer, ended, .. } = self;
        read_up_to(from, buffer, ended, want)
            .map_err(|source| CaptureProblem::Read { offset: self.offset + self.buffer.len() as u64, source })
    }

    fn damaged(&self, what: String) -> CaptureProblem {
        CaptureProblem::Damaged { offset: self.offset, packet: self.packets, what }
    }
}

/// What is there before the format is known.
struct Input {
    from: Box<dyn Read>,
    buffer: Vec<u8>,
    ended: bool,
}

impl Input {
    fn at_least(&mut self, from: usize, want: usize, offset: u64) -> Result<(), CaptureProblem> {
        let Self { from: reader, buffer, ended } = self;
        read_up_to(reader, buffer, ended, from + want)
            .map_err(|source| CaptureProblem::Read { offset: offset + self.buffer.len() as u64, source })
    }
}

/// Reads until the buffer holds `want` bytes or the file ends.
fn read_up_to(from: &mut dyn Read, buffer: &mut Vec<u8>, ended: &mut bool, want: usize) -> std::io::Result<()> {
    if *ended || buffer.len() >= want {
        return Ok(());
    }
    let missing = want - buffer.len();
    let n = from.take(missing as u64).read_to_end(buffer)?;
    *ended = n < missing;
    Ok(())
}

fn pcap(parser: &PcapParser, unread: &[u8], packet: &mut Packet) -> Result<Parsed, String> {
    match parser.next_raw_packet(unread) {
        Ok((rest, raw)) => {
            let header = parser.header();
            let unit = if header.ts_resolution == TsResolution::NanoSecond { 1 } else { 1000 };
            packet.time = u64::from(raw.ts_sec) * 1_000_000_000 + u64::from(raw.ts_frac) * unit;
            // The upper half says how long the frame check sequence is (pcap-savefile(5)).
            packet.link = u32::from(header.datalink) & 0xffff;
            packet.data.clear();
            packet.data.extend_from_slice(&raw.data);
            packet.uncaptured = raw.orig_len.saturating_sub(raw.incl_len);
            Ok(Parsed::Packet(unread.len() - rest.len()))
        }
        Err(PcapError::IncompleteBuffer) => Ok(Parsed::More),
        Err(e) => Err(e.to_string()),
    }
}

/// Reads a block. The fields of packets are read here and not by the crate, which takes every timestamp for
/// nanoseconds, whatever its interface says.
fn pcapng(parser: &mut PcapNgParser, unread: &[u8], packet: &mut Packet) -> Result<Parsed, String> {
    let (rest, block) = match parser.next_raw_block(unread) {
        Ok(ok) => ok,
        Err(PcapError::IncompleteBuffer) => return Ok(Parsed::More),
        Err(e) => return Err(e.to_string()),
    };
    let length = unread.len() - rest.len();
    let little = parser.section().endianness == Endianness::Little;
    let word = |at: usize| {
        let bytes: [u8; 4] = block.body.get(at..at + 4)?.try_into().ok()?;
        Some(if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    };
    let short = || "a packet block that is too short".to_owned();
    // Where the bytes begin, how many were captured and how many there were, the interface and the time.
    let (at, [captured, original], interface, ticks) = match block.type_ {
        ENHANCED_PACKET => {
            let [interface, high, low, captured, original] =
                words([word(0), word(4), word(8), word(12), word(16)]).ok_or_else(short)?;
            (20, [captured, original], interface, Some((high, low)))
        }
        OBSOLETE_PACKET => {
            let [first, high, low, captured, original] =
                words([word(0), word(4), word(8), word(12), word(16)]).ok_or_else(short)?;
            // Two 16-bit fields: the interface, and packets that were dropped.
            let interface = if little { first & 0xffff } else { first >> 16 };
            (20, [captured, original], interface, Some((high, low)))
        }
        SIMPLE_PACKET => {
            let original = word(0).ok_or_else(short)?;
            let snaplen = parser.interfaces().first().map_or(0, |i| i.snaplen);
            let captured = if snaplen == 0 { original } else { original.min(snaplen) };
            (4, [captured, original], 0, None)
        }
        _ => return Ok(Parsed::Other(length)),
    };
    let Some(description) = parser.interfaces().get(interface as usize) else {
        return Err(format!("a packet of interface {interface}, which is not described before it"));
    };
    let data = block.body.get(at..).and_then(|b| b.get(..captured as usize)).ok_or_else(short)?;
    packet.uncaptured = original.saturating_sub(captured);
    packet.link = u32::from(description.linktype);
    packet.data.clear();
    packet.data.extend_from_slice(data);
    packet.time = 0;
    if let Some((high, low)) = ticks {
        let (mut resolution, mut offset) = (6, 0);
        for option in &description.options {
            match option {
                InterfaceDescriptionOption::IfTsResol(r) => resolution = *r,
                InterfaceDescriptionOption::IfTsOffset(o) => offset = *o,
                _ => {}
            }
        }
        packet.time = nanoseconds(u64::from(high) << 32 | u64::from(low), resolution, offset);
    }
    Ok(Parsed::Packet(length))
}

fn words<const N: usize>(words: [Option<u32>; N]) -> Option<[u32; N]> {
    let mut all = [0; N];
    for (to, word) in all.iter_mut().zip(words) {
        *to = word?;
    }
    Some(all)
}

/// A pcapng timestamp in nanoseconds: `if_tsresol` is a power of ten, or of two where its highest bit is set;
/// `if_tsoffset` is in seconds (signed).
fn nanoseconds(ticks: u64, resolution: u8, offset: u64) -> u64 {
    let exponent = u32::from(resolution & 0x7f);
    let units: Option<u128> =
        if resolution & 0x80 != 0 { 1_u128.checked_shl(exponent) } else { 10_u128.checked_pow(exponent) };
    // More units a second than 128 bits hold: no timestamp of 64 bits reaches a nanosecond.
    let nanos = units.map_or(0, |units| u128::from(ticks) * 1_000_000_000 / units.max(1));
    let nanos = i128::try_from(nanos).unwrap_or(i128::MAX);
    let shifted = nanos.saturating_add(i128::from(offset.cast_signed()) * 1_000_000_000);
    u64::try_from(shifted.max(0)).unwrap_or(u64::MAX)
}

const ENHANCED_PACKET: u32 = 6;
const SIMPLE_PACKET: u32 = 3;
const OBSOLETE_PACKET: u32 = 2;

/// Bytes to begin with.
const HEADER: usize = 4096;
/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;
/// No block is larger: captured packets end at 256 KiB (libpcap's MAXIMUM_SNAPLEN), other blocks hold keys and names.
const BLOCK_MAX: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn read(bytes: Vec<u8>) -> Result<Vec<Packet>, CaptureProblem> {
        let mut capture = Capture::new(Box::new(Cursor::new(bytes)))?;
        let (mut packets, mut packet) = (Vec::new(), Packet::default());
        while capture.next(&mut packet)? {
            packets.push(packet.clone());
        }
        Ok(packets)
    }

    fn header(link: u32) -> Vec<u8> {
        let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0];
        file.extend(link.to_le_bytes());
        file
    }

    fn record(data: &[u8]) -> Vec<u8> {
        let mut record = Vec::new();
        let len = u32::try_from(data.len()).unwrap();
        // Original length above the snap length, which the crate's own packet type would refuse.
        for word in [10, 500_000, len, 1_000_000] {
            record.extend(u32::to_le_bytes(word));
        }
        record.extend(data);
        record
    }

    fn block(kind: u32, body: &[u32], big: bool) -> Vec<u8> {
        let put = |w: u32| if big { w.to_be_bytes() } else { w.to_le_bytes() };
        let length = 12 + 4 * u32::try_from(body.len()).unwrap();
        [kind, length].into_iter().chain(body.iter().copied()).chain([length]).flat_map(put).collect()
    }

    #[test]
    fn pcap_packets() {
        let packets = read([header(0x1000_0001), record(b"abcd"), record(b"")].concat()).unwrap();
        assert_eq!(packets.len(), 2);
        let first = Packet {
            number: 1,
            offset: 24,
            time: 10_500_000_000,
            link: 1,
            data: b"abcd".to_vec(),
            uncaptured: 999_996,
        };
        assert_eq!(packets[0], first);
        assert_eq!((packets[1].number, packets[1].offset), (2, 24 + 20));
    }

    #[test]
    fn cut_at_every_byte_it_is_told_where() {
        let whole = [header(1), record(b"abcd"), record(b"efgh")].concat();
        for cut in 0..whole.len() {
            let result = read(whole[..cut].to_vec());
            match (cut, result) {
                (0, Err(CaptureProblem::Foreign { hint })) => assert_eq!(hint, ": it is empty"),
                (1..24, Err(CaptureProblem::Truncated { offset: 0, .. })) => {}
                (24, Ok(packets)) => assert!(packets.is_empty()),
                (25..44, Err(CaptureProblem::Truncated { offset: 24, what })) => assert_eq!(what, "packet 1"),
                (44, Ok(packets)) => assert_eq!(packets.len(), 1),
                (45.., Err(CaptureProblem::Truncated { offset: 44, what })) => assert_eq!(what, "packet 2"),
                (_, other) => panic!("{cut}: {other:?}"),
            }
        }
    }

    #[test]
    fn pcapng_packets_of_both_byte_orders_with_their_own_clocks() {
        for big in [false, true] {
            let mut file = block(0x0a0d_0d0a, &[0x1a2b_3c4d, if big { 1 << 16 } else { 1 }, u32::MAX, u32::MAX], big);
            let half = |high: u32, low: u32| if big { high << 16 | low } else { low << 16 | high };
            // Interface 0: Ethernet, microseconds by default. Interface 1: raw IP, if_tsresol (option 9) nanoseconds.
            file.extend(block(1, &[half(1, 0), 65535], big));
            let nine = if big { 0x0900_0000 } else { 9 };
            file.extend(block(1, &[half(101, 0), 65535, half(9, 1), nine, 0], big));
            let data = u32::from_ne_bytes(*b"abcd");
            let data = if big { u32::from_be(data) } else { u32::from_le(data) };
            file.extend(block(6, &[0, 0, 2_500_000, 4, 4, data], big));
            file.extend(block(6, &[1, 0, 2_500_000, 3, 9, data], big));
            file.extend(block(5, &[0, 0, 0], big));
            file.extend(block(3, &[4, data], big));
            file.extend(block(2, &[half(1, 7), 0, 7, 4, 4, data], big));
            let packets = read(file).unwrap_or_else(|e| panic!("big {big}: {e}"));
            let seen: Vec<_> = packets.iter().map(|p| (p.link, p.time, p.data.as_slice())).collect();
            let expected: [(u32, u64, &[u8]); 4] =
                [(1, 2_500_000_000, b"abcd"), (101, 2_500_000, b"abc"), (1, 0, b"abcd"), (101, 7, b"abcd")];
            assert_eq!(seen, expected, "big {big}");
        }
    }

    #[test]
    fn clocks() {
        assert_eq!(nanoseconds(1_000_000, 6, 0), 1_000_000_000);
        assert_eq!(nanoseconds(1024, 0x80 | 10, 0), 1_000_000_000);
        assert_eq!(nanoseconds(5, 0, 2), 7_000_000_000);
        assert_eq!(nanoseconds(5, 0, (-2_i64).cast_unsigned()), 3_000_000_000);
        assert_eq!(nanoseconds(u64::MAX, 127, 0), 0);
        assert_eq!(nanoseconds(u64::MAX, 0, 0), u64::MAX);
    }

    #[test]
    fn foreign_and_damaged_files() {
        let said = |bytes: &[u8]| read(bytes.to_vec()).unwrap_err().to_string();
        assert_eq!(said(b"#!/bin/sh\n"), "byte 0: neither a pcap nor a pcapng file");
        assert!(said(b"\x1f\x8b\x08\x00").ends_with("it is compressed; unpack it with gunzip"));
        let huge = [header(1), [0_u8; 8].to_vec(), u32::MAX.to_le_bytes().to_vec(), vec![0; 17 << 20]].concat();
        assert_eq!(said(&huge), "damaged at byte 24 (behind packet 0): a packet of more than 16777216 bytes");
        let start = block(0x0a0d_0d0a, &[0x1a2b_3c4d, 1, u32::MAX, u32::MAX], false);
        let orphan = [start.clone(), block(6, &[3, 0, 0, 0, 0], false)].concat();
        assert_eq!(
            said(&orphan),
            "damaged at byte 28 (behind packet 0): a packet of interface 3, which is not described before it"
        );
        let short = [start.clone(), block(1, &[1, 0], false), block(6, &[0, 0, 0, 400, 400], false)].concat();
        assert!(said(&short).ends_with("a packet block that is too short"));
        let mut mismatch = [start, block(6, &[0, 0, 0, 0, 0], false)].concat();
        *mismatch.last_mut().unwrap() = 9;
        assert!(said(&mismatch).starts_with("damaged at byte 28"));
    }
}
