//! The gateway's own FTP: a server on it, and clients on it of servers outside. Nothing is configured differently.
//!
//! What a host sends itself has no checksum yet and may be larger than the interface's MTU: its device completes and cuts
//! it behind the hooks.

use std::net::{IpAddr, SocketAddr};

use ftp_helper::{
    api::Status,
    event::Kind,
    lab::{
        self, Host, Lab, LabOptions, Topology,
        clients::{ClientKind, Family, Job, Mode},
        dialogue::Dialogue,
        scan::{ScanOptions, scan},
        servers::{DIRECTORY, DOWNLOAD, Server, ServerKind, ServerOptions, pattern},
    },
};
use ftp_helper_tests::{
    connect::connect,
    gateway::{Gateway, PATIENCE, Settings, counter, held_up, list, until},
    spinner::{self, Spinner},
};

/// Larger than any packet: what a local sender hands down is cut by the device.
const SIZE: usize = 1_000_000;
const SCANNED: std::ops::RangeInclusive<u16> = 49_500..=51_500;

const CELLS: [(ClientKind, Mode, Family); 9] = [
    (ClientKind::Curl, Mode::Pasv, Family::V4),
    (ClientKind::Curl, Mode::Epsv, Family::V4),
    (ClientKind::Curl, Mode::Epsv, Family::V6),
    (ClientKind::Curl, Mode::Port, Family::V4),
    (ClientKind::Curl, Mode::Eprt, Family::V4),
    (ClientKind::Curl, Mode::Eprt, Family::V6),
    (ClientKind::Lftp, Mode::Pasv, Family::V4),
    (ClientKind::Lftp, Mode::Port, Family::V4),
    (ClientKind::Lftp, Mode::Epsv, Family::V6),
];

/// The ruleset of a host with mode `mark`: nothing comes in but control connections and what has the mark.
const BY_MARK: &str = "table inet filter {
	chain input {
		type filter hook input priority filter; policy drop;
		ct state established,related accept
		iifname \"lo\" accept
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
		tcp dport 21 accept
		meta mark & 0x0f000000 == 0x0f000000 counter accept
	}
}
";

/// Who talks to whom, one of them on the gateway.
struct Ground {
    lab: Lab,
    server: Server,
    client: Host,
}

impl Ground {
    fn server_on_the_gateway() -> Self {
        let lab = Lab::new(&LabOptions::default()).unwrap();
        let options = ServerOptions { size: SIZE, ..ServerOptions::default() };
        let server = Server::start(lab.gateway(), ServerKind::Vsftpd, &options).unwrap();
        let client = lab.client().clone();
        Self { lab, server, client }
    }

    fn client_on_the_gateway() -> Self {
        let lab = Lab::new(&LabOptions { topology: Topology::ClientInside, ..LabOptions::default() }).unwrap();
        let options = ServerOptions { size: SIZE, ..ServerOptions::default() };
        let server = Server::start(lab.server(), ServerKind::Vsftpd, &options).unwrap();
        let client = lab.gateway().clone();
        Self { lab, server, client }
    }

    /// The other end, outside.
    fn outside(&self) -> &Host {
        if self.server.host().name() == "gateway" { &self.client } else { self.server.host() }
    }

    fn settings(&self, mode: &'static str) -> Settings {
        let of = |host: &Host| list(&[host.v4().into(), host.v6().into()]);
        let (own, other) = (of(self.lab.gateway()), of(self.outside()));
        let mut settings = Settings::guarded(&self.lab, mode);
        settings.guards = format!("[[guard]]\nnetworks = {own}\n");
        if mode == "drop" {
            let out = format!("[[guard]]\ndirection = \"out\"\nnetworks = {other}\ninitiators = {own}\n");
            settings.guards.push_str(&out);
        }
        settings
    }

    fn start(&self, mode: &'static str, arguments: &[&str]) -> Gateway {
        let file = self.lab.directory().join("ruleset.nft");
        std::fs::write(&file, BY_MARK).unwrap();
        self.lab.load_ruleset((mode == "mark").then_some(file.as_path())).unwrap();
        Gateway::start(&self.lab, &self.settings(mode), arguments).unwrap()
    }

    fn transfers(&self, cells: &[(ClientKind, Mode, Family)]) {
        let upload = self.lab.directory().join("upload.bin");
        std::fs::write(&upload, pattern(SIZE)).unwrap();
        for &(client, mode, family) in cells {
            let (from, server) = (&self.client, &self.server);
            let outcome = Job { from, client, mode, family, server, upload: &upload, limit: PATIENCE }.run().unwrap();
            assert!(outcome.transferred_by(mode), "{client} {mode} over IPv{family}:\n{}", outcome.output);
            self.server.remove_uploads().unwrap();
        }
    }

    /// That nobody gets an answer from the gateway's guarded ports.
    fn is_closed(&self) {
        for family in Family::ALL {
            for from in [self.outside(), self.lab.stranger()] {
                let found = scan(from, self.lab.gateway().address(family), SCANNED, &ScanOptions::default()).unwrap();
                assert_eq!(found.open.len() + found.closed.len(), 0, "{} over IPv{family}: {found:?}", from.name());
            }
        }
    }

