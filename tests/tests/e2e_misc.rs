//! What is left alone, who is told apart, how bytes are counted, when active mode opens, and the other way to attach.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::Duration,
};

use ftp_helper::{
    api::{HookKind, LinkType, ShieldKind},
    event::{Connection, Event, Kind},
    lab::{
        self, Lab, LabOptions, OUTSIDE_INTERFACE, Topology,
        clients::Family,
        dialogue::Dialogue,
        process::Process,
        servers::{DIRECTORY, DOWNLOAD, Server, ServerKind, ServerOptions},
    },
};
use ftp_helper_common::reason::Reason;
use ftp_helper_tests::{
    connect::connect,
    gateway::{Gateway, PATIENCE, Settings, full, until},
    wire::{Wire, run, transfers, tun},
};

fn lab_of(topology: Topology) -> Lab {
    Lab::new(&LabOptions { topology, ..LabOptions::default() }).unwrap()
}

fn denied_towards(port: u16, reason: Reason, from: IpAddr) -> impl Fn(&Event) -> bool {
    move |e| {
        e.event == Kind::Denied
            && e.reason == Some(reason)
            && e.connection.as_ref().is_some_and(|c: &Connection| c.to.port() == port && c.from.ip() == from)
    }
}

/// How long a connection that must not come about is tried: two SYNs.
const TRIED: Duration = Duration::from_millis(1500);

#[test]
fn a_control_connection_from_before_is_left_alone_and_opens_nothing() {
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ServerInside);
    let server = Server::start(lab.server(), ServerKind::Pyftpdlib, &ServerOptions::default()).unwrap();
    for (mode, family) in [("drop", Family::V4), ("observe", Family::V6)] {
        let address = server.host().address(family);
        let mut dialogue = Dialogue::open(lab.client(), SocketAddr::new(address, 21), PATIENCE).unwrap();
        dialogue.login(server.login()).unwrap();
        let mut gateway = Gateway::start(&lab, &Settings::guarded(&lab, mode), &[]).unwrap();
        let events = gateway.follow().unwrap();
        let port = dialogue.epsv().unwrap();
        let data = connect(lab.client(), lab.client().address(family), SocketAddr::new(address, port), TRIED);
        assert_eq!(data.is_ok(), mode == "observe", "{data:?}");
        if let Ok(mut data) = data {
            dialogue.send(&format!("RETR {DIRECTORY}/{DOWNLOAD}")).unwrap();
            let mut got = Vec::new();
            data.read_to_end(&mut got).unwrap();
            assert!(got.len() >= 100_000, "{}", got.len());
            // 150 where the server has not accepted the connection yet when it reads RETR.
            let codes = (dialogue.reply().unwrap().code, dialogue.reply().unwrap().code);
            assert!(matches!(codes, (125 | 150, 226)), "{codes:?}");
        }
        let e =
            events.wait("the denial", denied_towards(port, Reason::NoPinhole, lab.client().address(family))).unwrap();
        assert_eq!(e.connection.unwrap().dropped, Some(mode == "drop"));
        // It is told, once, and counted.
        let e = events.wait("midstream", |e| e.reason == Some(Reason::Midstream)).unwrap();
        assert_eq!((e.client, e.server), (Some(dialogue.local()), Some(dialogue.peer())), "{e:?}");
        assert_eq!(dialogue.ask("NOOP").unwrap().code, 200);
        let status = gateway.status().unwrap();
        assert!(status.reasons.get("midstream").is_some_and(|n| *n > 0), "{:?}", status.reasons);
        assert_eq!((status.counters["opened_fast"], status.counters["opened_slow"]), (0, 0));
        assert!(gateway.sessions().unwrap().is_empty() && events.of(Kind::Opened).is_empty());
        gateway.stop().unwrap();
    }
}

