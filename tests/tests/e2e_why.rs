//! `why` says beforehand what becomes of a connection: held against real ones.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use aya::programs::{SchedClassifier, TcAttachType, TestRun as _, TestRunOptions};
use ftp_helper::{
    api::{Asked, Verdict},
    lab::{
        Host, Lab, LabOptions, OUTSIDE_INTERFACE,
        clients::Family,
        dialogue::Dialogue,
        require_root,
        servers::{Server, ServerKind, ServerOptions},
    },
};
use ftp_helper_tests::{
    gateway::{Gateway, PATIENCE, Settings, until},
    nat,
    packet::Packet,
};
use serde_json::Value;

/// A guarded port that nobody negotiates.
const UNASKED: u16 = 40_404;

struct Ground<'a> {
    lab: &'a Lab,
    gateway: &'a Gateway,
}

impl Ground<'_> {
    /// The answer, which must be the same in every format, as the exit code says.
    fn why(&self, from: &str, to: SocketAddr) -> Value {
        let ask = |format: &str| self.gateway.ask(&["why", from, &to.to_string(), "-o", format]).unwrap();
        let json = ask("json");
        let answer = json.json().unwrap();
        let code = if answer["verdict"] == "allowed" { 0 } else { 10 };
        assert_eq!((json.code, json.err.as_str()), (code, ""), "{answer}");
        let table = ask("table");
        assert_eq!((table.code, table.err.as_str()), (code, ""));
        assert!(table.out.starts_with(&format!("{}: ", answer["verdict"].as_str().unwrap())), "{}", table.out);
        for guard in answer["guards"].as_array().unwrap() {
            let line = format!("guard {} ({}) covers it: ", guard["guard"], guard["direction"].as_str().unwrap());
            assert!(table.out.contains(&line), "{}", table.out);
        }
        assert_eq!(ask("jsonl").out.lines().count(), 1);
        answer
    }

    /// Asks, and then connects: the answer, after it has come true. `None` asks without a reason in mind.
    fn comes_true(&self, from: &Host, to: SocketAddr, reason: Option<&str>) -> Value {
        let address = from.address(if to.is_ipv4() { Family::V4 } else { Family::V6 });
        let answer = self.why(&address.to_string(), to);
        let connect = || std::net::TcpStream::connect_timeout(&to, Duration::from_millis(600));
        let connected = from.run_in(connect).unwrap();
        // A RST is an answer too: the SYN has arrived.
        let passed = connected.as_ref().map_or_else(|e| e.kind() == std::io::ErrorKind::ConnectionRefused, |_| true);
        assert_eq!(answer["verdict"] == "allowed", passed, "{answer}: {connected:?}");
        let reasons: Vec<_> = answer["guards"].as_array().unwrap().iter().map(|g| g["reason"].as_str()).collect();
        match reason {
            Some(reason) => assert!(reasons.contains(&Some(reason)), "{reason}: {answer}"),
            None => assert!(reasons.iter().all(Option::is_none), "{answer}"),
        }
        answer
    }
}

