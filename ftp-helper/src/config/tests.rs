//! Golden tests: for each kind of mistake the whole message with its place, and the design's own example.

use std::{path::Path, time::Duration};

use super::*;
use crate::engine::policy::{ActiveOpen, Mark, Mode, Modes, Nat, SourcePort};

const WATCH: &str = "[watch]\ninterfaces = [\"wan0\"]\n";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("f.toml"))
}

/// The messages for a text behind a valid `[watch]`, whose two lines come first.
fn mistakes(text: &str) -> String {
    match parse(&format!("{WATCH}{text}")) {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(e) => e.to_string(),
    }
}

fn bare(text: &str) -> String {
    parse(text).expect_err("accepted").to_string()
}

#[test]
fn the_least_that_must_be_said() {
    let config = parse(WATCH).unwrap();
    assert_eq!(config.watch.interfaces, ["wan0"]);
    assert_eq!(config.watch.control_ports, [21]);
    assert_eq!(config.policy, Policy::default());
    assert_eq!(config.ring_bytes, 16 << 20);
    assert_eq!(config.api, Api::default());
    assert_eq!(config.api.metrics, None);
    assert!(config.guards.is_empty());
}

#[test]
fn everything_that_can_be_said() {
    let text = r#"
mode = "drop"
on_daemon_loss = "close"
[watch]
interfaces    = ["wan0", "ppp*"]
control_ports = [2121, 21]
hook          = "tc"
[[guard]]
direction    = "in"
networks     = ["192.0.2.10", "2001:db8::10", "@wan0"]
initiators   = ["0.0.0.0/0", "::/0"]
ports        = "1024-65535"
except_ports = [3389, "8080-8090"]
[[guard]]
direction  = "out"
networks   = ["0.0.0.0/0"]
initiators = ["192.0.2.10"]
[policy]
modes              = ["pasv", "epsv"]
active_inbound     = true
active_open        = "transfer"
active_source_port = 20
deny_ports         = [3306, 5432, 6379]
line_endings       = "lenient"
[[server]]
address       = ["192.0.2.10"]
passive_ports = "40000-50000"
opaque        = "deny"
[pinhole]
timeout    = "1500ms"
per_client = 8
[limits]
sessions = 1000
ring     = "5MiB"
login    = "30s"
idle     = "2h"
[api]
socket      = "/run/x.sock"
read_group  = "ftpadm"
write_group = "ftpadm"
metrics     = "[::1]:9167"
"#;
    let (config, notes) = parse_with_notes(text, Path::new("f.toml")).unwrap();
    assert_eq!(config.watch.control_ports, [21, 2121]);
    assert_eq!(config.guards.len(), 2);
    assert_eq!(config.guards[0].networks[2], Network::Interface("wan0".into()));
    assert_eq!(config.guards[0].except_ports, [3389..=3389, 8080..=8090]);
    assert_eq!(config.guards[1].direction, Direction::Out);
    assert_eq!(config.guards[1].ports, 1024..=65535);
    let policy = &config.policy;
    assert_eq!(policy.mode, Mode::Drop);
    assert_eq!(policy.on_daemon_loss, crate::engine::policy::OnDaemonLoss::Close);
    assert!(policy.modes.allows(ftp_helper_common::state::pending::EPSV));
    assert!(!policy.modes.allows(ftp_helper_common::state::pending::PORT));
    assert!(policy.active_inbound);
    assert_eq!(policy.active_open, ActiveOpen::Transfer);
    assert_eq!(policy.active_source_port, SourcePort::Twenty);
    assert_eq!(policy.deny_ports, [3306, 5432, 6379].into());
    assert_eq!(policy.control_ports, [21, 2121].into());
    assert_eq!(policy.line_endings, crate::engine::policy::LineEndings::Lenient);
    assert_eq!(policy.servers[0].passive_ports, Some(40000..=50000));
    assert_eq!(policy.pinhole_timeout, Duration::from_millis(1500));
    assert_eq!((policy.per_client, policy.limits.sessions), (8, 1000));
    assert_eq!((policy.limits.login, policy.limits.idle), (Duration::from_secs(30), Duration::from_secs(7200)));
    assert_eq!(config.ring_bytes, 8 << 20);
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].starts_with("limits.ring: 5242880 bytes rounded up to 8388608"), "{notes:?}");
    assert_eq!(config.api.metrics, Some("[::1]:9167".parse().unwrap()));
    let said = config.explain().to_string();
    for part in ["f.toml is valid.", "wan0, ppp*", "21, 2121", "8080-8090", "@wan0", "1s 500ms", "[::1]:9167/metrics"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let json = serde_json::to_value(config.explain()).unwrap();
    assert_eq!(json["guards"][1]["direction"], "out");
    assert_eq!(json["ring_bytes"], 8 << 20);
}

