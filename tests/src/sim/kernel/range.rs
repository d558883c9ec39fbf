//! Ranges for encrypted sessions (`opaque = "range"`).

use ftp_helper_common::{
    addr::Addr,
    command::Outcome,
    key::{PinholeKey, SessionKey},
};

use super::Kernel;

impl Kernel {
    /// Counts one session more.
    pub(super) fn take_range(&mut self, key: &PinholeKey, session: u64) -> Outcome {
        if !self.ranges.contains_key(key) && self.ranges.len() >= self.sizes.clients {
            return Outcome::Full;
        }
        let r = self.ranges.entry(*key).or_default();
        (r.sessions, r.session) = (r.sessions + 1, session);
        Outcome::Done
    }

    /// Counts one session less.
    pub(super) fn release_range(&mut self, key: &PinholeKey) {
        if let Some(r) = self.ranges.get_mut(key) {
            // One more than was taken is a defect that the world is to notice.
            r.sessions = r.sessions.wrapping_sub(1);
        }
    }

    /// Removes an entry that no session counts on.
    pub(super) fn sweep_range(&mut self, key: &PinholeKey) -> Outcome {
        match self.ranges.get(key) {
            None => Outcome::NoPinhole,
            Some(r) if r.sessions != 0 => Outcome::Busy,
            Some(_) => {
                self.ranges.remove(key);
                Outcome::Done
            }
        }
    }

    /// The session that opened the range of these two hosts, if the port is in it.
    pub(super) fn covered(&self, now: u64, initiator: Addr, responder: Addr, port: u16, hook: u8) -> Option<u64> {
        let r = self.ranges.get(&PinholeKey { initiator, responder, port: 0, hook, pad: 0 })?;
        if r.sessions == 0 || self.is_closed(now) || self.denied.contains(&port) {
            return None;
        }
        self.user_policy.opaque_range(responder).filter(|range| range.contains(&port)).map(|_| r.session)
    }
}

/// The entry of a session's hosts.
pub(super) fn range_key(session: &SessionKey, client_hook: u8) -> PinholeKey {
    PinholeKey { initiator: session.client, responder: session.server, port: 0, hook: client_hook, pad: 0 }
}
