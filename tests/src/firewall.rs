//! Rulesets as administrators have them, on a lab's gateway: loaded, looked at by `doctor`, changed as `integrate` prints,
//! and tried by transfers and scans.
//!
//! A failure ends the test: these are its steps.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
};

use ftp_helper::{
    api::Status,
    lab::{
        self, Host, Lab, LabOptions,
        clients::{ClientKind, Family, Job, Mode},
        process::Process,
        scan::{ScanOptions, scan},
        servers::{Server, ServerKind, ServerOptions, pattern},
    },
};
use serde_json::Value;

use crate::gateway::{Gateway, PATIENCE, Settings, list, program, until};

/// `/etc/nftables.conf` of Debian 12.
pub const DEBIAN: &str = "flush ruleset

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

/// One that an administrator has written, with a wide range.
pub const BY_HAND: &str = "flush ruleset
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

/// One that has the kernel's own helper open what it reads.
pub const WITH_HELPER: &str = "flush ruleset
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
pub const IPTABLES: &str = "
-P FORWARD DROP
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A FORWARD -i lan0 -j ACCEPT
-A FORWARD -p tcp -m tcp --dport 21 -j ACCEPT
-A FORWARD -p tcp -m conntrack --ctstate NEW -m multiport --dports 8443,40000:60000 -j ACCEPT
-A FORWARD -p tcp -m tcp --dport 45000:55000 -m comment --comment passive -j ACCEPT
-t raw -A PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp
";

/// What a scan looks at: what the rulesets above left open, and more.
pub const SCANNED: std::ops::RangeInclusive<u16> = 48_000..=61_000;

/// A lab with a server, whose gateway has a ruleset.
pub struct Ground {
    /// The lab.
    pub lab: Lab,
    /// The server: inside, or on the gateway.
    pub server: Server,
    upload: PathBuf,
}

impl Ground {
    /// vsftpd inside, or on the gateway.
    pub fn new(on_gateway: bool) -> Self {
        let lab = Lab::new(&LabOptions::default()).unwrap();
        let host = if on_gateway { lab.gateway() } else { lab.server() };
        let server = Server::start(host, ServerKind::Vsftpd, &ServerOptions::default()).unwrap();
        let upload = lab.directory().join("upload.bin");
        std::fs::write(&upload, pattern(50_000)).unwrap();
        Self { lab, server, upload }
    }

    /// Guards for the server, in a mode, with fed sets in a table or none.
    pub fn settings(&self, mode: &'static str, sets: &str) -> Settings {
        let host = self.server.host();
        let address = list(&[host.v4().into(), host.v6().into()]);
        let mut settings = Settings::guarded(&self.lab, mode);
        settings.guards = format!("[[guard]]\nnetworks = {address}\n");
        let settings = settings.section(&format!("[[server]]\naddress = {address}\npassive_ports = \"50000-50099\""));
        if sets.is_empty() { settings } else { settings.section(&format!("[nftables]\ntable = \"{sets}\"")) }
    }

    /// A configuration file, and where its daemon would be.
    pub fn file(&self, settings: &Settings) -> PathBuf {
        let file = self.lab.directory().join("doctor.toml");
        std::fs::write(&file, settings.text(&self.lab.directory().join("doctor.sock"))).unwrap();
        file
    }

    /// Loads a ruleset of nftables.
    pub fn nft(&self, ruleset: &str) {
        let file = self.lab.directory().join("ruleset.nft");
        std::fs::write(&file, ruleset).unwrap();
        self.lab.load_ruleset(Some(&file)).unwrap();
    }

