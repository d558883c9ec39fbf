//! Beginnings, ends, time, memory, and the kernel's answers.

use std::time::Duration;

use ftp_helper_common::{reason::Reason, record::SynRecord, state::SessionState};

use super::*;
use crate::{
    engine::{policy::Modes, session::Session},
    event::SessionId,
};

const HOUR: Nanos = 3600 * SECOND;

fn end_of(flow: &FlowRecord, now: Nanos, bytes: [u64; 2]) -> Record<'static> {
    Record::FlowEnd(FlowRecord { kind: kind::FLOW_END, time: now, bytes, ..*flow })
}

#[test]
fn a_session_is_told_from_beginning_to_end() {
    let mut sim = Sim::new(policy());
    sim.talk(LOGIN);
    sim.client("PASV\r\n");
    sim.server(PASV_OK);
    let flow = sim.flow_start(PORT);
    assert_eq!((sim.open_now(), sim.engine.sessions().next().unwrap().running), (0, 1));
    sim.wait(2 * SECOND);
    sim.record(&end_of(&flow, sim.now, [7, 5 << 30]));
    sim.talk(&["S: 226 done", "C: QUIT", "S: 221 bye"]);
    let view = sim.engine.sessions().next().unwrap();
    assert_eq!((view.running, view.transfers, view.bytes), (0, 1, [7, 5 << 30]));
    sim.flags(SERVER, tcp::FIN);
    assert!(sim.live());
    sim.flags(CLIENT, tcp::FIN);
    assert!(sim.live(), "it lingers for what is sent again");
    sim.wait(4 * SECOND);
    assert!(!sim.live());
    let kinds: Vec<_> = sim.events.iter().map(|e| e.event).collect();
    let told = [Kind::SessionStart, Kind::Opened, Kind::Used, Kind::DataEnd, Kind::SessionEnd];
    assert_eq!(kinds, told);
    for event in &sim.events {
        assert_eq!(event.session, Some(SessionId(0x51)), "{event:?}");
        assert_eq!(event.client, Some("192.0.2.10:40000".parse().unwrap()));
    }
    let end = &sim.events[3].connection.clone().unwrap();
    assert_eq!((end.bytes_out, end.bytes_back, end.duration_ms), (Some(7), Some(5 << 30), Some(2000)));
    assert_eq!(sim.events[4].reason, Some(Reason::Closed));
    assert_eq!(sim.commands.last().unwrap().0.op, op::FORGET);
    assert_eq!(sim.engine.poll_timeout(), None);
}

#[test]
fn a_running_data_connection_keeps_its_session_alive() {
    let mut sim = Sim::logged_in(policy());
    sim.client("PASV\r\n");
    sim.server(PASV_OK);
    let flow = sim.flow_start(PORT);
    sim.client("RETR big\r\n");
    sim.wait(6 * HOUR);
    assert!(sim.live());
    sim.record(&end_of(&flow, sim.now, [0, 1]));
    sim.wait(HOUR - SECOND);
    assert!(sim.live(), "the silence counts from the end of the data connection");
    sim.talk(&["S: 226 done", "C: PASV", "S: 227 (198,51,100,5,195,149)"]);
    assert_eq!(sim.opened(), [PORT, PORT]);
    sim.wait(HOUR + SECOND);
    assert!(!sim.live());
    assert_eq!(sim.reasons(Kind::SessionEnd), ["idle"]);
}

#[test]
fn a_client_that_does_not_log_in_is_let_go_of() {
    let mut sim = Sim::new(policy());
    sim.talk(&["S: 220 x", "C: USER x"]);
    for _ in 0..11 {
        sim.wait(10 * SECOND);
        sim.talk(&["S: 331 more", "C: PASS y"]);
        assert!(sim.live());
    }
    sim.wait(11 * SECOND);
    assert_eq!(sim.reasons(Kind::SessionEnd), ["login_timeout"]);
    // Late records don't bring it back.
    sim.talk(&["S: 530 no"]);
    assert!(!sim.live());
}

#[test]
fn data_connections_outlive_their_session_with_its_name() {
    let mut sim = Sim::logged_in(policy());
    sim.client("PASV\r\n");
    sim.server(PASV_OK);
    let flow = sim.flow_start(PORT);
    sim.flags(CLIENT, tcp::RST);
    sim.wait(4 * SECOND);
    assert_eq!((sim.live(), sim.reasons(Kind::SessionEnd)), (false, vec!["reset"]));
    sim.record(&end_of(&flow, sim.now, [1, 2]));
    let end = sim.of(Kind::DataEnd).next().unwrap();
    assert_eq!(end.session, Some(SessionId(0x51)));
    assert_eq!(end.client, Some("192.0.2.10:40000".parse().unwrap()));
}

