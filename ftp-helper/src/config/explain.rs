//! What a configuration means, for people and for programs: what `check` prints.

use std::{fmt, net::SocketAddr, ops::RangeInclusive, path::PathBuf};

use ftp_helper_common::state::pending;
use serde::Serialize;

use super::{Config, Direction, Hook, Value};
use crate::engine::policy::{ActiveOpen, LineEndings, Mode, OnDaemonLoss, Opaque, SourcePort};

/// A configuration in words and numbers, defaults filled in. The field names are those of the file.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// `observe`, `drop` or `mark`.
    pub mode: &'static str,
    /// The mark that mode `mark` sets, and that a data connection has which is translated: value and mask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<String>,
    /// `continue` or `close`.
    pub on_daemon_loss: &'static str,
    /// Outside interfaces, names and patterns.
    pub interfaces: Vec<String>,
    /// Ports that speak FTP.
    pub control_ports: Vec<u16>,
    /// `tc` or `xdp+tc`.
    pub hook: Hook,
    /// Where a new connection needs a pinhole.
    pub guards: Vec<GuardExplanation>,
    /// Allowed ways to negotiate.
    pub modes: Vec<&'static str>,
    /// May an outside server connect in to an inside client.
    pub active_inbound: bool,
    /// When PORT and EPRT open.
    pub active_open: &'static str,
    /// `any` or `20`.
    pub active_source_port: &'static str,
    /// Never a data port.
    pub deny_ports: Vec<u16>,
    /// `crlf` or `lenient`.
    pub line_endings: &'static str,
    /// What is known about single servers.
    pub servers: Vec<ServerExplanation>,
    /// How long an unconsumed pinhole lives, milliseconds.
    pub pinhole_timeout_ms: u64,
    /// Unconsumed pinholes of one client.
    pub per_client: u32,
    /// Sessions at most.
    pub sessions: u32,
    /// Time to log in, seconds.
    pub login_s: u64,
    /// Time a session may be silent, seconds.
    pub idle_s: u64,
    /// Size of the ring buffer, bytes.
    pub ring_bytes: u32,
    /// How data connections are translated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nat: Option<NatExplanation>,
    /// The sets of nftables that are fed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nftables: Option<SetsExplanation>,
    /// Path of the control socket.
    pub socket: PathBuf,
    /// Group that may ask.
    pub read_group: String,
    /// Group that may change.
    pub write_group: String,
    /// Where metrics are served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SocketAddr>,
    /// Every key that is in force, and the line that says so, or none where it is the default.
    pub values: Vec<Value>,
    /// What is worth knowing although it is no mistake.
    pub notes: Vec<String>,
}

/// A guard in words.
#[derive(Clone, Debug, Serialize)]
pub struct GuardExplanation {
    /// Which way the first SYN goes.
    pub direction: Direction,
    /// Networks of the responder.
    pub networks: Vec<String>,
    /// Networks of the initiators.
    pub initiators: Vec<String>,
    /// Guarded ports.
    pub ports: String,
    /// Ports of these that are left alone.
    pub except_ports: Vec<String>,
}

/// A server in words.
#[derive(Clone, Debug, Serialize)]
pub struct ServerExplanation {
    /// Its addresses.
    pub address: Vec<String>,
    /// Ports that its passive mode may announce.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passive_ports: Option<String>,
    /// What an encrypted session opens: `deny` or `range`.
    pub opaque: &'static str,
}

/// The translation of addresses in words.
#[derive(Clone, Debug, Serialize)]
pub struct NatExplanation {
    /// Public ports for data connections of inside clients in active mode.
    pub active_ports: String,
}

/// The fed sets in words.
#[derive(Clone, Debug, Serialize)]
pub struct SetsExplanation {
    /// Family and name of the table.
    pub table: String,
    /// The set of IPv4 pinholes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set4: Option<String>,
    /// The set of IPv6 pinholes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set6: Option<String>,
}

