//! TCP flags and sequence arithmetic (RFC 9293 sections 3.1 and 3.4).

/// FIN: the sender is done.
pub const FIN: u8 = 0x01;
/// SYN: synchronise sequence numbers.
pub const SYN: u8 = 0x02;
/// RST: reset the connection.
pub const RST: u8 = 0x04;
/// ACK: the acknowledgement number is meaningful.
pub const ACK: u8 = 0x10;
/// URG: the urgent pointer is meaningful.
pub const URG: u8 = 0x20;

/// How far `a` lies after `b` in sequence space; negative when it lies before.
#[inline(always)]
pub const fn distance(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b) as i32
}

/// Whether `a` is at or after `b` in sequence space.
#[inline(always)]
pub const fn reaches(a: u32, b: u32) -> bool {
    distance(a, b) >= 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_wrap() {
        assert_eq!(distance(5, 0xffff_fffb), 10);
        assert_eq!(distance(0xffff_fffb, 5), -10);
        assert!(reaches(0, 0xffff_ffff));
        assert!(!reaches(0xffff_ffff, 0));
    }
}
