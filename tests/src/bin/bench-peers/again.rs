//! Measuring once more what went another way than the one that was to be measured, as one segment in some thousands does on a
//! busy machine. Each repeat is kept and told; where there are many, the run fails.

use std::fmt;

use anyhow::{Result, ensure};
use ftp_helper::api::Status;
use ftp_helper_tests::gateway::counter;

use crate::report::Figures;

/// How often one measurement is tried.
const TRIES: u32 = 3;
/// Repeats of a whole run, at most: more are no accident.
const REPEATS: usize = 6;

/// The figures are not of the path that was to be measured. Nothing has failed: a slower way is a way too.
#[derive(Debug)]
pub(crate) struct OtherPath(pub(crate) String);

impl fmt::Display for OtherPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the figures are of another path: {}", self.0)
    }
}

impl std::error::Error for OtherPath {}

/// That nothing was counted since `before` which leads away from the fast path.
///
/// # Errors
/// [`OtherPath`].
pub(crate) fn on_path(before: &Status, now: &Status) -> Result<()> {
    let reason = |status: &Status, name: &str| status.reasons.get(name).copied().unwrap_or_default();
    let seen =
        |status: &Status| [counter(status, "blinded"), reason(status, "ring_full"), reason(status, "unrecorded")];
    for ((name, before), now) in ["blinded", "ring_full", "unrecorded"].into_iter().zip(seen(before)).zip(seen(now)) {
        let n = now - before;
        ensure!(n == 0, OtherPath(format!("{name} was counted {n} times")));
    }
    Ok(())
}

/// Measures, and measures again where it went another way.
///
/// # Errors
/// When it fails, and when it goes another way again and again.
pub(crate) fn again<T>(figures: &mut Figures, what: &str, mut measure: impl FnMut() -> Result<T>) -> Result<T> {
    let mut tries = 1;
    loop {
        match measure() {
            Err(e) if e.is::<OtherPath>() && tries < TRIES && figures.repeated.len() < REPEATS => {
                let why = format!("{what}: {e:#}");
                eprintln!("once more: {why}");
                figures.repeated.push(why);
                tries += 1;
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, bail};

    use super::*;

    fn other() -> Result<u32> {
        Err(OtherPath("blinded".to_owned())).context("d")
    }

    #[test]
    fn another_way_is_measured_again_and_kept() {
        let mut figures = Figures::default();
        let mut ways = [other(), Ok(7)].into_iter();
        assert_eq!(again(&mut figures, "packets", || ways.next().unwrap()).unwrap(), 7);
        assert_eq!(figures.repeated, ["packets: d: the figures are of another path: blinded"]);
    }

    #[test]
    fn always_another_way_is_a_failure() {
        let mut figures = Figures::default();
        for n in 1..=REPEATS {
            let mut tries = 0;
            let failed = again(&mut figures, "packets", || {
                tries += 1;
                other()
            });
            assert!(failed.is_err() && tries <= TRIES, "{n}");
        }
        assert_eq!(figures.repeated.len(), REPEATS);
    }

    #[test]
    fn a_failure_is_not_tried_again() {
        let mut tries = 0;
        let failed: Result<()> = again(&mut Figures::default(), "packets", || {
            tries += 1;
            bail!("a packet was lost")
        });
        assert!(failed.is_err() && tries == 1);
    }
}
