//! `ftp-helper run`.

use std::{path::PathBuf, process::ExitCode};

use super::target;
use crate::{
    config::{self, DEFAULT_PATH},
    daemon,
};

/// Arguments of `run`.
#[derive(clap::Args, Debug)]
pub(super) struct RunArgs {
    /// Configuration file
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,
}

/// Runs the daemon until it is told to stop.
pub(super) fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let (config, notes) = config::load_with_notes(&args.config).map_err(|e| target::fault(&e))?;
    for note in notes {
        tracing::warn!("{}: {note}", args.config.display());
    }
    daemon::run(config, daemon::RunOptions::default())?;
    Ok(ExitCode::SUCCESS)
}
