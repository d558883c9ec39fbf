//! Sixteen sessions at once, without and with packet loss.
//!
//! In CI they run for a fifth of the long form's minute (`FTP_HELPER_FULL=1`).

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use ftp_helper::lab::{Lab, LabOptions, require_root};
use ftp_helper_tests::{
    gateway::{Gateway, PATIENCE, Settings, counter, engine, full, held_up, within},
    responder::{CONTENT, Responder},
    spinner::{Mode, Spinner},
};

const SESSIONS: usize = 16;

/// What became of the sessions of one run.
#[derive(Default)]
struct Run {
    transfers: u64,
    /// For each time that a session was seen blind, at how many ends of an exchange in a row it was.
    blind: Vec<u32>,
}

/// Has sixteen sessions transfer for a while, in all modes over both families, and look at every end of a transfer
/// whether the kernel sees their dialogue. What goes wrong in any of them is an error.
fn run(lab: &Lab, gateway: &Gateway, targets: &[SocketAddr; 2], time: Duration) -> Run {
    let transfers = AtomicU64::new(0);
    let one = |i: usize| -> anyhow::Result<Vec<u32>> {
        let to = targets[i % 2];
        let mut spinner = Spinner::connect(to, false)?;
        spinner.login("u", "p")?;
        let local = spinner.local()?;
        let mut runs = Vec::new();
        let mut blind = 0;
        let begun = Instant::now();
        let mut turn = i / 2;
        while begun.elapsed() < time {
            let mode = match (turn % 4, to.is_ipv4()) {
                (0, true) => Mode::Pasv,
                (1, true) => Mode::Port,
                (0 | 2, _) => Mode::Epsv,
                _ => Mode::Eprt,
            };
            turn += 1;
            spinner.fetch(mode, "x", CONTENT.len()).map_err(|e| e.context(format!("{local}, {mode:?}")))?;
            transfers.fetch_add(1, Ordering::Relaxed);
            // Everything is answered: a quiet point. The row is there unless the session's records are still to be read.
            match gateway.sessions()?.iter().find(|s| s.client == local) {
                Some(s) if !s.sighted => blind += 1,
                Some(_) if blind > 0 => runs.push(std::mem::take(&mut blind)),
                _ => {}
            }
        }
        // At the end all are sighted: what is left to the daemon is to read what it has.
        let sighted = within(PATIENCE, || {
            spinner.ask("NOOP", 200)?;
            Ok(gateway.sessions()?.iter().any(|s| s.client == local && s.sighted))
        })?;
        anyhow::ensure!(sighted, "{local}: blind to the end");
        if blind > 0 {
            runs.push(blind);
        }
        spinner.ask("QUIT", 221)?;
        Ok(runs)
    };
    let all = lab
        .client()
        .run_in(|| {
            let fd = std::fs::File::open(lab.client().namespace_path()).unwrap();
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..SESSIONS)
                    .map(|i| {
                        let (one, fd) = (&one, &fd);
                        scope.spawn(move || {
                            nix::sched::setns(fd, nix::sched::CloneFlags::CLONE_NEWNET)?;
                            one(i)
                        })
                    })
                    .collect();
                threads.into_iter().map(|t| t.join().unwrap()).collect::<Vec<_>>()
            })
        })
        .unwrap();
    let blind = all.into_iter().flat_map(|r| r.unwrap()).collect();
    Run { transfers: transfers.into_inner(), blind }
}

fn span() -> Duration {
    Duration::from_secs(if full() { 60 } else { 10 })
}

fn responders(lab: &Lab) -> [Responder; 2] {
    let server = lab.server();
    [server.v4().into(), server.v6().into()].map(|a| Responder::start(server, a).unwrap())
}

