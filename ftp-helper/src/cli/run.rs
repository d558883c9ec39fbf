//! `ftp-helper run`.

use std::{path::PathBuf, process::ExitCode};

use super::{logging::LogFormat, target};
use crate::{
    config::{self, DEFAULT_PATH},
    daemon::{self, AttachKind, FastPath},
    error::Fault,
};

/// Arguments of `run`.
#[derive(clap::Args, Debug)]
pub(super) struct RunArgs {
    /// Configuration file
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,

    /// How to attach: TCX where the kernel has it (Linux 6.6), clsact otherwise
    #[arg(long, value_enum, default_value = "auto", value_name = "HOW")]
    attach: Attach,

    /// How the shield of `hook = "xdp+tc"` is attached: in the driver (native) where that has XDP, in the stack (generic)
    /// otherwise, or one of the two
    #[arg(long, value_enum, default_value = "auto", value_name = "HOW")]
    shield: Shield,

    /// Log of the programs in the kernel, down to this level: 1 error, 2 warning, 3 info, 4 debug, 5 trace; 0 is off and
    /// costs nothing
    #[arg(long, default_value_t = 0, value_name = "LEVEL", value_parser = clap::value_parser!(u8).range(0..=5))]
    kernel_log: u8,

    /// What a line of the log on standard error looks like
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(super) log_format: LogFormat,

    /// Have the daemon open every pinhole, never the kernel by itself: to measure what the fast path is worth
    #[arg(long)]
    no_fast_path: bool,

    /// Keep no SYN that comes too early: to measure what parking is worth
    #[arg(long)]
    no_parking: bool,
}

/// How programs are attached.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Attach {
    /// TCX where the kernel has it, clsact otherwise
    Auto,
    /// TCX links
    Tcx,
    /// Filters on the clsact qdisc
    Clsact,
}

/// How the shield is attached.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Shield {
    /// Native where the driver has it, generic otherwise
    Auto,
    /// Native XDP only
    Native,
    /// Generic XDP
    Generic,
}

/// Runs the daemon until it is told to stop.
pub(super) fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let (config, notes) = config::load_with_notes(&args.config).map_err(|e| match args.log_format {
        LogFormat::Text => target::fault(&e),
        LogFormat::Json => Fault::new(target::code(&e), e.to_string()),
    })?;
    for note in notes {
        tracing::warn!("{}: {note}", args.config.display());
    }
    let options = daemon::RunOptions {
        attach: match args.attach {
            Attach::Auto => AttachKind::Auto,
            Attach::Tcx => AttachKind::Tcx,
            Attach::Clsact => AttachKind::Clsact,
        },
        shield: match args.shield {
            Shield::Auto => daemon::Shield::Auto,
            Shield::Native => daemon::Shield::Native,
            Shield::Generic => daemon::Shield::Generic,
        },
        fast: FastPath { fast_path: !args.no_fast_path, parking: !args.no_parking },
        kernel_log: args.kernel_log,
    };
    daemon::run(config, options)?;
    Ok(ExitCode::SUCCESS)
}
