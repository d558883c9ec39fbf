//! Chance, from a seed.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::gateway::full;

/// A source of numbers: the same seed, the same numbers.
#[derive(Clone, Debug)]
pub struct Rng(fastrand::Rng);

impl Rng {
    /// The numbers of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// True `n` times in a thousand.
    pub fn chance(&mut self, n: u32) -> bool {
        n > 0 && self.0.u32(..1000) < n
    }

    /// A number from `low` to `high`, both included.
    pub fn from_to(&mut self, low: u64, high: u64) -> u64 {
        self.0.u64(low..=high)
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        self.0.usize(..n)
    }

    /// Any number.
    pub fn word(&mut self) -> u32 {
        self.0.u32(..)
    }

    /// Any large number: a seed of its own.
    pub fn seed(&mut self) -> u64 {
        self.0.u64(..)
    }

    /// One of several.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// The seed of this run: `FTP_HELPER_SEED`, one that nobody has chosen in the long form (`FTP_HELPER_FULL=1`), else always
/// the same, so that a change is judged by what it changes.
///
/// # Panics
/// When the variable is no number.
#[must_use]
pub fn seed() -> u64 {
    const USUAL: u64 = 300_000;
    match std::env::var("FTP_HELPER_SEED") {
        Ok(text) => text.parse().expect("FTP_HELPER_SEED is a number"),
        Err(_) if full() => SystemTime::now().duration_since(UNIX_EPOCH).map_or(USUAL, |t| t.as_nanos() as u64 >> 10),
        Err(_) => USUAL,
    }
}
