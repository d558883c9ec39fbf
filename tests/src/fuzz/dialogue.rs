//! Whole dialogues, legal and otherwise, through the engine and through the oracle.

use arbitrary::{Result, Unstructured};
use ftp_helper_common::key::HOOK_IN;

use super::{
    rig::{Rig, Setting},
    script::{self, Turn},
};
use crate::oracle::{self, Hole, Verdict};

/// Makes a dialogue of the bytes, carries it through, and compares.
///
/// # Panics
/// They differ, or an invariant does not hold.
pub fn run(data: &[u8]) {
    let mut u = Unstructured::new(data);
    // Bytes that are missing are zeros: nothing fails.
    let _ = u.int_in_range(0..=6).and_then(|mutations| differential(&mut u, mutations));
}

/// The same with a legal dialogue.
///
/// # Panics
/// Engine and oracle differ, or an invariant does not hold.
pub fn run_legal(data: &[u8]) {
    let _ = differential(&mut Unstructured::new(data), 0);
}

/// A dialogue that is legal but for so many mutations.
fn differential(u: &mut Unstructured<'_>, mutations: usize) -> Result<()> {
    let setting = Setting::arbitrary(u)?;
    let mut turns = script::legal(u, &setting)?;
    for _ in 0..mutations {
        script::mutate(u, &mut turns)?;
    }
    turns.retain(|turn| !turn.bytes.is_empty());
    let mut wires = script::wires(&turns);
    let plain = feed(&setting, &wires);
    let oracle = oracle::read(&setting.rules(), &script::happenings(&turns));
    compare(&setting, &turns, &plain, &oracle, mutations == 0);

    // I6: however it is cut, repeated and reordered, the same opens. One who speaks without having seen what came before
    // leaves open which of the two is first.
    if turns.iter().any(|turn| turn.late > 0) {
        return Ok(());
    }
    script::carry(u, &mut wires)?;
    let carried = feed(&setting, &wires);
    assert_eq!(carried.opened, plain.opened, "I6: {}\n{wires:?}", show(&turns));
    assert_eq!(carried.open(), plain.open(), "I6: {}\n{wires:?}", show(&turns));
    Ok(())
}

/// The engine after these segments.
fn feed(setting: &Setting, wires: &[super::rig::Wire]) -> Rig {
    let mut rig = Rig::new(setting.clone(), false);
    for wire in wires {
        rig.wire(wire);
    }
    rig
}

/// The same where the dialogue is legal; else the engine opens no more than the oracle.
fn compare(setting: &Setting, turns: &[Turn], engine: &Rig, oracle: &Verdict, legal: bool) {
    let told = || {
        format!(
            "client {}, {:?}\n{}\nengine {:?}, {:?}\noracle {oracle:?}",
            if setting.hook == HOOK_IN { "outside" } else { "inside" },
            setting.policy,
            show(turns),
            engine.opened,
            engine.state()
        )
    };
    if legal {
        assert_eq!(engine.opened, oracle.opened, "legal, but not the same\n{}", told());
        assert_eq!(engine.open(), oracle.open, "legal, but what is open at the end is not the same\n{}", told());
        assert_eq!(engine.barred(), oracle.barred.is_some(), "legal, but barred for one only\n{}", told());
        return;
    }
    assert!(
        is_subsequence(&engine.opened, &oracle.opened),
        "the engine opens what a strict reader does not\n{}",
        told()
    );
    if let Some(open) = engine.open() {
        assert!(engine.opened.contains(&open));
    }
}

fn is_subsequence(part: &[Hole], whole: &[Hole]) -> bool {
    let mut whole = whole.iter();
    part.iter().all(|hole| whole.any(|other| other == hole))
}

/// The dialogue for people.
pub fn show(turns: &[Turn]) -> String {
    let line = |t: &Turn| {
        let who = if t.side == 0 { "C" } else { "S" };
        let late = if t.late > 0 { format!(" (without the last {} bytes)", t.late) } else { String::new() };
        format!("{who}: {}{late}\n", t.bytes.escape_ascii())
    };
    turns.iter().map(line).collect()
}
