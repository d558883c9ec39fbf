//! Whether a connection would be let through now: the question and the answer of `ftp-helper why`.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::PinholeRow;

/// The connection that is asked about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Asked {
    /// Who would connect.
    pub from: IpAddr,
    /// From which port, if that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from_port: Option<u16>,
    /// Where to.
    pub to: SocketAddr,
}

/// What would become of it, and why.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Why {
    /// The connection.
    #[serde(flatten)]
    pub asked: Asked,
    /// What its first SYN would get.
    pub verdict: Verdict,
    /// `observe`, which lets through what it would deny otherwise, `drop`, or `mark`.
    pub mode: String,
    /// The destination is a control port: those are never guarded.
    pub control_port: bool,
    /// The guards that cover it; none if nobody guards that port.
    pub guards: Vec<Guarded>,
    /// Pinholes that would fit but for the initiator or the port.
    pub near: Vec<PinholeRow>,
}

/// What a first SYN gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is let through.
    Allowed,
    /// It is dropped.
    Denied,
    /// It passes without the mark, and the ruleset decides (mode `mark`).
    Unmarked,
}

/// A guard that covers the connection, and what it makes of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Guarded {
    /// Its place among the guards of the configuration, from 1.
    pub guard: usize,
    /// `in` or `out`.
    pub direction: String,
    /// Why nothing lets it through; absent if something does.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// The range of ports, such as `40000-50000`, that lets it through since its hosts have an encrypted session.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub range: Option<String>,
    /// The pinhole for it, as far as the daemon has read of it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pinhole: Option<PinholeRow>,
}
