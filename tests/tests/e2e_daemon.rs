//! A daemon that is stopped, killed, started again, and ended.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use ftp_helper::{
    api::Status,
    lab::{Host, Lab, LabOptions, require_root},
};
use ftp_helper_tests::{
    gateway::{Gateway, PATIENCE, Settings, counter, engine, within},
    responder::{CONTENT, Responder},
    spinner::{Mode, Spinner},
    survival::tables,
};
use nix::sys::signal::Signal;

/// The smallest ring buffer that may be configured.
const TINY: &str = "[limits]\nring = 4096\n";
/// No transfer fills the tiny ring buffer with less: ten segments of a record of some 100 bytes each.
const RECORDED: usize = 10 * 100;

fn start(on_loss: &str, more: &str) -> (Lab, Gateway, Responder) {
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let settings = Settings { top: format!("on_daemon_loss = \"{on_loss}\""), ..Settings::guarded(&lab, "drop") };
    let gateway = Gateway::start(&lab, &settings.section(TINY).section(more), &[]).unwrap();
    let responder = Responder::start(lab.server(), lab.server().v4().into()).unwrap();
    (lab, gateway, responder)
}

fn login(lab: &Lab, responder: &Responder) -> Spinner {
    let to = responder.address();
    let connect = || {
        let mut spinner = Spinner::connect(to, false)?;
        spinner.login("u", "p")?;
        anyhow::Ok(spinner)
    };
    lab.client().run_in(connect).unwrap().unwrap()
}

/// `n` transfers in turn over all modes; the longest of them.
fn transfers(client: &Host, spinner: &mut Spinner, n: usize) -> Duration {
    let work = || {
        let mut longest = Duration::ZERO;
        for mode in [Mode::Pasv, Mode::Epsv, Mode::Port, Mode::Eprt].into_iter().cycle().take(n) {
            let begun = Instant::now();
            spinner.fetch(mode, "x", CONTENT.len())?;
            longest = longest.max(begun.elapsed());
        }
        anyhow::Ok(longest)
    };
    client.run_in(work).unwrap().unwrap()
}

#[test]
fn a_stopped_daemon_loses_no_announcement() {
    if !require_root() {
        return;
    }
    let (lab, gateway, responder) = start("continue", "");
    let mut spinner = login(&lab, &responder);
    transfers(lab.client(), &mut spinner, 8);
    gateway.signal(Signal::SIGSTOP).unwrap();
    // Canonical transfers go on for as long as there is room for their records; then segments are dropped until the daemon
    // goes on, or the kernel takes it for dead. This many fill the ring buffer several times.
    let n = 40;
    let longest = std::thread::scope(|scope| {
        let working = scope.spawn(|| transfers(lab.client(), &mut spinner, n));
        // Long enough for the ring buffer to be full: the client can do no more. Short of the three seconds after which
        // the daemon counts as dead, of which one may be over by now.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(1) && !working.is_finished() {
            std::thread::sleep(Duration::from_millis(20));
        }
        gateway.signal(Signal::SIGCONT).unwrap();
        working.join().unwrap()
    });
    transfers(lab.client(), &mut spinner, 8);
    let mut status = gateway.status().unwrap();
    let all = within(PATIENCE, || {
        status = gateway.status()?;
        Ok(engine(&status, "announcements") == n as u64 + 16)
    });
    let full = status.reasons.get("ring_full").copied().unwrap_or_default();
    println!(
        "stopped: {n} transfers, longest {longest:.1?}, {full} segments dropped for want of room, {} denied, {} passed unrecorded, announcements read {}, reasons {:?}",
        counter(&status, "syn_denied"),
        counter(&status, "passed_unrecorded"),
        engine(&status, "announcements"),
        status.reasons,
    );
    assert!(full > 0, "the ring buffer was never full");
    assert!(all.unwrap(), "{} announcements of {} were read", engine(&status, "announcements"), n + 16);
    assert_eq!(engine(&status, "divergences"), 0);
    responder.stop(lab.server());
}