impl Config {
    /// What the configuration means.
    pub fn explain(&self) -> Explanation {
        let Self { path, policy, watch, guards, server_interfaces, ring_bytes, nftables, api } = self;
        let modes =
            [(pending::PASV, "pasv"), (pending::EPSV, "epsv"), (pending::PORT, "port"), (pending::EPRT, "eprt")];
        Explanation {
            file: path.clone(),
            mode: match policy.mode {
                Mode::Observe => "observe",
                Mode::Drop => "drop",
                Mode::Mark => "mark",
            },
            mark: (policy.mode == Mode::Mark || policy.nat.is_some()).then(|| policy.mark.to_string()),
            on_daemon_loss: match policy.on_daemon_loss {
                OnDaemonLoss::Continue => "continue",
                OnDaemonLoss::Close => "close",
            },
            interfaces: watch.interfaces.clone(),
            control_ports: watch.control_ports.clone(),
            hook: watch.hook,
            guards: guards
                .iter()
                .map(|g| GuardExplanation {
                    direction: g.direction,
                    networks: g.networks.iter().map(ToString::to_string).collect(),
                    initiators: g.initiators.iter().map(ToString::to_string).collect(),
                    ports: range(&g.ports),
                    except_ports: g.except_ports.iter().map(range).collect(),
                })
                .collect(),
            modes: modes.iter().filter(|(mode, _)| policy.modes.allows(*mode)).map(|(_, name)| *name).collect(),
            active_inbound: policy.active_inbound,
            active_open: match policy.active_open {
                ActiveOpen::Auto => "auto",
                ActiveOpen::Command => "command",
                ActiveOpen::Reply => "reply",
                ActiveOpen::Transfer => "transfer",
            },
            active_source_port: match policy.active_source_port {
                SourcePort::Any => "any",
                SourcePort::Twenty => "20",
            },
            deny_ports: policy.deny_ports.iter().copied().collect(),
            line_endings: match policy.line_endings {
                LineEndings::Crlf => "crlf",
                LineEndings::Lenient => "lenient",
            },
            servers: policy
                .servers
                .iter()
                .enumerate()
                .map(|(i, s)| ServerExplanation {
                    address: {
                        let own = server_interfaces.iter().filter(|(server, _)| *server == i);
                        s.networks
                            .iter()
                            .map(ToString::to_string)
                            .chain(own.map(|(_, name)| format!("@{name}")))
                            .collect()
                    },
                    passive_ports: s.passive_ports.as_ref().map(range),
                    opaque: match s.opaque {
                        Opaque::Deny => "deny",
                        Opaque::Range => "range",
                    },
                })
                .collect(),
            pinhole_timeout_ms: u64::try_from(policy.pinhole_timeout.as_millis()).unwrap_or(u64::MAX),
            per_client: policy.per_client,
            sessions: policy.limits.sessions,
            login_s: policy.limits.login.as_secs(),
            idle_s: policy.limits.idle.as_secs(),
            ring_bytes: *ring_bytes,
            nat: policy.nat.as_ref().map(|n| NatExplanation { active_ports: range(&n.active_ports) }),
            nftables: nftables.as_ref().map(|s| SetsExplanation {
                table: s.table(),
                set4: s.set4.clone(),
                set6: s.set6.clone(),
            }),
            socket: api.socket.clone(),
            read_group: api.read_group.clone(),
            write_group: api.write_group.clone(),
            metrics: api.metrics,
            values: Vec::new(),
            notes: Vec::new(),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => writeln!(f, "{} is valid.", file.display())?,
            None => writeln!(f, "The configuration is valid.")?,
        }
        writeln!(f, "\nOutside interfaces: {}", self.interfaces.join(", "))?;
        writeln!(f, "Control ports: {}", list(&self.control_ports, "none"))?;
        if self.hook == Hook::XdpTc {
            let what = match self.mode {
                "observe" => "nothing is dropped there in this mode",
                _ => "connections that nobody negotiated are dropped there, before the stack sees them",
            };
            writeln!(f, "A shield in XDP comes before TC: {what}.")?;
        }
        match self.mode {
            "observe" => writeln!(f, "Mode observe: nothing is dropped; what would be is counted and told.")?,
            "mark" => writeln!(
                f,
                "Mode mark: a new connection with a pinhole has the mark {}; into a guard without one it passes without it, \
                 and the ruleset decides.",
                self.mark.as_deref().unwrap_or_default()
            )?,
            _ => writeln!(f, "Mode drop: a new connection into a guard without a pinhole is dropped.")?,
        }
        match self.on_daemon_loss {
            "continue" => writeln!(f, "Without the daemon the kernel goes on by this policy.")?,
            _ => writeln!(f, "Without the daemon the kernel opens nothing.")?,
        }
        if self.guards.is_empty() {
            writeln!(f, "Guards: none; no connection needs a pinhole.")?;
        }
        for guard in &self.guards {
            let way = match guard.direction {
                Direction::In => "arriving",
                Direction::Out => "leaving",
            };
            write!(
                f,
                "Guard: connections {way} from {} to {}, ports {}",
                guard.initiators.join(", "),
                guard.networks.join(", "),
                guard.ports
            )?;
            if !guard.except_ports.is_empty() {
                write!(f, " except {}", guard.except_ports.join(", "))?;
            }
            writeln!(f, "; control ports are exempt.")?;
        }
        writeln!(f, "Negotiated by: {}", list(&self.modes, "nothing; no pinhole ever opens"))?;
        writeln!(
            f,
            "Active mode: {} to inside clients; opens at {}; source port {}.",
            if self.active_inbound { "allowed" } else { "not allowed" },
            match self.active_open {
                "auto" => "the command towards outside, the reply towards inside",
                "command" => "the command (towards inside still at the reply)",
                "reply" => "the reply",
                _ => "the transfer command",
            },
            self.active_source_port
        )?;
        writeln!(f, "Never a data port: below 1024, control ports; denied: {}", list(&self.deny_ports, "none"))?;
        for server in &self.servers {
            let ports = server.passive_ports.as_deref().unwrap_or("any port from 1024");
            writeln!(f, "Server {}: passive mode announces {ports}.", server.address.join(", "))?;
            if server.opaque == "range" {
                writeln!(f, "  While an encrypted session lives, all of them are open to its client.")?;
            }
        }
        writeln!(
            f,
            "Pinholes: {} each, {} at once for one client.",
            humantime::format_duration(std::time::Duration::from_millis(self.pinhole_timeout_ms)),
            self.per_client
        )?;
        writeln!(
            f,
            "Sessions: {} at most; {} to log in, {} of silence; ring buffer {}.",
            self.sessions,
            humantime::format_duration(std::time::Duration::from_secs(self.login_s)),
            humantime::format_duration(std::time::Duration::from_secs(self.idle_s)),
            bytesize::ByteSize(self.ring_bytes.into()).display().iec()
        )?;
        if let Some(NatExplanation { active_ports }) = &self.nat {
            writeln!(
                f,
                "Addresses are translated; active mode of inside clients uses the public ports {active_ports}. A data \
                 connection that is translated arrives in the ruleset with the mark {}.",
                self.mark.as_deref().unwrap_or_default()
            )?;
        }
        if let Some(SetsExplanation { table, set4, set6 }) = &self.nftables {
            let sets: Vec<&str> = [set4, set6].into_iter().flatten().map(String::as_str).collect();
            writeln!(f, "Each unused pinhole is an element of {} in the nftables table {table}.", sets.join(" or "))?;
        }
        writeln!(
            f,
            "Control socket: {}; group {} may ask, group {} may change.",
            self.socket.display(),
            self.read_group,
            self.write_group
        )?;
        match self.metrics {
            Some(address) => write!(f, "Metrics: http://{address}/metrics")?,
            None => write!(f, "Metrics: off")?,
        }
        self.write_values(f)?;
        for (i, note) in self.notes.iter().enumerate() {
            let before = if i == 0 && !self.values.is_empty() { "\n" } else { "" };
            write!(f, "{before}\nNote: {note}.")?;
        }
        Ok(())
    }
}

impl Explanation {
    /// A line for each key: what is in force, and where it comes from.
    fn write_values(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<(&str, String)> = self.values.iter().map(|v| (v.key.as_str(), v.value.to_string())).collect();
        let keys = shown.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
        // A long list does not push the others' origin away.
        let values = shown.iter().map(|(_, value)| value.len()).filter(|n| *n <= 40).max().unwrap_or(0);
        let name = self.file.as_ref().map_or_else(|| "line ".to_owned(), |file| format!("{}:", file.display()));
        for (i, (value, (key, text))) in self.values.iter().zip(&shown).enumerate() {
            let origin = value.line.map_or_else(|| "default".to_owned(), |line| format!("{name}{line}"));
            let before = if i == 0 { "\n\n" } else { "\n" };
            write!(f, "{before}{key:keys$}  {text:values$}  {origin}")?;
        }
        Ok(())
    }
}

fn list<T: fmt::Display>(items: &[T], none: &str) -> String {
    if items.is_empty() {
        return none.to_owned();
    }
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn range(range: &RangeInclusive<u16>) -> String {
    if range.start() == range.end() { range.start().to_string() } else { format!("{}-{}", range.start(), range.end()) }
}
