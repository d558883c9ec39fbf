//! `ftp-helper detach`.

use std::{path::Path, process::ExitCode};

use anyhow::Context as _;

use super::{
    output::{Format, Out, OutputArgs},
    target::{self, TargetArgs},
};
use crate::{
    config::{Config, DEFAULT_PATH},
    daemon,
};

/// Arguments of `detach`.
#[derive(clap::Args, Debug)]
pub(super) struct DetachArgs {
    #[command(flatten)]
    target: TargetArgs,

    /// Do nothing unless systemd is stopping this unit: what a daemon leaves that is restarted, or that has died, is the next
    /// one's. For the unit's ExecStopPost=
    #[arg(long, value_name = "UNIT")]
    when_stopped: Option<String>,
}

/// Removes what a daemon that is gone has left in the kernel.
pub(super) fn run(args: DetachArgs) -> anyhow::Result<ExitCode> {
    // First: what is the next daemon's is none of ours, nor is its configuration.
    let stopping = args.when_stopped.as_deref().map(daemon::is_stopping).transpose();
    if matches!(stopping, Ok(Some(false))) {
        return Ok(ExitCode::SUCCESS);
    }
    let socket = args.target.socket()?;
    let mut out = Out::new(OutputArgs { output: Format::Table });
    if daemon::is_left(&socket)? {
        stopping.context(
            "can't tell whether the unit is stopped for good: programs and tables stay as they are, and guard; where no daemon is to \
             follow, `ftp-helper detach` removes them",
        )?;
        let sets = match args.target.config_file() {
            Some(path) => target::load(&path)?.nftables,
            // Of a daemon that is named by its control socket alone the elements of sets go when their time is over.
            None => {
                Config::load(Path::new(DEFAULT_PATH)).ok().filter(|c| c.api.socket == socket).and_then(|c| c.nftables)
            }
        };
        daemon::detach(&socket, sets.as_ref())?;
        out.line("Detached: nothing is left, and nothing is guarded.")?;
    } else if args.when_stopped.is_none() {
        // After most stops it is so, and nobody wants to know.
        out.line("Nothing is left to detach in this network namespace.")?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
