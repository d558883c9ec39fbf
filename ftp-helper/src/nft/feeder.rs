//! Keeps the administrator's sets in step with the pinholes: one element for each that is unconsumed.
//!
//! It is best effort by nature: the announcement is on its way before user space knows of it, and a SYN that overtakes
//! the element is dropped by the ruleset and sent again a second later. Nothing here holds up the daemon's loop: changes
//! go through a bounded queue to a thread that puts all that is waiting into one transaction. What fails is counted and
//! told; the kernel lets an element go by itself when its pinhole's time is over, whatever happens to this process.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{
    elements::{Change, Element, Sets, apply, check},
    netlink::Netfilter,
};
use crate::event::{Pinhole, SessionId};

/// Changes that may wait for the kernel.
const QUEUE: usize = 16_384;
/// Changes in one transaction.
const BATCH: usize = 64;
/// How long the end waits for the thread, which may be waiting for the kernel.
const FAREWELL: Duration = Duration::from_secs(5);
/// A deadline that differs by less is the same.
const SAME: Duration = Duration::from_millis(50);

/// Feeds the sets.
#[derive(Debug)]
pub struct Feeder {
    sets: Sets,
    queue: SyncSender<Order>,
    ended: Receiver<Never>,
    counts: Arc<Counts>,
    /// Which session has which element in a set, and until when.
    of_session: HashMap<u64, (Element, Instant)>,
    /// Which session an element is there for. A later one may have taken it over.
    owners: HashMap<Element, u64>,
    overflown: bool,
}

/// What was fed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fed {
    /// Elements that are in the sets now, as far as known.
    pub elements: u64,
    /// Elements added.
    pub added: u64,
    /// Elements removed before their time.
    pub removed: u64,
    /// Changes that the kernel refused, or that were lost since too many were waiting.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct Counts {
    added: AtomicU64,
    removed: AtomicU64,
    failed: AtomicU64,
}

enum Order {
    Add { element: Element, until: Instant, session: u64 },
    Remove(Element),
}

/// Never sent: the other end of the channel goes with the thread.
#[derive(PartialEq, Eq, Debug)]
enum Never {}

impl Feeder {
    /// Looks at the sets, empties them of what an earlier daemon has left, and starts to feed them.
    ///
    /// # Errors
    /// When a set is missing or of the wrong type, or the kernel refuses.
    pub fn start(sets: &Sets) -> anyhow::Result<Self> {
        check(sets)?;
        let mut netfilter = Netfilter::open().context("can't talk to netfilter")?;
        apply(&mut netfilter, sets, &[Change::Flush])
            .with_context(|| format!("can't empty the sets of table {}", sets.table()))?;
        let (queue, orders) = sync_channel(QUEUE);
        let (end, ended) = sync_channel::<Never>(0);
        let counts = Arc::<Counts>::default();
        let worker = Worker { netfilter, sets: sets.clone(), counts: Arc::clone(&counts), told: None };
        std::thread::Builder::new()
            .name("nftables".into())
            .spawn(move || {
                worker.run(&orders);
                drop(end);
            })
            .context("can't start the thread that feeds the sets")?;
        Ok(Self {
            sets: sets.clone(),
            queue,
            ended,
            counts,
            of_session: HashMap::new(),
            owners: HashMap::new(),
            overflown: false,
        })
    }

    /// The sets that are fed.
    pub fn sets(&self) -> &Sets {
        &self.sets
    }

    /// Makes the sets agree with what a session has open now: one pinhole or none.
    pub fn follow(&mut self, session: u64, pinhole: Option<&Pinhole>) {
        let now = Instant::now();
        let wanted = pinhole.map(|p| {
            let element = Element { initiator: p.initiator.into(), responder: p.responder.into(), port: p.port };
            (element, now + Duration::from_millis(p.expires_in_ms))
        });
        let wanted = wanted.filter(|(e, until)| *until > now && self.sets.of(e).is_some());
        if let Some((old, until)) = self.of_session.get(&session).copied() {
            match wanted {
                Some((new, later)) if new == old && later.saturating_duration_since(until) < SAME => return,
                Some((new, _)) if new == old => {}
                _ => {
                    self.of_session.remove(&session);
                    if self.owners.get(&old) == Some(&session) {
                        self.owners.remove(&old);
                        self.order(Order::Remove(old));
                    }
                }
            }
        }
        if let Some((element, until)) = wanted {
            self.of_session.insert(session, (element, until));
            if self.owners.insert(element, session).is_some() {
                // Older kernels do not prolong an element that is there.
                self.order(Order::Remove(element));
            }
            self.order(Order::Add { element, until, session });
        }
    }

