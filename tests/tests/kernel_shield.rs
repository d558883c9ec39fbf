//! The shield in XDP, by test runs: it drops what the guard at TC ingress would deny, all of it and nothing else, counts and
//! tells it once, and changes nothing.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use ftp_helper::engine::{
    Record,
    policy::{Mode, Opaque, Policy, Server, SourcePort},
};
use ftp_helper_common::{
    command::{Outcome, op},
    key::{CLIENT, HOOK_IN, HOOK_OUT},
    reason::Reason,
    state::flag,
    tcp,
};
use ftp_helper_tests::{
    dialogue::{Data, Dialogue, PORT},
    packet::{Extension, Packet, QINQ, VLAN},
    sim::rng::{self, Rng},
    testrun::{Kernel, Verdict, at, bare_hosts, guards, hosts, parse, policy, shared, wait_until},
};

const SOURCE: u16 = 45678;
const SHIELDED: &[(&str, u64)] = &[("no_pinhole", 1), ("syn_denied", 1), ("syn_shielded", 1)];

fn syn(v6: bool, port: u16) -> Packet {
    let (client, server) = hosts(v6);
    Packet::syn(at(client, SOURCE), at(server, port), 7).with_options()
}

#[test]
fn what_nobody_negotiated_is_dropped_and_told_once() {
    let Some(mut k) = shared() else { return };
    for v6 in [false, true] {
        for tags in [vec![], vec![VLAN], vec![QINQ, VLAN]] {
            let packet = Packet { tags: tags.clone(), ..syn(v6, PORT) };
            assert_eq!(k.shield(&packet), Verdict::Drop, "{packet:?}");
            k.expect("dropped in XDP", SHIELDED);
            assert_eq!(k.denied_ports(), BTreeMap::from([(PORT, [1, 0])]));
            let records = k.records();
            assert_eq!(records.len(), 1);
            let Record::Denied(told) = parse(&records[0]) else { panic!("{records:?}") };
            assert_eq!((told.reason, told.dropped, told.hook), (Reason::NoPinhole as u16, 1, HOOK_IN));
            assert_eq!((told.key.responder_port, told.key.initiator_port), (PORT, SOURCE));
        }
        // As large as a frame of several buffers.
        let large = Packet { payload: vec![0; 8000], ..syn(v6, PORT) };
        assert_eq!(k.shield(&large), Verdict::Drop);
        k.expect("of several buffers", SHIELDED);
        let _ = (k.denied_ports(), k.records());
        // More tags than two are left to TC, and so is what is no first SYN, or of a control port.
        let base = syn(v6, PORT);
        let control = |p: SocketAddr| SocketAddr::new(p.ip(), 21);
        for packet in [
            Packet { tags: vec![QINQ, QINQ, VLAN], ..base.clone() },
            Packet { flags: tcp::ACK, ..base.clone() },
            Packet { flags: tcp::SYN | tcp::ACK, ..base.clone() },
            Packet { flags: tcp::RST, ..base.clone() },
            Packet { flags: tcp::FIN, ..base.clone() },
            Packet { flags: 0, ..base.clone() },
            Packet { protocol: 17, ..base.clone() },
            Packet { to: control(base.to), ..base.clone() },
            Packet { from: control(base.from), ..base.clone() },
            Packet { data_offset: Some(4), ..base.clone() },
            Packet { truncate: Some(if v6 { 70 } else { 50 }), ..base.clone() },
        ] {
            assert_eq!(k.shield(&packet), Verdict::Pass, "{packet:?}");
            k.expect("it is TC's", &[]);
        }
    }
}

#[test]
fn the_other_modes_drop_nothing_here() {
    let Some(mut k) = shared() else { return };
    for mode in [Mode::Observe, Mode::Mark] {
        k.set(&Policy { mode, ..policy() }, &guards()[..1]);
        for v6 in [false, true] {
            assert_eq!(k.shield(&syn(v6, PORT)), Verdict::Pass);
            k.expect("nothing is told either", &[]);
            assert_eq!(k.records().len(), 0);
        }
    }
    // Guards on what leaves are no business of what arrives.
    k.set(&policy(), &guards()[1..]);
    assert_eq!(k.shield(&syn(false, PORT)), Verdict::Pass);
    k.expect("no guard this way", &[]);
}

