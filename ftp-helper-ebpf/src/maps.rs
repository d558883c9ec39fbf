//! The tables. The programs write sessions, pinholes, flows, clients and what depends on them; the daemon writes the
//! policy, and reads everything.
//!
//! Sizes are those of a small host; the loader sets them from the configuration.

use aya_ebpf::{
    Global,
    bindings::{BPF_F_NO_PREALLOC, bpf_spin_lock},
    btf_maps::{HashMap, LpmTrie, LruHashMap, PerCpuArray},
    macros::{btf_map, map},
    maps::{Array, RingBuf},
};
use ftp_helper_common::{
    addr::Addr,
    counter,
    key::{PairKey, PinholeKey, SessionKey, TupleKey},
    nat::{Alias, Translation},
    policy::{
        FewNets, KernelPolicy, MAX_CONTROL_PORTS, MAX_NETS, NetKey, PORT_CHUNKS, PortChunk, PortSet, ServerEntry,
    },
    state::{BlindPair, ClientState, FlowState, HalfOpen, PinholeState, RangeState, SAVED_BYTES, SessionState},
};

use crate::scratch::Scratch;

/// A session with its lock.
#[repr(C)]
pub struct SessionSlot {
    pub state: SessionState,
    pub lock: bpf_spin_lock,
    pub pad: u32,
}

/// A pinhole with its lock.
#[repr(C)]
pub struct PinholeSlot {
    pub state: PinholeState,
    pub lock: bpf_spin_lock,
    pub pad: u32,
}

/// A data connection with its lock.
#[repr(C)]
pub struct FlowSlot {
    pub state: FlowState,
    pub lock: bpf_spin_lock,
    pub pad: u32,
}

/// Entries of `STARTED`, a power of two.
pub const STARTED_PORTS: u32 = 1024;

/// The inside end of a session with its lock.
#[repr(C)]
pub struct AliasSlot {
    pub state: Alias,
    pub lock: bpf_spin_lock,
    pub pad: u32,
}

/// Data of an LPM key, see [`NetKey`].
pub type Net = aya_ebpf::btf_maps::lpm_trie::Key<NetKey>;

#[btf_map]
pub static SESSIONS: HashMap<SessionKey, SessionSlot, 1024> = HashMap::new();
#[btf_map]
pub static PINHOLES: HashMap<PinholeKey, PinholeSlot, 1024> = HashMap::new();
#[btf_map]
pub static FLOWS: HashMap<TupleKey, FlowSlot, 1024> = HashMap::new();
#[btf_map]
pub static CLIENTS: HashMap<Addr, ClientState, 1024> = HashMap::new();
/// When (`CLOCK_MONOTONIC`, nanoseconds) a data connection last began whose responder's port has these lowest bits: where
/// none has lately, no SYN can be one that comes again.
#[map]
pub static STARTED: Array<u64> = Array::with_max_entries(STARTED_PORTS, 0);
/// Hosts with encrypted sessions whose server has a range for them; the key's port is 0.
#[btf_map]
pub static RANGES: HashMap<PinholeKey, RangeState, 1024> = HashMap::new();
/// Who the inside end of a session is; one that is missing is not known yet. Empty without `NAT`, as the next two.
#[btf_map]
pub static ALIASES: HashMap<SessionKey, AliasSlot, 1> = HashMap::new();
/// Arriving packets of translated data connections: where they go.
#[btf_map]
pub static INWARD: HashMap<TupleKey, Translation, 1> = HashMap::new();
/// Leaving packets of them, by the inside end as it is inside: where they seem to come from.
#[btf_map]
pub static OUTWARD: HashMap<TupleKey, Translation, 1> = HashMap::new();
/// By session id, what the daemon alone knows of a dialogue, for the next daemon: the programs do not look at it. Room is
/// taken when it is needed.
#[btf_map]
pub static SAVED: HashMap<u64, [u8; SAVED_BYTES], 1024, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
/// Handshakes: any flood lives and dies here.
#[btf_map]
pub static HALF_OPEN: LruHashMap<SessionKey, HalfOpen, 1024> = LruHashMap::new();
/// Control connections that are not followed and have been told about.
#[btf_map]
pub static MIDSTREAM: LruHashMap<SessionKey, u64, 1024> = LruHashMap::new();
/// Until when (`CLOCK_MONOTONIC`, nanoseconds) there may be an entry of `BLIND_PAIRS` that counts.
#[map]
pub static BLIND_UNTIL: Array<u64> = Array::with_max_entries(1, 0);
/// Hosts whose denied SYNs are kept for a moment.
#[btf_map]
pub static BLIND_PAIRS: LruHashMap<PairKey, BlindPair, 1024> = LruHashMap::new();

