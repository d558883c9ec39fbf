//! What a match of a rule says about a first SYN of which some things are known and others are not.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::{
    ports::Ports,
    ruleset::{Chain, Rule, Ruleset},
    verdict::Syn,
};

/// What is known of a match.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Matches {
    /// It matches whatever the port is.
    Always,
    /// It never does.
    Never,
    /// It matches exactly these ports.
    On(Ports),
    /// It depends on what is not known, such as where the SYN comes from; and on these ports.
    Perhaps(Ports),
    /// It matches on the way to some inside interfaces or hosts.
    Inside,
}

impl Matches {
    fn not(self) -> Self {
        match self {
            Self::Always => Self::Never,
            Self::Never => Self::Always,
            Self::On(ports) => Self::On(Ports::all().without(&ports)),
            Self::Perhaps(_) => Self::perhaps(),
            Self::Inside => Self::Inside,
        }
    }

    fn perhaps() -> Self {
        Self::Perhaps(Ports::all())
    }

    fn of(known: bool) -> Self {
        if known { Self::Always } else { Self::Never }
    }
}

/// A match statement of `nft`: operator, left and right side.
pub(super) fn statement(ruleset: &Ruleset, chain: &Chain, m: &Value, syn: &Syn<'_>) -> Matches {
    let (left, right) = (&m["left"], &m["right"]);
    let matches = expression(ruleset, chain, left, right, syn);
    let unknown = syn.stranger && matches!(matches, Matches::Perhaps(_));
    match m["op"].as_str() {
        Some("==" | "in") if unknown => Matches::Never,
        Some("!=") if unknown => Matches::Always,
        Some("==" | "in") => matches,
        Some("!=") => matches.not(),
        // "<" and the like on ports: the comparison of one port after the other.
        Some(op @ ("<" | "<=" | ">" | ">=")) if is_port(left) => {
            match right.as_u64().and_then(|n| u16::try_from(n).ok()) {
                Some(n) => Matches::On(match op {
                    "<" if n == 0 => Ports::none(),
                    "<" => Ports::from(0..=n - 1),
                    "<=" => Ports::from(0..=n),
                    ">" if n == u16::MAX => Ports::none(),
                    ">" => Ports::from(n + 1..=u16::MAX),
                    _ => Ports::from(n..=u16::MAX),
                }),
                None => Matches::perhaps(),
            }
        }
        _ => Matches::perhaps(),
    }
}

/// Whether the SYN has `right` (a value, a range, a set, or the name of one) where `left` looks.
pub(super) fn expression(ruleset: &Ruleset, chain: &Chain, left: &Value, right: &Value, syn: &Syn<'_>) -> Matches {
    if let Some(parts) = left["concat"].as_array() {
        return concatenation(ruleset, chain, parts, right, syn);
    }
    let values = values(ruleset, chain, right);
    if is_port(left) {
        return ports(&values).map_or_else(Matches::perhaps, Matches::On);
    }
    if let Some(masked) = left["&"].as_array() {
        return match masked.as_slice() {
            [field, mask] if field["meta"]["key"] == "mark" => mark(&values, number(mask), syn),
            [field, mask] if field["payload"]["field"] == "flags" => Matches::of(flags(mask) & SYN == flags(right)),
            _ => Matches::perhaps(),
        };
    }
    let words = || values.iter().filter_map(|v| v.as_str());
    if let Some(payload) = left.get("payload") {
        let field = payload["field"].as_str().unwrap_or_default();
        return match (payload["protocol"].as_str().unwrap_or_default(), field) {
            ("ip", "protocol") | ("ip6", "nexthdr") => {
                let family = (payload["protocol"] == "ip") == syn.v4();
                Matches::of(family && has_tcp(&values))
            }
            ("ip", _) if !syn.v4() => Matches::Never,
            ("ip6", _) if syn.v4() => Matches::Never,
            // For which of the hosts inside the rule is, is the administrator's affair.
            ("ip" | "ip6", "daddr") if syn.translated => Matches::Inside,
            ("ip" | "ip6", "daddr") => address(&values, syn.to),
            ("tcp", "flags") => {
                let all: u32 = values.iter().map(|v| flags(v)).fold(0, |a, b| a | b);
                Matches::of(all & SYN != 0)
            }
            ("ip" | "ip6" | "tcp" | "th" | "ether" | "vlan", _) => Matches::perhaps(),
            // Another protocol than TCP.
            _ => Matches::Never,
        };
    }
    if let Some(key) = left["meta"]["key"].as_str() {
        return match key {
            "iifname" | "iif" => Matches::of(words().any(|w| is_interface(w, syn.arrives_on))),
            // What arrives by an outside interface leaves by another.
            "oifname" | "oif" if words().all(|w| is_interface(w, syn.arrives_on)) => Matches::Never,
            "oifname" | "oif" => Matches::Inside,
            "l4proto" => Matches::of(has_tcp(&values)),
            "nfproto" => Matches::of(words().any(|w| w == if syn.v4() { "ipv4" } else { "ipv6" })),
            "protocol" => Matches::of(words().any(|w| w == if syn.v4() { "ip" } else { "ip6" })),
            "mark" => mark(&values, Some(u32::MAX), syn),
            "pkttype" => Matches::of(words().any(|w| matches!(w, "host" | "unicast"))),
            _ => Matches::perhaps(),
        };
    }
    match left["ct"]["key"].as_str() {
        Some("state") => Matches::of(words().any(|w| w == "new")),
        Some("direction") => Matches::of(words().any(|w| w == "original")),
        _ => Matches::perhaps(),
    }
}

