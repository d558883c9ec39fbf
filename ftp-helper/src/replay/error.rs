//! What can be wrong with a capture.

use std::{io, path::PathBuf};

/// Why a capture was not replayed to its end.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", .path.display())]
pub struct ReplayError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: CaptureProblem,
}

/// What is wrong with a capture, and where. Offsets are bytes from the start of the file, packets count from 1.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureProblem {
    /// It can't be opened.
    #[error("can't be opened: {0}")]
    Open(#[source] io::Error),
    /// It can't be read.
    #[error("can't be read at byte {offset}: {source}")]
    Read {
        /// Where.
        offset: u64,
        /// Why not.
        source: io::Error,
    },
    /// It is neither pcap nor pcapng.
    #[error("byte 0: neither a pcap nor a pcapng file{hint}")]
    Foreign {
        /// What it looks like, or nothing.
        hint: &'static str,
    },
    /// It ends within a packet or a header.
    #[error(
        "truncated: it ends within {what} that begins at byte {offset}; copy the file again, or end the capture before you copy it"
    )]
    Truncated {
        /// Where what is cut begins.
        offset: u64,
        /// What is cut.
        what: String,
    },
    /// Its structure is broken.
    #[error("damaged at byte {offset} (behind packet {packet}): {what}")]
    Damaged {
        /// Where.
        offset: u64,
        /// The last good packet.
        packet: u64,
        /// What is wrong.
        what: String,
    },
    /// Its link type is none that can be read.
    #[error(
        "packet {packet} at byte {offset}: link type {link} is not supported; supported are Ethernet (1), raw IP (101, 228, 229) and Linux cooked (113, 276)"
    )]
    LinkType {
        /// The packet.
        packet: u64,
        /// Where.
        offset: u64,
        /// The number of the link type (LINKTYPE_ of the pcap formats).
        link: u32,
    },
    /// A segment of a control connection was not captured whole.
    #[error(
        "packet {packet} at byte {offset}: {missing} bytes of a control connection's segment were not captured; capture with `tcpdump -s 0`"
    )]
    Cut {
        /// The packet.
        packet: u64,
        /// Where.
        offset: u64,
        /// Bytes that are missing.
        missing: u32,
    },
}
