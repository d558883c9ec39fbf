//! A control connection through test runs: handshake, lines of both sides, sequence numbers.

use std::net::{IpAddr, SocketAddr};

use ftp_helper::engine::Record;
use ftp_helper_common::{
    canon::Made,
    command::{Command, Outcome},
    key::{CLIENT, HOOK_IN, PinholeKey, SERVER, SessionKey},
    record::SegmentRecord,
    state::SessionState,
    tcp,
};

use crate::{
    packet::Packet,
    testrun::{Kernel, Verdict, at, bare_hosts, hosts, other, parse},
};

/// The port that the announcements below name.
pub const PORT: u16 = 50069;

/// One control connection.
#[derive(Clone, Debug)]
pub struct Dialogue {
    /// The client's end.
    pub client: SocketAddr,
    /// The server's end.
    pub server: SocketAddr,
    /// The hook that the client's packets pass: `HOOK_IN` if it is outside.
    pub hook: u8,
    /// First sequence numbers of the data of both sides.
    pub start: [u32; 2],
    /// What both sides have sent.
    pub next: [u32; 2],
}

/// What became of a segment.
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    /// The program's verdict.
    pub verdict: Verdict,
    /// The records it wrote, with their payload.
    pub records: Vec<(SegmentRecord, Vec<u8>)>,
}

impl Step {
    /// What the kernel made of the segment; it passed, and its record is the only one.
    #[track_caller]
    pub fn made(&self) -> Made {
        assert_eq!((self.verdict, self.records.len()), (Verdict::Pass, 1), "{self:?}");
        self.records[0].0.made
    }
}

impl Dialogue {
    /// Hosts of its own, not connected yet; the client outside if `hook` is `HOOK_IN`.
    pub fn new(hook: u8, v6: bool) -> Self {
        Self::between(hosts(v6), hook)
    }

    /// The same for the programs without an Ethernet header.
    pub fn bare(hook: u8, v6: bool) -> Self {
        Self::between(bare_hosts(v6), hook)
    }

    /// Between these hosts.
    pub fn between((client, server): (IpAddr, IpAddr), hook: u8) -> Self {
        // Close to the wrap of sequence space on purpose.
        let start = [0xffff_fff0, 0xffff_ff00];
        Self { client: at(client, 40000), server: at(server, 21), hook, start, next: start }
    }

    /// The session's key.
    pub fn key(&self) -> SessionKey {
        SessionKey {
            client: self.client.ip().into(),
            server: self.server.ip().into(),
            client_port: self.client.port(),
            server_port: self.server.port(),
        }
    }

    /// The hook that a side's packets pass.
    pub fn hook_of(&self, side: u8) -> u8 {
        if side == CLIENT { self.hook } else { other(self.hook) }
    }

    /// A segment of a side, at its next sequence number and acknowledging all of the other's.
    pub fn segment(&self, side: u8, payload: &[u8]) -> Packet {
        let i = usize::from(side);
        let (from, to) = if side == CLIENT { (self.client, self.server) } else { (self.server, self.client) };
        Packet::new(from, to, tcp::ACK, self.next[i], self.next[1 - i]).with(payload)
    }

    /// The client's SYN.
    pub fn syn(&self) -> Packet {
        Packet::syn(self.client, self.server, self.start[0].wrapping_sub(1)).with_options()
    }

    /// The server's SYN-ACK.
    pub fn syn_ack(&self) -> Packet {
        let isn = self.start[1].wrapping_sub(1);
        Packet::new(self.server, self.client, tcp::SYN | tcp::ACK, isn, self.start[0]).with_options()
    }

    /// Sends a packet of a side, whatever it is; changes nothing here.
    pub fn send(&self, k: &mut Kernel, side: u8, packet: &Packet) -> Step {
        let _ = k.records();
        let verdict = k.send(self.hook_of(side), packet);
        let raw = k.records();
        let records = raw.iter().filter_map(|r| match parse(r) {
            Record::Segment(s, payload) => Some((s, payload.to_vec())),
            Record::Session(s) => Some((s, Vec::new())),
            _ => None,
        });
        Step { verdict, records: records.collect() }
    }