#[test]
fn it_only_looks() {
    let Some(mut k) = shared() else { return };
    for v6 in [false, true] {
        let mut d = Dialogue::ready(&mut k, HOOK_IN, v6);
        let key = d.open_passive(&mut k, PORT);
        let data = Data::through(&key, SOURCE);
        k.restart_counting();
        for source in [SOURCE, SOURCE + 1] {
            assert_eq!(k.shield(&Data::through(&key, source).syn()), Verdict::Pass);
        }
        k.expect("a pinhole that is not bound lets any port of the client through", &[]);
        assert_eq!(k.pinhole().1.bound, 0);
        assert_eq!(k.send(HOOK_IN, &data.syn()), Verdict::Pass);
        k.expect("bound at TC ingress", &[("syn_passed", 1)]);
        assert_eq!(k.shield(&data.syn()), Verdict::Pass);
        assert_eq!(k.shield(&Data::through(&key, SOURCE + 1).syn()), Verdict::Drop);
        k.expect("bound to another port", &[("other_source_port", 1), ("syn_denied", 1), ("syn_shielded", 1)]);
        assert_eq!(k.shield(&Packet { from: at(hosts(v6).0, SOURCE), ..data.syn() }), Verdict::Drop);
        k.expect("another host", SHIELDED);
        data.connect(&mut k);
        k.counted();
        assert_eq!(k.shield(&data.syn()), Verdict::Pass, "the SYN comes again behind its answer");
        assert_eq!(k.shield(&Packet { seq: 99, ..data.syn() }), Verdict::Drop, "another one");
        k.clear();
    }
}

/// An interface without a link-layer header: the version tells what it is, and the length that it was read aright.
#[test]
fn packets_without_a_link_layer_header() {
    let Some(mut k) = shared() else { return };
    k.bare = true;
    for v6 in [false, true] {
        let (client, server) = bare_hosts(v6);
        let packet = Packet::syn(at(client, SOURCE), at(server, PORT), 7).with_options();
        assert_eq!(k.shield(&packet), Verdict::Drop);
        k.expect("as with one", SHIELDED);
        for foreign in [Packet { padding: 4, ..packet.clone() }, Packet { truncate: Some(19), ..packet.clone() }] {
            assert_eq!(k.shield(&foreign), Verdict::Pass, "{foreign:?}");
            k.expect("not read aright", &[]);
        }
    }
}

/// Hosts in every state, for packets of all kinds between them.
fn world(k: &mut Kernel) -> Vec<(SocketAddr, SocketAddr, u32)> {
    let mut ends = Vec::new();
    for v6 in [false, true] {
        // A pinhole that waits, one that is bound, one that is used, one from inside out for an active connection.
        for state in 0..3 {
            let mut d = Dialogue::ready(k, HOOK_IN, v6);
            let data = Data::through(&d.open_passive(k, PORT), SOURCE);
            match state {
                1 => drop(k.send(HOOK_IN, &data.syn())),
                2 => data.connect(k),
                _ => {}
            }
            ends.push((data.from, data.to, data.syn().seq));
        }
        let mut d = Dialogue::ready(k, HOOK_OUT, v6);
        let data = Data::through(&d.open_active(k, PORT), SOURCE);
        ends.push((data.from, data.to, data.syn().seq));
        // An encrypted session with a range; one whose dialogue the kernel can't follow at the moment.
        let mut d = Dialogue::new(HOOK_IN, v6);
        d.connect(k);
        assert_eq!(d.command(k, op::STANDING, |c| c.flags = flag::OPAQUE | flag::RANGE), Outcome::Done);
        ends.push((at(d.client.ip(), SOURCE), at(d.server.ip(), PORT), 7));
        let mut d = Dialogue::ready(k, HOOK_IN, v6);
        d.say(k, CLIENT, b"EP");
        ends.push((at(d.client.ip(), SOURCE), at(d.server.ip(), PORT), 7));
        let (client, server) = hosts(v6);
        ends.push((at(client, SOURCE), at(server, PORT), 7));
    }
    ends
}

