//! Comparing the kernel's tables with the engine's, a few entries each second.
//!
//! The two may differ for a moment, while a record or a command is on its way. What differs still some seconds later is
//! drift: it is counted and said in the log, once. Nothing is changed: what a difference comes from is to be found out.

use std::collections::{BTreeMap, VecDeque};

use ftp_helper_common::{
    key::{FlowKey, HOOK_IN, HOOK_OUT, PinholeKey, SessionKey, TupleKey},
    state::flag,
};

use crate::{
    dataplane::{Cursor, Dataplane},
    engine::{Engine, Nanos, Place},
};

/// Entries that one look compares, of each table and of each of the engine's own.
const ENTRIES: usize = 64;
/// Looks from the beginning of one round through the kernel's tables to that of the next, at least: to find the end of a table the
/// kernel goes through all the room that it has, which costs more than the entries of most.
const ROUND: u64 = 10;
/// From when on a difference counts, nanoseconds.
const PERSISTS: Nanos = 5_000_000_000;
/// Differences that are watched at once; more are not looked for until these are settled.
const SUSPECTS: usize = 1024;
/// Differences that one look says in the log.
const SAID: usize = 8;

/// One entry that only one side has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Suspect {
    /// The kernel's, and the engine does not know of it.
    Session(u64, SessionKey),
    Pinhole(u64, PinholeKey),
    Flow(FlowKey, u8),
    /// The engine's, and the kernel has no such session.
    MissingSession(u64, SessionKey),
    /// No such pinhole. With the announcement's sequence number: the next pinhole of a session may have the same key.
    MissingPinhole(u64, PinholeKey, u32),
    /// No such data connection.
    MissingFlow(FlowKey),
}

/// The audit's state between two looks.
#[derive(Default)]
pub(super) struct Audit {
    sessions: Cursor<SessionKey>,
    pinholes: Cursor<PinholeKey>,
    flows: Cursor<TupleKey>,
    /// Which of these have not come to their end in this round, and the first look that may begin the next one.
    unfinished: [bool; 3],
    next_round: u64,
    /// The engine's sessions that this round has still to look up.
    own: VecDeque<(u64, SessionKey)>,
    /// Its pinholes, and its data connections.
    own_pinholes: Place,
    own_flows: VecDeque<FlowKey>,
    /// Since when, and whether it was counted.
    suspects: BTreeMap<Suspect, (Nanos, bool)>,
    looks: u64,
    differences: u64,
}

impl Audit {
    /// How many looks there were.
    pub(super) fn looks(&self) -> u64 {
        self.looks
    }

    /// How many differences were found since the start.
    pub(super) fn differences(&self) -> u64 {
        self.differences
    }

    /// Compares some entries, and looks again at what differed before.
    ///
    /// # Errors
    /// When a table can't be read.
    pub(super) fn look(&mut self, now: Nanos, plane: &Dataplane, engine: &Engine) -> anyhow::Result<()> {
        self.looks += 1;
        self.settle(now, plane, engine)?;
        let room = SUSPECTS.saturating_sub(self.suspects.len());
        let mut found = self.of_kernel(plane)?;
        if self.own.is_empty() {
            self.own = engine.session_keys().collect();
        }
        let own = self.own.len().min(ENTRIES);
        found.extend(self.own.drain(..own).map(|(id, key)| Suspect::MissingSession(id, key)));
        let pinholes = engine.next_pinholes(&mut self.own_pinholes, ENTRIES);
        found.extend(pinholes.into_iter().map(|(owner, key, seq)| Suspect::MissingPinhole(owner, key, seq)));
        if self.own_flows.is_empty() {
            self.own_flows = engine.connections().collect();
        }
        let own = self.own_flows.len().min(ENTRIES);
        found.extend(self.own_flows.drain(..own).map(Suspect::MissingFlow));
        let mut new = 0;
        for suspect in found {
            if new < room && !self.suspects.contains_key(&suspect) && differs(&suspect, now, plane, engine)? {
                self.suspects.insert(suspect, (now, false));
                new += 1;
            }
        }
        Ok(())
    }

