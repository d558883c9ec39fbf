//! The host itself: kernel, rights, and the watched interfaces.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::RangeInclusive,
    path::Path,
};

use aya::programs::{SchedClassifier, TcAttachType, loaded_programs};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{
    finding::{Code, Finding, Severity},
    ground::is_link_local,
    links::Network,
    offload,
};
use crate::{
    dataplane::{Interface, Link, Platform},
    nft::Ports,
};

/// Capabilities that the daemon needs (linux/capability.h), each with what may stand in for it.
const CAPABILITIES: [(&str, u32, u32); 4] =
    [("CAP_BPF", 39, SYS_ADMIN), ("CAP_NET_ADMIN", 12, 12), ("CAP_PERFMON", 38, SYS_ADMIN), ("CAP_NET_RAW", 13, 13)];
const SYS_ADMIN: u32 = 21;

/// Kernel, file system and rights.
pub(super) fn check(findings: &mut Vec<Finding>) {
    let platform = Platform::here();
    match platform.check() {
        Err(e) => findings.push(Finding::new(Severity::Error, Code::KernelUnfit, e.message)),
        Ok(()) => {
            let hooks = if platform.has_tcx() { "TCX" } else { "filters on clsact: TCX needs Linux 6.6" };
            let what = format!("Linux {} with type information; programs attach by {hooks}", platform.release);
            findings.push(Finding::new(Severity::Info, Code::Kernel, what));
        }
    }
    if statfs("/sys/fs/bpf").map_or(true, |s| s.filesystem_type() != BPF_FS_MAGIC) {
        let finding = Finding::new(Severity::Error, Code::NoBpffs, "no BPF file system is mounted at /sys/fs/bpf");
        let mount = "mount -t bpf bpf /sys/fs/bpf".to_owned();
        findings.push(Finding { commands: vec![mount], ..finding.remedy("mount it; systemd does so at boot") });
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let missing = missing_capabilities(&status);
    if !missing.is_empty() {
        let what = format!("missing here: {}", missing.join(", "));
        let remedy = "run this as root or with these capabilities, as the daemon needs them";
        findings.push(Finding::new(Severity::Error, Code::NoRights, what).remedy(remedy));
    }
}

/// The capabilities that the effective set of a `/proc/PID/status` lacks.
fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let set = line.and_then(|l| u64::from_str_radix(l.trim(), 16).ok()).unwrap_or(0);
    let has = |bit: u32| set >> bit & 1 != 0;
    CAPABILITIES.iter().filter(|(_, bit, or)| !has(*bit) && !has(*or)).map(|(name, ..)| *name).collect()
}

/// One watched interface.
pub(super) fn interface(
    name: &str,
    network: Option<&Network>,
    all: &BTreeMap<String, Interface>,
    findings: &mut Vec<Finding>,
) {
    let mut add = |severity, code, what: String, remedy: &str| {
        let finding = Finding::new(severity, code, what).at(format!("interface {name}"));
        findings.push(if remedy.is_empty() { finding } else { finding.remedy(remedy) });
    };
    if let Err(e) = Link::of(name) {
        let remedy = "watch an interface with Ethernet or plain IP packets";
        add(Severity::Error, Code::LinkUnsupported, format!("{e:#}"), remedy);
    }
    if let Some(master) = network.and_then(|n| n.links.get(name)).and_then(|l| l.master.as_ref()) {
        let kind = network.and_then(|n| n.links.get(master)).map_or("master", |l| l.kind.as_str());
        let has_addresses = all.get(master).is_none_or(|m| m.addresses.iter().any(|a| !is_link_local(a)));
        if kind == "bridge" && !has_addresses {
            let what = format!(
                "is a port of the bridge {master}, which has no address: what is bridged to and from this port passes the \
                 hooks"
            );
            add(Severity::Info, Code::InterfaceEnslaved, what, "");
        } else {
            add(
                Severity::Error,
                Code::InterfaceEnslaved,
                format!("is a member of the {kind} {master}: only some of its packets, or none, pass the hooks here"),
                &format!("name {master} in watch.interfaces instead"),
            );
        }
    }
    let pppoe = fs::read_to_string("/proc/self/net/pppoe").unwrap_or_default();
    if carries_pppoe(&pppoe, name) {
        add(
            Severity::Error,
            Code::BelowPpp,
            "carries PPPoE: what passes here is no plain IP".to_owned(),
            "name the PPP link in watch.interfaces instead, such as \"ppp*\"",
        );
    }
    if let Ok(features) = offload::features(name) {
        let on = |feature: &str| features.get(feature).copied().unwrap_or(false);
        if on("rx-lro") {
            let remedy = format!("ethtool -K {name} lro off");
            let what = "merges packets (LRO) in a way that a gateway can't undo".to_owned();
            add(Severity::Warning, Code::ReceiveOffload, what, &remedy);
        }
        if on("hw-tc-offload") {
            let remedy = format!("ethtool -K {name} hw-tc-offload off, unless no filter there takes FTP");
            let what = "may carry out filters in hardware, where no program sees the packets".to_owned();
            add(Severity::Warning, Code::HardwareOffload, what, &remedy);
        }
        let known = ["rx-gro", "rx-gro-hw", "tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-checksum-ip-generic"];
        let shown: Vec<_> = known.into_iter().filter(|f| on(f)).collect();
        let shown = if shown.is_empty() { "none".to_owned() } else { shown.join(", ") };
        add(Severity::Info, Code::Offloads, format!("merging and splitting that is on and does no harm: {shown}"), "");
    }
    if Platform::here().has_tcx() {
        hooks(name, &mut add);
    }
}

