//! Control connections: when a session begins and ends, what the daemon's commands change, and what happens when nobody
//! reads the records. Every step is compared with all counters.

#[path = "kernel_session/blind.rs"]
mod blind;
#[path = "kernel_session/commands.rs"]
mod commands;
#[path = "kernel_session/flows.rs"]
mod flows;

use ftp_helper::{
    dataplane::Options,
    engine::{
        Record,
        policy::{Mode, OnDaemonLoss},
    },
    lab,
};
use ftp_helper_common::{
    canon::bit,
    command::{Command, Outcome, op},
    key::{CLIENT, HOOK_IN, HOOK_OUT, PinholeKey, SERVER},
    reason::Reason,
    state::{flag, pending},
    tcp,
};
use ftp_helper_tests::{
    dialogue::{Data, Dialogue, PORT, every_kind},
    packet::Packet,
    testrun::{Kernel, Verdict, guards, other, parse, policy, shared},
};

const SOURCE: u16 = 45678;
/// What one segment that the kernel judges counts.
const JUDGED: &[(&str, u64)] = &[("control_judged", 1), ("control_segments", 1), ("records", 1)];
const HALF: &[(&str, u64)] = &[("half_open", 1)];
const BEGUN: &[(&str, u64)] = &[("records", 1), ("sessions", 1)];

