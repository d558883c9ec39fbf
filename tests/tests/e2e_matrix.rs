//! Every server by every client in every mode over both families, with the program in mode `drop` and guards in both
//! directions: what can be transferred without it can be transferred with it.
//!
//! There is no long form: every cell runs each time.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use ftp_helper::{
    api::Status,
    event::Kind,
    lab::{
        self, Host, Lab, LabOptions, Topology,
        clients::{ClientKind, Family, Mode},
        matrix::{self, MatrixOptions, MatrixReport, Observer, Verdict},
        servers::{Server, ServerKind},
    },
};
use ftp_helper_tests::gateway::{Events, Gateway, Settings, until};

/// The program while the second run goes on, and what is known when it is over.
#[derive(Default)]
struct Attached {
    running: Mutex<Option<(Gateway, Events, Vec<u64>)>>,
    found: Mutex<Option<Result<Found>>>,
}

struct Found {
    status: Status,
    used: usize,
    /// SYNs that the hosts sent again, by host.
    again: BTreeMap<String, u64>,
    missed: u64,
    daemon: String,
}

impl Observer for Attached {
    fn attach(&self, lab: &Lab, _: &[Server]) -> Result<(), Box<dyn Error + Send + Sync>> {
        let gateway = Gateway::start(lab, &Settings::guarded(lab, "drop"), &[])?;
        let events = gateway.follow()?;
        let before = lab.hosts().map(syns_again).collect::<Result<_>>()?;
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some((gateway, events, before));
        Ok(())
    }

    fn detach(&self, lab: &Lab) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((mut gateway, events, before)) = running else { return };
        let found = (|| {
            // The last connection's end comes behind the client's.
            let status = until("all sessions are over", || {
                gateway.status().ok().filter(|s| s.sessions.live == 0 && s.data_connections.live == 0)
            })
            .or_else(|_| gateway.status())?;
            let mut again = BTreeMap::new();
            for (host, before) in lab.hosts().zip(before) {
                again.insert(host.name().to_owned(), syns_again(host)? - before);
            }
            let (used, missed) = (events.of(Kind::Used).len(), events.missed());
            let done = gateway.stop()?;
            anyhow::ensure!(done.success(), "the daemon ends with {:?}:\n{}", done.status, done.output);
            Ok(Found { status, used, again, missed, daemon: done.output })
        })();
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
    }

    fn progress(&self, what: &str) {
        eprintln!("{what}");
    }
}

/// How many SYNs the host has sent again since it is there (`TCPSynRetrans`).
fn syns_again(host: &Host) -> Result<u64> {
    let text = host.run_in(|| std::fs::read_to_string("/proc/thread-self/net/netstat"))??;
    let mut lines = text.lines().filter_map(|l| l.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().context("no TcpExt")?, lines.next().context("no TcpExt values")?);
    let found = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "TCPSynRetrans");
    Ok(found.context("no TCPSynRetrans")?.1.parse()?)
}

fn run(topology: Topology) {
    if !lab::require_root() {
        return;
    }
    let servers = ServerKind::ALL.to_vec();
    let lab = Lab::new(&LabOptions { topology, servers: servers.len(), ..LabOptions::default() }).unwrap();
    let options = MatrixOptions {
        servers,
        // A transfer that goes through takes as long as a loaded machine takes.
        limit: Duration::from_secs(40),
        parallel: 6,
        scan: None,
        ..MatrixOptions::default()
    };
    let attached = Attached::default();
    let report = matrix::run(&lab, &options, &attached).unwrap();
    print(&report);
    let found = attached.found.into_inner().unwrap().unwrap().unwrap();
    let engine = |name: &str| found.status.engine.get(name).copied().unwrap_or_default();
    let counter = |name: &str| found.status.counters.get(name).copied().unwrap_or_default();
    let (fast, announced) = (engine("taken_by_fast_path"), engine("announcements"));
    eprintln!("{topology}: {fast} of {announced} announcements taken by the fast path");
    eprintln!(
        "counters: {:?}\nreasons: {:?}\nengine: {:?}",
        found.status.counters, found.status.reasons, found.status.engine
    );

    let blocked: Vec<String> = report
        .cells
        .iter()
        .filter(|c| c.verdict == Verdict::Blocked)
        .map(|c| format!("{}:\n{}", c.cell, c.tested.as_ref().map_or("", |o| &o.output)))
        .collect();
    assert!(blocked.is_empty(), "{} blocked:\n{}\ndaemon:\n{}", blocked.len(), blocked.join("\n"), found.daemon);
    // What a pair can do is found out, but somebody must have shown each mode, server and client.
    let passed = |what: &dyn Fn(&matrix::Cell) -> bool| {
        report.cells.iter().any(|c| c.verdict == Verdict::Passed && what(&c.cell))
    };
    for (mode, family) in [
        (Mode::Pasv, Family::V4),
        (Mode::Epsv, Family::V4),
        (Mode::Epsv, Family::V6),
        (Mode::Port, Family::V4),
        (Mode::Eprt, Family::V4),
        (Mode::Eprt, Family::V6),
    ] {
        assert!(passed(&|c| c.mode == mode && c.family == family), "{mode} over IPv{family}");
    }
    for family in Family::ALL {
        for client in ClientKind::ALL {
            assert!(passed(&|c| c.client == client && c.family == family), "{client} over IPv{family}");
        }
        for server in ServerKind::ALL {
            assert!(passed(&|c| c.server == server && c.family == family), "{server} over IPv{family}");
        }
    }
    let transfers = 3 * report.count(Verdict::Passed) as u64;
    assert!(counter("used") >= transfers, "{transfers} transfers, {} connections", counter("used"));
    assert_eq!(found.missed, 0, "events were missed");
    assert!(found.used as u64 >= transfers, "{transfers} transfers, {} events", found.used);
    assert_eq!(counter("syn_denied"), 0, "reasons: {:?}", found.status.reasons);
    assert!(found.again.values().all(|n| *n == 0), "SYNs sent again: {:?}", found.again);
    assert_eq!(engine("divergences"), 0);
}

/// A line for each pair: what passed, and what it can't do by itself.
fn print(report: &MatrixReport) {
    let mut pairs: BTreeMap<String, [Vec<String>; 3]> = BTreeMap::new();
    for c in &report.cells {
        let kinds = pairs.entry(format!("{:9} {:6}", c.cell.server.name(), c.cell.client.name())).or_default();
        let index = [Verdict::Passed, Verdict::Cannot, Verdict::Blocked].iter().position(|v| *v == c.verdict);
        kinds[index.unwrap_or_default()].push(format!("{}{}", c.cell.mode, c.cell.family));
    }
    let (passed, cannot) = (report.count(Verdict::Passed), report.count(Verdict::Cannot));
    eprintln!("{}: {passed} passed, {cannot} cannot", report.topology);
    for (pair, [passed, cannot, blocked]) in pairs {
        eprintln!("{pair} passed: {}; cannot: {}; blocked: {}", passed.join(" "), cannot.join(" "), blocked.join(" "));
    }
}

#[test]
fn a_server_inside_serves_every_client_in_every_mode() {
    run(Topology::ServerInside);
}

#[test]
fn a_client_inside_is_served_by_every_server_in_every_mode() {
    run(Topology::ClientInside);
}
