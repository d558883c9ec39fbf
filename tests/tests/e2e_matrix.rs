//! Every server by every client in every mode over both families, with the program in mode `drop` and guards in both
//! directions: what can be transferred without it can be transferred with it.
//!
//! One kind of transfer is left out of that, and found out by asking the servers: a server outside that connects in to a
//! client inside before it has agreed to PORT or EPRT. Nothing opens for an outside host without the server's positive
//! reply, and these servers give it only when they are connected. Those transfers must fail.
//!
//! There is no long form: every cell runs each time.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use anyhow::{Context as _, Result};
use ftp_helper::{
    event::{Event, Kind},
    lab::{
        self, Host, Lab, LabOptions, Topology,
        clients::{ClientKind, Family, Mode, Outcome},
        dialogue::Dialogue,
        matrix::{self, Cell, Fixtures, MatrixOptions, Phase, Unobserved},
        servers::{Server, ServerKind},
    },
};
use ftp_helper_tests::gateway::{Gateway, PATIENCE, Settings, until};

#[test]
fn a_server_inside_serves_every_client_in_every_mode() {
    run(Topology::ServerInside);
}

#[test]
fn a_client_inside_is_served_by_every_server_in_every_mode() {
    run(Topology::ClientInside);
}

fn run(topology: Topology) {
    if !lab::require_root() {
        return;
    }
    let servers = ServerKind::ALL.to_vec();
    let lab = Lab::new(&LabOptions { topology, servers: servers.len(), ..LabOptions::default() }).unwrap();
    let options = MatrixOptions { servers, scan: None, ..MatrixOptions::default() };
    let fixtures = Fixtures::start(&lab, &options, &Unobserved).unwrap();
    let run = |cells: &[Cell], phase, limit| {
        // Most of what takes long waits for a time-out.
        fixtures.run(&lab, cells, phase, Duration::from_secs(limit), 10, &Unobserved).unwrap()
    };

    // What the pairs can do.
    let cells = matrix::cells(&options);
    let reference = run(&cells, Phase::Reference, 12);
    let mut report = Report::default();
    let mut possible = Vec::new();
    for (cell, outcome) in cells.iter().zip(&reference) {
        if outcome.transferred_by(cell.mode) {
            possible.push(*cell);
        } else {
            report.note(cell, "can't");
        }
    }
    let early: BTreeSet<ServerKind> = match topology {
        Topology::ServerInside => BTreeSet::new(),
        Topology::ClientInside => {
            fixtures.servers.iter().filter(|s| connects_early(&lab, s)).map(Server::kind).collect()
        }
    };
    let is_early = |c: &Cell| !c.mode.is_passive() && early.contains(&c.server);
    let (refused, possible): (Vec<Cell>, Vec<Cell>) = possible.into_iter().partition(is_early);

    // All of that with the program.
    let mut gateway = Gateway::start(&lab, &Settings::guarded(&lab, "drop"), &[]).unwrap();
    let events = gateway.follow().unwrap();
    let again = || lab.hosts().map(|h| (h.name(), syns_again(h).unwrap())).collect::<BTreeMap<_, _>>();
    let before = again();
    let outcomes = run(&possible, Phase::Tested, 60);
    let after = again();
    let mut blocked: Vec<(&Cell, &Outcome)> = Vec::new();
    for (cell, outcome) in possible.iter().zip(&outcomes) {
        let passed = outcome.transferred_by(cell.mode);
        report.note(cell, if passed { "passed" } else { "blocked" });
        if !passed {
            blocked.push((cell, outcome));
        }
    }
    // The ends of the last connections come behind the clients' ends.
    let transfers = 3 * possible.len() as u64;
    let over = || gateway.status().ok().filter(|s| s.sessions.live == 0 && s.data_connections.live == 0);
    let status = if blocked.is_empty() { until("all sessions are over", over) } else { gateway.status() }.unwrap();
    let engine = |name: &str| status.engine.get(name).copied().unwrap_or_default();
    let counter = |name: &str| status.counters.get(name).copied().unwrap_or_default();
    let told = [Kind::Used, Kind::DataEnd].map(|k| events.of(k).len() as u64);

    let denied = around_denials(&events.all());

    // And what no reply has permitted.
    for (cell, outcome) in refused.iter().zip(run(&refused, Phase::Tested, 4)) {
        report.note(cell, "not before a reply");
        assert!(!outcome.any(), "{cell} was let in before the reply:\n{}", outcome.output);
    }
    report.print(topology);
    let (fast, announced) = (engine("taken_by_fast_path"), engine("announcements"));
    eprintln!(
        "{topology}: {fast} of {announced} announcements taken by the fast path, {} parked",
        counter("syn_parked")
    );
    let said = gateway.stop().unwrap().output;

    let texts: Vec<String> = blocked.iter().map(|(c, o)| format!("{c}:\n{}", o.output)).collect();
    assert!(texts.is_empty(), "{} blocked:\n{}\nthe daemon:\n{said}", texts.len(), texts.join("\n"));
    assert_eq!(before, after, "SYNs were sent again: {:?}\n{denied}", status.reasons);
    // One that comes before its pinhole is kept, and sent on as soon as that is open: it is not denied, and nobody had to
    // send it again.
    assert_eq!(counter("syn_denied"), 0, "{:?} {:?}", status.counters, status.reasons);
    assert_eq!(engine("divergences"), 0);
    assert_eq!(events.missed(), 0, "events were missed");
    assert!(counter("used") >= transfers, "{transfers} transfers, {} connections", counter("used"));
    assert!(told.iter().all(|n| *n >= transfers), "{transfers} transfers, {told:?} events");
    // What a pair can do is found out, but somebody must have shown each mode, server and client.
    let passed = |what: &dyn Fn(&Cell) -> bool| possible.iter().any(what);
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
}

