//! The kernel side in user space: the recogniser of `ftp_helper_common`, and a model of the tables and decisions around
//! it, function by function that of the BPF programs.
//!
//! One thing the programs do that a single thread would hide: two CPUs may judge segments of one session at once, and
//! the daemon's commands may come in between. So a control segment is taken in two moves, [`Kernel::packet`] (snapshot,
//! judgement, opening, record) and [`Kernel::commit`], and the world decides what happens between them.

mod command;
mod flow;
mod guard;
mod pinhole;
mod range;
mod watch;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ftp_helper::engine::{
    Policy, Record,
    policy::{Mode, OnDaemonLoss, SourcePort},
};
use ftp_helper_common::{
    addr::Addr,
    canon::{Judgement, Segment},
    key::{CLIENT, PairKey, PinholeKey, SERVER, SessionKey, TupleKey},
    policy::{KernelPolicy, mode, on_loss, policy_flag},
    reason::Reason,
    record::{FlowRecord, SegmentRecord, SynRecord},
    state::{BlindPair, ClientState, FlowState, HalfOpen, PinholeState, RangeState, SessionState},
    tcp,
};

/// An address and a port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct End {
    /// The address.
    pub addr: Addr,
    /// The port.
    pub port: u16,
}

/// A TCP segment on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Sender.
    pub from: End,
    /// Receiver.
    pub to: End,
    /// TCP flags.
    pub flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Payload.
    pub data: Vec<u8>,
    /// Whether a byte has changed on the way, which the checksum tells.
    pub damaged: bool,
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// It does not.
    Drop,
}

/// A packet that was looked at.
#[derive(Debug)]
pub enum Taken {
    /// Done with.
    Done(Verdict),
    /// A control segment that passes as soon as it is committed.
    Judged(Box<InFlight>),
}

/// A control segment between judgement and commit.
#[derive(Debug)]
pub struct InFlight {
    /// Its session.
    pub key: SessionKey,
    /// The entry as it was when the segment was judged.
    pub snapshot: SessionState,
    /// The segment.
    pub segment: Segment,
    /// What was made of it.
    pub judgement: Judgement,
    opened: PinholeKey,
    unseen: u16,
    recorded: bool,
    time: u64,
}

/// Something that the invariants look at.
#[derive(Clone, Debug)]
pub enum Happened {
    /// A session began.
    Session(SessionKey, u64),
    /// A pinhole opened, or was renewed.
    Opened(PinholeKey, PinholeState),
    /// A reset gave a pinhole back.
    Rearmed(PinholeKey, PinholeState),
    /// A SYN went through a pinhole.
    SynPassed(PinholeKey, PinholeState),
    /// A SYN went to a port of its server's range.
    InRange(PinholeKey),
    /// A responder's answer used a pinhole up.
    Used(PinholeKey, PinholeState),
    /// A segment passed that the daemon will never see.
    Unrecorded(u64),
    /// A data connection of a session went on although nobody was told.
    Untold(u64),
    /// A session was judged by two at once.
    Raced(u64),
    /// There was no room for a record.
    RingFull,
}

/// A record in a ring buffer.
#[derive(Clone, Debug)]
pub enum Rec {
    /// See [`Record::Session`].
    Session(SegmentRecord),
    /// See [`Record::Segment`].
    Segment(SegmentRecord, Vec<u8>),
    /// See [`Record::FlowStart`].
    FlowStart(FlowRecord),
    /// See [`Record::FlowRearmed`].
    FlowRearmed(FlowRecord),
    /// See [`Record::FlowEnd`].
    FlowEnd(FlowRecord),
    /// See [`Record::Denied`].
    Denied(SynRecord),
    /// See [`Record::Stray`].
    Stray(SegmentRecord),
}

