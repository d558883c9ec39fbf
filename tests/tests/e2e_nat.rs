//! Address translation: servers that are published by their control port alone, and clients behind masquerade, with real
//! rules of nftables, in mode `drop`.

#[path = "e2e_nat/rewriting.rs"]
mod rewriting;

use std::{
    io::Read as _,
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
};

use ftp_helper::{
    ftpd::PassivePorts,
    lab::{
        self, Lab, LabOptions, Topology,
        clients::{ClientKind, Family, Job, Mode, Outcome},
        dialogue::Dialogue,
        servers::{Server, ServerKind, ServerOptions},
    },
    nft::Conntrack,
};
use ftp_helper_tests::{
    gateway::{Gateway, PATIENCE, Settings, engine, full, held_up, until},
    nat::{Published, Tables, invalid, prepare, public, publish, ruleset, settings, translating},
    responder::{CONTENT, Responder},
    spinner::{Mode as Spins, fetch_in_turn, syn_retransmissions},
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

/// All of it, whole, by each of these modes.
fn all_whole(lab: &Lab, gateway: &Gateway, server: &Server, client: ClientKind, modes: &[(Mode, Family)], port: u16) {
    for &(mode, family) in modes {
        let at = match lab.topology() {
            Topology::ServerInside => public(lab, family, port),
            Topology::ClientInside => (server.host().address(family), port).into(),
        };
        let outcome = transfer(lab, server, client, mode, at);
        if !outcome.transferred_by(mode) {
            let status = gateway.status().unwrap();
            panic!(
                "{} {client} {mode} over IPv{family}:\n{}\n{:?}\n{:?}\n{:?}",
                server.kind(),
                outcome.output,
                status.counters,
                status.reasons,
                Tables::of(lab, gateway)
            );
        }
    }
    server.remove_uploads().unwrap();
}

fn nothing_went_wrong(lab: &Lab, gateway: &Gateway) {
    assert_eq!(invalid(lab).unwrap(), 0, "connection tracking could not place packets");
    assert_eq!(engine(&gateway.status().unwrap(), "divergences"), 0);
}

const PASSIVE: [(Mode, Family); 3] = [(Mode::Pasv, Family::V4), (Mode::Epsv, Family::V4), (Mode::Epsv, Family::V6)];
const ACTIVE: [(Mode, Family); 3] = [(Mode::Port, Family::V4), (Mode::Eprt, Family::V4), (Mode::Eprt, Family::V6)];

#[test]
fn a_published_server_in_passive_mode() {
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ServerInside, 1);
    let server = Server::start(lab.server(), ServerKind::Vsftpd, &ServerOptions::default()).unwrap();
    let mut gateway = translating(&lab).unwrap();
    all_whole(&lab, &gateway, &server, ClientKind::Curl, &PASSIVE, 21);
    nothing_went_wrong(&lab, &gateway);
    let counters = gateway.status().unwrap().counters;
    assert!(counters["translated"] >= 9 && counters["rewritten"] >= 3, "{counters:?}");
    until("no translation is left", || Tables::of(&lab, &gateway).unwrap().is_empty().then_some(())).unwrap();
    gateway.stop().unwrap();
}

#[test]
fn published_servers_serve_every_client() {
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ServerInside, 1);
    for (i, kind) in
        [ServerKind::Vsftpd, ServerKind::Pyftpdlib, ServerKind::Proftpd, ServerKind::Pureftpd].into_iter().enumerate()
    {
        let server = Server::start(lab.server(), kind, &ServerOptions::default()).unwrap();
        if i == 0 {
            publish(&lab).unwrap();
        }
        let mut gateway = Gateway::start(&lab, &settings(&lab, "drop"), &[]).unwrap();
        all_whole(&lab, &gateway, &server, ClientKind::Curl, &[PASSIVE, ACTIVE].concat(), 21);
        let others = [(Mode::Pasv, Family::V4), (Mode::Epsv, Family::V6), (Mode::Port, Family::V4)];
        for client in [ClientKind::Lftp, ClientKind::Tnftp] {
            let can = |m: &&(Mode, Family)| client != ClientKind::Lftp || m.0 != Mode::Epsv || m.1 == Family::V6;
            let modes: Vec<_> = others.iter().filter(can).copied().collect();
            all_whole(&lab, &gateway, &server, client, &modes, 21);
        }
        nothing_went_wrong(&lab, &gateway);
        gateway.stop().unwrap();
    }
}