/// Who is on the hooks.
fn hooks(name: &str, add: &mut impl FnMut(Severity, Code, String, &str)) {
    let mut seen = Vec::new();
    for (direction, word) in [(TcAttachType::Ingress, "in"), (TcAttachType::Egress, "out")] {
        match SchedClassifier::query_tcx(name, direction) {
            Ok((_, programs)) => {
                let names: Vec<_> = programs.iter().map(|p| p.name_as_str().unwrap_or("?").to_owned()).collect();
                seen.push(format!("{word}: {}", if names.is_empty() { "none".into() } else { names.join(", ") }));
            }
            Err(e) => seen.push(format!("{word}: can't be read ({e})")),
        }
    }
    add(Severity::Info, Code::Hooks, format!("programs on TCX, in order; {}", seen.join("; ")), "");
}

/// The shield of one watched interface, or what would be in its place.
pub(super) fn shield(name: &str, network: &Network, findings: &mut Vec<Finding>) {
    let xdp = network.links.get(name).and_then(|l| l.xdp);
    let finding = match xdp {
        None => {
            let what = "no XDP program is attached: `run` tries the driver's XDP first, and else the stack's";
            Finding::new(Severity::Info, Code::Shield, what)
        }
        Some(xdp) => {
            let program = program_name(xdp.program);
            match (program.starts_with(SHIELD), xdp.native) {
                (true, true) => Finding::new(Severity::Info, Code::Shield, "the shield is in native XDP"),
                (true, false) => {
                    let what =
                        "the shield is in generic XDP, which the stack runs for each packet and which saves less";
                    let remedy = "where the driver has no XDP, hook = \"tc\" does as well";
                    Finding::new(Severity::Warning, Code::Shield, what).remedy(remedy)
                }
                (false, _) => {
                    let what = format!("another XDP program is attached ({program}), and there is room for one");
                    let remedy = "remove it, or write hook = \"tc\": `run` refuses to start beside it";
                    Finding::new(Severity::Error, Code::Shield, what).remedy(remedy)
                }
            }
        }
    };
    findings.push(finding.at(format!("interface {name}")));
}

/// How the names of the shield's programs begin.
const SHIELD: &str = "ftp_shield";

/// The name of a loaded program, or its number where that can't be read.
fn program_name(id: u32) -> String {
    let info = loaded_programs().filter_map(Result::ok).find(|p| p.id() == id);
    match info.as_ref().and_then(|p| p.name_as_str()).filter(|n| !n.is_empty()) {
        Some(name) => format!("{name}, number {id}"),
        None => format!("number {id}"),
    }
}

/// Where default routes leave, against what is watched.
pub(super) fn routes(watched: &[String], network: &Network, findings: &mut Vec<Finding>) {
    let all: BTreeSet<&String> = network.defaults.iter().flatten().collect();
    let elsewhere: Vec<&str> = all.iter().filter(|i| !watched.contains(i)).map(|i| i.as_str()).collect();
    if elsewhere.is_empty() || watched.is_empty() {
        return;
    }
    let some = all.len() > elsewhere.len();
    let what = format!(
        "the default route leaves by {}, which is not watched{}",
        elsewhere.join(", "),
        if some { ": FTP that goes there is not followed" } else { ": no FTP of the internet is followed" }
    );
    let place = format!("watched: {}", watched.join(", "));
    let remedy = "name every interface that leads outside in watch.interfaces";
    findings.push(Finding::new(Severity::Error, Code::DefaultRouteElsewhere, what).at(place).remedy(remedy));
}

/// Whether a listing of PPPoE sessions (`/proc/net/pppoe`) names an interface: id, peer, device.
fn carries_pppoe(listing: &str, name: &str) -> bool {
    listing.lines().skip(1).any(|l| l.split_whitespace().nth(2) == Some(name))
}

/// Whether packets are forwarded, of IPv4 and of IPv6.
pub(super) fn forwards() -> [bool; 2] {
    ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"]
        .map(|path| fs::read_to_string(path).is_ok_and(|s| s.trim() != "0"))
}

