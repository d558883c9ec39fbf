//! Encrypted sessions, and the range that a server may have for them.

use super::*;
use crate::engine::policy::{Opaque, Server};

const RANGE: u16 = flag::OPAQUE | flag::RANGE;

fn ranged(opaque: Opaque) -> Policy {
    let server =
        Server { networks: vec!["198.51.100.0/24".parse().unwrap()], passive_ports: Some(40000..=40010), opaque };
    Policy { servers: vec![server], ..policy() }
}

/// A session that has become opaque, and the flags that the kernel was told.
fn encrypted(policy: Policy) -> (Sim, Vec<u16>) {
    let mut sim = Sim::logged_in(policy);
    sim.talk(&["C: AUTH TLS", "S: 234 go"]);
    assert_eq!(sim.reasons(Kind::Opaque), ["auth_accepted"]);
    let flags = told(&sim);
    (sim, flags)
}

fn told(sim: &Sim) -> Vec<u16> {
    sim.commands.iter().filter(|(c, _)| c.op == op::STANDING).map(|(c, _)| c.flags).collect()
}

/// A data connection in the range begins, as the kernel tells it.
fn flow(sim: &mut Sim, session: u64) -> FlowRecord {
    let record = FlowRecord {
        kind: kind::FLOW_START,
        mode: ftp_helper_common::state::pending::RANGE,
        session,
        time: sim.now,
        start: sim.now,
        key: FlowKey {
            initiator: sim.key.client,
            responder: sim.key.server,
            initiator_port: 45000,
            responder_port: 40000,
        },
        ..FlowRecord::default()
    };
    sim.record(&Record::FlowStart(record));
    record
}

#[test]
fn a93_tls_without_auth_is_opaque_before_and_behind_the_greeting() {
    for greeting in [&[][..], &["S: 220 ready"]] {
        let mut sim = Sim::new(policy());
        sim.talk(greeting);
        sim.say(CLIENT, b"\x16\x03\x01");
        assert_eq!(sim.reasons(Kind::Opaque), ["implicit_tls"], "{greeting:?}");
    }
}

#[test]
fn a90_a_range_only_where_the_administrator_wants_it() {
    assert_eq!(encrypted(policy()).1, [flag::OPAQUE]);
    assert_eq!(encrypted(ranged(Opaque::Deny)).1, [flag::OPAQUE]);
    let (sim, flags) = encrypted(ranged(Opaque::Range));
    assert_eq!(flags, [RANGE]);
    let detail = sim.of(Kind::Opaque).next().unwrap().detail.clone().unwrap();
    assert!(detail.contains("40000-40010"), "{detail}");
    // Another server, and a policy without passive modes.
    let elsewhere =
        Server { networks: vec!["203.0.113.0/24".parse().unwrap()], ..ranged(Opaque::Range).servers[0].clone() };
    assert_eq!(encrypted(Policy { servers: vec![elsewhere], ..policy() }).1, [flag::OPAQUE]);
    let active = crate::engine::policy::Modes(1 << ftp_helper_common::state::pending::PORT);
    assert_eq!(encrypted(Policy { modes: active, ..ranged(Opaque::Range) }).1, [flag::OPAQUE]);
    // Refused, it stays in clear.
    let mut sim = Sim::logged_in(ranged(Opaque::Range));
    sim.talk(&["C: AUTH TLS", "S: 500 no", "C: EPSV", "S: 229 ok (|||40000|)"]);
    assert_eq!((told(&sim), sim.opened()), (vec![], vec![40000]));
}

#[test]
fn a_new_policy_gives_and_takes_the_range() {
    let (mut sim, _) = encrypted(ranged(Opaque::Range));
    for (opaque, flags) in [(Opaque::Deny, flag::OPAQUE), (Opaque::Range, RANGE)] {
        sim.engine.set_policy(sim.now, ranged(opaque));
        sim.drain();
        assert_eq!(told(&sim).last(), Some(&flags));
    }
}

#[test]
fn a_full_table_is_told() {
    let mut sim = Sim::logged_in(ranged(Opaque::Range));
    sim.outcome = Outcome::Full;
    sim.talk(&["C: AUTH TLS", "S: 234 go"]);
    assert_eq!(sim.reasons(Kind::Refused), ["pinholes_full"]);
}

#[test]
fn a_running_data_connection_keeps_every_session_of_its_client() {
    // It is told as another session's: nobody can tell whose it is.
    let (mut sim, _) = encrypted(ranged(Opaque::Range));
    let record = flow(&mut sim, ID + 1);
    let used = sim.of(Kind::Used).next().unwrap();
    assert_eq!(used.pinhole.as_ref().unwrap().mode, crate::event::NegotiatedBy::Range);
    sim.wait(6 * 3600 * SECOND);
    assert!(sim.live());
    sim.record(&Record::FlowEnd(FlowRecord { kind: kind::FLOW_END, time: sim.now, bytes: [1, 2], ..record }));
    sim.wait(3 * 3600 * SECOND);
    assert!(!sim.live());
}

#[test]
fn a_reset_behind_the_fin_ends_a_session() {
    for fin in [false, true] {
        let (mut sim, _) = encrypted(policy());
        sim.events.clear();
        if fin {
            sim.flags(SERVER, tcp::FIN);
        }
        sim.flags(SERVER, tcp::RST);
        sim.wait(10 * SECOND);
        assert_eq!((sim.live(), sim.reasons(Kind::SessionEnd)), (false, vec!["reset"]), "FIN before it: {fin}");
    }
}
