//! Who the inside end of a control connection is, where addresses are translated: connection tracking is asked, the kernel
//! side and the engine are told.
//!
//! Until the kernel is told it drops announcements, so that this is done as soon as a session is heard of.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
};

use anyhow::Context as _;
use ftp_helper_common::{
    addr::Addr,
    command::{Command, Outcome, op},
    key::{HOOK_IN, HOOK_OUT, SessionKey},
    nat::Alias,
};

use crate::{
    dataplane::Dataplane,
    engine::{Engine, Nanos, Record},
    nft::Conntrack,
};

/// How often what is over is removed.
const SWEEP: Nanos = 5_000_000_000;

/// The translations of the daemon's sessions.
pub(super) struct Translator {
    conntrack: Conntrack,
    /// Sessions that the kernel side was told about.
    known: HashSet<u64>,
    next_sweep: Nanos,
    /// What went wrong last, so that it is said once.
    trouble: String,
}

impl Translator {
    /// Begins; sessions are not known yet.
    ///
    /// # Errors
    /// When connection tracking can't be asked.
    pub(super) fn new(now: Nanos) -> anyhow::Result<Self> {
        let conntrack = Conntrack::open().context("[nat]: connection tracking can't be asked")?;
        Ok(Self { conntrack, known: HashSet::new(), next_sweep: now + SWEEP, trouble: String::new() })
    }

    /// Sees to it that the session of a record is known.
    ///
    /// # Errors
    /// When the kernel side can't be told.
    pub(super) fn see(&mut self, engine: &mut Engine, plane: &Dataplane, record: &Record<'_>) -> anyhow::Result<()> {
        match record {
            Record::Session(r) | Record::Segment(r, _) if !self.known.contains(&r.session) => {
                self.learn(engine, plane, r.session, &r.key, r.client_hook)
            }
            _ => Ok(()),
        }
    }

    /// Whether [`Self::sweep`] is due.
    pub(super) fn is_due(&self, now: Nanos) -> bool {
        now >= self.next_sweep
    }

    /// Learns of sessions that nobody knows the inside end of yet, and removes translations whose time is over.
    ///
    /// # Errors
    /// When the tables can't be read, or the kernel side can't be told.
    pub(super) fn sweep(&mut self, engine: &mut Engine, plane: &Dataplane, now: Nanos) -> anyhow::Result<()> {
        self.next_sweep = now + SWEEP;
        let aliases: HashMap<SessionKey, Alias> = plane.aliases()?.into_iter().collect();
        let sessions = plane.sessions()?;
        let live: HashSet<u64> = sessions.iter().map(|(_, s)| s.id).collect();
        self.known.retain(|id| live.contains(id));
        for (key, state) in sessions {
            match aliases.get(&key).filter(|a| a.session == state.id) {
                // What a daemon before this one has found out; connection tracking may have forgotten it since.
                Some(alias) if self.known.insert(state.id) => {
                    engine.translated(state.id, alias.is_translated().then_some(alias.addr));
                }
                Some(_) => {}
                None => self.learn(engine, plane, state.id, &key, state.client_hook)?,
            }
        }
        for hook in [HOOK_IN, HOOK_OUT] {
            for (tuple, translation) in plane.translations(hook)? {
                if translation.until != 0 && translation.until <= now {
                    // The end outside first, whoever connected.
                    let flow = tuple.to_flow(HOOK_IN);
                    plane.command(&Command { op: op::FORGET_TRANSLATION, flow, mode: hook, ..Command::default() })?;
                }
            }
        }
        Ok(())
    }

    /// Asks connection tracking, and tells what it says. Where it does not say anything, nothing is told: the kernel side
    /// then lets no announcement through, and it is tried again.
    fn learn(
        &mut self,
        engine: &mut Engine,
        plane: &Dataplane,
        session: u64,
        key: &SessionKey,
        client_hook: u8,
    ) -> anyhow::Result<()> {
        let socket = |addr: Addr, port| SocketAddr::new(addr.to_ip(), port);
        let (client, server) = (socket(key.client, key.client_port), socket(key.server, key.server_port));
        let inward = client_hook == HOOK_IN;
        let (peer, public) = if inward { (client, server) } else { (server, client) };
        let inside = match self.conntrack.inside(peer, public, inward) {
            Ok(inside) => inside.map(Addr::from),
            Err(e) => {
                let trouble = format!("connection tracking does not tell who is behind {public}: {e}");
                if self.trouble != e.to_string() {
                    tracing::error!("{trouble}; announcements of the session are held back until it does");
                    self.trouble = e.to_string();
                }
                return Ok(());
            }
        };
        self.trouble.clear();
        let mut command = Command { op: op::ALIAS, session, key: *key, ..Command::default() };
        command.pinhole.initiator = inside.unwrap_or_default();
        match plane.command(&command)? {
            Outcome::Done => {
                self.known.insert(session);
                engine.translated(session, inside);
            }
            // Over already; nobody is to ask for it again.
            Outcome::NoSession => {
                self.known.insert(session);
            }
            other => tracing::error!("the kernel side does not take the inside address behind {public}: {other:?}"),
        }
        Ok(())
    }
}
