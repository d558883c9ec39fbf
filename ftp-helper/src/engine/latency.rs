//! How long something took, as a histogram.

use super::Nanos;

/// Upper ends of the buckets, nanoseconds; what takes longer than the last is in one more.
pub const LATENCY_BOUNDS: [Nanos; 14] = [
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
];

/// How often something took how long.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Latency {
    /// How often it took as long as [`LATENCY_BOUNDS`] says, each counted once, and longer than all of them.
    pub buckets: [u64; LATENCY_BOUNDS.len() + 1],
    /// All of it together, nanoseconds.
    pub sum: Nanos,
}

impl Latency {
    /// Counts one more.
    pub(super) fn add(&mut self, took: Nanos) {
        let bucket = LATENCY_BOUNDS.partition_point(|bound| *bound < took);
        self.buckets[bucket] += 1;
        self.sum = self.sum.saturating_add(took);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_end_belongs_to_the_bucket() {
        let mut latency = Latency::default();
        for took in [0, 50_000, 50_001, 1_000_000_000, 1_000_000_001, u64::MAX] {
            latency.add(took);
        }
        let counted = |i: usize| latency.buckets[i];
        assert_eq!((counted(0), counted(1), counted(13), counted(14)), (2, 1, 1, 2));
        assert_eq!((latency.count(), latency.sum), (6, u64::MAX));
        assert!(LATENCY_BOUNDS.is_sorted());
    }
}