#[test]
fn a_client_behind_masquerade() {
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ClientInside, 1);
    let server = Server::start(lab.server(), ServerKind::Vsftpd, &ServerOptions::default()).unwrap();
    let mut gateway = translating(&lab).unwrap();
    all_whole(&lab, &gateway, &server, ClientKind::Curl, &[PASSIVE, ACTIVE].concat(), 21);
    all_whole(&lab, &gateway, &server, ClientKind::Tnftp, &[(Mode::Port, Family::V4), (Mode::Eprt, Family::V6)], 21);
    nothing_went_wrong(&lab, &gateway);
    let counters = gateway.status().unwrap().counters;
    // Uploads, downloads and listings in active mode.
    assert!(counters["rewritten"] >= 15 && counters["translated"] >= 15, "{counters:?}");
    until("no translation is left", || Tables::of(&lab, &gateway).unwrap().is_empty().then_some(())).unwrap();
    gateway.stop().unwrap();
}

/// Two inside servers with one passive port each, the same: one client asks both.
#[test]
fn two_servers_announce_the_same_port_at_once() {
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ServerInside, 2);
    let one = PassivePorts::new(50_000, 50_000).unwrap();
    let options = ServerOptions { passive_ports: one, ..ServerOptions::default() };
    let hosts = lab.servers();
    let servers: Vec<Server> =
        hosts.iter().map(|h| Server::start(h, ServerKind::Pyftpdlib, &options).unwrap()).collect();
    let published = [Published::ftp(&hosts[0]), Published { port: 2121, host: &hosts[1], inside_port: 21 }];
    prepare(&lab, &ruleset(&published, "")).unwrap();
    let settings = settings(&lab, "drop");
    let settings = Settings { watch: "control_ports = [21, 2121]".into(), ..settings };
    let gateway = Gateway::start(&lab, &settings, &[]).unwrap();
    for (server, host) in servers.iter().zip(hosts) {
        // So that each is known by what it sends.
        std::fs::write(server.public().join("who"), host.name()).unwrap();
    }
    type Announce = fn(&mut Dialogue) -> lab::Result<u16>;
    for (announce, family) in
        [(Dialogue::pasv as Announce, Family::V4), (Dialogue::epsv, Family::V4), (Dialogue::epsv, Family::V6)]
    {
        let mut open: Vec<(Dialogue, SocketAddr)> = Vec::new();
        for (server, port) in servers.iter().zip([21, 2121]) {
            let mut dialogue = Dialogue::open(lab.client(), public(&lab, family, port), PATIENCE).unwrap();
            dialogue.login(server.login()).unwrap();
            let port = announce(&mut dialogue).unwrap();
            open.push((dialogue, public(&lab, family, port)));
        }
        assert_eq!(open[0].1.port(), 50_000);
        assert_ne!(open[1].1.port(), 50_000);
        let mut streams: Vec<TcpStream> = open
            .iter()
            .map(|(_, to)| lab.client().run_in(|| TcpStream::connect_timeout(to, PATIENCE).unwrap()).unwrap())
            .collect();
        for (i, ((dialogue, _), stream)) in open.iter_mut().zip(&mut streams).enumerate() {
            dialogue.send("RETR pub/who").unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            assert_eq!(text, hosts[i].name(), "IPv{family}");
        }
    }
    nothing_went_wrong(&lab, &gateway);
}

