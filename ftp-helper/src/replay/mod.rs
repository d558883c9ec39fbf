//! Runs a capture through the engine: the events that the daemon would have told.
//!
//! The control connections of the capture are followed as the kernel side follows them, except that the kernel reads
//! nothing by itself: every segment is the engine's. There is no guard, so that a connection without a pinhole is not
//! an event; one that fits an open pinhole uses it.

mod capture;
mod error;
mod flow;
mod follow;
mod packet;
#[cfg(test)]
mod tests;

use std::{io::Read, path::Path};

pub use self::error::{CaptureProblem, ReplayError};
use self::{
    capture::{Capture, Packet},
    follow::Follower,
    packet::Content,
};
use crate::{engine::policy::Policy, event::Event};

/// Which side of the control connections is outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Outside {
    /// The clients: a server of one's own is looked at.
    #[default]
    Client,
    /// The servers: clients of one's own are looked at.
    Server,
}

/// How a capture is replayed.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What is allowed.
    pub policy: Policy,
    /// Which side is outside.
    pub outside: Outside,
}

/// What was in a capture.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Packets.
    pub packets: u64,
    /// Control connections that were followed from their handshake on.
    pub sessions: u64,
    /// Pinholes that were opened.
    pub opened: u64,
    /// Data connections that used one.
    pub used: u64,
    /// Pinholes that were open at the end.
    pub still_open: u64,
    /// IP fragments, which are not put together.
    pub fragments: u64,
}

/// Replays a capture file. `progress` is told now and then how many bytes of how many have been read.
///
/// # Errors
/// What is wrong with the capture, or what `each` failed with.
pub fn run<E: From<ReplayError>>(
    path: &Path,
    options: Options,
    mut progress: impl FnMut(u64, u64),
    each: impl FnMut(Event) -> Result<(), E>,
) -> Result<Summary, E> {
    let wrong = |problem| E::from(ReplayError { path: path.to_owned(), problem });
    let (capture, length) = Capture::open(path).map_err(wrong)?;
    let summary = follow(path, capture, options, |read| progress(read, length), each)?;
    progress(length, length);
    Ok(summary)
}

/// Replays a capture that comes from elsewhere than a file; `name` is its name for messages.
///
/// # Errors
/// What is wrong with the capture, or what `each` failed with.
pub fn read<E: From<ReplayError>>(
    name: &Path,
    from: impl Read + 'static,
    options: Options,
    each: impl FnMut(Event) -> Result<(), E>,
) -> Result<Summary, E> {
    let wrong = |problem| E::from(ReplayError { path: name.to_owned(), problem });
    let capture = Capture::new(Box::new(from)).map_err(wrong)?;
    follow(name, capture, options, |_| {}, each)
}

/// Follows what a capture holds. `progress` is told now and then how many bytes have been read.
fn follow<E: From<ReplayError>>(
    name: &Path,
    mut capture: Capture,
    options: Options,
    mut progress: impl FnMut(u64),
    mut each: impl FnMut(Event) -> Result<(), E>,
) -> Result<Summary, E> {
    let wrong = |problem| E::from(ReplayError { path: name.to_owned(), problem });
    let mut follower = Follower::new(options);
    let mut packet = Packet::default();
    while capture.next(&mut packet).map_err(wrong)? {
        let result = take(&mut follower, &packet);
        // What led to a problem is told before the problem.
        for event in follower.events() {
            each(event)?;
        }
        result.map_err(wrong)?;
        if packet.number.is_multiple_of(PROGRESS_EVERY) {
            progress(capture.offset());
        }
    }
    follower.finish();
    for event in follower.events() {
        each(event)?;
    }
    Ok(Summary { packets: packet.number, ..follower.summary() })
}

fn take(follower: &mut Follower, packet: &Packet) -> Result<(), CaptureProblem> {
    let Packet { number, offset, time, link, data } = packet;
    follower.advance(*time);
    let cut = |missing| Err(CaptureProblem::Cut { packet: *number, offset: *offset, missing });
    match packet::read(*link, data) {
        Content::Tcp(segment) => {
            let missing = segment.len.saturating_sub(u32::try_from(segment.payload.len()).unwrap_or(u32::MAX));
            if missing > 0 && follower.is_control(segment.from.1, segment.to.1) {
                return cut(missing);
            }
            follower.segment(&segment);
        }
        Content::CutHeader { ports: Some((from, to)), missing } if follower.is_control(from, to) => {
            return cut(missing);
        }
        Content::Fragment => follower.fragment(),
        Content::CutHeader { .. } | Content::Other => {}
        Content::UnknownLink => {
            return Err(CaptureProblem::LinkType { packet: *number, offset: *offset, link: *link });
        }
    }
    Ok(())
}

/// Packets between two reports of progress.
const PROGRESS_EVERY: u64 = 4096;
