//! Interfaces as gateways have them: several uplinks, such as come and go, bridges, tags, large packets, and other
//! programs on the same hooks. (One without an Ethernet header is in `e2e_misc`.)

use std::net::{IpAddr, SocketAddr};

use aya::programs::{
    LinkOrder, SchedClassifier, TcAttachType,
    tc::{NlOptions, TcAttachOptions, TcHandle},
};
use ftp_helper::{
    api::{Asked, Status, Verdict},
    engine::policy::Mode,
    lab::{
        self, Lab, LabOptions, OUTSIDE_INTERFACE,
        dialogue::Dialogue,
        servers::{DIRECTORY, Server, ServerKind, ServerOptions},
    },
};
use ftp_helper_common::counter::Counter;
use ftp_helper_tests::{
    connect::connect,
    gateway::{Gateway, PATIENCE, Settings, counter, engine, until},
    testrun::{self, Kernel},
    wire::{Tag, Wire, pass_through, run, tap, transfers},
};

/// A line of `[watch]`.
const SHIELD: &str = "hook = \"xdp+tc\"\n";

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

    fn settings(&self, interfaces: &str) -> Settings {
        Settings { interfaces: interfaces.to_owned(), ..Settings::guarded(&self.lab, "drop") }
    }

    /// The transfers; each data connection had a pinhole, was followed to its start, and none came in vain.
    fn passes(&self, gateway: &Gateway) -> Status {
        pass_through(gateway, &self.lab, &self.server)
    }

    /// That nothing goes in to a port that nobody negotiated: it is denied here, and not lost elsewhere.
    fn is_guarded(&self, gateway: &Gateway, by: &str) {
        let before = counter(&gateway.status().unwrap(), "syn_denied");
        let to = SocketAddr::new(self.lab.server().v4().into(), 50_000);
        let by: IpAddr = by.parse().unwrap();
        let denied = std::thread::scope(|scope| {
            let attempt = scope.spawn(|| connect(self.lab.client(), by, to, std::time::Duration::from_secs(2)));
            let told =
                until("it is denied", || (counter(&gateway.status().ok()?, "syn_denied") > before).then_some(()));
            (told, attempt.join().unwrap())
        });
        denied.0.unwrap();
        assert_eq!(denied.1.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    }

    /// That all that was denied, the shield has dropped, where there is one; but for what was kept in vain first.
    fn is_shielded(&self, gateway: &Gateway) {
        let status = gateway.status().unwrap();
        let shield = status.interfaces.iter().any(|i| i.shield.is_some());
        let of = |name| counter(&status, name);
        let (denied, shielded, parked) = (of("syn_denied"), of("syn_shielded"), of("syn_parked"));
        assert!(denied > 0 && (shielded > 0) == shield, "{:?}", status.counters);
        assert!(!shield || (shielded..=shielded + parked).contains(&denied), "{:?}", status.counters);
    }

    fn client(&self) -> String {
        self.lab.client().v4().to_string()
    }

    /// A second interface of the gateway towards the outside.
    fn second_uplink(&self, name: &str) {
        self.lab.plug(self.lab.gateway(), name, 2).unwrap();
    }

    fn attached(&self, gateway: &Gateway, name: &str) -> Option<u32> {
        gateway.status().ok()?.interfaces.iter().find(|i| i.name == name).map(|i| i.ifindex)
    }
}

/// In by one and back by the other: one zone, whichever way a connection takes.
#[test]
fn several_uplinks_with_asymmetric_paths_are_one_zone() {
    if !lab::require_root() {
        return;
    }
    let ground = Ground::new();
    ground.second_uplink("wan1");
    run(
        ground.lab.gateway(),
        &["ip route add 203.0.113.10/32 dev wan1 src 203.0.113.2", "ip route add 2001:db8:a::a/128 dev wan1"],
    );
    let mut gateway = Gateway::start(&ground.lab, &ground.settings("[\"wan*\"]"), &[]).unwrap();
    assert_eq!(gateway.status().unwrap().interfaces.len(), 2);
    let packets = |direction: &str| {
        let mut ip = ground.lab.gateway().command("ip");
        let said = ip.args(["-s", "-j", "link", "show", "wan1"]).output().unwrap();
        let json: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
        json[0]["stats64"][direction]["packets"].as_u64().unwrap_or_else(|| panic!("{direction}: {json}"))
    };
    let (sent, received) = (packets("tx"), packets("rx"));
    ground.passes(&gateway);
    ground.is_guarded(&gateway, &ground.client());
    let (sent, received) = (packets("tx") - sent, packets("rx") - received);
    assert!(sent > 100 && received < sent / 4, "{sent} packets left by the second uplink, {received} came in by it");
    gateway.stop().unwrap();
}

