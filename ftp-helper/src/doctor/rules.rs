//! What the ruleset leaves open, what it would break, and who else follows FTP by it.

mod removal;
mod rivals;

use std::net::IpAddr;

use ipnet::IpNet;

use self::removal::removal;
use super::{
    finding::{Code, Finding, RuleAt, Severity},
    ground::{Ground, Guarded, is_link_local, is_v4},
};
use crate::nft::{
    Ports,
    ruleset::{Chain, Manager, Rule, Ruleset},
    verdict::{Bits, Decision, Syn, decide},
};

/// Everything that is found in a ruleset.
pub(super) fn check(ruleset: &Ruleset, ground: &Ground) -> Vec<Finding> {
    let mut findings = Vec::new();
    // Behind one wide rule there may be another that does the same: looked for as if the first were gone.
    let mut rest = ruleset.clone();
    loop {
        let mut found = Vec::new();
        for (interface, v4) in ground.interfaces.iter().flat_map(|i| [(i, true), (i, false)]) {
            wide(&rest, ground, interface, v4, &mut found);
        }
        let (more, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|f| f.code == Code::WideRange);
        if more.is_empty() {
            findings.extend(others);
            break;
        }
        rest = without(&rest, &more);
        findings.extend(more);
    }
    for interface in &ground.interfaces {
        for guarded in &ground.guards {
            dropped(ruleset, ground, interface, guarded, &mut findings);
            unread(ruleset, ground, interface, guarded, &mut findings);
        }
    }
    for interface in &ground.interfaces {
        marked(ruleset, ground, interface, &mut findings);
    }
    rivals::helpers(ruleset, &mut findings);
    rivals::readers(ruleset, ground, &mut findings);
    rivals::flowtables(ruleset, ground, &mut findings);
    findings
}

/// The ruleset without the rules that findings are about.
pub(super) fn without(ruleset: &Ruleset, findings: &[Finding]) -> Ruleset {
    let mut rest = ruleset.clone();
    for at in findings.iter().filter_map(|f| f.rule.as_ref()) {
        let here = |c: &&mut Chain| c.family == at.family && c.table == at.table && c.name == at.chain;
        for chain in rest.chains.iter_mut().filter(here) {
            chain.rules.retain(|r| Some(r.handle) != at.handle);
        }
    }
    rest
}

/// Rules and policies that accept new connections to many ports.
fn wide(ruleset: &Ruleset, ground: &Ground, interface: &str, v4: bool, findings: &mut Vec<Finding>) {
    let guarded: Vec<&Guarded> = ground.guards.iter().filter(|g| is_v4(&g.net) == v4).collect();
    if !v4 && guarded.is_empty() && !ground.local.iter().any(|a| a.is_ipv6() && !a.is_loopback() && !is_link_local(a)) {
        return;
    }
    // Not enforced by the kernel side: the guarded hosts are as open as the ruleset leaves them.
    if !ground.enforced {
        for g in &guarded {
            for hook in ground.hooks(&g.net) {
                let syn = ground.syn(interface, v4, Some(g.net), g.ports.clone());
                let (decisions, open) = decide(ruleset, hook, &syn);
                let by_rule = accepting(ruleset, ground, &decisions, &open, findings, |_, ports| ports);
                let rest = open.without(&by_rule).and(&open_to_strangers(ruleset, hook, &syn));
                if ground.is_wide(&rest) {
                    let what = format!(
                        "nothing in the ruleset refuses new connections to {}, ports {}, at hook {hook}",
                        g.net.addr(),
                        brief(&rest)
                    );
                    add_policy(ruleset, hook, v4, Severity::Error, what, findings);
                }
            }
        }
    }
    for hook in ["input", "forward"] {
        if hook == "forward" && !ground.forwards[usize::from(!v4)] {
            continue;
        }
        let syn = ground.syn(interface, v4, None, ground.data());
        let (decisions, open) = decide(ruleset, hook, &syn);
        let host_guarded = ground.enforced && hook == "input" && ground.guards_host(v4);
        let local: Vec<IpNet> = ground
            .local
            .iter()
            .filter(|a| a.is_ipv4() == v4 && !a.is_loopback() && !is_link_local(a))
            .map(|a| IpNet::from(*a))
            .collect();
        let by_rule = accepting(ruleset, ground, &decisions, &open, findings, |rule, ports| {
            let nets = destinations(rule);
            // What is for guarded hosts only was looked at above, or is the kernel side's affair.
            if !nets.is_empty() {
                return ports.without(&ground.guarded_ports(&nets));
            }
            if host_guarded { ports.without(&ground.guarded_ports(&local)) } else { ports }
        });
        let rest = open.without(&by_rule).and(&open_to_strangers(ruleset, hook, &syn));
        if ground.is_wide(&rest) {
            let (severity, who) = if ground.guards.is_empty() {
                (Severity::Warning, "new connections")
            } else {
                (Severity::Info, "new connections to what no guard names")
            };
            let what = format!("nothing in the ruleset refuses {who}, ports {}, at hook {hook}", brief(&rest));
            add_policy(ruleset, hook, v4, severity, what, findings);
        }
    }
}

