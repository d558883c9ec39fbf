//! Random dialogues, legal and mutated, through the programs with the engine behind them, and through the engine alone: after
//! every segment what is open in the kernel is open in the engine, with the same ends.
//!
//! `FTP_HELPER_SEED=n` begins with the dialogue of that number, `FTP_HELPER_FULL=1` goes on for ten minutes instead of a
//! share of one.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use arbitrary::Unstructured;
use ftp_helper::{
    dataplane::FastPath,
    engine::{Action, Engine, Record, policy::Mode},
};
use ftp_helper_common::{
    canon::bit,
    key::PinholeKey,
    record::{SegmentRecord, kind},
};
use ftp_helper_tests::{
    dialogue::Dialogue,
    fuzz::{
        dialogue::show,
        rig::{Rig, SECOND, START, Setting, Wire},
        script::{self, Turn},
    },
    gateway::full,
    packet::Packet,
    sim::rng::{Rng, seed},
    testrun::{Kernel, parse, shared},
};

/// Dialogues of one setting in a row: putting a policy in force takes longer than a dialogue.
const IN_A_ROW: u64 = 8;
/// Dialogues at least, however slow the machine is.
const ENOUGH: u64 = 800;
/// The time of all segments.
const NOW: u64 = 1000 * SECOND;

/// Who may connect to which port of whom.
type Ends = (IpAddr, IpAddr, u16);

/// How much of it was more than dull.
#[derive(Default, Debug)]
struct Tally {
    dialogues: u64,
    legal: u64,
    segments: u64,
    opened: u64,
    fast: u64,
    blind: u64,
    commands: u64,
}

/// The kernel's side of one dialogue: the programs, and the engine that reads what they write.
struct Behind<'a> {
    k: &'a mut Kernel,
    dialogue: Dialogue,
    engine: Engine,
    tally: &'a mut Tally,
}

impl Behind<'_> {
    /// Handshake.
    fn begin(&mut self) {
        let d = self.dialogue.clone();
        for (side, packet) in [(0, d.syn()), (1, d.syn_ack()), (0, d.segment(0, b""))] {
            self.send(side, &packet);
        }
        assert!(self.k.session(&d.key()).is_some(), "no session after the handshake");
    }

    /// Runs a packet; what is open then, and what is once the engine has read of it.
    fn send(&mut self, side: u8, packet: &Packet) -> [BTreeSet<Ends>; 2] {
        let _ = self.k.send(self.dialogue.hook_of(side), packet);
        let before = self.open();
        for raw in self.k.records() {
            let mut record = parse(&raw);
            // Everything happens at one moment: the test is none of timers.
            match &mut record {
                Record::Session(r) | Record::Stray(r) => r.time = NOW,
                Record::Segment(r, _) => {
                    r.time = NOW;
                    self.tally.fast += u64::from(opens(r));
                    self.tally.blind += u64::from(r.made.has(bit::BLIND));
                }
                other => panic!("no packet of this test makes a {other:?}"),
            }
            self.engine.handle_record(NOW, &record);
            while let Some(action) = self.engine.poll_action() {
                if let Action::Command(command) = action {
                    self.tally.commands += 1;
                    let outcome = self.k.command(&command);
                    self.engine.handle_outcome(NOW, &command, outcome);
                }
            }
        }
        [before, self.open()]
    }

    fn open(&self) -> BTreeSet<Ends> {
        let ends = |(p, _): (PinholeKey, _)| (p.initiator.to_ip(), p.responder.to_ip(), p.port);
        self.k.pinholes().into_iter().map(ends).collect()
    }
}

fn opens(record: &SegmentRecord) -> bool {
    record.kind == kind::SEGMENT && record.offset == 0 && record.made.has(bit::OPEN)
}

