//! Address translation under rulesets as administrators have them: what `doctor` and `integrate` say of them, and what comes
//! through when it is done.

use std::time::Duration;

use ftp_helper::lab::{
    self, Lab, LabOptions, Topology,
    clients::{ClientKind, Family, Job, Mode},
    scan::{ScanOptions, scan},
    servers::{Server, ServerKind, ServerOptions},
};
use ftp_helper_tests::{
    firewall::{Firewalld, SCANNED},
    gateway::{Gateway, Settings, program},
    nat::{Published, prepare, public, ruleset, run, settings},
    program::{Said, said},
};

/// A transfer of this size takes far less; one that can't succeed ends then.
const SOON: Duration = Duration::from_secs(8);

/// A gateway with a published server, whose ruleset knows nothing of translated data connections.
struct Ground {
    lab: Lab,
    server: Server,
    gateway: Gateway,
}

impl Ground {
    /// With what `prepare` makes of the gateway.
    fn new(more: impl FnOnce(Settings) -> Settings, prepare: impl FnOnce(&Lab)) -> Self {
        let lab = Lab::new(&LabOptions { topology: Topology::ServerInside, ..LabOptions::default() }).unwrap();
        let server = Server::start(lab.server(), ServerKind::Vsftpd, &ServerOptions::default()).unwrap();
        prepare(&lab);
        let gateway = Gateway::start(&lab, &more(settings(&lab, "drop")), &[]).unwrap();
        Self { lab, server, gateway }
    }

