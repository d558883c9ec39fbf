//! `ftp-helper connections` and `reload`: one question, one answer.

use std::process::ExitCode;

use super::{
    output::{Out, OutputArgs},
    target::TargetArgs,
    text,
};
use crate::api::ConnectionRow;

/// Arguments of `connections`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  ftp-helper connections\n  ftp-helper connections -o jsonl")]
pub(super) struct ConnectionsArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Arguments of `reload`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  ftp-helper reload\n  ftp-helper reload -o json")]
pub(super) struct ReloadArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Prints the data connections.
pub(super) fn connections(args: ConnectionsArgs) -> anyhow::Result<ExitCode> {
    let rows = args.target.connect()?.connections()?;
    let mut out = Out::new(args.output);
    let header = ["SESSION", "MODE", "INITIATOR", "RESPONDER", "OUT", "BACK", "RATE", "AGE"];
    out.rows(&rows, header, |row: &ConnectionRow| {
        let owner = row.session.as_deref().or(row.added.as_deref());
        [
            text::printable(owner.unwrap_or("-")),
            text::name(&row.mode),
            row.initiator.to_string(),
            row.responder.to_string(),
            row.bytes_out.to_string(),
            row.bytes_back.to_string(),
            format!("{}/s", bytesize::ByteSize(row.rate)),
            text::milliseconds(row.age_ms),
        ]
    })?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Has the configuration read again and prints what changed.
pub(super) fn reload(args: ReloadArgs) -> anyhow::Result<ExitCode> {
    let report = args.target.connect()?.reload()?;
    let mut out = Out::new(args.output);
    out.value(&report, |report| {
        let mut lines = Vec::new();
        if report.changed.is_empty() {
            lines.push("Reloaded; nothing has changed.".to_owned());
        } else {
            lines.push("Reloaded.".to_owned());
            lines.extend(report.changed.iter().map(|c| format!("Changed: {}", text::printable(c))));
        }
        lines.extend(report.needs_restart.iter().map(|c| format!("Needs a restart: {}", text::printable(c))));
        lines.join("\n")
    })?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
