//! The lab: a gateway and the hosts around it in network namespaces, real FTP servers and clients, and a port scanner.
//!
//! ```text
//!   outside                                                    inside
//!   203.0.113.0/24, 2001:db8:a::/64        192.0.2.0/24, 2001:db8:b::/64
//!
//!   stranger ──┐                                        ┌── server 0
//!   client   ──┴── wan0  gateway  lan0 ─────────────────┼── server 1 …
//! ```
//!
//! That is [`Topology::ServerInside`]; with [`Topology::ClientInside`] client and servers change places and the stranger
//! stays outside. Both networks are bridges in a namespace of their own. Nothing leaves the namespaces; everything is
//! removed when the [`Lab`] is dropped, [`remove_on_signals`] does so for an interrupted program, and [`down`] for one
//! that was killed. Names are unique, so that labs can run side by side.
//!
//! ```no_run
//! use ftp_helper::lab::{Lab, LabOptions, servers::{Server, ServerKind, ServerOptions}};
//!
//! let lab = Lab::new(&LabOptions::default())?;
//! let server = Server::start(lab.server(), ServerKind::Pyftpdlib, &ServerOptions::default())?;
//! let listing = lab.client().command("curl").arg(format!("ftp://{}/", lab.server().v4())).output()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod clients;
pub mod demo;
pub mod dialogue;
pub mod error;
mod host;
pub mod matrix;
mod netns;
pub mod process;
mod registry;
pub mod scan;
pub mod servers;

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

pub use error::{LabError, Result};
pub use host::Host;
pub use registry::{Removed, down, remove_on_signals};

use netns::Namespace;
use registry::Entry;

/// The name of the gateway's interface towards the outside.
pub const OUTSIDE_INTERFACE: &str = "wan0";
/// The name of the gateway's interface towards the inside.
pub const INSIDE_INTERFACE: &str = "lan0";
/// The name of every other host's only interface.
pub const HOST_INTERFACE: &str = "eth0";

/// Who is inside.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Topology {
    /// The servers are behind the gateway; client and stranger are outside.
    #[default]
    ServerInside,
    /// The client is behind the gateway; servers and stranger are outside.
    ClientInside,
}

impl Topology {
    /// Both.
    pub const ALL: [Self; 2] = [Self::ServerInside, Self::ClientInside];

    /// The name that [`FromStr`] reads.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ServerInside => "server-inside",
            Self::ClientInside => "client-inside",
        }
    }
}

impl std::fmt::Display for Topology {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Topology {
    type Err = LabError;

    fn from_str(s: &str) -> Result<Self> {
        by_name("topology", s, &Self::ALL, |t| t.name())
    }
}

/// What kind of lab.
#[derive(Clone, Debug)]
pub struct LabOptions {
    /// Part of every namespace's name; `None` for one that nobody else has.
    pub name: Option<String>,
    /// Who is inside.
    pub topology: Topology,
    /// How many server hosts, from 1 to 64.
    pub servers: usize,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self { name: None, topology: Topology::default(), servers: 1 }
    }
}

/// Namespaces and the networks between them, removed when this and everything made from it is dropped.
#[derive(Debug)]
pub struct Lab {
    entry: Arc<Entry>,
    topology: Topology,
    client: Host,
    stranger: Host,
    gateway: Host,
    servers: Vec<Host>,
    wire: Namespace,
}

