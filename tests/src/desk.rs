//! Where somebody sits who types what a page says: the host's network is one of a lab, `/etc` is a copy that may be
//! changed, `/run` and `/srv` are empty, the program under test is on PATH, and so is a `sudo` that asks for nothing.
//!
//! The mounts are in a namespace of their own: nobody else sees them, and they go with it.

use std::{
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use ftp_helper::lab::{
    Host, Lab,
    process::{Finished, Process},
};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use crate::gateway::{PATIENCE, program, until};

/// Where a page's configuration lies unless it says otherwise.
pub const CONFIGURATION: &str = "/etc/ftp-helper/ftp-helper.toml";

/// The mounts, and where working files are.
#[derive(Debug)]
pub struct Desk {
    holder: Process,
    directory: PathBuf,
    /// What commands find in their environment, beside PATH.
    environment: Vec<(String, String)>,
    path: String,
}

impl Desk {
    /// Sets it up beside a lab, and removes it with that.
    ///
    /// # Errors
    /// When something can't be mounted, or the program was not built.
    pub fn new(lab: &Lab) -> Result<Self> {
        let directory = lab.directory().join("desk");
        let bin = directory.join("bin");
        std::fs::create_dir_all(&bin)?;
        symlink(program()?, bin.join("ftp-helper"))?;
        std::fs::write(bin.join("sudo"), "#!/bin/sh\nexec \"$@\"\n")?;
        std::fs::set_permissions(bin.join("sudo"), std::fs::Permissions::from_mode(0o755))?;
        let mounts = "mount -t tmpfs tmpfs /run\nmount -t tmpfs tmpfs /srv\nmkdir /srv/ftp\n\
                      cp -a /etc /srv/.etc\nmount --bind /srv/.etc /etc\nmkdir -p /etc/ftp-helper\n\
                      echo mounted\nexec sleep infinity\n";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec", mounts]);
        let mut holder = Process::spawn(command)?;
        let ready = until("the mounts", || {
            let output = holder.output().unwrap_or_default();
            let over = holder.ended().map_or(true, |ended| ended.is_some());
            (over || output.contains("mounted")).then_some((over, output))
        })?;
        anyhow::ensure!(!ready.0, "nothing can be mounted: {}", ready.1);
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let mut desk = Self { holder, directory, environment: Vec::new(), path };
        desk.clear()?;
        Ok(desk)
    }

    /// The directory that commands are typed in.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.directory.join("work")
    }

    /// Adds to the environment of the commands; what is named PATH comes before the others there.
    pub fn environ(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Forgets working files, the configuration, and what [`Desk::environ`] has added.
    ///
    /// # Errors
    /// When something can't be removed.
    pub fn clear(&mut self) -> Result<()> {
        self.environment.clear();
        let _ = std::fs::remove_dir_all(self.work());
        std::fs::create_dir(self.work()).context("can't make a directory to work in")?;
        let configuration = self.seen(CONFIGURATION);
        if configuration.exists() {
            std::fs::remove_file(configuration)?;
        }
        Ok(())
    }

    /// A file as commands see it, from outside.
    #[must_use]
    pub fn seen(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.holder.id()))
    }

    /// A line as it is typed on a host. bash runs a lone command in its own place: who interrupts the line waits for that.
    #[must_use]
    pub fn command(&self, on: &Host, line: &str) -> Command {
        let words = self.words(on, &["bash", "-c", line]);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env_remove("RUST_LOG").env_remove("JOURNAL_STREAM");
        command
    }

    /// A shell on a host, as a line for another shell.
    #[must_use]
    pub fn shell(&self, on: &Host) -> String {
        let words = self.words(on, &["env", "PS1=ready: ", "LC_ALL=C.UTF-8", "sh", "-i"]);
        words.iter().map(|word| format!("'{word}' ")).collect()
    }

    fn words(&self, on: &Host, what: &[&str]) -> Vec<String> {
        let mut words = vec!["nsenter".to_owned(), format!("--target={}", self.holder.id()), "--mount".to_owned()];
        words.push(format!("--net={}", on.namespace_path().display()));
        // Whoever has started the tests in the background may have them ignore SIGINT; a terminal does not.
        words.extend(["env", "--default-signal=INT"].map(str::to_owned));
        words.push(format!("--chdir={}", self.work().display()));
        let before: String =
            self.environment.iter().filter(|(n, _)| n == "PATH").map(|(_, v)| format!("{v}:")).collect();
        words.push(format!("PATH={before}{}", self.path));
        words.extend(self.environment.iter().filter(|(n, _)| n != "PATH").map(|(n, v)| format!("{n}={v}")));
        words.extend(what.iter().map(|&w| w.to_owned()));
        words
    }

    /// Types a line, and waits until it is done.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn run(&self, on: &Host, line: &str) -> Result<Finished> {
        Ok(self.start(on, line)?.finish(PATIENCE)?)
    }

    /// Types a line that goes on.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(&self, on: &Host, line: &str) -> Result<Process> {
        Ok(Process::spawn(self.command(on, line))?)
    }
}

/// Ends what goes on by Ctrl-C: all of the line gets SIGINT.
///
/// # Errors
/// When it has ended by itself.
pub fn interrupt(running: Process) -> Result<Finished> {
    let group = Pid::from_raw(running.id().cast_signed());
    killpg(group, Signal::SIGINT).with_context(|| running.command().to_owned())?;
    let line = running.command().to_owned();
    let done = running.finish(PATIENCE)?;
    anyhow::ensure!(done.status.is_some(), "{line}: goes on in spite of SIGINT:\n{}", done.output);
    Ok(done)
}

/// Copies a file of the sources.
///
/// # Errors
/// When it can't be copied.
pub fn copy(root: &Path, from: &str, to: &Path) -> Result<()> {
    std::fs::copy(root.join(from), to).with_context(|| from.to_owned()).map(drop)
}
