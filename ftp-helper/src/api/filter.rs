//! Which events an observer wants.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::event::{Event, Kind, NegotiatedBy, Timestamp};

/// Which events: those that fit one value of each list. An empty list fits everything.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// Kinds of events.
    pub event: Vec<Kind>,
    /// Networks of the client; for a connection that belongs to no session, of where it came from, and for an added pinhole,
    /// of who may connect.
    pub client: Vec<IpNet>,
    /// Networks of the server; for a connection that belongs to no session, of where it went, and for an added pinhole, of
    /// whom to.
    pub server: Vec<IpNet>,
    /// Ids of sessions, or of added pinholes.
    pub session: Vec<String>,
    /// Names of reasons.
    pub reason: Vec<String>,
    /// How the pinhole was negotiated that it is about.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mode: Vec<NegotiatedBy>,
    /// Only what happened then or later: a time as in events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// And none of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not: Vec<Not>,
}

/// Events that are not wanted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Not {
    /// Those of this kind.
    Event(Kind),
    /// Those of clients in this network.
    Client(IpNet),
    /// Those of servers in this network.
    Server(IpNet),
    /// Those of this session.
    Session(String),
    /// Those with this reason.
    Reason(String),
    /// Those about a pinhole that was negotiated so.
    Mode(NegotiatedBy),
}

impl Filter {
    /// Whether the event is wanted.
    pub fn matches(&self, event: &Event) -> bool {
        let Self { event: kinds, client, server, session, reason, mode, since, not } = self;
        any(kinds, |k| is_kind(event, *k))
            && any(client, |n| is_of_client(event, n))
            && any(server, |n| is_of_server(event, n))
            && any(session, |s| is_of_session(event, s))
            && any(reason, |r| has_reason(event, r))
            && any(mode, |m| has_mode(event, *m))
            && since.is_none_or(|since| event.ts >= since)
            && !not.iter().any(|not| not.matches(event))
    }
}

impl Not {
    fn matches(&self, event: &Event) -> bool {
        match self {
            Self::Event(kind) => is_kind(event, *kind),
            Self::Client(net) => is_of_client(event, net),
            Self::Server(net) => is_of_server(event, net),
            Self::Session(id) => is_of_session(event, id),
            Self::Reason(name) => has_reason(event, name),
            Self::Mode(mode) => has_mode(event, *mode),
        }
    }
}

fn any<T>(wanted: &[T], fits: impl Fn(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(fits)
}

fn is_kind(event: &Event, kind: Kind) -> bool {
    event.event == kind
}

fn is_of_client(event: &Event, net: &IpNet) -> bool {
    let of_connection = event.connection.as_ref().map(|c| c.from.ip());
    let from = event.client.map(|c| c.ip()).or(of_connection).or(event.pinhole.as_ref().map(|p| p.initiator));
    from.is_some_and(|a: IpAddr| net.contains(&a))
}

fn is_of_server(event: &Event, net: &IpNet) -> bool {
    let of_connection = event.connection.as_ref().map(|c| c.to.ip());
    let to = event.server.map(|s| s.ip()).or(of_connection).or(event.pinhole.as_ref().map(|p| p.responder));
    to.is_some_and(|a: IpAddr| net.contains(&a))
}

fn is_of_session(event: &Event, id: &str) -> bool {
    event.owner().is_some_and(|owner| id.parse() == Ok(owner))
}

fn has_reason(event: &Event, name: &str) -> bool {
    event.reason.is_some_and(|r| r.as_str() == name)
}

fn has_mode(event: &Event, mode: NegotiatedBy) -> bool {
    event.pinhole.as_ref().is_some_and(|p| p.mode == mode)
}

#[cfg(test)]
mod tests {
    use ftp_helper_common::reason::Reason;

    use super::*;
    use crate::event::{Connection, SessionId};

    fn event() -> Event {
        Event {
            v: 1,
            ts: "2026-01-01T00:00:00.000000Z".parse().unwrap(),
            event: Kind::Refused,
            session: Some(SessionId(0xa1)),
            client: Some("192.0.2.10:40000".parse().unwrap()),
            server: Some("198.51.100.5:21".parse().unwrap()),
            reason: Some(Reason::LowPort),
            pinhole: None,
            connection: None,
            added: None,
            by: None,
            uid: None,
            note: None,
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
    fn what_is_not_wanted_is_left_out() {
        let not = |not: Not| Filter { not: vec![Not::Event(Kind::Opened), not], ..Filter::default() };
        for fits in [
            Not::Event(Kind::Refused),
            Not::Client("192.0.2.0/24".parse().unwrap()),
            Not::Server("198.51.100.5/32".parse().unwrap()),
            Not::Session("00000000000000a1".into()),
            Not::Reason("low_port".into()),
        ] {
            assert!(!not(fits.clone()).matches(&event()), "{fits:?}");
        }
        for other in [
            Not::Event(Kind::Denied),
            Not::Client("198.51.100.0/24".parse().unwrap()),
            Not::Server("192.0.2.10/32".parse().unwrap()),
            Not::Session("00000000000000a2".into()),
            Not::Reason("third_host".into()),
            Not::Mode(NegotiatedBy::Pasv),
        ] {
            assert!(not(other.clone()).matches(&event()), "{other:?}");
        }
    }

    #[test]
    fn time_and_mode() {
        let since = |t: &str| Filter { since: Some(t.parse().unwrap()), ..Filter::default() };
        assert!(since("2026-01-01T00:00:00.000000Z").matches(&event()));
        assert!(!since("2026-01-01T00:00:00.000001Z").matches(&event()));
        assert!(serde_json::from_str::<Filter>(r#"{"since":"2026-01-01T00:00:00.000000Z"}"#).is_ok());
        for wrong in ["yesterday", "2026-01-01T00:00:00Z", "2026-01-01 00:00:00.000000"] {
            let said = serde_json::from_str::<Filter>(&format!(r#"{{"since":"{wrong}"}}"#)).unwrap_err().to_string();
            assert!(said.contains(&format!("{wrong:?} is no time as in events")), "{said}");
        }
        let pinhole = crate::event::Pinhole {
            mode: NegotiatedBy::Added,
            initiator: "203.0.113.66".parse().unwrap(),
            responder: "198.51.100.5".parse().unwrap(),
            port: 50069,
            state: crate::event::PinholeState::Confirmed,
            expires_in_ms: 0,
        };
        let added = Event {
            session: None,
            added: Some(SessionId(0x8000_0000_0000_0001)),
            client: None,
            server: None,
            pinhole: Some(pinhole),
            ..event()
        };
        let mode = |m| Filter { mode: vec![m], ..Filter::default() };
        assert!(mode(NegotiatedBy::Added).matches(&added));
        assert!(!mode(NegotiatedBy::Pasv).matches(&added) && !mode(NegotiatedBy::Added).matches(&event()));
        assert!(Filter { session: vec!["8000000000000001".into()], ..Filter::default() }.matches(&added));
        assert!(Filter { client: vec!["203.0.113.66/32".parse().unwrap()], ..Filter::default() }.matches(&added));
        assert!(Filter { server: vec!["198.51.100.5/32".parse().unwrap()], ..Filter::default() }.matches(&added));
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
