//! What a ruleset does to a first SYN, for every port at once.
//!
//! The ruleset is followed as the kernel would: base chains in the order of their priorities, rules in order, jumps and
//! returns. Where a match depends on what is not known of the SYN (where it comes from, its mark), both ways are
//! followed: a verdict is then possible, not certain.

use ipnet::IpNet;
use serde_json::Value;

use super::{
    elements::Sets,
    matching::{self, Matches, is_port},
    ports::Ports,
    ruleset::{Chain, Rule, Ruleset},
};

/// A first SYN from outside, as far as it is known.
#[derive(Clone, Debug)]
pub struct Syn<'a> {
    /// The interface that it arrives on.
    pub arrives_on: &'a str,
    /// Whether it is IPv4, where its destination is not known.
    pub v4: bool,
    /// Where it goes to, if that is known.
    pub to: Option<IpNet>,
    /// Its ports.
    pub ports: Ports,
    /// The sets that pinholes are fed into.
    pub sets: Option<&'a Sets>,
    /// Whether there is a pinhole for it.
    pub has_pinhole: bool,
    /// The bits of its mark that are known.
    pub mark: Option<Bits>,
    /// Whether it goes on to some host inside, translated.
    pub translated: bool,
    /// Whether it comes from somebody of whom no rule knows anything: what asks for more than is known does not match.
    pub stranger: bool,
}

/// Bits of a mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bits {
    /// What they are; within the mask.
    pub value: u32,
    /// Which they are.
    pub mask: u32,
}

impl Syn<'_> {
    pub(super) fn v4(&self) -> bool {
        self.to.map_or(self.v4, |n| matches!(n, IpNet::V4(_)))
    }
}

/// What decides at a hook.
#[derive(Clone, Debug)]
pub struct Decision<'a> {
    /// The base chain.
    pub base: &'a Chain,
    /// The chain in which it is decided.
    pub chain: &'a Chain,
    /// The rule; none for the policy.
    pub rule: Option<&'a Rule>,
    /// Whether it accepts.
    pub accepts: bool,
    /// The ports that it may decide about.
    pub ports: Ports,
    /// Those of them that it decides about whatever else the SYN is.
    pub certain: Ports,
    /// Whether the rule, or one that leads to it, asks for more than is known of the SYN.
    pub limited: bool,
    /// Whether the rule, or one that leads to it, names ports.
    pub names_ports: bool,
}

/// How deep chains may be nested: nftables allows 16 (NFT_JUMP_STACK_SIZE).
const DEPTH: usize = 16;

/// Everything that may decide about a SYN at a hook; and the ports that may pass all of its base chains.
pub fn decide<'a>(ruleset: &'a Ruleset, hook: &str, syn: &Syn<'_>) -> (Vec<Decision<'a>>, Ports) {
    let mut all = Vec::new();
    let mut open = syn.ports.clone();
    let early = ruleset.at("prerouting", syn.v4());
    for base in early.into_iter().chain(ruleset.at(hook, syn.v4())) {
        let mut walk = Walk { ruleset, syn, base, decisions: Vec::new() };
        let begin = Way { may: syn.ports.clone(), must: syn.ports.clone(), limited: false, names_ports: false };
        let rest = walk.chain(base, begin, 0);
        let accepts = base.base.as_ref().is_none_or(|b| b.accept);
        walk.decisions.push(Decision {
            base,
            chain: base,
            rule: None,
            accepts,
            ports: rest.may,
            certain: rest.must,
            limited: false,
            names_ports: false,
        });
        let decisions = walk.decisions;
        let passed = decisions.iter().filter(|d| d.accepts).fold(Ports::none(), |sum, d| sum.or(&d.ports));
        open = open.and(&passed);
        all.extend(decisions);
    }
    all.retain(|d| !d.ports.is_empty());
    (all, open)
}

