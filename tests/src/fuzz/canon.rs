//! The kernel's canonical recogniser beside the engine: what it opens, the engine opens at the same segment, with the
//! same endpoints.

use arbitrary::{Result, Unstructured};
use ftp_helper_common::tcp;

use super::{
    dialogue::show,
    inside,
    rig::{Rig, START, Setting, Wire},
    script,
};

/// Carries a dialogue made of the bytes through both.
///
/// # Panics
/// They differ, or an invariant does not hold.
pub fn run(data: &[u8]) {
    let mut u = Unstructured::new(data);
    // Bytes that are missing are zeros: nothing fails.
    let _ = differential(&mut u);
}

fn differential(u: &mut Unstructured<'_>) -> Result<()> {
    let setting = Setting::arbitrary(u)?;
    let mutations = u.int_in_range(0..=5)?;
    let mut turns = script::legal(u, &setting)?;
    for _ in 0..mutations {
        script::mutate(u, &mut turns)?;
    }
    turns.retain(|turn| !turn.bytes.is_empty());
    let turns = inside::translated(u, &setting, &turns)?;
    let mut wires = script::wires(&turns);
    if u.arbitrary()? {
        script::carry(u, &mut wires)?;
    }
    for _ in 0..u.int_in_range(0..=2)? {
        tamper(u, &mut wires)?;
    }
    let policy = setting.policy.clone();
    let mut rig = Rig::new(setting, true);
    let wires = causal(wires);
    for wire in &wires {
        let (fast, full) = (rig.opened_by_kernel().len(), rig.opened.len());
        rig.wire(wire);
        let fast = &rig.opened_by_kernel()[fast..];
        let full = &rig.opened[full..];
        for hole in fast {
            assert!(
                full.contains(hole),
                "the kernel opens {hole:?}, the engine {full:?} {:?} {:?}\n{policy:?}\n{wire:?}\nof {wires:?}\n{}",
                rig.state(),
                rig.engine.stats().refused,
                show(&turns)
            );
        }
        let divergences = rig.engine.stats().divergences;
        assert_eq!(divergences, 0, "the engine takes back what the kernel opens\n{wire:?}\n{}", show(&turns));
    }
    Ok(())
}

/// What only shows in segments.
fn tamper(u: &mut Unstructured<'_>, wires: &mut Vec<Wire>) -> Result<()> {
    if wires.is_empty() {
        return Ok(());
    }
    let i = u.choose_index(wires.len())?;
    match u.int_in_range(0..=2)? {
        0 => {
            // The same bytes again, but for one.
            let mut again = wires[i].clone();
            let at = u.choose_index(again.data.len())?;
            again.data[at] = u.arbitrary()?;
            wires.insert(i + 1, again);
        }
        1 => wires[i].flags |= tcp::URG,
        _ => wires[i].flags |= tcp::FIN,
    }
    Ok(())
}

/// The order in which segments can pass a gateway: nothing is acknowledged that has not passed before.
fn causal(mut wires: Vec<Wire>) -> Vec<Wire> {
    let (mut out, mut next): (Vec<Wire>, _) = (Vec::new(), START);
    while !wires.is_empty() {
        let may = |w: &Wire| tcp::distance(w.ack, next[1 - usize::from(w.side)]) <= 0;
        let wire = wires.remove(wires.iter().position(may).unwrap_or(0));
        out.push(wire);
        for _ in 0..out.len() {
            let before = next;
            for w in &out {
                let (i, end) = (usize::from(w.side), w.seq.wrapping_add(w.data.len() as u32));
                if tcp::distance(w.seq, next[i]) <= 0 && tcp::distance(end, next[i]) > 0 {
                    next[i] = end;
                }
            }
            if before == next {
                break;
            }
        }
    }
    out
}