/// By a pattern; the second time it has another number.
#[test]
fn an_interface_that_comes_and_goes_is_followed() {
    if !lab::require_root() {
        return;
    }
    let ground = Ground::new();
    let mut gateway = Gateway::start(&ground.lab, &ground.settings("[\"wan*\"]"), &[]).unwrap();
    let mut numbers = Vec::new();
    for _ in 0..2 {
        ground.second_uplink("wan1");
        let number = until("it is attached", || ground.attached(&gateway, "wan1")).unwrap();
        numbers.push(number);
        // Both ways by it. Who had its address before had another hardware address.
        run(
            ground.lab.client(),
            &[
                "ip neigh flush dev eth0",
                "ip route replace 192.0.2.0/24 via 203.0.113.2",
                "ip route replace 2001:db8:b::/64 via 2001:db8:a::2",
            ],
        );
        run(
            ground.lab.gateway(),
            &["ip route add 203.0.113.10/32 dev wan1 src 203.0.113.2", "ip route add 2001:db8:a::a/128 dev wan1"],
        );
        ground.passes(&gateway);
        ground.is_guarded(&gateway, &ground.client());
        run(ground.lab.gateway(), &["ip link del wan1"]);
        until("it is let go", || ground.attached(&gateway, "wan1").is_none().then_some(())).unwrap();
    }
    assert_ne!(numbers[0], numbers[1]);
    // The other one has worked all the time.
    run(ground.lab.client(), &["ip route del 192.0.2.0/24", "ip route del 2001:db8:b::/64"]);
    ground.passes(&gateway);
    gateway.stop().unwrap();
}

/// A policy may have 4,096 networks, and so may the one that follows it.
#[test]
fn addresses_for_which_there_is_no_room_change_nothing() {
    if !lab::require_root() {
        return;
    }
    let ground = Ground::new();
    let mut settings = ground.settings(&format!("[\"{OUTSIDE_INTERFACE}\"]"));
    settings.guards.push_str(&format!("[[guard]]\nnetworks = [\"@{OUTSIDE_INTERFACE}\"]\n"));
    let mut gateway = Gateway::start(&ground.lab, &settings, &[]).unwrap();
    let file = ground.lab.directory().join("addresses");
    let addresses = |word: &str, which: std::ops::Range<u32>| {
        let line = |n: u32| format!("addr {word} 10.9.{}.{}/32 dev {OUTSIDE_INTERFACE}\n", n / 256, n % 256);
        std::fs::write(&file, which.map(line).collect::<String>()).unwrap();
        run(ground.lab.gateway(), &[&format!("ip -batch {}", file.display())]);
    };
    // Followed are those there were when the daemon looked: it may have looked in between.
    let held = |n: u32| {
        let to = SocketAddr::from(([10, 9, (n >> 8) as u8, n as u8], 50_000));
        let asked = Asked { from: ground.lab.client().v4().into(), from_port: None, to };
        let is_denied = || Some(gateway.client().ok()?.why(asked).ok()?.verdict == Verdict::Denied);
        until("the address is guarded", || is_denied()?.then_some(())).unwrap();
    };
    // Far more than half of what there is room for, and then more of them.
    addresses("add", 0..3000);
    held(2999);
    addresses("add", 3000..4000);
    held(3999);
    addresses("add", 4000..4200);
    let refusal = "can't be followed; the old ones stay: the guards have 42";
    until(refusal, || gateway.output().ok()?.contains(refusal).then_some(())).unwrap();
    // It has tried again by then, says nothing more, and goes on. (With fewer of them it may have said so before.)
    let refusals = || gateway.output().unwrap().matches("can't be followed").count();
    let looks = || Some(engine(&gateway.status().ok()?, "audit_looks"));
    let before = (refusals(), looks().unwrap());
    until("it looks again", || (looks()? >= before.1 + 3).then_some(())).unwrap();
    assert_eq!(refusals(), before.0, "{}", gateway.output().unwrap());
    ground.is_guarded(&gateway, &ground.client());
    ground.passes(&gateway);
    held(3999);
    addresses("del", 1..4200);
    until("they are followed", || gateway.output().ok()?.ends_with("have changed\n").then_some(())).unwrap();
    held(0);
    ground.is_guarded(&gateway, &ground.client());
    gateway.stop().unwrap();
}

