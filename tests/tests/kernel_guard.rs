//! First SYNs into guarded networks, and the pinholes they pass by. Every step is compared with all counters: those
//! that must not move included.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use ftp_helper::{
    dataplane::{Direction, Guard},
    engine::{
        Record,
        policy::{Mark, Mode, Policy, SourcePort},
    },
};
use ftp_helper_common::{
    canon::bit,
    command::{Command, Outcome, op},
    key::{CLIENT, HOOK_IN, HOOK_OUT, PinholeKey, SERVER},
    reason::Reason,
    state::{ADDED_ID, flag, pending, pinhole_flag},
    tcp,
};
use ftp_helper_tests::{
    dialogue::{Data, Dialogue, PORT, every_kind},
    packet::{Extension, Packet, QINQ, VLAN},
    testrun::{Kernel, Verdict, at, guards, hosts, monotonic, other, parse, policy, shared, wait_until},
};

/// Source port of the data connections.
const SOURCE: u16 = 45678;
const DENIED: &[(&str, u64)] = &[("no_pinhole", 1), ("syn_denied", 1)];
const PASSED: &[(&str, u64)] = &[("syn_passed", 1)];

/// A session with an open pinhole, and the connection that it is for.
#[track_caller]
fn armed(k: &mut Kernel, hook: u8, v6: bool, passive: bool) -> (Dialogue, PinholeKey, Data) {
    let mut d = Dialogue::ready(k, hook, v6);
    let key = if passive { d.open_passive(k, PORT) } else { d.open_active(k, PORT) };
    k.restart_counting();
    let _ = k.records();
    (d, key, Data::through(&key, SOURCE))
}

