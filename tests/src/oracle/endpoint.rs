//! Endpoints as they are written: in PORT and 227 (RFC 959 section 4.1.2), in EPRT and 229 (RFC 2428 sections 2 and 3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The argument of PORT: `h1,h2,h3,h4,p1,p2` and nothing else.
pub fn of_port(argument: &str) -> Option<(IpAddr, u16)> {
    let fields: Vec<&str> = argument.split(',').collect();
    if fields.len() != 6 {
        return None;
    }
    let mut n = [0u16; 6];
    for (number, field) in n.iter_mut().zip(fields) {
        *number = decimal(field, 255)?;
    }
    let octet = |i: usize| u8::try_from(n[i]).ok();
    Some((IpAddr::V4(Ipv4Addr::new(octet(0)?, octet(1)?, octet(2)?, octet(3)?)), n[4] * 256 + n[5]))
}

/// The text of a 227. RFC 1123 section 4.1.2.6: no parentheses may be relied on, the endpoint begins at the first digit.
/// Others look behind the first parenthesis, or for the first six numbers: all of them find the same if the first digit
/// begins the six numbers and no digit stands behind them.
pub fn of_227(text: &str) -> Option<(IpAddr, u16)> {
    let begin = text.find(|c: char| c.is_ascii_digit())?;
    let rest = &text[begin..];
    let length = rest.find(|c: char| !c.is_ascii_digit() && c != ',').unwrap_or(rest.len());
    let (numbers, after) = rest.split_at(length);
    if after.contains(|c: char| c.is_ascii_digit()) {
        return None;
    }
    // Commas behind the last number are the sentence's.
    of_port(numbers.trim_end_matches(','))
}

/// The argument of EPRT: `<d>protocol<d>address<d>port<d>`.
pub fn of_eprt(argument: &str) -> Option<(IpAddr, u16)> {
    let d = argument.chars().next()?;
    // One that may stand in an address leaves two readings.
    if !is_delimiter(d) || d.is_ascii_hexdigit() || d == '.' || d == ':' {
        return None;
    }
    let fields: Vec<&str> = argument.split(d).collect();
    let ["", protocol, address, port, ""] = fields[..] else { return None };
    let address = match protocol {
        "1" => IpAddr::V4(address.parse::<Ipv4Addr>().ok()?),
        "2" => IpAddr::V6(address.parse::<Ipv6Addr>().ok()?),
        _ => return None,
    };
    Some((address, decimal(port, 65535)?))
}

/// The text of a 229: `text (<d><d><d>port<d>)`, no other parenthesis opened in all of it.
pub fn of_229(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once('(')?;
    if rest.contains('(') {
        return None;
    }
    let (inner, _) = rest.split_once(')')?;
    let d = inner.chars().next()?;
    if !is_delimiter(d) {
        return None;
    }
    let fields: Vec<&str> = inner.split(d).collect();
    let ["", "", "", port, ""] = fields[..] else { return None };
    decimal(port, 65535)
}

/// RFC 2428 section 2: any of the ASCII characters 33 to 126. A digit would leave two readings.
fn is_delimiter(d: char) -> bool {
    ('!'..='~').contains(&d) && !d.is_ascii_digit()
}

/// A decimal number up to `most`, without sign, blanks or zeros in front.
fn decimal(digits: &str, most: u16) -> Option<u16> {
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    if !plain || digits.is_empty() {
        return None;
    }
    digits.parse().ok().filter(|n| *n <= most)
}
