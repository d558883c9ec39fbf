//! Keys of the kernel's tables.

use crate::addr::Addr;

/// A control connection, named by its two ends. Which hook the packets pass is part of the entry, not of the key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[repr(C)]
pub struct SessionKey {
    /// Who connected.
    pub client: Addr,
    /// Who listens on the control port.
    pub server: Addr,
    /// The client's port, host byte order.
    pub client_port: u16,
    /// The control port, host byte order.
    pub server_port: u16,
}

/// The permission for one data connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[repr(C)]
pub struct PinholeKey {
    /// Who sends the SYN.
    pub initiator: Addr,
    /// Who answers it.
    pub responder: Addr,
    /// The responder's port, host byte order; 0 where there is no pinhole.
    pub port: u16,
    /// The hook that the SYN passes: [`HOOK_IN`] or [`HOOK_OUT`].
    pub hook: u8,
    /// Zero.
    pub pad: u8,
}

/// A data connection, from the bound source port on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[repr(C)]
pub struct FlowKey {
    /// Who sent the SYN.
    pub initiator: Addr,
    /// Who answered it.
    pub responder: Addr,
    /// The initiator's port, host byte order.
    pub initiator_port: u16,
    /// The responder's port, host byte order.
    pub responder_port: u16,
}

/// A data connection as the kernel's table names it: by where its ends lie, so that one look-up finds it from either
/// direction. [`crate::state::FlowState::hook`] tells which end is the initiator.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[repr(C)]
pub struct TupleKey {
    /// The end outside.
    pub outside: Addr,
    /// The end inside.
    pub inside: Addr,
    /// The outside end's port, host byte order.
    pub outside_port: u16,
    /// The inside end's port, host byte order.
    pub inside_port: u16,
}

/// Two hosts, the lower address (as bytes lie in memory) first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[repr(C)]
pub struct PairKey {
    /// The one.
    pub low: Addr,
    /// The other.
    pub high: Addr,
}

super::pod!(SessionKey, PinholeKey, FlowKey, TupleKey, PairKey);

const _: () = assert!(size_of::<SessionKey>() == 36 && size_of::<PinholeKey>() == 36 && size_of::<FlowKey>() == 36);
const _: () = assert!(size_of::<TupleKey>() == 36 && size_of::<PairKey>() == 32);

/// Arriving on an outside interface.
pub const HOOK_IN: u8 = 0;
/// Leaving by an outside interface.
pub const HOOK_OUT: u8 = 1;

/// The segment comes from the client of the control connection.
pub const CLIENT: u8 = 0;
/// The segment comes from the server of the control connection.
pub const SERVER: u8 = 1;

impl SessionKey {
    /// The address of one side ([`CLIENT`] or [`SERVER`]).
    #[inline(always)]
    pub const fn address(&self, side: u8) -> Addr {
        if side == CLIENT { self.client } else { self.server }
    }
}

impl TupleKey {
    /// The same connection with the initiator first; `hook` is the one that the initiator's packets pass.
    #[inline(always)]
    pub const fn to_flow(&self, hook: u8) -> FlowKey {
        let (o, i) = ((self.outside, self.outside_port), (self.inside, self.inside_port));
        let (a, b) = if hook == HOOK_IN { (o, i) } else { (i, o) };
        FlowKey { initiator: a.0, responder: b.0, initiator_port: a.1, responder_port: b.1 }
    }
}

impl FlowKey {
    /// The same connection by where its ends lie; `hook` is the one that the initiator's packets pass.
    #[inline(always)]
    pub const fn to_tuple(&self, hook: u8) -> TupleKey {
        let (a, b) = ((self.initiator, self.initiator_port), (self.responder, self.responder_port));
        let (o, i) = if hook == HOOK_IN { (a, b) } else { (b, a) };
        TupleKey { outside: o.0, inside: i.0, outside_port: o.1, inside_port: i.1 }
    }
}

impl PinholeKey {
    /// The key that stands for "no pinhole".
    pub const NONE: Self = Self { initiator: Addr([0; 16]), responder: Addr([0; 16]), port: 0, hook: 0, pad: 0 };
}
