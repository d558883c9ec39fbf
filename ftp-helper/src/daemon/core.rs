//! The loop's state: kernel side, engine, interfaces, and the answers to questions.

mod interfaces;
mod outlets;
mod reload;
mod tables;
mod troubles;

use std::{collections::HashSet, time::Duration};

use anyhow::Context as _;
use ftp_helper_common::{
    command::{Command, Outcome, op},
    key::{FlowKey, PinholeKey},
    record::SynRecord,
};
use tokio::{
    io::unix::AsyncFd,
    time::{Instant, sleep_until},
};

use self::{
    outlets::{Outlets, carry_out, release},
    troubles::{Task, Troubles},
};
use super::{
    RunOptions, act,
    audit::Audit,
    backend::Question,
    clock, guards,
    nat::Translator,
    privileges,
    rings::{Found, Rings},
    saved::Saved,
    status, why,
};
use crate::{
    api::History,
    config::{Config, Hook},
    dataplane::{self, Dataplane, Guard, Options, Parking, Ring, Shield},
    engine::{
        Engine, Nanos, Record,
        policy::{Mode, Policy},
    },
    nft::Feeder,
};

/// How often the heart beats, and interfaces are looked for.
const BEAT: Duration = Duration::from_secs(1);
/// Records that are read at one time of the clock: some ten microseconds' work.
const RECORDS_A_TIME: u32 = 16;
/// How often the kernel's tables are gone through for what has no owner.
const SWEEP: Nanos = 30_000_000_000;

/// Everything that the loop works on.
pub(super) struct Daemon {
    pub(super) config: Config,
    pub(super) plane: Dataplane,
    pub(super) engine: Engine,
    pub(super) waiting_for: Vec<String>,
    pub(super) started: Nanos,
    options: RunOptions,
    rings: Rings,
    parking: Parking,
    outlets: Outlets,
    /// Where addresses are translated.
    translator: Option<Translator>,
    pub(super) guards: Vec<Guard>,
    /// The configuration's policy, with the addresses of interfaces filled in.
    pub(super) policy: Policy,
    troubles: Troubles,
    next_beat: Instant,
    next_sweep: Nanos,
    pub(super) audit: Audit,
    /// How long the host had been suspended when it was looked at last.
    suspended: Nanos,
    /// Sessions of which something is saved for the next daemon.
    saved: Saved,
    /// Data connections that the engine knew of at the last sweep and the kernel did not.
    missing: HashSet<FlowKey>,
    logger: Option<AsyncFd<aya_log::EbpfLogger<&'static dyn log::Log>>>,
}

impl Daemon {
    /// Loads, takes over what an earlier daemon left, and attaches. What was done is undone if it fails.
    pub(super) fn start(config: Config, options: RunOptions, events: History) -> anyhow::Result<Self> {
        let now = clock::now();
        let mut plane = Dataplane::load(&Options {
            control_ports: config.watch.control_ports.clone(),
            sessions: config.policy.limits.sessions,
            ring_bytes: config.ring_bytes,
            attach: options.attach,
            shield: if config.watch.hook == Hook::XdpTc { options.shield } else { Shield::Off },
            instance: Some(config.api.socket.display().to_string()),
            programs: &[],
            log_level: options.kernel_log,
            nat: config.policy.nat.is_some(),
            bench: false,
        })?;
        let adopted = plane.adopted();
        give_back_memory();
        // Before there is any other thread.
        if let Err(e) = privileges::give_up() {
            return Err(undone(plane, adopted, e));
        }
        let prepared = (|| {
            let logger = match options.kernel_log {
                0 => None,
                _ => {
                    let logger = aya_log::EbpfLogger::init(plane.ebpf_mut()).context("can't read the programs' log")?;
                    // SAFETY: the logger owns its descriptor and keeps it open and the same for as long as it lives.
                    Some(unsafe { AsyncFd::register(logger) }.context("can't wait for the programs' log")?)
                }
            };
            let parking = Parking::new(plane.mark())?;
            let rings = Rings::open(&mut plane)?;
            let translator = config.policy.nat.is_some().then(|| Translator::new(now)).transpose()?;
            plane.beat(now)?;
            Ok((logger, parking, rings, translator))
        })();
        let (logger, parking, rings, translator) = match prepared {
            Ok(prepared) => prepared,
            Err(e) => return Err(undone(plane, adopted, e)),
        };
        let policy = config.policy.clone();
        let mut daemon = Self {
            engine: Engine::new(policy.clone(), clock::wall_offset()),
            config,
            plane,
            waiting_for: Vec::new(),
            started: now,
            options,
            rings,
            parking,
            outlets: Outlets { events, feeder: None },
            translator,
            guards: Vec::new(),
            policy,
            troubles: Troubles::default(),
            next_beat: Instant::now() + BEAT,
            next_sweep: now + SWEEP,
            audit: Audit::default(),
            suspended: clock::suspended(),
            saved: Saved::default(),
            missing: HashSet::new(),
            logger,
        };
        match daemon.begin(now, adopted) {
            Ok(()) => Ok(daemon),
            Err(e) => Err(undone(daemon.plane, adopted, e)),
        }
    }

