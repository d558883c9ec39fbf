//! A small TCP: enough for two ends to exchange bytes over a network that loses, repeats and reorders them (RFC 9293
//! without congestion control). It cuts what it sends as chance will have it, and cuts otherwise when it sends again.

use std::collections::BTreeMap;

use ftp_helper_common::tcp;

use super::{
    kernel::{End, Packet},
    rng::Rng,
};

/// One end of a connection.
#[derive(Debug)]
pub struct Tcp {
    /// This end.
    pub local: End,
    /// The other.
    pub remote: End,
    /// Whether both sides have agreed on the sequence numbers.
    pub open: bool,
    /// Whether there is no connection any more.
    pub dead: bool,
    /// Whether it ended by a reset or by silence.
    pub failed: bool,
    /// Bytes received in order.
    pub got: Vec<u8>,
    /// Whether the other end has finished, and everything has arrived.
    pub peer_done: bool,
    /// When something is due; `u64::MAX` for never.
    pub timer: u64,
    passive: bool,
    iss: u32,
    irs: u32,
    /// Bytes that were written.
    out: Vec<u8>,
    closed: bool,
    /// Position of the first byte that is not acknowledged; the FIN counts as one behind the last.
    una: usize,
    /// Position of the next byte to be sent.
    nxt: usize,
    ahead: BTreeMap<usize, Vec<u8>>,
    peer_fin: Option<usize>,
    resend_at: u64,
    ack_at: u64,
    flush_at: u64,
    tries: u32,
    style: Style,
}

/// How an end cuts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// What was written at once goes in one segment.
    Whole,
    /// In pieces of up to so many bytes.
    Pieces(usize),
    /// Byte by byte.
    Bytes,
}

/// Time of a retransmission, and of a SYN's.
const RESEND: u64 = 250_000_000;
/// How often in vain.
const TRIES: u32 = 40;
/// How long an acknowledgement may wait for company.
const DELAYED_ACK: u64 = 40_000_000;

impl Tcp {
    /// An end that connects; its SYN goes out at once.
    pub fn connect(now: u64, local: End, remote: End, style: Style, rng: &mut Rng, out: &mut Vec<Packet>) -> Self {
        let mut t = Self::new(local, remote, style, rng.word(), 0, false);
        t.resend_at = now + RESEND;
        out.push(t.packet(tcp::SYN, t.iss, &[]));
        t.schedule();
        t
    }

    /// An end that answers a SYN.
    pub fn accept(now: u64, syn: &Packet, style: Style, rng: &mut Rng, out: &mut Vec<Packet>) -> Self {
        let mut t = Self::new(syn.to, syn.from, style, rng.word(), syn.seq, true);
        t.resend_at = now + RESEND;
        out.push(t.packet(tcp::SYN | tcp::ACK, t.iss, &[]));
        t.schedule();
        t
    }

    fn new(local: End, remote: End, style: Style, iss: u32, irs: u32, passive: bool) -> Self {
        Self {
            local,
            remote,
            open: false,
            dead: false,
            failed: false,
            got: Vec::new(),
            peer_done: false,
            timer: u64::MAX,
            passive,
            iss,
            irs,
            out: Vec::new(),
            closed: false,
            una: 0,
            nxt: 0,
            ahead: BTreeMap::new(),
            peer_fin: None,
            resend_at: u64::MAX,
            ack_at: u64::MAX,
            flush_at: u64::MAX,
            tries: 0,
            style,
        }
    }

    /// Writes bytes; they go out at `at` at the latest, with what is written until then.
    pub fn write(&mut self, at: u64, data: &[u8]) {
        self.out.extend_from_slice(data);
        self.flush_at = self.flush_at.min(at);
        self.schedule();
    }

    /// Nothing more will be written.
    pub fn close(&mut self, at: u64) {
        if !std::mem::replace(&mut self.closed, true) {
            self.flush_at = self.flush_at.min(at);
            self.schedule();
        }
    }

    /// Whether everything that was written has been acknowledged, the FIN included.
    #[must_use]
    pub fn all_taken(&self) -> bool {
        self.closed && self.una > self.out.len()
    }

    /// Resets the connection.
    pub fn abort(&mut self, out: &mut Vec<Packet>) {
        if !self.dead {
            let flags = if self.open || self.passive { tcp::RST | tcp::ACK } else { tcp::RST };
            out.push(self.packet(flags, self.seq_of(self.nxt), &[]));
            self.die(true);
        }
    }

