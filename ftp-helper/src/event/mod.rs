//! Events: what is told to people and programs, one JSON object a line.
//!
//! The engine makes them, the daemon and `replay` print them, the control socket carries them. The format is documented
//! in `docs/events.md`.

mod values;

use std::net::{IpAddr, SocketAddr};

use ftp_helper_common::reason::Reason;
use serde::{Deserialize, Serialize, Serializer, de};

pub use self::values::{NotATimestamp, NotAnId, SessionId, Timestamp};

/// Something that happened to a session, a pinhole or a connection.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Version of this format: 1.
    pub v: u8,
    /// When, RFC 3339 in UTC with microseconds.
    pub ts: Timestamp,
    /// What.
    pub event: Kind,
    /// The session's id, sixteen hexadecimal digits; absent where a connection belongs to none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub session: Option<SessionId>,
    /// The control connection's client.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub client: Option<SocketAddr>,
    /// The control connection's server.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub server: Option<SocketAddr>,
    /// Why, where something was refused, denied, revoked, or ended.
    #[serde(skip_serializing_if = "Option::is_none", default, with = "reason_name")]
    pub reason: Option<Reason>,
    /// The pinhole that it is about.
    #[serde(flatten, skip_serializing_if = "Option::is_none", default)]
    pub pinhole: Option<Pinhole>,
    /// The id of the pinhole that it is about, where an operator has added that; it belongs to no session.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub added: Option<SessionId>,
    /// The connection that it is about (`used`, `denied`, `data_end`).
    #[serde(flatten, skip_serializing_if = "Option::is_none", default)]
    pub connection: Option<Connection>,
    /// Who opened the pinhole (`opened`).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub by: Option<By>,
    /// The user who has asked for it, where an operator has.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub uid: Option<u32>,
    /// What that user has given as the reason.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub note: Option<String>,
    /// More, for people.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A control connection is followed from now on.
    SessionStart,
    /// A pinhole opened.
    Opened,
    /// The daemon has vouched for a pinhole of the fast path.
    Confirmed,
    /// A data connection went through a pinhole.
    Used,
    /// A pinhole's time ran out.
    Expired,
    /// A pinhole was taken back.
    Revoked,
    /// An announcement opened nothing.
    Refused,
    /// A connection without a pinhole was dropped, or would have been.
    Denied,
    /// The session may open nothing any more.
    Tainted,
    /// And its control packets are dropped.
    Killed,
    /// The session is encrypted.
    Opaque,
    /// A data connection ended.
    DataEnd,
    /// A control connection is not followed any more, or never was.
    SessionEnd,
}

impl Kind {
    /// Every kind, in the order of the reference page.
    pub const ALL: &[Self] = &[
        Self::SessionStart,
        Self::Opened,
        Self::Confirmed,
        Self::Used,
        Self::Expired,
        Self::Revoked,
        Self::Refused,
        Self::Denied,
        Self::Tainted,
        Self::Killed,
        Self::Opaque,
        Self::DataEnd,
        Self::SessionEnd,
    ];

    /// The name in events, filters and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SessionStart => "session_start",
            Self::Opened => "opened",
            Self::Confirmed => "confirmed",
            Self::Used => "used",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Refused => "refused",
            Self::Denied => "denied",
            Self::Tainted => "tainted",
            Self::Killed => "killed",
            Self::Opaque => "opaque",
            Self::DataEnd => "data_end",
            Self::SessionEnd => "session_end",
        }
    }
}

/// A pinhole, in events and in `pinholes`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pinhole {
    /// How it was negotiated: `pasv`, `epsv`, `port` or `eprt`; `range` for a data connection of an encrypted session;
    /// `added` where an operator has added it.
    pub mode: NegotiatedBy,
    /// Who may connect.
    pub initiator: IpAddr,
    /// To whom.
    pub responder: IpAddr,
    /// To which port.
    pub port: u16,
    /// How far it is.
    pub state: PinholeState,
    /// Milliseconds until it is gone; 0 where it is gone or used.
    pub expires_in_ms: u64,
}

/// How a pinhole was negotiated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NegotiatedBy {
    /// PASV and 227 (RFC 959).
    Pasv,
    /// EPSV and 229 (RFC 2428).
    Epsv,
    /// PORT (RFC 959).
    Port,
    /// EPRT (RFC 2428).
    Eprt,
    /// Not at all: an encrypted session's data connection, in the range of its server.
    Range,
    /// Not at all: an operator has added it.
    Added,
}

