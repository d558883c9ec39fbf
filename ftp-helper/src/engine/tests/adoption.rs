//! Sessions that are taken over: from the kernel's table, and from the first record behind those that were missed.

use ftp_helper_common::state::{FlowState, SessionState, pending};

use super::*;

#[test]
fn adoption_goes_on_where_the_kernel_stands() {
    let mut old = Sim::with_kernel(policy()).login();
    old.talk(&["C: EPSV", "S: 229 (|||50070|)", "C: PASV"]);
    let (next, kernel) = (old.next, old.kernel.take().unwrap());
    let mut state = kernel.machine.state;
    state.id = ID;
    let (hole, seq) = kernel.pinhole.unwrap();
    (state.pinhole, state.pinhole_seq) = (hole, seq);
    let mut sim = Sim::with_kernel(policy());
    sim.engine = Engine::new(policy(), 0);
    (sim.next, sim.kernel) = (next, Some(kernel));
    sim.engine.adopt(sim.now, &sim.key, &state);
    let flow = FlowState { session: ID, ..FlowState::default() };
    sim.engine.adopt_flow(sim.now, &FlowKey { initiator: sim.key.client, ..FlowKey::default() }, &flow);
    sim.drain();
    assert_eq!((sim.open_now(), sim.engine.sessions().next().unwrap().running), (1, 1));
    sim.server(PASV_OK);
    assert_eq!((sim.opened(), sim.opened_by(By::Kernel)), (vec![PORT], 1));
    assert_eq!(sim.engine.stats().divergences, 0);
}

#[test]
fn records_of_before_the_adoption_diverge_from_nothing() {
    let mut sim = Sim::with_kernel(policy()).login();
    let mut unread = Vec::new();
    for (side, text) in [(CLIENT, "PASV\r\n"), (SERVER, PASV_OK)] {
        let i = usize::from(side);
        let data = text.as_bytes().to_vec();
        let wire = Wire { side, flags: tcp::ACK, seq: sim.next[i], ack: sim.next[1 - i], data };
        let made = sim.kernel.as_mut().unwrap().segment(&wire);
        let segment_len = text.len() as u32;
        let (kind, seq, ack) = (kind::SEGMENT, wire.seq, wire.ack);
        unread.push((SegmentRecord { kind, side, seq, ack, segment_len, made, ..sim.blank() }, text));
        sim.next[i] = sim.next[i].wrapping_add(segment_len);
    }
    assert!(unread[1].0.made.has(bit::OPEN));
    let mut state = sim.kernel.as_ref().unwrap().machine.state;
    state.id = ID;
    sim.engine = Engine::new(policy(), 0);
    sim.engine.adopt(sim.now, &sim.key, &state);
    for (record, text) in unread {
        sim.record(&Record::Segment(record, text.as_bytes()));
    }
    assert_eq!(sim.engine.stats().divergences, 0);
}

#[test]
fn records_that_were_missed() {
    // The daemon was away while the kernel judged: it goes on where the kernel stands, at the reply as between commands.
    for missed in [&["C: PASV"][..], &["C: PASV", "S: 227 (198,51,100,5,195,148)", "C: NOOP", "S: 200 ok"]] {
        let mut sim = Sim::with_kernel(policy()).login();
        for line in missed {
            let (side, text) = parse(line);
            let i = usize::from(side);
            let wire =
                Wire { side, flags: tcp::ACK, seq: sim.next[i], ack: sim.next[1 - i], data: text.clone().into_bytes() };
            sim.kernel.as_mut().unwrap().segment(&wire);
            sim.next[i] = sim.next[i].wrapping_add(text.len() as u32);
        }
        sim.kernel.as_mut().unwrap().machine.state.flags |= flag::UNRECORDED;
        if missed.len() > 1 {
            sim.client("PASV\r\n");
        }
        sim.server(PASV_OK);
        assert_eq!((sim.opened(), sim.opened_by(By::Kernel)), (vec![PORT], 1));
        assert_eq!(sim.engine.stats().divergences, 0);
    }
    // Bytes that nobody read: nothing opens any more.
    let mut sim = Sim::with_kernel(policy()).login();
    sim.kernel.as_mut().unwrap().machine.state.flags |= flag::LOST;
    sim.client("PASV\r\n");
    sim.server(PASV_OK);
    assert_eq!((sim.reasons(Kind::Tainted), sim.opened().len()), (vec!["unrecorded"], 0));
    // A blind kernel, found by its records: trusted after two whole exchanges.
    let mut sim = Sim::with_kernel(policy()).login();
    sim.kernel.as_mut().unwrap().machine.state.flags |= flag::BLIND;
    sim.engine = Engine::new(policy(), 0);
    for n in 0..4 {
        sim.talk(&["C: PASV", "S: 227 (198,51,100,5,195,149)"]);
        assert_eq!(sim.opened().len(), if n < 3 { 0 } else { 1 }, "{n}");
    }
}

#[test]
fn the_snapshot_of_a_greeting() {
    // Found before the greeting: it is still awaited.
    let mut sim = Sim::new(policy());
    sim.engine = Engine::new(policy(), 0);
    let state = SessionState {
        id: ID,
        next: START,
        start: START,
        command_end: START[0],
        unanswered: 1,
        pending: pending::GREETING,
        ..SessionState::default()
    };
    sim.engine.adopt(sim.now, &sim.key, &state);
    sim.talk(LOGIN);
    sim.talk(&["C: PASV", "S: 227 (198,51,100,5,195,149)"]);
    assert_eq!(sim.opened(), [PORT]);
}
