//! The catalogue, through the programs in the kernel with the engine behind them.

use ftp_helper::{
    dataplane::Options,
    engine::{Record, policy::Mode},
    lab,
};
use ftp_helper_common::{
    key::{HOOK_IN, HOOK_OUT},
    tcp,
};
use ftp_helper_tests::{
    catalogue::{self, Begin, Places, Stimulus, kernel::Bench},
    dialogue::{Data, Dialogue},
    packet::Packet,
    testrun::{Kernel, Verdict, options, parse, policy, shared},
};

/// In `drop`, and with the same openings in `observe`, where nothing is dropped, and in `mark`, where only SYNs that nobody
/// negotiated pass all the same; where the engine alone can run it, it
/// comes to the same there.
#[test]
fn every_stimulus_gets_its_verdict() {
    let Some(mut k) = shared() else { return };
    let mut bench = Bench::new(&mut k);
    let mut wrong = Vec::new();
    // What is in force changes rarely in this order.
    let mut all = catalogue::all();
    all.sort_by_key(|s| s.knob.toml);
    for (what, mode) in [("drop", Mode::Drop), ("observe", Mode::Observe), ("mark", Mode::Mark)] {
        for s in &all {
            for (hook, not) in [(HOOK_IN, Places::Inside), (HOOK_OUT, Places::Outside)] {
                if s.places == not || mode != Mode::Drop && hook == HOOK_OUT && s.places == Places::Both {
                    continue;
                }
                if let Err(e) = agree(&mut bench, s, hook, mode) {
                    wrong.push(format!("{} ({}), client by hook {hook}, {what}: {e}", s.id, s.about));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n\n"));
}

/// Behind address translation, of a published server and of a client behind masquerade, with each announcement rewritten.
#[test]
fn rewritten_dialogues_get_their_verdict() {
    if !lab::require_root() {
        return;
    }
    let mut k = Kernel::load(&Options { nat: true, ..options() });
    let mut bench = Bench::translating(&mut k);
    let (mut wrong, mut ran) = (Vec::new(), 0);
    let mut all = catalogue::all();
    all.sort_by_key(|s| s.knob.toml);
    for s in &all {
        for (hook, not) in [(HOOK_IN, Places::Inside), (HOOK_OUT, Places::Outside)] {
            if s.places == not || hook == HOOK_OUT && catalogue::kernel::moves(s) {
                continue;
            }
            ran += 1;
            if let Err(e) = catalogue::kernel::run(&mut bench, s, hook, Mode::Drop) {
                wrong.push(format!("{} ({}), client by hook {hook}: {e}", s.id, s.about));
            }
        }
    }
    println!("{ran} ran");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n\n"));
}

fn agree(bench: &mut Bench<'_>, s: &Stimulus, hook: u8, mode: Mode) -> Result<(), String> {
    let came = catalogue::kernel::run(bench, s, hook, mode)?;
    if s.begin == Begin::Nothing {
        return Ok(());
    }
    let alone = catalogue::engine::run(s, hook)?;
    if (&alone.opened, &alone.left, alone.standing) == (&came.opened, &came.left, came.standing) {
        return Ok(());
    }
    Err(format!("came to {came:?}, the engine alone to {alone:?}"))
}

#[test]
fn p16_two_clients_may_use_the_same_port_number() {
    let Some(mut k) = shared() else { return };
    for v6 in [false, true] {
        let first = Dialogue::ready(&mut k, HOOK_IN, v6).open_passive(&mut k, 50069);
        let mut d = Dialogue::ready(&mut k, HOOK_IN, v6);
        let second = d.open_passive(&mut k, 50069);
        assert_ne!(first.initiator, second.initiator);
        for key in [first, second] {
            Data::through(&key, 45000).connect(&mut k);
        }
        assert!(k.pinholes().is_empty());
    }
}

/// A first fragment too short for its TCP header, to a control port of a host that nobody guards: what would come behind it
/// is said to a server and read by nobody.
#[test]
fn a56_what_cannot_be_read_of_a_control_port_does_not_pass() {
    let Some(mut k) = shared() else { return };
    k.set(&policy(), &[]);
    for hook in [HOOK_IN, HOOK_OUT] {
        let d = Dialogue::new(hook, false);
        for side in [0, 1] {
            let whole = d.segment(side, b"");
            let tiny = Packet { fragment: Some((0, true)), truncate: Some(14 + 20 + 8), ..whole.clone() };
            assert_eq!(k.send(d.hook_of(side), &tiny), Verdict::Drop);
            k.expect("tiny", &[("unreadable_headers", 1)]);
            // Of any other port nothing is asked here.
            let mut elsewhere = tiny;
            elsewhere.from.set_port(40001);
            elsewhere.to.set_port(8000);
            assert_eq!(k.send(d.hook_of(side), &elsewhere), Verdict::Pass);
            k.expect("another port", &[]);
        }
    }
    k.policy(|p| p.mode = Mode::Observe);
    let d = Dialogue::new(HOOK_IN, false);
    let tiny = Packet { fragment: Some((0, true)), truncate: Some(14 + 20 + 8), ..d.segment(0, b"") };
    assert_eq!(k.send(HOOK_IN, &tiny), Verdict::Pass);
}

/// Half-open handshakes without end: no session begins, none that lives is lost, and a new one finds room.
#[test]
fn a82_a_flood_of_handshakes_evicts_no_session() {
    let Some(mut k) = shared() else { return };
    let mut d = Dialogue::ready(&mut k, HOOK_IN, false);
    let mut forged = Dialogue::new(HOOK_IN, false);
    const FLOOD: u16 = 20_000;
    for port in 1024..1024 + FLOOD {
        forged.client.set_port(port);
        for (side, packet) in [(0, forged.syn()), (1, forged.syn_ack())] {
            assert_eq!(k.send(forged.hook_of(side), &packet), Verdict::Pass);
        }
    }
    k.expect("the flood", &[("half_open", FLOOD.into())]);
    assert_eq!(k.sessions().len(), 1);
    let key = d.open_passive(&mut k, 50069);
    Data::through(&key, 45000).connect(&mut k);
    let key = Dialogue::ready(&mut k, HOOK_IN, true).open_passive(&mut k, 50069);
    Data::through(&key, 45000).connect(&mut k);
    assert_eq!(k.sessions().len(), 2);
}

/// Which way the bytes of a transfer go is not looked at: what passes is counted for each side.
#[test]
fn a77_bytes_of_a_data_connection_pass_both_ways_and_are_counted() {
    let Some(mut k) = shared() else { return };
    for hook in [HOOK_IN, HOOK_OUT] {
        let mut d = Dialogue::ready(&mut k, hook, false);
        let key = d.open_passive(&mut k, 50069);
        d.client(&mut k, "RETR file");
        let data = Data::through(&key, 45000);
        data.connect(&mut k);
        let _ = k.records();
        k.restart_counting();
        // The client of a RETR sends.
        assert_eq!(data.send(&mut k, &data.forth(tcp::ACK, 1, b"up")), Verdict::Pass);
        assert_eq!(data.answer(&mut k, &data.back(tcp::ACK, 1, b"down")), Verdict::Pass);
        assert_eq!(data.answer(&mut k, &data.back(tcp::ACK | tcp::FIN, 5, b"")), Verdict::Pass);
        assert_eq!(data.send(&mut k, &data.forth(tcp::ACK | tcp::FIN, 3, b"")), Verdict::Pass);
        k.expect("ended", &[("flows_ended", 1), ("records", 1)]);
        let records = k.records();
        let bytes = records.iter().find_map(|r| match parse(r) {
            Record::FlowEnd(r) => Some(r.bytes),
            _ => None,
        });
        assert_eq!(bytes, Some([2, 4]));
        k.clear();
    }
}

/// ICMP is for the stacks: an error that quotes the SYN of a pinhole passes by both hooks, and neither uses the pinhole up,
/// nor binds it, nor frees it; one about a running data connection does not end it.
#[test]
fn a79_icmp_passes_and_changes_nothing() {
    const ICMP: u8 = 1;
    const ICMPV6: u8 = 58;
    let Some(mut k) = shared() else { return };
    for hook in [HOOK_IN, HOOK_OUT] {
        for v6 in [false, true] {
            let mut d = Dialogue::ready(&mut k, hook, v6);
            let key = d.open_passive(&mut k, 50069);
            let data = Data::through(&key, 45000);
            for running in [false, true] {
                if running {
                    data.connect(&mut k);
                }
                let before = (k.pinholes(), k.flows());
                let _ = k.records();
                k.restart_counting();
                // Port unreachable, with the header and the first bytes of what it is about; the responder's, and a router's.
                let kind: &[u8] = if v6 { &[1, 4, 0, 0, 0, 0, 0, 0] } else { &[3, 3, 0, 0, 0, 0, 0, 0] };
                for quoted in [data.syn(), data.back(tcp::ACK, 1, b"down")] {
                    let text = [kind, &quoted.bare()].concat();
                    let mut error = Packet::new(quoted.to, quoted.from, 0, 0, 0).with(text);
                    error.protocol = if v6 { ICMPV6 } else { ICMP };
                    for by in [HOOK_IN, HOOK_OUT] {
                        assert_eq!(k.send(by, &error), Verdict::Pass);
                        k.expect("ICMP", &[]);
                    }
                }
                assert_eq!((k.pinholes(), k.flows()), before);
            }
            k.clear();
        }
    }
}