    /// Shakes hands: the session is there afterwards.
    #[track_caller]
    pub fn connect(&mut self, k: &mut Kernel) {
        self.next = self.start;
        assert_eq!(self.send(k, CLIENT, &self.syn()).verdict, Verdict::Pass);
        assert_eq!(self.send(k, SERVER, &self.syn_ack()).verdict, Verdict::Pass);
        assert_eq!(self.send(k, CLIENT, &self.segment(CLIENT, b"")).verdict, Verdict::Pass);
        assert!(k.session(&self.key()).is_some(), "no session after the handshake\n{}", k.dump());
    }

    /// Sends the next bytes of a side in one segment.
    pub fn say(&mut self, k: &mut Kernel, side: u8, payload: &[u8]) -> Step {
        let packet = self.segment(side, payload);
        let next = &mut self.next[usize::from(side)];
        *next = next.wrapping_add(payload.len() as u32);
        self.send(k, side, &packet)
    }

    /// A line of the client; CRLF is added.
    #[track_caller]
    pub fn client(&mut self, k: &mut Kernel, line: &str) -> Made {
        self.say(k, CLIENT, format!("{line}\r\n").as_bytes()).made()
    }

    /// A line of the server.
    #[track_caller]
    pub fn server(&mut self, k: &mut Kernel, line: &str) -> Made {
        self.say(k, SERVER, format!("{line}\r\n").as_bytes()).made()
    }

    /// Greeting and login.
    #[track_caller]
    pub fn login(&mut self, k: &mut Kernel) {
        self.server(k, "220 ready");
        self.client(k, "USER me");
        self.server(k, "331 password");
        self.client(k, "PASS x");
        self.server(k, "230 in");
        assert_eq!(self.state(k).flags, ftp_helper_common::state::flag::LOGGED_IN, "{}", k.dump());
    }

    /// A connected, logged-in dialogue, of which nothing is counted.
    #[track_caller]
    pub fn ready(k: &mut Kernel, hook: u8, v6: bool) -> Self {
        let mut d = Self::new(hook, v6);
        d.connect(k);
        d.login(k);
        k.restart_counting();
        d
    }

    /// The 227 for a port of the server's address.
    pub fn reply_227(&self, port: u16) -> String {
        format!("227 Entering Passive Mode ({}).", six(self.server.ip(), port))
    }

    /// Opens a pinhole to a port of the server, with PASV or, over IPv6, EPSV.
    #[track_caller]
    pub fn open_passive(&mut self, k: &mut Kernel, port: u16) -> PinholeKey {
        if self.server.is_ipv4() {
            self.client(k, "PASV");
            let reply = self.reply_227(port);
            self.server(k, &reply);
        } else {
            self.client(k, "EPSV");
            self.server(k, &format!("229 Extended (|||{port}|)"));
        }
        let key = PinholeKey {
            initiator: self.client.ip().into(),
            responder: self.server.ip().into(),
            port,
            hook: self.hook,
            pad: 0,
        };
        assert!(k.pinholes().iter().any(|p| p.0 == key), "{key:?} did not open\n{}", k.dump());
        key
    }

    /// Opens a pinhole to a port of the client, with PORT or, over IPv6, EPRT.
    #[track_caller]
    pub fn open_active(&mut self, k: &mut Kernel, port: u16) -> PinholeKey {
        if self.server.is_ipv4() {
            self.client(k, &format!("PORT {}", six(self.client.ip(), port)));
        } else {
            self.client(k, &format!("EPRT |2|{}|{port}|", self.client.ip()));
        }
        self.server(k, "200 ok");
        let key = PinholeKey {
            initiator: self.server.ip().into(),
            responder: self.client.ip().into(),
            port,
            hook: other(self.hook),
            pad: 0,
        };
        assert!(k.pinholes().iter().any(|p| p.0 == key), "{key:?} did not open\n{}", k.dump());
        key
    }

