//! The ring buffers' reader: whole records in their order, whatever the buffer's size, through windows that move along.

use ftp_helper::{dataplane::Options, lab::require_root};
use ftp_helper_common::key::{CLIENT, HOOK_IN};
use ftp_helper_tests::{
    dialogue::Dialogue,
    testrun::{Kernel, Verdict, options, parse},
};

/// What may be mapped of the three ring buffers: a window and two pages each, where a page has 4 KiB.
const MAPPED_MAX: u64 = 3 * (256 + 2 * 4);

#[test]
fn records_come_whole_and_in_order_through_many_windows() {
    if !require_root() {
        return;
    }
    // Smaller than a window, a few windows, and what the daemon has by default.
    for ring_bytes in [4096, 1 << 20, 16 << 20] {
        let mut k = Kernel::load(&Options { ring_bytes, ..options() });
        k.draining = false;
        let mut d = Dialogue::new(HOOK_IN, false);
        d.connect(&mut k);
        let (mut written, mut full, mut state) = (0, 0, 1u32);
        // Twice around, and a bit.
        while written < 2 * ring_bytes as usize + ring_bytes as usize / 3 {
            let mut sent = Vec::new();
            // Now and then until it is full.
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let most = if state >> 28 == 0 { usize::MAX } else { 1 + (state >> 16) as usize % 3000 };
            while sent.len() < most {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let len = 1 + (state >> 12) as usize % 1400;
                let payload: Vec<u8> = (0..len).map(|i| b'a' + (i + state as usize) as u8 % 26).collect();
                let packet = d.segment(CLIENT, &payload);
                if k.send(HOOK_IN, &packet) == Verdict::Drop {
                    full += 1;
                    break;
                }
                d.next[0] = d.next[0].wrapping_add(len as u32);
                written += len;
                sent.push((packet.seq, payload));
            }
            let read: Vec<_> = k.records().iter().filter_map(|r| segment(r)).collect();
            assert_eq!(read.len(), sent.len(), "{ring_bytes}");
            assert!(read == sent, "{ring_bytes}: other records than were written");
        }
        assert!(full > 0, "{ring_bytes}: never full");
        let mapped = mapped();
        assert!((1..=MAPPED_MAX).contains(&mapped), "{mapped} KiB of ring buffers of {ring_bytes} bytes are mapped");
    }
}

/// Sequence number and payload of a segment's record.
fn segment(record: &[u8]) -> Option<(u32, Vec<u8>)> {
    match parse(record) {
        ftp_helper::engine::Record::Segment(s, payload) => Some((s.seq, payload.to_vec())),
        _ => None,
    }
}

/// What this process has mapped of tables in the kernel, KiB.
fn mapped() -> u64 {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut of_maps = false;
    let mut sum = 0;
    for line in smaps.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if first.contains('-') {
            of_maps = line.contains("bpf-map");
        } else if of_maps && first == "Rss:" {
            sum += line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap();
        }
    }
    sum
}
