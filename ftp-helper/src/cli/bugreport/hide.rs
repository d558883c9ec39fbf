//! Pseudonyms for addresses.
//!
//! Which networks an address is in matters when a configuration is to be understood: two addresses have as many first bits in common
//! as their pseudonyms have (the scheme of Crypto-PAn: each bit is turned or not, as a keyed function of the bits before it says). The
//! key is drawn for each report and kept nowhere.

use std::{
    fmt::Write as _,
    hash::{BuildHasher as _, RandomState},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Gives pseudonyms, always the same for the same address.
pub(super) struct Hide {
    key: RandomState,
}

impl Hide {
    /// With a new key.
    pub(super) fn new() -> Self {
        Self { key: RandomState::new() }
    }

    /// The text with a pseudonym in the place of each address.
    pub(super) fn addresses(&self, text: &str) -> String {
        let mut hidden = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find(is_part) {
            let (before, from) = rest.split_at(start);
            let (run, behind) = from.split_at(from.find(|c| !is_part(c)).unwrap_or(from.len()));
            hidden.push_str(before);
            self.run(run, &mut hidden);
            rest = behind;
        }
        hidden.push_str(rest);
        hidden
    }

    /// A run of characters that addresses consist of: digits of a date, a word, or an address with something around it.
    fn run(&self, run: &str, hidden: &mut String) {
        let may_be = |s: &str| s.matches(':').count() >= 2 || s.matches('.').count() >= 3;
        let mut at = 0;
        while at < run.len() {
            let rest = &run[at..];
            let found = if may_be(rest) {
                // The longest that is one: a port may follow, or the end of a sentence.
                let longest = rest.len().min(LONGEST);
                (2..=longest).rev().find_map(|n| Some((n, rest[..n].parse::<IpAddr>().ok()?)))
            } else {
                None
            };
            match found {
                // Writing to a String does not fail.
                Some((n, ip)) => {
                    let _ = write!(hidden, "{}", self.pseudonym(ip));
                    at += n;
                }
                None => {
                    hidden.push_str(&rest[..1]);
                    at += 1;
                }
            }
        }
    }

    fn pseudonym(&self, ip: IpAddr) -> IpAddr {
        // These tell nothing of anybody.
        if ip.is_unspecified() || ip.is_loopback() {
            return ip;
        }
        match ip {
            IpAddr::V4(v4) => Ipv4Addr::from_bits(self.turned(v4.to_bits().into(), 32) as u32).into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(self.turned(v6.to_bits(), 128)).into(),
        }
    }

    fn turned(&self, bits: u128, length: u32) -> u128 {
        (0..length).fold(0, |turned, i| {
            let place = length - 1 - i;
            // The bits before this one, with how many they are.
            let prefix = bits.checked_shr(place + 1).unwrap_or(0);
            let bit = (bits >> place) & 1 ^ u128::from(self.key.hash_one((length, i, prefix)) & 1);
            turned << 1 | bit
        })
    }
}

/// Characters of the longest address (IPv4 in IPv6).
const LONGEST: usize = 45;

fn is_part(c: char) -> bool {
    c.is_ascii_hexdigit() || matches!(c, ':' | '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_is_left_and_each_has_one_pseudonym() {
        let hide = Hide::new();
        for (text, address) in [
            ("192.0.2.10", "192.0.2.10"),
            ("from 192.0.2.10:40000 to", "192.0.2.10"),
            (r#"{"client":"192.0.2.10:40000"}"#, "192.0.2.10"),
            ("networks = [\"192.0.2.10/24\"]", "192.0.2.10"),
            ("it is 192.0.2.10.", "192.0.2.10"),
            ("x192.0.2.10", "192.0.2.10"),
            ("[2001:db8::10]:21", "2001:db8::10"),
            ("2001:db8::10/64", "2001:db8::10"),
            ("of:2001:db8::10", "2001:db8::10"),
            ("at 2001:DB8:0::10, or", "2001:db8::10"),
            ("::ffff:192.0.2.10", "::ffff:192.0.2.10"),
            ("192.0.2.10-192.0.2.20", "192.0.2.20"),
        ] {
            let hidden = hide.addresses(text);
            for part in ["192.0.2.1", "192.0.2.2", "2001:db8::10", "2001:DB8"] {
                assert!(!hidden.contains(part), "{text} became {hidden}");
            }
            if !text.contains("of:") {
                let pseudonym = hide.pseudonym(address.parse().unwrap()).to_string();
                assert!(hidden.contains(&pseudonym), "{text} became {hidden}, without {pseudonym}");
            }
        }
    }

    #[test]
    fn what_is_no_address_stays_as_it_is() {
        let hide = Hide::new();
        for text in [
            "",
            "2026-01-01T12:00:00.000020Z",
            "session 00000000000000a1 is dead, beef, cafe: 12:34",
            "version 0.1.0, Linux 6.1.0-25-amd64",
            "0.0.0.0/0 and ::/0, 127.0.0.1:9167, [::1]:21",
            "aa:bb:cc:dd:ee:ff",
            "name: other...",
            "é ü — 中",
        ] {
            assert_eq!(hide.addresses(text), text);
        }
    }

    #[test]
    fn networks_stay_networks() {
        let hide = Hide::new();
        let common = |a: &str, b: &str| {
            let bits = |ip: IpAddr| match ip {
                IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
                IpAddr::V6(v6) => v6.to_bits(),
            };
            let (a, b): (IpAddr, IpAddr) = (a.parse().unwrap(), b.parse().unwrap());
            let real = (bits(a) ^ bits(b)).leading_zeros();
            (real, (bits(hide.pseudonym(a)) ^ bits(hide.pseudonym(b))).leading_zeros())
        };
        for (a, b) in [("192.0.2.10", "192.0.2.200"), ("10.0.0.1", "192.0.2.1"), ("2001:db8::1", "2001:db8::ffff:1")] {
            let (real, hidden) = common(a, b);
            assert_eq!(real, hidden, "{a} {b}");
        }
        assert_ne!(
            Hide::new().pseudonym("2001:db8::1".parse().unwrap()),
            hide.pseudonym("2001:db8::1".parse().unwrap())
        );
    }
}