#[test]
fn no_modes_at_all_is_a_policy() {
    let config = parse(&format!("{WATCH}[policy]\nmodes = []\n")).unwrap();
    assert_eq!(config.policy.modes, Modes::NONE);
}

#[test]
fn interfaces_are_required() {
    assert_eq!(
        bare(""),
        "f.toml:1:1: watch.interfaces: is missing; add a section [watch] and name the outside interfaces: interfaces = [\"wan0\"]"
    );
    assert_eq!(
        bare("\n[watch]\n"),
        "f.toml:2:1: watch.interfaces: is missing; name the outside interfaces: interfaces = [\"wan0\"]"
    );
    assert_eq!(
        bare("[watch]\ninterfaces = []"),
        "f.toml:2:14: watch.interfaces: is empty; name the outside interfaces: interfaces = [\"wan0\"]"
    );
}

#[test]
fn unknown_keys() {
    assert_eq!(mistakes("hok = \"tc\""), "f.toml:3:1: watch.hok: unknown key; did you mean \"hook\"?");
    assert_eq!(
        mistakes("[pinhole]\nnonsense = 1"),
        "f.toml:4:1: pinhole.nonsense: unknown key; known here: per_client, timeout"
    );
    assert!(mistakes("[pinholes]\n").starts_with("f.toml:3:2: pinholes: unknown key; did you mean \"pinhole\"?"));
    assert_eq!(
        bare("mod = \"drop\"\n[watch]\ninterfaces = [\"w\"]"),
        "f.toml:1:1: mod: unknown key; did you mean \"mode\"?"
    );
}

#[test]
fn wrong_types() {
    assert_eq!(
        bare("mode = 1\n[watch]\ninterfaces = \"wan0\"\ncontrol_ports = [\"21\"]"),
        "f.toml:1:8: mode: is a number, not a text; write \"observe\", \"drop\" or \"mark\"\n\
         f.toml:3:14: watch.interfaces: is a text, not a list; name the outside interfaces: interfaces = [\"wan0\"]\n\
         f.toml:4:18: watch.control_ports: is a text, not a number; write a number from 1 to 65535"
    );
    assert_eq!(
        mistakes("[policy]\nactive_inbound = \"yes\""),
        "f.toml:4:18: policy.active_inbound: is a text, not a boolean; write true or false"
    );
    assert_eq!(
        bare("watch = 3"),
        "f.toml:1:9: watch: is a number, not a table; write it as [watch]\n\
         f.toml:1:9: watch.interfaces: is missing; add a section [watch] and name the outside interfaces: interfaces = [\"wan0\"]"
    );
    assert_eq!(
        mistakes("[guard]\nports = 1"),
        "f.toml:3:1: guard: is a table, not a list of tables; write it as [[guard]]"
    );
}

#[test]
fn no_toml_at_all() {
    let said = mistakes("[limits\n");
    assert!(said.starts_with("f.toml:3:8: "), "{said}");
    assert!(said.ends_with("; correct the TOML here"), "{said}");
    let said = mistakes("[limits]\nidle = \"1h\"\nidle = \"2h\"");
    assert!(said.starts_with("f.toml:5:1: duplicate key"), "{said}");
}

#[test]
fn bad_prefixes() {
    let guard = |networks: &str| mistakes(&format!("[[guard]]\nnetworks = [{networks}]"));
    assert_eq!(
        guard("\"192.0.2.300\""),
        "f.toml:4:13: guard.networks: \"192.0.2.300\" is not an address or a prefix; write an address or a prefix, such as \"192.0.2.10\" or \"2001:db8::/32\""
    );
    assert_eq!(
        guard("\"192.0.2.10/24\""),
        "f.toml:4:13: guard.networks: \"192.0.2.10/24\" has bits set behind its prefix length; write \"192.0.2.0/24\" for the network or \"192.0.2.10\" for the one address"
    );
    assert_eq!(
        guard("\"::ffff:192.0.2.10\""),
        "f.toml:4:13: guard.networks: \"::ffff:192.0.2.10\" is an IPv4 prefix in IPv6 form; write it as \"192.0.2.10/32\""
    );
    assert_eq!(
        guard("\"@\""),
        "f.toml:4:13: guard.networks: \"\" can't be the name of an interface; write @ and a name as `ip link` shows it, such as \"@wan0\""
    );
    assert!(guard("\"192.0.2.0/33\"").contains("is not an address or a prefix"));
    assert!(guard("").starts_with("f.toml:4:12: guard.networks: is empty; name the responder's networks"));
    assert!(
        mistakes("[[guard]]\n").starts_with("f.toml:3:1: guard.networks: is missing; name the responder's networks")
    );
}

