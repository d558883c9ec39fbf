//! Which events: the options of `observe`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ftp_helper_common::reason::Reason;
use ipnet::IpNet;
use serde::de::DeserializeOwned;

use crate::{
    api::{Filter, Not},
    event::{Kind, NegotiatedBy, SessionId, Timestamp},
};

/// Which events; each option but `--since` may be given several times.
#[derive(clap::Args, Debug)]
pub(super) struct FilterArgs {
    /// Events of this kind, such as denied
    #[arg(long, value_name = "KIND", value_parser = kind)]
    event: Vec<Kind>,

    /// Events of this client, an address or prefix
    #[arg(long, value_name = "NET", value_parser = network)]
    client: Vec<IpNet>,

    /// Events of this server, an address or prefix
    #[arg(long, value_name = "NET", value_parser = network)]
    server: Vec<IpNet>,

    /// Events of the session, or of the added pinhole, with this id
    #[arg(long, value_name = "ID", value_parser = id)]
    session: Vec<String>,

    /// Events with this reason, such as third_host
    #[arg(long, value_name = "REASON", value_parser = reason)]
    reason: Vec<String>,

    /// Events about a pinhole that was negotiated so: pasv, epsv, port, eprt, range or added
    #[arg(long, value_name = "MODE", value_parser = mode)]
    mode: Vec<NegotiatedBy>,

    /// Events from then on: a duration before now, such as 10m, or a time, such as 2026-01-01T12:00:00Z
    #[arg(long, value_name = "DURATION|TIME", value_parser = since)]
    since: Option<Timestamp>,

    /// No events that this one fits: event, client, server, session, reason or mode, such as event=denied
    #[arg(long, value_name = "FILTER=VALUE", value_parser = not)]
    not: Vec<Not>,
}

impl FilterArgs {
    /// Whether a time was given.
    pub(super) fn has_time(&self) -> bool {
        self.since.is_some()
    }

    /// The same for the daemon.
    pub(super) fn into_filter(self) -> Filter {
        let Self { event, client, server, session, reason, mode, since, not } = self;
        Filter { event, client, server, session, reason, mode, since, not }
    }
}

/// An address or a prefix.
pub(super) fn network(value: &str) -> Result<IpNet, String> {
    let address = value.parse::<std::net::IpAddr>().map(IpNet::from);
    address.or_else(|_| value.parse::<IpNet>()).map_err(|_| "not an address or a prefix".to_owned())
}

/// The id of a session or of an added pinhole; leading zeros may be left out.
pub(super) fn id(value: &str) -> Result<String, String> {
    // Ids are printed with sixteen digits.
    value.parse().map(|id: SessionId| id.to_string()).map_err(|e| e.to_string())
}

/// How a pinhole was negotiated.
pub(super) fn mode(value: &str) -> Result<NegotiatedBy, String> {
    named(value).ok_or_else(|| "no such mode; there are pasv, epsv, port, eprt, range, added".to_owned())
}

fn kind(value: &str) -> Result<Kind, String> {
    const KINDS: &str = "session_start, opened, confirmed, used, expired, revoked, refused, denied, tainted, killed, \
                         opaque, data_end, session_end";
    named(value).ok_or_else(|| format!("no such kind of event; there are {KINDS}"))
}

fn reason(value: &str) -> Result<String, String> {
    match Reason::from_name(value) {
        Some(reason) => Ok(reason.as_str().to_owned()),
        None => Err("no such reason; docs/reasons.md has the list".to_owned()),
    }
}

fn since(value: &str) -> Result<Timestamp, String> {
    since_at(value, SystemTime::now())
}

fn since_at(value: &str, now: SystemTime) -> Result<Timestamp, String> {
    let before = |d: Duration| now.checked_sub(d).unwrap_or(UNIX_EPOCH);
    let time = humantime::parse_duration(value).map(before);
    let time = time
        .or_else(|_| humantime::parse_rfc3339_weak(value))
        .map_err(|_| "neither a duration, such as 10m, nor a time in UTC, such as 2026-01-01T12:00:00Z".to_owned())?;
    let micros = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    u64::try_from(micros).ok().and_then(Timestamp::from_micros).ok_or_else(|| "too far away".to_owned())
}

fn not(value: &str) -> Result<Not, String> {
    let (filter, value) = value.split_once('=').ok_or("write a filter and its value, such as event=denied")?;
    match filter {
        "event" => kind(value).map(Not::Event),
        "client" => network(value).map(Not::Client),
        "server" => network(value).map(Not::Server),
        "session" => id(value).map(Not::Session),
        "reason" => reason(value).map(Not::Reason),
        "mode" => mode(value).map(Not::Mode),
        _ => Err("no such filter; there are event, client, server, session, reason, mode".to_owned()),
    }
}

/// The value that has this name in JSON.
fn named<T: DeserializeOwned>(name: &str) -> Option<T> {
    serde_json::from_value(name.into()).ok()
}

#[cfg(test)]
mod tests {
    use super::{super::text, *};

    #[test]
    fn filters_are_checked_before_anybody_is_asked() {
        assert_eq!(kind("data_end"), Ok(Kind::DataEnd));
        assert!(kind("DataEnd").is_err());
        assert_eq!(network("192.0.2.1").unwrap().to_string(), "192.0.2.1/32");
        assert!(network("192.0.2.1/64").is_err());
        assert_eq!(id("A1"), Ok("00000000000000a1".to_owned()));
        assert!(id("xyz").is_err() && id("+1").is_err());
        assert_eq!(reason("low_port"), Ok("low_port".to_owned()));
        assert!(reason("because").is_err());
        assert_eq!(mode("added"), Ok(NegotiatedBy::Added));
        assert!(mode("ftp").is_err());
    }

    #[test]
    fn a_time_is_a_duration_before_now_or_a_moment() {
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(since_at("10m", now).unwrap().to_string(), "2023-11-14T22:03:20.000000Z");
        assert_eq!(since_at("2023-11-14T22:13:20Z", now).unwrap().to_string(), "2023-11-14T22:13:20.000000Z");
        assert_eq!(since_at("2023-11-14 22:13:20.5", now).unwrap().to_string(), "2023-11-14T22:13:20.500000Z");
        assert_eq!(since_at("100years", now).unwrap().to_string(), "1970-01-01T00:00:00.000000Z");
        assert!(since_at("yesterday", now).is_err());
    }

    #[test]
    fn what_is_not_wanted_has_a_name_and_a_value() {
        assert_eq!(not("event=denied"), Ok(Not::Event(Kind::Denied)));
        assert_eq!(not("client=2001:db8::/32"), Ok(Not::Client("2001:db8::/32".parse().unwrap())));
        assert_eq!(not("session=a1"), Ok(Not::Session("00000000000000a1".to_owned())));
        assert_eq!(not("mode=range"), Ok(Not::Mode(NegotiatedBy::Range)));
        for wrong in ["event", "event=party", "port=21", "server=example", "reason=because"] {
            assert!(not(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_kind_of_event_is_in_the_help() {
        let text = kind("?").unwrap_err();
        for kind in [Kind::SessionStart, Kind::Opened, Kind::Killed, Kind::Opaque, Kind::SessionEnd] {
            assert!(text.contains(&text::name(&kind)), "{kind:?}");
        }
    }
}