#[test]
fn a_data_connection_that_nobody_hears_of_is_let_go_of() {
    let mut sim = Sim::logged_in(policy());
    sim.client("PASV\r\n");
    sim.server(PASV_OK);
    let flow = sim.flow_start(PORT);
    sim.wait(2 * HOUR);
    sim.engine.forget_flow(sim.now, &flow.key);
    sim.engine.forget_flow(sim.now, &flow.key);
    sim.drain();
    assert_eq!((sim.live(), sim.reasons(Kind::DataEnd)), (true, vec!["idle"]));
    sim.wait(HOUR);
    assert!(!sim.live());
}

#[test]
fn a_reset_data_connection_gives_its_pinhole_back() {
    let mut sim = Sim::logged_in(policy());
    sim.client("PASV\r\n");
    sim.server(PASV_OK);
    let flow = sim.flow_start(PORT);
    assert_eq!(sim.open_now(), 0);
    sim.record(&Record::FlowRearmed(FlowRecord { kind: kind::FLOW_REARMED, ..flow }));
    assert_eq!((sim.open_now(), sim.engine.sessions().next().unwrap().running), (1, 0));
    sim.flow_start(PORT);
    assert_eq!((sim.open_now(), sim.engine.sessions().next().unwrap().running), (0, 1));
    sim.wait(HOUR);
    sim.record(&Record::FlowRearmed(FlowRecord { kind: kind::FLOW_REARMED, ..flow }));
    assert_eq!(sim.open_now(), 0, "its time is over");
}

#[test]
fn what_the_kernel_answers() {
    for (outcome, reason) in [
        (Outcome::Taken, "pinhole_taken"),
        (Outcome::Full, "pinholes_full"),
        (Outcome::Quota, "client_quota"),
        (Outcome::Barred, "session_closing"),
        (Outcome::Busy, "race"),
    ] {
        let mut sim = Sim::logged_in(policy());
        sim.outcome = outcome;
        sim.client("PASV\r\n");
        sim.server(PASV_OK);
        assert_eq!((sim.opened().len(), sim.open_now()), (0, 0));
        assert_eq!(sim.reasons(Kind::Refused), [reason]);
        let tries = sim.commands.iter().filter(|(c, _)| c.op == op::OPEN).count();
        assert_eq!(tries, if outcome == Outcome::Busy { 9 } else { 1 });
        sim.outcome = Outcome::Done;
        sim.client("PASV\r\n");
        sim.server(PASV_OK);
        assert_eq!(sim.opened(), [PORT]);
    }
    let mut sim = Sim::logged_in(policy());
    sim.outcome = Outcome::NoSession;
    sim.client("PASV\r\n");
    sim.server(PASV_OK);
    assert_eq!((sim.live(), sim.reasons(Kind::SessionEnd)), (false, vec!["forgotten"]));
}

#[test]
fn a_pinhole_that_is_gone_was_used_or_is_opened_again() {
    for used in [true, false] {
        let mut sim = Sim::with_kernel(policy()).login();
        sim.client("PASV\r\n");
        // The kernel opens, the record waits in the ring, and something takes the pinhole away.
        let wire = Wire { side: SERVER, flags: tcp::ACK, seq: sim.next[1], ack: sim.next[0], data: PASV_OK.into() };
        let kernel = sim.kernel.as_mut().unwrap();
        let (state, made) = (kernel.machine.state, kernel.segment(&wire));
        assert!(made.has(bit::OPEN));
        kernel.pinhole = None;
        let record = SegmentRecord {
            kind: kind::SEGMENT,
            side: SERVER,
            tcp_flags: tcp::ACK,
            seq: wire.seq,
            ack: wire.ack,
            segment_len: wire.data.len() as u32,
            made,
            pending: state.pending,
            unanswered: 1,
            flags: state.flags,
            next: state.next,
            ..sim.blank()
        };
        sim.record(&Record::Segment(record, &wire.data));
        sim.wait(ASKED);
        assert_eq!((sim.opened(), sim.commands.last().unwrap().1), (vec![PORT], Outcome::NoPinhole));
        if used {
            let flow = FlowRecord { kind: kind::FLOW_START, session: ID, seq: wire.seq, mode: 2, ..Default::default() };
            sim.record(&Record::FlowStart(flow));
        }
        sim.wait(SECOND);
        let again = sim.commands.iter().filter(|(c, _)| c.op == op::OPEN).count();
        assert_eq!(again, usize::from(!used));
        assert_eq!(sim.open_now(), usize::from(!used));
    }
}

