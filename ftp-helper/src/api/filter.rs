//! Which events an observer wants.

use std::net::SocketAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::event::{Event, Kind};

/// Which events: those that fit one value of each list. An empty list fits everything.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// Kinds of events.
    pub event: Vec<Kind>,
    /// Networks of the client; for a connection that belongs to no session, of where it came from.
    pub client: Vec<IpNet>,
    /// Networks of the server; for a connection that belongs to no session, of where it went.
    pub server: Vec<IpNet>,
    /// Ids of sessions.
    pub session: Vec<String>,
    /// Names of reasons.
    pub reason: Vec<String>,
}

impl Filter {
    /// Whether the event is wanted.
    pub fn matches(&self, event: &Event) -> bool {
        let from = event.client.or(event.connection.as_ref().map(|c| c.from));
        let to = event.server.or(event.connection.as_ref().map(|c| c.to));
        (self.event.is_empty() || self.event.contains(&event.event))
            && within(&self.client, from)
            && within(&self.server, to)
            && (self.session.is_empty() || event.session.as_ref().is_some_and(|s| self.session.contains(s)))
            && (self.reason.is_empty()
                || event.reason.is_some_and(|r| self.reason.iter().any(|name| name == r.as_str())))
    }
}

fn within(networks: &[IpNet], address: Option<SocketAddr>) -> bool {
    networks.is_empty() || address.is_some_and(|a| networks.iter().any(|n| n.contains(&a.ip())))
}

#[cfg(test)]
mod tests {
    use ftp_helper_common::reason::Reason;

    use super::*;
    use crate::event::Connection;

    fn event() -> Event {
        Event {
            v: 1,
            ts: "2026-01-01T00:00:00.000000Z".into(),
            event: Kind::Refused,
            session: Some("00000000000000a1".into()),
            client: Some("192.0.2.10:40000".parse().unwrap()),
            server: Some("198.51.100.5:21".parse().unwrap()),
            reason: Some(Reason::LowPort),
            pinhole: None,
            connection: None,
            by: None,
            detail: None,
        }
    }

    #[test]
    fn every_list_must_fit_and_any_value_will_do() {
        let all = Filter::default();
        assert!(all.matches(&event()));
        let kinds = |k: &[Kind]| Filter { event: k.to_vec(), ..Filter::default() };
        assert!(kinds(&[Kind::Opened, Kind::Refused]).matches(&event()));
        assert!(!kinds(&[Kind::Opened]).matches(&event()));
        let client = |n: &str| Filter { client: vec![n.parse().unwrap()], ..Filter::default() };
        assert!(client("192.0.2.0/24").matches(&event()));
        assert!(!client("198.51.100.0/24").matches(&event()));
        let server = |n: &str| Filter { server: vec![n.parse().unwrap()], ..Filter::default() };
        assert!(server("198.51.100.5/32").matches(&event()));
        assert!(!server("192.0.2.10/32").matches(&event()));
        let session = |s: &str| Filter { session: vec![s.into()], ..Filter::default() };
        assert!(session("00000000000000a1").matches(&event()));
        assert!(!session("00000000000000a2").matches(&event()));
        let reason = |r: &str| Filter { reason: vec![r.into()], ..Filter::default() };
        assert!(reason("low_port").matches(&event()));
        assert!(!reason("third_host").matches(&event()));
        let both = Filter { event: vec![Kind::Refused], reason: vec!["third_host".into()], ..Filter::default() };
        assert!(!both.matches(&event()));
    }

    #[test]
    fn a_connection_of_no_session_has_ends_too() {
        let connection = Connection {
            from: "203.0.113.66:5000".parse().unwrap(),
            to: "198.51.100.5:50069".parse().unwrap(),
            bytes_out: None,
            bytes_back: None,
            duration_ms: None,
            dropped: Some(true),
        };
        let denied = Event {
            event: Kind::Denied,
            session: None,
            client: None,
            server: None,
            connection: Some(connection),
            ..event()
        };
        assert!(Filter { client: vec!["203.0.113.66/32".parse().unwrap()], ..Filter::default() }.matches(&denied));
        assert!(!Filter { session: vec!["1".into()], ..Filter::default() }.matches(&denied));
    }
}
