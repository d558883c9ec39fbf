//! The control socket: how the commands talk to the daemon.
//!
//! A unix stream socket; one JSON object a line each way. The client sends a [`Request`] in a [`Versioned`] envelope, the
//! daemon answers with one or more [`Response`]s. A list comes as one line a row and ends with [`Response::End`], so
//! that no table, however long, has to fit into one line. Who may ask is decided by the credentials of the peer
//! ([`access`]), not by the socket's mode.

pub mod access;
pub mod client;
mod filter;
mod history;
mod model;
pub mod server;
pub mod socket;
#[cfg(test)]
mod tests;
mod why;

use serde::{Deserialize, Serialize};

pub use self::{
    filter::Filter,
    model::{
        DeniedPort, FedSets, Gauge, Heartbeat, HookKind, Interface, LinkType, PinholeRow, ReloadReport, Session,
        ShieldKind, Standing, Status,
    },
    server::read_request,
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
