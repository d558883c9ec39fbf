//! Captures as they are made for the tests: a dialogue's segments, and files of them.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use etherparse::PacketBuilder;
use pcap_file::{
    DataLink,
    pcap::{PcapHeader, PcapPacket, PcapWriter},
    pcapng::{
        PcapNgWriter,
        blocks::{
            enhanced_packet::EnhancedPacketBlock,
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
        },
    },
};

pub(super) const CLIENT: usize = 0;
pub(super) const SERVER: usize = 1;
const FIN: u8 = ftp_helper_common::tcp::FIN;
pub(super) const SYN: u8 = ftp_helper_common::tcp::SYN;
pub(super) const RST: u8 = ftp_helper_common::tcp::RST;
pub(super) const ACK: u8 = ftp_helper_common::tcp::ACK;

/// A segment that is going to be captured.
#[derive(Clone, Debug)]
pub(super) struct Seg {
    pub(super) from: (IpAddr, u16),
    pub(super) to: (IpAddr, u16),
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: u8,
    pub(super) payload: Vec<u8>,
}

/// One TCP connection, its packets in the order of being sent.
pub(super) struct Tcp {
    ends: [(IpAddr, u16); 2],
    pub(super) next: [u32; 2],
}

impl Tcp {
    pub(super) fn new(a: &str, a_port: u16, b: &str, b_port: u16) -> Self {
        // Close to the wrap, so that every dialogue crosses it.
        Self {
            ends: [(a.parse().unwrap(), a_port), (b.parse().unwrap(), b_port)],
            next: [u32::MAX - 40, u32::MAX - 90],
        }
    }

    pub(super) fn send(&mut self, side: usize, flags: u8, payload: &[u8]) -> Seg {
        let other = 1 - side;
        let seq = self.next[side];
        let length = u32::try_from(payload.len()).unwrap() + u32::from(flags & (SYN | FIN) != 0);
        self.next[side] = seq.wrapping_add(length);
        let ack = if flags & ACK != 0 { self.next[other] } else { 0 };
        Seg { from: self.ends[side], to: self.ends[other], seq, ack, flags, payload: payload.to_vec() }
    }

    pub(super) fn handshake(&mut self) -> Vec<Seg> {
        vec![self.send(0, SYN, b""), self.send(1, SYN | ACK, b""), self.send(0, ACK, b"")]
    }

    pub(super) fn close(&mut self) -> Vec<Seg> {
        vec![self.send(0, FIN | ACK, b""), self.send(1, FIN | ACK, b""), self.send(0, ACK, b"")]
    }
}

/// A dialogue, turn by turn.
pub(super) type Turns<'a> = &'a [(usize, &'a str)];

pub(super) const LOGIN: Turns<'_> = &[
    (SERVER, "220-Welcome\r\n 227 not (1,2,3,4,5,6)\r\n220 here\r\n"),
    (CLIENT, "USER me\r\n"),
    (SERVER, "331 password?\r\n"),
    (CLIENT, "PASS secret\r\n"),
    (SERVER, "230 in\r\n"),
];

pub(super) const TRANSFERS: Turns<'_> = &[
    (CLIENT, "PASV\r\n"),
    (SERVER, "227 Entering Passive Mode (198,51,100,5,195,149).\r\n"),
    (CLIENT, "RETR a\r\n"),
    (SERVER, "150 coming\r\n226 done\r\n"),
    (CLIENT, "EPSV\r\n"),
    (SERVER, "229 Entering Extended Passive Mode (|||50070|)\r\n"),
    (CLIENT, "PORT 192,0,2,10,200,1\r\n"),
    (SERVER, "200 ok\r\n"),
    (CLIENT, "EPRT |1|192.0.2.10|51202|\r\n"),
    (SERVER, "200 ok\r\n"),
    (CLIENT, "PASV\r\n"),
    (SERVER, "500 not now\r\n"),
    (CLIENT, "PORT 203,0,113,77,200,1\r\n"),
    (SERVER, "500 no bounce\r\n"),
];

pub(super) fn expected() -> BTreeSet<String> {
    [
        "pasv 192.0.2.10 198.51.100.5 50069",
        "epsv 192.0.2.10 198.51.100.5 50070",
        "port 198.51.100.5 192.0.2.10 51201",
        "eprt 198.51.100.5 192.0.2.10 51202",
    ]
    .map(str::to_owned)
    .into()
}

pub(super) fn control() -> Tcp {
    Tcp::new("192.0.2.10", 40000, "198.51.100.5", 21)
}

