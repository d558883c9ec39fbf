//! What to change in the ruleset so that it works with ftp-helper: rules that are too wide go, and what lets negotiated
//! connections through comes.
//!
//! With fed sets (`[nftables]`) the ruleset stays in charge: an element lets exactly one connection in, and the guarded
//! ports are closed otherwise; in mode `mark` by the mark of the first SYN ([`mark`]). In mode `drop` without sets the kernel side decides, and the ruleset has to accept the
//! guarded hosts' passive ports. Rules go into base chains by `insert`, before everything that decides otherwise.

use std::{collections::BTreeSet, fmt::Write as _, ops::RangeInclusive};

use ipnet::IpNet;
use serde::Serialize;

use super::{
    Finding,
    finding::Code,
    host, mark,
    rules::{self, Ground, Guarded},
};
use crate::{
    config::Config,
    dataplane,
    error::{Code as Exit, Fault},
    nft::{
        Family, Ports, Sets,
        ruleset::{Chain, Manager, Rule, Ruleset},
    },
};

/// What to change.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Plan {
    /// What `nft -f` has to load; empty if nothing.
    pub load: String,
    /// Commands that let negotiated connections through rulesets that others manage.
    pub add: Vec<String>,
    /// Rules that have to go.
    pub remove: Vec<Removal>,
    /// What to know.
    pub notes: Vec<String>,
}

/// A rule that has to go.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Removal {
    /// Where it stands.
    pub place: String,
    /// How it is written.
    pub rule: String,
    /// Why.
    pub why: String,
    /// The commands that remove it from the running ruleset; none if it has to be found by hand.
    pub commands: Vec<String>,
}

/// Marks our rules, so that they are not printed twice.
pub(super) const MARK: &str = "ftp-helper:";
/// The table that is proposed where none is configured.
pub(super) const TABLE: &str = "ftp_helper";

/// What to change for a configuration in the ruleset of this network namespace.
///
/// # Errors
/// When the configuration guards nothing, or names a table that somebody else manages; when the ruleset can't be read.
pub fn plan(config: &Config) -> anyhow::Result<Plan> {
    let all = dataplane::interfaces()?;
    let watched = super::watched(Some(config), &all, &mut Vec::new());
    let mut ground = Ground::of(Some(config), &all, watched, host::forwards());
    let mut notes = Vec::new();
    if ground.mark.is_some() && ground.sets.take().is_some() {
        notes.push("in mode \"mark\" the mark decides: rules for the sets of [nftables] are not printed".to_owned());
    }
    if ground.sets.is_none() && !ground.enforced && ground.mark.is_none() {
        let sets = Sets {
            family: Family::Inet,
            table: TABLE.into(),
            set4: Some("ftp_pin4".into()),
            set6: Some("ftp_pin6".into()),
        };
        notes.push(format!(
            "these rules are for sets that are not fed yet: add a section [nftables] with table = \"{}\", then reload",
            sets.table()
        ));
        ground.sets = Some(sets);
    }
    let ruleset = Ruleset::read()?;
    make(&ruleset, &ground, notes)
}