    /// What was fed.
    pub fn fed(&self) -> Fed {
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Fed {
            elements: self.owners.len() as u64,
            added: count(&self.counts.added),
            removed: count(&self.counts.removed),
            failed: count(&self.counts.failed),
        }
    }

    /// Empties the sets and ends.
    pub fn stop(self) {
        let Self { sets, queue, ended, .. } = self;
        // The thread does what is waiting, then it finds that nobody is left.
        drop(queue);
        if ended.recv_timeout(FAREWELL) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!(
                "the sets of table {} were not emptied in time; their elements go when their time is over",
                sets.table()
            );
        }
    }

    fn order(&mut self, order: Order) {
        match self.queue.try_send(order) {
            Ok(()) => self.overflown = false,
            Err(e) => {
                self.counts.failed.fetch_add(1, Ordering::Relaxed);
                if !self.overflown {
                    let why = match e {
                        TrySendError::Full(_) => "too many changes are waiting for the kernel",
                        TrySendError::Disconnected(_) => "the thread that feeds them has ended",
                    };
                    tracing::error!("the sets of table {} are not fed: {why}", self.sets.table());
                    self.overflown = true;
                }
            }
        }
    }
}

struct Worker {
    netfilter: Netfilter,
    sets: Sets,
    counts: Arc<Counts>,
    /// What went wrong last, so that it is said once.
    told: Option<String>,
}

impl Worker {
    fn run(mut self, orders: &Receiver<Order>) {
        while let Ok(first) = orders.recv() {
            let mut batch = vec![first];
            batch.extend(orders.try_iter().take(BATCH - 1));
            let now = Instant::now();
            let changes: Vec<Change> = batch.iter().filter_map(|o| change(o, now)).collect();
            self.change(&changes);
        }
        // Nobody vouches for the elements any more.
        self.change(&[Change::Flush]);
    }

    fn change(&mut self, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        if apply(&mut self.netfilter, &self.sets, changes).is_ok() {
            self.done(changes);
            return;
        }
        // One that fails takes all others with it: each by itself, then.
        for change in changes {
            let one = std::slice::from_ref(change);
            match apply(&mut self.netfilter, &self.sets, one) {
                Ok(()) => self.done(one),
                // The kernel has let it go at the end of its time.
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) && self.is_gone(change) => {}
                Err(e) => self.failed(change, &e),
            }
        }
    }

    /// Whether an element that can't be removed is not there, while its set is.
    fn is_gone(&self, change: &Change) -> bool {
        matches!(change, Change::Remove(_)) && check(&self.sets).is_ok()
    }

    fn done(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Add(..) => {
                    self.counts.added.fetch_add(1, Ordering::Relaxed);
                    if self.told.take().is_some() {
                        tracing::info!("the sets of table {} are fed again", self.sets.table());
                    }
                }
                Change::Remove(_) => {
                    self.counts.removed.fetch_add(1, Ordering::Relaxed);
                }
                Change::Flush => {}
            }
        }
    }

    fn failed(&mut self, change: &Change, e: &std::io::Error) {
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
        // The kernel's own word says only ENOENT; a look at the sets says which, and what it should be.
        let why = check(&self.sets).map_or_else(|f| f.message, |()| e.to_string());
        if self.told.as_ref() != Some(&why) {
            let what = match change {
                Change::Add(element, ..) => format!("{element} can't be added"),
                Change::Remove(element) => format!("{element} can't be removed"),
                Change::Flush => "the sets can't be emptied".to_owned(),
            };
            tracing::error!("the sets of table {} are not fed: {what}: {why}", self.sets.table());
            self.told = Some(why);
        }
    }
}

