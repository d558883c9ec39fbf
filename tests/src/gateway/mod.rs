//! The program under test on a lab's gateway: started with a configuration, asked through its control socket, followed,
//! killed, started again, and stopped.

mod events;
mod settings;
mod traces;
mod wait;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use ftp_helper::{
    api::{
        Filter, PinholeRow, ReloadReport, Session, Status,
        client::{Client, Observed},
    },
    event::Event,
    lab::{
        Host, Lab,
        process::{Finished, Process},
    },
};
use nix::sys::signal::Signal;

use crate::program::{Said, said};

pub use self::{
    events::Events,
    settings::{Settings, UNIT_NICE, list},
    traces::{pins, traces},
    wait::{PATIENCE, until, within},
};

/// How long a start may take: the verifier is at work, and on an emulated processor that others use as well it needs a minute.
const START: Duration = Duration::from_secs(180);

/// Whether the long forms of the tests are wanted (`FTP_HELPER_FULL=1`).
#[must_use]
pub fn full() -> bool {
    std::env::var_os("FTP_HELPER_FULL").is_some_and(|v| v == "1")
}

/// A counter of the kernel.
///
/// # Panics
/// There is none of this name: a test that waits for 0 of it would never fail.
#[must_use]
pub fn counter(status: &Status, name: &str) -> u64 {
    let Some(n) = status.counters.get(name) else { panic!("the kernel has no counter {name:?}") };
    *n
}

/// A counter of the engine. What has a dot in its name is there once it has happened.
///
/// # Panics
/// There is none of this name.
#[must_use]
pub fn engine(status: &Status, name: &str) -> u64 {
    match status.engine.get(name) {
        Some(n) => *n,
        None if name.contains('.') => 0,
        None => panic!("the engine has no counter {name:?}"),
    }
}

/// First SYNs that did not go through at once: denied, or kept for a pinhole that was not open yet.
#[must_use]
pub fn held_up(status: &Status) -> u64 {
    counter(status, "syn_denied") + counter(status, "syn_parked")
}

/// The `ftp-helper` of the running test's or benchmark's build: `target/debug/ftp-helper` for `target/debug/deps/TEST`, and
/// `target/release/ftp-helper` for `target/release/bench-NAME`.
///
/// # Errors
/// When it is not there.
pub fn program() -> Result<PathBuf> {
    let this = std::env::current_exe().context("can't tell where this program is")?;
    let directory = this.parent().context("this program is in no directory")?;
    let profile = if directory.ends_with("deps") { directory.parent().unwrap_or(directory) } else { directory };
    let program = profile.join("ftp-helper");
    if !program.is_file() {
        bail!("{} is missing: build it first, `cargo build -p ftp-helper`", program.display());
    }
    Ok(program)
}

/// A running daemon on a lab's gateway. Dropping it stops it by SIGTERM, so that it leaves nothing behind; where it was
/// killed, another one takes over first what it left.
#[derive(Debug)]
pub struct Gateway {
    host: Host,
    process: Option<Process>,
    socket: PathBuf,
    config: PathBuf,
    settings: Settings,
    arguments: Vec<String>,
}

