//! The grammar of commands and replies (RFC 959, RFC 2428), strict where something is negotiated.
//!
//! Each parser accepts everything that the kernel's reader ([`ftp_helper_common::canon`]) accepts, so that the reader
//! stays a subset.

pub(super) mod command;
pub(super) mod number;
pub(super) mod reply;

use ftp_helper_common::addr::Addr;

/// An address and a port, as they were written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Endpoint {
    /// The address.
    pub(super) addr: Addr,
    /// The port.
    pub(super) port: u16,
}
