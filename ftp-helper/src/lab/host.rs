//! One host of the lab.

use std::{
    ffi::OsStr,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::RawFd,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use super::{
    clients::Family,
    error::Result,
    netns::{self, Namespace},
    registry::Entry,
};

/// A host: a network namespace with an address of each family. It keeps its lab standing.
#[derive(Clone, Debug)]
pub struct Host {
    entry: Arc<Entry>,
    name: String,
    ns: Namespace,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

impl Host {
    pub(crate) fn new(entry: Arc<Entry>, name: &str, ns: Namespace, v4: Ipv4Addr, v6: Ipv6Addr) -> Self {
        Self { entry, name: name.to_owned(), ns, v4, v6 }
    }

    /// Its name in the lab: `client`, `gateway`, `stranger`, `server`, `server1` …
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace's name, for `ip netns exec`.
    #[must_use]
    pub fn namespace_name(&self) -> &str {
        self.ns.name()
    }

    /// The namespace's file, for `nsenter --net=`.
    #[must_use]
    pub fn namespace_path(&self) -> PathBuf {
        netns::path(self.ns.name())
    }

    /// The namespace's open file, for setns(2); valid while the host lives.
    #[must_use]
    pub fn namespace_fd(&self) -> RawFd {
        self.ns.raw_fd()
    }

    /// The IPv4 address; the gateway's is the outside one.
    #[must_use]
    pub fn v4(&self) -> Ipv4Addr {
        self.v4
    }

    /// The IPv6 address; the gateway's is the outside one.
    #[must_use]
    pub fn v6(&self) -> Ipv6Addr {
        self.v6
    }

    /// The address of a family.
    #[must_use]
    pub fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    /// The lab's directory, removed with it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.entry.directory()
    }

    /// A command that will run on this host. Only the network is the host's own: files, /sys included, are not.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.ns.command(program)
    }

    /// Runs `f` on a thread of its own on this host. Sockets made there stay on this host, whoever uses them later;
    /// threads and runtimes started there are on this host too. A panic of `f` goes on in the caller.
    ///
    /// # Errors
    /// When the thread can't be started or the namespace can't be entered.
    pub fn run_in<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        self.ns.run_in(f)
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        &self.ns
    }
}