struct Walk<'a, 'b> {
    ruleset: &'a Ruleset,
    syn: &'b Syn<'b>,
    base: &'a Chain,
    decisions: Vec<Decision<'a>>,
}

/// The ports that get somewhere.
#[derive(Clone)]
struct Way {
    /// Those that may.
    may: Ports,
    /// Those that do in any case.
    must: Ports,
    limited: bool,
    names_ports: bool,
}

impl<'a> Walk<'a, '_> {
    /// Follows a chain; what leaves it undecided.
    fn chain(&mut self, chain: &'a Chain, mut way: Way, depth: usize) -> Way {
        let mut left = Way { may: Ports::none(), must: Ports::none(), ..way.clone() };
        for rule in &chain.rules {
            if way.may.is_empty() {
                break;
            }
            self.rule(chain, rule, &mut way, &mut left, depth);
        }
        left.may = left.may.or(&way.may);
        left.must = left.must.or(&way.must);
        left
    }

    fn rule(&mut self, chain: &'a Chain, rule: &'a Rule, way: &mut Way, left: &mut Way, depth: usize) {
        let mut here = way.clone();
        for statement in &rule.statements {
            let Some((kind, value)) = statement.as_object().and_then(|o| o.iter().next()) else { continue };
            match kind.as_str() {
                "match" => {
                    here.names_ports |= is_port(&value["left"])
                        || value["left"]["concat"].as_array().is_some_and(|parts| parts.iter().any(is_port));
                    here.narrow(matching::statement(self.ruleset, chain, value, self.syn));
                }
                "xt" if value["type"] == "match" => {
                    let name = value["name"].as_str().unwrap_or_default();
                    here.names_ports |= matches!(name, "tcp" | "multiport");
                    here.narrow(matching::extension(rule, name, self.syn));
                }
                // A target of iptables: ACCEPT and DROP are verdicts of nftables, others reject or go on.
                "xt" if value["name"] == "REJECT" => self.verdict(chain, rule, way, &here, false),
                // What is over the limit goes on behind the rule.
                "limit" | "quota" | "ct count" | "meter" => here.must = Ports::none(),
                "accept" => self.verdict(chain, rule, way, &here, true),
                "drop" | "reject" => self.verdict(chain, rule, way, &here, false),
                "jump" | "goto" => {
                    self.follow(chain, value["target"].as_str(), way, left, &here, kind == "goto", depth)
                }
                "return" => self.leave(way, left, &here),
                "vmap" => self.map(chain, rule, value, way, left, &here, depth),
                _ => {}
            }
            if here.may.is_empty() {
                return;
            }
        }
    }

    fn verdict(&mut self, chain: &'a Chain, rule: &'a Rule, way: &mut Way, here: &Way, accepts: bool) {
        let Way { may, must, limited, names_ports } = here.clone();
        way.take(here);
        let base = self.base;
        self.decisions.push(Decision {
            base,
            chain,
            rule: Some(rule),
            accepts,
            ports: may,
            certain: must,
            limited,
            names_ports,
        });
    }

    fn leave(&mut self, way: &mut Way, left: &mut Way, here: &Way) {
        left.may = std::mem::replace(&mut left.may, Ports::none()).or(&here.may);
        left.must = std::mem::replace(&mut left.must, Ports::none()).or(&here.must);
        way.take(here);
    }

    #[expect(clippy::too_many_arguments, reason = "the walk's state, handed down as it is")]
    fn follow(
        &mut self,
        chain: &'a Chain,
        target: Option<&str>,
        way: &mut Way,
        left: &mut Way,
        here: &Way,
        for_good: bool,
        depth: usize,
    ) {
        let target = target.and_then(|t| self.ruleset.chain(&chain.family, &chain.table, t));
        let Some(target) = target.filter(|_| depth < DEPTH) else { return };
        let back = self.chain(target, here.clone(), depth + 1);
        way.take(here);
        let to = if for_good { left } else { way };
        to.may = std::mem::replace(&mut to.may, Ports::none()).or(&back.may);
        to.must = std::mem::replace(&mut to.must, Ports::none()).or(&back.must);
    }

    /// A map of values to verdicts: each entry is a rule of its own.
    #[expect(clippy::too_many_arguments, reason = "the walk's state, handed down as it is")]
    fn map(
        &mut self,
        chain: &'a Chain,
        rule: &'a Rule,
        map: &Value,
        way: &mut Way,
        left: &mut Way,
        here: &Way,
        depth: usize,
    ) {
        let (key, data) = (&map["key"], &map["data"]);
        let named = data
            .as_str()
            .and_then(|s| s.strip_prefix('@'))
            .and_then(|name| self.ruleset.sets.get(&(chain.family.clone(), chain.table.clone(), name.to_owned())));
        let entries = named.or_else(|| data["set"].as_array()).map(Vec::as_slice).unwrap_or_default();
        for entry in entries {
            let Some([value, verdict]) = entry.as_array().map(Vec::as_slice) else { continue };
            let value = value.get("elem").and_then(|e| e.get("val")).unwrap_or(value);
            let mut one = here.clone();
            one.names_ports |= is_port(key);
            let wild = value.as_str() == Some("*");
            one.narrow(if wild {
                Matches::Always
            } else {
                matching::expression(self.ruleset, chain, key, value, self.syn)
            });
            one.may = one.may.and(&way.may);
            one.must = one.must.and(&way.must);
            if one.may.is_empty() {
                continue;
            }
            match verdict.as_object().and_then(|o| o.iter().next()) {
                Some((kind, _)) if kind == "accept" => self.verdict(chain, rule, way, &one, true),
                Some((kind, _)) if kind == "drop" => self.verdict(chain, rule, way, &one, false),
                Some((kind, v)) if kind == "jump" || kind == "goto" => {
                    self.follow(chain, v["target"].as_str(), way, left, &one, kind == "goto", depth);
                }
                Some((kind, _)) if kind == "return" => self.leave(way, left, &one),
                _ => {}
            }
        }
    }
}