impl Gateway {
    /// Starts the program with further arguments of `run`, and waits until it tells that it is attached.
    ///
    /// # Errors
    /// When the program is not there, ends, or is not attached in time; its output is in the error's text.
    pub fn start(lab: &Lab, settings: &Settings, arguments: &[&str]) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let file = |kind: &str| lab.directory().join(format!("daemon{number}.{kind}"));
        let mut gateway = Self {
            host: lab.gateway().clone(),
            process: None,
            socket: file("sock"),
            config: file("toml"),
            settings: settings.clone(),
            arguments: arguments.iter().map(|&a| a.to_owned()).collect(),
        };
        gateway.start_again()?;
        Ok(gateway)
    }

    /// Starts it as before, after it was ended: it takes over what a killed one left.
    ///
    /// # Errors
    /// As [`Gateway::start`]; when it is running.
    pub fn start_again(&mut self) -> Result<()> {
        self.begin_again()?;
        self.wait_attached()
    }

    /// The same without waiting for anything.
    ///
    /// # Errors
    /// When the program can't be started, or is running.
    pub fn begin_again(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the daemon is running already");
        self.write_config()?;
        let program = program()?;
        // The machines of other kernels have no nice(1), and need none.
        let mut command: Command = match self.settings.nice {
            0 => self.host.command(program),
            nice => {
                let mut command = self.host.command("nice");
                command.arg("-n").arg(nice.to_string()).arg(program);
                command
            }
        };
        command.arg("run").arg("-c").arg(&self.config).args(&self.arguments);
        self.process = Some(Process::spawn(command)?);
        Ok(())
    }

    fn wait_attached(&mut self) -> Result<()> {
        let begun = Instant::now();
        let id = self.id();
        loop {
            if let Some(process) = &mut self.process
                && let Some(status) = process.ended()?
            {
                bail!("the daemon has ended, {status}:\n{}", process.output()?);
            }
            let attached = |s: &Status| Some(s.pid) == id && s.waiting_for.is_empty() && !s.interfaces.is_empty();
            match Client::connect(&self.socket).and_then(|mut c| c.status()) {
                Ok(status) if attached(&status) => return Ok(()),
                // Not bound yet, or busy with loading.
                Ok(_) | Err(_) if begun.elapsed() < START => {}
                Ok(_) => bail!("the daemon is not attached after {} s:\n{}", START.as_secs(), self.output()?),
                Err(e) => bail!("the daemon does not answer after {} s: {e}\n{}", START.as_secs(), self.output()?),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn write_config(&self) -> Result<()> {
        std::fs::write(&self.config, self.settings.text(&self.socket))
            .with_context(|| format!("can't write {}", self.config.display()))
    }

    /// The control socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The process id, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// A connection to the daemon.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn client(&self) -> Result<Client> {
        Ok(Client::connect(&self.socket)?)
    }

    /// `status`.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> Result<Status> {
        Ok(self.client()?.status()?)
    }

    /// `sessions`.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn sessions(&self) -> Result<Vec<Session>> {
        Ok(self.client()?.sessions()?)
    }

    /// `pinholes`.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn pinholes(&self) -> Result<Vec<PinholeRow>> {
        Ok(self.client()?.pinholes()?)
    }

    /// The last events that the daemon remembers, 1024 at most.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn events(&self, filter: Filter) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        self.client()?.observe(filter, false, 1024, |o| -> Result<bool> {
            if let Observed::Event(e) = o {
                events.push(*e);
            }
            Ok(true)
        })?;
        Ok(events)
    }

    /// Folders that daemons on this gateway have in the BPF file system.
    ///
    /// # Errors
    /// When they can't be looked at.
    pub fn pins(&self) -> Result<BTreeSet<String>> {
        pins(&self.host)
    }

    /// What the daemon has said.
    ///
    /// # Errors
    /// When that can't be read, or it was stopped.
    pub fn output(&self) -> Result<String> {
        Ok(self.process.as_ref().context("the daemon was stopped")?.output()?)
    }

    /// A command of the program that talks to this daemon, such as `sessions`.
    ///
    /// # Errors
    /// When the program is not there.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(program()?);
        command.args(arguments).arg("--socket").arg(&self.socket);
        Ok(command)
    }

    /// What such a command says.
    ///
    /// # Errors
    /// When it can't be started, or does not end.
    pub fn ask(&self, arguments: &[&str]) -> Result<Said> {
        said(self.command(arguments)?)
    }

    /// What such a command says that succeeds, and says nothing on standard error.
    ///
    /// # Errors
    /// When it does not, or does.
    pub fn data(&self, arguments: &[&str]) -> Result<Said> {
        let said = self.ask(arguments)?;
        ensure!(said.code == 0 && said.err.is_empty(), "{arguments:?}: {said:?}");
        Ok(said)
    }

    /// Collects events from now on.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn follow(&self) -> Result<Events> {
        Events::follow(&self.socket)
    }

    /// Writes a new configuration and has the daemon read it.
    ///
    /// # Errors
    /// When the daemon refuses it.
    pub fn reload(&mut self, settings: &Settings) -> Result<ReloadReport> {
        self.settings = settings.clone();
        self.write_config()?;
        Ok(self.client()?.reload()?)
    }

    /// Another configuration for the next start.
    pub fn set(&mut self, settings: &Settings) {
        self.settings = settings.clone();
    }

    /// Sends a signal, such as SIGSTOP, SIGCONT or SIGHUP.
    ///
    /// # Errors
    /// When it can't be sent.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(self.process.as_ref().context("the daemon was stopped")?.signal(signal)?)
    }

    /// Kills it, so that its programs and tables stay; [`Gateway::start_again`] takes them over.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill(&mut self) -> Result<()> {
        self.end(Signal::SIGKILL).map(drop)
    }

    /// Stops it by SIGTERM; how it ended and what it said.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop(&mut self) -> Result<Finished> {
        let done = self.end(Signal::SIGTERM)?;
        if done.status.is_none() {
            bail!("the daemon does not stop on SIGTERM:\n{}", done.output);
        }
        Ok(done)
    }

    fn end(&mut self, signal: Signal) -> Result<Finished> {
        let process = self.process.take().context("the daemon was stopped before")?;
        process.signal(signal)?;
        // A stopped one takes SIGTERM only when it goes on.
        process.signal(Signal::SIGCONT)?;
        Ok(process.finish(PATIENCE)?)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // What a killed daemon has pinned outlives the lab: only another daemon takes it away.
        let killed = self.process.is_none() && self.pins().is_ok_and(|p| !p.is_empty());
        if killed && let Err(e) = self.start_again() {
            eprintln!("what the killed daemon left can't be taken over: {e:#}");
        }
        if self.process.is_none() {
            return;
        }
        match self.stop() {
            Ok(done) if std::thread::panicking() => eprintln!("the daemon said:\n{}", done.output),
            Ok(_) => {}
            Err(e) => eprintln!("{e:#}"),
        }
    }
}
