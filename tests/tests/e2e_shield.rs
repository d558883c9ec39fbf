//! The shield in XDP on a gateway: what nobody negotiated dies there, before TC and the stack see it, and everything else goes
//! on as without it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, SocketAddrV4},
    time::Duration,
};

use aya::{
    Ebpf,
    programs::{LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode, tc::TcAttachOptions},
};
use ftp_helper::{
    api::{Filter, ShieldKind, Status},
    dataplane::{Direction, Guard, object},
    engine::policy::Mode,
    event::Kind,
    lab::{
        self, Host, Lab, LabOptions,
        servers::{Server, ServerKind, ServerOptions},
    },
};
use ftp_helper_common::counter::Counter;
use ftp_helper_tests::{
    connect::connect,
    flood::{Raw, nobody},
    gateway::{Gateway, PATIENCE, Settings, counter, program, traces, until},
    testrun::{self, Kernel, everybody},
    wire::{TRANSFERS, pass_through, run, transfers},
};

const HOOK: &str = "hook = \"xdp+tc\"\n";
/// How a shield is asked for, and where it is then: veth has native XDP.
const BOTH: [(&str, ShieldKind); 2] = [("native", ShieldKind::Native), ("generic", ShieldKind::Generic)];
/// A port that nobody negotiates.
const CLOSED: u16 = 60_001;
const TRIED: Duration = Duration::from_millis(300);

struct Ground {
    lab: Lab,
    server: Server,
}

impl Ground {
    fn new() -> Self {
        let lab = Lab::new(&LabOptions::default()).unwrap();
        let server = Server::start(lab.server(), ServerKind::Vsftpd, &ServerOptions::default()).unwrap();
        Self { lab, server }
    }

    fn settings(&self, mode: &'static str) -> Settings {
        Settings { watch: HOOK.to_owned(), ..Settings::guarded(&self.lab, mode) }
    }

    /// The transfers; each data connection had a pinhole and none came in vain.
    fn passes(&self, gateway: &Gateway) -> Status {
        pass_through(gateway, &self.lab, &self.server)
    }

    fn ends(&self, v6: bool) -> (IpAddr, IpAddr) {
        let (client, server) = (self.lab.client(), self.lab.server());
        if v6 { (client.v6().into(), server.v6().into()) } else { (client.v4().into(), server.v4().into()) }
    }

    /// That nobody answers on a port that was not negotiated, and that the shield has dropped all that was dropped.
    fn shields(&self, gateway: &Gateway) {
        let before = gateway.status().unwrap();
        self.is_closed();
        let after = gateway.status().unwrap();
        let grown = |name| counter(&after, name) - counter(&before, name);
        assert!(grown("syn_shielded") >= 2, "{:?}", after.counters);
        assert_eq!(grown("syn_denied"), grown("syn_shielded"), "{:?}", after.counters);
    }

    fn is_closed(&self) {
        for v6 in [false, true] {
            let (by, to) = self.ends(v6);
            let e = connect(self.lab.client(), by, SocketAddr::new(to, CLOSED), TRIED).unwrap_err();
            assert_eq!(e.kind(), std::io::ErrorKind::TimedOut, "{to}: {e}");
        }
    }

    /// SYNs from nowhere towards the server's host.
    fn syns(&self, to: impl Iterator<Item = u16> + Send) {
        let server = self.lab.server().v4();
        let send = || {
            let raw = Raw::open().unwrap();
            for (n, port) in to.enumerate() {
                raw.syn(nobody(n as u32), SocketAddrV4::new(server, port), n as u32).unwrap();
            }
        };
        self.lab.client().run_in(send).unwrap();
    }
}

fn shield_of(gateway: &Gateway, name: &str) -> Option<ShieldKind> {
    gateway.status().unwrap().interfaces.iter().find(|i| i.name == name)?.shield
}

/// The XDP program of an interface, as `ip` shows it.
fn xdp_of(host: &Host, interface: &str) -> Option<String> {
    let said = host.command("ip").args(["link", "show", "dev", interface]).output().unwrap();
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    text.lines().find(|l| l.contains("prog/xdp")).map(|l| l.trim().to_owned())
}

/// A program with tables of its own, ahead of ours at TC ingress: how many SYNs it has seen that ours would deny.
fn watcher(lab: &Lab) -> impl FnMut() -> u64 {
    let mut kernel = Kernel::load(&testrun::options());
    let guard = Guard {
        direction: Direction::In,
        networks: everybody(),
        initiators: everybody(),
        ports: CLOSED..=CLOSED,
        except: vec![],
    };
    let policy = ftp_helper::engine::Policy { mode: Mode::Observe, ..testrun::policy() };
    kernel.set(&policy, &[guard]);
    let program = kernel.plane().ebpf_mut().program_mut("ftp_ingress").unwrap();
    let program: &mut SchedClassifier = program.try_into().unwrap();
    let first = || TcAttachOptions::TcxOrder(LinkOrder::first());
    let attach = || program.attach_with_options("wan0", TcAttachType::Ingress, first());
    // The program holds the link.
    let _ = lab.gateway().run_in(attach).unwrap().unwrap();
    move || kernel.plane().counters().unwrap().get(Counter::SynWouldDeny)
}