/// Sends a packet of a side; it passes and moves these counters only.
#[track_caller]
fn pass(k: &mut Kernel, d: &Dialogue, side: u8, packet: &Packet, moved: &[(&'static str, u64)], what: &str) {
    check(k, d, side, packet, Verdict::Pass, moved, what);
}

#[track_caller]
fn check(
    k: &mut Kernel,
    d: &Dialogue,
    side: u8,
    packet: &Packet,
    verdict: Verdict,
    moved: &[(&'static str, u64)],
    what: &str,
) {
    assert_eq!(k.send(d.hook_of(side), packet), verdict, "{what}: {packet:?}\n{}", k.dump());
    k.expect(what, moved);
}

#[test]
fn a_session_begins_with_the_clients_ack() {
    let Some(mut k) = shared() else { return };
    for (hook, v6) in every_kind() {
        let mut d = Dialogue::new(hook, v6);
        let k = &mut *k;
        let ack = d.segment(CLIENT, b"");
        pass(k, &d, CLIENT, &d.syn(), &[], "SYN");
        pass(k, &d, CLIENT, &ack, &[], "an ACK of nothing");
        pass(k, &d, SERVER, &d.syn_ack(), HALF, "SYN-ACK");
        pass(k, &d, SERVER, &d.syn_ack(), HALF, "the same SYN-ACK again changes nothing");
        assert!(k.sessions().is_empty());
        let unfit = [
            Packet { ack: ack.ack.wrapping_add(1), ..ack.clone() },
            Packet { seq: ack.seq.wrapping_sub(1), ..ack.clone() },
            Packet { seq: ack.seq.wrapping_add(1), ..ack.clone() },
        ];
        for p in &unfit {
            pass(k, &d, CLIENT, p, &[], "an ACK that does not fit");
        }
        // The right ACK by the wrong hook.
        assert_eq!(k.send(other(hook), &ack), Verdict::Pass);
        k.expect("the other hook", &[]);
        assert!(k.sessions().is_empty());
        let _ = k.records();
        pass(k, &d, CLIENT, &ack, BEGUN, "the client's ACK");
        let raw = k.records();
        let Record::Session(told) = parse(&raw[0]) else { panic!("{raw:?}") };
        assert_eq!((told.key, told.start, told.client_hook), (d.key(), d.start, hook));
        let state = d.state(k);
        assert_eq!((state.next, state.start, state.client_hook), (d.start, d.start, hook));
        assert_eq!((state.unanswered, state.pending, state.flags), (1, pending::GREETING, 0));
        assert_eq!(told.session, state.id);
        pass(k, &d, CLIENT, &ack, &[], "and again");
        // A SYN-ACK for a live session is ignored.
        pass(k, &d, SERVER, &Packet { seq: 1, ..d.syn_ack() }, &[], "SYN-ACK in a session");
        d.server(k, "220 ready");
        k.expect("greeting", JUDGED);
        k.clear();
    }
}

#[test]
fn a_session_may_begin_with_data() {
    let Some(mut k) = shared() else { return };
    let d = Dialogue::new(HOOK_IN, false);
    pass(&mut k, &d, CLIENT, &d.syn(), &[], "SYN");
    pass(&mut k, &d, SERVER, &d.syn_ack(), HALF, "SYN-ACK");
    let first = d.segment(CLIENT, b"USER me\r\n");
    let moved = [("blinded", 1), ("control_segments", 1), ("pipelined", 1), ("records", 2), ("sessions", 1)];
    pass(&mut k, &d, CLIENT, &first, &moved, "data on the ACK, before the greeting");
    assert_eq!(d.state(&k).next[0], d.start[0].wrapping_add(9));
}

#[test]
fn a_connection_that_was_there_before_is_told_once() {
    let Some(mut k) = shared() else { return };
    for (hook, v6) in every_kind() {
        let d = Dialogue::new(hook, v6);
        pass(&mut k, &d, CLIENT, &d.segment(CLIENT, b""), &[], "a bare ACK says nothing");
        let _ = k.records();
        pass(&mut k, &d, SERVER, &d.segment(SERVER, b"227 x\r\n"), &[("midstream", 1)], "midstream");
        let raw = k.records();
        let Record::Stray(told) = parse(&raw[0]) else { panic!("{raw:?}") };
        assert_eq!((told.reason, told.key), (Reason::Midstream as u16, d.key()));
        for side in [CLIENT, SERVER] {
            pass(&mut k, &d, side, &d.segment(side, b"PASV\r\n"), &[], "told once");
        }
        let fin = Packet { flags: tcp::FIN | tcp::ACK, ..d.segment(CLIENT, b"") };
        pass(&mut k, &d, CLIENT, &fin, &[], "its end");
        assert!(k.sessions().is_empty() && k.pinholes().is_empty());
    }
}

#[test]
fn packets_between_two_control_ports_belong_to_nobody() {
    let Some(mut k) = shared() else { return };
    let mut d = Dialogue::new(HOOK_IN, false);
    d.client.set_port(21);
    pass(&mut k, &d, CLIENT, &d.syn(), &[("both_control_ports", 1)], "SYN");
    pass(&mut k, &d, SERVER, &d.syn_ack(), &[("both_control_ports", 1)], "SYN-ACK");
    assert!(k.sessions().is_empty());
}

#[test]
fn a_syn_with_data_is_not_followed() {
    let Some(mut k) = shared() else { return };
    let mut d = Dialogue::new(HOOK_IN, false);
    pass(&mut k, &d, CLIENT, &d.syn().with("USER me\r\n"), &[], "SYN with data");
    pass(&mut k, &d, SERVER, &d.syn_ack(), HALF, "SYN-ACK");
    pass(&mut k, &d, CLIENT, &d.segment(CLIENT, b""), &[("data_in_syn", 1)], "ACK");
    assert!(k.sessions().is_empty());
    d.say(&mut k, SERVER, b"220 ready\r\n");
    k.expect("told already", &[]);
}

#[test]
fn a_packet_by_the_wrong_hook_is_dropped() {
    let Some(mut k) = shared() else { return };
    for (hook, v6) in every_kind() {
        let mut d = Dialogue::ready(&mut k, hook, v6);
        let before = d.state(&k);
        for side in [CLIENT, SERVER] {
            let forged = d.segment(side, b"227 x\r\n");
            assert_eq!(k.send(other(d.hook_of(side)), &forged), Verdict::Drop);
            k.expect("forged", &[("control_dropped", 1), ("wrong_hook", 1)]);
        }
        assert_eq!(d.state(&k), before);
        k.policy(|p| p.mode = Mode::Observe);
        assert_eq!(k.send(other(hook), &d.segment(CLIENT, b"NOOP\r\n")), Verdict::Pass);
        k.expect("observed", &[("wrong_hook", 1)]);
        assert_eq!(d.state(&k), before);
        k.set(&policy(), &guards());
        d.client(&mut k, "NOOP");
        k.expect("the true one", JUDGED);
        // A fragment of a control connection is not read, and does not pass.
        if !v6 {
            let fragment = Packet { fragment: Some((0, true)), ..d.segment(SERVER, b"200 ok\r\n") };
            let moved = [("control_dropped", 1), ("fragment", 1)];
            check(&mut k, &d, SERVER, &fragment, Verdict::Drop, &moved, "fragment");
        }
        k.clear();
    }
}

#[test]
fn the_end_of_the_control_connection_revokes() {
    let Some(mut k) = shared() else { return };
    for (hook, v6) in every_kind() {
        for (side, flags) in [(CLIENT, tcp::FIN), (SERVER, tcp::FIN), (CLIENT, tcp::RST), (SERVER, tcp::RST)] {
            let mut d = Dialogue::ready(&mut k, hook, v6);
            d.open_passive(&mut k, PORT);
            k.restart_counting();
            let end = Packet { flags: tcp::ACK | flags, ..d.segment(side, b"") };
            // Not at exactly the next number: a reset that somebody guesses ends nothing (RFC 5961).
            let off = Packet { seq: end.seq.wrapping_add(1), ..end.clone() };
            pass(&mut k, &d, side, &off, &[("control_segments", 1), ("records", 1)], "off by one");
            assert_eq!(k.pinholes().len(), 1);
            let moved = [("control_segments", 1), ("records", 1), ("revoked", 1)];
            pass(&mut k, &d, side, &end, &moved, "the end");
            assert!(k.pinholes().is_empty());
            assert_ne!(d.state(&k).flags & flag::CLOSING, 0);
            assert_eq!(k.held_by(d.client.ip()), 0);
            // Nothing opens after it.
            let key = PinholeKey {
                initiator: d.client.ip().into(),
                responder: d.server.ip().into(),
                port: PORT,
                hook,
                pad: 0,
            };
            assert_eq!(d.command(&k, op::OPEN, |c| (c.pinhole, c.mode) = (key, pending::PASV)), Outcome::Barred);
            assert_eq!(d.command(&k, op::RESYNC, |_| ()), Outcome::Barred);
            // The same ports may begin anew.
            let mut next = Dialogue { start: [5, 7], next: [5, 7], ..d.clone() };
            let old = d.state(&k).id;
            next.connect(&mut k);
            assert_ne!(next.state(&k).id, old);
            next.login(&mut k);
            next.open_passive(&mut k, PORT);
            k.clear();
        }
        for line in ["QUIT", "REIN", "ABOR", "USER you"] {
            let mut d = Dialogue::ready(&mut k, hook, v6);
            d.open_passive(&mut k, PORT);
            k.restart_counting();
            d.client(&mut k, line);
            k.expect(line, &[JUDGED, &[("revoked", 1)]].concat());
            assert!(k.pinholes().is_empty());
            k.clear();
        }
    }
}

#[test]
fn a_new_announcement_replaces_the_old_one() {
    let Some(mut k) = shared() else { return };
    for (hook, v6) in every_kind() {
        let mut d = Dialogue::ready(&mut k, hook, v6);
        d.open_passive(&mut k, PORT);
        k.restart_counting();
        let key = d.open_passive(&mut k, PORT + 1);
        let moved =
            [("control_judged", 2), ("control_segments", 2), ("opened_fast", 1), ("records", 2), ("revoked", 1)];
        k.expect("replaced", &moved);
        assert_eq!((k.pinhole().0, d.state(&k).pinhole), (key, key));
        d.open_active(&mut k, PORT);
        k.expect("by an active one", &moved);
        assert_eq!((k.pinholes().len(), k.held_by(d.client.ip())), (1, 1));
        // The announcement again, as TCP sends it: nothing opens a second time.
        let before = (k.pinhole(), d.state(&k));
        let reply = "200 ok\r\n";
        let again = Packet { seq: d.next[1].wrapping_sub(reply.len() as u32), ..d.segment(SERVER, reply.as_bytes()) };
        let moved = [("control_retransmitted", 1), ("control_segments", 1), ("records", 1)];
        pass(&mut k, &d, SERVER, &again, &moved, "again");
        assert_eq!(k.pinhole(), before.0);
        assert_eq!(d.state(&k).next, before.1.next);
        k.clear();
    }
}

/// One set of programs with tables so small that they fill.
fn small(sessions: u32) -> Option<Kernel> {
    if !lab::require_root() {
        return None;
    }
    Some(Kernel::load(&Options { sessions, ring_bytes: 4096, instance: None, ..Options::default() }))
}

#[test]
fn full_tables_and_a_full_ring() {
    let Some(mut k) = small(8) else { return };
    full_sessions(&mut k);
    k.reset();
    full_ring_drops(&mut k);
    k.reset();
    full_ring_observed(&mut k);
    k.reset();
    no_daemon(&mut k, OnDaemonLoss::Continue);
    k.reset();
    no_daemon(&mut k, OnDaemonLoss::Close);
}

fn full_sessions(k: &mut Kernel) {
    let mut live: Vec<_> = (0..8).map(|_| Dialogue::ready(k, HOOK_IN, false)).collect();
    let mut d = Dialogue::new(HOOK_IN, false);
    pass(k, &d, CLIENT, &d.syn(), &[], "SYN");
    pass(k, &d, SERVER, &d.syn_ack(), HALF, "SYN-ACK");
    let _ = k.records();
    pass(k, &d, CLIENT, &d.segment(CLIENT, b""), &[("sessions_full", 1)], "no room");
    let records = k.records();
    let Record::Stray(told) = parse(&records[0]) else { panic!("{records:?}") };
    assert_eq!((told.reason, told.key), (Reason::SessionsFull as u16, d.key()));
    d.say(k, SERVER, b"220 ready\r\n");
    d.say(k, CLIENT, b"PASV\r\n");
    k.expect("it passes, is told once, and opens nothing", &[]);
    for d in &mut live {
        d.open_passive(k, PORT);
    }
    assert_eq!((k.sessions().len(), k.pinholes().len()), (8, 8), "what lives stays");
    live[0].command(k, op::FORGET, |_| ());
    k.restart_counting();
    Dialogue::ready(k, HOOK_IN, false);
}

/// Fills the ring with the records of one session.
fn fill(k: &mut Kernel) {
    let mut filler = Dialogue::ready(k, HOOK_OUT, false);
    k.drain();
    k.draining = false;
    // Records of falling sizes, so that not even the smallest finds room behind them.
    for size in [400, 100, 0] {
        let line = format!("NOOP{}{}\r\n", if size > 0 { " " } else { "" }, "x".repeat(size));
        let mut n = 0;
        while k.send(filler.hook, &filler.segment(CLIENT, line.as_bytes())) == Verdict::Pass {
            let i = usize::from(CLIENT);
            filler.next[i] = filler.next[i].wrapping_add(line.len() as u32);
            n += 1;
            assert!(n < 100, "the ring does not fill");
        }
    }
    k.restart_counting();
}

fn full_ring_drops(k: &mut Kernel) {
    let mut d = Dialogue::ready(k, HOOK_IN, false);
    d.client(k, "PASV");
    fill(k);
    let before = d.state(k);
    let reply = d.reply_227(PORT);
    let packet = d.segment(SERVER, format!("{reply}\r\n").as_bytes());
    let full = [("control_dropped", 1), ("control_segments", 1), ("ring_full", 1)];
    for _ in 0..3 {
        check(k, &d, SERVER, &packet, Verdict::Drop, &full, "no room");
        assert_eq!(d.state(k), before);
        assert!(k.pinholes().is_empty());
        assert_eq!(k.held_by(d.client.ip()), 0);
    }
    // A new connection waits too.
    let fresh = Dialogue::new(HOOK_IN, false);
    pass(k, &fresh, CLIENT, &fresh.syn(), &[], "SYN");
    pass(k, &fresh, SERVER, &fresh.syn_ack(), HALF, "SYN-ACK");
    let ack = fresh.segment(CLIENT, b"");
    check(k, &fresh, CLIENT, &ack, Verdict::Drop, &[("ring_full", 1)], "no room for the session's record");
    assert!(k.session(&fresh.key()).is_none());
    // The daemon reads again: TCP sends again, and all is well.
    k.drain();
    k.draining = true;
    let opened = [JUDGED, &[("opened_fast", 1)]].concat();
    pass(k, &d, SERVER, &packet, &opened, "sent again");
    assert_eq!(k.pinhole().0.port, PORT);
    pass(k, &fresh, SERVER, &fresh.syn_ack(), HALF, "SYN-ACK again");
    pass(k, &fresh, CLIENT, &ack, BEGUN, "ACK again");
    // Data connections: neither their beginning nor their end goes untold.
    let data = Data::through(&k.pinhole().0, SOURCE);
    assert_eq!(data.send(k, &data.syn()), Verdict::Pass);
    fill(k);
    assert_eq!(data.answer(k, &data.syn_ack()), Verdict::Drop);
    k.expect("no room for its beginning", &[("ring_full", 1)]);
    assert_eq!((k.flows().len(), k.pinholes().len()), (0, 1));
    k.drain();
    assert_eq!(data.answer(k, &data.syn_ack()), Verdict::Pass);
    k.expect("its beginning", &[("records", 1), ("used", 1)]);
    fill(k);
    let reset = data.back(tcp::RST, 1, b"");
    assert_eq!(data.answer(k, &reset), Verdict::Drop);
    k.expect("no room for its end", &[("ring_full", 1)]);
    assert_eq!(k.flows().len(), 1);
    k.drain();
    assert_eq!(data.answer(k, &reset), Verdict::Pass);
    k.expect("its end", &[("flows_ended", 1), ("records", 1)]);
    k.draining = true;
}

fn full_ring_observed(k: &mut Kernel) {
    let mut d = Dialogue::ready(k, HOOK_IN, false);
    fill(k);
    k.policy(|p| p.mode = Mode::Observe);
    let line = d.segment(CLIENT, b"NOOP\r\n");
    let lost = [("control_judged", 1), ("control_segments", 1), ("unrecorded", 1)];
    pass(k, &d, CLIENT, &line, &lost, "passed unread");
    assert_ne!(d.state(k).flags & flag::LOST, 0);
    k.drain();
    k.draining = true;
    d.next[0] = d.next[0].wrapping_add(6);
    d.say(k, SERVER, b"200 ok\r\n");
    d.say(k, CLIENT, b"EPSV\r\n");
    d.say(k, SERVER, format!("229 (|||{PORT}|)\r\n").as_bytes());
    assert!(k.pinholes().is_empty(), "lost for good");
    assert_eq!(d.command(k, op::RESYNC, |_| ()), Outcome::Barred);
}

fn no_daemon(k: &mut Kernel, on_loss: OnDaemonLoss) {
    k.policy(|p| p.on_daemon_loss = on_loss);
    let mut sighted = Dialogue::ready(k, HOOK_IN, false);
    let mut other = Dialogue::ready(k, HOOK_IN, true);
    fill(k);
    k.live(false);
    let opens = on_loss == OnDaemonLoss::Continue;
    // Canonical dialogues go on, unrecorded.
    let mut say = |k: &mut Kernel, side, text: String, moved: &[(&'static str, u64)]| {
        let packet = sighted.segment(side, text.as_bytes());
        pass(k, &sighted, side, &packet, moved, &text);
        let next = &mut sighted.next[usize::from(side)];
        *next = next.wrapping_add(text.len() as u32);
        sighted.state(k)
    };
    let unseen = [("control_judged", 1), ("control_segments", 1), ("passed_unrecorded", 1)];
    let state = say(k, CLIENT, "EPSV\r\n".into(), &unseen);
    assert_eq!(state.flags, flag::LOGGED_IN | flag::UNRECORDED);
    let reply = format!("229 Extended (|||{PORT}|)\r\n");
    if opens {
        let state = say(k, SERVER, reply, &[&unseen[..], &[("opened_fast", 1)]].concat());
        assert_eq!(state.flags, flag::LOGGED_IN | flag::UNRECORDED);
        assert_eq!(k.pinhole().0.port, PORT);
        let data = Data::through(&k.pinhole().0, SOURCE);
        data.connect(k);
        // Of a pinhole that a reset gives back somebody would have to know.
        assert_eq!(data.send(k, &data.forth(tcp::RST, 1, b"")), Verdict::Pass);
        assert!(k.pinholes().is_empty() && k.flows().is_empty(), "{}", k.dump());
        k.expect("a transfer without anybody to tell", &[("flows_ended", 1), ("syn_passed", 1), ("used", 1)]);
    } else {
        let moved = [("blinded", 1), ("control_segments", 1), ("daemon_loss", 1), ("passed_unrecorded", 1)];
        let state = say(k, SERVER, reply, &moved);
        assert_ne!(state.flags & flag::BLIND, 0);
        assert!(k.pinholes().is_empty());
    }
    // What the kernel did not judge passes and blinds.
    let moved = [("blinded", 1), ("control_segments", 1), ("passed_unrecorded", 1), ("split", 1)];
    pass(k, &other, CLIENT, &other.segment(CLIENT, b"NO"), &moved, "half a line");
    assert_ne!(other.state(k).flags & flag::BLIND, 0);
    // New connections are followed.
    let fresh = Dialogue::new(HOOK_IN, false);
    pass(k, &fresh, CLIENT, &fresh.syn(), &[], "SYN");
    pass(k, &fresh, SERVER, &fresh.syn_ack(), HALF, "SYN-ACK");
    pass(k, &fresh, CLIENT, &fresh.segment(CLIENT, b""), &[("sessions", 1)], "ACK");
    assert_eq!(fresh.state(k).flags, flag::UNRECORDED);
    // The daemon opens nothing in a session of which it has not seen everything.
    let key = fresh.key();
    let pinhole = PinholeKey { initiator: key.client, responder: key.server, port: PORT, hook: HOOK_IN, pad: 0 };
    let open = |c: &mut Command| (c.pinhole, c.mode, c.seq) = (pinhole, pending::PASV, 77);
    assert_eq!(fresh.command(k, op::OPEN, open), Outcome::Unseen);
    // The daemon comes back: the next record says that there was a gap, and the one after it that there is none.
    k.drain();
    k.draining = true;
    k.live(true);
    other.next[0] = other.next[0].wrapping_add(2);
    let step = other.say(k, CLIENT, b"OP\r\n");
    assert_ne!(step.records[0].0.flags & flag::UNRECORDED, 0);
    assert_eq!(other.state(k).flags & flag::UNRECORDED, 0);
    assert!(!step.made().has(bit::OPEN));
}