/// The ports that are open to somebody of whom no rule knows anything: what a rule lets trusted peers do is not what nobody
/// refuses.
fn open_to_strangers(ruleset: &Ruleset, hook: &str, syn: &Syn<'_>) -> Ports {
    decide(ruleset, hook, &Syn { stranger: true, ..syn.clone() }).1
}

/// Adds a finding for each rule that accepts many open ports; all ports that rules accept.
fn accepting(
    ruleset: &Ruleset,
    ground: &Ground,
    decisions: &[Decision<'_>],
    open: &Ports,
    findings: &mut Vec<Finding>,
    counts: impl Fn(&Rule, Ports) -> Ports,
) -> Ports {
    let mut by_rule = Ports::none();
    for d in decisions.iter().filter(|d| d.accepts) {
        let Some(rule) = d.rule else { continue };
        let ports = d.ports.clone().and(open);
        let fits_port = counts(rule, ports.clone());
        // Trusted peers that may do everything are the administrator's affair.
        if d.limited && !d.names_ports {
            continue;
        }
        by_rule = by_rule.or(&ports);
        if !ground.is_wide(&fits_port) {
            continue;
        }
        let (severity, code, limit) = if d.limited {
            (Severity::Warning, Code::WideRangeLimited, ", for some peers or hosts")
        } else {
            (Severity::Error, Code::WideRange, "")
        };
        let what = format!("accepts new connections to ports {} that nobody has negotiated{limit}", brief(&fits_port));
        let remedy = match ground.enforced {
            true => "replace it by a rule for the guarded hosts and their passive ports only",
            false if ground.mark.is_some() => "replace it by a rule that accepts by the mark",
            false if ground.sets.is_some() => "replace it by the rules for the fed sets",
            false => "replace it by rules for a fed set ([nftables]), or guard these hosts in mode \"drop\"",
        };
        let remedy = format!("{remedy}: `ftp-helper integrate {} --print` writes them", manager_word(ruleset, d.chain));
        let finding = Finding::new(severity, code, what).about(d.chain, rule).remedy(remedy);
        add(findings, Finding { commands: removal(ruleset, d.chain, rule), ..finding });
    }
    by_rule
}

fn add_policy(ruleset: &Ruleset, hook: &str, v4: bool, severity: Severity, what: String, findings: &mut Vec<Finding>) {
    let chains = ruleset.at(hook, v4);
    let finding = Finding::new(severity, Code::PolicyAccepts, what);
    let finding = match chains.last() {
        Some(chain) => {
            let rule = RuleAt {
                family: chain.family.clone(),
                table: chain.table.clone(),
                chain: chain.name.clone(),
                handle: None,
                text: None,
            };
            Finding { rule: Some(rule), ..finding.at(chain.place_of_policy()) }
        }
        None => finding.at(format!("no chain at hook {hook} for IPv{}", if v4 { 4 } else { 6 })),
    };
    let remedy = match severity {
        Severity::Error => {
            "feed a set ([nftables]) and load what `ftp-helper integrate nft --print` writes, or guard these hosts in \
             mode \"drop\""
        }
        Severity::Warning => "name the FTP servers in a [[guard]]",
        Severity::Info => "none is needed for FTP; give the chain the policy drop if nothing else should be reachable",
    };
    add(findings, finding.remedy(remedy));
}

/// Rules and policies that would drop a connection that has a pinhole.
fn dropped(ruleset: &Ruleset, ground: &Ground, interface: &str, guarded: &Guarded, findings: &mut Vec<Finding>) {
    let ports = ground.announced(guarded);
    for hook in ground.hooks_of_pinholes(&guarded.net) {
        for d in drops(ruleset, ground, interface, guarded, hook) {
            let decided = ground.enforced || ground.sets.is_some() || ground.mark.is_some();
            let severity = if decided { Severity::Error } else { Severity::Warning };
            let what = format!(
                "would drop a connection to {}, ports {}, for which there is a pinhole",
                guarded.net.addr(),
                brief(&d.certain.clone().and(&ports))
            );
            let finding = Finding::new(severity, Code::PinholeDropped, what);
            let finding = match d.rule {
                Some(rule) => finding.about(d.chain, rule),
                None => finding.at(format!("{} (its policy)", d.chain.place_of_policy())),
            };
            let word = manager_word(ruleset, d.chain);
            let remedy = format!("load what `ftp-helper integrate {word} --print` writes; it goes before this");
            add(findings, finding.remedy(remedy));
        }
    }
}

/// Whether the mark makes any difference to the ruleset.
fn unread(ruleset: &Ruleset, ground: &Ground, interface: &str, guarded: &Guarded, findings: &mut Vec<Finding>) {
    if ground.mark.is_none() {
        return;
    }
    for hook in ground.hooks_of_pinholes(&guarded.net) {
        let syn = ground.syn(interface, is_v4(&guarded.net), Some(guarded.net), ground.announced(guarded));
        let [without, with] = [false, true].map(|has| {
            let syn = Syn { stranger: true, ..ground.with_pinhole(syn.clone(), has) };
            decide(ruleset, hook, &syn).1
        });
        if without != with {
            continue;
        }
        let what = format!(
            "at hook {hook} no rule tells a connection to {} that has the mark from one that has it not",
            guarded.net.addr()
        );
        let remedy = "load what `ftp-helper integrate nft --print` writes (with firewalld: `integrate firewalld`)";
        add(findings, Finding::new(Severity::Error, Code::MarkUnread, what).at(format!("hook {hook}")).remedy(remedy));
    }
}

/// What drops the connection of a pinhole at a hook, unless its initiator is one that the ruleset knows.
pub(super) fn drops<'a>(
    ruleset: &'a Ruleset,
    ground: &Ground,
    interface: &str,
    guarded: &Guarded,
    hook: &str,
) -> Vec<Decision<'a>> {
    let syn = ground.syn(interface, is_v4(&guarded.net), Some(guarded.net), ground.announced(guarded));
    let syn = Syn { stranger: true, ..ground.with_pinhole(syn, true) };
    let (mut decisions, _) = decide(ruleset, hook, &syn);
    decisions.retain(|d| !d.accepts && !d.certain.is_empty());
    decisions
}

