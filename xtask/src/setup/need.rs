//! What it takes to build, run and test ftp-helper: what, why, how to find out whether it is there, where it comes from.

use std::{fs, path::Path};

use crate::{
    host::Host,
    setup::{
        probe::{self, Probe},
        servers::{self, Packages},
        version::{BPF_LINKER, CARGO_DEB, CARGO_DENY, CARGO_FUZZ, KERNEL, MDBOOK, Version},
    },
};

/// How tools are built whose own speed matters less than that of their compilation.
const QUICKLY: &[&str] = &["--debug", "--config", "profile.dev.debug=false"];

/// One thing that a task needs.
pub(crate) struct Need {
    /// Its name.
    pub(crate) what: &'static str,
    /// What for.
    pub(crate) why: &'static str,
    /// Which tasks need it.
    pub(crate) purpose: Purpose,
    /// Whether it is there.
    probe: Probe,
    /// How to get it.
    pub(crate) remedy: Remedy,
}

/// Which tasks need something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// Building.
    Build,
    /// Networks of namespaces with real servers and clients: demo and end-to-end tests.
    Lab,
    /// Loading programs into the kernel: demo, tests and benchmarks.
    Kernel,
    /// The checks of the sources.
    Checks,
    /// Fuzzing.
    Fuzz,
    /// Coverage of the tests.
    Coverage,
    /// Virtual machines with other kernels.
    Machines,
    /// Packages, and trying them.
    Package,
    /// The documentation as a book.
    Book,
}

impl Purpose {
    /// Everything.
    pub(crate) const ALL: [Self; 9] = [
        Self::Build,
        Self::Lab,
        Self::Kernel,
        Self::Checks,
        Self::Fuzz,
        Self::Coverage,
        Self::Machines,
        Self::Package,
        Self::Book,
    ];
}

/// How to get something.
#[derive(Clone, Copy)]
pub(crate) enum Remedy {
    /// Debian's packages; elsewhere what is said.
    Apt {
        /// The packages of Debian 12.
        packages: &'static [&'static str],
        /// What another distribution needs.
        elsewhere: &'static str,
    },
    /// `cargo install`.
    Crate {
        /// The crate.
        name: &'static str,
        /// Its version.
        version: Version,
        /// Further words for cargo.
        options: &'static [&'static str],
        /// How long it takes to build, for people.
        takes: &'static str,
    },
    /// `rustup component add`.
    Component(&'static str),
    /// Debian's packages, unpacked into a directory of their own since they exclude one another.
    Server(&'static Packages<'static>),
    /// Mounting the BPF file system.
    MountBpffs,
    /// Nothing that could be installed: what the reader has to change.
    Host(&'static str),
}

/// firewalld: installed, it would take over the firewall of the host.
static FIREWALLD: Packages<'static> = Packages {
    name: "firewalld",
    dir: "firewalld",
    server: &["firewalld", "python3-firewall"],
    libraries: &[],
    files: &[
        "usr/sbin/firewalld",
        "usr/bin/firewall-cmd",
        "usr/lib/firewalld/zones/public.xml",
        "usr/lib/python3/dist-packages/firewall/client.py",
    ],
};

/// Prometheus: installed, it would start a service on the host.
static PROMETHEUS: Packages<'static> = Packages {
    name: "Prometheus",
    dir: "prometheus",
    server: &["prometheus"],
    libraries: &[],
    files: &["usr/bin/prometheus", "usr/bin/promtool"],
};

/// What a virtual machine has for a shell: linked with nothing.
pub(crate) static BUSYBOX: Packages<'static> =
    Packages { name: "BusyBox", dir: "busybox", server: &["busybox-static"], libraries: &[], files: &["bin/busybox"] };

