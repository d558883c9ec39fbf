//! What the daemon tells the kernel about the configuration. The kernel only reads these tables.

use crate::addr::Addr;

/// The policy, one entry of an array.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct KernelPolicy {
    /// How long a pinhole lives, nanoseconds.
    pub timeout: u64,
    /// How old the heartbeat may be before the daemon counts as gone, nanoseconds.
    pub stale_after: u64,
    /// Guards (by bit) that look at arriving SYNs.
    pub guards_in: u64,
    /// Guards that look at leaving SYNs.
    pub guards_out: u64,
    /// Guards that hold every initiator to it: no look-up of the initiator for these.
    pub any_initiator: u64,
    /// Which half of the double-buffered tables is in force: 0 or 1.
    pub generation: u32,
    /// Unconsumed pinholes that one client may have.
    pub per_client: u32,
    /// Number of servers with a range of their own: no look-up where there is none.
    pub servers: u32,
    /// [`mode`].
    pub mode: u8,
    /// [`on_loss`].
    pub on_loss: u8,
    /// Allowed modes: bits `1 << pending::PASV` and so on.
    pub modes: u8,
    /// [`active_open`].
    pub active_open: u8,
    /// Bits of [`policy_flag`].
    pub flags: u32,
    /// Entries of [`FewNets`] that count; [`MANY`] where there are more networks than it holds.
    pub few: u32,
    /// In [`mode::MARK`]: what the packet's mark is where `mark_mask` has ones, for a SYN that is permitted; zeros there for
    /// one that is not.
    pub mark_value: u32,
    /// The bits of the mark that are ours.
    pub mark_mask: u32,
    /// Lowest and highest public port for the data connections of inside clients in active mode; zeros without `[nat]`.
    pub nat_ports: [u16; 2],
    /// Zero.
    pub pad: u32,
}

/// [`KernelPolicy::mode`].
pub mod mode {
    /// Never drops anything.
    pub const OBSERVE: u8 = 0;
    /// Drops what nobody negotiated.
    pub const DROP: u8 = 1;
    /// Marks arriving SYNs that somebody negotiated, and takes the mark off the others; drops what else `DROP` drops.
    pub const MARK: u8 = 2;
}

/// [`KernelPolicy::on_loss`].
pub mod on_loss {
    /// The kernel goes on by the last policy.
    pub const CONTINUE: u8 = 0;
    /// The kernel opens nothing.
    pub const CLOSE: u8 = 1;
}

/// [`KernelPolicy::active_open`]: when PORT and EPRT open.
pub mod active_open {
    /// At the command where an inside server connects out, at the reply where an outside server connects in.
    pub const AUTO: u8 = 0;
    /// At the command; where an outside server connects in, still not before the reply (rule 1).
    pub const COMMAND: u8 = 1;
    /// At the server's 200.
    pub const REPLY: u8 = 2;
    /// At the transfer command after the server's 200.
    pub const TRANSFER: u8 = 3;
}

/// Bits of [`KernelPolicy::flags`].
pub mod policy_flag {
    /// An outside server may connect in to an inside client.
    pub const ACTIVE_INBOUND: u32 = 1;
    /// Active data connections must come from port 20.
    pub const SOURCE_20: u32 = 1 << 1;
    /// The kernel opens nothing by itself; the daemon does it all. For measuring what the fast path is worth.
    pub const NO_FAST_PATH: u32 = 1 << 2;
    /// Denied SYNs are not kept. For measuring what parking is worth.
    pub const NO_PARKING: u32 = 1 << 3;
    /// A server's encrypted sessions open its range: without it nobody looks.
    pub const RANGES: u32 = 1 << 4;
}

/// Guards at most; one bit each.
pub const MAX_GUARDS: usize = 64;

/// Networks of a policy at most: those of all guards, their initiators', and the servers', each. The tables have room for two
/// policies, the one in force and the next one.
pub const MAX_NETS: usize = 4096;

/// Control ports at most.
pub const MAX_CONTROL_PORTS: usize = 8;

/// Ports in one entry of the guarded-ports table.
pub const PORTS_PER_CHUNK: usize = 64;
/// Entries of the guarded-ports table, both generations.
pub const PORT_CHUNKS: u32 = 2 * (65536 / PORTS_PER_CHUNK) as u32;

/// One entry of the guarded-ports table: for each of 64 ports, the guards (by bit) that cover it.
///
/// Port `p` of generation `g` is word `p % 64` of entry `g * 1024 + p / 64`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct PortChunk(pub [u64; PORTS_PER_CHUNK]);

/// Ports that may never be a data port (the deny-list and the control ports), one bit each: bit `p % 64` of word
/// `p / 64`. One entry of an array for each generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct PortSet(pub [u64; 1024]);

/// Data of an LPM key: which generation, then the address. The generation counts into the prefix length
/// ([`NET_PREFIX_BASE`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct NetKey {
    /// 0 or 1.
    pub generation: u32,
    /// Zero: the value behind the key is aligned to eight bytes.
    pub pad: u32,
    /// The address, mapped if IPv4.
    pub addr: Addr,
}

/// Bits of an LPM prefix before the address.
pub const NET_PREFIX_BASE: u32 = 64;

/// A guarded network, its guards by bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct FewNet {
    /// The guards, those of the networks around it included.
    pub guards: u64,
    /// The network's address; host bits are zero.
    pub addr: Addr,
    /// Ones where the address counts.
    pub mask: Addr,
}

/// Networks in [`FewNets`] at most.
pub const FEW_MAX: usize = 8;
/// [`KernelPolicy::few`]: the trie holds more networks than [`FewNets`].
pub const MANY: u32 = u32::MAX;

/// The guarded networks, where there are few. One entry of an array for each generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct FewNets(pub [FewNet; FEW_MAX]);

/// What is known about one server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct ServerEntry {
    /// Lowest passive port; 0 where nothing is set.
    pub low: u16,
    /// Highest passive port.
    pub high: u16,
    /// 1 if encrypted sessions open this range to their client.
    pub opaque: u32,
}

super::pod!(KernelPolicy, PortChunk, PortSet, NetKey, FewNet, FewNets, ServerEntry);

const _: () = assert!(size_of::<KernelPolicy>() == 80 && size_of::<ServerEntry>() == 8 && size_of::<NetKey>() == 24);
const _: () = assert!(size_of::<FewNets>() == FEW_MAX * 40);

impl PortSet {
    /// No port at all.
    pub const EMPTY: Self = Self([0; 1024]);

    /// Adds a port.
    pub const fn insert(&mut self, port: u16) {
        self.0[(port >> 6) as usize] |= 1 << (port & 63);
    }

    /// Whether the port is in the set.
    #[inline(always)]
    pub const fn contains(&self, port: u16) -> bool {
        self.0[(port >> 6) as usize] >> (port & 63) & 1 != 0
    }
}