#[test]
fn a_divergence_is_closed_and_counted() {
    // The kernel has not heard yet that a port is denied.
    let mut sim = Sim::with_kernel(policy()).login();
    let denied = Policy { deny_ports: [PORT].into(), ..policy() };
    sim.engine.set_policy(sim.now, denied);
    sim.client("PASV\r\n");
    sim.server(PASV_OK);
    assert_eq!(sim.engine.stats().divergences, 1);
    assert_eq!((sim.kernel.as_ref().unwrap().pinhole, sim.open_now()), (None, 0));
    assert_eq!((sim.reasons(Kind::Refused), sim.reasons(Kind::Revoked)), (vec!["denied_port"], vec!["not_confirmed"]));
}

#[test]
fn records_of_two_cpus_may_change_places() {
    let mut sim = Sim::logged_in(policy());
    let (c, s) = (sim.next[0], sim.next[1]);
    let reply = Wire { side: SERVER, flags: tcp::ACK, seq: s, ack: c.wrapping_add(6), data: PASV_OK.into() };
    sim.wire(&reply);
    assert!(sim.opened().is_empty() && sim.reasons(Kind::Refused).is_empty());
    sim.wire(&Wire { side: CLIENT, flags: tcp::ACK, seq: c, ack: s, data: b"PASV\r\n".to_vec() });
    assert_eq!(sim.opened(), [PORT]);
    // What never comes is not waited for: the reply is given up, nothing opens.
    let mut sim = Sim::logged_in(policy());
    let next = sim.next;
    sim.wire(&Wire { ack: next[0].wrapping_add(6), seq: next[1], ..reply });
    sim.wait(2 * SECOND);
    assert_eq!((sim.opened().len(), sim.engine.stats().acks_from_nowhere, sim.engine.core.kept), (0, 1, 0));
}

#[test]
fn policy_changes_and_shutdown_take_back() {
    let mut sim = Sim::logged_in(policy());
    sim.client("PASV\r\n");
    sim.server(PASV_OK);
    sim.engine.set_policy(sim.now, Policy { pinhole_timeout: Duration::from_secs(1), ..policy() });
    sim.drain();
    assert_eq!(sim.open_now(), 1);
    sim.engine.set_policy(sim.now, Policy { modes: Modes::NONE, ..policy() });
    sim.drain();
    assert_eq!((sim.reasons(Kind::Revoked), sim.open_now()), (vec!["policy_changed"], 0));
    sim.engine.set_policy(sim.now, policy());
    sim.client("PASV\r\n");
    sim.server(PASV_OK);
    sim.engine.shutdown(sim.now);
    sim.drain();
    assert_eq!(sim.reasons(Kind::Revoked), ["policy_changed", "shutdown"]);
    assert_eq!((sim.reasons(Kind::SessionEnd), sim.live()), (vec!["shutdown"], false));
    assert_eq!((sim.engine.poll_timeout(), sim.engine.stats().sessions), (None, 0));
}

#[test]
fn quota_of_a_client() {
    let mut engine = Engine::new(Policy { per_client: 3, ..policy() }, 0);
    let mut opened = 0;
    for n in 0..6u16 {
        let key = SessionKey { client_port: 4000 + n, ..key() };
        let state = SessionState {
            id: u64::from(n) + 1,
            flags: flag::LOGGED_IN,
            next: [1, 1],
            start: [1, 1],
            ..SessionState::default()
        };
        engine.adopt(0, &key, &state);
        for (side, text, seq, ack) in [(CLIENT, "PASV\r\n", 1, 1), (SERVER, PASV_OK, 1, 7)] {
            let record = SegmentRecord {
                kind: kind::SEGMENT,
                side,
                session: state.id,
                key,
                tcp_flags: tcp::ACK,
                seq,
                ack,
                segment_len: text.len() as u32,
                start: [1, 1],
                ..SegmentRecord::default()
            };
            engine.handle_record(0, &Record::Segment(record, text.as_bytes()));
        }
        while let Some(action) = engine.poll_action() {
            if let Action::Command(c) = action {
                opened += u32::from(c.op == op::OPEN);
                engine.handle_outcome(0, &c, Outcome::Done);
            }
        }
    }
    assert_eq!((opened, engine.stats().refused[&Reason::ClientQuota]), (3, 3));
}

#[test]
fn denied_connections_name_the_near_miss() {
    let mut sim = Sim::logged_in(policy());
    sim.client("PASV\r\n");
    sim.server(PASV_OK);
    for (from, port, dropped, reason) in [
        ("192.0.2.11", PORT, 1, "other_initiator"),
        ("192.0.2.11", PORT + 1, 1, "no_pinhole"),
        ("192.0.2.10", PORT, 0, "other_source_port"),
    ] {
        let key = FlowKey { initiator: addr(from), responder: sim.key.server, initiator_port: 1, responder_port: port };
        let code = Reason::from_name(reason).filter(|r| *r != Reason::OtherInitiator).unwrap_or(Reason::NoPinhole);
        let record = SynRecord { kind: kind::DENIED, dropped, key, reason: code as u16, ..SynRecord::default() };
        sim.record(&Record::Denied(record));
        let event = sim.of(Kind::Denied).last().unwrap();
        assert_eq!((event.reason.unwrap().as_str(), event.session.is_some()), (reason, reason == "other_initiator"));
        assert_eq!(event.connection.as_ref().unwrap().dropped, Some(dropped == 1));
    }
    let ports = &sim.engine.stats().denied_ports;
    assert_eq!((ports[&PORT].dropped, ports[&PORT].would_be, ports[&(PORT + 1)].dropped), (1, 1, 1));
}