impl Lab {
    /// Builds it.
    ///
    /// # Errors
    /// Without root; when a lab of this name is there; when `ip` is missing or the kernel refuses.
    pub fn new(options: &LabOptions) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            return Err(LabError::NotRoot);
        }
        if options.servers == 0 || options.servers > 64 {
            return Err(LabError::Usage(format!("{} servers: a lab has 1 to 64", options.servers)));
        }
        let entry = Arc::new(Entry::claim(&options.name.clone().unwrap_or_else(unique_name))?);
        let wire = Wire::new(&entry, options)?;
        wire.connect()?;
        let Wire { ns: wire, ports } = wire;
        let mut hosts = ports.into_iter().map(|p| p.host);
        let mut next = || hosts.next().ok_or_else(|| LabError::Usage("the lab lacks a host".to_owned()));
        let (gateway, client, stranger) = (next()?, next()?, next()?);
        let servers = hosts.collect();
        let lab = Self { entry, topology: options.topology, client, stranger, gateway, servers, wire };
        lab.gateway.namespace().sysctl(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")])?;
        Ok(lab)
    }

    /// The name that all its namespaces have in theirs.
    #[must_use]
    pub fn name(&self) -> &str {
        self.entry.name()
    }

    /// Who is inside.
    #[must_use]
    pub fn topology(&self) -> Topology {
        self.topology
    }

    /// The FTP client's host.
    #[must_use]
    pub fn client(&self) -> &Host {
        &self.client
    }

    /// The first server's host.
    #[must_use]
    pub fn server(&self) -> &Host {
        &self.servers[0]
    }

    /// All server hosts, at least one.
    #[must_use]
    pub fn servers(&self) -> &[Host] {
        &self.servers
    }

    /// A host outside that has no business with anybody.
    #[must_use]
    pub fn stranger(&self) -> &Host {
        &self.stranger
    }

    /// The gateway; its addresses are those of its outside interface.
    #[must_use]
    pub fn gateway(&self) -> &Host {
        &self.gateway
    }

    /// The gateway's addresses on its inside interface.
    #[must_use]
    pub fn gateway_inside(&self) -> (Ipv4Addr, Ipv6Addr) {
        (Side::Inside.v4(1), Side::Inside.v6(1))
    }

    /// A directory of this lab's own, removed with it. All may read it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.entry.directory()
    }

    /// All hosts.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        [&self.gateway, &self.client, &self.stranger].into_iter().chain(&self.servers)
    }

    /// Plugs one more interface of a host into the outside network, where its addresses have this number. It goes when
    /// the host's end is deleted. From then on each interface of the host answers for its own addresses only.
    ///
    /// # Errors
    /// When the host has an interface of this name, or the kernel refuses.
    pub fn plug(&self, host: &Host, interface: &str, number: u8) -> Result<()> {
        let (side, ns) = (Side::Outside, host.namespace().name());
        let (peer, bridge) = (format!("p.{interface}"), side.bridge());
        let mut batch = String::new();
        push(&mut batch, format_args!("link add {peer} type veth peer name {interface} netns {ns}"));
        push(&mut batch, format_args!("link set {peer} master {bridge} up"));
        self.wire.ip_batch(&batch)?;
        host.namespace().sysctl(&[("net/ipv4/conf/all/arp_ignore", "1"), ("net/ipv4/conf/all/arp_announce", "2")])?;
        let mut batch = String::new();
        push(&mut batch, format_args!("link set {interface} up"));
        push(&mut batch, format_args!("addr add {}/24 dev {interface}", side.v4(number)));
        push(&mut batch, format_args!("addr add {}/64 dev {interface} nodad", side.v6(number)));
        host.namespace().ip_batch(&batch)
    }

    /// Sets the MTU of both networks and of every interface in them, in bytes.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn set_mtu(&self, mtu: u32) -> Result<()> {
        let mut wire = String::new();
        for (n, host) in self.hosts().enumerate() {
            let interfaces: &[&str] = if n == 0 { &[OUTSIDE_INTERFACE, INSIDE_INTERFACE] } else { &[HOST_INTERFACE] };
            let mut batch = String::new();
            for (m, interface) in interfaces.iter().enumerate() {
                push(&mut wire, format_args!("link set p{n}.{m} mtu {mtu}"));
                push(&mut batch, format_args!("link set {interface} mtu {mtu}"));
            }
            host.namespace().ip_batch(&batch)?;
        }
        for side in [Side::Outside, Side::Inside] {
            push(&mut wire, format_args!("link set {} mtu {mtu}", side.bridge()));
        }
        self.wire.ip_batch(&wire)
    }

    /// Replaces the gateway's nftables ruleset by a file's; `None` for none at all.
    ///
    /// # Errors
    /// When the file can't be read, or `nft` is missing or refuses it: then there is no ruleset.
    pub fn load_ruleset(&self, file: Option<&Path>) -> Result<()> {
        let mut command = self.gateway.command("nft");
        command.args(["flush", "ruleset"]);
        process::run(command, None)?;
        if let Some(file) = file {
            let mut command = self.gateway.command("nft");
            command.arg("-f").arg(file);
            process::run(command, None)?;
        }
        Ok(())
    }

    /// Leaves it standing after this program, for [`down`] to remove.
    pub fn keep(self) {
        self.entry.keep();
    }
}

/// Whether this test may run: it needs root. Without it, says so on standard error; with `FTP_HELPER_REQUIRE_ROOT=1`
/// in the environment, as in CI, a test must not be skipped.
///
/// # Panics
/// Without root, when `FTP_HELPER_REQUIRE_ROOT` is 1.
#[must_use]
pub fn require_root() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let required = std::env::var_os("FTP_HELPER_REQUIRE_ROOT").is_some_and(|v| v == "1");
    assert!(!required, "this test needs root, and FTP_HELPER_REQUIRE_ROOT=1 forbids to skip it");
    let thread = std::thread::current();
    eprintln!("{}: skipped, it needs root", thread.name().unwrap_or("test"));
    false
}

/// Reads one of a list of names.
pub(crate) fn by_name<T: Copy>(what: &str, text: &str, all: &[T], name: impl Fn(T) -> &'static str) -> Result<T> {
    all.iter().copied().find(|&t| name(t) == text).ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|&t| name(t)).collect();
        LabError::Usage(format!("no {what} `{text}`: choose from {}", names.join(", ")))
    })
}

/// One of the two networks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Outside,
    Inside,
}

impl Side {
    fn v4(self, host: u8) -> Ipv4Addr {
        match self {
            Self::Outside => Ipv4Addr::new(203, 0, 113, host),
            Self::Inside => Ipv4Addr::new(192, 0, 2, host),
        }
    }

