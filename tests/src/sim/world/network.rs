//! A packet's way: from a host's socket by the line to the gateway, and from there to the other host's.

use ftp_helper_common::{
    addr::Addr,
    canon::bit,
    key::{HOOK_IN, HOOK_OUT},
    tcp,
};

use super::{Broken, Ev, MICRO, MILLI, SECOND, World};
use crate::sim::{
    kernel::{End, Packet, Taken, Verdict},
    tcp::{Style, Tcp, reset},
};

impl World {
    /// A packet at the gateway.
    pub(super) fn gate(&mut self, hook: u8, packet: Packet) -> Result<(), Broken> {
        let about = self.about(&packet);
        if self.options.trouble.attackers {
            if self.recent.len() < 64 {
                self.recent.push((hook, packet.clone()));
            } else if self.rng.chance(50) {
                let at = self.rng.below(64);
                self.recent[at] = (hook, packet.clone());
            }
        }
        let taken = self.kernel.packet(self.now, hook, &packet);
        self.tell(about, || format!("gate {hook} {}: {}", show(&packet), show_taken(&taken)));
        match taken {
            Taken::Done(Verdict::Pass) => self.onward(packet),
            Taken::Done(Verdict::Drop) => {
                if self.kernel.observes() {
                    return Err(Broken { session: about, what: format!("observe has dropped {}", show(&packet)) });
                }
                if packet.flags & (tcp::SYN | tcp::ACK) == tcp::SYN {
                    self.summary.denied += 1;
                }
            }
            Taken::Judged(flight) => {
                let id = flight.snapshot.id;
                let beside = self.in_flight.values().any(|(f, _)| f.snapshot.id == id);
                self.unordered += u64::from(beside && flight.judgement.made.has(bit::OPEN));
                if self.options.trouble.races && self.rng.chance(150) {
                    let when = self.now + self.rng.from_to(MICRO, 3 * MILLI);
                    self.next_flight += 1;
                    self.in_flight.insert(self.next_flight, (flight, packet));
                    self.on_the_way += 1;
                    self.at(when, Ev::Commit(self.next_flight));
                } else {
                    self.commit(&flight)?;
                    self.onward(packet);
                }
            }
        }
        Ok(())
    }

    /// The second half of a packet's way.
    pub(super) fn onward(&mut self, packet: Packet) {
        for delay in self.leg() {
            self.on_the_way += 1;
            let packet = self.over_the_line(&packet);
            self.at(self.now + delay, Ev::Arrive(packet));
        }
    }

    /// A copy of a packet, as a line that is noisy hands it on.
    fn over_the_line(&mut self, packet: &Packet) -> Packet {
        let mut packet = packet.clone();
        if self.options.trouble.noise && self.noise.chance(15) {
            packet.damaged = true;
            self.summary.damaged += 1;
            if !packet.data.is_empty() {
                let at = self.noise.below(packet.data.len());
                packet.data[at] ^= 1 << self.noise.below(8);
            }
        }
        packet
    }

    /// A host sends.
    pub(super) fn send(&mut self, packet: Packet) {
        let hook = if self.inside.contains(&packet.from.addr) { HOOK_OUT } else { HOOK_IN };
        for delay in self.leg() {
            self.on_the_way += 1;
            let packet = self.over_the_line(&packet);
            self.at(self.now + delay, Ev::Gate(hook, packet));
        }
    }

    /// When the copies of a packet arrive; none if it is lost.
    fn leg(&mut self) -> Vec<u64> {
        let rng = &mut self.rng;
        let mut copies = Vec::with_capacity(1);
        if !self.options.trouble.network {
            copies.push(rng.from_to(100 * MICRO, 300 * MICRO));
            return copies;
        }
        if !rng.chance(40) {
            let late = if rng.chance(60) { rng.from_to(0, 60 * MILLI) } else { 0 };
            copies.push(rng.from_to(100 * MICRO, MILLI) + late);
        }
        if rng.chance(25) {
            copies.push(rng.from_to(100 * MICRO, 20 * MILLI));
        }
        if rng.chance(4) {
            copies.push(rng.from_to(SECOND / 2, 5 * SECOND));
        }
        copies
    }