#[test]
fn the_answer_is_what_the_guard_does() {
    if !require_root() {
        return;
    }
    let lab = &Lab::new(&LabOptions::default()).unwrap();
    // One that connects when it has something to transfer, not at once.
    let server = Server::start(lab.server(), ServerKind::Vsftpd, &ServerOptions::default()).unwrap();
    let settings = Settings::guarded(lab, "drop").section("[pinhole]\ntimeout = \"5min\"");
    let except = settings.guards.replacen("[[guard]]\n", "[[guard]]\nexcept_ports = [\"40500-40600\"]\n", 1);
    let mut gateway = Gateway::start(lab, &Settings { guards: except, ..settings }, &[]).unwrap();
    for family in Family::ALL {
        let ground = Ground { lab, gateway: &gateway };
        let lab = ground.lab;
        let to = |port| SocketAddr::new(lab.server().address(family), port);

        // What no guard covers: another port, an exception, the control port, another direction, another initiator.
        for port in [1023, 40_500, 40_600] {
            let answer = ground.comes_true(lab.client(), to(port), None);
            assert_eq!((&answer["guards"], &answer["control_port"]), (&Value::Array(vec![]), &false.into()), "{port}");
        }
        assert_eq!(ground.comes_true(lab.client(), to(21), None)["control_port"], true);
        let outside = SocketAddr::new(lab.stranger().address(family), UNASKED);
        ground.comes_true(lab.server(), outside, None);

        // What a guard covers, in both directions, without a pinhole.
        let answer = ground.comes_true(lab.client(), to(UNASKED), Some("no_pinhole"));
        assert_eq!((&answer["guards"][0]["guard"], &answer["guards"][0]["direction"]), (&1.into(), &"in".into()));
        assert_eq!(answer["near"], Value::Array(vec![]));
        let inside = SocketAddr::new(lab.client().address(family), UNASKED);
        let answer = ground.comes_true(lab.server(), inside, Some("no_pinhole"));
        assert_eq!((&answer["guards"][0]["guard"], &answer["guards"][0]["direction"]), (&2.into(), &"out".into()));

        // With one: it is for one initiator and one port, and for one connection.
        let mut dialogue = Dialogue::open(lab.client(), to(21), PATIENCE).unwrap();
        dialogue.login(server.login()).unwrap();
        let port = dialogue.epsv().unwrap();
        until("the daemon has read it", || (gateway.pinholes().unwrap().len() == 1).then_some(())).unwrap();
        let near = ground.comes_true(lab.client(), to(port ^ 1), Some("no_pinhole"));
        assert_eq!((&near["near"][0]["port"], &near["near"][0]["mode"]), (&port.into(), &"epsv".into()));
        let other = ground.comes_true(lab.stranger(), to(port), Some("other_initiator"));
        assert_eq!(other["near"][0]["initiator"], dialogue.local().ip().to_string());
        let answer = ground.comes_true(lab.client(), to(port), None);
        assert_eq!(answer["guards"][0]["pinhole"]["client"], dialogue.local().to_string());
        until("its use", || gateway.pinholes().unwrap().is_empty().then_some(())).unwrap();
        ground.comes_true(lab.client(), to(port), Some("no_pinhole"));

        // Active mode: of the server's towards the client.
        let ip: IpAddr = lab.client().address(family);
        let listener = lab.client().run_in(|| TcpListener::bind((ip, 0))).unwrap().unwrap();
        let at = listener.local_addr().unwrap();
        let number = if family == Family::V4 { 1 } else { 2 };
        assert_eq!(dialogue.ask(&format!("EPRT |{number}|{ip}|{}|", at.port())).unwrap().code, 200);
        until("the pinhole", || (gateway.pinholes().unwrap().len() == 1).then_some(())).unwrap();
        let answer = ground.comes_true(lab.server(), at, None);
        assert_eq!(answer["guards"][0]["direction"], "out");
    }

    // In observe it would be denied, and is not.
    let observe = Settings::guarded(lab, "observe");
    assert_eq!(gateway.reload(&observe).unwrap().changed, ["mode", "[[guard]]", "[pinhole]"]);
    let ground = Ground { lab, gateway: &gateway };
    let to = SocketAddr::new(lab.server().v4().into(), UNASKED);
    let answer = ground.comes_true(lab.client(), to, Some("no_pinhole"));
    assert_eq!(answer["mode"], "observe");
    let table = gateway.data(&["why", &lab.client().v4().to_string(), &to.to_string()]).unwrap().out;
    assert!(table.contains("mode observe lets it through; drop would deny it"), "{table}");
    gateway.stop().unwrap();
}

