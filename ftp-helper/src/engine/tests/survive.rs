//! Daemons that die at any moment: the next one opens what the one before would have.

use std::collections::VecDeque;

use super::*;
use crate::engine::{Left, SAVED_MAX};

/// What one death is like.
#[derive(Clone, Copy, Debug)]
struct Death {
    /// After how many records that were dealt with.
    after: usize,
    /// How many records the daemon is behind the kernel all the time.
    behind: usize,
    /// The last record that was dealt with is not counted as read, and what was saved after it is lost.
    uncounted: bool,
}

/// A record and its payload.
type Unread = (SegmentRecord, Vec<u8>);

/// Runs a dialogue, given as segments after the login, with one death; which ports were opened, each as often as it was.
fn run(segments: &[(u8, Vec<u8>)], death: Option<Death>) -> Vec<u16> {
    let mut sim = Sim::with_kernel(policy()).login();
    let before = sim.kernel.as_ref().unwrap().opened.len();
    let behind = death.map_or(0, |d| d.behind);
    let mut unread: VecDeque<Unread> = VecDeque::new();
    let mut saved = None;
    let mut read = 0;
    let mut read_one = |sim: &mut Sim, unread: &mut VecDeque<Unread>| {
        let Some(one) = unread.pop_front() else { return };
        sim.record(&Record::Segment(one.0, &one.1));
        let old = saved.take();
        saved = save(sim);
        read += 1;
        if let Some(death) = death.filter(|d| d.after == read) {
            if death.uncounted {
                saved = old;
                unread.push_front(one);
            }
            die(sim, unread, saved.as_deref());
            unread.clear();
            saved = save(sim);
        }
    };
    for (side, data) in segments {
        unread.push_back(judge(&mut sim, *side, data));
        while unread.len() > behind {
            read_one(&mut sim, &mut unread);
        }
    }
    while !unread.is_empty() {
        read_one(&mut sim, &mut unread);
    }
    assert!(sim.reasons(Kind::Tainted).is_empty() && sim.engine.stats().divergences == 0, "{:?}", sim.events);
    let fast = sim.kernel.as_ref().unwrap().opened[before..].iter().map(|k| k.port);
    let slow =
        sim.commands.iter().filter(|(c, o)| c.op == op::OPEN && *o == Outcome::Done).map(|(c, _)| c.pinhole.port);
    let mut ports: Vec<u16> = fast.chain(slow).collect();
    ports.sort_unstable();
    ports
}

/// The kernel's part of a segment.
fn judge(sim: &mut Sim, side: u8, data: &[u8]) -> Unread {
    let i = usize::from(side);
    let wire = Wire { side, flags: tcp::ACK, seq: sim.next[i], ack: sim.next[1 - i], data: data.to_vec() };
    sim.next[i] = sim.next[i].wrapping_add(data.len() as u32);
    let blank = sim.blank();
    let kernel = sim.kernel.as_mut().unwrap();
    let state = kernel.machine.state;
    let record = SegmentRecord {
        kind: kind::SEGMENT,
        side,
        tcp_flags: wire.flags,
        seq: wire.seq,
        ack: wire.ack,
        segment_len: data.len() as u32,
        flags: state.flags,
        epoch: state.epoch,
        next: state.next,
        pending: state.pending,
        unanswered: state.unanswered,
        made: kernel.segment(&wire),
        ..blank
    };
    (record, data.to_vec())
}

fn save(sim: &Sim) -> Option<Vec<u8>> {
    let mut bytes = [0; SAVED_MAX];
    sim.engine.save(ID, &mut bytes).map(|_| bytes.to_vec())
}

/// Another engine takes over from what is left: the kernel's table, what was saved, and the unread records.
fn die(sim: &mut Sim, unread: &VecDeque<Unread>, saved: Option<&[u8]>) {
    let kernel = sim.kernel.as_ref().unwrap();
    let mut state = kernel.machine.state;
    state.id = ID;
    let opened = kernel.pinhole.or_else(|| {
        let opens = sim.commands.iter().rev().find(|(c, o)| c.op == op::OPEN && *o == Outcome::Done);
        opens.map(|(c, _)| (PinholeKey::NONE, c.seq))
    });
    if let Some((hole, seq)) = opened {
        (state.pinhole, state.pinhole_seq) = (hole, seq);
    }
    sim.engine = Engine::new(policy(), 0);
    sim.engine.adopt_before(sim.now, &sim.key, &Left { state: &state, deadline: None, saved });
    sim.drain();
    for (record, data) in unread {
        sim.record(&Record::Segment(*record, data));
    }
    sim.engine.adopted_all(sim.now);
    sim.drain();
}

fn segments(lines: &[(&str, &[usize])]) -> Vec<(u8, Vec<u8>)> {
    let mut segments = Vec::new();
    for (line, cuts) in lines {
        let (side, text) = parse(line);
        let mut rest = text.as_bytes();
        for n in *cuts {
            let (first, second) = rest.split_at(*n);
            segments.push((side, first.to_vec()));
            rest = second;
        }
        segments.push((side, rest.to_vec()));
    }
    segments
}

