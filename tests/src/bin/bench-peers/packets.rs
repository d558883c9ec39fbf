//! What single packets take on the way through the gateway, by forged dialogues.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ftp_helper::{api::Status, lab::clients::Family};
use ftp_helper_tests::{
    gateway::{Gateway, counter, engine, until, within},
    spinner::hurry,
};

use crate::{
    again::{OtherPath, on_path},
    forge::{Forge, Talk},
    ground::{Ground, Peer, Size, arrived},
    interrupt,
};

/// Nanoseconds of each kind of packet.
pub(crate) struct Packets {
    /// A full segment of an established data connection.
    pub(crate) data: f64,
    /// A command and a reply that announce nothing.
    pub(crate) line: f64,
    /// A 227; none over IPv6.
    pub(crate) r227: Option<f64>,
    /// A 229.
    pub(crate) r229: f64,
}

/// Packets between two rests, in which the daemon reads.
const BATCH: usize = 100;
const REST: Duration = Duration::from_millis(5);

/// How long the last packets may take on a machine whose processors have other work.
const ARRIVES: Duration = Duration::from_secs(5);

/// The medians of `n` of each. No packet may be lost, and whoever follows the dialogue has to have followed it: the data
/// connections arrive.
pub(crate) fn packets(ground: &Ground, n: usize) -> Result<Packets> {
    apart(|| {
        let mut forge = ground.forge()?;
        let came = Came::new(ground)?;
        let status = ground.gateway.as_ref().map(|g| settled(g, &mut forge)).transpose()?;
        let packets = dialogue(&mut forge, n)?;
        let arrived = came.ensure(&forge);
        if let (Some(gateway), Some(before)) = (&ground.gateway, status) {
            let (announced, now) = (2 * n as u64 + 1, settled(gateway, &mut forge)?);
            let fast = engine(&now, "taken_by_fast_path") - engine(&before, "taken_by_fast_path");
            on_path(&before, &now)?;
            ensure!(fast == announced, OtherPath(format!("the fast path took {fast} of {announced}")));
        }
        // Where the ring buffer was full, it was dropped on purpose, and that was told above.
        arrived.map(|()| packets)
    })
}

/// What has arrived of forged packets: the sinks of server and client count them.
struct Came<'a> {
    ground: &'a Ground,
    /// What they had counted before.
    before: [u64; 2],
}

impl<'a> Came<'a> {
    /// From now on.
    fn new(ground: &'a Ground) -> Result<Self> {
        Ok(Self { ground, before: Self::counted(ground)? })
    }

    fn counted(ground: &Ground) -> Result<[u64; 2]> {
        Ok([arrived(ground.lab.server())?, arrived(ground.lab.client())?])
    }

    /// That it is all that was written.
    fn ensure(&self, forge: &Forge) -> Result<()> {
        let (written, mut came) = (forge.written, [0; 2]);
        let all = within(ARRIVES, || {
            let now = Self::counted(self.ground)?;
            came = [0, 1].map(|i| now[i] - self.before[i]);
            Ok(came == written)
        })?;
        ensure!(all, "{}: of {written:?} packets {came:?} arrived", self.ground.peer.letter());
        Ok(())
    }
}

/// What the daemon says when it has read all that the kernel had written before. Records are read in their order: it has
/// once it knows a session that begins now.
pub(crate) fn settled(gateway: &Gateway, forge: &mut Forge) -> Result<Status> {
    let mut t = forge.own(MARKERS + fastrand::u16(..900));
    let me = forge.begin(&mut t).map(|()| t.client())?;
    let known = || gateway.sessions().ok()?.into_iter().any(|s| s.client == me).then_some(());
    until("the daemon has read all", known).with_context(|| format!("{:?}", gateway.status()))?;
    let status = gateway.status()?;
    forge.end(&mut t)?;
    Ok(status)
}

/// The connections that tell whether the daemon has read all.
const MARKERS: u16 = 9000;