/// Also of a server on the gateway itself, that is named by its interface.
#[test]
fn the_range_of_an_encrypted_session_is_told() {
    if !require_root() {
        return;
    }
    let lab = &Lab::new(&LabOptions::default()).unwrap();
    let here = format!("@{OUTSIDE_INTERFACE}");
    for (host, name) in [(lab.server(), lab.server().v4().to_string()), (lab.gateway(), here)] {
        let known =
            format!("[[server]]\naddress = [\"{name}\"]\npassive_ports = \"40000-40999\"\nopaque = \"range\"\n");
        let settings = Settings::guarded(lab, "drop").section(&known);
        let guards = format!("[[guard]]\nnetworks = [\"{name}\"]\n");
        let gateway = Gateway::start(lab, &Settings { guards, ..settings }, &[]).unwrap();
        let ground = Ground { lab, gateway: &gateway };
        let to = |port| SocketAddr::new(host.v4().into(), port);
        let (inside, outside) = (to(UNASKED), to(41_000));
        ground.comes_true(lab.client(), inside, Some("no_pinhole"));
        let _session = encrypted(lab.client(), host, to(21));
        until("the range", || {
            let answer = ground.why(&lab.client().v4().to_string(), inside);
            (answer["verdict"] == "allowed").then_some(())
        })
        .unwrap();
        let answer = ground.comes_true(lab.client(), inside, None);
        assert_eq!(answer["guards"][0]["range"], "40000-40999");
        ground.comes_true(lab.client(), outside, Some("no_pinhole"));
        ground.comes_true(lab.stranger(), inside, Some("no_pinhole"));
    }
}

/// Both ends of a session that is encrypted from now on.
fn encrypted(client: &Host, server: &Host, control: SocketAddr) -> [TcpStream; 2] {
    let listener = server.run_in(|| TcpListener::bind(control)).unwrap().unwrap();
    let client = client.run_in(|| TcpStream::connect_timeout(&control, PATIENCE)).unwrap().unwrap();
    let mut ends = [client, listener.accept().unwrap().0];
    for (from, to, line) in [(1, 0, "220 here\r\n"), (0, 1, "AUTH TLS\r\n"), (1, 0, "234 go on\r\n")] {
        ends[from].write_all(line.as_bytes()).unwrap();
        let mut read = vec![0; line.len()];
        ends[to].read_exact(&mut read).unwrap();
    }
    ends
}

/// 10,000 connections towards a gateway that translates: the answer is what the attached program makes of the SYN, and names
/// both ends of what it lets through.
#[test]
fn the_answer_is_the_programs_behind_address_translation() {
    const ASKED: usize = 10_000;
    if !require_root() {
        return;
    }
    let lab = &Lab::new(&LabOptions::default()).unwrap();
    let server = Server::start(lab.server(), ServerKind::Vsftpd, &ServerOptions::default()).unwrap();
    nat::publish(lab).unwrap();
    let settings = nat::settings(lab, "drop").section("[pinhole]\ntimeout = \"5min\"");
    let gateway = Gateway::start(lab, &settings, &[]).unwrap();
    let mut open = Vec::new();
    let mut dialogues = Vec::new();
    for (i, family) in Family::ALL.into_iter().cycle().take(8).enumerate() {
        let mut dialogue = Dialogue::open(lab.client(), nat::public(lab, family, 21), PATIENCE).unwrap();
        dialogue.login(server.login()).unwrap();
        let port = if i % 4 == 0 { dialogue.pasv().unwrap() } else { dialogue.epsv().unwrap() };
        open.push(port);
        dialogues.push(dialogue);
    }
    until("the pinholes", || (gateway.pinholes().unwrap().len() == open.len()).then_some(())).unwrap();
    let program = attached(lab);
    let mut random = fastrand::Rng::with_seed(4);
    let mut client = gateway.client().unwrap();
    let (mut allowed, mut with_pinhole, mut reasons) = (0, 0, std::collections::BTreeSet::new());
    for n in 0..ASKED {
        let family = Family::ALL[random.usize(..2)];
        let from = match random.u8(..4) {
            0 => lab.stranger().address(family),
            1 if family == Family::V4 => std::net::Ipv4Addr::from(random.u32(0x0100_0000..0xdf00_0000)).into(),
            _ => lab.client().address(family),
        };
        let host = match random.u8(..8) {
            0 => lab.server().address(family),
            1 => lab.stranger().address(family),
            _ => lab.gateway().address(family),
        };
        let port = match random.u8(..4) {
            0 => random.u16(1..),
            1 => random.u16(1020..1030),
            _ => open[random.usize(..open.len())] ^ u16::from(random.u8(..4) == 0),
        };
        if port == 21 {
            continue;
        }
        let (to, from_port) = (SocketAddr::new(host, port), random.u16(40_000..40_003));
        let why = client.why(Asked { from, from_port: Some(from_port), to }).unwrap();
        let syn = Packet::syn(SocketAddr::new(from, from_port), to, random.u32(..)).with_options();
        let options = TestRunOptions { data_in: Some(&syn.frame()), ..TestRunOptions::new() };
        // TC_ACT_UNSPEC passes, TC_ACT_SHOT drops.
        let passed = match program.test_run(options).unwrap().return_value {
            0xffff_ffff => true,
            2 => false,
            other => panic!("{other}"),
        };
        assert_eq!(why.verdict == Verdict::Allowed, passed, "{n}: {syn:?}\n{why:#?}");
        allowed += usize::from(passed);
        for guard in &why.guards {
            reasons.extend(guard.reason.clone());
            if let (None, Some(row)) = (&guard.reason, &guard.pinhole) {
                // As it is outside, and as it is inside.
                assert_eq!(row.inside, Some(SocketAddr::new(lab.server().address(family), port)), "{why:#?}");
                with_pinhole += 1;
            }
        }
    }
    assert!(with_pinhole >= open.len() && allowed > with_pinhole && allowed < ASKED, "{allowed} {with_pinhole}");
    let expected = ["no_pinhole", "other_initiator", "other_source_port"];
    assert!(expected.iter().all(|r| reasons.contains(*r)), "{reasons:?}");
}

