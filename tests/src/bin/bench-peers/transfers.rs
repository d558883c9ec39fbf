//! What a client sees: throughput, transfers a second, how long its connections take, and whether a first SYN is lost.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ftp_helper::api::Status;
use ftp_helper_tests::{
    gateway::held_up,
    spinner::{Mode, Spinner, hurry, quantile, syn_retransmissions},
};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};

use crate::{ground::Ground, interrupt};

/// Megabytes a second of one large transfer.
pub(crate) fn throughput(ground: &Ground, bytes: usize) -> Result<f64> {
    session(ground, false, |spinner| {
        let begun = Instant::now();
        spinner.fetch(ground.mode(), &bytes.to_string(), bytes)?;
        Ok(bytes as f64 / begun.elapsed().as_secs_f64() / 1e6)
    })
}

/// Transfers of one byte a second, so many clients at once.
pub(crate) fn small(ground: &Ground, clients: usize, time: Duration) -> Result<f64> {
    let to = ground.responder.address();
    let ready = Barrier::new(clients + 1);
    let over = AtomicBool::new(false);
    let one = || -> Result<u64> {
        let begun = (|| {
            let mut spinner = Spinner::connect(to, false)?;
            spinner.login("u", "p")?;
            anyhow::Ok(spinner)
        })();
        // Also where it failed: the others wait.
        ready.wait();
        let mut spinner = begun?;
        let mut n = 0;
        while !over.load(Ordering::Relaxed) {
            spinner.fetch(ground.mode(), "1", 1)?;
            n += 1;
        }
        spinner.ask("QUIT", 221)?;
        Ok(n)
    };
    let all = || -> Result<f64> {
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..clients).map(|_| scope.spawn(one)).collect();
            ready.wait();
            let begun = Instant::now();
            std::thread::sleep(time);
            over.store(true, Ordering::Relaxed);
            let mut sum = 0;
            for client in clients {
                sum += client.join().map_err(|_| anyhow::anyhow!("a client has panicked"))??;
            }
            ensure!(sum > 0, "not one transfer came through");
            Ok(sum as f64 / begun.elapsed().as_secs_f64())
        })
    };
    ground.lab.client().run_in(all)?
}

/// Microseconds that a connection takes after its 229: the median and the 99th percentile of `n`.
pub(crate) fn connect(ground: &Ground, n: usize) -> Result<(f64, f64)> {
    let connects = session(ground, true, |spinner| {
        (0..n).map(|_| Ok(spinner.fetch(Mode::Epsv, "1", 1)?.connect)).collect::<Result<Vec<Duration>>>()
    })?;
    let micros = |part| quantile(&connects, part).as_nanos() as f64 / 1e3;
    Ok((micros(0.5), micros(0.99)))
}

/// First SYNs that were lost, of `n` transfers of a client that connects at once: sent again, denied or parked. If any were,
/// standard error has what the daemon says of it.
pub(crate) fn first_syns(ground: &Ground, n: usize, loaded: bool) -> Result<u64> {
    let status = || -> Result<Option<Status>> { ground.gateway.as_ref().map(|g| g.status()).transpose() };
    let (before, again) = (status()?, syn_retransmissions(ground.lab.client())?);
    beside_load(loaded, || {
        session(ground, true, |spinner| {
            for i in 0..n {
                interrupt::check()?;
                let mode = if i % 2 == 0 { ground.mode() } else { Mode::Epsv };
                spinner.fetch(mode, "1", 1).with_context(|| format!("transfer {i} of {n}"))?;
            }
            Ok(())
        })
    })?;
    let after = status()?;
    let again = syn_retransmissions(ground.lab.client())? - again;
    let held = match (&before, &after) {
        (Some(before), Some(after)) => held_up(after) - held_up(before),
        _ => 0,
    };
    if held + again > 0 {
        eprintln!("{held} held up, {again} sent again");
        for status in [before, after].into_iter().flatten() {
            eprintln!("{:?} {:?} {:?}", status.counters, status.reasons, status.engine);
        }
    }
    Ok(held.max(again))
}

/// What part of the processor time that `f` takes of this process is the load generator's and the responder's own; the
/// rest is the kernel's.
pub(crate) fn own_share<T>(f: impl FnOnce() -> Result<T>) -> Result<f64> {
    let times = || -> Result<[i64; 2]> {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        Ok([usage.user_time(), usage.system_time()].map(|t| t.num_microseconds()))
    };
    let before = times()?;
    f()?;
    let after = times()?;
    let [user, system] = [0, 1].map(|i| (after[i] - before[i]) as f64);
    ensure!(user + system > 0.0, "no time was taken");
    Ok(user / (user + system))
}

/// Does something with a session that has logged in. `spin`: it loses no time, and runs before all others, as if it had a
/// machine of its own. Where many transfers are counted nobody does: a daemon that never runs would count as slow.
fn session<T: Send>(ground: &Ground, spin: bool, f: impl FnOnce(&mut Spinner) -> Result<T> + Send) -> Result<T> {
    let to = ground.responder.address();
    let talk = || {
        if spin {
            hurry()?;
        }
        let mut spinner = Spinner::connect(to, spin)?;
        spinner.login("u", "p")?;
        let result = f(&mut spinner)?;
        spinner.ask("QUIT", 221)?;
        anyhow::Ok(result)
    };
    ground.lab.client().run_in(talk)?
}

/// Keeps all processors busy meanwhile, if wanted.
fn beside_load<T>(loaded: bool, f: impl FnOnce() -> Result<T>) -> Result<T> {
    let done = AtomicBool::new(false);
    let spin = || {
        while !done.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    };
    let processors = if loaded { std::thread::available_parallelism().map_or(2, usize::from) } else { 0 };
    std::thread::scope(|scope| {
        for _ in 0..processors {
            scope.spawn(spin);
        }
        let result = f();
        done.store(true, Ordering::Relaxed);
        result
    })
}