    /// The session's entry.
    #[track_caller]
    pub fn state(&self, k: &Kernel) -> SessionState {
        k.session(&self.key()).unwrap_or_else(|| panic!("no session\n{}", k.dump()))
    }

    /// A command to the session as it stands now.
    #[track_caller]
    pub fn command(&self, k: &Kernel, op: u32, change: impl FnOnce(&mut Command)) -> Outcome {
        let state = self.state(k);
        let mut command = Command {
            op,
            session: state.id,
            key: self.key(),
            epoch: state.epoch,
            next: state.next,
            seq: state.pinhole_seq,
            ..Command::default()
        };
        change(&mut command);
        k.command(&command)
    }
}

/// A data connection, from its SYN on.
#[derive(Clone, Copy, Debug)]
pub struct Data {
    /// Who sends the SYN.
    pub from: SocketAddr,
    /// Who answers it.
    pub to: SocketAddr,
    /// The hook that the initiator's packets pass.
    pub hook: u8,
    /// Initial sequence numbers of initiator and responder.
    pub isn: [u32; 2],
}

impl Data {
    /// The connection that a pinhole is for, from this source port.
    pub fn through(pinhole: &PinholeKey, source_port: u16) -> Self {
        Self {
            from: at(pinhole.initiator.to_ip(), source_port),
            to: at(pinhole.responder.to_ip(), pinhole.port),
            hook: pinhole.hook,
            isn: [0xffff_f000, 0x7000_0000],
        }
    }

    /// The initiator's SYN.
    pub fn syn(&self) -> Packet {
        Packet::syn(self.from, self.to, self.isn[0]).with_options()
    }

    /// The responder's SYN-ACK.
    pub fn syn_ack(&self) -> Packet {
        self.back(tcp::SYN | tcp::ACK, 0, b"").with_options()
    }

    /// A packet of the initiator; `at` counts from its SYN.
    pub fn forth(&self, flags: u8, at: u64, payload: &[u8]) -> Packet {
        let (seq, ack) = (self.isn[0].wrapping_add(at as u32), self.isn[1].wrapping_add(1));
        Packet::new(self.from, self.to, flags, seq, ack).with(payload)
    }

    /// A packet of the responder; `at` counts from its SYN-ACK.
    pub fn back(&self, flags: u8, at: u64, payload: &[u8]) -> Packet {
        let (seq, ack) = (self.isn[1].wrapping_add(at as u32), self.isn[0].wrapping_add(1));
        Packet::new(self.to, self.from, flags, seq, ack).with(payload)
    }

    /// Sends a packet of the initiator.
    pub fn send(&self, k: &mut Kernel, packet: &Packet) -> Verdict {
        k.send(self.hook, packet)
    }

    /// Sends a packet of the responder.
    pub fn answer(&self, k: &mut Kernel, packet: &Packet) -> Verdict {
        k.send(other(self.hook), packet)
    }

    /// Sends SYN and SYN-ACK; both pass.
    #[track_caller]
    pub fn connect(&self, k: &mut Kernel) {
        assert_eq!(self.send(k, &self.syn()), Verdict::Pass, "{}", k.dump());
        assert_eq!(self.answer(k, &self.syn_ack()), Verdict::Pass, "{}", k.dump());
    }
}

/// `h1,h2,h3,h4,p1,p2`.
pub fn six(ip: IpAddr, port: u16) -> String {
    format!("{},{},{}", ip.to_string().replace('.', ","), port >> 8, port & 255)
}

/// Both places of the client, and both families.
pub fn every_kind() -> impl Iterator<Item = (u8, bool)> {
    [HOOK_IN, other(HOOK_IN)].into_iter().flat_map(|hook| [(hook, false), (hook, true)])
}
