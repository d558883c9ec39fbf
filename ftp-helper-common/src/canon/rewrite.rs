//! Rewriting: an announcement gets another endpoint, for the other side of an address translation.
//!
//! A reply keeps its length where its text allows it: what the new endpoint needs more is cut from the words before it, what it
//! needs less becomes blanks before the CRLF. Every client reads both, while numbers with leading zeros are another host to
//! some. A command has nothing to give: its length changes, and with it the numbers of the stream.

use super::text::{Text, slot};
use crate::{addr::Addr, state::pending};

/// Bytes of a line that is rewritten, at most, and of what becomes of it.
pub const REWRITE_MAX: u32 = 128;
/// See [`REWRITE_MAX`]: the longest endpoint is an EPRT of IPv6.
pub const REWRITTEN_MAX: u32 = REWRITE_MAX + 64;
/// Length of the sheet: the new line, and from position 256 on its endpoint.
pub const SHEET: u32 = 512;
const ENDPOINT_AT: u32 = 256;
/// A reply's code and the blank behind it.
const CODE: u32 = 4;

/// The endpoint that takes the place of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rewriting {
    /// Its address; of the same family.
    pub addr: Addr,
    /// Its port.
    pub port: u16,
}

/// Writes the line in hand anew, of `n` bytes with its CRLF, whose endpoint was just read as one of `kind`
/// (`pending::PASV` and so on). Returns the new length, or 0 if it can't be done. The line is on the sheet then.
#[inline(always)]
pub fn rewriting<T: Text>(t: T, n: u32, kind: u8, to: &Rewriting) -> u32 {
    if !(8..=REWRITE_MAX).contains(&n) || t.at(n - 2) != b'\r' || t.at(n - 1) != b'\n' {
        return 0;
    }
    let (begin, end) = (t.get(slot::BEGIN), t.get(slot::END));
    if begin < CODE || begin >= end || end > n - 2 {
        return 0;
    }
    let port = to.port as u32;
    let length = match kind {
        pending::PASV | pending::PORT => commas(t, &to.addr, port),
        pending::EPSV => extended(t, port),
        _ if to.addr.is_v4() => dotted(t, &to.addr, port),
        _ => colons(t, &to.addr, port),
    };
    let was = end - begin;
    let reply = kind == pending::PASV || kind == pending::EPSV;
    let (mut cut, mut new) = (0, n - was + length);
    if reply {
        if length <= was {
            new = n;
        } else if begin > CODE + (length - was) {
            // The byte right before the endpoint stays: as a rule, a parenthesis.
            cut = length - was;
            new = n;
        }
    }
    t.put(slot::OLD, n);
    t.put(slot::NEW, new);
    t.put(slot::ENDPOINT, length);
    t.put(slot::CUT, cut);
    t.each_byte(new);
    new
}

/// Writes byte `i` of the new line. For [`Text::each_byte`].
#[inline(always)]
pub fn rewrite_byte<T: Text>(t: T, i: u32) {
    let (begin, cut, length, new) = (t.get(slot::BEGIN), t.get(slot::CUT), t.get(slot::ENDPOINT), t.get(slot::NEW));
    let head = begin - cut;
    let byte = if i + 2 == new {
        b'\r'
    } else if i + 1 == new {
        b'\n'
    } else if i < head {
        t.at(if i < CODE { i } else { i + cut })
    } else if i < head + length {
        t.sheet(ENDPOINT_AT + i - head)
    } else {
        let from = i - head - length + t.get(slot::END);
        if from + 2 < t.get(slot::OLD) { t.at(from) } else { b' ' }
    };
    t.write(i & (ENDPOINT_AT - 1), byte);
}

/// `h1,h2,h3,h4,p1,p2` (RFC 959 section 4.1.2); its length.
#[inline(always)]
fn commas<T: Text>(t: T, addr: &Addr, port: u32) -> u32 {
    let [.., a, b, c, d] = addr.0;
    let mut at = ENDPOINT_AT;
    for v in [a, b, c, d] {
        at = decimal(t, at, v as u32);
        at = byte(t, at, b',');
    }
    at = decimal(t, at, port >> 8);
    at = byte(t, at, b',');
    decimal(t, at, port & 0xff) - ENDPOINT_AT
}

