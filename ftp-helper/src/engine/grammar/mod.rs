//! The grammar of commands and replies (RFC 959, RFC 2428), strict where something is negotiated.
//!
//! Each parser accepts everything that the kernel's reader ([`ftp_helper_common::canon`]) accepts, so that the reader
//! stays a subset.

pub mod command;
pub mod number;
pub mod reply;

use ftp_helper_common::addr::Addr;

/// An address and a port, as they were written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// The address.
    pub addr: Addr,
    /// The port.
    pub port: u16,
}