#[test]
fn a_data_connection_from_another_address_is_told_by_its_own_reason() {
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ServerInside);
    let server = Server::start(lab.server(), ServerKind::Pyftpdlib, &ServerOptions::default()).unwrap();
    let second: [IpAddr; 2] = ["203.0.113.11".parse().unwrap(), "2001:db8:a::11".parse().unwrap()];
    for (address, bits) in second.iter().zip([24, 64]) {
        let mut ip = lab.client().command("ip");
        ip.args(["addr", "add", &format!("{address}/{bits}"), "dev", lab::HOST_INTERFACE]);
        if address.is_ipv6() {
            ip.arg("nodad");
        }
        assert!(Process::spawn(ip).unwrap().finish(PATIENCE).unwrap().success());
    }
    let mut gateway = Gateway::start(&lab, &Settings::guarded(&lab, "drop"), &[]).unwrap();
    let events = gateway.follow().unwrap();
    for (family, second) in Family::ALL.into_iter().zip(second) {
        let address = server.host().address(family);
        let mut dialogue = Dialogue::open(lab.client(), SocketAddr::new(address, 21), PATIENCE).unwrap();
        let first = dialogue.local().ip();
        let second = if first == second { lab.client().address(family) } else { second };
        dialogue.login(server.login()).unwrap();
        let port = dialogue.epsv().unwrap();
        for (host, by) in [(lab.client(), second), (lab.stranger(), lab.stranger().address(family))] {
            let e = connect(host, by, SocketAddr::new(address, port), TRIED).unwrap_err();
            assert_eq!(e.kind(), std::io::ErrorKind::TimedOut, "{by}: {e}");
            events.wait("the denial", denied_towards(port, Reason::OtherInitiator, by)).unwrap();
        }
        // It has cost the right one nothing.
        connect(lab.client(), first, SocketAddr::new(address, port), PATIENCE).unwrap();
    }
    gateway.stop().unwrap();
}

/// The long form uploads as much as it downloads.
#[test]
fn more_than_four_gibibytes_are_counted_to_the_byte() {
    const SIZE: u64 = 5 << 30;
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ServerInside);
    let server = Server::start(lab.server(), ServerKind::Vsftpd, &ServerOptions::default()).unwrap();
    let mut gateway = Gateway::start(&lab, &Settings::guarded(&lab, "drop"), &[]).unwrap();
    let events = gateway.follow().unwrap();
    let sparse = |path: &Path| File::create(path).unwrap().set_len(SIZE).unwrap();
    sparse(&server.public().join("sparse"));
    let client = |file: &str, upload: Option<&Path>, server: &Server| {
        let mut curl = lab.client().command("curl");
        curl.args(["-q", "--silent", "--show-error", "--output", "/dev/null", "--user"]);
        curl.arg(format!("{}:{}", server.login().user, server.login().password));
        if let Some(path) = upload {
            curl.arg("--upload-file").arg(path);
        }
        curl.arg(format!("ftp://{}:{}/{DIRECTORY}/{file}", server.host().v4(), server.port()));
        let done = Process::spawn(curl).unwrap().finish(5 * PATIENCE).unwrap();
        assert!(done.success(), "{:?}: {}", done.status, done.output);
        eprintln!("{file}: 5 GiB in {:?}", done.took);
    };
    client("sparse", None, &server);
    let e = events.wait("the end", |e| e.event == Kind::DataEnd).unwrap();
    let c = e.connection.unwrap();
    assert_eq!((c.bytes_out, c.bytes_back), (Some(0), Some(SIZE)));
    let session = e.session.unwrap().to_string();
    let row = gateway.sessions().unwrap().into_iter().find(|s| s.session == session);
    assert!(row.is_none_or(|r| r.bytes == SIZE && r.transfers == 1));
    if full() {
        drop(server);
        // Into nowhere: a device that takes everything.
        let server = Server::start(lab.server(), ServerKind::Pyftpdlib, &ServerOptions::default()).unwrap();
        let (null, here) = (server.public().join("null"), lab.directory().join("sparse"));
        use nix::sys::stat::{Mode, SFlag, makedev, mknod};
        mknod(&null, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3)).unwrap();
        std::fs::set_permissions(&null, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        sparse(&here);
        client("null", Some(&here), &server);
        let sent = |e: &Event| {
            e.event == Kind::DataEnd && e.connection.as_ref().is_some_and(|c| c.bytes_out.is_some_and(|n| n > 0))
        };
        let c = events.wait("the upload's end", sent).unwrap().connection.unwrap();
        assert_eq!((c.bytes_out, c.bytes_back), (Some(SIZE), Some(0)));
    }
    gateway.stop().unwrap();
}

/// A control connection of which the test holds both ends.
struct Script {
    client: BufReader<TcpStream>,
    server: BufReader<TcpStream>,
}