/// Everything that is needed, in the order in which it is told.
pub(crate) static NEEDS: &[Need] = &[
    Need {
        what: "a rustc for BPF",
        why: "compiles the programs that run in the kernel",
        purpose: Purpose::Build,
        probe: Probe::Fact(probe::has_bpf_compiler),
        remedy: Remedy::Apt {
            packages: &["rustc-web", "libstd-rust-web-dev-bpf"],
            elsewhere: "rustup toolchain install nightly --component rust-src",
        },
    },
    Need {
        what: "bpf-linker",
        why: "links them",
        purpose: Purpose::Build,
        probe: Probe::Fact(probe::has_bpf_linker),
        remedy: Remedy::Crate { name: "bpf-linker", version: BPF_LINKER, options: &[], takes: "a minute or two" },
    },
    program("ip", "lays out the lab's namespaces and links", &["iproute2"]),
    program("nft", "loads the lab's rulesets, packet loss among them", &["nftables"]),
    program("curl", "an FTP client of the lab", &["curl"]),
    program("lftp", "an FTP client of the lab", &["lftp"]),
    program("tnftp", "an FTP client of the lab", &["tnftp"]),
    program("tcpdump", "shows what went over the lab's wires", &["tcpdump"]),
    Need {
        what: "pyftpdlib",
        why: "an FTP server of the lab",
        purpose: Purpose::Lab,
        probe: Probe::Fact(probe::has_pyftpdlib),
        remedy: Remedy::Apt {
            packages: &["python3-pyftpdlib"],
            elsewhere: "pyftpdlib for /usr/bin/python3, version 1.5",
        },
    },
    program("iptables", "writes a ruleset that `doctor` is tried on", &["iptables"]),
    program("dbus-daemon", "firewalld talks by it", &["dbus-daemon"]),
    program("tmux", "the terminal that `top` is tried in", &["tmux"]),
    program("systemd-analyze", "tells how much the units leave to an attacker; its systemd runs them", &["systemd"]),
    Need {
        what: "firewalld's libraries",
        why: "firewalld is written in Python",
        purpose: Purpose::Lab,
        probe: Probe::Fact(probe::has_firewalld_libraries),
        remedy: Remedy::Apt {
            packages: &["python3-dbus", "python3-gi", "gir1.2-glib-2.0", "python3-nftables"],
            elsewhere: "dbus, gi and nftables for /usr/bin/python3",
        },
    },
    Need {
        what: "firewalld",
        why: "writes a ruleset that `doctor` is tried on",
        purpose: Purpose::Lab,
        probe: Probe::Server(&FIREWALLD),
        remedy: Remedy::Server(&FIREWALLD),
    },
    Need {
        what: PROMETHEUS.name,
        why: "reads the metrics, and evaluates the alert rules and the dashboard",
        purpose: Purpose::Lab,
        probe: Probe::Server(&PROMETHEUS),
        remedy: Remedy::Server(&PROMETHEUS),
    },
    server(&servers::VSFTPD),
    server(&servers::PROFTPD),
    server(&servers::PURE_FTPD),
    library("libacl.so.1", "ProFTPD is linked with it", &["libacl1"]),
    library("libcap.so.2", "all three servers are linked with it", &["libcap2"]),
    library("libhiredis.so.0.14", "ProFTPD is linked with it", &["libhiredis0.14"]),
    library("libidn2.so.0", "ProFTPD is linked with it", &["libidn2-0"]),
    library("libmemcached.so.11", "ProFTPD is linked with it", &["libmemcached11"]),
    library("libmemcachedutil.so.2", "ProFTPD is linked with it", &["libmemcachedutil2"]),
    library("libncursesw.so.6", "ProFTPD is linked with it", &["libncursesw6"]),
    library("libpam.so.0", "all three servers are linked with it", &["libpam0g"]),
    library("libpcre2-posix.so.3", "ProFTPD is linked with it", &["libpcre2-posix3"]),
    library("libsodium.so.23", "ProFTPD and Pure-FTPd are linked with it", &["libsodium23"]),
    library("libssl.so.3", "all three servers are linked with it", &["libssl3"]),
    library("libwrap.so.0", "vsftpd is linked with it", &["libwrap0"]),
    component("rustfmt", "checks how the sources are laid out", |host| probe::has_cargo_command(host, "fmt")),
    component("clippy", "lints the sources", |host| probe::has_cargo_command(host, "clippy")),
    Need {
        what: "cargo-deny",
        why: "checks the licences and the origin of the dependencies",
        purpose: Purpose::Checks,
        probe: Probe::Version("cargo-deny", CARGO_DENY),
        remedy: Remedy::Crate { name: "cargo-deny", version: CARGO_DENY, options: QUICKLY, takes: "some two minutes" },
    },
    Need {
        what: "mdbook",
        why: "makes a book of the documentation",
        purpose: Purpose::Book,
        probe: Probe::Version("mdbook", MDBOOK),
        // Without its web server.
        remedy: Remedy::Crate {
            name: "mdbook",
            version: MDBOOK,
            options: &[
                "--no-default-features",
                "--features",
                "search",
                "--debug",
                "--config",
                "profile.dev.debug=false",
            ],
            takes: "some two minutes",
        },
    },
    Need {
        what: "cargo-fuzz",
        why: "builds the fuzz targets",
        purpose: Purpose::Fuzz,
        probe: Probe::Version("cargo-fuzz", CARGO_FUZZ),
        remedy: Remedy::Crate { name: "cargo-fuzz", version: CARGO_FUZZ, options: QUICKLY, takes: "about a minute" },
    },
    Need {
        what: "a C++ compiler",
        why: "compiles libFuzzer",
        purpose: Purpose::Fuzz,
        probe: Probe::Program("c++"),
        remedy: Remedy::Apt { packages: &["g++"], elsewhere: "g++" },
    },
    Need {
        what: "llvm-profdata, llvm-cov",
        why: "read what a program with coverage writes; of the version of rustc's LLVM",
        purpose: Purpose::Coverage,
        probe: Probe::Fact(crate::coverage::has_tools),
        remedy: Remedy::Apt { packages: &["llvm-22"], elsewhere: "llvm of the version that `rustc -vV` names" },
    },
    machine("qemu-system-x86_64", "boots other kernels", &["qemu-system-x86"]),
    machine("cpio", "packs the file system that they boot with", &["cpio"]),
    machine("depmod", "lists those kernels' modules", &["kmod"]),
    machine("strip", "makes the test programs small enough for it", &["binutils"]),
    Need {
        what: BUSYBOX.name,
        why: "the shell of those machines",
        purpose: Purpose::Machines,
        probe: Probe::Server(&BUSYBOX),
        remedy: Remedy::Server(&BUSYBOX),
    },
    Need {
        what: "cargo-deb",
        why: "packs the Debian package",
        purpose: Purpose::Package,
        probe: Probe::Version("cargo-deb", CARGO_DEB),
        remedy: Remedy::Crate { name: "cargo-deb", version: CARGO_DEB, options: QUICKLY, takes: "about a minute" },
    },
    Need {
        what: "debootstrap",
        why: "makes the fresh system that the package is tried in",
        purpose: Purpose::Package,
        probe: Probe::Program("debootstrap"),
        remedy: Remedy::Apt { packages: &["debootstrap"], elsewhere: "debootstrap" },
    },
    Need {
        what: "dpkg-shlibdeps",
        why: "finds out what the program depends on",
        purpose: Purpose::Package,
        probe: Probe::Program("dpkg-shlibdeps"),
        remedy: Remedy::Apt { packages: &["dpkg-dev"], elsewhere: "dpkg-dev" },
    },
    Need {
        what: "BPF file system",
        why: "where maps and programs are pinned",
        purpose: Purpose::Kernel,
        probe: Probe::Fact(|_| fs::read_to_string("/proc/self/mounts").is_ok_and(|mounts| probe::has_bpffs(&mounts))),
        remedy: Remedy::MountBpffs,
    },
    Need {
        what: "kernel",
        why: "6.1 is the oldest that ftp-helper runs on",
        purpose: Purpose::Kernel,
        probe: Probe::Fact(|_| {
            let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
            Version::parse(&release).is_some_and(|v| v >= KERNEL)
        }),
        remedy: Remedy::Host("boot a kernel of version 6.1 or later"),
    },
    Need {
        what: "kernel types",
        why: "/sys/kernel/btf/vmlinux, which the BPF loader reads",
        purpose: Purpose::Kernel,
        probe: Probe::Fact(|_| Path::new("/sys/kernel/btf/vmlinux").is_file()),
        remedy: Remedy::Host("boot a kernel built with CONFIG_DEBUG_INFO_BTF=y"),
    },
    Need {
        what: "IPv6",
        why: "half of the lab's transfers",
        purpose: Purpose::Lab,
        probe: Probe::Fact(|_| Path::new("/proc/sys/net/ipv6/conf").is_dir()),
        remedy: Remedy::Host("boot without ipv6.disable=1 (net.ipv6.conf.*.disable_ipv6 of this host does not matter)"),
    },
    Need {
        what: "namespaces",
        why: "the lab's hosts",
        purpose: Purpose::Lab,
        probe: Probe::Fact(probe::can_unshare),
        remedy: Remedy::Host(
            "root may not make network namespaces here: give the container CAP_SYS_ADMIN and CAP_NET_ADMIN",
        ),
    },
];

