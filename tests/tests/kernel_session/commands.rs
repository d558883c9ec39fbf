//! What the daemon's commands change, and what they leave alone.

use ftp_helper_common::{
    command::{Command, Outcome, op},
    key::{CLIENT, FlowKey, HOOK_IN, HOOK_OUT, PinholeKey, SERVER},
    reason::Reason,
    state::{flag, pending, pinhole_flag},
};
use ftp_helper_tests::{
    dialogue::{Data, Dialogue, PORT, every_kind},
    testrun::{Verdict, shared},
};

use super::SOURCE;

#[test]
fn commands_are_checked_against_the_entry() {
    let Some(mut k) = shared() else { return };
    let mut d = Dialogue::ready(&mut k, HOOK_IN, false);
    let key = d.open_passive(&mut k, PORT);
    let state = d.state(&k);
    let pin = k.pinhole().1;
    k.restart_counting();
    let nobody = Dialogue::new(HOOK_IN, false).key();
    for op in [op::OPEN, op::CONFIRM, op::REVOKE, op::STANDING, op::RESYNC, op::FORGET] {
        assert_eq!(d.command(&k, op, |c| c.key = nobody), Outcome::NoSession, "{op}");
    }
    for op in [op::OPEN, op::STANDING, op::RESYNC, op::FORGET] {
        let other_id = |c: &mut Command| (c.session, c.flags) = (state.id + 1, flag::KILLED);
        assert_eq!(d.command(&k, op, other_id), Outcome::NoSession, "{op} with another id");
    }
    for op in [op::CONFIRM, op::REVOKE] {
        let wrong = |c: &mut Command| c.session = state.id + 1;
        assert_eq!(d.command(&k, op, wrong), Outcome::NoPinhole, "{op} with another id");
        let wrong = |c: &mut Command| c.seq = state.pinhole_seq.wrapping_add(1);
        assert_eq!(d.command(&k, op, wrong), Outcome::NoPinhole, "{op} of another announcement");
    }
    assert_eq!(d.command(&k, op::RESYNC, |c| c.epoch += 1), Outcome::MovedOn);
    assert_eq!(d.command(&k, op::RESYNC, |c| c.next[0] ^= 1), Outcome::MovedOn);
    assert_eq!(d.command(&k, op::RESYNC, |c| c.next[1] ^= 1), Outcome::MovedOn);
    assert_eq!(d.command(&k, 0, |_| ()), Outcome::Malformed);
    assert_eq!(d.command(&k, 99, |_| ()), Outcome::Malformed);
    k.expect("nothing was done", &[]);
    assert_eq!((d.state(&k), k.pinhole()), (state, (key, pin)));
    // A packet too short for a command.
    let (code, _) = k.plane().run("ftp_command", &[0; 64]).unwrap();
    assert_eq!(Outcome::from_code(code), Some(Outcome::Malformed));

    assert_eq!(d.command(&k, op::CONFIRM, |_| ()), Outcome::Done);
    assert_eq!(k.pinhole().1.flags, pin.flags | pinhole_flag::CONFIRMED);
    k.expect("confirmed", &[]);
    assert_eq!(d.command(&k, op::REVOKE, |_| ()), Outcome::Done);
    k.expect("revoked", &[("revoked", 1)]);
    assert_eq!(d.command(&k, op::REVOKE, |_| ()), Outcome::NoPinhole);
    assert_eq!(d.command(&k, op::CONFIRM, |_| ()), Outcome::NoPinhole);
    assert_eq!((k.pinholes().len(), d.state(&k).pinhole, k.held_by(d.client.ip())), (0, PinholeKey::NONE, 0));

    // The daemon opens, and opens another: the first is replaced.
    let open = |port| PinholeKey { port, ..key };
    assert_eq!(
        d.command(&k, op::OPEN, |c| (c.pinhole, c.mode, c.seq) = (open(PORT), pending::PASV, 77)),
        Outcome::Done
    );
    k.expect("opened", &[("opened_slow", 1)]);
    let (held, pin) = k.pinhole();
    assert_eq!((held, pin.seq, pin.mode, pin.flags), (open(PORT), 77, pending::PASV, pinhole_flag::CONFIRMED));
    let second = |c: &mut Command| (c.pinhole, c.mode, c.seq) = (open(PORT + 1), pending::EPSV, 78);
    // While the kernel sees, a later announcement's pinhole is not replaced by a daemon that is behind.
    assert_eq!(d.command(&k, op::OPEN, second), Outcome::MovedOn);
    k.expect("behind", &[]);
    assert_eq!(d.client(&mut k, "AUTH TLS").reason(), Reason::UnknownVerb as u16);
    k.expect("blind", &[("blinded", 1), ("control_segments", 1), ("records", 1), ("unknown_verb", 1)]);
    assert_eq!(d.command(&k, op::OPEN, second), Outcome::Done);
    k.expect("another", &[("opened_slow", 1), ("revoked", 1)]);
    assert_eq!((k.pinhole().0, d.state(&k).pinhole_seq), (open(PORT + 1), 78));

    assert_eq!(d.command(&k, op::FORGET, |_| ()), Outcome::Done);
    k.expect("forgotten", &[("revoked", 1)]);
    assert!(k.sessions().is_empty() && k.pinholes().is_empty());
    assert_eq!(k.held_by(d.client.ip()), 0);
}

