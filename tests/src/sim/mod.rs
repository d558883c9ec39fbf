//! A simulator: clients, servers, a network, attackers and a daemon in simulated time, around the real engine and the
//! kernel's real recogniser. Everything follows from two seeds: that of the dialogues (who, what, under which policy) and
//! that of the network (cuts, losses, attacks, the daemon's pace).
//!
//! After each step the invariants of the threat model are checked, and when all is over that nothing is left.

pub mod daemon;
pub mod kernel;
pub mod rng;
pub mod script;
pub mod tcp;
pub mod world;

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
};

pub use self::world::Summary;
use self::{rng::Rng, world::World};

/// What the world is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Seed of hosts, policy and dialogues.
    pub dialogue: u64,
    /// Seed of everything else.
    pub network: u64,
    /// Control connections.
    pub sessions: usize,
    /// What makes it hard.
    pub trouble: Trouble,
}

/// What makes a world hard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Trouble {
    /// Dialogues with announcements that must open nothing, and with what bars a session.
    pub nasty: bool,
    /// Segments are cut, lost, repeated and reordered.
    pub network: bool,
    /// Two CPUs, and commands of the daemon in between.
    pub races: bool,
    /// The daemon is slow.
    pub slow: bool,
    /// The daemon stops, dies and comes back.
    pub outages: bool,
    /// Small tables, ring buffer and quotas.
    pub tight: bool,
    /// Somebody forges packets and tries ports.
    pub attackers: bool,
    /// Mode `observe`.
    pub observe: bool,
    /// The line damages packets; their checksums tell.
    pub noise: bool,
}

impl Options {
    /// A world by chance, of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut coin = |n| rng.chance(n);
        let trouble = Trouble {
            nasty: coin(700),
            network: coin(850),
            races: coin(500),
            slow: coin(500),
            outages: coin(350),
            tight: coin(300),
            attackers: coin(450),
            observe: coin(150),
            noise: false,
        };
        let (dialogue, network, sessions) = (rng.seed(), rng.seed(), rng.from_to(3, 14) as usize);
        Self { dialogue, network, sessions, trouble: Trouble { noise: rng.chance(400), ..trouble } }
    }
}

/// What went wrong, with all that reproduces it.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The world.
    pub options: Options,
    /// The step at which it was noticed.
    pub step: u64,
    /// What.
    pub what: String,
    /// The session's story, the last of it.
    pub story: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\nat step {} of {:?}", self.what, self.step, self.options)?;
        for line in &self.story {
            writeln!(f, "  {line}")?;
        }
        Ok(())
    }
}

/// Runs a world to its end.
///
/// # Errors
/// An invariant that did not hold, in the smallest world found in which it does not.
pub fn run(options: Options) -> Result<Summary, Box<Failure>> {
    run_once(options, false).map_err(|f| Box::new(shrink(f)))
}

/// What each session of a world opens, as the engine tells.
///
/// # Errors
/// As [`run`].
pub fn opened(options: Options) -> Result<Vec<Vec<u16>>, Box<Failure>> {
    run(options)?;
    let mut world = World::new(options, false);
    // It went well a moment ago.
    let _ = world.run();
    Ok(world.opened())
}

/// One run; with the story told if asked for.
fn run_once(options: Options, telling: bool) -> Result<Summary, Failure> {
    let mut world = World::new(options, telling);
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    let (about, what) = match result {
        Ok(Ok(summary)) => return Ok(summary),
        Ok(Err(broken)) => (broken.session, broken.what),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            (None, format!("a panic: {}", text.unwrap_or_default()))
        }
    };
    Err(Failure { options, step: world.step, what, story: world.story(about) })
}

/// Leaves out what is not needed for a failure, and tells the story of what remains.
fn shrink(failure: Failure) -> Failure {
    let mut best = failure;
    let mut again = true;
    while again {
        again = false;
        for smaller in simpler(best.options) {
            if let Err(f) = run_once(smaller, false) {
                best = f;
                again = true;
                break;
            }
        }
    }
    // It fails again, as everything follows from the seeds.
    run_once(best.options, true).err().unwrap_or(best)
}

fn simpler(o: Options) -> Vec<Options> {
    let mut all = Vec::new();
    let t = o.trouble;
    for (is, without) in [
        (t.attackers, Trouble { attackers: false, ..t }),
        (t.outages, Trouble { outages: false, ..t }),
        (t.tight, Trouble { tight: false, ..t }),
        (t.observe, Trouble { observe: false, ..t }),
        (t.races, Trouble { races: false, ..t }),
        (t.slow, Trouble { slow: false, ..t }),
        (t.network, Trouble { network: false, ..t }),
        (t.noise, Trouble { noise: false, ..t }),
        (t.nasty, Trouble { nasty: false, ..t }),
    ] {
        if is {
            all.push(Options { trouble: without, ..o });
        }
    }
    for fewer in [1, o.sessions / 2, o.sessions.saturating_sub(1)] {
        if fewer > 0 && fewer < o.sessions {
            all.push(Options { sessions: fewer, ..o });
        }
    }
    all
}
