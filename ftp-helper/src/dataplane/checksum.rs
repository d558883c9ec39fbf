//! The checksum that a packet of a local sender does not have yet.
//!
//! What comes from a virtual interface (veth, tap, virtio) often bears the sum of its pseudo-header only: the device that
//! sends it to a wire is to complete it (`CHECKSUM_PARTIAL`). The packet's bytes do not tell, and a frame that is sent anew
//! from its bytes is taken as it stands: its receiver would drop it.

use ftp_helper_common::key::FlowKey;

/// IPv6 extension headers that may stand before TCP and change nothing about its checksum: hop-by-hop and destination
/// options (RFC 8200 section 4).
const OPTIONS: [u8; 2] = [0, 60];
const TCP: u8 = 6;
/// Where in the TCP header the checksum stands (RFC 9293 section 3.1).
const FIELD: std::ops::Range<usize> = 16..18;

/// Completes the TCP checksum of the frame's packet between these two, if it is that of the pseudo-header alone. Everything
/// else stays as it is, a wrong checksum too.
pub(super) fn complete(frame: &mut [u8], ends: &FlowKey) {
    // Behind no link-layer header, an Ethernet header, and one or two tags.
    for link in [0, 14, 18, 22] {
        let Some(ip) = frame.get_mut(link..) else { return };
        if let Some((at, end, pseudo)) = find(ip, ends) {
            fill(&mut ip[at..end], pseudo);
            return;
        }
    }
}

/// Where TCP begins and ends in an IP packet between these two, and the sum of its pseudo-header.
fn find(ip: &[u8], ends: &FlowKey) -> Option<(usize, usize, u32)> {
    let (mut at, end, addresses, width, mut next) = match ip.first()? >> 4 {
        4 => {
            let length = usize::from(word(ip, 2)?);
            (usize::from(ip[0] & 15) * 4, length, ip.get(12..20)?, 4, *ip.get(9)?)
        }
        6 => (40, 40 + usize::from(word(ip, 4)?), ip.get(8..40)?, 16, *ip.get(6)?),
        _ => return None,
    };
    while width == 16 && OPTIONS.contains(&next) {
        next = *ip.get(at)?;
        at += (usize::from(*ip.get(at + 1)?) + 1) * 8;
    }
    let (from, to) = (ends.initiator.0, ends.responder.0);
    let same = addresses[..width] == from[16 - width..] && addresses[width..] == to[16 - width..];
    let tcp = ip.get(at..end)?;
    let ports = word(tcp, 0)? == ends.initiator_port && word(tcp, 2)? == ends.responder_port;
    if next != TCP || !same || !ports || tcp.len() < 20 {
        return None;
    }
    let length = u32::try_from(tcp.len()).ok()?;
    Some((at, end, sum(addresses) + u32::from(TCP) + length))
}

fn fill(tcp: &mut [u8], pseudo: u32) {
    if word(tcp, FIELD.start) != Some(fold(pseudo)) {
        return;
    }
    tcp[FIELD].fill(0);
    let whole = !fold(pseudo + sum(tcp));
    tcp[FIELD].copy_from_slice(&whole.to_be_bytes());
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|w| u16::from_be_bytes(*w))
}

/// The sum of 16-bit words (RFC 1071); short enough not to overflow for any IP packet.
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
    use ftp_helper_common::addr::Addr;

    use super::*;

    const TCP_HEADER: [u8; 20] = [0x9c, 0x40, 0xc3, 0x50, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0];

    fn ends(from: [u8; 16], to: [u8; 16]) -> FlowKey {
        FlowKey { initiator: Addr(from), responder: Addr(to), initiator_port: 40000, responder_port: 50000 }
    }

    /// A frame whose checksum is the pseudo-header's, where its packet begins, and its ends.
    fn v4() -> (Vec<u8>, FlowKey) {
        let (from, to) = ([203, 0, 113, 10], [192, 0, 2, 100]);
        let mut ip = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0];
        ip.extend(from.iter().chain(&to).chain(&TCP_HEADER));
        let partial = fold(sum(&ip[12..20]) + 6 + 20);
        ip[36..38].copy_from_slice(&partial.to_be_bytes());
        (ip, ends(Addr::v4(from).0, Addr::v4(to).0))
    }

    fn v6() -> (Vec<u8>, FlowKey) {
        let (from, to) = ([0x20; 16], [0x30; 16]);
        let mut ip = vec![0x60, 0, 0, 0, 0, 28, 60, 64];
        ip.extend(from.iter().chain(&to));
        ip.extend([6, 0, 1, 4, 0, 0, 0, 0]);
        ip.extend(TCP_HEADER);
        let partial = fold(sum(&ip[8..40]) + 6 + 20);
        ip[64..66].copy_from_slice(&partial.to_be_bytes());
        (ip, ends(from, to))
    }

    /// The receiver's check: everything sums up to all ones.
    fn holds(addresses: &[u8], tcp: &[u8]) -> bool {
        fold(sum(addresses) + 6 + tcp.len() as u32 + sum(tcp)) == 0xffff
    }

    #[test]
    fn a_partial_checksum_is_completed_behind_every_link_layer() {
        for link in [0, 14, 18, 22] {
            for (mut ip, ends) in [v4(), v6()] {
                let (addresses, tcp) = if ip[0] == 0x45 { (12..20, 20..40) } else { (8..40, 48..68) };
                assert!(!holds(&ip[addresses.clone()], &ip[tcp.clone()]));
                // Ethernet pads what is short.
                ip.extend([0xaa; 6]);
                let mut frame = vec![0x02; link];
                frame.extend(&ip);
                complete(&mut frame, &ends);
                assert!(holds(&frame[link..][addresses], &frame[link..][tcp]), "behind {link} bytes");
                assert_eq!(frame[link + ip.len() - 6..], [0xaa; 6]);
            }
        }
    }

    #[test]
    fn whole_wrong_and_foreign_ones_stay() {
        let (mut frame, ends) = v4();
        complete(&mut frame, &ends);
        let whole = frame.clone();
        complete(&mut frame, &ends);
        assert_eq!(frame, whole);
        frame[36] ^= 0x55;
        let wrong = frame.clone();
        complete(&mut frame, &ends);
        assert_eq!(frame, wrong);
        let (mut frame, mut ends) = v4();
        ends.responder_port = 50001;
        let foreign = frame.clone();
        complete(&mut frame, &ends);
        assert_eq!(frame, foreign);
    }

    #[test]
    fn cut_frames_do_no_harm() {
        for (frame, ends) in [v4(), v6()] {
            for n in 0..frame.len() {
                let mut cut = frame[..n].to_vec();
                complete(&mut cut, &ends);
                assert_eq!(cut, frame[..n]);
            }
        }
    }
}
