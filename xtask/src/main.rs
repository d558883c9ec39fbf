//! Tasks of the project: set-up, tests, demo, benchmarks.
fn main() {}
