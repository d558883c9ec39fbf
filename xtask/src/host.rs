//! What machine this is: the facts that set-up and the other tasks decide by.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

/// The machine, and who we are on it.
pub(crate) struct Host {
    /// The root of the source tree.
    pub(crate) root: PathBuf,
    /// The distribution.
    pub(crate) os: Os,
    /// How commands run that need root.
    pub(crate) rights: Rights,
}

/// A Linux distribution, as `/etc/os-release` names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Os {
    /// `ID`, for example `debian`.
    pub(crate) id: String,
    /// `VERSION_ID`, for example `12`; empty where there is none.
    pub(crate) version: String,
    /// `PRETTY_NAME`, for people.
    pub(crate) name: String,
}

/// How commands run that need root.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rights {
    /// We are root.
    Root,
    /// `sudo` asks for no password.
    Sudo,
    /// Not at all.
    None,
}

impl Host {
    /// Reads the facts.
    ///
    /// # Errors
    /// `/proc/self/status` can't be read.
    pub(crate) fn read() -> Result<Self> {
        // What cargo says now comes before what it said when this was compiled: a target directory can be moved.
        let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let manifest = PathBuf::from(manifest);
        let root = manifest.parent().unwrap_or(&manifest).to_path_buf();
        let os = Os::parse(&fs::read_to_string("/etc/os-release").unwrap_or_default());
        Ok(Self { root, os, rights: rights()? })
    }

    /// Where cargo puts what it builds: the directory that this program is in.
    ///
    /// # Errors
    /// This program is in no such directory.
    pub(crate) fn target(&self) -> Result<PathBuf> {
        let this = env::current_exe().context("can't find out where this program is")?;
        let target = this.parent().and_then(Path::parent);
        target.map(Path::to_path_buf).with_context(|| format!("{} is in no target directory", this.display()))
    }

    /// Where the real FTP servers of the lab are unpacked.
    pub(crate) fn lab_servers(&self) -> PathBuf {
        match env::var_os("FTP_HELPER_LAB_SERVERS") {
            Some(dir) => dir.into(),
            None => self.root.join("target/lab-servers"),
        }
    }

    /// The first executable file of this name: in `PATH`, where cargo installs, and in the directories that only root's
    /// `PATH` has.
    pub(crate) fn program(&self, name: &str) -> Option<PathBuf> {
        let path = env::var_os("PATH").unwrap_or_default();
        let more = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
        env::split_paths(&path)
            .chain(cargo_bin())
            .chain(more)
            .map(|dir| dir.join(name))
            .find(|file| is_executable(file))
    }
}

/// Where `cargo install` puts programs.
pub(crate) fn cargo_bin() -> Option<PathBuf> {
    if let Some(root) = env::var_os("CARGO_INSTALL_ROOT") {
        return Some(PathBuf::from(root).join("bin"));
    }
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))?;
    Some(home.join("bin"))
}

/// Runs a command for what it prints; `None` if it can't be started or fails.
pub(crate) fn output_of(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Os {
    /// Reads `/etc/os-release`.
    pub(crate) fn parse(release: &str) -> Self {
        let value = |key: &str| {
            let line = release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default().trim().trim_matches(['"', '\'']).to_owned()
        };
        let name = value("PRETTY_NAME");
        let name = if name.is_empty() { "an unknown distribution".to_owned() } else { name };
        Self { id: value("ID"), version: value("VERSION_ID"), name }
    }

    /// Whether set-up can install here by itself.
    pub(crate) fn is_debian_12(&self) -> bool {
        self.id == "debian" && self.version == "12"
    }
}

fn rights() -> Result<Rights> {
    let status = fs::read_to_string("/proc/self/status").context("can't read /proc/self/status")?;
    if effective_uid(&status) == Some(0) {
        return Ok(Rights::Root);
    }
    let sudo = output_of(Command::new("sudo").args(["-n", "true"])).is_some();
    Ok(if sudo { Rights::Sudo } else { Rights::None })
}

/// The second number of the line `Uid:`.
fn effective_uid(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)?.parse().ok()
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_debian_12_is_debian_12() {
        let debian = Os::parse("PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\n");
        assert!(debian.is_debian_12());
        assert_eq!(debian.name, "Debian GNU/Linux 12 (bookworm)");
        assert!(!Os::parse("ID=debian\nVERSION_ID=\"13\"\n").is_debian_12());
        // ID_LIKE is not ID: Ubuntu's packages have other names.
        let ubuntu = Os::parse("ID_LIKE=debian\nVERSION_ID='12'\nID='ubuntu'\n");
        assert!(!ubuntu.is_debian_12());
        assert_eq!((ubuntu.id.as_str(), ubuntu.name.as_str()), ("ubuntu", "an unknown distribution"));
        assert!(!Os::parse("").is_debian_12());
    }

    #[test]
    fn the_effective_user_decides() {
        assert_eq!(effective_uid("Name:\tx\nUid:\t1000\t0\t1000\t1000\nGid:\t5\t6\t7\t8\n"), Some(0));
        assert_eq!(effective_uid("Uid:\t0\t1000\t0\t0\n"), Some(1000));
        assert_eq!(effective_uid("Gid:\t0\t0\t0\t0\n"), None);
    }

    #[test]
    fn programs_outside_path_are_found() {
        let host = Host::read().expect("/proc is there");
        assert!(host.program("sh").is_some());
        assert!(host.program("no-such-program-anywhere").is_none());
        assert!(host.root.join("Cargo.lock").is_file());
    }
}
