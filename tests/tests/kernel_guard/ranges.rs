//! Which SYNs need a pinhole: guarded ranges, networks and initiators, and the policy of the moment.

use std::{collections::BTreeMap, net::IpAddr};

use ftp_helper::{
    dataplane::{Direction, Guard},
    engine::{Record, policy::Mode},
};
use ftp_helper_common::{
    canon::bit,
    key::{HOOK_IN, HOOK_OUT},
    reason::Reason,
    tcp,
};
use ftp_helper_tests::{
    dialogue::{Dialogue, PORT},
    packet::Packet,
    testrun::{Verdict, at, guards, hosts, parse, policy, shared},
};

use super::{DENIED, PASSED, SOURCE, armed, check, syn};

#[test]
fn a_syn_into_a_guarded_range_needs_a_pinhole() {
    let Some(mut k) = shared() else { return };
    for v6 in [false, true] {
        for hook in [HOOK_IN, HOOK_OUT] {
            for port in [1024, 3388, 3390, 8079, 8091, 65535] {
                check(&mut k, hook, &syn(v6, port), Verdict::Drop, DENIED, "guarded");
                assert_eq!(k.denied_ports(), BTreeMap::from([(port, [1, 0])]));
                let records = k.records();
                let Record::Denied(told) = parse(&records[0]) else { panic!("{records:?}") };
                assert_eq!((told.reason, told.dropped, told.hook), (Reason::NoPinhole as u16, 1, hook));
                assert_eq!((told.key.responder_port, told.key.initiator_port), (port, SOURCE));
            }
            for port in [21, 22, 80, 1023, 3389, 8080, 8085, 8090] {
                check(&mut k, hook, &syn(v6, port), Verdict::Pass, &[], "not guarded");
            }
            // Another network.
            let other: IpAddr = if v6 { "2001:db8:77::1".parse().unwrap() } else { "192.0.2.77".parse().unwrap() };
            let packet = Packet { to: at(other, PORT), ..syn(v6, PORT) };
            check(&mut k, hook, &packet, Verdict::Pass, &[], "another network");
        }
    }
    assert!(k.denied_ports().is_empty());
}

#[test]
fn a_guard_looks_one_way_and_at_its_initiators() {
    let Some(mut k) = shared() else { return };
    let only = |direction, initiators: &str| {
        vec![Guard { direction, initiators: vec![initiators.parse().unwrap()], ..guards()[0].clone() }]
    };
    let packet = syn(false, PORT);
    for (guards, inward, outward) in [
        (only(Direction::In, "0.0.0.0/0"), Verdict::Drop, Verdict::Pass),
        (only(Direction::Out, "0.0.0.0/0"), Verdict::Pass, Verdict::Drop),
        (only(Direction::In, "198.18.0.0/15"), Verdict::Drop, Verdict::Pass),
        (only(Direction::In, "203.0.113.0/24"), Verdict::Pass, Verdict::Pass),
        (only(Direction::Out, "192.0.2.0/24"), Verdict::Pass, Verdict::Pass),
        (vec![], Verdict::Pass, Verdict::Pass),
    ] {
        k.set(&policy(), &guards);
        for (hook, verdict) in [(HOOK_IN, inward), (HOOK_OUT, outward)] {
            let moved = if verdict == Verdict::Drop { DENIED } else { &[] };
            check(&mut k, hook, &packet, verdict, moved, &format!("{guards:?}"));
        }
    }
    // Two guards for one network, with other ports and initiators: either is enough.
    let net = |s: &str| vec![s.parse().unwrap()];
    let low = Guard { ports: 1024..=2000, initiators: net("198.18.0.0/15"), ..guards()[0].clone() };
    let high = Guard { ports: 60000..=60001, initiators: net("192.0.2.0/24"), ..guards()[0].clone() };
    k.set(&policy(), &[low, high]);
    for (port, from, verdict) in [
        (1500, "198.18.0.9", Verdict::Drop),
        (1500, "192.0.2.9", Verdict::Pass),
        (60000, "192.0.2.9", Verdict::Drop),
        (60000, "198.18.0.9", Verdict::Pass),
        (30000, "198.18.0.9", Verdict::Pass),
    ] {
        let packet = Packet { from: at(from.parse().unwrap(), SOURCE), ..syn(false, port) };
        let moved = if verdict == Verdict::Drop { DENIED } else { &[] };
        check(&mut k, HOOK_IN, &packet, verdict, moved, &format!("{from} to {port}"));
    }
}