impl Script {
    /// Logged in.
    fn new(lab: &Lab) -> Self {
        let to = SocketAddr::new(lab.server().v4().into(), 21);
        let listener = lab.server().run_in(|| TcpListener::bind(to)).unwrap().unwrap();
        let client = connect(lab.client(), lab.client().v4().into(), to, PATIENCE).unwrap();
        let (server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut s = Self { client: BufReader::new(client), server: BufReader::new(server) };
        s.reply("220 ready");
        s.command("USER someone");
        s.reply("331 who says so");
        s.command("PASS word");
        s.reply("230 come in");
        s
    }

    /// The server has read it when this returns.
    fn command(&mut self, line: &str) {
        Self::say(&mut self.client, &mut self.server, line);
    }

    /// The client has read it when this returns.
    fn reply(&mut self, line: &str) {
        Self::say(&mut self.server, &mut self.client, line);
    }

    fn say(from: &mut BufReader<TcpStream>, to: &mut BufReader<TcpStream>, line: &str) {
        from.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap();
        let mut read = String::new();
        to.read_line(&mut read).unwrap();
        assert_eq!(read.trim_end(), line);
    }
}

/// A listener on the client, and the PORT that announces it.
fn listening(lab: &Lab) -> (TcpListener, SocketAddr, String) {
    let bind = || TcpListener::bind((lab.client().v4(), 0));
    let listener = lab.client().run_in(bind).unwrap().unwrap();
    let at = listener.local_addr().unwrap();
    let [high, low] = at.port().to_be_bytes();
    let [a, b, c, d] = lab.client().v4().octets();
    (listener, at, format!("PORT {a},{b},{c},{d},{high},{low}"))
}

#[test]
fn active_mode_opens_when_the_policy_says() {
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ServerInside);
    let settings = |when: &str| Settings::guarded(&lab, "drop").policy(&format!("active_open = \"{when}\""));
    let mut gateway = Gateway::start(&lab, &settings("command"), &[]).unwrap();
    for (n, when) in ["command", "reply", "transfer"].into_iter().enumerate() {
        if n > 0 {
            assert_eq!(gateway.reload(&settings(when)).unwrap().changed, ["policy.active_open"]);
        }
        let events = gateway.follow().unwrap();
        let mut script = Script::new(&lab);
        let (_listener, at, port) = listening(&lab);
        let lines = [(true, port.as_str()), (false, "200 fine"), (true, "LIST")];
        for (i, (command, line)) in lines.into_iter().enumerate() {
            if command {
                script.command(line);
            } else {
                script.reply(line);
            }
            let limit = if i < n { TRIED } else { PATIENCE };
            let data = connect(lab.server(), lab.server().v4().into(), at, limit);
            assert_eq!(data.is_ok(), i >= n, "active_open = {when}, after {line}: {data:?}");
            if i >= n {
                break;
            }
            events.wait("the denial", denied_towards(at.port(), Reason::NoPinhole, lab.server().v4().into())).unwrap();
            assert!(events.of(Kind::Opened).is_empty(), "active_open = {when}, after {line}");
        }
        events.wait("its use", |e| e.event == Kind::Used).unwrap();
    }
    gateway.stop().unwrap();
}

#[test]
fn a_client_inside_is_not_connected_to_unless_the_policy_allows_it() {
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ClientInside);
    let settings = Settings { policy: "active_inbound = false\n".to_owned(), ..Settings::guarded(&lab, "drop") };
    let mut gateway = Gateway::start(&lab, &settings, &[]).unwrap();
    let events = gateway.follow().unwrap();
    let mut script = Script::new(&lab);
    let (_listener, at, port) = listening(&lab);
    script.command(&port);
    script.reply("200 fine");
    script.command("LIST");
    let e = events.wait("the refusal", |e| e.event == Kind::Refused).unwrap();
    assert_eq!(e.reason, Some(Reason::ActiveInboundOff));
    let data = connect(lab.server(), lab.server().v4().into(), at, TRIED);
    assert_eq!(data.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    assert!(events.of(Kind::Opened).is_empty());
    gateway.stop().unwrap();
}

/// That the gateway shows nothing of a daemon that was there.
fn nothing_left(lab: &Lab, socket: &Path, interface: &str) {
    assert!(!socket.exists(), "{}", socket.display());
    let inode = std::fs::metadata(lab.gateway().namespace_path()).unwrap().ino();
    if let Ok(pins) = std::fs::read_dir("/sys/fs/bpf/ftp-helper") {
        for pin in pins {
            let name = pin.unwrap().file_name().into_string().unwrap();
            assert!(!name.starts_with(&format!("{inode}-")), "{name} is pinned");
        }
    }
    let mut tc = lab.gateway().command("tc");
    tc.args(["qdisc", "show", "dev", interface]);
    let done = Process::spawn(tc).unwrap().finish(PATIENCE).unwrap();
    assert!(done.success() && !done.output.contains("clsact"), "{}", done.output);
}

