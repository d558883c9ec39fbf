//! Address translation where the way is not plain: links with a smaller MTU, connection tracking that forgets, clients that go to
//! the public address from inside, addresses that change, and clients in active mode that are answered at once.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, TcpListener, TcpStream},
    time::Duration,
};

use ftp_helper::{
    event::{Event, Kind},
    lab::{
        self, HOST_INTERFACE, Host, INSIDE_INTERFACE, Lab, LabOptions, OUTSIDE_INTERFACE, Topology,
        clients::{ClientKind, Family, Job, Mode},
        dialogue::Dialogue,
        servers::{Server, ServerKind, ServerOptions},
    },
};
use ftp_helper_common::reason::Reason;
use ftp_helper_tests::{
    gateway::{Gateway, PATIENCE, Settings, counter, engine, full, held_up, until},
    nat::{Published, forget_connections, prepare, public, publish, ruleset, run, settings, translating},
    responder::{CONTENT, Responder},
    spinner::{Mode as Spins, fetch_in_turn, syn_retransmissions, with_busy_cores},
};

/// What the narrow links take.
const MTU: &str = "1300";
/// How long a connection is tried that has to be dropped.
const SOON: Duration = Duration::from_millis(300);

fn lab_of(topology: Topology) -> Lab {
    Lab::new(&LabOptions { topology, ..LabOptions::default() }).unwrap()
}

/// The way from `router` to `host` is narrow: what is longer it does not pass on, but reports.
fn narrow(router: &Host, interface: &str, host: &Host) {
    for (family, to) in [("-4", format!("{}/32", host.v4())), ("-6", format!("{}/128", host.v6()))] {
        run(router, "ip", &[family, "route", "add", &to, "dev", interface, "mtu", MTU]).unwrap();
    }
}

/// The way from the gateway to `host` leads through `router`, beside it.
fn through(gateway: &Host, host: &Host, router: &Host) {
    router
        .run_in(|| {
            for (name, value) in [
                ("ipv4/ip_forward", "1"),
                ("ipv4/conf/all/send_redirects", "0"),
                ("ipv4/conf/eth0/send_redirects", "0"),
                ("ipv6/conf/all/forwarding", "1"),
            ] {
                std::fs::write(format!("/proc/sys/net/{name}"), value).unwrap();
            }
        })
        .unwrap();
    narrow(router, HOST_INTERFACE, host);
    let (to4, by4) = (format!("{}/32", host.v4()), router.v4().to_string());
    let (to6, by6) = (format!("{}/128", host.v6()), router.v6().to_string());
    run(gateway, "ip", &["-4", "route", "add", &to4, "via", &by4, "dev", OUTSIDE_INTERFACE]).unwrap();
    run(gateway, "ip", &["-6", "route", "add", &to6, "via", &by6, "dev", OUTSIDE_INTERFACE]).unwrap();
}

/// The MTU that a host has learned for the way to an address.
fn learned(host: &Host, to: IpAddr) -> Option<String> {
    let family = if to.is_ipv4() { "-4" } else { "-6" };
    let said = run(host, "ip", &[family, "route", "get", &to.to_string()]).unwrap();
    said.split("mtu ").nth(1).and_then(|t| t.split_whitespace().next()).map(ToOwned::to_owned)
}

/// A link with a smaller MTU, which only ICMP tells of: large transfers pass, and who sends too much hears of it.
#[test]
fn narrow_links_on_both_sides() {
    if !lab::require_root() {
        return;
    }
    for (topology, narrow_outside) in Topology::ALL.into_iter().flat_map(|t| [(t, true), (t, false)]) {
        let lab = lab_of(topology);
        let server = Server::start(lab.server(), ServerKind::Vsftpd, &ServerOptions::default()).unwrap();
        let inward = topology == Topology::ServerInside;
        publish(&lab).unwrap();
        let (outside, inside) = if inward { (lab.client(), lab.server()) } else { (lab.server(), lab.client()) };
        if narrow_outside {
            through(lab.gateway(), outside, lab.stranger());
        } else {
            narrow(lab.gateway(), INSIDE_INTERFACE, inside);
        }
        let gateway = Gateway::start(&lab, &settings(&lab, "drop"), &[]).unwrap();
        let upload = lab.directory().join("upload.bin");
        std::fs::write(&upload, lab::servers::pattern(200_000)).unwrap();
        // Passive mode to outside servers is the kernel's own business.
        let mode = if inward { Mode::Epsv } else { Mode::Eprt };
        for family in Family::ALL {
            let at = match topology {
                Topology::ServerInside => public(&lab, family, 21),
                Topology::ClientInside => (server.host().address(family), 21).into(),
            };
            let client = ClientKind::Curl;
            let job =
                Job { from: lab.client(), client, mode, family, server: &server, upload: &upload, limit: PATIENCE };
            let before = counter(&gateway.status().unwrap(), "translated_icmp");
            let outcome = job.run_at(at).unwrap();
            let status = gateway.status().unwrap();
            let what = format!("{topology:?}, narrow outside {narrow_outside}, IPv{family}: {:?}", status.counters);
            assert!(outcome.transferred_by(mode), "{what}\n{}", outcome.output);
            assert!(counter(&status, "translated_icmp") > before, "{what}");
            // By the address that it knows.
            let (who, to) = if narrow_outside { (inside, outside) } else { (outside, lab.gateway()) };
            assert_eq!(learned(who, to.address(family)).as_deref(), Some(MTU), "{what}");
        }
    }
}

