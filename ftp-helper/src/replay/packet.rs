//! From a captured packet to a TCP segment.

use std::net::IpAddr;

use etherparse::{EtherType, LaxNetSlice, LaxSlicedPacket, TcpSlice, ip_number};
use ftp_helper_common::{addr::Addr, tcp};

/// A TCP segment with its addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Segment<'a> {
    /// Address and port of the sender.
    pub(super) from: (Addr, u16),
    /// Address and port of the receiver.
    pub(super) to: (Addr, u16),
    /// Sequence number of its first byte.
    pub(super) seq: u32,
    /// Acknowledgement number.
    pub(super) ack: u32,
    /// Flags, see [`tcp`].
    pub(super) flags: u8,
    /// Payload, as far as it was captured.
    pub(super) payload: &'a [u8],
    /// Payload bytes, as the IP header says.
    pub(super) len: u32,
}

impl Segment<'_> {
    /// Payload bytes that are not there, though the IP header says so.
    pub(super) fn missing(&self) -> u32 {
        self.len.saturating_sub(u32::try_from(self.payload.len()).unwrap_or(u32::MAX))
    }
}

/// What a packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Content<'a> {
    /// A TCP segment.
    Tcp(Segment<'a>),
    /// A TCP header that was not captured whole.
    CutHeader {
        /// The sender's and the receiver's port, if they were captured.
        ports: Option<(u16, u16)>,
        /// Bytes that are missing.
        missing: u32,
    },
    /// A fragment of an IP packet; nothing is put together here.
    Fragment,
    /// Anything else.
    Other,
    /// The link type can't be read.
    UnknownLink,
}

/// Reads a packet of a link type (LINKTYPE_ of the pcap formats).
pub(super) fn read(link: u32, data: &[u8]) -> Content<'_> {
    let ether = |at: usize, from: usize| {
        let (Some(kind), Some(rest)) = (data.get(at..).and_then(|d| d.first_chunk::<2>()), data.get(from..)) else {
            return Content::Other;
        };
        ip(&LaxSlicedPacket::from_ether_type(EtherType(u16::from_be_bytes(*kind)), rest), rest)
    };
    match link {
        link::ETHERNET => ether(12, 14),
        link::LINUX_SLL => ether(14, 16),
        link::LINUX_SLL2 => ether(0, 20),
        _ if link::is_raw(link) => match LaxSlicedPacket::from_ip(data) {
            Ok(packet) => ip(&packet, data),
            Err(_) => Content::Other,
        },
        _ => Content::UnknownLink,
    }
}

/// Sender and receiver of the IP packet in an Ethernet frame, whatever it carries.
pub(super) fn ends(frame: &[u8]) -> Option<(Addr, Addr)> {
    match LaxSlicedPacket::from_ethernet(frame).ok()?.net? {
        LaxNetSlice::Ipv4(v4) => {
            let header = v4.header();
            Some((IpAddr::V4(header.source_addr()).into(), IpAddr::V4(header.destination_addr()).into()))
        }
        LaxNetSlice::Ipv6(v6) => {
            let header = v6.header();
            Some((IpAddr::V6(header.source_addr()).into(), IpAddr::V6(header.destination_addr()).into()))
        }
        _ => None,
    }
}

fn ip<'a>(packet: &LaxSlicedPacket<'a>, frame: &'a [u8]) -> Content<'a> {
    // `missing`: bytes that the IP header announces and that are not there. A length of 0 is that of a segment which
    // the sending host had not cut yet (TCP segmentation offload): then the frame is the measure.
    let (from, to, payload, missing) = match &packet.net {
        Some(LaxNetSlice::Ipv4(v4)) => {
            let header = v4.header();
            let (from, to) = (IpAddr::V4(header.source_addr()), IpAddr::V4(header.destination_addr()));
            let missing = missing(header.total_len().into(), 0, frame, header.slice());
            (from, to, v4.payload(), missing)
        }
        Some(LaxNetSlice::Ipv6(v6)) => {
            let header = v6.header();
            let (from, to) = (IpAddr::V6(header.source_addr()), IpAddr::V6(header.destination_addr()));
            let missing = missing(header.payload_length().into(), header.slice().len(), frame, header.slice());
            (from, to, v6.payload(), missing)
        }
        _ => return Content::Other,
    };
    if payload.ip_number != ip_number::TCP {
        return Content::Other;
    }
    if payload.fragmented {
        return Content::Fragment;
    }
    let bytes = payload.payload;
    let segment = match TcpSlice::from_slice(bytes) {
        Ok(segment) => segment,
        Err(_) if missing > 0 => {
            let port = |at: usize| bytes.get(at..).and_then(|b| b.first_chunk::<2>()).map(|b| u16::from_be_bytes(*b));
            return Content::CutHeader { ports: port(0).zip(port(2)), missing };
        }
        // A header that is no header: nobody can follow it.
        Err(_) => return Content::Other,
    };
    let flags = [
        (segment.fin(), tcp::FIN),
        (segment.syn(), tcp::SYN),
        (segment.rst(), tcp::RST),
        (segment.ack(), tcp::ACK),
        (segment.urg(), tcp::URG),
    ];
    let captured = u32::try_from(segment.payload().len()).unwrap_or(u32::MAX);
    Content::Tcp(Segment {
        from: (from.into(), segment.source_port()),
        to: (to.into(), segment.destination_port()),
        seq: segment.sequence_number(),
        ack: segment.acknowledgment_number(),
        flags: flags.iter().filter(|(set, _)| *set).fold(0, |all, (_, bit)| all | bit),
        payload: segment.payload(),
        len: captured.saturating_add(missing),
    })
}