fn make(ruleset: &Ruleset, ground: &Ground, notes: Vec<String>) -> anyhow::Result<Plan> {
    if ground.guards.is_empty() {
        let what = "the configuration has no [[guard]] of direction \"in\": name the hosts and ports that it is about";
        return Err(Fault::new(Exit::Usage, what).into());
    }
    if ground.interfaces.is_empty() {
        let what = "none of watch.interfaces is here now: the rules name them, and the rules that are there are judged by them";
        return Err(Fault::new(Exit::Failure, what).into());
    }
    let mut plan = Plan { notes, ..Plan::default() };
    if let Some(sets) = &ground.sets {
        let key = (sets.family.to_string(), sets.table.clone());
        let manager = ruleset.tables.get(&key).copied().unwrap_or(Manager::Administrator);
        if manager != Manager::Administrator {
            let who = if manager == Manager::Iptables { "iptables" } else { "firewalld" };
            let what = format!(
                "nftables.table: {who} manages the table {} and would lose or refuse rules that it has not written; name \
                 a table of its own, such as \"inet {TABLE}\"",
                sets.table()
            );
            return Err(Fault::new(Exit::Usage, what).into());
        }
        plan.load = set_rules(ruleset, ground, sets);
    }
    let mut gone = rules::check(ruleset, ground);
    gone.retain(|f| matches!(f.code, Code::WideRange | Code::KernelHelper));
    let rest = rules::without(ruleset, &gone);
    if let Some(mark) = ground.mark {
        plan.load.push_str(&mark::close(&rest, ground, mark));
    }
    let accepts = accept_rules(&rest, ground, &mut plan);
    plan.load.push_str(&accepts);
    let translated = translation_rules(ruleset, ground, &mut plan);
    plan.load.push_str(&translated);
    plan.remove = gone.into_iter().filter_map(removal).collect();
    if plan.remove.iter().any(|r| r.rule.contains(',')) {
        plan.notes.push("a rule goes as a whole: add what you still want of those that are removed".to_owned());
    }
    let managers: Vec<Manager> = ruleset.tables.values().copied().collect();
    if !plan.load.is_empty() {
        plan.notes.push("what is loaded is gone at the next boot: put it into the file of your ruleset".to_owned());
    }
    if managers.contains(&Manager::Firewalld) {
        plan.notes.push("firewalld keeps what it runs with: firewall-cmd --runtime-to-permanent".to_owned());
    }
    if managers.contains(&Manager::Iptables) {
        plan.notes.push("iptables forgets at the next boot: iptables-save to where your rules are kept".to_owned());
    }
    Ok(plan)
}

fn removal(finding: Finding) -> Option<Removal> {
    let Finding { what, place, rule, commands, .. } = finding;
    Some(Removal { place: place?, rule: rule?.text.unwrap_or_default(), why: what, commands })
}

/// The sets, and the rules that put them in charge of the guarded ports.
fn set_rules(ruleset: &Ruleset, ground: &Ground, sets: &Sets) -> String {
    let hooks: BTreeSet<&str> = ground.guards.iter().flat_map(|g| ground.hooks(&g.net)).collect();
    let mut declared = String::new();
    for (set, _, kind) in sets.all() {
        let _ = writeln!(declared, "\tset {set} {{ type {kind}; flags timeout; size 65536; }}");
    }
    let mut inserted = String::new();
    for hook in hooks {
        let here = |c: &&Chain| {
            let base = c.base.as_ref().is_some_and(|b| b.hook == hook && b.kind == "filter");
            base && c.family == sets.family.as_str() && c.table == sets.table
        };
        let chain = match ruleset.chains.iter().find(here) {
            Some(chain) if is_marked(chain) => continue,
            Some(chain) => chain.name.clone(),
            None => {
                let name = format!("{TABLE}_{hook}");
                // Before the ruleset's own chains: what is dropped here comes nowhere.
                let kind = format!("type filter hook {hook} priority filter - 5; policy accept;");
                let _ = writeln!(declared, "\tchain {name} {{ {kind} }}");
                name
            }
        };
        let insert = format!("insert rule {} {chain}", sets.table());
        let mut rules = Vec::new();
        for (set, v4, _) in sets.all() {
            let ip = if v4 { "ip" } else { "ip6" };
            rules.push(format!(
                "{} ct state new {ip} saddr . {ip} daddr . tcp dport @{set} counter accept comment \"{MARK} negotiated\"",
                interfaces(ground)
            ));
        }
        for g in ground.guards.iter().filter(|g| ground.hooks(&g.net).contains(&hook)) {
            let fed = sets.all().any(|(_, v4, _)| v4 == matches!(g.net, IpNet::V4(_)));
            if fed {
                rules.push(format!(
                    "{} {} tcp dport {} tcp flags & (fin | syn | rst | ack) == syn counter drop comment \"{MARK} not \
                     negotiated\"",
                    interfaces(ground),
                    ends(g),
                    nft_ports(&g.ports)
                ));
            }
        }
        rules.dedup();
        // Each goes to the very beginning: the last one first.
        for rule in rules.iter().rev() {
            let _ = writeln!(inserted, "{insert} {rule}");
        }
    }
    format!("table {} {{\n{declared}}}\n{inserted}", sets.table())
}

