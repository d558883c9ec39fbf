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
    reason::Reason,
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
    given_up: Vec<GivenUp>,
}

struct Parked {
    time: u64,
    syn: SynRecord,
    frame: Vec<u8>,
}

/// A SYN that was kept in vain.
#[derive(Debug)]
pub struct GivenUp {
    /// Who and where to, and why it was not let through.
    pub syn: SynRecord,
    frame: Vec<u8>,
}

impl From<Parked> for GivenUp {
    fn from(Parked { syn, frame, .. }: Parked) -> Self {
        Self { syn, frame }
    }
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
        Ok(Self { marked, plain: open()?, kept: VecDeque::new(), given_up: Vec::new() })
    }

    /// Keeps a SYN; `record` is what the kernel wrote. None if it can't be read.
    pub fn keep(&mut self, now: u64, record: &[u8]) -> Option<SynRecord> {
        let syn = read_syn(record).filter(|s| s.kind == kind::PARKED)?;
        let frame = record.get(size_of::<SynRecord>()..size_of::<SynRecord>() + usize::from(syn.frame_len))?;
        self.give_up_old(now);
        if self.kept.len() >= MAX {
            self.given_up.extend(self.kept.pop_front().map(Into::into));
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
        self.give_up_old(now);
        // One connection: the first SYN that fits. Its retransmissions are forgotten; other connections have come in vain.
        let Some(at) = self.kept.iter().position(|p| fits(&p.syn, pinhole)) else { return Ok(None) };
        let Some(parked) = self.kept.remove(at) else { return Ok(None) };
        let (others, kept) = std::mem::take(&mut self.kept).into_iter().partition(|p| fits(&p.syn, pinhole));
        self.kept = kept;
        for other in VecDeque::into_iter(others).filter(|p| p.syn.key != parked.syn.key) {
            let syn = SynRecord { reason: Reason::OtherSourcePort as u16, ..other.syn };
            self.given_up.push(GivenUp { syn, frame: other.frame });
        }
        let fd = if parked.syn.hook == HOOK_IN { &self.marked } else { &self.plain };
        if let Err(e) = send(fd, &parked.syn, &parked.frame) {
            self.given_up.push(parked.into());
            return Err(e);
        }
        Ok(Some(Duration::from_nanos(now.saturating_sub(parked.time))))
    }

    /// When the next SYN has to be given up.
    pub fn poll_timeout(&self) -> Option<u64> {
        if self.given_up.is_empty() { self.kept.front().map(|p| p.time + KEEP) } else { Some(0) }
    }

    /// The SYNs that came in vain since the last time: no pinhole has opened for them.
    pub fn given_up(&mut self, now: u64) -> Vec<GivenUp> {
        self.give_up_old(now);
        std::mem::take(&mut self.given_up)
    }

    /// Lets a SYN arrive once more that was kept in vain, for the ruleset to decide: the kernel side keeps it no second
    /// time.
    ///
    /// # Errors
    /// When the interface does not take the frame, or the SYN was about to leave.
    pub fn let_go(&self, in_vain: &GivenUp) -> io::Result<()> {
        if in_vain.syn.hook != HOOK_IN {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        send(&self.marked, &in_vain.syn, &in_vain.frame)
    }

    fn give_up_old(&mut self, now: u64) {
        let old = self.kept.iter().take_while(|p| p.time.saturating_add(KEEP) <= now).count();
        self.given_up.extend(self.kept.drain(..old).map(Into::into));
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

fn send(fd: &OwnedFd, syn: &SynRecord, frame: &[u8]) -> io::Result<()> {
    // SAFETY: an all-zero `sockaddr_ll` is a value of it.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_protocol = syn.ethertype.to_be();
    to.sll_ifindex = syn.ifindex.cast_signed();
    to.sll_halen = 6;
    if let Some(destination) = frame.get(..6) {
        to.sll_addr[..6].copy_from_slice(destination);
    }
    // SAFETY: the frame and the address are valid for reading with the lengths given.
    let n = unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
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
    fn what_no_pinhole_opens_for_is_given_up_once() {
        let open = || tempfile::tempfile().unwrap().into();
        let mut parking = Parking { marked: open(), plain: open(), kept: VecDeque::new(), given_up: Vec::new() };
        let park = |parking: &mut Parking, now, from: u16, to: u16| {
            let key = FlowKey { initiator_port: from, responder_port: to, ..FlowKey::default() };
            let syn = SynRecord { kind: kind::PARKED, key, reason: Reason::NoPinhole as u16, ..SynRecord::default() };
            parking.kept.push_back(Parked { time: now, syn, frame: Vec::new() });
        };
        assert_eq!(parking.poll_timeout(), None);
        for (now, from, to) in [(1, 1000, 50_000), (2, 1001, 50_001), (3, 1000, 50_000), (4, 1002, 50_000)] {
            park(&mut parking, now, from, to);
        }
        assert_eq!(parking.poll_timeout(), Some(1 + KEEP));
        assert!(parking.given_up(KEEP).is_empty());
        // A file is no packet socket: the first one can't be sent on. It has come in vain then, and so has the other
        // connection to its port; its retransmission is no other connection.
        let pinhole = PinholeKey { port: 50_000, hook: HOOK_IN, ..PinholeKey::default() };
        assert!(parking.release(5, &pinhole).is_err());
        assert_eq!(parking.poll_timeout(), Some(0));
        let told: Vec<_> = parking.given_up(6).iter().map(|g| (g.syn.key.initiator_port, g.syn.reason)).collect();
        assert_eq!(told, [(1002, Reason::OtherSourcePort as u16), (1000, Reason::NoPinhole as u16)]);
        assert_eq!(parking.given_up(2 + KEEP).len(), 1);
        assert_eq!((parking.given_up(u64::MAX).len(), parking.poll_timeout()), (0, None));
    }

    #[test]
    fn a_tag_goes_back_behind_the_addresses() {
        let frame: Vec<u8> = (0..20).collect();
        assert_eq!(with_tag(&frame, 0), frame);
        let tagged = with_tag(&frame, 0x8100_0005);
        assert_eq!(&tagged[..16], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0x81, 0, 0, 5]);
        assert_eq!(&tagged[16..], &frame[12..]);
    }
}
