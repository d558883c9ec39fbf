//! Who is compared, and the ground each has for itself: three namespaces in a row, client, gateway and server.
//!
//! The lab has bridges between its hosts. Here the wires go from host to host, so that nothing but the gateway is on the way.

use std::{
    fs::File,
    net::IpAddr,
    os::fd::AsRawFd as _,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ftp_helper::lab::{
    HOST_INTERFACE, Host, INSIDE_INTERFACE, Lab, LabOptions, OUTSIDE_INTERFACE, clients::Family, process::Process,
};
use ftp_helper_tests::{
    gateway::{Gateway, PATIENCE, Settings, UNIT_NICE, program},
    responder::Responder,
    spinner::Mode,
};

use crate::{
    daemon::processor_time,
    forge::{Forge, MANY, PORTS},
    interrupt,
};

/// One that is compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Peer {
    /// The gateway forwards, and that is all.
    Plain,
    /// The same on a ground of its own: what differs from the first is the machine's noise.
    Again,
    /// nftables: established, related, and the whole passive range.
    WideOpen,
    /// nftables with the kernel's own FTP helper.
    KernelHelper,
    /// ftp-helper alone, mode `drop`.
    Drop,
    /// ftp-helper, mode `mark`, beside a stateful ruleset.
    Mark,
    /// ftp-helper alone, mode `drop`, with the XDP shield.
    Shield,
}

impl Peer {
    /// All.
    pub(crate) const ALL: [Self; 7] =
        [Self::Plain, Self::Again, Self::WideOpen, Self::KernelHelper, Self::Drop, Self::Mark, Self::Shield];

    /// Its letter in tables.
    pub(crate) const fn letter(self) -> &'static str {
        match self {
            Self::Plain => "a",
            Self::Again => "a'",
            Self::WideOpen => "b",
            Self::KernelHelper => "c",
            Self::Drop => "d",
            Self::Mark => "e",
            Self::Shield => "f",
        }
    }

    /// What it is.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain forwarding",
            Self::Again => "plain forwarding again: the noise",
            Self::WideOpen => "stateful nftables, passive range wide open",
            Self::KernelHelper => "stateful nftables with nf_conntrack_ftp",
            Self::Drop => "ftp-helper, mode drop",
            Self::Mark => "ftp-helper, mode mark, with stateful nftables",
            Self::Shield => "ftp-helper, mode drop, with the XDP shield",
        }
    }

    /// Whether the daemon is part of it.
    pub(crate) const fn is_ours(self) -> bool {
        matches!(self, Self::Drop | Self::Mark | Self::Shield)
    }

    const fn ruleset(self) -> Option<&'static str> {
        match self {
            Self::Plain | Self::Again | Self::Drop | Self::Shield => None,
            Self::WideOpen => Some(
                "table inet filter {
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state vmap { established : accept, related : accept, invalid : drop }
		iifname \"lan0\" accept
		iifname \"wan0\" tcp dport { 21, 1024-65535 } accept
	}
}
",
            ),
            Self::KernelHelper => Some(
                "table inet filter {
	ct helper ftp-standard { type \"ftp\" protocol tcp; }
	chain prerouting {
		type filter hook prerouting priority filter;
		iifname \"wan0\" tcp dport 21 ct helper set \"ftp-standard\"
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state vmap { established : accept, related : accept, invalid : drop }
		iifname \"lan0\" accept
		iifname \"wan0\" tcp dport 21 accept
	}
}
",
            ),
            Self::Mark => Some(
                "table inet filter {
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state vmap { established : accept, related : accept, invalid : drop }
		iifname \"lan0\" accept
		iifname \"wan0\" tcp dport 21 accept
		iifname \"wan0\" meta mark & 0x0f000000 == 0x0f000000 accept
	}
}
",
            ),
        }
    }

    /// The configuration of its daemon.
    fn settings(self, lab: &Lab, size: Size) -> Option<Settings> {
        let mode = match self {
            Self::Drop | Self::Shield => "drop",
            Self::Mark => "mark",
            _ => return None,
        };
        let mut settings = Settings::guarded(lab, mode);
        // As by the unit of the package.
        settings.nice = UNIT_NICE;
        if size == Size::Large {
            settings = settings
                .section(&format!("[limits]\nsessions = {LARGE_SESSIONS}\nring = {LARGE_RING}"))
                .section("[pinhole]\ntimeout = \"5min\"");
        }
        // One guard, towards the server: a mark that is set on the way out comes after the ruleset.
        if let Some(end) = settings.guards.find("[[guard]]\ndirection") {
            settings.guards.truncate(end);
        }
        if self == Self::Shield {
            settings.watch.push_str("hook = \"xdp+tc\"\n");
        }
        Some(settings)
    }
}

