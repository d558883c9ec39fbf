//! What the daemon tells about itself.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use crate::event::{NegotiatedBy, Pinhole};

/// What is going on: `ftp-helper status`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// `observe` or `drop`.
    pub mode: String,
    /// The configuration file.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub config: Option<PathBuf>,
    /// Milliseconds since the daemon started.
    pub uptime_ms: u64,
    /// Interfaces that it is attached to.
    pub interfaces: Vec<Interface>,
    /// Configured names and patterns that no interface matches now.
    #[serde(default)]
    pub waiting_for: Vec<String>,
    /// Sessions.
    pub sessions: Gauge,
    /// Unconsumed pinholes.
    pub pinholes: Gauge,
    /// Data connections that are running.
    pub data_connections: Gauge,
    /// The daemon's sign of life, as the kernel sees it.
    pub heartbeat: Heartbeat,
    /// The kernel's counters by name.
    pub counters: BTreeMap<String, u64>,
    /// The kernel's counters by reason; only those that are not 0.
    pub reasons: BTreeMap<String, u64>,
    /// The engine's counters by name.
    pub engine: BTreeMap<String, u64>,
    /// The sets of nftables that are fed, if any are.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub nftables: Option<FedSets>,
    /// Connections without a pinhole by destination port, the most frequent first.
    pub denied: Vec<DeniedPort>,
}

/// Sets of nftables that are fed with an element for each unconsumed pinhole.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FedSets {
    /// Family and name of their table.
    pub table: String,
    /// Elements now.
    pub elements: u64,
    /// Elements that were added.
    pub added: u64,
    /// Elements that were removed before their time.
    pub removed: u64,
    /// Changes that the kernel refused, or that were lost because too many were waiting.
    pub failed: u64,
}

/// An interface that the kernel side is attached to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// How it is attached.
    pub hook: HookKind,
    /// What its frames begin with.
    pub link: LinkType,
    /// Where its shield in XDP is; absent without one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub shield: Option<ShieldKind>,
}

/// Where the shield in XDP is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShieldKind {
    /// In the driver.
    Native,
    /// In the stack, before TC.
    Generic,
}

/// How the kernel side is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookKind {
    /// A TCX link (Linux 6.6 and later).
    Tcx,
    /// Filters on the clsact qdisc.
    Clsact,
}

/// What the frames of an interface begin with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkType {
    /// An Ethernet header.
    Ethernet,
    /// The IP header.
    RawIp,
}

/// How much of a table is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Gauge {
    /// Entries now.
    pub live: u64,
    /// Entries at most.
    pub limit: u64,
}

/// The daemon's sign of life, as the kernel sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Milliseconds since the last.
    pub age_ms: u64,
    /// From this age on the kernel takes the daemon for gone.
    pub stale_after_ms: u64,
}

/// Connections without a pinhole to one destination port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeniedPort {
    /// The port.
    pub port: u16,
    /// Connections that `observe` passed and `drop` would have denied.
    pub would_be_denied: u64,
    /// Connections that were denied.
    pub denied: u64,
}

/// A session: a row of `ftp-helper sessions`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Session {
    /// Its id, sixteen hexadecimal digits.
    pub session: String,
    /// The control connection's client.
    pub client: SocketAddr,
    /// The control connection's server.
    pub server: SocketAddr,
    /// The address that the end inside has there, where that is another.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub inside: Option<IpAddr>,
    /// How far it is.
    pub state: Standing,
    /// Whether the kernel follows the dialogue by itself.
    pub sighted: bool,
    /// Why it is blind, tainted, killed or opaque.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// Milliseconds since it began, as far as known.
    pub age_ms: u64,
    /// Milliseconds since its last segment.
    pub idle_ms: u64,
    /// Its unconsumed pinhole.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pinhole: Option<Pinhole>,
    /// Data connections that are running.
    pub data_connections: u32,
    /// Data connections that have ended.
    pub transfers: u64,
    /// Payload bytes of those, both ways.
    pub bytes: u64,
}

/// How far a session is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// The client has not logged in yet.
    Login,
    /// It has.
    LoggedIn,
    /// Nothing may be opened any more.
    Tainted,
    /// And its control packets are dropped.
    Killed,
    /// It is encrypted.
    Opaque,
    /// Its end was seen.
    Closing,
}

/// A pinhole: a row of `ftp-helper pinholes`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PinholeRow {
    /// The session that it belongs to; absent where an operator has added it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub session: Option<String>,
    /// Its own id, where an operator has added it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub added: Option<String>,
    /// The control connection's client.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub client: Option<SocketAddr>,
    /// The control connection's server.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub server: Option<SocketAddr>,
    /// Where the responder waits inside, where that is translated.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub inside: Option<SocketAddr>,
    /// The user who has added it, as far as this daemon knows.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub uid: Option<u32>,
    /// What that user has given as the reason.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub note: Option<String>,
    /// The pinhole.
    #[serde(flatten)]
    pub pinhole: Pinhole,
}

impl PinholeRow {
    /// What it is called by: its session's id, or its own.
    pub fn id(&self) -> Option<&str> {
        self.session.as_deref().or(self.added.as_deref())
    }
}

/// A data connection that is running.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConnectionRow {
    /// The session that negotiated it; absent where an operator has added its pinhole.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub session: Option<String>,
    /// The id of the pinhole that an operator has added.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub added: Option<String>,
    /// The control connection's client, as far as known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub client: Option<SocketAddr>,
    /// The control connection's server, as far as known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub server: Option<SocketAddr>,
    /// How it was negotiated.
    pub mode: NegotiatedBy,
    /// Where its SYN came from.
    pub initiator: SocketAddr,
    /// Where it went.
    pub responder: SocketAddr,
    /// Payload bytes that the initiator has sent, as far as the kernel has looked: it looks once in each mebibyte.
    pub bytes_out: u64,
    /// The same of the responder.
    pub bytes_back: u64,
    /// Bytes a second, both ways together, from its beginning to when the kernel last looked.
    pub rate: u64,
    /// Milliseconds since it began.
    pub age_ms: u64,
    /// Milliseconds since the kernel last looked.
    pub seen_ms: u64,
}

/// What a reload did.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ReloadReport {
    /// What changed, in words; empty if nothing did.
    pub changed: Vec<String>,
    /// What is new in the file and needs a restart.
    pub needs_restart: Vec<String>,
}
