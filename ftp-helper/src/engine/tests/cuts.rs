//! Rule 8: what opens does not depend on how a dialogue is cut into segments, nor on order and repetition.

use proptest::prelude::*;

use super::*;
use crate::engine::policy::ActiveOpen;

/// Exchanges of the dialogues below, good ones and others.
pub(super) const EXCHANGES: &[&[&str]] = &[
    &["C: PASV", "S: 227 Entering Passive Mode (198,51,100,5,195,149)."],
    &["C: EPSV", "S: 229 Extended (|||50070|)"],
    &["C: PORT 192,0,2,10,195,151", "S: 200 PORT ok"],
    &["C: EPRT |1|192.0.2.10|50072|", "S: 200 EPRT ok"],
    &["C: RETR file", "S: 150-opening\r\n150 go", "S: 226 done"],
    &["C: LIST", "S: 150 go\r\n226 done"],
    &["C: TYPE A", "S: 200 ok"],
    &["C: FEAT", "S: 211-Features\r\n EPSV\r\n UTF8\r\n211 End"],
    &["C: STAT .", "S: 213-status\r\n227 Entering (198,51,100,5,200,1)\r\n-rw 1 x\r\n213 end"],
    &["C: NLST 227 (198,51,100,5,200,2)", "S: 550 227 (198,51,100,5,200,2): no such file"],
    &["C: PASV", "S: 227 Entering Passive Mode (198,51,100,5,0,22)"],
    &["C: PASV", "S: 227 Entering Passive Mode (203,0,113,66,195,149)"],
    &["C: PASV", "S: 227-x\r\n227 Entering Passive Mode (198,51,100,5,200,3)"],
    &["C: PASV", "S: 227 (1,2,3,4,5,6) (198,51,100,5,200,4)"],
    &["C: PASV", "S: 425 no"],
    &["C: EPSV", "S: 227 Entering Passive Mode (198,51,100,5,200,5)"],
    &["C: EPSV", "S: 229 (|||65558|)"],
    &["C: NOOP", "S: 227 Entering Passive Mode (198,51,100,5,200,6)"],
    &["C: PORT 192,0,2,10,195,152", "S: 500 no"],
    &["C: PORT 192,0,2,10,12,234", "S: 200 ok"],
    &["C: PORT 192,0,2,11,195,153", "S: 200 ok"],
    &["C: PORT 192,0,2,10,0195,153", "S: 200 ok"],
    &["C: EPRT |1|192.0.2.10|65558|", "S: 200 ok"],
    &["C: XYZZY", "S: 500 what"],
    &["C: AUTH TLS", "S: 502 no"],
    &["C: USER other", "S: 331 password", "C: PASS y", "S: 230 in"],
    &["C: USER other", "S: 331 password", "C: PASS y", "S: 530 no"],
    &["C: USER other", "S: 530 can't change"],
    &["C: REIN", "S: 220 again", "C: USER me", "S: 230 in"],
    &["C: ABOR", "S: 226 ok"],
    &["C: EPSV ALL", "S: 501 no"],
    &["C: EPSV ALL", "S: 200 ok"],
    &["C: LPSV", "S: 228 (4,4,198,51,100,5,2,200,7)"],
    &["C: SITE CHMOD 644 x", "S: 200-a\r\n200-b\r\n200 ok"],
];

/// A whole dialogue from exchanges.
pub(super) fn script(exchanges: &[usize]) -> Vec<(u8, Vec<u8>)> {
    let lines = LOGIN.iter().chain(exchanges.iter().flat_map(|i| EXCHANGES[*i]));
    lines.map(|l| parse(l)).map(|(side, text)| (side, text.into_bytes())).collect()
}

pub(super) fn policies() -> impl Strategy<Value = (Policy, u8)> {
    let open =
        prop::sample::select(vec![ActiveOpen::Auto, ActiveOpen::Command, ActiveOpen::Reply, ActiveOpen::Transfer]);
    (open, 0u8..2).prop_map(|(active_open, hook)| (Policy { active_open, ..policy() }, hook))
}

/// What opens when these segments pass.
fn run(policy: &Policy, hook: u8, wires: &[Wire]) -> Vec<u16> {
    let mut sim = Sim::between(policy.clone(), key(), hook, false);
    for wire in wires {
        sim.wire(wire);
    }
    assert_eq!(sim.reasons(Kind::Tainted), [""; 0]);
    assert_eq!(sim.reasons(Kind::Killed), [""; 0]);
    sim.opened()
}

