//! Events of the daemon under test, as they come.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result, bail};
use ftp_helper::{
    api::{
        Filter,
        client::{Client, Observed},
    },
    event::{Event, Kind},
};

use super::wait::until;

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
    /// When none has come after [`super::PATIENCE`]; all that came are in the error's text.
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
