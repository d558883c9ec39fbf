//! Attackers: hosts outside that try ports, forge packets, and send again what they have seen.

use ftp_helper_common::{
    key::{CLIENT, PinholeKey, SERVER, SessionKey},
    state::flag,
    tcp,
};

use super::{Broken, Ev, World, begin::host, network::show};
use crate::sim::{
    kernel::{End, Packet, Taken, Verdict},
    script::NEVER,
};

impl World {
    pub(super) fn attack(&mut self) -> Result<(), Broken> {
        match self.rng.below(9) {
            0 => self.steal_a_port(),
            1 => self.forge_from_elsewhere(),
            2 => {
                self.conflict();
                Ok(())
            }
            3 => {
                self.beyond_a_gap();
                Ok(())
            }
            4 => self.stray_reset(),
            5 => {
                self.replay();
                Ok(())
            }
            6 => {
                self.spoof_the_initiator();
                Ok(())
            }
            7 => {
                self.knock();
                Ok(())
            }
            _ => {
                self.half_open();
                Ok(())
            }
        }
    }

    fn put(&mut self, hook: u8, packet: Packet) {
        self.on_the_way += 1;
        self.at(self.now, Ev::Gate(hook, packet));
    }

    fn any_pinhole(&mut self) -> Option<PinholeKey> {
        let n = self.kernel.pinholes.len();
        if n == 0 {
            return None;
        }
        let at = self.rng.below(n);
        self.kernel.pinholes.keys().nth(at).copied()
    }

    fn any_session(&mut self) -> Option<SessionKey> {
        let n = self.kernel.sessions.len();
        if n == 0 {
            return None;
        }
        let at = self.rng.below(n);
        self.kernel.sessions.keys().nth(at).copied()
    }

    fn syn(&mut self, from: End, to: End) -> Packet {
        Packet { from, to, flags: tcp::SYN, seq: self.rng.word(), ack: 0, data: Vec::new(), damaged: false }
    }

    /// A70: another initiator connects to a port that was negotiated.
    fn steal_a_port(&mut self) -> Result<(), Broken> {
        let Some(key) = self.any_pinhole() else { return Ok(()) };
        let thief = host(key.responder.is_v4(), 3, 0);
        let syn = self.syn(End { addr: thief, port: 4444 }, End { addr: key.responder, port: key.port });
        let before = self.kernel.pinholes[&key];
        let taken = self.kernel.packet(self.now, key.hook, &syn);
        let passed = matches!(taken, Taken::Done(Verdict::Pass)) && !self.kernel.observes();
        if passed || self.kernel.pinholes.get(&key) != Some(&before) {
            return Err(Broken { session: None, what: format!("a thief got through: {}", show(&syn)) });
        }
        Ok(())
    }

    /// A61, A62: a segment of one side that comes from where that side is not.
    fn forge_from_elsewhere(&mut self) -> Result<(), Broken> {
        let Some(key) = self.any_session() else { return Ok(()) };
        let side = self.rng.pick(&[CLIENT, SERVER]);
        let text = self.forged_text(&key, side);
        let flags = self.rng.pick(&[tcp::ACK, tcp::ACK, tcp::ACK | tcp::FIN, tcp::ACK | tcp::RST]);
        let packet = self.segment(&key, side, flags, 0, text.as_bytes());
        let before = self.kernel.sessions[&key];
        let hook = before.client_hook ^ side ^ 1;
        let taken = self.kernel.packet(self.now, hook, &packet);
        let passed = !matches!(taken, Taken::Done(Verdict::Drop)) && !self.kernel.observes();
        if passed || self.kernel.sessions.get(&key) != Some(&before) {
            return Err(Broken { session: self.session_of_key(&key), what: format!("forged: {}", show(&packet)) });
        }
        Ok(())
    }

    /// A52: bytes that have passed, sent again as others.
    fn conflict(&mut self) {
        let Some(key) = self.any_session() else { return };
        let side = self.rng.pick(&[CLIENT, SERVER]);
        let state = self.kernel.sessions[&key];
        let said = state.next[usize::from(side)].wrapping_sub(state.start[usize::from(side)]) as usize;
        if said == 0 {
            return;
        }
        let n = 1 + self.rng.below(said.min(60));
        let text: Vec<u8> = (0..n).map(|_| b'a' + (self.rng.word() % 26) as u8).collect();
        let packet = self.segment(&key, side, tcp::ACK, -(n as i32), &text);
        self.disturb(&key);
        self.put(state.client_hook ^ side, packet);
    }

