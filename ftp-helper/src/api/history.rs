//! The last events, for those who ask afterwards.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::broadcast;

use crate::event::Event;

/// Events that are remembered.
pub(super) const REMEMBERED: usize = 1024;

/// Events that an observer may be behind.
const BEHIND: usize = 4096;

/// The last events, and a channel for those that follow: whoever asks gets both without a gap. Clones are the same one.
#[derive(Clone)]
pub struct History(Arc<Mutex<Inner>>);

struct Inner {
    last: VecDeque<Arc<Event>>,
    live: broadcast::Sender<Arc<Event>>,
}

impl Default for History {
    /// Remembers nothing yet.
    fn default() -> Self {
        let live = broadcast::Sender::new(BEHIND);
        Self(Arc::new(Mutex::new(Inner { last: VecDeque::with_capacity(REMEMBERED), live })))
    }
}

impl History {
    /// Takes an event in: it is remembered, and told to whoever listens.
    pub fn push(&self, event: Event) {
        let event = Arc::new(event);
        let mut inner = self.lock();
        if inner.last.len() == REMEMBERED {
            inner.last.pop_front();
        }
        inner.last.push_back(event.clone());
        if inner.live.receiver_count() > 0 {
            // Those who listen may go at any time; then it is for nobody.
            drop(inner.live.send(event));
        }
    }

    /// The remembered events, oldest first, and what follows them.
    pub(super) fn observe(&self) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let inner = self.lock();
        (inner.last.iter().cloned().collect(), inner.live.subscribe())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The list is whole between any two statements, so a panic elsewhere leaves it usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
