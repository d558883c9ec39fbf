//! Removing what a daemon has left that is gone: one that was killed, or that left its programs and tables to a next one that never
//! came.

use std::path::Path;

use anyhow::Context as _;

use crate::{
    api::{self, access::Access},
    dataplane,
    nft::{Feeder, Sets},
};

/// Whether a daemon with this control socket, if it is gone, has left anything in the kernel of this network namespace.
///
/// # Errors
/// When the BPF file system can't be looked at.
pub fn is_left(socket: &Path) -> anyhow::Result<bool> {
    dataplane::is_left(&instance(socket))
}

/// Detaches what it has left, removes its tables, and empties the sets of nftables that it fed; whether there was anything. Connections
/// that are running go on.
///
/// # Errors
/// When the daemon is running, or something can't be removed.
pub fn detach(socket: &Path, sets: Option<&Sets>) -> anyhow::Result<bool> {
    if !is_left(socket)? {
        return Ok(false);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().context("can't begin")?;
    let _inside = runtime.enter();
    // Held as a daemon holds it: none is there, and none begins meanwhile. Without its folder there is no daemon.
    let held = match socket.parent() {
        Some(folder) if folder.exists() => Some(api::socket::bind(socket, &Access::resolve("root", "root")?)?),
        _ => None,
    };
    let detached = dataplane::detach_left(&instance(socket))?;
    if let Some(sets) = sets {
        match Feeder::start(sets) {
            Ok(feeder) => feeder.stop(),
            Err(e) => tracing::warn!("the sets can't be emptied; their elements go when their time is over: {e:#}"),
        }
    }
    drop(held);
    Ok(detached)
}

/// What the daemon of a control socket names its folder by.
fn instance(socket: &Path) -> String {
    socket.display().to_string()
}