    /// Vanishes without a word.
    pub fn vanish(&mut self) {
        self.die(true);
    }

    /// Takes a packet.
    pub fn packet_in(&mut self, now: u64, p: &Packet, rng: &mut Rng, out: &mut Vec<Packet>) {
        if self.dead {
            return;
        }
        if !self.open {
            if !self.handshake(now, p, out) {
                return;
            }
        } else if p.flags & tcp::SYN != 0 {
            // An old SYN or SYN-ACK: a challenge acknowledgement (RFC 5961 section 4).
            out.push(self.ack());
            return self.schedule();
        }
        let offset = tcp::distance(p.seq, self.irs.wrapping_add(1));
        let expected = self.got.len() + usize::from(self.peer_done);
        let ahead = i64::from(offset) - expected as i64;
        if p.flags & tcp::RST != 0 {
            if ahead == 0 {
                self.die(true);
            }
            return;
        }
        if p.flags & tcp::ACK == 0 || !(-65535..=65535).contains(&ahead) {
            return;
        }
        let acked = tcp::distance(p.ack, self.iss.wrapping_add(1));
        if acked > self.nxt as i32 {
            // Acknowledges what was never sent.
            out.push(self.ack());
            return;
        }
        if acked > self.una as i32 {
            self.una = acked as usize;
            self.tries = 0;
            self.resend_at = if self.una < self.nxt { now + RESEND } else { u64::MAX };
        }
        if !p.data.is_empty() || p.flags & tcp::FIN != 0 {
            let fresh = self.take(offset, p);
            let at_once = !fresh || ahead != 0 || rng.chance(300);
            self.ack_at = self.ack_at.min(if at_once { now } else { now + DELAYED_ACK });
        }
        self.check_over(now);
        if self.ack_at <= now {
            self.ack_at = u64::MAX;
            out.push(self.ack());
        }
        self.schedule();
    }

    /// Does what is due.
    pub fn tick(&mut self, now: u64, rng: &mut Rng, out: &mut Vec<Packet>) {
        if self.dead {
            return;
        }
        if self.resend_at <= now {
            self.tries += 1;
            if self.tries > TRIES {
                return self.die(true);
            }
            self.resend_at = now + RESEND * u64::from(self.tries.min(4));
            if !self.open {
                let flags = if self.passive { tcp::SYN | tcp::ACK } else { tcp::SYN };
                out.push(self.packet(flags, self.iss, &[]));
            } else if self.una < self.nxt {
                // From the first byte that is missing, cut otherwise than before.
                let style = rng.pick(&[Style::Whole, Style::Whole, Style::Pieces(60), Style::Pieces(9)]);
                let to = if rng.chance(500) { self.nxt } else { (self.una + 1 + rng.below(80)).min(self.nxt) };
                self.send(self.una, to, style, rng, out);
            }
        }
        if self.flush_at <= now && self.open {
            self.flush_at = u64::MAX;
            let end = self.out.len() + usize::from(self.closed);
            if self.nxt < end {
                let (from, style) = (self.nxt, self.style);
                self.nxt = end;
                self.send(from, end, style, rng, out);
                self.resend_at = self.resend_at.min(now + RESEND);
            }
        }
        if self.ack_at <= now {
            self.ack_at = u64::MAX;
            out.push(self.ack());
        }
        self.check_over(now);
        self.schedule();
    }

    /// True when the connection is open, and the packet may carry more.
    fn handshake(&mut self, now: u64, p: &Packet, out: &mut Vec<Packet>) -> bool {
        let acks_us = p.flags & tcp::ACK != 0 && p.ack == self.iss.wrapping_add(1);
        if self.passive {
            if p.flags & tcp::SYN != 0 {
                if p.seq == self.irs {
                    out.push(self.packet(tcp::SYN | tcp::ACK, self.iss, &[]));
                }
                return false;
            }
            if p.flags & tcp::RST != 0 {
                if p.seq == self.irs.wrapping_add(1) {
                    self.die(true);
                }
                return false;
            }
            if !acks_us {
                return false;
            }
            self.opened(now);
            return true;
        }
        if p.flags & tcp::RST != 0 {
            if acks_us {
                self.die(true);
            }
            return false;
        }
        if p.flags & (tcp::SYN | tcp::ACK) == tcp::SYN | tcp::ACK {
            if acks_us {
                self.irs = p.seq;
                self.opened(now);
                out.push(self.ack());
            } else {
                out.push(Packet { flags: tcp::RST, seq: p.ack, ack: 0, data: Vec::new(), ..self.ack() });
            }
            self.schedule();
        }
        false
    }

