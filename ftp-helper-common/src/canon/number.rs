//! Numbers, addresses and endpoints, strictly decimal and without leading zeros (RFC 959 section 5.3.2, RFC 2428).
//!
//! A position of 0 means "not so": no number begins there, since every line begins with a verb or a code.

use super::text::{Text, digit, is_digit, slot};
use crate::addr::Addr;

/// The endpoint's port in `h1,h2,h3,h4,p1,p2` at `at`, and where it ends; port 0 if it is none, or not of `own`.
#[inline(always)]
pub(super) fn six<T: Text>(t: T, at: u32, own: &Addr) -> (u32, u32) {
    let begin = at;
    let mut at = at;
    let mut field = 0u32;
    while field < 6 {
        let end = number(t, at, 3, 255, field);
        if end == 0 {
            return (0, 0);
        }
        let c = t.at(end);
        if field < 5 {
            if c != b',' {
                return (0, 0);
            }
            at = t.launder(end + 1);
        } else {
            at = end;
        }
        field += 1;
    }
    if !is_own_v4(t, own) {
        return (0, 0);
    }
    t.put(slot::BEGIN, begin);
    t.put(slot::END, at);
    (t.get(4) << 8 & 0xff00 | t.get(5) & 0xff, at)
}

/// The port in `<d><proto><d><addr><d><port><d>` at `at`, and where it ends; port 0 if it is none, or not of `own`.
#[inline(always)]
pub(super) fn eprt<T: Text>(t: T, at: u32, own: &Addr) -> (u32, u32) {
    let d = t.at(at);
    // A delimiter that may stand inside an address or a number can be read in two ways.
    if !is_delimiter(d) || is_address_char(d) || t.at(at + 2) != d {
        return (0, 0);
    }
    let end = match t.at(at + 1) {
        b'1' => dotted(t, at + 3, own),
        b'2' => colons(t, at + 3, d, own),
        _ => 0,
    };
    if end == 0 || t.at(end) != d {
        return (0, 0);
    }
    let end = number(t, t.launder(end + 1), 5, 65535, 4);
    if end == 0 || t.at(end) != d {
        return (0, 0);
    }
    t.put(slot::BEGIN, at);
    t.put(slot::END, end + 1);
    (t.get(4), t.launder(end + 1))
}

/// The port in `(<d><d><d><port><d>)` at `at`, and where it ends; port 0 if it is none.
#[inline(always)]
pub(super) fn extended<T: Text>(t: T, at: u32) -> (u32, u32) {
    let d = t.at(at + 1);
    if t.at(at) != b'(' || !is_delimiter(d) || t.at(at + 2) != d || t.at(at + 3) != d {
        return (0, 0);
    }
    let end = number(t, at + 4, 5, 65535, 0);
    if end == 0 || t.at(end) != d || t.at(end + 1) != b')' {
        return (0, 0);
    }
    t.put(slot::BEGIN, at);
    t.put(slot::END, end + 2);
    (t.get(0), t.launder(end + 2))
}

/// RFC 2428 section 2: any of ASCII 33-126; a digit would read into the number beside it, a parenthesis into the end.
#[inline(always)]
fn is_delimiter(c: u8) -> bool {
    c.wrapping_sub(33) < 94 && !is_digit(c) && c != b'(' && c != b')'
}

/// Whether the byte may stand in an address.
#[inline(always)]
fn is_address_char(c: u8) -> bool {
    c == b'.' || c == b':' || hex(c) < 16
}

/// Up to `max` digits at `at`, at most `limit`, into a slot; where they end, or 0.
#[inline(always)]
fn number<T: Text>(t: T, at: u32, max: u32, limit: u32, slot: u32) -> u32 {
    let first = t.at(at);
    if !is_digit(first) {
        return 0;
    }
    let mut v = digit(first);
    let mut k = 1u32;
    while k < max {
        let c = t.at(at + k);
        if !is_digit(c) {
            break;
        }
        v = v * 10 + digit(c);
        k += 1;
    }
    // A leading zero reads as octal to some, and a digit more is another number to others.
    if v > limit || (first == b'0' && k > 1) || is_digit(t.at(at + k)) {
        return 0;
    }
    t.put(slot, v);
    t.launder(at + k)
}

/// Whether slots 0 to 3 are the octets of `own`.
#[inline(always)]
fn is_own_v4<T: Text>(t: T, own: &Addr) -> bool {
    let [.., a, b, c, d] = own.0;
    own.is_v4() && t.get(0) == a as u32 && t.get(1) == b as u32 && t.get(2) == c as u32 && t.get(3) == d as u32
}

