//! Rulesets as `nft` tells them, and what is found in them.

use std::{collections::BTreeSet, path::Path};

use serde_json::{Value, json};

use super::*;
use crate::{config::Config, dataplane::Interface};

const GUARDED: &str = "[watch]\ninterfaces = [\"wan0\"]\n[[guard]]\nnetworks = [\"192.0.2.100\"]\n[[server]]\naddress = \
                       [\"192.0.2.100\"]\npassive_ports = \"50000-50099\"\n";

fn ground(more: &str) -> Ground {
    let text = format!("{more}\n{GUARDED}");
    let config = Config::parse(&text, Path::new("c.toml")).unwrap();
    let interface = |name: &str, index, addresses: &[&str]| {
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        (name.to_owned(), Interface { name: name.into(), index, addresses })
    };
    let all = [interface("wan0", 2, &["203.0.113.1", "fe80::1"]), interface("lan0", 3, &["192.0.2.1"])].into();
    Ground::of(Some(&config), &all, vec!["wan0".into()], [true, true])
}

const SETS: &str = "nftables = { table = \"inet t\" }";

/// A ruleset with an input and a forward chain, and rules in the latter.
fn ruleset(policy: &str, rules: &[Value]) -> Ruleset {
    let chain = |hook: &str| {
        json!({"chain": {"family": "inet", "table": "t", "name": hook, "type": "filter", "hook": hook, "prio": 0,
               "policy": policy}})
    };
    let mut all =
        vec![json!({"table": {"family": "inet", "name": "t", "handle": 1}}), chain("input"), chain("forward")];
    for (i, expr) in rules.iter().enumerate() {
        all.push(json!({"rule": {"family": "inet", "table": "t", "chain": "forward", "handle": i + 5, "expr": expr}}));
    }
    all.push(json!({"ct helper": {"family": "inet", "table": "t", "name": "std", "type": "ftp", "protocol": "tcp"}}));
    Ruleset::parse(&json!({"nftables": all}).to_string(), "", &Default::default()).unwrap()
}

fn field(protocol: &str, field: &str, right: Value) -> Value {
    json!({"match": {"op": "==", "left": {"payload": {"protocol": protocol, "field": field}}, "right": right}})
}

fn range(low: u16, high: u16) -> Value {
    field("tcp", "dport", json!({"range": [low, high]}))
}

fn accept() -> Value {
    json!({"accept": null})
}

fn found(ruleset: &Ruleset, ground: &Ground) -> Vec<(Severity, &'static str, Option<u64>)> {
    let findings = check(ruleset, ground);
    findings.iter().map(|f| (f.severity, f.code.as_str(), f.rule.as_ref().and_then(|r| r.handle))).collect()
}

#[test]
fn a_wide_rule_is_found_with_its_handle_and_the_command_that_removes_it() {
    let r = ruleset("drop", &[json!([range(40000, 60000), accept()]), json!([range(8080, 8085), accept()])]);
    for more in ["", "mode = \"drop\"", SETS] {
        let findings = check(&r, &ground(more));
        let wide: Vec<_> = findings.iter().filter(|f| f.code == Code::WideRange).collect();
        assert_eq!(wide.len(), 1, "{more}: {findings:?}");
        assert_eq!(wide[0].rule.as_ref().unwrap().handle, Some(5));
        assert_eq!(wide[0].commands, ["nft delete rule inet t forward handle 5"]);
        assert_eq!(wide[0].severity, Severity::Error);
    }
}

#[test]
fn a_wide_rule_behind_another_is_found_as_well() {
    let r = ruleset("drop", &[json!([range(40000, 60000), accept()]), json!([range(45000, 55000), accept()])]);
    let wide = found(&r, &ground("mode = \"drop\""));
    let wide: Vec<_> = wide.iter().filter(|f| f.1 == "wide_range").map(|f| f.2).collect();
    assert_eq!(wide, [Some(5), Some(6)]);
}

#[test]
fn in_drop_a_rule_for_guarded_hosts_is_right_and_one_for_others_is_told_as_limited() {
    let to = |host: &str| json!([field("ip", "daddr", json!(host)), range(50000, 50099), accept()]);
    let r = ruleset("drop", &[to("192.0.2.100"), to("192.0.2.101")]);
    assert_eq!(found(&r, &ground("mode = \"drop\"")), [(Severity::Warning, "wide_range_limited", Some(6))]);
    // In observe nothing stands behind it.
    let found = found(&r, &ground(""));
    assert!(found.contains(&(Severity::Error, "wide_range", Some(5))), "{found:?}");
}

#[test]
fn what_would_drop_a_pinhole_is_found() {
    let r = ruleset("drop", &[]);
    assert_eq!(found(&r, &ground("mode = \"drop\"")), [(Severity::Error, "pinhole_dropped", None)]);
    assert_eq!(found(&r, &ground("")), [(Severity::Warning, "pinhole_dropped", None)]);
    // Part of the passive range is enough.
    let r = ruleset("drop", &[json!([field("ip", "daddr", json!("192.0.2.100")), range(50000, 50050), accept()])]);
    assert_eq!(found(&r, &ground("mode = \"drop\"")), [(Severity::Error, "pinhole_dropped", None)]);
    let r = ruleset("accept", &[json!([range(50050, 50060), {"reject": null}])]);
    let found = found(&r, &ground("mode = \"drop\""));
    assert!(found.contains(&(Severity::Error, "pinhole_dropped", Some(5))), "{found:?}");
}

