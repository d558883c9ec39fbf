//! `ftp-helper sessions`, `pinholes` and `reload`: one question, one answer.

use std::process::ExitCode;

use super::{
    output::{Out, OutputArgs},
    target::TargetArgs,
    text,
};
use crate::api::{PinholeRow, Session};

/// Arguments of `sessions`.
#[derive(clap::Args, Debug)]
pub(super) struct SessionsArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Arguments of `pinholes`.
#[derive(clap::Args, Debug)]
pub(super) struct PinholesArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Arguments of `reload`.
#[derive(clap::Args, Debug)]
pub(super) struct ReloadArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Prints the sessions.
pub(super) fn sessions(args: SessionsArgs) -> anyhow::Result<ExitCode> {
    let rows = args.target.connect()?.sessions()?;
    let mut out = Out::new(args.output);
    let header =
        ["SESSION", "CLIENT", "SERVER", "STATE", "KERNEL", "AGE", "IDLE", "PINHOLE", "DATA", "DONE", "BYTES", "REASON"];
    out.rows(&rows, header, |s: &Session| {
        [
            s.session.clone(),
            s.client.to_string(),
            s.server.to_string(),
            text::name(&s.state),
            if s.sighted { "sighted" } else { "blind" }.to_owned(),
            text::milliseconds(s.age_ms),
            text::milliseconds(s.idle_ms),
            s.pinhole.as_ref().map_or("-".to_owned(), |p| format!("{} {}", text::name(&p.mode), p.port)),
            s.data_connections.to_string(),
            s.transfers.to_string(),
            s.bytes.to_string(),
            s.reason.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    })?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the pinholes.
pub(super) fn pinholes(args: PinholesArgs) -> anyhow::Result<ExitCode> {
    let rows = args.target.connect()?.pinholes()?;
    let mut out = Out::new(args.output);
    let header = ["SESSION", "CLIENT", "SERVER", "MODE", "INITIATOR", "RESPONDER", "PORT", "STATE", "EXPIRES"];
    out.rows(&rows, header, |row: &PinholeRow| {
        let p = &row.pinhole;
        [
            row.session.clone(),
            row.client.to_string(),
            row.server.to_string(),
            text::name(&p.mode),
            p.initiator.to_string(),
            p.responder.to_string(),
            p.port.to_string(),
            text::name(&p.state),
            text::milliseconds(p.expires_in_ms),
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
