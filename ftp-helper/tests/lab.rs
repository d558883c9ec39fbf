//! The lab's own tests: real namespaces, servers and clients. They need root.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::Mutex,
    time::{Duration, Instant},
};

use ftp_helper::lab::{
    self, Lab, LabError, LabOptions, Topology,
    clients::{ClientKind, Family, Mode, Outcome},
    dialogue::Dialogue,
    matrix::{self, Cell, MatrixOptions, Observer, Phase, Verdict},
    process::Process,
    scan::{ScanOptions, scan},
    servers::{self, Server, ServerKind, ServerOptions},
};

fn lab_of(topology: Topology, servers: usize) -> Lab {
    Lab::new(&LabOptions { topology, servers, ..LabOptions::default() }).unwrap()
}

fn namespaces(lab: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return Vec::new() };
    let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|n| n.starts_with(&format!("fh-{lab}-"))).collect()
}

/// Waits for a fact.
fn until(what: &str, mut fact: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !fact() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}: not after 30 s");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The servers that are here; those that must be fetched may be missing on a developer's machine, never in CI.
fn available() -> Vec<ServerKind> {
    let options = ServerOptions::default();
    let (here, missing): (Vec<_>, Vec<_>) = ServerKind::ALL.into_iter().partition(|k| k.is_available(&options));
    let required = std::env::var_os("FTP_HELPER_REQUIRE_ROOT").is_some_and(|v| v == "1");
    assert!(missing.is_empty() || !required, "{missing:?} not here: run `ftp-helper lab fetch`");
    if !missing.is_empty() {
        eprintln!("without {missing:?}: not here");
    }
    here
}

#[test]
fn hosts_reach_one_another_and_everything_goes() {
    if !lab::require_root() {
        return;
    }
    for topology in Topology::ALL {
        let lab = lab_of(topology, 2);
        let name = lab.name().to_owned();
        let directory = lab.directory().to_owned();
        assert_eq!(namespaces(&name).len(), 6);
        for server in lab.servers() {
            for family in Family::ALL {
                let address = SocketAddr::new(server.address(family), 2121);
                let listener = server.run_in(|| TcpListener::bind(address)).unwrap().unwrap();
                for from in [lab.client(), lab.stranger(), lab.gateway()] {
                    let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(10));
                    let mut out = from.run_in(connect).unwrap().unwrap();
                    let (mut accepted, peer) = listener.accept().unwrap();
                    if from.name() != "gateway" {
                        assert_eq!(peer.ip(), from.address(family), "{} over IPv{family}", from.name());
                    }
                    out.write_all(b"x").unwrap();
                    accepted.read_exact(&mut [0]).unwrap();
                }
            }
        }
        let outside = lab.gateway().command("ip").args(["-o", "addr", "show", "dev", "wan0"]).output().unwrap();
        let outside = String::from_utf8(outside.stdout).unwrap();
        assert!(outside.contains("203.0.113.1/24") && outside.contains("2001:db8:a::1/64"), "{outside}");
        // A program that nobody waits for goes with the lab.
        let mut sleep = lab.client().command("sleep").arg("600").spawn().unwrap();
        drop(lab);
        assert!(!sleep.wait().unwrap().success());
        assert_eq!(namespaces(&name), Vec::<String>::new());
        assert!(!directory.exists());
    }
}

#[test]
fn labs_stand_side_by_side_and_names_are_taken_once() {
    if !lab::require_root() {
        return;
    }
    let name = format!("t{}", std::process::id());
    let named = LabOptions { name: Some(name.clone()), ..LabOptions::default() };
    let first = Lab::new(&named).unwrap();
    let other = lab_of(Topology::ClientInside, 1);
    assert_ne!(first.name(), other.name());
    assert!(matches!(Lab::new(&named), Err(LabError::Busy(_))));
    assert!(matches!(lab::down(Some(&name)), Err(LabError::Busy(_))));
    first.keep();
    assert_eq!(namespaces(&name).len(), 5);
    assert!(matches!(Lab::new(&named), Err(LabError::Exists(_))));
    let removed = lab::down(Some(&name)).unwrap();
    assert_eq!((removed[0].lab.as_str(), removed[0].namespaces.len()), (name.as_str(), 5));
    assert_eq!(namespaces(&name), Vec::<String>::new());
    assert!(matches!(lab::down(Some(&name)), Err(LabError::Missing(_))));
    assert!(matches!(
        Lab::new(&LabOptions { name: Some("../x".into()), ..LabOptions::default() }),
        Err(LabError::BadName(_))
    ));
}

