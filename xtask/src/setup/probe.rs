//! How to find out whether what is needed is there.

use std::{env, path::Path, process::Command};

use crate::{
    host::{Host, Rights, output_of},
    setup::{
        libraries,
        servers::Packages,
        version::{BPF_LINKER, Version},
    },
};

/// How to find out whether something is there.
#[derive(Clone, Copy)]
pub(super) enum Probe {
    /// By a look of its own.
    Fact(fn(&Host) -> bool),
    /// A program of this name.
    Program(&'static str),
    /// A program of this name that calls itself at least this version.
    Version(&'static str, Version),
    /// A library that the dynamic linker finds.
    Library(&'static str),
    /// A server that was unpacked.
    Server(&'static Packages<'static>),
}

impl Probe {
    /// Whether it is there.
    pub(super) fn succeeds(self, host: &Host) -> bool {
        match self {
            Self::Fact(fact) => fact(host),
            Self::Program(name) => host.program(name).is_some(),
            Self::Version(name, version) => has_version(host, name, version),
            Self::Library(soname) => libraries::has_library(host, soname),
            Self::Server(server) => server.is_in(&host.lab_servers()),
        }
    }
}

/// Mirrors the choice of ftp-helper's build script.
pub(super) fn has_bpf_compiler(host: &Host) -> bool {
    if ["OBJECT", "RUSTC", "TOOLCHAIN"].iter().any(|v| env::var_os(format!("FTP_HELPER_BPF_{v}")).is_some()) {
        return true;
    }
    let target = if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
    let ready = |rustc: &Path| {
        let sysroot = output_of(Command::new(rustc).args(["--print", "sysroot"]));
        sysroot.is_some_and(|s| Path::new(&s).join("lib/rustlib").join(target).join("lib").is_dir())
    };
    if ready(Path::new("/usr/bin/rustc")) || host.program("rustc").is_some_and(|rustc| ready(&rustc)) {
        return true;
    }
    let nightly = output_of(Command::new("rustup").args(["which", "--toolchain", "nightly", "rustc"]));
    let sysroot = nightly.and_then(|rustc| Some(Path::new(&rustc).parent()?.parent()?.to_path_buf()));
    sysroot.is_some_and(|s| s.join("lib/rustlib/src/rust/library/core").is_dir())
}

pub(super) fn has_bpf_linker(host: &Host) -> bool {
    let given = ["BPF_LINKER", "FTP_HELPER_BPF_OBJECT"].iter().any(|v| env::var_os(v).is_some());
    given || has_version(host, "bpf-linker", BPF_LINKER)
}

pub(super) fn has_cargo_command(host: &Host, name: &str) -> bool {
    output_of(crate::command::cargo(host).args([name, "--version"])).is_some()
}

/// Debian's python3 has it, whatever other python3 comes first in `PATH`.
pub(super) fn has_pyftpdlib(_: &Host) -> bool {
    has_modules("'pyftpdlib'")
}

pub(super) fn has_firewalld_libraries(_: &Host) -> bool {
    has_modules("'dbus', 'gi', 'nftables'")
}

/// Whether a table of mounts has the BPF file system where it belongs.
pub(super) fn has_bpffs(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ');
        fields.nth(1) == Some("/sys/fs/bpf") && fields.next() == Some("bpf")
    })
}

/// Tried where we may be root; without the right to, the tests that need it say so themselves.
pub(super) fn can_unshare(host: &Host) -> bool {
    if host.rights == Rights::None {
        return true;
    }
    let argv = ["unshare", "--net", "--mount", "true"].map(str::to_owned);
    output_of(&mut crate::command::as_root(host, &argv)).is_some()
}

fn has_version(host: &Host, program: &str, wanted: Version) -> bool {
    host.program(program).and_then(|program| Version::of(&program)).is_some_and(|version| version >= wanted)
}

/// Whether Debian's Python has modules, quoted and separated by commas.
fn has_modules(names: &str) -> bool {
    let look = format!("import importlib.util as u, sys; sys.exit(any(u.find_spec(m) is None for m in [{names}]))");
    output_of(Command::new("/usr/bin/python3").args(["-c", &look])).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bpf_file_system_is_found_by_place_and_type() {
        assert!(has_bpffs("sysfs /sys sysfs rw 0 0\nbpf /sys/fs/bpf bpf rw,nosuid 0 0\n"));
        assert!(has_bpffs("none /sys/fs/bpf bpf rw 0 0\n"));
        assert!(!has_bpffs("bpf /mnt bpf rw 0 0\ntmpfs /sys/fs/bpf tmpfs rw 0 0\n"));
        assert!(!has_bpffs(""));
    }
}
