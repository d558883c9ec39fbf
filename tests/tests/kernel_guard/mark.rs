//! The mark of what is permitted, and that of parked SYNs.

use std::{collections::BTreeMap, net::IpAddr};

use ftp_helper::engine::{
    Record,
    policy::{Mark, Mode, Policy},
};
use ftp_helper_common::{
    command::{Outcome, op},
    key::{CLIENT, HOOK_IN, HOOK_OUT, PinholeKey},
    reason::Reason,
    state::pending,
    tcp,
};
use ftp_helper_tests::{
    dialogue::{Dialogue, PORT},
    packet::Packet,
    testrun::{Kernel, Verdict, at, guards, other, parse, policy, shared},
};

use super::{DENIED, PASSED, SOURCE, armed, check, syn};

#[test]
fn mark_sets_the_bits_of_what_is_permitted_and_clears_them_of_what_is_not() {
    let Some(mut k) = shared() else { return };
    let mark = Mark { value: 0x0500_0000, mask: 0x0f00_0000 };
    let inward = guards()[..1].to_vec();
    let begin = |k: &mut Kernel| k.set(&Policy { mode: Mode::Mark, mark, ..policy() }, &inward);
    begin(&mut k);
    for v6 in [false, true] {
        let would = &[("no_pinhole", 1), ("syn_would_deny", 1)];
        // The other bits are the administrator's.
        for (before, after) in [(0, 0), (0x0500_0000, 0), (0xffff_ffff, 0xf0ff_ffff)] {
            marked(&mut k, HOOK_IN, &syn(v6, PORT), (before, after), would, "nobody negotiated it");
        }
        let records = k.records();
        let Record::Denied(told) = parse(&records[0]) else { panic!("{records:?}") };
        assert_eq!((told.dropped, told.reason), (0, Reason::NoPinhole as u16));
        assert_eq!(k.denied_ports(), BTreeMap::from([(PORT, [0, 3])]));
        let odd = Packet { flags: tcp::SYN | tcp::FIN, ..syn(v6, PORT) };
        let counted = &[("syn_flags", 1), ("syn_would_deny", 1)];
        marked(&mut k, HOOK_IN, &odd, (0x0500_0000, 0), counted, "SYN and FIN");
        // Where no guard is, nobody has the mark either.
        for port in [22, 80, 3389] {
            marked(&mut k, HOOK_IN, &syn(v6, port), (0x0500_0001, 1), &[], "not guarded");
        }
        let elsewhere: IpAddr = if v6 { "2001:db8:77::1".parse().unwrap() } else { "192.0.2.77".parse().unwrap() };
        let packet = Packet { to: at(elsewhere, PORT), ..syn(v6, PORT) };
        marked(&mut k, HOOK_IN, &packet, (0x0500_0000, 0), &[], "another network");
        // What leaves has passed the ruleset.
        marked(&mut k, HOOK_OUT, &syn(v6, PORT), (0x0500_0000, 0x0500_0000), &[], "leaving");
        for (hook, passive) in [(HOOK_IN, true), (HOOK_IN, false), (HOOK_OUT, true), (HOOK_OUT, false)] {
            let (_, key, data) = armed(&mut k, hook, v6, passive);
            let k = &mut *k;
            let (none, some) = if key.hook == HOOK_IN { (0, 0x0500_0000) } else { (0x0a00_0000, 0x0a00_0000) };
            let beside = Packet { to: at(data.to.ip(), PORT + 1), ..data.syn() };
            let counted = if key.hook == HOOK_IN { &would[..] } else { &[] };
            marked(k, key.hook, &beside, (0x0a00_0000, none), counted, "another port");
            marked(k, key.hook, &data.syn(), (0x0a00_0000, some), PASSED, "through its pinhole");
            marked(k, key.hook, &data.syn(), (0, some & 0x0500_0000), PASSED, "the same SYN again");
            let used = &[("records", 1), ("used", 1)];
            marked(k, other(key.hook), &data.syn_ack(), (0x0a00_0000, 0x0a00_0000), used, "the answer");
            if key.hook == HOOK_IN {
                marked(k, key.hook, &data.syn(), (0x0100_0000, some), PASSED, "once more, after the answer");
            }
            k.clear();
            begin(k);
        }
    }
    // What neither kernel nor daemon can read does not pass.
    let fragment = Packet { fragment: Some((8, true)), ..syn(false, PORT) };
    check(&mut k, HOOK_IN, &fragment, Verdict::Drop, &[("fragment", 1)], "fragment");
    let (d, _, _) = armed(&mut k, HOOK_IN, false, true);
    let spoofed = d.segment(CLIENT, b"NOOP\r\n");
    assert_eq!(k.send(HOOK_OUT, &spoofed), Verdict::Drop);
}

