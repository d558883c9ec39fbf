//! The daemon's commands.

use ftp_helper_common::{
    command::{Command, Outcome, op},
    key::PinholeKey,
    record::{SynRecord, kind},
    state::{ADDED_ID, PinholeState, flag, pending, pinhole_flag},
};

use super::{Kernel, range::range_key};

impl Kernel {
    /// Carries out a command.
    pub fn command(&mut self, now: u64, c: &Command) -> Outcome {
        match c.op {
            op::FORGET_FLOW => {
                return match self.flows.remove(&c.flow.to_tuple(c.mode & 1)) {
                    Some(_) => Outcome::Done,
                    None => Outcome::NoPinhole,
                };
            }
            op::FORGET_CLIENT => {
                let Some(client) = self.clients.get(&c.flow.initiator) else { return Outcome::NoPinhole };
                if client.pinholes != 0 {
                    return Outcome::Busy;
                }
                self.clients.remove(&c.flow.initiator);
                return Outcome::Done;
            }
            op::FORGET_RANGE => return self.sweep_range(&c.pinhole),
            op::ADD => return self.add(now, c),
            op::REMOVE => {
                let gone = c.session & ADDED_ID == 0 || !self.remove_pinhole(&c.pinhole, c.session);
                return if gone { Outcome::NoPinhole } else { Outcome::Done };
            }
            op::DENY => {
                self.tell_denied(SynRecord {
                    kind: kind::DENIED,
                    hook: c.mode,
                    dropped: 1,
                    time: now,
                    key: c.flow,
                    reason: c.flags,
                    ..SynRecord::default()
                });
                return Outcome::Done;
            }
            _ => {}
        }
        let Some(s) = self.sessions.get(&c.key).filter(|s| s.id == c.session).copied() else {
            return Outcome::NoSession;
        };
        match c.op {
            op::OPEN => self.open(now, c),
            op::CONFIRM => {
                if s.pinhole_seq != c.seq || s.pinhole.port == 0 {
                    return if self.is_of(c) { Outcome::Busy } else { Outcome::NoPinhole };
                }
                match self.pinholes.get_mut(&s.pinhole) {
                    Some(p) if p.session == c.session && p.seq == c.seq => {
                        p.flags |= pinhole_flag::CONFIRMED;
                        Outcome::Done
                    }
                    _ => Outcome::Used,
                }
            }
            op::REVOKE => {
                let same = s.pinhole_seq == c.seq && s.pinhole.port != 0;
                if same {
                    self.change(c, |s| s.pinhole = PinholeKey::NONE);
                } else if !self.is_of(c) {
                    return Outcome::NoPinhole;
                }
                if self.remove_pinhole(if same { &s.pinhole } else { &c.pinhole }, c.session) {
                    Outcome::Done
                } else {
                    Outcome::NoPinhole
                }
            }
            op::STANDING => {
                let bits = c.flags & (flag::TAINTED | flag::KILLED | flag::OPAQUE);
                let barred = bits & (flag::TAINTED | flag::KILLED) != 0 || s.flags & flag::CLOSING != 0;
                let (had, has) = (s.flags & flag::RANGE != 0, c.flags & flag::RANGE != 0 && !barred);
                self.change(c, |s| {
                    s.flags = s.flags & !flag::RANGE | bits | if has { flag::RANGE } else { 0 };
                    s.pinhole = PinholeKey::NONE;
                });
                if bits != 0 {
                    self.remove_pinhole(&s.pinhole, c.session);
                }
                let hosts = range_key(&c.key, s.client_hook);
                let mut outcome = Outcome::Done;
                if has && !had {
                    outcome = self.take_range(&hosts, c.session);
                } else if had && !has {
                    self.release_range(&hosts);
                }
                if outcome != Outcome::Done
                    && let Some(s) = self.sessions.get_mut(&c.key)
                {
                    s.flags &= !flag::RANGE;
                }
                outcome
            }
            op::RESYNC => self.resync(c),
            op::FORGET => {
                self.remove_pinhole(&s.pinhole, c.session);
                let hosts = range_key(&c.key, s.client_hook);
                if s.flags & flag::RANGE != 0 {
                    self.release_range(&hosts);
                }
                self.sweep_range(&hosts);
                self.sessions.remove(&c.key);
                Outcome::Done
            }
            _ => Outcome::Malformed,
        }
    }

    fn add(&mut self, now: u64, c: &Command) -> Outcome {
        if c.session & ADDED_ID == 0 || c.pinhole.port < 1024 {
            return Outcome::Malformed;
        }
        let state = PinholeState {
            session: c.session,
            deadline: now + (u64::from(c.seq) * 1_000_000).min(self.policy.timeout),
            mode: pending::ADDED,
            flags: pinhole_flag::CONFIRMED,
            ..PinholeState::default()
        };
        self.open_pinhole(now, &c.pinhole, &state)
    }

    fn open(&mut self, now: u64, c: &Command) -> Outcome {
        let s = self.sessions[&c.key];
        if s.flags & flag::BARRED != 0 {
            return Outcome::Barred;
        }
        if s.flags & flag::UNRECORDED != 0 {
            return Outcome::Unseen;
        }
        let younger = s.flags & flag::BLIND == 0 && s.pinhole_seq != c.seq && s.pinhole_seq != c.replaces;
        if younger && s.pinhole.port != 0 && self.pinholes.contains_key(&s.pinhole) {
            return Outcome::MovedOn;
        }
        if s.pinhole != c.pinhole {
            self.remove_pinhole(&s.pinhole, s.id);
        }
        let state = PinholeState {
            session: s.id,
            deadline: now + self.policy.timeout,
            seq: c.seq,
            mode: c.mode,
            flags: c.pinhole_flags | pinhole_flag::CONFIRMED,
            control: [c.key.client_port, c.key.server_port],
            ..PinholeState::default()
        };
        let outcome = self.open_pinhole(now, &c.pinhole, &state);
        if outcome != Outcome::Done {
            return outcome;
        }
        self.change(c, |s| {
            s.pinhole = c.pinhole;
            s.pinhole_seq = c.seq;
        });
        Outcome::Done
    }

    fn resync(&mut self, c: &Command) -> Outcome {
        let s = self.sessions[&c.key];
        if s.flags & flag::BARRED != 0 {
            return Outcome::Barred;
        }
        if s.epoch != c.epoch || s.next != c.next {
            return Outcome::MovedOn;
        }
        self.change(c, |s| {
            let kept = s.flags & !(flag::BLIND | flag::LOGGED_IN | flag::EPSV_ALL | flag::ARMED | flag::UNRECORDED);
            s.flags = kept | c.flags & (flag::LOGGED_IN | flag::EPSV_ALL | flag::ARMED);
            s.unanswered = 0;
            s.pending = pending::NONE;
            s.multiline = 0;
            s.active_kind = if c.flags & flag::ARMED != 0 { c.mode } else { 0 };
            s.active_port = c.pinhole.port;
            s.blind_reason = 0;
        });
        Outcome::Done
    }

    fn is_of(&self, c: &Command) -> bool {
        self.pinholes.get(&c.pinhole).is_some_and(|p| p.session == c.session && p.seq == c.seq)
    }

    /// Changes an entry, so that no segment judged before is committed.
    fn change(&mut self, c: &Command, f: impl FnOnce(&mut ftp_helper_common::state::SessionState)) {
        if let Some(s) = self.sessions.get_mut(&c.key) {
            s.version = s.version.wrapping_add(1);
            f(s);
        }
    }
}