/// What the engine must see.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 24, 0);
/// What is only told to people.
#[map]
pub static TELEMETRY: RingBuf = RingBuf::with_byte_size(1 << 18, 0);
/// SYNs that came too early.
#[map]
pub static PARKED: RingBuf = RingBuf::with_byte_size(1 << 18, 0);

#[map]
pub static POLICY: Array<KernelPolicy> = Array::with_max_entries(1, 0);
/// `CLOCK_MONOTONIC` of the daemon's last sign of life, nanoseconds.
#[map]
pub static HEARTBEAT: Array<u64> = Array::with_max_entries(1, 0);
/// Whether the daemon is reading `EVENTS` (0) and `TELEMETRY` (1) by itself: then nobody needs to wake it.
#[map]
pub static AWAKE: Array<u32> = Array::with_max_entries(2, 0);
#[map]
pub static PORTS: Array<PortChunk> = Array::with_max_entries(PORT_CHUNKS, 0);
#[map]
pub static NO_DATA: Array<PortSet> = Array::with_max_entries(2, 0);
/// SYNs by destination port, 64 in an entry: in the first half those denied, in the second those that would have been.
#[map]
pub static DENIED: Array<PortChunk> = Array::with_max_entries(PORT_CHUNKS, 0);
/// The same as in `NETS` where there are few, one entry for each generation: comparing them is quicker than the trie.
#[map]
pub static FEW: Array<FewNets> = Array::with_max_entries(2, 0);
/// Guards (by bit) of a responder's network.
#[btf_map]
pub static NETS: LpmTrie<NetKey, u64, { 2 * MAX_NETS }> = LpmTrie::new();
/// Guards (by bit) that look at an initiator.
#[btf_map]
pub static INITIATORS: LpmTrie<NetKey, u64, { 2 * MAX_NETS }> = LpmTrie::new();
#[btf_map]
pub static SERVERS: LpmTrie<NetKey, ServerEntry, { 2 * MAX_NETS }> = LpmTrie::new();
/// The outside interfaces: what came in by one of them was judged there.
#[btf_map]
pub static OUTSIDE: HashMap<u32, u32, 256> = HashMap::new();

#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { counter::COUNT as usize }> = PerCpuArray::new();
/// Working memory of the hooks, and of the command program (which a hook may interrupt before Linux 6.2).
#[btf_map]
pub static SCRATCH: PerCpuArray<Scratch, 2> = PerCpuArray::new();

/// Control ports, 0 where there are fewer; host byte order. Read-only: comparing costs no look-up.
#[unsafe(no_mangle)]
pub static CONTROL_PORTS: Global<[u16; MAX_CONTROL_PORTS]> = Global::new([21, 0, 0, 0, 0, 0, 0, 0]);
/// Marks a parked SYN that the daemon sends on. Drawn by chance at each start; 0 = parking is off.
#[unsafe(no_mangle)]
pub static UNPARK_MARK: Global<u32> = Global::new(0);
/// Whether addresses are translated. Without it the verifier drops all that has to do with it.
#[unsafe(no_mangle)]
pub static NAT: Global<u32> = Global::new(0);
/// For `cargo xtask bench`: what was committed is undone, so that one packet can be measured many times.
#[unsafe(no_mangle)]
pub static BENCH: Global<u32> = Global::new(0);
