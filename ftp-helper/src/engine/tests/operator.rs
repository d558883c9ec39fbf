//! What an operator asks for: pinholes added and taken back, sessions killed, stories told.

use ftp_helper_common::{
    key::HOOK_OUT,
    reason::Reason,
    state::{ADDED_ID, PinholeState, pending},
};

use super::*;
use crate::{
    engine::{Entry, NotKilled, Order},
    event::SessionId,
};

fn order(note: &str) -> Order {
    Order { uid: 1000, note: note.into() }
}

fn hole(initiator: &str, responder: &str, port: u16) -> PinholeKey {
    PinholeKey { initiator: addr(initiator), responder: addr(responder), port, hook: HOOK_IN, pad: 0 }
}

fn hosts(v6: bool) -> (&'static str, &'static str) {
    if v6 { ("2001:db8::10", "2001:db8:1::5") } else { ("192.0.2.10", "198.51.100.5") }
}

#[test]
fn an_added_pinhole_is_open_for_one_connection() {
    for v6 in [false, true] {
        let mut sim = Sim::new(policy());
        let (client, server) = hosts(v6);
        let key = hole(client, server, PORT);
        let id = sim.engine.add_pinhole(sim.now, key, 5 * SECOND, &order("ticket")).unwrap();
        sim.drain();
        assert_ne!(id & ADDED_ID, 0);
        let (command, _) = sim.commands.last().unwrap();
        assert_eq!((command.op, command.session, command.pinhole, command.seq), (op::ADD, id, key, 5000));
        let opened = sim.events.last().unwrap().clone();
        assert_eq!((opened.event, opened.by, opened.session), (Kind::Opened, Some(By::Operator), None));
        assert_eq!((opened.added, opened.uid), (Some(SessionId(id)), Some(1000)));
        assert_eq!(opened.note.as_deref(), Some("ticket"));
        assert_eq!(opened.pinhole.unwrap().expires_in_ms, 5000);
        assert!(sim.engine.has_pinhole(id, &key) && sim.engine.pinhole(sim.now, id).is_some());
        // Somebody else who tries is told to be another one than the one it is for.
        assert_eq!(sim.engine.core.unconsumed.near_miss(addr("203.0.113.9"), key.responder, PORT), Some(id));

        let record = FlowRecord {
            kind: kind::FLOW_START,
            mode: pending::ADDED,
            session: id,
            time: sim.now,
            start: sim.now,
            key: FlowKey {
                initiator: key.initiator,
                responder: key.responder,
                initiator_port: 45000,
                responder_port: PORT,
            },
            ..FlowRecord::default()
        };
        sim.record(&Record::FlowStart(record));
        let used = sim.events.last().unwrap();
        assert_eq!((used.event, &used.added), (Kind::Used, &opened.added));
        assert!(sim.engine.pinhole(sim.now, id).is_none() && !sim.engine.is_idle());
        assert_eq!(sim.engine.connection(&record.key), Some((id, None)));
        sim.record(&Record::FlowEnd(FlowRecord { kind: kind::FLOW_END, bytes: [1, 2], ..record }));
        assert_eq!(
            (sim.events.last().unwrap().event, &sim.events.last().unwrap().added),
            (Kind::DataEnd, &opened.added)
        );
        sim.wait(3 * 3600 * SECOND);
        assert_eq!(sim.of(Kind::Expired).count(), 0);
        assert!(sim.engine.is_idle());
    }
}

#[test]
fn it_lives_no_longer_than_a_negotiated_one_and_expires() {
    let mut sim = Sim::new(policy());
    let id = sim.engine.add_pinhole(sim.now, hole("192.0.2.10", "198.51.100.5", PORT), 3600 * SECOND, &order("x"));
    sim.drain();
    assert_eq!(sim.engine.pinhole(sim.now, id.unwrap()).unwrap().expires_in_ms, 10_000);
    sim.wait(9 * SECOND);
    assert_eq!((sim.of(Kind::Expired).count(), sim.open_now()), (0, 1));
    sim.wait(2 * SECOND);
    assert_eq!((sim.of(Kind::Expired).count(), sim.open_now()), (1, 0));
    assert_eq!(sim.commands.last().unwrap().0.op, op::REMOVE);
}