#[test]
fn transfers_pass_and_the_rest_dies_before_tc_sees_it() {
    if !lab::require_root() {
        return;
    }
    let ground = Ground::new();
    let mut seen_at_tc = watcher(&ground.lab);
    for (how, kind) in BOTH {
        let mut gateway = Gateway::start(&ground.lab, &ground.settings("drop"), &["--shield", how]).unwrap();
        assert_eq!(shield_of(&gateway, "wan0"), Some(kind));
        let table = gateway.data(&["status"]).unwrap().out;
        assert!(table.contains(&format!("{how} XDP, ")), "{table}");
        ground.passes(&gateway);
        ground.shields(&gateway);
        assert_eq!(seen_at_tc(), 0, "{how}: TC has seen a SYN that XDP was to drop");
        // Each is counted once, by its port too, and told once.
        let told = |g: &Gateway| {
            let denied = Filter { event: vec![Kind::Denied], ..Filter::default() };
            g.events(denied).unwrap().len()
        };
        let (before, events) = (gateway.status().unwrap(), told(&gateway));
        ground.syns(50_001..=50_020);
        let grown = |s: &Status, name| counter(s, name) - counter(&before, name);
        let all = || gateway.status().ok().filter(|s| grown(s, "syn_denied") >= 20);
        let after = until("all are counted", all).unwrap();
        until("all are told", || (told(&gateway) >= events + 20).then_some(())).unwrap();
        assert_eq!(told(&gateway), events + 20);
        assert_eq!((grown(&after, "syn_denied"), grown(&after, "syn_shielded")), (20, 20));
        let by_port: BTreeMap<u16, u64> = after.denied.iter().map(|d| (d.port, d.denied)).collect();
        assert!((50_001..=50_020).all(|p| by_port.get(&p) == Some(&1)), "{by_port:?}");
        let done = gateway.stop().unwrap();
        assert!(done.success() && xdp_of(ground.lab.gateway(), "wan0").is_none(), "{}", done.output);
    }
    // The same without it, which is what TC sees then.
    let mut gateway = Gateway::start(&ground.lab, &Settings::guarded(&ground.lab, "drop"), &[]).unwrap();
    ground.is_closed();
    assert!(seen_at_tc() >= 2);
    assert_eq!(counter(&gateway.status().unwrap(), "syn_shielded"), 0);
    gateway.stop().unwrap();
}

/// The daemon alone opens: a SYN that comes before its pinhole is none of the shield's.
#[test]
fn what_came_too_early_is_kept_as_without_it() {
    if !lab::require_root() {
        return;
    }
    let ground = Ground::new();
    for (how, _) in BOTH {
        let arguments = ["--shield", how, "--no-fast-path"];
        let mut gateway = Gateway::start(&ground.lab, &ground.settings("drop"), &arguments).unwrap();
        transfers(&ground.lab, ground.lab.client(), &ground.server);
        let status = gateway.status().unwrap();
        assert_eq!((counter(&status, "syn_denied"), counter(&status, "syn_shielded")), (0, 0), "{:?}", status.counters);
        gateway.stop().unwrap();
    }
}

#[test]
fn observe_drops_nothing() {
    if !lab::require_root() {
        return;
    }
    let ground = Ground::new();
    let mut gateway = Gateway::start(&ground.lab, &ground.settings("observe"), &[]).unwrap();
    assert_eq!(shield_of(&gateway, "wan0"), Some(ShieldKind::Native));
    ground.passes(&gateway);
    for v6 in [false, true] {
        let (by, to) = ground.ends(v6);
        let e = connect(ground.lab.client(), by, SocketAddr::new(to, CLOSED), PATIENCE).unwrap_err();
        assert_eq!(e.kind(), std::io::ErrorKind::ConnectionRefused, "{e}");
    }
    let status = gateway.status().unwrap();
    let of = |name| counter(&status, name);
    assert_eq!((of("syn_would_deny"), of("syn_denied"), of("syn_shielded")), (2, 0, 0));
    // Read again in another mode, the same programs drop.
    gateway.reload(&ground.settings("drop")).unwrap();
    ground.shields(&gateway);
    gateway.stop().unwrap();
}

