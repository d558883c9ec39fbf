//! What the kernel's connection tracking knows: which connections there are, and what is translated in them.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use netlink_packet_core::{DefaultNla, NLM_F_DUMP};

use super::netlink::{Message, Netfilter, attribute, nested, plain};

/// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_GET`.
const CONNTRACK: u8 = 1;
const GET: u8 = 1;
/// `CTA_TUPLE_ORIG` and `CTA_TUPLE_REPLY`.
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
/// In a tuple `CTA_TUPLE_IP` and `CTA_TUPLE_PROTO`.
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
/// `CTA_IP_V4_SRC`, `CTA_IP_V4_DST`, `CTA_IP_V6_SRC` and `CTA_IP_V6_DST`.
const V4_SRC: u16 = 1;
const V4_DST: u16 = 2;
const V6_SRC: u16 = 3;
const V6_DST: u16 = 4;
/// `CTA_PROTO_NUM`, `CTA_PROTO_SRC_PORT` and `CTA_PROTO_DST_PORT`.
const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;
/// How long the kernel may take for one entry: it looks into a hash table before `send` returns.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many TCP connections to one of these ports connection tracking knows in this network namespace.
///
/// # Errors
/// When the kernel does not tell, or has no connection tracking.
pub fn connections_to(ports: &[u16]) -> anyhow::Result<usize> {
    let mut netfilter = super::open()?;
    let entries = netfilter.dump(Message::new(CONNTRACK, GET, 0, &[]).flags(NLM_F_DUMP))?;
    let to = |m: &Message| -> Option<u16> {
        let proto = attribute(m.attribute(TUPLE_ORIG)?, TUPLE_PROTO)?;
        if attribute(proto, PROTO_NUM)? != [libc::IPPROTO_TCP as u8] {
            return None;
        }
        <[u8; 2]>::try_from(attribute(proto, PROTO_DST_PORT)?).ok().map(u16::from_be_bytes)
    };
    Ok(entries.iter().filter_map(to).filter(|p| ports.contains(p)).count())
}

/// Asks connection tracking, one connection after the other.
#[derive(Debug)]
pub struct Conntrack {
    /// None where the kernel has no netfilter.
    netfilter: Option<Netfilter>,
}

impl Conntrack {
    /// Opens it in the network namespace of this thread.
    ///
    /// # Errors
    /// When the kernel does not let us ask.
    pub fn open() -> io::Result<Self> {
        match Netfilter::open() {
            Ok(netfilter) => {
                netfilter.set_patience(PATIENCE)?;
                Ok(Self { netfilter: Some(netfilter) })
            }
            Err(e) if e.raw_os_error() == Some(libc::EPROTONOSUPPORT) => Ok(Self { netfilter: None }),
            Err(e) => Err(e),
        }
    }

    /// The address that the end of a TCP connection has inside which outside is `public`, where that is another; `peer` is
    /// the other end, and `inward` says that it was the one who connected. `None` where the connection is not translated,
    /// or not tracked.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn inside(&mut self, peer: SocketAddr, public: SocketAddr, inward: bool) -> io::Result<Option<IpAddr>> {
        let Some(netfilter) = &mut self.netfilter else { return Ok(None) };
        // As the packets of the one outside are before they are translated: of him who asks, or of him who answers.
        let (known, other) = if inward { (TUPLE_ORIG, TUPLE_REPLY) } else { (TUPLE_REPLY, TUPLE_ORIG) };
        let family = if peer.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let message = Message::new(CONNTRACK, GET, family as u8, &[nested(known, &tuple(peer, public))]);
        let entry = match netfilter.ask(message) {
            Ok(entry) => entry,
            // No such entry, or no connection tracking at all (nfnetlink_rcv_msg: EINVAL for a subsystem that is not there).
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => return Ok(None),
            Err(e) => return Err(e),
        };
        let tuple = entry.attribute(other).ok_or(io::ErrorKind::InvalidData)?;
        let address = source(tuple).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Some(address).filter(|a| *a != public.ip()))
    }
}

/// A tuple's attributes.
fn tuple(from: SocketAddr, to: SocketAddr) -> [DefaultNla; 2] {
    let (source, destination) = if from.is_ipv4() { (V4_SRC, V4_DST) } else { (V6_SRC, V6_DST) };
    let address = |kind, a: IpAddr| match a {
        IpAddr::V4(a) => plain(kind, a.octets()),
        IpAddr::V6(a) => plain(kind, a.octets()),
    };
    let ip = [address(source, from.ip()), address(destination, to.ip())];
    let proto = [
        plain(PROTO_NUM, [libc::IPPROTO_TCP as u8]),
        plain(PROTO_SRC_PORT, from.port().to_be_bytes()),
        plain(PROTO_DST_PORT, to.port().to_be_bytes()),
    ];
    [nested(TUPLE_IP, &ip), nested(TUPLE_PROTO, &proto)]
}

/// The source address of a tuple.
fn source(tuple: &[u8]) -> Option<IpAddr> {
    let ip = attribute(tuple, TUPLE_IP)?;
    match attribute(ip, V4_SRC) {
        Some(v4) => <[u8; 4]>::try_from(v4).ok().map(IpAddr::from),
        None => <[u8; 16]>::try_from(attribute(ip, V6_SRC)?).ok().map(IpAddr::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tuple_is_read_as_it_is_written() {
        for (from, to) in [("192.0.2.1:4000", "198.51.100.2:21"), ("[2001:db8::1]:4000", "[2001:db8::2]:21")] {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let message = Message::new(CONNTRACK, GET, 2, &[nested(TUPLE_REPLY, &tuple(from, to))]);
            let read = message.attribute(TUPLE_REPLY).unwrap();
            assert_eq!(source(read), Some(from.ip()));
            let proto = attribute(read, TUPLE_PROTO).unwrap();
            assert_eq!(attribute(proto, PROTO_DST_PORT), Some(&[0, 21][..]));
        }
        assert_eq!(source(&[]), None);
    }
}
