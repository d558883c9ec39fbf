//! Address translation: servers that are published by their control port alone, and clients behind masquerade, with real
//! rules of nftables, in mode `drop`.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
};

use ftp_helper::{
    lab::{
        self, Lab, LabOptions, Topology,
        clients::{ClientKind, Family, Job, Mode, Outcome},
        servers::{Server, ServerKind, ServerOptions},
    },
    nft::Conntrack,
};
use ftp_helper_tests::{
    gateway::{Gateway, PATIENCE, engine, until},
    nat::{Published, Tables, invalid, prepare, public, ruleset, settings},
};

fn lab_of(topology: Topology, servers: usize) -> Lab {
    Lab::new(&LabOptions { topology, servers, ..LabOptions::default() }).unwrap()
}

fn upload(lab: &Lab) -> PathBuf {
    let upload = lab.directory().join("upload.bin");
    std::fs::write(&upload, lab::servers::pattern(50_000)).unwrap();
    upload
}

#[test]
fn connection_tracking_tells_who_is_behind_an_address() {
    if !lab::require_root() {
        return;
    }
    for topology in Topology::ALL {
        let lab = lab_of(topology, 1);
        let (client, server) = (lab.client(), lab.server());
        let inward = topology == Topology::ServerInside;
        let published = if inward { vec![Published { port: 2121, host: server, inside_port: 21 }] } else { vec![] };
        prepare(&lab, &ruleset(&published, "")).unwrap();
        let ask = |peer, public| {
            let ask = || Conntrack::open().unwrap().inside(peer, public, inward).unwrap();
            lab.gateway().run_in(ask).unwrap()
        };
        for family in Family::ALL {
            let listen = |host: &lab::Host, port: u16| {
                host.run_in(|| TcpListener::bind((host.address(family), port)).unwrap()).unwrap()
            };
            let connect = |to: SocketAddr| client.run_in(|| TcpStream::connect(to).unwrap()).unwrap();
            let listener = listen(server, 21);
            if inward {
                let to = public(&lab, family, 2121);
                let stream = connect(to);
                assert_eq!(ask(stream.local_addr().unwrap(), to), Some(server.address(family)));
                // The gateway's own server is not translated.
                let own = listen(lab.gateway(), 21);
                let stream = connect(own.local_addr().unwrap());
                assert_eq!(ask(stream.local_addr().unwrap(), own.local_addr().unwrap()), None);
            } else {
                let to = listener.local_addr().unwrap();
                let stream = connect(to);
                let (_, seen) = listener.accept().unwrap();
                assert_eq!(seen.ip(), lab.gateway().address(family));
                assert_eq!(ask(to, seen), Some(client.address(family)));
                let own = lab.gateway().run_in(|| TcpStream::connect(to).unwrap()).unwrap();
                assert_eq!(ask(to, own.local_addr().unwrap()), None);
                drop(stream);
            }
            // Nobody knows this one.
            let nobody = SocketAddr::new(lab.stranger().address(family), 40000);
            assert_eq!(ask(nobody, public(&lab, family, 2121)), None);
        }
        // A host where nothing is tracked.
        let ask = || Conntrack::open().unwrap().inside(([192, 0, 2, 1], 5).into(), ([192, 0, 2, 2], 21).into(), inward);
        assert_eq!(lab.stranger().run_in(ask).unwrap().unwrap(), None);
    }
}

/// Uploads, downloads and lists by what is published at an address.
fn transfer(lab: &Lab, server: &Server, client: ClientKind, mode: Mode, at: SocketAddr) -> Outcome {
    let family = if at.is_ipv4() { Family::V4 } else { Family::V6 };
    let job = Job { from: lab.client(), client, mode, family, server, upload: &upload(lab), limit: PATIENCE };
    job.run_at(at).unwrap()
}

#[test]
fn a_published_server_in_passive_mode() {
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ServerInside, 1);
    let server = Server::start(lab.server(), ServerKind::Vsftpd, &ServerOptions::default()).unwrap();
    prepare(&lab, &ruleset(&[Published::ftp(lab.server())], "")).unwrap();
    let mut gateway = Gateway::start(&lab, &settings(&lab, "drop"), &[]).unwrap();
    let outcome = transfer(&lab, &server, ClientKind::Curl, Mode::Pasv, public(&lab, Family::V4, 21));
    let status = gateway.status().unwrap();
    assert!(
        outcome.transferred_by(Mode::Pasv),
        "{}\n{:?}\n{:?}\n{:?}",
        outcome.output,
        status.counters,
        status.reasons,
        Tables::of(&lab, &gateway)
    );
    assert_eq!(invalid(&lab).unwrap(), 0);
    assert_eq!(engine(&status, "divergences"), 0);
    until("no translation is left", || Tables::of(&lab, &gateway).unwrap().is_empty().then_some(())).unwrap();
    gateway.stop().unwrap();
}
