//! Sessions that the kernel does not see through: they open nothing, and SYNs between their hosts wait.

use std::collections::BTreeMap;

use ftp_helper::dataplane::FastPath;
use ftp_helper_common::{
    canon::Made,
    command::{Command, Outcome, op},
    key::{CLIENT, PinholeKey, SERVER},
    reason::Reason,
    record::{SynRecord, kind},
    state::{flag, pending},
};
use ftp_helper_tests::{
    dialogue::{Data, Dialogue, PORT, every_kind},
    packet::{Packet, VLAN},
    testrun::{Verdict, at, guards, hosts, other, policy, shared},
};

use super::SOURCE;

#[test]
fn a_blind_session_opens_nothing_until_it_is_resynced() {
    let Some(mut k) = shared() else { return };
    for (hook, v6) in every_kind() {
        let mut d = Dialogue::ready(&mut k, hook, v6);
        let epoch = d.state(&k).epoch;
        let made = d.say(&mut k, CLIENT, b"NO").made();
        assert_eq!(made, Made::blind(Reason::Split));
        let blind = [("blinded", 1), ("control_segments", 1), ("records", 1), ("split", 1)];
        k.expect("blind", &blind);
        let seen = &[("control_segments", 1), ("records", 1)][..];
        for (side, text) in [(CLIENT, "OP\r\n".to_owned()), (SERVER, "200 ok\r\n".into()), (CLIENT, "EPSV\r\n".into())]
        {
            assert_eq!(d.say(&mut k, side, text.as_bytes()).made(), Made::NOTHING);
            k.expect(&text, seen);
        }
        assert_eq!(d.say(&mut k, SERVER, format!("229 (|||{PORT}|)\r\n").as_bytes()).made(), Made::NOTHING);
        k.expect("an announcement", seen);
        assert!(k.pinholes().is_empty());
        let state = d.state(&k);
        assert_eq!((state.epoch, state.next), (epoch + 1, d.next), "the high-water marks go on");
        assert_eq!(d.command(&k, op::RESYNC, |c| c.flags = flag::LOGGED_IN), Outcome::Done);
        k.expect("resynced", &[("resynced", 1)]);
        d.open_passive(&mut k, PORT);
        k.clear();
    }
}

#[test]
fn a_syn_between_hosts_of_a_blind_session_is_parked() {
    let Some(mut k) = shared() else { return };
    for (hook, v6) in every_kind() {
        let mut d = Dialogue::ready(&mut k, hook, v6);
        let data = Data { from: at(d.client.ip(), SOURCE), to: at(d.server.ip(), PORT), hook, isn: [1, 2] };
        let denied = [("no_pinhole", 1), ("syn_denied", 1)];
        assert_eq!(data.send(&mut k, &data.syn()), Verdict::Drop);
        k.expect("a sighted session parks nothing", &denied);
        d.say(&mut k, CLIENT, b"EP");
        k.restart_counting();
        let _ = k.records();
        let tagged = Packet { tags: vec![VLAN], ..data.syn() };
        assert_eq!(data.send(&mut k, &tagged), Verdict::Drop);
        let parked = [("syn_parked", 1)];
        k.expect("parked", &parked);
        let records = k.records();
        let record = records.iter().find(|r| r[0] == kind::PARKED).expect("a parked SYN");
        let (head, frame) = record.split_at(size_of::<SynRecord>());
        // SAFETY: as long as a `SynRecord`, of which every byte pattern is one.
        let head: SynRecord = unsafe { std::ptr::read_unaligned(head.as_ptr().cast()) };
        let n = usize::from(head.frame_len);
        assert_eq!(&frame[..n], tagged.frame(), "the whole frame");
        assert_eq!((head.hook, head.key.responder_port, head.key.initiator_port), (hook, PORT, SOURCE));
        // Either direction between the two hosts; nobody else; no data; and within its budget.
        let back = Packet::syn(at(d.server.ip(), 20), at(d.client.ip(), 50001), 9);
        assert_eq!(k.send(other(hook), &back), Verdict::Drop);
        k.expect("the other direction", &parked);
        let stranger = Packet { from: at(hosts(v6).0, SOURCE), ..data.syn() };
        assert_eq!(k.send(hook, &stranger), Verdict::Drop);
        k.expect("a stranger's", &denied);
        assert_eq!(k.send(hook, &data.syn().with("x")), Verdict::Drop);
        k.expect("with data", &denied);
        let mut kept = BTreeMap::new();
        for _ in 0..20 {
            assert_eq!(data.send(&mut k, &data.syn()), Verdict::Drop);
            for (name, n) in k.counted() {
                *kept.entry(name).or_insert(0) += n;
            }
        }
        assert_eq!(kept, BTreeMap::from([("no_pinhole", 14), ("syn_denied", 14), ("syn_parked", 6)]));
        // The daemon gives one up: it is counted and told as if it had been denied at once.
        let before = k.plane().denied_by_port().unwrap().get(&PORT).copied().unwrap_or_default();
        let _ = k.records();
        let given_up =
            |c: &mut Command| (c.flow, c.mode, c.flags, c.epoch) = (head.key, hook, head.reason, head.ifindex);
        assert_eq!(d.command(&k, op::DENY, given_up), Outcome::Done);
        k.expect("given up", &denied);
        let after = k.plane().denied_by_port().unwrap()[&PORT];
        assert_eq!(after, [before[0] + 1, before[1]]);
        let record = k.records().into_iter().find(|r| r[0] == kind::DENIED).expect("it is told");
        // SAFETY: as above.
        let told: SynRecord = unsafe { std::ptr::read_unaligned(record[..size_of::<SynRecord>()].as_ptr().cast()) };
        assert_eq!((told.key, told.hook, told.reason, told.dropped), (head.key, hook, head.reason, 1));
        // The daemon catches up.
        let key =
            PinholeKey { initiator: d.client.ip().into(), responder: d.server.ip().into(), port: PORT, hook, pad: 0 };
        assert_eq!(d.command(&k, op::OPEN, |c| (c.pinhole, c.mode) = (key, pending::EPSV)), Outcome::Done);
        assert_eq!(data.send(&mut k, &data.syn()), Verdict::Pass);
        // Without parking, nothing is kept.
        k.plane().apply(&policy(), &guards(), FastPath { fast_path: true, parking: false }).unwrap();
        d.say(&mut k, CLIENT, b"SV");
        k.restart_counting();
        assert_eq!(k.send(other(hook), &back), Verdict::Drop);
        k.expect("parking is off", &denied);
        k.set(&policy(), &guards());
        k.clear();
    }
}