/// A shield outlives its daemon, is replaced where the next one wants it, and is gone where not.
#[test]
fn a_shield_is_taken_over_replaced_and_taken_off() {
    if !lab::require_root() {
        return;
    }
    let ground = Ground::new();
    let host = ground.lab.gateway();
    ground.lab.plug(host, "wan1", 2).unwrap();
    let both = Settings { interfaces: "[\"wan0\", \"wan1\"]".to_owned(), ..ground.settings("drop") };
    for (how, kind) in BOTH {
        let mut gateway = Gateway::start(&ground.lab, &both, &["--shield", how]).unwrap();
        let first = xdp_of(host, "wan0").expect("a program");
        gateway.kill().unwrap();
        // Nobody is there, and it goes on.
        assert_eq!(xdp_of(host, "wan0").as_ref(), Some(&first));
        ground.is_closed();
        gateway.start_again().unwrap();
        let second = xdp_of(host, "wan0").expect("a program");
        assert!(second != first && shield_of(&gateway, "wan0") == Some(kind), "{second}");
        assert!(counter(&gateway.status().unwrap(), "syn_shielded") >= 2, "counted while nobody was there");
        ground.passes(&gateway);
        ground.shields(&gateway);
        // Tables of another size are others, and the program is replaced all the same.
        gateway.kill().unwrap();
        let report = {
            let larger = Settings { sections: "[limits]\nsessions = 3000\n".to_owned(), ..both.clone() };
            gateway.set(&larger);
            gateway.start_again().unwrap();
            ground.passes(&gateway);
            ground.shields(&gateway);
            // What was taken over is let go as well.
            let one = Settings { interfaces: "[\"wan0\"]".to_owned(), ..larger };
            gateway.reload(&one).unwrap();
            // The kernel lets go of a link some time after its pin is gone.
            let gone = || {
                let left = traces(host).unwrap();
                let taken_off = xdp_of(host, "wan1").is_none() && !left.iter().any(|t| t.contains("attached to wan1"));
                taken_off.then_some(())
            };
            until("nothing is attached to wan1", gone).unwrap();
            gateway.reload(&Settings { watch: String::new(), ..one }).unwrap()
        };
        assert_eq!(report.needs_restart, ["watch.hook"]);
        ground.shields(&gateway);
        // And here is the restart, after a death.
        gateway.kill().unwrap();
        gateway.start_again().unwrap();
        assert_eq!(shield_of(&gateway, "wan0"), None);
        until("the shield is off", || xdp_of(host, "wan0").is_none().then_some(())).unwrap();
        ground.passes(&gateway);
        gateway.stop().unwrap();
        until("nothing is left", || traces(host).unwrap().is_empty().then_some(())).unwrap();
    }
}

fn doctor(ground: &Ground) -> (i32, Vec<serde_json::Value>) {
    let file = ground.lab.directory().join("doctor.toml");
    std::fs::write(&file, ground.settings("drop").text(&ground.lab.directory().join("none.sock"))).unwrap();
    let mut doctor = ground.lab.gateway().command(program().unwrap());
    let said = doctor.args(["doctor", "-o", "json", "-c"]).arg(&file).output().unwrap();
    let all: Vec<serde_json::Value> = serde_json::from_slice(&said.stdout).unwrap();
    (said.status.code().unwrap(), all.into_iter().filter(|f| f["code"] == "shield").collect())
}