#[test]
fn mark_keeps_a_syn_once_and_then_leaves_it_to_the_ruleset() {
    let Some(mut k) = shared() else { return };
    let mark = Mark { value: 0x10, mask: 0xf0 };
    for v6 in [false, true] {
        k.set(&Policy { mode: Mode::Mark, mark, ..policy() }, &guards()[..1]);
        let mut d = Dialogue::ready(&mut k, HOOK_IN, v6);
        d.say(&mut k, CLIENT, b"EP");
        k.restart_counting();
        let early = Packet::syn(at(d.client.ip(), SOURCE), at(d.server.ip(), PORT), 7).with_options();
        check(&mut k, HOOK_IN, &early, Verdict::Drop, &[("syn_parked", 1)], "its announcement may be on its way");
        // The daemon has given it up: it is turned round, and goes on without the mark, although its hosts' session is
        // blind still.
        k.mark = k.plane().mark();
        check(&mut k, HOOK_OUT, &early, Verdict::Redirect, &[("syn_unparked", 1)], "given up");
        let unparked = k.plane().mark();
        let would = &[("no_pinhole", 1), ("syn_would_deny", 1)];
        marked(&mut k, HOOK_IN, &early, (unparked, 0), would, "arrives again");
        // The daemon has opened: it goes on with it.
        let key = PinholeKey {
            initiator: d.client.ip().into(),
            responder: d.server.ip().into(),
            port: PORT,
            hook: HOOK_IN,
            pad: 0,
        };
        assert_eq!(d.command(&k, op::OPEN, |c| (c.pinhole, c.mode) = (key, pending::EPSV)), Outcome::Done);
        k.restart_counting();
        marked(&mut k, HOOK_IN, &early, (unparked, 0x10), PASSED, "arrives again, and there is a pinhole");
        k.clear();
    }
}

#[test]
fn a_parked_syn_is_turned_round_only_towards_a_pinhole() {
    let Some(mut k) = shared() else { return };
    let (_, _, data) = armed(&mut k, HOOK_IN, false, true);
    k.mark = k.plane().mark();
    check(&mut k, HOOK_OUT, &data.syn(), Verdict::Redirect, &[("syn_unparked", 1)], "its pinhole is open");
    let beside = Packet { to: at(data.to.ip(), PORT + 1), ..data.syn() };
    check(&mut k, HOOK_OUT, &beside, Verdict::Drop, &[], "none is");
    k.ingress_ifindex = 1;
    check(&mut k, HOOK_OUT, &beside, Verdict::Drop, DENIED, "a forwarded packet with that mark is like any other");
    (k.ingress_ifindex, k.mark) = (0, k.mark ^ 2);
    check(&mut k, HOOK_OUT, &beside, Verdict::Drop, DENIED, "another mark");
    // Where it arrives once more, its mark has served: nobody behind is to take it for one of theirs.
    let unparked = k.plane().mark();
    marked(&mut k, HOOK_IN, &data.syn(), (unparked, 0), PASSED, "turned round");
    marked(&mut k, HOOK_IN, &syn(false, 80), (unparked ^ 2, unparked ^ 2), &[], "another mark");
}

/// Sends a SYN that bears a mark, and compares the mark that it goes on with.
#[track_caller]
fn marked(k: &mut Kernel, hook: u8, packet: &Packet, marks: (u32, u32), moved: &[(&'static str, u64)], what: &str) {
    k.mark = marks.0;
    check(k, hook, packet, Verdict::Pass, moved, what);
    assert_eq!(k.marked, marks.1, "{what}: {:#x} instead of {:#x}", k.marked, marks.1);
    k.mark = 0;
}