#[test]
fn bad_ports() {
    let guard = |ports: &str| mistakes(&format!("[[guard]]\nnetworks = [\"192.0.2.10\"]\nports = {ports}"));
    assert_eq!(
        guard("\"65535-1024\""),
        "f.toml:5:9: guard.ports: \"65535-1024\" is reversed; write the lower port first: \"1024-65535\""
    );
    assert_eq!(
        guard("\"high\""),
        "f.toml:5:9: guard.ports: \"high\" is not a range of ports; write a port (1 to 65535) or a range of ports, such as \"40000-50000\""
    );
    assert_eq!(guard("70000"), "f.toml:5:9: guard.ports: 70000 is out of range; write a number from 1 to 65535");
    assert!(guard("\"0-5\"").contains("is not a range of ports"));
    assert_eq!(
        mistakes("control_ports = [1,2,3,4,5,6,7,8,9]"),
        "f.toml:3:17: watch.control_ports: has 9 ports; name 8 ports at most"
    );
    assert!(mistakes("control_ports = []").starts_with("f.toml:3:17: watch.control_ports: is empty;"));
    assert_eq!(
        mistakes("[[server]]\naddress = [\"192.0.2.10\"]\npassive_ports = \"1000-2000\""),
        "f.toml:5:17: server.passive_ports: begins at 1000: ports below 1024 are never a data port; write \"1024-2000\""
    );
    assert!(mistakes("[[server]]\n").starts_with("f.toml:3:1: server.address: is missing;"));
}

#[test]
fn bad_durations_and_sizes() {
    assert_eq!(
        mistakes("[pinhole]\ntimeout = \"soon\""),
        "f.toml:4:11: pinhole.timeout: \"soon\" is not a duration; write a duration from \"100ms\" to \"5m\", such as \"10s\" or \"1h\""
    );
    assert_eq!(
        mistakes("[pinhole]\ntimeout = \"1h\""),
        "f.toml:4:11: pinhole.timeout: \"1h\" is out of range; write a duration from \"100ms\" to \"5m\", such as \"10s\" or \"1h\""
    );
    assert!(
        mistakes("[limits]\nidle = 10")
            .starts_with("f.toml:4:8: limits.idle: is a number, not a text; write a duration")
    );
    assert_eq!(
        mistakes("[limits]\nring = \"lots\""),
        "f.toml:4:8: limits.ring: \"lots\" is not a size; write a size from \"4.0 KiB\" to \"1.0 GiB\", such as \"16MiB\""
    );
    assert!(mistakes("[limits]\nring = \"2GiB\"").contains("limits.ring: \"2GiB\" is out of range"));
    assert!(mistakes("[limits]\nring = -1").contains("limits.ring: -1 is out of range"));
    assert!(
        mistakes("[limits]\nsessions = 0").contains("limits.sessions: 0 is out of range; write a number from 1 to")
    );
}

#[test]
fn modes_and_guards() {
    assert_eq!(
        bare("mode = \"block\"\n[watch]\ninterfaces = [\"w\"]"),
        "f.toml:1:8: mode: \"block\" is not known; write \"observe\", \"drop\" or \"mark\""
    );
    assert_eq!(
        bare("mode = \"drop\"\n[watch]\ninterfaces = [\"w\"]"),
        "f.toml:1:8: mode: \"drop\" needs a guard: there is nothing to drop; add a [[guard]], or write \"observe\""
    );
    assert_eq!(
        mistakes("[[guard]]\ndirection = \"out\"\nnetworks = [\"0.0.0.0/0\"]"),
        "f.toml:3:1: guard.initiators: is missing, and a guard of direction \"out\" without it would stop every inside host; name the FTP servers that connect out: initiators = [\"192.0.2.10\"]"
    );
    assert!(mistakes("[[guard]]\nnetworks = [\"@w\"]\ninitiators = []").contains("guard.initiators: is empty"));
    let many = "[[guard]]\nnetworks = [\"192.0.2.10\"]\n";
    assert!(parse(&format!("{WATCH}{}", many.repeat(64))).is_ok());
    let said = mistakes(&many.repeat(65));
    assert!(said.contains("guard: there are 65 guards; write 64 at most"), "{said}");
}