/// The gateway has no address: it is a bridge between both networks, and the programs are on its outer port.
#[test]
fn a_transparent_bridge_is_a_gateway() {
    if !lab::require_root() {
        return;
    }
    let ground = Ground::new();
    run(
        ground.lab.gateway(),
        &[
            "ip addr flush dev wan0",
            "ip addr flush dev lan0",
            "ip link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0",
            "ip link set br0 up",
            "ip link set wan0 master br0",
            "ip link set lan0 master br0",
        ],
    );
    run(ground.lab.client(), &["ip route add 192.0.2.0/24 dev eth0", "ip route add 2001:db8:b::/64 dev eth0"]);
    run(ground.lab.server(), &["ip route add 203.0.113.0/24 dev eth0", "ip route add 2001:db8:a::/64 dev eth0"]);
    for arguments in [&[][..], &["--no-fast-path"]] {
        let mut gateway = Gateway::start(&ground.lab, &ground.settings("[\"wan0\"]"), arguments).unwrap();
        if arguments.is_empty() {
            ground.passes(&gateway);
            ground.is_guarded(&gateway, &ground.client());
        } else {
            // What comes too early is kept and sent on here as well.
            transfers(&ground.lab, ground.lab.client(), &ground.server);
            assert_eq!(counter(&gateway.status().unwrap(), "syn_denied"), 0);
        }
        gateway.stop().unwrap();
    }
    // `doctor` has nothing against it.
    let file = ground.lab.directory().join("bridge.toml");
    std::fs::write(&file, ground.settings("[\"wan0\"]").text(&ground.lab.directory().join("none.sock"))).unwrap();
    let mut doctor = ground.lab.gateway().command(ftp_helper_tests::gateway::program().unwrap());
    let said = doctor.args(["doctor", "-o", "json", "-c"]).arg(&file).output().unwrap();
    let findings: Vec<serde_json::Value> = serde_json::from_slice(&said.stdout).unwrap();
    let found: Vec<_> = findings.iter().filter(|f| f["code"] == "interface_enslaved").collect();
    assert!(found.len() == 1 && found[0]["severity"] == "info", "{findings:#?}");
}

/// A bridge that passes tagged frames, with the programs on its outer port.
fn tagged(tags: &[Tag]) {
    let ground = Ground::new();
    let (client, server, gateway) = (ground.lab.client(), ground.lab.server(), ground.lab.gateway());
    let _outside = Wire::new(tap(client, "t0"), tap(gateway, "tout"), tags);
    let _inside = Wire::new(tap(server, "t0"), tap(gateway, "tin"), tags);
    run(
        gateway,
        &[
            "ip link add br1 type bridge forward_delay 0 stp_state 0 mcast_snooping 0",
            "ip link set tout master br1 up",
            "ip link set tin master br1 up",
            "ip link set br1 up",
        ],
    );
    run(
        client,
        &[
            "ip link set t0 up",
            "ip addr add 198.18.0.10/24 dev t0",
            "ip addr add 2001:db8:d::10/64 dev t0 nodad",
            "ip route add 192.0.2.100/32 dev t0 src 198.18.0.10",
            "ip route add 2001:db8:b::64/128 dev t0 src 2001:db8:d::10",
        ],
    );
    run(
        server,
        &[
            "ip link set t0 up",
            "ip addr add 198.18.0.100/24 dev t0",
            "ip addr add 2001:db8:d::100/64 dev t0 nodad",
            "ip addr add 2001:db8:b::64/128 dev t0 nodad",
        ],
    );
    let inside = r#"["192.0.2.100", "2001:db8:b::64"]"#;
    let settings = Settings {
        guards: format!(
            "[[guard]]\nnetworks = {inside}\n[[guard]]\ndirection = \"out\"\nnetworks = [\"198.18.0.10\", \
             \"2001:db8:d::10\"]\ninitiators = {inside}\n"
        ),
        ..ground.settings("[\"tout\"]")
    };
    for watch in ["", SHIELD] {
        let settings = Settings { watch: watch.to_owned(), ..settings.clone() };
        let mut running = Gateway::start(&ground.lab, &settings, &[]).unwrap();
        ground.passes(&running);
        ground.is_guarded(&running, "198.18.0.10");
        ground.is_shielded(&running);
        running.stop().unwrap();
    }
    // A tag is part of what is kept and sent on.
    let mut running = Gateway::start(&ground.lab, &settings, &["--no-fast-path"]).unwrap();
    transfers(&ground.lab, client, &ground.server);
    assert_eq!(counter(&running.status().unwrap(), "syn_denied"), 0);
    running.stop().unwrap();
}

