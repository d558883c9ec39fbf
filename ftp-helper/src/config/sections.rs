//! The sections of the file, key by key.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use ftp_helper_common::{
    policy::{MAX_CONTROL_PORTS, MAX_GUARDS, MAX_NETS},
    state::pending,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use toml::de::DeTable;

use super::{
    Api, Config, Direction, Guard, Hook, Network, Watch,
    reader::{Context, Item, Section},
    values,
};
use crate::{
    engine::policy::{
        ActiveOpen, Limits, LineEndings, Mark, Mode, Modes, Nat, OnDaemonLoss, Opaque, Policy, Server, SourcePort,
    },
    nft::{Family, Sets},
};

/// Reads the whole document. Problems go to the context; where there are any, the result is not to be used.
pub(super) fn read<'a>(cx: &'a Context<'a>, table: &'a DeTable<'a>, name: &Path) -> (Config, Vec<String>) {
    let root = Section::root(cx, table);
    let mut notes = Vec::new();
    let mut policy = Policy::default();
    let mode = root.get("mode");
    if let Some(item) = &mode {
        let choice = item.choice(&[("observe", Mode::Observe), ("drop", Mode::Drop), ("mark", Mode::Mark)]);
        policy.mode = choice.unwrap_or(policy.mode);
    }
    let guards = guards(&root, policy.mode);
    if let (Some(item), true) = (&mode, guards.is_empty()) {
        const REMEDY: &str = "add a [[guard]], or write \"observe\"";
        match policy.mode {
            Mode::Observe => None,
            Mode::Drop => item.refuse::<()>("\"drop\" needs a guard: there is nothing to drop", REMEDY),
            Mode::Mark => item.refuse("\"mark\" needs a guard: there is nothing to take the mark off", REMEDY),
        };
    }
    if let Some(item) = root.get("on_daemon_loss") {
        let choice = item.choice(&[("continue", OnDaemonLoss::Continue), ("close", OnDaemonLoss::Close)]);
        policy.on_daemon_loss = choice.unwrap_or(policy.on_daemon_loss);
    }
    let watch = watch(root.section("watch"), policy.mode);
    policy.control_ports = watch.control_ports.iter().copied().collect();
    allowed(root.section("policy"), &mut policy);
    let mut server_interfaces = Vec::new();
    for (i, section) in root.sections("server").into_iter().enumerate() {
        let (server, interfaces) = server(section);
        policy.servers.push(server);
        server_interfaces.extend(interfaces.into_iter().map(|name| (i, name)));
    }
    if let Some(item) = root.get("server") {
        few(&item, "servers", policy.servers.iter().flat_map(|s| &s.networks).copied());
    }
    pinhole(root.section("pinhole"), &mut policy);
    let ring_bytes = limits(root.section("limits"), &mut policy.limits, &mut notes);
    policy.mark = mark(root.section("mark"));
    policy.nat = root.get("nat").is_some().then(|| nat(root.section("nat"), &policy.control_ports));
    let nftables = root.get("nftables").is_some().then(|| nftables(root.section("nftables"))).flatten();
    let api = api(root.section("api"));
    root.finish();
    (Config { path: Some(name.to_owned()), policy, watch, guards, server_interfaces, ring_bytes, nftables, api }, notes)
}

