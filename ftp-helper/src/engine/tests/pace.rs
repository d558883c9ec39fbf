//! A daemon that is behind, comes late, or reads what two CPUs had in hand at once: what the simulator has found.

use ftp_helper_common::state::{SessionState, pending};

use super::*;

/// The record of a 227 that the fast path has opened by, to a PASV that was sent.
fn opening(sim: &mut Sim) -> SegmentRecord {
    sim.client("PASV\r\n");
    let record = SegmentRecord {
        kind: kind::SEGMENT,
        side: SERVER,
        tcp_flags: tcp::ACK,
        seq: sim.next[1],
        ack: sim.next[0],
        segment_len: PASV_OK.len() as u32,
        made: Made(bit::JUDGED | bit::ANSWERED | bit::OPEN).with_port(PORT.into()),
        pending: pending::PASV,
        unanswered: 1,
        next: sim.next,
        ..sim.blank()
    };
    sim.next[1] = sim.next[1].wrapping_add(record.segment_len);
    record
}

fn read(sim: &mut Sim, record: SegmentRecord) {
    sim.record(&Record::Segment(record, PASV_OK.as_bytes()));
}

fn count(sim: &Sim, op: u32) -> usize {
    sim.commands.iter().filter(|(c, _)| c.op == op).count()
}

fn used(sim: &Sim, session: u64, seq: u32, time: Nanos) -> FlowRecord {
    let key = FlowKey { initiator: sim.key.client, responder: sim.key.server, initiator_port: 1, responder_port: PORT };
    FlowRecord {
        kind: kind::FLOW_START,
        session,
        seq,
        mode: pending::PASV,
        time,
        start: time,
        deadline: time + 10 * SECOND,
        key,
        ..Default::default()
    }
}

#[test]
fn about_what_is_used_at_once_the_kernel_is_not_asked() {
    for (after, asked) in [(0, 0), (ASKED / 2, 0), (ASKED, 1)] {
        let mut sim = Sim::logged_in(policy());
        let record = opening(&mut sim);
        read(&mut sim, record);
        sim.wait(after);
        sim.record(&Record::FlowStart(used(&sim, ID, record.seq, sim.now)));
        sim.wait(SECOND);
        assert_eq!((sim.opened(), sim.of(Kind::Used).count(), sim.open_now()), (vec![PORT], 1, 0));
        assert_eq!((count(&sim, op::CONFIRM), sim.of(Kind::Confirmed).count()), (asked, asked), "{after}");
    }
}

#[test]
fn a_pinhole_is_not_opened_again_before_its_use_can_have_been_read() {
    let mut sim = Sim::logged_in(policy());
    let record = opening(&mut sim);
    sim.outcome = Outcome::NoPinhole;
    read(&mut sim, record);
    sim.wait(ASKED);
    let asked = sim.now;
    // A second later the daemon comes to records that are as old as its question.
    sim.now += SECOND;
    sim.record(&Record::FlowStart(used(&sim, ID + 1, 0, asked - 2)));
    assert_eq!(count(&sim, op::OPEN), 0);
    sim.record(&Record::FlowStart(used(&sim, ID, record.seq, asked - 1)));
    sim.wait(SECOND);
    assert_eq!((count(&sim, op::OPEN), sim.open_now()), (0, 0));
    // Without a use it is opened, once all has been read.
    let mut sim = Sim::logged_in(policy());
    let record = opening(&mut sim);
    sim.outcome = Outcome::NoPinhole;
    read(&mut sim, record);
    sim.wait(ASKED);
    sim.outcome = Outcome::Done;
    sim.wait(SECOND);
    assert_eq!((count(&sim, op::OPEN), sim.open_now()), (1, 1));
}