/// Every death of a dialogue opens what no death does.
fn all_deaths(lines: &[(&str, &[usize])], ports: &[u16]) {
    let segments = segments(lines);
    assert_eq!(run(&segments, None), ports);
    for after in 1..=segments.len() {
        for behind in 0..4 {
            for uncounted in [false, true] {
                let death = Death { after, behind, uncounted };
                assert_eq!(run(&segments, Some(death)), ports, "{death:?} in {lines:?}");
            }
        }
    }
}

#[test]
fn a_cut_command_survives() {
    all_deaths(
        &[
            ("C: PASV", &[1, 1, 1]),
            ("S: 227 (198,51,100,5,195,149)", &[]),
            ("C: NOOP", &[]),
            ("S: 200 ok", &[]),
            ("C: EPSV", &[2]),
            ("S: 229 (|||50070|)", &[]),
        ],
        &[PORT, 50070],
    );
}

#[test]
fn a_cut_reply_survives() {
    all_deaths(
        &[
            ("C: PASV", &[]),
            ("S: 227 (198,51,100,5,195,149)", &[4, 8]),
            ("C: NOOP", &[]),
            ("S: 200 ok", &[]),
            ("C: EPSV", &[]),
            ("S: 229 (|||50070|)", &[10]),
        ],
        &[PORT, 50070],
    );
}

#[test]
fn pipelined_commands_survive() {
    all_deaths(
        &[
            ("C: NOOP\r\nPASV", &[]),
            ("S: 200 ok", &[]),
            ("S: 227 (198,51,100,5,195,149)", &[]),
            ("C: NOOP\r\nNOOP\r\nEPRT |1|192.0.2.10|50071|", &[9]),
            ("S: 200 ok\r\n200 ok", &[3]),
            ("S: 200 active", &[]),
        ],
        &[PORT, 50071],
    );
}

#[test]
fn a_lock_step_dialogue_survives() {
    all_deaths(
        &[
            ("C: PASV", &[]),
            ("S: 227 (198,51,100,5,195,149)", &[]),
            ("C: FEAT", &[]),
            ("S: 211-these", &[]),
            ("S:  EPSV", &[]),
            ("S: 211 end", &[]),
            ("C: EPRT |1|192.0.2.10|50071|", &[]),
            ("S: 200 active", &[]),
        ],
        &[PORT, 50071],
    );
}

#[test]
fn a_reply_in_a_multi_line_one_opens_nothing_afterwards_either() {
    all_deaths(
        &[
            ("C: NOOP\r\nPASV", &[]),
            ("S: 200-hello", &[]),
            ("S: 227 (198,51,100,5,195,148)", &[5]),
            ("S: 200 ok", &[]),
            ("S: 227 (198,51,100,5,195,149)", &[]),
        ],
        &[PORT],
    );
}

#[test]
fn what_was_saved_is_read_or_refused() {
    let mut sim = Sim::with_kernel(policy()).login();
    assert!(save(&sim).is_none(), "the kernel's table tells it all");
    sim.client("PA");
    let good = save(&sim).unwrap();
    // Whatever lies there: no panic, and no session is lost.
    for n in 0..good.len().min(200) {
        for bytes in [good[..n].to_vec(), good.iter().enumerate().map(|(i, b)| if i == n { !b } else { *b }).collect()]
        {
            let mut engine = Engine::new(policy(), 0);
            let mut state = sim.kernel.as_ref().unwrap().machine.state;
            state.id = ID;
            engine.adopt_before(0, &sim.key, &Left { state: &state, deadline: None, saved: Some(&bytes) });
            engine.adopted_all(0);
            assert_eq!(engine.sessions().count(), 1);
        }
    }
}

#[test]
fn seconds_go_on_while_the_host_sleeps() {
    let mut sim = Sim::logged_in(policy());
    sim.talk(&["C: PASV", "S: 227 (198,51,100,5,195,149)"]);
    let offset = 1_700_000_000 * SECOND;
    sim.engine.handle_suspend(sim.now, 4 * SECOND, offset + 4 * SECOND);
    sim.drain();
    let left = sim.engine.pinholes(sim.now).next().unwrap().pinhole.expires_in_ms;
    assert!((5_900..=6_000).contains(&left), "{left}");
    sim.engine.handle_suspend(sim.now, 7 * SECOND, offset + 11 * SECOND);
    sim.drain();
    assert_eq!((sim.open_now(), sim.of(Kind::Expired).count()), (0, 1));
    assert!(sim.commands.iter().any(|(c, _)| c.op == op::REVOKE), "the kernel is told");
    // Events bear the time that people have.
    sim.talk(&["C: NOOP", "S: 200 ok", "C: EPSV", "S: 229 (|||50070|)"]);
    let ts = sim.of(Kind::Opened).last().unwrap().ts.to_string();
    assert!(ts.starts_with("2023-11-14T22:30:11"), "{ts}");
    // No clock goes backwards; a driver that says so all the same opens nothing by it.
    sim.engine.handle_timeout(sim.now - SECOND);
    sim.wait(11 * SECOND);
    assert_eq!(sim.open_now(), 0);
}
