//! Timers, the tables beside the sessions, and how sessions are found.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    ops::Bound,
};

use ftp_helper_common::{
    addr::Addr,
    key::{PinholeKey, SessionKey},
};

use super::Nanos;

/// Something for each session, by its id. The kernel gives the ids, nobody outside has a say in them, and each record is looked up
/// several times: so these are hashed in a faster way than what comes from the network.
pub(super) type BySession<T> = HashMap<u64, T, foldhash::fast::RandomState>;

/// One timer a session, in order of time.
///
/// A timer that is set too early costs one look at its session; so a deadline that only moves on, as that of idleness
/// does with every segment, is not touched until the earlier one fires.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(Nanos, u64)>);

impl Timers {
    /// When the next timer fires.
    pub(super) fn next(&self) -> Option<Nanos> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Takes the session of a timer that is due.
    pub(super) fn pop(&mut self, now: Nanos) -> Option<u64> {
        if self.next()? > now {
            return None;
        }
        self.0.pop_first().map(|(_, id)| id)
    }

    /// Sees to it that the timer fires at `due` at the latest; `set` is when it is set for, `Nanos::MAX` for never.
    pub(super) fn set(&mut self, set: &mut Nanos, id: u64, due: Nanos) {
        if due < *set {
            self.cancel(set, id);
            self.0.insert((due, id));
            *set = due;
        }
    }

    /// Takes a timer out.
    pub(super) fn cancel(&mut self, set: &mut Nanos, id: u64) {
        if *set != Nanos::MAX {
            self.0.remove(&(*set, id));
            *set = Nanos::MAX;
        }
    }

    /// Takes all out.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Which unconsumed pinholes there are: by client, for the quota, and by responder, to name near misses.
#[derive(Debug, Default)]
pub(super) struct Unconsumed {
    by_client: HashMap<Addr, u32>,
    by_responder: BTreeSet<ByResponder>,
}

/// Responder, port, initiator, session.
pub(super) type ByResponder = (Addr, u16, Addr, u64);

impl Unconsumed {
    /// How many a client has.
    pub(super) fn held(&self, client: Addr) -> u32 {
        self.by_client.get(&client.quota_key()).copied().unwrap_or(0)
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.by_client.is_empty() && self.by_responder.is_empty()
    }

    /// Adds one.
    pub(super) fn add(&mut self, client: Addr, key: &PinholeKey, session: u64) {
        *self.by_client.entry(client.quota_key()).or_default() += 1;
        self.by_responder.insert((key.responder, key.port, key.initiator, session));
    }

    /// Takes one away.
    pub(super) fn remove(&mut self, client: Addr, key: &PinholeKey, session: u64) {
        if let Some(n) = self.by_client.get_mut(&client.quota_key()) {
            *n -= 1;
            if *n == 0 {
                self.by_client.remove(&client.quota_key());
            }
        }
        self.by_responder.remove(&(key.responder, key.port, key.initiator, session));
    }

    /// The next ones behind `after`, or the first ones, in an order of their own.
    pub(super) fn behind(&self, after: Option<ByResponder>) -> impl Iterator<Item = ByResponder> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_responder.range((from, Bound::Unbounded)).copied()
    }

    /// A session with a pinhole for this responder and port that another initiator than `from` may use.
    pub(super) fn near_miss(&self, from: Addr, to: Addr, port: u16) -> Option<u64> {
        let (lowest, highest) = (Addr([0; 16]), Addr([255; 16]));
        if self.by_responder.range((to, port, from, 0)..=(to, port, from, u64::MAX)).next().is_some() {
            return None;
        }
        self.by_responder.range((to, port, lowest, 0)..=(to, port, highest, u64::MAX)).next().map(|(.., id)| *id)
    }
}

/// A data connection that is running.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    /// The session that negotiated it.
    pub(super) session: u64,
    /// The control connection, which may have ended.
    pub(super) control: Option<SessionKey>,
    /// Whether it went through an encrypted session's range.
    pub(super) range: bool,
    /// The pinhole that it used, if a reset may open it again.
    pub(super) pinhole: Option<super::pinhole::Pinhole>,
}

impl Flow {
    /// Both ends of the control connection.
    pub(super) fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.control.as_ref().map(super::view::ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_in_order_and_only_move_forward_when_fired() {
        let mut t = Timers::default();
        let (mut a, mut b) = (Nanos::MAX, Nanos::MAX);
        t.set(&mut a, 1, 50);
        t.set(&mut b, 2, 40);
        t.set(&mut a, 1, 70);
        assert_eq!((a, t.next()), (50, Some(40)));
        t.set(&mut a, 1, 30);
        assert_eq!((t.pop(29), t.pop(45), t.pop(45), t.pop(45)), (None, Some(1), Some(2), None));
        t.set(&mut b, 2, 10);
        t.cancel(&mut b, 2);
        assert_eq!(t.next(), None);
    }

    #[test]
    fn pinholes_are_counted_by_client_and_found_by_responder() {
        let mut u = Unconsumed::default();
        let (client, server, other) = (Addr::v4([1; 4]), Addr::v4([2; 4]), Addr::v4([3; 4]));
        let key = PinholeKey { initiator: client, responder: server, port: 5000, hook: 0, pad: 0 };
        u.add(client, &key, 7);
        assert_eq!((u.held(client), u.held(server)), (1, 0));
        assert_eq!(u.near_miss(other, server, 5000), Some(7));
        assert_eq!(u.near_miss(client, server, 5000), None);
        assert_eq!(u.near_miss(other, server, 5001), None);
        u.remove(client, &key, 7);
        assert_eq!((u.held(client), u.near_miss(other, server, 5000)), (0, None));
        assert!(u.by_client.is_empty() && u.by_responder.is_empty());
    }
}
