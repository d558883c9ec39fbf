//! What must hold after each step, and at the end.

use ftp_helper::{
    engine::policy::Opaque,
    event::{Event, Kind, PinholeState as Shown, SessionId},
};
use ftp_helper_common::{
    canon::bit,
    key::PinholeKey,
    reason::Reason,
    state::{PinholeState, flag},
};

use super::{BEGIN, Broken, SECOND, Summary, World};
use crate::sim::{
    daemon::SWEEP,
    kernel::{Happened, InFlight},
    script::{Ending, Offer},
};

const DAY: u64 = 24 * 3600 * SECOND;

impl World {
    /// What must hold after each step.
    pub(super) fn check(&mut self) -> Result<(), Broken> {
        for happened in std::mem::take(&mut self.kernel.happened) {
            self.look_at(&happened)?;
        }
        self.daemon.commands.clear();
        for event in std::mem::take(&mut self.daemon.events) {
            self.hear(&event)?;
        }
        // Where segments have passed that the daemon has not seen, it can't vouch for what follows from them, and takes it back.
        if self.summary.unrecorded == 0
            && !self.daemon.orphans
            && self.daemon.engine.as_ref().is_some_and(|e| e.stats().divergences > self.unordered)
        {
            return broken(None, "fast ⊄ full: the kernel opened what the engine would not have");
        }
        self.check_one_each()?;
        self.check_caught_up()
    }

    /// A segment that was judged passes. Whatever has happened since, an end is an end, and what it takes back is gone.
    pub(super) fn commit(&mut self, flight: &InFlight) -> Result<(), Broken> {
        self.kernel.commit(flight);
        let (made, id) = (flight.judgement.made, flight.snapshot.id);
        let Some(s) = self.kernel.sessions.get(&flight.key).filter(|s| s.id == id) else { return Ok(()) };
        let about = self.by_id.get(&id).copied();
        if (made.has(bit::FIN) || made.has(bit::RESET)) && s.flags & flag::CLOSING == 0 {
            return broken(about, format!("an end was lost: {s:?}"));
        }
        if made.has(bit::REVOKE) && (s.pinhole.port != 0 || self.kernel.pinholes.values().any(|p| p.session == id)) {
            let others = self.in_flight.values().any(|(f, _)| f.snapshot.id == id);
            if !others {
                return broken(about, format!("what was taken back is there: {s:?} {:?}", self.kernel.pinholes));
            }
        }
        Ok(())
    }

