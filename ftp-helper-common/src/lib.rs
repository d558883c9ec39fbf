//! What both sides of the kernel border share: the words for addresses, keys, table entries, records and commands,
//! and the reader of *canonical* FTP dialogues, which runs in the kernel and, unchanged, in the tests on the host.
//!
//! Everything here is `no_std`, has a fixed layout (`repr(C)`, padding spelled out as fields) and is little-endian,
//! unless a field says otherwise. Addresses are always in network byte order, ports and sequence numbers always in
//! the host's.
#![cfg_attr(not(test), no_std)]

pub mod addr;
pub mod canon;
pub mod command;
pub mod counter;
pub mod key;
pub mod nat;
pub mod policy;
pub mod reason;
pub mod record;
pub mod state;
pub mod tcp;

/// Implements aya's `Pod` for types that are plain bytes, when the host side asks for it.
macro_rules! pod {
    ($($t:ty),* $(,)?) => {
        $(
            #[cfg(feature = "user")]
            // SAFETY: the type is `repr(C)` or `repr(transparent)`, `Copy`, holds integers only and has no implicit
            // padding (asserted below each definition), so every byte pattern is a value of it.
            unsafe impl aya::Pod for $t {}
        )*
    };
}
pub(crate) use pod;
