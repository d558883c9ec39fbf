//! What is allowed: the policy, as the configuration produces it and the engine applies it.

use std::{collections::BTreeSet, net::IpAddr, ops::RangeInclusive, time::Duration};

use ftp_helper_common::{addr::Addr, policy as kernel, state::pending};
use ipnet::IpNet;

/// Everything that decides about a pinhole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// What happens to what is not allowed.
    pub mode: Mode,
    /// What mode `mark` sets and clears.
    pub mark: Mark,
    /// What the kernel side does when the daemon is gone.
    pub on_daemon_loss: OnDaemonLoss,
    /// Allowed ways to negotiate.
    pub modes: Modes,
    /// May an outside server connect in to an inside client.
    pub active_inbound: bool,
    /// When PORT and EPRT open.
    pub active_open: ActiveOpen,
    /// Which source port active data connections must have.
    pub active_source_port: SourcePort,
    /// Ports that are never a data port.
    pub deny_ports: BTreeSet<u16>,
    /// Ports that speak FTP; never a data port either.
    pub control_ports: BTreeSet<u16>,
    /// How lines must end.
    pub line_endings: LineEndings,
    /// What is known about single servers; the first match counts.
    pub servers: Vec<Server>,
    /// How long an unconsumed pinhole lives.
    pub pinhole_timeout: Duration,
    /// Unconsumed pinholes of one client (IPv4 address, IPv6 /64).
    pub per_client: u32,
    /// Limits of the session table.
    pub limits: Limits,
    /// Address translation, if data connections are to be translated.
    pub nat: Option<Nat>,
}

/// What happens to what is not allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Nothing is dropped; what would be is counted and told.
    Observe,
    /// It is dropped.
    Drop,
    /// It passes without the mark, and the administrator's ruleset decides; what is wrong with a control connection is
    /// dropped as in `Drop`.
    Mark,
}

/// What mode `mark` makes of a packet's mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    /// The bits of what is permitted; within the mask, and not zero.
    pub value: u32,
    /// The bits that are ours.
    pub mask: u32,
}

impl Default for Mark {
    fn default() -> Self {
        Self { value: 0x0f00_0000, mask: 0x0f00_0000 }
    }
}

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#010x}/{:#010x}", self.value, self.mask)
    }
}

/// What the kernel side does when the daemon is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnDaemonLoss {
    /// It goes on by the last policy.
    Continue,
    /// It opens nothing.
    Close,
}

/// A set of ways to negotiate: bits `1 << pending::PASV` and so on, as in the kernel's policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Modes(pub u8);

/// When PORT and EPRT open, see [`kernel::active_open`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ActiveOpen {
    /// At the command towards outside, at the reply towards inside.
    Auto = kernel::active_open::AUTO,
    /// At the command; towards inside still not before the reply (rule 1).
    Command = kernel::active_open::COMMAND,
    /// At the server's 200.
    Reply = kernel::active_open::REPLY,
    /// At the transfer command after the server's 200.
    Transfer = kernel::active_open::TRANSFER,
}

/// Which source port active data connections must have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SourcePort {
    /// Any.
    Any,
    /// 20 (RFC 959 section 3.2: L-1).
    Twenty,
}

/// How lines must end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LineEndings {
    /// In CRLF; anything else taints.
    Crlf,
    /// A bare LF ends a line too, but such a line opens nothing.
    Lenient,
}

/// How the data connections of translated hosts are translated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Nat {
    /// Public ports for the data connections of inside clients in active mode; none below 1024.
    pub active_ports: RangeInclusive<u16>,
}

impl Default for Nat {
    fn default() -> Self {
        Self { active_ports: 61000..=61999 }
    }
}

/// What is known about one server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Server {
    /// Its addresses.
    pub networks: Vec<IpNet>,
    /// Ports that its passive mode may announce.
    pub passive_ports: Option<RangeInclusive<u16>>,
    /// What an encrypted session opens.
    pub opaque: Opaque,
}

/// What an encrypted session opens.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Opaque {
    /// Nothing.
    #[default]
    Deny,
    /// The server's passive ports to the session's client, while the session lives.
    Range,
}

impl Server {
    /// The range that its encrypted sessions open.
    pub fn opaque_range(&self) -> Option<RangeInclusive<u16>> {
        self.passive_ports.clone().filter(|_| self.opaque == Opaque::Range)
    }
}

/// Limits of the session table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Sessions at most.
    pub sessions: u32,
    /// How long a client may take to log in.
    pub login: Duration,
    /// How long a session may be silent that has no running data connection.
    pub idle: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Mode::Observe,
            mark: Mark::default(),
            on_daemon_loss: OnDaemonLoss::Continue,
            modes: Modes::ALL,
            active_inbound: false,
            active_open: ActiveOpen::Auto,
            active_source_port: SourcePort::Any,
            deny_ports: BTreeSet::new(),
            control_ports: BTreeSet::from([21]),
            line_endings: LineEndings::Crlf,
            servers: Vec::new(),
            pinhole_timeout: Duration::from_secs(10),
            per_client: 64,
            limits: Limits::default(),
            nat: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { sessions: 65536, login: Duration::from_secs(120), idle: Duration::from_secs(3600) }
    }
}

impl Modes {
    /// No way at all.
    pub const NONE: Self = Self(0);
    /// PASV, EPSV, PORT and EPRT.
    pub const ALL: Self = Self(1 << pending::PASV | 1 << pending::EPSV | 1 << pending::PORT | 1 << pending::EPRT);

    /// Whether `mode` (`pending::PASV`, `EPSV`, `PORT` or `EPRT`) is allowed.
    pub const fn allows(self, mode: u8) -> bool {
        self.0 & (1 << mode) != 0
    }
}

impl Policy {
    /// The passive range of a server, where one is set.
    pub fn passive_range(&self, server: Addr) -> Option<RangeInclusive<u16>> {
        self.server(server)?.passive_ports.clone()
    }

    /// The range that encrypted sessions of a server open, where the administrator wants that and passive mode is
    /// allowed at all.
    pub fn opaque_range(&self, server: Addr) -> Option<RangeInclusive<u16>> {
        self.server(server)?.opaque_range().filter(|_| self.allows_passive())
    }

    /// Whether encrypted sessions of any server open anything.
    pub fn opens_ranges(&self) -> bool {
        self.allows_passive() && self.servers.iter().any(|s| s.opaque_range().is_some())
    }

    fn allows_passive(&self) -> bool {
        self.modes.allows(pending::PASV) || self.modes.allows(pending::EPSV)
    }

    fn server(&self, server: Addr) -> Option<&Server> {
        let ip: IpAddr = server.to_ip();
        self.servers.iter().find(|s| s.networks.iter().any(|n| n.contains(&ip)))
    }
}
