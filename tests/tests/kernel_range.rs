//! `opaque = "range"`: what an encrypted session opens to its client, and for how long.

use ftp_helper::engine::policy::{Opaque, Server};
use ftp_helper_common::{
    command::{Outcome, op},
    key::{CLIENT, HOOK_IN, SERVER},
    state::{flag, pending},
    tcp,
};
use ftp_helper_tests::{
    dialogue::{Data, Dialogue, every_kind},
    packet::Packet,
    testrun::{Kernel, Verdict, at, guards, hosts, other, policy, shared},
};

const LOW: u16 = 40000;
const HIGH: u16 = 40010;
const SOURCE: u16 = 45000;
const DENIED: &[(&str, u64)] = &[("no_pinhole", 1), ("syn_denied", 1)];
const IN_RANGE: &[(&str, u64)] = &[("syn_in_range", 1)];

/// Every server has a range for its encrypted sessions, but for one port on the deny-list.
fn ranged(k: &mut Kernel, opaque: Opaque) {
    let networks = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
    let server = Server { networks, passive_ports: Some(LOW..=HIGH), opaque };
    k.policy(|p| {
        p.servers = vec![server];
        p.deny_ports = [LOW + 5].into();
    });
    k.restart_counting();
}

/// A session that the daemon has found to be encrypted.
fn encrypted(k: &mut Kernel, d: &mut Dialogue) {
    d.connect(k);
    assert_eq!(d.command(k, op::STANDING, |c| c.flags = flag::OPAQUE | flag::RANGE), Outcome::Done);
    k.restart_counting();
}

fn syn(d: &Dialogue, port: u16) -> Packet {
    Packet::syn(at(d.client.ip(), SOURCE), at(d.server.ip(), port), 7).with_options()
}

/// Sends a SYN of the client and compares verdict and counters.
#[track_caller]
fn check(k: &mut Kernel, d: &Dialogue, packet: &Packet, open: bool, what: &str) {
    let (verdict, moved) = if open { (Verdict::Pass, IN_RANGE) } else { (Verdict::Drop, DENIED) };
    assert_eq!(k.send(d.hook, packet), verdict, "{what}\n{}", k.dump());
    k.expect(what, moved);
}

#[test]
fn a90_an_encrypted_session_opens_its_servers_range_to_its_client_alone() {
    let Some(mut k) = shared() else { return };
    for (hook, v6) in every_kind() {
        ranged(&mut k, Opaque::Range);
        let mut d = Dialogue::new(hook, v6);
        check(&mut k, &d, &syn(&d, LOW), false, "before there is a session");
        encrypted(&mut k, &mut d);
        for port in [LOW, LOW + 1, HIGH] {
            check(&mut k, &d, &syn(&d, port), true, "in the range");
        }
        for port in [LOW - 1, HIGH + 1, 1024, 65535, LOW + 5] {
            check(&mut k, &d, &syn(&d, port), false, "beside the range, or on the deny-list");
        }
        let stranger = Packet { from: at(hosts(v6).0, SOURCE), ..syn(&d, LOW) };
        check(&mut k, &d, &stranger, false, "somebody else");
        let server = Packet { to: at(hosts(v6).1, LOW), ..syn(&d, LOW) };
        check(&mut k, &d, &server, false, "another server");
        let back = Packet::syn(at(d.server.ip(), SOURCE), at(d.client.ip(), LOW), 7);
        assert_eq!(k.send(other(hook), &back), Verdict::Drop, "the server towards the client");
        k.expect("the server towards the client", DENIED);
        let odd = Packet { flags: tcp::SYN | tcp::FIN, ..syn(&d, LOW) };
        assert_eq!(k.send(hook, &odd), Verdict::Drop);
        k.expect("SYN and FIN", &[("syn_flags", 1), ("syn_denied", 1)]);
        k.clear();
    }
}

