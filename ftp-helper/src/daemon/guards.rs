//! Which interfaces are watched, and what "@wan0" stands for at the moment, in guards and for servers.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::{
    config::{self, Config, Network},
    dataplane::{Direction, Guard, Interface},
    engine::policy::Policy,
};

/// The guards with the addresses of interfaces filled in.
pub(crate) fn resolve(config: &Config, interfaces: &BTreeMap<String, Interface>) -> Vec<Guard> {
    let addresses = |networks: &[Network]| {
        let mut all = Vec::new();
        for network in networks {
            match network {
                Network::Prefix(net) => all.push(*net),
                Network::Interface(name) => {
                    let addresses = interfaces.get(name).map(|i| i.addresses.as_slice()).unwrap_or_default();
                    all.extend(addresses.iter().map(|a| IpNet::from(*a)));
                }
            }
        }
        all
    };
    config
        .guards
        .iter()
        .map(|g| Guard {
            direction: match g.direction {
                config::Direction::In => Direction::In,
                config::Direction::Out => Direction::Out,
            },
            networks: addresses(&g.networks),
            initiators: addresses(&g.initiators),
            ports: g.ports.clone(),
            except: g.except_ports.clone(),
        })
        .collect()
}

/// The policy with the addresses of interfaces filled in where they are a server's.
pub(crate) fn policy(config: &Config, interfaces: &BTreeMap<String, Interface>) -> Policy {
    let mut policy = config.policy.clone();
    for (server, name) in &config.server_interfaces {
        if let (Some(server), Some(interface)) = (policy.servers.get_mut(*server), interfaces.get(name)) {
            server.networks.extend(interface.addresses.iter().map(|a| IpNet::from(*a)));
        }
    }
    policy
}

/// The interfaces that the configuration names, and the names and patterns that none matches.
pub(super) fn wanted<'a>(
    patterns: &[String],
    interfaces: &'a BTreeMap<String, Interface>,
) -> (Vec<&'a Interface>, Vec<String>) {
    let mut waiting = Vec::new();
    let mut found: Vec<&Interface> = Vec::new();
    for pattern in patterns {
        let matches = |name: &str| glob::Pattern::new(pattern).map_or(pattern == name, |p| p.matches(name));
        let before = found.len();
        let mut any = false;
        for i in interfaces.values().filter(|i| matches(&i.name)) {
            any = true;
            if !found[..before].iter().any(|f| f.name == i.name) {
                found.push(i);
            }
        }
        if !any {
            waiting.push(pattern.clone());
        }
    }
    (found, waiting)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn interfaces() -> BTreeMap<String, Interface> {
        [("lo", 1, vec![]), ("wan0", 2, vec!["192.0.2.1", "2001:db8::1"]), ("wan1", 3, vec![])]
            .into_iter()
            .map(|(name, index, addresses)| {
                let addresses = addresses.into_iter().map(|a| a.parse().unwrap()).collect();
                (name.to_string(), Interface { name: name.into(), index, addresses })
            })
            .collect()
    }

    #[test]
    fn patterns_find_each_interface_once() {
        let all = interfaces();
        let (found, waiting) = wanted(&["wan0".into(), "wan*".into(), "ppp*".into()], &all);
        assert_eq!(found.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["wan0", "wan1"]);
        assert_eq!(waiting, ["ppp*"]);
    }

    #[test]
    fn an_interfaces_addresses_are_a_servers() {
        let text = "[watch]\ninterfaces = [\"wan0\"]\n[[server]]\naddress = [\"10.0.0.0/8\"]\n[[server]]\naddress = [\"@wan0\"]\n";
        let config = Config::parse(text, Path::new("test.toml")).unwrap();
        let nets = |policy: Policy| policy.servers[1].networks.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(nets(policy(&config, &interfaces())), ["192.0.2.1/32", "2001:db8::1/128"]);
        assert_eq!(policy(&config, &interfaces()).servers[0], config.policy.servers[0]);
        assert!(nets(policy(&config, &BTreeMap::new())).is_empty());
    }

    #[test]
    fn an_interface_stands_for_its_addresses() {
        let text = "mode = \"drop\"\n[watch]\ninterfaces = [\"wan0\"]\n[[guard]]\ndirection = \"in\"\nnetworks = [\"@wan0\", \"10.0.0.0/8\"]\n";
        let config = Config::parse(text, Path::new("test.toml")).unwrap();
        let held = text.replace("direction = \"in\"", "direction = \"out\"\ninitiators = [\"@wan0\", \"10.0.0.5\"]");
        let held = Config::parse(&held, Path::new("test.toml")).unwrap();
        let initiators: Vec<_> = resolve(&held, &interfaces())[0].initiators.iter().map(ToString::to_string).collect();
        assert_eq!(initiators, ["192.0.2.1/32", "2001:db8::1/128", "10.0.0.5/32"]);
        let nets: Vec<_> = resolve(&config, &interfaces())[0].networks.iter().map(ToString::to_string).collect();
        assert_eq!(nets, ["192.0.2.1/32", "2001:db8::1/128", "10.0.0.0/8"]);
        assert_eq!(resolve(&config, &BTreeMap::new())[0].networks.len(), 1);
    }
}