/// How far a pinhole is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PinholeState {
    /// The fast path opened it; the daemon has not judged it yet.
    Provisional,
    /// The daemon opened it or vouched for it.
    Confirmed,
    /// A connection holds it.
    Bound,
}

/// A data connection, or an attempt at one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Connection {
    /// Where the SYN came from.
    pub from: SocketAddr,
    /// Where it went.
    pub to: SocketAddr,
    /// Payload bytes that the initiator sent (`data_end`).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes_out: Option<u64>,
    /// Payload bytes that the responder sent (`data_end`).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes_back: Option<u64>,
    /// How long it lasted (`data_end`).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub duration_ms: Option<u64>,
    /// Whether it was dropped (`denied`): false in `observe`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dropped: Option<bool>,
}

/// Who opened a pinhole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The fast path, before the announcement went on.
    Kernel,
    /// The daemon.
    Daemon,
    /// The daemon, since an operator has asked for it.
    Operator,
}

impl Event {
    /// The version of the format.
    pub const VERSION: u8 = 1;

    /// Something that happened `wall` nanoseconds after 1970-01-01 UTC, about nothing in particular yet.
    pub fn new(event: Kind, wall: u64) -> Self {
        Self {
            v: Self::VERSION,
            ts: Timestamp::from_wall(wall),
            event,
            session: None,
            client: None,
            server: None,
            reason: None,
            pinhole: None,
            added: None,
            connection: None,
            by: None,
            uid: None,
            note: None,
            detail: None,
        }
    }

    /// The same about a session.
    pub fn of_session(self, id: u64, client: SocketAddr, server: SocketAddr) -> Self {
        Self { session: Some(SessionId(id)), client: Some(client), server: Some(server), ..self }
    }

    /// The id of the session or of the added pinhole that it is about.
    pub fn owner(&self) -> Option<SessionId> {
        self.session.or(self.added)
    }

    /// The same with a reason.
    pub fn because(self, reason: Reason) -> Self {
        Self { reason: Some(reason), ..self }
    }
}

impl Connection {
    /// A connection of which only the two ends are known.
    pub fn new(from: SocketAddr, to: SocketAddr) -> Self {
        Self { from, to, bytes_out: None, bytes_back: None, duration_ms: None, dropped: None }
    }
}

/// A reason travels by its name.
mod reason_name {
    use super::*;

    pub(super) fn serialize<S: Serializer>(reason: &Option<Reason>, s: S) -> Result<S::Ok, S::Error> {
        reason.map(Reason::as_str).serialize(s)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Reason>, D::Error> {
        let Some(name) = Option::<String>::deserialize(d)? else { return Ok(None) };
        Reason::from_name(&name).map(Some).ok_or_else(|| de::Error::custom(format!("unknown reason {name:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_the_name_that_it_is_written_by() {
        for (i, kind) in Kind::ALL.iter().enumerate() {
            // The order is that of the declaration, so that none is left out in between.
            assert_eq!(*kind as usize, i);
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }

    #[test]
    fn an_event_is_one_flat_object_and_reads_back() {
        let from: SocketAddr = "192.0.2.10:40000".parse().unwrap();
        let to: SocketAddr = "198.51.100.5:50069".parse().unwrap();
        let pinhole = Pinhole {
            mode: NegotiatedBy::Pasv,
            initiator: from.ip(),
            responder: to.ip(),
            port: 50069,
            state: PinholeState::Bound,
            expires_in_ms: 0,
        };
        let event = Event {
            pinhole: Some(pinhole),
            connection: Some(Connection { bytes_out: Some(5), ..Connection::new(from, to) }),
            by: Some(By::Kernel),
            ..Event::new(Kind::DataEnd, 1_700_000_000_123_456_789).of_session(255, from, to).because(Reason::Reset)
        };
        let text = serde_json::to_string(&event).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["v"], 1);
        assert_eq!(value["ts"], "2023-11-14T22:13:20.123456Z");
        assert_eq!(value["session"], "00000000000000ff");
        assert_eq!((&value["mode"], &value["from"]), (&"pasv".into(), &"192.0.2.10:40000".into()));
        assert_eq!((&value["reason"], &value["by"]), (&"reset".into(), &"kernel".into()));
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
        let bare = Event::new(Kind::SessionEnd, 0);
        let text = serde_json::to_string(&bare).unwrap();
        assert_eq!(text, r#"{"v":1,"ts":"1970-01-01T00:00:00.000000Z","event":"session_end"}"#);
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), bare);
    }
}
