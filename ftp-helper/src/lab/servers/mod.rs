//! Real FTP servers on a host of the lab, each with the same directory to write to and read from.
//!
//! The directory that a login leads to has a subdirectory, [`DIRECTORY`], which clients may write to; in it is a file,
//! [`DOWNLOAD`]. Servers that give up their rights run as the system's user `daemon`.

mod bundled;
mod packages;
mod proftpd;
mod program;
mod pureftpd;
mod pyftpdlib;
mod vsftpd;

use std::{
    io::Read as _,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use nix::unistd::{Gid, Uid, User};
use serde::{Deserialize, Serialize};

use super::{
    Host,
    error::{LabError, Result},
    process::{Pause, Process},
    set_mode, subdirectory,
};
use crate::ftpd::PassivePorts;

pub use program::default_cache;

/// The directory below a login's that clients may write to.
pub const DIRECTORY: &str = "pub";
/// The file in [`DIRECTORY`] that clients download.
pub const DOWNLOAD: &str = "download.bin";

/// What the names of uploaded files begin with.
pub(super) const UPLOAD_PREFIX: &str = "upload-";
/// The system's user that servers serve as.
const SERVICE_USER: &str = "daemon";
/// How long a server may take to greet, on a machine that has other things to do.
const READY: Duration = Duration::from_secs(30);

/// A server program.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerKind {
    /// vsftpd.
    Vsftpd,
    /// ProFTPD.
    Proftpd,
    /// Pure-FTPd.
    Pureftpd,
    /// pyftpdlib.
    Pyftpdlib,
    /// The one of [`crate::ftpd`].
    Bundled,
}

impl ServerKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Vsftpd, Self::Proftpd, Self::Pureftpd, Self::Pyftpdlib, Self::Bundled];

    /// Its name, in lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vsftpd => "vsftpd",
            Self::Proftpd => "proftpd",
            Self::Pureftpd => "pureftpd",
            Self::Pyftpdlib => "pyftpdlib",
            Self::Bundled => "bundled",
        }
    }

    /// Whether the lab can run it with [`ServerOptions::tls`].
    #[must_use]
    pub fn offers_tls(self) -> bool {
        self == Self::Vsftpd
    }

    /// Whether its program is here: fetched into the options' cache, or installed.
    #[must_use]
    pub fn is_available(self, options: &ServerOptions) -> bool {
        let fetched = |name| program::find(&options.cache(), self.name(), name).is_ok();
        match self {
            Self::Vsftpd => fetched("vsftpd"),
            Self::Proftpd => fetched("proftpd"),
            Self::Pureftpd => fetched("pure-ftpd") && fetched("pure-pw"),
            Self::Pyftpdlib => pyftpdlib::is_available(),
            Self::Bundled => true,
        }
    }
}

/// How a server is started.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The control port.
    pub port: u16,
    /// The ports of passive data connections.
    pub passive_ports: PassivePorts,
    /// Whether control and data connections are encrypted (AUTH TLS, RFC 4217), with a certificate of the lab's own:
    /// [`ServerKind::offers_tls`].
    pub tls: bool,
    /// The address that it announces in reply to PASV, where that is not its host's own; Pure-FTPd can (vsftpd
    /// can't where it listens on IPv6 too).
    pub announced: Option<Ipv4Addr>,
    /// The size of [`DOWNLOAD`] in bytes.
    pub size: usize,
    /// Where fetched programs are; `None` for [`default_cache`].
    pub cache: Option<PathBuf>,
    /// An `ftp-helper` to run as `PROGRAM ftpd`; `None` runs the bundled server inside this process.
    pub bundled: Option<PathBuf>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            port: 21,
            passive_ports: PassivePorts::new(50_000, 50_099).unwrap_or_default(),
            tls: false,
            announced: None,
            size: 100_000,
            cache: None,
            bundled: None,
        }
    }
}

impl ServerOptions {
    fn cache(&self) -> PathBuf {
        self.cache.clone().unwrap_or_else(default_cache)
    }
}

