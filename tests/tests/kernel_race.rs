//! Two CPUs at one session: what one of them has judged is not committed if the session has changed in the meantime. Then it
//! is blind, and nothing is lost by it: both streams are followed, every segment is recorded, and what is open is known.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use aya::{
    Ebpf, TestRun as _,
    programs::{SchedClassifier, TestRunOptions},
};
use ftp_helper_common::{
    command::{Command, Outcome, op},
    key::{CLIENT, HOOK_IN, PinholeKey, SERVER},
    reason::Reason,
    state::{flag, pending},
};
use ftp_helper_tests::{
    dialogue::{Dialogue, PORT},
    testrun::{Kernel, shared},
};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// How often the race must have come about.
const WANTED: u64 = 20;
/// How long that may take. It takes a fraction of a second where the two CPUs have nothing else to do.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often something is done beside, in one round: with its records, less than the ring buffer holds.
const MOST: u32 = 500;
/// The announcement of the daemon's own pinhole, and its port.
const OTHER: (u32, u16) = (77, PORT + 1);

/// A command of the daemon and a segment.
#[test]
fn a_command_between_judgement_and_commit_loses_and_opens_nothing() {
    let Some(mut k) = shared() else { return };
    for v6 in [false, true] {
        until_raced(&mut k, v6, |d, id, ebpf| {
            let key = d.key();
            let pinhole =
                PinholeKey { initiator: key.client, responder: key.server, port: OTHER.1, hook: HOOK_IN, pad: 0 };
            let command =
                Command { session: id, key, seq: OTHER.0, pinhole, mode: pending::PASV, ..Command::default() };
            for op in [op::OPEN, op::REVOKE] {
                let outcome = run(ebpf, "ftp_command", bytes_of(&Command { op, replaces: OTHER.0, ..command }));
                // It may not replace what the kernel has opened for a later announcement.
                let expected = [Outcome::Done, Outcome::MovedOn, Outcome::NoPinhole];
                let outcome = Outcome::from_code(outcome).expect("an answer");
                assert!(expected.contains(&outcome), "{outcome:?}");
            }
        });
    }
}

/// A client's segment once more, and the server's reply to it.
#[test]
fn a_segment_between_judgement_and_commit_loses_and_opens_nothing() {
    let Some(mut k) = shared() else { return };
    for v6 in [false, true] {
        until_raced(&mut k, v6, |d, _, ebpf| {
            // As the segment was that `until_raced` has sent last.
            let mut before = d.segment(CLIENT, b"EPSV\r\n");
            before.seq = before.seq.wrapping_sub(6);
            assert_eq!(run(ebpf, "ftp_ingress", &before.frame()), PASS, "a retransmission");
        });
    }
}

/// `TC_ACT_UNSPEC`.
const PASS: u32 = u32::MAX;

