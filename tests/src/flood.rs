//! Floods: raw TCP packets with any sender, as fast as the machine makes them, from a host of the lab.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::Context as _;
use etherparse::PacketBuilder;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, setsockopt, socket, sockopt,
};

/// A socket that sends whole IPv4 packets.
#[derive(Debug)]
pub struct Raw(OwnedFd);

impl Raw {
    /// On the host that the calling thread is on.
    ///
    /// # Errors
    /// Without the right to (`CAP_NET_RAW`).
    pub fn open() -> anyhow::Result<Self> {
        let fd = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)
            .context("can't open a raw socket (CAP_NET_RAW)")?;
        setsockopt(&fd, sockopt::SndBuf, &(1 << 20)).context("can't make room to send")?;
        Ok(Self(fd))
    }

    /// Sends a SYN. Its checksums are right: hosts behind the gateway answer it.
    ///
    /// # Errors
    /// When the system does not take it.
    pub fn syn(&self, from: SocketAddrV4, to: SocketAddrV4, seq: u32) -> anyhow::Result<()> {
        let builder =
            PacketBuilder::ipv4(from.ip().octets(), to.ip().octets(), 64).tcp(from.port(), to.port(), seq, 65535).syn();
        let mut bytes = Vec::with_capacity(builder.size(0));
        builder.write(&mut bytes, &[])?;
        let to = SockaddrIn::from(SocketAddrV4::new(*to.ip(), 0));
        match sendto(self.0.as_raw_fd(), &bytes, &to, MsgFlags::empty()) {
            // The device's queue is full: as good as lost.
            Ok(_) | Err(nix::Error::ENOBUFS) => Ok(()),
            Err(e) => Err(e).context("can't send"),
        }
    }
}

/// The `n`th of many senders that do not exist, of the network for benchmarks (RFC 2544).
#[must_use]
pub fn nobody(n: u32) -> SocketAddrV4 {
    let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + n % 0x1_ffff);
    SocketAddrV4::new(address, 1024 + (n % 60_000) as u16)
}

/// The IPv4 form of an address.
///
/// # Errors
/// When it is an IPv6 address.
pub fn v4(address: SocketAddr) -> anyhow::Result<SocketAddrV4> {
    match address.ip() {
        IpAddr::V4(ip) => Ok(SocketAddrV4::new(ip, address.port())),
        IpAddr::V6(ip) => anyhow::bail!("{ip} is no IPv4 address"),
    }
}

/// Bytes of a process in memory.
///
/// # Errors
/// When it is gone.
pub fn resident(pid: u32) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).context("the process is gone")?;
    let pages: u64 = text.split(' ').nth(1).context("no such field")?.parse()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.context("no page size")?;
    Ok(pages * page as u64)
}
