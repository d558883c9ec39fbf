//! What a whole transfer and a data connection cost at the least, and what of ftp-helper's cost is its programs': small transfers and
//! connects, each against plain forwarding at the same time, with the calls into the kernel that none can do without and somebody who
//! empties the ring buffers, with ftp-helper's programs while its daemon is stopped, and with ftp-helper as it is.

use std::{
    sync::mpsc::{RecvTimeoutError, channel},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::TcAttachType;
use ftp_helper::{
    daemon::LOOK,
    dataplane::{Options, Ring},
    lab::clients::Family,
};
use ftp_helper_tests::{gateway::UNIT_NICE, testrun::Kernel};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    Effort,
    again::{OtherPath, again, on_path},
    ground::{Ground, LARGE_RING, LARGE_SESSIONS, Peer, Size},
    interrupt,
    limits::{LEAST_TRANSFER as LEAST, attach, detach},
    packets::{Growth, grown, median, settled},
    report::{CONNECT, Figures, ROWS, SMALL},
    transfers,
};

/// What part of the time small transfers are counted at once: how the threads of so many clients come to lie on the processors matters
/// more than what is on the way, and is another each time. What is written while the daemon is stopped fits in the ring buffer.
const SHARE: u32 = 5;
/// And how many times as often, for that.
const TIMES: u32 = 4;
/// Connections, at most: they take no longer.
const CONNECTS: usize = 1000;
/// How long the daemon may be stopped: less than its sign of life is trusted.
const STOPPED: Duration = Duration::from_secs(2);

/// Who is on the way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Nobody.
    Plain,
    /// The least programs, and a reader that throws away what they write.
    Least,
    /// ftp-helper's programs: its daemon is stopped.
    Programs,
    /// ftp-helper.
    Whole,
}

impl Way {
    /// All.
    const ALL: [Self; 4] = [Self::Plain, Self::Least, Self::Programs, Self::Whole];

