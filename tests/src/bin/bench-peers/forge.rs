//! Dialogues between a client and a server that are not there, written packet by packet through the gateway, and what each
//! packet takes.
//!
//! A packet that is written to one end of a veth pair is received by the gateway, forwarded, and taken off the wire on the
//! other side before the write returns: it all happens in the softirq at the end of that one call, on one processor. So a
//! packet's cost is the time of one call, whatever else the machine does, as long as it is the median of many.
//!
//! Checksums are left to the device, as those of a veth pair's real packets are.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Instant,
};

use anyhow::{Context as _, Result};
use ftp_helper::lab::{HOST_INTERFACE, Host, INSIDE_INTERFACE, Lab, OUTSIDE_INTERFACE, clients::Family};
use ftp_helper_common::tcp;
use ftp_helper_tests::packet::{Checksum, Packet};

use crate::ground::address;

/// The ports of clients that are not there: below those that real ones get.
pub(crate) const PORTS: RangeInclusive<u16> = 10_000..=19_999;

/// Where many clients are that do not exist, over IPv4 and over IPv6: the networks for benchmarks (RFC 2544 appendix C.2.2, RFC 5180
/// section 8), each with its prefix length.
pub(crate) const MANY: [(IpAddr, u8); 2] =
    [(IpAddr::V4(Ipv4Addr::new(198, 18, 0, 0)), 15), (IpAddr::V6(Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0)), 48)];

/// The PSH flag (RFC 9293 section 3.1).
const PSH: u8 = 0x08;

/// A host's interface, to write frames to.
struct Wire {
    fd: OwnedFd,
    /// Destination and source of its frames.
    ethernet: [u8; 12],
}

impl Wire {
    fn open(host: &Host, gateway: &Host, interface: &str) -> Result<Self> {
        let to = mac(gateway, interface)?;
        let from = mac(host, HOST_INTERFACE)?;
        let fd = host.run_in(|| packet_socket(HOST_INTERFACE))?.context("can't open a packet socket")?;
        let mut ethernet = [0; 12];
        ethernet[..6].copy_from_slice(&to);
        ethernet[6..].copy_from_slice(&from);
        Ok(Self { fd, ethernet })
    }

    /// The frame as it is written: `struct virtio_net_hdr`, which says where the checksum goes, and the packet.
    fn frame(&self, packet: &Packet) -> Vec<u8> {
        let network: u16 = if packet.from.is_ipv4() { 20 } else { 40 };
        let mut bytes = vec![1, 0, 0, 0, 0, 0];
        bytes.extend((14 + network).to_ne_bytes());
        bytes.extend(16_u16.to_ne_bytes());
        let at = bytes.len();
        bytes.extend(Packet { checksum: Checksum::Partial, ..packet.clone() }.frame());
        bytes[at..at + 12].copy_from_slice(&self.ethernet);
        bytes
    }

    /// Nanoseconds that writing takes.
    fn write(&self, frame: &[u8]) -> Result<f64> {
        let begun = Instant::now();
        // SAFETY: the frame is valid for reading with this length.
        let n = unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        let took = begun.elapsed();
        if n < 0 {
            return Err(io::Error::last_os_error()).context("can't write a forged packet");
        }
        Ok(took.as_nanos() as f64)
    }
}

fn mac(host: &Host, interface: &str) -> Result<[u8; 6]> {
    let find = || -> Result<[u8; 6]> {
        let all = nix::ifaddrs::getifaddrs()?;
        let mut macs = all.filter(|i| i.interface_name == interface).filter_map(|i| i.address?.as_link_addr()?.addr());
        macs.next().with_context(|| format!("{interface} has no address"))
    };
    host.run_in(find)?
}

