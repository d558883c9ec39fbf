//! The rules for address translation: what lets translated data connections through, and keeps masquerade off their ports.

use std::{collections::BTreeSet, fmt::Write as _, ops::RangeInclusive};

use super::{
    ground::Ground,
    integrate::{MARK, Plan},
    rules::unmarked,
};
use crate::nft::ruleset::{Chain, Manager, Rule, Ruleset};

/// What lets translated data connections through, and keeps masquerade off their ports.
pub(super) fn rules(ruleset: &Ruleset, ground: &Ground, plan: &mut Plan) -> String {
    let Some((mark, active)) = &ground.nat else { return String::new() };
    let mut load = String::new();
    let mut seen = BTreeSet::new();
    for (interface, v4) in ground.interfaces.iter().flat_map(|i| [(i, true), (i, false)]) {
        for d in unmarked(ruleset, ground, interface, v4) {
            let Chain { family, table, name, .. } = d.base;
            if !seen.insert((interface, family, table, name)) {
                continue;
            }
            let (value, mask) = (mark.value, mark.mask);
            match ruleset.manager(d.base) {
                Manager::Administrator => {
                    let _ = writeln!(
                        load,
                        "insert rule {family} {table} {name} iifname \"{interface}\" ct state new meta mark & {mask:#x} == \
                         {value:#x} counter accept comment \"{MARK} translated\""
                    );
                }
                Manager::Iptables => {
                    let program = if v4 { "iptables" } else { "ip6tables" };
                    plan.add.push(format!(
                        "{program} -t {table} -I {name} -i {interface} -m mark --mark {value:#x}/{mask:#x} -j ACCEPT"
                    ));
                }
                // A guard for the inside network has its policy written with the others, and closes it to everybody else.
                Manager::Firewalld => plan.notes.push(format!(
                    "firewalld knows no rule by mark: add the inside network to the guard, such as networks = [\"@{interface}\", \
                     \"10.0.0.0/24\"], and print again: then a policy lets to it what the guard lets through"
                )),
            }
        }
    }
    let free = beside(active);
    let masquerading = |c: &&Chain| c.base.as_ref().is_some_and(|b| b.hook == "postrouting" && b.kind == "nat");
    let ours = format!("comment \"{MARK} active ports\"");
    let is_ours = |r: &Rule| r.text.contains(&ours) || r.iptables.as_ref().is_some_and(|spec| spec.contains(&ours));
    let is_done = |c: &&Chain| c.rules.iter().any(is_ours);
    for chain in ruleset.chains.iter().filter(masquerading).filter(|c| !is_done(c)) {
        for (number, rule) in (1..).zip(&chain.rules) {
            let own = rule.iptables.as_deref().and_then(|spec| masquerade_of_iptables(chain, spec, number, &free));
            if let Some(command) = own {
                plan.add.push(command);
                continue;
            }
            let (Some(to), Chain { family, table, name, .. }) = (conditions(&rule.text), chain) else { continue };
            if ruleset.manager(chain) == Manager::Administrator {
                let handle = rule.handle;
                let _ = writeln!(
                    load,
                    "insert rule {family} {table} {name} handle {handle} {to}tcp sport 1024-65535 masquerade to :{free} {ours}"
                );
            } else {
                plan.notes.push(format!(
                    "{family} {table} {name} masquerades to any port: keep {}-{} out of it, as `--to-ports {free}` does for TCP \
                     from ports above 1023",
                    active.start(),
                    active.end()
                ));
            }
        }
    }
    load
}

/// The rule to put before one of iptables that masquerades to any port; none if it is another rule, or one that asks for a
/// protocol.
fn masquerade_of_iptables(chain: &Chain, spec: &str, number: usize, free: &str) -> Option<String> {
    let Chain { family, table, name, .. } = chain;
    let to = spec.strip_suffix("-j MASQUERADE")?.strip_prefix(name.as_str())?;
    if to.contains(['$', '`', '\\']) || to.split_whitespace().any(|word| word == "-p") {
        return None;
    }
    let program = if family == "ip6" { "ip6tables" } else { "iptables" };
    Some(format!(
        "{program} -t {table} -I {name} {number}{to}-p tcp -m tcp --sport 1024:65535 -m comment --comment \"{MARK} active \
         ports\" -j MASQUERADE --to-ports {free}"
    ))
}

/// What a rule that masquerades to any port asks for, as `nft` writes it; none if it is another rule, or one behind ours.
fn conditions(text: &str) -> Option<String> {
    let (before, behind) = text.split_once("masquerade")?;
    if !behind.trim().is_empty() && !behind.trim_start().starts_with("comment ") {
        return None;
    }
    let mut rest = before.to_owned();
    if let Some((before, counts)) = rest.split_once("counter packets ") {
        let behind: Vec<&str> = counts.splitn(4, ' ').collect();
        rest = format!("{before}{}", behind.get(3).unwrap_or(&""));
    }
    Some(rest)
}

/// The wider range of ports on either side of another.
fn beside(active: &RangeInclusive<u16>) -> String {
    let (low, high) = (u32::from(*active.start()), u32::from(*active.end()));
    if low.saturating_sub(1024) >= 65535 - high { format!("1024-{}", low - 1) } else { format!("{}-65535", high + 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masquerade_of_iptables_leaves_the_ports_alone() {
        let chain =
            Chain { family: "ip6".into(), table: "nat".into(), name: "POSTROUTING".into(), base: None, rules: vec![] };
        let before = |spec: &str| masquerade_of_iptables(&chain, spec, 3, "1024-60999");
        assert_eq!(
            before("POSTROUTING -s fd00::/64 -o wan0 -j MASQUERADE").as_deref(),
            Some(
                "ip6tables -t nat -I POSTROUTING 3 -s fd00::/64 -o wan0 -p tcp -m tcp --sport 1024:65535 -m comment --comment \
                 \"ftp-helper: active ports\" -j MASQUERADE --to-ports 1024-60999"
            )
        );
        for other in [
            "-o wan0 -p udp -j MASQUERADE",
            "-o wan0 -j MASQUERADE --random",
            "-o wan0 -j ACCEPT",
            "-o $(x) -j MASQUERADE",
        ] {
            assert_eq!(before(&format!("POSTROUTING {other}")), None, "{other}");
        }
    }

    #[test]
    fn masquerade_leaves_the_ports_alone() {
        assert_eq!(conditions("oifname \"wan0\" masquerade").as_deref(), Some("oifname \"wan0\" "));
        assert_eq!(
            conditions("ip saddr 10.0.0.0/8 counter packets 3 bytes 180 masquerade").as_deref(),
            Some("ip saddr 10.0.0.0/8 ")
        );
        assert_eq!(conditions("masquerade comment \"all\"").as_deref(), Some(""));
        for other in ["tcp dport 5 accept", "masquerade to :1024-60999", "masquerade random"] {
            assert_eq!(conditions(other), None, "{other}");
        }
        assert_eq!(beside(&(61000..=61999)), "1024-60999");
        assert_eq!(beside(&(2000..=2999)), "3000-65535");
        assert_eq!(beside(&(1024..=65000)), "65001-65535");
    }
}
