//! Debian's packages of the real servers, downloaded and unpacked, not installed: they exclude one another
//! (`Conflicts: ftp-server`), and would start a service on the host.
//!
//! Nothing but `std`: set-up compiles this file as well (`xtask/src/setup`), which needs the servers on hosts that can't
//! build ftp-helper yet.

use std::{
    fs, io,
    path::Path,
    process::{Command, Stdio},
};

/// A server, and where it comes from.
#[derive(Debug)]
pub(crate) struct Packages<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// Its directory among the servers.
    pub(crate) dir: &'a str,
    /// The packages that hold it.
    pub(crate) server: &'a [&'a str],
    /// Those of its libraries that a plain system lacks.
    pub(crate) libraries: &'a [&'a str],
    /// A file of each of the server's packages.
    pub(crate) files: &'a [&'a str],
}

/// vsftpd.
pub(crate) static VSFTPD: Packages<'static> = Packages {
    name: "vsftpd",
    dir: "vsftpd",
    server: &["vsftpd"],
    libraries: &["libwrap0", "libnsl2", "libtirpc3"],
    files: &["usr/sbin/vsftpd"],
};

/// ProFTPD, with TLS.
pub(crate) static PROFTPD: Packages<'static> = Packages {
    name: "ProFTPD",
    dir: "proftpd",
    server: &["proftpd-core", "proftpd-mod-crypto"],
    libraries: &["libhiredis0.14", "libmemcached11", "libmemcachedutil2", "libpcre2-posix3", "libsodium23"],
    files: &["usr/sbin/proftpd", "usr/lib/proftpd/mod_tls.so"],
};

/// Pure-FTPd.
pub(crate) static PURE_FTPD: Packages<'static> = Packages {
    name: "Pure-FTPd",
    dir: "pureftpd",
    server: &["pure-ftpd", "pure-ftpd-common"],
    libraries: &["libsodium23"],
    files: &["usr/sbin/pure-ftpd", "usr/bin/pure-pw", "etc/pure-ftpd/pure-ftpd.conf"],
};

impl Packages<'_> {
    /// Whether the server is in this directory of servers, whole.
    pub(crate) fn is_in(&self, servers: &Path) -> bool {
        self.files.iter().all(|file| servers.join(self.dir).join(file).is_file())
    }

    /// Where a file of the packages is.
    #[allow(dead_code, reason = "set-up compiles this file as well, and uses another part of it")]
    pub(crate) fn file(&self, servers: &Path, file: &str) -> std::path::PathBuf {
        servers.join(self.dir).join(file)
    }

    /// Downloads the packages and unpacks them into the directory of servers. What is there already is replaced at the
    /// very end, so that an interrupted run leaves nothing that looks whole. `root` says whether this is root.
    ///
    /// # Errors
    /// A message: the packages can't be had, or a directory can't be written.
    pub(crate) fn unpack(&self, servers: &Path, root: bool) -> Result<(), String> {
        let work = servers.join(format!(".{}-{}", self.dir, std::process::id()));
        let result = self.unpack_by(&work, servers, root);
        let removed = remove(&work);
        result.and(removed)
    }

    fn unpack_by(&self, work: &Path, servers: &Path, root: bool) -> Result<(), String> {
        let (packages, tree, dir) = (work.join("packages"), work.join("tree"), servers.join(self.dir));
        remove(work)?;
        for dir in [&packages, &tree] {
            fs::create_dir_all(dir).map_err(|e| format!("can't make {}: {e}", dir.display()))?;
        }
        let mut download = Command::new("apt-get");
        download.current_dir(&packages).args(["--quiet", "download"]).args(self.server).args(self.libraries);
        if root {
            // Else apt changes to a user who may not write here, and warns.
            download.args(["-o", "APT::Sandbox::User=root"]);
        }
        run(download).map_err(|e| format!("{e}\nif the lists of packages are old, `apt-get update` renews them"))?;
        let read = |e: io::Error| format!("can't read {}: {e}", packages.display());
        for package in fs::read_dir(&packages).map_err(read)? {
            let package = package.map_err(read)?.path();
            if package.extension().is_some_and(|e| e == "deb") {
                let mut dpkg = Command::new("dpkg");
                dpkg.arg("-x").arg(&package).arg(&tree);
                run(dpkg)?;
            }
        }
        let missing: Vec<_> = self.files.iter().filter(|file| !tree.join(file).is_file()).collect();
        if !missing.is_empty() {
            return Err(format!(
                "Debian's packages {:?} do not hold {missing:?}: this is not Debian 12's archive",
                self.server
            ));
        }
        remove(&dir)?;
        fs::rename(&tree, &dir).map_err(|e| format!("can't move {} to {}: {e}", tree.display(), dir.display()))
    }
}

fn run(mut command: Command) -> Result<(), String> {
    let line = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("can't start {line}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(format!("{line}: {}\n{}", output.status, String::from_utf8_lossy(&said).trim()))
}

fn remove(dir: &Path) -> Result<(), String> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(format!("can't remove {}: {e}", dir.display())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_there_when_all_its_files_are() {
        let root = std::env::temp_dir().join(format!("ftp-helper-packages-{}", std::process::id()));
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
        remove(&root).expect("it was there");
        assert_eq!(seen, [false, false, true]);
    }

    #[test]
    fn what_can_not_be_downloaded_leaves_nothing() {
        let root = std::env::temp_dir().join(format!("ftp-helper-no-packages-{}", std::process::id()));
        let none =
            Packages { name: "none", dir: "none", server: &["no-such-package-anywhere"], libraries: &[], files: &[] };
        let message = none.unpack(&root, true).expect_err("there is no such package");
        assert!(message.contains("no-such-package-anywhere"), "{message}");
        let left = fs::read_dir(&root).map(Iterator::count);
        remove(&root).expect("it was there");
        assert_eq!(left.expect("the directory of servers"), 0);
    }
}
