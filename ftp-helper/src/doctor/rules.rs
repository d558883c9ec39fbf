//! What the ruleset leaves open, what it would break, and who else follows FTP by it.

use std::{collections::BTreeSet, net::IpAddr, ops::RangeInclusive};

use ipnet::IpNet;

use super::finding::{Code, Finding, RuleAt, Severity};
use crate::{
    config::{Config, Direction, Network},
    dataplane::Interface,
    engine::policy::{Mark, Mode},
    nft::{
        Ports, Sets,
        ruleset::{Chain, Manager, Rule, Ruleset},
        verdict::{Bits, Decision, Syn, decide},
    },
};

/// So many ports in a row are a range and not a service. (Fewer do where a server's passive range is known.)
const WIDE: usize = 16;

/// What is to be protected, and where.
#[derive(Clone, Debug)]
pub(super) struct Ground {
    /// Outside interfaces that are there.
    pub(super) interfaces: Vec<String>,
    /// Control ports.
    pub(super) control_ports: Vec<u16>,
    /// Guards on what comes in.
    pub(super) guards: Vec<Guarded>,
    /// Passive ranges of known servers.
    pub(super) passive: Vec<(IpNet, Ports)>,
    /// Whether the kernel side drops what has no pinhole.
    pub(super) enforced: bool,
    /// The mark of translated data connections, and the public ports for those of inside clients, where there are any.
    pub(super) nat: Option<(Mark, RangeInclusive<u16>)>,
    /// The sets that are fed.
    pub(super) sets: Option<Sets>,
    /// The mark of what is permitted, in mode `mark`.
    pub(super) mark: Option<Mark>,
    /// The addresses of this host.
    pub(super) local: BTreeSet<IpAddr>,
    /// Whether packets are forwarded, of IPv4 and of IPv6.
    pub(super) forwards: [bool; 2],
}

/// A network that a guard names, and its guarded ports.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Guarded {
    pub(super) net: IpNet,
    pub(super) ports: Ports,
    /// Who is held to it, of the network's family; empty for everybody.
    pub(super) initiators: Vec<IpNet>,
}

impl Ground {
    /// What a configuration says, on a host with these interfaces.
    pub(super) fn of(
        config: Option<&Config>,
        all: &std::collections::BTreeMap<String, Interface>,
        interfaces: Vec<String>,
        forwards: [bool; 2],
    ) -> Self {
        let local: BTreeSet<IpAddr> = all.values().flat_map(|i| &i.addresses).copied().collect();
        let mut ground = Self {
            interfaces,
            control_ports: vec![21],
            guards: Vec::new(),
            passive: Vec::new(),
            enforced: false,
            nat: None,
            sets: None,
            mark: None,
            local,
            forwards,
        };
        let Some(config) = config else { return ground };
        ground.control_ports.clone_from(&config.watch.control_ports);
        ground.enforced = config.policy.mode == Mode::Drop;
        ground.nat = config.policy.nat.as_ref().map(|n| (config.policy.mark, n.active_ports.clone()));
        ground.sets.clone_from(&config.nftables);
        ground.mark = (config.policy.mode == Mode::Mark).then_some(config.policy.mark);
        let addresses = |name: &str| -> Vec<IpNet> {
            let addresses = all.get(name).map(|i| i.addresses.as_slice()).unwrap_or_default();
            addresses.iter().filter(|a| !is_link_local(a)).map(|a| IpNet::from(*a)).collect()
        };
        for (i, server) in config.policy.servers.iter().enumerate() {
            let Some(range) = &server.passive_ports else { continue };
            let own = config.server_interfaces.iter().filter(|(s, _)| *s == i).flat_map(|(_, name)| addresses(name));
            ground.passive.extend(server.networks.iter().copied().chain(own).map(|n| (n, Ports::from(range.clone()))));
        }
        for guard in config.guards.iter().filter(|g| g.direction == Direction::In) {
            let mut ports = Ports::from(guard.ports.clone());
            for except in &guard.except_ports {
                ports = ports.without(&Ports::from(except.clone()));
            }
            let ports = ports.without(&ground.control());
            let prefixes = |network: &Network| -> Vec<IpNet> {
                match network {
                    Network::Prefix(net) => vec![*net],
                    Network::Interface(name) => addresses(name),
                }
            };
            let held: Vec<IpNet> = guard.initiators.iter().flat_map(prefixes).collect();
            for net in guard.networks.iter().flat_map(prefixes) {
                let initiators: Vec<IpNet> = held.iter().filter(|i| is_v4(i) == is_v4(&net)).copied().collect();
                if initiators.is_empty() {
                    // Nobody of this family is held to it.
                    continue;
                }
                let all = initiators.iter().any(|i| i.prefix_len() == 0);
                let initiators = if all { Vec::new() } else { initiators };
                ground.guards.push(Guarded { net, ports: ports.clone(), initiators });
            }
        }
        ground
    }

