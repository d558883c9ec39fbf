//! What goes over an interface, as tcpdump sees it: behind our programs on the way out, before them on the way in.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use anyhow::{Context as _, Result, bail, ensure};
use etherparse::{NetHeaders, PacketHeaders, PayloadSlice, TcpOptionElement, TransportHeader};
use ftp_helper::lab::{Host, process::Process};
use nix::sys::signal::Signal;

use crate::gateway::{PATIENCE, until};

/// A running capture.
#[derive(Debug)]
pub struct Tap {
    process: Process,
    file: PathBuf,
}

/// A TCP segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Sender.
    pub from: SocketAddr,
    /// Receiver.
    pub to: SocketAddr,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Whether it is a SYN.
    pub syn: bool,
    /// Blocks that are selectively acknowledged.
    pub sack: Vec<(u32, u32)>,
    /// What it carries.
    pub payload: Vec<u8>,
    /// Whether its checksum is right.
    pub sum_is_right: bool,
}

impl Tap {
    /// Captures TCP on an interface from now on.
    ///
    /// # Errors
    /// When tcpdump is missing or does not begin.
    pub fn start(host: &Host, interface: &str) -> Result<Self> {
        let file = host.directory().join(format!("{}-{interface}.pcap", host.name()));
        let mut command = host.command("tcpdump");
        command
            .args(["-i", interface, "-U", "-n", "--immediate-mode", "-Z", "root", "-w"])
            .arg(&file)
            .arg("tcp or ip6");
        let process = Process::spawn(command)?;
        until("tcpdump listens", || process.output().ok().filter(|o| o.contains("listening on")))?;
        Ok(Self { process, file })
    }

    /// Ends it; the segments in their order.
    ///
    /// # Errors
    /// When tcpdump has lost some, or what it wrote can't be read.
    pub fn stop(self) -> Result<Vec<Segment>> {
        let bytes = self.bytes()?;
        frames(&bytes)?.into_iter().filter_map(|(_, frame)| segment(frame).transpose()).collect()
    }

    /// Ends it; the capture as tcpdump wrote it.
    ///
    /// # Errors
    /// When tcpdump has lost some.
    pub fn bytes(self) -> Result<Vec<u8>> {
        self.process.signal(Signal::SIGINT)?;
        let done = self.process.finish(PATIENCE)?;
        ensure!(done.output.contains("\n0 packets dropped by kernel"), "{}", done.output.replace('\n', "; "));
        Ok(std::fs::read(&self.file)?)
    }
}

/// The frames of a capture of Ethernet, each with the eight bytes of its time.
///
/// # Errors
/// When it is no such capture, in this byte order, or a frame is cut.
pub fn frames(bytes: &[u8]) -> Result<Vec<(&[u8], &[u8])>> {
    let word = |at: usize| -> Option<u32> { Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?)) };
    ensure!(word(0) == Some(0xa1b2_c3d4) && word(20) == Some(1), "not a capture of Ethernet in this byte order");
    let mut frames = Vec::new();
    let mut at = 24;
    while let Some(length) = word(at + 8) {
        let frame = bytes.get(at + 16..at + 16 + length as usize).context("a frame is cut")?;
        frames.push((&bytes[at..at + 8], frame));
        at += 16 + length as usize;
    }
    Ok(frames)
}

/// The bytes of one direction by their place in the stream; later copies must be the same.
///
/// # Errors
/// When two segments carry different bytes for the same place, or there is a gap.
pub fn stream(segments: &[Segment], from: impl Fn(&Segment) -> bool) -> Result<Vec<u8>> {
    let mut start = None;
    let mut bytes = BTreeMap::new();
    for s in segments.iter().filter(|s| from(s)) {
        let start = *start.get_or_insert(s.seq.wrapping_add(u32::from(s.syn)));
        for (i, b) in s.payload.iter().enumerate() {
            let place = s.seq.wrapping_sub(start) as usize + i;
            if *bytes.entry(place).or_insert(*b) != *b {
                bail!("byte {place} was sent as {} and as {b}", bytes[&place]);
            }
        }
    }
    ensure!(bytes.keys().copied().eq(0..bytes.len()), "there are gaps");
    Ok(bytes.into_values().collect())
}

fn segment(frame: &[u8]) -> Result<Option<Segment>> {
    let headers = PacketHeaders::from_ethernet_slice(frame)?;
    let Some(TransportHeader::Tcp(tcp)) = headers.transport else { return Ok(None) };
    let payload = match headers.payload {
        PayloadSlice::Tcp(payload) => payload,
        _ => &[],
    };
    let (from, to, sum): (IpAddr, IpAddr, _) = match &headers.net {
        Some(NetHeaders::Ipv4(ip, _)) => {
            (ip.source.into(), ip.destination.into(), tcp.calc_checksum_ipv4(ip, payload)?)
        }
        Some(NetHeaders::Ipv6(ip, _)) => {
            (ip.source.into(), ip.destination.into(), tcp.calc_checksum_ipv6(ip, payload)?)
        }
        _ => return Ok(None),
    };
    let mut sack = Vec::new();
    for option in tcp.options_iterator().flatten() {
        if let TcpOptionElement::SelectiveAcknowledgement(first, more) = option {
            sack.push(first);
            sack.extend(more.into_iter().flatten());
        }
    }
    Ok(Some(Segment {
        from: (from, tcp.source_port).into(),
        to: (to, tcp.destination_port).into(),
        seq: tcp.sequence_number,
        ack: tcp.acknowledgment_number,
        syn: tcp.syn,
        sack,
        payload: payload.to_vec(),
        sum_is_right: sum == tcp.checksum,
    }))
}

/// Has a host's stack fill in checksums and cut segments by itself, as on a device without offloads.
///
/// # Errors
/// When the kernel refuses.
pub fn without_offloads(host: &Host, interface: &str) -> Result<()> {
    /// `ETHTOOL_STXCSUM`, `ETHTOOL_STSO` and `ETHTOOL_SGSO` (linux/ethtool.h).
    const OFFLOADS: [u32; 3] = [0x17, 0x1f, 0x24];
    /// `SIOCETHTOOL` (linux/sockios.h).
    const SIOCETHTOOL: libc::Ioctl = 0x8946;
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    host.run_in(|| -> Result<()> {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        for command in OFFLOADS {
            let mut value = Value { command, data: 0 };
            // SAFETY: all zeros is a valid request: a union of numbers, pointers and a name.
            let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
            for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes().take(libc::IFNAMSIZ - 1)) {
                *to = from as libc::c_char;
            }
            request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut value).cast();
            // SAFETY: the request and the value that it points to live until the call returns.
            let result = unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&socket), SIOCETHTOOL, &mut request) };
            nix::errno::Errno::result(result).context("ethtool")?;
        }
        Ok(())
    })?
}