/// Whether this host gives ports of `[nat]` to connections of its own.
pub(super) fn local_ports(active: &RangeInclusive<u16>, findings: &mut Vec<Finding>) {
    const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
    const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
    let (range, reserved) = (fs::read_to_string(RANGE), fs::read_to_string(RESERVED));
    if let (Ok(range), Ok(reserved)) = (range, reserved) {
        findings.extend(shared_ports(active, &range, &reserved));
    }
}

fn shared_ports(active: &RangeInclusive<u16>, range: &str, reserved: &str) -> Option<Finding> {
    let mut ends = range.split_whitespace().filter_map(|n| n.parse::<u16>().ok());
    let local = Ports::from(ends.next()?..=ends.next()?);
    let number = |n: &str| n.trim().parse::<u16>().ok();
    let kept = reserved.split(',').filter_map(|r| {
        let (low, high) = r.split_once('-').unwrap_or((r, r));
        Some(number(low)?..=number(high)?)
    });
    let shared = local.and(&Ports::from(active.clone())).without(&kept.fold(Ports::none(), Ports::with));
    if shared.is_empty() {
        return None;
    }
    let what = format!(
        "ports {shared} of nat.active_ports are also given to this host's own connections: one of these gets lost where both \
         meet"
    );
    let (low, high) = (active.start(), active.end());
    let remedy = "keep them free, and put that into /etc/sysctl.d (what is reserved already has to be named again)";
    let finding = Finding::new(Severity::Warning, Code::ActivePortsShared, what).at("net.ipv4.ip_local_port_range");
    let commands = vec![format!("sysctl -w net.ipv4.ip_local_reserved_ports={low}-{high}")];
    Some(Finding { commands, ..finding.remedy(remedy) })
}

/// Whether the old iptables has tables in this network namespace.
pub(super) fn legacy_iptables(findings: &mut Vec<Finding>) {
    for (path, program) in [("ip_tables_names", "iptables-legacy"), ("ip6_tables_names", "ip6tables-legacy")] {
        let names = fs::read_to_string(Path::new("/proc/self/net").join(path)).unwrap_or_default();
        let names: Vec<&str> = names.split_whitespace().collect();
        if names.is_empty() {
            continue;
        }
        let what = format!("{program} has tables here ({}), which are not looked at", names.join(", "));
        let remedy = format!("look at `{program}-save` by yourself, or move to iptables-nft");
        findings.push(Finding::new(Severity::Warning, Code::LegacyIptables, what).remedy(remedy));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_this_host_uses_itself() {
        let shared = |range: &str, reserved: &str| shared_ports(&(61000..=61999), range, reserved).map(|f| f.what);
        assert_eq!(shared("32768\t60999\n", "\n"), None);
        assert!(shared("1024\t65535\n", "\n").unwrap().starts_with("ports 61000-61999 of"));
        assert!(shared("1024 61500\n", "8080,61000-61099\n").unwrap().starts_with("ports 61100-61500 of"));
        assert_eq!(shared("1024 65535\n", "61000-61999\n"), None);
    }

    #[test]
    fn capabilities_are_read() {
        assert!(missing_capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n").is_empty());
        assert_eq!(missing_capabilities("CapEff:\t0000000000201000\n"), ["CAP_NET_RAW"], "CAP_SYS_ADMIN is all of BPF");
        assert_eq!(missing_capabilities("").len(), 4);
    }

    #[test]
    fn the_link_below_ppp_is_found() {
        let listing = "Id       Address              Device\n00000001 00:11:22:33:44:55    eth1\n";
        assert!(carries_pppoe(listing, "eth1"));
        assert!(!carries_pppoe(listing, "eth0") && !carries_pppoe("", "eth1") && !carries_pppoe(listing, "Device"));
    }

    #[test]
    fn a_default_route_elsewhere_is_found() {
        let network = |v4: &[&str], v6: &[&str]| Network {
            defaults: [v4, v6].map(|all| all.iter().map(ToString::to_string).collect()),
            ..Network::default()
        };
        let found = |watched: &[&str], network: &Network| {
            let watched: Vec<String> = watched.iter().map(ToString::to_string).collect();
            let mut findings = Vec::new();
            routes(&watched, network, &mut findings);
            findings.into_iter().map(|f| f.what).collect::<Vec<_>>()
        };
        assert!(found(&["wan0"], &network(&["wan0"], &["wan0"])).is_empty());
        assert!(found(&["wan0"], &network(&[], &[])).is_empty());
        assert!(found(&["wan0"], &network(&["ppp0"], &[]))[0].contains("ppp0, which is not watched: no FTP"));
        assert!(found(&["wan0"], &network(&["wan0", "wan1"], &[]))[0].contains("wan1, which is not watched: FTP that"));
    }
}
