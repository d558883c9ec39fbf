//! `cargo xtask soak`: the survival tests' soak, for as long as one likes. `cargo xtask test` runs a short one beside what needs
//! no exact time.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    command,
    host::{Host, Rights},
    setup::{Purpose, Setup},
    test,
};

/// The test, in the program `e2e_survive`.
pub(crate) const TEST: &str = "memory_and_tables_stay_as_they_are";

/// What `cargo xtask soak` knows.
#[derive(Args)]
pub(crate) struct Options {
    /// How long.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    minutes: u64,
    /// Milliseconds that each client waits between two transfers; 0 is full load, and the test has a default.
    #[arg(long)]
    pause_ms: Option<u64>,
}

/// Builds and runs it; each minute has a line, and the figures are in `target/xtask/soak.json`.
///
/// # Errors
/// Without the right to be root, when it does not build, and when memory grew, tables drifted or a transfer failed.
pub(crate) fn run(host: &Host, options: &Options) -> Result<()> {
    if host.rights == Rights::None {
        bail!("the soak loads programs into the kernel: run it as root, or have sudo without a password");
    }
    Setup::of(host, &[Purpose::Build, Purpose::Kernel, Purpose::Lab]).install()?;
    command::run(command::cargo(host).args(["build", "--package", "ftp-helper", "--locked"]))?;
    let figures = host.root.join("target/xtask");
    fs::create_dir_all(&figures).with_context(|| format!("can't make {}", figures.display()))?;
    command::run(command(host, options.minutes, options.pause_ms)?.arg("--nocapture"))
}

/// The command that runs it. The program `ftp-helper` has to be built.
///
/// # Errors
/// When it can't be told how to be root.
pub(crate) fn command(host: &Host, minutes: u64, pause_ms: Option<u64>) -> Result<Command> {
    let mut cargo = command::cargo(host);
    cargo.args(["test", "--package", test::END_TO_END, "--locked", "--test", "e2e_survive", "--"]);
    cargo.args(["--exact", TEST]);
    let mut environment = test::environment(host, false);
    environment.push(("FTP_HELPER_SOAK_MINUTES", minutes.to_string()));
    environment.extend(pause_ms.map(|pause| ("FTP_HELPER_SOAK_PAUSE_MS", pause.to_string())));
    test::with_rights(host, &mut cargo, &environment)?;
    Ok(cargo)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_is_there_and_is_told_how_long() {
        let host = Host { rights: Rights::Root, ..Host::read().expect("/proc is there") };
        let source = fs::read_to_string(host.root.join("tests/tests/e2e_survive.rs")).expect("a test program");
        assert!(source.contains(&format!("fn {TEST}()")));
        let command = command(&host, 7, Some(0)).expect("root needs nothing");
        for (wanted, told) in [("FTP_HELPER_SOAK_MINUTES", "7"), ("FTP_HELPER_SOAK_PAUSE_MS", "0")] {
            let value = command.get_envs().find(|(name, _)| *name == wanted).and_then(|(_, value)| value);
            assert!(value == Some(told.as_ref()) && source.contains(&format!("\"{wanted}\"")), "{wanted}");
        }
    }
}
