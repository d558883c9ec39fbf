//! `ftp-helper doctor`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use super::{
    output::{Format, Out, OutputArgs},
    target, text,
};
use crate::{
    config::{Config, ConfigError, DEFAULT_PATH, DEFAULT_SOCKET},
    doctor::{self, Severity},
    error::Code,
};

/// Arguments of `doctor`.
#[derive(clap::Args, Debug)]
pub(super) struct DoctorArgs {
    /// Configuration file; without it, the default one if it is there
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Control socket of the daemon, where it is not that of the configuration
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// How long the daemon must have run before its silence means anything
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = humantime::parse_duration)]
    quiet: Duration,

    #[command(flatten)]
    output: OutputArgs,
}

/// Looks at the host and says what it finds.
pub(super) fn run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let config = configuration(args.config.as_deref())?;
    let configured = config.as_ref().map(|c| c.api.socket.clone());
    let socket = args.socket.or(configured).unwrap_or_else(|| DEFAULT_SOCKET.into());
    let findings = doctor::examine(config.as_ref(), &socket, args.quiet);
    let count = |s: Severity| findings.iter().filter(|f| f.severity == s).count();
    let errors = count(Severity::Error);
    let mut out = Out::new(args.output);
    if out.format == Format::Table {
        for finding in &findings {
            // Texts of rules and names of programs come from elsewhere.
            for line in finding.to_string().lines() {
                out.line(&text::printable(line))?;
            }
        }
        out.line(&format!("\n{errors} errors, {} warnings", count(Severity::Warning)))?;
    } else {
        out.rows(&findings, [], |_| [])?;
    }
    out.flush()?;
    Ok(if errors > 0 { Code::Problems.into() } else { ExitCode::SUCCESS })
}

/// The configuration that was named, or the default one; none if that is not there.
fn configuration(named: Option<&Path>) -> anyhow::Result<Option<Config>> {
    match named {
        Some(path) => Ok(Some(target::load(path)?)),
        None => match Config::load(Path::new(DEFAULT_PATH)) {
            Ok(config) => Ok(Some(config)),
            Err(ConfigError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(target::fault(&e).into()),
        },
    }
}