/// The matches of extensions of iptables, of which `nft` tells the name only; what they look for stands in the text.
pub(super) fn extension(rule: &Rule, name: &str, syn: &Syn<'_>) -> Matches {
    match name {
        "mark" => written_mark(rule, syn).unwrap_or_else(Matches::perhaps),
        "comment" => Matches::Always,
        "tcp" | "multiport" => written_ports(&rule.text).map_or_else(Matches::perhaps, Matches::On),
        "conntrack" | "state" if rule.iptables.is_some() => written_states(rule, syn).unwrap_or_else(Matches::perhaps),
        "conntrack" | "state" => match after(&rule.text, "ct state ") {
            Some(states) if !states.starts_with('!') => {
                Matches::of(states.split(' ').next().unwrap_or_default().split(',').any(|s| s == "new"))
            }
            _ => Matches::perhaps(),
        },
        "udp" | "icmp" | "icmp6" | "sctp" | "dccp" => Matches::Never,
        _ => Matches::perhaps(),
    }
}

/// Whether the SYN's mark, as far as it is known, has one of these values where the mask has ones.
fn mark(values: &[&Value], mask: Option<u32>, syn: &Syn<'_>) -> Matches {
    let (Some(known), Some(mask)) = (syn.mark, mask) else { return Matches::perhaps() };
    let may = |v: &&&Value| number(v).is_none_or(|v| (v ^ known.value) & mask & known.mask == 0);
    match values.iter().find(may) {
        None => Matches::Never,
        Some(v) if mask & !known.mask == 0 && number(v).is_some() => Matches::Always,
        Some(_) => Matches::perhaps(),
    }
}

fn number(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|n| u32::try_from(n).ok())
}

/// `-m conntrack --ctstate LIST`, as iptables writes it: `nft` leaves states out where there are statuses among them.
fn written_states(rule: &Rule, syn: &Syn<'_>) -> Option<Matches> {
    let text = rule.iptables.as_deref()?;
    let (before, states) = text.split_once("--ctstate ").or_else(|| text.split_once("--state "))?;
    let states: Vec<&str> = states.split(' ').next()?.split(',').collect();
    let matches = if states.contains(&"NEW") {
        Matches::Always
    } else if states.iter().any(|s| matches!(*s, "DNAT" | "SNAT")) && !syn.translated {
        Matches::perhaps()
    } else {
        // To connection tracking what the programs translate is not translated.
        Matches::Never
    };
    Some(if before.ends_with("! ") { matches.not() } else { matches })
}

/// `-m mark --mark VALUE/MASK`, as iptables writes it.
fn written_mark(rule: &Rule, syn: &Syn<'_>) -> Option<Matches> {
    let text = rule.iptables.as_deref()?;
    let (before, written) = text.split_once("--mark ")?;
    let written = written.split(' ').next()?;
    let (value, mask) = written.split_once('/').unwrap_or((written, "0xffffffff"));
    let number = |s: &str| s.strip_prefix("0x").map_or_else(|| s.parse().ok(), |hex| u32::from_str_radix(hex, 16).ok());
    let value = Value::from(number(value)?);
    let matches = match mark(&[&value], Some(number(mask)?), syn) {
        Matches::Perhaps(_) if syn.stranger => Matches::Never,
        matches if before.ends_with("! ") => matches.not(),
        matches => matches,
    };
    Some(matches)
}