/// A dotted IPv4 address at `at` that is `own`; where it ends, or 0.
#[inline(always)]
fn dotted<T: Text>(t: T, at: u32, own: &Addr) -> u32 {
    let mut at = at;
    let mut field = 0u32;
    while field < 4 {
        let end = number(t, at, 3, 255, field);
        if end == 0 {
            return 0;
        }
        if field < 3 {
            if t.at(end) != b'.' {
                return 0;
            }
            at = t.launder(end + 1);
        } else {
            at = end;
        }
        field += 1;
    }
    if is_own_v4(t, own) { at } else { 0 }
}

/// An IPv6 address in text (RFC 4291 section 2.2, forms 1 and 2) at `at`, ended by `d`, that is `own`; where it ends,
/// or 0.
#[inline(always)]
fn colons<T: Text>(t: T, at: u32, d: u8, own: &Addr) -> u32 {
    t.put(slot::GROUPS, 0);
    t.put(slot::GROUP, 0);
    t.put(slot::DIGITS, 0);
    t.put(slot::GAP, 0);
    t.put(slot::COLONS, 0);
    t.put(slot::AT, at);
    let mut k = 0u32;
    // 39 characters at most (eight groups of four), and the delimiter.
    while k < 40 {
        let c = t.at(t.get(slot::AT));
        if c == d {
            break;
        }
        if !address_char(t, c, k) {
            return 0;
        }
        t.put(slot::AT, t.get(slot::AT) + 1);
        k += 1;
    }
    let end = t.get(slot::AT);
    if t.at(end) != d || own.is_v4() {
        return 0;
    }
    // The last group; none only behind "::".
    if t.get(slot::DIGITS) > 0 {
        push_group(t);
    } else if t.get(slot::COLONS) != 2 {
        return 0;
    }
    let groups = t.get(slot::GROUPS);
    let gap = t.get(slot::GAP);
    if groups > 8 || (gap == 0 && groups != 8) || (gap != 0 && groups > 7) {
        return 0;
    }
    let mut i = 0u32;
    while i < 8 {
        // Read anew each time, so that what one round has shown does not multiply the next round's states.
        let gap = t.get(slot::GAP);
        let groups = t.get(slot::GROUPS);
        let want = (own.0[2 * i as usize] as u32) << 8 | own.0[2 * i as usize + 1] as u32;
        // Groups before the gap count from the front, those behind it from the back.
        let have = if gap == 0 || i + 1 < gap {
            t.get(i)
        } else if i + groups >= 8 {
            let j = i + groups - 8;
            if j + 1 >= gap { t.get(j & 7) } else { 0 }
        } else {
            0
        };
        if have != want {
            return 0;
        }
        i += 1;
    }
    end
}

/// Takes one character of an IPv6 address; false if it can't stand there.
#[inline(always)]
fn address_char<T: Text>(t: T, c: u8, k: u32) -> bool {
    let colons = t.get(slot::COLONS);
    if c == b':' {
        if t.get(slot::DIGITS) > 0 {
            push_group(t);
            t.put(slot::DIGITS, 0);
            t.put(slot::GROUP, 0);
            t.put(slot::COLONS, 1);
            return true;
        }
        // A second colon in a row, once; or the first character, which must be followed by a second.
        if colons == 1 && t.get(slot::GAP) == 0 {
            t.put(slot::GAP, t.get(slot::GROUPS) + 1);
            t.put(slot::COLONS, 2);
            return true;
        }
        if k == 0 {
            t.put(slot::COLONS, 1);
            return true;
        }
        return false;
    }
    let v = hex(c);
    // A digit right behind the single colon that the text began with.
    if v > 15 || (colons == 1 && t.get(slot::GROUPS) == 0) {
        return false;
    }
    let digits = t.get(slot::DIGITS);
    if digits >= 4 || t.get(slot::GROUPS) >= 8 {
        return false;
    }
    t.put(slot::GROUP, t.get(slot::GROUP) << 4 | v);
    t.put(slot::DIGITS, digits + 1);
    t.put(slot::COLONS, 0);
    true
}

#[inline(always)]
fn push_group<T: Text>(t: T) {
    let groups = t.get(slot::GROUPS);
    t.put(groups & 15, t.get(slot::GROUP));
    t.put(slot::GROUPS, groups + 1);
}