fn packet_socket(interface: &str) -> io::Result<OwnedFd> {
    // It receives nothing: of protocol 0.
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let on: libc::c_int = 1;
    // SAFETY: the option's value is valid for reading with its length.
    let set = unsafe {
        let length = size_of::<libc::c_int>() as libc::socklen_t;
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_VNET_HDR,
            std::ptr::from_ref(&on).cast(),
            length,
        )
    };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all zeros are a valid address.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = nix::net::if_::if_nametoindex(interface)?.cast_signed();
    // SAFETY: the address is valid for reading with its length.
    let bound = unsafe {
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        libc::bind(fd.as_raw_fd(), std::ptr::from_ref(&address).cast(), length)
    };
    if bound != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(fd)
}

/// Both ends of the way through a gateway.
pub(crate) struct Forge {
    client: Wire,
    server: Wire,
    /// Packets of clients and of servers so far.
    pub(crate) written: [u64; 2],
    server_ip: IpAddr,
    client_ip: IpAddr,
}

/// A control connection that is forged.
#[derive(Clone, Debug)]
pub(crate) struct Talk {
    client: SocketAddr,
    server: SocketAddr,
    /// Next sequence numbers: the client's and the server's.
    next: [u32; 2],
}

impl Talk {
    /// The client's end.
    pub(crate) fn client(&self) -> SocketAddr {
        self.client
    }
}

impl Forge {
    /// On a ground's wires, over a family.
    pub(crate) fn new(lab: &Lab, family: Family) -> Result<Self> {
        Ok(Self {
            client: Wire::open(lab.client(), lab.gateway(), OUTSIDE_INTERFACE)?,
            server: Wire::open(lab.server(), lab.gateway(), INSIDE_INTERFACE)?,
            written: [0; 2],
            server_ip: address(lab.server(), family),
            client_ip: address(lab.client(), family),
        })
    }

    /// The `n`th connection of the client's own address.
    pub(crate) fn own(&self, n: u16) -> Talk {
        self.talk(self.client_ip, PORTS.start() + n)
    }

    /// The `n`th of many: ten thousand clients one after the other.
    pub(crate) fn of_many(&self, n: u32) -> Talk {
        let nth = 1 + n % 10_000;
        let client = match MANY[usize::from(self.is_v6())].0 {
            IpAddr::V4(first) => Ipv4Addr::from(u32::from(first) + nth).into(),
            // Each in a /64 of its own: those of one share what a client may hold.
            IpAddr::V6(first) => Ipv6Addr::from(u128::from(first) + (u128::from(nth) << 64)).into(),
        };
        self.talk(client, PORTS.start() + (n / 10_000) as u16)
    }

    /// Whether all of it is IPv6, so that no port is announced by a 227.
    pub(crate) const fn is_v6(&self) -> bool {
        self.server_ip.is_ipv6()
    }

    fn talk(&self, client: IpAddr, port: u16) -> Talk {
        Talk { client: (client, port).into(), server: (self.server_ip, 21).into(), next: [1000, 5000] }
    }

    fn send(&mut self, from_client: bool, packet: &Packet) -> Result<f64> {
        let wire = if from_client { &self.client } else { &self.server };
        let frame = wire.frame(packet);
        self.written[usize::from(!from_client)] += 1;
        wire.write(&frame)
    }

    /// The handshake, the greeting and the login.
    pub(crate) fn begin(&mut self, t: &mut Talk) -> Result<()> {
        self.connect(t)?;
        self.line(t, false, "220 Ready")?;
        self.line(t, true, "USER u")?;
        self.line(t, false, "331 Password")?;
        self.line(t, true, "PASS p")?;
        self.line(t, false, "230 Welcome")?;
        Ok(())
    }

    /// A handshake; nanoseconds of its SYN and its SYN-ACK.
    fn connect(&mut self, t: &mut Talk) -> Result<(f64, f64)> {
        let syn = self.send(true, &Packet::syn(t.client, t.server, t.next[0].wrapping_sub(1)).with_options())?;
        let answer = Packet::new(t.server, t.client, tcp::SYN | tcp::ACK, t.next[1].wrapping_sub(1), t.next[0]);
        let syn_ack = self.send(false, &answer.with_options())?;
        self.send(true, &Packet::new(t.client, t.server, tcp::ACK, t.next[0], t.next[1]))?;
        Ok((syn, syn_ack))
    }

