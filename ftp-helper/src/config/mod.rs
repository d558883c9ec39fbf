//! The configuration file: what it may say, what it means, and what is wrong with it.
//!
//! The keys and their meaning are documented in `docs/configuration.md`.

mod effective;
mod error;
mod explain;
mod reader;
mod report;
mod schema;
mod sections;
#[cfg(test)]
mod tests;
mod values;

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use serde::Serialize;
use toml::de::DeTable;

pub use self::{
    effective::{KEYS, Value},
    error::{ConfigError, Problem},
    explain::Explanation,
    schema::schema,
};
use crate::{engine::policy::Policy, nft::Sets};

/// Where the configuration is, unless told otherwise.
pub const DEFAULT_PATH: &str = "/etc/ftp-helper/ftp-helper.toml";

/// Where the control socket is, unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/ftp-helper/ftp-helper.sock";

/// Everything that a configuration file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The file it comes from.
    pub path: Option<PathBuf>,
    /// What is allowed.
    pub policy: Policy,
    /// Where to look.
    pub watch: Watch,
    /// Where a new connection needs a pinhole.
    pub guards: Vec<Guard>,
    /// Interfaces whose addresses, followed as they change, are a server's: which of [`Policy::servers`], and the name.
    pub server_interfaces: Vec<(usize, String)>,
    /// Size of the event ring buffer in bytes: a power of two and a multiple of the page size.
    pub ring_bytes: u32,
    /// The sets of the administrator's ruleset that are fed, if any.
    pub nftables: Option<Sets>,
    /// The control socket and the metrics.
    pub api: Api,
}

/// Where to look.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Watch {
    /// Outside interfaces: names or glob patterns; never empty.
    pub interfaces: Vec<String>,
    /// Ports that speak FTP, ascending.
    pub control_ports: Vec<u16>,
    /// Where programs are attached.
    pub hook: Hook,
}

/// Where programs are attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub enum Hook {
    /// TC, both ways.
    #[default]
    #[serde(rename = "tc")]
    Tc,
    /// The shield in XDP beside it.
    #[serde(rename = "xdp+tc")]
    XdpTc,
}

/// Networks and ports where a new TCP connection needs a pinhole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Guard {
    /// Which way the first SYN goes.
    pub direction: Direction,
    /// Networks of the responder; never empty.
    pub networks: Vec<Network>,
    /// Networks of the initiators that are held to it; never empty.
    pub initiators: Vec<Network>,
    /// Guarded ports of the responder.
    pub ports: RangeInclusive<u16>,
    /// Ports of these that are left alone.
    pub except_ports: Vec<RangeInclusive<u16>>,
}

/// Which way the first SYN goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// It arrives on an outside interface.
    In,
    /// It leaves by an outside interface.
    Out,
}

/// A network of a guard or a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Network {
    /// An address or prefix.
    Prefix(IpNet),
    /// The addresses of the interface with this name, followed as they change.
    Interface(String),
}

impl std::fmt::Display for Network {
    /// As it is written in the file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Prefix(net) => net.fmt(f),
            Self::Interface(name) => write!(f, "@{name}"),
        }
    }
}

/// The control socket and the metrics.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Api {
    /// Path of the control socket.
    pub socket: PathBuf,
    /// Group that may ask.
    pub read_group: String,
    /// Group that may also change.
    pub write_group: String,
    /// Where metrics are served, if anywhere.
    pub metrics: Option<SocketAddr>,
}

impl Default for Api {
    fn default() -> Self {
        Self { socket: DEFAULT_SOCKET.into(), read_group: "adm".into(), write_group: "root".into(), metrics: None }
    }
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// The file can't be read, or says what can't be meant; then with every problem found.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        load_with_notes(path).map(|(config, _)| config)
    }

    /// Reads the text of a configuration file; `name` is the file's name for messages.
    ///
    /// # Errors
    /// The text says what can't be meant; with every problem found.
    pub fn parse(text: &str, name: &Path) -> Result<Self, ConfigError> {
        parse_with_notes(text, name).map(|(config, _)| config)
    }
}

/// As [`Config::load`], with what is worth telling although it is no mistake.
///
/// # Errors
/// As [`Config::load`].
pub fn load_with_notes(path: &Path) -> Result<(Config, Vec<String>), ConfigError> {
    examine(path).map(|Examined { config, notes, .. }| (config, notes))
}

/// As [`Config::parse`], with what is worth telling although it is no mistake.
///
/// # Errors
/// As [`Config::parse`].
pub fn parse_with_notes(text: &str, name: &Path) -> Result<(Config, Vec<String>), ConfigError> {
    examine_text(text, name).map(|Examined { config, notes, .. }| (config, notes))
}

/// A configuration, and what there is to say about its file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Examined {
    /// What the file says.
    pub config: Config,
    /// What is worth telling although it is no mistake.
    pub notes: Vec<String>,
    /// The line of each key that the file has, with its sections; those of the second guard begin with `guard[2].`.
    pub lines: BTreeMap<String, usize>,
}

/// As [`Config::load`], with what there is to say about the file.
///
/// # Errors
/// As [`Config::load`].
pub fn examine(path: &Path) -> Result<Examined, ConfigError> {
    let unreadable = |source| ConfigError::Read { path: path.to_owned(), source };
    let bytes = fs::read(path).map_err(unreadable)?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let valid = e.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(e.as_bytes()).into_owned();
        let cx = reader::Context::new(&text);
        // What can't be read is one character there.
        cx.problem(
            valid..valid + char::REPLACEMENT_CHARACTER.len_utf8(),
            "",
            "is not UTF-8 text",
            "save the file as UTF-8",
        );
        let (problems, _) = cx.finish();
        ConfigError::Invalid { path: path.to_owned(), problems, text }
    })?;
    examine_text(&text, path)
}

/// As [`Config::parse`], with what there is to say about the text.
///
/// # Errors
/// As [`Config::parse`].
pub fn examine_text(text: &str, name: &Path) -> Result<Examined, ConfigError> {
    let cx = reader::Context::new(text);
    let read = match DeTable::parse(text) {
        Ok(table) => Some(sections::read(&cx, table.get_ref(), name)),
        Err(e) => {
            cx.problem(e.span().unwrap_or(0..0), "", e.message().trim().replace('\n', ", "), "correct the TOML here");
            None
        }
    };
    let (problems, lines) = cx.finish();
    match read {
        Some((config, notes)) if problems.is_empty() => Ok(Examined { config, notes, lines }),
        _ => Err(ConfigError::Invalid { path: name.to_owned(), problems, text: text.to_owned() }),
    }
}
