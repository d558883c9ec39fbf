//! Encrypted sessions: vsftpd with curl and lftp. Nothing opens for them, unless the administrator gave the server a range.

use std::{net::SocketAddr, time::Duration};

use ftp_helper::{
    event::{Kind, NegotiatedBy},
    lab::{
        self, Lab, LabOptions, Topology,
        clients::{ClientKind, Family, Job, Mode},
        dialogue::Dialogue,
        servers::{Server, ServerKind, ServerOptions},
    },
};
use ftp_helper_common::reason::Reason;
use ftp_helper_tests::{
    connect::connect,
    gateway::{Gateway, Settings, until},
};

/// How long a transfer may take that goes through, and one that does not.
const LIMIT: Duration = Duration::from_secs(40);
const BLOCKED: Duration = Duration::from_secs(4);
/// How long a connection is tried that must not come about.
const TRIED: Duration = Duration::from_millis(700);

#[test]
fn a90_ftps_goes_through_where_the_server_has_a_range_and_nowhere_else() {
    if !lab::require_root() {
        return;
    }
    let lab = Lab::new(&LabOptions { topology: Topology::ServerInside, ..LabOptions::default() }).unwrap();
    let server =
        Server::start(lab.server(), ServerKind::Vsftpd, &ServerOptions { tls: true, ..ServerOptions::default() })
            .unwrap();
    let range = server.passive_ports();
    let upload = lab.directory().join("upload");
    std::fs::write(&upload, vec![b'u'; 50_000]).unwrap();
    let cells = [(ClientKind::Curl, Mode::Epsv), (ClientKind::Curl, Mode::Pasv), (ClientKind::Lftp, Mode::Pasv)];
    let run = |client, mode, family, limit| {
        Job { from: lab.client(), client, mode, family, server: &server, upload: &upload, limit }.run().unwrap()
    };
    let known = |opaque: &str| {
        let hosts = format!("[\"{}\", \"{}\"]", lab.server().v4(), lab.server().v6());
        let ports = format!("{}-{}", range.start(), range.end());
        format!("[[server]]\naddress = {hosts}\npassive_ports = \"{ports}\"\nopaque = \"{opaque}\"")
    };
    // Nothing opens.
    let settings = Settings::guarded(&lab, "drop").section(&known("deny"));
    let mut gateway = Gateway::start(&lab, &settings, &[]).unwrap();
    let events = gateway.follow().unwrap();
    for family in Family::ALL {
        let outcome = run(ClientKind::Curl, Mode::Epsv, family, BLOCKED);
        assert!(!outcome.any(), "{family}:\n{}", outcome.output);
        let e = events.wait("the session is encrypted", |e| e.event == Kind::Opaque).unwrap();
        assert_eq!((e.reason, e.detail), (Some(Reason::AuthAccepted), None));
    }
    let status = gateway.status().unwrap();
    assert_eq!((status.counters["syn_in_range"], status.counters["opened_fast"]), (0, 0));
    assert!(events.of(Kind::Denied).iter().any(|e| e.reason == Some(Reason::NoPinhole)));
    gateway.stop().unwrap();

    // The server's range, for this client, while its session lives.
    let settings = Settings::guarded(&lab, "drop").section(&known("range"));
    let mut gateway = Gateway::start(&lab, &settings, &[]).unwrap();
    let events = gateway.follow().unwrap();
    let mut transfers = 0;
    for family in Family::ALL {
        for (client, mode) in cells {
            if family == Family::V6 && mode == Mode::Pasv && client == ClientKind::Curl {
                // It sends EPSV there whatever it is told.
                continue;
            }
            let outcome = run(client, mode, family, LIMIT);
            assert!(outcome.complete(), "{client} {mode:?} {family}:\n{}", outcome.output);
            transfers += 3;
        }
    }
    let told = |kind| {
        events.of(kind).into_iter().filter(|e| e.pinhole.as_ref().is_some_and(|p| p.mode == NegotiatedBy::Range))
    };
    until("every data connection has ended and was told", || (told(Kind::DataEnd).count() >= transfers).then_some(()))
        .unwrap();
    assert_eq!(told(Kind::Used).count(), transfers);
    let bytes: u64 = told(Kind::DataEnd).filter_map(|e| e.connection?.bytes_back).sum();
    assert!(bytes > 100_000, "{bytes}");
    let opaque = events.of(Kind::Opaque);
    let ports = format!("{}-{}", range.start(), range.end());
    assert!(opaque.iter().all(|e| e.detail.as_ref().is_some_and(|d| d.contains(&ports))), "{opaque:?}");
    // The sessions have ended, and with them the range.
    let left = until("no session is left", || gateway.sessions().ok()?.is_empty().then_some(()));
    left.unwrap_or_else(|e| panic!("{e}: {:#?}", gateway.sessions()));
    for family in Family::ALL {
        let to = SocketAddr::new(lab.server().address(family), *range.start());
        let e = connect(lab.client(), lab.client().address(family), to, TRIED).unwrap_err();
        assert_eq!(e.kind(), std::io::ErrorKind::TimedOut, "{to}: {e}");
    }
    assert!(gateway.status().unwrap().counters["syn_in_range"] >= transfers as u64);

    // A daemon that dies takes the range of a living session not with it, nor does the next one.
    let to = SocketAddr::new(lab.server().v4().into(), *range.start());
    let mut dialogue = Dialogue::open(lab.client(), SocketAddr::new(to.ip(), server.port()), LIMIT).unwrap();
    assert_eq!(dialogue.ask("AUTH TLS").unwrap().code, 234);
    let opaque =
        || gateway.sessions().ok()?.iter().any(|s| s.client == dialogue.local() && s.reason.is_some()).then_some(());
    until("the session is encrypted", opaque).unwrap();
    let refused = |when: &str| {
        // Nobody listens there: what comes through is refused by the server.
        let e = connect(lab.client(), lab.client().v4().into(), to, LIMIT).unwrap_err();
        assert_eq!(e.kind(), std::io::ErrorKind::ConnectionRefused, "{when}: {e}");
    };
    refused("before");
    gateway.kill().unwrap();
    refused("without a daemon");
    gateway.start_again().unwrap();
    refused("with the next one");
    drop(dialogue);
    gateway.stop().unwrap();
}
