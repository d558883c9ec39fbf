//! What to change in the ruleset so that it works with ftp-helper: rules that are too wide go, and what lets negotiated
//! connections through comes.
//!
//! With fed sets (`[nftables]`) the ruleset stays in charge: an element lets exactly one connection in, and the guarded
//! ports are closed otherwise; in mode `mark` by the mark of the first SYN ([`mark`]). In mode `drop` without sets the kernel side
//! decides, and the ruleset has to accept the guarded hosts' passive ports. Rules go into base chains by `insert`, before
//! everything that decides otherwise.

use std::{collections::BTreeSet, fmt::Write as _};

use ipnet::IpNet;
use serde::Serialize;

use super::{
    Finding,
    finding::Code,
    ground::{Ground, Guarded},
    host, mark, rules, translation,
};
use crate::{
    config::Config,
    dataplane,
    error::{Code as Exit, Fault},
    nft::{
        Family, Ports, Sets,
        ruleset::{Chain, Manager, Ruleset},
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
    let translated = translation::rules(ruleset, ground, &mut plan);
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