#[test]
fn too_many_networks() {
    // Two sections, of which the second repeats half of the first's.
    let networks = |key: &str, range: std::ops::Range<u32>| {
        let all: Vec<String> = range.map(|n| format!("\"10.{}.{}.0/24\"", n / 256, n % 256)).collect();
        format!("{key} = [{}]\n", all.join(","))
    };
    let guards = |last: u32| {
        let one = |range| format!("[[guard]]\n{}", networks("networks", range));
        format!("{WATCH}{}{}", one(0..3000), one(1500..last))
    };
    assert!(parse(&guards(4096)).is_ok());
    let said = parse(&guards(4097)).unwrap_err().to_string();
    assert!(
        said.contains("guard: there are 4097 networks; name 4096 of responders at most: fewer, wider ones"),
        "{said}"
    );
    let held = |last: u32| format!("[[guard]]\nnetworks = [\"@w\"]\n{}", networks("initiators", 0..last));
    assert!(parse(&format!("{WATCH}{}", held(4096))).is_ok());
    assert!(mistakes(&held(4097)).contains("guard: there are 4097 networks; name 4096 of initiators at most"));
    let server = |last: u32| format!("[[server]]\n{}", networks("address", 0..last));
    assert!(parse(&format!("{WATCH}{}", server(4096))).is_ok());
    assert!(mistakes(&server(4097)).contains("server: there are 4097 networks; name 4096 of servers at most"));
}

#[test]
fn bad_patterns() {
    assert_eq!(
        bare("[watch]\ninterfaces = [\"wan[0\"]"),
        "f.toml:2:15: watch.interfaces: \"wan[0\" is not a glob pattern: invalid range pattern at character 4; use * for any text, ? for any character, [ab] for one of several"
    );
    assert!(bare("[watch]\ninterfaces = [\"wan 0\"]").contains("can't be the name of an interface"));
    assert!(bare("[watch]\ninterfaces = [\"abcdefghijklmnop\"]").contains("is longer than 15 bytes"));
    assert!(parse("[watch]\ninterfaces = [\"[abc][abc][abc][abc]\"]").is_ok());
}

#[test]
fn active_source_port_is_any_or_20() {
    let set = |value: &str| parse(&format!("{WATCH}[policy]\nactive_source_port = {value}"));
    assert_eq!(set("\"any\"").unwrap().policy.active_source_port, SourcePort::Any);
    assert_eq!(set("20").unwrap().policy.active_source_port, SourcePort::Twenty);
    assert_eq!(set("\"20\"").unwrap().policy.active_source_port, SourcePort::Twenty);
    assert_eq!(
        set("21").unwrap_err().to_string(),
        "f.toml:4:22: policy.active_source_port: 21 is not a source port of active mode; write \"any\" or 20"
    );
    assert_eq!(
        set("\"low\"").unwrap_err().to_string(),
        "f.toml:4:22: policy.active_source_port: \"low\" is not known; write \"any\" or 20"
    );
}

#[test]
fn the_shield_goes_with_modes_that_drop_or_observe() {
    assert_eq!(parse(WATCH).unwrap().watch.hook, Hook::Tc);
    let with = |hook: &str, mode: &str| {
        let guard = "[[guard]]\nnetworks = [\"192.0.2.1\"]\n";
        parse(&format!("mode = \"{mode}\"\n[watch]\ninterfaces = [\"w\"]\nhook = \"{hook}\"\n{guard}"))
    };
    assert_eq!(with("tc", "mark").unwrap().watch.hook, Hook::Tc);
    for (mode, said) in [("drop", "dropped there, before the stack"), ("observe", "nothing is dropped there")] {
        let config = with("xdp+tc", mode).unwrap();
        assert_eq!(config.watch.hook, Hook::XdpTc);
        let told = config.explain();
        assert!(told.to_string().contains(said), "{told}");
        assert_eq!(serde_json::to_value(&told).unwrap()["hook"], "xdp+tc");
    }
    assert_eq!(
        with("xdp+tc", "mark").unwrap_err().to_string(),
        "f.toml:4:8: watch.hook: can't be \"xdp+tc\" in mode \"mark\": there the ruleset decides, and nothing is dropped \
         before it; write \"tc\", or mode = \"drop\""
    );
    assert_eq!(
        with("xdp", "drop").unwrap_err().to_string(),
        "f.toml:4:8: watch.hook: \"xdp\" is not known; write \"tc\" or \"xdp+tc\""
    );
}