#[test]
fn few_networks_and_many_are_judged_alike() {
    let Some(mut k) = shared() else { return };
    // One inside another, each with a guard of its own; and beside them more than are compared one by one.
    let guard = |networks: &[&str], ports| Guard {
        networks: networks.iter().map(|n| n.parse().unwrap()).collect(),
        ports,
        ..guards()[0].clone()
    };
    let nested = [
        guard(&["203.0.113.0/24", "2001:db8:5::/48"], 1024..=1999),
        guard(&["203.0.113.128/25", "2001:db8:5:8000::/49"], 2000..=2999),
        guard(&["203.0.113.200/32", "2001:db8:5:9::1/128"], 3000..=3999),
    ];
    let others: Vec<String> = (0..12).map(|i| format!("192.0.2.{}/32", i * 2)).collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    for many in [false, true] {
        let mut all = nested.to_vec();
        if many {
            all.push(guard(&others, 1024..=65535));
        }
        k.set(&policy(), &all);
        for (to, ports) in [
            ("203.0.113.7", &[1024][..]),
            ("203.0.113.130", &[1024, 2000]),
            ("203.0.113.200", &[1999, 2999, 3999]),
            ("203.0.114.7", &[]),
            ("2001:db8:5:1::1", &[1024]),
            ("2001:db8:5:8000::1", &[1024, 2000]),
            ("2001:db8:5:9::1", &[1024, 3000]),
            ("2001:db8:6::1", &[]),
            ("::203.0.113.7", &[]),
        ] {
            let to: IpAddr = to.parse().unwrap();
            for port in [1024, 1999, 2000, 2999, 3000, 3999, 4000] {
                let from = hosts(to.is_ipv6()).0;
                let denied = ports.iter().any(|p| p / 1000 == port / 1000);
                let (verdict, moved) = if denied { (Verdict::Drop, DENIED) } else { (Verdict::Pass, &[][..]) };
                let packet = Packet::syn(at(from, SOURCE), at(to, port), 7);
                check(&mut k, HOOK_IN, &packet, verdict, moved, &format!("{to} port {port}, many: {many}"));
            }
        }
        let verdict = if many { Verdict::Drop } else { Verdict::Pass };
        let packet = Packet::syn(at(hosts(false).0, SOURCE), at("192.0.2.4".parse().unwrap(), 5000), 7);
        assert_eq!(k.send(HOOK_IN, &packet), verdict, "one of the many");
        k.counted();
    }
}

#[test]
fn a_first_segment_that_is_no_syn_is_left_to_the_host() {
    let Some(mut k) = shared() else { return };
    for v6 in [false, true] {
        let plain = syn(v6, PORT);
        for flags in [
            tcp::ACK,
            0,
            tcp::FIN,
            tcp::RST,
            tcp::FIN | tcp::ACK,
            tcp::RST | tcp::ACK,
            tcp::SYN | tcp::ACK,
            tcp::SYN | tcp::ACK | tcp::FIN,
            tcp::FIN | tcp::URG | 0x08,
        ] {
            for hook in [HOOK_IN, HOOK_OUT] {
                let packet = Packet { flags, ..plain.clone() };
                check(&mut k, hook, &packet, Verdict::Pass, &[], "no SYN");
                check(&mut k, hook, &packet.with("payload"), Verdict::Pass, &[], "no SYN, with data");
            }
        }
    }
    assert!(k.pinholes().is_empty() && k.flows().is_empty() && k.sessions().is_empty());
}

