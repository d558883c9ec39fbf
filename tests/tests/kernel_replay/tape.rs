//! Sessions as packets on a tape, in every shape that TCP may give them.

use std::path::PathBuf;

use ftp_helper_common::{
    key::{CLIENT, PinholeKey, SERVER},
    tcp,
};
use ftp_helper_tests::{
    capture::{self, Link},
    dialogue::{Data, Dialogue, six},
    packet::{Checksum, Packet, QINQ, VLAN},
    testrun::{at, other},
};

/// A second, nanoseconds.
pub(super) const SECOND: u64 = 1_000_000_000;
/// The port of every transfer.
pub(super) const PORT: u16 = 50069;
/// Between two packets, nanoseconds.
const STEP: u64 = 10_000;
const LOGIN: [(u8, &str); 5] =
    [(SERVER, "220 ready"), (CLIENT, "USER me"), (SERVER, "331 password"), (CLIENT, "PASS x"), (SERVER, "230 in")];

/// Packets with their times.
#[derive(Default)]
pub(super) struct Tape {
    pub(super) now: u64,
    pub(super) frames: Vec<(u64, Vec<u8>)>,
}

impl Tape {
    pub(super) fn add(&mut self, packets: &[Packet]) {
        for packet in packets {
            self.frames.push((self.now, packet.frame()));
            self.now += STEP;
        }
    }

    pub(super) fn wait(&mut self, nanos: u64) {
        self.now += nanos;
    }

    pub(super) fn write(&self, link: Link) -> File {
        File::of(&capture::pcap(link, &self.frames))
    }
}

/// A capture in a file that goes with it.
pub(super) struct File(tempfile::NamedTempFile);

impl File {
    pub(super) fn of(bytes: &[u8]) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Self(file)
    }

    pub(super) fn path(&self) -> PathBuf {
        self.0.path().to_owned()
    }
}

/// How a session negotiates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    Pasv,
    Epsv,
    Port,
    Eprt,
}

pub(super) const WAYS: [(Way, bool); 6] = [
    (Way::Pasv, false),
    (Way::Epsv, false),
    (Way::Epsv, true),
    (Way::Port, false),
    (Way::Eprt, false),
    (Way::Eprt, true),
];

/// One session with one transfer, packet by packet.
pub(super) struct Session {
    pub(super) dialogue: Dialogue,
    way: Way,
    /// Handshake, login and negotiation.
    pub(super) negotiation: Vec<Packet>,
}

impl Session {
    pub(super) fn new(way: Way, v6: bool, hook: u8) -> Self {
        let mut session = Self { dialogue: Dialogue::new(hook, v6), way, negotiation: Vec::new() };
        let d = &session.dialogue;
        session.negotiation.extend([d.syn(), d.syn_ack(), d.segment(CLIENT, b"")]);
        for (side, line) in LOGIN {
            session.say(side, line);
        }
        let [command, reply] = session.exchange();
        session.say(CLIENT, &command);
        session.say(SERVER, &reply);
        session
    }

    fn exchange(&self) -> [String; 2] {
        let Dialogue { client, server, .. } = &self.dialogue;
        match self.way {
            Way::Pasv => ["PASV".into(), format!("227 Entering Passive Mode ({}).", six(server.ip(), PORT))],
            Way::Epsv => ["EPSV".into(), format!("229 Entering Extended Passive Mode (|||{PORT}|)")],
            Way::Port => [format!("PORT {}", six(client.ip(), PORT)), "200 ok".into()],
            Way::Eprt => {
                let family = if client.is_ipv4() { 1 } else { 2 };
                [format!("EPRT |{family}|{}|{PORT}|", client.ip()), "200 ok".into()]
            }
        }
    }

    /// What a side says next.
    pub(super) fn next(&mut self, side: u8, bytes: &[u8]) -> Packet {
        let packet = self.dialogue.segment(side, bytes);
        let next = &mut self.dialogue.next[usize::from(side)];
        *next = next.wrapping_add(bytes.len() as u32);
        packet
    }

    fn say(&mut self, side: u8, line: &str) {
        let packet = self.next(side, format!("{line}\r\n").as_bytes());
        self.negotiation.push(packet);
    }

    pub(super) fn pinhole(&self) -> PinholeKey {
        let Dialogue { client, server, hook, .. } = &self.dialogue;
        let active = matches!(self.way, Way::Port | Way::Eprt);
        let (initiator, responder) = if active { (server, client) } else { (client, server) };
        let hook = if active { other(*hook) } else { *hook };
        PinholeKey { initiator: initiator.ip().into(), responder: responder.ip().into(), port: PORT, hook, pad: 0 }
    }

