//! Waiting for facts, with a deadline.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a fact may take to come about: a loaded machine with two cores is slow.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a fact: `None` means not yet.
///
/// # Errors
/// When it has not come about after [`PATIENCE`]; the text says what was waited for.
pub fn until<T>(what: &str, mut fact: impl FnMut() -> Option<T>) -> Result<T> {
    let mut found = None;
    within(PATIENCE, || {
        found = fact();
        Ok(found.is_some())
    })?;
    match found {
        Some(value) => Ok(value),
        None => bail!("{what}: not after {} s", PATIENCE.as_secs()),
    }
}

/// Looks for a fact until it is there or time is up; whether it is there.
///
/// # Errors
/// As `fact`.
pub fn within(limit: Duration, mut fact: impl FnMut() -> Result<bool>) -> Result<bool> {
    let begun = Instant::now();
    loop {
        if fact()? {
            return Ok(true);
        }
        if begun.elapsed() > limit {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