    /// A packet at its host.
    pub(super) fn arrive(&mut self, packet: Packet) {
        if packet.damaged {
            return;
        }
        let mut out = Vec::new();
        if let Some(&sock) = self.table.get(&(packet.to, packet.from))
            && !self.socks[sock].dead
        {
            self.socks[sock].packet_in(self.now, &packet, &mut self.rng, &mut out);
            return self.after_socket(sock, out);
        }
        if packet.flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) == tcp::SYN
            && let Some((i, refuse)) = self.listeners.get(&packet.to).copied()
            && self.expects(i, &packet)
        {
            if !refuse {
                let style = self.style();
                let sock = Tcp::accept(self.now, &packet, style, &mut self.rng, &mut out);
                let sock = self.add_socket(i, sock);
                self.accepted(i, sock, packet.to);
                return self.after_socket(sock, out);
            }
            self.listeners.insert(packet.to, (i, false));
        }
        if self.is_host(packet.to.addr)
            && let Some(answer) = reset(&packet)
        {
            self.send(answer);
        }
    }

    /// What a socket has sent goes out, its timer is set, and its session goes on.
    pub(super) fn after_socket(&mut self, sock: usize, out: Vec<Packet>) {
        for p in out {
            self.send(p);
        }
        let i = self.owner[sock];
        let control = self.sessions[i].c == Some(sock) || self.sessions[i].v == Some(sock);
        if !control && self.socks[sock].peer_done {
            self.socks[sock].close(self.now);
        }
        self.arm(sock);
        self.dirty.push(i);
    }

    pub(super) fn arm(&mut self, sock: usize) {
        let due = self.socks[sock].timer;
        if due < self.armed[sock] {
            self.armed[sock] = due;
            self.at(due.max(self.now), Ev::Tick(sock));
        }
    }

    pub(super) fn add_socket(&mut self, session: usize, sock: Tcp) -> usize {
        let n = self.socks.len();
        self.table.insert((sock.local, sock.remote), n);
        self.socks.push(sock);
        self.owner.push(session);
        self.armed.push(u64::MAX);
        n
    }

    pub(super) fn style(&mut self) -> Style {
        if !self.options.trouble.network || self.rng.chance(650) {
            return Style::Whole;
        }
        let n = self.rng.from_to(2, 60) as usize;
        if self.rng.chance(100) { Style::Bytes } else { Style::Pieces(n) }
    }

    fn is_host(&self, addr: Addr) -> bool {
        self.sessions.iter().any(|s| s.client.addr == addr || s.server.addr == addr)
    }

    /// The session that a packet belongs to.
    fn about(&self, p: &Packet) -> Option<usize> {
        let of = |a, b| self.table.get(&(a, b)).map(|s| self.owner[*s]);
        of(p.from, p.to).or_else(|| of(p.to, p.from)).or_else(|| self.listeners.get(&p.to).map(|l| l.0))
    }
}

/// A packet in a line.
pub(super) fn show(p: &Packet) -> String {
    let flags: String = [(tcp::SYN, 'S'), (tcp::ACK, 'A'), (tcp::FIN, 'F'), (tcp::RST, 'R'), (tcp::URG, 'U')]
        .iter()
        .filter(|(bit, _)| p.flags & bit != 0)
        .map(|(_, c)| *c)
        .collect();
    let end = |e: &End| format!("{}:{}", e.addr, e.port);
    let text = p.data[..p.data.len().min(60)].escape_ascii();
    format!("{} > {} {flags} seq={} ack={} len={} \"{text}\"", end(&p.from), end(&p.to), p.seq, p.ack, p.data.len())
}

fn show_taken(taken: &Taken) -> String {
    match taken {
        Taken::Done(v) => format!("{v:?}"),
        Taken::Judged(f) => format!("v{} e{} {:?}", f.snapshot.version, f.snapshot.epoch, f.judgement.made),
    }
}
