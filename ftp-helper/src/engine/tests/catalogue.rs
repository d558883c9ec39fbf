//! What of the catalogue is no matter of one dialogue's openings: memory, what is told, and interfaces. The stimuli and
//! their verdicts are data in the end-to-end tests, run there on the engine as well.

use super::*;

#[test]
fn a81_commands_without_end_cost_no_memory() {
    let mut sim = Sim::logged_in(policy());
    for _ in 0..10_000 {
        sim.client("NOOP\r\n");
    }
    assert_eq!(sim.reasons(Kind::Tainted), ["pipeline_overflow"]);
    assert!(sim.engine.sessions.values().map(|s| s.heap()).sum::<usize>() < 4096);
}

#[test]
fn a62_another_interface_of_the_same_side_is_told_once_and_changes_nothing() {
    let mut sim = Sim::logged_in(policy());
    let mut say = |side: u8, text: &str, ifindex: u32| {
        let i = usize::from(side);
        let record = SegmentRecord {
            kind: kind::SEGMENT,
            side,
            tcp_flags: tcp::ACK,
            seq: sim.next[i],
            ack: sim.next[1 - i],
            segment_len: text.len() as u32,
            ifindex,
            ..sim.blank()
        };
        sim.next[i] = sim.next[i].wrapping_add(text.len() as u32);
        sim.record(&Record::Segment(record, text.as_bytes()));
        let told = sim.of(Kind::Denied);
        told.map(|e| (e.reason.unwrap().as_str(), e.connection.as_ref().unwrap().dropped)).collect::<Vec<_>>()
    };
    let none: Vec<(&str, Option<bool>)> = Vec::new();
    assert_eq!(say(CLIENT, "NOOP\r\n", 2), none);
    assert_eq!(say(SERVER, "200 ok\r\n", 3), none, "the two sides differ anyhow");
    let told = vec![("interface_changed", Some(false))];
    assert_eq!(say(CLIENT, "PASV\r\n", 4), told);
    assert_eq!(say(SERVER, PASV_OK, 5), told, "once a session");
    assert_eq!(say(CLIENT, "NOOP\r\n", 2), told);
    assert_eq!((sim.opened(), sim.open_now()), (vec![PORT], 1));
}

#[test]
fn a84_refusals_are_told_at_a_bounded_rate_and_all_counted() {
    let mut sim = Sim::logged_in(policy());
    for _ in 0..500 {
        sim.talk(&["C: PORT 10,0,0,200,195,149", "S: 200 ok"]);
    }
    assert_eq!(sim.of(Kind::Refused).count(), 32);
    assert_eq!((sim.engine.stats().refused_total(), sim.engine.stats().refusals_untold), (500, 468));
    sim.wait(3 * SECOND);
    for _ in 0..10 {
        sim.talk(&["C: PORT 10,0,0,200,195,149", "S: 200 ok"]);
    }
    assert_eq!(sim.of(Kind::Refused).count(), 35);
    // What opens is told always.
    sim.talk(&["C: PASV", "S: 227 (198,51,100,5,195,149)"]);
    assert_eq!(sim.opened(), [PORT]);
}

#[test]
fn a85_nothing_from_the_wire_reaches_people_unescaped() {
    let mut sim = Sim::logged_in(policy());
    sim.talk(&["C: PORT \x1b[2J\"\u{9b}x\u{7}", "S: 200 ok"]);
    let detail = sim.of(Kind::Refused).next().unwrap().detail.clone().unwrap();
    assert!(detail.chars().all(|c| c.is_ascii_graphic() || c == ' '), "{detail}");
}
