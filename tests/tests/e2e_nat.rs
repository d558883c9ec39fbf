//! Address translation: servers that are published by their control port alone, and clients behind masquerade, with real
//! rules of nftables, in mode `drop`.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    time::Duration,
};

use ftp_helper::{
    event::Kind,
    ftpd::PassivePorts,
    lab::{
        self, Lab, LabOptions, Topology,
        clients::{ClientKind, Family, Job, Mode, Outcome},
        dialogue::Dialogue,
        servers::{Server, ServerKind, ServerOptions},
    },
    nft::Conntrack,
};
use ftp_helper_common::reason::Reason;
use ftp_helper_tests::{
    gateway::{Gateway, PATIENCE, Settings, engine, full, held_up, until},
    nat::{Published, Tables, invalid, prepare, public, ruleset, run, settings},
    responder::{CONTENT, Responder},
    spinner::{Mode as Spins, Spinner, hurry, syn_retransmissions},
    tap::{Segment, Tap, stream, without_offloads},
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
    prepare(&lab, &ruleset(&[Published::ftp(lab.server())], "")).unwrap();
    let mut gateway = Gateway::start(&lab, &settings(&lab, "drop"), &[]).unwrap();
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
            prepare(&lab, &ruleset(&[Published::ftp(lab.server())], "")).unwrap();
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
    prepare(&lab, &ruleset(&[], "")).unwrap();
    let mut gateway = Gateway::start(&lab, &settings(&lab, "drop"), &[]).unwrap();
    all_whole(&lab, &gateway, &server, ClientKind::Curl, &[PASSIVE, ACTIVE].concat(), 21);
    all_whole(&lab, &gateway, &server, ClientKind::Tnftp, &[(Mode::Port, Family::V4), (Mode::Eprt, Family::V6)], 21);
    nothing_went_wrong(&lab, &gateway);
    let counters = gateway.status().unwrap().counters;
    // Uploads, downloads and listings in active mode.
    assert!(counters["rewritten"] >= 15 && counters["translated"] >= 15, "{counters:?}");
    until("no translation is left", || Tables::of(&lab, &gateway).unwrap().is_empty().then_some(())).unwrap();
    gateway.stop().unwrap();
}

/// A server that already names its public address is left as it is.
#[test]
fn a_server_that_knows_its_public_address() {
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ServerInside, 1);
    let options = ServerOptions { announced: Some(lab.gateway().v4()), ..ServerOptions::default() };
    let server = Server::start(lab.server(), ServerKind::Pureftpd, &options).unwrap();
    prepare(&lab, &ruleset(&[Published::ftp(lab.server())], "")).unwrap();
    let gateway = Gateway::start(&lab, &settings(&lab, "drop"), &[]).unwrap();
    all_whole(&lab, &gateway, &server, ClientKind::Curl, &[(Mode::Pasv, Family::V4)], 21);
    nothing_went_wrong(&lab, &gateway);
}

/// Says what it is told to say.
fn scripted(host: &lab::Host, script: &'static [(&'static str, &'static str)]) {
    let listener = host.run_in(|| TcpListener::bind((host.v4(), 21)).unwrap()).unwrap();
    std::thread::spawn(move || -> std::io::Result<()> {
        let (stream, _) = listener.accept()?;
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let mut stream = stream;
        stream.write_all(b"220 ready\r\n")?;
        for (command, reply) in script {
            let line = lines.next().ok_or(std::io::ErrorKind::UnexpectedEof)??;
            if !line.starts_with(command) {
                return Err(std::io::Error::other(line));
            }
            stream.write_all(reply.as_bytes())?;
        }
        // Until the client is gone.
        drop(lines.next());
        Ok(())
    });
}