/// What drops a data connection that is translated.
fn marked(ruleset: &Ruleset, ground: &Ground, interface: &str, findings: &mut Vec<Finding>) {
    let Some((mark, _)) = &ground.nat else { return };
    for v4 in [true, false] {
        for d in unmarked(ruleset, ground, interface, v4) {
            let what = format!(
                "would drop data connections that are translated: they come in by {interface}, are new to the ruleset, and \
                 have the mark {mark}"
            );
            let finding = Finding::new(Severity::Error, Code::MarkUnaccepted, what);
            let finding = match d.rule {
                Some(rule) => finding.about(d.chain, rule),
                None => finding.at(format!("{} (its policy)", d.chain.place_of_policy())),
            };
            let word = manager_word(ruleset, d.chain);
            let remedy = format!("accept them by their mark: `ftp-helper integrate {word} --print` writes the rule");
            add(findings, finding.remedy(remedy));
        }
    }
}

/// What drops a translated data connection on its way inside, unless its initiator is one that the ruleset knows.
pub(super) fn unmarked<'a>(ruleset: &'a Ruleset, ground: &Ground, interface: &str, v4: bool) -> Vec<Decision<'a>> {
    let Some((mark, _)) = ground.nat.as_ref().filter(|_| ground.forwards[usize::from(!v4)]) else { return Vec::new() };
    // Bits that are not ours are as they come: zero.
    let mark = Some(Bits { value: mark.value, mask: u32::MAX });
    let syn =
        Syn { sets: None, mark, translated: true, stranger: true, ..ground.syn(interface, v4, None, ground.data()) };
    let (mut decisions, open) = decide(ruleset, "forward", &syn);
    // A rule that accepts some of the ports is one that somebody has thought about.
    decisions.retain(|d| !d.accepts && !d.certain.is_empty() && open.is_empty());
    decisions
}