    /// A SYN to the same port from a host that negotiated nothing, then a transfer of some bytes.
    pub(super) fn transfer(&self) -> Vec<Packet> {
        let key = self.pinhole();
        let stranger = at(
            if self.dialogue.client.is_ipv4() { "203.0.113.255" } else { "2001:db8:5:fff::1" }.parse().unwrap(),
            45000,
        );
        let d = Data::through(&key, 45000);
        let fin = tcp::FIN | tcp::ACK;
        vec![
            Packet::syn(stranger, d.to, 1),
            d.syn(),
            d.syn_ack(),
            d.forth(tcp::ACK, 1, b""),
            d.back(tcp::ACK, 1, &[7; 1000]),
            d.back(fin, 1001, b"the end"),
            d.forth(fin, 1, b""),
            d.back(tcp::ACK, 1009, b""),
        ]
    }

    /// The end of both.
    pub(super) fn end(mut self) -> Vec<Packet> {
        let quit = self.next(CLIENT, b"QUIT\r\n");
        let bye = self.next(SERVER, b"221 bye\r\n");
        let fin = |p: Packet| Packet { flags: tcp::FIN | tcp::ACK, ..p };
        vec![quit, bye, fin(self.dialogue.segment(CLIENT, b"")), fin(self.dialogue.segment(SERVER, b""))]
    }

    /// The whole session onto a tape, its negotiation as `shape` makes it.
    pub(super) fn record(mut self, tape: &mut Tape, shape: impl FnOnce(Vec<Packet>) -> Vec<Packet>) {
        let negotiation = shape(std::mem::take(&mut self.negotiation));
        tape.add(&negotiation);
        tape.add(&self.transfer());
        tape.add(&self.end());
        tape.wait(SECOND / 1000);
    }
}

/// Cuts a packet in two.
fn cut(packet: &Packet, at: usize) -> [Packet; 2] {
    let (a, b) = packet.payload.split_at(at);
    let seq = packet.seq.wrapping_add(at as u32);
    [packet.clone().with(a), Packet { seq, ..packet.clone().with(b) }]
}

fn bytes_of(packet: &Packet) -> Vec<Packet> {
    let mut all = Vec::new();
    let mut rest = packet.clone();
    while rest.payload.len() > 1 {
        let [first, second] = cut(&rest, 1);
        all.push(first);
        rest = second;
    }
    all.push(rest);
    all
}

/// Every shape that TCP may give to a negotiation.
pub(super) fn every_shape(way: Way, v6: bool, hook: u8, tape: &mut Tape) -> u64 {
    let before = tape.frames.len();
    let mut sessions = 0;
    let mut take = |shape: &dyn Fn(Vec<Packet>) -> Vec<Packet>| {
        sessions += 1;
        Session::new(way, v6, hook).record(tape, shape);
    };
    take(&|all| all);
    let model = Session::new(way, v6, hook).negotiation;
    for (i, packet) in model.iter().enumerate() {
        for at in 1..packet.payload.len() {
            // Hosts have names of different lengths.
            take(&|mut all| {
                let at = at.min(all[i].payload.len() - 1);
                let two = cut(&all[i], at);
                all.splice(i..=i, two);
                all
            });
        }
        for later in 1..4 {
            take(&|mut all| {
                all.insert((i + later).min(all.len()), all[i].clone());
                all
            });
        }
        if i >= 3 && i + 1 < model.len() {
            take(&|mut all| {
                all.swap(i, i + 1);
                all
            });
        }
    }
    take(&|all| all.iter().flat_map(bytes_of).collect());
    take(&|all| all.iter().flat_map(|p| [p.clone(), p.clone()]).collect());
    // Every command at once, then every reply.
    take(&|all| {
        let said = |side: u8| {
            let from = |p: &&Packet| (p.from.port() == 21) == (side == SERVER) && !p.payload.is_empty();
            all[4..].iter().filter(from).flat_map(|p| p.payload.clone()).collect::<Vec<_>>()
        };
        let (commands, replies) = (said(CLIENT), said(SERVER));
        let reply = Packet { ack: all[4].seq.wrapping_add(commands.len() as u32), ..all[5].clone() };
        [&all[..4], &[all[4].clone().with(commands), reply.with(replies)]].concat()
    });
    for tags in [vec![VLAN], vec![QINQ, VLAN]] {
        take(&|all| all.into_iter().map(|p| Packet { tags: tags.clone(), ..p }).collect());
    }
    // A device was to fill in the checksum.
    take(&|all| all.into_iter().map(|p| Packet { checksum: Checksum::Partial, ..p }).collect());
    assert!(tape.frames.len() > before);
    sessions
}