/// The program that a daemon has attached to what arrives outside.
fn attached(lab: &Lab) -> SchedClassifier {
    let find = || SchedClassifier::query_tcx(OUTSIDE_INTERFACE, TcAttachType::Ingress).unwrap().1.pop().unwrap();
    let info = lab.gateway().run_in(find).unwrap();
    SchedClassifier::from_program_info(info, "ftp_ingress".into()).unwrap()
}

#[test]
fn a_source_port_is_part_of_the_question() {
    if !require_root() {
        return;
    }
    let lab = &Lab::new(&LabOptions::default()).unwrap();
    // One that connects when it has something to transfer, not at once.
    let server = Server::start(lab.server(), ServerKind::Vsftpd, &ServerOptions::default()).unwrap();
    let settings = Settings::guarded(lab, "drop").policy("active_source_port = 20");
    let gateway = Gateway::start(lab, &settings, &[]).unwrap();
    let ground = Ground { lab, gateway: &gateway };
    let to = SocketAddr::new(lab.server().v4().into(), 21);
    let mut dialogue = Dialogue::open(lab.client(), to, PATIENCE).unwrap();
    dialogue.login(server.login()).unwrap();
    assert_eq!(dialogue.ask(&format!("EPRT |1|{}|{UNASKED}|", lab.client().v4())).unwrap().code, 200);
    let at = SocketAddr::new(lab.client().v4().into(), UNASKED);
    let from = |port: u16| SocketAddr::new(lab.server().v4().into(), port).to_string();
    assert_eq!(ground.why(&from(20), at)["verdict"], "allowed");
    let other = ground.why(&from(2000), at);
    assert_eq!((&other["verdict"], &other["guards"][0]["reason"]), (&"denied".into(), &"source_port_not_20".into()));
    for (arguments, what) in [
        (&["why", "nobody", "192.0.2.1:2000"][..], "not an address, nor an address and a port"),
        (&["why", "192.0.2.1", "192.0.2.1"][..], "invalid socket address"),
    ] {
        let said = gateway.ask(arguments).unwrap();
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{arguments:?}");
        assert!(said.err.contains(what), "{}", said.err);
    }
    assert_eq!(OUTSIDE_INTERFACE, gateway.status().unwrap().interfaces[0].name);
}
