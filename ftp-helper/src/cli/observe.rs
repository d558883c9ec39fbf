//! `ftp-helper observe`.

use std::process::ExitCode;

use ftp_helper_common::reason::Reason;
use ipnet::IpNet;

use super::{
    output::{Format, Out, OutputArgs, complain},
    target::TargetArgs,
    text,
};
use crate::{
    api::{Filter, client::Observed},
    event::Kind,
};

/// Arguments of `observe`.
#[derive(clap::Args, Debug)]
pub(super) struct ObserveArgs {
    /// Go on with the events to come
    #[arg(short, long)]
    follow: bool,

    /// Begin with the last N events that the daemon remembers; all of them unless -f is given
    #[arg(short = 'n', long, value_name = "N")]
    last: Option<usize>,

    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Which events; each option may be given several times.
#[derive(clap::Args, Debug)]
struct FilterArgs {
    /// Events of this kind
    #[arg(long, value_name = "KIND", value_parser = kind)]
    event: Vec<Kind>,

    /// Events of this client, an address or prefix
    #[arg(long, value_name = "NET", value_parser = network)]
    client: Vec<IpNet>,

    /// Events of this server, an address or prefix
    #[arg(long, value_name = "NET", value_parser = network)]
    server: Vec<IpNet>,

    /// Events of the session with this id
    #[arg(long, value_name = "ID", value_parser = session)]
    session: Vec<String>,

    /// Events with this reason
    #[arg(long, value_name = "REASON", value_parser = reason)]
    reason: Vec<String>,
}

/// Prints events.
pub(super) fn run(args: ObserveArgs) -> anyhow::Result<ExitCode> {
    let ObserveArgs { follow, last, filter, target, output } = args;
    let FilterArgs { event, client, server, session, reason } = filter;
    let filter = Filter { event, client, server, session, reason };
    let last = last.unwrap_or(if follow { 0 } else { usize::MAX });
    let client = target.connect()?;
    let mut out = Out::new(output);
    client.observe(filter, follow, last, |observed| {
        match observed {
            Observed::Ready => tracing::info!("observing"),
            Observed::Event(event) => {
                match out.format {
                    Format::Table => out.line(&text::event(&event))?,
                    Format::Json | Format::Jsonl => out.json_line(&*event)?,
                }
                if follow {
                    out.flush()?;
                }
            }
            Observed::Lagged(missed) => complain(&format!("{missed} events were left out: this reader is too slow")),
        }
        anyhow::Ok(true)
    })?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn kind(value: &str) -> Result<Kind, String> {
    const KINDS: &str = "session_start, opened, confirmed, used, expired, revoked, refused, denied, tainted, killed, \
                         opaque, data_end, session_end";
    serde_json::from_value(value.into()).map_err(|_| format!("no such kind of event; there are {KINDS}"))
}

fn network(value: &str) -> Result<IpNet, String> {
    let address = value.parse::<std::net::IpAddr>().map(IpNet::from);
    address.or_else(|_| value.parse::<IpNet>()).map_err(|_| "not an address or a prefix".to_owned())
}

fn session(value: &str) -> Result<String, String> {
    // Ids are printed with sixteen digits; leading zeros may be left out here.
    match u64::from_str_radix(value, 16) {
        Ok(id) => Ok(format!("{id:016x}")),
        Err(_) => Err("not the id of a session: up to sixteen hexadecimal digits".to_owned()),
    }
}

fn reason(value: &str) -> Result<String, String> {
    match Reason::from_name(value) {
        Some(reason) => Ok(reason.as_str().to_owned()),
        None => Err("no such reason; docs/reasons.md has the list".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_checked_before_anybody_is_asked() {
        assert_eq!(kind("data_end"), Ok(Kind::DataEnd));
        assert!(kind("DataEnd").is_err());
        assert_eq!(network("192.0.2.1").unwrap().to_string(), "192.0.2.1/32");
        assert!(network("192.0.2.1/64").is_err());
        assert_eq!(session("A1"), Ok("00000000000000a1".to_owned()));
        assert!(session("xyz").is_err());
        assert_eq!(reason("low_port"), Ok("low_port".to_owned()));
        assert!(reason("because").is_err());
    }

    #[test]
    fn every_kind_of_event_is_in_the_help() {
        let text = kind("?").unwrap_err();
        for kind in [Kind::SessionStart, Kind::Opened, Kind::Killed, Kind::Opaque, Kind::SessionEnd] {
            assert!(text.contains(&text::name(&kind)), "{kind:?}");
        }
    }
}
