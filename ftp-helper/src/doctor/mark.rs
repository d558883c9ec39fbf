//! The rules for mode `mark`: what has the mark is accepted, and guarded ports are closed to what has not.
//!
//! Only the first SYN of a connection has the mark; what follows is accepted by the connection's state.

use std::{collections::BTreeMap, fmt::Write as _};

use ipnet::IpNet;

use super::{
    ground::{Ground, Guarded},
    integrate::{MARK, TABLE, ends, interfaces, nft_ports},
    rules,
};
use crate::{
    engine::policy::Mark,
    nft::{
        ruleset::{Chain, Manager, Ruleset},
        verdict::{Syn, decide},
    },
};

/// A table of our own that drops SYNs without the mark, where the ruleset would let them through; empty if it lets none.
/// Before the ruleset's own chains: what is dropped here comes nowhere.
pub(super) fn close(ruleset: &Ruleset, ground: &Ground, mark: Mark) -> String {
    let mut by_hook: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for g in &ground.guards {
        for hook in ground.hooks(&g.net) {
            if ground.interfaces.iter().any(|interface| is_open(ruleset, ground, interface, g, hook)) {
                let Mark { value, mask } = mark;
                by_hook.entry(hook).or_default().push(format!(
                    "{} {} tcp dport {} tcp flags & (fin | syn | rst | ack) == syn meta mark & {mask:#010x} != {value:#010x} \
                     counter drop comment \"{MARK} not negotiated\"",
                    interfaces(ground),
                    ends(g),
                    nft_ports(&g.ports)
                ));
            }
        }
    }
    if by_hook.is_empty() {
        return String::new();
    }
    let (mut declared, mut inserted) = (String::new(), String::new());
    for (hook, rules) in by_hook {
        // Writing to a String does not fail.
        let kind = format!("type filter hook {hook} priority filter - 5; policy accept;");
        let _ = writeln!(declared, "\tchain {TABLE}_{hook} {{ {kind} }}");
        for rule in rules {
            let _ = writeln!(inserted, "insert rule inet {TABLE} {TABLE}_{hook} {rule}");
        }
    }
    format!("table inet {TABLE} {{\n{declared}}}\n{inserted}")
}

/// Whether the ruleset lets a SYN without the mark through to a guarded port, or will: what firewalld drops now it has to
/// be told to accept, since it knows no rule by mark.
fn is_open(ruleset: &Ruleset, ground: &Ground, interface: &str, g: &Guarded, hook: &str) -> bool {
    let syn = ground.syn(interface, matches!(g.net, IpNet::V4(_)), Some(g.net), g.ports.clone());
    // Peers that the ruleset trusts, and a single service that it lets through, are the administrator's affair.
    let syn = Syn { stranger: true, ..syn };
    let drops = rules::drops(ruleset, ground, interface, g, hook);
    let told = drops.iter().any(|d| ruleset.manager(d.base) == Manager::Firewalld);
    told || ground.is_wide(&decide(ruleset, hook, &syn).1)
}

/// The rule that accepts by the mark in a base chain.
pub(super) fn accept(base: &Chain, interface: &str, Mark { value, mask }: Mark) -> String {
    let Chain { family, table, name, .. } = base;
    format!(
        "insert rule {family} {table} {name} iifname \"{interface}\" meta mark & {mask:#010x} == {value:#010x} counter \
         accept comment \"{MARK} negotiated\"\n"
    )
}

/// The same as a command of iptables.
pub(super) fn iptables(base: &Chain, interface: &str, mark: Mark) -> String {
    let program = if base.family == "ip6" { "ip6tables" } else { "iptables" };
    format!("{program} -t {} -I {} -i {interface} -m mark --mark {mark} -j ACCEPT", base.table, base.name)
}
