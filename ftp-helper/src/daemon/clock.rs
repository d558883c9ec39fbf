//! The kernel's clock, which the records bear and the engine runs by.

use nix::time::{ClockId, clock_gettime};

use crate::{
    engine::Nanos,
    error::{Code, Fault},
};

/// `CLOCK_MONOTONIC`, nanoseconds.
pub(super) fn now() -> Nanos {
    read(ClockId::CLOCK_MONOTONIC)
}

/// What has to be added to [`now`] to get nanoseconds since 1970-01-01 UTC.
pub(super) fn wall_offset() -> u64 {
    read(ClockId::CLOCK_REALTIME).saturating_sub(now())
}

/// How long the host has been suspended since it was booted, nanoseconds: what `CLOCK_BOOTTIME` counts and [`now`] does not.
pub(super) fn suspended() -> Nanos {
    read(ClockId::CLOCK_BOOTTIME).saturating_sub(now())
}

/// The programs in the kernel know nothing of time namespaces: in one with another `CLOCK_MONOTONIC` every deadline would be wrong.
///
/// # Errors
/// In such a namespace.
pub(super) fn check() -> Result<(), Fault> {
    let offsets = std::fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    if shifts_monotonic(&offsets) {
        return Err(Fault::new(
            Code::Failure,
            "this is a time namespace with a monotonic clock of its own: the kernel's programs would see every deadline shifted; \
             start ftp-helper outside of it",
        ));
    }
    Ok(())
}

/// Whether `timens_offsets` (time_namespaces(7)) names one for the monotonic clock. No file, no time namespaces.
fn shifts_monotonic(offsets: &str) -> bool {
    offsets.lines().any(|line| {
        let mut words = line.split_whitespace();
        // Linux writes the clock's name or its number.
        matches!(words.next(), Some("monotonic" | "1")) && words.any(|n| n.parse() != Ok(0))
    })
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

    #[test]
    fn a_shifted_clock_is_found() {
        assert!(!shifts_monotonic("") && !shifts_monotonic("monotonic           0         0\nboottime    10  0\n"));
        assert!(shifts_monotonic("monotonic         100         0\nboottime            0         0\n"));
        assert!(shifts_monotonic("monotonic           0         5\n"));
        assert!(check().is_ok());
    }
}
