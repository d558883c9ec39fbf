//! Who else follows FTP by a ruleset, and who takes packets away before a program sees them.

use super::{add, removal::removal};
use crate::{
    doctor::{
        finding::{Code, Finding, Severity},
        ground::Ground,
    },
    nft::{
        ruleset::{Base, Chain, Rule, Ruleset},
        verdict::{Syn, decide},
    },
};

/// Rules that hand connections to the kernel's FTP helper.
pub(super) fn helpers(ruleset: &Ruleset, findings: &mut Vec<Finding>) {
    for chain in &ruleset.chains {
        for rule in &chain.rules {
            if !uses_ftp_helper(ruleset, chain, rule) {
                continue;
            }
            let what = "hands control connections to the kernel's FTP helper, which opens ports by its own reading \
                        (`ct state related`)";
            let finding = Finding::new(Severity::Error, Code::KernelHelper, what)
                .about(chain, rule)
                .remedy("remove the rule, so that only one of the two opens ports");
            add(findings, Finding { commands: removal(ruleset, chain, rule), ..finding });
        }
    }
}

fn uses_ftp_helper(ruleset: &Ruleset, chain: &Chain, rule: &Rule) -> bool {
    rule.statements.iter().any(|s| {
        if let Some(name) = s["ct helper"].as_str() {
            let mut objects = ruleset.helpers.iter();
            let here = (chain.family.as_str(), chain.table.as_str(), name);
            return objects.any(|h| (&*h.name.0, &*h.name.1, &*h.name.2) == here && h.kind == "ftp");
        }
        // Of a target of iptables nft tells the name only.
        let ct = s["xt"]["type"] == "target" && s["xt"]["name"] == "CT";
        ct && rule.iptables.as_ref().map_or(rule.text.contains("dport 21 "), |r| r.contains("--helper ftp"))
    })
}

/// Rules that hand control packets to other programs.
pub(super) fn readers(ruleset: &Ruleset, ground: &Ground, findings: &mut Vec<Finding>) {
    const STATEMENTS: [(&str, &str); 3] = [
        ("queue", "a program in user space that decides about packets"),
        ("tproxy", "a transparent proxy"),
        ("redirect", "a proxy on this host"),
    ];
    for chain in &ruleset.chains {
        for rule in &chain.rules {
            let Some((_, who)) =
                STATEMENTS.iter().find(|(name, _)| rule.statements.iter().any(|s| s.get(name).is_some()))
            else {
                continue;
            };
            if !may_take_control(ruleset, chain, rule, ground) {
                continue;
            }
            let what = format!("hands control connections to {who}");
            let remedy = "let only one of the two follow FTP: take the control ports out of this rule, or don't watch \
                          connections that end in the proxy";
            add(findings, Finding::new(Severity::Warning, Code::SecondReader, what).about(chain, rule).remedy(remedy));
        }
    }
}

/// Whether a rule by itself may match a SYN to a control port from outside.
fn may_take_control(ruleset: &Ruleset, chain: &Chain, rule: &Rule, ground: &Ground) -> bool {
    let statements = rule.statements.iter().filter(|s| s.get("match").is_some() || s.get("xt").is_some()).cloned();
    let alone = Rule { statements: statements.chain([serde_json::json!({"accept": null})]).collect(), ..rule.clone() };
    let base = Base { kind: "filter".into(), hook: "prerouting".into(), priority: 0, accept: false };
    let chain = Chain { base: Some(base), rules: vec![alone], ..chain.clone() };
    let v4 = chain.family != "ip6";
    let small = Ruleset { chains: vec![chain], sets: ruleset.sets.clone(), ..Ruleset::default() };
    ground.interfaces.iter().any(|interface| {
        let ports = ground.control();
        let syn = Syn { sets: None, mark: None, ..ground.syn(interface, v4, None, ports) };
        !decide(&small, "none", &syn).1.is_empty()
    })
}

/// Forwarding of outside interfaces in hardware.
pub(super) fn flowtables(ruleset: &Ruleset, ground: &Ground, findings: &mut Vec<Finding>) {
    for f in ruleset.flowtables.iter().filter(|f| f.offload) {
        for interface in ground.interfaces.iter().filter(|i| f.devices.contains(i)) {
            let place = format!("table {} {}, flowtable {}", f.table.0, f.table.1, f.name);
            let what = format!("forwards what leaves and arrives by {interface} in hardware, where no program sees it");
            let remedy = "remove `flags offload`, or don't add connections to control ports and guarded hosts to it";
            add(findings, Finding::new(Severity::Error, Code::FlowtableOffload, what).at(place).remedy(remedy));
        }
    }
}
