//! Sets of nftables that are fed: an element for each unused pinhole, gone with it, and a ruleset that stays in charge.

use std::net::SocketAddr;

use ftp_helper::{
    event::Kind,
    lab::{
        self, Lab, LabOptions,
        clients::{ClientKind, Family, Job, Mode},
        dialogue::Dialogue,
        process::Process,
        servers::{Server, ServerKind, ServerOptions, pattern},
    },
    nft::{Element, Sets, elements},
};
use ftp_helper_tests::gateway::{Gateway, PATIENCE, Settings, program, until};
use nix::sys::signal::Signal;

/// What a gateway may have: closed, but for control connections, what is established, and what comes from inside.
const RULESET: &str = "
table inet filter {
	set ftp_pin4 { type ipv4_addr . ipv4_addr . inet_service; flags timeout; }
	set ftp_pin6 { type ipv6_addr . ipv6_addr . inet_service; flags timeout; }
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state established,related accept
		iifname \"lan0\" accept
		tcp dport 21 accept
		ct state new ip saddr . ip daddr . tcp dport @ftp_pin4 counter accept
		ct state new ip6 saddr . ip6 daddr . tcp dport @ftp_pin6 counter accept
	}
}
";
const SECTION: &str = "[nftables]\ntable = \"inet filter\"\n";

fn load(lab: &Lab, ruleset: &str) {
    let file = lab.directory().join("ruleset.nft");
    std::fs::write(&file, ruleset).unwrap();
    lab.load_ruleset(Some(&file)).unwrap();
}

fn nft(lab: &Lab, args: &str) -> String {
    let mut nft = lab.gateway().command("nft");
    nft.args(args.split(' '));
    let done = Process::spawn(nft).unwrap().finish(PATIENCE).unwrap();
    assert!(done.success(), "nft {args}: {}", done.output);
    done.output
}

fn fed(lab: &Lab) -> Vec<Element> {
    let sets = Sets {
        family: ftp_helper::nft::Family::Inet,
        table: "filter".into(),
        set4: Some("ftp_pin4".into()),
        set6: Some("ftp_pin6".into()),
    };
    lab.gateway().run_in(|| elements(&sets)).unwrap().unwrap()
}

/// Announces a port; the dialogue, and the element that it must lead to.
fn announce(lab: &Lab, server: &Server, family: Family) -> (Dialogue, Element) {
    let address = server.host().address(family);
    let mut dialogue = Dialogue::open(lab.client(), SocketAddr::new(address, server.port()), PATIENCE).unwrap();
    dialogue.login(server.login()).unwrap();
    let port = dialogue.epsv().unwrap();
    let initiator = lab.client().address(family);
    (dialogue, Element { initiator: initiator.into(), responder: address.into(), port })
}

#[test]
fn a_set_follows_the_pinholes() {
    if !lab::require_root() {
        return;
    }
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let server = Server::start(lab.server(), ServerKind::Pyftpdlib, &ServerOptions::default()).unwrap();
    load(&lab, RULESET);
    // What somebody else left there is not vouched for.
    nft(&lab, "add element inet filter ftp_pin4 { 203.0.113.66 . 192.0.2.100 . 50000 timeout 1h }");
    let settings = Settings::guarded(&lab, "observe").section(SECTION).section("[pinhole]\ntimeout = \"5min\"");
    let mut gateway = Gateway::start(&lab, &settings, &[]).unwrap();
    assert!(fed(&lab).is_empty());
    let is = |what: &str, wanted: &[Element]| until(what, || (fed(&lab) == wanted).then_some(())).unwrap();
    for family in Family::ALL {
        // Used.
        let (dialogue, element) = announce(&lab, &server, family);
        is("the element", &[element]);
        let listing = nft(&lab, "list ruleset");
        assert!(listing.contains("comment \"ftp-helper, session "), "{listing}");
        assert!(listing.contains("timeout 4m5") || listing.contains("timeout 5m"), "{listing}");
        let to = SocketAddr::new(element.responder.to_ip(), element.port);
        let connect = || std::net::TcpStream::connect_timeout(&to, PATIENCE);
        let data = lab.client().run_in(connect).unwrap().unwrap();
        is("used: no element", &[]);
        drop((data, dialogue));

        // Taken back, by a new announcement and by QUIT.
        let (mut dialogue, first) = announce(&lab, &server, family);
        is("the element", &[first]);
        let second = Element { port: dialogue.epsv().unwrap(), ..first };
        is("the second element alone", &[second]);
        dialogue.send("QUIT").unwrap();
        is("QUIT: no element", &[]);
    }

    // A daemon that was killed leaves it; the one that takes over keeps the pinhole that is still there.
    let (dialogue, element) = announce(&lab, &server, Family::V4);
    is("the element", &[element]);
    gateway.kill().unwrap();
    assert_eq!(fed(&lab), [element]);
    gateway.start_again().unwrap();
    is("the element of the pinhole that was taken over", &[element]);
    let nftables = gateway.status().unwrap().nftables.unwrap();
    assert_eq!((nftables.table.as_str(), nftables.elements, nftables.failed), ("inet filter", 1, 0));

    // No section any more: no element. And back again.
    let without = Settings { sections: String::new(), ..settings.clone() };
    assert!(gateway.reload(&without).unwrap().changed.contains(&"[nftables]".to_owned()));
    is("nothing is fed", &[]);
    assert!(gateway.status().unwrap().nftables.is_none());
    gateway.reload(&settings).unwrap();
    is("the pinhole that was open all the while", &[element]);

    // Its time runs out in the kernel with the daemon stopped.
    let short = Settings::guarded(&lab, "observe").section(SECTION).section("[pinhole]\ntimeout = \"2s\"");
    gateway.reload(&short).unwrap();
    drop(dialogue);
    is("the control connection has ended", &[]);
    let (dialogue, element) = announce(&lab, &server, Family::V6);
    is("the element", &[element]);
    gateway.signal(Signal::SIGSTOP).unwrap();
    is("expired by itself", &[]);
    gateway.signal(Signal::SIGCONT).unwrap();
    until("nothing has failed", || (gateway.status().unwrap().nftables.unwrap().elements == 0).then_some(())).unwrap();
    assert_eq!(gateway.status().unwrap().nftables.unwrap().failed, 0);
    drop(dialogue);

    // The end leaves nothing.
    gateway.reload(&settings).unwrap();
    let (_dialogue, element) = announce(&lab, &server, Family::V4);
    is("the element", &[element]);
    assert!(gateway.stop().unwrap().success());
    assert!(fed(&lab).is_empty());
}

