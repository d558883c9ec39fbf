//! The last events, for those who ask afterwards.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::broadcast::{self, error::RecvError};

use crate::event::Event;

/// Events that are remembered.
pub(super) const REMEMBERED: usize = 1024;

/// Events that an observer may be behind.
const BEHIND: usize = 4096;

/// What an observer gets.
#[derive(Clone, Debug)]
pub(super) enum Item {
    /// An event.
    Event(Arc<Event>),
    /// This many were missed.
    Missed(u64),
}

/// The last events, and a channel for those that follow: whoever asks gets both without a gap.
#[derive(Clone)]
pub(super) struct History(Arc<Mutex<Inner>>);

struct Inner {
    last: VecDeque<Arc<Event>>,
    live: broadcast::Sender<Item>,
}

impl History {
    /// Remembers nothing yet.
    pub(super) fn new() -> Self {
        let live = broadcast::Sender::new(BEHIND);
        Self(Arc::new(Mutex::new(Inner { last: VecDeque::with_capacity(REMEMBERED), live })))
    }

    /// Takes events in until their source ends.
    pub(super) async fn collect(self, mut events: broadcast::Receiver<Arc<Event>>) {
        loop {
            match events.recv().await {
                Ok(event) => self.push(event),
                Err(RecvError::Lagged(missed)) => {
                    // No observer means an error here, and nobody to tell.
                    let _ = self.lock().live.send(Item::Missed(missed));
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// The remembered events, oldest first, and what follows them.
    pub(super) fn observe(&self) -> (Vec<Arc<Event>>, broadcast::Receiver<Item>) {
        let inner = self.lock();
        (inner.last.iter().cloned().collect(), inner.live.subscribe())
    }

    fn push(&self, event: Arc<Event>) {
        let mut inner = self.lock();
        if inner.last.len() == REMEMBERED {
            inner.last.pop_front();
        }
        inner.last.push_back(event.clone());
        let _ = inner.live.send(Item::Event(event));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The list is whole between any two statements, so a panic elsewhere leaves it usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