/// The dialogue, a turn a segment.
pub(super) fn dialogue(turns: &[(usize, &str)]) -> Vec<Seg> {
    let mut tcp = control();
    let mut segments = tcp.handshake();
    segments.extend(turns.iter().map(|(side, text)| tcp.send(*side, ACK, text.as_bytes())));
    segments
}

pub(super) fn whole() -> Vec<Seg> {
    dialogue(&[LOGIN, TRANSFERS].concat())
}

/// A session that has announced its first port, and goes on.
pub(super) fn announced() -> (Tcp, Vec<Seg>) {
    let mut control = control();
    let mut segments = control.handshake();
    let said = [LOGIN, &TRANSFERS[..2]].concat();
    segments.extend(said.into_iter().map(|(side, text)| control.send(side, ACK, text.as_bytes())));
    (control, segments)
}

/// Cuts a segment's payload in two.
pub(super) fn cut(segment: &Seg, at: usize) -> [Seg; 2] {
    let (a, b) = segment.payload.split_at(at);
    let seq = segment.seq.wrapping_add(u32::try_from(at).unwrap());
    [Seg { payload: a.to_vec(), ..segment.clone() }, Seg { payload: b.to_vec(), seq, ..segment.clone() }]
}

pub(super) fn bytes_of(segment: &Seg) -> Vec<Seg> {
    if segment.payload.is_empty() {
        return vec![segment.clone()];
    }
    let mut all = Vec::new();
    let mut rest = segment.clone();
    while rest.payload.len() > 1 {
        let [first, second] = cut(&rest, 1);
        all.push(first);
        rest = second;
    }
    all.push(rest);
    all
}

pub(super) fn packet(segment: &Seg) -> Vec<u8> {
    let mut bytes = Vec::new();
    let ip = match (segment.from.0, segment.to.0) {
        (IpAddr::V4(a), IpAddr::V4(b)) => PacketBuilder::ipv4(a.octets(), b.octets(), 64),
        (IpAddr::V6(a), IpAddr::V6(b)) => PacketBuilder::ipv6(a.octets(), b.octets(), 64),
        other => panic!("{other:?}"),
    };
    let mut tcp = ip.tcp(segment.from.1, segment.to.1, segment.seq, 65535);
    let has = |flag| segment.flags & flag != 0;
    for (flag, set) in [
        (SYN, etherparse::PacketBuilderStep::syn as fn(_) -> _),
        (FIN, etherparse::PacketBuilderStep::fin),
        (RST, etherparse::PacketBuilderStep::rst),
    ] {
        if has(flag) {
            tcp = set(tcp);
        }
    }
    if has(ACK) {
        tcp = tcp.ack(segment.ack);
    }
    tcp.write(&mut bytes, &segment.payload).unwrap();
    bytes
}

/// A pcap file of raw IP packets, 10 microseconds apart.
pub(super) fn pcap(segments: &[Seg]) -> Vec<u8> {
    pcap_at(segments.iter().enumerate().map(|(i, s)| (10 * u64::try_from(i).unwrap(), packet(s))), DataLink::RAW)
}

pub(super) fn pcap_at(packets: impl Iterator<Item = (u64, Vec<u8>)>, datalink: DataLink) -> Vec<u8> {
    let header = PcapHeader { datalink, snaplen: 1 << 18, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(Vec::new(), header).unwrap();
    for (micros, data) in packets {
        let time = Duration::from_secs(1_700_000_000) + Duration::from_micros(micros);
        let length = u32::try_from(data.len()).unwrap();
        writer.write_packet(&PcapPacket::new(time, length, &data)).unwrap();
    }
    writer.into_writer()
}

/// The same as a pcapng file of Ethernet frames with a VLAN tag, with the clock in nanoseconds.
pub(super) fn pcapng(segments: &[Seg]) -> Vec<u8> {
    let mut writer = PcapNgWriter::new(Vec::new()).unwrap();
    let mut interface = InterfaceDescriptionBlock::new(DataLink::ETHERNET, 0);
    interface.options.push(InterfaceDescriptionOption::IfTsResol(9));
    writer.write_pcapng_block(interface).unwrap();
    for (i, segment) in segments.iter().enumerate() {
        let mut frame = [[0; 12].as_slice(), &[0x81, 0x00, 0x00, 0x05, 0x08, 0x00]].concat();
        frame.extend(packet(segment));
        let block = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: Duration::from_secs(1_700_000_000) + Duration::from_micros(10 * u64::try_from(i).unwrap()),
            original_len: u32::try_from(frame.len()).unwrap(),
            data: frame.into(),
            options: vec![],
        };
        writer.write_pcapng_block(block).unwrap();
    }
    writer.into_inner()
}
