//! `ftp-helper pinholes`: those that are open; one more, one less, none.

use std::{
    net::{IpAddr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use clap::ValueEnum;
use ipnet::IpNet;

use super::{
    filter,
    output::{Format, Out, OutputArgs},
    target::TargetArgs,
    text,
};
use crate::{
    api::{self, PinholeAdd, PinholeFilter, PinholeRow, Selector},
    event::NegotiatedBy,
};

/// Arguments of `pinholes`.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub(super) struct PinholesArgs {
    #[command(subcommand)]
    command: Option<PinholesCommand>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(clap::Subcommand, Debug)]
enum PinholesCommand {
    /// The pinholes that are open
    List(ListArgs),
    /// Open one, of no session, for one connection
    Add(AddArgs),
    /// Take one back
    Del(DelArgs),
    /// Take back those that fit, or all
    Flush(FlushArgs),
}

const EXAMPLES: &str = "\
Examples:
  ftp-helper pinholes -o json
  ftp-helper pinholes add 203.0.113.10 192.0.2.10:50069 --reason 'ticket 4711'
  ftp-helper pinholes del 00000000000000a1 --reason 'not theirs'
  ftp-helper pinholes flush --initiator 203.0.113.0/24 --reason 'a scan'";

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  ftp-helper pinholes list\n  ftp-helper pinholes list -o jsonl")]
struct ListArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  ftp-helper pinholes add 203.0.113.10 192.0.2.10:50069 --reason 'ticket 4711'
  ftp-helper pinholes add 2001:db8::7 '[2001:db8:1::10]:50069' --for 5s --direction in --reason 'a trial'")]
struct AddArgs {
    /// Who may connect: an address
    initiator: IpAddr,

    /// Where to: an address and a port, such as 192.0.2.10:50069 or [2001:db8::10]:50069
    #[arg(value_name = "RESPONDER:PORT")]
    responder: SocketAddr,

    /// For how long, in whole seconds; at most, and without it, for as long as [pinhole] timeout says
    #[arg(long = "for", value_name = "DURATION", value_parser = seconds)]
    seconds: Option<u64>,

    /// Which way the connection goes; without it, as the guard says that covers it
    #[arg(long, value_enum)]
    direction: Option<Direction>,

    #[command(flatten)]
    reason: ReasonArgs,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Direction {
    /// Arriving on an outside interface
    In,
    /// Leaving by one
    Out,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  ftp-helper pinholes del 00000000000000a1 --reason 'not theirs'
  ftp-helper pinholes del 203.0.113.10 192.0.2.10:50069 --reason 'not theirs'")]
struct DelArgs {
    /// The id of its session, or its own; or who may connect, before RESPONDER:PORT
    #[arg(value_name = "ID|INITIATOR")]
    first: String,

    /// Where to, where the first argument is an address
    #[arg(value_name = "RESPONDER:PORT")]
    responder: Option<SocketAddr>,

    #[command(flatten)]
    reason: ReasonArgs,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  ftp-helper pinholes flush --reason 'maintenance'
  ftp-helper pinholes flush --mode added --responder 192.0.2.10 --reason 'ticket 4711 is done'")]
struct FlushArgs {
    /// Those of this initiator, an address or prefix
    #[arg(long, value_name = "NET", value_parser = filter::network)]
    initiator: Vec<IpNet>,

    /// Those towards this responder, an address or prefix
    #[arg(long, value_name = "NET", value_parser = filter::network)]
    responder: Vec<IpNet>,

    /// That of the session, or the added one, with this id
    #[arg(long, value_name = "ID", value_parser = filter::id)]
    session: Vec<String>,

    /// Those that were negotiated so: pasv, epsv, port, eprt or added
    #[arg(long, value_name = "MODE", value_parser = filter::mode)]
    mode: Vec<NegotiatedBy>,

    #[command(flatten)]
    reason: ReasonArgs,
    #[command(flatten)]
    list: ListArgs,
}

/// The option of what changes something.
#[derive(clap::Args, Debug)]
pub(super) struct ReasonArgs {
    /// Why: one line that the events keep, with your user id
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub(super) reason: String,
}

/// Prints the pinholes, or changes them.
pub(super) fn run(args: PinholesArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        None => list(args.list),
        Some(PinholesCommand::List(args)) => list(args),
        Some(PinholesCommand::Add(args)) => add(args),
        Some(PinholesCommand::Del(args)) => del(args),
        Some(PinholesCommand::Flush(args)) => flush(args),
    }
}

fn list(args: ListArgs) -> anyhow::Result<ExitCode> {
    let rows = args.target.connect()?.pinholes()?;
    let mut out = Out::new(args.output);
    let header = ["SESSION", "CLIENT", "SERVER", "MODE", "INITIATOR", "RESPONDER", "PORT", "STATE", "EXPIRES"];
    let end = |end: Option<SocketAddr>| end.map_or_else(|| "-".to_owned(), |e| e.to_string());
    out.rows(&rows, header, |row: &PinholeRow| {
        let p = &row.pinhole;
        [
            text::printable(row.id().unwrap_or("-")),
            end(row.client),
            end(row.server),
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

fn add(args: AddArgs) -> anyhow::Result<ExitCode> {
    let AddArgs { initiator, responder, seconds, direction, reason, list } = args;
    let direction = direction.map(|d| match d {
        Direction::In => api::Direction::In,
        Direction::Out => api::Direction::Out,
    });
    let (port, responder, reason) = (responder.port(), responder.ip(), reason.reason);
    let row =
        list.target.connect()?.pinhole_add(PinholeAdd { initiator, responder, port, direction, seconds, reason })?;
    let mut out = Out::new(list.output);
    out.value(&row, |row| {
        let left = text::milliseconds(row.pinhole.expires_in_ms.div_ceil(1000) * 1000);
        format!("Opened for {left}: {}.", describe(row))
    })?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn del(args: DelArgs) -> anyhow::Result<ExitCode> {
    let DelArgs { first, responder, reason, list } = args;
    let selector = match selector(&first, responder) {
        Ok(selector) => selector,
        Err(message) => return Err(crate::error::Fault::new(crate::error::Code::Usage, message).into()),
    };
    let row = list.target.connect()?.pinhole_delete(selector, &reason.reason)?;
    let mut out = Out::new(list.output);
    out.value(&row, |row| format!("Taken back: {}.", describe(row)))?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn flush(args: FlushArgs) -> anyhow::Result<ExitCode> {
    let FlushArgs { initiator, responder, session, mode, reason, list } = args;
    let filter = PinholeFilter { initiator, responder, session, mode };
    let rows = list.target.connect()?.pinholes_flush(filter, &reason.reason)?;
    let mut out = Out::new(list.output);
    if out.format == Format::Table {
        for row in &rows {
            out.line(&format!("Taken back: {}.", describe(row)))?;
        }
        if rows.is_empty() {
            out.line("No pinhole fits; nothing was taken back.")?;
        }
    } else {
        out.rows(&rows, [], |_| [])?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn describe(row: &PinholeRow) -> String {
    let p = &row.pinhole;
    let to = SocketAddr::new(p.responder, p.port);
    format!("{} {} -> {to} ({})", text::name(&p.mode), p.initiator, text::printable(row.id().unwrap_or("-")))
}

fn selector(first: &str, responder: Option<SocketAddr>) -> Result<Selector, String> {
    match responder {
        None => match filter::id(first) {
            Ok(id) => Ok(Selector::Id(id)),
            Err(_) if first.parse::<IpAddr>().is_ok() => {
                Err(format!("{first} alone names no pinhole: write RESPONDER:PORT behind it, or an id instead"))
            }
            Err(e) => Err(format!("{first:?}: {e}")),
        },
        Some(to) => match first.parse() {
            Ok(initiator) => Ok(Selector::Endpoint { initiator, responder: to.ip(), port: to.port() }),
            Err(_) => Err(format!("{first:?} before {to} is not an address: write who may connect there")),
        },
    }
}

fn seconds(value: &str) -> Result<u64, String> {
    let duration = humantime::parse_duration(value).map_err(|e| e.to_string())?;
    if duration < Duration::from_secs(1) || duration.subsec_nanos() != 0 {
        return Err("write whole seconds, such as 5s".to_owned());
    }
    Ok(duration.as_secs())
}

fn reason(value: &str) -> Result<String, String> {
    api::check_note(value).map(|()| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pinhole_is_named_by_an_id_or_by_both_ends() {
        assert_eq!(selector("a1", None), Ok(Selector::Id("00000000000000a1".into())));
        let to: SocketAddr = "[2001:db8::2]:50069".parse().unwrap();
        let endpoint =
            Selector::Endpoint { initiator: "2001:db8::1".parse().unwrap(), responder: to.ip(), port: 50069 };
        assert_eq!(selector("2001:db8::1", Some(to)), Ok(endpoint));
        assert!(selector("192.0.2.1", None).unwrap_err().contains("RESPONDER:PORT"));
        assert!(selector("a1", Some(to)).unwrap_err().contains("is not an address"));
        assert!(selector("example", None).is_err());
    }

    #[test]
    fn durations_are_whole_seconds() {
        assert_eq!(seconds("1m 5s"), Ok(65));
        assert!(seconds("1500ms").is_err() && seconds("0s").is_err() && seconds("soon").is_err());
        assert_eq!(reason("why not"), Ok("why not".to_owned()));
        assert!(reason("").is_err());
    }
}