/// Has a session say EPSV and 229, the reply while another CPU does something else over and over, until the race has come
/// about often enough.
fn until_raced(k: &mut Kernel, v6: bool, beside: impl Fn(&Dialogue, u64, &Ebpf) + Sync) {
    let mut d = Dialogue::ready(k, HOOK_IN, v6);
    let begun = Instant::now();
    let (mut races, mut rounds, mut opened) = (0, 0_u64, 0);
    while races < WANTED {
        assert!(begun.elapsed() < PATIENCE, "{races} races in {rounds} rounds, {opened} of them opened");
        rounds += 1;
        k.restart_counting();
        d.say(k, CLIENT, b"EPSV\r\n");
        let id = d.state(k).id;
        let reply = d.segment(SERVER, format!("229 Extended (|||{PORT}|)\r\n").as_bytes());
        let frame = reply.frame();
        let seq = reply.seq;
        let draining = std::mem::replace(&mut k.draining, false);
        k.discard();
        {
            let ebpf: &Ebpf = k.plane().ebpf_mut();
            let shown = &d;
            at_once(|| assert_eq!(run(ebpf, "ftp_egress", &frame), PASS, "the reply"), || beside(shown, id, ebpf));
        }
        k.draining = draining;
        d.next[1] = d.next[1].wrapping_add(reply.payload.len() as u32);
        let counted = k.counted();
        let raced = counted.get(Reason::Race.as_str()).copied().unwrap_or_default();
        races += raced;
        let state = d.state(k);
        assert_eq!(state.next, d.next, "a segment was lost in round {rounds}: {counted:?}");
        let told = k.records().iter().filter(|r| is_segment(r, seq)).count();
        assert_eq!(told, 1, "the reply was recorded {told} times");
        let blind = state.flags & flag::BLIND != 0;
        assert_eq!(blind, raced != 0, "round {rounds}: {counted:?}");
        // What is open, the session knows of; and it is what was announced, or what the daemon has opened.
        let own: Vec<_> = k.pinholes().into_iter().filter(|(_, p)| p.session == id).collect();
        assert!(own.len() <= 1, "{own:?}");
        for (key, p) in &own {
            assert_eq!((*key, p.seq), (state.pinhole, state.pinhole_seq), "round {rounds}");
            assert!([(seq, PORT), OTHER].contains(&(p.seq, key.port)), "{key:?} {p:?}");
        }
        let announced = own.iter().any(|(key, _)| key.port == PORT);
        assert!(announced || blind, "the announcement was lost in round {rounds}: {counted:?}");
        opened += u64::from(announced);
        // The daemon reads all of that, and brings the kernel back.
        for (seq, port) in [(seq, PORT), OTHER] {
            let pinhole = own.iter().map(|(key, _)| *key).find(|key| key.port == port).unwrap_or(PinholeKey::NONE);
            d.command(k, op::REVOKE, |c| (c.seq, c.pinhole) = (seq, pinhole));
        }
        if blind {
            assert_eq!(d.command(k, op::RESYNC, |c| c.flags = flag::LOGGED_IN), Outcome::Done);
        }
        assert_eq!(d.state(k).flags, flag::LOGGED_IN);
        assert_eq!(k.held_by(d.client.ip()), 0, "the client's share of the quota");
    }
    println!("{races} races in {rounds} rounds, {opened} announcements opened, {:.1?}", begun.elapsed());
}

fn is_segment(record: &[u8], seq: u32) -> bool {
    matches!(ftp_helper_tests::testrun::parse(record), ftp_helper::engine::Record::Segment(s, _) if s.seq == seq && s.side == SERVER)
}

/// Runs a program on some bytes, on the CPU of the thread that calls.
fn run(ebpf: &Ebpf, name: &str, bytes: &[u8]) -> u32 {
    let program: &SchedClassifier = ebpf.program(name).expect("a program").try_into().expect("a classifier");
    let options = TestRunOptions { data_in: Some(bytes), ..TestRunOptions::new() };
    program.test_run(options).expect("a test run").return_value
}

fn bytes_of(command: &Command) -> &[u8] {
    // SAFETY: `Command` is `repr(C)` without implicit padding (asserted where it is defined).
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(command).cast(), size_of::<Command>()) }
}

/// Does one thing once, while another CPU does another over and over.
fn at_once(once: impl FnOnce() + Send, beside: impl Fn() + Sync) {
    let cpus = sched_getaffinity(Pid::from_raw(0)).expect("the CPUs of this process");
    let mine: Vec<usize> = (0..CpuSet::count()).filter(|n| cpus.is_set(*n).unwrap_or(false)).collect();
    let [one, .., other] = mine[..] else { panic!("two CPUs are needed") };
    let pin = |cpu| {
        let mut set = CpuSet::new();
        set.set(cpu).expect("such a CPU");
        sched_setaffinity(Pid::from_raw(0), &set).expect("a CPU of this process");
    };
    let (ready, over) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(other);
            let mut times = 0;
            while !over.load(Ordering::Acquire) {
                // Whoever waits does not wait for ever if this panics.
                let _done = Done(&ready);
                // The other thread may not have its turn for long, and the ring buffer is not without end.
                if times < MOST {
                    beside();
                    times += 1;
                } else {
                    std::thread::yield_now();
                }
            }
        });
        scope.spawn(|| {
            let _done = Done(&over);
            pin(one);
            while !ready.load(Ordering::Acquire) {
                std::hint::spin_loop();
            }
            once();
        });
    });
}

/// Tells, when it goes, that something is over.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