#[test]
fn tagged_frames_are_followed() {
    if !lab::require_root() {
        return;
    }
    tagged(&[(0x8100, 7)]);
}

#[test]
fn double_tagged_frames_are_followed() {
    if !lab::require_root() {
        return;
    }
    tagged(&[(0x88a8, 7), (0x8100, 8)]);
}

/// How many packets larger than so many bytes the gateway has forwarded from control ports.
fn counting_larger_than(ground: &Ground, bytes: u32) -> impl Fn() -> u64 {
    let file = ground.lab.directory().join("count.nft");
    let rule = format!(
        "table inet count {{\n chain c {{ type filter hook forward priority 0; tcp sport 21 meta length > {bytes} counter; }}\n}}\n"
    );
    std::fs::write(&file, rule).unwrap();
    ground.lab.load_ruleset(Some(&file)).unwrap();
    let gateway = ground.lab.gateway().clone();
    move || {
        let said = gateway.command("nft").args(["-j", "list", "chain", "inet", "count", "c"]).output().unwrap();
        let json: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
        let rules = json["nftables"].as_array().unwrap();
        let expr = rules.iter().find_map(|r| r["rule"]["expr"].as_array()).unwrap();
        expr.iter().find_map(|e| e["counter"]["packets"].as_u64()).unwrap()
    }
}

/// Transfers, and a control reply of many lines in packets larger than `bytes`, behind which the dialogue goes on.
fn large_packets(ground: &Ground, bytes: u32) {
    for i in 0..400 {
        let name = format!("one-of-very-many-files-with-a-long-name-{i:04}");
        std::fs::write(ground.server.public().join(name), "").unwrap();
    }
    let larger = counting_larger_than(ground, bytes);
    for watch in ["", SHIELD] {
        large_packets_with(ground, Settings { watch: watch.to_owned(), ..ground.settings("[\"wan0\"]") });
        assert!(larger() > 0, "no control packet of more than {bytes} bytes has passed");
    }
}

fn large_packets_with(ground: &Ground, settings: Settings) {
    let mut gateway = Gateway::start(&ground.lab, &settings, &[]).unwrap();
    ground.passes(&gateway);
    let client = ground.lab.client();
    for to in [IpAddr::from(ground.lab.server().v4()), ground.lab.server().v6().into()] {
        let by: IpAddr = if to.is_ipv4() { client.v4().into() } else { client.v6().into() };
        let mut dialogue = Dialogue::open(client, SocketAddr::new(to, 21), PATIENCE).unwrap();
        dialogue.login(ground.server.login()).unwrap();
        let reply = dialogue.ask(&format!("STAT {DIRECTORY}")).unwrap();
        assert!(reply.code == 213 && reply.text.len() > 20_000, "{}: {} bytes", reply.code, reply.text.len());
        let port = dialogue.epsv().unwrap();
        drop(connect(client, by, SocketAddr::new(to, port), PATIENCE).unwrap());
        dialogue.ask("QUIT").unwrap();
    }
    assert_eq!(counter(&gateway.status().unwrap(), "control_dropped"), 0);
    ground.is_guarded(&gateway, &ground.client());
    ground.is_shielded(&gateway);
    gateway.stop().unwrap();
}