fn watch(section: Section<'_>, mode: Mode) -> Watch {
    const REMEDY: &str = "name the outside interfaces: interfaces = [\"wan0\"]";
    let mut interfaces = Vec::new();
    match section.get("interfaces") {
        Some(item) => {
            if let Some(list) = item.list(REMEDY) {
                if item.is_empty_list() {
                    item.refuse::<()>("is empty", REMEDY);
                }
                interfaces = list.iter().filter_map(values::interface_pattern).collect();
            }
        }
        None if section.is_present() => section.missing("interfaces", "is missing", REMEDY),
        None => section.missing("interfaces", "is missing", format!("add a section [watch] and {REMEDY}")),
    }
    let mut control_ports = BTreeSet::from([21]);
    if let Some(item) = section.get("control_ports")
        && let Some(ports) = values::ports(&item)
    {
        control_ports = ports.into_iter().collect();
        if item.is_empty_list() {
            item.refuse::<()>("is empty", "name the ports that speak FTP, or remove the key for port 21");
        } else if control_ports.len() > MAX_CONTROL_PORTS {
            let n = control_ports.len();
            item.refuse::<()>(format!("has {n} ports"), format!("name {MAX_CONTROL_PORTS} ports at most"));
        }
    }
    let mut hook = Hook::Tc;
    if let Some(item) = section.get("hook") {
        hook = item.choice(&[("tc", Hook::Tc), ("xdp+tc", Hook::XdpTc)]).unwrap_or(hook);
        if hook == Hook::XdpTc && mode == Mode::Mark {
            item.refuse::<()>(
                "can't be \"xdp+tc\" in mode \"mark\": there the ruleset decides, and nothing is dropped before it",
                "write \"tc\", or mode = \"drop\"",
            );
        }
    }
    section.finish();
    Watch { interfaces, control_ports: control_ports.into_iter().collect(), hook }
}

fn guards(root: &Section<'_>, mode: Mode) -> Vec<Guard> {
    let sections = root.sections("guard");
    if let Some(item) = root.get("guard").filter(|_| sections.len() > MAX_GUARDS) {
        item.refuse::<()>(
            format!("there are {} guards", sections.len()),
            format!("write {MAX_GUARDS} at most; guards of one direction with the same ports can share one"),
        );
    }
    let guards: Vec<Guard> = sections.into_iter().map(|section| guard(section, mode)).collect();
    if let Some(item) = root.get("guard") {
        let prefixes = |networks: fn(&Guard) -> &Vec<Network>| {
            guards.iter().flat_map(networks).filter_map(|n| match n {
                Network::Prefix(net) => Some(*net),
                Network::Interface(_) => None,
            })
        };
        few(&item, "responders", prefixes(|g| &g.networks));
        few(&item, "initiators", prefixes(|g| &g.initiators));
    }
    guards
}

/// Refuses more networks of responders, initiators or servers than the kernel's table has room for.
fn few(item: &Item<'_>, whose: &str, networks: impl Iterator<Item = IpNet>) {
    let n = networks.map(|net| net.trunc()).collect::<BTreeSet<_>>().len();
    if n > MAX_NETS {
        let remedy = format!("name {MAX_NETS} of {whose} at most: fewer, wider ones");
        item.refuse::<()>(format!("there are {n} networks"), remedy);
    }
}

fn guard(section: Section<'_>, mode: Mode) -> Guard {
    const NETWORKS: &str = "name the responder's networks: networks = [\"192.0.2.10\"], or [\"@wan0\"]";
    let mut direction = Direction::In;
    if let Some(item) = section.get("direction") {
        direction = item.choice(&[("in", Direction::In), ("out", Direction::Out)]).unwrap_or(direction);
        if direction == Direction::Out && mode == Mode::Mark {
            item.refuse::<()>(
                "can't be \"out\" in mode \"mark\": a mark that is set on what leaves comes after the ruleset",
                "remove this guard, or write mode = \"drop\"",
            );
        }
    }
    let mut networks = Vec::new();
    match section.get("networks") {
        Some(item) => {
            if item.is_empty_list() {
                item.refuse::<()>("is empty", NETWORKS);
            }
            networks = item.list(NETWORKS).into_iter().flatten().filter_map(|item| network(&item)).collect();
        }
        None => section.missing("networks", "is missing", NETWORKS),
    }
    let mut initiators = vec![
        Network::Prefix(IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0))),
        Network::Prefix(IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0))),
    ];
    match section.get("initiators") {
        Some(item) => {
            const REMEDY: &str =
                "write a list of addresses, prefixes or interfaces, such as [\"192.0.2.0/24\", \"@wan0\"]";
            if let Some(list) = item.list(REMEDY) {
                if item.is_empty_list() {
                    item.refuse::<()>("is empty: the guard would hold nobody", "name the initiators' networks");
                }
                initiators = list.iter().filter_map(network).collect();
            }
        }
        None if direction == Direction::Out => section.missing(
            "initiators",
            "is missing, and a guard of direction \"out\" without it would stop every inside host",
            "name the FTP servers that connect out: initiators = [\"192.0.2.10\"]",
        ),
        None => {}
    }
    let mut ports = 1024..=65535;
    if let Some(item) = section.get("ports") {
        ports = values::port_range(&item).unwrap_or(ports);
    }
    let mut except_ports = Vec::new();
    if let Some(item) = section.get("except_ports") {
        let list = item.list("write a list of ports and ranges, such as [3389, \"8080-8090\"]");
        except_ports = list.into_iter().flatten().filter_map(|item| values::port_range(&item)).collect();
    }
    section.finish();
    Guard { direction, networks, initiators, ports, except_ports }
}

