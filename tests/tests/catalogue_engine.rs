//! The catalogue, on the engine alone.

use ftp_helper_common::key::{HOOK_IN, HOOK_OUT};
use ftp_helper_tests::catalogue::{self, Begin, Places};

#[test]
fn every_stimulus_gets_its_verdict() {
    let mut wrong = Vec::new();
    for s in catalogue::all().iter().filter(|s| s.begin != Begin::Nothing) {
        for (hook, not) in [(HOOK_IN, Places::Inside), (HOOK_OUT, Places::Outside)] {
            if s.places == not {
                continue;
            }
            if let Err(e) = catalogue::engine::run(s, hook) {
                wrong.push(format!("{} ({}), client by hook {hook}: {e}", s.id, s.about));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n\n"));
}