    fn control(&self) -> Ports {
        self.control_ports.iter().fold(Ports::none(), |ports, p| ports.with(*p..=*p))
    }

    /// Ports that data connections may have.
    fn data(&self) -> Ports {
        Ports::from(1024..=u16::MAX).without(&self.control())
    }

    /// The hooks by which packets to a network pass a ruleset.
    pub(super) fn hooks(&self, net: &IpNet) -> Vec<&'static str> {
        let own = self.local.iter().filter(|a| net.contains(*a)).count();
        let only_own = own == 1 && net.prefix_len() == net.max_prefix_len();
        let mut hooks = Vec::new();
        if own > 0 {
            hooks.push("input");
        }
        if !only_own && self.forwards[usize::from(!is_v4(net))] {
            hooks.push("forward");
        }
        hooks
    }

    /// The hooks by which the connections of pinholes for a network pass a ruleset as they came. With translation this host's
    /// own addresses are those of published servers, whose connections go on to inside.
    pub(super) fn hooks_of_pinholes(&self, net: &IpNet) -> Vec<&'static str> {
        let mut hooks = self.hooks(net);
        hooks.retain(|h| *h != "input" || self.nat.is_none());
        hooks
    }

    /// The guarded ports of a network that its server may announce.
    pub(super) fn announced(&self, guarded: &Guarded) -> Ports {
        let known = self.passive.iter().filter(|(net, _)| net.contains(&guarded.net)).map(|(_, ports)| ports);
        match known.cloned().reduce(|a, b| a.or(&b)) {
            Some(passive) => passive.and(&guarded.ports),
            None => guarded.ports.clone(),
        }
    }

    /// A first SYN of which only this is known.
    pub(super) fn syn<'a>(&'a self, arrives_on: &'a str, v4: bool, to: Option<IpNet>, ports: Ports) -> Syn<'a> {
        let syn = Syn {
            arrives_on,
            v4,
            to,
            ports,
            sets: self.sets.as_ref(),
            has_pinhole: false,
            mark: None,
            translated: false,
            stranger: false,
        };
        self.with_pinhole(syn, false)
    }

    /// The same SYN, where there is a pinhole for it or none.
    fn with_pinhole<'a>(&self, syn: Syn<'a>, has_pinhole: bool) -> Syn<'a> {
        let mark = self.mark.map(|m| Bits { value: if has_pinhole { m.value } else { 0 }, mask: m.mask });
        Syn { has_pinhole, mark, ..syn }
    }

    pub(super) fn is_wide(&self, ports: &Ports) -> bool {
        let passive = |known: &Ports| known.clone().and(ports).widest() > 1;
        ports.widest() >= WIDE || self.passive.iter().any(|(_, known)| passive(known))
    }

    /// Whether every address of this host of a family is guarded.
    fn guards_host(&self, v4: bool) -> bool {
        let mut own = self.local.iter().filter(|a| a.is_ipv4() == v4 && !a.is_loopback() && !is_link_local(a));
        own.all(|a| self.guards.iter().any(|g| g.net.contains(a)))
    }

    /// The ports that are guarded for all of these networks; none if one is not guarded.
    fn guarded_ports(&self, nets: &[IpNet]) -> Ports {
        let of = |net: &IpNet| {
            let around = self.guards.iter().filter(|g| g.net.contains(net));
            around.fold(Ports::none(), |sum, g| sum.or(&g.ports))
        };
        nets.iter().map(of).reduce(|a, b| a.and(&b)).unwrap_or_else(Ports::none)
    }
}

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
    helpers(ruleset, &mut findings);
    readers(ruleset, ground, &mut findings);
    flowtables(ruleset, ground, &mut findings);
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