/// For each ruleset that would drop a negotiated connection: rules that accept the guarded hosts' passive ports. Into
/// the sets' own table there goes none: its rules know the pinholes.
fn accept_rules(ruleset: &Ruleset, ground: &Ground, plan: &mut Plan) -> String {
    let mut load = String::new();
    let (mut seen, mut marked) = (BTreeSet::new(), BTreeSet::new());
    for interface in &ground.interfaces {
        for g in &ground.guards {
            for hook in ground.hooks_of_pinholes(&g.net) {
                for d in rules::drops(ruleset, ground, interface, g, hook) {
                    let base = d.base;
                    let manager = ruleset.manager(base);
                    if let Some(mark) = ground.mark.filter(|_| manager != Manager::Firewalld) {
                        let chain = (interface, (&base.family, &base.table, &base.name));
                        if marked.insert(format!("{chain:?}")) {
                            match manager {
                                Manager::Iptables => plan.add.push(mark::iptables(base, interface, mark)),
                                _ => load.push_str(&mark::accept(base, interface, mark)),
                            }
                        }
                        continue;
                    }
                    let own =
                        ground.sets.as_ref().is_some_and(|s| base.family == s.family.as_str() && base.table == s.table);
                    let key = (base.family.clone(), base.table.clone(), base.name.clone(), g.net, g.ports.to_string());
                    if own || !seen.insert((interface.clone(), key)) {
                        continue;
                    }
                    let ports = ground.announced(g);
                    match manager {
                        Manager::Administrator => {
                            let _ = writeln!(
                                load,
                                "insert rule {} {} {} iifname \"{interface}\" {} tcp dport {} counter accept comment \
                                 \"{MARK} {}\"",
                                base.family,
                                base.table,
                                base.name,
                                ends(g),
                                nft_ports(&ports),
                                if ground.enforced { "guarded" } else { "decided by the set" }
                            );
                        }
                        Manager::Iptables => plan.add.extend(iptables(base, interface, g, &ports)),
                        Manager::Firewalld => plan.add.extend(firewalld(interface, g, &ports, hook)),
                    }
                }
            }
        }
    }
    load
}