/// The events about every port to which something was denied.
fn around_denials(events: &[Event]) -> String {
    let ends = |e: &Event| e.connection.as_ref().map(|c| c.to);
    let opened = |e: &Event| e.pinhole.as_ref().map(|p| SocketAddr::new(p.responder, p.port));
    let denied: BTreeSet<SocketAddr> = events.iter().filter(|e| e.event == Kind::Denied).filter_map(ends).collect();
    let about = |e: &&Event| [ends(e), opened(e)].into_iter().flatten().any(|to| denied.contains(&to));
    let lines = events.iter().filter(about).map(|e| serde_json::to_string(e).unwrap());
    lines.collect::<Vec<_>>().join("\n")
}

/// Whether a server has connected when it answers PORT, before any transfer was asked for.
fn connects_early(lab: &Lab, server: &Server) -> bool {
    let bind = || TcpListener::bind((lab.client().v4(), 0));
    let listener = lab.client().run_in(bind).unwrap().unwrap();
    let to = SocketAddr::new(server.host().v4().into(), server.port());
    let mut dialogue = Dialogue::open(lab.client(), to, PATIENCE).unwrap();
    dialogue.login(server.login()).unwrap();
    dialogue.active(listener.local_addr().unwrap().port()).unwrap();
    listener.set_nonblocking(true).unwrap();
    match listener.accept() {
        Ok(_) => true,
        Err(e) if e.kind() == ErrorKind::WouldBlock => false,
        Err(e) => panic!("can't accept: {e}"),
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

/// A line for each pair of server and client: what came of which mode and family.
#[derive(Default)]
struct Report(BTreeMap<String, BTreeMap<&'static str, Vec<String>>>);

impl Report {
    fn note(&mut self, cell: &Cell, what: &'static str) {
        let pair = self.0.entry(format!("{:9} {:6}", cell.server.name(), cell.client.name())).or_default();
        pair.entry(what).or_default().push(format!("{}{}", cell.mode, cell.family));
    }

    fn print(&self, topology: Topology) {
        for (pair, found) in &self.0 {
            let parts: Vec<String> = found.iter().map(|(what, cells)| format!("{what}: {}", cells.join(" "))).collect();
            eprintln!("{topology} {pair} {}", parts.join("; "));
        }
    }
}
