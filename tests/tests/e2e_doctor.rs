//! `doctor` and `integrate` on real rulesets: what is wrong is found; with the rules that are named removed and the rules
//! that are printed loaded, transfers pass, a scan finds nothing, and `doctor` finds nothing either.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
};

use ftp_helper::lab::{
    self, Host, Lab, LabOptions,
    clients::{ClientKind, Family, Job, Mode},
    process::Process,
    scan::{ScanOptions, scan},
    servers::{Server, ServerKind, ServerOptions, pattern},
};
use ftp_helper_tests::gateway::{Gateway, PATIENCE, Settings, list, program, until};
use serde_json::Value;

/// `/etc/nftables.conf` of Debian 12.
const DEBIAN: &str = "flush ruleset

table inet filter {
	chain input {
		type filter hook input priority filter;
	}
	chain forward {
		type filter hook forward priority filter;
	}
	chain output {
		type filter hook output priority filter;
	}
}
";

const BY_HAND: &str = "flush ruleset
table inet filter {
	set trusted { type ipv4_addr; elements = { 198.51.100.7 } }
	chain input {
		type filter hook input priority filter; policy drop;
		ct state vmap { established : accept, related : accept, invalid : drop }
		iifname \"lo\" accept
		iifname \"lan0\" accept
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state vmap { established : accept, related : accept, invalid : drop }
		iifname \"lan0\" accept
		ip saddr @trusted accept
		iifname \"wan0\" jump from_outside
	}
	chain from_outside {
		tcp dport { 21, 8443, 40000-60000 } counter accept
		udp dport 1024-65535 accept
	}
}
";

