//! Saving what the next daemon needs beside the kernel's tables, before a record counts as read.

use std::collections::HashSet;

use crate::{
    dataplane::Dataplane,
    engine::{Engine, SAVED_MAX},
};

/// Sessions of which something is saved.
#[derive(Default)]
pub(super) struct Saved {
    sessions: HashSet<u64>,
    /// That saving has failed was said.
    told: bool,
}

impl Saved {
    /// What a daemon before this one has saved.
    pub(super) fn of(sessions: impl Iterator<Item = u64>) -> Self {
        Self { sessions: sessions.collect(), told: false }
    }

    /// Saves what there is of a session now, or removes what was saved of it.
    ///
    /// # Errors
    /// When what was saved can't be removed: it would mislead the next daemon.
    pub(super) fn follow(&mut self, engine: &Engine, plane: &mut Dataplane, session: u64) -> anyhow::Result<()> {
        let mut bytes = [0; SAVED_MAX];
        if engine.save(session, &mut bytes).is_some() {
            match plane.save(session, Some(&bytes)) {
                Ok(()) => {
                    self.sessions.insert(session);
                    return Ok(());
                }
                // Without it, the next daemon opens nothing for this session until two exchanges have passed.
                Err(e) if !self.told => {
                    tracing::warn!("{e:#}: should the daemon die, sessions like this one are taken up late");
                    self.told = true;
                }
                Err(_) => {}
            }
        }
        if self.sessions.contains(&session) {
            plane.save(session, None)?;
            self.sessions.remove(&session);
        }
        Ok(())
    }

    /// Looks through all that is saved, for sessions that have ended without a record.
    ///
    /// # Errors
    /// As [`Self::follow`].
    pub(super) fn follow_all(&mut self, engine: &Engine, plane: &mut Dataplane) -> anyhow::Result<()> {
        let sessions: Vec<u64> = self.sessions.iter().copied().collect();
        sessions.into_iter().try_for_each(|session| self.follow(engine, plane, session))
    }
}
