//! What the kernel's tables tell: what is taken over at the start, and what has no owner any more.

use std::collections::{HashMap, HashSet};

use ftp_helper_common::{
    command::op,
    key::{FlowKey, PinholeKey},
    state::{FlowState, PinholeState, flag},
};

use super::{Daemon, SWEEP};
use crate::{
    daemon::{clock, saved::Saved},
    engine::{Left, Nanos},
};

/// A data connection that nothing was heard of for so long is taken for dead: conntrack's limit for established ones.
const FLOW_DEAD: Nanos = 5 * 24 * 3600 * 1_000_000_000;

impl Daemon {
    /// Takes over sessions and data connections of an earlier daemon, and sessions that began while none was there.
    pub(super) fn adopt(&mut self, now: Nanos) -> anyhow::Result<()> {
        let saved = self.plane.saved()?;
        let sessions = self.plane.sessions()?;
        let pinholes: HashMap<PinholeKey, PinholeState> = self.plane.pinholes()?.into_iter().collect();
        for (key, state) in &sessions {
            let pinhole = pinholes.get(&state.pinhole).filter(|p| p.session == state.id);
            let left = Left {
                state,
                deadline: pinhole.map(|p| p.deadline),
                saved: saved.get(&state.id).map(|b| b.as_slice()),
            };
            self.engine.adopt_before(now, key, &left);
        }
        for (key, state) in &pinholes {
            self.engine.adopt_added(key, state);
        }
        self.saved = Saved::of(saved.into_keys());
        self.plane.beat(clock::now())?;
        // What that daemon has not read leads from where it was to where the tables are.
        let tables_read = clock::now();
        while !self.read()? && self.engine.read_up_to() <= tables_read {
            // A long way, and the kernel is not to take this daemon for dead.
            self.plane.beat(clock::now())?;
        }
        let flows = self.plane.flows()?;
        for (key, state) in &flows {
            self.engine.adopt_flow(now, &key.to_flow(state.hook), state);
        }
        self.engine.adopted_all(clock::now());
        self.saved.follow_all(&self.engine, &mut self.plane)?;
        tracing::info!("took over {} sessions and {} data connections", sessions.len(), flows.len());
        Ok(())
    }

    /// Looks for what has no owner any more.
    pub(super) fn sweep(&mut self, now: Nanos) -> anyhow::Result<()> {
        // Sessions that began unrecorded, while the daemon was stopped or there was no room for the record: known ones are
        // left as they are.
        for (key, state) in self.plane.sessions()? {
            if state.flags & (flag::UNRECORDED | flag::LOST) != 0 || now.saturating_sub(state.last) > SWEEP {
                self.engine.adopt(now, &key, &state);
            }
        }
        let flows = self.plane.flows()?;
        // Data connections whose end went unrecorded. The record may be on its way: not before they are missed twice.
        let live: HashSet<FlowKey> = flows.iter().map(|(key, state)| key.to_flow(state.hook)).collect();
        let missing: HashSet<FlowKey> = self.engine.connections().filter(|c| !live.contains(c)).collect();
        for key in missing.intersection(&self.missing) {
            self.engine.forget_flow(now, key);
        }
        self.missing = missing;
        for (key, state) in flows {
            let FlowState { hook, last, .. } = state;
            if now.saturating_sub(last) > FLOW_DEAD {
                let flow = key.to_flow(hook);
                self.order(op::FORGET_FLOW, |c| {
                    c.flow = flow;
                    c.mode = hook;
                })?;
                // Or its session would be kept alive for it for ever.
                self.engine.forget_flow(now, &flow);
            }
        }
        self.plane.forget_idle()?;
        self.saved.follow_all(&self.engine, &mut self.plane)
    }
}