#[test]
fn in_mark_a_rule_that_looks_at_the_mark_is_missed() {
    let mark = |op: &str| json!({"match": {"op": op, "left": {"&": [{"meta": {"key": "mark"}}, 0xf0]}, "right": 0x30}});
    let ground = ground("mode = \"mark\"\nmark.value = \"0x30/0xf0\"");
    // Nothing gets through: neither with the mark nor without.
    let all = found(&ruleset("drop", &[]), &ground);
    assert_eq!(all, [(Severity::Error, "pinhole_dropped", None), (Severity::Error, "mark_unread", None)]);
    // Everything does.
    let wide = found(&ruleset("drop", &[json!([range(40000, 60000), accept()])]), &ground);
    assert!(wide.contains(&(Severity::Error, "wide_range", Some(5))), "{wide:?}");
    assert!(wide.contains(&(Severity::Error, "mark_unread", None)), "{wide:?}");
    // By the mark: nothing to say.
    assert_eq!(found(&ruleset("drop", &[json!([mark("=="), accept()])]), &ground), []);
    let not = json!([field("ip", "daddr", json!("192.0.2.100")), mark("!="), {"drop": null}]);
    let severe = found(&ruleset("accept", &[not]), &ground);
    assert!(severe.iter().all(|f| f.0 == Severity::Info), "{severe:?}");
    // Peers that the ruleset trusts are the administrator's affair.
    let trusted = json!([field("ip", "saddr", json!("198.51.100.7")), accept()]);
    assert_eq!(found(&ruleset("drop", &[trusted, json!([mark("=="), accept()])]), &ground), []);
    // Another mark than ours.
    let other = json!({"match": {"op": "==", "left": {"&": [{"meta": {"key": "mark"}}, 0xf0]}, "right": 0x10}});
    let all = found(&ruleset("drop", &[json!([other, accept()])]), &ground);
    assert!(all.contains(&(Severity::Error, "mark_unread", None)), "{all:?}");
}

#[test]
fn an_open_policy_is_an_error_only_where_nobody_stands_behind_it() {
    let r = ruleset("accept", &[]);
    let severities = |more: &str| found(&r, &ground(more)).iter().map(|f| f.0).collect::<BTreeSet<_>>();
    assert!(severities("").contains(&Severity::Error) && severities(SETS).contains(&Severity::Error));
    assert_eq!(severities("mode = \"drop\""), [Severity::Info].into());
    assert!(check(&Ruleset::default(), &ground("")).iter().any(|f| f.severity == Severity::Error));
}

#[test]
fn helpers_readers_and_hardware_are_found() {
    let port = || field("tcp", "dport", json!(21));
    let r = ruleset(
        "drop",
        &[
            json!([port(), {"ct helper": "std"}]),
            json!([port(), {"queue": {"num": 0}}]),
            json!([field("tcp", "dport", json!(80)), {"redirect": {"port": 3128}}]),
            json!([port(), {"redirect": {"port": 2121}}]),
        ],
    );
    let all = found(&r, &ground("mode = \"drop\""));
    assert!(all.contains(&(Severity::Error, "kernel_helper", Some(5))), "{all:?}");
    let readers: Vec<_> = all.iter().filter(|f| f.1 == "second_reader").map(|f| f.2).collect();
    assert_eq!(readers, [Some(6), Some(8)]);
    let flowtable = |offload| crate::nft::ruleset::Flowtable {
        table: ("inet".into(), "t".into()),
        name: "f".into(),
        devices: vec!["lan0".into(), "wan0".into()],
        offload,
    };
    let with = |offload| Ruleset { flowtables: vec![flowtable(offload)], ..r.clone() };
    let is = |r: &Ruleset| found(r, &ground("mode = \"drop\"")).iter().any(|f| f.1 == "flowtable_offload");
    assert!(is(&with(true)) && !is(&with(false)));
}

#[test]
fn translated_connections_are_accepted_by_their_mark() {
    let key = |key: &str| json!({"meta": {"key": key}});
    let is = |left: Value, right: Value| json!({"match": {"op": "==", "left": left, "right": right}});
    let masked = |mask: u32| json!({"&": [key("mark"), mask]});
    let status = json!({"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": "dnat"}});
    let accept = json!({"accept": null});
    let inside = is(key("iifname"), json!("lan0"));
    let usual = [json!([inside, accept.clone()]), json!([status, accept.clone()])];
    let found = |policy: &str, config: &str, more: &[Value]| {
        let rules: Vec<Value> = usual.iter().chain(more).cloned().collect();
        let findings = check(&ruleset(policy, &rules), &ground(config));
        findings.iter().filter(|f| f.code == Code::MarkUnaccepted).count()
    };
    const NAT: &str = "nat = {}";
    assert_eq!(found("drop", NAT, &[]), 1);
    assert_eq!(found("accept", NAT, &[]), 0);
    assert_eq!(found("drop", "", &[]), 0);
    let (value, other) = (json!(0x0f00_0000_u32), json!(0x0100_0000_u32));
    let (from, to) = (is(key("iifname"), json!("wan0")), field("ip", "daddr", json!("192.0.2.100")));
    let by = |mask: u32, value: &Value| is(masked(mask), value.clone());
    let v6 = is(key("nfproto"), json!("ipv6"));
    for (rule, left) in [
        (json!([by(0x0f00_0000, &value), accept.clone()]), 0),
        (json!([from.clone(), by(0x0f00_0000, &value), accept.clone()]), 0),
        (json!([is(key("mark"), value.clone()), accept.clone()]), 0),
        (json!([by(0x0f00_0000, &other), accept.clone()]), 1),
        // Both families count.
        (json!([v6, by(0x0f00_0000, &value), accept.clone()]), 1),
        (json!([to, by(0x0f00_0000, &value), accept.clone()]), 1),
    ] {
        assert_eq!(found("drop", NAT, std::slice::from_ref(&rule)), left, "{rule}");
    }
}
