//! `doctor` and `integrate` on real rulesets: what is wrong is found; with the rules that are named removed and the rules
//! that are printed loaded, transfers pass, a scan finds nothing, and `doctor` finds nothing either.

use ftp_helper::lab::{
    self,
    clients::{Family, Mode},
    process::Process,
};
use ftp_helper_tests::{
    firewall::{BY_HAND, DEBIAN, Firewalld, Ground, WITH_HELPER, of},
    gateway::{Gateway, PATIENCE, Settings},
};
use serde_json::Value;

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
    ground.gateway("nft", &["add", "rule", "inet", "filter", "from_outside", "tcp", "dport", "{ 21, 8443 }", "accept"]);
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
    ground.gateway("nft", &["add", "rule", "inet", "filter", "from_outside", "tcp", "dport", "{ 21, 8443 }", "accept"]);
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
    ground.iptables();
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
    daemon.serve_widely();
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
    ip("addr add 198.51.100.1/24 dev br0");
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