    /// A51: bytes that nothing leads up to.
    fn beyond_a_gap(&mut self) {
        let Some(key) = self.any_session() else { return };
        let side = self.rng.pick(&[CLIENT, SERVER]);
        let state = self.kernel.sessions[&key];
        // No line begins in it.
        let text = format!("zz{}", self.forged_text(&key, side).trim_end());
        let ahead = self.rng.from_to(1, 3000) as i32;
        let mut packet = self.segment(&key, side, tcp::ACK, ahead, text.as_bytes());
        if self.rng.chance(300) {
            packet.ack = packet.ack.wrapping_add(self.rng.from_to(2, 5000) as u32);
        }
        self.disturb(&key);
        self.put(state.client_hook ^ side, packet);
    }

    /// A53: a reset that is not at the next sequence number ends nothing.
    fn stray_reset(&mut self) -> Result<(), Broken> {
        let Some(key) = self.any_session() else { return Ok(()) };
        let side = self.rng.pick(&[CLIENT, SERVER]);
        // Behind a FIN, which counts for one, a reset is at 1.
        let off = self.rng.pick(&[-5, 2, 40, 30_000]);
        let packet = self.segment(&key, side, tcp::RST | tcp::ACK, off, b"");
        let before = self.kernel.sessions[&key];
        if let Taken::Judged(flight) = self.kernel.packet(self.now, before.client_hook ^ side, &packet) {
            self.kernel.commit(&flight);
        }
        let now = self.kernel.sessions.get(&key).map_or(flag::RESET, |s| s.flags);
        if (now ^ before.flags) & flag::CLOSING != 0 {
            return Err(Broken {
                session: self.session_of_key(&key),
                what: format!("a reset ended it: {}", show(&packet)),
            });
        }
        Ok(())
    }

    /// Something that has passed before.
    fn replay(&mut self) {
        if self.recent.is_empty() {
            return;
        }
        let at = self.rng.below(self.recent.len());
        let (hook, packet) = self.recent[at].clone();
        self.put(hook, packet);
    }

    /// A72: a SYN in the name of the one who may.
    fn spoof_the_initiator(&mut self) {
        let Some(key) = self.any_pinhole() else { return };
        let from = End { addr: key.initiator, port: 5000 + self.rng.below(1000) as u16 };
        let syn = self.syn(from, End { addr: key.responder, port: key.port });
        self.put(key.hook, syn);
    }

    /// Ports of the servers and clients, one after the other.
    fn knock(&mut self) {
        let at = self.rng.below(self.sessions.len());
        let (client, server) = (self.sessions[at].client.addr, self.sessions[at].server.addr);
        let from = if self.rng.chance(500) { host(client.is_v4(), 3, 1) } else { client };
        let port = 40000 + self.rng.below(200) as u16;
        let syn = self.syn(End { addr: from, port: 6000 }, End { addr: server, port });
        self.put(self.sessions[at].hook, syn);
    }

    /// A82: handshakes that lead to nothing.
    fn half_open(&mut self) {
        let at = self.rng.below(self.sessions.len());
        let server = self.sessions[at].server;
        for _ in 0..20 {
            let from =
                End { addr: host(server.addr.is_v4(), 3, self.rng.below(200)), port: self.rng.word() as u16 | 1024 };
            let syn = self.syn(from, server);
            let answer = Packet {
                from: server,
                to: from,
                flags: tcp::SYN | tcp::ACK,
                seq: self.rng.word(),
                ack: syn.seq.wrapping_add(1),
                data: Vec::new(),
                damaged: false,
            };
            let hook = self.sessions[at].hook;
            drop(self.kernel.packet(self.now, hook, &syn));
            drop(self.kernel.packet(self.now, hook ^ 1, &answer));
        }
    }

    /// A segment of a session, `off` bytes from where its side's stream stands.
    fn segment(&self, key: &SessionKey, side: u8, flags: u8, off: i32, data: &[u8]) -> Packet {
        let state = &self.kernel.sessions[key];
        let (client, server) =
            (End { addr: key.client, port: key.client_port }, End { addr: key.server, port: key.server_port });
        let (from, to) = if side == CLIENT { (client, server) } else { (server, client) };
        Packet {
            from,
            to,
            flags,
            seq: state.next[usize::from(side)].wrapping_add_signed(off),
            ack: state.next[usize::from(side ^ 1)],
            data: data.to_vec(),
            damaged: false,
        }
    }

    /// An announcement that nobody has made.
    fn forged_text(&mut self, key: &SessionKey, side: u8) -> String {
        let port = NEVER + 900 + self.rng.below(50) as u16;
        let a = if side == CLIENT { key.client.0 } else { key.server.0 };
        let six = format!("{},{},{},{},{},{}", a[12], a[13], a[14], a[15], port >> 8, port & 255);
        if side == CLIENT { format!("PORT {six}\r\n") } else { format!("227 Entering Passive Mode ({six})\r\n") }
    }

    fn disturb(&mut self, key: &SessionKey) {
        if let Some(i) = self.session_of_key(key) {
            self.sessions[i].disturbed = true;
            self.tell(Some(i), || "is attacked".to_owned());
        }
    }
}
