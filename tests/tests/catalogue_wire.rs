//! The catalogue on the wire: the daemon on a gateway, frames through veth.

use ftp_helper::lab;
use ftp_helper_tests::catalogue::{self, Places, wire::Wire};

#[test]
fn every_stimulus_gets_its_verdict() {
    if !lab::require_root() {
        return;
    }
    let mut wire = Wire::new().unwrap();
    let mut wrong = Vec::new();
    let mut all = catalogue::all();
    all.retain(|s| s.on_wire && s.places != Places::Inside);
    // The policy in force changes rarely in this order.
    all.sort_by_key(|s| s.knob.toml);
    assert!(all.len() > 90, "{} stimuli", all.len());
    for s in &all {
        if let Err(e) = wire.run(s) {
            wrong.push(format!("{} ({}): {e:#}", s.id, s.about));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n\n"));
}

#[test]
fn a82_a_flood_of_handshakes_evicts_no_session() {
    if lab::require_root() {
        Wire::new().unwrap().flood(20_000).unwrap();
    }
}