/// How much a daemon is made for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    /// As it comes.
    Default,
    /// A hundred thousand sessions, whose pinholes stay.
    Large,
}

/// Sessions at most, and bytes of the ring buffer, of one of [`Size::Large`].
pub(crate) const LARGE_SESSIONS: u32 = 131_072;
pub(crate) const LARGE_RING: u32 = 64 << 20;

/// Three hosts in a row, and what is compared on the one in the middle.
pub(crate) struct Ground {
    pub(crate) peer: Peer,
    /// Over which everything goes.
    pub(crate) family: Family,
    /// Ends before its daemon's host does.
    pub(crate) gateway: Option<Gateway>,
    /// From the start of the daemon until it is attached.
    pub(crate) started: Duration,
    /// What it took of a processor for that.
    pub(crate) processor: Duration,
    pub(crate) responder: Responder,
    pub(crate) lab: Lab,
}

impl Ground {
    /// Builds it.
    pub(crate) fn new(peer: Peer, size: Size, family: Family) -> Result<Self> {
        interrupt::check()?;
        let lab = Lab::new(&LabOptions::default())?;
        rewire(&lab)?;
        sink(lab.server(), "sport")?;
        sink(lab.client(), "dport")?;
        if let Some(ruleset) = peer.ruleset() {
            nft(lab.gateway(), lab.directory(), ruleset)?;
            // Connections that have ended are not kept for two minutes: the table would fill, and be slow for it.
            sysctl(lab.gateway(), "net/netfilter/nf_conntrack_tcp_timeout_time_wait", "2")?;
        }
        let begun = Instant::now();
        let settings = peer.settings(&lab, size);
        let gateway = settings.map(|s| Gateway::start(&lab, &s, &[])).transpose()?;
        let started = begun.elapsed();
        let processor = gateway.as_ref().and_then(Gateway::id).map(processor_time).transpose()?.unwrap_or_default();
        let responder = Responder::start(lab.server(), address(lab.server(), family))?;
        Ok(Self { peer, family, gateway, started, processor, responder, lab })
    }

    /// Both ends of the wires through it, to forge dialogues.
    pub(crate) fn forge(&self) -> Result<Forge> {
        Forge::new(&self.lab, self.family)
    }

    /// How clients that do not care ask for a port.
    pub(crate) const fn mode(&self) -> Mode {
        match self.family {
            Family::V4 => Mode::Pasv,
            Family::V6 => Mode::Epsv,
        }
    }

    /// The daemon.
    pub(crate) fn daemon(&self) -> Result<&Gateway> {
        self.gateway.as_ref().with_context(|| format!("{} has no daemon", self.peer.letter()))
    }

    /// That the responder had no trouble.
    pub(crate) fn finish(mut self) -> Result<()> {
        let troubles = self.responder.troubles();
        ensure!(troubles.is_empty(), "{}: the responder says {troubles:?}", self.peer.letter());
        self.responder.stop(self.lab.server());
        if let Some(gateway) = &mut self.gateway {
            gateway.stop()?;
        }
        Ok(())
    }
}

/// The address of a host.
pub(crate) fn address(host: &Host, family: Family) -> IpAddr {
    match family {
        Family::V4 => host.v4().into(),
        Family::V6 => host.v6().into(),
    }
}

/// Whether this build knows a peer's configuration.
pub(crate) fn is_known(peer: Peer, lab: &Lab) -> Result<bool> {
    let Some(settings) = peer.settings(lab, Size::Default) else { return Ok(true) };
    let file = lab.directory().join("known.toml");
    std::fs::write(&file, settings.text(&lab.directory().join("known.sock")))?;
    let mut check = Command::new(program()?);
    check.arg("check").arg("-c").arg(&file);
    let said = Process::spawn(check)?.finish(PATIENCE)?;
    Ok(said.success() && !said.output.contains("not implemented"))
}

