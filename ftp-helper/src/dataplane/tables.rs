//! The policy as tables. They are written beside the ones in force, then one write changes over: a packet sees the old
//! policy or the new one, never a mixture.

use std::{net::IpAddr, ops::RangeInclusive};

use anyhow::{Context as _, anyhow};
use aya::maps::{Array, LpmTrie, lpm_trie::Key};
use ftp_helper_common::{
    addr::Addr,
    policy::{
        FEW_MAX, FewNet, FewNets, KernelPolicy, MANY, MAX_GUARDS, MAX_NETS, NET_PREFIX_BASE, NetKey, PORTS_PER_CHUNK,
        PortChunk, PortSet, ServerEntry, mode, on_loss, policy_flag,
    },
};
use ipnet::IpNet;

use super::Dataplane;
use crate::engine::policy::{Mode, OnDaemonLoss, Policy, Server, SourcePort};

/// How old the heartbeat may be, nanoseconds: several times the interval at which the daemon writes it.
pub const STALE_AFTER: u64 = 3_000_000_000;
const CHUNKS: u32 = (65536 / PORTS_PER_CHUNK) as u32;

/// Where a new TCP connection needs a pinhole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Guard {
    /// Arriving or leaving.
    pub direction: Direction,
    /// Networks of the responder.
    pub networks: Vec<IpNet>,
    /// Who is held to it.
    pub initiators: Vec<IpNet>,
    /// Ports of the responder.
    pub ports: RangeInclusive<u16>,
    /// Ports among them that are left alone.
    pub except: Vec<RangeInclusive<u16>>,
}

/// Which way a SYN goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Arriving on an outside interface.
    In,
    /// Leaving by one.
    Out,
}

impl Dataplane {
    /// Puts a policy into force.
    ///
    /// # Errors
    /// When there are too many guards or networks, or a table can't be written. The policy that was in force stays then.
    pub fn apply(&mut self, policy: &Policy, guards: &[Guard], fast: FastPath) -> anyhow::Result<()> {
        if guards.len() > MAX_GUARDS {
            anyhow::bail!("there are {} guards, {MAX_GUARDS} at most are allowed", guards.len());
        }
        let bit_of = |guard: usize| 1u64 << guard;
        let bits = |of: fn(&Guard) -> &Vec<IpNet>| {
            prefixes(guards.iter().enumerate().map(|(i, g)| (of(g).as_slice(), bit_of(i))), |a, b| a | b)
        };
        let (networks, initiators) = (bits(|g| &g.networks), bits(|g| &g.initiators));
        // The first server that matches counts, as in the engine.
        let servers = policy.servers.iter().enumerate().map(|(i, s)| (s.networks.as_slice(), (i, entry(s))));
        let servers: Vec<_> = prefixes(servers, |a, b| if b.0 < a.0 { b } else { a });
        let servers: Vec<_> = servers.into_iter().map(|(net, (_, entry))| (net, entry)).collect();
        for (whose, count) in [
            ("the guards have", networks.len()),
            ("the guards' initiators have", initiators.len()),
            ("the servers have", servers.len()),
        ] {
            if count > MAX_NETS {
                anyhow::bail!("{whose} {count} networks, {MAX_NETS} at most are allowed: name fewer, wider ones");
            }
        }
        let generation = 1 - (self.array::<KernelPolicy>("POLICY")?.get(&0, 0)?.generation & 1);
        let mut kernel = KernelPolicy {
            timeout: nanos(policy.pinhole_timeout),
            stale_after: STALE_AFTER,
            generation,
            per_client: policy.per_client,
            servers: policy.servers.iter().filter(|s| s.passive_ports.is_some()).count() as u32,
            mode: match policy.mode {
                Mode::Observe => mode::OBSERVE,
                Mode::Drop => mode::DROP,
                Mode::Mark => mode::MARK,
            },
            on_loss: match policy.on_daemon_loss {
                OnDaemonLoss::Continue => on_loss::CONTINUE,
                OnDaemonLoss::Close => on_loss::CLOSE,
            },
            modes: policy.modes.0,
            active_open: policy.active_open as u8,
            mark_value: policy.mark.value,
            mark_mask: policy.mark.mask,
            nat_ports: policy.nat.as_ref().map_or([0; 2], |n| [*n.active_ports.start(), *n.active_ports.end()]),
            ..KernelPolicy::default()
        };
        for (flag, set) in [
            (policy_flag::ACTIVE_INBOUND, policy.active_inbound),
            (policy_flag::SOURCE_20, policy.active_source_port == SourcePort::Twenty),
            (policy_flag::NO_FAST_PATH, !fast.fast_path),
            (policy_flag::NO_PARKING, !fast.parking),
            (policy_flag::RANGES, policy.opens_ranges()),
        ] {
            if set {
                kernel.flags |= flag;
            }
        }
        let mut ports = vec![0u64; 65536];
        for (i, guard) in guards.iter().enumerate() {
            match guard.direction {
                Direction::In => kernel.guards_in |= bit_of(i),
                Direction::Out => kernel.guards_out |= bit_of(i),
            }
            if covers_everything(&guard.initiators) {
                kernel.any_initiator |= bit_of(i);
            }
            for port in guard.ports.clone() {
                let left_alone = guard.except.iter().any(|e| e.contains(&port)) || policy.control_ports.contains(&port);
                if !left_alone {
                    ports[usize::from(port)] |= bit_of(i);
                }
            }
        }
        self.write_ports(generation, &ports)?;
        self.write_port_set(generation, policy)?;
        kernel.few = self.write_few(generation, &networks)?;
        self.write_trie("NETS", generation, &networks)?;
        self.write_trie("INITIATORS", generation, &initiators)?;
        self.write_trie("SERVERS", generation, &servers)?;
        self.array::<KernelPolicy>("POLICY")?.set(0, kernel, 0).context("can't write the policy")
    }