    /// Every mode, with enforcement in each way that there is.
    fn holds(&self) {
        for mode in ["drop", "mark"] {
            let mut gateway = self.start(mode, &[]);
            self.transfers(&CELLS);
            // An upload, a download and a listing each.
            let used = 3 * CELLS.len() as u64;
            let all = || gateway.status().ok().filter(|s: &Status| counter(s, "used") >= used);
            let status = until("every data connection is counted", all).unwrap();
            assert_eq!(counter(&status, "used"), used);
            // In `mark` the gateway's own connections need no pinhole, but have one.
            assert_eq!((held_up(&status), counter(&status, "syn_would_deny")), (0, 0), "{mode}");
            self.is_closed();
            let status = gateway.status().unwrap();
            let unasked = if mode == "drop" { "syn_denied" } else { "syn_would_deny" };
            assert!(counter(&status, unasked) > 0, "the scans came that far: {:?}", status.counters);
            gateway.stop().unwrap();
        }
    }

    /// Passive transfers by a client that connects at once, while the daemon alone reads.
    fn survives_early_syns(&self) -> Status {
        let mut gateway = self.start("drop", &["--no-fast-path"]);
        let to = SocketAddr::new(self.server.host().v4().into(), self.server.port());
        let path = format!("{DIRECTORY}/{DOWNLOAD}");
        let fetch = || -> anyhow::Result<()> {
            let mut spinner = Spinner::connect(to, true)?;
            spinner.login(&self.server.login().user, &self.server.login().password)?;
            for i in 0..20 {
                let mode = if i % 2 == 0 { spinner::Mode::Pasv } else { spinner::Mode::Epsv };
                spinner.fetch(mode, &path, SIZE)?;
            }
            Ok(())
        };
        self.client.run_in(fetch).unwrap().unwrap();
        self.transfers(&[
            (ClientKind::Curl, Mode::Eprt, Family::V6),
            (ClientKind::Curl, Mode::Port, Family::V4),
            (ClientKind::Curl, Mode::Epsv, Family::V6),
        ]);
        let status = gateway.status().unwrap();
        assert!(counter(&status, "syn_parked") > 0, "none came too early: {:?}", status.counters);
        assert_eq!(counter(&status, "syn_denied"), 0, "{:?}", status.counters);
        gateway.stop().unwrap();
        status
    }
}

#[test]
fn a_server_on_the_gateway() {
    if !lab::require_root() {
        return;
    }
    Ground::server_on_the_gateway().holds();
}

#[test]
fn the_gateway_as_a_client() {
    if !lab::require_root() {
        return;
    }
    Ground::client_on_the_gateway().holds();
}

#[test]
fn early_syns_to_a_server_on_the_gateway_are_turned_round_once() {
    if !lab::require_root() {
        return;
    }
    let status = Ground::server_on_the_gateway().survives_early_syns();
    assert!(counter(&status, "syn_unparked") <= counter(&status, "syn_parked"), "{:?}", status.counters);
    assert!(counter(&status, "syn_unparked") > 0, "{:?}", status.counters);
}

#[test]
fn early_syns_of_the_gateways_own_clients_are_sent_once_more() {
    if !lab::require_root() {
        return;
    }
    // They leave: there is nothing to turn round.
    let status = Ground::client_on_the_gateway().survives_early_syns();
    assert_eq!(counter(&status, "syn_unparked"), 0, "{:?}", status.counters);
}

/// A reply of many lines that leaves as one packet, which the device cuts: all of it is read.
#[test]
fn a_reply_larger_than_any_packet_is_followed() {
    if !lab::require_root() {
        return;
    }
    let ground = Ground::server_on_the_gateway();
    for i in 0..400 {
        std::fs::write(ground.server.public().join(format!("one-of-very-many-files-with-a-long-name-{i:04}")), "")
            .unwrap();
    }
    let mut gateway = ground.start("drop", &[]);
    for family in Family::ALL {
        let (from, own): (IpAddr, IpAddr) = (ground.client.address(family), ground.server.host().address(family));
        let to = SocketAddr::new(own, ground.server.port());
        let mut dialogue = Dialogue::open(&ground.client, to, PATIENCE).unwrap();
        dialogue.login(ground.server.login()).unwrap();
        let reply = dialogue.ask(&format!("STAT {DIRECTORY}")).unwrap();
        assert!(reply.code == 213 && reply.text.len() > 20_000, "{}: {} bytes", reply.code, reply.text.len());
        let port = dialogue.epsv().unwrap();
        drop(connect(&ground.client, from, SocketAddr::new(own, port), PATIENCE).unwrap());
        dialogue.ask("QUIT").unwrap();
    }
    let ended = || {
        (gateway.events(Default::default()).ok()?.iter().filter(|e| e.event == Kind::Used).count() == 2).then_some(())
    };
    until("both data connections are told", ended).unwrap();
    assert_eq!(counter(&gateway.status().unwrap(), "control_dropped"), 0);
    gateway.stop().unwrap();
}