    /// One turn of the loop: waits for something to happen, and deals with it.
    ///
    /// # Errors
    /// When the kernel side can't be read or written any more.
    pub(super) async fn step(&mut self) -> anyhow::Result<()> {
        let due = [self.engine.poll_timeout(), self.parking.poll_timeout()].into_iter().flatten().min();
        let due = due.map(|t| Instant::now() + Duration::from_nanos(t.saturating_sub(clock::now())));
        tokio::select! {
            biased;
            ready = self.rings.ready() => ready?,
            () = sleep_until(self.next_beat) => self.beat()?,
            () = sleep_until(due.unwrap_or(self.next_beat)), if due.is_some() => {}
            log = next_log(self.logger.as_mut()) => log?,
        }
        // Before the look: what is written meanwhile is younger.
        let now = clock::now();
        self.notice_suspend(now);
        if self.read()? {
            self.engine.handle_timeout(now);
        }
        self.act()?;
        self.give_up(now)
    }

    /// Detaches and leaves nothing behind.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        let finished = self.finish();
        if let Some(feeder) = self.outlets.feeder.take() {
            feeder.stop();
        }
        tracing::info!("detaching");
        self.plane.detach_all().and(finished)
    }

    /// Ends and leaves everything to the next daemon, as if it had been killed between two turns of the loop: what it has read is
    /// done and saved, what it has not read waits in the ring buffer.
    pub(super) fn leave(self) {
        tracing::info!("programs and tables are left to the next daemon");
        // Whatever would be undone as it is dropped, such as the elements of sets, is not: the process ends now.
        std::mem::forget(self);
    }

    /// Answers a question of the control socket or the metrics endpoint. Who asked may be gone: then nobody listens.
    pub(super) fn answer(&mut self, question: Question) {
        match question {
            Question::Status(to) => drop(to.send(status::status(self))),
            Question::Sessions(to) => drop(to.send(status::sessions(self))),
            Question::Pinholes(to) => drop(to.send(status::pinholes(self))),
            Question::Connections(to) => drop(to.send(status::connections(self))),
            Question::Story(session, to) => drop(to.send(act::story(self, &session))),
            Question::Act(uid, what, to) => drop(to.send(act::act(self, uid, what))),
            Question::Why(asked, to) => drop(to.send(why::why(self, asked).map_err(|e| format!("{e:#}")))),
            Question::Reload(to) => drop(to.send(self.reload().map_err(|e| format!("{e:#}")))),
            Question::Metrics(to) => drop(to.send(status::metrics(self))),
        }
    }

    /// What it does, in one line for a service manager.
    pub(super) fn summary(&self) -> String {
        let mode = match self.config.policy.mode {
            Mode::Observe => "observes, drops nothing",
            Mode::Drop => "drops what nobody negotiated",
            Mode::Mark => "marks what was negotiated",
        };
        format!("{mode}; interfaces: {}", self.config.watch.interfaces.join(", "))
    }

    /// What the kernel has written until now still counts, and what is parked goes nowhere any more.
    fn finish(&mut self) -> anyhow::Result<()> {
        self.read()?;
        self.give_up(Nanos::MAX)?;
        self.read()?;
        self.engine.shutdown(clock::now());
        self.act()
    }

    fn begin(&mut self, now: Nanos, adopted: bool) -> anyhow::Result<()> {
        let interfaces = dataplane::interfaces()?;
        self.guards = guards::resolve(&self.config, &interfaces);
        self.policy = guards::policy(&self.config, &interfaces);
        self.plane.apply(&self.policy, &self.guards, self.options.fast)?;
        // Nothing is there yet that it could change.
        self.engine.set_policy(now, self.policy.clone());
        if adopted {
            self.adopt(now)?;
            self.translate(now)?;
        }
        if let Some(sets) = &self.config.nftables {
            self.outlets.feeder = Some(Feeder::start(sets)?);
            self.feed_all(now);
        }
        let (wanted, waiting) = guards::wanted(&self.config.watch.interfaces, &interfaces);
        for i in wanted {
            self.plane.attach(&i.name, i.index)?;
            self.tell_attached();
            // The verifier takes its time, and the kernel is not to take this daemon for dead.
            self.plane.beat(clock::now())?;
        }
        for name in &waiting {
            tracing::warn!("watch.interfaces: no interface {name} yet; it is picked up when it appears");
        }
        self.waiting_for = waiting;
        self.plane.remove_leftovers()?;
        self.act()
    }

    /// Reads what the kernel has written and gives it to the engine; whether that was all.
    fn read(&mut self) -> anyhow::Result<bool> {
        let mut found = self.read_some()?;
        if self.rings.rest(&mut self.plane, found.any)? {
            // A record that was written before the kernel knew that it has to wake us.
            found = self.read_some()?;
        }
        Ok(found.all)
    }

    fn read_some(&mut self) -> anyhow::Result<Found> {
        let Self { rings, engine, parking, plane, outlets, translator, saved, .. } = self;
        let mut result = Ok(());
        let mut early = Vec::new();
        let (mut now, mut records) = (clock::now(), 0_u32);
        let found = rings.read(|ring, bytes| {
            records += 1;
            if records.is_multiple_of(RECORDS_A_TIME) {
                now = clock::now();
            }
            if ring == Ring::Parked {
                match read_parked(parking, now, bytes) {
                    Some(key) => early.push(key),
                    None => tracing::error!("a parked SYN of {} bytes can't be read", bytes.len()),
                }
                return;
            }
            let mut session = None;
            match Record::parse(bytes) {
                Ok(record) => {
                    session = Some(record.session()).filter(|_| ring == Ring::Events);
                    engine.handle_record(now, &record);
                    if let (Some(translator), Ok(())) = (translator.as_mut(), &result) {
                        result = translator.see(engine, plane, &record);
                    }
                    // Open again, which is no event.
                    if let Record::FlowRearmed(r) = &record {
                        outlets.feed(engine, r.session);
                    }
                }
                Err(e) => tracing::error!("a record of the kernel can't be read: {e}"),
            }
            if result.is_ok() {
                result = carry_out(engine, plane, parking, outlets);
            }
            // Before the record counts as read: whoever goes on from there needs this.
            if let (Some(session), Ok(())) = (session, &result) {
                result = saved.follow(engine, plane, session);
            }
        })?;
        result?;
        // The pinhole may have opened between the SYN's denial and this moment.
        for key in early {
            if self.plane.pinhole(&key)?.is_some_and(|p| !p.is_bound()) {
                release(&mut self.parking, &key);
            }
        }
        Ok(found)
    }

    /// What was parked in vain goes on without the mark in mode `mark`, and the kernel counts and tells it then; otherwise
    /// it is counted and told as denied.
    fn give_up(&mut self, now: Nanos) -> anyhow::Result<()> {
        for in_vain in self.parking.given_up(now) {
            let syn = in_vain.syn;
            if self.config.policy.mode == Mode::Mark {
                match self.parking.let_go(&in_vain) {
                    Ok(()) => continue,
                    Err(e) => tracing::warn!(
                        "a SYN to port {} that was kept in vain could not be sent on: {e}",
                        syn.key.responder_port
                    ),
                }
            }
            self.order(op::DENY, |c| {
                c.flow = syn.key;
                c.mode = syn.hook;
                c.flags = syn.reason;
                c.epoch = syn.ifindex;
            })?;
        }
        Ok(())
    }

    /// Carries out what the engine wants.
    pub(super) fn act(&mut self) -> anyhow::Result<()> {
        carry_out(&mut self.engine, &mut self.plane, &mut self.parking, &mut self.outlets)
    }

    /// The seconds of a pinhole go on while the host is suspended, and the kernel's clock does not.
    fn notice_suspend(&mut self, now: Nanos) {
        /// The two clocks are read one after the other, and the daemon may have to wait in between.
        const NOTABLE: Nanos = 100_000_000;
        let suspended = clock::suspended();
        let time = suspended.saturating_sub(self.suspended);
        if time > NOTABLE {
            tracing::info!("the host was suspended for {:?}", Duration::from_nanos(time));
            self.suspended = suspended;
            self.engine.handle_suspend(now, time, clock::wall_offset());
        }
    }

    /// Once a second: the sign of life, what has changed on the host, and now and then a sweep. What fails of that but the sign of
    /// life is tried again: the engine has not been told of it.
    fn beat(&mut self) -> anyhow::Result<()> {
        self.next_beat = Instant::now() + BEAT;
        let now = clock::now();
        self.plane.beat(now)?;
        let followed = self.follow_host(now);
        self.troubles.note(Task::Host, followed);
        if self.translator.as_ref().is_some_and(|t| t.is_due(now)) {
            let translated = self.translate(now);
            self.troubles.note(Task::Translations, translated);
        }
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP;
            let swept = self.sweep(now);
            self.troubles.note(Task::Sweep, swept);
            give_back_memory();
        }
        let looked = self.audit.look(now, &self.plane, &self.engine);
        self.troubles.note(Task::Audit, looked);
        Ok(())
    }

    /// Goes through what is known of inside ends.
    fn translate(&mut self, now: Nanos) -> anyhow::Result<()> {
        let Self { translator, engine, plane, .. } = self;
        translator.as_mut().map_or(Ok(()), |t| t.sweep(engine, plane, now))
    }

    fn order(&self, op: u32, fill: impl FnOnce(&mut Command)) -> anyhow::Result<Outcome> {
        let mut command = Command { op, ..Command::default() };
        fill(&mut command);
        self.plane.command(&command)
    }

    /// An element for each pinhole that is there.
    fn feed_all(&mut self, now: Nanos) {
        if let Some(feeder) = &mut self.outlets.feeder {
            for p in self.engine.pinholes(now) {
                feeder.follow(p.owner, Some(&p.pinhole));
            }
        }
    }

    /// Saves what there is of a session now for the next daemon.
    pub(super) fn save(&mut self, session: u64) -> anyhow::Result<()> {
        self.saved.follow(&self.engine, &mut self.plane, session)
    }

    /// What was fed into sets, if any are.
    pub(super) fn feeder(&self) -> Option<&Feeder> {
        self.outlets.feeder.as_ref()
    }
}