    fn write_ports(&mut self, generation: u32, ports: &[u64]) -> anyhow::Result<()> {
        let mut table: Array<_, PortChunk> = self.array("PORTS")?;
        for (i, chunk) in ports.chunks_exact(PORTS_PER_CHUNK).enumerate() {
            let mut entry = PortChunk([0; PORTS_PER_CHUNK]);
            entry.0.copy_from_slice(chunk);
            table.set(generation * CHUNKS + i as u32, entry, 0).context("can't write the guarded ports")?;
        }
        Ok(())
    }

    fn write_port_set(&mut self, generation: u32, policy: &Policy) -> anyhow::Result<()> {
        let mut set = Box::new(PortSet::EMPTY);
        for port in policy.deny_ports.iter().chain(&policy.control_ports) {
            set.insert(*port);
        }
        self.array::<PortSet>("NO_DATA")?.set(generation, *set, 0).context("can't write the deny-list")
    }

    /// Writes the guarded networks where they are quickly compared; how many they are, or that they are many.
    fn write_few(&mut self, generation: u32, networks: &[(IpNet, u64)]) -> anyhow::Result<u32> {
        if networks.len() > FEW_MAX {
            return Ok(MANY);
        }
        let mut few = FewNets::default();
        for (entry, (net, guards)) in few.0.iter_mut().zip(networks) {
            let mask = u128::MAX.checked_shl(128 - prefix_len(net)).unwrap_or(0);
            *entry = FewNet { guards: *guards, addr: Addr::from(net.network()), mask: Addr(mask.to_be_bytes()) };
        }
        self.array::<FewNets>("FEW")?.set(generation, few, 0).context("can't write the guarded networks")?;
        Ok(networks.len() as u32)
    }

    fn write_trie<V: aya::Pod>(&mut self, name: &str, generation: u32, entries: &[(IpNet, V)]) -> anyhow::Result<()> {
        let map = self.ebpf.map_mut(name).ok_or_else(|| anyhow!("no table {name} in the object"))?;
        let mut trie: LpmTrie<_, NetKey, V> = LpmTrie::try_from(map)?;
        let old: Vec<_> = trie.keys().collect::<Result<_, _>>().context("can't read a table of networks")?;
        for key in old.into_iter().filter(|k| k.data().generation == generation) {
            trie.remove(&key).context("can't clear a table of networks")?;
        }
        for (net, value) in entries {
            let key = Key::new(
                NET_PREFIX_BASE + prefix_len(net),
                NetKey { generation, pad: 0, addr: Addr::from(net.network()) },
            );
            trie.insert(&key, value, 0).with_context(|| format!("can't put {net} into {name}"))?;
        }
        Ok(())
    }
}

/// What of the kernel's shortcuts is on. Both are, except where their worth is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FastPath {
    /// The kernel opens canonical announcements by itself.
    pub fast_path: bool,
    /// SYNs that came too early are kept and sent on.
    pub parking: bool,
}