/// One dialogue both ways; an error says where they differ.
fn differential(
    k: &mut Kernel,
    setting: &Setting,
    wires: &[Wire],
    legal: bool,
    tally: &mut Tally,
) -> Result<(), String> {
    let mut dialogue = Dialogue::between((setting.client(), setting.server()), setting.hook);
    dialogue.client.set_port(setting.key.client_port);
    assert_eq!(dialogue.start, START);
    let mut alone = Rig::new(setting.clone(), false);
    let mut behind = Behind { k, dialogue, engine: Engine::new(setting.policy.clone(), 0), tally };
    behind.begin();
    let mut was = BTreeSet::new();
    for (n, wire) in wires.iter().enumerate() {
        alone.wire(wire);
        let of_engine: BTreeSet<Ends> = alone.open().map(|h| (h.initiator, h.responder, h.port)).into_iter().collect();
        let &Wire { side, flags, seq, ack, ref data } = wire;
        let packet = Packet { flags, seq, ack, ..behind.dialogue.segment(side, data) };
        let [fast, full] = behind.send(side, &packet);
        behind.tally.segments += 1;
        // What the fast path has just opened, nobody else has had a say in.
        let new: BTreeSet<_> = fast.difference(&was).copied().collect();
        if !new.is_subset(&of_engine) {
            return Err(format!("segment {n}: the fast path opens {new:?}, the engine has {of_engine:?}"));
        }
        if !full.is_subset(&of_engine) || legal && full != of_engine {
            return Err(format!("segment {n}: the kernel has {full:?}, the engine {of_engine:?}"));
        }
        was = full;
    }
    let (divergences, all) = (behind.engine.stats().divergences, alone.opened.len() as u64);
    behind.tally.opened += all;
    let told = behind.engine.stats().announcements;
    if divergences > 0 || told > all || legal && told != all {
        return Err(format!("{told} announcements behind the kernel, {all} alone, {divergences} divergences"));
    }
    Ok(())
}

/// A setting of chance, in force in the kernel.
fn apply(k: &mut Kernel, rng: &mut Rng) -> Setting {
    let bytes: Vec<u8> = (0..16).map(|_| rng.word() as u8).collect();
    let mut setting = Setting::arbitrary(&mut Unstructured::new(&bytes)).expect("bytes are enough");
    setting.policy.mode = Mode::Drop;
    // Longer than any test, by whichever clock.
    setting.policy.pinhole_timeout = Duration::from_secs(86_400);
    let fast = FastPath { parking: false, ..FastPath::default() };
    k.plane().apply(&setting.policy, &[], fast).expect("the policy fits");
    setting
}

/// A dialogue of chance, as people read it and as it is sent; and whether it is legal.
fn dialogue(rng: &mut Rng, setting: &Setting) -> (Vec<Turn>, Vec<Wire>, bool) {
    let bytes: Vec<u8> = (0..rng.from_to(200, 1500)).map(|_| rng.word() as u8).collect();
    let mut u = Unstructured::new(&bytes);
    let make = |u: &mut Unstructured<'_>| -> arbitrary::Result<_> {
        let mutations = u.int_in_range(0..=7)?;
        let mut turns = script::legal(u, setting)?;
        for _ in 0..mutations {
            script::mutate(u, &mut turns)?;
        }
        turns.retain(|turn| !turn.bytes.is_empty());
        let mut wires = script::wires(&turns);
        if u.arbitrary()? {
            script::carry(u, &mut wires)?;
        }
        Ok((turns, wires, mutations == 0))
    };
    make(&mut u).expect("bytes that are missing are zeros")
}

#[test]
fn the_kernel_opens_nothing_that_the_engine_would_not() {
    let Some(mut k) = shared() else { return };
    let begun = Instant::now();
    let first = seed();
    println!("FTP_HELPER_SEED={first}");
    let share = Duration::from_secs(if full() { 600 } else { 25 });
    let mut tally = Tally::default();
    while tally.dialogues < ENOUGH || begun.elapsed() < share {
        // A seed for each setting, which brings back this failure alone.
        let own = first.wrapping_add(tally.dialogues / IN_A_ROW);
        let mut rng = Rng::new(own);
        let mut setting = apply(&mut k, &mut rng);
        for _ in 0..IN_A_ROW {
            let (turns, wires, legal) = dialogue(&mut rng, &setting);
            // The table of connections that are not followed remembers ports.
            setting.key.client_port = 1024 + (tally.dialogues % 60_000) as u16;
            if let Err(e) = differential(&mut k, &setting, &wires, legal, &mut tally) {
                let Setting { hook, policy, .. } = &setting;
                panic!("FTP_HELPER_SEED={own}: {e}\nclient's hook {hook}, {policy:?}\n{}{wires:?}", show(&turns));
            }
            tally.dialogues += 1;
            tally.legal += u64::from(legal);
            k.forget_all();
        }
    }
    println!("{:.1?}: {tally:?}", begun.elapsed());
    // Or it shows nothing.
    let Tally { dialogues, legal, segments, opened, fast, blind, commands } = tally;
    assert!(legal * 20 > dialogues && segments > 10 * dialogues && commands > dialogues, "{dialogues} dialogues");
    assert!(opened * 5 > dialogues && fast * 5 > opened && blind * 4 > dialogues, "{dialogues} dialogues");
}