/// Not a test by itself: the program that the next test interrupts and kills.
#[test]
#[ignore = "run by the test after it"]
fn victim() {
    let name = std::env::var("FTP_HELPER_TEST_LAB").unwrap();
    let lab = Lab::new(&LabOptions { name: Some(name), ..LabOptions::default() }).unwrap();
    lab::remove_on_signals().unwrap();
    let server = Server::start(lab.server(), ServerKind::Pyftpdlib, &ServerOptions::default()).unwrap();
    std::fs::write(std::env::var("FTP_HELPER_TEST_READY").unwrap(), server.id().unwrap().to_string()).unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn an_interrupted_program_removes_its_labs_and_a_killed_ones_are_found() {
    if !lab::require_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ready = dir.path().join("ready");
    for (n, signal) in
        [nix::sys::signal::SIGINT, nix::sys::signal::SIGTERM, nix::sys::signal::SIGKILL].into_iter().enumerate()
    {
        let name = format!("v{}_{n}", std::process::id());
        let mut victim = Command::new(std::env::current_exe().unwrap());
        victim.args(["--exact", "victim", "--ignored", "--nocapture"]);
        victim.env("FTP_HELPER_TEST_LAB", &name).env("FTP_HELPER_TEST_READY", &ready);
        let mut victim = Process::spawn(victim).unwrap();
        until("the victim's lab", || {
            assert!(victim.ended().unwrap().is_none(), "{}", victim.output().unwrap());
            std::fs::read_to_string(&ready).is_ok_and(|t| !t.is_empty())
        });
        let server = std::fs::read_to_string(&ready).unwrap();
        std::fs::remove_file(&ready).unwrap();
        let server = format!("/proc/{server}");
        assert!(Path::new(&server).exists() && namespaces(&name).len() == 5);
        victim.signal(signal).unwrap();
        let done = victim.finish(Duration::from_secs(30)).unwrap();
        if signal == nix::sys::signal::SIGKILL {
            assert_eq!(namespaces(&name).len(), 5);
            assert_eq!(lab::down(Some(&name)).unwrap().len(), 1);
        } else {
            assert_eq!(done.status.unwrap().code(), Some(128 + signal as i32), "{}", done.output);
        }
        assert_eq!(namespaces(&name), Vec::<String>::new());
        until("the victim's server is gone", || !Path::new(&server).exists());
    }
}

#[test]
fn a_scan_tells_open_closed_and_filtered() {
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ServerInside, 1);
    let rules = lab.directory().join("rules.nft");
    std::fs::write(
        &rules,
        "table inet t { chain forward { type filter hook forward priority 0; tcp dport 20000-20999 drop; \
         ip saddr 203.0.113.66 tcp dport 5000 drop; ip6 saddr 2001:db8:a::42 tcp dport 5000 drop;\n}\n}\n",
    )
    .unwrap();
    lab.load_ruleset(Some(&rules)).unwrap();
    for family in Family::ALL {
        let target = lab.server().address(family);
        let bind = || [5000, 6000].map(|p| TcpListener::bind((target, p)).unwrap());
        let _listeners = lab.server().run_in(bind).unwrap();
        let options = ScanOptions { timeout: Duration::from_secs(3), ..ScanOptions::default() };
        let begun = Instant::now();
        let found = scan(lab.client(), target, 4000..=21999, &options).unwrap();
        eprintln!("18000 ports in {:?}", begun.elapsed());
        assert_eq!((found.open, found.filtered), (vec![5000, 6000], 1000));
        assert_eq!(found.closed.len(), 18_000 - 2 - 1000);
        if family == Family::V4 {
            let found = scan(lab.stranger(), target, 4990..=6010, &options).unwrap();
            assert_eq!((found.open, found.filtered), (vec![6000], 1));
        }
    }
    std::fs::write(&rules, "table inet t { nonsense }").unwrap();
    let e = lab.load_ruleset(Some(&rules)).unwrap_err().to_string();
    assert!(e.contains("nonsense") && e.contains("rules.nft"), "{e}");
}