#[inline(always)]
fn hex(c: u8) -> u32 {
    let d = digit(c);
    if d < 10 {
        return d;
    }
    let l = (c | 0x20).wrapping_sub(b'a') as u32;
    if l < 6 { l + 10 } else { 16 }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::canon::host::HostText;

    fn own(s: &str) -> Addr {
        s.parse::<IpAddr>().unwrap().into()
    }

    /// Every text of six of these bytes behind a verb, read as people would.
    #[test]
    fn a_number_is_what_it_says() {
        const BYTES: &[u8] = b"01259,/:\r\xb5";
        let mut text = *b"PORT ______";
        for n in 0..BYTES.len().pow(6) {
            let mut rest = n;
            for byte in &mut text[5..] {
                *byte = BYTES[rest % BYTES.len()];
                rest /= BYTES.len();
            }
            for (max, limit) in [(3, 255), (5, 65535)] {
                let digits = text[5..].iter().take_while(|c| c.is_ascii_digit()).count();
                let value = std::str::from_utf8(&text[5..5 + digits]).unwrap().parse::<u32>().ok();
                let is_plain = digits == 1 || text[5] != b'0';
                let expected = value.filter(|v| is_plain && digits <= max && *v <= limit).map(|v| (v, 5 + digits));
                let mut read = HostText::new(&text);
                let end = number(read.handle(), 5, max as u32, limit, 0);
                let found = (end != 0).then(|| (read.handle().get(0), end as usize));
                assert_eq!(found, expected, "{text:?}");
            }
        }
    }

    #[test]
    fn six_numbers() {
        let me = own("192.0.2.10");
        let parse = |s: &str| six(HostText::new(format!("PORT {s}\r\n").as_bytes()).handle(), 5, &me).0;
        assert_eq!(parse("192,0,2,10,195,149"), 50069);
        assert_eq!(parse("192,0,2,10,4,0"), 1024);
        for bad in [
            "192,0,2,11,195,149",
            "192,0,2,10,256,22",
            "192,0,2,10,195",
            "192,0,2,10,195,",
            "192,,2,10,195,149",
            "192,000,002,010,195,149",
            "192,0,2,10,195,0149",
            "192,0,2,10,195,1490",
            "+192,0,2,10,195,149",
            "192, 0,2,10,195,149",
            "192.0.2.10.195.149",
            "4294967488,0,2,10,195,149",
            "",
        ] {
            assert_eq!(parse(bad), 0, "{bad}");
        }
        let v6 = own("2001:db8::1");
        assert_eq!(six(HostText::new(b"PORT 0,0,0,1,195,149\r\n").handle(), 5, &v6).0, 0);
    }

    #[test]
    fn eprt_of_both_families() {
        let parse = |me: &str, s: &str| {
            let line = format!("EPRT {s}\r\n");
            let (port, end) = eprt(HostText::new(line.as_bytes()).handle(), 5, &own(me));
            assert!(port == 0 || end as usize == line.len() - 2, "{s}");
            port
        };
        assert_eq!(parse("192.0.2.10", "|1|192.0.2.10|50069|"), 50069);
        assert_eq!(parse("192.0.2.10", "!1!192.0.2.10!50069!"), 50069);
        for me in ["2001:db8::10", "::1", "1::", "2001:db8:0:0:1:0:0:1", "1:2:3:4:5:6:7:8", "fe80::1:0", "::ab:0:0"] {
            let ip: std::net::Ipv6Addr = me.parse().unwrap();
            let full: Vec<_> = ip.segments().iter().map(|g| format!("{g:x}")).collect();
            let padded: Vec<_> = ip.segments().iter().map(|g| format!("{g:04X}")).collect();
            for text in [me.to_string(), ip.to_string(), full.join(":"), padded.join(":")] {
                assert_eq!(parse(me, &format!("|2|{text}|50069|")), 50069, "{text}");
                assert_eq!(parse("2001:db8::11", &format!("|2|{text}|50069|")), 0, "{text}");
            }
        }
        for bad in [
            "|2|2001:db8:::10|50069|",
            "|2|:2001:db8::10|50069|",
            "|2|2001:db8::10:|50069|",
            "|2|2001::db8::10|50069|",
            "|2|02001:db8::10|50069|",
            "|2|2001:db8:0:0:0:0:0:0:10|50069|",
            "|2|2001:db8:0:0:0:0:10|50069|",
            "|2|2001:db8::0:0:0:0:0:10|50069|",
            "|2|2001:db8::10%1|50069|",
            "|2|::ffff:192.0.2.10|50069|",
            "|2||50069|",
            "|2|:|50069|",
            "|1|2001:db8::10|50069|",
            "|3|2001:db8::10|50069|",
            "|2|2001:db8::10|50069",
            "|2|2001:db8::10|65536|",
            "|2|2001:db8::10|050069|",
            ":2:2001:db8::10:50069:",
            "a2a2001:db8::10a50069a",
            "1212001:db8::101500691",
        ] {
            assert_eq!(parse("2001:db8::10", bad), 0, "{bad}");
        }
    }

    #[test]
    fn extended_passive() {
        let parse = |s: &str| extended(HostText::new(format!("229 {s}\r\n").as_bytes()).handle(), 4).0;
        assert_eq!(parse("(|||50069|)"), 50069);
        assert_eq!(parse("(!!!1024!)"), 1024);
        for bad in [
            "|||50069|",
            "(|2|2001:db8::5|50069|)",
            "(|||65536|)",
            "(|||1000000|)",
            "(|||50069)",
            "(|||050069|)",
            "(||50069|)",
            "(11150069 1)",
            "((((50069()",
            "(   50069 )",
        ] {
            assert_eq!(parse(bad), 0, "{bad}");
        }
    }
}
