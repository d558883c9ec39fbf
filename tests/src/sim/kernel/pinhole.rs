//! Opening and taking back pinholes, with the clients' quotas.

use ftp_helper_common::{
    addr::Addr,
    command::Outcome,
    key::{PinholeKey, SessionKey},
    state::{ClientState, PinholeState, flag, pending},
};

use super::{Happened, Kernel};

impl Kernel {
    pub(super) fn open_pinhole(&mut self, now: u64, key: &PinholeKey, state: &PinholeState) -> Outcome {
        if let Some(p) = self.pinholes.get_mut(key) {
            if p.session == state.session {
                *p = *state;
                self.happened.push(Happened::Opened(*key, *state));
                return Outcome::Done;
            }
            if p.deadline > now {
                return Outcome::Taken;
            }
            self.remove_pinhole(key, 0);
        }
        let client = client_of(key, state.mode);
        let quota = self.take_quota(client, self.policy.per_client);
        if quota != Outcome::Done {
            return quota;
        }
        if self.pinholes.len() >= self.sizes.pinholes {
            self.release_quota(client);
            return Outcome::Full;
        }
        self.pinholes.insert(*key, *state);
        self.happened.push(Happened::Opened(*key, *state));
        Outcome::Done
    }

    /// Takes back a pinhole if it belongs to `session` (0: to anybody).
    pub(super) fn remove_pinhole(&mut self, key: &PinholeKey, session: u64) -> bool {
        let Some(p) = self.pinholes.get(key).copied() else { return false };
        if session != 0 && p.session != session {
            return false;
        }
        self.pinholes.remove(key);
        self.release_quota(client_of(key, p.mode));
        true
    }

    /// Puts a pinhole back that a reset has freed, if its session still has a right to it.
    pub(super) fn rearm_pinhole(&mut self, key: &PinholeKey, state: &PinholeState, session: &SessionKey) -> bool {
        let holds = self.sessions.get(session).is_some_and(|s| {
            s.id == state.session && s.flags & flag::BARRED == 0 && s.pinhole.port != 0 && s.pinhole_seq == state.seq
        });
        if !holds {
            return false;
        }
        let client = client_of(key, state.mode);
        if self.take_quota(client, u32::MAX) != Outcome::Done {
            return false;
        }
        if self.pinholes.contains_key(key) || self.pinholes.len() >= self.sizes.pinholes {
            self.release_quota(client);
            return false;
        }
        self.pinholes.insert(*key, *state);
        true
    }

    fn take_quota(&mut self, client: Addr, limit: u32) -> Outcome {
        if !self.clients.contains_key(&client) && self.clients.len() < self.sizes.clients {
            self.clients.insert(client, ClientState::default());
        }
        let Some(c) = self.clients.get_mut(&client) else { return Outcome::Full };
        if c.dead != 0 || c.pinholes >= limit {
            return Outcome::Quota;
        }
        c.pinholes += 1;
        Outcome::Done
    }

    fn release_quota(&mut self, client: Addr) {
        if let Some(c) = self.clients.get_mut(&client) {
            c.pinholes = c.pinholes.saturating_sub(1);
        }
    }
}

/// Whose quota a pinhole counts against.
#[must_use]
pub(super) fn client_of(key: &PinholeKey, mode: u8) -> Addr {
    let initiator = matches!(mode, pending::PASV | pending::EPSV | pending::ADDED);
    if initiator { key.initiator.quota_key() } else { key.responder.quota_key() }
}
