//! What is to be protected, and where: what a configuration says of this host.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::RangeInclusive,
};

use ipnet::IpNet;

use crate::{
    config::{Config, Direction, Network},
    dataplane::Interface,
    engine::policy::{Mark, Mode},
    nft::{
        Ports, Sets,
        verdict::{Bits, Syn},
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
        all: &BTreeMap<String, Interface>,
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

    pub(super) fn control(&self) -> Ports {
        self.control_ports.iter().fold(Ports::none(), |ports, p| ports.with(*p..=*p))
    }

    /// Ports that data connections may have.
    pub(super) fn data(&self) -> Ports {
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
    pub(super) fn with_pinhole<'a>(&self, syn: Syn<'a>, has_pinhole: bool) -> Syn<'a> {
        let mark = self.mark.map(|m| Bits { value: if has_pinhole { m.value } else { 0 }, mask: m.mask });
        Syn { has_pinhole, mark, ..syn }
    }

    pub(super) fn is_wide(&self, ports: &Ports) -> bool {
        let passive = |known: &Ports| known.clone().and(ports).widest() > 1;
        ports.widest() >= WIDE || self.passive.iter().any(|(_, known)| passive(known))
    }

    /// Whether every address of this host of a family is guarded.
    pub(super) fn guards_host(&self, v4: bool) -> bool {
        let mut own = self.local.iter().filter(|a| a.is_ipv4() == v4 && !a.is_loopback() && !is_link_local(a));
        own.all(|a| self.guards.iter().any(|g| g.net.contains(a)))
    }

    /// The ports that are guarded for all of these networks; none if one is not guarded.
    pub(super) fn guarded_ports(&self, nets: &[IpNet]) -> Ports {
        let of = |net: &IpNet| {
            let around = self.guards.iter().filter(|g| g.net.contains(net));
            around.fold(Ports::none(), |sum, g| sum.or(&g.ports))
        };
        nets.iter().map(of).reduce(|a, b| a.and(&b)).unwrap_or_else(Ports::none)
    }
}

pub(super) fn is_v4(net: &IpNet) -> bool {
    matches!(net, IpNet::V4(_))
}

pub(super) fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}