/// One long data connection, half of which was sent when connection tracking forgets everything.
struct Transfer {
    _dialogue: Dialogue,
    client: TcpStream,
    server: TcpStream,
}

impl Transfer {
    fn begin(lab: &Lab, family: Family) -> Self {
        let mut dialogue = Dialogue::open(lab.client(), public(lab, family, 21), PATIENCE).unwrap();
        for line in ["USER u", "PASS p"] {
            dialogue.ask(line).unwrap();
        }
        // A server that announces what the test listens on.
        let port = dialogue.epsv().unwrap();
        let listener =
            lab.server().run_in(|| TcpListener::bind((lab.server().address(family), port)).unwrap()).unwrap();
        let to = public(lab, family, port);
        let client = lab.client().run_in(|| TcpStream::connect_timeout(&to, PATIENCE).unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_nodelay(true).unwrap();
        }
        let mut transfer = Self { _dialogue: dialogue, client, server };
        transfer.pass(true).unwrap();
        transfer.pass(false).unwrap();
        transfer
    }

    /// Some bytes from the server to the client, or the other way.
    fn pass(&mut self, down: bool) -> std::io::Result<()> {
        let (from, to) = if down { (&mut self.server, &mut self.client) } else { (&mut self.client, &mut self.server) };
        let sent = lab::servers::pattern(20_000);
        from.write_all(&sent)?;
        let mut got = vec![0; sent.len()];
        to.read_exact(&mut got)?;
        assert!(got == sent);
        Ok(())
    }
}

/// A server that says of each EPSV the next port, on which somebody else listens.
fn announcer(host: &Host, family: Family) {
    let listener = host.run_in(|| TcpListener::bind((host.address(family), 21)).unwrap()).unwrap();
    std::thread::spawn(move || -> std::io::Result<()> {
        let mut port = 42_000;
        loop {
            let (mut stream, _) = listener.accept()?;
            stream.write_all(b"220 ready\r\n")?;
            std::thread::spawn(move || -> std::io::Result<()> {
                let mut buffer = [0; 512];
                loop {
                    let n = stream.read(&mut buffer)?;
                    let reply = match buffer.get(..4) {
                        _ if n == 0 => return Ok(()),
                        Some(b"USER") => "331 go on\r\n".to_owned(),
                        Some(b"PASS") => "230 in\r\n".to_owned(),
                        Some(b"EPSV") => format!("229 Entering (|||{port}|)\r\n"),
                        _ => "200 ok\r\n".to_owned(),
                    };
                    stream.write_all(reply.as_bytes())?;
                }
            });
            port += 1;
        }
    });
}

/// The rules that `docs/nat.md` gives for data connections that connection tracking is to know nothing of.
fn untracked(lab: &Lab) -> String {
    let (v4, v6) = (lab.server().v4(), lab.server().v6());
    format!(
        "table inet untracked {{
	chain prerouting {{
		type filter hook prerouting priority raw;
		iifname {OUTSIDE_INTERFACE} meta mark & 0x0f000000 == 0x0f000000 notrack
		iifname {INSIDE_INTERFACE} ip saddr {v4} tcp sport 40000-50000 notrack
		iifname {INSIDE_INTERFACE} ip6 saddr {v6} tcp sport 40000-50000 notrack
	}}
}}
"
    )
}

/// With the rules of the documentation a transfer does not notice that connection tracking has forgotten everything.
#[test]
fn untracked_data_connections_survive_a_flush() {
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ServerInside);
    let accept = format!("iifname {OUTSIDE_INTERFACE} meta mark & 0x0f000000 == 0x0f000000 accept");
    let rules = ruleset(&[Published::ftp(lab.server())], &accept) + &untracked(&lab);
    prepare(&lab, &rules).unwrap();
    let gateway = Gateway::start(&lab, &settings(&lab, "drop"), &[]).unwrap();
    for family in Family::ALL {
        announcer(lab.server(), family);
        for loose in ["1", "0"] {
            set_loose(&lab, loose);
            for first in [true, false] {
                let mut transfer = Transfer::begin(&lab, family);
                forget_connections(&lab).unwrap();
                for down in [first, !first] {
                    transfer.pass(down).unwrap_or_else(|e| panic!("IPv{family} loose {loose} down {down}: {e}"));
                }
            }
        }
    }
    assert!(counter(&gateway.status().unwrap(), "translated") >= 8);
}

