//! Parked SYNs: first SYNs that came before the daemon had read the announcement, kept for a moment and sent on.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use anyhow::Context as _;
use ftp_helper_common::{
    key::{FlowKey, HOOK_IN, PinholeKey},
    record::{SynRecord, kind},
};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};

use super::checksum;

/// How long a SYN is kept. Its sender tries again after a second anyhow.
const KEEP: u64 = 500_000_000;
/// SYNs kept at most; the kernel keeps a budget for each pair of hosts as well.
const MAX: usize = 1024;

/// The SYNs that are kept, and the socket that sends them on.
pub struct Parking {
    marked: OwnedFd,
    plain: OwnedFd,
    kept: VecDeque<Parked>,
}

struct Parked {
    time: u64,
    syn: SynRecord,
    frame: Vec<u8>,
}

impl Parking {
    /// A parking place in this network namespace; what is sent to arrive once more bears `mark`.
    ///
    /// # Errors
    /// Without the right to send frames (`CAP_NET_RAW`).
    pub fn new(mark: u32) -> anyhow::Result<Self> {
        let open = || -> anyhow::Result<OwnedFd> {
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
                .context("can't open a packet socket (CAP_NET_RAW)")
        };
        let marked = open()?;
        setsockopt(&marked, sockopt::Mark, &mark).context("can't mark packets (CAP_NET_ADMIN)")?;
        Ok(Self { marked, plain: open()?, kept: VecDeque::new() })
    }

    /// Keeps a SYN; `record` is what the kernel wrote. None if it can't be read.
    pub fn keep(&mut self, now: u64, record: &[u8]) -> Option<SynRecord> {
        let syn = read_syn(record).filter(|s| s.kind == kind::PARKED)?;
        let frame = record.get(size_of::<SynRecord>()..size_of::<SynRecord>() + usize::from(syn.frame_len))?;
        self.forget_old(now);
        if self.kept.len() >= MAX {
            self.kept.pop_front();
        }
        let mut frame = with_tag(frame, syn.vlan);
        checksum::complete(&mut frame, &syn.key);
        self.kept.push_back(Parked { time: now, syn, frame });
        Some(syn)
    }

    /// Sends on what fits a pinhole that has just opened; the number of SYNs, and what it took since they came.
    ///
    /// # Errors
    /// When the interface does not take the frame; the SYN's sender will try again.
    pub fn release(&mut self, now: u64, pinhole: &PinholeKey) -> io::Result<Option<Duration>> {
        self.forget_old(now);
        // One connection: the first SYN that fits, retransmissions of it are dropped with the rest.
        let Some(at) = self.kept.iter().position(|p| fits(&p.syn, pinhole)) else { return Ok(None) };
        let Some(parked) = self.kept.remove(at) else { return Ok(None) };
        self.kept.retain(|p| !fits(&p.syn, pinhole));
        let fd = if parked.syn.hook == HOOK_IN { &self.marked } else { &self.plain };
        send(fd, &parked)?;
        Ok(Some(Duration::from_nanos(now.saturating_sub(parked.time))))
    }

    fn forget_old(&mut self, now: u64) {
        while self.kept.front().is_some_and(|p| p.time + KEEP < now) {
            self.kept.pop_front();
        }
    }
}

fn fits(syn: &SynRecord, pinhole: &PinholeKey) -> bool {
    let FlowKey { initiator, responder, responder_port, initiator_port: _ } = syn.key;
    initiator == pinhole.initiator
        && responder == pinhole.responder
        && responder_port == pinhole.port
        && syn.hook == pinhole.hook
}

fn read_syn(record: &[u8]) -> Option<SynRecord> {
    let bytes = record.get(..size_of::<SynRecord>())?;
    // SAFETY: long enough, read without alignment; every byte pattern is a `SynRecord`.
    Some(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
}

/// Puts a tag that the interface had taken off back into the frame.
fn with_tag(frame: &[u8], vlan: u32) -> Vec<u8> {
    match (vlan, frame.split_at_checked(12)) {
        (1.., Some((addresses, rest))) => [addresses, &vlan.to_be_bytes(), rest].concat(),
        _ => frame.to_vec(),
    }
}

fn send(fd: &OwnedFd, parked: &Parked) -> io::Result<()> {
    // SAFETY: an all-zero `sockaddr_ll` is a value of it.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_protocol = parked.syn.ethertype.to_be();
    to.sll_ifindex = parked.syn.ifindex.cast_signed();
    to.sll_halen = 6;
    if let Some(destination) = parked.frame.get(..6) {
        to.sll_addr[..6].copy_from_slice(destination);
    }
    // SAFETY: the frame and the address are valid for reading with the lengths given.
    let n = unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            parked.frame.as_ptr().cast(),
            parked.frame.len(),
            0,
            std::ptr::from_ref(&to).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_goes_back_behind_the_addresses() {
        let frame: Vec<u8> = (0..20).collect();
        assert_eq!(with_tag(&frame, 0), frame);
        let tagged = with_tag(&frame, 0x8100_0005);
        assert_eq!(&tagged[..16], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0x81, 0, 0, 5]);
        assert_eq!(&tagged[16..], &frame[12..]);
    }
}