    /// Asks the program on the gateway about the configuration.
    fn ask(&self, arguments: &[&str], environment: &[(&'static str, String)]) -> Said {
        let mut command = self.lab.gateway().command(program().unwrap());
        command.args(arguments).arg("-c").arg(self.gateway.config()).envs(environment.iter().cloned());
        said(command).unwrap()
    }

    /// Whether `doctor` finds that the ruleset drops translated connections, and fails for it.
    fn is_unaccepted(&self, environment: &[(&'static str, String)]) -> bool {
        let doctor = self.ask(&["doctor", "-o", "json"], environment);
        assert!(!doctor.out.contains("pinhole_dropped"), "{}", doctor.out);
        let found = doctor.out.contains("mark_unaccepted");
        assert!(!found || doctor.code == 4, "{doctor:?}");
        found
    }

    /// Runs what `integrate` prints; the script.
    fn integrate(&self, with: &str, environment: &[(&'static str, String)]) -> String {
        let script = self.ask(&["integrate", with, "--print"], environment).out;
        let file = self.lab.directory().join("rules.sh");
        std::fs::write(&file, &script).unwrap();
        let mut command = self.lab.gateway().command("sh");
        command.arg("-e").arg(&file).envs(environment.iter().cloned());
        let done = said(command).unwrap();
        assert_eq!(done.code, 0, "{script}\n{done:?}");
        script
    }

    fn transfers(&self, mode: Mode, family: Family) -> bool {
        let upload = self.lab.directory().join("upload.bin");
        std::fs::write(&upload, lab::servers::pattern(50_000)).unwrap();
        let (from, client, server) = (self.lab.client(), ClientKind::Curl, &self.server);
        let job = Job { from, client, mode, family, server, upload: &upload, limit: SOON };
        let outcome = job.run_at(public(&self.lab, family, 21)).unwrap();
        self.server.remove_uploads().unwrap();
        outcome.transferred_by(mode)
    }

    /// Nobody outside reaches a port of the server's or the gateway's that nothing was negotiated for.
    fn is_closed(&self) {
        for (host, family) in [self.lab.client(), self.lab.stranger()].into_iter().zip(Family::ALL) {
            let found = scan(host, public(&self.lab, family, 0).ip(), SCANNED, &ScanOptions::default()).unwrap();
            assert_eq!((found.open.len(), found.closed.len()), (0, 0), "IPv{family}");
        }
    }
}

/// Hand-written nftables: the printed rules are what is missing.
#[test]
fn the_printed_rules_let_translated_connections_through() {
    if !lab::require_root() {
        return;
    }
    let ground = Ground::new(
        |settings| settings,
        |lab| {
            let own = ruleset(&[Published::ftp(lab.server())], "");
            // As an administrator has it before: no rule by mark, and masquerade to any port.
            let usual = own.lines().filter(|l| !l.contains("meta mark") && !l.contains("masquerade to"));
            prepare(lab, &usual.collect::<Vec<_>>().join("\n")).unwrap();
        },
    );
    assert!(ground.is_unaccepted(&[]));
    assert!(!ground.transfers(Mode::Pasv, Family::V4));
    let script = ground.integrate("nft", &[]);
    assert!(script.contains("masquerade to :1024-60999") && script.contains("meta mark"), "{script}");
    assert!(!ground.is_unaccepted(&[]));
    let again = ground.ask(&["integrate", "nft", "--print"], &[]).out;
    assert!(again.contains("Nothing has to be added"), "{again}");
    assert!(ground.transfers(Mode::Pasv, Family::V4) && ground.transfers(Mode::Epsv, Family::V6));
    ground.is_closed();
}

/// iptables-nft for both families: the same by its commands.
#[test]
fn a_ruleset_of_iptables_that_translates() {
    if !lab::require_root() {
        return;
    }
    let ground = Ground::new(
        |settings| settings,
        |lab| {
            prepare(lab, "").unwrap();
            for family in Family::ALL {
                let program = if family == Family::V4 { "iptables" } else { "ip6tables" };
                let server = lab.server().address(family);
                let to = std::net::SocketAddr::new(server, 21);
                for line in [
                    "-P FORWARD DROP".to_owned(),
                    "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT".to_owned(),
                    "-A FORWARD -i lan0 -j ACCEPT".to_owned(),
                    "-A FORWARD -m conntrack --ctstate DNAT -j ACCEPT".to_owned(),
                    format!("-t nat -A PREROUTING -i wan0 -p tcp --dport 21 -j DNAT --to-destination {to}"),
                    "-t nat -A POSTROUTING -o wan0 -j MASQUERADE".to_owned(),
                ] {
                    run(lab.gateway(), program, &line.split(' ').collect::<Vec<_>>()).unwrap();
                }
            }
        },
    );
    assert!(ground.is_unaccepted(&[]));
    assert!(!ground.transfers(Mode::Pasv, Family::V4));
    let script = ground.integrate("nft", &[]);
    for program in ["iptables", "ip6tables"] {
        let by_mark = format!("{program} -t filter -I FORWARD -i wan0 -m mark --mark 0xf000000/0xf000000 -j ACCEPT");
        let ports = format!("{program} -t nat -I POSTROUTING 1 -o wan0 -p tcp -m tcp --sport 1024:65535");
        assert!(script.contains(&by_mark) && script.contains(&ports), "{script}");
    }
    assert!(!ground.is_unaccepted(&[]));
    let again = ground.ask(&["integrate", "nft", "--print"], &[]).out;
    assert!(again.contains("Nothing has to be added"), "{again}");
    assert!(ground.transfers(Mode::Pasv, Family::V4) && ground.transfers(Mode::Epsv, Family::V6));
    // Active mode of the server: by masquerade, on other ports than those of inside clients.
    assert!(ground.transfers(Mode::Port, Family::V4));
    ground.is_closed();
}

/// firewalld knows no rule by mark: the guard holds the inside network too, and a policy lets to it what the guard has let
/// through.
#[test]
fn firewalld_that_translates() {
    if !lab::require_root() {
        return;
    }
    let mut daemon = None;
    let ground = Ground::new(
        |settings| settings,
        |lab| {
            prepare(lab, "").unwrap();
            let firewalld = Firewalld::start(lab);
            firewalld.tell(&["--permanent", "--zone=public", "--add-interface=wan0"]);
            firewalld.tell(&["--permanent", "--zone=trusted", "--add-interface=lan0"]);
            firewalld.tell(&["--permanent", "--zone=public", "--add-masquerade"]);
            let to = lab.server().v4();
            firewalld.tell(&[
                "--permanent",
                "--zone=public",
                &format!("--add-forward-port=port=21:proto=tcp:toport=21:toaddr={to}"),
            ]);
            firewalld.tell(&["--reload"]);
            daemon = Some(firewalld);
        },
    );
    let environment = Firewalld::environment(&daemon.as_ref().unwrap().directory);
    assert!(ground.is_unaccepted(&environment));
    assert!(!ground.transfers(Mode::Pasv, Family::V4));
    let script = ground.ask(&["integrate", "firewalld", "--print"], &environment).out;
    assert!(script.contains("add the inside network to the guard"), "{script}");

    let Ground { lab, server, mut gateway } = ground;
    let inside = lab.server();
    let v4 = inside.v4().to_string().replace(".100", ".0/24");
    let networks = format!("networks = [\"@wan0\", \"{v4}\", \"{}/128\"]", inside.v6());
    let more = settings(&lab, "drop");
    let more = Settings { guards: more.guards.replace("networks = [\"@wan0\"]", &networks), ..more };
    gateway.reload(&more).unwrap();
    let ground = Ground { lab, server, gateway };
    let script = ground.integrate("firewalld", &environment);
    assert!(script.contains("--new-policy=ftp-helper") && script.contains("--add-rich-rule="), "{script}");
    assert!(!ground.is_unaccepted(&environment));
    assert!(ground.transfers(Mode::Pasv, Family::V4) && ground.transfers(Mode::Epsv, Family::V4));
    ground.is_closed();
    // Somebody on the same link who sends to the inside address itself finds it as closed.
    let (stranger, inside) = (ground.lab.stranger(), ground.lab.server().v4());
    let by = ground.lab.gateway().v4().to_string();
    run(stranger, "ip", &["route", "add", &format!("{inside}/32"), "via", &by]).unwrap();
    let found = scan(stranger, inside.into(), SCANNED, &ScanOptions::default()).unwrap();
    assert_eq!((found.open.len(), found.closed.len()), (0, 0));
}