fn network(item: &Item<'_>) -> Option<Network> {
    let text = item.text("write an address, a prefix, or @ and the name of an interface")?;
    match text.strip_prefix('@') {
        Some(name) => values::interface_name(item, name).map(Network::Interface),
        None => values::prefix(item).map(Network::Prefix),
    }
}

fn allowed(section: Section<'_>, policy: &mut Policy) {
    if let Some(item) = section.get("modes") {
        let list = item.list("write a list of \"pasv\", \"epsv\", \"port\" and \"eprt\", or [] for none");
        let mut modes = Modes::NONE;
        for item in list.into_iter().flatten() {
            let choices =
                [("pasv", pending::PASV), ("epsv", pending::EPSV), ("port", pending::PORT), ("eprt", pending::EPRT)];
            if let Some(mode) = item.choice(&choices) {
                modes.0 |= 1 << mode;
            }
        }
        policy.modes = modes;
    }
    if let Some(item) = section.get("active_inbound") {
        policy.active_inbound = item.boolean().unwrap_or(policy.active_inbound);
    }
    if let Some(item) = section.get("active_open") {
        let choices = [
            ("auto", ActiveOpen::Auto),
            ("command", ActiveOpen::Command),
            ("reply", ActiveOpen::Reply),
            ("transfer", ActiveOpen::Transfer),
        ];
        policy.active_open = item.choice(&choices).unwrap_or(policy.active_open);
    }
    if let Some(item) = section.get("active_source_port") {
        const REMEDY: &str = "write \"any\" or 20";
        if item.is_number() {
            match item.number(i64::MIN..=i64::MAX) {
                Some(20) => policy.active_source_port = SourcePort::Twenty,
                Some(n) => {
                    item.refuse::<()>(format!("{n} is not a source port of active mode"), REMEDY);
                }
                None => {}
            }
        } else if item.is("any") || item.is("20") {
            policy.active_source_port = if item.is("any") { SourcePort::Any } else { SourcePort::Twenty };
        } else if let Some(text) = item.text(REMEDY) {
            item.refuse::<()>(format!("{text:?} is not known"), REMEDY);
        }
    }
    if let Some(item) = section.get("deny_ports") {
        policy.deny_ports = values::ports(&item).into_iter().flatten().collect();
    }
    if let Some(item) = section.get("line_endings") {
        let choice = item.choice(&[("crlf", LineEndings::Crlf), ("lenient", LineEndings::Lenient)]);
        policy.line_endings = choice.unwrap_or(policy.line_endings);
    }
    section.finish();
}