/// `(|||port|)` (RFC 2428 section 3).
#[inline(always)]
fn extended<T: Text>(t: T, port: u32) -> u32 {
    let mut at = ENDPOINT_AT;
    for c in *b"(|||" {
        at = byte(t, at, c);
    }
    at = decimal(t, at, port);
    at = byte(t, at, b'|');
    byte(t, at, b')') - ENDPOINT_AT
}

/// `|1|h1.h2.h3.h4|port|` (RFC 2428 section 2).
#[inline(always)]
fn dotted<T: Text>(t: T, addr: &Addr, port: u32) -> u32 {
    let [.., a, b, c, d] = addr.0;
    let mut at = ENDPOINT_AT;
    for c in *b"|1|" {
        at = byte(t, at, c);
    }
    for (v, behind) in [(a, b'.'), (b, b'.'), (c, b'.'), (d, b'|')] {
        at = decimal(t, at, v as u32);
        at = byte(t, at, behind);
    }
    at = decimal(t, at, port);
    byte(t, at, b'|') - ENDPOINT_AT
}

/// `|2|x:x:x:x:x:x:x:x|port|`, each group with four digits (RFC 4291 section 2.2 allows leading zeros).
#[inline(always)]
fn colons<T: Text>(t: T, addr: &Addr, port: u32) -> u32 {
    let mut at = ENDPOINT_AT;
    for c in *b"|2|" {
        at = byte(t, at, c);
    }
    let mut i = 0;
    while i < 16 {
        let v = addr.0[i];
        at = byte(t, at, hex(v >> 4));
        at = byte(t, at, hex(v & 15));
        if i & 1 == 1 {
            at = byte(t, at, if i == 15 { b'|' } else { b':' });
        }
        i += 1;
    }
    at = decimal(t, at, port);
    byte(t, at, b'|') - ENDPOINT_AT
}

/// A number of up to five digits; where it ends.
#[inline(always)]
fn decimal<T: Text>(t: T, at: u32, v: u32) -> u32 {
    let mut at = at;
    if v >= 10000 {
        at = byte(t, at, digit(v / 10000));
    }
    if v >= 1000 {
        at = byte(t, at, digit(v / 1000));
    }
    if v >= 100 {
        at = byte(t, at, digit(v / 100));
    }
    if v >= 10 {
        at = byte(t, at, digit(v / 10));
    }
    byte(t, at, digit(v))
}

#[inline(always)]
fn byte<T: Text>(t: T, at: u32, c: u8) -> u32 {
    t.write(at, c);
    t.launder(at + 1)
}

#[inline(always)]
fn digit(v: u32) -> u8 {
    b'0' + (v % 10) as u8
}

