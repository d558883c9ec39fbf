//! Runs a capture through the engine: the events that the daemon would have told.
//!
//! The control connections of the capture are followed as the kernel side follows them, except that the kernel reads
//! nothing by itself: every segment is the engine's. There is no guard, so that a connection without a pinhole is not
//! an event; one that fits an open pinhole uses it.
//!
//! Or through the kernel ([`through_kernel`]): the programs themselves look at every packet, guards included, with the
//! engine behind them.

mod capture;
mod error;
mod flow;
mod follow;
mod frame;
mod packet;
mod sides;
#[cfg(test)]
mod tests;
mod through;

use std::{io::Read, path::Path};

pub use self::error::{CaptureProblem, ReplayError};
use self::{
    capture::{Capture, Packet},
    follow::Follower,
    packet::Content,
    through::{Through, Trouble},
};
use crate::{
    dataplane::{Direction, Guard},
    engine::policy::Policy,
    event::Event,
};

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
    /// Packets of control connections that are shorter than their IP header says, though all of them was captured: no host
    /// takes them.
    pub short: u64,
    /// What the programs made of it, where it went through the kernel.
    pub kernel: Option<Passed>,
}

/// What the programs in the kernel made of a capture's packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Passed {
    /// Packets that they dropped.
    pub dropped: u64,
    /// Packets between hosts without a control connection until then: which hook they would have passed nobody knows, and
    /// no program looked at them.
    pub unplaced: u64,
    /// Packets that were too long for a test run, and were run in pieces.
    pub pieces: u64,
    /// Packets of data connections of which only the beginning was captured.
    pub cut: u64,
    /// Packets whose TCP header was not captured whole, and which no program looked at.
    pub headerless: u64,
    /// Pinholes that the fast path opened and the engine would not have.
    pub divergences: u64,
}

/// Guards that hold every connection to a pinhole, in both directions: what applies to a capture without a configuration.
pub fn guards() -> Vec<Guard> {
    let everybody = || vec![ipnet::Ipv4Net::default().into(), ipnet::Ipv6Net::default().into()];
    [Direction::In, Direction::Out]
        .map(|direction| Guard {
            direction,
            networks: everybody(),
            initiators: everybody(),
            ports: 1024..=65535,
            except: Vec::new(),
        })
        .to_vec()
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

/// Replays a capture file through the programs in the kernel, which are loaded for it and attached to nothing. `progress` is
/// told now and then how many bytes of how many have been read.
///
/// # Errors
/// What is wrong with the capture, a [`crate::error::Fault`] where this host can't run the programs or the caller may not,
/// or what `each` failed with.
pub fn through_kernel(
    path: &Path,
    options: Options,
    guards: &[Guard],
    mut progress: impl FnMut(u64, u64),
    mut each: impl FnMut(Event) -> anyhow::Result<()>,
) -> anyhow::Result<Summary> {
    let wrong = |problem| ReplayError { path: path.to_owned(), problem };
    let (mut capture, length) = Capture::open(path).map_err(wrong)?;
    let mut through = Through::load(options, guards)?;
    let mut packet = Packet::default();
    while capture.next(&mut packet).map_err(wrong)? {
        let result = through.packet(&packet);
        // What led to a problem is told before the problem.
        through.events().try_for_each(&mut each)?;
        result.map_err(|trouble| match trouble {
            Trouble::Capture(problem) => wrong(problem).into(),
            Trouble::Kernel(e) => e.context(path.display().to_string()),
        })?;
        if packet.number.is_multiple_of(PROGRESS_EVERY) {
            progress(capture.offset(), length);
        }
    }
    through.finish()?;
    through.events().try_for_each(&mut each)?;
    progress(length, length);
    Ok(Summary { packets: packet.number, ..through.summary() })
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
    follower.advance(packet.time);
    let content = packet::read(packet.link, &packet.data);
    check(packet, &content, |from, to| follower.is_control(from, to))?;
    match content {
        Content::Tcp(s) if s.missing() > 0 && follower.is_control(s.from.1, s.to.1) => follower.short(),
        Content::Tcp(segment) => follower.segment(&segment),
        Content::Fragment => follower.fragment(),
        Content::CutHeader { .. } | Content::Other | Content::UnknownLink => {}
    }
    Ok(())
}

/// Whether a packet can be followed: of a control connection everything was captured, and its link type is known.
fn check(packet: &Packet, content: &Content<'_>, is_control: impl Fn(u16, u16) -> bool) -> Result<(), CaptureProblem> {
    let &Packet { number, offset, link, uncaptured, .. } = packet;
    let missing = match content {
        Content::Tcp(s) if is_control(s.from.1, s.to.1) => s.missing(),
        Content::CutHeader { ports: Some((from, to)), missing } if is_control(*from, *to) => *missing,
        Content::UnknownLink => return Err(CaptureProblem::LinkType { packet: number, offset, link }),
        _ => 0,
    };
    if missing > 0 && uncaptured > 0 { Err(CaptureProblem::Cut { packet: number, offset, missing }) } else { Ok(()) }
}

/// Packets between two reports of progress.
const PROGRESS_EVERY: u64 = 4096;