impl Way {
    fn narrow(&mut self, matches: Matches) {
        let (may, must) = match matches {
            Matches::Always => return,
            Matches::Never => (Ports::none(), Ports::none()),
            Matches::On(ports) => (ports.clone(), ports),
            Matches::Perhaps(ports) => {
                self.limited = true;
                (ports, Ports::none())
            }
            Matches::Inside => (Ports::all(), Ports::none()),
        };
        self.may = std::mem::replace(&mut self.may, Ports::none()).and(&may);
        self.must = std::mem::replace(&mut self.must, Ports::none()).and(&must);
    }

    /// What goes elsewhere from here.
    fn take(&mut self, here: &Way) {
        self.may = std::mem::replace(&mut self.may, Ports::none()).without(&here.must);
        self.must = std::mem::replace(&mut self.must, Ports::none()).without(&here.may);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::nft::Family;

    fn ruleset(policy: &str, rules: &[Value], more: &[Value]) -> Ruleset {
        let mut all = vec![
            json!({"table": {"family": "inet", "name": "t", "handle": 1}}),
            json!({"chain": {"family": "inet", "table": "t", "name": "in", "type": "filter", "hook": "input",
                   "prio": 0, "policy": policy}}),
        ];
        all.extend(more.iter().cloned());
        for (i, expr) in rules.iter().enumerate() {
            all.push(json!({"rule": {"family": "inet", "table": "t", "chain": "in", "handle": i + 2, "expr": expr}}));
        }
        Ruleset::parse(&json!({"nftables": all}).to_string(), "", &BTreeMap::new()).unwrap()
    }

    fn port(value: Value) -> Value {
        json!({"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": value}})
    }