fn any(rng: &mut Rng, ends: &[(SocketAddr, SocketAddr, u32)]) -> Packet {
    let (from, to, seq) = rng.pick(ends);
    let mut packet = Packet::syn(from, to, seq).with_options();
    if rng.chance(500) {
        let stranger = hosts(from.is_ipv6()).0;
        let port =
            rng.pick(&[PORT, PORT + 1, 40_000, 40_005, 40_010, 40_011, 1023, 1024, 3306, 3389, 8085, 65_535, 21, 80]);
        let source = rng.pick(&[SOURCE, SOURCE + 1, 20, 21, 1]);
        packet.to.set_port(if rng.chance(330) { rng.word() as u16 } else { port });
        packet.from = SocketAddr::new(if rng.chance(330) { stranger } else { from.ip() }, source);
    }
    if rng.chance(250) {
        packet.seq = rng.word();
    }
    packet.flags = rng.pick(&[tcp::SYN; 8]);
    if rng.chance(250) {
        packet.flags = rng.pick(&[
            tcp::SYN | tcp::FIN,
            tcp::SYN | tcp::RST,
            tcp::SYN | 0xc0,
            tcp::SYN | tcp::ACK,
            tcp::ACK,
            tcp::FIN,
            tcp::RST,
            0xff,
            0,
        ]);
    }
    if rng.chance(160) {
        packet.tags = if rng.chance(500) { vec![VLAN] } else { vec![QINQ, VLAN] };
    }
    if rng.chance(160) {
        packet.payload = vec![0; rng.below(1200)];
    }
    if rng.chance(120) {
        packet.padding = rng.below(20);
    }
    if packet.from.is_ipv6() {
        if rng.chance(200) {
            packet.extensions = vec![rng.pick(&[
                Extension::HopByHop(1),
                Extension::Routing(0),
                Extension::Destination(2),
                Extension::Authentication,
                Extension::Fragment(0, false),
                Extension::Fragment(0, true),
                Extension::Fragment(8, true),
            ])];
        }
    } else if rng.chance(160) {
        packet.ip_options = 8;
    } else if rng.chance(120) {
        packet.fragment = Some((rng.pick(&[0, 0, 3]), true));
    }
    packet
}

/// The shield first, then TC ingress, on the same packet: the one drops exactly what the other alone would deny, for the same
/// reason, and what would only be kept for a moment passes.
#[test]
fn it_drops_what_tc_alone_would_deny_and_nothing_else() {
    let Some(mut k) = shared() else { return };
    let seed = rng::seed();
    let mut rng = Rng::new(seed);
    let ranged = Server {
        networks: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
        passive_ports: Some(40_000..=PORT),
        opaque: Opaque::Range,
    };
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    for (mode, source, servers) in [
        (Mode::Drop, SourcePort::Any, vec![]),
        (Mode::Drop, SourcePort::Twenty, vec![ranged]),
        (Mode::Observe, SourcePort::Any, vec![]),
    ] {
        k.set(&Policy { mode, active_source_port: source, servers, ..policy() }, &guards());
        let ends = world(&mut k);
        for n in 0..500 {
            let packet = any(&mut rng, &ends);
            k.restart_counting();
            let early = k.shield(&packet);
            let by_shield = k.counted();
            let late = k.send(HOOK_IN, &packet);
            let by_tc = k.counted();
            let denied = by_tc.contains_key("syn_denied");
            // The same counters, and this one on top.
            let mut expected = if denied { by_tc.clone() } else { BTreeMap::new() };
            if denied {
                expected.insert("syn_shielded", 1);
            }
            let same = (early == Verdict::Drop) == denied && by_shield == expected;
            assert!(
                same,
                "seed {seed}, {mode:?}, packet {n}: XDP said {early:?}, TC {late:?}: {packet:?}\n{by_shield:?} {by_tc:?}\n{}",
                k.dump()
            );
            for name in by_tc.into_keys() {
                *seen.entry(name).or_default() += 1;
            }
        }
        k.clear();
    }
    for name in ["syn_denied", "syn_passed", "syn_parked", "syn_in_range", "syn_flags", "fragment", "other_source_port"]
    {
        assert!(seen.contains_key(name), "no packet was {name}: {seen:?}");
    }
}

#[test]
fn a_pinhole_whose_time_is_over_lets_nobody_through() {
    let Some(mut k) = shared() else { return };
    k.policy(|p| p.pinhole_timeout = Duration::from_millis(1));
    let mut d = Dialogue::ready(&mut k, HOOK_IN, false);
    let key = d.open_passive(&mut k, PORT);
    wait_until(k.pinhole().1.deadline);
    k.restart_counting();
    assert_eq!(k.shield(&Data::through(&key, SOURCE).syn()), Verdict::Drop);
    k.expect("too late", &[("expired", 1), ("syn_denied", 1), ("syn_shielded", 1)]);
}
