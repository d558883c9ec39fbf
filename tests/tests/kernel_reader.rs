//! The reader in the kernel is the reader on the host: whatever two hosts send, both make the same of every segment, and
//! the session's entry is the same behind it.
//!
//! `fast ⊆ full` is proved for the reader on the host (in the engine's tests); this carries it over to the program that
//! the verifier has accepted. `FTP_HELPER_SEED=n` runs one sequence of dialogues again, `FTP_HELPER_FULL=1` ten times as
//! many.

#[path = "kernel_reader/dialogues.rs"]
mod dialogues;

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use ftp_helper::engine::policy::{ActiveOpen, Modes, Policy, Server};
use ftp_helper_common::{
    canon::{
        Segment, bit,
        host::{HostRules, Machine},
    },
    command::{Command, Outcome, op},
    key::{CLIENT, HOOK_IN, HOOK_OUT, PinholeKey},
    policy::KernelPolicy,
    record::{CHUNK, kind},
    state::{SessionState, flag, pending},
};
use ftp_helper_tests::{
    dialogue::Dialogue,
    packet::Packet,
    testrun::{self, Kernel, Verdict, kernel_policy},
};
use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner},
};

use self::dialogues::{Happening, Wire, mutate, mutation, wires};

/// Dialogues for each policy.
const CASES: u32 = 1500;

/// A policy of the kernel's, the same for the host's reader, and the passive range.
fn policies() -> Vec<(Policy, (u16, u16))> {
    let p = testrun::policy();
    let range = Server {
        networks: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
        passive_ports: Some(50000..=50070),
        opaque: Default::default(),
    };
    let mut all: Vec<_> = [ActiveOpen::Auto, ActiveOpen::Command, ActiveOpen::Reply, ActiveOpen::Transfer]
        .map(|active_open| (Policy { active_open, ..p.clone() }, (0, 65535)))
        .into();
    all.push((Policy { active_inbound: false, ..p.clone() }, (0, 65535)));
    all.push((Policy { servers: vec![range], ..p.clone() }, (50000, 50070)));
    all.push((Policy { modes: Modes(1 << pending::EPSV | 1 << pending::PORT), ..p }, (0, 65535)));
    all
}

/// How much of it was more than dull.
#[derive(Default, Debug)]
struct Tally {
    dialogues: u32,
    segments: u64,
    opened: u64,
    blinded: u64,
    resynced: u64,
    judged: u64,
    again: u64,
}

/// Runs a dialogue through both readers.
fn compare(
    k: &mut Kernel,
    d: &mut Dialogue,
    policy: &KernelPolicy,
    range: (u16, u16),
    happenings: &[Happening],
    tally: &mut Tally,
) -> Result<(), TestCaseError> {
    d.connect(k);
    let mut machine = Machine::new(d.key(), d.hook, d.start);
    let mut pinhole = PinholeKey::NONE;
    tally.dialogues += 1;
    for (n, happening) in happenings.iter().enumerate() {
        let made = match happening {
            Happening::Resync(logged_in, epsv_all) => {
                let bits = if *logged_in { flag::LOGGED_IN } else { 0 } | if *epsv_all { flag::EPSV_ALL } else { 0 };
                let outcome = d.command(k, op::RESYNC, |c: &mut Command| c.flags = bits);
                let done = resync(&mut machine.state, bits);
                prop_assert_eq!(outcome, if done { Outcome::Done } else { Outcome::Barred }, "{}", n);
                tally.resynced += u64::from(done);
                String::new()
            }
            Happening::Segment(w) => {
                let segment = Segment {
                    side: w.side,
                    flags: w.flags,
                    fragment: false,
                    seq: w.seq,
                    ack: w.ack,
                    len: w.data.len() as u32,
                };
                let rules = HostRules { denied: &[21, 3306], range };
                let (judgement, opened) = machine.feed(&segment, &w.data, policy, rules);
                let packet = Packet { flags: w.flags, seq: w.seq, ack: w.ack, ..d.segment(w.side, &w.data) };
                let step = d.send(k, w.side, &packet);
                prop_assert_eq!(step.verdict, Verdict::Pass);
                let records = w.data.len().div_ceil(CHUNK).max(1);
                prop_assert_eq!(step.records.len(), records, "{}: {:?}", n, w);
                let mut bytes = Vec::new();
                for (record, payload) in &step.records {
                    prop_assert_eq!(record.kind, kind::SEGMENT);
                    prop_assert_eq!(record.made, judgement.made, "segment {}: {:?}", n, show(w));
                    bytes.extend_from_slice(payload);
                }
                prop_assert_eq!(&bytes, &w.data, "the record's bytes of segment {}", n);
                if let Some(opened) = opened {
                    pinhole = opened;
                } else if judgement.made.has(bit::REVOKE) {
                    pinhole = PinholeKey::NONE;
                }
                tally.segments += 1;
                tally.opened += u64::from(judgement.made.has(bit::OPEN));
                tally.blinded += u64::from(judgement.made.has(bit::BLIND));
                tally.judged += u64::from(judgement.made.has(bit::JUDGED));
                tally.again += u64::from(judgement.made.has(bit::OLD));
                show(w)
            }
        };
        let state = d.state(k);
        let (id, last, ifindex, pinhole_seq) = (state.id, state.last, state.ifindex, state.pinhole_seq);
        let expected = SessionState { id, last, ifindex, pinhole_seq, pinhole, ..machine.state };
        prop_assert_eq!(state, expected, "the entry (left: the kernel's) behind {}: {}", n, made);
        let held = k.pinholes();
        let open: Vec<_> = held.iter().map(|p| p.0).collect();
        let want: Vec<_> = Some(pinhole).filter(|p| p.port != 0).into_iter().collect();
        prop_assert_eq!(open, want, "pinholes behind {}: {}", n, made);
    }
    Ok(())
}

