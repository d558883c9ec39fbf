//! Captures, written frame by frame, and what both ways to replay them come to.

use std::path::Path;

use anyhow::Result;
use ftp_helper::{
    dataplane::Guard,
    event::{Event, Kind, PinholeState},
    replay::{self, Options, Summary},
};

/// What packets begin with in a capture.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    /// An Ethernet header.
    Ethernet,
    /// Their IP header.
    Raw,
    /// A cooked header of Linux, version 1.
    Cooked,
    /// The same, version 2.
    Cooked2,
}

/// Every way that packets may begin.
pub const LINKS: [Link; 4] = [Link::Ethernet, Link::Raw, Link::Cooked, Link::Cooked2];

/// The time of a capture's first packet in the tests: nanoseconds since 1970-01-01 UTC.
pub const BEGIN: u64 = 1_700_000_000_000_000_000;

/// A pcap file of Ethernet frames, each with its time in nanoseconds behind [`BEGIN`], as an interface of this kind would have
/// had them.
#[must_use]
pub fn pcap(link: Link, frames: &[(u64, Vec<u8>)]) -> Vec<u8> {
    pcap_cut(link, usize::MAX, frames)
}

/// The same, of which only so many bytes of each packet were captured.
#[must_use]
pub fn pcap_cut(link: Link, snaplen: usize, frames: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let number: u32 = match link {
        Link::Ethernet => 1,
        Link::Raw => 101,
        Link::Cooked => 113,
        Link::Cooked2 => 276,
    };
    // The magic number of nanoseconds, version 2.4.
    let mut file = 0xa1b2_3c4d_u32.to_le_bytes().to_vec();
    file.extend([2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0]);
    file.extend(number.to_le_bytes());
    for (time, frame) in frames {
        let packet = dressed(link, frame);
        let captured = packet.len().min(snaplen);
        let time = BEGIN + time;
        let lengths = [captured, packet.len()].map(|n| u32::try_from(n).expect("a short packet"));
        let seconds = u32::try_from(time / 1_000_000_000).expect("before 2106");
        for word in [seconds, (time % 1_000_000_000) as u32, lengths[0], lengths[1]] {
            file.extend(word.to_le_bytes());
        }
        file.extend(&packet[..captured]);
    }
    file
}

/// An Ethernet frame as another kind of interface would have it.
fn dressed(link: Link, frame: &[u8]) -> Vec<u8> {
    let (kind, rest) = (&frame[12..14], &frame[14..]);
    match link {
        Link::Ethernet => frame.to_vec(),
        Link::Raw => rest.to_vec(),
        // Packet type, ARPHRD_ETHER, length and address, type.
        Link::Cooked => [&[0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0][..], kind, rest].concat(),
        // Type, reserved, interface, ARPHRD_ETHER, packet type, length and address.
        Link::Cooked2 => [kind, &[0, 0, 0, 0, 0, 2, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0], rest].concat(),
    }
}

/// What a replay came to.
#[derive(Debug)]
pub struct Replayed {
    /// Its events.
    pub events: Vec<Event>,
    /// What it counted.
    pub summary: Summary,
}

/// Replays a file by the engine alone.
///
/// # Errors
/// When it can't be replayed.
pub fn alone(file: &Path, options: &Options) -> Result<Replayed> {
    let mut events = Vec::new();
    let each = |event| {
        events.push(event);
        Ok::<_, anyhow::Error>(())
    };
    let summary = replay::run(file, options.clone(), |_, _| {}, each)?;
    Ok(Replayed { events, summary })
}

/// Replays a file through the programs in the kernel.
///
/// # Errors
/// When it can't be replayed.
pub fn through_kernel(file: &Path, options: &Options, guards: &[Guard]) -> Result<Replayed> {
    let mut events = Vec::new();
    let each = |event| {
        events.push(event);
        Ok(())
    };
    let summary = replay::through_kernel(file, options.clone(), guards, |_, _| {}, each)?;
    Ok(Replayed { events, summary })
}

/// What the way through the kernel tells as the engine alone would: without who opened a pinhole, and without that somebody
/// vouched for it. SYNs that were denied are told apart.
#[must_use]
pub fn as_alone(events: &[Event]) -> (Vec<Event>, Vec<Event>) {
    let (denied, rest): (Vec<_>, Vec<_>) =
        events.iter().filter(|e| e.event != Kind::Confirmed).cloned().partition(|e| e.event == Kind::Denied);
    (rest.into_iter().map(plain).collect(), denied)
}

fn plain(mut event: Event) -> Event {
    event.by = None;
    if event.event == Kind::Opened
        && let Some(pinhole) = &mut event.pinhole
    {
        pinhole.state = PinholeState::Confirmed;
    }
    event
}