impl Need {
    /// Whether it is there.
    pub(crate) fn is_met(&self, host: &Host) -> bool {
        self.probe.succeeds(host)
    }
}

/// A program of the lab; elsewhere its package is called the same.
const fn program(name: &'static str, why: &'static str, packages: &'static [&'static str]) -> Need {
    let remedy = Remedy::Apt { packages, elsewhere: packages[0] };
    Need { what: name, why, purpose: Purpose::Lab, probe: Probe::Program(name), remedy }
}

/// A program for virtual machines; elsewhere its package is called the same.
const fn machine(name: &'static str, why: &'static str, packages: &'static [&'static str]) -> Need {
    let remedy = Remedy::Apt { packages, elsewhere: packages[0] };
    Need { what: name, why, purpose: Purpose::Machines, probe: Probe::Program(name), remedy }
}

/// A library of a server that is unpacked, not installed.
const fn library(soname: &'static str, why: &'static str, packages: &'static [&'static str]) -> Need {
    let remedy = Remedy::Apt { packages, elsewhere: soname };
    Need { what: soname, why, purpose: Purpose::Lab, probe: Probe::Library(soname), remedy }
}

/// A server of the lab.
const fn server(server: &'static Packages<'static>) -> Need {
    let why = "an FTP server of the lab";
    Need { what: server.name, why, purpose: Purpose::Lab, probe: Probe::Server(server), remedy: Remedy::Server(server) }
}

/// A component of the Rust toolchain.
const fn component(name: &'static str, why: &'static str, fact: fn(&Host) -> bool) -> Need {
    let remedy = Remedy::Component(name);
    Need { what: name, why, purpose: Purpose::Checks, probe: Probe::Fact(fact), remedy }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_need_has_a_name_of_its_own() {
        let mut names: Vec<_> = NEEDS.iter().map(|need| need.what).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), NEEDS.len());
    }
}
