//! Who has how many pinholes: a client's share of them, and those that an operator adds.

use std::{net::IpAddr, time::Duration};

use ftp_helper_common::{
    canon::bit,
    command::{Command, Outcome, op},
    key::{HOOK_IN, HOOK_OUT, PinholeKey},
    reason::Reason,
    state::{ADDED_ID, pending},
};
use ftp_helper_tests::{
    dialogue::{Data, Dialogue, PORT},
    testrun::{Verdict, at, hosts, monotonic, shared, wait_until},
};

use super::{SOURCE, armed};

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
        // What takes the place of its session's own needs no room.
        sessions[0].open_passive(&mut k, PORT + 7);
        assert_eq!((k.pinholes().len(), k.held_by(client)), (2, 2));
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