    /// What the kernel has done.
    fn look_at(&mut self, happened: &Happened) -> Result<(), Broken> {
        match happened {
            Happened::Session(key, id) => {
                if let Some(i) = self.session_of_key(key) {
                    self.by_id.insert(*id, i);
                    self.sessions[i].ids.push(*id);
                }
            }
            Happened::Unrecorded(id) => {
                self.summary.unrecorded += 1;
                if let Some(&i) = self.by_id.get(id) {
                    self.sessions[i].unrecorded = true;
                }
            }
            Happened::Untold(id) => {
                if let Some(&i) = self.by_id.get(id) {
                    self.sessions[i].untold = true;
                }
            }
            Happened::Raced(id) => {
                self.summary.races += 1;
                if let Some(&i) = self.by_id.get(id) {
                    self.sessions[i].raced = true;
                }
            }
            Happened::RingFull => self.summary.ring_full += 1,
            Happened::Opened(key, state) => self.check_opened(key, state, false)?,
            Happened::Rearmed(key, state) => {
                self.summary.rearmed += 1;
                self.check_opened(key, state, true)?;
            }
            Happened::InRange(key) => {
                self.summary.in_range += 1;
                self.check_in_range(key)?;
            }
            Happened::SynPassed(key, state) => {
                if state.deadline <= self.now {
                    return broken(None, format!("a SYN passed by a pinhole whose time is over: {key:?}"));
                }
                self.check_standing(key, state, "a SYN passed")?;
            }
            Happened::Used(key, state) => {
                self.summary.used += 1;
                let Some(&i) = self.by_id.get(&state.session) else { return Ok(()) };
                if let Some((n, _)) = self.sessions[i].announcement(key) {
                    self.sessions[i].uses[n] += 1;
                    if self.sessions[i].uses[n] > 2 {
                        return broken(Some(i), format!("three connections by one announcement: {key:?}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// I1, I2, I4: a pinhole has opened.
    fn check_opened(&mut self, key: &PinholeKey, state: &PinholeState, rearmed: bool) -> Result<(), Broken> {
        let Some(&i) = self.by_id.get(&state.session) else {
            return broken(None, format!("a pinhole for a session of which nobody knows: {key:?} {state:?}"));
        };
        let timeout = self.policy.pinhole_timeout.as_nanos() as u64;
        if state.deadline > self.now + timeout {
            return broken(Some(i), format!("I4: a pinhole that lives too long: {key:?} {state:?}"));
        }
        let s = &self.sessions[i];
        let Some((n, opens)) = s.announcement(key) else {
            return broken(Some(i), format!("I1, I2: nobody has negotiated {key:?} {state:?}"));
        };
        if !s.has_said(&opens) {
            return broken(Some(i), format!("I1: {key:?} opened before it was announced"));
        }
        if rearmed {
            return self.check_standing(key, state, "a pinhole came back");
        }
        if s.uses[n] > 0 {
            return broken(Some(i), format!("{key:?} opened again after it was used"));
        }
        if n < s.last_open {
            return broken(Some(i), format!("{key:?} opened after a later announcement had"));
        }
        self.sessions[i].last_open = n;
        self.sessions[i].opened[n] = true;
        Ok(())
    }

    /// What passes by no pinhole goes from the client of an encrypted session that lives to a passive port of its server,
    /// which the administrator has opened for such sessions.
    fn check_in_range(&self, key: &PinholeKey) -> Result<(), Broken> {
        let range =
            self.policy.servers.iter().filter(|s| s.opaque == Opaque::Range).find_map(|s| s.passive_ports.clone());
        let live = |s: &super::Session| {
            let accepted = s.script.encrypted_at.is_some_and(|e| s.replied > e);
            (s.client.addr, s.server.addr, s.hook) == (key.initiator, key.responder, key.hook) && accepted
        };
        let lives = self.sessions.iter().filter(|s| live(s)).any(|s| {
            let busy = |id: &u64| self.in_flight.values().any(|(f, _)| f.snapshot.id == *id);
            let entry = self.kernel.sessions.get(&s.key()).filter(|k| s.ids.contains(&k.id));
            entry.is_some_and(|k| k.flags & flag::OPAQUE != 0 && k.flags & flag::CLOSING == 0) || s.ids.iter().any(busy)
        });
        if !range.is_some_and(|r| r.contains(&key.port)) || !lives {
            return broken(None, format!("a SYN passed by a range that nobody has: {key:?}"));
        }
        Ok(())
    }

    /// Nothing passes for a session that may open nothing any more.
    fn check_standing(&self, key: &PinholeKey, state: &PinholeState, what: &str) -> Result<(), Broken> {
        let about = self.by_id.get(&state.session).copied();
        // The segment that ends it is not committed yet.
        if self.in_flight.values().any(|(f, _)| f.snapshot.id == state.session) {
            return Ok(());
        }
        // `observe` has lost sight of the session for good, and leaves what was open to its time: it drops nothing anyhow.
        let lost = if self.kernel.observes() { flag::LOST } else { 0 };
        match self.kernel.sessions.values().find(|s| s.id == state.session) {
            None => broken(about, format!("I5: {what} for a session that is gone: {key:?}")),
            Some(s) if s.flags & flag::BARRED & !lost != 0 => {
                broken(about, format!("I5: {what} for a session that may open nothing (flags {:#x}): {key:?}", s.flags))
            }
            Some(_) => Ok(()),
        }
    }

    /// What the engine has told.
    fn hear(&mut self, event: &Event) -> Result<(), Broken> {
        let id = event.session.map(|SessionId(id)| id);
        let about = id.and_then(|id| self.by_id.get(&id).copied());
        let text = || {
            let port = event.pinhole.as_ref().map_or(0, |p| p.port);
            format!("told {:?} {:?} port {port} by {:?}", event.event, event.reason, event.by)
        };
        // Of every denial there is a packet in the story.
        if event.event != Kind::Denied {
            self.tell(about, text);
        }
        let Some(i) = about else { return Ok(()) };
        match event.event {
            Kind::Opened => {
                let port = event.pinhole.as_ref().map_or(0, |p| p.port);
                let s = &mut self.sessions[i];
                // Opened once more after two CPUs had lost it between them: the set is the same.
                if s.told.last() != Some(&port) {
                    s.told.push(port);
                }
                if !s.script.opens.iter().any(|o| o.port == port) {
                    return broken(about, format!("I6: the engine opened port {port}, which this dialogue does not"));
                }
            }
            Kind::Tainted | Kind::Killed | Kind::Opaque => {
                self.summary.barred += 1;
                let s = &self.sessions[i];
                if self.is_benign() && !s.script.barred && !s.unrecorded {
                    return broken(about, format!("a good session was barred: {:?} {:?}", event.event, event.reason));
                }
            }
            Kind::SessionEnd if event.reason == Some(Reason::Forgotten) => self.sessions[i].forgotten = true,
            _ => {}
        }
        Ok(())
    }

    /// I3: one unconsumed pinhole a session, while no segment of it is being judged.
    fn check_one_each(&self) -> Result<(), Broken> {
        let mut seen: Vec<u64> = Vec::with_capacity(self.kernel.pinholes.len());
        for p in self.kernel.pinholes.values().filter(|p| p.deadline > self.now) {
            let busy = || self.in_flight.values().any(|(f, _)| f.snapshot.id == p.session);
            if seen.contains(&p.session) && !busy() {
                let about = self.by_id.get(&p.session).copied();
                return broken(about, format!("I3: two unconsumed pinholes: {:?}", self.kernel.pinholes));
            }
            seen.push(p.session);
        }
        Ok(())
    }

    /// When the daemon has read everything, it and the kernel agree.
    fn check_caught_up(&self) -> Result<(), Broken> {
        let Some(engine) = &self.daemon.engine else { return Ok(()) };
        if !self.daemon.works(self.now) || !self.kernel.events.is_empty() || !self.in_flight.is_empty() {
            return Ok(());
        }
        if self.kernel.pinholes.is_empty() && engine.poll_timeout().is_none() {
            return Ok(());
        }
        let views: Vec<_> = engine.pinholes(self.now).collect();
        for (key, p) in self.kernel.pinholes.iter().filter(|(_, p)| p.deadline > self.now) {
            let Some(&i) = self.by_id.get(&p.session) else { continue };
            let s = &self.sessions[i];
            if s.unrecorded {
                continue;
            }
            if !views.iter().any(|v| v.owner == p.session && v.pinhole.port == key.port) {
                return broken(Some(i), format!("the engine knows nothing of {key:?} {p:?}"));
            }
            let over = |sock: Option<usize>| sock.is_some_and(|n| self.socks[n].peer_done);
            let Some((_, opens)) = s.announcement(key) else { continue };
            // A daemon that takes over a session the kernel is blind to skips the rest of a line, and with it perhaps the
            // command that takes the pinhole back: then its time ends it.
            if self.daemon.joined_blind.contains(&p.session) {
                continue;
            }
            if s.ids.last() == Some(&p.session) && s.revoked_since(opens.exchange) {
                return broken(Some(i), format!("I5: {key:?} is open although the client has taken it back"));
            }
            if s.ids.last() == Some(&p.session) && (over(s.c) || over(s.v)) {
                return broken(Some(i), format!("I5: {key:?} is open although the control connection has ended"));
            }
        }
        for v in views.iter().filter(|v| v.pinhole.state == Shown::Confirmed && v.pinhole.expires_in_ms > 0) {
            let about = self.by_id.get(&v.owner).copied();
            // Used up, and nobody could be told.
            if about.is_some_and(|i| self.sessions[i].unrecorded || self.sessions[i].untold) {
                continue;
            }
            if !self.kernel.pinholes.iter().any(|(k, p)| p.session == v.owner && k.port == v.pinhole.port) {
                return broken(about, format!("the engine believes in a pinhole that is not there: {v:?}"));
            }
        }
        Ok(())
    }

    /// Liveness: a session that has been idle for a while is in sight.
    pub(super) fn check_sighted(&mut self, i: usize) -> Result<(), Broken> {
        let raced = std::mem::take(&mut self.sessions[i].raced);
        let s = &self.sessions[i];
        // While the daemon is behind, it is not its turn yet.
        if !self.is_benign() || raced || !self.kernel.events.is_empty() || s.script.barred || s.unrecorded {
            return Ok(());
        }
        let Some(state) = self.kernel.sessions.get(&s.key()) else {
            return broken(Some(i), "the kernel does not follow a session that lives");
        };
        if state.flags & flag::BLIND != 0 && state.flags & flag::BARRED == 0 {
            return broken(Some(i), format!("blind at a quiet point: {state:?}"));
        }
        Ok(())
    }

    /// Liveness: a transfer that was negotiated by right has come through.
    pub(super) fn came_out(&mut self, i: usize, offer: &Offer, well: bool) -> Result<(), Broken> {
        let s = &self.sessions[i];
        let by_right = s.script.opens.iter().any(|o| o.port == offer.port && o.used);
        let by_right = by_right || s.script.ranged.contains(&offer.port);
        // Unless the daemon is so slow that it has not come to it yet.
        if !well && by_right && self.is_benign() && self.kernel.events.is_empty() {
            return broken(Some(i), format!("a legitimate transfer to port {} did not come through", offer.port));
        }
        Ok(())
    }

    pub(super) fn note_engine_stats(&mut self) {
        let Some(engine) = &self.daemon.engine else { return };
        let stats = engine.stats();
        self.summary += Summary {
            announcements: stats.announcements,
            fast: stats.taken_by_fast_path,
            resynced: stats.resyncs_applied,
            adopted: stats.adopted,
            refused: stats.refused_total(),
            ..Summary::default()
        };
    }

    /// All sessions are over: the timers run out, and nothing is left.
    pub(super) fn wind_down(&mut self) -> Result<(), Broken> {
        for (flight, _) in std::mem::take(&mut self.in_flight).into_values() {
            self.kernel.commit(&flight);
        }
        self.check_dialogues()?;
        if self.daemon.engine.is_none() {
            self.daemon.come_back(self.now, &mut self.kernel);
        }
        self.daemon.stopped_until = 0;
        self.quieten()?;
        // What ended without anybody seeing it.
        for later in [SWEEP, SWEEP, 6 * DAY, SWEEP] {
            self.now += later;
            self.quieten()?;
        }
        self.note_engine_stats();
        let Some(engine) = &self.daemon.engine else { return Ok(()) };
        let k = &self.kernel;
        self.summary.given_up = self.daemon.settled - self.summary.unparked.min(self.daemon.settled);
        if k.kept != self.daemon.settled || !k.parked.is_empty() {
            return broken(None, format!("{} SYNs were parked, and {} have come out", k.kept, self.daemon.settled));
        }
        let left = (engine.sessions().count(), k.sessions.len(), k.pinholes.len(), k.flows.len(), k.clients.len());
        if left != (0, 0, 0, 0, 0) || !k.ranges.is_empty() || !engine.is_idle() {
            let (sessions, flows) = (&k.sessions, &k.flows);
            return broken(
                sessions.values().next().and_then(|s| self.by_id.get(&s.id).copied()),
                format!(
                    "something is left: engine {:?}, idle {}; kernel {sessions:?} {:?} {flows:?} {:?} {:?}",
                    engine.sessions().collect::<Vec<_>>(),
                    engine.is_idle(),
                    k.pinholes,
                    k.clients,
                    k.ranges
                ),
            );
        }
        Ok(())
    }

    /// Lets the daemon do all that is to be done.
    fn quieten(&mut self) -> Result<(), Broken> {
        for _ in 0..20_000 {
            self.kernel.heartbeat = self.now;
            self.daemon.turn(self.now, &mut self.kernel, usize::MAX);
            self.daemon.sweep(self.now, &mut self.kernel);
            self.daemon.released.clear();
            self.check()?;
            if !self.kernel.events.is_empty() || !self.kernel.telemetry.is_empty() {
                continue;
            }
            match self.daemon.engine.as_ref().and_then(|e| e.poll_timeout()) {
                Some(at) => self.now = self.now.max(at),
                None => return Ok(()),
            }
            if self.now > BEGIN + 30 * DAY {
                break;
            }
        }
        broken(None, "the engine's timers never run out")
    }

    /// I6: what was opened is what the dialogue opens, however it was cut.
    fn check_dialogues(&mut self) -> Result<(), Broken> {
        if !self.is_benign() {
            return Ok(());
        }
        // What is in the ring still counts.
        self.kernel.heartbeat = self.now;
        for _ in 0..1000 {
            self.daemon.turn(self.now, &mut self.kernel, usize::MAX);
            if self.kernel.events.is_empty() {
                break;
            }
        }
        self.check()?;
        for (i, s) in self.sessions.iter().enumerate() {
            let expected: Vec<u16> = s.script.opens.iter().map(|o| o.port).collect();
            // What the daemon comes to when the control connection is over opens nothing (rule 5): the last command or two,
            // or, where it is slow, the last ones that were left to it.
            let last = s.script.exchanges.len().saturating_sub(2);
            let missing = s.script.opens.iter().zip(&s.opened).skip(s.told.len());
            let too_late = missing.clone().all(|(o, _)| o.exchange >= last)
                || self.options.trouble.slow && (s.forgotten || !missing.clone().any(|(_, opened)| *opened));
            if !expected.starts_with(&s.told) || !too_late {
                return broken(Some(i), format!("I6: opened {:?} instead of {expected:?}", s.told));
            }
            let commands: Vec<u8> = s.script.exchanges.iter().flat_map(|e| e.command.clone()).collect();
            let got = s.v.map_or(&[][..], |v| &self.socks[v].got);
            let killed = s.script.barred && s.script.ending == Ending::Silence;
            if got != commands && !killed {
                return broken(Some(i), "the server has not received what the client has sent");
            }
        }
        Ok(())
    }

    /// What each session's dialogue has opened, as the engine has told.
    #[must_use]
    pub fn opened(&self) -> Vec<Vec<u16>> {
        self.sessions.iter().map(|s| s.told.clone()).collect()
    }
}

fn broken<T>(session: Option<usize>, what: impl Into<String>) -> Result<T, Broken> {
    Err(Broken { session, what: what.into() })
}
