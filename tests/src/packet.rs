//! Packets, built byte by byte: whole ones, and such as no honest stack sends.
//!
//! Checksums are right unless a packet says otherwise.

use std::net::{IpAddr, SocketAddr};

use ftp_helper_common::tcp;

/// 802.1Q.
pub const VLAN: u16 = 0x8100;
/// 802.1ad.
pub const QINQ: u16 = 0x88a8;

/// A TCP packet, or one that pretends to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Sender.
    pub from: SocketAddr,
    /// Receiver; of the same address family.
    pub to: SocketAddr,
    /// TCP flags, see [`tcp`].
    pub flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// What TCP carries.
    pub payload: Vec<u8>,
    /// Tags between Ethernet and IP, the outer one first, by their EtherType.
    pub tags: Vec<u16>,
    /// IPv4: bytes of options (no-operations), a multiple of four up to 40.
    pub ip_options: usize,
    /// IPv4: offset of the fragment in units of eight bytes, and whether more follow. (For IPv6, see
    /// [`Extension::Fragment`].)
    pub fragment: Option<(u16, bool)>,
    /// IPv6: extension headers, the outer one first.
    pub extensions: Vec<Extension>,
    /// What the IP header, or the last extension header, says that it carries.
    pub protocol: u8,
    /// Bytes of TCP options (no-operations), a multiple of four up to 40.
    pub tcp_options: usize,
    /// The TCP header's length as it says, in words of four; the true one if `None`.
    pub data_offset: Option<u8>,
    /// Bytes behind the IP packet.
    pub padding: usize,
    /// Cuts the frame to this length.
    pub truncate: Option<usize>,
    /// What the TCP checksum is.
    pub checksum: Checksum,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// IPv4: options in place of no-operations, a multiple of four bytes up to 40.
    pub source_route: Vec<u8>,
    /// The length in the IP header; the true one if `None`.
    pub length: Option<u16>,
    /// The IPv4 header's own checksum is wrong.
    pub bad_ip_checksum: bool,
    /// The urgent pointer.
    pub urgent: u16,
}

/// An ICMP or ICMPv6 message, whose checksums are right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Icmp {
    /// Sender.
    pub from: IpAddr,
    /// Receiver; of the same address family.
    pub to: IpAddr,
    /// Type and code.
    pub kind: [u8; 2],
    /// The rest of the header, such as the MTU.
    pub rest: u32,
    /// What follows: the beginning of the packet that an error is about.
    pub quoted: Vec<u8>,
}

impl Icmp {
    /// The frame with its Ethernet header.
    pub fn frame(&self) -> Vec<u8> {
        let mut m = self.kind.to_vec();
        m.extend([0, 0]);
        m.extend(self.rest.to_be_bytes());
        m.extend(&self.quoted);
        let pseudo = match self.from {
            IpAddr::V4(_) => 0,
            IpAddr::V6(_) => 58 + m.len() as u32 + sum_of(self.from) + sum_of(self.to),
        };
        let sum = !fold(pseudo + sum(&m));
        m[2..4].copy_from_slice(&sum.to_be_bytes());
        // The IP header is that of a TCP packet but for its protocol and length.
        let protocol = if self.from.is_ipv4() { 1 } else { 58 };
        let length = (if self.from.is_ipv4() { 20 + m.len() } else { m.len() }) as u16;
        let plain = Packet::new((self.from, 0).into(), (self.to, 0).into(), 0, 0, 0);
        let mut f = Packet { protocol, length: Some(length), ..plain }.frame();
        f.truncate(14 + if self.from.is_ipv4() { 20 } else { 40 });
        f.extend(m);
        f
    }
}

/// A TCP checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checksum {
    /// As RFC 9293 section 3.1 says.
    Right,
    /// Another one.
    Wrong,
    /// That of the pseudo-header alone: a device is to complete it.
    Partial,
}

/// An IPv6 extension header (RFC 8200 section 4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extension {
    /// Hop-by-hop options, with this many more units of eight bytes.
    HopByHop(u8),
    /// Routing.
    Routing(u8),
    /// Destination options.
    Destination(u8),
    /// Authentication header (RFC 4302) of 16 bytes.
    Authentication,
    /// Fragment: offset in units of eight bytes, and whether more follow.
    Fragment(u16, bool),
}

