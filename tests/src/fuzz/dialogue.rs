//! Whole dialogues, legal and otherwise, through the engine and through the oracle.

use arbitrary::{Result, Unstructured};
use ftp_helper_common::key::HOOK_IN;

use super::{
    inside,
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
    let (setting, turns) = dialogue(u, mutations)?;
    // Both read what there is outside: what rewriting has cut away, nobody there has seen.
    let turns = inside::translated(u, &setting, &turns)?;
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

/// A dialogue that is legal but for so many mutations, and between whom it is.
fn dialogue(u: &mut Unstructured<'_>, mutations: usize) -> Result<(Setting, Vec<Turn>)> {
    let setting = Setting::arbitrary(u)?;
    let mut turns = script::legal(u, &setting)?;
    for _ in 0..mutations {
        script::mutate(u, &mut turns)?;
    }
    turns.retain(|turn| !turn.bytes.is_empty());
    Ok((setting, turns))
}

/// What the oracle makes of the dialogue of the bytes, and the dialogue for people.
///
/// # Errors
/// Never for bytes: those that are missing are zeros.
pub fn verdict(data: &[u8]) -> Result<(Verdict, String)> {
    let mut u = Unstructured::new(data);
    let mutations = u.int_in_range(0..=6)?;
    let (setting, turns) = dialogue(&mut u, mutations)?;
    Ok((oracle::read(&setting.rules(), &script::happenings(&turns)), show(&turns)))
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

#[cfg(test)]
mod tests {
    use ftp_helper::engine::policy::{ActiveOpen, LineEndings};

    use super::*;

    /// `C: ` and `S: ` and what is said; the engine and the oracle after it.
    fn both(setting: &Setting, said: &[&str]) -> (Rig, Verdict) {
        let turn = |line: &&str| {
            let (who, text) = line.split_at(3);
            let bytes = text.chars().map(|c| c as u8).collect();
            Turn { side: u8::from(who == "S: "), bytes, late: 0 }
        };
        let turns: Vec<_> = said.iter().map(turn).collect();
        let engine = feed(setting, &script::wires(&turns));
        let oracle = oracle::read(&setting.rules(), &script::happenings(&turns));
        compare(setting, &turns, &engine, &oracle, false);
        (engine, oracle)
    }

    const LOGIN: [&str; 3] = ["S: 220 hi\r\n", "C: USER a\r\n", "S: 230 in\r\n"];
    const PASV: [&str; 2] = ["C: PASV\r\n", "S: 227 (198,51,100,5,195,149)\r\n"];

    #[test]
    fn a_line_end_within_telnet() {
        for lenient in [false, true] {
            let mut setting = Setting::new(false);
            if lenient {
                setting.policy.line_endings = LineEndings::Lenient;
            }
            for tail in
                ["\u{ff}\u{fb}\r\n", "\u{ff}\u{fb}\n", "\u{ff}\u{fe}\rx", "\u{ff}\u{fd}\r\r\n", "\u{ff}\u{fd}\n\r\n"]
            {
                for side in ["C: NOOP", "S: 200 ok"] {
                    let line = format!("{side}{tail}\r\n");
                    let said: Vec<&str> =
                        LOGIN.into_iter().chain([&line[..], "C: \r\n", "S: 200 k\r\n"]).chain(PASV).collect();
                    let (engine, _) = both(&setting, &said);
                    assert!(engine.barred(), "{line:?}");
                }
            }
        }
    }

    #[test]
    fn telnet_in_a_reply_that_negotiates() {
        for line in ["S: 227-x\r\n227 \u{ff}\u{f4}x\r\n", "S: 227 \u{ff}\u{f4}x\r\n", "S: 227\u{ff}\u{f4}-\r\n"] {
            let said: Vec<&str> = LOGIN.into_iter().chain(["C: NOOP\r\n", line]).chain(PASV).collect();
            let (engine, _) = both(&Setting::new(false), &said);
            assert!(engine.barred(), "{line:?}");
        }
    }

    /// Found by fuzzing: behind a translation the words before an endpoint are cut, and Telnet among them with it.
    #[test]
    fn what_rewriting_cuts_away_is_nobodys_to_read() {
        let head = b"\x01`\0\0\0\0\0\x02\x01\x13OPT\xff\xff\xff\xff\xff\xff\xff\x16S\x0c";
        run(&[&head[..], &[b'j'; 118], b"\x05\0"].concat());
    }

    #[test]
    fn a_bare_line_feed_supersedes() {
        let mut setting = Setting::new(false);
        setting.policy.line_endings = LineEndings::Lenient;
        setting.policy.active_open = ActiveOpen::Transfer;
        for command in ["PASV", "EPSV", "EPSV ALL", "PORT 1", "EPRT"] {
            let line = format!("C: {command}\n");
            let said = ["C: PORT 192,0,2,10,195,149\r\n", "S: 200 ok\r\n", &line, "S: 500 no\r\n", "C: RETR x\r\n"];
            let said: Vec<&str> = LOGIN.into_iter().chain(said).collect();
            let (engine, _) = both(&setting, &said);
            assert_eq!(engine.opened, [], "{line:?}");
        }
    }
}