impl Rec {
    /// As the engine takes it.
    #[must_use]
    pub fn view(&self) -> Record<'_> {
        match self {
            Self::Session(r) => Record::Session(*r),
            Self::Segment(r, data) => Record::Segment(*r, data),
            Self::FlowStart(r) => Record::FlowStart(*r),
            Self::FlowRearmed(r) => Record::FlowRearmed(*r),
            Self::FlowEnd(r) => Record::FlowEnd(*r),
            Self::Denied(r) => Record::Denied(*r),
            Self::Stray(r) => Record::Stray(*r),
        }
    }

    fn bytes(&self) -> usize {
        let fixed = match self {
            Self::Session(r) | Self::Stray(r) => size_of_val(r),
            Self::Segment(r, data) => size_of_val(r) + data.len(),
            Self::FlowStart(r) | Self::FlowRearmed(r) | Self::FlowEnd(r) => size_of_val(r),
            Self::Denied(r) => size_of_val(r),
        };
        // What the kernel's ring buffer adds.
        (fixed + 8).next_multiple_of(8)
    }
}

/// A ring buffer that fills.
#[derive(Debug)]
pub struct Ring<T> {
    held: VecDeque<(usize, T)>,
    room: usize,
}

impl<T> Ring<T> {
    fn new(room: usize) -> Self {
        Self { held: VecDeque::new(), room }
    }

    fn put(&mut self, bytes: usize, record: T) -> bool {
        if bytes > self.room {
            return false;
        }
        self.room -= bytes;
        self.held.push_back((bytes, record));
        true
    }

    /// The oldest record.
    pub fn take(&mut self) -> Option<T> {
        let (bytes, record) = self.held.pop_front()?;
        self.room += bytes;
        Some(record)
    }

    /// What waits to be read.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.held.iter().map(|(_, record)| record)
    }

    /// Whether there is nothing to read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

/// Sizes of the tables and ring buffers.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Sessions.
    pub sessions: usize,
    /// Pinholes.
    pub pinholes: usize,
    /// Data connections.
    pub flows: usize,
    /// Clients.
    pub clients: usize,
    /// Bytes of the ring buffer of events.
    pub ring: usize,
}

/// The tables.
#[derive(Debug)]
pub struct Kernel {
    /// Sessions.
    pub sessions: BTreeMap<SessionKey, SessionState>,
    /// Pinholes.
    pub pinholes: BTreeMap<PinholeKey, PinholeState>,
    /// Data connections.
    pub flows: BTreeMap<TupleKey, FlowState>,
    /// Clients.
    pub clients: BTreeMap<Addr, ClientState>,
    /// Hosts with encrypted sessions whose server has a range.
    pub ranges: BTreeMap<PinholeKey, RangeState>,
    /// SYNs that were parked.
    pub kept: u64,
    /// Records for the engine.
    pub events: Ring<Rec>,
    /// Records for people.
    pub telemetry: Ring<Rec>,
    /// SYNs that came too early.
    pub parked: Ring<(SynRecord, Packet)>,
    /// The daemon's last sign of life.
    pub heartbeat: u64,
    /// What has happened since the world looked last.
    pub happened: Vec<Happened>,
    /// The policy.
    pub policy: KernelPolicy,
    user_policy: Policy,
    sizes: Sizes,
    denied: Vec<u16>,
    range: (u16, u16),
    control: Vec<u16>,
    half_open: BTreeMap<SessionKey, HalfOpen>,
    midstream: BTreeSet<SessionKey>,
    blind_pairs: BTreeMap<PairKey, BlindPair>,
    last_id: u64,
}

/// Entries of the tables that make room by themselves.
const LRU: usize = 64;
/// How old a heartbeat may be, nanoseconds. Longer than the daemon's policy has it: the worlds that are kept were found so.
pub const STALE_AFTER: u64 = 5_000_000_000;

