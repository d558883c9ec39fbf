//! The real FTP servers of the lab, and firewalld. Debian's packages exclude one another (`Conflicts: ftp-server`), and would start a
//! service on the host: they are unpacked into directories of their own instead of being installed.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
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

/// vsftpd.
pub(crate) static VSFTPD: Server =
    Server { name: "vsftpd", dir: "vsftpd", packages: &["vsftpd"], files: &["usr/sbin/vsftpd"] };

/// ProFTPD, with TLS.
pub(crate) static PROFTPD: Server = Server {
    name: "ProFTPD",
    dir: "proftpd",
    packages: &["proftpd-core", "proftpd-mod-crypto"],
    files: &["usr/sbin/proftpd", "usr/lib/proftpd/mod_tls.so"],
};

/// Pure-FTPd.
pub(crate) static PURE_FTPD: Server = Server {
    name: "Pure-FTPd",
    dir: "pureftpd",
    packages: &["pure-ftpd", "pure-ftpd-common"],
    files: &["usr/sbin/pure-ftpd", "usr/bin/pure-pw", "etc/pure-ftpd/pure-ftpd.conf"],
};

/// firewalld: installed, it would take over the firewall of the host.
pub(crate) static FIREWALLD: Server = Server {
    name: "firewalld",
    dir: "firewalld",
    packages: &["firewalld", "python3-firewall"],
    files: &[
        "usr/sbin/firewalld",
        "usr/bin/firewall-cmd",
        "usr/lib/firewalld/zones/public.xml",
        "usr/lib/python3/dist-packages/firewall/client.py",
    ],
};

impl Server {
    /// Whether it is where the lab looks for it.
    pub(crate) fn is_unpacked(&self, host: &Host) -> bool {
        self.is_in(&host.lab_servers())
    }

    fn is_in(&self, servers: &Path) -> bool {
        self.files.iter().all(|file| servers.join(self.dir).join(file).is_file())
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
        command::run_quietly(&mut download)
            .context("if the lists of packages are old, `apt-get update` renews them")?;
        for package in debs(&packages)? {
            command::run_quietly(Command::new("dpkg").arg("-x").arg(&package).arg(&tree))?;
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

/// Whether the dynamic linker finds a library.
pub(crate) fn has_library(host: &Host, soname: &str) -> bool {
    let Some(ldconfig) = host.program("ldconfig") else { return false };
    output_of(Command::new(ldconfig).arg("-p")).is_some_and(|cache| lists(&cache, soname))
}

/// Whether a listing of `ldconfig -p` has a library.
fn lists(cache: &str, soname: &str) -> bool {
    cache.lines().any(|line| line.split_whitespace().next() == Some(soname))
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
        let cache =
            "2 libs found in cache\n\tlibwrap.so.01 (libc6,x86-64) => /lib/a\n\tlibssl.so.3 (libc6) => /lib/b\n";
        assert!(lists(cache, "libssl.so.3"));
        assert!(!lists(cache, "libwrap.so.0") && !lists(cache, "libssl.so") && !lists("", "libssl.so.3"));
    }

    #[test]
    fn a_server_is_there_when_all_its_files_are() {
        let root = std::env::temp_dir().join(format!("ftp-helper-xtask-servers-{}", std::process::id()));
        let touch = |file: &str| {
            let path = root.join(PROFTPD.dir).join(file);
            fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
            fs::write(path, "").expect("a file");
        };
        let mut seen = vec![PROFTPD.is_in(&root)];
        for file in PROFTPD.files {
            touch(file);
            seen.push(PROFTPD.is_in(&root));
        }
        fs::remove_dir_all(&root).expect("it was there");
        assert_eq!(seen, [false, false, true]);
    }
}
