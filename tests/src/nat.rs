//! A gateway that translates addresses: it publishes inside servers on its outside address by nothing but their control
//! ports, masquerades whoever is inside, and forwards nothing but what its ruleset permits.
//!
//! Hosts outside know no way to inside addresses, so that what names one can't work by chance.

use std::{fmt::Write as _, net::IpAddr, os::fd::AsRawFd as _};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use ftp_helper::lab::{
    HOST_INTERFACE, Host, INSIDE_INTERFACE, Lab, OUTSIDE_INTERFACE, Topology, clients::Family, process::Process,
};
use ftp_helper_common::{
    key::{SessionKey, TupleKey},
    nat::{Alias, Translation},
    state::Locked,
};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};

use crate::gateway::{Gateway, PATIENCE, Settings, list, pins};

/// The mark of what is translated: the default of `[mark]`.
const MARK: &str = "meta mark & 0x0f000000 == 0x0f000000";

/// A port of the gateway and the inside host that is published there, with its own port.
#[derive(Clone, Copy, Debug)]
pub struct Published<'a> {
    /// The gateway's port.
    pub port: u16,
    /// The host inside.
    pub host: &'a Host,
    /// Its port.
    pub inside_port: u16,
}

impl<'a> Published<'a> {
    /// A server on port 21 of both.
    #[must_use]
    pub fn ftp(host: &'a Host) -> Self {
        Self { port: 21, host, inside_port: 21 }
    }
}

/// The ruleset of such a gateway. `before` are rules ahead of all others in the forward chain.
#[must_use]
pub fn ruleset(published: &[Published<'_>], before: &str) -> String {
    let mut dnat = String::new();
    for Published { port, host, inside_port } in published {
        let (v4, v6, wan) = (host.v4(), host.v6(), OUTSIDE_INTERFACE);
        // Writing to a string does not fail.
        let _ = writeln!(dnat, "iifname {wan} meta nfproto ipv4 tcp dport {port} dnat ip to {v4}:{inside_port}");
        let _ = writeln!(dnat, "iifname {wan} meta nfproto ipv6 tcp dport {port} dnat ip6 to [{v6}]:{inside_port}");
    }
    format!(
        "table inet nat {{
	chain prerouting {{
		type nat hook prerouting priority dstnat;
		{dnat}
	}}
	chain postrouting {{
		type nat hook postrouting priority srcnat;
		oifname {OUTSIDE_INTERFACE} tcp sport 1024-65535 masquerade to :1024-60999
		oifname {OUTSIDE_INTERFACE} masquerade
	}}
}}
table inet filter {{
	counter invalid {{ }}
	chain forward {{
		type filter hook forward priority filter; policy drop;
		{before}
		ct state invalid counter name invalid drop
		ct state established,related accept
		ct state new ct status dnat accept
		iifname {INSIDE_INTERFACE} accept
		iifname {OUTSIDE_INTERFACE} ct state new {MARK} accept
	}}
}}
"
    )
}

/// Makes a lab's gateway such a one, with strict reverse-path filtering.
///
/// # Errors
/// When `nft`, `ip` or the kernel refuses.
pub fn prepare(lab: &Lab, ruleset: &str) -> Result<()> {
    let file = lab.directory().join("nat.nft");
    std::fs::write(&file, ruleset)?;
    lab.load_ruleset(Some(&file))?;
    lab.gateway().run_in(|| -> std::io::Result<()> {
        for name in ["all", OUTSIDE_INTERFACE, INSIDE_INTERFACE] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "1")?;
        }
        Ok(())
    })??;
    let outside: Vec<&Host> = match lab.topology() {
        Topology::ServerInside => vec![lab.client(), lab.stranger()],
        Topology::ClientInside => lab.servers().iter().chain([lab.stranger()]).collect(),
    };
    for host in outside {
        for family in ["-4", "-6"] {
            run(host, "ip", &[family, "route", "del", "default", "dev", HOST_INTERFACE])?;
        }
    }
    Ok(())
}

/// The same with the usual ruleset: where servers are inside, it publishes the first of them on port 21.
///
/// # Errors
/// As [`prepare`].
pub fn publish(lab: &Lab) -> Result<()> {
    match lab.topology() {
        Topology::ServerInside => prepare(lab, &ruleset(&[Published::ftp(lab.server())], "")),
        Topology::ClientInside => prepare(lab, &ruleset(&[], "")),
    }
}

/// The same with a daemon in mode `drop`.
///
/// # Errors
/// As [`prepare`], and as [`Gateway::start`].
pub fn translating(lab: &Lab) -> Result<Gateway> {
    publish(lab)?;
    Gateway::start(lab, &settings(lab, "drop"), &[])
}

