//! Network interfaces: which there are, what their link layer is, and their addresses.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::Context as _;
use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

/// An interface of this network namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// What stands before the IP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    /// An Ethernet header.
    Ethernet,
    /// Nothing (tun, PPP, WireGuard).
    None,
}

/// The interfaces of this network namespace, by name.
///
/// # Errors
/// When the kernel does not tell.
pub fn list() -> anyhow::Result<BTreeMap<String, Interface>> {
    let mut all = BTreeMap::new();
    for i in nix::net::if_::if_nameindex().context("can't list the network interfaces")?.iter() {
        let name = i.name().to_string_lossy().into_owned();
        all.insert(name.clone(), Interface { name, index: i.index(), addresses: Vec::new() });
    }
    for a in getifaddrs().context("can't list the network addresses")? {
        let Some(address) = a.address else { continue };
        let ip = if let Some(v4) = address.as_sockaddr_in() {
            IpAddr::V4(v4.ip())
        } else if let Some(v6) = address.as_sockaddr_in6() {
            IpAddr::V6(v6.ip())
        } else {
            continue;
        };
        if let Some(i) = all.get_mut(&a.interface_name) {
            i.addresses.push(ip);
        }
    }
    Ok(all)
}

impl Link {
    /// The link layer of an interface.
    ///
    /// # Errors
    /// When the interface is gone, or has a link layer that is not followed.
    pub fn of(name: &str) -> anyhow::Result<Self> {
        let kind = hardware_type(name).with_context(|| format!("can't read the link type of {name}"))?;
        match kind {
            libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => Ok(Self::Ethernet),
            libc::ARPHRD_NONE
            | libc::ARPHRD_PPP
            | libc::ARPHRD_TUNNEL
            | libc::ARPHRD_TUNNEL6
            | libc::ARPHRD_SIT
            | libc::ARPHRD_IPGRE
            | ARPHRD_IP6GRE
            | ARPHRD_RAWIP => Ok(Self::None),
            other => anyhow::bail!("{name} has the link type {other}, which is neither Ethernet nor plain IP"),
        }
    }
}

const ARPHRD_RAWIP: u16 = 519;
const ARPHRD_IP6GRE: u16 = 823;

/// `SIOCGIFHWADDR`: unlike sysfs, it looks into the network namespace of this thread.
fn hardware_type(name: &str) -> std::io::Result<u16> {
    let fd: OwnedFd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: an all-zero `ifreq` is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(std::io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed() as libc::c_char;
    }
    // SAFETY: the request reads the name and writes the address of the `ifreq` that it is given.
    if unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFHWADDR as _, &mut request) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the kernel has filled the hardware address, whose family is the link type.
    Ok(unsafe { request.ifr_ifru.ifru_hwaddr.sa_family })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_found() {
        let all = list().unwrap();
        let lo = all.get("lo").unwrap();
        assert!(lo.index > 0);
        assert_eq!(Link::of("lo").unwrap(), Link::Ethernet);
        let error = format!("{:#}", Link::of("nosuch0").unwrap_err());
        assert!(error.contains("nosuch0"), "{error}");
    }
}