#[test]
fn the_ruleset_stays_in_charge_in_every_mode() {
    if !lab::require_root() {
        return;
    }
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let server = Server::start(lab.server(), ServerKind::Vsftpd, &ServerOptions::default()).unwrap();
    let upload = lab.directory().join("upload.bin");
    std::fs::write(&upload, pattern(50_000)).unwrap();
    let transfer = |mode, family| {
        let client = ClientKind::Curl;
        let job = Job { from: lab.client(), client, mode, family, server: &server, upload: &upload, limit: PATIENCE };
        let outcome = job.run().unwrap();
        server.remove_uploads().unwrap();
        outcome.transferred_by(mode)
    };
    load(&lab, RULESET);
    for mode in ["observe", "drop"] {
        let mut gateway = Gateway::start(&lab, &Settings::guarded(&lab, mode).section(SECTION), &[]).unwrap();
        for (negotiated, family) in
            [(Mode::Pasv, Family::V4), (Mode::Epsv, Family::V6), (Mode::Port, Family::V4), (Mode::Eprt, Family::V6)]
        {
            assert!(transfer(negotiated, family), "{negotiated} over IPv{family} in {mode}");
        }
        assert_eq!(gateway.status().unwrap().nftables.unwrap().failed, 0);
        gateway.stop().unwrap();
    }
    let listing = nft(&lab, "list ruleset");
    assert!(!listing.contains("counter packets 0 "), "both sets have let something through:\n{listing}");
}

#[test]
fn sets_that_do_not_fit_are_one_clear_error_and_sets_that_vanish_are_told() {
    if !lab::require_root() {
        return;
    }
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let server = Server::start(lab.server(), ServerKind::Pyftpdlib, &ServerOptions::default()).unwrap();
    let settings = Settings::guarded(&lab, "observe").section(SECTION);
    let set = |name: &str, what: &str| format!("set {name} {{ {what} }}\n");
    let v4 = "type ipv4_addr . ipv4_addr . inet_service; flags timeout;";
    let v6 = v4.replace("ipv4", "ipv6");
    let table = |sets: &[String]| format!("table inet filter {{\n{}}}\n", sets.concat());
    let bad = [
        ("".to_owned(), "nftables.table: there is no table inet filter"),
        (table(&[]), "nftables.set4: there is no set ftp_pin4 in table inet filter"),
        (table(&[set("ftp_pin4", v4)]), "nftables.set6: there is no set ftp_pin6"),
        (
            table(&[set("ftp_pin4", &v6), set("ftp_pin6", &v6)]),
            "nftables.set4: the set ftp_pin4 in table inet filter is of another type",
        ),
        (table(&[set("ftp_pin4", &v4.replace("flags timeout;", "")), set("ftp_pin6", &v6)]), "lacks the flag timeout"),
    ];
    for (ruleset, message) in &bad {
        load(&lab, ruleset);
        let config = lab.directory().join("bad.toml");
        std::fs::write(&config, settings.text(&lab.directory().join("bad.sock"))).unwrap();
        let mut run = lab.gateway().command(program().unwrap());
        run.arg("run").arg("-c").arg(&config);
        let done = Process::spawn(run).unwrap().finish(PATIENCE).unwrap();
        assert_eq!(done.status.and_then(|s| s.code()), Some(1), "{}", done.output);
        let said: Vec<&str> = done.output.lines().filter(|l| l.starts_with("ftp-helper: ")).collect();
        assert!(said.len() == 1 && said[0].contains(message), "{message} in\n{}", done.output);
    }

    // The same at reload, and nothing has changed then.
    load(&lab, "");
    let plain = Settings::guarded(&lab, "observe");
    let mut gateway = Gateway::start(&lab, &plain, &[]).unwrap();
    let said = gateway.reload(&settings).unwrap_err().to_string();
    assert!(said.contains(bad[0].1), "{said}");
    assert!(gateway.status().unwrap().nftables.is_none());

    // Good ones, which vanish and come back.
    load(&lab, RULESET);
    gateway.reload(&settings).unwrap();
    load(&lab, "");
    let events = gateway.follow().unwrap();
    let (dialogue, _) = announce(&lab, &server, Family::V4);
    until("the failure is counted", || (gateway.status().unwrap().nftables.unwrap().failed > 0).then_some(())).unwrap();
    let said = gateway.output().unwrap();
    assert!(said.contains("the sets of table inet filter are not fed: ") && said.contains(bad[0].1), "{said}");
    drop(dialogue);
    events.wait("the session's end", |e| e.event == Kind::SessionEnd).unwrap();
    load(&lab, RULESET);
    let (_dialogue, element) = announce(&lab, &server, Family::V4);
    until("fed again", || (fed(&lab) == [element]).then_some(())).unwrap();
    until("which is told", || gateway.output().unwrap().contains("are fed again").then_some(())).unwrap();
    gateway.stop().unwrap();
}