/// Loading reads the kernel's type information and holds the object's several times; all that is free then, and malloc(3) would
/// keep it. Later what lives for a moment comes to lie here and there in that, and would be kept as well, page by page.
fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) asks nothing of its caller; whatever is in use stays where it is.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Keeps a SYN; the pinhole that it needs.
fn read_parked(parking: &mut Parking, now: Nanos, bytes: &[u8]) -> Option<PinholeKey> {
    let syn: SynRecord = parking.keep(now, bytes)?;
    let (key, hook) = (syn.key, syn.hook);
    Some(PinholeKey { initiator: key.initiator, responder: key.responder, port: key.responder_port, hook, pad: 0 })
}

/// Undoes a start that failed; what an earlier daemon left is not touched.
fn undone(plane: Dataplane, adopted: bool, e: anyhow::Error) -> anyhow::Error {
    if adopted {
        return e;
    }
    match plane.detach_all() {
        Ok(()) => e,
        Err(left) => e.context(format!("and something was left behind: {left:#}")),
    }
}

async fn next_log(logger: Option<&mut AsyncFd<aya_log::EbpfLogger<&'static dyn log::Log>>>) -> anyhow::Result<()> {
    let Some(logger) = logger else { return std::future::pending().await };
    let mut ready = logger.readable_mut().await?;
    ready.get_inner_mut().flush();
    ready.clear_ready();
    Ok(())
}