    /// Those that are held against the first.
    const COMPARED: [(Self, &'static str, Option<Peer>); 3] = [
        (Self::Least, "the least calls into the kernel and a bare reader", None),
        (Self::Programs, "ftp-helper's programs with the daemon stopped", Some(Peer::Drop)),
        (Self::Whole, "ftp-helper as it is", Some(Peer::Drop)),
    ];
}

/// What is measured at once.
#[derive(Clone, Copy)]
enum What {
    /// Small transfers, of so many clients.
    Small(usize),
    /// Connects.
    Connect,
}

/// All of it, each with the rows of the comparison whose figures it has.
const WHAT: [(What, &[usize]); 4] = [
    (What::Small(1), &[SMALL[0]]),
    (What::Small(16), &[SMALL[1]]),
    (What::Small(64), &[SMALL[2]]),
    (What::Connect, &CONNECT),
];

/// The medians of all rounds' ratios. `plain` is a ground of plain forwarding, `ours` one of ftp-helper.
pub(crate) fn bound(figures: &mut Figures, plain: &Ground, ours: &Ground, effort: &Effort) -> Result<()> {
    let mut kernel = Kernel::load(&Options { instance: None, programs: &[LEAST], ..Options::default() });
    for (what, rows) in WHAT {
        eprintln!("the least that can be: {}", ROWS[rows[0]].what);
        let mut rounds: Vec<[Vec<f64>; 4]> = Vec::new();
        // Nothing of its records is needed for a connection, and one that goes another way would wait for it.
        let ways = &mut match what {
            What::Small(_) => Way::ALL.to_vec(),
            What::Connect => vec![Way::Plain, Way::Least, Way::Whole],
        };
        let times = if matches!(what, What::Small(_)) { TIMES } else { 1 };
        for _ in 0..effort.rounds * times {
            interrupt::check()?;
            let mut round: [Vec<f64>; 4] = Default::default();
            fastrand::shuffle(ways);
            for &way in &*ways {
                round[way as usize] = match way {
                    Way::Plain => once(plain, what, effort)?,
                    Way::Least => with_least(&mut kernel, plain, || once(plain, what, effort))?,
                    Way::Programs => {
                        let name = format!("{}, with the daemon stopped", ROWS[rows[0]].what);
                        again(figures, &name, || while_stopped(ours, || once(ours, what, effort)))?
                    }
                    Way::Whole => {
                        let figure = once(ours, what, effort)?;
                        // What the daemon has yet to do is none of the next one's.
                        settled(ours.daemon()?, &mut ours.forge()?)?;
                        figure
                    }
                };
            }
            rounds.push(round);
        }
        for (n, row) in rows.iter().enumerate() {
            for (way, name, peer) in Way::COMPARED.into_iter().filter(|(way, ..)| ways.contains(way)) {
                let ratio = |round: &[Vec<f64>; 4]| round[way as usize][n] / round[Way::Plain as usize][n];
                let mut ratios: Vec<f64> = rounds.iter().map(ratio).collect();
                figures.single(&format!("{}: {name}, against a", ROWS[*row].what), peer, median(&mut ratios), "", None);
            }
        }
    }
    Ok(())
}

/// One figure for each row.
fn once(ground: &Ground, what: What, effort: &Effort) -> Result<Vec<f64>> {
    Ok(match what {
        What::Small(clients) => vec![transfers::small(ground, clients, effort.time / SHARE)?],
        What::Connect => {
            let (median, late) = transfers::connect(ground, effort.connects.min(CONNECTS))?;
            vec![median, late]
        }
    })
}

/// What announcements take beside few and beside many sessions, with the least programs on the way.
pub(crate) fn growth(family: Family, many: u32, n: usize) -> Result<Growth> {
    let (sessions, ring_bytes) = (LARGE_SESSIONS, LARGE_RING);
    let mut kernel =
        Kernel::load(&Options { instance: None, programs: &[LEAST], sessions, ring_bytes, ..Options::default() });
    let ground = Ground::new(Peer::Plain, Size::Large, family)?;
    let grown = with_least(&mut kernel, &ground, || grown(&ground, many, n))?;
    ground.finish()?;
    Ok(grown)
}

/// Does something with the least programs on the way, and a reader as often and of the same priority as the daemon.
fn with_least<T>(kernel: &mut Kernel, ground: &Ground, f: impl FnOnce() -> Result<T>) -> Result<T> {
    // As while the daemon reads: nobody has to be woken.
    kernel.plane().set_awake(Ring::Events, true)?;
    kernel.restart_counting();
    let ingress = attach(kernel, ground, TcAttachType::Ingress, LEAST)?;
    let egress = attach(kernel, ground, TcAttachType::Egress, LEAST)?;
    let result = std::thread::scope(|scope| {
        let (over, wait) = channel::<()>();
        let kernel = &mut *kernel;
        let reader = scope.spawn(move || {
            // SAFETY: takes numbers only; 0 is the calling thread.
            let nice = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, UNIT_NICE) };
            while wait.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                kernel.discard();
            }
            nice
        });
        let result = f();
        drop(over);
        let nice = reader.join().map_err(|_| anyhow::anyhow!("the reader has panicked"))?;
        ensure!(nice == 0, "can't raise a thread's priority");
        result
    })?;
    for link in [ingress, egress] {
        detach(kernel, link, LEAST)?;
    }
    kernel.discard();
    let records = kernel.counted().get("records").copied().unwrap_or_default();
    ensure!(records > 0, "{LEAST} has written nothing");
    Ok(result)
}

/// Does something while the daemon is stopped, and waits until it has made up for it.
fn while_stopped<T>(ground: &Ground, f: impl FnOnce() -> Result<T>) -> Result<T> {
    let gateway = ground.daemon()?;
    let pid = Pid::from_raw(gateway.id().context("the daemon has ended")?.cast_signed());
    let mut forge = ground.forge()?;
    let before = settled(gateway, &mut forge)?;
    let (result, in_time) = std::thread::scope(|scope| {
        let (over, wait) = channel::<()>();
        kill(pid, Signal::SIGSTOP)?;
        // It goes on whatever becomes of `f`, which may wait for it.
        let waker = scope.spawn(move || {
            let in_time = wait.recv_timeout(STOPPED) != Err(RecvTimeoutError::Timeout);
            kill(pid, Signal::SIGCONT).map(|()| in_time)
        });
        let result = f();
        drop(over);
        let in_time = waker.join().map_err(|_| anyhow::anyhow!("the waker has panicked"))??;
        anyhow::Ok((result, in_time))
    })?;
    let after = settled(gateway, &mut forge)?;
    on_path(&before, &after)?;
    ensure!(in_time, OtherPath(format!("the daemon was stopped for more than {} s", STOPPED.as_secs())));
    result
}
