//! The control socket: how the commands talk to the daemon.
//!
//! A unix stream socket; one JSON object a line each way. The client sends a [`Request`] in a [`Versioned`] envelope, the
//! daemon answers with one or more [`Response`]s. A list comes as one line a row and ends with [`Response::End`], so
//! that no table, however long, has to fit into one line. Who may ask is decided by the credentials of the peer
//! ([`access`]), not by the socket's mode.

pub mod access;
mod act;
pub mod client;
mod filter;
mod history;
mod model;
pub mod server;
pub mod socket;
mod story;
#[cfg(test)]
mod tests;
mod why;

use serde::{Deserialize, Serialize};

use self::access::Right;
pub use self::{
    act::{Direction, NOTE_MAX, PinholeAdd, PinholeFilter, Selector, check_note},
    filter::{Filter, Not},
    history::History,
    model::{
        ConnectionRow, DeniedPort, FedSets, Gauge, Heartbeat, HookKind, Interface, LinkType, PinholeRow, ReloadReport,
        Session, ShieldKind, Standing, Status,
    },
    server::read_request,
    story::{Speaker, Story, StoryHead, StoryLine},
    why::{Asked, Guarded, Verdict, Why},
};
use crate::event::Event;

/// Version of the protocol. A peer of another version is refused, never guessed at.
pub const VERSION: u8 = 1;

/// A request line holds this many bytes at most, its line feed included.
pub const REQUEST_MAX: usize = 16 * 1024;

/// A response line holds this many bytes at most, its line feed included.
pub const RESPONSE_MAX: usize = 4 << 20;

/// Something with the version of the protocol in front.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Versioned<T> {
    /// [`VERSION`].
    pub v: u8,
    /// The thing itself.
    #[serde(flatten)]
    pub body: T,
}

impl<T> Versioned<T> {
    /// Of this version.
    pub fn new(body: T) -> Self {
        Self { v: VERSION, body }
    }
}

/// What may be asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Answered by [`Response::Status`].
    Status,
    /// Answered by [`Response::Session`]s and [`Response::End`].
    Sessions,
    /// Answered by [`Response::Pinhole`]s and [`Response::End`].
    Pinholes,
    /// The data connections that are running; answered by [`Response::Connection`]s and [`Response::End`].
    Connections,
    /// What was said in a session and what came of it; answered by [`Response::Story`], [`Response::Line`]s and
    /// [`Response::End`]. The daemon keeps the stories of sessions that are over for a while.
    Story {
        /// The session's id.
        session: String,
    },
    /// Whether a connection would be let through; answered by [`Response::Why`].
    Why(Asked),
    /// Answered by [`Response::Observing`], then [`Response::Event`]s and [`Response::Lagged`], and [`Response::End`]
    /// unless it follows.
    Observe {
        /// Which events.
        #[serde(default)]
        filter: Filter,
        /// Go on with what happens from now on, until the client hangs up.
        #[serde(default)]
        follow: bool,
        /// Begin with this many of the events that the daemon still remembers.
        #[serde(default)]
        last: usize,
    },
    /// Read the configuration again; answered by [`Response::Reloaded`]. Needs the right to change.
    Reload,
    /// Add a pinhole; answered by [`Response::Pinhole`]. Needs the right to change, as all that follow.
    PinholeAdd(PinholeAdd),
    /// Take back one pinhole; answered by the [`Response::Pinhole`] that it was.
    PinholeDelete {
        /// Which.
        selector: Selector,
        /// Why, for those who read the events.
        reason: String,
    },
    /// Take back pinholes; answered by [`Response::Pinhole`]s, those that they were, and [`Response::End`].
    PinholesFlush {
        /// Which; all of them without it.
        #[serde(default)]
        filter: PinholeFilter,
        /// Why, for those who read the events.
        reason: String,
    },
    /// Kill a session: it opens nothing any more, and its further packets are dropped, except in mode `observe`. Answered by
    /// the [`Response::Session`] as it is then.
    SessionKill {
        /// The session's id.
        session: String,
        /// Why, for those who read the events.
        reason: String,
    },
}

impl Request {
    /// What it needs.
    pub fn right(&self) -> Right {
        match self {
            Self::Status
            | Self::Sessions
            | Self::Pinholes
            | Self::Connections
            | Self::Story { .. }
            | Self::Why(_)
            | Self::Observe { .. } => Right::Read,
            Self::Reload
            | Self::PinholeAdd(_)
            | Self::PinholeDelete { .. }
            | Self::PinholesFlush { .. }
            | Self::SessionKill { .. } => Right::Write,
        }
    }

    /// What is wrong with it, whoever asks.
    ///
    /// # Errors
    /// Something is: the message.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::PinholeAdd(PinholeAdd { reason, .. })
            | Self::PinholeDelete { reason, .. }
            | Self::PinholesFlush { reason, .. }
            | Self::SessionKill { reason, .. } => check_note(reason),
            _ => Ok(()),
        }
    }
}

/// What is answered.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "response", content = "data", rename_all = "snake_case")]
pub enum Response {
    /// What is going on.
    Status(Box<Status>),
    /// A session.
    Session(Box<Session>),
    /// A pinhole.
    Pinhole(Box<PinholeRow>),
    /// A data connection.
    Connection(Box<ConnectionRow>),
    /// Whose story follows.
    Story(Box<StoryHead>),
    /// A line of the story.
    Line(Box<StoryLine>),
    /// Whether the connection would be let through.
    Why(Box<Why>),
    /// From here on no event is missed.
    Observing,
    /// An event.
    Event(Box<Event>),
    /// This many events were left out since the reader is too slow; whether they passed the filter is not known.
    Lagged {
        /// How many.
        missed: u64,
    },
    /// The configuration was read again.
    Reloaded(ReloadReport),
    /// There is no more.
    End,
    /// It was not done.
    Error {
        /// What kind of error.
        kind: ErrorKind,
        /// What is wrong and what to do about it.
        message: String,
    },
}

/// Why something was not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The peer may not do this.
    NoPermission,
    /// The request can't be understood.
    BadRequest,
    /// There are too many connections.
    Busy,
    /// What it is about is not there, or not any more.
    NotFound,
    /// The policy does not allow it.
    Refused,
    /// It was tried and failed.
    Failed,
}

#[cfg(test)]
mod format_tests {
    use super::*;

    #[test]
    fn the_wire_format_is_what_is_documented() {
        let line = serde_json::to_string(&Versioned::new(Request::Status)).unwrap();
        assert_eq!(line, r#"{"v":1,"request":"status"}"#);
        let request: Versioned<Request> = serde_json::from_str(r#"{"v":1,"request":"observe","follow":true}"#).unwrap();
        assert_eq!(request.body, Request::Observe { filter: Filter::default(), follow: true, last: 0 });
        let line = serde_json::to_string(&Versioned::new(Response::Lagged { missed: 3 })).unwrap();
        assert_eq!(line, r#"{"v":1,"response":"lagged","data":{"missed":3}}"#);
        assert_eq!(serde_json::to_string(&Versioned::new(Response::End)).unwrap(), r#"{"v":1,"response":"end"}"#);
    }
}
