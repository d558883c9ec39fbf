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

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};

    use super::{
        super::packet::{self, Content},
        *,
    };

    const DATA: usize = 5000;

    /// Tagged and not, of both families; FIN and PSH set.
    fn frames() -> Vec<Vec<u8>> {
        let data: Vec<u8> = (0..DATA).map(|n| n as u8).collect();
        let mut all = Vec::new();
        for tagged in [false, true] {
            for v6 in [false, true] {
                let ethernet = PacketBuilder::ethernet2([1; 6], [2; 6]);
                let ip = match (tagged, v6) {
                    (false, false) => ethernet.ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64),
                    (false, true) => ethernet.ipv6([1; 16], [2; 16], 64),
                    (true, false) => {
                        ethernet.single_vlan(7.try_into().unwrap()).ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64)
                    }
                    (true, true) => ethernet.single_vlan(7.try_into().unwrap()).ipv6([1; 16], [2; 16], 64),
                };
                let mut frame = Vec::new();
                ip.tcp(21, 40000, u32::MAX - 10, 512).ack(7).fin().psh().write(&mut frame, &data).unwrap();
                all.push(frame);
            }
        }
        all
    }

    #[test]
    fn the_pieces_are_whole_segments_of_the_same_bytes() {
        for frame in frames() {
            let whole = frame.len() - DATA;
            for max in [whole + 1000, whole + 1448, whole + DATA] {
                let pieces = cut(&frame, max).unwrap();
                assert_eq!(pieces.len(), DATA.div_ceil(max - whole));
                let mut bytes = Vec::new();
                for (i, piece) in pieces.iter().enumerate() {
                    let parsed = SlicedPacket::from_ethernet(piece).unwrap();
                    let Some(TransportSlice::Tcp(t)) = parsed.transport else { panic!("{parsed:?}") };
                    let offset = u32::try_from(bytes.len()).unwrap();
                    assert_eq!(t.sequence_number(), (u32::MAX - 10).wrapping_add(offset));
                    let last = i + 1 == pieces.len();
                    assert_eq!((t.fin(), t.psh(), t.ack(), t.acknowledgment_number()), (last, last, true, 7));
                    let right = match parsed.net.unwrap() {
                        etherparse::NetSlice::Ipv4(ip) => {
                            let header = ip.header().to_header();
                            assert_eq!(header.header_checksum, header.calc_header_checksum());
                            t.calc_checksum_ipv4(ip.header().source(), ip.header().destination())
                        }
                        etherparse::NetSlice::Ipv6(ip) => {
                            t.calc_checksum_ipv6(ip.header().source(), ip.header().destination())
                        }
                        other => panic!("{other:?}"),
                    };
                    assert_eq!(Ok(t.checksum()), right);
                    bytes.extend_from_slice(t.payload());
                }
                assert_eq!(bytes.len(), DATA);
                assert!(frame.ends_with(&bytes));
            }
            assert_eq!(cut(&frame, whole), None, "no room for any byte");
            for n in 0..whole {
                // Nothing to cut, and no panic.
                let _ = cut(&frame[..n], whole + 1);
            }
        }
    }

    #[test]
    fn every_link_type_becomes_ethernet() {
        for frame in frames() {
            let (kind, rest) = (&frame[12..14], &frame[14..]);
            let cooked = [&[0; 14], kind, rest].concat();
            let cooked2 = [kind, &[0; 18], rest].concat();
            let expected = packet::read(link::ETHERNET, &frame);
            assert!(matches!(expected, Content::Tcp(_)));
            let mut captured =
                vec![(link::ETHERNET, frame.clone()), (link::LINUX_SLL, cooked), (link::LINUX_SLL2, cooked2)];
            if kind != [0x81, 0x00] {
                captured.extend([link::RAW, link::IPV4, 12].map(|link| (link, rest.to_vec())));
            }
            for (link, data) in captured {
                let made = ethernet(link, &data).unwrap();
                assert_eq!(packet::read(link::ETHERNET, &made), expected, "link type {link}");
                for n in 0..data.len().min(40) {
                    let _ = ethernet(link, &data[..n]);
                }
            }
        }
        assert_eq!(ethernet(105, &[0x45; 60]), None);
        assert_eq!(ethernet(link::RAW, &[0x15; 60]), None);
    }
}
