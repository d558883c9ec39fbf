//! How the reader gets at bytes, numbers and rules: the seam between the kernel program and the tests on the host.
//!
//! The shapes here are the verifier's. Positions and parsed numbers go through memory that it does not track
//! ([`Text::launder`], [`Text::put`]), so that hundreds of ways to leave a loop become one state; every access is masked,
//! so that no position needs a comparison with the unknown length. A NUL behind the segment ends every scan.

use crate::addr::Addr;

/// Bytes of a segment that the reader looks at, at most. Longer segments blind.
pub const SEGMENT_MAX: u32 = 2048;
/// A line's length with its CRLF, at most (RFC 959 sets none; 512 is what RFC 5321 section 4.5.3.1.4 sets for SMTP).
pub const LINE_MAX: u32 = 512;

/// The segment being read, with some memory for positions and numbers. A handle: copies share what they point to.
pub trait Text: Copy {
    /// The byte at `i`; 0 behind the end.
    fn at(self, i: u32) -> u8;
    /// Eight bytes from `8 * i`, little-endian; what lies behind the end is arbitrary.
    fn word(self, i: u32) -> u64;
    /// `v`, of which the verifier knows nothing any more.
    fn launder(self, v: u32) -> u32;
    /// Stores a number in one of 32 slots.
    fn put(self, slot: u32, v: u32);
    /// The number in a slot.
    fn get(self, slot: u32) -> u32;
    /// Calls [`super::read_line`] until it returns false, `max` times at most.
    fn each_line(self, max: u32);
    /// The byte at `i` of the sheet that a line is rewritten on, modulo its length ([`super::SHEET`]).
    fn sheet(self, i: u32) -> u8;
    /// Writes a byte on that sheet.
    fn write(self, i: u32, byte: u8);
    /// Calls [`super::rewrite_byte`] for each number below `n`.
    fn each_byte(self, n: u32);

    // The expensive readings. The kernel program overrides them with functions that the verifier looks at one by one,
    // each once, whatever is known where they are called; their bodies are these.

    /// Whether the `n` bytes are one printable line but for the CRLF at their end (bit 0), and their hash (the rest).
    #[inline(always)]
    fn scan_line(self, n: u32) -> u64 {
        scan_line(self, n)
    }

    /// The port in the 227 at `at`, see [`super::read_227`].
    #[inline(always)]
    fn read_227(self, at: u32, own: &Addr) -> u32 {
        super::read_227(self, at, own)
    }

    /// The port in the 229 at `at`, see [`super::read_229`].
    #[inline(always)]
    fn read_229(self, at: u32) -> u32 {
        super::read_229(self, at)
    }

    /// The port of a PORT line, see [`super::read_port`].
    #[inline(always)]
    fn read_port(self, own: &Addr) -> u32 {
        super::read_port(self, own)
    }

    /// The port of an EPRT line, see [`super::read_eprt`].
    #[inline(always)]
    fn read_eprt(self, own: &Addr) -> u32 {
        super::read_eprt(self, own)
    }
}

/// Whether the `n` bytes ([`LINE_MAX`] at most) are printable but for a CRLF at their end (bit 0), and their hash.
#[inline(always)]
pub fn scan_line<T: Text>(t: T, n: u32) -> u64 {
    // The verifier follows a branch; what the compiler makes of a saturating subtraction it does not.
    #[allow(clippy::implicit_saturating_sub)]
    let m = t.launder(if n < 2 { 0 } else { n - 2 });
    let (printable, hash) = scan(t, m);
    // The last two bytes, whatever they are.
    let tail = (t.at(m) as u64) << 8 | t.at(m + 1) as u64;
    mix(hash, tail) << 1 | (printable && n > 2) as u64
}

/// What the policy says about the announcement in hand. The kernel program looks it up in its tables.
pub trait Rules: Copy {
    /// Whether the port may never be a data port (deny-list, control ports).
    fn port_denied(self, port: u32) -> bool;
    /// The passive range of the server, `(0, 65535)` where none is set.
    fn passive_range(self, server: &Addr) -> (u32, u32);
}

/// Slots of [`Text::put`]. The numbers of an address and a port come first.
pub(super) mod slot {
    /// Where the next line begins.
    pub(crate) const POSITION: u32 = 16;
    /// Code of the multi-line reply that is open, or 0.
    pub(crate) const MULTILINE: u32 = 17;
    /// Code of the final reply, or 0.
    pub(crate) const FINAL: u32 = 18;
    /// Where the final reply's line begins.
    pub(crate) const FINAL_AT: u32 = 19;
    /// Why the segment is not canonical, or 0.
    pub(crate) const WHY: u32 = 20;
    /// Whether the final reply ended a multi-line one.
    pub(crate) const FINAL_MULTI: u32 = 21;
    /// IPv6 text: number of groups.
    pub(crate) const GROUPS: u32 = 22;
    /// IPv6 text: the group being read.
    pub(crate) const GROUP: u32 = 23;
    /// IPv6 text: its digits.
    pub(crate) const DIGITS: u32 = 24;
    /// IPv6 text: where "::" stands, plus one; 0 = nowhere.
    pub(crate) const GAP: u32 = 25;
    /// IPv6 text: colons right before this byte.
    pub(crate) const COLONS: u32 = 26;
    /// IPv6 text: position.
    pub(crate) const AT: u32 = 27;
    /// Where the endpoint that was read last begins, and where it ends.
    pub(crate) const BEGIN: u32 = 28;
    pub(crate) const END: u32 = 29;
    /// Rewriting: length of the line, of the new line and of the new endpoint, and bytes left out before it.
    pub(crate) const OLD: u32 = 16;
    pub(crate) const NEW: u32 = 17;
    pub(crate) const ENDPOINT: u32 = 18;
    pub(crate) const CUT: u32 = 19;
}