#[test]
fn a_pinhole_is_not_opened_again_where_records_are_missing() {
    // The kernel knows of segments that nobody was told of.
    let mut sim = Sim::logged_in(policy());
    let record = opening(&mut sim);
    sim.outcome = Outcome::NoPinhole;
    read(&mut sim, record);
    sim.wait(ASKED);
    sim.outcome = Outcome::Unseen;
    sim.wait(SECOND);
    assert_eq!((count(&sim, op::OPEN), sim.open_now()), (1, 0));
    assert_eq!(sim.reasons(Kind::Refused), ["daemon_loss"]);
    // A record tells of the gap first.
    let mut sim = Sim::logged_in(policy());
    let record = opening(&mut sim);
    sim.outcome = Outcome::NoPinhole;
    read(&mut sim, record);
    sim.wait(ASKED);
    sim.next = sim.next.map(|n| n.wrapping_add(10));
    let flags = flag::LOGGED_IN | flag::UNRECORDED;
    let segment = SegmentRecord {
        kind: kind::SEGMENT,
        tcp_flags: tcp::ACK,
        seq: sim.next[0],
        ack: sim.next[1],
        next: sim.next,
        segment_len: 6,
        flags,
        ..sim.blank()
    };
    sim.record(&Record::Segment(segment, b"NOOP\r\n"));
    sim.outcome = Outcome::Done;
    sim.wait(SECOND);
    assert_eq!((count(&sim, op::OPEN), sim.open_now()), (0, 0));
    assert_eq!(sim.reasons(Kind::Revoked), ["daemon_loss"]);
}

#[test]
fn a_dialogue_that_was_joined_blind_takes_nobody_for_logged_in_by_a_reply_to_what_it_skipped() {
    for (lines, what) in [
        (&["S: 426 lost", "C: NOOP", "C: USER me", "S: 502 no", "S: 331 password"][..], "a reply to what was skipped"),
        (&["S: 150 go", "C: USER me", "S: 331 password"][..], "USER was skipped"),
    ] {
        let mut sim = Sim::logged_in(policy());
        let flags = flag::BLIND | flag::LOGGED_IN;
        let state = SessionState { id: ID, next: sim.next, start: START, flags, ..SessionState::default() };
        sim.engine = Engine::new(policy(), 0);
        sim.engine.adopt(sim.now, &sim.key, &state);
        sim.drain();
        sim.talk(lines);
        sim.talk(&["C: PASS wrong", "S: 530 no", "C: NOOP", "S: 200 ok", "C: EPSV", "S: 229 (|||50070|)"]);
        assert_eq!((sim.opened(), sim.reasons(Kind::Refused)), (vec![], vec!["not_logged_in"]), "{what}");
        sim.talk(&["C: USER me", "S: 331 password", "C: PASS x", "S: 230 in", "C: EPSV", "S: 229 (|||50071|)"]);
        assert_eq!(sim.opened(), [50071], "{what}");
    }
}

#[test]
fn a_pinhole_that_is_being_opened_is_asked_about_again() {
    let mut sim = Sim::logged_in(policy());
    let record = opening(&mut sim);
    sim.outcome = Outcome::Busy;
    read(&mut sim, record);
    assert_eq!(count(&sim, op::CONFIRM), 0);
    sim.wait(ASKED);
    assert_eq!((count(&sim, op::CONFIRM), sim.of(Kind::Confirmed).count()), (1, 0));
    sim.outcome = Outcome::Done;
    sim.wait(SECOND / 100);
    assert_eq!((count(&sim, op::CONFIRM), sim.of(Kind::Confirmed).count()), (2, 1));
    assert_eq!((count(&sim, op::OPEN), sim.open_now()), (0, 1));
}

#[test]
fn what_the_engine_and_the_fast_path_open_by_copies_of_one_segment_is_open_once() {
    for used_before in [false, true] {
        let mut sim = Sim::logged_in(policy());
        let record = opening(&mut sim);
        // Nothing is known of it to the CPU that has it first.
        read(&mut sim, SegmentRecord { made: Made::default(), ..record });
        assert_eq!((sim.opened_by(By::Daemon), sim.open_now()), (1, 1));
        if used_before {
            sim.record(&Record::FlowStart(used(&sim, ID, record.seq, sim.now)));
        }
        read(&mut sim, record);
        assert_eq!((sim.opened(), sim.engine.stats().divergences), (vec![PORT], 0));
        assert_eq!((sim.open_now(), count(&sim, op::REVOKE)), if used_before { (0, 1) } else { (1, 0) });
    }
}