const WITH_HELPER: &str = "flush ruleset
table inet filter {
	ct helper ftp-standard { type \"ftp\" protocol tcp; }
	chain prerouting {
		type filter hook prerouting priority filter;
		tcp dport 21 ct helper set \"ftp-standard\"
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state established,related accept
		iifname \"lan0\" accept
		tcp dport 21 accept
	}
}
";

/// The same for both families, as a firewall of iptables has it.
const IPTABLES: &str = "
-P FORWARD DROP
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A FORWARD -i lan0 -j ACCEPT
-A FORWARD -p tcp -m tcp --dport 21 -j ACCEPT
-A FORWARD -p tcp -m conntrack --ctstate NEW -m multiport --dports 8443,40000:60000 -j ACCEPT
-A FORWARD -p tcp -m tcp --dport 45000:55000 -m comment --comment passive -j ACCEPT
-t raw -A PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp
";

/// What a scan looks at: what the rulesets above left open, and more.
const SCANNED: std::ops::RangeInclusive<u16> = 48_000..=61_000;

struct Ground {
    lab: Lab,
    server: Server,
    upload: PathBuf,
}

impl Ground {
    fn new(on_gateway: bool) -> Self {
        let lab = Lab::new(&LabOptions::default()).unwrap();
        let host = if on_gateway { lab.gateway() } else { lab.server() };
        let server = Server::start(host, ServerKind::Vsftpd, &ServerOptions::default()).unwrap();
        let upload = lab.directory().join("upload.bin");
        std::fs::write(&upload, pattern(50_000)).unwrap();
        Self { lab, server, upload }
    }

    fn settings(&self, mode: &'static str, sets: &str) -> Settings {
        let host = self.server.host();
        let address = list(&[host.v4().into(), host.v6().into()]);
        let mut settings = Settings::guarded(&self.lab, mode);
        settings.guards = format!("[[guard]]\nnetworks = {address}\n");
        let settings = settings.section(&format!("[[server]]\naddress = {address}\npassive_ports = \"50000-50099\""));
        if sets.is_empty() { settings } else { settings.section(&format!("[nftables]\ntable = \"{sets}\"")) }
    }

    /// A configuration file, and where its daemon would be.
    fn file(&self, settings: &Settings) -> PathBuf {
        let file = self.lab.directory().join("doctor.toml");
        std::fs::write(&file, settings.text(&self.lab.directory().join("doctor.sock"))).unwrap();
        file
    }

    fn nft(&self, ruleset: &str) {
        let file = self.lab.directory().join("ruleset.nft");
        std::fs::write(&file, ruleset).unwrap();
        self.lab.load_ruleset(Some(&file)).unwrap();
    }

    fn transfers(&self, modes: &[(Mode, Family)]) {
        for &(mode, family) in modes {
            let job = Job {
                from: self.lab.client(),
                client: ClientKind::Curl,
                mode,
                family,
                server: &self.server,
                upload: &self.upload,
                limit: PATIENCE,
            };
            let outcome = job.run().unwrap();
            assert!(outcome.transferred_by(mode), "{mode} over IPv{family}:\n{}", outcome.output);
            self.server.remove_uploads().unwrap();
        }
    }

    /// How many ports answer, from the client and from a stranger.
    fn answering(&self, family: Family) -> usize {
        let target: IpAddr = self.server.host().address(family);
        let of = |host: &Host| {
            let found = scan(host, target, SCANNED, &ScanOptions::default()).unwrap();
            found.open.len() + found.closed.len()
        };
        of(self.lab.client()) + of(self.lab.stranger())
    }

    /// Runs what `integrate` prints.
    fn integrate(&self, with: &str, config: &Path, environment: &[(&str, String)]) -> String {
        let (code, script, said) = self.run(&["integrate", with, "--print", "-c"], config, &[]);
        assert_eq!(code, 0, "{said}");
        let mut sh = self.lab.gateway().command("sh");
        sh.args(["-e", "-c", &script]).envs(environment.iter().cloned());
        let done = Process::spawn(sh).unwrap().finish(PATIENCE).unwrap();
        assert!(done.success(), "{script}\nsaid\n{}", done.output);
        script
    }

    fn run(&self, args: &[&str], config: &Path, more: &[&str]) -> (i32, String, String) {
        let mut command: Command = self.lab.gateway().command(program().unwrap());
        let output = command.args(args).arg(config).args(more).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    fn doctor(&self, config: &Path) -> (i32, Vec<Value>) {
        let (code, out, said) = self.run(&["doctor", "-o", "json", "-c"], config, &[]);
        (code, serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{said}")))
    }

    /// That nothing is left to say but for information and warnings.
    fn healthy(&self, config: &Path, when: &str) {
        let (code, findings) = self.doctor(config);
        let errors: Vec<&Value> = findings.iter().filter(|f| f["severity"] == "error").collect();
        assert!(code == 0 && errors.is_empty(), "{when}: {errors:#?}");
    }

    /// With the ruleset as it was made: transfers and scans in both modes.
    fn holds(&self, sets: &str) {
        for mode in ["observe", "drop"] {
            let settings = self.settings(mode, sets);
            self.healthy(&self.file(&settings), mode);
            let mut gateway = Gateway::start(&self.lab, &settings, &[]).unwrap();
            match mode {
                "observe" => {
                    self.transfers(&[(Mode::Pasv, Family::V4), (Mode::Epsv, Family::V6), (Mode::Port, Family::V4)])
                }
                _ => self.transfers(&[(Mode::Epsv, Family::V4), (Mode::Eprt, Family::V6)]),
            }
            for family in Family::ALL {
                assert_eq!(self.answering(family), 0, "over IPv{family} in {mode}");
            }
            assert_eq!(gateway.status().unwrap().nftables.unwrap().failed, 0);
            gateway.stop().unwrap();
        }
    }
}

/// The findings of a code, with their handle and the text of the rule.
fn of<'a>(findings: &'a [Value], code: &str) -> Vec<&'a Value> {
    findings.iter().filter(|f| f["code"] == code).collect()
}

#[test]
fn debians_default_ruleset() {
    if !lab::require_root() {
        return;
    }
    let ground = Ground::new(false);
    ground.nft(DEBIAN);
    assert!(ground.answering(Family::V4) > 20_000, "everything answers before");
    let config = ground.file(&ground.settings("observe", "inet filter"));
    let (code, findings) = ground.doctor(&config);
    assert_eq!(code, 4, "{findings:#?}");
    let open: Vec<_> = of(&findings, "policy_accepts").into_iter().filter(|f| f["severity"] == "error").collect();
    assert!(open.iter().any(|f| f["where"] == "table inet filter, chain forward"), "{findings:#?}");
    assert_eq!(of(&findings, "sets_unfit").len(), 1);
    let script = ground.integrate("nft", &config, &[]);
    assert!(script.contains("# Nothing has to be removed."), "{script}");
    ground.holds("inet filter");
    // What is there is not printed again.
    let again = ground.integrate("nft", &config, &[]);
    assert!(!again.contains("insert rule"), "{again}");
}

#[test]
fn a_ruleset_by_hand_with_policy_drop() {
    if !lab::require_root() {
        return;
    }
    let ground = Ground::new(false);
    ground.nft(BY_HAND);
    assert!(ground.answering(Family::V6) > 20_000, "the range answers before");
    let config = ground.file(&ground.settings("observe", "inet filter"));
    let (code, findings) = ground.doctor(&config);
    assert_eq!(code, 4, "{findings:#?}");
    let wide = of(&findings, "wide_range");
    assert_eq!(wide.len(), 1, "{findings:#?}");
    let rule = &wide[0]["rule"];
    assert_eq!(
        (&rule["family"], &rule["table"], &rule["chain"]),
        (&"inet".into(), &"filter".into(), &"from_outside".into())
    );
    assert!(rule["text"].as_str().unwrap().starts_with("tcp dport { 21, 8443, 40000-60000 } counter"), "{rule}");
    let handle = rule["handle"].as_u64().unwrap();
    let removal = format!("nft delete rule inet filter from_outside handle {handle}");
    assert_eq!(wide[0]["commands"][0], *removal);
    let script = ground.integrate("nft", &config, &[]);
    assert!(script.lines().any(|l| l == removal), "{script}");
    // That rule had let the control connections in as well: what else it did stays the administrator's affair.
    let mut nft = ground.lab.gateway().command("nft");
    nft.args(["add", "rule", "inet", "filter", "from_outside", "tcp", "dport", "{ 21, 8443 }", "accept"]);
    assert!(Process::spawn(nft).unwrap().finish(PATIENCE).unwrap().success());
    ground.holds("inet filter");
}

/// Without sets: the kernel side decides, and the ruleset accepts the guarded host's passive ports.
#[test]
fn a_ruleset_by_hand_in_drop_without_sets() {
    if !lab::require_root() {
        return;
    }
    let ground = Ground::new(false);
    ground.nft(BY_HAND);
    let settings = ground.settings("drop", "");
    let config = ground.file(&settings);
    let (code, findings) = ground.doctor(&config);
    assert!(code == 4 && of(&findings, "wide_range").len() == 1, "{findings:#?}");
    let script = ground.integrate("nft", &config, &[]);
    assert!(script.contains("tcp dport 50000-50099 counter accept comment \"ftp-helper: guarded\""), "{script}");
    let mut nft = ground.lab.gateway().command("nft");
    nft.args(["add", "rule", "inet", "filter", "from_outside", "tcp", "dport", "{ 21, 8443 }", "accept"]);
    assert!(Process::spawn(nft).unwrap().finish(PATIENCE).unwrap().success());
    ground.healthy(&config, "integrated");
    let mut gateway = Gateway::start(&ground.lab, &settings, &[]).unwrap();
    ground.transfers(&[(Mode::Pasv, Family::V4), (Mode::Epsv, Family::V6), (Mode::Port, Family::V4)]);
    for family in Family::ALL {
        assert_eq!(ground.answering(family), 0, "over IPv{family}");
    }
    gateway.stop().unwrap();
    // And a ruleset that would drop what a pinhole permits is told as such.
    ground.nft(&BY_HAND.replace(", 40000-60000", ""));
    let (code, findings) = ground.doctor(&config);
    assert!(code == 4 && !of(&findings, "pinhole_dropped").is_empty(), "{findings:#?}");
}

#[test]
fn a_ruleset_with_the_kernels_helper() {
    if !lab::require_root() {
        return;
    }
    let ground = Ground::new(false);
    ground.nft(WITH_HELPER);
    ground.transfers(&[(Mode::Pasv, Family::V4)]);
    let config = ground.file(&ground.settings("observe", "inet filter"));
    let (code, findings) = ground.doctor(&config);
    let helper = of(&findings, "kernel_helper");
    assert!(code == 4 && helper.len() == 1, "{findings:#?}");
    assert_eq!(helper[0]["rule"]["text"], "tcp dport 21 ct helper set \"ftp-standard\"");
    assert_eq!(helper[0]["rule"]["chain"], "prerouting");
    ground.integrate("nft", &config, &[]);
    ground.holds("inet filter");
}

#[test]
fn a_ruleset_of_iptables() {
    if !lab::require_root() {
        return;
    }
    let ground = Ground::new(false);
    for program in ["iptables", "ip6tables"] {
        for line in IPTABLES.lines().filter(|l| !l.is_empty()) {
            let mut command = ground.lab.gateway().command(program);
            command.args(line.split(' '));
            let done = Process::spawn(command).unwrap().finish(PATIENCE).unwrap();
            assert!(done.success(), "{program} {line}: {}", done.output);
        }
    }
    assert!(ground.answering(Family::V4) > 20_000, "the range answers before");
    // Sets in a table of iptables would not last.
    let config = ground.file(&ground.settings("observe", "ip filter"));
    let (code, _, said) = ground.run(&["integrate", "nft", "--print", "-c"], &config, &[]);
    assert!(code == 2 && said.contains("iptables manages the table ip filter"), "{code}: {said}");

    let config = ground.file(&ground.settings("observe", "inet ftp_helper"));
    let (code, findings) = ground.doctor(&config);
    assert_eq!(code, 4);
    let commands: Vec<_> = of(&findings, "wide_range").iter().map(|f| f["commands"][0].as_str().unwrap()).collect();
    for program in ["iptables", "ip6tables"] {
        let one = format!(
            "{program} -t filter -D FORWARD -p tcp -m conntrack --ctstate NEW -m multiport --dports 8443,40000:60000 -j ACCEPT"
        );
        assert!(commands.contains(&&*one), "{findings:#?}");
        assert!(commands.iter().any(|c| c.starts_with(program) && c.contains("--dport 45000:55000")), "{findings:#?}");
        let helper = format!("{program} -t raw -D PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp");
        assert!(of(&findings, "kernel_helper").iter().any(|f| f["commands"][0] == *helper), "{findings:#?}");
    }
    assert_eq!(commands.len(), 4, "{findings:#?}");
    let script = ground.integrate("nft", &config, &[]);
    assert!(script.contains("-I FORWARD -i wan0 -d 192.0.2.100/32 -p tcp --dport 50000:50099 -j ACCEPT"), "{script}");
    ground.holds("inet ftp_helper");
}

/// firewalld of Debian, in a namespace with a bus of its own; the server is on its host.
#[test]
fn firewalld() {
    if !lab::require_root() {
        return;
    }
    let ground = Ground::new(true);
    let daemon = Firewalld::start(&ground.lab);
    daemon.tell(&["--zone=public", "--change-interface=wan0"]);
    daemon.tell(&["--zone=public", "--add-service=ftp"]);
    daemon.tell(&["--zone=public", "--add-port=40000-60000/tcp"]);
    daemon.tell(&["--zone=trusted", "--change-interface=lan0"]);
    assert!(ground.answering(Family::V4) > 20_000, "the range answers before");
    let config = ground.file(&ground.settings("observe", "inet ftp_helper"));
    let (code, findings) = ground.doctor(&config);
    assert_eq!(code, 4);
    let wide = of(&findings, "wide_range");
    assert_eq!(wide.len(), 1, "{findings:#?}");
    assert_eq!(wide[0]["rule"]["chain"], "filter_IN_public_allow");
    assert_eq!(wide[0]["commands"][0], "firewall-cmd --zone=public --remove-port=40000-60000/tcp");
    assert!(!of(&findings, "kernel_helper").is_empty(), "{findings:#?}");
    let script = ground.integrate("firewalld", &config, &Firewalld::environment(&daemon.directory));
    assert!(script.contains("--remove-service=ftp") && script.contains("--add-rich-rule="), "{script}");
    ground.holds("inet ftp_helper");
    // It does not touch what is not its own.
    daemon.tell(&["--reload"]);
    let (_, findings) = ground.doctor(&config);
    assert!(of(&findings, "sets_unfit").is_empty(), "{findings:#?}");
}

/// firewalld as `cargo xtask setup` has unpacked it: installed, it would take over the firewall of the host.
struct Firewalld {
    directory: PathBuf,
    _daemon: Process,
    _bus: Process,
}

impl Firewalld {
    fn start(lab: &Lab) -> Self {
        let package = std::path::absolute(lab::servers::default_cache()).unwrap().join("firewalld");
        assert!(package.is_dir(), "{} is missing: cargo xtask setup", package.display());
        let directory = lab.directory().join("firewalld");
        for part in ["zones", "services", "policies", "ipsets", "icmptypes", "helpers", "bin"] {
            std::fs::create_dir_all(directory.join(part)).unwrap();
        }
        let write = |name: &str, text: String| std::fs::write(directory.join(name), text).unwrap();
        write("firewalld.conf", "DefaultZone=public\nFirewallBackend=nftables\nCleanupOnExit=yes\n".into());
        let policy = "<allow user='*'/><allow own='*'/><allow send_destination='*'/><allow receive_sender='*'/>";
        let socket = directory.join("bus");
        write(
            "bus.conf",
            format!(
                "<busconfig><type>system</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>\
                 <policy context='default'>{policy}</policy></busconfig>",
                socket.display()
            ),
        );
        // As an installed one is called: by its name.
        for (program, options) in [
            ("sbin/firewalld", format!("--default-config={}/usr/lib/firewalld", package.display())),
            ("bin/firewall-cmd", String::new()),
        ] {
            let name = format!("bin/{}", program.rsplit('/').next().unwrap());
            let (modules, from) = (package.join("usr/lib/python3/dist-packages"), package.join("usr").join(program));
            write(
                &name,
                format!(
                    "#!/bin/sh\nPYTHONPATH={} exec /usr/bin/python3 {} {options} \"$@\"\n",
                    modules.display(),
                    from.display()
                ),
            );
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(directory.join(name), mode).unwrap();
        }
        let mut command = Command::new("dbus-daemon");
        command.arg("--nofork").arg("--nopidfile").arg(format!("--config-file={}/bus.conf", directory.display()));
        let bus = Process::spawn(command).unwrap();
        until("the bus", || socket.exists().then_some(())).unwrap();
        let mut command = lab.gateway().command(directory.join("bin/firewalld"));
        command.args(["--nofork", "--nopid"]).arg(format!("--system-config={}", directory.display()));
        command.envs(Self::environment(&directory));
        let mut daemon = Process::spawn(command).unwrap();
        let ready = until("firewalld runs", || {
            let mut state = Command::new(directory.join("bin/firewall-cmd"));
            let state = state.arg("--state").envs(Self::environment(&directory)).output();
            let running = state.is_ok_and(|o| o.status.success());
            (running || daemon.ended().unwrap().is_some()).then_some(running)
        });
        assert!(ready.unwrap(), "firewalld has ended:\n{}", daemon.output().unwrap());
        Self { directory, _daemon: daemon, _bus: bus }
    }

    /// What its programs, and those that call them, need.
    fn environment(directory: &Path) -> [(&'static str, String); 2] {
        let path = std::env::var("PATH").unwrap_or_default();
        [
            ("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={}/bus", directory.display())),
            ("PATH", format!("{}/bin:{path}", directory.display())),
        ]
    }

    fn tell(&self, args: &[&str]) {
        let mut command = Command::new(self.directory.join("bin/firewall-cmd"));
        command.args(args).envs(Self::environment(&self.directory));
        let done = Process::spawn(command).unwrap().finish(PATIENCE).unwrap();
        assert!(done.success(), "firewall-cmd {}: {}", args.join(" "), done.output);
    }
}

#[test]
fn what_a_host_lacks_and_an_interface_can_not_do() {
    if !lab::require_root() {
        return;
    }
    let ground = Ground::new(false);
    let ip = |line: &str| {
        let mut ip = ground.lab.gateway().command("ip");
        ip.args(line.split(' '));
        let done = Process::spawn(ip).unwrap().finish(PATIENCE).unwrap();
        assert!(done.success(), "ip {line}: {}", done.output);
    };
    let codes = |findings: &[Value], severity: &str| -> Vec<String> {
        let those = findings.iter().filter(|f| f["severity"] == severity);
        those.map(|f| f["code"].as_str().unwrap().to_owned()).collect()
    };
    let settings = ground.settings("drop", "");
    let config = ground.file(&settings);
    let (code, findings) = ground.doctor(&config);
    assert_eq!((code, codes(&findings, "error")), (0, vec![]), "{findings:#?}");
    for known in ["kernel", "hooks", "offloads", "not_running"] {
        assert_eq!(of(&findings, known).len(), 1, "{known} in {findings:#?}");
    }
    // Text for people, one object a line, and the exit code.
    let (code, out, _) = ground.run(&["doctor", "-c"], &config, &[]);
    assert!(code == 0 && out.contains("info kernel") && out.ends_with("\n0 errors, 0 warnings\n"), "{out}");
    let (_, out, _) = ground.run(&["doctor", "-o", "jsonl", "-c"], &config, &[]);
    assert!(out.lines().all(|l| serde_json::from_str::<Value>(l).is_ok_and(|v| v["code"].is_string())), "{out}");

    // A member of a bridge.
    ip("link add br0 type bridge");
    ip("link add other0 type veth peer name other1");
    ip("link set other0 master br0");
    let enslaved = Settings { interfaces: "[\"wan0\", \"other0\", \"ppp*\"]".into(), ..settings.clone() };
    let (code, findings) = ground.doctor(&ground.file(&enslaved));
    let found = of(&findings, "interface_enslaved");
    assert!(code == 4 && found.len() == 1, "{findings:#?}");
    assert!(found[0]["where"] == "interface other0" && found[0]["what"].as_str().unwrap().contains("bridge br0"));
    assert_eq!(of(&findings, "interface_missing")[0]["where"], "watch.interfaces: ppp*");

    // The default route leaves by another one.
    ip("route add default via 192.0.2.100 dev lan0");
    let (code, findings) = ground.doctor(&config);
    let found = of(&findings, "default_route_elsewhere");
    assert!(code == 4 && found[0]["what"].as_str().unwrap().contains("lan0"), "{findings:#?}");
    ip("route del default");

    // The wrong interface: a connection is there that nobody follows.
    let other = Settings { interfaces: "[\"other1\"]".into(), ..settings.clone() };
    ip("link set other1 up");
    ground.nft("table inet t {\n chain c { type filter hook forward priority 0; ct state established accept; }\n}\n");
    let mut gateway = Gateway::start(&ground.lab, &other, &[]).unwrap();
    ground.transfers(&[(Mode::Epsv, Family::V4)]);
    let quiet = ["--quiet", "1ms", "-o", "json"];
    let (code, out, _) = ground.run(&["doctor", "-c"], gateway.config(), &quiet);
    let findings: Vec<Value> = serde_json::from_str(&out).unwrap();
    let found = of(&findings, "control_unseen");
    assert!(code == 4 && found.len() == 1 && found[0]["where"] == "watched: other1", "{findings:#?}");
    gateway.stop().unwrap();

    // The right one: everything is seen.
    let mut gateway = Gateway::start(&ground.lab, &settings, &[]).unwrap();
    ground.transfers(&[(Mode::Epsv, Family::V4)]);
    let (code, out, _) = ground.run(&["doctor", "-c"], gateway.config(), &quiet);
    let findings: Vec<Value> = serde_json::from_str(&out).unwrap();
    assert!(code == 0 && of(&findings, "control_unseen").is_empty(), "{findings:#?}");
    let hooks = of(&findings, "hooks")[0]["what"].as_str().unwrap();
    assert!(hooks.contains("in: ftp_ingress") && hooks.contains("out: ftp_egress"), "{hooks}");
    gateway.stop().unwrap();
}