#[test]
fn observe_lets_everything_pass_and_counts_it() {
    let Some(mut k) = shared() else { return };
    k.policy(|p| p.mode = Mode::Observe);
    for v6 in [false, true] {
        let would = [("no_pinhole", 1), ("syn_would_deny", 1)];
        check(&mut k, HOOK_IN, &syn(v6, PORT), Verdict::Pass, &would, "observed");
        let records = k.records();
        let Record::Denied(told) = parse(&records[0]) else { panic!("{records:?}") };
        assert_eq!(told.dropped, 0);
        check(&mut k, HOOK_OUT, &syn(v6, PORT), Verdict::Pass, &would, "observed");
        let odd = Packet { flags: tcp::SYN | tcp::FIN, ..syn(v6, PORT) };
        check(&mut k, HOOK_IN, &odd, Verdict::Pass, &[("syn_flags", 1), ("syn_would_deny", 1)], "odd");
        assert_eq!(k.denied_ports(), BTreeMap::from([(PORT, [0, 3])]));
        let (_, key, data) = armed(&mut k, HOOK_IN, v6, true);
        check(&mut k, key.hook, &data.syn(), Verdict::Pass, PASSED, "through its pinhole");
        k.clear();
    }
    let fragment = Packet { fragment: Some((8, true)), ..syn(false, PORT) };
    check(&mut k, HOOK_IN, &fragment, Verdict::Pass, &[("fragment", 1)], "fragment");
    assert!(k.denied_ports().is_empty());
}

#[test]
fn a_new_policy_is_in_force_with_the_next_packet() {
    let Some(mut k) = shared() else { return };
    let packet = syn(false, PORT);
    for _ in 0..3 {
        k.set(&policy(), &guards());
        check(&mut k, HOOK_IN, &packet, Verdict::Drop, DENIED, "guarded");
        k.set(&policy(), &[]);
        check(&mut k, HOOK_IN, &packet, Verdict::Pass, &[], "no guards");
        let other = Guard { ports: 1..=1023, ..guards()[0].clone() };
        k.set(&policy(), &[other]);
        check(&mut k, HOOK_IN, &packet, Verdict::Pass, &[], "other ports");
        k.policy(|p| p.mode = Mode::Observe);
        let would = [("no_pinhole", 1), ("syn_would_deny", 1)];
        check(&mut k, HOOK_IN, &packet, Verdict::Pass, &would, "observe");
    }
    // A deny-list too.
    let mut d = Dialogue::ready(&mut k, HOOK_IN, false);
    k.policy(|p| p.deny_ports = [PORT].into());
    d.client(&mut k, "PASV");
    let reply = d.reply_227(PORT);
    assert!(!d.server(&mut k, &reply).has(bit::OPEN));
    assert!(k.pinholes().is_empty());
    let mut d = Dialogue::ready(&mut k, HOOK_IN, false);
    k.policy(|p| p.deny_ports.clear());
    d.open_passive(&mut k, PORT);
}

#[test]
fn what_came_in_by_an_outside_interface_was_judged_there() {
    let Some(mut k) = shared() else { return };
    let ifindex = 4242;
    let packet = syn(false, PORT);
    k.ingress_ifindex = ifindex;
    check(&mut k, HOOK_OUT, &packet, Verdict::Drop, DENIED, "forwarded from inside");
    k.outside(ifindex);
    check(&mut k, HOOK_OUT, &packet, Verdict::Pass, &[], "forwarded from outside to outside");
    let fragment = Packet { fragment: Some((8, false)), ..packet.clone() };
    check(&mut k, HOOK_OUT, &fragment, Verdict::Pass, &[], "a fragment of such");
    check(&mut k, HOOK_IN, &packet, Verdict::Drop, DENIED, "arriving");
}