#[test]
fn every_server_is_talked_to_over_both_families() {
    if !lab::require_root() {
        return;
    }
    let kinds = available();
    let lab = lab_of(Topology::ServerInside, kinds.len());
    for (host, &kind) in lab.servers().iter().zip(&kinds) {
        let server = Server::start(host, kind, &ServerOptions::default()).unwrap();
        for family in Family::ALL {
            let to = SocketAddr::new(host.address(family), 21);
            let mut d = Dialogue::open(lab.client(), to, Duration::from_secs(20)).unwrap();
            d.login(server.login()).unwrap();
            let port = if family == Family::V4 { d.pasv().unwrap() } else { d.epsv().unwrap() };
            assert!(server.passive_ports().contains(&port), "{kind}: {port}");
            let connect = || TcpStream::connect((host.address(family), port));
            let mut data = lab.client().run_in(connect).unwrap().unwrap();
            d.send(&format!("RETR {}/{}", servers::DIRECTORY, servers::DOWNLOAD)).unwrap();
            let mut got = Vec::new();
            data.read_to_end(&mut got).unwrap();
            let length = got.len();
            // ASCII mode may double line ends, so it is no shorter.
            assert!(length >= 100_000, "{kind}: {length}");
        }
        let id = server.id();
        drop(server);
        if let Some(id) = id {
            assert!(!Path::new(&format!("/proc/{id}")).exists(), "{kind}");
        }
        // The port is free again, or else a session was left behind.
        let server = Server::start(host, kind, &ServerOptions::default());
        assert!(server.is_ok(), "{kind} again: {}", server.unwrap_err());
    }
}

/// Remembers what was run, and whether it was detached.
#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Observer for Log {
    fn attach(&self, lab: &Lab, servers: &[Server]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.0.lock().unwrap().push(format!("attach {} {}", lab.topology(), servers.len()));
        Ok(())
    }

    fn detach(&self, _: &Lab) {
        self.0.lock().unwrap().push("detach".into());
    }

    fn cell(&self, phase: Phase, cell: &Cell, outcome: &Outcome) {
        self.0.lock().unwrap().push(format!("{phase:?} {cell} {}", outcome.complete()));
    }
}

