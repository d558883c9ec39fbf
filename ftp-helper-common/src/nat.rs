//! Address translation: what the kernel knows of an inside host that the outside knows by another address.
//!
//! Everything else speaks of connections as they are outside. An [`Alias`] says who the inside end of a control connection
//! is, and how far the numbers of its stream have moved through announcements whose rewriting changed their length; a
//! [`Translation`] is one direction of one data connection.

use crate::addr::Addr;

/// The inside end of a control connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Alias {
    /// The session it belongs to.
    pub session: u64,
    /// The last announcement that was rewritten, see [`announced`]; 0 = none yet.
    pub last: u64,
    /// Its address, from connection tracking; zeros where nothing is translated.
    pub addr: Addr,
    /// Where the last segment began, as the inside host counts, whose rewriting changed its length.
    pub position: u32,
    /// What is added to sequence numbers up to that position.
    pub before: u32,
    /// What is added to sequence numbers behind it.
    pub after: u32,
    /// Zero.
    pub pad: u32,
}

/// What [`Alias::last`] holds: the announcement's sequence number (as the outside counts), the port that it named, and the
/// port that it names now.
#[inline(always)]
pub const fn announced(seq: u32, inside: u16, public: u16) -> u64 {
    (seq as u64) << 32 | (inside as u64) << 16 | public as u64
}

impl Alias {
    /// Whether the host has another address outside.
    #[inline(always)]
    pub const fn is_translated(&self) -> bool {
        let [a, b, c, d] = self.addr.words();
        a | b | c | d != 0
    }

    /// The port behind a public one: the last announcement's, or the same.
    #[inline(always)]
    pub const fn inside_port(&self, public: u16) -> u16 {
        if self.last as u16 == public && self.last != 0 { (self.last >> 16) as u16 } else { public }
    }

    /// Where the outside counts a byte that the inside host counts at `seq`.
    #[inline(always)]
    pub const fn outward(&self, seq: u32) -> u32 {
        let moved = if crate::tcp::distance(seq, self.position) > 0 { self.after } else { self.before };
        seq.wrapping_add(moved)
    }

    /// Where the inside host counts a byte of an announcement that is new, and that the outside counts at `seq`: behind all
    /// that was rewritten before.
    #[inline(always)]
    pub const fn uncounted(&self, seq: u32) -> u32 {
        seq.wrapping_sub(self.after)
    }

    /// Where the inside host counts what the outside acknowledges at `ack`.
    #[inline(always)]
    pub const fn inward(&self, ack: u32) -> u32 {
        let before = ack.wrapping_sub(self.before);
        if crate::tcp::distance(before, self.position) > 0 { ack.wrapping_sub(self.after) } else { before }
    }

    /// Whether the outside counts otherwise than the inside host.
    #[inline(always)]
    pub const fn is_moved(&self) -> bool {
        self.before | self.after != 0
    }

    /// A segment that the inside host counts from `seq` on is `grown` bytes longer outside.
    #[inline(always)]
    pub const fn grow(&mut self, seq: u32, grown: u32) {
        self.position = seq;
        self.before = self.after;
        self.after = self.after.wrapping_add(grown);
    }
}

/// One direction of a translated data connection: what takes the place of the inside end's address and port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Translation {
    /// The address.
    pub addr: Addr,
    /// `CLOCK_MONOTONIC`, nanoseconds, from which on it counts no more; 0 while the connection lives.
    pub until: u64,
    /// The port, host byte order.
    pub port: u16,
    /// Zero.
    pub pad: [u16; 3],
}

super::pod!(Alias, Translation, crate::state::Locked<Alias>);

const _: () = assert!(size_of::<Alias>() == 48 && size_of::<Translation>() == 32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_move_at_the_announcement() {
        let mut a = Alias::default();
        assert!(!a.is_moved());
        // "PORT ..." of 24 bytes at 1000 becomes 27, then one of 25 at 1100 becomes 22.
        a.grow(1000, 3);
        assert_eq!((a.outward(1000), a.outward(1024), a.outward(1100)), (1000, 1027, 1103));
        assert_eq!((a.inward(1000), a.inward(1027), a.inward(1103)), (1000, 1024, 1100));
        a.grow(1100, 3u32.wrapping_neg());
        assert_eq!((a.outward(1100), a.outward(1125), a.outward(1200)), (1103, 1125, 1200));
        assert_eq!((a.inward(1103), a.inward(1125), a.inward(1200)), (1100, 1125, 1200));
    }

    #[test]
    fn an_acknowledgement_never_reaches_beyond_what_was_sent() {
        for grown in [7u32, 5u32.wrapping_neg()] {
            for base in [1000u32, u32::MAX - 10] {
                let mut a = Alias::default();
                a.grow(base, grown);
                let end = base.wrapping_add(24);
                assert_eq!(a.inward(a.outward(end)), end, "{grown} {base}");
                assert_eq!(a.inward(base), base);
                // Half of what is longer outside: nothing of the line counts as received inside.
                assert!(crate::tcp::distance(a.inward(base.wrapping_add(2)), end) <= 0);
            }
        }
    }

    #[test]
    fn the_port_behind_the_announcement() {
        let mut a = Alias { addr: Addr::v4([10, 0, 0, 5]), ..Alias::default() };
        assert!(a.is_translated() && !Alias::default().is_translated());
        assert_eq!(a.inside_port(50000), 50000);
        a.last = announced(77, 40000, 61234);
        assert_eq!((a.inside_port(61234), a.inside_port(50000)), (40000, 50000));
    }
}
