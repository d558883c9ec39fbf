//! The bundled FTP server: libunftp over a directory, active and passive, IPv4 and IPv6.
//!
//! It is meant for trying ftp-helper out and for the lab, not for the public. The crate does the FTP; this room does
//! the listening, so that one server can have several addresses, an IPv6 listener takes IPv6 only (the crate can't
//! answer PASV on an IPv4-mapped socket), and an error names the address or the directory. What the crate can't do is
//! listed in `docs/ftpd.md`.

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use libunftp::{ServerBuilder, options::ActivePassiveMode};
use nix::sys::socket::{setsockopt, sockopt::Ipv6V6Only};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
};
use tracing::{debug, warn};
use unftp_core::auth::{AuthenticationError, Authenticator, Credentials, Principal};
use unftp_sbe_fs::Filesystem;

/// What the server serves, where, and to whom.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen. An IPv6 address takes IPv6 connections only, so `0.0.0.0:21` and `[::]:21` go together.
    pub listen: Vec<SocketAddr>,
    /// The directory that clients see as `/`, to read and to write.
    pub root: PathBuf,
    /// Who may log in.
    pub login: Login,
    /// The ports of passive data connections.
    pub passive_ports: PassivePorts,
    /// Whether PORT is answered.
    pub active: bool,
}

/// Who may log in.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// `anonymous` and `ftp`, with any password.
    Anonymous,
    /// One user.
    User {
        /// The argument of USER.
        name: String,
        /// The argument of PASS.
        password: String,
    },
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::User { name, password: _ } => f.debug_struct("User").field("name", name).finish_non_exhaustive(),
        }
    }
}

/// A range of passive ports: both ends belong to it, none is below 1024.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PassivePorts {
    low: u16,
    high: u16,
}

impl PassivePorts {
    /// # Errors
    /// When the range is reversed or reaches below 1024.
    pub fn new(low: u16, high: u16) -> Result<Self, PassivePortsError> {
        if low > high {
            return Err(PassivePortsError::Reversed { low, high });
        }
        if low < 1024 {
            return Err(PassivePortsError::Privileged { low });
        }
        Ok(Self { low, high })
    }

    /// As a range.
    #[must_use]
    pub fn range(self) -> RangeInclusive<u16> {
        self.low..=self.high
    }
}

impl Default for PassivePorts {
    /// The dynamic ports of RFC 6335 section 6.
    fn default() -> Self {
        Self { low: 49152, high: 65535 }
    }
}

impl fmt::Display for PassivePorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.low, self.high)
    }
}

impl FromStr for PassivePorts {
    type Err = PassivePortsError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = || PassivePortsError::Syntax { text: s.to_owned() };
        let (low, high) = s.split_once('-').ok_or_else(bad)?;
        Self::new(low.parse().map_err(|_| bad())?, high.parse().map_err(|_| bad())?)
    }
}

/// What is wrong with a range of passive ports.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PassivePortsError {
    /// No range.
    #[error("passive ports `{text}`: write LOW-HIGH, such as 50000-50099")]
    Syntax {
        /// What was given.
        text: String,
    },
    /// The wrong way round.
    #[error("passive ports {low}-{high}: the first is above the last; write {high}-{low}")]
    Reversed {
        /// The first.
        low: u16,
        /// The last.
        high: u16,
    },
    /// Below 1024.
    #[error("passive ports from {low}: ports below 1024 are never data ports; begin at 1024 or above")]
    Privileged {
        /// The first.
        low: u16,
    },
}

/// Why the server can't start.
#[derive(Debug, thiserror::Error)]
pub enum FtpdError {
    /// No address at all.
    #[error("no address to listen on: give at least one ADDRESS:PORT")]
    NoAddress,
    /// The directory can't be opened.
    #[error("can't serve {}: {source}{}", path.display(), root_remedy(source))]
    Root {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The address can't be used.
    #[error("can't listen on {address}: {source}{}", bind_remedy(source, *address))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

impl FtpdError {
    /// Whether more rights would help.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        match self {
            Self::NoAddress => false,
            Self::Root { source, .. } | Self::Listen { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
        }
    }
}

/// A server that listens and does not serve yet: connections wait in the backlog.
#[derive(Debug)]
pub struct Server {
    options: Arc<Options>,
    listeners: Vec<TcpListener>,
}

impl Server {
    /// Opens the directory and listens.
    ///
    /// # Errors
    /// When the directory can't be opened or an address can't be listened on.
    pub async fn bind(options: Options) -> Result<Self, FtpdError> {
        if options.listen.is_empty() {
            return Err(FtpdError::NoAddress);
        }
        open_root(&options.root).map_err(|source| FtpdError::Root { path: options.root.clone(), source })?;
        let listeners = options
            .listen
            .iter()
            .map(|&address| listen(address).map_err(|source| FtpdError::Listen { address, source }))
            .collect::<Result<_, _>>()?;
        Ok(Self { options: Arc::new(options), listeners })
    }