#[test]
fn the_matrix_tells_passed_blocked_and_cannot() {
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ServerInside, 1);
    let rules = lab.directory().join("rules.nft");
    // Passive data connections over IPv4 only, and everything outwards.
    std::fs::write(
        &rules,
        "table inet t { chain forward { type filter hook forward priority 0; policy drop; \
         ct state established,related accept; icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; \
         iifname lan0 accept; tcp dport 21 accept; ip daddr 192.0.2.100 tcp dport 50000-50099 accept;\n}\n}\n",
    )
    .unwrap();
    let options = MatrixOptions {
        servers: vec![ServerKind::Bundled],
        clients: vec![ClientKind::Curl],
        ruleset: Some(rules),
        limit: Duration::from_secs(3),
        scan: Some(49_990..=50_110),
        ..MatrixOptions::default()
    };
    let log = Log::default();
    let report = matrix::run(&lab, &options, &log).unwrap();
    let verdict = |mode, family| {
        let cell = report.cells.iter().find(|c| c.cell.mode == mode && c.cell.family == family).unwrap();
        (cell.verdict, cell.reference.output.clone())
    };
    for (mode, family, expected) in [
        (Mode::Pasv, Family::V4, Verdict::Passed),
        (Mode::Epsv, Family::V4, Verdict::Passed),
        (Mode::Port, Family::V4, Verdict::Passed),
        // The bundled server has no EPRT, and curl sends EPSV for PASV over IPv6.
        (Mode::Eprt, Family::V4, Verdict::Cannot),
        (Mode::Pasv, Family::V6, Verdict::Cannot),
        (Mode::Epsv, Family::V6, Verdict::Blocked),
        (Mode::Eprt, Family::V6, Verdict::Cannot),
    ] {
        let (found, output) = verdict(mode, family);
        assert_eq!(found, expected, "{mode} IPv{family}:\n{output}");
    }
    assert_eq!(report.scans_failed, Vec::<String>::new());
    for s in &report.scans {
        let reachable = s.found.open.len() + s.found.closed.len();
        match s.family {
            Family::V4 => {
                assert_eq!(reachable, 100, "{s:?}");
                let open = if s.during { vec![s.announced] } else { vec![] };
                // The stranger's connection may use it up: the peer then finds it closed.
                assert!(s.found.open == open || s.from == "client", "{s:?}");
            }
            Family::V6 => assert_eq!(reachable, 0, "{s:?}"),
        }
    }
    assert_eq!(report.scans.len(), 8);
    let log = log.0.into_inner().unwrap();
    assert_eq!(log.iter().filter(|l| l.starts_with("Reference")).count(), 8);
    assert_eq!(log.iter().filter(|l| l.starts_with("Tested")).count(), 4);
    assert_eq!((log[8].as_str(), log.last().unwrap().as_str()), ("attach server-inside 1", "detach"));
}

#[test]
fn real_servers_and_clients_transfer_in_each_mode() {
    if !lab::require_root() {
        return;
    }
    let kinds = available();
    let both: Vec<_> = std::thread::scope(|scope| {
        let run = |topology| {
            let lab = lab_of(topology, kinds.len());
            let options = MatrixOptions {
                servers: kinds.clone(),
                limit: Duration::from_secs(30),
                // The direction changes who connects, not what a client can.
                clients: if topology == Topology::ServerInside {
                    ClientKind::ALL.to_vec()
                } else {
                    vec![ClientKind::Curl]
                },
                parallel: 4,
                scan: None,
                ..MatrixOptions::default()
            };
            matrix::run(&lab, &options, &matrix::Unobserved).unwrap()
        };
        let threads = Topology::ALL.map(|t| scope.spawn(move || run(t)));
        threads.map(|t| t.join().unwrap()).into()
    });
    for report in both {
        let clients: std::collections::BTreeSet<_> = report.cells.iter().map(|c| c.cell.client).collect();
        for c in &report.cells {
            eprintln!("{} {} {}", report.topology, c.cell, c.verdict);
            assert_ne!(c.verdict, Verdict::Blocked, "{}:\n{}", c.cell, c.tested.as_ref().unwrap().output);
        }
        // What a pair can is found out, but each mode and family must be somebody's, and each server and client must
        // do something over both families.
        let passed =
            |f: &dyn Fn(&Cell) -> bool| report.cells.iter().any(|c| c.verdict == Verdict::Passed && f(&c.cell));
        for (mode, family) in
            [(Mode::Pasv, Family::V4), (Mode::Epsv, Family::V4), (Mode::Epsv, Family::V6), (Mode::Port, Family::V4)]
        {
            assert!(passed(&|c| c.mode == mode && c.family == family), "{mode} over IPv{family}");
        }
        for family in Family::ALL {
            if kinds.iter().any(|k| *k != ServerKind::Bundled) {
                assert!(passed(&|c| c.mode == Mode::Eprt && c.family == family), "EPRT over IPv{family}");
            }
            for &client in &clients {
                assert!(passed(&|c| c.client == client && c.family == family), "{client} over IPv{family}");
            }
            for &server in &kinds {
                assert!(passed(&|c| c.server == server && c.family == family), "{server} over IPv{family}");
            }
        }
    }
}
