//! First SYNs into guarded networks, and the pinholes they pass by. Every step is compared with all counters: those
//! that must not move included.

#[path = "kernel_guard/mark.rs"]
mod mark;
#[path = "kernel_guard/ranges.rs"]
mod ranges;
#[path = "kernel_guard/shares.rs"]
mod shares;

use std::time::Duration;

use ftp_helper::engine::policy::SourcePort;
use ftp_helper_common::{
    canon::bit,
    command::{Command, Outcome, op},
    key::{CLIENT, HOOK_IN, HOOK_OUT, PinholeKey, SERVER},
    reason::Reason,
    state::{flag, pending, pinhole_flag},
    tcp,
};
use ftp_helper_tests::{
    dialogue::{Data, Dialogue, PORT, every_kind},
    packet::{Extension, Packet, QINQ, VLAN},
    testrun::{Kernel, Verdict, at, hosts, other, policy, shared, wait_until},
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
        let open = |c: &mut Command| (c.pinhole, c.mode) = (key, pending::EPSV);
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