#[test]
fn a_reply_that_names_another_inside_host_opens_nothing() {
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ServerInside, 2);
    prepare(&lab, &ruleset(&[Published::ftp(lab.server())], "")).unwrap();
    let gateway = Gateway::start(&lab, &settings(&lab, "drop"), &[]).unwrap();
    let events = gateway.follow().unwrap();
    scripted(
        lab.server(),
        &[
            ("USER", "230 in\r\n"),
            ("PASV", "227 Entering Passive Mode (192,0,2,101,195,149)\r\n"),
            ("PASV", "227 Entering Passive Mode (192,0,2,100,195,149)\r\n"),
        ],
    );
    let mut dialogue = Dialogue::open(lab.client(), public(&lab, Family::V4, 21), PATIENCE).unwrap();
    dialogue.ask("USER u").unwrap();
    let reply = dialogue.ask("PASV").unwrap();
    assert!(reply.text.contains("192,0,2,101,195,149"), "{}", reply.text);
    let refused = events.wait("the bounce is refused", |e| e.event == Kind::Refused).unwrap();
    assert_eq!(refused.reason, Some(Reason::ThirdHost));
    assert!(events.of(Kind::Opened).is_empty());
    let knock = |port| {
        let to = public(&lab, Family::V4, port);
        let limit = Duration::from_millis(1500);
        lab.client().run_in(|| TcpStream::connect_timeout(&to, limit).map_err(|e| e.kind())).unwrap()
    };
    assert_eq!(knock(50069).unwrap_err(), std::io::ErrorKind::TimedOut);
    // The same session may announce what is its own.
    let reply = dialogue.ask("PASV").unwrap();
    assert!(reply.text.contains("203,0,113,1,195,149"), "{}", reply.text);
    events.wait("its own address opens", |e| e.event == Kind::Opened).unwrap();
    let session = gateway.sessions().unwrap().remove(0);
    assert_eq!(session.inside, Some(lab.server().v4().into()));
    let row = gateway.pinholes().unwrap().remove(0);
    assert_eq!(row.inside, Some((lab.server().v4(), 50069).into()));
    let said = gateway.ask(&["why", &lab.client().v4().to_string(), "203.0.113.1:50069"]).unwrap();
    assert!(said.code == 0 && said.out.contains("(inside 192.0.2.100:50069)"), "{said:?}");
    let said = gateway.ask(&["why", &lab.stranger().v4().to_string(), "203.0.113.1:50069"]).unwrap();
    assert_eq!(said.code, 10, "{said:?}");
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
    prepare(&lab, &ruleset(&[Published::ftp(lab.server())], "")).unwrap();
    let gateway = Gateway::start(&lab, &settings(&lab, "drop"), &[]).unwrap();
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

/// A line that is not whole can't be rewritten: it passes as it is, opens nothing, and the reason is told.
#[test]
fn a_line_in_two_segments_is_not_rewritten() {
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ServerInside, 1);
    let responder = Responder::start(lab.server(), lab.server().v4().into()).unwrap();
    prepare(&lab, &ruleset(&[Published::ftp(lab.server())], "")).unwrap();
    let gateway = Gateway::start(&lab, &settings(&lab, "drop"), &[]).unwrap();
    let events = gateway.follow().unwrap();
    let mut dialogue = Dialogue::open(lab.client(), public(&lab, Family::V4, 21), PATIENCE).unwrap();
    for line in ["USER u", "PASS p", "SITE CUT 20"] {
        dialogue.ask(line).unwrap();
    }
    let reply = dialogue.ask("PASV").unwrap();
    assert!(reply.text.contains("(192,0,2,100,"), "{}", reply.text);
    let refused = events.wait("it is refused", |e| e.event == Kind::Refused).unwrap();
    assert_eq!(refused.reason, Some(Reason::NotRewritten));
    assert!(events.of(Kind::Opened).is_empty());
    dialogue.ask("SITE CUT 0").unwrap();
    let reply = dialogue.ask("PASV").unwrap();
    assert!(reply.text.contains("(203,0,113,1,"), "{}", reply.text);
    events.wait("a whole one opens", |e| e.event == Kind::Opened).unwrap();
    drop(dialogue);
    responder.stop(lab.server());
}

