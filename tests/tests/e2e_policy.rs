//! What the policy forbids does not happen, and is told; with real servers and one client.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ftp_helper::{
    event::Kind,
    lab::{
        self, Lab, LabOptions,
        clients::ClientKind,
        matrix::{self, Cell, Fixtures, MatrixOptions, Phase, Unobserved},
        servers::ServerKind,
    },
};
use ftp_helper_common::reason::Reason;
use ftp_helper_tests::gateway::{Gateway, Settings, until};

/// Without any mode, every transfer fails in `drop`; in `observe` every one passes, and what would have been denied is
/// told. There is no long form.
#[test]
fn without_modes_nothing_is_transferred_and_observe_tells_what_would_be_denied() {
    if !lab::require_root() {
        return;
    }
    let servers = ServerKind::ALL.to_vec();
    let lab = Lab::new(&LabOptions { servers: servers.len(), ..LabOptions::default() }).unwrap();
    let options = MatrixOptions { servers, clients: vec![ClientKind::Curl], ..MatrixOptions::default() };
    let fixtures = Fixtures::start(&lab, &options, &Unobserved).unwrap();
    let cells = matrix::cells(&options);
    let run = |cells: &[Cell], phase, limit| {
        fixtures.run(&lab, cells, phase, Duration::from_secs(limit), 6, &Unobserved).unwrap()
    };
    let reference = run(&cells, Phase::Reference, 20);
    let able = |(cell, outcome): (&Cell, &lab::clients::Outcome)| outcome.transferred_by(cell.mode).then_some(*cell);
    let possible: Vec<Cell> = cells.iter().zip(&reference).filter_map(able).collect();
    assert!(possible.len() >= 20, "only {} can be transferred at all", possible.len());

    // In `observe` all pass.
    let settings = Settings::guarded(&lab, "observe");
    let settings = Settings { policy: "active_inbound = true\nmodes = []\n".to_owned(), ..settings };
    let mut gateway = Gateway::start(&lab, &settings, &[]).unwrap();
    let events = gateway.follow().unwrap();
    for (cell, outcome) in possible.iter().zip(run(&possible, Phase::Tested, 40)) {
        assert!(outcome.transferred_by(cell.mode), "{cell} in observe:\n{}", outcome.output);
    }
    let connections = 3 * possible.len();
    until("every data connection is told", || (events.of(Kind::Denied).len() >= connections).then_some(())).unwrap();
    let (status, denied) = (gateway.status().unwrap(), events.of(Kind::Denied));
    assert_eq!(events.missed(), 0);
    assert!(events.of(Kind::Opened).is_empty());
    let mut told: BTreeMap<u16, u64> = BTreeMap::new();
    let mut towards = BTreeSet::new();
    for e in &denied {
        let c = e.connection.as_ref().unwrap();
        assert_eq!(c.dropped, Some(false), "{e:?}");
        *told.entry(c.to.port()).or_default() += 1;
        towards.insert(c.to.ip());
    }
    // Both directions, both families: every server, and the client.
    for host in lab.servers().iter().chain([lab.client()]) {
        assert!(towards.contains(&host.v4().into()), "nothing towards {}", host.v4());
    }
    assert!(towards.iter().any(std::net::IpAddr::is_ipv6));
    let by_port: BTreeMap<u16, u64> = status.denied.iter().map(|d| (d.port, d.would_be_denied)).collect();
    assert_eq!(by_port, told, "status and events tell the same ports");
    assert!(status.denied.iter().all(|d| d.denied == 0));
    assert_eq!(status.counters["syn_denied"], 0);
    assert!(status.counters["syn_would_deny"] >= connections as u64);
    assert!(events.of(Kind::Refused).iter().all(|e| e.reason == Some(Reason::ModeDisabled)));
    assert!(events.of(Kind::Refused).len() >= connections);
    gateway.stop().unwrap();

    // In `drop` none does.
    let mut gateway = Gateway::start(&lab, &Settings { mode: "drop", ..settings }, &[]).unwrap();
    let events = gateway.follow().unwrap();
    for (cell, outcome) in possible.iter().zip(run(&possible, Phase::Tested, 2)) {
        assert!(!outcome.any(), "{cell} in drop:\n{}", outcome.output);
    }
    let status = gateway.status().unwrap();
    assert_eq!(status.counters["used"], 0);
    assert!(status.counters["syn_denied"] > 0);
    assert!(status.denied.iter().any(|d| d.denied > 0) && status.denied.iter().all(|d| d.would_be_denied == 0));
    events
        .wait("a denied connection", |e| {
            e.event == Kind::Denied && e.connection.as_ref().is_some_and(|c| c.dropped == Some(true))
        })
        .unwrap();
    assert!(events.of(Kind::Opened).is_empty());
    gateway.stop().unwrap();
}
