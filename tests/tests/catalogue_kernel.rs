//! The catalogue, through the programs in the kernel with the engine behind them.

use ftp_helper::engine::policy::Mode;
use ftp_helper_common::key::{HOOK_IN, HOOK_OUT};
use ftp_helper_tests::{
    catalogue::{self, Begin, Places, Stimulus, kernel::Bench},
    testrun::shared,
};

/// In `drop`, and with the same openings in `observe`, where nothing is dropped; where the engine alone can run it, it
/// comes to the same there.
#[test]
fn every_stimulus_gets_its_verdict() {
    let Some(mut k) = shared() else { return };
    let mut bench = Bench::new(&mut k);
    let mut wrong = Vec::new();
    // What is in force changes rarely in this order.
    let mut all = catalogue::all();
    all.sort_by_key(|s| s.knob.toml);
    for (what, mode) in [("drop", Mode::Drop), ("observe", Mode::Observe)] {
        for s in &all {
            for (hook, not) in [(HOOK_IN, Places::Inside), (HOOK_OUT, Places::Outside)] {
                if s.places == not || mode == Mode::Observe && hook == HOOK_OUT && s.places == Places::Both {
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
