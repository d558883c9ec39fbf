//! SIGINT, SIGTERM and SIGHUP end a run as a failure does: at the next step, with everything taken away, pinned tables and
//! programs included, which outlive a daemon that is killed with its host.

use std::sync::atomic::{AtomicI32, Ordering};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static CAUGHT: AtomicI32 = AtomicI32::new(0);

/// From now on these signals are noted.
pub(crate) fn catch() -> Result<()> {
    extern "C" fn note(signal: i32) {
        CAUGHT.store(signal, Ordering::Relaxed);
    }
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: all that the handler does is to store into an atomic, which is async-signal-safe.
        unsafe { sigaction(signal, &action) }.context("can't catch signals")?;
    }
    Ok(())
}

/// An error if one has come.
pub(crate) fn check() -> Result<()> {
    let signal = CAUGHT.load(Ordering::Relaxed);
    ensure!(signal == 0, "ended by signal {signal}");
    Ok(())
}
