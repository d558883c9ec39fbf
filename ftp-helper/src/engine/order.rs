//! What an operator asks for: pinholes taken back, sessions killed, and who has asked for it.

use ftp_helper_common::{reason::Reason, state::ADDED_ID};

use super::{Engine, Nanos, session::Standing};

/// Who has asked for something, and why: for those who read the events.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Order {
    /// The user.
    pub uid: u32,
    /// The reason that the user has given.
    pub note: String,
}

/// Why a session is not killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotKilled {
    /// There is no such session.
    NoSession,
    /// It has been killed before.
    Before,
}

impl Engine {
    /// Takes back the unconsumed pinhole of a session, or an added one, by the id of either; whether there was one.
    pub fn revoke_pinhole(&mut self, now: Nanos, owner: u64, order: &Order) -> bool {
        if owner & ADDED_ID != 0 {
            return self.revoke_added(now, owner, Reason::Operator, Some(order));
        }
        let Some(session) = self.sessions.get_mut(&owner).filter(|s| s.pinhole.is_some()) else { return false };
        self.core.order = Some(order.clone());
        session.revoke(now, &mut self.core, Reason::Operator);
        self.core.order = None;
        self.settle(now, owner);
        true
    }

    /// Kills a session: it opens nothing any more, and the kernel drops its further packets unless it only observes.
    ///
    /// # Errors
    /// There is no such session, or it has been killed.
    pub fn kill(&mut self, now: Nanos, session: u64, order: &Order) -> Result<(), NotKilled> {
        let found = self.sessions.get_mut(&session).ok_or(NotKilled::NoSession)?;
        if matches!(found.standing, Standing::Killed(_)) {
            return Err(NotKilled::Before);
        }
        self.core.order = Some(order.clone());
        let kept = found.kept();
        found.taint(now, &mut self.core, Reason::Operator);
        self.core.kept = (self.core.kept + found.kept()).saturating_sub(kept);
        self.core.order = None;
        self.settle(now, session);
        Ok(())
    }
}