#[test]
fn its_data_connections_are_accounted_for() {
    let Some(mut k) = shared() else { return };
    for (hook, v6) in every_kind() {
        ranged(&mut k, Opaque::Range);
        let mut d = Dialogue::new(hook, v6);
        encrypted(&mut k, &mut d);
        let (from, to) = (at(d.client.ip(), SOURCE), at(d.server.ip(), LOW));
        let data = Data { from, to, hook, isn: [0xffff_f000, 0x7000_0000] };
        let k = &mut *k;
        check(k, &d, &data.syn(), true, "its SYN");
        assert_eq!(data.answer(k, &data.syn_ack()), Verdict::Pass);
        k.expect("the answer", &[("records", 1)]);
        assert_eq!(data.answer(k, &data.syn_ack()), Verdict::Pass);
        k.expect("the answer again", &[]);
        let flows = k.flows();
        assert_eq!((flows.len(), flows[0].1.mode), (1, pending::RANGE));
        assert_eq!(flows[0].1.session, d.state(k).id);
        assert_eq!(data.send(k, &data.forth(tcp::ACK | tcp::FIN, 1, b"")), Verdict::Pass);
        assert_eq!(data.answer(k, &data.back(tcp::ACK | tcp::FIN, 1001, b"")), Verdict::Pass);
        k.expect("both have ended it", &[("records", 1), ("flows_ended", 1)]);
        assert!(k.flows().is_empty());
        k.clear();
    }
}

#[test]
fn the_range_closes_with_the_last_session_of_the_two_hosts() {
    let Some(mut k) = shared() else { return };
    for (hook, v6) in every_kind() {
        ranged(&mut k, Opaque::Range);
        let k = &mut *k;
        let mut one = Dialogue::new(hook, v6);
        let mut two = Dialogue { client: at(one.client.ip(), 40001), ..one.clone() };
        encrypted(k, &mut one);
        encrypted(k, &mut two);
        // Asked twice, it counts once.
        assert_eq!(one.command(k, op::STANDING, |c| c.flags = flag::OPAQUE | flag::RANGE), Outcome::Done);
        let fin = Packet { flags: tcp::ACK | tcp::FIN, ..one.segment(SERVER, b"") };
        one.send(k, SERVER, &fin);
        one.send(k, CLIENT, &Packet { flags: tcp::ACK | tcp::FIN, ..one.segment(CLIENT, b"") });
        k.restart_counting();
        check(k, &two, &syn(&two, LOW), true, "one has ended");
        match hook {
            HOOK_IN => {
                two.send(k, CLIENT, &Packet { flags: tcp::ACK | tcp::RST, ..two.segment(CLIENT, b"") });
            }
            _ => assert_eq!(two.command(k, op::FORGET, |_| {}), Outcome::Done),
        }
        k.restart_counting();
        check(k, &two, &syn(&two, LOW), false, "both have ended");
        k.clear();
        assert!(k.plane().ranges().unwrap().is_empty(), "an entry is left over");
    }
}

#[test]
fn a_killed_session_and_another_policy_close_it() {
    let Some(mut k) = shared() else { return };
    for (hook, v6) in every_kind() {
        ranged(&mut k, Opaque::Range);
        let k = &mut *k;
        let mut d = Dialogue::new(hook, v6);
        encrypted(k, &mut d);
        ranged(k, Opaque::Deny);
        check(k, &d, &syn(&d, LOW), false, "the policy says deny");
        k.set(&policy(), &guards());
        check(k, &d, &syn(&d, LOW), false, "nothing is known about the server");
        ranged(k, Opaque::Range);
        check(k, &d, &syn(&d, LOW), true, "as before");
        assert_eq!(d.command(k, op::STANDING, |c| c.flags = flag::OPAQUE), Outcome::Done);
        check(k, &d, &syn(&d, LOW), false, "the daemon took it back");
        assert_eq!(d.command(k, op::STANDING, |c| c.flags = flag::OPAQUE | flag::RANGE), Outcome::Done);
        check(k, &d, &syn(&d, LOW), true, "and gave it again");
        let killed = flag::TAINTED | flag::KILLED | flag::RANGE;
        assert_eq!(d.command(k, op::STANDING, |c| c.flags = killed), Outcome::Done);
        check(k, &d, &syn(&d, LOW), false, "a killed session opens nothing");
        k.clear();
        assert!(k.plane().ranges().unwrap().is_empty(), "an entry is left over");
    }
}