#[test]
fn a_dead_daemon_is_replaced_and_no_transfer_notices() {
    if !require_root() {
        return;
    }
    let (lab, mut gateway, responder) = start("continue", "");
    let mut spinner = login(&lab, &responder);
    transfers(lab.client(), &mut spinner, 8);
    gateway.kill().unwrap();
    // Ten times what the ring buffer holds.
    let n = 10 * 4096 / RECORDED + 8;
    let longest = transfers(lab.client(), &mut spinner, n);
    // Another that begins, logs in and transfers while nobody is there.
    let mut late = login(&lab, &responder);
    transfers(lab.client(), &mut late, 8);
    gateway.start_again().unwrap();
    let status = gateway.status().unwrap();
    println!(
        "dead: {n} transfers, longest {longest:.1?}; {} sessions adopted, {} segments passed unrecorded, {} SYNs denied",
        engine(&status, "sessions_adopted"),
        counter(&status, "passed_unrecorded"),
        counter(&status, "syn_denied"),
    );
    assert!(counter(&status, "passed_unrecorded") > 0);
    waits_only_where_sight_was_lost(&status);
    assert!(engine(&status, "sessions_adopted") >= 2);
    for spinner in [&mut spinner, &mut late] {
        transfers(lab.client(), spinner, 12);
        let local = spinner.local().unwrap();
        let sighted = within(PATIENCE, || Ok(gateway.sessions()?.iter().any(|s| s.client == local && s.sighted)));
        assert!(sighted.unwrap(), "{local} is blind");
    }
    let mut status = gateway.status().unwrap();
    let announced = within(PATIENCE, || {
        status = gateway.status()?;
        Ok(engine(&status, "announcements") >= 20)
    });
    println!(
        "adopted: announcements {} fast path {}, denied {}, reasons {:?}",
        engine(&status, "announcements"),
        engine(&status, "taken_by_fast_path"),
        counter(&status, "syn_denied"),
        status.reasons
    );
    assert!(announced.unwrap());
    assert_eq!(engine(&status, "divergences"), 0);
    waits_only_where_sight_was_lost(&status);
    // The end leaves nothing behind: no pins, and nothing is guarded any more.
    assert!(!gateway.pins().unwrap().is_empty());
    let done = gateway.stop().unwrap();
    assert!(done.success(), "{}", done.output);
    assert_eq!(gateway.pins().unwrap().len(), 0);
    let attached = lab.gateway().command("bpftool").arg("net").output();
    if let Ok(attached) = attached {
        let text = String::from_utf8_lossy(&attached.stdout).into_owned();
        assert!(!text.contains("ftp_"), "{text}");
    }
    let open = |port: u16| {
        let listener = lab.server().run_in(|| std::net::TcpListener::bind((lab.server().v4(), port)))??;
        let to = (lab.server().v4(), port).into();
        lab.client().run_in(|| std::net::TcpStream::connect_timeout(&to, Duration::from_secs(30)))??;
        drop(listener);
        anyhow::Ok(())
    };
    open(2000).unwrap();
    // A connection is untouched by all that.
    transfers(lab.client(), &mut spinner, 4);
    responder.stop(lab.server());
}

/// So small a ring buffer may be full for a moment whoever reads it; the dropped segment's successor is a gap, and what is announced
/// behind it is the daemon's to open. Its SYN waits for that, and is not lost.
fn waits_only_where_sight_was_lost(status: &Status) {
    let lost_sight: u64 = ["gap", "race"].iter().filter_map(|r| status.reasons.get(*r)).sum();
    let (denied, parked) = (counter(status, "syn_denied"), counter(status, "syn_parked"));
    assert_eq!(denied, 0, "{:?}", status.reasons);
    assert!(parked <= lost_sight, "{parked} SYNs waited: {:?}", status.reasons);
}

/// By when the kernel counts a daemon as gone: its heartbeat is stale after 3 s, by a clock with ticks of some milliseconds.
const MISSED: Duration = Duration::from_millis(3010);

#[test]
fn without_a_daemon_nothing_opens_if_so_configured() {
    if !require_root() {
        return;
    }
    // What was open before may be used until its time is over, and be armed again by a reset: that time must be over too.
    let (lab, mut gateway, responder) = start("close", "[pinhole]\ntimeout = \"500ms\"");
    let mut spinner = login(&lab, &responder);
    transfers(lab.client(), &mut spinner, 8);
    gateway.kill().unwrap();
    let killed = Instant::now();
    spinner.connect_limit = Duration::from_millis(500);
    let mut attempt = || lab.client().run_in(|| spinner.fetch(Mode::Pasv, "x", CONTENT.len()).is_ok()).unwrap();
    // Until the kernel has missed the daemon it goes on; from then on not one attempt comes through.
    while killed.elapsed() < MISSED {
        attempt();
    }
    assert!((0..6).all(|_| !attempt()), "transfers go on");
    gateway.start_again().unwrap();
    let again = within(PATIENCE, || Ok(attempt()));
    assert!(again.unwrap(), "a new daemon opens nothing: {}", gateway.output().unwrap());
    let done = gateway.stop().unwrap();
    assert!(done.success(), "{}", done.output);
    assert_eq!(gateway.pins().unwrap().len(), 0);
    responder.stop(lab.server());
}

/// The kernel gives the number of a namespace that is gone to the next one: what was left in the one is none of the other's business.
#[test]
fn what_was_left_in_another_namespace_is_not_taken_over() {
    if !require_root() {
        return;
    }
    let (lab, mut gateway, responder) = start("continue", "");
    let mut spinner = login(&lab, &responder);
    gateway.kill().unwrap();
    // In the same one it is.
    gateway.start_again().unwrap();
    assert!(engine(&gateway.status().unwrap(), "sessions_adopted") >= 1);
    gateway.kill().unwrap();
    let layout = tables(&gateway).unwrap();
    let marks = std::fs::read_dir(&layout).unwrap().map(|e| e.unwrap().path());
    let is_mark = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("namespace-"));
    let marks: Vec<PathBuf> = marks.filter(is_mark).collect();
    assert_eq!(marks.len(), 1, "{marks:?}");
    // No namespace has this cookie.
    std::fs::rename(&marks[0], layout.join("namespace-0")).unwrap();
    gateway.start_again().unwrap();
    let said = gateway.output().unwrap();
    assert!(said.contains("in a network namespace that is gone"), "{said}");
    assert_eq!(engine(&gateway.status().unwrap(), "sessions_adopted"), 0);
    assert!(gateway.sessions().unwrap().is_empty());
    transfers(lab.client(), &mut login(&lab, &responder), 4);
    gateway.stop().unwrap();
    assert!(gateway.pins().unwrap().is_empty());
    lab.client().run_in(|| spinner.ask("QUIT", 221)).unwrap().unwrap();
    responder.stop(lab.server());
}