/// Where a rule says that it is for certain destinations only.
fn destinations(rule: &Rule) -> Vec<IpNet> {
    let mut nets = Vec::new();
    for m in rule.statements.iter().filter_map(|s| s.get("match")) {
        if m["op"] != "==" || m["left"]["payload"]["field"] != "daddr" {
            continue;
        }
        let right = &m["right"];
        let values = right["set"].as_array().map_or_else(|| std::slice::from_ref(right), Vec::as_slice);
        for v in values {
            let net = match (v.as_str(), v["prefix"]["addr"].as_str(), v["prefix"]["len"].as_u64()) {
                (Some(one), ..) => one.parse::<IpAddr>().ok().map(IpNet::from),
                (None, Some(addr), Some(len)) => {
                    let addr = addr.parse().ok();
                    addr.zip(u8::try_from(len).ok()).and_then(|(a, l)| IpNet::new(a, l).ok())
                }
                _ => None,
            };
            match net {
                Some(net) => nets.push(net),
                // A name or a range: nobody knows here.
                None => return Vec::new(),
            }
        }
    }
    nets
}

/// How `integrate` calls the manager of a chain's table.
fn manager_word(ruleset: &Ruleset, chain: &Chain) -> &'static str {
    if ruleset.manager(chain) == Manager::Firewalld { "firewalld" } else { "nft" }
}

impl Finding {
    fn about(self, chain: &Chain, rule: &Rule) -> Self {
        let at = RuleAt {
            family: chain.family.clone(),
            table: chain.table.clone(),
            chain: chain.name.clone(),
            handle: Some(rule.handle),
            text: Some(rule.written()),
        };
        Self { rule: Some(at), ..self.at(chain.place(rule)) }
    }
}

/// Adds a finding unless the same rule was found before; the worse one stays.
fn add(findings: &mut Vec<Finding>, finding: Finding) {
    let same = |f: &&mut Finding| {
        let about = f.rule.is_some() && f.rule == finding.rule || f.rule.is_none() && f.what == finding.what;
        // A policy is found once for each guarded host.
        let whole = f.rule.as_ref().is_some_and(|r| r.handle.is_some()) || f.what == finding.what;
        let kin = f.code == finding.code
            || matches!(f.code, Code::WideRange | Code::WideRangeLimited)
                && matches!(finding.code, Code::WideRange | Code::WideRangeLimited);
        kin && about && whole && f.place == finding.place
    };
    match findings.iter_mut().find(same) {
        Some(old) if old.severity > finding.severity => *old = finding,
        Some(_) => {}
        None => findings.push(finding),
    }
}

/// Ports, not too many of them.
fn brief(ports: &Ports) -> String {
    let runs = ports.runs();
    let shown = runs.iter().take(4).fold(Ports::none(), |sum, r| sum.with(r.clone())).to_string();
    if runs.len() > 4 { format!("{shown} …") } else { shown }
}

#[cfg(test)]
mod tests;