    /// A line of one of both; nanoseconds.
    pub(crate) fn line(&mut self, t: &mut Talk, from_client: bool, text: &str) -> Result<f64> {
        let payload = format!("{text}\r\n").into_bytes();
        let length = payload.len() as u32;
        let flags = tcp::ACK | PSH;
        let packet = if from_client {
            Packet::new(t.client, t.server, flags, t.next[0], t.next[1])
        } else {
            Packet::new(t.server, t.client, flags, t.next[1], t.next[0])
        };
        let took = self.send(from_client, &packet.with(payload))?;
        let next = &mut t.next[usize::from(!from_client)];
        *next = next.wrapping_add(length);
        Ok(took)
    }

    /// An announcement of a port of the server; nanoseconds of the command and of the reply.
    pub(crate) fn announce(&mut self, t: &mut Talk, extended: bool, port: u16) -> Result<(f64, f64)> {
        let reply = match t.server.ip() {
            IpAddr::V4(ip) if !extended => {
                let ([a, b, c, d], [high, low]) = (ip.octets(), port.to_be_bytes());
                format!("227 Entering Passive Mode ({a},{b},{c},{d},{high},{low}).")
            }
            _ => format!("229 Entering Extended Passive Mode (|||{port}|)"),
        };
        let command = self.line(t, true, if reply.starts_with("227") { "PASV" } else { "EPSV" })?;
        Ok((command, self.line(t, false, &reply)?))
    }

    /// Both ends close.
    pub(crate) fn end(&mut self, t: &mut Talk) -> Result<()> {
        let fin = tcp::ACK | tcp::FIN;
        self.send(true, &Packet::new(t.client, t.server, fin, t.next[0], t.next[1]))?;
        t.next[0] = t.next[0].wrapping_add(1);
        self.send(false, &Packet::new(t.server, t.client, fin, t.next[1], t.next[0]))?;
        t.next[1] = t.next[1].wrapping_add(1);
        self.send(true, &Packet::new(t.client, t.server, tcp::ACK, t.next[0], t.next[1]))?;
        Ok(())
    }

    /// A data connection to an announced port that carries nothing; nanoseconds of its SYN and its SYN-ACK.
    pub(crate) fn visit(&mut self, t: &Talk, nth: u16, port: u16) -> Result<(f64, f64)> {
        let mut d = Self::beside(t, nth, port);
        let took = self.connect(&mut d)?;
        self.end(&mut d)?;
        Ok(took)
    }

    /// The `nth` data connection of a dialogue's client, to an announced port.
    fn beside(t: &Talk, nth: u16, port: u16) -> Talk {
        let client = SocketAddr::new(t.client.ip(), PORTS.end() - nth);
        Talk { client, server: SocketAddr::new(t.server.ip(), port), next: [9000, 70_000] }
    }

    /// A data connection to an announced port, and `count` full segments of the server's; nanoseconds of
    /// each.
    pub(crate) fn data(&mut self, t: &Talk, nth: u16, port: u16, count: u32) -> Result<Vec<f64>> {
        let mut d = Self::beside(t, nth, port);
        self.connect(&mut d)?;
        let full = Packet::new(d.server, d.client, tcp::ACK, d.next[1], d.next[0]).with(vec![0; 1400]);
        let full = self.server.frame(&Packet { tcp_options: 12, ..full });
        let mut took = Vec::with_capacity(count as usize);
        for _ in 0..count {
            // The same again and again is as good as new to whoever only looks at its state.
            took.push(self.server.write(&full)?);
            self.written[1] += 1;
        }
        d.next[1] = d.next[1].wrapping_add(1400);
        self.end(&mut d)?;
        Ok(took)
    }
}