    fn opened(&mut self, now: u64) {
        self.open = true;
        self.tries = 0;
        self.resend_at = u64::MAX;
        if !self.out.is_empty() || self.closed {
            self.flush_at = now;
        }
    }

    /// Takes bytes; whether any were new.
    fn take(&mut self, offset: i32, p: &Packet) -> bool {
        let before = self.got.len();
        if p.flags & tcp::FIN != 0 && self.peer_fin.is_none() && offset >= 0 {
            self.peer_fin = Some(offset as usize + p.data.len());
        }
        if !p.data.is_empty() {
            // The first copy of a byte counts.
            let skip = (before as i64 - i64::from(offset)).max(0) as usize;
            if skip < p.data.len() {
                let at = (i64::from(offset) + skip as i64) as usize;
                self.ahead.entry(at).or_insert_with(|| p.data[skip..].to_vec());
            }
        }
        while let Some((&at, _)) = self.ahead.first_key_value() {
            if at > self.got.len() {
                break;
            }
            let Some((at, data)) = self.ahead.pop_first() else { break };
            let skip = self.got.len() - at;
            if skip < data.len() {
                self.got.extend_from_slice(&data[skip..]);
            }
        }
        if self.peer_fin == Some(self.got.len()) && !self.peer_done {
            self.peer_done = true;
            return true;
        }
        self.got.len() > before
    }

    fn check_over(&mut self, now: u64) {
        // Stays a while to acknowledge what is sent again.
        if self.peer_done && self.all_taken() && self.resend_at == u64::MAX {
            self.resend_at = now + 4 * RESEND;
            self.tries = TRIES;
        }
    }

    fn die(&mut self, failed: bool) {
        // The end of the wait after both FINs is no failure.
        self.failed = failed && !(self.peer_done && self.all_taken());
        self.dead = true;
        self.timer = u64::MAX;
    }

    /// Sends the positions from `from` to `to` in segments.
    fn send(&mut self, from: usize, to: usize, style: Style, rng: &mut Rng, out: &mut Vec<Packet>) {
        /// No sender has more segments on the way than its congestion window holds.
        const FLIGHT: usize = 200;
        let mut at = from;
        self.ack_at = u64::MAX;
        let least = (to - from).div_ceil(FLIGHT);
        while at < to {
            let size = match style {
                Style::Whole => 1400,
                Style::Pieces(n) => 1 + rng.below(n),
                Style::Bytes => 1,
            };
            let end = (at + size.max(least)).min(to);
            let data_end = end.min(self.out.len());
            let fin = if self.closed && end > self.out.len() { tcp::FIN } else { 0 };
            out.push(self.packet(tcp::ACK | fin, self.seq_of(at), &self.out[at.min(data_end)..data_end]));
            at = end;
        }
    }

    fn schedule(&mut self) {
        let flush = if self.open { self.flush_at } else { u64::MAX };
        self.timer = if self.dead { u64::MAX } else { self.resend_at.min(self.ack_at).min(flush) };
    }

    fn seq_of(&self, position: usize) -> u32 {
        self.iss.wrapping_add(1).wrapping_add(position as u32)
    }

    fn ack(&self) -> Packet {
        self.packet(tcp::ACK, self.seq_of(self.nxt), &[])
    }

    fn packet(&self, flags: u8, seq: u32, data: &[u8]) -> Packet {
        let ack = if flags & tcp::ACK == 0 {
            0
        } else {
            self.irs.wrapping_add(1).wrapping_add((self.got.len() + usize::from(self.peer_done)) as u32)
        };
        Packet { from: self.local, to: self.remote, flags, seq, ack, data: data.to_vec(), damaged: false }
    }
}

/// What a host answers to a packet of no connection (RFC 9293 section 3.10.7.1).
#[must_use]
pub fn reset(p: &Packet) -> Option<Packet> {
    if p.flags & tcp::RST != 0 {
        return None;
    }
    let (flags, seq, ack) = if p.flags & tcp::ACK != 0 {
        (tcp::RST, p.ack, 0)
    } else {
        let len = p.data.len() as u32 + u32::from(p.flags & tcp::SYN != 0) + u32::from(p.flags & tcp::FIN != 0);
        (tcp::RST | tcp::ACK, 0, p.seq.wrapping_add(len))
    };
    Some(Packet { from: p.to, to: p.from, flags, seq, ack, data: Vec::new(), damaged: false })
}
