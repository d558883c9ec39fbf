//! Fast ⊆ full: whatever the kernel's reader opens, the engine opens at the same segment with the same endpoints. And
//! the other way, so that a cautious reader does not pass for a good one.

use proptest::prelude::*;

use super::{cuts::*, *};

/// What happens to a dialogue on its way.
#[derive(Clone, Debug)]
enum Mutation {
    Cut(prop::sample::Index, usize),
    /// Sent again, that much later.
    Again(prop::sample::Index, usize),
    /// Sent again with one byte changed.
    Differently(prop::sample::Index, prop::sample::Index, u8),
    Swap(prop::sample::Index),
    /// The next segment of the same side in the same segment.
    Join(prop::sample::Index),
    /// Sent before what it answers had come.
    Early(prop::sample::Index),
    /// One byte is another from the start.
    Byte(prop::sample::Index, prop::sample::Index, u8),
    Urgent(prop::sample::Index),
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    use prop::sample::Index;
    let one = prop_oneof![
        (any::<Index>(), 1usize..60).prop_map(|(i, n)| Mutation::Cut(i, n)),
        (any::<Index>(), 1usize..5).prop_map(|(i, n)| Mutation::Again(i, n)),
        (any::<Index>(), any::<Index>(), any::<u8>()).prop_map(|(i, at, b)| Mutation::Differently(i, at, b)),
        any::<Index>().prop_map(Mutation::Swap),
        any::<Index>().prop_map(Mutation::Join),
        any::<Index>().prop_map(Mutation::Early),
        (any::<Index>(), any::<Index>(), prop_oneof![any::<u8>(), Just(b'('), Just(b'9'), Just(b' '), Just(b'|')])
            .prop_map(|(i, at, b)| Mutation::Byte(i, at, b)),
        any::<Index>().prop_map(Mutation::Urgent),
    ];
    prop::collection::vec(one, 0..6)
}

fn mutate(wires: &mut Vec<Wire>, mutation: &Mutation) {
    match mutation {
        Mutation::Cut(i, n) => {
            let i = i.index(wires.len());
            let n = *n % wires[i].data.len().max(1);
            if n > 0 {
                let mut tail = wires[i].clone();
                tail.seq = tail.seq.wrapping_add(n as u32);
                tail.data.drain(..n);
                wires[i].data.truncate(n);
                wires.insert(i + 1, tail);
            }
        }
        Mutation::Again(i, n) => {
            let i = i.index(wires.len());
            let wire = wires[i].clone();
            wires.insert((i + n).min(wires.len()), wire);
        }
        Mutation::Differently(i, at, byte) => {
            let i = i.index(wires.len());
            let mut wire = wires[i].clone();
            let at = at.index(wire.data.len());
            wire.data[at] = *byte;
            wires.insert(i + 1, wire);
        }
        Mutation::Swap(i) => {
            let i = i.index(wires.len() - 1);
            wires.swap(i, i + 1);
        }
        Mutation::Join(i) => {
            let i = i.index(wires.len());
            let end = wires[i].seq.wrapping_add(wires[i].data.len() as u32);
            if let Some(j) = (i + 1..wires.len()).find(|j| wires[*j].side == wires[i].side && wires[*j].seq == end) {
                let other = wires.remove(j);
                wires[i].data.extend(other.data);
            }
        }
        Mutation::Early(i) => {
            let i = i.index(wires.len());
            let own = 1 - usize::from(wires[i].side);
            if tcp::distance(wires[i].ack, START[own]) > 6 {
                wires[i].ack = wires[i].ack.wrapping_sub(5);
            }
        }
        Mutation::Byte(i, at, byte) => {
            let i = i.index(wires.len());
            let at = at.index(wires[i].data.len());
            wires[i].data[at] = *byte;
        }
        Mutation::Urgent(i) => {
            let i = i.index(wires.len());
            wires[i].flags |= tcp::URG;
        }
    }
}