/// The ports of `tcp dport …` in the text of a rule.
fn written_ports(text: &str) -> Option<Ports> {
    let rest = after(text, "tcp dport ").or_else(|| after(text, "th dport "))?;
    let (not, rest) = rest.strip_prefix("!= ").map_or((false, rest), |r| (true, r));
    let list = match rest.strip_prefix('{') {
        Some(list) => list.split('}').next()?,
        None => rest.split(' ').next()?,
    };
    let mut ports = Ports::none();
    for item in list.split(',').map(str::trim).filter(|i| !i.is_empty()) {
        let (low, high) = item.split_once('-').unwrap_or((item, item));
        ports = ports.with(low.parse().ok()?..=high.parse().ok()?);
    }
    Some(if not { Ports::all().without(&ports) } else { ports })
}

fn after<'a>(text: &'a str, what: &str) -> Option<&'a str> {
    text.split_once(what).map(|(_, rest)| rest)
}

/// Whether an expression is the TCP destination port.
pub(super) fn is_port(left: &Value) -> bool {
    let payload = &left["payload"];
    payload["field"] == "dport" && (payload["protocol"] == "tcp" || payload["protocol"] == "th")
}

/// Several fields at once. Sets of initiator, responder and port are those that pinholes are fed into.
fn concatenation(ruleset: &Ruleset, chain: &Chain, parts: &[Value], right: &Value, syn: &Syn<'_>) -> Matches {
    let name = right.as_str().and_then(|s| s.strip_prefix('@'));
    if let (Some(sets), Some(name)) = (syn.sets, name) {
        let here = chain.family == sets.family.as_str() && chain.table == sets.table;
        let fed = if syn.v4() { &sets.set4 } else { &sets.set6 };
        if here && fed.as_deref() == Some(name) {
            return Matches::of(syn.has_pinhole);
        }
        if here && sets.all().any(|(set, ..)| set == name) {
            return Matches::Never;
        }
    }
    let Some(at) = parts.iter().position(is_port) else { return Matches::perhaps() };
    let elements = values(ruleset, chain, right);
    let column: Vec<&Value> = elements.iter().filter_map(|e| e["concat"].get(at)).collect();
    ports(&column).map_or_else(Matches::perhaps, Matches::Perhaps)
}

/// The values that a right side stands for: itself, those of a set, or those of a named one.
fn values<'a>(ruleset: &'a Ruleset, chain: &Chain, right: &'a Value) -> Vec<&'a Value> {
    let element = |v: &'a Value| v.get("elem").and_then(|e| e.get("val")).unwrap_or(v);
    if let Some(name) = right.as_str().and_then(|s| s.strip_prefix('@')) {
        let key = (chain.family.clone(), chain.table.clone(), name.to_owned());
        return ruleset.sets.get(&key).into_iter().flatten().map(element).collect();
    }
    match (right, &right["set"]) {
        (_, Value::Array(all)) | (Value::Array(all), _) => all.iter().map(element).collect(),
        (_, one @ (Value::Object(_) | Value::String(_) | Value::Number(_))) => vec![one],
        _ => vec![right],
    }
}

/// Ports and ranges of ports; none if one of the values is neither.
pub(super) fn ports(values: &[&Value]) -> Option<Ports> {
    let number = |v: &Value| v.as_u64().and_then(|n| u16::try_from(n).ok());
    let mut ports = Ports::none();
    for value in values {
        ports = match (number(value), value["range"].as_array().map(Vec::as_slice)) {
            (Some(port), _) => ports.with(port..=port),
            (None, Some([low, high])) => ports.with(number(low)?..=number(high)?),
            _ => return None,
        };
    }
    Some(ports)
}

/// Whether the SYN's destination, if known, is among addresses, prefixes and ranges.
fn address(values: &[&Value], to: Option<IpNet>) -> Matches {
    let Some(to) = to else { return Matches::perhaps() };
    let mut touched = false;
    for value in values {
        let net = match (value.as_str(), value.get("prefix")) {
            (Some(one), _) => one.parse::<IpNet>().ok().or_else(|| one.parse::<IpAddr>().ok().map(IpNet::from)),
            (None, Some(p)) => {
                let addr = p["addr"].as_str().and_then(|a| a.parse().ok());
                let length = p["len"].as_u64().and_then(|n| u8::try_from(n).ok());
                addr.zip(length).and_then(|(a, l)| IpNet::new(a, l).ok())
            }
            _ => None,
        };
        match net {
            Some(net) if net.contains(&to) => return Matches::Always,
            Some(net) => touched |= to.contains(&net),
            // A range, or a name that nft has resolved.
            None => touched = true,
        }
    }
    if touched { Matches::perhaps() } else { Matches::Never }
}