/// What the command program does to an entry.
fn resync(state: &mut SessionState, bits: u16) -> bool {
    if state.flags & flag::BARRED != 0 {
        return false;
    }
    state.flags &= !(flag::BLIND | flag::LOGGED_IN | flag::EPSV_ALL | flag::ARMED);
    state.flags |= bits;
    state.version = state.version.wrapping_add(1);
    (state.unanswered, state.pending, state.multiline) = (0, 0, 0);
    (state.active_kind, state.active_port) = (0, 0);
    state.blind_reason = 0;
    true
}

fn show(w: &Wire) -> String {
    let side = if w.side == CLIENT { "C" } else { "S" };
    format!("{side} {:#x}+{} ack {:#x}: {}", w.seq, w.data.len(), w.ack, w.data.escape_ascii())
}

#[test]
fn the_kernel_reads_as_the_host_does() {
    let Some(kernel) = testrun::shared() else { return };
    let k = RefCell::new(kernel);
    let seed = std::env::var("FTP_HELPER_SEED").ok().map(|s| s.parse().expect("FTP_HELPER_SEED is a number"));
    let seed: u64 = seed.unwrap_or_else(testrun::monotonic);
    let full = std::env::var_os("FTP_HELPER_FULL").is_some_and(|v| v == "1");
    let cases = if full { 10 * CASES } else { CASES };
    let started = Instant::now();
    let tally = RefCell::new(Tally::default());
    for (p, (policy, range)) in policies().into_iter().enumerate() {
        k.borrow_mut().set(&policy, &testrun::guards());
        let kernel_policy = kernel_policy(&policy);
        let config = Config {
            cases,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(seed.wrapping_add(p as u64)),
            max_shrink_iters: 2000,
            ..Config::default()
        };
        let dialogues = (
            prop::sample::select(vec![HOOK_IN, HOOK_OUT]),
            any::<bool>(),
            prop::bool::weighted(0.9),
            prop::collection::vec((prop::bool::weighted(0.6), any::<Index>()), 1..10),
            prop::collection::vec(mutation(), 0..5),
        );
        let result = TestRunner::new(config).run(&dialogues, |(hook, v6, login, picked, mutations)| {
            let k = &mut **k.borrow_mut();
            let mut d = Dialogue::new(hook, v6);
            let mut happenings: Vec<_> = wires(&d, login, &picked).into_iter().map(Happening::Segment).collect();
            for m in &mutations {
                mutate(&mut happenings, m);
            }
            let outcome = compare(k, &mut d, &kernel_policy, range, &happenings, &mut tally.borrow_mut());
            k.forget_all();
            outcome
        });
        if let Err(TestError::Fail(why, input)) = result {
            panic!("FTP_HELPER_SEED={seed}: {why}\nwith {input:?}\npolicy {policy:?}");
        }
        result.expect("no other error");
    }
    let took = started.elapsed();
    let tally = tally.into_inner();
    println!("seed {seed}, {took:.1?}: {tally:?}");
    // Or the test proves nothing.
    assert!(tally.dialogues >= 7 * CASES && tally.segments > 100_000, "{tally:?}");
    assert!(tally.opened > 2000 && tally.blinded > 1000 && tally.resynced > 300, "{tally:?}");
    assert!(tally.judged > 30_000 && tally.again > 60, "{tally:?}");
    assert!(full || took < Duration::from_secs(60), "{took:?}");
}