/// Downloads vsftpd, ProFTPD and Pure-FTPd with `apt-get download` and unpacks them into `cache`; nothing is installed.
/// What is there already is left alone. Returns what was fetched.
///
/// # Errors
/// When `apt-get` or `dpkg` is missing, or a package can't be had (`apt-get update` may help).
pub fn fetch(cache: &Path) -> Result<Vec<&'static str>> {
    let mut fetched = Vec::new();
    for server in [&packages::VSFTPD, &packages::PROFTPD, &packages::PURE_FTPD] {
        if !server.is_in(cache) {
            server.unpack(cache, nix::unistd::geteuid().is_root()).map_err(LabError::Fetch)?;
            fetched.push(server.name);
        }
    }
    Ok(fetched)
}

/// What to log in with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credentials {
    /// The argument of USER.
    pub user: String,
    /// The argument of PASS.
    pub password: String,
}

/// A server that is ready. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    kind: ServerKind,
    host: Host,
    port: u16,
    passive_ports: PassivePorts,
    tls: bool,
    login: Credentials,
    public: PathBuf,
    running: Running,
}

/// What keeps it running.
#[derive(Debug)]
enum Running {
    Process(Process),
    Thread(bundled::Thread),
}

impl Server {
    /// Starts it and waits until it greets on both of the host's addresses.
    ///
    /// # Errors
    /// When its program is not here, can't be started, or does not greet.
    pub fn start(host: &Host, kind: ServerKind, options: &ServerOptions) -> Result<Self> {
        if options.tls && !kind.offers_tls() {
            return Err(LabError::Usage(format!("{} is not set up for TLS in the lab; vsftpd is", kind.name())));
        }
        if options.announced.is_some() && kind != ServerKind::Pureftpd {
            let text = format!("{} announces no other address in the lab; Pure-FTPd does", kind.name());
            return Err(LabError::Usage(text));
        }
        let base = host.directory().join(format!("{}-{}-{}", host.name(), kind.name(), options.port));
        // An earlier one's uploads and passwords are no concern of this one's.
        match std::fs::remove_dir_all(&base) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(LabError::io(format!("can't remove {}", base.display()))(e));
            }
            _ => {}
        }
        let base = subdirectory(&base, "")?;
        let setup = Setup { host, options, root: subdirectory(&base, "root")?, base };
        let public = setup.populate()?;
        let Launch { running, login } = match kind {
            ServerKind::Vsftpd => vsftpd::launch(&setup)?,
            ServerKind::Proftpd => proftpd::launch(&setup)?,
            ServerKind::Pureftpd => pureftpd::launch(&setup)?,
            ServerKind::Pyftpdlib => pyftpdlib::launch(&setup)?,
            ServerKind::Bundled => bundled::launch(&setup)?,
        };
        let mut server = Self {
            kind,
            host: host.clone(),
            port: options.port,
            passive_ports: options.passive_ports,
            tls: options.tls,
            login,
            public,
            running,
        };
        server.wait_ready()?;
        Ok(server)
    }

    /// Which program.
    #[must_use]
    pub fn kind(&self) -> ServerKind {
        self.kind
    }

    /// Where it runs.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The control port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The ports of its passive data connections.
    #[must_use]
    pub fn passive_ports(&self) -> RangeInclusive<u16> {
        self.passive_ports.range()
    }

    /// Whether clients are to encrypt.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.tls
    }

    /// What to log in with.
    #[must_use]
    pub fn login(&self) -> &Credentials {
        &self.login
    }

    /// The local path of [`DIRECTORY`].
    #[must_use]
    pub fn public(&self) -> &Path {
        &self.public
    }

    /// Its process id; `None` where it is a thread of this process.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        match &self.running {
            Running::Process(p) => Some(p.id()),
            Running::Thread(_) => None,
        }
    }

    /// What it has said on its standard outputs.
    ///
    /// # Errors
    /// When that can't be read.
    pub fn output(&self) -> Result<String> {
        match &self.running {
            Running::Process(p) => p.output(),
            Running::Thread(_) => Ok(String::new()),
        }
    }

    /// Removes what clients have uploaded.
    ///
    /// # Errors
    /// When a file can't be removed.
    pub fn remove_uploads(&self) -> Result<()> {
        let failed = || format!("can't remove the uploads in {}", self.public.display());
        for entry in std::fs::read_dir(&self.public).map_err(LabError::io(failed()))? {
            let entry = entry.map_err(LabError::io(failed()))?;
            if entry.file_name().as_encoded_bytes().starts_with(UPLOAD_PREFIX.as_bytes()) {
                std::fs::remove_file(entry.path()).map_err(LabError::io(failed()))?;
            }
        }
        Ok(())
    }

    fn wait_ready(&mut self) -> Result<()> {
        let begun = Instant::now();
        for address in [IpAddr::V4(self.host.v4()), IpAddr::V6(self.host.v6())] {
            let address = SocketAddr::new(address, self.port);
            while !self.host.run_in(|| greets(address))? {
                let ended = match &mut self.running {
                    Running::Process(p) => p.ended()?.is_some(),
                    Running::Thread(t) => t.ended(),
                };
                if ended || begun.elapsed() > READY {
                    return Err(LabError::NotReady {
                        server: self.kind.to_string(),
                        host: self.host.name().to_owned(),
                        waited: begun.elapsed(),
                        output: self.output()?.trim().to_owned(),
                    });
                }
                Pause::new().wait(begun);
            }
        }
        Ok(())
    }
}