/// Rules that hand connections to the kernel's FTP helper.
fn helpers(ruleset: &Ruleset, findings: &mut Vec<Finding>) {
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
fn readers(ruleset: &Ruleset, ground: &Ground, findings: &mut Vec<Finding>) {
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
    let base =
        crate::nft::ruleset::Base { kind: "filter".into(), hook: "prerouting".into(), priority: 0, accept: false };
    let chain = Chain { base: Some(base), rules: vec![alone], ..chain.clone() };
    let v4 = chain.family != "ip6";
    let small = Ruleset { chains: vec![chain], sets: ruleset.sets.clone(), ..Ruleset::default() };
    ground.interfaces.iter().any(|interface| {
        let ports = ground.control();
        let syn = Syn { sets: None, mark: None, ..ground.syn(interface, v4, None, ports) };
        !decide(&small, "none", &syn).1.is_empty()
    })
}

fn flowtables(ruleset: &Ruleset, ground: &Ground, findings: &mut Vec<Finding>) {
    for f in ruleset.flowtables.iter().filter(|f| f.offload) {
        for interface in ground.interfaces.iter().filter(|i| f.devices.contains(i)) {
            let place = format!("table {} {}, flowtable {}", f.table.0, f.table.1, f.name);
            let what = format!("forwards what leaves and arrives by {interface} in hardware, where no program sees it");
            let remedy = "remove `flags offload`, or don't add connections to control ports and guarded hosts to it";
            add(findings, Finding::new(Severity::Error, Code::FlowtableOffload, what).at(place).remedy(remedy));
        }
    }
}

/// The commands that remove a rule from the running ruleset.
pub(super) fn removal(ruleset: &Ruleset, chain: &Chain, rule: &Rule) -> Vec<String> {
    let Chain { family, table, name, .. } = chain;
    let by_handle = format!("nft delete rule {family} {table} {name} handle {}", rule.handle);
    match ruleset.manager(chain) {
        // In double quotes a shell acts upon these.
        Manager::Iptables => match rule.iptables.as_ref().filter(|spec| !spec.contains(['$', '`', '\\'])) {
            Some(spec) => {
                let program = if family == "ip6" { "ip6tables" } else { "iptables" };
                vec![format!("{program} -t {table} -D {spec}")]
            }
            None => vec![by_handle],
        },
        Manager::Firewalld => firewalld_removal(name, &rule.text).unwrap_or_default(),
        Manager::Administrator => vec![by_handle],
    }
}

/// How firewalld is told to drop a rule that it has written for a port or for the service ftp.
fn firewalld_removal(chain: &str, text: &str) -> Option<Vec<String>> {
    let zone =
        chain.strip_prefix("filter_IN_").or_else(|| chain.strip_prefix("filter_FWD_"))?.strip_suffix("_allow")?;
    // Policies have chains of the same form.
    let at = match zone.strip_prefix("policy_") {
        Some(policy) => format!("--policy={policy}"),
        None => format!("--zone={zone}"),
    };
    if text.contains("ct helper set") {
        return Some(vec![
            format!("firewall-cmd {at} --remove-service=ftp"),
            format!("firewall-cmd {at} --add-port=21/tcp"),
        ]);
    }
    let ports = text.strip_prefix("tcp dport ")?.strip_suffix(" accept")?;
    let plain = ports.chars().all(|c| c.is_ascii_digit() || c == '-');
    plain.then(|| vec![format!("firewall-cmd {at} --remove-port={ports}/tcp")])
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

fn is_v4(net: &IpNet) -> bool {
    matches!(net, IpNet::V4(_))
}

pub(super) fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests;