/// What to do in the kernel; nothing for an element whose time is over before it got there.
fn change(order: &Order, now: Instant) -> Option<Change> {
    match order {
        Order::Add { element, until, session } => {
            let left = until.checked_duration_since(now).filter(|d| !d.is_zero())?;
            let comment = format!("ftp-helper, session {}", SessionId(*session));
            Some(Change::Add(*element, left, comment))
        }
        Order::Remove(element) => Some(Change::Remove(*element)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{NegotiatedBy, PinholeState};

    /// A feeder without a thread, and what it orders.
    fn feeder(queue: usize) -> (Feeder, Receiver<Order>) {
        let (queue, orders) = sync_channel(queue);
        let (_, ended) = sync_channel(0);
        let sets =
            Sets { family: super::super::Family::Ip, table: "filter".into(), set4: Some("pins".into()), set6: None };
        let feeder = Feeder {
            sets,
            queue,
            ended,
            counts: Arc::default(),
            of_session: HashMap::new(),
            owners: HashMap::new(),
            overflown: false,
        };
        (feeder, orders)
    }

    fn pinhole(responder: &str, port: u16, left: u64) -> Pinhole {
        Pinhole {
            mode: NegotiatedBy::Pasv,
            initiator: if responder.contains(':') { "2001:db8::1" } else { "203.0.113.10" }.parse().unwrap(),
            responder: responder.parse().unwrap(),
            port,
            state: PinholeState::Provisional,
            expires_in_ms: left,
        }
    }

    fn said(orders: &Receiver<Order>) -> Vec<String> {
        orders
            .try_iter()
            .map(|o| match o {
                Order::Add { element, session, .. } => format!("+{} {session}", element.port),
                Order::Remove(element) => format!("-{}", element.port),
            })
            .collect()
    }

    #[test]
    fn the_sets_follow_the_sessions() {
        let (mut feeder, orders) = feeder(100);
        let hole = |port, left| pinhole("192.0.2.1", port, left);
        feeder.follow(1, Some(&hole(5000, 10_000)));
        feeder.follow(1, Some(&hole(5000, 9_999)));
        assert_eq!(said(&orders), ["+5000 1"], "told twice, added once");
        feeder.follow(1, Some(&hole(5001, 10_000)));
        assert_eq!(said(&orders), ["-5000", "+5001 1"]);
        feeder.follow(1, Some(&hole(5001, 20_000)));
        assert_eq!(said(&orders), ["-5001", "+5001 1"], "prolonged");
        feeder.follow(2, None);
        feeder.follow(1, None);
        feeder.follow(1, None);
        assert_eq!(said(&orders), ["-5001"]);
        assert_eq!(feeder.fed().elements, 0);
        // Another session takes the element over before the first lets go of it.
        feeder.follow(1, Some(&hole(5000, 5_000)));
        feeder.follow(2, Some(&hole(5000, 9_000)));
        feeder.follow(1, None);
        assert_eq!(said(&orders), ["+5000 1", "-5000", "+5000 2"]);
        // No set for it, or no time left.
        feeder.follow(3, Some(&pinhole("2001:db8::2", 6000, 9_000)));
        feeder.follow(4, Some(&hole(6001, 0)));
        assert!(said(&orders).is_empty());
        assert_eq!(feeder.fed(), Fed { elements: 1, ..Fed::default() });
    }

    #[test]
    fn a_full_queue_is_counted_and_holds_nobody_up() {
        let (mut feeder, orders) = feeder(2);
        for session in 0..5 {
            feeder.follow(session, Some(&pinhole("192.0.2.1", 5000 + session as u16, 10_000)));
        }
        assert_eq!(said(&orders), ["+5000 0", "+5001 1"]);
        assert_eq!(feeder.fed().failed, 3);
        drop(orders);
        feeder.follow(0, None);
        assert_eq!(feeder.fed().failed, 4);
    }

    #[test]
    fn what_comes_too_late_is_not_added() {
        let now = Instant::now();
        let element = Element {
            initiator: std::net::IpAddr::from([203, 0, 113, 1]).into(),
            responder: std::net::IpAddr::from([192, 0, 2, 1]).into(),
            port: 5000,
        };
        let late = Order::Add { element, until: now, session: 1 };
        assert_eq!(change(&late, now), None);
        let early = Order::Add { element, until: now + Duration::from_secs(2), session: 1 };
        let Some(Change::Add(_, left, comment)) = change(&early, now) else { panic!("nothing to do") };
        assert_eq!((left, comment.as_str()), (Duration::from_secs(2), "ftp-helper, session 0000000000000001"));
    }
}