/// What lets translated data connections through, and keeps masquerade off their ports.
fn translation_rules(ruleset: &Ruleset, ground: &Ground, plan: &mut Plan) -> String {
    let Some((mark, active)) = &ground.nat else { return String::new() };
    let mut load = String::new();
    let mut seen = BTreeSet::new();
    for (interface, v4) in ground.interfaces.iter().flat_map(|i| [(i, true), (i, false)]) {
        for d in rules::unmarked(ruleset, ground, interface, v4) {
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

/// Whether our rules are in a chain.
fn is_marked(chain: &Chain) -> bool {
    chain.rules.iter().any(|r| r.text.contains(&format!("comment \"{MARK} negotiated\"")))
}

pub(super) fn interfaces(ground: &Ground) -> String {
    let names: Vec<String> = ground.interfaces.iter().map(|i| format!("\"{i}\"")).collect();
    match names.as_slice() {
        [one] => format!("iifname {one}"),
        all => format!("iifname {{ {} }}", all.join(", ")),
    }
}

/// Where from and where to, in nftables.
pub(super) fn ends(g: &Guarded) -> String {
    let ip = if matches!(g.net, IpNet::V4(_)) { "ip" } else { "ip6" };
    let to = format!("{ip} daddr {}", short(&g.net));
    if g.initiators.is_empty() {
        return to;
    }
    let from: Vec<String> = g.initiators.iter().map(short).collect();
    format!("{ip} saddr {{ {} }} {to}", from.join(", "))
}

pub(super) fn nft_ports(ports: &Ports) -> String {
    let text = ports.to_string();
    if text.contains(',') { format!("{{ {text} }}") } else { text }
}

/// An address without the length of its prefix where that says nothing.
fn short(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

fn iptables(base: &Chain, interface: &str, g: &Guarded, ports: &Ports) -> Vec<String> {
    let program = if base.family == "ip6" { "ip6tables" } else { "iptables" };
    let from: Vec<String> = g.initiators.iter().map(|n| format!(" -s {n}")).collect();
    let from = if from.is_empty() { vec![String::new()] } else { from };
    let mut commands = Vec::new();
    for from in &from {
        for run in ports.runs() {
            commands.push(format!(
                "{program} -t {} -I {} -i {interface}{from} -d {} -p tcp --dport {}:{} -j ACCEPT",
                base.table,
                base.name,
                g.net,
                run.start(),
                run.end()
            ));
        }
    }
    commands
}

/// In the zone of the interface for what this host serves; what is forwarded needs a policy.
fn firewalld(interface: &str, g: &Guarded, ports: &Ports, hook: &str) -> Vec<String> {
    let family = if matches!(g.net, IpNet::V4(_)) { "ipv4" } else { "ipv6" };
    let zone = format!("\"$(firewall-cmd --get-zone-of-interface={interface} || firewall-cmd --get-default-zone)\"");
    let (mut commands, at) = if hook == "forward" {
        let make = vec![
            "firewall-cmd --permanent --new-policy=ftp-helper || true".to_owned(),
            format!("firewall-cmd --permanent --policy=ftp-helper --add-ingress-zone={zone}"),
            "firewall-cmd --permanent --policy=ftp-helper --add-egress-zone=ANY".to_owned(),
        ];
        (make, "--permanent --policy=ftp-helper".to_owned())
    } else {
        (Vec::new(), format!("--zone={zone}"))
    };
    let from: Vec<String> = g.initiators.iter().map(|n| format!(" source address=\"{n}\"")).collect();
    let from = if from.is_empty() { vec![String::new()] } else { from };
    for from in &from {
        for run in ports.runs() {
            let (low, high) = (run.start(), run.end());
            let port = if low == high { low.to_string() } else { format!("{low}-{high}") };
            commands.push(format!(
                "firewall-cmd {at} --add-rich-rule='rule family=\"{family}\"{from} destination address=\"{}\" port \
                 port=\"{port}\" protocol=\"tcp\" accept'",
                g.net
            ));
        }
    }
    if hook == "forward" {
        commands.push("firewall-cmd --reload".to_owned());
    }
    commands
}

impl Plan {
    /// As a script of the shell: what comes, then what goes.
    pub fn script(&self) -> String {
        let Self { load, add, remove, notes } = self;
        let mut s = String::new();
        for note in notes {
            let _ = writeln!(s, "# {note}");
        }
        if load.is_empty() && add.is_empty() {
            s.push_str("# Nothing has to be added.\n");
        } else {
            s.push_str("\n# To add\n");
        }
        if !load.is_empty() {
            let _ = writeln!(s, "nft -f - <<'END'\n{load}END");
        }
        for command in add {
            let _ = writeln!(s, "{command}");
        }
        if remove.is_empty() {
            s.push_str("\n# Nothing has to be removed.\n");
        } else {
            s.push_str("\n# To remove\n");
        }
        for Removal { place, rule, why, commands } in remove {
            let _ = writeln!(s, "# {place}: {rule}\n#   {why}");
            if commands.is_empty() {
                s.push_str("#   (no command does it: look for it in your configuration)\n");
            }
            for command in commands {
                let _ = writeln!(s, "{command}");
            }
        }
        s
    }
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