/// The order in which segments can pass a gateway: nothing is acknowledged that has not passed before.
fn causal(mut wires: Vec<Wire>) -> Vec<Wire> {
    let (mut out, mut next): (Vec<Wire>, _) = (Vec::new(), START);
    while !wires.is_empty() {
        let may = |w: &Wire| tcp::distance(w.ack, next[1 - usize::from(w.side)]) <= 0;
        let wire = wires.remove(wires.iter().position(may).unwrap_or(0));
        out.push(wire);
        for _ in 0..out.len() {
            for w in &out {
                let (i, end) = (usize::from(w.side), w.seq.wrapping_add(w.data.len() as u32));
                if tcp::distance(w.seq, next[i]) <= 0 && tcp::distance(end, next[i]) > 0 {
                    next[i] = end;
                }
            }
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn fast_is_a_subset_of_full(
        exchanges in prop::collection::vec(0..EXCHANGES.len(), 1..10),
        (policy, hook) in policies(),
        mutations in mutations(),
    ) {
        let mut wires = wires(&script(&exchanges));
        for m in &mutations {
            mutate(&mut wires, m);
        }
        let wires = causal(wires);
        let mut sim = Sim::between(policy, key(), hook, true);
        for wire in &wires {
            let before = sim.kernel.as_ref().map_or(0, |k| k.opened.len());
            let told = sim.opened_by(By::Kernel);
            sim.wire(wire);
            let kernel = sim.kernel.as_ref().unwrap();
            let fast = &kernel.opened[before..];
            let full: Vec<_> = sim.of(Kind::Opened).filter(|e| e.by == Some(By::Kernel)).skip(told).collect();
            prop_assert_eq!(fast.len(), full.len(), "{:?} {:?}", wire, sim.events.last());
            for (fast, full) in fast.iter().zip(full) {
                let full = full.pinhole.as_ref().unwrap();
                prop_assert_eq!(fast.initiator.to_ip(), full.initiator);
                prop_assert_eq!(fast.responder.to_ip(), full.responder);
                prop_assert_eq!(fast.port, full.port);
            }
            // What is open is the same for both, unless the engine waits for what a segment acknowledges.
            let waits = sim.engine.sessions.values().any(|s| !s.waiting.is_empty());
            let own = sim.engine.pinholes(sim.now).next().map(|p| p.pinhole.port);
            prop_assert!(waits || kernel.pinhole.map(|(k, _)| k.port) == own, "{:?} {:?}", wire, own);
        }
        prop_assert_eq!(sim.engine.stats().divergences, 0);
    }

    #[test]
    fn nothing_on_the_wire_panics_or_grows(
        segments in prop::collection::vec(
            (0u8..2, any::<u8>(), -3000i32..3000, -100i32..100, prop::collection::vec(any::<u8>(), 0..200)), 1..60),
    ) {
        let mut sim = Sim::with_kernel(policy());
        for (side, flags, seq, ack, data) in segments {
            let i = usize::from(side);
            let flags = flags & !tcp::SYN;
            let seq = sim.next[i].wrapping_add_signed(seq);
            let ack = sim.next[1 - i].wrapping_add_signed(ack);
            sim.wire(&Wire { side, flags, seq, ack, data });
        }
        prop_assert_eq!(sim.opened(), [0u16; 0]);
    }
}

#[test]
fn lock_step_announcements_are_the_fast_paths() {
    // Exchanges of well-behaved clients and servers, announcements in every mode.
    let lines: &[usize] = &[0, 4, 1, 5, 2, 4, 3, 5, 6, 7, 0, 33, 14, 1, 9];
    let mut sim = Sim::with_kernel(policy());
    let mut exchanges = Vec::new();
    for _ in 0..200 {
        exchanges.extend(lines);
    }
    for wire in wires(&script(&exchanges)) {
        sim.wire(&wire);
        sim.wait(ASKED);
    }
    let stats = sim.engine.stats();
    assert_eq!(stats.announcements, 200 * 6);
    assert!(stats.taken_by_fast_path * 1000 >= stats.announcements * 999, "{stats:?}");
    assert_eq!(stats.confirmed, stats.taken_by_fast_path);
    assert_eq!((stats.divergences, stats.opened_by_daemon), (0, 0));
}

#[test]
fn a_blind_kernel_sees_again_at_the_next_quiet_point() {
    for blinding in [
        &["C: XYZZY", "S: 500 what"][..],
        &["C: NOOP\r\nNOOP", "S: 200 ok", "S: 200 ok"],
        &["C: EPSV ALL", "S: 501 no"],
        &["C: AUTH TLS", "S: 502 no"],
        &["C: PASV", "S: 227 Entering Passive Mode (198,51,100,5,0,22)"],
    ] {
        let mut sim = Sim::with_kernel(policy()).login();
        sim.talk(blinding);
        assert!(!sim.engine.sessions().next().unwrap().blind, "{blinding:?}");
        assert_eq!(sim.kernel.as_ref().unwrap().machine.state.flags & flag::BLIND, 0, "{blinding:?}");
        sim.talk(&["C: EPSV", "S: 229 (|||50069|)"]);
        assert_eq!(sim.opened_by(By::Kernel), 1, "{blinding:?}");
        assert_eq!((sim.engine.stats().resyncs_asked, sim.engine.stats().resyncs_applied), (1, 1));
    }
    // A command while blind is opened by the daemon; the kernel sees again right behind it.
    let mut sim = Sim::with_kernel(policy()).login();
    sim.client("PA");
    sim.client("SV\r\n");
    sim.server(PASV_OK);
    assert_eq!((sim.opened_by(By::Daemon), sim.opened_by(By::Kernel)), (1, 0));
    sim.talk(&["C: RETR x", "S: 150 go", "S: 226 done", "C: EPSV", "S: 229 (|||50069|)"]);
    assert_eq!((sim.opened_by(By::Daemon), sim.opened_by(By::Kernel)), (1, 1));
    // Never where nothing may be opened.
    let mut sim = Sim::with_kernel(policy()).login();
    sim.talk(&["C: 227 x", "S: 500 no", "C: NOOP", "S: 200 ok"]);
    assert_eq!(sim.engine.stats().resyncs_asked, 0);
}