/// One forged session, with `n` pairs of lines, `n` announcements of each kind, and a data connection of `n` segments.
pub(crate) fn dialogue(forge: &mut Forge, n: usize) -> Result<Packets> {
    // Ports that no earlier round has used, most likely: what conntrack knows of those would be another path.
    let turn = fastrand::u16(..4000);
    let mut t = forge.own(turn);
    forge.begin(&mut t)?;
    let (mut lines, mut r227, mut r229) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..n {
        lines.push(forge.line(&mut t, true, "NOOP")?);
        lines.push(forge.line(&mut t, false, "200 Fine")?);
        if i % BATCH == BATCH - 1 {
            std::thread::sleep(REST);
        }
    }
    for i in 0..2 * n {
        let extended = i % 2 == 1;
        let (_, took) = forge.announce(&mut t, extended, port(i as u32))?;
        if extended || forge.is_v6() { &mut r229 } else { &mut r227 }.push(took);
        if i % BATCH == BATCH - 1 {
            std::thread::sleep(REST);
        }
    }
    forge.announce(&mut t, true, 50_000)?;
    let mut data = forge.data(&t, turn, 50_000, n as u32)?;
    forge.line(&mut t, true, "QUIT")?;
    forge.end(&mut t)?;
    let r227 = (!forge.is_v6()).then(|| median(&mut r227));
    Ok(Packets { data: median(&mut data), line: median(&mut lines), r227, r229: median(&mut r229) })
}

impl Packets {
    /// What is on top of another's.
    pub(crate) fn beyond(&self, base: &Self) -> Self {
        Self {
            data: self.data - base.data,
            line: self.line - base.line,
            r227: self.r227.zip(base.r227).map(|(took, base)| took - base),
            r229: self.r229 - base.r229,
        }
    }

    /// The announcements by their names.
    pub(crate) fn announcements(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.r227.map(|took| ("227", took)).into_iter().chain([("229", self.r229)])
    }
}

/// Nanoseconds of what begins a data connection.
pub(crate) struct Openings {
    /// The SYN.
    pub(crate) syn: f64,
    /// The SYN-ACK.
    pub(crate) syn_ack: f64,
}

impl Openings {
    /// What is on top of another's.
    pub(crate) fn beyond(&self, base: &Self) -> Self {
        Self { syn: self.syn - base.syn, syn_ack: self.syn_ack - base.syn_ack }
    }
}

/// The medians of `n` data connections of one forged session, each behind its 229. Whoever follows the session has to have let
/// them in by their pinholes.
pub(crate) fn openings(ground: &Ground, n: usize) -> Result<Openings> {
    apart(|| {
        let mut forge = ground.forge()?;
        let status = ground.gateway.as_ref().map(|g| settled(g, &mut forge)).transpose()?;
        let mut t = forge.own(fastrand::u16(..4000));
        forge.begin(&mut t)?;
        let (mut syns, mut syn_acks) = (Vec::new(), Vec::new());
        for i in 0..n {
            let port = port(i as u32);
            forge.announce(&mut t, true, port)?;
            let (syn, syn_ack) = forge.visit(&t, (i % 4000) as u16, port)?;
            syns.push(syn);
            syn_acks.push(syn_ack);
            if i % BATCH == BATCH - 1 {
                std::thread::sleep(REST);
            }
        }
        forge.line(&mut t, true, "QUIT")?;
        forge.end(&mut t)?;
        if let (Some(gateway), Some(before)) = (&ground.gateway, status) {
            let now = settled(gateway, &mut forge)?;
            on_path(&before, &now)?;
            let used = counter(&now, "used") - counter(&before, "used");
            ensure!(used == n as u64, OtherPath(format!("of {n} pinholes {used} were used")));
        }
        Ok(Openings { syn: median(&mut syns), syn_ack: median(&mut syn_acks) })
    })
}

