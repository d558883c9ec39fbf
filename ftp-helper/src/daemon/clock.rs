//! The kernel's clock, which the records bear and the engine runs by.

use nix::time::{ClockId, clock_gettime};

use crate::engine::Nanos;

/// `CLOCK_MONOTONIC`, nanoseconds.
pub(super) fn now() -> Nanos {
    read(ClockId::CLOCK_MONOTONIC)
}

/// What has to be added to [`now`] to get nanoseconds since 1970-01-01 UTC.
pub(super) fn wall_offset() -> u64 {
    read(ClockId::CLOCK_REALTIME).saturating_sub(now())
}

fn read(clock: ClockId) -> u64 {
    // Neither clock can fail on Linux; 0 would only make everything look old.
    clock_gettime(clock).map_or(0, |t| t.tv_sec().cast_unsigned() * 1_000_000_000 + t.tv_nsec().cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on() {
        let a = now();
        assert!(now() >= a && a > 0);
        assert!(wall_offset() > 0);
    }
}
