//! The daemon: the real engine, driven as the product's loop drives it, by a process that may be slow, stop, or die.

use std::collections::{BTreeSet, VecDeque};

use ftp_helper::{
    engine::{Action, Engine, Policy},
    event::Event,
};
use ftp_helper_common::{
    command::{Command, Outcome, op},
    key::{FlowKey, PinholeKey},
    reason::Reason,
    record::SynRecord,
    state::flag,
};

use super::kernel::{Kernel, Packet};

/// How long a parked SYN is kept.
const PARKED_FOR: u64 = 500_000_000;
/// How often it sweeps.
pub const SWEEP: u64 = 30_000_000_000;
/// Records in a row.
const BATCH: usize = 512;
/// A data connection that nothing was heard of for so long is taken for dead.
const FLOW_DEAD: u64 = 5 * 24 * 3600 * 1_000_000_000;

/// The daemon.
pub struct Daemon {
    /// The engine; none while the daemon is dead.
    pub engine: Option<Engine>,
    /// Until when it does nothing at all.
    pub stopped_until: u64,
    /// What the engine has told since the world looked last.
    pub events: Vec<Event>,
    /// Commands carried out since the world looked last.
    pub commands: Vec<(Command, Outcome)>,
    /// SYNs that are sent on, with the hook that they had passed.
    pub released: Vec<(u8, Packet)>,
    /// Parked SYNs that were read: sent on, denied after all, forgotten beside one that was sent on, or dead with the daemon.
    pub settled: u64,
    /// Whether records were left of a session whose entry was gone when the next daemon came: it joins in the middle, and
    /// vouches for nothing.
    pub orphans: bool,
    /// Sessions that a daemon took over while the kernel was blind to them.
    pub joined_blind: BTreeSet<u64>,
    policy: Policy,
    parked: VecDeque<(u64, SynRecord, Packet)>,
    missing: BTreeSet<FlowKey>,
}