    /// Transfers that have to succeed.
    pub fn transfers(&self, modes: &[(Mode, Family)]) {
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

    /// Loads [`IPTABLES`] for both families.
    pub fn iptables(&self) {
        for program in ["iptables", "ip6tables"] {
            for line in IPTABLES.lines().filter(|l| !l.is_empty()) {
                self.gateway(program, &line.split(' ').collect::<Vec<_>>());
            }
        }
    }

    /// Runs a command on the gateway, which has to succeed.
    pub fn gateway(&self, program: &str, args: &[&str]) {
        let mut command = self.lab.gateway().command(program);
        command.args(args);
        let done = Process::spawn(command).unwrap().finish(PATIENCE).unwrap();
        assert!(done.success(), "{program} {}: {}", args.join(" "), done.output);
    }

    /// How many ports answer, from the client and from a stranger.
    pub fn answering(&self, family: Family) -> usize {
        let target: IpAddr = self.server.host().address(family);
        let of = |host: &Host| {
            let found = scan(host, target, SCANNED, &ScanOptions::default()).unwrap();
            found.open.len() + found.closed.len()
        };
        of(self.lab.client()) + of(self.lab.stranger())
    }

    /// Runs what `integrate` prints.
    pub fn integrate(&self, with: &str, config: &Path, environment: &[(&str, String)]) -> String {
        let (code, script, said) = self.run(&["integrate", with, "--print", "-c"], config, &[]);
        assert_eq!(code, 0, "{said}");
        let mut sh = self.lab.gateway().command("sh");
        sh.args(["-e", "-c", &script]).envs(environment.iter().cloned());
        let done = Process::spawn(sh).unwrap().finish(PATIENCE).unwrap();
        assert!(done.success(), "{script}\nsaid\n{}", done.output);
        script
    }

    /// Runs the program on the gateway; its exit code, and what it has said.
    pub fn run(&self, args: &[&str], config: &Path, more: &[&str]) -> (i32, String, String) {
        let mut command: Command = self.lab.gateway().command(program().unwrap());
        let output = command.args(args).arg(config).args(more).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    /// Exit code and findings of `doctor`.
    pub fn doctor(&self, config: &Path) -> (i32, Vec<Value>) {
        let (code, out, said) = self.run(&["doctor", "-o", "json", "-c"], config, &[]);
        (code, serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{said}")))
    }

    /// That nothing is left to say but for information and warnings.
    pub fn healthy(&self, config: &Path, when: &str) {
        let (code, findings) = self.doctor(config);
        let errors: Vec<&Value> = findings.iter().filter(|f| f["severity"] == "error").collect();
        assert!(code == 0 && errors.is_empty(), "{when}: {errors:#?}");
    }

    /// With the ruleset as it was made: transfers and scans in `observe` and in `drop`.
    pub fn holds(&self, sets: &str) {
        let all = [(Mode::Pasv, Family::V4), (Mode::Epsv, Family::V6), (Mode::Port, Family::V4)];
        self.holds_in("observe", sets, &all);
        self.holds_in("drop", sets, &[(Mode::Epsv, Family::V4), (Mode::Eprt, Family::V6)]);
    }

    /// The same in one mode; what the daemon has counted in the end.
    pub fn holds_in(&self, mode: &'static str, sets: &str, transfers: &[(Mode, Family)]) -> Status {
        let settings = self.settings(mode, sets);
        self.healthy(&self.file(&settings), mode);
        let mut gateway = Gateway::start(&self.lab, &settings, &[]).unwrap();
        self.transfers(transfers);
        for family in Family::ALL {
            assert_eq!(self.answering(family), 0, "over IPv{family} in {mode}");
        }
        let status = gateway.status().unwrap();
        assert_eq!(status.nftables.as_ref().map_or(0, |n| n.failed), 0);
        gateway.stop().unwrap();
        status
    }
}

/// The findings of a code.
pub fn of<'a>(findings: &'a [Value], code: &str) -> Vec<&'a Value> {
    findings.iter().filter(|f| f["code"] == code).collect()
}

/// firewalld as `cargo xtask setup` has unpacked it: installed, it would take over the firewall of the host.
pub struct Firewalld {
    /// Where it keeps its configuration, and its bus.
    pub directory: PathBuf,
    _daemon: Process,
    _bus: Process,
}

impl Firewalld {
    /// Starts it on the gateway, and waits until it runs.
    pub fn start(lab: &Lab) -> Self {
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
    pub fn environment(directory: &Path) -> [(&'static str, String); 2] {
        let path = std::env::var("PATH").unwrap_or_default();
        [
            ("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={}/bus", directory.display())),
            ("PATH", format!("{}/bin:{path}", directory.display())),
        ]
    }

    /// Lets everybody outside reach FTP, and the whole passive range with it; what is inside is trusted.
    pub fn serve_widely(&self) {
        self.tell(&["--zone=public", "--change-interface=wan0"]);
        self.tell(&["--zone=public", "--add-service=ftp"]);
        self.tell(&["--zone=public", "--add-port=40000-60000/tcp"]);
        self.tell(&["--zone=trusted", "--change-interface=lan0"]);
    }

    /// Runs `firewall-cmd`, which has to succeed.
    pub fn tell(&self, args: &[&str]) {
        let mut command = Command::new(self.directory.join("bin/firewall-cmd"));
        command.args(args).envs(Self::environment(&self.directory));
        let done = Process::spawn(command).unwrap().finish(PATIENCE).unwrap();
        assert!(done.success(), "firewall-cmd {}: {}", args.join(" "), done.output);
    }
}
