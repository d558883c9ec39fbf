//! The grammar of commands and replies (RFC 959, RFC 2428), strict where something is negotiated.
//!
//! Each parser accepts everything that the kernel's reader ([`ftp_helper_common::canon`]) accepts, so that the reader
//! stays a subset.

pub mod command;
pub mod number;
pub mod reply;

use ftp_helper_common::addr::Addr;
use serde::{Deserialize, Serialize};

/// An address and a port, as they were written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    /// The address.
    #[serde(with = "bytes")]
    pub addr: Addr,
    /// The port.
    pub port: u16,
}

/// An address as its bytes.
mod bytes {
    use ftp_helper_common::addr::Addr;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub(super) fn serialize<S: Serializer>(addr: &Addr, to: S) -> Result<S::Ok, S::Error> {
        addr.0.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Addr, D::Error> {
        <[u8; 16]>::deserialize(from).map(Addr)
    }
}