/// How much of an IP packet was not captured: `length` bytes, `besides` the header's own, from `header` on.
fn missing(length: usize, besides: usize, frame: &[u8], header: &[u8]) -> u32 {
    if length == 0 {
        return 0;
    }
    // The header is a part of the frame; what lies before it are tags.
    let before = (header.as_ptr() as usize).saturating_sub(frame.as_ptr() as usize);
    let there = frame.len().saturating_sub(before);
    u32::try_from((length + besides).saturating_sub(there)).unwrap_or(u32::MAX)
}

/// Numbers of link types.
pub(super) mod link {
    /// Ethernet.
    pub(in super::super) const ETHERNET: u32 = 1;
    /// IPv4 or IPv6.
    pub(in super::super) const RAW: u32 = 101;
    /// Linux cooked, version 1.
    pub(in super::super) const LINUX_SLL: u32 = 113;
    /// IPv4.
    pub(in super::super) const IPV4: u32 = 228;
    /// IPv6.
    pub(in super::super) const IPV6: u32 = 229;
    /// Linux cooked, version 2.
    pub(in super::super) const LINUX_SLL2: u32 = 276;

    /// Whether packets of this type begin with their IP header. The two old numbers of raw IP are those of BSD's DLT_RAW,
    /// which found their way into files.
    pub(in super::super) fn is_raw(link: u32) -> bool {
        matches!(link, RAW | IPV4 | IPV6 | 12 | 14)
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn v4(payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([192, 0, 2, 10], [198, 51, 100, 5], 64)
            .tcp(40000, 21, 7, 512)
            .ack(9)
            .write(&mut packet, payload)
            .unwrap();
        packet
    }

    fn v6(payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv6([1; 16], [2; 16], 64).tcp(40000, 21, 7, 512).ack(9).write(&mut packet, payload).unwrap();
        packet
    }

    fn behind(header: &[u8], packet: &[u8]) -> Vec<u8> {
        [header, packet].concat()
    }

    fn segment<'a>(content: Content<'a>) -> Segment<'a> {
        match content {
            Content::Tcp(segment) => segment,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_link_type() {
        let mac = [0_u8; 12];
        for (ip, kind) in [(v4(b"PASV\r\n"), [0x08, 0x00]), (v6(b"PASV\r\n"), [0x86, 0xdd])] {
            let vlan = [&mac[..], &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 7], &kind].concat();
            let frames = [
                (link::ETHERNET, behind(&[&mac[..], &kind].concat(), &ip)),
                (link::ETHERNET, behind(&vlan, &ip)),
                (link::RAW, ip.clone()),
                (if kind[0] == 8 { link::IPV4 } else { link::IPV6 }, ip.clone()),
                (link::LINUX_SLL, behind(&[&[0; 14][..], &kind].concat(), &ip)),
                (link::LINUX_SLL2, behind(&[&kind[..], &[0; 18]].concat(), &ip)),
            ];
            for (link, mut frame) in frames {
                // Padding behind the packet is no payload.
                if link == link::ETHERNET {
                    frame.extend([0; 9]);
                }
                let s = segment(read(link, &frame));
                assert_eq!((s.payload, s.len, s.seq, s.ack), (&b"PASV\r\n"[..], 6, 7, 9), "link type {link}");
                assert_eq!((s.from.1, s.to.1, s.flags), (40000, 21, tcp::ACK));
            }
        }
        assert_eq!(read(127, &[0; 60]), Content::UnknownLink);
    }

    #[test]
    fn what_is_cut_is_missed() {
        for (packet, header) in [(v4(b"0123456789"), 20), (v6(b"0123456789"), 40)] {
            let s = segment(read(link::RAW, &packet[..header + 20 + 4]));
            assert_eq!((s.payload, s.len), (&b"0123"[..], 10));
            let cut = read(link::RAW, &packet[..header + 8]);
            assert_eq!(cut, Content::CutHeader { ports: Some((40000, 21)), missing: 22 });
        }
    }

    #[test]
    fn a_segment_that_was_not_cut_into_packets_yet() {
        let mut packet = v4(b"0123456789");
        packet[2..4].fill(0);
        let s = segment(read(link::IPV4, &packet));
        assert_eq!((s.payload, s.len), (&b"0123456789"[..], 10));
    }

    #[test]
    fn neither_fragments_nor_nonsense_are_followed() {
        let mut packet = v4(b"0123456789");
        packet[6] = 0x20;
        assert_eq!(read(link::RAW, &packet), Content::Fragment);
        for cut in 0..20 {
            assert_eq!(read(link::RAW, &packet[..cut]), Content::Other, "{cut}");
        }
        assert_eq!(read(link::ETHERNET, &[0; 13]), Content::Other);
        let mut udp = Vec::new();
        PacketBuilder::ipv4([1; 4], [2; 4], 64).udp(1, 2).write(&mut udp, b"x").unwrap();
        assert_eq!(read(link::RAW, &udp), Content::Other);
    }
}