    /// The next entries of the kernel's tables.
    fn of_kernel(&mut self, plane: &Dataplane) -> anyhow::Result<Vec<Suspect>> {
        if self.unfinished == [false; 3] && self.looks >= self.next_round {
            (self.unfinished, self.next_round) = ([true; 3], self.looks + ROUND);
        }
        let mut found = Vec::new();
        let [sessions, pinholes, flows] = &mut self.unfinished;
        for key in some(plane, "SESSIONS", &mut self.sessions, sessions)? {
            if let Some(state) = plane.session(&key)? {
                found.push(Suspect::Session(state.id, key));
            }
        }
        for key in some(plane, "PINHOLES", &mut self.pinholes, pinholes)? {
            if let Some(state) = plane.pinhole(&key)? {
                found.push(Suspect::Pinhole(state.session, key));
            }
        }
        for key in some(plane, "FLOWS", &mut self.flows, flows)? {
            if let Some(state) = plane.flow(&key)? {
                found.push(Suspect::Flow(key.to_flow(state.hook), state.hook));
            }
        }
        Ok(found)
    }

    /// Lets go of what agrees by now, and counts what has differed for long enough.
    fn settle(&mut self, now: Nanos, plane: &Dataplane, engine: &Engine) -> anyhow::Result<()> {
        let mut said = 0;
        let mut agree = Vec::new();
        for (suspect, (since, counted)) in &mut self.suspects {
            if !differs(suspect, now, plane, engine)? {
                agree.push(*suspect);
            } else if !*counted && now.saturating_sub(*since) >= PERSISTS {
                *counted = true;
                self.differences += 1;
                said += 1;
                if said <= SAID {
                    tracing::warn!("audit: {}", describe(suspect));
                }
            }
        }
        for suspect in agree {
            self.suspects.remove(&suspect);
        }
        Ok(())
    }
}

/// The next keys of a table of which this round has not come to the end.
fn some<K: aya::Pod>(
    plane: &Dataplane,
    name: &str,
    cursor: &mut Cursor<K>,
    unfinished: &mut bool,
) -> anyhow::Result<Vec<K>> {
    if !*unfinished {
        return Ok(Vec::new());
    }
    let keys = plane.next_keys(name, cursor, ENTRIES)?;
    *unfinished = keys.len() == ENTRIES;
    Ok(keys)
}

/// Whether the two sides disagree about an entry at this moment.
fn differs(suspect: &Suspect, now: Nanos, plane: &Dataplane, engine: &Engine) -> anyhow::Result<bool> {
    Ok(match suspect {
        // One that began unrecorded is taken up by the next sweep.
        Suspect::Session(id, key) => plane
            .session(key)?
            .is_some_and(|s| s.id == *id && s.flags & (flag::UNRECORDED | flag::LOST) == 0 && !engine.has_session(*id)),
        Suspect::Pinhole(session, key) => plane.pinhole(key)?.is_some_and(|p| {
            p.session == *session && (p.deadline.saturating_add(PERSISTS) < now || !engine.has_pinhole(*session, key))
        }),
        Suspect::Flow(key, hook) => plane.flow(&key.to_tuple(*hook))?.is_some() && !engine.has_flow(key),
        Suspect::MissingSession(id, key) => engine.has_session(*id) && plane.session(key)?.is_none_or(|s| s.id != *id),
        Suspect::MissingPinhole(owner, key, seq) => {
            engine.holds_pinhole(*owner, key, *seq) && plane.pinhole(key)?.is_none_or(|p| p.session != *owner)
        }
        Suspect::MissingFlow(key) => {
            // Which way it began is the kernel's to know.
            let of = |hook| anyhow::Ok(plane.flow(&key.to_tuple(hook))?.is_some_and(|f| f.hook == hook));
            engine.has_flow(key) && !of(HOOK_IN)? && !of(HOOK_OUT)?
        }
    })
}

fn describe(suspect: &Suspect) -> String {
    match suspect {
        Suspect::Session(id, _) => format!("the kernel has session {id:016x}, which the daemon does not know"),
        Suspect::Pinhole(session, key) => format!(
            "the kernel has {} of session {session:016x}, which the daemon does not know, or whose time is over",
            pinhole(key)
        ),
        Suspect::Flow(key, _) => format!("the kernel has {}, which the daemon does not know", connection(key)),
        Suspect::MissingSession(id, _) => format!("the daemon has session {id:016x}, which the kernel does not know"),
        Suspect::MissingPinhole(owner, key, _) => {
            format!("the daemon has {} of session {owner:016x}, which the kernel does not know", pinhole(key))
        }
        Suspect::MissingFlow(key) => format!("the daemon has {}, which the kernel does not know", connection(key)),
    }
}

fn pinhole(key: &PinholeKey) -> String {
    format!("a pinhole for {} to {} port {}", key.initiator.to_ip(), key.responder.to_ip(), key.port)
}

fn connection(key: &FlowKey) -> String {
    let (from, to) = (key.initiator.to_ip(), key.responder.to_ip());
    format!("a data connection from {from} to {to} port {}", key.responder_port)
}