#[test]
fn a_soak_of_all_modes_denies_nothing() {
    if !require_root() {
        return;
    }
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let gateway = Gateway::start(&lab, &Settings::guarded(&lab, "drop"), &[]).unwrap();
    let responders = responders(&lab);
    let done = run(&lab, &gateway, &responders.each_ref().map(Responder::address), span());
    let mut status = gateway.status().unwrap();
    let all = within(PATIENCE, || {
        status = gateway.status()?;
        Ok(engine(&status, "announcements") == done.transfers)
    });
    let fast = engine(&status, "taken_by_fast_path");
    println!(
        "soak: {} transfers of {SESSIONS} sessions, fast path {fast}, blinded {}, resynced {}, reasons {:?}",
        done.transfers,
        counter(&status, "blinded"),
        counter(&status, "resynced"),
        status.reasons,
    );
    assert!(all.unwrap(), "{} announcements of {}", engine(&status, "announcements"), done.transfers);
    assert!(done.transfers > SESSIONS as u64);
    assert_eq!(held_up(&status), 0);
    assert_eq!(engine(&status, "divergences"), 0);
    let standing: BTreeMap<_, _> = status.engine.iter().filter(|(k, _)| k.starts_with("standing.")).collect();
    assert!(standing.is_empty(), "{standing:?}");
    assert!(fast * 1000 >= done.transfers * 999, "the fast path took {fast} of {}", done.transfers);
    let server = lab.server();
    responders.into_iter().for_each(|r| r.stop(server));
}

/// Loses `percent` of what the gateway forwards, and lets sixteen sessions work.
fn under_loss(percent: u32) {
    if !require_root() {
        return;
    }
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let gateway = Gateway::start(&lab, &Settings::guarded(&lab, "drop"), &[]).unwrap();
    let responders = responders(&lab);
    let ruleset = lab.directory().join("loss.nft");
    let rules = format!(
        "table inet loss {{\n chain forward {{\n  type filter hook forward priority 0\n  numgen random mod 100 < {percent} counter drop\n }}\n}}\n"
    );
    std::fs::write(&ruleset, rules).unwrap();
    lab.load_ruleset(Some(&ruleset)).unwrap();
    let done = run(&lab, &gateway, &responders.each_ref().map(Responder::address), span());
    let status = gateway.status().unwrap();
    let (announced, fast) = (engine(&status, "announcements"), engine(&status, "taken_by_fast_path"));
    let mut lengths = done.blind.clone();
    lengths.sort_unstable();
    let at = (lengths.len() * 99).div_ceil(100);
    let p99 = if lengths.is_empty() { 0 } else { lengths[at - 1] };
    println!(
        "{percent} % loss: {} transfers, fast path {fast} of {announced}, blinded {}, resynced {}, resyncs {} of {}, denied {}, parked {}, seen blind {} times, ends of transfers in a row p99 {p99} worst {:?}, reasons {:?}",
        done.transfers,
        counter(&status, "blinded"),
        counter(&status, "resynced"),
        engine(&status, "resyncs_applied"),
        engine(&status, "resyncs_asked"),
        counter(&status, "syn_denied"),
        counter(&status, "syn_parked"),
        lengths.len(),
        lengths.last(),
        status.reasons,
    );
    // Lines were lost, so sessions went blind; else nothing was tried.
    assert!(counter(&status, "blinded") > 0 && counter(&status, "resynced") > 0);
    // Each end of a transfer is a quiet point, and so is the reply to PASV or PORT between two of them: who is blind at one
    // end and not at the next was sighted by the third quiet point.
    assert!(p99 <= 1, "blind at {p99} ends of transfers in a row");
    assert_eq!(engine(&status, "divergences"), 0);
    let standing: BTreeMap<_, _> = status.engine.iter().filter(|(k, _)| k.starts_with("standing.")).collect();
    assert!(standing.is_empty(), "{standing:?}");
    lab.load_ruleset(None).unwrap();
    let server = lab.server();
    responders.into_iter().for_each(|r| r.stop(server));
}

#[test]
fn one_percent_loss_stops_no_session() {
    under_loss(1);
}

#[test]
fn five_percent_loss_stops_no_session() {
    under_loss(5);
}