/// The digit that a byte stands for, or a number above 9.
#[inline(always)]
pub(super) fn digit(c: u8) -> u32 {
    c.wrapping_sub(b'0') as u32
}

/// Whether the byte is a decimal digit.
#[inline(always)]
pub(super) fn is_digit(c: u8) -> bool {
    digit(c) < 10
}

/// Whether the byte is printable ASCII.
#[inline(always)]
pub(super) fn is_text(c: u8) -> bool {
    c.wrapping_sub(0x20) < 0x5f
}

/// Whether the first `n` bytes are printable, and their hash; `n` is [`LINE_MAX`] at most. Eight bytes at a time.
///
/// The hash recognises a segment that is sent again. It is not secret: whoever makes two segments of one hash gets
/// both recorded, and the daemon compares bytes.
#[inline(always)]
pub(super) fn scan<T: Text>(t: T, n: u32) -> (bool, u64) {
    // Three copies, so that nothing that the verifier learns in the loop outlives it.
    let words = t.launder(n) >> 3;
    let mut bad = 0u64;
    let mut hash = n as u64 ^ SEED;
    let mut w = 0u32;
    while w < LINE_MAX / 8 {
        if w >= words {
            break;
        }
        let x = t.word(w);
        bad |= not_text(x);
        hash = mix(hash, x);
        w += 1;
    }
    let n = t.launder(n);
    let mask = (1u64 << ((n & 7) * 8)) - 1;
    let x = t.word(n >> 3) & mask;
    bad |= not_text(x | (SPACES & !mask));
    (bad == 0, mix(hash, x))
}

const SEED: u64 = 0x2545_f491_4f6c_dd1d;
const SPACES: u64 = 0x2020_2020_2020_2020;
/// One in each byte.
pub(super) const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

#[inline(always)]
fn mix(hash: u64, x: u64) -> u64 {
    let h = (hash ^ x).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    h ^ (h >> 29)
}

/// The high bit of each byte that is not in 0x20..=0x7e; bytes above a bad one may be marked too.
#[inline(always)]
fn not_text(x: u64) -> u64 {
    (x.wrapping_sub(SPACES) | x | (x ^ (ONES * 0x7f)).wrapping_sub(ONES)) & HIGH
}

/// The high bit of each byte that is a digit.
#[inline(always)]
pub(super) fn digits(x: u64) -> u64 {
    // Without their high bits bytes add up to less than a carry.
    let low = x & !HIGH;
    low.wrapping_add(ONES * (0x80 - b'0' as u64)) & !low.wrapping_add(ONES * (0x80 - b'9' as u64 - 1)) & !x & HIGH
}

/// The high bit of each byte that is `c`.
#[inline(always)]
pub(super) fn equal(x: u64, c: u8) -> u64 {
    let y = x ^ (ONES * c as u64);
    !((y & !HIGH).wrapping_add(!HIGH) | y) & HIGH
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canon::host::HostText;

    #[test]
    fn every_byte_is_judged_at_every_position() {
        for at in 0..24 {
            for c in 0..=255u8 {
                let mut line = [b'a'; 24];
                line[at] = c;
                let mut text = HostText::new(&line);
                let (ok, _) = scan(text.handle(), 24);
                assert_eq!(ok, (0x20..=0x7e).contains(&c), "{c:#x} at {at}");
                assert_eq!(is_text(c), (0x20..=0x7e).contains(&c));
            }
        }
    }

    #[test]
    fn bytes_are_told_apart_whatever_is_beside_them() {
        for c in 0..=255u8 {
            for beside in [0, b'/', b'0', b'9', b':', b'\r', 0x7f, 0x80, 0xff] {
                for at in 0..8 {
                    let mut bytes = [beside; 8];
                    bytes[at] = c;
                    let x = u64::from_le_bytes(bytes);
                    let of = |mark: fn(u8) -> bool| u64::from_le_bytes(bytes.map(|b| u8::from(mark(b)) << 7));
                    assert_eq!(digits(x), of(|b| b.is_ascii_digit()), "{bytes:x?}");
                    assert_eq!(equal(x, b'\r'), of(|b| b == b'\r'), "{bytes:x?}");
                    assert_eq!(equal(x, b'('), of(|b| b == b'('), "{bytes:x?}");
                }
            }
        }
    }

    #[test]
    fn the_hash_sees_every_byte_and_nothing_behind_the_end() {
        for n in 1..40usize {
            let line = vec![b'x'; n];
            let (_, h) = scan(HostText::new(&line).handle(), n as u32);
            for i in 0..n {
                let mut other = line.clone();
                other[i] = b'y';
                assert_ne!(scan(HostText::new(&other).handle(), n as u32).1, h);
            }
            let mut longer = line.clone();
            longer.extend_from_slice(b"tail");
            assert_eq!(scan(HostText::new(&longer).handle(), n as u32).1, h);
        }
    }
}
