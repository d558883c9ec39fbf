//! What the daemon takes: until it is attached, while nothing happens, and while it has much to read.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ftp_helper::dataplane::{Options, Testbed};
use ftp_helper_tests::gateway::engine;
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};

use crate::{
    again::OtherPath,
    ground::Ground,
    packets::{apart, median, port, settled},
    transfers::small,
};

/// Lines a second that it reads.
pub(crate) const LINES: u32 = 20_000;

/// Seconds of processor time that the kernel takes to verify and translate the programs of an interface, of `n` tries the
/// median.
pub(crate) fn verifier(n: u32) -> Result<f64> {
    let time = |programs: &'static [&'static str]| -> Result<f64> {
        let begun = own_time()?;
        drop(Testbed::load(&Options { instance: None, programs, ..Options::default() })?);
        Ok((own_time()? - begun) as f64 / 1e6)
    };
    let mut took = Vec::new();
    for _ in 0..n {
        // Tables and the command program are in both.
        took.push(time(&["ftp_ingress", "ftp_egress"])? - time(&["ftp_command"])?);
    }
    Ok(median(&mut took))
}

/// Microseconds that this thread has taken of a processor.
fn own_time() -> Result<i64> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    Ok(usage.user_time().num_microseconds() + usage.system_time().num_microseconds())
}

/// What part of a core it takes while nothing happens.
pub(crate) fn idle(ground: &Ground, time: Duration) -> Result<f64> {
    let pid = ground.daemon()?.id().context("the daemon has ended")?;
    let begun = (Instant::now(), processor_time(pid)?);
    std::thread::sleep(time);
    Ok((processor_time(pid)? - begun.1).as_secs_f64() / begun.0.elapsed().as_secs_f64())
}

/// Memory in MiB.
pub(crate) struct Memory {
    /// All that is in its address space, what it shares with the kernel and its program's file included.
    pub(crate) resident: f64,
    /// What is nobody else's and no file's.
    pub(crate) anonymous: f64,
}

/// What it takes of memory.
pub(crate) fn memory(ground: &Ground) -> Result<Memory> {
    let pid = ground.daemon()?.id().context("the daemon has ended")?;
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Result<f64> {
        let line = text.lines().find_map(|l| l.strip_prefix(name)).with_context(|| format!("no {name}"))?;
        let number = line.split_whitespace().next().with_context(|| format!("nothing in {name}"))?;
        Ok(number.parse::<f64>()? / 1024.0)
    };
    Ok(Memory { resident: field("VmRSS:")?, anonymous: field("RssAnon:")? })
}

/// What part of a core it takes for [`LINES`] control lines a second; and how many a second there were, which are fewer on a
/// machine that has other work.
pub(crate) fn busy(ground: &Ground, time: Duration) -> Result<(f64, f64)> {
    /// A transfer's lines, and how many transfers a step has.
    const TRANSFER: u32 = 5;
    const STEP: Duration = Duration::from_millis(5);
    const TRANSFERS: u32 = LINES / TRANSFER / 200;
    /// Half of the pinholes that one client may have: at the limit the kernel leaves announcements to the daemon.
    const SESSIONS: u32 = 32;
    let gateway = ground.daemon()?;
    let pid = gateway.id().context("the daemon has ended")?;
    apart(|| {
        let mut forge = ground.forge()?;
        let mut talks: Vec<_> = (0..SESSIONS).map(|n| forge.own(5000 + n as u16)).collect();
        for t in &mut talks {
            forge.begin(t)?;
        }
        let before = settled(gateway, &mut forge)?;
        let (begun, took) = (Instant::now(), processor_time(pid)?);
        let (mut n, mut next) = (0_u32, begun);
        while begun.elapsed() < time {
            for _ in 0..TRANSFERS {
                let t = &mut talks[(n % SESSIONS) as usize];
                forge.announce(t, n.is_multiple_of(2), port(n))?;
                forge.line(t, true, "RETR some/file.txt")?;
                forge.line(t, false, "150 Here it comes")?;
                forge.line(t, false, "226 Done")?;
                n += 1;
            }
            next += STEP;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        let after = settled(gateway, &mut forge)?;
        let seconds = begun.elapsed().as_secs_f64();
        let share = (processor_time(pid)? - took).as_secs_f64() / seconds;
        for t in &mut talks {
            forge.end(t)?;
        }
        // Whatever the kernel could not read by itself would be another path.
        for (what, wanted) in [("announcements", n), ("taken_by_fast_path", n)] {
            let grown = engine(&after, what) - engine(&before, what);
            ensure!(grown == u64::from(wanted), OtherPath(format!("{what}: {grown} of {wanted}; {:?}", after.reasons)));
        }
        let rate = f64::from(n * TRANSFER) / seconds;
        ensure!(share > 0.0, "the daemon has taken no time");
        Ok((share * f64::from(LINES) / rate, rate))
    })
}

/// Microseconds of processor time that it takes for a small transfer, 16 at once.
pub(crate) fn per_transfer(ground: &Ground, time: Duration) -> Result<f64> {
    let gateway = ground.daemon()?;
    let pid = gateway.id().context("the daemon has ended")?;
    let transfers = || -> Result<u64> { Ok(engine(&gateway.status()?, "transfers")) };
    let before = (transfers()?, processor_time(pid)?);
    small(ground, 16, time)?;
    let after = (transfers()?, processor_time(pid)?);
    ensure!(after.0 > before.0, "the daemon has seen no transfer");
    Ok((after.1 - before.1).as_secs_f64() * 1e6 / (after.0 - before.0) as f64)
}

/// Processor time of all threads of a process.
pub(crate) fn processor_time(pid: u32) -> Result<Duration> {
    let mut sum = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        sum += text.split(' ').next().context("no time in schedstat")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(sum))
}