#[test]
fn filters_on_clsact_do_the_same_and_nothing_is_left_of_them() {
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ServerInside);
    let server = Server::start(lab.server(), ServerKind::Vsftpd, &ServerOptions::default()).unwrap();
    for attach in ["clsact", "auto"] {
        let mut gateway = Gateway::start(&lab, &Settings::guarded(&lab, "drop"), &["--attach", attach]).unwrap();
        let interfaces = gateway.status().unwrap().interfaces;
        if attach == "clsact" {
            assert_eq!(interfaces[0].hook, HookKind::Clsact);
        }
        assert_eq!(interfaces[0].link, LinkType::Ethernet);
        transfers(&lab, lab.client(), &server);
        until("every data connection is counted", || (gateway.status().unwrap().counters["used"] >= 15).then_some(()))
            .unwrap();
        let (socket, done) = (gateway.socket().to_owned(), gateway.stop().unwrap());
        assert!(done.success(), "{}", done.output);
        nothing_left(&lab, &socket, OUTSIDE_INTERFACE);
    }
}

#[test]
fn an_interface_without_ethernet_header_does_as_well() {
    if !lab::require_root() {
        return;
    }
    let lab = lab_of(Topology::ServerInside);
    let server = Server::start(lab.server(), ServerKind::Vsftpd, &ServerOptions::default()).unwrap();
    let _tunnel = Wire::new(tun(lab.client(), "tun0"), tun(lab.gateway(), "tun0"), &[]);
    run(
        lab.client(),
        &[
            "ip link set tun0 up",
            "ip addr add 198.51.100.2/30 dev tun0",
            "ip addr add 2001:db8:c::2/64 dev tun0 nodad",
            "ip route add 192.0.2.0/24 dev tun0 src 198.51.100.2",
            "ip route add 2001:db8:b::/64 dev tun0 src 2001:db8:c::2",
        ],
    );
    run(
        lab.gateway(),
        &["ip link set tun0 up", "ip addr add 198.51.100.1/30 dev tun0", "ip addr add 2001:db8:c::1/64 dev tun0 nodad"],
    );
    let inside = r#"["192.0.2.100", "2001:db8:b::64"]"#;
    let settings = Settings {
        interfaces: "[\"tun0\"]".to_owned(),
        guards: format!(
            "[[guard]]\nnetworks = {inside}\n[[guard]]\ndirection = \"out\"\nnetworks = [\"198.51.100.2\", \"2001:db8:c::2\"]\ninitiators = {inside}\n"
        ),
        ..Settings::guarded(&lab, "drop")
    };
    assert_eq!(settings.guards.matches(&lab.server().v6().to_string()).count(), 2, "{}", lab.server().v6());
    for (attach, watch) in [("auto", ""), ("clsact", ""), ("auto", "hook = \"xdp+tc\"\n")] {
        let settings = Settings { watch: watch.to_owned(), ..settings.clone() };
        let mut gateway = Gateway::start(&lab, &settings, &["--attach", attach]).unwrap();
        let interface = gateway.status().unwrap().interfaces[0].clone();
        // Its driver has no XDP for packets without an Ethernet header.
        let shield = (!watch.is_empty()).then_some(ShieldKind::Generic);
        assert_eq!((interface.link, interface.shield), (LinkType::RawIp, shield));
        transfers(&lab, lab.client(), &server);
        // It is the guard that they came through: without a pinhole nothing does.
        let to = SocketAddr::new(server.host().v4().into(), 50_000);
        let e = connect(lab.client(), "198.51.100.2".parse().unwrap(), to, TRIED).unwrap_err();
        assert_eq!(e.kind(), std::io::ErrorKind::TimedOut, "{e}");
        let counters = gateway.status().unwrap().counters;
        let shielded = if shield.is_some() { counters["syn_denied"] } else { 0 };
        assert!(counters["syn_denied"] > 0 && counters["syn_shielded"] == shielded, "{counters:?}");
        until("every data connection is counted", || (gateway.status().unwrap().counters["used"] >= 15).then_some(()))
            .unwrap();
        let (socket, done) = (gateway.socket().to_owned(), gateway.stop().unwrap());
        assert!(done.success(), "{}", done.output);
        nothing_left(&lab, &socket, "tun0");
    }
}
