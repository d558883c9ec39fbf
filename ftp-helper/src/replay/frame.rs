//! Captured packets as frames that the programs can be run on: behind an Ethernet header, and not too long.

use std::borrow::Cow;

use etherparse::{Ipv4HeaderSlice, LaxNetSlice, LaxSlicedPacket, TcpSlice, ip_number};
use ftp_helper_common::tcp;

use super::packet::link;

/// Length of an Ethernet header.
const ETHERNET: usize = 14;
/// EtherTypes.
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
/// Flags that only the last of a segment's pieces has.
const PSH: u8 = 8;
const LAST: u8 = tcp::FIN | PSH;

/// The packet behind an Ethernet header: as it was captured, or with a header whose addresses are zeros. None where it is
/// shorter than its own link-layer header, no IP, or of a link type that can't be read.
pub(super) fn ethernet(link: u32, data: &[u8]) -> Option<Cow<'_, [u8]>> {
    let behind = |kind: &[u8], rest: &[u8]| Cow::Owned([&[0; ETHERNET - 2][..], kind, rest].concat());
    match link {
        link::ETHERNET => (data.len() >= ETHERNET).then_some(Cow::Borrowed(data)),
        // The type stands in the cooked headers' last or first two bytes; tags follow it as in Ethernet.
        link::LINUX_SLL => Some(behind(data.get(14..16)?, data.get(16..)?)),
        link::LINUX_SLL2 => Some(behind(data.get(..2)?, data.get(20..)?)),
        _ if link::is_raw(link) => match data.first()? >> 4 {
            4 => Some(behind(&IPV4, data)),
            6 => Some(behind(&IPV6, data)),
            _ => None,
        },
        _ => None,
    }
}

/// The TCP segment of an Ethernet frame in pieces of at most `max` bytes with their headers, as a network card cuts what it
/// is given (TCP segmentation offload). None if there is no TCP to cut.
pub(super) fn cut(frame: &[u8], max: usize) -> Option<Vec<Vec<u8>>> {
    let packet = LaxSlicedPacket::from_ethernet(frame).ok()?;
    let at = |part: &[u8]| (part.as_ptr() as usize).checked_sub(frame.as_ptr() as usize);
    let (ip, payload) = match packet.net.as_ref()? {
        LaxNetSlice::Ipv4(v4) => (at(v4.header().slice())?, v4.payload()),
        LaxNetSlice::Ipv6(v6) => (at(v6.header().slice())?, v6.payload()),
        _ => return None,
    };
    if payload.ip_number != ip_number::TCP || payload.fragmented {
        return None;
    }
    let segment = TcpSlice::from_slice(payload.payload).ok()?;
    let (headers, data) = (at(segment.payload())?, segment.payload());
    let places = Places { ip, tcp: at(payload.payload)? };
    let room = max.checked_sub(headers).filter(|room| *room > 0)?;
    let count = data.len().div_ceil(room).max(1);
    let mut pieces = Vec::with_capacity(count);
    for i in 0..count {
        let part = &data[i * room..data.len().min((i + 1) * room)];
        let mut piece = [&frame[..headers], part].concat();
        places.complete(&mut piece, segment.sequence_number(), i * room, i + 1 == count)?;
        pieces.push(piece);
    }
    Some(pieces)
}

/// Where a frame's headers begin.
struct Places {
    ip: usize,
    tcp: usize,
}

impl Places {
    /// Lengths, sequence number, flags and checksums of a piece that begins `offset` bytes behind `seq`.
    fn complete(&self, piece: &mut [u8], seq: u32, offset: usize, last: bool) -> Option<()> {
        let &Self { ip, tcp: at } = self;
        let put = |piece: &mut [u8], to: usize, word: u16| piece[to..to + 2].copy_from_slice(&word.to_be_bytes());
        let length = piece.len() - ip;
        let v4 = piece.get(ip)? >> 4 == 4;
        if v4 {
            put(piece, ip + 2, u16::try_from(length).ok()?);
            let header = Ipv4HeaderSlice::from_slice(&piece[ip..]).ok()?.to_header();
            put(piece, ip + 10, header.calc_header_checksum());
        } else {
            put(piece, ip + 4, u16::try_from(length.checked_sub(40)?).ok()?);
        }
        let seq = seq.wrapping_add(u32::try_from(offset).ok()?);
        piece[at + 4..at + 8].copy_from_slice(&seq.to_be_bytes());
        piece[at + 13] &= match (offset, last) {
            (0, true) => u8::MAX,
            (0, false) => !LAST,
            (_, true) => !tcp::SYN,
            (_, false) => !LAST & !tcp::SYN,
        };
        let segment = TcpSlice::from_slice(piece.get(at..)?).ok()?;
        let sum = if v4 {
            segment.calc_checksum_ipv4(*piece.get(ip + 12..)?.first_chunk()?, *piece.get(ip + 16..)?.first_chunk()?)
        } else {
            segment.calc_checksum_ipv6(*piece.get(ip + 8..)?.first_chunk()?, *piece.get(ip + 24..)?.first_chunk()?)
        };
        put(piece, at + 16, sum.ok()?);
        Some(())
    }
}
