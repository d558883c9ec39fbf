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
        key,
        ..Default::default()
    }
}

#[test]
fn a_pinhole_is_not_opened_again_before_its_use_can_have_been_read() {
    let mut sim = Sim::logged_in(policy());
    let record = opening(&mut sim);
    sim.outcome = Outcome::NoPinhole;
    read(&mut sim, record);
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
    sim.outcome = Outcome::Done;
    sim.wait(SECOND);
    assert_eq!((count(&sim, op::OPEN), sim.open_now()), (1, 1));
}

#[test]
fn a_pinhole_that_is_being_opened_is_asked_about_again() {
    let mut sim = Sim::logged_in(policy());
    let record = opening(&mut sim);
    sim.outcome = Outcome::Busy;
    read(&mut sim, record);
    assert_eq!((count(&sim, op::CONFIRM), sim.of(Kind::Confirmed).count()), (1, 0));
    sim.outcome = Outcome::Done;
    sim.wait(SECOND / 100);
    assert_eq!((count(&sim, op::CONFIRM), sim.of(Kind::Confirmed).count()), (2, 1));
    assert_eq!((count(&sim, op::OPEN), sim.open_now()), (0, 1));
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
    let flow = used(&sim, ID, 7, sim.now);
    let state = ftp_helper_common::state::FlowState { session: ID, ..Default::default() };
    sim.engine.adopt_flow(sim.now, &flow.key, &state);
    sim.record(&Record::FlowRearmed(FlowRecord { kind: kind::FLOW_REARMED, ..flow }));
    assert_eq!(sim.open_now(), 1);
    sim.wait(20 * SECOND);
    assert_eq!((sim.open_now(), count(&sim, op::REVOKE)), (0, 1));
    assert_eq!(sim.engine.connections().count(), 0);
}