#[test]
fn strays_are_told_once() {
    let mut sim = Sim::new(policy());
    sim.events.clear();
    for _ in 0..3 {
        for reason in [Reason::Midstream, Reason::WrongHook] {
            let record = SegmentRecord { kind: kind::STRAY, session: 0, reason: reason as u16, ..sim.blank() };
            sim.record(&Record::Stray(record));
        }
    }
    assert_eq!(sim.reasons(Kind::SessionEnd), ["midstream"]);
    assert_eq!(sim.reasons(Kind::Denied), ["wrong_hook"]);
    assert_eq!(sim.engine.stats().strays[&Reason::Midstream], 3);
}

#[test]
fn a_hundred_thousand_sessions_of_ten_thousand_clients() {
    const SESSIONS: u64 = 100_000;
    println!("a session is {} bytes", size_of::<Session>());
    const { assert!(size_of::<Session>() < 1024) };
    let limits = crate::engine::policy::Limits { sessions: SESSIONS as u32, ..Default::default() };
    let mut engine = Engine::new(Policy { limits, ..policy() }, 0);
    let mut events = 0;
    let lines = [
        (SERVER, "220 Welcome to this server of ours, have a nice day\r\n"),
        (CLIENT, "USER anonymous\r\n"),
        (SERVER, "331 Please specify the password.\r\n"),
        (CLIENT, "PASS guest@example.org\r\n"),
        (SERVER, "230 Login successful.\r\n"),
        (CLIENT, "PASV\r\n"),
        (SERVER, PASV_OK),
    ];
    for n in 0..SESSIONS + 1 {
        let client = n % 10_000;
        let key = SessionKey {
            client: Addr::v4([10, 1, (client >> 8) as u8, client as u8]),
            client_port: (1024 + n / 10_000) as u16,
            ..key()
        };
        let blank = SegmentRecord {
            session: n + 1,
            key,
            tcp_flags: tcp::ACK,
            start: [1, 1],
            next: [1, 1],
            ..Default::default()
        };
        engine.handle_record(n, &Record::Session(blank));
        let mut next = [1u32, 1];
        for (side, text) in lines {
            let (i, len) = (usize::from(side), text.len() as u32);
            let record = SegmentRecord { side, seq: next[i], ack: next[1 - i], segment_len: len, ..blank };
            engine.handle_record(n, &Record::Segment(record, text.as_bytes()));
            next[i] += len;
        }
        while let Some(action) = engine.poll_action() {
            match action {
                Action::Command(c) => engine.handle_outcome(n, &c, Outcome::Done),
                Action::Event(_) => events += 1,
            }
        }
    }
    let stats = engine.stats();
    assert_eq!((stats.sessions, stats.sessions_refused, stats.opened_by_daemon), (SESSIONS, 1, SESSIONS));
    assert_eq!(events, 2 * SESSIONS + 1);
    let heap: usize = engine.sessions.values().map(|s| s.heap()).sum();
    let each = size_of::<Session>() + heap / SESSIONS as usize;
    println!("and {each} with its buffers");
    assert!(each < 2048, "{each}");
    let worst = engine.sessions.values().map(|s| s.heap()).max().unwrap();
    assert!(worst + size_of::<Session>() < 4096);
    assert!(engine.poll_timeout().is_some());
    // All of them expire, and nothing is left.
    engine.handle_timeout(2 * HOUR);
    assert_eq!((engine.sessions.len(), engine.poll_timeout(), engine.core.kept), (0, None, 0));
}

#[test]
fn a_fin_before_bytes_that_have_come_is_a_conflict() {
    for (at, killed) in [(6, 1), (7, 0)] {
        let mut sim = Sim::logged_in(policy());
        let wire = |sim: &Sim, from: usize, to: usize, flags| Wire {
            side: SERVER,
            flags: tcp::ACK | flags,
            seq: sim.next[1].wrapping_add(from as u32),
            ack: sim.next[0],
            data: b"hello\r\n"[from..to].to_vec(),
        };
        // The last byte first, then what lies before it, which claims to be the end.
        let (last, first) = (wire(&sim, 6, 7, 0), wire(&sim, 0, at, tcp::FIN));
        sim.wire(&last);
        sim.wire(&first);
        assert_eq!(sim.reasons(Kind::Killed).len(), killed, "{at}");
    }
}