/// Sends a packet and compares verdict and counters.
#[track_caller]
fn check(k: &mut Kernel, hook: u8, packet: &Packet, verdict: Verdict, moved: &[(&'static str, u64)], what: &str) {
    assert_eq!(k.send(hook, packet), verdict, "{what}: {packet:?}\n{}", k.dump());
    k.expect(what, moved);
}

fn syn(v6: bool, port: u16) -> Packet {
    let (client, server) = hosts(v6);
    Packet::syn(at(client, SOURCE), at(server, port), 7).with_options()
}

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
fn a_data_connection_is_accounted_for_where_no_guard_asks_for_it() {
    let Some(mut k) = shared() else { return };
    for (hook, v6) in every_kind() {
        for passive in [true, false] {
            k.set(&policy(), &[]);
            let (_, key, data) = armed(&mut k, hook, v6, passive);
            let k = &mut *k;
            let stranger = Packet { from: at(hosts(v6).0, SOURCE), ..data.syn() };
            check(k, key.hook, &stranger, Verdict::Pass, &[], "nobody is denied");
            check(k, key.hook, &data.syn(), Verdict::Pass, PASSED, "the SYN binds");
            check(
                k,
                other(key.hook),
                &data.syn_ack(),
                Verdict::Pass,
                &[("records", 1), ("used", 1)],
                "and is answered",
            );
            assert_eq!((k.pinholes().len(), k.flows().len()), (0, 1));
            k.clear();
        }
    }
}

#[test]
fn a_pinhole_serves_one_connection() {
    let Some(mut k) = shared() else { return };
    for (hook, v6) in every_kind() {
        for passive in [true, false] {
            let (_, key, data) = armed(&mut k, hook, v6, passive);
            let what = format!("hook {hook} v6 {v6} passive {passive}");
            let k = &mut *k;
            // Whoever it is not for.
            let stranger = Packet { from: at(hosts(v6).0, SOURCE), ..data.syn() };
            check(k, key.hook, &stranger, Verdict::Drop, DENIED, "another initiator");
            let beside = Packet { to: at(data.to.ip(), PORT + 1), ..data.syn() };
            check(k, key.hook, &beside, Verdict::Drop, DENIED, "another port");
            check(k, other(key.hook), &data.syn(), Verdict::Drop, DENIED, "the other hook");
            let reversed = Packet::syn(at(data.to.ip(), SOURCE), at(data.from.ip(), PORT), 1);
            check(k, other(key.hook), &reversed, Verdict::Drop, DENIED, "the other direction");
            assert_eq!(k.pinhole().1.source_port(), 0);
            // Whom it is for.
            check(k, key.hook, &data.syn(), Verdict::Pass, PASSED, &what);
            let (held, state) = k.pinhole();
            assert_eq!((held, state.source_port(), state.isn()), (key, SOURCE, data.isn[0]));
            check(k, key.hook, &data.syn(), Verdict::Pass, PASSED, "the same SYN again");
            let second = Packet { from: at(data.from.ip(), SOURCE + 1), ..data.syn() };
            let bound = [("other_source_port", 1), ("syn_denied", 1)];
            check(k, key.hook, &second, Verdict::Drop, &bound, "another source port");
            // The answer consumes it.
            let wrong = Packet { ack: 1, ..data.syn_ack() };
            check(k, other(key.hook), &wrong, Verdict::Pass, &[], "an answer to another SYN");
            assert_eq!(k.pinhole().0, key);
            let used = [("records", 1), ("used", 1)];
            check(k, other(key.hook), &data.syn_ack(), Verdict::Pass, &used, "the answer");
            assert!(k.pinholes().is_empty());
            assert_eq!(k.flows().len(), 1);
            check(k, other(key.hook), &data.syn_ack(), Verdict::Pass, &[], "the answer again");
            check(k, key.hook, &data.syn(), Verdict::Pass, PASSED, "the SYN again, after the answer");
            check(k, key.hook, &second, Verdict::Drop, DENIED, "one more connection");
            let anew = Packet { seq: data.isn[0].wrapping_add(77_777), ..data.syn() };
            check(k, key.hook, &anew, Verdict::Drop, DENIED, "the same ports again");
            let client = if passive { data.from.ip() } else { data.to.ip() };
            assert_eq!(k.held_by(client), 0, "the quota is given back");
            k.clear();
        }
    }
}

#[test]
fn the_programs_without_a_link_layer_header_judge_alike() {
    let Some(mut k) = shared() else { return };
    k.bare = true;
    for (hook, v6) in every_kind() {
        let mut d = Dialogue::bare(hook, v6);
        d.connect(&mut k);
        d.login(&mut k);
        let key = d.open_passive(&mut k, PORT);
        let data = Data::through(&key, SOURCE);
        k.restart_counting();
        let beside = Packet { to: at(data.to.ip(), PORT + 1), ..data.syn() };
        check(&mut k, hook, &beside, Verdict::Drop, DENIED, "another port");
        check(&mut k, hook, &data.syn(), Verdict::Pass, PASSED, "bare");
        check(&mut k, other(hook), &data.syn_ack(), Verdict::Pass, &[("records", 1), ("used", 1)], "its answer");
        let long = if v6 {
            Packet { extensions: vec![Extension::Destination(2)], ..beside.clone() }
        } else {
            Packet { ip_options: 12, ..beside.clone() }
        };
        check(&mut k, hook, &long, Verdict::Drop, DENIED, "headers that have to be followed");
        k.clear();
    }
}

#[test]
fn an_expired_pinhole_lets_nothing_through() {
    let Some(mut k) = shared() else { return };
    k.policy(|p| p.pinhole_timeout = Duration::from_millis(30));
    for bound in [false, true] {
        let (_, key, data) = armed(&mut k, HOOK_IN, false, true);
        let deadline = k.pinhole().1.deadline;
        if bound && k.send(key.hook, &data.syn()) == Verdict::Drop {
            // A machine so slow that the time was over already: the other round shows it.
            k.clear();
            continue;
        }
        k.restart_counting();
        wait_until(deadline);
        let late = [("expired", 1), ("syn_denied", 1)];
        check(&mut k, key.hook, &data.syn(), Verdict::Drop, &late, "too late");
        k.clear();
    }
}

#[test]
fn a_syn_with_fin_or_rst_is_denied_even_through_a_pinhole() {
    let Some(mut k) = shared() else { return };
    for v6 in [false, true] {
        let (_, key, data) = armed(&mut k, HOOK_IN, v6, true);
        for flags in [tcp::FIN, tcp::RST, tcp::FIN | tcp::RST, tcp::FIN | tcp::URG] {
            let packet = Packet { flags: tcp::SYN | flags, ..data.syn() };
            let odd = [("syn_denied", 1), ("syn_flags", 1)];
            check(&mut k, key.hook, &packet, Verdict::Drop, &odd, "SYN and more");
        }
        assert_eq!(k.pinhole().1.source_port(), 0);
        // A SYN with whatever else is set (ECN, PSH, URG) is a SYN.
        let packet = Packet { flags: tcp::SYN | 0xc0 | 0x08 | tcp::URG, ..data.syn() };
        check(&mut k, key.hook, &packet, Verdict::Pass, PASSED, "SYN with ECN");
        k.clear();
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
fn a_reset_arms_a_pinhole_once_more() {
    let Some(mut k) = shared() else { return };
    for (hook, v6) in every_kind() {
        // The responder refuses the bare SYN.
        let (_, key, data) = armed(&mut k, hook, v6, true);
        let again = Data { from: at(data.from.ip(), SOURCE + 1), ..data };
        check(&mut k, key.hook, &data.syn(), Verdict::Pass, PASSED, "bound");
        let refuse = |d: &Data| Packet { seq: 0, ..d.back(tcp::RST | tcp::ACK, 0, b"") };
        let stray = Packet { ack: 5, ..refuse(&data) };
        check(&mut k, other(key.hook), &stray, Verdict::Pass, &[], "a reset of something else");
        check(&mut k, other(key.hook), &refuse(&data), Verdict::Pass, &[("rearmed", 1)], "refused");
        assert_eq!(k.pinhole().1.source_port(), 0);
        check(&mut k, key.hook, &again.syn(), Verdict::Pass, PASSED, "from another port");
        check(&mut k, other(key.hook), &refuse(&again), Verdict::Pass, &[], "refused again");
        let bound = [("other_source_port", 1), ("syn_denied", 1)];
        check(&mut k, key.hook, &data.syn(), Verdict::Drop, &bound, "not once more");
        k.clear();

        // The initiator resets an answer that it did not ask for.
        let (_, key, data) = armed(&mut k, hook, v6, true);
        data.connect(&mut k);
        k.restart_counting();
        let reset = Packet { ack: 0, ..data.forth(tcp::RST, 1, b"") };
        let rearmed = [("rearmed", 1), ("records", 1)];
        check(&mut k, key.hook, &reset, Verdict::Pass, &rearmed, "reset before anything was sent");
        assert!(k.flows().is_empty());
        let (held, state) = k.pinhole();
        assert_eq!((held, state.source_port()), (key, 0));
        assert_eq!(state.flags & pinhole_flag::REARMED, pinhole_flag::REARMED);
        assert_eq!(k.held_by(data.from.ip()), 1);
        let again = Data { from: at(data.from.ip(), SOURCE + 1), ..data };
        again.connect(&mut k);
        k.restart_counting();
        let reset = Packet { from: again.from, ..reset };
        let ended = [("flows_ended", 1), ("records", 1)];
        check(&mut k, key.hook, &reset, Verdict::Pass, &ended, "reset once more");
        assert!(k.flows().is_empty() && k.pinholes().is_empty());
        assert_eq!(k.held_by(data.from.ip()), 0);
        k.clear();
    }
}

/// Rule 5: what a session's end, or its client, has taken back does not return by a reset either.
#[test]
fn a_reset_gives_nothing_back_to_a_session_that_has_given_it_up() {
    let Some(mut k) = shared() else { return };
    let fin = |side, flags| {
        move |k: &mut Kernel, d: &mut Dialogue| {
            let end = Packet { flags: tcp::ACK | flags, ..d.segment(side, b"") };
            assert_eq!(k.send(d.hook ^ side, &end), Verdict::Pass);
        }
    };
    let say = |line: &'static str| {
        move |k: &mut Kernel, d: &mut Dialogue| {
            let _ = d.client(k, line);
        }
    };
    let bar = |bits| {
        move |k: &mut Kernel, d: &mut Dialogue| {
            assert_eq!(d.command(k, op::STANDING, |c| c.flags = bits), Outcome::Done);
        }
    };
    type End<'a> = (&'a str, Box<dyn Fn(&mut Kernel, &mut Dialogue)>);
    let ends: [End<'_>; 13] = [
        ("FIN of the client", Box::new(fin(CLIENT, tcp::FIN))),
        ("FIN of the server", Box::new(fin(SERVER, tcp::FIN))),
        ("RST of the client", Box::new(fin(CLIENT, tcp::RST))),
        ("RST of the server", Box::new(fin(SERVER, tcp::RST))),
        ("QUIT", Box::new(say("QUIT"))),
        ("ABOR", Box::new(say("ABOR"))),
        ("REIN", Box::new(say("REIN"))),
        ("USER", Box::new(say("USER you"))),
        ("tainted", Box::new(bar(flag::TAINTED))),
        ("opaque", Box::new(bar(flag::OPAQUE))),
        (
            "revoked",
            Box::new(|k, d| {
                // The pinhole is used up; its session names it no more.
                let seq = d.state(k).pinhole_seq;
                assert_eq!(d.command(k, op::REVOKE, |c| c.seq = seq), Outcome::NoPinhole);
            }),
        ),
        ("forgotten", Box::new(|k, d| assert_eq!(d.command(k, op::FORGET, |_| ()), Outcome::Done))),
        ("replaced", Box::new(|k, d| assert_ne!(d.open_passive(k, PORT + 1).port, PORT))),
    ];
    for (hook, v6) in every_kind() {
        for passive in [true, false] {
            for (what, end) in &ends {
                let (mut d, key, data) = armed(&mut k, hook, v6, passive);
                data.connect(&mut k);
                end(&mut k, &mut d);
                let left = k.pinholes().len();
                k.restart_counting();
                let reset = Packet { ack: 0, ..data.forth(tcp::RST, 1, b"") };
                let ended = [("flows_ended", 1), ("records", 1)];
                check(&mut k, key.hook, &reset, Verdict::Pass, &ended, what);
                assert!(k.flows().is_empty(), "{what}");
                assert_eq!((k.pinholes().len(), left), (left, usize::from(*what == "replaced")), "{what}");
                assert_eq!(k.held_by(d.client.ip()) as usize, left, "{what}");
                let again = Data { from: at(data.from.ip(), SOURCE + 1), ..data };
                check(&mut k, key.hook, &again.syn(), Verdict::Drop, DENIED, what);
                k.clear();
            }
        }
    }
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

/// Sends a SYN that bears a mark, and compares the mark that it goes on with.
#[track_caller]
fn marked(k: &mut Kernel, hook: u8, packet: &Packet, marks: (u32, u32), moved: &[(&'static str, u64)], what: &str) {
    k.mark = marks.0;
    check(k, hook, packet, Verdict::Pass, moved, what);
    assert_eq!(k.marked, marks.1, "{what}: {:#x} instead of {:#x}", k.marked, marks.1);
    k.mark = 0;
}

#[test]
fn mark_sets_the_bits_of_what_is_permitted_and_clears_them_of_what_is_not() {
    let Some(mut k) = shared() else { return };
    let mark = Mark { value: 0x0500_0000, mask: 0x0f00_0000 };
    let inward = guards()[..1].to_vec();
    let begin = |k: &mut Kernel| k.set(&Policy { mode: Mode::Mark, mark, ..policy() }, &inward);
    begin(&mut k);
    for v6 in [false, true] {
        let would = &[("no_pinhole", 1), ("syn_would_deny", 1)];
        // The other bits are the administrator's.
        for (before, after) in [(0, 0), (0x0500_0000, 0), (0xffff_ffff, 0xf0ff_ffff)] {
            marked(&mut k, HOOK_IN, &syn(v6, PORT), (before, after), would, "nobody negotiated it");
        }
        let records = k.records();
        let Record::Denied(told) = parse(&records[0]) else { panic!("{records:?}") };
        assert_eq!((told.dropped, told.reason), (0, Reason::NoPinhole as u16));
        assert_eq!(k.denied_ports(), BTreeMap::from([(PORT, [0, 3])]));
        let odd = Packet { flags: tcp::SYN | tcp::FIN, ..syn(v6, PORT) };
        let counted = &[("syn_flags", 1), ("syn_would_deny", 1)];
        marked(&mut k, HOOK_IN, &odd, (0x0500_0000, 0), counted, "SYN and FIN");
        // Where no guard is, nobody has the mark either.
        for port in [22, 80, 3389] {
            marked(&mut k, HOOK_IN, &syn(v6, port), (0x0500_0001, 1), &[], "not guarded");
        }
        let elsewhere: IpAddr = if v6 { "2001:db8:77::1".parse().unwrap() } else { "192.0.2.77".parse().unwrap() };
        let packet = Packet { to: at(elsewhere, PORT), ..syn(v6, PORT) };
        marked(&mut k, HOOK_IN, &packet, (0x0500_0000, 0), &[], "another network");
        // What leaves has passed the ruleset.
        marked(&mut k, HOOK_OUT, &syn(v6, PORT), (0x0500_0000, 0x0500_0000), &[], "leaving");
        for (hook, passive) in [(HOOK_IN, true), (HOOK_IN, false), (HOOK_OUT, true), (HOOK_OUT, false)] {
            let (_, key, data) = armed(&mut k, hook, v6, passive);
            let k = &mut *k;
            let (none, some) = if key.hook == HOOK_IN { (0, 0x0500_0000) } else { (0x0a00_0000, 0x0a00_0000) };
            let beside = Packet { to: at(data.to.ip(), PORT + 1), ..data.syn() };
            let counted = if key.hook == HOOK_IN { &would[..] } else { &[] };
            marked(k, key.hook, &beside, (0x0a00_0000, none), counted, "another port");
            marked(k, key.hook, &data.syn(), (0x0a00_0000, some), PASSED, "through its pinhole");
            marked(k, key.hook, &data.syn(), (0, some & 0x0500_0000), PASSED, "the same SYN again");
            let used = &[("records", 1), ("used", 1)];
            marked(k, other(key.hook), &data.syn_ack(), (0x0a00_0000, 0x0a00_0000), used, "the answer");
            if key.hook == HOOK_IN {
                marked(k, key.hook, &data.syn(), (0x0100_0000, some), PASSED, "once more, after the answer");
            }
            k.clear();
            begin(k);
        }
    }
    // What neither kernel nor daemon can read does not pass.
    let fragment = Packet { fragment: Some((8, true)), ..syn(false, PORT) };
    check(&mut k, HOOK_IN, &fragment, Verdict::Drop, &[("fragment", 1)], "fragment");
    let (d, _, _) = armed(&mut k, HOOK_IN, false, true);
    let spoofed = d.segment(CLIENT, b"NOOP\r\n");
    assert_eq!(k.send(HOOK_OUT, &spoofed), Verdict::Drop);
}

#[test]
fn headers_in_between_change_nothing() {
    let Some(mut k) = shared() else { return };
    let v4 = |p: &Packet| [4, 8, 40].map(|ip_options| Packet { ip_options, ..p.clone() }).to_vec();
    let chains = [
        vec![Extension::HopByHop(0)],
        vec![Extension::HopByHop(3), Extension::Routing(1), Extension::Destination(4)],
        vec![Extension::Authentication],
        vec![Extension::Fragment(0, false)],
        vec![Extension::Destination(0); 7],
    ];
    let v6 = |p: &Packet| chains.clone().map(|extensions| Packet { extensions, ..p.clone() }).to_vec();
    for family in [false, true] {
        let (_, key, data) = armed(&mut k, HOOK_IN, family, true);
        let plain = data.syn();
        let denied = Packet { to: at(data.to.ip(), PORT + 1), ..plain.clone() };
        let dressed = |p: &Packet| {
            let mut all = if family { v6(p) } else { v4(p) };
            for tags in [vec![VLAN], vec![QINQ], vec![QINQ, VLAN]] {
                all.push(Packet { tags: tags.clone(), ..p.clone() });
                let last = Packet { tags, ..all[0].clone() };
                all.push(last);
            }
            all.push(Packet { padding: 6, ..p.clone() });
            all.push(Packet { tcp_options: 0, ..p.clone() });
            all.push(Packet { tcp_options: 40, ..p.clone() });
            // TCP Fast Open towards a data port: the SYN decides.
            all.push(p.clone().with("early"));
            all
        };
        for p in dressed(&plain) {
            check(&mut k, key.hook, &p, Verdict::Pass, PASSED, "dressed, with a pinhole");
        }
        for p in dressed(&denied) {
            check(&mut k, key.hook, &p, Verdict::Drop, DENIED, "dressed, without");
        }
        k.clear();
    }
}

#[test]
fn fragments_and_broken_headers_do_not_reach_guarded_hosts() {
    let Some(mut k) = shared() else { return };
    let (_, key, data) = armed(&mut k, HOOK_IN, false, true);
    let p = data.syn();
    let fragment = &[("fragment", 1)][..];
    let broken = &[("unreadable_headers", 1)][..];
    let first = [("fragment", 1), ("syn_denied", 1)];
    for hook in [HOOK_IN, HOOK_OUT] {
        let v4 = Packet { fragment: Some((0, true)), ..p.clone() };
        check(&mut k, hook, &v4, Verdict::Drop, &first, "the first fragment of a SYN, pinhole or not");
        let later = Packet { fragment: Some((1, false)), ..p.clone() };
        check(&mut k, hook, &later, Verdict::Drop, fragment, "a later fragment");
        let tiny = Packet { fragment: Some((0, true)), truncate: Some(14 + 20 + 8), ..p.clone() };
        check(&mut k, hook, &tiny, Verdict::Drop, broken, "a first fragment without the flags");
        for data_offset in [0, 4] {
            let short = Packet { data_offset: Some(data_offset), ..p.clone() };
            check(&mut k, hook, &short, Verdict::Drop, broken, "a TCP header that is too short");
        }
        let outside = Packet { data_offset: Some(15), tcp_options: 0, ..p.clone() };
        check(&mut k, hook, &outside, Verdict::Drop, broken, "a TCP header that ends behind the packet");
        for protocol in [1, 17, 47, 50] {
            let odd = Packet { protocol, ..later.clone() };
            check(&mut k, hook, &odd, Verdict::Pass, &[], "a fragment of something else");
        }
        let away = Packet { to: "192.0.2.77:50069".parse().unwrap(), ..later };
        check(&mut k, hook, &away, Verdict::Pass, &[], "a fragment to somebody else");
    }
    assert_eq!((k.pinhole().0, k.pinhole().1.source_port()), (key, 0));
    k.clear();

    let (_, _, data) = armed(&mut k, HOOK_IN, true, true);
    let p = data.syn();
    let with = |extensions: Vec<Extension>| Packet { extensions, ..p.clone() };
    let options = Extension::Destination(0);
    for hook in [HOOK_IN, HOOK_OUT] {
        check(&mut k, hook, &with(vec![Extension::Fragment(0, true)]), Verdict::Drop, &first, "a first fragment");
        let later = with(vec![Extension::Fragment(3, true)]);
        check(&mut k, hook, &later, Verdict::Drop, fragment, "a later fragment");
        let hidden = Packet { protocol: 60, ..later.clone() };
        check(&mut k, hook, &hidden, Verdict::Drop, fragment, "a later fragment of who knows what");
        for protocol in [17, 50, 58] {
            let odd = Packet { protocol, ..later.clone() };
            check(&mut k, hook, &odd, Verdict::Pass, &[], "a fragment of something else");
        }
        check(&mut k, hook, &with(vec![options; 8]), Verdict::Drop, broken, "more headers than are followed");
        let cut = Packet { truncate: Some(14 + 40 + 4), ..with(vec![options, options]) };
        check(&mut k, hook, &cut, Verdict::Drop, broken, "headers that end too soon");
        let none = Packet { protocol: 59, ..with(vec![options]) };
        check(&mut k, hook, &none, Verdict::Pass, &[], "no next header");
    }
}

#[test]
fn a_client_has_a_quota() {
    let Some(mut k) = shared() else { return };
    k.policy(|p| p.per_client = 2);
    for v6 in [false, true] {
        let (client, server) = hosts(v6);
        let mut sessions = Vec::new();
        for n in 0..3u16 {
            let mut d = Dialogue::between((client, server), HOOK_IN);
            // Another host of the same /64 is the same client.
            if let (IpAddr::V6(ip), 2) = (client, n) {
                d.client.set_ip(IpAddr::V6((u128::from(ip) + 5).into()));
            }
            d.client.set_port(40000 + n);
            d.connect(&mut k);
            d.login(&mut k);
            sessions.push(d);
        }
        for (n, d) in sessions.iter_mut().take(2).enumerate() {
            d.open_passive(&mut k, PORT + n as u16);
        }
        assert_eq!(k.held_by(client), 2);
        k.restart_counting();
        let d = &mut sessions[2];
        d.client(&mut k, "EPSV");
        let made = d.server(&mut k, "229 Extended (|||50080|)");
        assert_eq!((made.has(bit::OPEN), made.reason()), (false, Reason::LeftToDaemon as u16));
        let moved =
            [("blinded", 1), ("control_judged", 1), ("control_segments", 2), ("left_to_daemon", 1), ("records", 2)];
        k.expect("one more than the quota", &moved);
        assert_eq!((k.pinholes().len(), k.held_by(client)), (2, 2));
        let key = PinholeKey { port: 50081, ..k.pinholes()[0].0 };
        let asked = d.command(&k, op::OPEN, |c| (c.pinhole, c.mode) = (key, pending::EPSV));
        assert_eq!(asked, Outcome::Quota);
        // Room again once one is used.
        let data = Data::through(&k.pinholes()[0].0, SOURCE);
        data.connect(&mut k);
        assert_eq!(k.held_by(client), 1);
        assert_eq!(d.command(&k, op::OPEN, |c| (c.pinhole, c.mode) = (key, pending::EPSV)), Outcome::Done);
        assert_eq!(k.held_by(client), 2);
        k.clear();
        assert_eq!(k.held_by(client), 0);
    }
}

/// A78: two sessions of one client that announce the same endpoint.
#[test]
fn a78_a_live_pinhole_of_another_session_is_left_alone() {
    let Some(mut k) = shared() else { return };
    for v6 in [false, true] {
        let (mut first, key, data) = armed(&mut k, HOOK_IN, v6, true);
        let mut second = Dialogue { client: at(first.client.ip(), 40001), ..first.clone() };
        second.connect(&mut k);
        second.login(&mut k);
        let owner = k.pinhole().1;
        second.client(&mut k, "EPSV");
        k.restart_counting();
        let made = second.server(&mut k, &format!("229 Extended (|||{PORT}|)"));
        assert_eq!((made.has(bit::OPEN), made.reason()), (false, Reason::LeftToDaemon as u16));
        let moved = [("blinded", 1), ("control_segments", 1), ("left_to_daemon", 1), ("records", 1)];
        k.expect("taken", &moved);
        assert_eq!(k.pinhole(), (key, owner));
        let open = |c: &mut ftp_helper_common::command::Command| (c.pinhole, c.mode) = (key, pending::EPSV);
        assert_eq!(second.command(&k, op::OPEN, open), Outcome::Taken);
        assert_eq!(second.command(&k, op::REVOKE, |_| ()), Outcome::NoPinhole);
        assert_eq!(k.pinhole(), (key, owner));
        // The same session may: it is renewed, and counts once.
        first.open_passive(&mut k, PORT);
        assert_eq!((k.pinhole().1.session, k.held_by(first.client.ip())), (owner.session, 1));
        k.restart_counting();
        check(&mut k, key.hook, &data.syn(), Verdict::Pass, PASSED, "the first one's connection");
        k.clear();
    }
}

/// A pinhole that an operator adds is of no session, is used up by one connection, and lives no longer than the policy lets
/// one be.
#[test]
fn an_added_pinhole_lets_one_connection_through() {
    let Some(mut k) = shared() else { return };
    for v6 in [false, true] {
        for hook in [HOOK_IN, HOOK_OUT] {
            let timeout = k.policy(|p| p.pinhole_timeout = Duration::from_secs(10)).pinhole_timeout;
            let (client, server) = hosts(v6);
            let pinhole = PinholeKey { initiator: client.into(), responder: server.into(), port: PORT, hook, pad: 0 };
            let id = ADDED_ID | 7;
            let add = |seq| Command { op: op::ADD, session: id, pinhole, seq, ..Command::default() };
            let before = monotonic();
            assert_eq!(k.command(&add(3_600_000)), Outcome::Done);
            let state = k.pinhole().1;
            assert_eq!((state.session, state.mode, k.held_by(client)), (id, pending::ADDED, 1));
            let lives = state.deadline - before.min(state.deadline);
            assert!(lives <= timeout.as_nanos() as u64 + 1_000_000_000, "{lives}");
            assert_eq!(k.command(&Command { session: ADDED_ID | 8, ..add(1000) }), Outcome::Taken);
            k.restart_counting();
            let data = Data::through(&pinhole, SOURCE);
            let other_host = Data { from: at(hosts(v6).1, SOURCE), ..data };
            assert_eq!(k.send(hook, &other_host.syn()), Verdict::Drop);
            k.restart_counting();
            data.connect(&mut k);
            k.expect("one connection", &[("syn_passed", 1), ("used", 1), ("records", 1)]);
            assert_eq!((k.pinholes().len(), k.flows()[0].1.session, k.held_by(client)), (0, id, 0));
            let second = Data::through(&pinhole, SOURCE + 1);
            assert_eq!(k.send(hook, &second.syn()), Verdict::Drop);

            // Taken back; only by its own id, and never as a session's.
            assert_eq!(k.command(&add(1000)), Outcome::Done);
            let remove = |session| Command { op: op::REMOVE, session, pinhole, ..Command::default() };
            assert_eq!(k.command(&remove(ADDED_ID | 8)), Outcome::NoPinhole);
            assert_eq!(k.command(&remove(0)), Outcome::NoPinhole);
            assert_eq!(k.command(&remove(id)), Outcome::Done);
            assert_eq!((k.pinholes().len(), k.held_by(client)), (0, 0));
            // And none that no pinhole may be for.
            let low = PinholeKey { port: 1023, ..pinhole };
            assert_eq!(k.command(&Command { pinhole: low, ..add(1000) }), Outcome::Malformed);
            assert_eq!(k.command(&Command { session: 7, ..add(1000) }), Outcome::Malformed);
            k.clear();
        }
    }
}

#[test]
fn a_dead_pinhole_of_another_session_makes_room() {
    let Some(mut k) = shared() else { return };
    k.policy(|p| p.pinhole_timeout = Duration::from_millis(20));
    let (first, key, _) = armed(&mut k, HOOK_IN, false, true);
    let deadline = k.pinhole().1.deadline;
    let mut second = Dialogue { client: at(first.client.ip(), 40001), ..first.clone() };
    second.connect(&mut k);
    second.login(&mut k);
    wait_until(deadline);
    assert_eq!(second.open_passive(&mut k, PORT), key);
    assert_eq!(k.pinhole().1.session, second.state(&k).id);
    assert_eq!(k.held_by(first.client.ip()), 1);
}

#[test]
fn active_mode_may_be_held_to_source_port_20() {
    let Some(mut k) = shared() else { return };
    for (hook, v6) in every_kind() {
        k.policy(|p| p.active_source_port = SourcePort::Twenty);
        let (_, key, data) = armed(&mut k, hook, v6, false);
        let high = [("source_port_not_20", 1), ("syn_denied", 1)];
        check(&mut k, key.hook, &data.syn(), Verdict::Drop, &high, "from a high port");
        let twenty = Data::through(&key, 20);
        check(&mut k, key.hook, &twenty.syn(), Verdict::Pass, PASSED, "from port 20");
        k.clear();
        let (_, key, data) = armed(&mut k, hook, v6, true);
        check(&mut k, key.hook, &data.syn(), Verdict::Pass, PASSED, "passive mode is no matter of it");
        k.clear();
    }
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

#[test]
fn a_parked_syn_is_turned_round_only_towards_a_pinhole() {
    let Some(mut k) = shared() else { return };
    let (_, _, data) = armed(&mut k, HOOK_IN, false, true);
    k.mark = k.plane().mark();
    check(&mut k, HOOK_OUT, &data.syn(), Verdict::Redirect, &[("syn_unparked", 1)], "its pinhole is open");
    let beside = Packet { to: at(data.to.ip(), PORT + 1), ..data.syn() };
    check(&mut k, HOOK_OUT, &beside, Verdict::Drop, &[], "none is");
    k.ingress_ifindex = 1;
    check(&mut k, HOOK_OUT, &beside, Verdict::Drop, DENIED, "a forwarded packet with that mark is like any other");
    (k.ingress_ifindex, k.mark) = (0, k.mark ^ 2);
    check(&mut k, HOOK_OUT, &beside, Verdict::Drop, DENIED, "another mark");
    // Where it arrives once more, its mark has served: nobody behind is to take it for one of theirs.
    let unparked = k.plane().mark();
    marked(&mut k, HOOK_IN, &data.syn(), (unparked, 0), PASSED, "turned round");
    marked(&mut k, HOOK_IN, &syn(false, 80), (unparked ^ 2, unparked ^ 2), &[], "another mark");
}

#[test]
fn mark_keeps_a_syn_once_and_then_leaves_it_to_the_ruleset() {
    let Some(mut k) = shared() else { return };
    let mark = Mark { value: 0x10, mask: 0xf0 };
    for v6 in [false, true] {
        k.set(&Policy { mode: Mode::Mark, mark, ..policy() }, &guards()[..1]);
        let mut d = Dialogue::ready(&mut k, HOOK_IN, v6);
        d.say(&mut k, CLIENT, b"EP");
        k.restart_counting();
        let early = Packet::syn(at(d.client.ip(), SOURCE), at(d.server.ip(), PORT), 7).with_options();
        check(&mut k, HOOK_IN, &early, Verdict::Drop, &[("syn_parked", 1)], "its announcement may be on its way");
        // The daemon has given it up: it is turned round, and goes on without the mark, although its hosts' session is
        // blind still.
        k.mark = k.plane().mark();
        check(&mut k, HOOK_OUT, &early, Verdict::Redirect, &[("syn_unparked", 1)], "given up");
        let unparked = k.plane().mark();
        let would = &[("no_pinhole", 1), ("syn_would_deny", 1)];
        marked(&mut k, HOOK_IN, &early, (unparked, 0), would, "arrives again");
        // The daemon has opened: it goes on with it.
        let key = PinholeKey {
            initiator: d.client.ip().into(),
            responder: d.server.ip().into(),
            port: PORT,
            hook: HOOK_IN,
            pad: 0,
        };
        assert_eq!(d.command(&k, op::OPEN, |c| (c.pinhole, c.mode) = (key, pending::EPSV)), Outcome::Done);
        k.restart_counting();
        marked(&mut k, HOOK_IN, &early, (unparked, 0x10), PASSED, "arrives again, and there is a pinhole");
        k.clear();
    }
}
