//! Real FTP clients: one invocation uploads, downloads and lists in one mode, and is judged by the files and by the
//! commands it sent.
//!
//! A client that can't do a mode often does another one without a word (curl sends EPSV over IPv6 whatever it is told).
//! So every outcome tells which modes were really announced, and a transfer counts only for the mode that it used.

mod curl;
mod lftp;
mod tnftp;

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    Host, by_name,
    error::{LabError, Result},
    process::Process,
    servers::{Credentials, DIRECTORY, DOWNLOAD, Server, UPLOAD_PREFIX},
    subdirectory,
};

/// An address family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    #[serde(rename = "4")]
    V4,
    /// IPv6.
    #[serde(rename = "6")]
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// `4` or `6`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "4",
            Self::V6 => "6",
        }
    }
}

/// How the data connection is announced.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// PASV and 227, RFC 959 section 4.1.2.
    Pasv,
    /// EPSV and 229, RFC 2428 section 3.
    Epsv,
    /// PORT, RFC 959 section 4.1.2.
    Port,
    /// EPRT, RFC 2428 section 2.
    Eprt,
}

impl Mode {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Pasv, Self::Epsv, Self::Port, Self::Eprt];

    /// The command in lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pasv => "pasv",
            Self::Epsv => "epsv",
            Self::Port => "port",
            Self::Eprt => "eprt",
        }
    }

    /// Whether the client connects.
    #[must_use]
    pub fn is_passive(self) -> bool {
        matches!(self, Self::Pasv | Self::Epsv)
    }

    /// Whether it is a command of RFC 2428.
    #[must_use]
    pub fn is_extended(self) -> bool {
        matches!(self, Self::Epsv | Self::Eprt)
    }
}

/// A client program.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientKind {
    /// curl.
    Curl,
    /// lftp.
    Lftp,
    /// The `ftp` of NetBSD.
    Tnftp,
}

impl ClientKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Curl, Self::Lftp, Self::Tnftp];

    /// The program.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Curl => "curl",
            Self::Lftp => "lftp",
            Self::Tnftp => "tnftp",
        }
    }

    /// Whether it knows AUTH TLS (RFC 4217).
    #[must_use]
    pub fn offers_tls(self) -> bool {
        self != Self::Tnftp
    }

    /// Whether the program is on PATH.
    #[must_use]
    pub fn is_available(self) -> bool {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|d| d.join(self.name()).is_file())
    }
}

macro_rules! named {
    ($($type:ty, $what:literal;)*) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $type {
            type Err = LabError;

            fn from_str(s: &str) -> Result<Self> {
                by_name($what, s, &Self::ALL, |t| t.name())
            }
        }
    )*};
}

named! {
    Family, "family";
    Mode, "mode";
    ClientKind, "client";
    super::servers::ServerKind, "server";
}

/// One invocation of a client.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// Where it runs.
    pub from: &'a Host,
    /// Which program.
    pub client: ClientKind,
    /// How it is told to announce data connections.
    pub mode: Mode,
    /// Which address of the server it is given.
    pub family: Family,
    /// The server.
    pub server: &'a Server,
    /// What it uploads; what it downloads has been put there by the server's fixture.
    pub upload: &'a Path,
    /// How long it may take; then it is ended.
    pub limit: Duration,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Outcome {
    /// The server has the file, byte for byte.
    pub uploaded: bool,
    /// The client has the server's file, byte for byte.
    pub downloaded: bool,
    /// The client's listing names the server's file.
    pub listed: bool,
    /// The announcing commands it sent, in upper case; LPRT and LPSV (RFC 1639) too.
    pub announced: BTreeSet<String>,
    /// It was ended because its time was up.
    pub timed_out: bool,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// Everything it said.
    pub output: String,
}

impl Outcome {
    /// Whether all three transfers are whole.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.uploaded && self.downloaded && self.listed
    }

    /// Whether any transfer came about.
    #[must_use]
    pub fn any(&self) -> bool {
        self.uploaded || self.downloaded || self.listed
    }

    /// Whether all three transfers are whole and used this mode and no other.
    #[must_use]
    pub fn transferred_by(&self, mode: Mode) -> bool {
        self.complete() && self.announced.len() == 1 && self.announced.contains(&mode.name().to_uppercase())
    }
}