#[test]
fn a_segment_that_two_cpus_had_in_hand_opens_once() {
    let mut sim = Sim::logged_in(policy());
    let record = opening(&mut sim);
    read(&mut sim, record);
    read(&mut sim, record);
    assert_eq!((sim.opened(), sim.open_now(), sim.engine.stats().divergences), (vec![PORT], 1, 0));
    assert_eq!(count(&sim, op::REVOKE), 0);
}

#[test]
fn an_opening_names_the_announcement_that_it_replaces() {
    let mut sim = Sim::logged_in(policy());
    let first = opening(&mut sim);
    read(&mut sim, first);
    sim.talk(&["C: EPSV", "S: 229 (|||50070|)", "C: EPSV", "S: 229 (|||50071|)"]);
    let opens: Vec<Command> = sim.commands.iter().filter(|(c, _)| c.op == op::OPEN).map(|(c, _)| *c).collect();
    assert_eq!(opens.iter().map(|c| c.replaces).collect::<Vec<_>>(), [first.seq, opens[0].seq]);
}

#[test]
fn a_used_pinhole_is_not_taken_over() {
    for (outcome, open) in [(Outcome::Done, 1), (Outcome::Used, 0), (Outcome::NoPinhole, 0)] {
        let mut sim = Sim::logged_in(policy());
        let state = SessionState {
            id: ID + 1,
            next: START,
            start: START,
            flags: flag::LOGGED_IN,
            pinhole: PinholeKey { initiator: sim.key.client, responder: sim.key.server, port: PORT, hook: 0, pad: 0 },
            pinhole_seq: 7,
            ..SessionState::default()
        };
        sim.outcome = outcome;
        sim.engine.adopt(sim.now, &sim.key, &state);
        sim.drain();
        assert_eq!(sim.open_now(), open, "{outcome:?}");
        sim.wait(20 * SECOND);
        assert_eq!((count(&sim, op::OPEN), sim.of(Kind::Expired).count()), (0, open), "{outcome:?}");
    }
}

#[test]
fn a_reset_gives_back_what_a_daemon_before_saw_used() {
    let mut sim = Sim::logged_in(policy());
    let flow = used(&sim, ID + 1, 7, sim.now);
    let key = PinholeKey { initiator: sim.key.client, responder: sim.key.server, port: PORT, hook: 0, pad: 0 };
    let state = SessionState {
        id: ID + 1,
        next: START,
        start: START,
        flags: flag::LOGGED_IN,
        pinhole: key,
        pinhole_seq: 7,
        ..SessionState::default()
    };
    sim.outcome = Outcome::Used;
    sim.engine.adopt(sim.now, &sim.key, &state);
    let state = ftp_helper_common::state::FlowState { session: ID + 1, ..Default::default() };
    sim.engine.adopt_flow(sim.now, &flow.key, &state);
    sim.drain();
    assert_eq!(sim.open_now(), 0);
    sim.outcome = Outcome::Done;
    sim.record(&Record::FlowRearmed(FlowRecord { kind: kind::FLOW_REARMED, ..flow }));
    assert_eq!(sim.open_now(), 1);
    sim.wait(20 * SECOND);
    assert_eq!((sim.open_now(), count(&sim, op::REVOKE)), (0, 1));
    assert_eq!(sim.engine.connections().count(), 0);
}

#[test]
fn a_reset_gives_nothing_back_once_it_was_revoked() {
    for after in ["C: ABOR", "C: QUIT", "C: USER you", "C: REIN", "C: AUTH TLS", "C: EPSV", "nothing"] {
        let mut sim = Sim::logged_in(policy());
        sim.client("PASV\r\n");
        sim.server(PASV_OK);
        let flow = sim.flow_start(PORT);
        if after != "nothing" {
            sim.talk(&[after]);
            sim.talk(&[if after == "C: EPSV" { "S: 229 (|||50077|)" } else { "S: 500 no" }]);
        }
        let (open, revoked) = (sim.open_now(), count(&sim, op::REVOKE));
        // A kernel that is blind has not seen it.
        sim.record(&Record::FlowRearmed(FlowRecord { kind: kind::FLOW_REARMED, ..flow }));
        if after == "nothing" {
            assert_eq!((sim.open_now(), count(&sim, op::REVOKE)), (1, revoked));
        } else {
            assert_eq!((sim.open_now(), count(&sim, op::REVOKE)), (open, revoked + 1), "{after}");
            assert_eq!(sim.commands.last().unwrap().0.seq, flow.seq, "{after}");
        }
    }
}