impl Extension {
    /// Its number in the "next header" field before it.
    pub const fn number(self) -> u8 {
        match self {
            Self::HopByHop(_) => 0,
            Self::Routing(_) => 43,
            Self::Fragment(..) => 44,
            Self::Authentication => 51,
            Self::Destination(_) => 60,
        }
    }

    fn bytes(self, next: u8) -> Vec<u8> {
        match self {
            Self::HopByHop(n) | Self::Destination(n) => {
                // One PadN option fills what is left (RFC 8200 section 4.2).
                let len = 8 * (usize::from(n) + 1);
                let mut b = vec![0; len];
                b[..4].copy_from_slice(&[next, n, 1, (len - 4).min(255) as u8]);
                b
            }
            Self::Routing(n) => {
                let mut b = vec![0; 8 * (usize::from(n) + 1)];
                b[..2].copy_from_slice(&[next, n]);
                b
            }
            Self::Authentication => {
                let mut b = vec![0; 16];
                b[..2].copy_from_slice(&[next, 2]);
                b
            }
            Self::Fragment(offset, more) => {
                let [a, b] = (offset << 3 | u16::from(more)).to_be_bytes();
                vec![next, 0, a, b, 0, 0, 0, 7]
            }
        }
    }
}

impl Packet {
    /// A plain TCP packet without payload.
    pub fn new(from: SocketAddr, to: SocketAddr, flags: u8, seq: u32, ack: u32) -> Self {
        Self {
            from,
            to,
            flags,
            seq,
            ack,
            payload: Vec::new(),
            tags: Vec::new(),
            ip_options: 0,
            fragment: None,
            extensions: Vec::new(),
            protocol: 6,
            tcp_options: 0,
            data_offset: None,
            padding: 0,
            truncate: None,
            checksum: Checksum::Right,
            ttl: 64,
            source_route: Vec::new(),
            length: None,
            bad_ip_checksum: false,
            urgent: 0,
        }
    }

    /// The first packet of a connection.
    pub fn syn(from: SocketAddr, to: SocketAddr, seq: u32) -> Self {
        Self::new(from, to, tcp::SYN, seq, 0)
    }

    /// The same with a payload.
    pub fn with(self, payload: impl Into<Vec<u8>>) -> Self {
        Self { payload: payload.into(), ..self }
    }

    /// The same with TCP options as a real stack's SYN has them (20 bytes).
    pub fn with_options(self) -> Self {
        Self { tcp_options: 20, ..self }
    }

    /// The frame with its Ethernet header.
    pub fn frame(&self) -> Vec<u8> {
        let mut f = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
        for (i, tag) in self.tags.iter().enumerate() {
            f.extend(tag.to_be_bytes());
            f.extend((10 + i as u16).to_be_bytes());
        }
        f.extend(if self.from.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
        f.extend(self.ip());
        self.cut(f)
    }

    /// The packet without a link-layer header.
    pub fn bare(&self) -> Vec<u8> {
        self.cut(self.ip())
    }

    fn cut(&self, mut f: Vec<u8>) -> Vec<u8> {
        f.truncate(self.truncate.unwrap_or(usize::MAX));
        f
    }

    fn ip(&self) -> Vec<u8> {
        let tcp = self.tcp();
        let mut p = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let header = 20 + self.ip_options.max(self.source_route.len());
                let fragment = self.fragment.map_or(0x4000, |(at, more)| at | u16::from(more) << 13);
                let mut h = vec![0x40 | (header / 4) as u8, 0];
                h.extend(self.length.unwrap_or((header + tcp.len()) as u16).to_be_bytes());
                h.extend([0, 7]);
                h.extend(fragment.to_be_bytes());
                h.extend([self.ttl, self.protocol, 0, 0]);
                h.extend(from.octets());
                h.extend(to.octets());
                h.extend(&self.source_route);
                h.resize(header, 1);
                let sum = !fold(sum(&h)) ^ u16::from(self.bad_ip_checksum);
                h[10..12].copy_from_slice(&sum.to_be_bytes());
                h
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut chain = Vec::new();
                for (i, x) in self.extensions.iter().enumerate() {
                    let next = self.extensions.get(i + 1).map_or(self.protocol, |n| n.number());
                    chain.extend(x.bytes(next));
                }
                let first = self.extensions.first().map_or(self.protocol, |x| x.number());
                let mut h = vec![0x60, 0, 0, 0];
                h.extend(self.length.unwrap_or((chain.len() + tcp.len()) as u16).to_be_bytes());
                h.extend([first, self.ttl]);
                h.extend(from.octets());
                h.extend(to.octets());
                h.extend(chain);
                h
            }
            (from, to) => panic!("{from} and {to} are of two address families"),
        };
        p.extend(tcp);
        p.resize(p.len() + self.padding, 0);
        p
    }

    fn tcp(&self) -> Vec<u8> {
        let offset = self.data_offset.unwrap_or((20 + self.tcp_options) as u8 / 4);
        let mut t = Vec::with_capacity(20 + self.payload.len());
        t.extend(self.from.port().to_be_bytes());
        t.extend(self.to.port().to_be_bytes());
        t.extend(self.seq.to_be_bytes());
        t.extend(self.ack.to_be_bytes());
        t.extend([offset << 4, self.flags, 0xff, 0xff, 0, 0]);
        t.extend(self.urgent.to_be_bytes());
        t.resize(20 + self.tcp_options, 1);
        t.extend(&self.payload);
        let pseudo = 6 + t.len() as u32 + sum_of(self.from.ip()) + sum_of(self.to.ip());
        let sum = match self.checksum {
            Checksum::Right => !fold(pseudo + sum(&t)),
            Checksum::Wrong => !fold(pseudo + sum(&t)) ^ 0x5555,
            Checksum::Partial => fold(pseudo),
        };
        t[16..18].copy_from_slice(&sum.to_be_bytes());
        t
    }
}