/// The gateway gets another public address: nobody has to tell anything.
#[test]
fn the_public_address_changes() {
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ServerInside, 1);
    let server = Server::start(lab.server(), ServerKind::Vsftpd, &ServerOptions::default()).unwrap();
    prepare(&lab, &ruleset(&[Published::ftp(lab.server())], "")).unwrap();
    let settings = settings(&lab, "drop");
    let settings = Settings { guards: "[[guard]]\nnetworks = [\"@wan0\"]\n".into(), ..settings };
    let gateway = Gateway::start(&lab, &settings, &[]).unwrap();
    let login = |address: &str| {
        let mut dialogue = Dialogue::open(lab.client(), format!("{address}:21").parse().unwrap(), PATIENCE).unwrap();
        dialogue.login(server.login()).unwrap();
        dialogue
    };
    let announced = |dialogue: &mut Dialogue, address: &str| {
        let reply = dialogue.ask("PASV").unwrap();
        assert!(reply.text.contains(&format!("({},", address.replace('.', ","))), "{}", reply.text);
    };
    let mut first = login("203.0.113.1");
    announced(&mut first, "203.0.113.1");
    // During a session: it goes on as long as the old one is there.
    run(lab.gateway(), "ip", &["addr", "add", "203.0.113.200/24", "dev", "wan0"]).unwrap();
    announced(&mut first, "203.0.113.1");
    let mut second = login("203.0.113.200");
    announced(&mut second, "203.0.113.200");
    announced(&mut first, "203.0.113.1");
    drop(first);
    run(lab.gateway(), "ip", &["addr", "del", "203.0.113.1/24", "dev", "wan0"]).unwrap();
    run(lab.gateway(), "ip", &["addr", "replace", "203.0.113.200/24", "dev", "wan0"]).unwrap();
    // And between two: a longer one than the inside address.
    for mode in [Mode::Pasv, Mode::Epsv] {
        let outcome = transfer(&lab, &server, ClientKind::Curl, mode, "203.0.113.200:21".parse().unwrap());
        assert!(outcome.transferred_by(mode), "{mode}\n{}", outcome.output);
    }
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
    prepare(&lab, &ruleset(&[Published::ftp(lab.server())], "")).unwrap();
    let mut gateway = Gateway::start(&lab, &settings(&lab, "drop"), &[]).unwrap();
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