impl Default for FastPath {
    fn default() -> Self {
        Self { fast_path: true, parking: true }
    }
}

/// For each prefix that anybody names, what holds there: its own values and those of every prefix around it, in whatever order
/// they are joined.
fn prefixes<'a, V: Copy>(named: impl Iterator<Item = (&'a [IpNet], V)>, join: impl Fn(V, V) -> V) -> Vec<(IpNet, V)> {
    let mut all: Vec<(IpNet, V)> = named.flat_map(|(nets, v)| nets.iter().map(move |n| (n.trunc(), v))).collect();
    // Each comes behind those around it, with nothing in between but what is in them.
    all.sort_by_key(|(net, _)| *net);
    let mut found: Vec<(IpNet, V)> = Vec::new();
    // Where those are in `found` that are around the one at hand, the narrowest last.
    let mut around: Vec<usize> = Vec::new();
    for (net, value) in all {
        while around.last().is_some_and(|&i| !found[i].0.contains(&net)) {
            around.pop();
        }
        let inherited = around.last().map_or(value, |&i| join(found[i].1, value));
        match found.last_mut().filter(|(last, _)| *last == net) {
            Some((_, of_last)) => *of_last = inherited,
            None => {
                around.push(found.len());
                found.push((net, inherited));
            }
        }
    }
    found
}

fn prefix_len(net: &IpNet) -> u32 {
    u32::from(net.prefix_len()) + if matches!(net.addr(), IpAddr::V4(_)) { 96 } else { 0 }
}

fn covers_everything(nets: &[IpNet]) -> bool {
    let whole = |v4: bool| nets.iter().any(|n| n.prefix_len() == 0 && matches!(n, IpNet::V4(_)) == v4);
    whole(true) && whole(false)
}

fn entry(server: &Server) -> ServerEntry {
    let opaque = server.opaque_range().is_some().into();
    server.passive_ports.as_ref().map_or(ServerEntry::default(), |r| ServerEntry {
        low: *r.start(),
        high: *r.end(),
        opaque,
    })
}

fn nanos(d: std::time::Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_inherits_from_those_around_it() {
        let net = |s: &str| s.parse::<IpNet>().unwrap();
        let (wide, narrow, other) =
            ([net("10.0.0.0/8")], [net("10.1.0.0/16"), net("2001:db8::/32")], [net("10.1.2.0/24")]);
        let named = [(&wide[..], 1u64), (&narrow[..], 2), (&other[..], 4)];
        let all = prefixes(named.into_iter(), |a, b| a | b);
        let of = |s: &str| all.iter().find(|(n, _)| *n == net(s)).unwrap().1;
        assert_eq!(of("10.0.0.0/8"), 1);
        assert_eq!(of("10.1.0.0/16"), 3);
        assert_eq!(of("10.1.2.0/24"), 7);
        assert_eq!(of("2001:db8::/32"), 2);
        assert_eq!(prefix_len(&net("10.0.0.0/8")), 104);
    }

    #[test]
    fn of_servers_that_overlap_the_first_counts() {
        let nets = |all: &[&str]| all.iter().map(|s| s.parse().unwrap()).collect::<Vec<IpNet>>();
        let named = [
            nets(&["10.1.0.0/16", "10.1.2.3/32"]),
            nets(&["10.0.0.0/8", "10.1.2.3/32", "192.0.2.0/24"]),
            nets(&["10.1.2.0/24", "10.9.0.0/16", "192.0.2.0/24", "192.0.2.0/24", "::/0"]),
        ];
        let found = prefixes(named.iter().enumerate().map(|(i, n)| (n.as_slice(), i)), std::cmp::min);
        let expected = [
            ("10.0.0.0/8", 1),
            ("10.1.0.0/16", 0),
            ("10.1.2.0/24", 0),
            ("10.1.2.3/32", 0),
            ("10.9.0.0/16", 1),
            ("192.0.2.0/24", 1),
            ("::/0", 2),
        ];
        assert_eq!(found, expected.map(|(net, i)| (net.parse().unwrap(), i)));
    }

    #[test]
    fn everything_means_both_families() {
        let nets = |all: &[&str]| all.iter().map(|s| s.parse().unwrap()).collect::<Vec<IpNet>>();
        assert!(covers_everything(&nets(&["0.0.0.0/0", "::/0"])));
        assert!(!covers_everything(&nets(&["0.0.0.0/0"])));
        assert!(!covers_everything(&nets(&["0.0.0.0/1", "::/0"])));
    }
}