impl Job<'_> {
    /// Runs the client to its end and looks at the files. What it uploaded stays there until
    /// [`Server::remove_uploads`]: a file that goes while somebody lists makes some servers fail the listing.
    ///
    /// # Errors
    /// When the client's program can't be started, or a file can't be read or written here. That the transfer fails is no
    /// error but an outcome.
    pub fn run(&self) -> Result<Outcome> {
        self.run_at(SocketAddr::new(self.server.host().address(self.family), self.server.port()))
    }

    /// The same with the server where somebody else publishes it.
    ///
    /// # Errors
    /// As [`Job::run`].
    pub fn run_at(&self, server: SocketAddr) -> Result<Outcome> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let work = Work::new(self.from, number)?;
        let remote = format!("{UPLOAD_PREFIX}{number}");
        let call = Call {
            mode: self.mode,
            server,
            login: self.server.login(),
            upload: self.upload,
            remote: format!("{DIRECTORY}/{remote}"),
            download: format!("{DIRECTORY}/{DOWNLOAD}"),
            work: &work.path,
            limit: self.limit,
            tls: self.server.is_encrypted(),
        };
        let Invocation { mut command, input } = match self.client {
            ClientKind::Curl => curl::invoke(&call, self.from.command("curl")),
            ClientKind::Lftp => lftp::invoke(&call, self.from.command("lftp")),
            ClientKind::Tnftp => tnftp::invoke(&call, self.from.command("tnftp")),
        };
        // No settings, histories or known hosts of whoever runs the lab.
        command.env_clear().env("HOME", &work.path).env("LC_ALL", "C").current_dir(&work.path);
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        let process = match input {
            Some(text) => Process::spawn_with_input(command, &text)?,
            None => Process::spawn(command)?,
        };
        let done = process.finish(self.limit)?;
        Ok(Outcome {
            uploaded: same(&self.server.public().join(&remote), self.upload)?,
            downloaded: same(&call.downloaded(), &self.server.public().join(DOWNLOAD))?,
            listed: read(&call.listed())?.is_some_and(|l| String::from_utf8_lossy(&l).contains(DOWNLOAD)),
            announced: announced(&done.output),
            timed_out: done.status.is_none(),
            took_ms: u64::try_from(done.took.as_millis()).unwrap_or(u64::MAX),
            output: done.output,
        })
    }
}

/// What a client's module makes its command line of.
struct Call<'a> {
    mode: Mode,
    server: SocketAddr,
    login: &'a Credentials,
    upload: &'a Path,
    /// Path on the server, relative to where the login leads.
    remote: String,
    download: String,
    work: &'a Path,
    limit: Duration,
    /// Whether control and data connections are to be encrypted, with a certificate that nobody has signed.
    tls: bool,
}

impl Call<'_> {
    fn downloaded(&self) -> PathBuf {
        self.work.join("downloaded")
    }

    fn listed(&self) -> PathBuf {
        self.work.join("listed")
    }

    /// The address as in a URL.
    fn url_host(&self) -> String {
        match self.server.ip() {
            IpAddr::V4(a) => a.to_string(),
            IpAddr::V6(a) => format!("[{a}]"),
        }
    }

    /// The whole limit in seconds, at least one.
    fn seconds(&self) -> u64 {
        self.limit.as_secs().max(1)
    }
}

struct Invocation {
    command: Command,
    input: Option<String>,
}

/// A directory for one invocation.
struct Work {
    path: PathBuf,
}

impl Work {
    fn new(host: &Host, number: u64) -> Result<Self> {
        let all = subdirectory(host.directory(), "clients")?;
        Ok(Self { path: subdirectory(&all, &number.to_string())? })
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!("can't remove {}: {e}", self.path.display());
        }
    }
}

fn same(a: &Path, b: &Path) -> Result<bool> {
    Ok(match (read(a)?, read(b)?) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    })
}

/// `None`: it is not there.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(LabError::io(format!("can't read {}", path.display()))(e)),
    }
}

/// The announcing commands in a client's protocol of its dialogue: `> PASV` (curl) or `---> PASV`.
fn announced(output: &str) -> BTreeSet<String> {
    let command = |line: &str| {
        let rest = line.strip_prefix("---> ").or_else(|| line.strip_prefix("> "))?;
        let verb = rest.split_whitespace().next()?.to_uppercase();
        ["PASV", "EPSV", "PORT", "EPRT", "LPSV", "LPRT"].contains(&verb.as_str()).then_some(verb)
    };
    output.lines().filter_map(command).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_are_read_from_what_clients_say() {
        let set = |s: &str| announced(s).into_iter().collect::<Vec<_>>().join(" ");
        assert_eq!(set("> USER a\r\n> EPRT |1|1.2.3.4|5|\r\n< 500 PASV\r\n> PORT 1,2,3,4,5,6\r\n"), "EPRT PORT");
        assert_eq!(set("---> PASV\n<--- 227 EPSV\nPORT\n"), "PASV");
    }

    #[test]
    fn a_fallback_does_not_count() {
        let mut o = Outcome {
            uploaded: true,
            downloaded: true,
            listed: true,
            announced: ["EPSV".to_owned()].into(),
            timed_out: false,
            took_ms: 0,
            output: String::new(),
        };
        assert!(o.transferred_by(Mode::Epsv) && !o.transferred_by(Mode::Pasv));
        o.announced.insert("PASV".to_owned());
        assert!(!o.transferred_by(Mode::Epsv));
        o.announced.remove("PASV");
        o.listed = false;
        assert!(!o.transferred_by(Mode::Epsv) && o.any());
    }

    #[test]
    fn names_are_read_back() {
        for m in Mode::ALL {
            assert_eq!(m.name().parse::<Mode>().unwrap(), m);
        }
        let e = "PASV".parse::<Mode>().unwrap_err().to_string();
        assert!(e.contains("pasv, epsv, port, eprt"), "{e}");
        assert!("5".parse::<Family>().is_err());
    }
}
