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
    let socket = args.target.socket()?;
    let mut out = Out::new(OutputArgs { output: Format::Table });
    if !daemon::is_left(&socket)? {
        // As after most stops: nobody wants to know.
        if args.when_stopped.is_none() {
            out.line("Nothing is left to detach.")?;
        }
    } else if let Some(unit) = &args.when_stopped
        && !daemon::is_stopping(unit).with_context(|| {
            format!(
                "can't tell whether {unit} is stopped for good: programs and tables stay as they are, and guard; where no daemon is to \
                 follow, `ftp-helper detach` removes them"
            )
        })?
    {
        tracing::debug!("{unit} is not stopped for good: programs and tables stay for the next daemon");
    } else {
        let sets = match args.target.config_file() {
            Some(path) => target::load(&path)?.nftables,
            // By its control socket alone, or by default: elements of sets go when their time is over.
            None => Config::load(Path::new(DEFAULT_PATH)).ok().filter(|c| c.api.socket == socket).and_then(|c| c.nftables),
        };
        daemon::detach(&socket, sets.as_ref())?;
        out.line("Detached: nothing is left, and nothing is guarded.")?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
