//! The real FTP servers of the lab. Debian's packages exclude one another (`Conflicts: ftp-server`), and would start a
//! service on the host: they are unpacked into directories of their own instead of being installed.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    command,
    host::{Host, Rights, output_of},
};

/// A server that is unpacked, not installed.
#[derive(Debug)]
pub(crate) struct Server {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its directory among the lab's servers.
    pub(crate) dir: &'static str,
    /// Debian's packages.
    pub(crate) packages: &'static [&'static str],
    /// A file of each package that must be there.
    files: &'static [&'static str],
}

/// The servers.
pub(crate) static SERVERS: [Server; 3] = [
    Server { name: "vsftpd", dir: "vsftpd", packages: &["vsftpd"], files: &["usr/sbin/vsftpd"] },
    Server {
        name: "ProFTPD",
        dir: "proftpd",
        packages: &["proftpd-core", "proftpd-mod-crypto"],
        files: &["usr/sbin/proftpd", "usr/lib/proftpd/mod_tls.so"],
    },
    Server {
        name: "Pure-FTPd",
        dir: "pureftpd",
        packages: &["pure-ftpd", "pure-ftpd-common"],
        files: &["usr/sbin/pure-ftpd", "usr/sbin/pure-ftpd-wrapper"],
    },
];

/// Debian's packages of the libraries that these servers are linked with, beyond libc.
pub(crate) const LIBRARIES: &[&str] = &[
    "libacl1",
    "libcap2",
    "libhiredis0.14",
    "libidn2-0",
    "libmemcached11",
    "libmemcachedutil2",
    "libncursesw6",
    "libpam0g",
    "libpcre2-posix3",
    "libsodium23",
    "libssl3",
    "libwrap0",
];

/// The libraries themselves, in the order of [`LIBRARIES`].
const SONAMES: &[&str] = &[
    "libacl.so.1",
    "libcap.so.2",
    "libhiredis.so.0.14",
    "libidn2.so.0",
    "libmemcached.so.11",
    "libmemcachedutil.so.2",
    "libncursesw.so.6",
    "libpam.so.0",
    "libpcre2-posix.so.3",
    "libsodium.so.23",
    "libssl.so.3",
    "libwrap.so.0",
];

impl Server {
    /// Whether it is where the lab looks for it.
    pub(crate) fn is_unpacked(&self, host: &Host) -> bool {
        let dir = host.lab_servers().join(self.dir);
        self.files.iter().all(|file| dir.join(file).is_file())
    }

    /// Downloads Debian's packages and unpacks them. What is there already is replaced at the very end, so that an
    /// interrupted run leaves nothing that looks whole.
    ///
    /// # Errors
    /// The packages can't be had, or a directory can't be written.
    pub(crate) fn unpack(&self, host: &Host) -> Result<()> {
        let servers = host.lab_servers();
        let new = servers.join(format!(".{}.new", self.dir));
        let (packages, tree) = (new.join("packages"), new.join("tree"));
        remove(&new)?;
        for dir in [&packages, &tree] {
            fs::create_dir_all(dir).with_context(|| format!("can't make {}", dir.display()))?;
        }
        let mut download = Command::new("apt-get");
        download.current_dir(&packages).arg("download").args(self.packages);
        if host.rights == Rights::Root {
            // Else apt changes to a user who may not write here, and warns.
            download.args(["-o", "APT::Sandbox::User=root"]);
        }
        quietly(&mut download).context("if the lists of packages are old, `apt-get update` renews them")?;
        for package in debs(&packages)? {
            quietly(Command::new("dpkg").arg("-x").arg(&package).arg(&tree))?;
        }
        let missing: Vec<_> = self.files.iter().filter(|file| !tree.join(file).is_file()).collect();
        if !missing.is_empty() {
            bail!("Debian's packages {:?} do not hold {missing:?}: this is not Debian 12's archive", self.packages);
        }
        let dir = servers.join(self.dir);
        remove(&dir)?;
        fs::rename(&tree, &dir).with_context(|| format!("can't move {} to {}", tree.display(), dir.display()))?;
        remove(&new)
    }
}

/// Whether the dynamic linker finds every library.
pub(crate) fn has_libraries(host: &Host) -> bool {
    let Some(ldconfig) = host.program("ldconfig") else { return false };
    output_of(Command::new(ldconfig).arg("-p")).is_some_and(|cache| lacking(&cache).next().is_none())
}

/// Which libraries a listing of `ldconfig -p` lacks.
fn lacking(cache: &str) -> impl Iterator<Item = &'static str> {
    SONAMES.iter().copied().filter(|name| !cache.lines().any(|line| line.split_whitespace().next() == Some(name)))
}

/// Runs a command whose output matters only when it fails.
fn quietly(command: &mut Command) -> Result<()> {
    let line = command::line(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("can't start: {line}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("failed ({}): {line}\n{}", output.status, said.trim_end());
    }
    Ok(())
}

fn debs(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("can't read {}", dir.display()))?;
    let mut debs = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("can't read {}", dir.display()))?.path();
        if path.extension() == Some(OsStr::new("deb")) {
            debs.push(path);
        }
    }
    Ok(debs)
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("can't remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_by_their_whole_name() {
        let cache: String = SONAMES.iter().map(|name| format!("\t{name} (libc6,x86-64) => /lib/{name}\n")).collect();
        assert_eq!(lacking(&cache).next(), None);
        let cache = cache.replace("\tlibwrap.so.0 ", "\tlibwrap.so.01 ").replace("\tlibssl.so.3 ", "\tlibssl.so ");
        assert_eq!(lacking(&cache).collect::<Vec<_>>(), ["libssl.so.3", "libwrap.so.0"]);
    }

    #[test]
    fn each_library_has_its_package() {
        assert_eq!(LIBRARIES.len(), SONAMES.len());
        for (package, soname) in LIBRARIES.iter().zip(SONAMES) {
            let stem = soname.split(".so").next().expect("it has a stem");
            assert!(package.starts_with(stem), "{package} {soname}");
        }
    }
}
