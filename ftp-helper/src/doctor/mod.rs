//! `doctor`: can this host run it, and is the ruleset as it should be. `integrate`: what to change in the ruleset.
//!
//! Nothing is changed here. What may be found is a fixed list ([`Code`]), documented in `docs/doctor.md`.

mod finding;
mod ground;
mod host;
mod integrate;
mod links;
mod mark;
mod offload;
mod rules;
mod traffic;
mod translation;

use std::{collections::BTreeMap, path::Path, time::Duration};

pub use self::{
    finding::{Code, Finding, RuleAt, Severity},
    integrate::{Plan, Removal, plan},
};
use self::{ground::Ground, links::Network};
use crate::{
    config::{Config, Hook},
    dataplane::{self, Interface},
    nft::{self, ruleset::Ruleset},
};

/// Looks at this host: its kernel, its network namespace, its ruleset, and the daemon at `socket`.
///
/// `quiet` is how long the daemon must have been running before its silence means anything.
pub fn examine(config: Option<&Config>, socket: &Path, quiet: Duration) -> Vec<Finding> {
    let mut findings = Vec::new();
    host::check(&mut findings);
    if config.is_none() {
        let remedy = "name one with -c FILE; `ftp-helper check` says what it means";
        let what = "there is no configuration to go by: every interface is taken for an outside one";
        findings.push(Finding::new(Severity::Warning, Code::NoConfiguration, what).remedy(remedy));
    }
    let all = dataplane::interfaces().unwrap_or_else(|e| {
        findings.push(Finding::new(Severity::Error, Code::InterfaceMissing, format!("{e:#}")));
        BTreeMap::new()
    });
    let watched = watched(config, &all, &mut findings);
    let network = match Network::read() {
        Ok(network) => Some(network),
        Err(e) => {
            findings.push(Finding::new(Severity::Warning, Code::InterfaceMissing, format!("{e:#}")));
            None
        }
    };
    for name in &watched {
        host::interface(name, network.as_ref(), &all, &mut findings);
        if let (Some(network), Some(Hook::XdpTc)) = (&network, config.map(|c| c.watch.hook)) {
            host::shield(name, network, &mut findings);
        }
    }
    if let (Some(network), Some(_)) = (&network, config) {
        host::routes(&watched, network, &mut findings);
    }
    if let Some(nat) = config.and_then(|c| c.policy.nat.as_ref()) {
        host::local_ports(&nat.active_ports, &mut findings);
    }
    host::legacy_iptables(&mut findings);
    let ports = config.map_or_else(|| vec![21], |c| c.watch.control_ports.clone());
    match Ruleset::read() {
        Ok(ruleset) => {
            let ground = Ground::of(config, &all, watched, host::forwards());
            findings.extend(rules::check(&ruleset, &ground));
        }
        Err(e) => {
            let remedy = "install nftables, and run this as root: without it nobody looks for rules that are too wide";
            findings.push(Finding::new(Severity::Warning, Code::RulesetUnread, e.message).remedy(remedy));
        }
    }
    if let Some(sets) = config.and_then(|c| c.nftables.as_ref())
        && let Err(e) = nft::check(sets)
    {
        let remedy = "load what `ftp-helper integrate nft --print` writes; `run` refuses to start without";
        findings.push(Finding::new(Severity::Error, Code::SetsUnfit, e.message).remedy(remedy));
    }
    traffic::check(socket, &ports, quiet, &mut findings);
    findings.sort_by_key(|f| f.severity);
    findings
}

/// The interfaces of a configuration that are there; without one, all but the loopback interface.
fn watched(config: Option<&Config>, all: &BTreeMap<String, Interface>, findings: &mut Vec<Finding>) -> Vec<String> {
    let Some(config) = config else {
        return all.keys().filter(|name| *name != "lo").cloned().collect();
    };
    let mut watched: Vec<String> = Vec::new();
    for pattern in &config.watch.interfaces {
        let matches = |name: &&String| glob::Pattern::new(pattern).map_or(pattern == *name, |p| p.matches(name));
        let found: Vec<_> = all.keys().filter(matches).cloned().collect();
        if found.is_empty() {
            let what = format!("no interface {pattern} here now; it is picked up when it appears");
            let remedy = "look at `ip link`, and correct watch.interfaces unless it is to come";
            let finding = Finding::new(Severity::Warning, Code::InterfaceMissing, what);
            findings.push(finding.at(format!("watch.interfaces: {pattern}")).remedy(remedy));
        }
        watched.extend(found.into_iter().filter(|n| !watched.contains(n)).collect::<Vec<_>>());
    }
    watched
}
