//! What is rewritten of a dialogue on its way through the gateway, and what is not: the endpoint, and nothing else.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use ftp_helper::{
    event::Kind,
    lab::{
        self, Topology,
        clients::{ClientKind, Family, Mode},
        dialogue::Dialogue,
        servers::{Server, ServerKind, ServerOptions},
    },
};
use ftp_helper_common::reason::Reason;
use ftp_helper_tests::{
    gateway::{Gateway, PATIENCE, Settings, until},
    nat::{public, publish, run, settings, translating},
    responder::Responder,
    tap::{Segment, Tap, stream, without_offloads},
};

use super::{all_whole, lab_of, nothing_went_wrong, transfer};

/// What the outside reads is what the inside wrote, but for the endpoint; every checksum is right, also of what is sent again.
#[test]
fn nothing_changes_but_the_endpoint() {
    if !lab::require_root() {
        return;
    }
    for topology in Topology::ALL {
        let lab = lab_of(topology, 1);
        let server = Server::start(lab.server(), ServerKind::Vsftpd, &ServerOptions::default()).unwrap();
        let inward = topology == Topology::ServerInside;
        publish(&lab).unwrap();
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

/// A line that is not whole can't be rewritten: it passes as it is, opens nothing, and the reason is told.
#[test]
fn a_line_in_two_segments_is_not_rewritten() {
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ServerInside, 1);
    let responder = Responder::start(lab.server(), lab.server().v4().into()).unwrap();
    let gateway = translating(&lab).unwrap();
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

#[test]
fn a_reply_that_names_another_inside_host_opens_nothing() {
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ServerInside, 2);
    let gateway = translating(&lab).unwrap();
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

/// A server that already names its public address is left as it is.
#[test]
fn a_server_that_knows_its_public_address() {
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ServerInside, 1);
    let options = ServerOptions { announced: Some(lab.gateway().v4()), ..ServerOptions::default() };
    let server = Server::start(lab.server(), ServerKind::Pureftpd, &options).unwrap();
    let gateway = translating(&lab).unwrap();
    all_whole(&lab, &gateway, &server, ClientKind::Curl, &[(Mode::Pasv, Family::V4)], 21);
    nothing_went_wrong(&lab, &gateway);
}

/// The gateway gets another public address: nobody has to tell anything.
#[test]
fn the_public_address_changes() {
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ServerInside, 1);
    let server = Server::start(lab.server(), ServerKind::Vsftpd, &ServerOptions::default()).unwrap();
    publish(&lab).unwrap();
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