impl Kernel {
    /// Empty tables under a policy.
    #[must_use]
    pub fn new(policy: &Policy, sizes: Sizes) -> Self {
        let range = policy.servers.iter().find_map(|s| s.passive_ports.clone());
        Self {
            sessions: BTreeMap::new(),
            pinholes: BTreeMap::new(),
            flows: BTreeMap::new(),
            clients: BTreeMap::new(),
            ranges: BTreeMap::new(),
            kept: 0,
            events: Ring::new(sizes.ring),
            telemetry: Ring::new(1 << 14),
            parked: Ring::new(1 << 12),
            heartbeat: 0,
            happened: Vec::new(),
            policy: kernel_policy(policy),
            user_policy: policy.clone(),
            sizes,
            denied: policy.deny_ports.iter().chain(&policy.control_ports).copied().collect(),
            range: range.map_or((0, 65535), |r| (*r.start(), *r.end())),
            control: policy.control_ports.iter().copied().collect(),
            half_open: BTreeMap::new(),
            midstream: BTreeSet::new(),
            blind_pairs: BTreeMap::new(),
            last_id: 0,
        }
    }

    /// A packet at a hook.
    pub fn packet(&mut self, now: u64, hook: u8, p: &Packet) -> Taken {
        let (to, from) = (self.is_control(p.to.port), self.is_control(p.from.port));
        if to && from {
            return Taken::Done(Verdict::Pass);
        }
        if to || from {
            return self.watch(now, hook, if to { CLIENT } else { SERVER }, p);
        }
        if p.flags & (tcp::SYN | tcp::FIN | tcp::RST) == 0 {
            let crosses = !p.data.is_empty() && (p.seq ^ p.seq.wrapping_add(p.data.len() as u32)) >> 20 != 0;
            return Taken::Done(if crosses { self.flow(now, hook, p) } else { Verdict::Pass });
        }
        Taken::Done(if p.flags & (tcp::SYN | tcp::ACK) == tcp::SYN {
            self.guard(now, hook, p)
        } else {
            self.flow(now, hook, p)
        })
    }

    /// Whether the policy never drops anything.
    #[must_use]
    pub fn observes(&self) -> bool {
        self.policy.mode == mode::OBSERVE
    }

    /// Whether the daemon has not been heard of for too long.
    #[must_use]
    pub fn is_stale(&self, now: u64) -> bool {
        now.saturating_sub(self.heartbeat) > self.policy.stale_after
    }

    fn is_closed(&self, now: u64) -> bool {
        self.policy.on_loss == on_loss::CLOSE && self.is_stale(now)
    }

    fn is_control(&self, port: u16) -> bool {
        self.control.contains(&port)
    }

    fn drops(&self) -> Verdict {
        if self.observes() { Verdict::Pass } else { Verdict::Drop }
    }

    fn record(&mut self, rec: Rec) -> bool {
        let written = self.events.put(rec.bytes(), rec);
        if !written {
            self.happened.push(Happened::RingFull);
        }
        written
    }

    fn stray(&mut self, record: SegmentRecord, reason: Reason) {
        let rec =
            Rec::Stray(SegmentRecord { kind: ftp_helper_common::record::kind::STRAY, reason: reason as u16, ..record });
        let _ = self.telemetry.put(rec.bytes(), rec);
    }
}

/// What the data plane makes of a policy.
fn kernel_policy(policy: &Policy) -> KernelPolicy {
    let mut flags = 0;
    if policy.active_inbound {
        flags |= policy_flag::ACTIVE_INBOUND;
    }
    if policy.active_source_port == SourcePort::Twenty {
        flags |= policy_flag::SOURCE_20;
    }
    KernelPolicy {
        timeout: policy.pinhole_timeout.as_nanos() as u64,
        stale_after: STALE_AFTER,
        per_client: policy.per_client,
        servers: policy.servers.iter().filter(|s| s.passive_ports.is_some()).count() as u32,
        mode: if policy.mode == Mode::Observe { mode::OBSERVE } else { mode::DROP },
        on_loss: if policy.on_daemon_loss == OnDaemonLoss::Close { on_loss::CLOSE } else { on_loss::CONTINUE },
        modes: policy.modes.0,
        active_open: policy.active_open as u8,
        flags,
        ..KernelPolicy::default()
    }
}

/// Puts an entry into a table that makes room by itself.
fn put_lru<K: Ord + Copy, V>(table: &mut BTreeMap<K, V>, key: K, value: V) {
    if table.len() >= LRU && !table.contains_key(&key) {
        table.pop_first();
    }
    table.insert(key, value);
}
