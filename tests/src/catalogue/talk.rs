//! Both ends of a stimulus' connections: packets with the right numbers.

use ftp_helper_common::{key::CLIENT, tcp};

use super::{Data, Host, Segment, address};
use crate::{
    dialogue::Dialogue,
    packet::Packet,
    testrun::{at, other},
};

/// A control connection and its hosts.
#[derive(Clone, Debug)]
pub(super) struct Talk {
    pub(super) dialogue: Dialogue,
    v6: bool,
}

impl Talk {
    /// The client on `hook`, with a port of its own.
    pub(super) fn new(v6: bool, hook: u8, port: u16) -> Self {
        let mut dialogue = Dialogue::between((address(Host::C, v6), address(Host::S, v6)), hook);
        dialogue.client.set_port(port);
        Self { dialogue, v6 }
    }

    /// The packet of a segment and the hook that it passes; both sides know of it unless it is inserted.
    pub(super) fn packet(&mut self, s: &Segment) -> (Packet, u8) {
        let d = &mut self.dialogue;
        let i = usize::from(s.side);
        let plus = |n: u32, by: i64| (i64::from(n) + by) as u32;
        let mut packet = d.segment(s.side, &s.payload);
        packet.flags = s.flags;
        packet.seq = plus(d.next[i], s.seq);
        packet.ack = if s.flags & tcp::ACK == 0 { 0 } else { plus(d.next[1 - i], s.ack) };
        let fin = u32::from(s.flags & tcp::FIN != 0);
        let end = packet.seq.wrapping_add(s.payload.len() as u32).wrapping_add(fin);
        if !s.inserted && tcp::distance(end, d.next[i]) > 0 {
            d.next[i] = end;
        }
        if let Some(alter) = s.alter {
            alter(&mut packet);
        }
        let hook = d.hook_of(s.side);
        (packet, if s.elsewhere { other(hook) } else { hook })
    }

    /// The same of a data connection.
    pub(super) fn data(&self, data: &Data) -> (Packet, u8) {
        let end = |(host, port): (Host, u16)| at(address(host, self.v6), port);
        let mut packet = Packet::new(end(data.from), end(data.to), data.flags, data.seq, data.ack);
        if data.flags & tcp::SYN != 0 {
            packet = packet.with_options();
        }
        if let Some(alter) = data.alter {
            alter(&mut packet);
        }
        let hook = self.dialogue.hook;
        (packet, if data.from.0 == Host::S { other(hook) } else { hook })
    }

    /// The three packets of the handshake, each with the side that sends it.
    pub(super) fn handshake(&self) -> [(u8, Packet); 3] {
        let d = &self.dialogue;
        [(CLIENT, d.syn()), (1 - CLIENT, d.syn_ack()), (CLIENT, d.segment(CLIENT, b""))]
    }
}
