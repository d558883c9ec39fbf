//! One address type for both families.

use core::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// An IPv6 address, or an IPv4 address in its IPv4-mapped form (RFC 4291 section 2.5.5.2), in network byte order.
///
/// One type for both families means one table, one key and one code path for both. Aligned to four bytes, so that the
/// kernel program copies words; compared as words for the same reason.
#[derive(Clone, Copy, Eq, Hash, PartialOrd, Ord, Default)]
#[expect(clippy::derived_hash_with_manual_eq, reason = "equal words are equal bytes")]
#[repr(C, align(4))]
pub struct Addr(pub [u8; 16]);

super::pod!(Addr);

impl Addr {
    /// The IPv4-mapped form of four octets in network byte order.
    #[inline(always)]
    pub const fn v4(o: [u8; 4]) -> Self {
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, o[0], o[1], o[2], o[3]])
    }

    /// Whether this is an IPv4 address in its mapped form.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        let [a, b, c, _] = self.words();
        a | b == 0 && c == MAPPED
    }

    /// The address as four words, as they lie in memory (no numbers: only good for comparing).
    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        // SAFETY: an address is aligned to four bytes, and its bytes are words of the same number. Assembled byte by byte, some of them
        // would be read so.
        unsafe { *core::ptr::from_ref(self).cast::<[u32; 4]>() }
    }

    /// The standard library's form; a mapped address becomes an IPv4 address.
    pub fn to_ip(self) -> IpAddr {
        if self.is_v4() {
            let a = self.0;
            IpAddr::V4(Ipv4Addr::new(a[12], a[13], a[14], a[15]))
        } else {
            IpAddr::V6(Ipv6Addr::from(self.0))
        }
    }

    /// What quotas are counted by: the IPv4 address, or the /64 of an IPv6 address.
    #[inline(always)]
    pub const fn quota_key(&self) -> Self {
        let [a, b, c, d] = self.words();
        let (c, d) = if self.is_v4() { (c, d) } else { (0, 0) };
        // SAFETY: words are bytes of the same number, and any bytes are an address. Assembled byte by byte it would be written so,
        // and a look-up that reads words right behind that waits for the bytes.
        Self(unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>([a, b, c, d]) })
    }
}

impl PartialEq for Addr {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (self.words(), other.words());
        (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) == 0
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::v4(v4.octets()),
            IpAddr::V6(v6) => Self(v6.octets()),
        }
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_ip(), f)
    }
}

/// The four bytes before the IPv4 address in a mapped address, as they lie in memory.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_told_apart() {
        let v4 = Addr::from(IpAddr::from([192, 0, 2, 10]));
        assert!(v4.is_v4());
        assert_eq!(v4.to_string(), "192.0.2.10");
        assert_eq!(v4.quota_key(), v4);
        let v6 = Addr::from("2001:db8:1:2:3:4:5:6".parse::<IpAddr>().unwrap());
        assert!(!v6.is_v4());
        assert_eq!(v6.quota_key().to_string(), "2001:db8:1:2::");
        assert_eq!(Addr::v4([192, 0, 2, 10]), v4);
    }
}