/// What a server's module launches it from.
struct Setup<'a> {
    host: &'a Host,
    options: &'a ServerOptions,
    /// A directory of this server's own.
    base: PathBuf,
    /// What clients see as `/`, in `base`.
    root: PathBuf,
}

struct Launch {
    running: Running,
    login: Credentials,
}

impl Launch {
    fn process(command: Command, user: &str) -> Result<Self> {
        Ok(Self {
            running: Running::Process(Process::spawn(command)?),
            login: Credentials { user: user.to_owned(), password: "lab".to_owned() },
        })
    }
}

impl Setup<'_> {
    fn populate(&self) -> Result<PathBuf> {
        let public = subdirectory(&self.root, DIRECTORY)?;
        let download = public.join(DOWNLOAD);
        std::fs::write(&download, pattern(self.options.size))
            .map_err(LabError::io(format!("can't write {}", download.display())))?;
        set_mode(&download, 0o644)?;
        let (uid, gid) = self.service_ids()?;
        nix::unistd::chown(&public, Some(uid), Some(gid)).map_err(|e| LabError::Io {
            what: format!("can't give {} to {SERVICE_USER}", public.display()),
            source: e.into(),
        })?;
        Ok(public)
    }

    fn service_ids(&self) -> Result<(Uid, Gid)> {
        let user = User::from_name(SERVICE_USER)
            .map_err(|e| LabError::Io { what: format!("can't look up the user {SERVICE_USER}"), source: e.into() })?;
        user.map(|u| (u.uid, u.gid))
            .ok_or_else(|| LabError::Usage(format!("this system has no user {SERVICE_USER}, which servers serve as")))
    }

    /// Writes a file into the server's directory, for root alone.
    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.base.join(name);
        std::fs::write(&path, text).map_err(LabError::io(format!("can't write {}", path.display())))?;
        set_mode(&path, 0o600)?;
        Ok(path)
    }

    /// A certificate for the host's addresses that it has signed itself, and its key.
    fn certificate(&self) -> Result<(PathBuf, PathBuf)> {
        let names = vec![self.host.v4().to_string(), self.host.v6().to_string()];
        let made = rcgen::generate_simple_self_signed(names)
            .map_err(|e| LabError::Usage(format!("can't make a certificate: {e}")))?;
        let certificate = self.write("certificate.pem", &made.cert.pem())?;
        Ok((certificate, self.write("key.pem", &made.signing_key.serialize_pem())?))
    }

    /// A fetched or installed program, as a command on the host.
    fn program(&self, server: &str, name: &str) -> Result<Command> {
        let cache = self.options.cache();
        let found = program::find(&cache, server, name)?;
        let mut command = self.host.command(&found.path);
        if !found.libraries.is_empty() {
            let joined = std::env::join_paths(&found.libraries)
                .map_err(|e| LabError::Usage(format!("{}: {e}", cache.display())))?;
            command.env("LD_LIBRARY_PATH", joined);
        }
        Ok(command)
    }
}

/// Bytes that are equal nowhere nearby, line ends among them: what is cut, doubled or translated is seen.
#[must_use]
pub fn pattern(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

fn greets(address: SocketAddr) -> bool {
    let greeting = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut code = [0; 3];
        stream.read_exact(&mut code)?;
        Ok(&code == b"220")
    };
    greeting().unwrap_or(false)
}