/// Reads what is known of a server; with the names of the interfaces whose addresses are its own.
fn server(section: Section<'_>) -> (Server, Vec<String>) {
    const ADDRESS: &str = "name the server's addresses: address = [\"192.0.2.10\"], or [\"@wan0\"]";
    let (mut networks, mut interfaces) = (Vec::new(), Vec::new());
    match section.get("address") {
        Some(item) => {
            if item.is_empty_list() {
                item.refuse::<()>("is empty", ADDRESS);
            }
            for network in item.list(ADDRESS).into_iter().flatten().filter_map(|item| network(&item)) {
                match network {
                    Network::Prefix(net) => networks.push(net),
                    Network::Interface(name) => interfaces.push(name),
                }
            }
        }
        None => section.missing("address", "is missing", ADDRESS),
    }
    let (mut passive_ports, mut opaque, mut has_range) = (None, Opaque::Deny, false);
    if let Some(item) = section.get("passive_ports") {
        has_range = true;
        passive_ports = values::port_range(&item);
        if let Some(range) = passive_ports.as_ref().filter(|r| *r.start() < 1024) {
            let (low, high) = (range.start(), range.end());
            let remedy = match high {
                1024.. => format!("write \"1024-{high}\""),
                _ => "give the server a range above them".into(),
            };
            item.refuse::<()>(format!("begins at {low}: ports below 1024 are never a data port"), remedy);
        }
    }
    if let Some(item) = section.get("opaque") {
        opaque = item.choice(&[("deny", Opaque::Deny), ("range", Opaque::Range)]).unwrap_or_default();
        if opaque == Opaque::Range && !has_range {
            item.refuse::<()>(
                "opens the server's passive_ports, and there are none",
                "name them: passive_ports = \"40000-50000\"",
            );
        }
    }
    section.finish();
    (Server { networks, passive_ports, opaque }, interfaces)
}

fn pinhole(section: Section<'_>, policy: &mut Policy) {
    if let Some(item) = section.get("timeout") {
        let limits = Duration::from_millis(100)..=Duration::from_secs(300);
        policy.pinhole_timeout = values::duration(&item, limits).unwrap_or(policy.pinhole_timeout);
    }
    if let Some(item) = section.get("per_client") {
        let number = item.number(1..=65536).and_then(|n| u32::try_from(n).ok());
        policy.per_client = number.unwrap_or(policy.per_client);
    }
    section.finish();
}

/// Reads the limits; returns the size of the ring buffer.
fn limits(section: Section<'_>, limits: &mut Limits, notes: &mut Vec<String>) -> u32 {
    let day = Duration::from_secs(24 * 3600);
    if let Some(item) = section.get("sessions") {
        let number = item.number(1..=SESSIONS_MAX).and_then(|n| u32::try_from(n).ok());
        limits.sessions = number.unwrap_or(limits.sessions);
    }
    if let Some(item) = section.get("login") {
        limits.login = values::duration(&item, Duration::from_secs(1)..=day).unwrap_or(limits.login);
    }
    if let Some(item) = section.get("idle") {
        limits.idle = values::duration(&item, Duration::from_secs(1)..=30 * day).unwrap_or(limits.idle);
    }
    let mut ring = RING_DEFAULT;
    if let Some(item) = section.get("ring") {
        let asked = values::size(&item, 4096..=RING_MAX).unwrap_or(RING_DEFAULT);
        ring = asked.next_power_of_two().max(page_size()).min(RING_MAX);
        if ring != asked {
            notes.push(format!(
                "limits.ring: {asked} bytes rounded up to {ring}: the kernel takes a power of two that is a multiple of the page size"
            ));
        }
    }
    section.finish();
    u32::try_from(ring).unwrap_or(1 << 30)
}

fn mark(section: Section<'_>) -> Mark {
    let mut mark = Mark::default();
    if let Some(item) = section.get("value") {
        mark = values::mark(&item).unwrap_or(mark);
    }
    section.finish();
    mark
}

fn nat(section: Section<'_>, control_ports: &BTreeSet<u16>) -> Nat {
    let mut nat = Nat::default();
    let item = section.get("active_ports");
    if let Some(item) = &item {
        nat.active_ports = values::port_range(item).unwrap_or(nat.active_ports);
        let (low, high) = (*nat.active_ports.start(), *nat.active_ports.end());
        if low < 1024 {
            let remedy = match high {
                1024.. => format!("write \"1024-{high}\""),
                _ => "choose a range above them".into(),
            };
            item.refuse::<()>(format!("begins at {low}: ports below 1024 are never a data port"), remedy);
        }
    }
    if let Some(port) = control_ports.iter().find(|p| nat.active_ports.contains(p)) {
        const REMEDY: &str = "choose a range without control ports";
        let problem = format!("contains the control port {port}, which is never a data port");
        match item {
            Some(item) => drop(item.refuse::<()>(problem, REMEDY)),
            None => section.missing("active_ports", problem, REMEDY),
        }
    }
    section.finish();
    nat
}

