//! nftables: feeding sets of the administrator's ruleset, and reading what the ruleset does to a connection.
//!
//! [`Feeder`] keeps one element (initiator, responder, port) in a set for each unconsumed pinhole, in-process through
//! netlink, on a thread of its own: the kernel may take its time for a transaction, and the daemon's loop must not wait.
//! [`ruleset`] reads the whole ruleset for `doctor` and `integrate`, and [`verdict`] follows a connection through it.

mod conntrack;
mod elements;
mod feeder;
mod matching;
mod netlink;
mod ports;
pub mod ruleset;
pub mod verdict;

pub use conntrack::{Conntrack, connections_to};
pub use elements::{Element, Family, Sets, check, elements};
pub use feeder::{Fed, Feeder};
pub use ports::Ports;

use self::netlink::Netfilter;
use crate::error::Fault;

/// Opens a socket to the netfilter subsystems.
fn open() -> Result<Netfilter, Fault> {
    let open = || {
        let netfilter = Netfilter::open()?;
        netfilter.set_patience(std::time::Duration::from_secs(10))?;
        Ok(netfilter)
    };
    open().map_err(|e| elements::refused("can't talk to netfilter", &e))
}