#[test]
fn the_policy_holds_for_added_pinholes_too() {
    use crate::engine::policy::Server;
    let policy = Policy {
        per_client: 2,
        servers: vec![Server {
            networks: vec!["198.51.100.9/32".parse().unwrap()],
            passive_ports: Some(40000..=50000),
            opaque: Default::default(),
        }],
        ..policy()
    };
    let mut sim = Sim::new(policy);
    let (client, server) = hosts(false);
    for (key, reason) in [
        (hole(client, server, 1023), Reason::LowPort),
        (hole(client, server, 21), Reason::ControlPort),
        (hole(client, server, 3306), Reason::DeniedPort),
        (hole(client, "198.51.100.9", 50001), Reason::OutsideRange),
        (hole(client, "2001:db8::1", PORT), Reason::AddressFamily),
        (hole(client, client, PORT), Reason::ThirdHost),
        (hole("0.0.0.0", server, PORT), Reason::ThirdHost),
        (hole(client, "224.0.0.1", PORT), Reason::ThirdHost),
        (hole(client, "255.255.255.255", PORT), Reason::ThirdHost),
        (hole("::", "2001:db8::1", PORT), Reason::ThirdHost),
        (hole("2001:db8::1", "ff02::1", PORT), Reason::ThirdHost),
        (hole("127.0.0.1", server, PORT), Reason::ThirdHost),
    ] {
        let commands = sim.commands.len();
        assert_eq!(sim.engine.add_pinhole(sim.now, key, SECOND, &order("x")), Err(reason), "{key:?}");
        sim.drain();
        let told = sim.events.last().unwrap();
        assert_eq!((told.event, told.reason, told.uid), (Kind::Refused, Some(reason), Some(1000)));
        assert_eq!(sim.commands.len(), commands);
    }
    for port in [PORT, PORT + 1] {
        sim.engine.add_pinhole(sim.now, hole(client, server, port), SECOND, &order("x")).unwrap();
        sim.drain();
    }
    let third = sim.engine.add_pinhole(sim.now, hole(client, server, PORT + 2), SECOND, &order("x"));
    assert_eq!(third, Err(Reason::ClientQuota));
    // Another policy takes back what it does not allow.
    sim.engine.set_policy(sim.now, Policy { deny_ports: [PORT].into(), ..Policy::default() });
    sim.drain();
    assert_eq!((sim.reasons(Kind::Revoked), sim.open_now()), (vec!["policy_changed"], 1));
}

#[test]
fn what_the_kernel_refuses_is_not_open() {
    for (outcome, reason) in [
        (Outcome::Taken, Reason::PinholeTaken),
        (Outcome::Full, Reason::PinholesFull),
        (Outcome::Quota, Reason::ClientQuota),
    ] {
        let mut sim = Sim::new(policy());
        sim.outcome = outcome;
        let id =
            sim.engine.add_pinhole(sim.now, hole("192.0.2.10", "198.51.100.5", PORT), SECOND, &order("x")).unwrap();
        sim.drain();
        assert_eq!((sim.engine.not_added(id), sim.engine.not_added(id + 1), sim.open_now()), (Some(reason), None, 0));
        let told = sim.events.last().unwrap();
        assert_eq!((told.event, told.reason, told.note.as_deref()), (Kind::Refused, Some(reason), Some("x")));
    }
}

#[test]
fn an_operator_takes_back_what_is_open() {
    let mut sim = Sim::logged_in(policy());
    sim.talk(&["C: EPSV", "S: 229 Extended (|||50069|)"]);
    assert_eq!(sim.opened(), [PORT]);
    assert!(sim.engine.revoke_pinhole(sim.now, ID, &order("not theirs")));
    sim.drain();
    let told = sim.events.last().unwrap();
    assert_eq!((told.event, told.reason, told.uid), (Kind::Revoked, Some(Reason::Operator), Some(1000)));
    assert_eq!((told.note.as_deref(), sim.open_now()), (Some("not theirs"), 0));
    assert_eq!(sim.commands.last().unwrap().0.op, op::REVOKE);
    assert!(
        !sim.engine.revoke_pinhole(sim.now, ID, &order("again")) && !sim.engine.revoke_pinhole(sim.now, 7, &order("x"))
    );
    // The session goes on, and what is told of it then was not asked for.
    sim.talk(&["C: EPSV", "S: 229 Extended (|||50070|)"]);
    assert_eq!((sim.opened(), sim.events.last().unwrap().uid), (vec![PORT, 50070], None));

    let id = sim.engine.add_pinhole(sim.now, hole("192.0.2.10", "198.51.100.5", 50071), SECOND, &order("x")).unwrap();
    sim.drain();
    assert!(sim.engine.revoke_pinhole(sim.now, id, &order("done")));
    sim.drain();
    let told = sim.events.last().unwrap();
    assert_eq!((told.event, told.added.is_some(), told.note.as_deref()), (Kind::Revoked, true, Some("done")));
    assert_eq!(sim.commands.last().unwrap().0.op, op::REMOVE);
}