/// What the outside reads is what the inside wrote, but for the endpoint; every checksum is right, also of what is sent again.
#[test]
fn nothing_changes_but_the_endpoint() {
    if !lab::require_root() {
        return;
    }
    for topology in Topology::ALL {
        let lab = lab_of(topology, 1);
        let server = Server::start(lab.server(), ServerKind::Vsftpd, &ServerOptions::default()).unwrap();
        let published = [Published::ftp(lab.server())];
        let inward = topology == Topology::ServerInside;
        prepare(&lab, &ruleset(if inward { &published } else { &[] }, "")).unwrap();
        for (host, interface) in
            [(lab.client(), "eth0"), (lab.server(), "eth0"), (lab.gateway(), "wan0"), (lab.gateway(), "lan0")]
        {
            without_offloads(host, interface).unwrap();
        }
        // Public ports of six digits: a longer address makes each PORT longer, whatever port the client has.
        let mut settings = settings(&lab, "drop");
        settings.sections = settings.sections.replace("[nat]\n", "[nat]\nactive_ports = \"61100-61180\"\n");
        let gateway = Gateway::start(&lab, &settings, &[]).unwrap();
        let [wan, lan] = ["wan0", "lan0"].map(|i| Tap::start(lab.gateway(), i).unwrap());
        // The first announcement gets lost behind the gateway.
        let (outside, hook, text) =
            if inward { (lab.client(), "input", "227 ") } else { (lab.server(), "input", "PORT") };
        let word = text.bytes().fold(0u32, |n, b| n << 8 | u32::from(b));
        let lose = format!(
            "add table inet lose; add chain inet lose c {{ type filter hook {hook} priority 0; }}; \
             add rule inet lose c @th,256,32 {word:#x} limit rate 1/day burst 1 packets counter drop"
        );
        run(outside, "nft", &[&lose]).unwrap();
        let to = if inward { public(&lab, Family::V4, 21) } else { (lab.server().v4(), 21).into() };
        let mut dialogue = Dialogue::open(lab.client(), to, PATIENCE).unwrap();
        dialogue.login(server.login()).unwrap();
        let local = dialogue.local();
        if inward {
            for _ in 0..3 {
                dialogue.pasv().unwrap();
                dialogue.ask("NOOP").unwrap();
            }
        } else {
            let listener = lab.client().run_in(|| TcpListener::bind((lab.client().v4(), 0)).unwrap()).unwrap();
            let port = listener.local_addr().unwrap().port();
            let [high, low] = port.to_be_bytes();
            // The second segment arrives, the first does not: it is selectively acknowledged.
            dialogue.send(&format!("PORT 192,0,2,10,{high},{low}")).unwrap();
            dialogue.send("NOOP").unwrap();
            assert_eq!((dialogue.reply().unwrap().code, dialogue.reply().unwrap().code), (200, 200));
            for _ in 0..3 {
                dialogue.active(port).unwrap();
                dialogue.ask("NOOP").unwrap();
            }
            dialogue.send("RETR pub/download.bin").unwrap();
            let (mut data, _) = listener.accept().unwrap();
            let mut got = Vec::new();
            data.read_to_end(&mut got).unwrap();
            assert!(got == lab::servers::pattern(100_000));
        }
        let reply = dialogue.ask("QUIT");
        drop((reply, dialogue));
        let lost = run(outside, "nft", &["list", "chain", "inet", "lose", "c"]).unwrap();
        assert!(lost.contains("packets 1 bytes"), "{lost}");
        // The last ACKs are on the wire before the daemon hears of the end.
        until("the session is over", || gateway.sessions().unwrap().is_empty().then_some(())).unwrap();
        let (wan, lan) = (wan.stop().unwrap(), lan.stop().unwrap());
        for (what, s) in wan.iter().map(|s| ("wan0", s)).chain(lan.iter().map(|s| ("lan0", s))) {
            assert!(s.sum_is_right, "{what}: {s:?}");
        }
        let control = |s: &&Segment| s.from.port() == 21 || s.to.port() == 21;
        let names = if inward { "203,0,113,1," } else { "192,0,2,10," };
        for from_server in [true, false] {
            let side = |s: &Segment| control(&s) && (s.from.port() == 21) == from_server;
            let lines = |all: &[Segment]| {
                let bytes = stream(all, side).unwrap();
                String::from_utf8(bytes).unwrap().lines().map(ToOwned::to_owned).collect::<Vec<_>>()
            };
            let (out, within) = (lines(&wan), lines(&lan));
            assert_eq!(out.len(), within.len());
            let mut rewritten = 0;
            for (o, i) in out.iter().zip(&within) {
                let announces = if inward { i.starts_with("227 ") } else { i.starts_with("PORT ") };
                if !announces {
                    assert_eq!(o, i);
                    continue;
                }
                rewritten += 1;
                if inward {
                    assert!(o.contains("(203,0,113,1,") && i.contains("(192,0,2,100,"), "{o} {i}");
                    // The free text and blanks make up for the address.
                    assert_eq!(o.len(), i.len(), "{o:?} {i:?}");
                    let port = |l: &str| l.split(['(', ')']).nth(1).unwrap().splitn(5, ',').nth(4).unwrap().to_owned();
                    assert_eq!(port(o), port(i));
                } else {
                    assert!(o.starts_with("PORT 203,0,113,1,") && i.starts_with("PORT 192,0,2,10,"), "{o} {i}");
                }
            }
            assert_eq!(rewritten > 0, from_server == inward, "{names}");
        }
        if !inward {
            // Selective acknowledgements speak of what the client has sent, by its own numbers.
            let noop = lan.iter().find(|s| s.from == local && s.payload == b"NOOP\r\n").unwrap();
            let acked: Vec<_> = lan.iter().filter(|s| s.to == local).flat_map(|s| &s.sack).collect();
            assert!(acked.contains(&&(noop.seq, noop.seq + 6)), "{acked:?} {noop:?}");
            let seen = wan.iter().find(|s| s.to.port() == 21 && s.payload == b"NOOP\r\n").unwrap();
            assert_ne!(noop.seq, seen.seq, "the announcement has kept its length: nothing was to be translated");
        }
        nothing_went_wrong(&lab, &gateway);
    }
}

/// A client that connects the instant that it reads the reply.
#[test]
fn a_client_that_connects_at_once_loses_no_syn() {
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ServerInside, 1);
    let responder = Responder::start(lab.server(), lab.server().v4().into()).unwrap();
    prepare(&lab, &ruleset(&[Published::ftp(lab.server())], "")).unwrap();
    let gateway = Gateway::start(&lab, &settings(&lab, "drop"), &[]).unwrap();
    let n = if full() { 20_000 } else { 1_000 };
    let talk = || -> anyhow::Result<()> {
        hurry()?;
        let mut spinner = Spinner::connect(public(&lab, Family::V4, 21), true)?;
        spinner.login("u", "p")?;
        for i in 0..n {
            let mode = if i % 2 == 0 { Spins::Pasv } else { Spins::Epsv };
            spinner.fetch(mode, "x", CONTENT.len())?;
        }
        spinner.ask("QUIT", 221)?;
        Ok(())
    };
    let syns = syn_retransmissions(lab.client()).unwrap();
    lab.client().run_in(talk).unwrap().unwrap();
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