#[inline(always)]
fn hex(v: u8) -> u8 {
    if v < 10 { b'0' + v } else { b'a' + v - 10 }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::canon::host::{HostText, rewritten};

    fn addr(s: &str) -> Addr {
        s.parse::<IpAddr>().unwrap().into()
    }

    fn new(kind: u8, line: &str, from: &str, to: &str, port: u16) -> String {
        let (n, bytes) =
            rewritten(format!("{line}\r\n").as_bytes(), kind, &addr(from), &Rewriting { addr: addr(to), port });
        String::from_utf8(bytes[..n].to_vec()).unwrap()
    }

    #[test]
    fn a_reply_keeps_its_length() {
        let pasv = |line, from, to, port| new(pending::PASV, line, from, to, port);
        assert_eq!(
            pasv("227 Entering Passive Mode (10,0,0,5,195,149).", "10.0.0.5", "203.0.113.10", 50069),
            "227 ring Passive Mode (203,0,113,10,195,149).\r\n"
        );
        assert_eq!(
            pasv("227 Entering Passive Mode (192,168,100,200,195,149).", "192.168.100.200", "1.2.3.4", 1024),
            "227 Entering Passive Mode (1,2,3,4,4,0).            \r\n"
        );
        assert_eq!(
            pasv("227 Entering Passive Mode (10,0,0,5,195,149).", "10.0.0.5", "20.1.1.5", 50069),
            "227 Entering Passive Mode (20,1,1,5,195,149).\r\n"
        );
        assert_eq!(
            new(pending::EPSV, "229 Entering Extended Passive Mode (|||50069|)", "10.0.0.5", "1.2.3.4", 9999),
            "229 Entering Extended Passive Mode (|||9999|) \r\n"
        );
    }

    #[test]
    fn what_has_no_words_to_give_grows() {
        let to = "203.0.113.10";
        assert_eq!(
            new(pending::PASV, "227 (10,0,0,5,195,149)", "10.0.0.5", to, 50069),
            "227 (203,0,113,10,195,149)\r\n"
        );
        assert_eq!(new(pending::PORT, "PORT 10,0,0,5,195,149", "10.0.0.5", to, 61000), "PORT 203,0,113,10,238,72\r\n");
        assert_eq!(
            new(pending::PORT, "port 192,168,100,200,195,149", "192.168.100.200", "1.2.3.4", 61000),
            "port 1,2,3,4,238,72\r\n"
        );
        assert_eq!(
            new(pending::EPRT, "EPRT |1|10.0.0.5|50069|", "10.0.0.5", to, 61000),
            "EPRT |1|203.0.113.10|61000|\r\n"
        );
        assert_eq!(
            new(pending::EPRT, "EPRT |2|fd00::5|50069|", "fd00::5", "2001:db8::10", 61000),
            "EPRT |2|2001:0db8:0000:0000:0000:0000:0000:0010|61000|\r\n"
        );
    }

    #[test]
    fn another_hosts_announcement_stays_as_it_is() {
        for (kind, line) in [
            (pending::PASV, "227 Entering Passive Mode (10,0,0,6,195,149)."),
            (pending::PASV, "227 Entering (10,0,0,5,195,149) (1)"),
            (pending::PORT, "PORT 10,0,0,6,195,149"),
            (pending::PORT, "PORT 10,0,0,5,195,149 "),
            (pending::EPRT, "EPRT |1|10.0.0.6|50069|"),
        ] {
            assert_eq!(new(kind, line, "10.0.0.5", "203.0.113.10", 50069), "", "{line}");
        }
        let long = format!("227 {} (10,0,0,5,195,149)", "x".repeat(110));
        assert_eq!(new(pending::PASV, &long, "10.0.0.5", "203.0.113.10", 50069), "");
    }

    proptest::proptest! {
        #[test]
        fn what_is_rewritten_reads_as_the_new_endpoint(
            from: [u8; 4], to: [u8; 4], six: [u8; 16], was in 1024u16.., port in 1024u16.., words in "[a-zA-Z ]{0,60}"
        ) {
            let [a, b, c, d] = from;
            let (hi, lo) = (was >> 8, was & 0xff);
            let (from, v4) = (Addr::v4(from), Rewriting { addr: Addr::v4(to), port });
            let v6 = Rewriting { addr: Addr(six), port };
            for (kind, line, to) in [
                (pending::PASV, format!("227 {words}({a},{b},{c},{d},{hi},{lo}).\r\n"), v4),
                (pending::PASV, format!("227 {words} {a},{b},{c},{d},{hi},{lo}\r\n"), v4),
                (pending::EPSV, format!("229 {words} (|||{was}|)\r\n"), v4),
                (pending::PORT, format!("PORT {a},{b},{c},{d},{hi},{lo}\r\n"), v4),
                (pending::EPRT, format!("EPRT |1|{a}.{b}.{c}.{d}|{was}|\r\n"), v4),
                (pending::EPRT, format!("EPRT |2|fd00::1|{was}|\r\n"), v6),
            ] {
                let own = if line.contains("|2|") { addr("fd00::1") } else { from };
                let (n, bytes) = rewritten(line.as_bytes(), kind, &own, &to);
                proptest::prop_assert!(n != 0, "{line}");
                let mut text = HostText::new(&bytes[..n]);
                let text = text.handle();
                let read = match kind {
                    pending::PASV => text.read_227(0, &to.addr),
                    pending::EPSV => text.read_229(0),
                    pending::PORT => text.read_port(&to.addr),
                    _ => text.read_eprt(&to.addr),
                };
                proptest::prop_assert_eq!(read, u32::from(port), "{} {}", line, bytes[..n].escape_ascii());
                proptest::prop_assert_eq!(&bytes[n - 2..n], b"\r\n");
                let words_left = line.len() > 50;
                let reply = kind == pending::PASV || kind == pending::EPSV;
                proptest::prop_assert!(n == line.len() || !reply || !words_left);
            }
        }
    }
}