fn has_tcp(values: &[&Value]) -> bool {
    values.iter().any(|v| *v == "tcp" || **v == 6)
}

/// Whether a name, or a pattern that ends in `*`, is that of the interface.
fn is_interface(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |start| name.starts_with(start))
}

const SYN: u32 = 2;

/// Flags of TCP by their names (RFC 9293 section 3.1).
fn flags(value: &Value) -> u32 {
    let one = |name: &str| match name {
        "fin" => 1,
        "syn" => SYN,
        "rst" => 4,
        "psh" => 8,
        "ack" => 16,
        "urg" => 32,
        "ecn" => 64,
        "cwr" => 128,
        _ => 0,
    };
    match value {
        Value::String(name) => one(name),
        Value::Number(n) => n.as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        Value::Array(all) => all.iter().map(flags).fold(0, |a, b| a | b),
        Value::Object(o) => o.get("|").map_or(0, flags),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A SYN of which little is known.
    fn syn(translated: bool) -> Syn<'static> {
        Syn {
            arrives_on: "wan0",
            v4: true,
            to: None,
            ports: Ports::all(),
            sets: None,
            has_pinhole: false,
            mark: None,
            translated,
            stranger: false,
        }
    }

    #[test]
    fn what_iptables_writes_is_read() {
        let rule = |text: &str| Rule { handle: 1, statements: vec![], text: text.into(), iptables: None };
        let r = rule("meta l4proto tcp tcp dport { 22, 60000-61000 }  counter packets 0 bytes 0 accept");
        let extension = |rule: &Rule, name: &str| extension(rule, name, &syn(false));
        assert_eq!(extension(&r, "multiport"), Matches::On(Ports::from(22..=22).with(60000..=61000)));
        let r = rule("tcp dport != 22 counter accept");
        assert_eq!(extension(&r, "tcp"), Matches::On(Ports::all().without(&Ports::from(22..=22))));
        assert_eq!(extension(&rule("ct state related,established accept"), "conntrack"), Matches::Never);
        assert_eq!(extension(&rule("ct state new tcp dport 5 accept"), "state"), Matches::Always);
        assert_eq!(extension(&rule("whatever"), "recent"), Matches::perhaps());
    }

    #[test]
    fn states_of_iptables_are_read_as_it_writes_them() {
        let states = |option: &str, translated| {
            // `nft` shows no states where there is a status among them.
            let spec = Some(format!("FORWARD -m conntrack {option} -j ACCEPT"));
            let rule = Rule { handle: 1, statements: vec![], text: "ct status dnat accept".into(), iptables: spec };
            extension(&rule, "conntrack", &syn(translated))
        };
        for translated in [false, true] {
            assert_eq!(states("--ctstate NEW,DNAT", translated), Matches::Always);
            assert_eq!(states("--ctstate RELATED,ESTABLISHED", translated), Matches::Never);
            assert_eq!(states("! --ctstate INVALID", translated), Matches::Always);
            assert_eq!(states("--ctdir ORIGINAL", translated), Matches::perhaps());
        }
        assert_eq!(
            (states("--ctstate DNAT", true), states("--ctstate DNAT", false)),
            (Matches::Never, Matches::perhaps())
        );
    }

    #[test]
    fn destinations_are_compared() {
        let net = |s: &str| Some(s.parse::<IpNet>().unwrap());
        let (inside, prefix) = (json!("192.0.2.10"), json!({"prefix": {"addr": "192.0.2.0", "len": 24}}));
        assert_eq!(address(&[&inside], net("192.0.2.10/32")), Matches::Always);
        assert_eq!(address(&[&inside], net("192.0.2.11/32")), Matches::Never);
        assert_eq!(address(&[&prefix], net("192.0.2.10/32")), Matches::Always);
        assert_eq!(address(&[&inside], net("192.0.2.0/24")), Matches::perhaps());
        assert_eq!(address(&[&inside], None), Matches::perhaps());
    }

    #[test]
    fn flags_are_compared() {
        assert_eq!(flags(&json!(["fin", "syn", "rst", "ack"])), 23);
        assert_eq!(flags(&json!({"|": ["syn", "ack"]})), 18);
    }
}
