//! The program under test on a lab's gateway: started with a configuration, asked through its control socket, followed,
//! and stopped.

use std::{
    fmt::Write as _,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use ftp_helper::{
    api::{
        Filter, PinholeRow, Session, Status,
        client::{Client, Observed},
    },
    event::{Event, Kind},
    lab::{
        Lab, OUTSIDE_INTERFACE, Topology,
        process::{Finished, Process},
    },
};
use nix::sys::signal::Signal;

/// How long a fact may take to come about: a loaded machine with two cores is slow.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the long forms of the tests are wanted.
#[must_use]
pub fn full() -> bool {
    std::env::var_os("FTP_HELPER_FULL").is_some_and(|v| v == "1")
}

/// Waits for a fact: `None` means not yet.
///
/// # Errors
/// When it has not come about after [`PATIENCE`]; the text says what was waited for.
pub fn until<T>(what: &str, mut fact: impl FnMut() -> Option<T>) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(value) = fact() {
            return Ok(value);
        }
        if begun.elapsed() > PATIENCE {
            bail!("{what}: not after {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The `ftp-helper` beside the running test: `target/debug/ftp-helper` for `target/debug/deps/TEST`.
///
/// # Errors
/// When it is not there.
pub fn program() -> Result<PathBuf> {
    let test = std::env::current_exe().context("can't tell where this test is")?;
    let profile = test.parent().and_then(Path::parent).context("this test is in no directory")?;
    let program = profile.join("ftp-helper");
    if !program.is_file() {
        bail!("{} is missing: build it first, `cargo build -p ftp-helper`", program.display());
    }
    Ok(program)
}

/// A configuration for a lab's gateway, to be changed before it is used.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `observe` or `drop`.
    pub mode: &'static str,
    /// Lines of the top level, such as `on_daemon_loss = "close"`.
    pub top: String,
    /// The outside interfaces, as TOML.
    pub interfaces: String,
    /// Further lines of `[watch]`.
    pub watch: String,
    /// All `[[guard]]` sections.
    pub guards: String,
    /// Lines of `[policy]`.
    pub policy: String,
    /// Further lines of `[api]`.
    pub api: String,
    /// Further sections, such as `[pinhole]`.
    pub sections: String,
}

impl Settings {
    /// Guards in both directions: towards whatever is inside, from everybody; and towards whatever is outside, from
    /// the FTP servers, or where those are outside, from the client.
    #[must_use]
    pub fn guarded(lab: &Lab, mode: &'static str) -> Self {
        let addresses = |host: &ftp_helper::lab::Host| [IpAddr::from(host.v4()), IpAddr::from(host.v6())];
        let servers: Vec<IpAddr> = lab.servers().iter().flat_map(addresses).collect();
        let clients: Vec<IpAddr> = addresses(lab.client()).to_vec();
        let (inside, outside) = match lab.topology() {
            Topology::ServerInside => (servers, clients),
            Topology::ClientInside => (clients, servers),
        };
        let (inside, outside) = (list(&inside), list(&outside));
        Self {
            mode,
            top: String::new(),
            interfaces: format!("[\"{OUTSIDE_INTERFACE}\"]"),
            watch: String::new(),
            guards: format!(
                "[[guard]]\nnetworks = {inside}\n[[guard]]\ndirection = \"out\"\nnetworks = {outside}\ninitiators = {inside}\n"
            ),
            policy: "active_inbound = true\n".to_owned(),
            api: String::new(),
            sections: String::new(),
        }
    }

    /// The same with a line more in `[policy]`.
    #[must_use]
    pub fn policy(mut self, line: &str) -> Self {
        self.policy.push_str(line);
        self.policy.push('\n');
        self
    }

    /// The same with further sections.
    #[must_use]
    pub fn section(mut self, text: &str) -> Self {
        self.sections.push_str(text);
        self.sections.push('\n');
        self
    }

    /// The file's text.
    #[must_use]
    pub fn text(&self, socket: &Path) -> String {
        let Self { mode, top, interfaces, watch, guards, policy, api, sections } = self;
        let mut text = format!("mode = \"{mode}\"\n{top}\n[watch]\ninterfaces = {interfaces}\n{watch}\n{guards}\n");
        // Writing to a string does not fail.
        let _ = write!(text, "[policy]\n{policy}\n{sections}\n");
        let _ = write!(text, "[api]\nsocket = \"{}\"\nread_group = \"root\"\n{api}\n", socket.display());
        text
    }
}

/// Addresses as a list in TOML.
#[must_use]
pub fn list(addresses: &[IpAddr]) -> String {
    let quoted: Vec<String> = addresses.iter().map(|a| format!("\"{a}\"")).collect();
    format!("[{}]", quoted.join(", "))
}

/// A running daemon on a lab's gateway. Dropping it stops it by SIGTERM, so that it leaves nothing behind.
#[derive(Debug)]
pub struct Gateway {
    process: Option<Process>,
    socket: PathBuf,
    config: PathBuf,
    settings: Settings,
}

impl Gateway {
    /// Starts the program with further arguments of `run`, and waits until it tells that it is attached.
    ///
    /// # Errors
    /// When the program is not there, ends, or is not attached in time; its output is in the error's text.
    pub fn start(lab: &Lab, settings: &Settings, arguments: &[&str]) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = lab.directory();
        let (socket, config) =
            (directory.join(format!("daemon{number}.sock")), directory.join(format!("daemon{number}.toml")));
        Self::start_at(lab, settings, arguments, socket, config)
    }

    /// Starts another one with the same configuration file and control socket, to take over from one that is gone.
    ///
    /// # Errors
    /// As [`Gateway::start`].
    pub fn start_again(lab: &Lab, before: &Gateway, arguments: &[&str]) -> Result<Self> {
        Self::start_at(lab, &before.settings, arguments, before.socket.clone(), before.config.clone())
    }

    fn start_at(lab: &Lab, settings: &Settings, arguments: &[&str], socket: PathBuf, config: PathBuf) -> Result<Self> {
        std::fs::write(&config, settings.text(&socket)).with_context(|| format!("can't write {}", config.display()))?;
        let mut command: Command = lab.gateway().command(program()?);
        command.arg("run").arg("-c").arg(&config).args(arguments);
        let process = Process::spawn(command)?;
        let mut gateway = Self { process: Some(process), socket, config, settings: settings.clone() };
        gateway.wait_attached()?;
        Ok(gateway)
    }

    fn wait_attached(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            if let Some(process) = &mut self.process
                && let Some(status) = process.ended()?
            {
                bail!("the daemon has ended, {status}:\n{}", process.output()?);
            }
            let attached = |s: &Status| s.waiting_for.is_empty() && !s.interfaces.is_empty();
            match Client::connect(&self.socket).and_then(|mut c| c.status()) {
                Ok(status) if attached(&status) => return Ok(()),
                // Not bound yet, or busy with loading.
                Ok(_) | Err(_) if begun.elapsed() < PATIENCE => {}
                Ok(_) => bail!("the daemon is not attached after {} s:\n{}", PATIENCE.as_secs(), self.output()?),
                Err(e) => bail!("the daemon does not answer after {} s: {e}\n{}", PATIENCE.as_secs(), self.output()?),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
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

    /// What the daemon has said.
    ///
    /// # Errors
    /// When that can't be read, or it was stopped.
    pub fn output(&self) -> Result<String> {
        Ok(self.process.as_ref().context("the daemon was stopped")?.output()?)
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
    pub fn reload(&mut self, settings: &Settings) -> Result<ftp_helper::api::ReloadReport> {
        std::fs::write(&self.config, settings.text(&self.socket)).context("can't write the configuration")?;
        self.settings = settings.clone();
        Ok(self.client()?.reload()?)
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

/// Events as they come, collected by a thread that ends with the daemon.
#[derive(Clone, Debug)]
pub struct Events {
    shared: Arc<Mutex<Collected>>,
}

#[derive(Debug, Default)]
struct Collected {
    events: Vec<Event>,
    ready: bool,
    missed: u64,
    ended: Option<String>,
}

impl Events {
    /// Collects the events of the daemon at this socket from now on.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn follow(socket: &Path) -> Result<Self> {
        let client = Client::connect(socket)?;
        let events = Self { shared: Arc::default() };
        let theirs = events.clone();
        std::thread::spawn(move || {
            let result = client.observe(Filter::default(), true, 0, |observed| -> Result<bool> {
                let mut c = theirs.lock();
                match observed {
                    Observed::Ready => c.ready = true,
                    Observed::Event(e) => c.events.push(*e),
                    Observed::Lagged(n) => c.missed += n,
                }
                Ok(true)
            });
            theirs.lock().ended = Some(result.map_or_else(|e| format!("{e:#}"), |()| "end".to_owned()));
        });
        until("events are followed", || {
            let c = events.lock();
            (c.ready || c.ended.is_some()).then_some(())
        })?;
        let c = events.lock();
        if !c.ready {
            bail!("events can't be followed: {}", c.ended.as_deref().unwrap_or_default());
        }
        drop(c);
        Ok(events)
    }

    /// All so far.
    #[must_use]
    pub fn all(&self) -> Vec<Event> {
        self.lock().events.clone()
    }

    /// Those of a kind so far.
    #[must_use]
    pub fn of(&self, kind: Kind) -> Vec<Event> {
        self.lock().events.iter().filter(|e| e.event == kind).cloned().collect()
    }

    /// How many were left out because the collector was too slow: 0, or a test knows less than it thinks.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.lock().missed
    }

    /// Waits for the first event that fits.
    ///
    /// # Errors
    /// When none has come after [`PATIENCE`]; all that came are in the error's text.
    pub fn wait(&self, what: &str, fits: impl Fn(&Event) -> bool) -> Result<Event> {
        until(what, || self.lock().events.iter().find(|e| fits(e)).cloned()).with_context(|| {
            let all: Vec<String> =
                self.all().iter().map(|e| serde_json::to_string(e).unwrap_or_else(|e| e.to_string())).collect();
            format!("the events were:\n{}", all.join("\n"))
        })
    }

    fn lock(&self) -> MutexGuard<'_, Collected> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
