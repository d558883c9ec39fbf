//! What the fuzz targets in `fuzz/` do with their bytes. It stands here so that `cargo test` replays the seeds and whatever
//! was found through the same functions (`tests/fuzz_corpus.rs`), and so that the property tests share the generators.
//!
//! Each target is a module with a function `run` that panics where something does not hold. `docs/fuzzing.md` tells what.

pub mod canon;
pub mod capture;
pub mod config;
pub mod control;
pub mod dialogue;
pub mod grammar;
pub mod rig;
pub mod script;
pub mod segments;

/// Every target, by name.
pub const TARGETS: &[(&str, fn(&[u8]))] = &[
    ("canon", canon::run),
    ("capture", capture::run),
    ("config", config::run),
    ("control", control::run),
    ("dialogue", dialogue::run),
    ("grammar", grammar::run),
    ("segments", segments::run),
];
