//! What was said in a session, and what came of it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::event::{Event, Timestamp};

/// A session's story.
#[derive(Clone, PartialEq, Debug)]
pub struct Story {
    /// Whose it is.
    pub head: StoryHead,
    /// What was said and what happened, in the order in which the daemon came to know it.
    pub lines: Vec<StoryLine>,
}

/// Whose story it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StoryHead {
    /// The session's id, sixteen hexadecimal digits.
    pub session: String,
    /// The control connection's client.
    pub client: SocketAddr,
    /// The control connection's server.
    pub server: SocketAddr,
    /// Whether the session is over.
    pub ended: bool,
    /// How many older lines and events are not kept any more.
    pub forgotten: u64,
}

/// A line that one side has said, or an event.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StoryLine {
    /// When the daemon came to know it: RFC 3339, UTC, microseconds.
    pub ts: Timestamp,
    /// Who says so.
    pub from: Speaker,
    /// The line without its ending, what is no printable ASCII as `\xNN`, and a backslash twice. A password is `***`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub text: Option<String>,
    /// The line was longer than what is kept.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub long: bool,
    /// What happened.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub event: Option<Box<Event>>,
}

/// Who says something in a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speaker {
    /// The client.
    Client,
    /// The server.
    Server,
    /// The daemon: an event.
    Daemon,
}
