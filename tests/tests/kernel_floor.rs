//! The program that does the least for a transfer: it does all that it is said to do, once for each packet, and leaves nothing
//! behind that would make the next transfer cheaper or dearer.

use ftp_helper::{dataplane::Options, lab::require_root};
use ftp_helper_common::{
    key::{CLIENT, HOOK_IN, SERVER},
    record::kind,
    tcp,
};
use ftp_helper_tests::{
    dialogue::Dialogue,
    packet::Packet,
    testrun::{Kernel, options},
};

const PROGRAM: &str = "ftp_floor_transfer";
/// `TC_ACT_UNSPEC`.
const PASS: u32 = u32::MAX;
/// The interface that a test run's packets are at, of its namespace the first.
const LOOPBACK: u32 = 1;

#[test]
fn a_transfer_costs_what_none_can_do_without() {
    if !require_root() {
        return;
    }
    let mut k = Kernel::load(&Options { programs: &[PROGRAM], ..options() });
    let mut d = Dialogue::new(HOOK_IN, false);
    // The first segment makes the session, and is not recorded.
    assert_eq!(control(&mut k, &mut d, SERVER, "220 Ready"), [0; 0]);
    assert_eq!(k.sessions().len(), 1);
    assert_eq!(control(&mut k, &mut d, CLIENT, "PASV"), [kind::SEGMENT]);
    for reply in ["227 Entering Passive Mode (203,0,113,1,195,149).", "229 (|||50069|)", "226 Done", "2", "22"] {
        assert_eq!(control(&mut k, &mut d, SERVER, reply), [kind::SEGMENT], "{reply}");
    }
    let (client, server) = (d.client, d.server);
    let (from, to) = ((client.ip(), 40001).into(), (server.ip(), 50069).into());
    for (what, arrives, packet, record) in [
        ("SYN", true, Packet::syn(from, to, 1), None),
        ("SYN-ACK", false, Packet::new(to, from, tcp::SYN | tcp::ACK, 1, 2), Some(kind::FLOW_START)),
        ("ACK", true, Packet::new(from, to, tcp::ACK, 2, 2), None),
        ("data", false, Packet::new(to, from, tcp::ACK, 2, 2).with("x"), None),
        ("first FIN", false, Packet::new(to, from, tcp::ACK | tcp::FIN, 3, 2), None),
        ("second FIN", true, Packet::new(from, to, tcp::ACK | tcp::FIN, 2, 4), Some(kind::FLOW_END)),
    ] {
        assert_eq!(run(&mut k, arrives, &packet), Vec::from_iter(record), "{what}");
    }
    assert_eq!((k.pinholes().len(), k.flows().len()), (0, 0));
    assert_eq!(k.held_by(client.ip()), 0);
}

/// A line of one side; the kinds of its records.
fn control(k: &mut Kernel, d: &mut Dialogue, side: u8, text: &str) -> Vec<u8> {
    let packet = d.segment(side, text.as_bytes());
    run(k, side == CLIENT, &packet)
}

/// Runs the program on a packet that arrives or leaves; the kinds of the records that it has written.
fn run(k: &mut Kernel, arrives: bool, packet: &Packet) -> Vec<u8> {
    // `struct __sk_buff` (linux/bpf.h) up to `ingress_ifindex`.
    let mut words = [0u32; 10];
    words[9] = if arrives { LOOPBACK } else { LOOPBACK + 1 };
    let context: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
    let (verdict, _) = k.plane_of().run_repeatedly(PROGRAM, &packet.frame(), &context, 1).expect("a test run");
    assert_eq!(verdict, PASS);
    k.records().iter().map(|r| r[0]).collect()
}