#[test]
fn addresses_are_translated_where_there_is_a_section() {
    assert_eq!(parse(WATCH).unwrap().policy.nat, None);
    let nat = |more: &str| parse(&format!("{WATCH}[nat]\n{more}"));
    assert_eq!(nat("").unwrap().policy.nat, Some(Nat { active_ports: 61000..=61999 }));
    let config = nat("active_ports = \"50000-50010\"\n").unwrap();
    assert_eq!(config.policy.nat, Some(Nat { active_ports: 50000..=50010 }));
    let said = config.explain();
    assert!(said.to_string().contains("uses the public ports 50000-50010. A data"), "{said}");
    assert!(said.to_string().contains("with the mark 0x0f000000/0x0f000000."), "{said}");
    assert_eq!(serde_json::to_value(&said).unwrap()["nat"]["active_ports"], "50000-50010");
    let told = |text: &str| nat(text).unwrap_err().to_string();
    for (text, problem) in [
        (
            "active_ports = \"80-2000\"",
            "4:16: nat.active_ports: begins at 80: ports below 1024 are never a data port; write \"1024-2000\"",
        ),
        (
            "active_ports = 80",
            "4:16: nat.active_ports: begins at 80: ports below 1024 are never a data port; choose a range above them",
        ),
        ("active_ports = \"9-2\"", "4:16: nat.active_ports: \"9-2\" is reversed; write the lower port first: \"2-9\""),
        ("ports = 5", "4:1: nat.ports: unknown key; known here: active_ports"),
    ] {
        assert_eq!(told(text), format!("f.toml:{problem}"));
    }
    let control = |more: &str| {
        let text = format!("[watch]\ninterfaces = [\"w\"]\ncontrol_ports = [21, 61021]\n[nat]\n{more}");
        parse(&text).unwrap_err().to_string()
    };
    const PROBLEM: &str = "nat.active_ports: contains the control port 61021, which is never a data port; choose a range without control ports";
    assert_eq!(control(""), format!("f.toml:4:1: {PROBLEM}"));
    assert_eq!(control("active_ports = \"61000-61100\"\n"), format!("f.toml:5:16: {PROBLEM}"));
}

#[test]
fn a_mark_for_the_ruleset() {
    const GUARD: &str = "[[guard]]\nnetworks = [\"192.0.2.10\"]\n";
    let marked = |more: &str| parse(&format!("mode = \"mark\"\n{WATCH}{GUARD}{more}"));
    let policy = marked("").unwrap().policy;
    assert_eq!((policy.mode, policy.mark), (Mode::Mark, Mark { value: 0x0f00_0000, mask: 0x0f00_0000 }));
    let config = marked("[mark]\nvalue = \"16 / 0xF0\"\n").unwrap();
    assert_eq!(config.policy.mark, Mark { value: 16, mask: 240 });
    let said = config.explain();
    assert!(said.to_string().contains("has the mark 0x00000010/0x000000f0;"), "{said}");
    assert_eq!(serde_json::to_value(&said).unwrap()["mark"], "0x00000010/0x000000f0");
    let told = |e: super::ConfigError| e.to_string();
    assert_eq!(
        told(parse(&format!("mode = \"mark\"\n{WATCH}")).unwrap_err()),
        "f.toml:1:8: mode: \"mark\" needs a guard: there is nothing to take the mark off; add a [[guard]], or write \"observe\""
    );
    assert_eq!(
        told(marked("direction = \"out\"\ninitiators = [\"192.0.2.1\"]\n").unwrap_err()),
        "f.toml:6:13: guard.direction: can't be \"out\" in mode \"mark\": a mark that is set on what leaves comes after the \
         ruleset; remove this guard, or write mode = \"drop\""
    );
    for (bad, why) in [
        ("0x10", "\"0x10\" is not a mark; write a value and a mask of 32 bits, such as \"0x0f000000/0x0f000000\""),
        ("1/0x100000000", "\"1/0x100000000\" is not a mark; write"),
        ("+1/1", "\"+1/1\" is not a mark; write"),
        ("0x30/0x10", "\"0x30/0x10\" has bits set outside its mask; write \"0x30/0x30\", or a smaller value"),
        ("0/255", "\"0/255\" is what a packet without a mark has; write a value that is not zero"),
    ] {
        let said = told(marked(&format!("[mark]\nvalue = \"{bad}\"\n")).unwrap_err());
        assert!(said.starts_with(&format!("f.toml:7:9: mark.value: {why}")), "{said}");
    }
}