/// Packets that the sender's device is to cut pass the hooks in one piece.
#[test]
fn super_packets_are_followed() {
    if !lab::require_root() {
        return;
    }
    large_packets(&Ground::new(), 1500);
}

/// Jumbo frames, none of them larger than the MTU.
#[test]
fn an_mtu_of_9000_is_followed() {
    if !lab::require_root() {
        return;
    }
    let ground = Ground::new();
    ground.lab.set_mtu(9000).unwrap();
    for host in ground.lab.hosts() {
        let links = if host.name() == "gateway" { vec!["wan0", "lan0"] } else { vec!["eth0"] };
        for link in links {
            run(host, &[&format!("ip link set {link} gso_max_segs 1")]);
        }
    }
    large_packets(&ground, 3000);
}

/// Programs of others before and behind ours, in the same chain and on clsact: all see every packet, and theirs stay when
/// ours go.
#[test]
fn other_programs_on_the_same_hooks_go_on_working() {
    if !lab::require_root() {
        return;
    }
    for attach in ["auto", "clsact"] {
        let ground = Ground::new();
        // The same programs with tables of their own and an observing policy stand for others: they count what they see.
        let mut others: Vec<Kernel> = (0..4).map(|_| Kernel::load(&testrun::options())).collect();
        let counted = |k: &mut Kernel| k.plane().counters().unwrap().get(Counter::Control);
        for k in &mut others {
            k.policy(|p| p.mode = Mode::Observe);
        }
        let filter = |priority| {
            move || TcAttachOptions::Netlink(NlOptions { priority, handle: TcHandle::new(0, 1), classid: None })
        };
        let mut links = Vec::new();
        let mut add = |k: &mut Kernel, options: &(dyn Fn() -> TcAttachOptions + Sync)| {
            for (name, direction) in [("ftp_ingress", TcAttachType::Ingress), ("ftp_egress", TcAttachType::Egress)] {
                let program = k.plane().ebpf_mut().program_mut(name).unwrap();
                let program: &mut SchedClassifier = program.try_into().unwrap();
                let attach = || program.attach_with_options("wan0", direction, options());
                let id = ground.lab.gateway().run_in(attach).unwrap().unwrap();
                links.push(id);
            }
        };
        let [first, second, third, fourth] = others.as_mut_slice() else { unreachable!() };
        run(ground.lab.gateway(), &["tc qdisc add dev wan0 clsact"]);
        add(first, &|| TcAttachOptions::TcxOrder(LinkOrder::first()));
        // A filter before ours where ours is one, too, and one behind it.
        let (before, behind) = (filter(5), filter(0x3000));
        add(second, &before);
        add(fourth, &behind);
        let mut gateway = Gateway::start(&ground.lab, &ground.settings("[\"wan0\"]"), &["--attach", attach]).unwrap();
        add(third, &|| TcAttachOptions::TcxOrder(LinkOrder::last()));
        let before = [counted(first), counted(second), counted(third), counted(fourth)];
        let status = ground.passes(&gateway);
        let ours = counter(&status, "control_segments");
        let after = [counted(first), counted(second), counted(third), counted(fourth)];
        for (i, (before, after)) in before.iter().zip(after).enumerate() {
            // One that comes behind ours does not see what ours has dropped; there was nothing to drop.
            assert!(
                after - before >= ours && ours > 0,
                "{attach}: program {i} saw {} of {ours} segments",
                after - before
            );
        }
        ground.is_guarded(&gateway, &ground.client());
        gateway.stop().unwrap();
        let before = [counted(first), counted(second), counted(third), counted(fourth)];
        transfers(&ground.lab, ground.lab.client(), &ground.server);
        let after = [counted(first), counted(second), counted(third), counted(fourth)];
        assert!(before.iter().zip(after).all(|(b, a)| a > *b), "{attach}: {before:?} and then {after:?}");
    }
}