/// Wires from host to host in place of the bridges; the addresses stay. Segments stay as they are on the wire: what would
/// join or cut them is off.
fn rewire(lab: &Lab) -> Result<()> {
    let (gateway, inside) = (lab.gateway(), lab.gateway_inside());
    let wires = [
        (lab.client(), OUTSIDE_INTERFACE, gateway.v4(), gateway.v6()),
        (lab.server(), INSIDE_INTERFACE, inside.0, inside.1),
    ];
    for (host, interface, v4, v6) in wires {
        ip(gateway, &format!("link del {interface}"))?;
        ip(host, &format!("link del {HOST_INTERFACE}"))?;
        let there = host.namespace_name();
        ip(gateway, &format!("link add {interface} type veth peer name {HOST_INTERFACE} netns {there}"))?;
        for (host, interface, a4, a6) in [(gateway, interface, v4, v6), (host, HOST_INTERFACE, host.v4(), host.v6())] {
            plain_segments(host, interface)?;
            ip(host, &format!("link set {interface} up"))?;
            ip(host, &format!("addr add {a4}/24 dev {interface}"))?;
            ip(host, &format!("addr add {a6}/64 dev {interface} nodad"))?;
        }
        ip(host, &format!("route add default via {v4}"))?;
        ip(host, &format!("route add ::/0 via {v6}"))?;
    }
    // Many clients that do not exist are behind the one.
    for family in Family::ALL {
        let (first, length) = MANY[family as usize];
        ip(gateway, &format!("route add {first}/{length} via {}", address(lab.client(), family)))?;
    }
    Ok(())
}

/// Takes forged packets off the wire before the host's own stack sees them, and counts them.
fn sink(host: &Host, field: &str) -> Result<()> {
    let (first, last) = (PORTS.start(), PORTS.end());
    let rule = format!(
        "table netdev forged {{
	counter arrived {{ }}
	chain sink {{
		type filter hook ingress device {HOST_INTERFACE} priority 0;
		tcp {field} {first}-{last} counter name arrived drop
	}}
}}
"
    );
    nft(host, host.directory(), &rule)
}

/// Forged packets that a host's sink has taken.
pub(crate) fn arrived(host: &Host) -> Result<u64> {
    let mut command = host.command("nft");
    command.args(["list", "counter", "netdev", "forged", "arrived"]);
    let said = Process::spawn(command)?.finish(PATIENCE)?;
    let mut words = said.output.split_whitespace().skip_while(|w| *w != "packets");
    let packets = words.nth(1).with_context(|| format!("no count in {}", said.output))?;
    Ok(packets.parse()?)
}

fn nft(host: &Host, directory: &Path, ruleset: &str) -> Result<()> {
    let file = directory.join(format!("{}.nft", host.name()));
    std::fs::write(&file, ruleset)?;
    let mut command = host.command("nft");
    command.arg("-f").arg(&file);
    succeed(command)
}

fn ip(host: &Host, line: &str) -> Result<()> {
    let mut command = host.command("ip");
    command.args(line.split(' '));
    succeed(command)
}

fn succeed(command: Command) -> Result<()> {
    let process = Process::spawn(command)?;
    let line = process.command().to_owned();
    let done = process.finish(PATIENCE)?;
    ensure!(done.success(), "{line}: {}", done.output);
    Ok(())
}

fn sysctl(host: &Host, name: &str, value: &str) -> Result<()> {
    let write = || std::fs::write(format!("/proc/sys/{name}"), value);
    host.run_in(write)?.with_context(|| format!("can't set {name}"))
}

/// Neither joins segments nor leaves cutting them to the device (`ethtool -K ... tso off gso off gro off`).
fn plain_segments(host: &Host, interface: &str) -> Result<()> {
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    /// `struct ethtool_value`.
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    // ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO.
    const COMMANDS: [u32; 3] = [0x1f, 0x24, 0x2c];
    let set = || -> Result<()> {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").or_else(|_| std::net::UdpSocket::bind("0.0.0.0:0"))?;
        let socket = File::from(std::os::fd::OwnedFd::from(socket));
        for command in COMMANDS {
            let mut value = Value { command, data: 0 };
            // SAFETY: all zeros are a valid ifreq.
            let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
            for (to, from) in request.ifr_name.iter_mut().zip(interface.as_bytes()) {
                *to = from.cast_signed();
            }
            request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut value).cast();
            // SAFETY: the request and what it points to are valid for reading and writing during the call.
            let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
            if result != 0 {
                return Err(std::io::Error::last_os_error()).with_context(|| format!("can't set up {interface}"));
            }
        }
        Ok(())
    };
    host.run_in(set)?
}