/// Cuts each segment into parts of `sizes`, over and over.
pub(super) fn cut(wires: &[Wire], sizes: &[usize]) -> Vec<Wire> {
    let mut sizes = sizes.iter().copied().cycle();
    let mut out = Vec::new();
    for wire in wires {
        let mut at = 0;
        while at < wire.data.len() {
            let n = sizes.next().unwrap_or(1).max(1).min(wire.data.len() - at);
            let data = wire.data[at..at + n].to_vec();
            out.push(Wire { seq: wire.seq.wrapping_add(at as u32), data, ..wire.clone() });
            at += n;
        }
    }
    out
}

/// Several messages of the client in one segment, `n` at a time, the server's answers behind them.
fn pipelined(script: &[(u8, Vec<u8>)], n: usize) -> Vec<(u8, Vec<u8>)> {
    let (login, rest) = script.split_at(LOGIN.len());
    let mut out = login.to_vec();
    let (mut commands, mut replies, mut count) = (Vec::new(), Vec::new(), 0);
    for (i, (side, data)) in rest.iter().enumerate() {
        if *side == CLIENT {
            commands.extend(data);
            count += 1;
        } else {
            replies.push((SERVER, data.clone()));
        }
        let ends = rest.get(i + 1).is_none_or(|(next, _)| *next == CLIENT) && *side == SERVER;
        if ends && (count >= n || i + 1 == rest.len()) {
            out.push((CLIENT, std::mem::take(&mut commands)));
            out.append(&mut replies);
            count = 0;
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_same_pinholes_however_it_is_cut(
        exchanges in prop::collection::vec(0..EXCHANGES.len(), 1..8),
        (policy, hook) in policies(),
        sizes in prop::collection::vec(1usize..40, 1..6),
        swaps in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        again in prop::collection::vec((any::<prop::sample::Index>(), 1usize..30), 0..10),
        n in 2usize..5,
    ) {
        let script = script(&exchanges);
        let plain = wires(&script);
        let expected = run(&policy, hook, &plain);
        for sizes in [&[1][..], &sizes] {
            let mut cut = cut(&plain, sizes);
            prop_assert_eq!(&run(&policy, hook, &cut), &expected, "cut");
            // Neighbours change places, across both sides.
            for i in &swaps {
                let i = i.index(cut.len() - 1);
                cut.swap(i, i + 1);
            }
            prop_assert_eq!(&run(&policy, hook, &cut), &expected, "reordered");
            for (from, after) in &again {
                let from = from.index(cut.len());
                let wire = cut[from].clone();
                cut.insert((from + after).min(cut.len()), wire);
            }
            prop_assert_eq!(&run(&policy, hook, &cut), &expected, "sent again");
        }
        // Several commands a segment. (Behind AUTH nothing may be pipelined.)
        if !exchanges.iter().any(|i| EXCHANGES[*i][0].contains("AUTH")) {
            let joined = wires(&pipelined(&script, n));
            prop_assert_eq!(&run(&policy, hook, &joined), &expected, "pipelined");
            prop_assert_eq!(&run(&policy, hook, &cut(&joined, &sizes)), &expected, "pipelined and cut");
        }
    }
}

#[test]
fn p9_p10_every_cut_of_every_announcement() {
    for (exchange, port) in [(0, 50069), (1, 50070), (2, 50071), (3, 50072)] {
        let plain = wires(&script(&[exchange]));
        let (login, rest) = plain.split_at(LOGIN.len());
        for (which, wire) in rest.iter().enumerate() {
            for at in 1..wire.data.len() {
                let mut wires = plain.clone();
                let tail =
                    Wire { seq: wire.seq.wrapping_add(at as u32), data: wire.data[at..].to_vec(), ..wire.clone() };
                wires[login.len() + which].data.truncate(at);
                wires.insert(login.len() + which + 1, tail);
                assert_eq!(run(&policy(), HOOK_IN, &wires), [port], "{exchange} at {at}");
                wires.swap(login.len() + which, login.len() + which + 1);
                assert_eq!(run(&policy(), HOOK_IN, &wires), [port], "{exchange} at {at}, reordered");
            }
        }
    }
}

#[test]
fn what_waits_for_what_it_acknowledges_is_bounded() {
    let mut sim = Sim::logged_in(policy());
    let [client, server] = sim.next;
    // The client's bytes that these acknowledge never come.
    for n in 0..66 {
        let seq = server.wrapping_add(1000 * n);
        sim.wire(&Wire { side: SERVER, flags: tcp::ACK, seq, ack: client.wrapping_add(10), data: vec![b'x'; 1000] });
    }
    assert_eq!(sim.reasons(Kind::Tainted), ["reassembly_overflow"]);
}
