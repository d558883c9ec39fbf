//! Reads what `cargo test` prints: its summaries, and which tests failed.

use std::{collections::BTreeSet, fmt};

/// What the test programs of a run told, added up.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Count {
    /// Tests that passed.
    pub(crate) passed: u64,
    /// Tests that failed.
    pub(crate) failed: u64,
    /// Tests that were not run, since they are marked so.
    pub(crate) ignored: u64,
    /// The names of those that failed.
    pub(crate) failures: BTreeSet<String>,
}

impl Count {
    /// Adds up the lines `test result: …` of an output.
    pub(crate) fn of(output: &str) -> Self {
        let mut count = Self::default();
        for line in output.lines() {
            if let Some(result) = line.strip_prefix("test result: ") {
                count.passed += number_before(result, " passed");
                count.failed += number_before(result, " failed");
                count.ignored += number_before(result, " ignored");
            } else if let Some(test) = line.strip_prefix("test ").and_then(|test| test.strip_suffix(" ... FAILED")) {
                count.failures.insert(test.to_owned());
            }
        }
        count
    }

    /// The same, the failures told as those on `place`.
    pub(crate) fn on(mut self, place: &str) -> Self {
        self.failures = self.failures.iter().map(|name| format!("{name} (on {place})")).collect();
        self
    }

    /// Adds another run.
    pub(crate) fn add(&mut self, other: Self) {
        let Self { passed, failed, ignored, failures } = other;
        self.passed += passed;
        self.failed += failed;
        self.ignored += ignored;
        self.failures.extend(failures);
    }

    /// How many tests ran.
    pub(crate) fn run(&self) -> u64 {
        self.passed + self.failed
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.ignored > 0 {
            write!(f, ", {} skipped", self.ignored)?;
        }
        Ok(())
    }
}

/// The number right before `word`; 0 where there is none.
fn number_before(text: &str, word: &str) -> u64 {
    let Some((before, _)) = text.split_once(word) else { return 0 };
    before.rsplit(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 3 tests
test a::one ... ok
test a::two ... FAILED
test a::three ... ignored
failures:
---- a::two stdout ----
test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.02s

   Doc-tests x
running 12 tests
test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 3.10s; merged doctests
";

    #[test]
    fn summaries_are_added_up() {
        let count = Count::of(OUTPUT);
        assert_eq!((count.passed, count.failed, count.ignored, count.run()), (13, 1, 1, 14));
        assert_eq!(count.failures.iter().map(String::as_str).collect::<Vec<_>>(), ["a::two"]);
        assert_eq!(count.to_string(), "13 passed, 1 failed, 1 skipped");
    }

    #[test]
    fn what_is_no_summary_counts_nothing() {
        let count = Count::of("error: could not compile\n 5 passed; 0 failed\ntest result: ok.\n");
        assert_eq!((count.run(), count.to_string().as_str()), (0, "0 passed, 0 failed"));
    }

    #[test]
    fn runs_are_added_up() {
        let mut count = Count::of(OUTPUT);
        count.add(Count::of("test b ... FAILED\ntest result: FAILED. 0 passed; 1 failed; 0 ignored;"));
        assert_eq!((count.passed, count.failed, count.failures.len()), (13, 2, 2));
    }
}
