//! Stimuli as captures, for `replay` and for the programs behind it.

use std::collections::BTreeMap;

use ftp_helper_common::{key::CLIENT, tcp};

use super::{Begin, LOGIN, Step, Stimulus, segment, talk::Talk};
use crate::packet::Packet;

/// Between two packets, nanoseconds.
const STEP: u64 = 10_000;

/// The frames of a stimulus from `now` on, its client at `port`, until nothing of it is left: what runs is reset at its end.
/// None where a packet comes from where a capture can't have it.
#[must_use]
pub fn frames(s: &Stimulus, hook: u8, port: u16, now: &mut u64) -> Option<Vec<(u64, Vec<u8>)>> {
    let mut talk = Talk::new(s.v6, hook, port);
    let mut frames = Vec::new();
    let mut send = |now: &mut u64, packet: &Packet| {
        frames.push((*now, packet.frame()));
        *now += STEP;
    };
    if s.begin != Begin::Nothing {
        for (_, packet) in talk.handshake() {
            send(now, &packet);
        }
    }
    if s.begin == Begin::LoggedIn {
        for (side, line) in LOGIN {
            send(now, &talk.packet(&segment(side, format!("{line}\r\n").as_bytes())).0);
        }
    }
    // Behind the last packet of each end of a data connection.
    let mut ends = BTreeMap::new();
    for step in &s.steps {
        match step {
            Step::Control(segment) if segment.elsewhere => return None,
            Step::Control(segment) => send(now, &talk.packet(segment).0),
            Step::Data(data) => {
                let (packet, _) = talk.data(data);
                let length = packet.payload.len() as u32 + u32::from(packet.flags & (tcp::SYN | tcp::FIN) != 0);
                // Another SYN is none of a connection that is there.
                let end = packet.seq.wrapping_add(length);
                let known = ends.entry((packet.from, packet.to)).or_insert(end);
                if packet.flags & tcp::SYN == 0 {
                    *known = end;
                }
                send(now, &packet);
            }
            Step::Wait(ms) => *now += ms * 1_000_000,
        }
    }
    // Those that no reset ends were no connections.
    for ((from, to), seq) in ends {
        send(now, &Packet::new(from, to, tcp::RST | tcp::ACK, seq, 0));
    }
    let d = &talk.dialogue;
    send(now, &Packet { flags: tcp::RST | tcp::ACK, ..d.segment(CLIENT, b"") });
    Some(frames)
}
