//! The daemon of the demonstration: this program as a child on the gateway.

use std::{
    net::IpAddr,
    os::linux::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use super::{summary, told};
use crate::{
    api::{
        Filter,
        client::{Client, Observed},
    },
    error::Fault,
    event::Event,
    lab::{
        Lab, LabError, OUTSIDE_INTERFACE, Result,
        process::{Pause, Process},
    },
};

/// How long it may take to start or to stop.
const LIMIT: Duration = Duration::from_secs(60);
/// How long it may take to tell of something.
const EVENTS: Duration = Duration::from_secs(20);
/// Where the program pins what outlives it.
const PINS: &str = "/sys/fs/bpf/ftp-helper";

/// A running daemon and the events it has told.
pub(super) struct Daemon {
    process: Option<Process>,
    socket: PathBuf,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Daemon {
    /// Starts it and waits until it is attached and its events are followed.
    pub(super) fn start(lab: &Lab, program: &Path, control_ports: &[u16]) -> Result<Self> {
        let socket = lab.directory().join("demo.sock");
        let config = lab.directory().join("demo.toml");
        let list = |addresses: [IpAddr; 2]| format!("[\"{}\", \"{}\"]", addresses[0], addresses[1]);
        let server = list([lab.server().v4().into(), lab.server().v6().into()]);
        let client = list([lab.client().v4().into(), lab.client().v6().into()]);
        // A scan of all ports takes longer than the ten seconds that a pinhole usually lives.
        let text = format!(
            "mode = \"drop\"\n\n[watch]\ninterfaces = [\"{OUTSIDE_INTERFACE}\"]\ncontrol_ports = {control_ports:?}\n\n\
             [[guard]]\nnetworks = {server}\n\n\
             [[guard]]\ndirection = \"out\"\nnetworks = {client}\ninitiators = {server}\n\n\
             [pinhole]\ntimeout = \"2m\"\n\n[api]\nsocket = \"{}\"\nread_group = \"root\"\n",
            socket.display()
        );
        std::fs::write(&config, text).map_err(LabError::io(format!("can't write {}", config.display())))?;
        let mut command = lab.gateway().command(program);
        command.arg("run").arg("-c").arg(&config);
        let process = Process::spawn(command)?;
        let mut daemon = Self { process: Some(process), socket, events: Arc::default() };
        daemon.wait_attached().and_then(|()| daemon.follow()).map_err(|e| daemon.explain(e))?;
        Ok(daemon)
    }

    /// Asks it something.
    pub(super) fn ask<T>(&self, what: &str, question: impl FnOnce(&mut Client) -> Result<T, Fault>) -> Result<T> {
        Client::connect(&self.socket)
            .and_then(|mut c| question(&mut c))
            .map_err(|e| LabError::Demo(format!("the daemon does not tell its {what}: {e}")))
    }

    /// All events so far.
    pub(super) fn events(&self) -> Vec<Event> {
        lock(&self.events).clone()
    }

    /// Waits for an event that fits, behind the first `mark`.
    pub(super) fn wait(&self, mark: usize, what: &str, fits: impl Fn(&Event) -> bool) -> Result<()> {
        self.wait_for(mark, what, |events| events.iter().any(&fits))
    }

    /// Waits until the events behind the first `mark` are as they should be.
    pub(super) fn wait_for(&self, mark: usize, what: &str, fact: impl Fn(&[Event]) -> bool) -> Result<()> {
        let begun = Instant::now();
        while !fact(lock(&self.events).get(mark..).unwrap_or_default()) {
            told(begun.elapsed() < EVENTS, || {
                let seen: Vec<String> = self.events().iter().skip(mark).map(summary).collect();
                format!("missing after {} s: {what}; the events were:\n{}", EVENTS.as_secs(), seen.join("\n"))
            })?;
            Pause::new().wait(begun);
        }
        Ok(())
    }

    /// Stops it, and looks for what it might have left.
    pub(super) fn stop(mut self, lab: &Lab) -> Result<()> {
        let Some(process) = self.process.take() else { return Ok(()) };
        process.signal(Signal::SIGTERM)?;
        let done = process.finish(LIMIT)?;
        told(done.success(), || format!("the daemon did not stop with success:\n{}", done.output))?;
        told(!self.socket.exists(), || format!("{} is left", self.socket.display()))?;
        let namespace = lab.gateway().namespace_path();
        let inode = std::fs::metadata(&namespace).map_err(LabError::io(namespace.display().to_string()))?.st_ino();
        let pins = match std::fs::read_dir(PINS) {
            Ok(entries) => entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(LabError::io(format!("can't read {PINS}"))(e)),
        };
        let left: Vec<String> = pins.into_iter().filter(|p| p.starts_with(&format!("{inode}-"))).collect();
        told(left.is_empty(), || format!("left in {PINS}: {}", left.join(", ")))
    }

    /// The error with what the daemon has said.
    pub(super) fn explain(&self, e: LabError) -> LabError {
        let said = self.process.as_ref().map(Process::output);
        match (e, said) {
            (LabError::Demo(what), Some(Ok(said))) => LabError::Demo(format!("{what}\nthe daemon said:\n{said}")),
            (e, _) => e,
        }
    }

    fn wait_attached(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            if let Some(process) = &mut self.process
                && let Some(status) = process.ended()?
            {
                return Err(LabError::Demo(format!("the daemon has ended: {status}")));
            }
            match Client::connect(&self.socket).and_then(|mut c| c.status()) {
                Ok(status) if !status.interfaces.is_empty() => return Ok(()),
                Err(e) if begun.elapsed() > LIMIT => {
                    return Err(LabError::Demo(format!("the daemon does not answer: {e}")));
                }
                Ok(_) if begun.elapsed() > LIMIT => {
                    return Err(LabError::Demo(format!("the daemon has not attached to {OUTSIDE_INTERFACE}")));
                }
                Ok(_) | Err(_) => Pause::new().wait(begun),
            }
        }
    }

    fn follow(&self) -> Result<()> {
        let failed = |e: Fault| LabError::Demo(format!("the daemon does not tell its events: {e}"));
        let client = Client::connect(&self.socket).map_err(failed)?;
        let events = Arc::clone(&self.events);
        let (ready, begun) = std::sync::mpsc::channel();
        let observe = move || {
            let result = client.observe(Filter::default(), true, 0, |observed| -> Result<bool, Fault> {
                match observed {
                    // Nobody waits for it a second time.
                    Observed::Ready => drop(ready.send(())),
                    Observed::Event(event) => lock(&events).push(*event),
                    // Only scans make more events than a reader can take, and those are counted elsewhere.
                    Observed::Lagged(missed) => tracing::debug!("{missed} events left out"),
                }
                Ok(true)
            });
            if let Err(e) = result {
                tracing::debug!("events end: {e}");
            }
        };
        std::thread::Builder::new()
            .name("events".to_owned())
            .spawn(observe)
            .map_err(LabError::io("can't start a thread for events"))?;
        begun.recv().map_err(|_| LabError::Demo("the daemon does not tell its events".to_owned()))
    }
}

impl Drop for Daemon {
    /// After a step that failed: asked to stop, so that it removes what it has pinned; the lab ends it otherwise.
    fn drop(&mut self) {
        let Some(process) = self.process.take() else { return };
        if let Err(e) = process.signal(Signal::SIGTERM).and_then(|()| process.finish(LIMIT)) {
            tracing::warn!("the demonstration's daemon: {e}");
        }
    }
}

fn lock(events: &Mutex<Vec<Event>>) -> MutexGuard<'_, Vec<Event>> {
    events.lock().unwrap_or_else(PoisonError::into_inner)
}