#[test]
fn a_kernel_that_has_not_come_to_where_the_engine_is_is_asked_again_to_see() {
    let mut sim = Sim::logged_in(policy());
    sim.outcome = Outcome::MovedOn;
    sim.client("NOOP\r\n");
    let reply = "200 ok\r\n";
    let record = SegmentRecord {
        kind: kind::SEGMENT,
        side: SERVER,
        tcp_flags: tcp::ACK,
        seq: sim.next[1],
        ack: sim.next[0],
        segment_len: reply.len() as u32,
        flags: flag::BLIND | flag::LOGGED_IN,
        next: sim.next,
        epoch: 5,
        ..sim.blank()
    };
    sim.next[1] = sim.next[1].wrapping_add(record.segment_len);
    sim.record(&Record::Segment(record, reply.as_bytes()));
    assert_eq!(count(&sim, op::RESYNC), 1);
    sim.wait(2_000_000);
    assert_eq!(count(&sim, op::RESYNC), 2, "the segment may not have been committed");
    sim.outcome = Outcome::Done;
    sim.wait(SECOND);
    assert_eq!((count(&sim, op::RESYNC), sim.engine.stats().resyncs_applied), (3, 1));
    // Not for ever.
    sim.outcome = Outcome::MovedOn;
    let again =
        SegmentRecord { flags: flag::BLIND | flag::LOGGED_IN, epoch: 6, segment_len: 0, next: sim.next, ..record };
    sim.record(&Record::Segment(SegmentRecord { seq: sim.next[1], ..again }, b""));
    sim.wait(10 * SECOND);
    assert_eq!(count(&sim, op::RESYNC), 3 + 1 + 6);
}

#[test]
fn what_was_used_before_it_could_be_confirmed_is_not_open() {
    let mut sim = Sim::logged_in(policy());
    let record = opening(&mut sim);
    sim.outcome = Outcome::Used;
    read(&mut sim, record);
    sim.wait(ASKED);
    assert_eq!((sim.opened(), sim.open_now()), (vec![PORT], 0));
    sim.outcome = Outcome::Done;
    // The record comes, and a reset behind it.
    let flow = used(&sim, ID, record.seq, sim.now);
    sim.record(&Record::FlowStart(flow));
    sim.record(&Record::FlowRearmed(FlowRecord { kind: kind::FLOW_REARMED, ..flow }));
    assert_eq!(sim.open_now(), 1);
}

#[test]
fn a_kernel_that_sees_again_is_told_which_endpoint_waits_for_its_transfer() {
    let policy = Policy { active_open: crate::engine::policy::ActiveOpen::Transfer, ..policy() };
    let mut sim = Sim::logged_in(policy);
    sim.client("PORT 192,0,2,10,195,149\r\n");
    let reply = "200 ok\r\n";
    let record = SegmentRecord {
        kind: kind::SEGMENT,
        side: SERVER,
        tcp_flags: tcp::ACK,
        seq: sim.next[1],
        ack: sim.next[0],
        segment_len: reply.len() as u32,
        flags: flag::BLIND | flag::LOGGED_IN,
        next: sim.next,
        ..sim.blank()
    };
    sim.record(&Record::Segment(record, reply.as_bytes()));
    let (command, _) = sim.commands.iter().find(|(c, _)| c.op == op::RESYNC).unwrap();
    assert_eq!((command.flags, command.mode), (flag::LOGGED_IN | flag::ARMED, pending::PORT));
    assert_eq!(command.pinhole.port, 50069);
}
