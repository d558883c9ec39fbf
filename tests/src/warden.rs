//! The daemon under test on a lab's gateway: started, asked, stopped, killed, and started again.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use ftp_helper::{
    api::{Filter, Session, Status, client::Client, client::Observed},
    event::Event,
    lab::{
        Host, Lab, OUTSIDE_INTERFACE,
        process::{Finished, Process},
    },
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long anything may take on a machine that has other things to do.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How the daemon is started.
#[derive(Clone, Debug, Default)]
pub struct WardenOptions {
    /// Lines before the first section of the configuration.
    pub top: String,
    /// Sections beside those that every test needs.
    pub more: String,
    /// Further arguments of `ftp-helper run`.
    pub arguments: Vec<&'static str>,
}

/// A daemon in mode `drop` that guards the servers from the clients and the clients from the servers.
#[derive(Debug)]
pub struct Warden {
    gateway: Host,
    config: PathBuf,
    socket: PathBuf,
    arguments: Vec<&'static str>,
    process: Option<Process>,
}

impl Warden {
    /// Writes the configuration and starts it.
    ///
    /// # Errors
    /// When the program is not built, ends, or does not answer.
    pub fn start(lab: &Lab, options: &WardenOptions) -> anyhow::Result<Self> {
        let (config, socket) = (lab.directory().join("ftp-helper.toml"), lab.directory().join("ftp-helper.sock"));
        let (v4, v6): (Vec<_>, Vec<_>) =
            lab.servers().iter().map(|s| (format!("\"{}\"", s.v4()), format!("\"{}\"", s.v6()))).unzip();
        let servers = [v4, v6].concat().join(", ");
        let mut text = format!("mode = \"drop\"\n{}\n", options.top);
        write!(
            text,
            "[watch]\ninterfaces = [\"{OUTSIDE_INTERFACE}\"]\n\
             [[guard]]\ndirection = \"in\"\nnetworks = [\"192.0.2.0/24\", \"2001:db8:b::/64\"]\n\
             [[guard]]\ndirection = \"out\"\nnetworks = [\"203.0.113.0/24\", \"2001:db8:a::/64\"]\n\
             initiators = [{servers}]\n\
             [api]\nsocket = \"{}\"\n{}\n",
            socket.display(),
            options.more
        )?;
        std::fs::write(&config, text)?;
        let mut warden = Self {
            gateway: lab.gateway().clone(),
            config,
            socket,
            arguments: options.arguments.clone(),
            process: None,
        };
        warden.start_again()?;
        Ok(warden)
    }

    /// Starts it with the configuration of before, after it was ended.
    ///
    /// # Errors
    /// As [`Warden::start`].
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        ensure!(self.process.is_none(), "it is running already");
        let mut command = self.gateway.command(program()?);
        command.arg("run").arg("-c").arg(&self.config).args(&self.arguments);
        let mut process = Process::spawn(command)?;
        let ready = within(PATIENCE, || {
            if process.ended()?.is_some() {
                bail!("the daemon has ended: {}", process.output()?);
            }
            let status = Client::connect(&self.socket).and_then(|mut c| c.status());
            Ok(status.is_ok_and(|s| s.pid == process.id() && s.interfaces.iter().any(|i| i.name == OUTSIDE_INTERFACE)))
        })?;
        ensure!(ready, "the daemon does not answer: {}", process.output()?);
        self.process = Some(process);
        Ok(())
    }

    /// The control socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A connection to it.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(&self.socket)?)
    }

    /// What is going on.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn status(&self) -> anyhow::Result<Status> {
        Ok(self.client()?.status()?)
    }

    /// The sessions.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn sessions(&self) -> anyhow::Result<Vec<Session>> {
        Ok(self.client()?.sessions()?)
    }

    /// The last events, 1024 at most.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn events(&self, filter: Filter) -> anyhow::Result<Vec<Event>> {
        let mut events = Vec::new();
        self.client()?.observe(filter, false, 1024, |o| {
            if let Observed::Event(e) = o {
                events.push(*e);
            }
            Ok::<bool, anyhow::Error>(true)
        })?;
        Ok(events)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is not running.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let process = self.process.as_ref().context("it is not running")?;
        kill(Pid::from_raw(process.id().cast_signed()), signal)?;
        Ok(())
    }

    /// Ends it by a signal and waits for its end.
    ///
    /// # Errors
    /// When it is not running, or does not end.
    pub fn end(&mut self, signal: Signal) -> anyhow::Result<Finished> {
        self.signal(signal)?;
        let process = self.process.take().context("it is not running")?;
        let done = process.finish(PATIENCE)?;
        ensure!(done.status.is_some(), "the daemon does not end by {signal}: {}", done.output);
        Ok(done)
    }

    /// What it has said.
    ///
    /// # Errors
    /// When that can't be read.
    pub fn output(&self) -> anyhow::Result<String> {
        Ok(self.process.as_ref().map(Process::output).transpose()?.unwrap_or_default())
    }

    /// Folders that daemons on this gateway have in the BPF file system.
    ///
    /// # Errors
    /// When the gateway's namespace can't be looked at.
    pub fn pins(&self) -> anyhow::Result<BTreeSet<String>> {
        use std::os::linux::fs::MetadataExt as _;
        let inode = std::fs::metadata(self.gateway.namespace_path())?.st_ino();
        let Ok(entries) = std::fs::read_dir("/sys/fs/bpf/ftp-helper") else { return Ok(BTreeSet::new()) };
        let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
        Ok(names.filter(|n| n.starts_with(&format!("{inode}-"))).collect())
    }
}

impl Drop for Warden {
    /// A test that fails leaves no programs and pins behind. The daemon may be stopped, or dead already.
    fn drop(&mut self) {
        if self.process.is_none() && self.pins().is_ok_and(|p| !p.is_empty()) {
            let _ = self.start_again();
        }
        if self.process.is_some() {
            let _ = self.signal(Signal::SIGCONT);
            let _ = self.end(Signal::SIGTERM);
        }
    }
}

/// A counter of the kernel; 0 if there is none of this name.
#[must_use]
pub fn counter(status: &Status, name: &str) -> u64 {
    status.counters.get(name).copied().unwrap_or_default()
}

/// A counter of the engine; 0 if there is none of this name.
#[must_use]
pub fn engine(status: &Status, name: &str) -> u64 {
    status.engine.get(name).copied().unwrap_or_default()
}

/// Looks for a fact until it is there or time is up; whether it is there.
///
/// # Errors
/// As `fact`.
pub fn within(limit: Duration, mut fact: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<bool> {
    let begun = Instant::now();
    loop {
        if fact()? {
            return Ok(true);
        }
        if begun.elapsed() > limit {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The long form of the tests is wanted (`FTP_HELPER_FULL=1`).
#[must_use]
pub fn full() -> bool {
    std::env::var_os("FTP_HELPER_FULL").is_some_and(|v| v == "1")
}

fn program() -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe()?;
    let target = test.ancestors().nth(2).context("the test is in no target directory")?;
    let program = target.join("ftp-helper");
    ensure!(program.is_file(), "there is no {}: run `cargo build -p ftp-helper` first", program.display());
    Ok(program)
}