    fn state(states: &[&str]) -> Value {
        json!({"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": states}})
    }

    fn iif(name: &str) -> Value {
        json!({"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": name}})
    }

    fn syn(has_pinhole: bool, sets: Option<&Sets>) -> Syn<'_> {
        Syn {
            arrives_on: "wan0",
            v4: true,
            to: None,
            ports: Ports::from(1024..=65535),
            sets,
            has_pinhole,
            mark: None,
            translated: false,
            stranger: false,
        }
    }

    fn accept() -> Value {
        json!({"accept": null})
    }

    #[test]
    fn only_what_accepts_a_new_connection_from_outside_counts() {
        let r = ruleset(
            "drop",
            &[
                json!([iif("lo"), accept()]),
                json!([state(&["established", "related"]), accept()]),
                json!([{"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": {"range": [1, 60000]}}}, accept()]),
                json!([port(json!({"range": [50000, 50100]})), {"drop": null}]),
                json!([port(json!({"set": [22, {"range": [40000, 60000]}]})), accept()]),
            ],
            &[],
        );
        let (decisions, open) = decide(&r, "input", &syn(false, None));
        assert_eq!(open.to_string(), "40000-49999, 50101-60000");
        let accepting: Vec<_> = decisions.iter().filter(|d| d.accepts).collect();
        assert_eq!(accepting.len(), 1, "{accepting:?}");
        assert_eq!(accepting[0].rule.unwrap().handle, 6);
        assert!(accepting[0].names_ports && !accepting[0].limited);
        let policy = decisions.last().unwrap();
        assert!(policy.rule.is_none() && !policy.accepts && policy.certain.has(1024) && !policy.certain.has(40000));
    }

    #[test]
    fn jumps_returns_and_maps_are_followed() {
        let sub = |name: &str| json!({"chain": {"family": "inet", "table": "t", "name": name}});
        let rule = |chain: &str, h: u64, expr: Value| json!({"rule": {"family": "inet", "table": "t", "chain": chain, "handle": h, "expr": expr}});
        let r = ruleset(
            "drop",
            &[
                json!([{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [
                    ["established", {"accept": null}], ["invalid", {"drop": null}]]}}}]),
                json!([{"vmap": {"key": {"meta": {"key": "iifname"}}, "data": {"set": [
                    ["lan0", {"accept": null}], ["wan0", {"jump": {"target": "wan"}}]]}}}]),
                json!([port(json!(3000)), accept()]),
            ],
            &[
                sub("wan"),
                sub("end"),
                rule("wan", 20, json!([port(json!({"range": [2000, 2999]})), {"return": null}])),
                rule("wan", 21, json!([port(json!({"range": [1024, 2500]})), accept()])),
                rule("wan", 22, json!([port(json!({"range": [5000, 6000]})), {"goto": {"target": "end"}}])),
                rule("end", 23, json!([port(json!(5500)), accept()])),
            ],
        );
        let (_, open) = decide(&r, "input", &syn(false, None));
        assert_eq!(open.to_string(), "1024-1999, 3000, 5500");
    }

    #[test]
    fn a_set_of_pinholes_lets_pinholes_through_and_nothing_else() {
        let concat = json!({"concat": [
            {"payload": {"protocol": "ip", "field": "saddr"}}, {"payload": {"protocol": "ip", "field": "daddr"}},
            {"payload": {"protocol": "tcp", "field": "dport"}}]});
        let r =
            ruleset("drop", &[json!([{"match": {"op": "==", "left": concat, "right": "@ftp_pin4"}}, accept()])], &[]);
        let sets = Sets {
            family: Family::Inet,
            table: "t".into(),
            set4: Some("ftp_pin4".into()),
            set6: Some("ftp_pin6".into()),
        };
        assert!(decide(&r, "input", &syn(false, Some(&sets))).1.is_empty());
        assert_eq!(decide(&r, "input", &syn(true, Some(&sets))).1.to_string(), "1024-65535");
        assert!(decide(&r, "input", &Syn { v4: false, ..syn(true, Some(&sets)) }).1.is_empty());
    }

    #[test]
    fn a_mark_is_compared_as_far_as_it_is_known() {
        let mark = json!({"meta": {"key": "mark"}});
        let masked = |mask: u32| json!({"&": [mark, mask]});
        let rule =
            |op: &str, left: &Value, right: u32| json!([{"match": {"op": op, "left": left, "right": right}}, accept()]);
        let open = |rules: &[Value], mark: Option<Bits>, stranger: bool| {
            let r = ruleset("drop", rules, &[]);
            !decide(&r, "input", &Syn { mark, stranger, ..syn(false, None) }).1.is_empty()
        };
        let ours = |value: u32| Some(Bits { value, mask: 0xf0 });
        let by_mark = &[rule("==", &masked(0xf0), 0x30)];
        assert!(open(by_mark, ours(0x30), true));
        assert!(!open(by_mark, ours(0), true) && !open(by_mark, ours(0), false));
        assert!(open(by_mark, None, false), "nothing is known of it: it may be");
        assert!(open(&[rule("!=", &masked(0xf0), 0)], ours(0x30), true));
        assert!(!open(&[rule("!=", &masked(0xf0), 0)], ours(0), true));
        assert!(open(&[rule("==", &masked(0x10), 0x10)], ours(0x30), true), "part of our bits is enough");
        // Bits of which nobody knows.
        assert!(
            open(&[rule("==", &mark, 0x31)], ours(0x30), false) && !open(&[rule("==", &mark, 0x31)], ours(0x30), true)
        );
        assert!(!open(&[rule("==", &mark, 0x31)], ours(0), false), "one that is known differs");
        let iptables = |text: &str, mark| {
            let mut r = ruleset("drop", &[json!([{"xt": {"type": "match", "name": "mark"}}, accept()])], &[]);
            r.chains[0].rules[0].iptables = Some(format!("INPUT -m mark {text} -j ACCEPT"));
            !decide(&r, "input", &Syn { mark, stranger: true, ..syn(false, None) }).1.is_empty()
        };
        assert!(iptables("--mark 0x30/0xf0", ours(0x30)) && !iptables("--mark 0x30/0xf0", ours(0)));
        assert!(!iptables("! --mark 0x30/0xf0", ours(0x30)) && iptables("! --mark 0x30/0xf0", ours(0)));
    }

    #[test]
    fn what_depends_on_the_unknown_is_possible_and_not_certain() {
        let from = json!({"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "198.51.100.1"}});
        let r = ruleset("accept", &[json!([from, port(json!({"range": [2000, 3000]})), {"drop": null}])], &[]);
        let (decisions, open) = decide(&r, "input", &syn(false, None));
        assert_eq!(open.to_string(), "1024-65535", "from elsewhere it passes");
        assert!(decisions[0].limited && decisions[0].certain.is_empty());
        let policy = decisions.last().unwrap();
        assert!(policy.accepts && policy.ports.has(2500) && !policy.certain.has(2500) && policy.certain.has(4000));
        // A stranger is none of those that rules know.
        let strange = Syn { stranger: true, ..syn(false, None) };
        let policy = decide(&r, "input", &strange).0.pop().unwrap();
        assert!(policy.rule.is_none() && policy.certain.has(2500));
        let others = json!({"match": {"op": "!=", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "198.51.100.1"}});
        let r = ruleset("accept", &[json!([others, {"drop": null}])], &[]);
        assert!(decide(&r, "input", &strange).1.is_empty());
    }

    #[test]
    fn a_flag_match_fits_a_syn() {
        let flags = json!({"match": {"op": "==", "left": {"&": [{"payload": {"protocol": "tcp", "field": "flags"}},
            ["fin", "syn", "rst", "ack"]]}, "right": "syn"}});
        let r = ruleset("accept", &[json!([flags, {"drop": null}])], &[]);
        assert!(decide(&r, "input", &syn(false, None)).1.is_empty());
    }
}