/// Without them it is as the documentation says: found again where the outside host sends first and `tcp_loose` is set.
#[test]
fn a_tracked_data_connection_is_found_again_if_the_outside_speaks_first() {
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ServerInside);
    let _gateway = translating(&lab).unwrap();
    set_loose(&lab, "1");
    for family in Family::ALL {
        announcer(lab.server(), family);
        let mut transfer = Transfer::begin(&lab, family);
        forget_connections(&lab).unwrap();
        transfer.pass(false).unwrap();
        transfer.pass(true).unwrap();
    }
}

fn set_loose(lab: &Lab, value: &str) {
    let set = || std::fs::write("/proc/sys/net/netfilter/nf_conntrack_tcp_loose", value).unwrap();
    lab.gateway().run_in(set).unwrap();
}

/// A client inside that goes to the public address never crosses the outside interface: with nothing but DNAT of what arrives
/// there, it reaches the gateway itself.
#[test]
fn clients_inside_do_not_reach_the_public_address() {
    if !lab::require_root() {
        return;
    }
    let lab = Lab::new(&LabOptions { servers: 2, ..LabOptions::default() }).unwrap();
    let server = Server::start(lab.server(), ServerKind::Vsftpd, &ServerOptions::default()).unwrap();
    let gateway = translating(&lab).unwrap();
    let inside = &lab.servers()[1];
    for family in Family::ALL {
        let to = public(&lab, family, 21);
        let refused = inside.run_in(|| TcpStream::connect_timeout(&to, PATIENCE).map_err(|e| e.kind())).unwrap();
        assert_eq!(refused.unwrap_err(), std::io::ErrorKind::ConnectionRefused);
        // By its own address (split DNS) it is plain FTP that no outside interface sees.
        let mut dialogue = Dialogue::open(inside, (server.host().address(family), 21).into(), PATIENCE).unwrap();
        dialogue.login(server.login()).unwrap();
        dialogue.epsv().unwrap();
    }
    assert_eq!(gateway.sessions().unwrap(), []);
}

/// Whoever has an address of the interface is held to a guard for it, and no longer than that: nobody restarts anything.
#[test]
fn initiators_follow_the_addresses_of_an_interface() {
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ServerInside);
    publish(&lab).unwrap();
    let client = lab.client().v4();
    let guards =
        format!("[[guard]]\ndirection = \"out\"\nnetworks = [\"{client}\"]\ninitiators = [\"@{OUTSIDE_INTERFACE}\"]\n");
    let gateway = Gateway::start(&lab, &Settings { guards, ..settings(&lab, "drop") }, &[]).unwrap();
    // curl's exit code: 7 can't connect, at once; 28 nothing came back.
    let curl = |from: &str| {
        let mut command = lab.gateway().command("curl");
        command.args(["-s", "--connect-timeout", "1", "--interface", from, &format!("http://{client}:40404/")]);
        command.status().unwrap().code()
    };
    let (wan, other) = (lab.gateway().v4().to_string(), "203.0.113.77");
    assert_eq!(curl(&wan), Some(28));
    let to = format!("{client}:40404");
    let why = |from: &str| gateway.ask(&["why", from, &to]).unwrap().code;
    assert_eq!((why(&wan), why(other)), (10, 0));
    let address = format!("{other}/24");
    run(lab.gateway(), "ip", &["addr", "add", &address, "dev", OUTSIDE_INTERFACE]).unwrap();
    until("the new address is held to it", || (why(other) == 10).then_some(())).unwrap();
    assert_eq!((curl(other), curl(&wan)), (Some(28), Some(28)));
    run(lab.gateway(), "ip", &["addr", "del", &address, "dev", OUTSIDE_INTERFACE]).unwrap();
    until("it is not any more", || (why(other) == 0).then_some(())).unwrap();
    assert_eq!((why(&wan), curl(&wan)), (10, Some(28)));
}

/// Active mode behind masquerade, with a server that connects the instant it has read the command, while both cores are busy.
#[test]
fn a_server_that_connects_at_once_loses_no_syn() {
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ClientInside);
    let responder = Responder::start(lab.server(), lab.server().v4().into()).unwrap();
    let gateway = translating(&lab).unwrap();
    let n = if full() { 20_000 } else { 1_000 };
    let syns = syn_retransmissions(lab.server()).unwrap();
    let (to, modes) = ((lab.server().v4(), 21).into(), [Spins::Port, Spins::Eprt]);
    with_busy_cores(true, || fetch_in_turn(lab.client(), to, modes, CONTENT.len(), n)).unwrap();
    let mut status = gateway.status().unwrap();
    until("all announcements are read", || {
        status = gateway.status().unwrap();
        (engine(&status, "announcements") == n).then_some(())
    })
    .unwrap();
    let again = syn_retransmissions(lab.server()).unwrap() - syns;
    assert_eq!((held_up(&status), again), (0, 0), "SYNs were lost: {:?}", status.reasons);
    assert!(counter(&status, "translated") >= n, "{:?}", status.counters);
    assert_eq!(responder.troubles(), [""; 0]);
    responder.stop(lab.server());
}