    /// The addresses it listens on, with the port the system chose where 0 was asked for.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.listeners.iter().map(TcpListener::local_addr).collect()
    }

    /// Serves until `shutdown` is ready. Sessions that are running then end with the runtime.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let Self { options, listeners } = self;
        let mut acceptors = JoinSet::new();
        for listener in listeners {
            acceptors.spawn(accept(listener, Arc::clone(&options)));
        }
        tokio::select! {
            () = shutdown => {}
            // The acceptors never end by themselves; were all of them gone, to wait on would be to serve nobody.
            () = async { while acceptors.join_next().await.is_some() {} } => {}
        }
    }
}

impl fmt::Display for Server {
    /// One line for people: where, what, who.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { listen, root, login, passive_ports, active } = &*self.options;
        let addresses = self.addresses().unwrap_or_else(|_| listen.clone());
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        write!(f, "listening on {}, serving {} to ", addresses.join(", "), root.display())?;
        match login {
            Login::Anonymous => f.write_str("anonymous")?,
            Login::User { name, password: _ } => f.write_str(name)?,
        }
        write!(f, " (read and write), passive ports {passive_ports}, active {}", if *active { "on" } else { "off" })
    }
}

async fn accept(listener: TcpListener, options: Arc<Options>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let options = Arc::clone(&options);
                tokio::spawn(async move {
                    if let Err(e) = session(stream, &options).await {
                        warn!(%peer, "session: {e}");
                    }
                });
            }
            Err(e) => {
                // Out of descriptors, most likely: sessions that end give some back.
                warn!("can't accept a connection: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn session(stream: TcpStream, options: &Options) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let storage = Mutex::new(Some(open_root(&options.root)?));
    let root = options.root.clone();
    // The crate asks for the storage once a session. Should it ever ask again, the directory is opened again; to fail
    // there ends this session's task and nothing else.
    let storage = move || {
        let ready = storage.lock().unwrap_or_else(PoisonError::into_inner).take();
        ready.unwrap_or_else(|| open_root(&root).expect("the directory was there when the session began"))
    };
    let server = ServerBuilder::with_authenticator(Box::new(storage), Arc::new(Gate { login: options.login.clone() }))
        .greeting("ftp-helper ftpd ready")
        .passive_ports(options.passive_ports.range())
        .active_passive_mode(if options.active {
            ActivePassiveMode::ActiveAndPassive
        } else {
            ActivePassiveMode::PassiveOnly
        })
        .build()?;
    server.service(stream).await?;
    debug!("session ended");
    Ok(())
}

fn open_root(root: &Path) -> io::Result<Filesystem> {
    if !std::fs::metadata(root)?.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
    }
    // Opened to read: a directory that can't be listed is of no use to a client.
    std::fs::read_dir(root)?;
    Filesystem::new(root)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv6() {
        let socket = TcpSocket::new_v6()?;
        setsockopt(&socket, Ipv6V6Only, &true)?;
        socket
    } else {
        TcpSocket::new_v4()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

fn root_remedy(e: &io::Error) -> &'static str {
    match e.kind() {
        io::ErrorKind::NotFound => "; make the directory first",
        io::ErrorKind::NotADirectory => "; give a directory",
        io::ErrorKind::PermissionDenied => "; give the user it runs as the right to read it",
        _ => "",
    }
}

fn bind_remedy(e: &io::Error, address: SocketAddr) -> &'static str {
    match e.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program has the port: stop it (`ss -ltnp` names it) or choose another port"
        }
        io::ErrorKind::AddrNotAvailable => "; no interface has this address (`ip addr` lists them)",
        io::ErrorKind::PermissionDenied if address.port() < 1024 => {
            "; ports below 1024 need root or CAP_NET_BIND_SERVICE: choose another, such as 2121"
        }
        _ => "",
    }
}

/// Lets in who is configured.
#[derive(Debug)]
struct Gate {
    login: Login,
}

#[async_trait::async_trait]
impl Authenticator for Gate {
    async fn authenticate(&self, username: &str, creds: &Credentials) -> Result<Principal, AuthenticationError> {
        match &self.login {
            Login::Anonymous if username == "anonymous" || username == "ftp" => {}
            Login::Anonymous => return Err(AuthenticationError::BadUser),
            Login::User { name, .. } if name != username => return Err(AuthenticationError::BadUser),
            Login::User { password, .. } if creds.password.as_deref() == Some(password) => {}
            Login::User { .. } => return Err(AuthenticationError::BadPassword),
        }
        Ok(Principal { username: username.to_owned() })
    }
}

#[cfg(test)]
mod tests;
