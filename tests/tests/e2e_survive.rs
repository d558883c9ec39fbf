//! What happens when things die: the daemon, again and again, at any moment; what it leaves to others of its kind; and what it may not
//! do any more once it runs.
//!
//! The long forms (`FTP_HELPER_FULL=1`) kill ten times as often, and soak for two hours; `FTP_HELPER_SOAK_MINUTES` names another
//! length, `FTP_HELPER_SOAK_PAUSE_MS` another pause of a client between two transfers (0: full load). Figures are kept where
//! `FTP_HELPER_FIGURES` says.

#[path = "e2e_survive/memory.rs"]
mod memory;
#[path = "e2e_survive/rights.rs"]
mod rights;
#[path = "e2e_survive/trouble.rs"]
mod trouble;

use std::{
    net::{SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ftp_helper::{
    api::Status,
    event,
    lab::{Lab, LabOptions, require_root},
};
use ftp_helper_common::{
    addr::Addr,
    key::{HOOK_IN, PinholeKey, SessionKey, TupleKey},
    state::{FlowState, Locked, PinholeState, SAVED_BYTES, SessionState},
};
use ftp_helper_tests::{
    gateway::{Gateway, PATIENCE, Settings, UNIT_NICE, counter, engine, full, held_up, traces, within},
    responder::{CONTENT, Responder},
    spinner::{Mode, Spinner},
    survival::{Crowd, keep, probe, table, tables},
};
use serde_json::json;

/// A port that is guarded and that nobody negotiates: listened on, so that only the guard keeps it closed.
const CLOSED: u16 = 2000;

/// For each kill and start: several times what a machine with two cores takes for it.
const A_KILL: Duration = Duration::from_secs(6);

fn seed() -> u64 {
    let seed = std::env::var("FTP_HELPER_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}: FTP_HELPER_SEED={seed} repeats the moments");
    seed
}

/// [`CLOSED`] on the server, and what listens there.
fn listened(lab: &Lab) -> (TcpListener, SocketAddr) {
    let closed = SocketAddr::from((lab.server().v4(), CLOSED));
    (lab.server().run_in(|| TcpListener::bind(closed)).unwrap().unwrap(), closed)
}

/// To be called on the client.
fn login(to: SocketAddr) -> Result<Spinner> {
    let mut spinner = Spinner::connect(to, false)?;
    spinner.login("u", "p")?;
    Ok(spinner)
}

/// A client that comes, fetches something, and says goodbye.
fn fetch(lab: &Lab, to: SocketAddr) -> Result<()> {
    let work = || -> Result<()> {
        let mut spinner = login(to)?;
        spinner.fetch(Mode::Epsv, "x", CONTENT.len())?;
        spinner.ask("QUIT", 221).map(drop)
    };
    lab.client().run_in(work)?
}

fn responders(lab: &Lab) -> [Responder; 2] {
    let server = lab.server();
    [server.v4().into(), server.v6().into()].map(|a| Responder::start(server, a).unwrap())
}

/// Kills the daemon `wanted` times under `clients` clients, with a probe, and looks whether anything was lost. The figures are kept as
/// `name`.
fn killed_again_and_again(name: &str, wanted: u32, clients: usize, arguments: &[&str]) {
    if !require_root() {
        return;
    }
    let mut random = fastrand::Rng::with_seed(seed());
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let clean = traces(lab.gateway()).unwrap();
    let mut gateway = Gateway::start(&lab, &Settings::guarded(&lab, "drop"), arguments).unwrap();
    let responders = responders(&lab);
    let targets = responders.each_ref().map(Responder::address);
    let (_listener, closed) = listened(&lab);
    let crowd = Crowd::default();
    let begun = Instant::now();
    let mut restored = 0;
    let (mut kills, mut halfway) = (0, 0);
    let kill = || -> Result<()> {
        while kills < wanted {
            ensure!(begun.elapsed() < wanted * A_KILL, "{kills} kills of {wanted} have taken {:?}", begun.elapsed());
            kills += 1;
            // While it works, and one in four while it starts.
            if random.u8(..4) == 0 {
                gateway.kill()?;
                gateway.begin_again()?;
                std::thread::sleep(Duration::from_millis(random.u64(..600)));
                gateway.kill()?;
                halfway += 1;
            } else {
                std::thread::sleep(Duration::from_millis(random.u64(..400)));
                restored += engine(&gateway.status()?, "sessions_restored");
                gateway.kill()?;
            }
            gateway.start_again().with_context(|| format!("start {kills}"))?;
            if kills % 10 == 0 {
                let (transfers, failed) = crowd.so_far();
                println!("{kills} kills in {:.0?}, {transfers} transfers, {failed} failed", begun.elapsed());
            }
        }
        Ok(())
    };
    let ((), tries) = probe(lab.stranger(), closed, || crowd.run(&lab, &targets, clients, kill)).unwrap();
    let troubles = crowd.troubles();
    let (transfers, _) = crowd.so_far();
    let status = gateway.status().unwrap();
    let (took, failed) = (begun.elapsed(), troubles.len());
    println!(
        "{kills} kills ({halfway} of them twice, while it started) in {took:.0?}: {clients} clients, {transfers} transfers, {failed} failed, {restored} \
         dialogues restored; {tries} probes, none let through; {} SYNs held up, reasons {:?}",
        held_up(&status),
        status.reasons
    );
    let figures = json!({
        "kills": kills, "twice": halfway, "seconds": took.as_secs_f64(), "clients": clients, "transfers": transfers, "failed": failed,
        "restored": restored, "probes": tries, "probes_let_through": 0, "reasons": status.reasons,
    });
    keep(name, &figures).unwrap();
    assert_eq!(troubles, [""; 0], "{}", gateway.output().unwrap());
    assert!(transfers > clients as u64 && tries > 0 && restored > 0);
    assert_eq!(engine(&status, "divergences"), 0, "{status:?}");
    empties(&gateway);
    let status = gateway.status().unwrap();
    assert_eq!(engine(&status, "audit_differences"), 0, "{}", gateway.output().unwrap());
    let done = gateway.stop().unwrap();
    assert!(done.success(), "{}", done.output);
    assert_eq!(traces(lab.gateway()).unwrap(), clean);
    for r in responders {
        assert_eq!(r.troubles(), [""; 0]);
        r.stop(lab.server());
    }
}

/// Waits until nothing is left in the kernel's tables.
fn empties(gateway: &Gateway) {
    let left = || -> Result<[usize; 4]> {
        Ok([
            table::<SessionKey, Locked<SessionState>>(gateway, "SESSIONS")?.keys().count(),
            table::<PinholeKey, Locked<PinholeState>>(gateway, "PINHOLES")?.keys().count(),
            table::<TupleKey, Locked<FlowState>>(gateway, "FLOWS")?.keys().count(),
            table::<u64, [u8; SAVED_BYTES]>(gateway, "SAVED")?.keys().count(),
        ])
    };
    let empty = within(PATIENCE, || Ok(left()? == [0; 4])).unwrap();
    assert!(
        empty,
        "sessions, pinholes, data connections, saved: {:?} are left\n{}",
        left().unwrap(),
        gateway.output().unwrap()
    );
}

#[test]
fn killed_at_any_moment_no_transfer_notices() {
    killed_again_and_again("kills", if full() { 1000 } else { 100 }, 64, &[]);
}

#[test]
fn killed_at_any_moment_with_filters_no_transfer_notices() {
    killed_again_and_again("kills-clsact", if full() { 200 } else { 20 }, 64, &["--attach", "clsact"]);
}

#[test]
fn a_start_that_is_broken_off_leaves_nothing() {
    if !require_root() {
        return;
    }
    let mut random = fastrand::Rng::with_seed(seed());
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let clean = traces(lab.gateway()).unwrap();
    for arguments in [&[][..], &["--attach", "clsact"]] {
        let mut gateway = Gateway::start(&lab, &Settings::guarded(&lab, "drop"), arguments).unwrap();
        let begun = Instant::now();
        gateway.stop().unwrap();
        gateway.start_again().unwrap();
        let whole = begun.elapsed();
        assert!(gateway.stop().unwrap().success());
        for n in 0..if full() { 60 } else { 4 } {
            gateway.begin_again().unwrap();
            std::thread::sleep(random.u32(..1000) * whole / 1000);
            if n % 2 == 0 {
                // By the end there is a handler; before, the program has done nothing yet.
                gateway.stop().unwrap();
                assert_eq!(traces(lab.gateway()).unwrap(), clean, "after SIGTERM, {arguments:?}, {n}");
            } else {
                gateway.kill().unwrap();
                gateway.start_again().unwrap();
                assert!(gateway.stop().unwrap().success());
                assert_eq!(
                    traces(lab.gateway()).unwrap(),
                    clean,
                    "after SIGKILL and another start, {arguments:?}, {n}"
                );
            }
        }
    }
}

#[test]
fn tables_of_another_version_are_rebuilt_without_a_gap() {
    if !require_root() {
        return;
    }
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let clean = traces(lab.gateway()).unwrap();
    let responder = Responder::start(lab.server(), lab.server().v4().into()).unwrap();
    let (_listener, closed) = listened(&lab);
    for arguments in [&[][..], &["--attach", "clsact"]] {
        let mut gateway = Gateway::start(&lab, &Settings::guarded(&lab, "drop"), arguments).unwrap();
        let own = tables(&gateway).unwrap();
        // A name is all that tells layouts apart: an older one and a newer one look the same.
        for other in ["0000000000000001", "fffffffffffffffe"] {
            gateway.kill().unwrap();
            std::fs::rename(&own, own.with_file_name(other)).unwrap();
            let ((), tries) = probe(lab.client(), closed, || gateway.start_again()).unwrap();
            assert!(tries > 0);
            let output = gateway.output().unwrap();
            assert!(
                output.contains(
                    "a daemon of another version, or with other sizes, has left its tables: they are rebuilt"
                ),
                "{output}"
            );
            // Only ours are left, and they work.
            assert_eq!(tables(&gateway).unwrap(), own);
            fetch(&lab, responder.address()).unwrap();
        }
        assert!(gateway.stop().unwrap().success());
        assert_eq!(traces(lab.gateway()).unwrap(), clean, "{arguments:?}");
    }
    responder.stop(lab.server());
}

#[test]
fn the_audit_finds_what_only_one_side_has() {
    if !require_root() {
        return;
    }
    let lab = Lab::new(&LabOptions::default()).unwrap();
    // Longer than a difference has to last.
    let settings = Settings::guarded(&lab, "drop").section("[pinhole]\ntimeout = \"60s\"\n");
    let mut gateway = Gateway::start(&lab, &settings, &[]).unwrap();
    let responder = Responder::start(lab.server(), lab.server().v4().into()).unwrap();
    let to = responder.address();
    let begin = || -> Result<(Spinner, u16)> {
        let mut spinner = login(to)?;
        let port = spinner.ask("EPSV", 229)?.split('|').nth(3).context("no port")?.parse()?;
        Ok((spinner, port))
    };
    // One has a pinhole, one a data connection, and one will have no session.
    let work = || -> Result<_> {
        let (one, two, three) = (begin()?, begin()?, login(to)?);
        let data = std::net::TcpStream::connect((to.ip(), two.1))?;
        Ok((one, two, three, data))
    };
    let (one, two, three, data) = lab.client().run_in(work).unwrap().unwrap();
    let known =
        |status: &Status| (status.sessions.live, status.pinholes.live, status.data_connections.live) == (3, 1, 1);
    assert!(within(PATIENCE, || Ok(known(&gateway.status()?))).unwrap(), "{:?}", gateway.status());
    // Until the daemon has asked about it, it would open again what is not there.
    let confirmed = || Ok(gateway.pinholes()?.iter().all(|p| p.pinhole.state == event::PinholeState::Confirmed));
    assert!(within(PATIENCE, confirmed).unwrap(), "{:?}", gateway.pinholes());
    let mut sessions = table::<SessionKey, Locked<SessionState>>(&gateway, "SESSIONS").unwrap();
    let mut pinholes = table::<PinholeKey, Locked<PinholeState>>(&gateway, "PINHOLES").unwrap();
    let mut flows = table::<TupleKey, Locked<FlowState>>(&gateway, "FLOWS").unwrap();
    assert_eq!(engine(&gateway.status().unwrap(), "audit_differences"), 0);

    // What only the daemon has.
    let hole = pinholes.keys().next().unwrap().unwrap();
    let flow = flows.keys().next().unwrap().unwrap();
    let port = three.local().unwrap().port();
    let session = sessions.keys().map(Result::unwrap).find(|k| k.client_port == port).unwrap();
    assert_eq!((hole.port, flow.inside_port), (one.1, two.1));
    pinholes.remove(&hole).unwrap();
    flows.remove(&flow).unwrap();
    sessions.remove(&session).unwrap();
    // What only the kernel has.
    let key = PinholeKey {
        initiator: Addr::v4([203, 0, 113, 7]),
        responder: Addr::v4([192, 0, 2, 1]),
        port: 40001,
        hook: HOOK_IN,
        pad: 0,
    };
    let tuple = TupleKey { outside: key.initiator, inside: key.responder, outside_port: 5, inside_port: 6 };
    let state = PinholeState { session: 77, deadline: u64::MAX, ..Default::default() };
    pinholes.insert(key, Locked { state, lock: 0, pad: 0 }, 0).unwrap();
    let state = FlowState { session: 77, last: u64::MAX / 2, hook: HOOK_IN, ..Default::default() };
    flows.insert(tuple, Locked { state, lock: 0, pad: 0 }, 0).unwrap();

    let found = within(PATIENCE, || Ok(engine(&gateway.status()?, "audit_differences") == 5)).unwrap();
    let output = gateway.output().unwrap();
    assert!(found, "{:?}\n{output}", gateway.status());
    let (client, server) = (lab.client().v4(), lab.server().v4());
    for said in [
        "the kernel has a pinhole for 203.0.113.7 to 192.0.2.1 port 40001".to_owned(),
        "the kernel has a data connection from 203.0.113.7 to 192.0.2.1 port 6".to_owned(),
        format!("the daemon has a pinhole for {client} to {server} port {}", one.1),
        format!("the daemon has a data connection from {client} to {server} port {}", two.1),
        "the daemon has session".to_owned(),
    ] {
        assert!(output.contains(&format!("audit: {said}")), "{said}: {output}");
    }
    // Each counts once, and all go on being told apart from what is right.
    let looks = engine(&gateway.status().unwrap(), "audit_looks");
    assert!(within(PATIENCE, || Ok(engine(&gateway.status()?, "audit_looks") >= looks + 3)).unwrap());
    assert_eq!(engine(&gateway.status().unwrap(), "audit_differences"), 5);
    pinholes.remove(&key).unwrap();
    flows.remove(&tuple).unwrap();
    drop((one, two, three, data));
    assert!(gateway.stop().unwrap().success());
    responder.stop(lab.server());
}

#[test]
fn full_tables_refuse_what_is_new_and_keep_what_lives() {
    if !require_root() {
        return;
    }
    const ROOM: usize = 3;
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let settings = Settings::guarded(&lab, "drop").section("[limits]\nsessions = 3\nring = 4096\n");
    let mut gateway = Gateway::start(&lab, &settings, &[]).unwrap();
    let responder = Responder::start(lab.server(), lab.server().v4().into()).unwrap();
    let to = responder.address();
    let work = || -> Result<()> {
        let mut live = (0..ROOM).map(|_| login(to)).collect::<Result<Vec<_>>>()?;
        // It passes, and opens nothing; those that live go on.
        let mut late = login(to)?;
        late.connect_limit = Duration::from_millis(1500);
        ensure!(late.fetch(Mode::Epsv, "x", CONTENT.len()).is_err(), "a session without room opens");
        for _ in 0..20 {
            for spinner in &mut live {
                spinner.fetch(Mode::Epsv, "x", CONTENT.len())?;
            }
        }
        // When one goes, there is room.
        live.remove(0).ask("QUIT", 221)?;
        let again = within(PATIENCE, || {
            let mut next = login(to)?;
            next.connect_limit = Duration::from_millis(500);
            Ok(next.fetch(Mode::Epsv, "x", CONTENT.len()).is_ok())
        })?;
        ensure!(again, "no session has come up after another has gone");
        for spinner in &mut live {
            spinner.fetch(Mode::Pasv, "x", CONTENT.len())?;
        }
        Ok(())
    };
    lab.client().run_in(work).unwrap().unwrap();
    let status = gateway.status().unwrap();
    assert!(status.reasons.get("sessions_full").copied().unwrap_or_default() > 0, "{:?}", status.reasons);
    assert!(counter(&status, "syn_denied") > 0 && engine(&status, "divergences") == 0, "{status:?}");
    assert!(gateway.stop().unwrap().success());
    responder.stop(lab.server());
}

/// A number that the environment asks for.
fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Memory of a process that is resident, KiB.
fn resident(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

#[test]
fn memory_and_tables_stay_as_they_are() {
    const CLIENTS: usize = 32;
    if !require_root() {
        return;
    }
    // Two hours in the long form, and a minute otherwise.
    let minutes = asked("FTP_HELPER_SOAK_MINUTES").unwrap_or(if full() { 120 } else { 1 });
    let time = Duration::from_secs(60 * minutes);
    let lab = Lab::new(&LabOptions::default()).unwrap();
    // At the priority of the package's unit.
    let settings = Settings { nice: UNIT_NICE, ..Settings::guarded(&lab, "drop") };
    let mut gateway = Gateway::start(&lab, &settings, &[]).unwrap();
    let responders = responders(&lab);
    let targets = responders.each_ref().map(Responder::address);
    let mut crowd = Crowd::default();
    if let Some(pause) = asked("FTP_HELPER_SOAK_PAUSE_MS") {
        crowd.pause = Duration::from_millis(pause);
    }
    let pid = gateway.id().unwrap();
    // A look a minute, and one after a quarter of a short soak.
    let step = Duration::from_secs(60).min(time / 4);
    let mut looks = Vec::new();
    let soak = || -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < time {
            let next = step * (looks.len() as u32 + 1);
            std::thread::sleep(next.saturating_sub(begun.elapsed()));
            let (transfers, failed) = crowd.so_far();
            let (memory, status) = (resident(pid)?, gateway.status()?);
            let (audits, differences) = (engine(&status, "audit_looks"), engine(&status, "audit_differences"));
            println!(
                "{} s: {transfers} transfers, {failed} failed; {memory} KiB resident; {audits} looks of the audit, {differences} \
                 differences",
                next.as_secs()
            );
            looks.push((next, memory));
            let so_far: Vec<_> = looks.iter().map(|(at, memory)| json!([at.as_secs(), memory])).collect();
            let figures = json!({
                "seconds": next.as_secs(), "of": time.as_secs(), "clients": CLIENTS,
                "pause_ms": crowd.pause.as_millis() as u64, "transfers": transfers, "failed": failed,
                "resident_kib": so_far, "audit_looks": audits, "audit_differences": differences,
                "divergences": engine(&status, "divergences"),
            });
            keep("soak", &figures)?;
        }
        Ok(())
    };
    crowd.run(&lab, &targets, CLIENTS, soak).unwrap();
    assert_eq!(crowd.troubles(), [""; 0]);
    empties(&gateway);
    let status = gateway.status().unwrap();
    let warm = looks.iter().find(|(at, _)| *at >= time / 4).unwrap().1;
    let end = looks.last().unwrap().1;
    println!(
        "{} s, {CLIENTS} clients, {} transfers: {warm} KiB resident after a quarter, {end} KiB at the end; {} looks of the audit, {} \
         differences",
        time.as_secs(),
        crowd.so_far().0,
        engine(&status, "audit_looks"),
        engine(&status, "audit_differences")
    );
    // What an allocator keeps in reserve moves a little; what leaks, grows with each of thousands of transfers.
    assert!(end <= warm + 1024, "{warm} KiB have become {end} KiB");
    assert_eq!((engine(&status, "audit_differences"), engine(&status, "divergences")), (0, 0));
    assert!(engine(&status, "audit_looks") > 0);
    assert!(gateway.stop().unwrap().success());
    for r in responders {
        assert_eq!(r.troubles(), [""; 0]);
        r.stop(lab.server());
    }
}
