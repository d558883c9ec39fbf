//! Captures: whatever the bytes, `replay` tells what is in them or what is wrong, in memory that does not grow.

use std::io::Cursor;

use ftp_helper::{
    engine::Policy,
    event::{Event, Kind},
    replay::{self, Options, Outside, ReplayError},
};

/// Replays the bytes as a capture file; the first one says how.
///
/// # Panics
/// The summary is not what the events say.
pub fn run(data: &[u8]) {
    let Some((how, capture)) = data.split_first() else { return };
    let outside = if how & 1 == 0 { Outside::Client } else { Outside::Server };
    let policy = Policy { active_inbound: how & 2 != 0, ..Policy::default() };
    let options = Options { policy, outside };
    let mut opened = 0;
    let each = |event: Event| -> Result<(), ReplayError> {
        opened += u64::from(event.event == Kind::Opened);
        serde_json::to_string(&event).expect("an event is JSON");
        Ok(())
    };
    match replay::read("fuzz.pcap".as_ref(), Cursor::new(capture.to_vec()), options, each) {
        Ok(summary) => assert_eq!(summary.opened, opened),
        Err(error) => assert!(error.to_string().contains("fuzz.pcap"), "{error}"),
    }
}