#[test]
fn an_encrypted_sessions_range_needs_passive_ports() {
    let ranged = "[[server]]\naddress = [\"192.0.2.1\"]\nopaque = \"range\"\n";
    assert_eq!(
        mistakes(ranged),
        "f.toml:5:10: server.opaque: opens the server's passive_ports, and there are none; name them: passive_ports = \"40000-50000\""
    );
    let policy = parse(&format!("{WATCH}{ranged}passive_ports = \"40000-40009\"")).unwrap().policy;
    assert_eq!(policy.opaque_range("192.0.2.1".parse::<std::net::IpAddr>().unwrap().into()), Some(40000..=40009));
    assert_eq!(policy.opaque_range("192.0.2.2".parse::<std::net::IpAddr>().unwrap().into()), None);
    assert!(policy.opens_ranges());
}

#[test]
fn sets_of_nftables() {
    let set = |text: &str| parse(&format!("{WATCH}[nftables]\n{text}")).unwrap().nftables.unwrap();
    let sets = set("table = \"inet filter\"");
    assert_eq!((sets.table().as_str(), sets.set4.as_deref()), ("inet filter", Some("ftp_pin4")));
    assert_eq!(sets.set6.as_deref(), Some("ftp_pin6"));
    let sets = set("table = \"ip  filter\"\nset4 = \"a-b\"");
    assert_eq!((sets.table().as_str(), sets.set4.as_deref(), sets.set6), ("ip filter", Some("a-b"), None));
    let sets = set("table = \"ip6 filter\"");
    assert_eq!((sets.set4, sets.set6.as_deref()), (None, Some("ftp_pin6")));
    assert!(mistakes("[nftables]\n").starts_with("f.toml:3:1: nftables.table: is missing; write the family"));
    for bad in ["filter", "bridge filter", "inet 1x", "inet a b", "inet"] {
        let said = mistakes(&format!("[nftables]\ntable = \"{bad}\""));
        assert!(said.starts_with(&format!("f.toml:4:9: nftables.table: \"{bad}\" can't be a table")), "{said}");
    }
    let said = mistakes("[nftables]\ntable = \"ip t\"\nset6 = \"x\"");
    assert!(said.contains("f.toml:5:8: nftables.set6: can't be in a table of family ip"), "{said}");
    let said = mistakes("[nftables]\ntable = \"inet t\"\nset4 = \"x\"\nset6 = \"x\"");
    assert!(said.contains("nftables.set6: is the same set as set4"), "{said}");
    assert!(mistakes("[nftables]\ntable = \"inet t\"\nset4 = \"x y\"").contains("can't be the name of a set"));
}

#[test]
fn bad_api() {
    assert_eq!(
        mistakes("[api]\nsocket = \"run/x\""),
        "f.toml:4:10: api.socket: \"run/x\" can't be the path of a socket; write an absolute path of 107 bytes at most"
    );
    assert_eq!(
        mistakes("[api]\nmetrics = \"127.0.0.1\""),
        "f.toml:4:11: api.metrics: \"127.0.0.1\" has no port; write an address and a port, such as \"127.0.0.1:9167\" or \"[::1]:9167\""
    );
    assert!(mistakes("[api]\nmetrics = \"here\"").contains("\"here\" is not an address with a port"));
    assert!(mistakes("[api]\nread_group = \"\"").contains("can't be the name of a group"));
}

#[test]
fn files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    let said = Config::load(&path).unwrap_err().to_string();
    assert!(said.starts_with(&format!("{}: can't be read: No such file", path.display())), "{said}");
    fs::write(&path, b"[watch]\n# \xff\n").unwrap();
    let said = Config::load(&path).unwrap_err().to_string();
    assert_eq!(said, format!("{}:2:3: is not UTF-8 text; save the file as UTF-8", path.display()));
    fs::write(&path, WATCH).unwrap();
    assert_eq!(Config::load(&path).unwrap().path, Some(path));
}