/// What announcements take beside few sessions and beside many.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Growth {
    /// Nanoseconds of a 229 of one of the few, while there are only those.
    pub(crate) few: f64,
    /// The same of the same ones, while there are many.
    pub(crate) few_of_many: f64,
    /// The same of any of the many: each is one that no cache holds.
    pub(crate) many: f64,
}

/// Live sessions, each with a pinhole.
const FEW: u32 = 100;

/// With so many sessions in the end, on a ground of its own.
pub(crate) fn growth(peer: Peer, family: Family, many: u32, n: usize) -> Result<Growth> {
    let ground = Ground::new(peer, Size::Large, family)?;
    let grown = grown(&ground, many, n)?;
    ground.finish()?;
    Ok(grown)
}

/// The same on a ground that is there. No packet may be lost.
pub(crate) fn grown(ground: &Ground, many: u32, n: usize) -> Result<Growth> {
    // The wires are known to all before packets are forged.
    crate::transfers::connect(ground, 10)?;
    let before = ground.gateway.as_ref().map(Gateway::status).transpose()?;
    apart(|| {
        let mut forge = ground.forge()?;
        let came = Came::new(ground)?;
        let mut talks = Vec::new();
        begin(ground, &mut forge, &mut talks, FEW)?;
        let few = announcements(&mut forge, &mut talks, n)?;
        begin(ground, &mut forge, &mut talks, many)?;
        let few_of_many = announcements(&mut forge, &mut talks[..FEW as usize], n)?;
        let grown = Growth { few, few_of_many, many: announcements(&mut forge, &mut talks, n)? };
        if let Some(before) = &before {
            let status = ground.daemon()?.status()?;
            on_path(before, &status)?;
            let live = (status.sessions.live, status.pinholes.live);
            ensure!(live.0 >= u64::from(many) && live.1 >= u64::from(many), "of {many} there are {live:?}");
        }
        came.ensure(&forge)?;
        Ok(grown)
    })
}

/// Begins sessions up to a number, each with a pinhole; no faster than the daemon reads.
fn begin(ground: &Ground, forge: &mut Forge, talks: &mut Vec<Talk>, up_to: u32) -> Result<()> {
    while (talks.len() as u32) < up_to {
        interrupt::check()?;
        let n = talks.len() as u32;
        let mut t = forge.of_many(n);
        forge.begin(&mut t)?;
        forge.announce(&mut t, true, port_of_many(n, 0))?;
        talks.push(t);
        if (n + 1).is_multiple_of(1000) || n + 1 == up_to {
            let Some(gateway) = &ground.gateway else { continue };
            let wanted = u64::from(n + 1);
            until("the daemon knows all sessions", || (gateway.status().ok()?.sessions.live >= wanted).then_some(()))?;
        }
    }
    Ok(())
}

/// The median of a 229, of sessions at random.
fn announcements(forge: &mut Forge, talks: &mut [Talk], n: usize) -> Result<f64> {
    let mut took = Vec::with_capacity(n);
    for i in 0..n {
        let nth = fastrand::usize(..talks.len());
        took.push(forge.announce(&mut talks[nth], true, port_of_many(nth as u32, i as u32))?.1);
        if i % BATCH == BATCH - 1 {
            std::thread::sleep(REST);
        }
    }
    Ok(median(&mut took))
}

/// Runs on a thread of its own that runs before all others.
pub(crate) fn apart<T: Send>(f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let f = || {
        hurry()?;
        f()
    };
    std::thread::scope(|scope| scope.spawn(f).join()).map_err(|_| anyhow::anyhow!("the forger has panicked"))?
}

/// One of the ports that are announced.
pub(crate) fn port(n: u32) -> u16 {
    40_000 + (n % 10_000) as u16
}

/// The same for the `nth` of many sessions: no two of one client's ten announce the same port.
fn port_of_many(nth: u32, n: u32) -> u16 {
    40_000 + (n % 1000 * 10 + nth / 10_000 % 10) as u16
}

/// The median; NaN of none.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