fn nftables(section: Section<'_>) -> Option<Sets> {
    const TABLE: &str =
        "write the family and the name of a table, such as \"inet filter\"; the family is inet, ip or ip6";
    let table = match section.get("table") {
        Some(item) => item.text(TABLE).and_then(|text| {
            let mut words = text.split_whitespace();
            match (words.next().and_then(Family::from_name), words.next(), words.next()) {
                (Some(family), Some(name), None) if values::is_nft_name(name) => Some((family, name.to_owned())),
                _ => item.refuse(format!("{text:?} can't be a table"), TABLE),
            }
        }),
        None => {
            section.missing("table", "is missing", TABLE);
            None
        }
    };
    let set = |key, default: &str, without: Family| {
        let fits = table.as_ref().is_none_or(|(family, _)| *family != without);
        match section.get(key) {
            Some(item) if fits => values::nft_name(&item),
            Some(item) => item.refuse(
                format!("can't be in a table of family {without}: its rules see no packet of this kind"),
                "remove the key, or name a table of family inet",
            ),
            None => fits.then(|| default.to_owned()),
        }
    };
    let (set4, set6) = (set("set4", "ftp_pin4", Family::Ip6), set("set6", "ftp_pin6", Family::Ip));
    if let Some(item) = section.get("set6").filter(|_| set4.is_some() && set4 == set6) {
        item.refuse::<()>("is the same set as set4", "name two sets: their elements are of different types");
    }
    section.finish();
    let (family, table) = table?;
    Some(Sets { family, table, set4, set6 })
}

fn api(section: Section<'_>) -> Api {
    let mut api = Api::default();
    if let Some(item) = section.get("socket") {
        const REMEDY: &str = "write an absolute path of 107 bytes at most";
        if let Some(text) = item.text(REMEDY) {
            let path = PathBuf::from(text);
            // 107: sun_path of sockaddr_un (unix(7)) without the final zero.
            if !path.is_absolute() || text.len() > 107 || text.contains('\0') || path.file_name().is_none() {
                item.refuse::<()>(format!("{text:?} can't be the path of a socket"), REMEDY);
            }
            api.socket = path;
        }
    }
    for (key, group) in [("read_group", &mut api.read_group), ("write_group", &mut api.write_group)] {
        if let Some(item) = section.get(key)
            && let Some(text) = item.text("write the name of a group")
        {
            if text.is_empty() || text.contains(|c: char| c == ':' || c.is_whitespace() || c.is_control()) {
                item.refuse::<()>(
                    format!("{text:?} can't be the name of a group"),
                    "write one as `getent group` shows it",
                );
            }
            *group = text.to_owned();
        }
    }
    if let Some(item) = section.get("metrics") {
        const REMEDY: &str = "write an address and a port, such as \"127.0.0.1:9167\" or \"[::1]:9167\"";
        if let Some(text) = item.text(REMEDY) {
            match text.parse::<std::net::SocketAddr>() {
                Ok(address) if address.port() != 0 => api.metrics = Some(address),
                Ok(_) => {
                    item.refuse::<()>(format!("{text:?} has port 0"), REMEDY);
                }
                Err(_) if text.parse::<IpAddr>().is_ok() => {
                    item.refuse::<()>(format!("{text:?} has no port"), REMEDY);
                }
                Err(_) => {
                    item.refuse::<()>(format!("{text:?} is not an address with a port"), REMEDY);
                }
            }
        }
    }
    section.finish();
    api
}

/// Sessions at most: two gibibytes of kernel memory.
pub(super) const SESSIONS_MAX: i64 = 4 * 1024 * 1024;

/// Size of the ring buffer unless told otherwise: 16 MiB.
const RING_DEFAULT: u64 = 16 << 20;

/// Size of the ring buffer at most: 1 GiB.
pub(super) const RING_MAX: u64 = 1 << 30;

fn page_size() -> u64 {
    match nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE) {
        Ok(Some(size)) => u64::try_from(size).unwrap_or(4096),
        // 65536 is the largest page of the supported machines, and so a multiple of any.
        Ok(None) | Err(_) => 65536,
    }
}