#[test]
fn standing_bars_a_session() {
    let Some(mut k) = shared() else { return };
    for (hook, v6) in every_kind() {
        for bits in [flag::TAINTED, flag::OPAQUE, flag::TAINTED | flag::KILLED] {
            let mut d = Dialogue::ready(&mut k, hook, v6);
            let key = d.open_passive(&mut k, PORT);
            k.restart_counting();
            // Only the daemon's three bits can be set.
            assert_eq!(d.command(&k, op::STANDING, |c| c.flags = bits | flag::RESET | flag::LOST), Outcome::Done);
            k.expect("standing", &[("revoked", 1)]);
            assert_eq!(d.state(&k).flags, flag::LOGGED_IN | bits);
            assert!(k.pinholes().is_empty());
            let reopen = |c: &mut Command| (c.pinhole, c.mode) = (key, pending::PASV);
            assert_eq!(d.command(&k, op::OPEN, reopen), Outcome::Barred);
            let step = d.say(&mut k, CLIENT, b"EPSV\r\n");
            if bits & flag::KILLED != 0 {
                assert_eq!(step.verdict, Verdict::Drop);
                k.expect("killed", &[("control_dropped", 1), ("killed", 1)]);
            } else {
                // Nobody wants its bytes any more.
                assert_eq!((step.verdict, step.records.len()), (Verdict::Pass, 0));
                k.expect("unread", &[("control_segments", 1)]);
                d.say(&mut k, SERVER, format!("229 (|||{PORT}|)\r\n").as_bytes());
                k.expect("unread", &[("control_segments", 1)]);
            }
            assert!(k.pinholes().is_empty());
            k.clear();
        }
    }
}

#[test]
fn entries_are_forgotten_on_command() {
    let Some(mut k) = shared() else { return };
    let mut d = Dialogue::ready(&mut k, HOOK_OUT, false);
    let key = d.open_passive(&mut k, PORT);
    let client = |ip: std::net::IpAddr| Command {
        op: op::FORGET_CLIENT,
        flow: FlowKey { initiator: ip.into(), ..FlowKey::default() },
        ..Command::default()
    };
    assert_eq!(k.command(&client(d.client.ip())), Outcome::Busy, "it holds a pinhole");
    let data = Data::through(&key, SOURCE);
    data.connect(&mut k);
    assert_eq!(k.command(&client(d.client.ip())), Outcome::Done);
    assert_eq!(k.command(&client(d.client.ip())), Outcome::NoPinhole);
    let (tuple, flow) = k.flows()[0];
    let forget = Command { op: op::FORGET_FLOW, flow: tuple.to_flow(flow.hook), mode: flow.hook, ..Command::default() };
    assert_eq!(k.command(&forget), Outcome::Done);
    assert_eq!(k.command(&forget), Outcome::NoPinhole);
    assert!(k.flows().is_empty());
}