/// A server's ports are those of an interface's addresses, and of no others: nobody restarts anything.
#[test]
fn a_servers_range_follows_the_addresses_of_an_interface() {
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ServerInside);
    let server = Server::start(lab.server(), ServerKind::Vsftpd, &ServerOptions::default()).unwrap();
    publish(&lab).unwrap();
    let range = |ports| {
        settings(&lab, "drop")
            .section(&format!("[[server]]\naddress = [\"@{OUTSIDE_INTERFACE}\"]\npassive_ports = \"{ports}\""))
    };
    // Not those that it announces.
    let mut gateway = Gateway::start(&lab, &range("40000-40009"), &[]).unwrap();
    let events = gateway.follow().unwrap();
    // Why it opens nothing, or that it does.
    let announce = |address: &str| -> Option<Reason> {
        let mut dialogue = Dialogue::open(lab.client(), format!("{address}:21").parse().unwrap(), PATIENCE).unwrap();
        dialogue.login(server.login()).unwrap();
        dialogue.pasv().unwrap();
        let judged = [Kind::Opened, Kind::Refused];
        let is_its = |e: &Event| e.client == Some(dialogue.local()) && judged.contains(&e.event);
        events.wait("it is judged", is_its).unwrap().reason
    };
    let (old, new) = ("203.0.113.1", "203.0.113.200");
    assert_eq!(announce(old), Some(Reason::OutsideRange));
    run(lab.gateway(), "ip", &["addr", "add", &format!("{new}/24"), "dev", OUTSIDE_INTERFACE]).unwrap();
    let follows = || (announce(new) == Some(Reason::OutsideRange)).then_some(());
    until("the new address is the server's too", follows).unwrap();
    let report = gateway.reload(&range("50000-50099")).unwrap();
    assert_eq!(report.changed, ["[[server]]"]);
    assert_eq!((announce(old), announce(new)), (None, None));
}

/// The shield sees a connection before it is translated, and judges it as TC does.
#[test]
fn the_shield_stands_before_the_translation() {
    if !lab::require_root() {
        return;
    }
    for topology in Topology::ALL {
        let lab = lab_of(topology);
        let server = Server::start(lab.server(), ServerKind::Vsftpd, &ServerOptions::default()).unwrap();
        let inward = topology == Topology::ServerInside;
        publish(&lab).unwrap();
        let upload = lab.directory().join("upload.bin");
        std::fs::write(&upload, lab::servers::pattern(100_000)).unwrap();
        for how in ["native", "generic"] {
            let with_shield = Settings { watch: "hook = \"xdp+tc\"\n".into(), ..settings(&lab, "drop") };
            let mut gateway = Gateway::start(&lab, &with_shield, &["--shield", how]).unwrap();
            let modes: &[(Mode, Family)] = if inward {
                &[(Mode::Pasv, Family::V4), (Mode::Epsv, Family::V6)]
            } else {
                &[(Mode::Port, Family::V4), (Mode::Eprt, Family::V6)]
            };
            for &(mode, family) in modes {
                let (from, client) = (lab.client(), ClientKind::Curl);
                let job = Job { from, client, mode, family, server: &server, upload: &upload, limit: PATIENCE };
                let at = if inward { public(&lab, family, 21) } else { (server.host().address(family), 21).into() };
                let outcome = job.run_at(at).unwrap();
                let counters = gateway.status().unwrap().counters;
                assert!(outcome.transferred_by(mode), "{how} {mode} IPv{family}: {counters:?}\n{}", outcome.output);
                server.remove_uploads().unwrap();
            }
            let to = public(&lab, Family::V4, 61_500);
            let e = lab.stranger().run_in(|| TcpStream::connect_timeout(&to, SOON)).unwrap().unwrap_err();
            assert_eq!(e.kind(), std::io::ErrorKind::TimedOut);
            let status = gateway.status().unwrap();
            let count = |name| counter(&status, name);
            assert!(count("syn_shielded") > 0 && count("translated") >= 6, "{how}: {:?}", status.counters);
            assert_eq!(count("syn_denied"), count("syn_shielded"), "{how}: {:?}", status.counters);
            assert_eq!(engine(&status, "divergences"), 0);
            gateway.stop().unwrap();
        }
    }
}
