//! Fetches the servers that Debian packages so that only one of them can be installed at a time.

use std::{path::Path, process::Command};

use crate::lab::{
    error::{LabError, Result},
    process::Process,
};

/// Directory in the cache, and the packages unpacked there: the server, and those of its libraries that a plain system
/// lacks.
const PACKAGES: [(&str, &[&str]); 3] = [
    ("vsftpd", &["vsftpd", "libwrap0", "libnsl2", "libtirpc3"]),
    (
        "proftpd",
        &["proftpd-core", "libhiredis0.14", "libmemcached11", "libmemcachedutil2", "libpcre2-posix3", "libsodium23"],
    ),
    ("pureftpd", &["pure-ftpd", "pure-ftpd-common", "libsodium23"]),
];

/// Downloads vsftpd, ProFTPD and Pure-FTPd with `apt-get download` and unpacks them into `cache`; nothing is installed.
/// What is there already is left alone. Returns what was fetched.
///
/// # Errors
/// When `apt-get` or `dpkg` is missing, or a package can't be had (`apt-get update` may help).
pub fn fetch(cache: &Path) -> Result<Vec<&'static str>> {
    let mut fetched = Vec::new();
    std::fs::create_dir_all(cache).map_err(LabError::io(format!("can't make {}", cache.display())))?;
    for (server, packages) in PACKAGES {
        let to = cache.join(server);
        if to.exists() {
            continue;
        }
        // Unpacked beside its place, so that a half-done one is never taken for whole.
        let work = tempfile::Builder::new()
            .prefix(&format!(".{server}-"))
            .tempdir_in(cache)
            .map_err(LabError::io(format!("can't make a directory in {}", cache.display())))?;
        let root = work.path().join("root");
        let mut apt = Command::new("apt-get");
        apt.args(["--quiet", "download"]).args(packages).current_dir(work.path());
        run(apt)?;
        let read = |p: &Path| std::fs::read_dir(p).map_err(LabError::io(format!("can't read {}", p.display())));
        for file in read(work.path())? {
            let file = file.map_err(LabError::io(format!("can't read {}", work.path().display())))?.path();
            if file.extension().is_some_and(|e| e == "deb") {
                let mut dpkg = Command::new("dpkg");
                dpkg.arg("-x").arg(&file).arg(&root);
                run(dpkg)?;
            }
        }
        std::fs::rename(&root, &to).map_err(LabError::io(format!("can't make {}", to.display())))?;
        fetched.push(server);
    }
    Ok(fetched)
}

fn run(command: Command) -> Result<()> {
    let process = Process::spawn(command)?;
    let line = process.command().to_owned();
    let done = process.finish(std::time::Duration::from_secs(300))?;
    if done.success() {
        return Ok(());
    }
    let status = done.status.map_or_else(|| "not done after five minutes".to_owned(), |s| s.to_string());
    Err(LabError::Failed { command: line, status, output: done.output.trim().to_owned() })
}