    fn v6(self, host: u8) -> Ipv6Addr {
        let net = match self {
            Self::Outside => 0xa,
            Self::Inside => 0xb,
        };
        Ipv6Addr::new(0x2001, 0xdb8, net, 0, 0, 0, 0, host.into())
    }

    fn bridge(self) -> &'static str {
        match self {
            Self::Outside => "br-out",
            Self::Inside => "br-in",
        }
    }
}

/// The namespace with the two bridges, and what is to be plugged in.
struct Wire {
    ns: Namespace,
    ports: Vec<Port>,
}

struct Port {
    host: Host,
    /// Interface, network, and its number there.
    plugs: Vec<(&'static str, Side, u8)>,
}

impl Wire {
    fn new(entry: &Arc<Entry>, options: &LabOptions) -> Result<Self> {
        let (client, server) = match options.topology {
            Topology::ServerInside => (Side::Outside, Side::Inside),
            Topology::ClientInside => (Side::Inside, Side::Outside),
        };
        let ns = Namespace::create(&entry.namespace("wire"))?;
        let port = |name: &str, plugs: Vec<(&'static str, Side, u8)>| -> Result<Port> {
            let (_, side, number) = plugs[0];
            let ns = Namespace::create(&entry.namespace(name))?;
            Ok(Port { host: Host::new(Arc::clone(entry), name, ns, side.v4(number), side.v6(number)), plugs })
        };
        let mut ports = vec![
            port("gateway", vec![(OUTSIDE_INTERFACE, Side::Outside, 1), (INSIDE_INTERFACE, Side::Inside, 1)])?,
            port("client", vec![(HOST_INTERFACE, client, 10)])?,
            port("stranger", vec![(HOST_INTERFACE, Side::Outside, 66)])?,
        ];
        for (i, number) in (0..options.servers).zip(100u8..) {
            // The first is plainly "server".
            let name = if i == 0 { "server".to_owned() } else { format!("server{i}") };
            ports.push(port(&name, vec![(HOST_INTERFACE, server, number)])?);
        }
        Ok(Self { ns, ports })
    }

    fn connect(&self) -> Result<()> {
        self.ns.sysctl(&[("net/ipv6/conf/all/disable_ipv6", "1"), ("net/ipv6/conf/default/disable_ipv6", "1")])?;
        let mut batch = String::new();
        for side in [Side::Outside, Side::Inside] {
            let bridge = side.bridge();
            // No learning phase, no snooping of neighbour discovery: what is plugged in is reachable at once.
            push(
                &mut batch,
                format_args!("link add {bridge} type bridge forward_delay 0 stp_state 0 mcast_snooping 0"),
            );
            push(&mut batch, format_args!("link set {bridge} up"));
        }
        for (n, Port { host, plugs }) in self.ports.iter().enumerate() {
            for (m, (interface, side, _)) in plugs.iter().enumerate() {
                let (peer, bridge) = (format!("p{n}.{m}"), side.bridge());
                let ns = host.namespace().name();
                push(&mut batch, format_args!("link add {peer} type veth peer name {interface} netns {ns}"));
                push(&mut batch, format_args!("link set {peer} master {bridge} up"));
            }
        }
        // Before the interfaces are there, so that they begin with it.
        for Port { host, .. } in &self.ports {
            host.namespace().sysctl(&[
                ("net/ipv6/conf/default/accept_dad", "0"),
                ("net/ipv6/conf/all/accept_dad", "0"),
                ("net/ipv6/conf/default/accept_ra", "0"),
            ])?;
        }
        self.ns.ip_batch(&batch)?;
        for Port { host, plugs } in &self.ports {
            let mut batch = String::new();
            push(&mut batch, format_args!("link set lo up"));
            for &(interface, side, number) in plugs {
                push(&mut batch, format_args!("link set {interface} up"));
                push(&mut batch, format_args!("addr add {}/24 dev {interface}", side.v4(number)));
                push(&mut batch, format_args!("addr add {}/64 dev {interface} nodad", side.v6(number)));
            }
            // Whoever has one interface has the gateway behind it.
            if let [(_, side, _)] = plugs[..] {
                push(&mut batch, format_args!("route add default via {}", side.v4(1)));
                push(&mut batch, format_args!("route add ::/0 via {}", side.v6(1)));
            }
            host.namespace().ip_batch(&batch)?;
        }
        Ok(())
    }
}

fn push(batch: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(batch, "{line}");
}

fn unique_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("r{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The file in which a host's work goes: a directory of the lab.
pub(crate) fn subdirectory(of: &Path, name: &str) -> Result<PathBuf> {
    let path = of.join(name);
    std::fs::create_dir_all(&path).map_err(LabError::io(format!("can't make {}", path.display())))?;
    set_mode(&path, 0o755)?;
    Ok(path)
}

pub(crate) fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(LabError::io(format!("can't change the permissions of {}", path.display())))
}