#[test]
fn added_pinholes_outlive_the_daemon_and_a_clean_end_takes_them_back() {
    let mut sim = Sim::new(policy());
    let key = hole("192.0.2.10", "198.51.100.5", PORT);
    let state = PinholeState {
        session: ADDED_ID | 7,
        deadline: sim.now + 2 * SECOND,
        mode: pending::ADDED,
        ..PinholeState::default()
    };
    sim.engine.adopt_added(&key, &state);
    sim.engine.adopt_added(&key, &state);
    // A session's own is adopted with its session.
    let own = PinholeState { session: ID, mode: pending::PASV, ..state };
    sim.engine.adopt_added(&PinholeKey { hook: HOOK_OUT, ..key }, &own);
    assert_eq!(sim.engine.pinholes(sim.now).map(|v| (v.owner, v.ends)).collect::<Vec<_>>(), [(ADDED_ID | 7, None)]);
    sim.engine.handle_suspend(sim.now, SECOND, 0);
    sim.drain();
    assert_eq!(sim.engine.pinhole(sim.now, ADDED_ID | 7).unwrap().expires_in_ms, 1000);
    sim.engine.shutdown(sim.now);
    sim.drain();
    assert!(sim.reasons(Kind::Revoked).contains(&"shutdown"));
    assert!(sim.engine.is_idle());
}

#[test]
fn a_killed_session_opens_nothing_any_more() {
    for opaque in [false, true] {
        let mut sim = Sim::logged_in(policy());
        if opaque {
            sim.talk(&["C: AUTH TLS", "S: 234 go on"]);
        } else {
            sim.talk(&["C: EPSV", "S: 229 Extended (|||50069|)"]);
            assert_eq!(sim.open_now(), 1);
        }
        sim.engine.kill(sim.now, ID, &order("a scan")).unwrap();
        sim.drain();
        let killed = sim.of(Kind::Killed).next().unwrap();
        assert_eq!(
            (killed.reason, killed.uid, killed.note.as_deref()),
            (Some(Reason::Operator), Some(1000), Some("a scan"))
        );
        assert_eq!(sim.open_now(), 0);
        let standing = sim.commands.iter().rev().find(|(c, _)| c.op == op::STANDING).unwrap().0;
        assert_eq!(standing.flags & (flag::TAINTED | flag::KILLED), flag::TAINTED | flag::KILLED);
        assert_eq!(sim.engine.kill(sim.now, ID, &order("again")), Err(NotKilled::Before));
        sim.talk(&["C: EPSV", "S: 229 Extended (|||50070|)"]);
        assert_eq!(sim.open_now(), 0);
        assert_eq!(sim.events.last().unwrap().event, Kind::Killed);
    }
    let mut sim = Sim::new(policy());
    assert_eq!(sim.engine.kill(sim.now, 7, &order("x")), Err(NotKilled::NoSession));
}

#[test]
fn a_session_tells_its_story_while_it_goes_on_and_afterwards() {
    let mut sim = Sim::logged_in(policy());
    sim.talk(&["C: PORT 203,0,113,9,4,1", "S: 500 no", "C: EPSV", "S: 229 Extended (|||50069|)"]);
    let told = |sim: &Sim| -> Vec<String> {
        let entry = |entry| match entry {
            Entry::Line { server, text, .. } => format!("{}: {text}", if server { "S" } else { "C" }),
            Entry::Event(e) => format!("{:?}", e.event),
        };
        sim.engine.story(ID).unwrap().entries.into_iter().map(entry).collect()
    };
    let story = told(&sim);
    assert_eq!(
        story,
        [
            "SessionStart",
            "S: 220 ready",
            "C: USER me",
            "S: 331 password",
            "C: PASS ***",
            "S: 230-hello",
            "S: 230 in",
            "C: TYPE I",
            "S: 200 ok",
            "C: PORT 203,0,113,9,4,1",
            "Refused",
            "S: 500 no",
            "C: EPSV",
            "S: 229 Extended (|||50069|)",
            "Opened",
        ]
    );
    assert!(!sim.engine.story(ID).unwrap().ended);
    // Behind AUTH nothing is read.
    sim.talk(&["C: AUTH TLS", "S: 234 go on", "C: secret", "S: secret"]);
    sim.flags(CLIENT, tcp::FIN);
    sim.flags(SERVER, tcp::FIN);
    sim.wait(10 * SECOND);
    assert!(!sim.live());
    let behind = &told(&sim)[story.len()..];
    assert_eq!(behind, ["C: AUTH TLS", "Revoked", "S: 234 go on", "Opaque", "SessionEnd"]);
    assert!(sim.engine.story(ID).unwrap().ended && sim.engine.is_idle());
    assert!(sim.engine.story(7).is_none());
}
