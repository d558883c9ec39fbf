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
mod inside;
pub mod rig;
pub mod script;
pub mod seed;
pub mod segments;

/// A fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is its program's too.
    pub name: &'static str,
    /// What it does with its bytes.
    pub run: fn(&[u8]),
}

/// Every target, by name.
pub const TARGETS: &[Target] = &[
    Target { name: "canon", run: canon::run },
    Target { name: "capture", run: capture::run },
    Target { name: "config", run: config::run },
    Target { name: "control", run: control::run },
    Target { name: "dialogue", run: dialogue::run },
    Target { name: "grammar", run: grammar::run },
    Target { name: "segments", run: segments::run },
];