fn sum_of(ip: IpAddr) -> u32 {
    match ip {
        IpAddr::V4(a) => sum(&a.octets()),
        IpAddr::V6(a) => sum(&a.octets()),
    }
}

/// The sum of 16-bit words (RFC 1071), which can't overflow for a packet.
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w.get(1).copied().unwrap_or_default())).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    fn both() -> [(SocketAddr, SocketAddr); 2] {
        [("192.0.2.1:1000", "192.0.2.2:21"), ("[2001:db8::1]:1000", "[2001:db8::2]:21")]
            .map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap()))
    }

    #[test]
    fn another_parser_reads_the_same() {
        for (from, to) in both() {
            let plain = Packet::new(from, to, tcp::ACK | tcp::FIN, 7, 9).with("hello").with_options();
            let dressed = Packet {
                tags: vec![QINQ, VLAN],
                ip_options: 8,
                extensions: vec![
                    Extension::HopByHop(1),
                    Extension::Routing(0),
                    Extension::Destination(0),
                    Extension::Authentication,
                    Extension::Fragment(0, false),
                ],
                ..plain.clone()
            };
            for packet in [plain, dressed] {
                let frame = packet.frame();
                let parsed = SlicedPacket::from_ethernet(&frame).unwrap();
                assert_eq!(parsed.vlan_ids().len(), packet.tags.len());
                let ends = match parsed.net.as_ref().unwrap() {
                    NetSlice::Ipv4(ip) => {
                        (IpAddr::V4(ip.header().source_addr()), IpAddr::V4(ip.header().destination_addr()))
                    }
                    NetSlice::Ipv6(ip) => {
                        (IpAddr::V6(ip.header().source_addr()), IpAddr::V6(ip.header().destination_addr()))
                    }
                    NetSlice::Arp(_) => panic!("ARP"),
                };
                assert_eq!(ends, (from.ip(), to.ip()));
                let Some(TransportSlice::Tcp(t)) = parsed.transport else { panic!("{parsed:?}") };
                assert_eq!((t.source_port(), t.destination_port()), (1000, 21));
                assert_eq!((t.sequence_number(), t.acknowledgment_number()), (7, 9));
                assert!(t.ack() && t.fin() && !t.syn() && !t.rst());
                assert_eq!(t.payload(), b"hello");
                let right = match parsed.net.as_ref().unwrap() {
                    NetSlice::Ipv4(ip) => t.calc_checksum_ipv4(ip.header().source(), ip.header().destination()),
                    NetSlice::Ipv6(ip) => t.calc_checksum_ipv6(ip.header().source(), ip.header().destination()),
                    NetSlice::Arp(_) => panic!("ARP"),
                };
                assert_eq!(Ok(t.checksum()), right);
            }
        }
    }

    #[test]
    fn a_frame_is_the_bare_packet_behind_its_header() {
        for (from, to) in both() {
            let packet = Packet::syn(from, to, 1);
            assert_eq!(packet.frame()[14..], packet.bare());
            assert_eq!(Packet { truncate: Some(20), ..packet }.frame().len(), 20);
        }
    }
}