/// A published server and a client behind masquerade at the same time, behind one address.
#[test]
fn servers_and_clients_behind_one_address() {
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ServerInside, 2);
    let inside = Server::start(lab.server(), ServerKind::Vsftpd, &ServerOptions::default()).unwrap();
    let outside = Server::start(lab.stranger(), ServerKind::Vsftpd, &ServerOptions::default()).unwrap();
    let gateway = translating(&lab).unwrap();
    let upload = upload(&lab);
    std::thread::scope(|scope| {
        for (mode, family) in [PASSIVE, ACTIVE].concat() {
            for (from, server, at) in [
                (lab.client(), &inside, public(&lab, family, 21)),
                (&lab.servers()[1], &outside, (lab.stranger().address(family), 21).into()),
            ] {
                let client = ClientKind::Curl;
                let job = Job { from, client, mode, family, server, upload: &upload, limit: PATIENCE };
                scope.spawn(move || {
                    let outcome = job.run_at(at).unwrap();
                    assert!(outcome.transferred_by(mode), "{mode} to {at}:\n{}", outcome.output);
                });
            }
        }
    });
    nothing_went_wrong(&lab, &gateway);
}

/// A daemon that takes over knows who is behind an address, although connection tracking has forgotten it.
#[test]
fn a_daemon_that_takes_over_goes_on_translating() {
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ServerInside, 1);
    let server = Server::start(lab.server(), ServerKind::Vsftpd, &ServerOptions::default()).unwrap();
    let mut gateway = translating(&lab).unwrap();
    let to = public(&lab, Family::V4, 21);
    let mut before = Dialogue::open(lab.client(), to, PATIENCE).unwrap();
    before.login(server.login()).unwrap();
    before.pasv().unwrap();
    gateway.kill().unwrap();
    // Nobody has told this one's inside end.
    let mut meanwhile = Dialogue::open(lab.client(), to, PATIENCE).unwrap();
    meanwhile.login(server.login()).unwrap();
    gateway.start_again().unwrap();
    for dialogue in [&mut before, &mut meanwhile] {
        let reply = dialogue.ask("PASV").unwrap();
        assert!(reply.text.contains("203,0,113,1,"), "{}", reply.text);
    }
    let inside = || {
        let sessions = gateway.sessions().unwrap();
        (sessions.len() == 2 && sessions.iter().all(|s| s.inside == Some(lab.server().v4().into()))).then_some(())
    };
    until("both inside ends are known", inside).unwrap();
}

/// A client that connects the instant that it reads the reply.
#[test]
fn a_client_that_connects_at_once_loses_no_syn() {
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ServerInside, 1);
    let responder = Responder::start(lab.server(), lab.server().v4().into()).unwrap();
    let gateway = translating(&lab).unwrap();
    let n = if full() { 20_000 } else { 1_000 };
    let syns = syn_retransmissions(lab.client()).unwrap();
    let (to, modes) = (public(&lab, Family::V4, 21), [Spins::Pasv, Spins::Epsv]);
    fetch_in_turn(lab.client(), to, modes, CONTENT.len(), n).unwrap();
    let mut status = gateway.status().unwrap();
    until("all announcements are read", || {
        status = gateway.status().unwrap();
        (engine(&status, "announcements") == n).then_some(())
    })
    .unwrap();
    let again = syn_retransmissions(lab.client()).unwrap() - syns;
    assert_eq!((held_up(&status), again), (0, 0), "SYNs were lost: {:?}", status.reasons);
    let fast = engine(&status, "taken_by_fast_path");
    // The first may come before the daemon has told who is inside; the reply is sent again then.
    assert!(fast * 1000 >= (n - 1) * 999, "the fast path took {fast} of {n}");
    assert_eq!(responder.troubles(), [""; 0]);
    nothing_went_wrong(&lab, &gateway);
    responder.stop(lab.server());
}