/// Another's program stays where it is, ours does not start, and leaves nothing; `doctor` has said so.
#[test]
fn another_program_in_xdp_is_not_pushed_off() {
    if !lab::require_root() {
        return;
    }
    let ground = Ground::new();
    let host = ground.lab.gateway();
    let (_, found) = doctor(&ground);
    assert!(found.len() == 1 && found[0]["severity"] == "info", "{found:#?}");
    // One of ours under another name stands for it.
    let renamed = "not_shield";
    let mut bytes = object().to_vec();
    for at in 0..bytes.len() - renamed.len() {
        if bytes[at..].starts_with(b"ftp_shield") {
            bytes[at..at + renamed.len()].copy_from_slice(renamed.as_bytes());
        }
    }
    let mut other = Ebpf::load(&bytes).unwrap();
    let program: &mut Xdp = other.program_mut(renamed).unwrap().try_into().unwrap();
    program.load().unwrap();
    for mode in [XdpMode::Driver, XdpMode::Skb] {
        let id = host.run_in(|| program.attach("wan0", mode)).unwrap().unwrap();
        let (code, found) = doctor(&ground);
        assert!(code == 4 && found.len() == 1 && found[0]["severity"] == "error", "{found:#?}");
        assert!(found[0]["what"].as_str().unwrap().contains(renamed), "{found:#?}");
        let theirs = xdp_of(host, "wan0").expect("a program");
        let error = format!("{:#}", Gateway::start(&ground.lab, &ground.settings("drop"), &[]).unwrap_err());
        for part in ["can't attach to wan0", "another XDP program is attached to wan0", "or write hook = \"tc\""] {
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(xdp_of(host, "wan0"), Some(theirs));
        let left = traces(host).unwrap();
        assert!(left.iter().all(|t| t.contains("prog/xdp")) && left.len() == 1, "{left:?}");
        program.detach(id).unwrap();
    }
    for (how, severity) in [("native", "info"), ("generic", "warning")] {
        let mut gateway = Gateway::start(&ground.lab, &ground.settings("drop"), &["--shield", how]).unwrap();
        let (_, found) = doctor(&ground);
        assert!(found.len() == 1 && found[0]["severity"] == severity, "{found:#?}");
        assert!(found[0]["what"].as_str().unwrap().contains(&format!("{how} XDP")), "{found:#?}");
        gateway.stop().unwrap();
    }
}

/// A driver without XDP: the stack's, and it is said; asked for native and nothing else, it is refused.
#[test]
fn without_native_xdp_it_is_generic_and_said() {
    if !lab::require_root() {
        return;
    }
    let ground = Ground::new();
    let host = ground.lab.gateway();
    let said = host.command("ip").args(["-j", "addr", "show", "dev", "wan0"]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    let addresses = json[0]["addr_info"].as_array().unwrap().iter().filter(|a| a["scope"] == "global");
    let moved: Vec<String> = addresses
        .map(|a| format!("ip addr add {}/{} dev br0", a["local"].as_str().unwrap(), a["prefixlen"]))
        .map(|line| if line.contains("::") { line + " nodad" } else { line })
        .collect();
    run(
        host,
        &[
            "ip addr flush dev wan0",
            "ip link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0",
            "ip link set br0 up",
            "ip link set wan0 master br0",
        ],
    );
    run(host, &moved.iter().map(String::as_str).collect::<Vec<_>>());
    let settings = Settings { interfaces: "[\"br0\"]".to_owned(), ..ground.settings("drop") };
    let mut gateway = Gateway::start(&ground.lab, &settings, &[]).unwrap();
    assert_eq!(shield_of(&gateway, "br0"), Some(ShieldKind::Generic));
    let output = gateway.output().unwrap();
    assert!(output.contains("br0: no native XDP (the driver has no native XDP): the shield is generic"), "{output}");
    ground.passes(&gateway);
    ground.shields(&gateway);
    gateway.stop().unwrap();
    let error = format!("{:#}", Gateway::start(&ground.lab, &settings, &["--shield", "native"]).unwrap_err());
    assert!(error.contains("br0 takes no XDP program (the driver has no native XDP): write hook = \"tc\""), "{error}");
    assert_eq!(traces(host).unwrap(), [""; 0]);
}

#[test]
fn an_interface_that_appears_gets_its_shield() {
    if !lab::require_root() {
        return;
    }
    let ground = Ground::new();
    let settings = Settings { interfaces: "[\"wan*\"]".to_owned(), ..ground.settings("drop") };
    let mut gateway = Gateway::start(&ground.lab, &settings, &[]).unwrap();
    for _ in 0..2 {
        ground.lab.plug(ground.lab.gateway(), "wan1", 2).unwrap();
        let there = || (shield_of(&gateway, "wan1") == Some(ShieldKind::Native)).then_some(());
        until("it has its shield", there).unwrap();
        assert!(xdp_of(ground.lab.gateway(), "wan1").is_some());
        run(ground.lab.gateway(), &["ip link del wan1"]);
        let gone = || gateway.status().ok()?.interfaces.iter().all(|i| i.name != "wan1").then_some(());
        until("it is let go", gone).unwrap();
    }
    gateway.stop().unwrap();
    assert_eq!(traces(ground.lab.gateway()).unwrap(), [""; 0]);
}

/// SYNs from nowhere into the guarded range, and beside them transfers that all complete.
#[test]
fn transfers_pass_beside_a_flood() {
    if !lab::require_root() {
        return;
    }
    const SYNS: u32 = 30_000;
    let ground = Ground::new();
    for (how, _) in BOTH {
        let mut gateway = Gateway::start(&ground.lab, &ground.settings("drop"), &["--shield", how]).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| ground.syns((0..SYNS).map(|n| 55_000 + (n % 10_000) as u16)));
            transfers(&ground.lab, ground.lab.client(), &ground.server);
        });
        let used = || gateway.status().ok().filter(|s| counter(s, "used") >= TRANSFERS);
        let status = until("every data connection is counted", used).unwrap();
        let of = |name| counter(&status, name);
        // The device's queue may lose some of them on the way.
        assert!(of("syn_shielded") > u64::from(SYNS) / 10, "{:?}", status.counters);
        assert_eq!((of("used"), of("syn_denied")), (TRANSFERS, of("syn_shielded")));
        gateway.stop().unwrap();
    }
}