impl Daemon {
    /// A daemon that has just started on empty tables.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            engine: Some(Engine::new(policy.clone(), 0)),
            stopped_until: 0,
            events: Vec::new(),
            commands: Vec::new(),
            released: Vec::new(),
            settled: 0,
            orphans: false,
            joined_blind: BTreeSet::new(),
            policy,
            parked: VecDeque::new(),
            missing: BTreeSet::new(),
        }
    }

    /// Whether it is doing its work.
    #[must_use]
    pub fn works(&self, now: u64) -> bool {
        self.engine.is_some() && self.stopped_until <= now
    }

    /// It is killed; the kernel's tables stay.
    pub fn die(&mut self) {
        self.engine = None;
        self.settled += self.parked.len() as u64;
        self.parked.clear();
        self.missing.clear();
    }

    /// It comes back, and takes over what stands in the tables.
    pub fn come_back(&mut self, now: u64, kernel: &mut Kernel) {
        let mut engine = Engine::new(self.policy.clone(), 0);
        kernel.heartbeat = now;
        for (key, state) in &kernel.sessions {
            if state.flags & flag::BLIND != 0 {
                self.joined_blind.insert(state.id);
            }
            engine.adopt(now, key, state);
        }
        for (key, state) in &kernel.flows {
            engine.adopt_flow(now, &key.to_flow(state.hook), state);
        }
        let known = |id: u64| id == 0 || kernel.sessions.values().any(|s| s.id == id);
        self.orphans |= kernel.events.iter().any(|r| !known(r.view().session()));
        self.engine = Some(engine);
        self.stopped_until = 0;
        self.act(now, kernel);
    }

    /// Reads `most` records at most, and does what follows.
    pub fn turn(&mut self, now: u64, kernel: &mut Kernel, most: usize) {
        let most = most.min(BATCH);
        for _ in 0..most {
            let Some(rec) = kernel.events.take() else { break };
            let Some(engine) = &mut self.engine else { return };
            engine.handle_record(now, &rec.view());
            self.act(now, kernel);
        }
        let mut early = Vec::new();
        while let Some((syn, frame)) = kernel.parked.take() {
            early.push(pinhole_of(&syn));
            self.parked.push_back((now, syn, frame));
        }
        for _ in 0..most {
            let Some(rec) = kernel.telemetry.take() else { break };
            let Some(engine) = &mut self.engine else { return };
            engine.handle_record(now, &rec.view());
            self.act(now, kernel);
        }
        // The pinhole may have opened between the SYN's denial and this moment.
        for key in early {
            if kernel.pinholes.get(&key).is_some_and(|p| !p.is_bound()) {
                self.release(now, kernel, &key);
            }
        }
        self.give_up(now, kernel);
        if let Some(engine) = &mut self.engine
            && kernel.events.is_empty()
        {
            engine.handle_timeout(now);
        }
        self.act(now, kernel);
    }

    /// Looks for what has no owner any more.
    pub fn sweep(&mut self, now: u64, kernel: &mut Kernel) {
        let Some(engine) = &mut self.engine else { return };
        for (key, state) in &kernel.sessions {
            if state.flags & (flag::UNRECORDED | flag::LOST) != 0 || now.saturating_sub(state.last) > SWEEP {
                engine.adopt(now, key, state);
            }
        }
        let live: BTreeSet<FlowKey> = kernel.flows.iter().map(|(k, f)| k.to_flow(f.hook)).collect();
        let missing: BTreeSet<FlowKey> = engine.connections().filter(|c| !live.contains(c)).collect();
        for key in missing.intersection(&self.missing) {
            engine.forget_flow(now, key);
        }
        self.missing = missing;
        let dead = |last: u64| now.saturating_sub(last) > FLOW_DEAD;
        let flows: Vec<_> = kernel.flows.iter().filter(|(_, f)| dead(f.last)).map(|(k, f)| (*k, f.hook)).collect();
        for (key, hook) in flows {
            let flow = key.to_flow(hook);
            kernel.command(now, &Command { op: op::FORGET_FLOW, flow, mode: hook, ..Command::default() });
            engine.forget_flow(now, &flow);
        }
        let ranges: Vec<_> = kernel.ranges.iter().filter(|(_, r)| r.sessions == 0).map(|(k, _)| *k).collect();
        for pinhole in ranges {
            kernel.command(now, &Command { op: op::FORGET_RANGE, pinhole, ..Command::default() });
        }
        let idle: Vec<_> = kernel.clients.iter().filter(|(_, c)| c.pinholes == 0).map(|(a, _)| *a).collect();
        for client in idle {
            let mut command = Command { op: op::FORGET_CLIENT, ..Command::default() };
            command.flow.initiator = client;
            kernel.command(now, &command);
        }
        self.act(now, kernel);
    }

    fn act(&mut self, now: u64, kernel: &mut Kernel) {
        while let Some(action) = self.engine.as_mut().and_then(Engine::poll_action) {
            match action {
                Action::Command(command) => {
                    let outcome = kernel.command(now, &command);
                    self.commands.push((command, outcome));
                    if command.op == op::OPEN && outcome == Outcome::Done {
                        self.release(now, kernel, &command.pinhole);
                    }
                    if let Some(engine) = &mut self.engine {
                        engine.handle_outcome(now, &command, outcome);
                    }
                }
                Action::Event(event) => self.events.push(event),
            }
        }
    }

    fn release(&mut self, now: u64, kernel: &mut Kernel, key: &PinholeKey) {
        self.give_up(now, kernel);
        let Some(at) = self.parked.iter().position(|(_, syn, _)| pinhole_of(syn) == *key) else { return };
        let Some((_, syn, frame)) = self.parked.remove(at) else { return };
        self.settled += 1;
        let (beside, rest) = std::mem::take(&mut self.parked).into_iter().partition(|(_, s, _)| pinhole_of(s) == *key);
        self.parked = rest;
        let beside: VecDeque<_> = beside;
        for (_, other, _) in beside {
            self.settled += 1;
            // A retransmission is forgotten; another connection has come in vain.
            if other.key != syn.key {
                deny(now, kernel, &SynRecord { reason: Reason::OtherSourcePort as u16, ..other });
            }
        }
        self.released.push((syn.hook, frame));
    }

    /// Has denied what was parked in vain.
    pub fn give_up(&mut self, now: u64, kernel: &mut Kernel) {
        while self.parked.front().is_some_and(|(t, ..)| t + PARKED_FOR <= now) {
            let Some((_, syn, _)) = self.parked.pop_front() else { return };
            self.settled += 1;
            deny(now, kernel, &syn);
        }
    }

    /// When the next parked SYN is given up.
    #[must_use]
    pub fn gives_up_at(&self) -> Option<u64> {
        self.parked.front().map(|(t, ..)| t + PARKED_FOR)
    }
}

fn deny(now: u64, kernel: &mut Kernel, syn: &SynRecord) {
    let command = Command { op: op::DENY, flow: syn.key, mode: syn.hook, flags: syn.reason, ..Command::default() };
    kernel.command(now, &command);
}

fn pinhole_of(syn: &SynRecord) -> PinholeKey {
    PinholeKey {
        initiator: syn.key.initiator,
        responder: syn.key.responder,
        port: syn.key.responder_port,
        hook: syn.hook,
        pad: 0,
    }
}