/// Guards in both directions over the gateway's own address, and `[nat]`.
#[must_use]
pub fn settings(lab: &Lab, mode: &'static str) -> Settings {
    let both = |host: &Host| [IpAddr::from(host.v4()), IpAddr::from(host.v6())];
    let outside: Vec<IpAddr> = match lab.topology() {
        Topology::ServerInside => both(lab.client()).to_vec(),
        Topology::ClientInside => lab.servers().iter().flat_map(both).collect(),
    };
    let guards = format!(
        "[[guard]]\nnetworks = [\"@{OUTSIDE_INTERFACE}\"]\n[[guard]]\ndirection = \"out\"\nnetworks = {}\ninitiators = {}\n",
        list(&outside),
        list(&both(lab.gateway())),
    );
    Settings { guards, ..Settings::guarded(lab, mode) }.section("[nat]\n")
}

/// Runs a program on a host; what it said.
///
/// # Errors
/// When it can't be started, fails, or does not end.
pub fn run(host: &Host, program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = host.command(program);
    command.args(arguments);
    let done = Process::spawn(command)?.finish(PATIENCE)?;
    ensure!(done.success(), "{program} {arguments:?}: {}", done.output);
    Ok(done.output)
}

/// Has the gateway's connection tracking forget everything, as `conntrack -F` does.
///
/// # Errors
/// When the kernel refuses.
pub fn forget_connections(lab: &Lab) -> Result<()> {
    lab.gateway().run_in(|| -> Result<()> {
        let (kind, flags) = (SockType::Raw, SockFlag::empty());
        let socket = socket(AddressFamily::Netlink, kind, flags, SockProtocol::NetlinkNetFilter)?;
        // struct nlmsghdr: length, IPCTNL_MSG_CT_DELETE of NFNL_SUBSYS_CTNETLINK, NLM_F_REQUEST | NLM_F_ACK, sequence, port;
        // struct nfgenmsg: any family, version, resource.
        let mut message = Vec::with_capacity(20);
        message.extend(20u32.to_ne_bytes());
        message.extend((1u16 << 8 | 2).to_ne_bytes());
        message.extend(5u16.to_ne_bytes());
        message.extend([0; 8]);
        message.extend([0; 4]);
        sendto(socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut reply = [0; 64];
        let n = recv(socket.as_raw_fd(), &mut reply, MsgFlags::empty())?;
        // NLMSG_ERROR with the error 0 is the acknowledgement.
        let error = reply.get(16..20).filter(|_| n >= 20).and_then(|e| <[u8; 4]>::try_from(e).ok());
        ensure!(error == Some([0; 4]), "the kernel does not forget: {:?}", &reply[..n]);
        Ok(())
    })?
}

/// Packets that connection tracking could not place, as the ruleset has counted them.
///
/// # Errors
/// When `nft` does not tell.
pub fn invalid(lab: &Lab) -> Result<u64> {
    let text = run(lab.gateway(), "nft", &["list", "counter", "inet", "filter", "invalid"])?;
    let n = text.split("packets ").nth(1).and_then(|t| t.split_whitespace().next());
    n.context("no counter")?.parse().context("no number")
}

/// What a daemon's kernel side keeps about translations.
#[derive(Debug)]
pub struct Tables {
    /// Inside ends of control connections.
    pub aliases: Vec<(SessionKey, Alias)>,
    /// For what arrives.
    pub inward: Vec<(TupleKey, Translation)>,
    /// For what leaves.
    pub outward: Vec<(TupleKey, Translation)>,
}

impl Tables {
    /// Reads the pinned tables of the daemon on this lab's gateway.
    ///
    /// # Errors
    /// When they are not there.
    pub fn of(lab: &Lab, _gateway: &Gateway) -> Result<Self> {
        let instance = pins(lab.gateway())?.pop_first().context("nothing is pinned")?;
        let instance = std::path::Path::new("/sys/fs/bpf/ftp-helper").join(instance);
        let layout = std::fs::read_dir(&instance)?.next().context("no tables are pinned")??.path();
        let table = |name: &str| -> Result<Map> { Ok(Map::from_map_data(MapData::from_pin(layout.join(name))?)?) };
        let aliases = HashMap::<_, SessionKey, Locked<Alias>>::try_from(table("ALIASES")?)?;
        Ok(Self {
            aliases: aliases.iter().map(|e| e.map(|(k, v)| (k, v.state))).collect::<Result<_, _>>()?,
            inward: HashMap::try_from(table("INWARD")?)?.iter().collect::<Result<_, _>>()?,
            outward: HashMap::try_from(table("OUTWARD")?)?.iter().collect::<Result<_, _>>()?,
        })
    }

    /// Whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.aliases.is_empty() && self.inward.is_empty() && self.outward.is_empty()
    }
}

/// An address of the gateway outside.
#[must_use]
pub fn public(lab: &Lab, family: Family, port: u16) -> std::net::SocketAddr {
    (lab.gateway().address(family), port).into()
}
