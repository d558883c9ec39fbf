//! What the reader made of a segment, in one word.

use crate::reason::Reason;

/// What the kernel made of a segment: a set of changes, packed so that it fits a register and a record.
///
/// Bits 0-7: the command that is now unanswered (`state::pending`); 8-21: [`bit`]; 22-31: code of the multi-line reply
/// that is open behind this segment; 32-47: port of an announcement; 48-63: why the session goes blind.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Made(pub u64);

super::super::pod!(Made);

/// Bits of [`Made`].
pub mod bit {
    /// The segment is a command, unanswered from now on.
    pub const PENDING: u64 = 1 << 8;
    /// The segment brings the final reply to the unanswered command.
    pub const ANSWERED: u64 = 1 << 9;
    /// The session goes blind.
    pub const BLIND: u64 = 1 << 10;
    /// A pinhole opens.
    pub const OPEN: u64 = 1 << 11;
    /// The unconsumed pinhole is taken back.
    pub const REVOKE: u64 = 1 << 12;
    /// The client is logged in from now on.
    pub const LOGIN: u64 = 1 << 13;
    /// The client is logged out from now on.
    pub const LOGOUT: u64 = 1 << 14;
    /// The last segment again.
    pub const OLD: u64 = 1 << 15;
    /// Canonical: the high-water mark advances by judgement.
    pub const JUDGED: u64 = 1 << 16;
    /// The side's stream ends with this segment (FIN).
    pub const FIN: u64 = 1 << 17;
    /// A valid reset.
    pub const RESET: u64 = 1 << 18;
    /// The announced port is kept until a transfer command comes.
    pub const ARM: u64 = 1 << 19;
}

impl Made {
    /// Nothing.
    pub const NOTHING: Self = Self(0);

    /// The session goes blind for this reason.
    #[inline(always)]
    pub const fn blind(reason: Reason) -> Self {
        Self(bit::BLIND | (reason as u64) << 48)
    }

    /// A command that is unanswered from now on, with more bits.
    #[inline(always)]
    pub const fn pending(kind: u8, bits: u64) -> Self {
        Self(kind as u64 | bit::PENDING | bit::JUDGED | bits)
    }

    /// The same with the announced port.
    #[inline(always)]
    pub const fn with_port(self, port: u32) -> Self {
        Self(self.0 | (port as u64 & 0xffff) << 32)
    }

    /// Whether all these bits are set.
    #[inline(always)]
    pub const fn has(self, bits: u64) -> bool {
        self.0 & bits == bits
    }

    /// What command is now unanswered.
    #[inline(always)]
    pub const fn kind(self) -> u8 {
        self.0 as u8
    }

    /// Code of the multi-line reply that is open behind this segment, or 0.
    #[inline(always)]
    pub const fn multiline(self) -> u16 {
        (self.0 >> 22) as u16 & 0x3ff
    }

    /// Port of the announcement, host byte order, or 0.
    #[inline(always)]
    pub const fn port(self) -> u16 {
        (self.0 >> 32) as u16
    }

    /// Why the session goes blind: a [`Reason`], or 0.
    #[inline(always)]
    pub const fn reason(self) -> u16 {
        (self.0 >> 48) as u16
    }
}

impl core::fmt::Debug for Made {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let names = [
            (bit::PENDING, "pending"),
            (bit::ANSWERED, "answered"),
            (bit::BLIND, "blind"),
            (bit::OPEN, "open"),
            (bit::REVOKE, "revoke"),
            (bit::LOGIN, "login"),
            (bit::LOGOUT, "logout"),
            (bit::OLD, "old"),
            (bit::JUDGED, "judged"),
            (bit::FIN, "fin"),
            (bit::RESET, "reset"),
            (bit::ARM, "arm"),
        ];
        let mut list = f.debug_list();
        for (bits, name) in names {
            if self.has(bits) {
                list.entry(&format_args!("{name}"));
            }
        }
        if self.has(bit::PENDING) {
            list.entry(&format_args!("kind={}", self.kind()));
        }
        if self.port() != 0 {
            list.entry(&format_args!("port={}", self.port()));
        }
        if let Some(reason) = Reason::from_code(self.reason()) {
            list.entry(&format_args!("{reason}"));
        }
        list.finish()
    }
}
