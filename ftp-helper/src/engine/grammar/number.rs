//! Numbers, addresses and endpoints: decimal, without signs, blanks or leading zeros.

use std::net::Ipv6Addr;

use ftp_helper_common::addr::Addr;
use nom::{
    IResult, Parser,
    bytes::complete::{take_till1, take_while1},
    character::complete::char,
    combinator::{map_opt, verify},
    multi::separated_list1,
    sequence::{delimited, preceded, terminated},
};

use super::Endpoint;

/// `h1,h2,h3,h4,p1,p2` (RFC 959 section 4.1.2).
pub fn six(input: &[u8]) -> IResult<&[u8], Endpoint> {
    let octets = separated_list1(char(','), number(3, 255));
    map_opt(octets, |v: Vec<u16>| {
        let &[a, b, c, d, high, low] = v.as_slice() else { return None };
        let addr = Addr::v4([a as u8, b as u8, c as u8, d as u8]);
        Some(Endpoint { addr, port: high << 8 | low })
    })
    .parse(input)
}

/// `<d>1<d>address<d>port<d>` and `<d>2<d>...` (RFC 2428 section 2). `Ok(Err(()))` where the family is neither.
pub fn extended_port(input: &[u8]) -> IResult<&[u8], Result<Endpoint, UnknownFamily>> {
    // A delimiter that may stand inside an address or a number can be read in two ways.
    let (rest, d) = verify(nom::number::complete::u8, |d| is_delimiter(*d) && !is_address(*d)).parse(input)?;
    let (rest, family) = terminated(number(3, 255), char(d as char)).parse(rest)?;
    let (rest, addr) = terminated(take_till1(|c| c == d), char(d as char)).parse(rest)?;
    let (rest, port) = terminated(number(5, 65535), char(d as char)).parse(rest)?;
    let addr = match family {
        1 => dotted(addr),
        2 => colons(addr),
        _ => return Ok((rest, Err(UnknownFamily))),
    };
    match addr {
        Some(addr) => Ok((rest, Ok(Endpoint { addr, port }))),
        None => Err(nom::Err::Error(nom::error::Error::new(input, nom::error::ErrorKind::Verify))),
    }
}

/// The network protocol of an EPRT is neither 1 nor 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnknownFamily;

/// `(<d><d><d>port<d>)` (RFC 2428 section 3).
pub fn extended_passive(input: &[u8]) -> IResult<&[u8], u16> {
    let (rest, d) = preceded(char('('), verify(nom::number::complete::u8, |d| is_delimiter(*d))).parse(input)?;
    let d = || char(d as char);
    terminated(delimited((d(), d()), number(5, 65535), d()), char(')')).parse(rest)
}

/// A decimal number of at most `digits` digits and at most `limit`.
fn number<'a>(digits: usize, limit: u32) -> impl Parser<&'a [u8], Output = u16, Error = nom::error::Error<&'a [u8]>> {
    map_opt(take_while1(|c: u8| c.is_ascii_digit()), move |text: &[u8]| {
        // A leading zero reads as octal to some, and a digit more is another number to others.
        if text.len() > digits || (text.len() > 1 && text[0] == b'0') {
            return None;
        }
        let value = text.iter().fold(0u32, |v, c| v * 10 + u32::from(c - b'0'));
        (value <= limit).then_some(value as u16)
    })
}

/// RFC 2428 section 2: any of ASCII 33-126; a digit would read into the number beside it, a parenthesis into the end.
fn is_delimiter(c: u8) -> bool {
    c.is_ascii_graphic() && !c.is_ascii_digit() && c != b'(' && c != b')'
}

/// Whether the byte may stand in an address.
fn is_address(c: u8) -> bool {
    c == b'.' || c == b':' || c.is_ascii_hexdigit()
}

/// A dotted IPv4 address.
fn dotted(text: &[u8]) -> Option<Addr> {
    let (rest, octets) = separated_list1(char('.'), number(3, 255)).parse(text).ok()?;
    let &[a, b, c, d] = octets.as_slice() else { return None };
    rest.is_empty().then(|| Addr::v4([a as u8, b as u8, c as u8, d as u8]))
}

/// An IPv6 address in forms 1 and 2 of RFC 4291 section 2.2: no dotted tail, no zone, and no mapped IPv4 address, which
/// is another family's.
fn colons(text: &[u8]) -> Option<Addr> {
    if !text.iter().all(|c| *c == b':' || c.is_ascii_hexdigit()) {
        return None;
    }
    let ip: Ipv6Addr = std::str::from_utf8(text).ok()?.parse().ok()?;
    let addr = Addr(ip.octets());
    (!addr.is_v4()).then_some(addr)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn endpoint(addr: &str, port: u16) -> Endpoint {
        Endpoint { addr: addr.parse::<IpAddr>().unwrap().into(), port }
    }

    #[test]
    fn six_numbers() {
        assert_eq!(six(b"192,0,2,10,195,149").unwrap().1, endpoint("192.0.2.10", 50069));
        assert_eq!(six(b"0,0,0,0,0,0)").unwrap().1, endpoint("0.0.0.0", 0));
        for bad in [
            "192,0,2,10,256,22",
            "192,0,2,10,195",
            "192,0,2,10,195,",
            "192,,2,10,195,149",
            "192,000,002,010,195,149",
            "192,0,2,10,195,1490",
            "+192,0,2,10,195,149",
            "192, 0,2,10,195,149",
            "192.0.2.10.195.149",
            "4294967488,0,2,10,195,149",
            "1,2,3,4,5,6,7",
            "",
        ] {
            let parsed = six(bad.as_bytes());
            assert!(parsed.is_err() || !parsed.unwrap().0.is_empty(), "{bad}");
        }
    }

    #[test]
    fn extended() {
        let ok = |s: &str| extended_port(s.as_bytes()).unwrap().1.unwrap();
        assert_eq!(ok("|1|192.0.2.10|50069|"), endpoint("192.0.2.10", 50069));
        assert_eq!(ok("!2!2001:DB8::10!50069!"), endpoint("2001:db8::10", 50069));
        assert_eq!(extended_port(b"|3|x|1|").unwrap().1, Err(UnknownFamily));
        for bad in [
            "|1|2001:db8::10|50069|",
            "|2|192.0.2.10|50069|",
            "|2|::ffff:192.0.2.10|50069|",
            "|2|::ffff:c000:20a|50069|",
            "|2|fe80::1%eth0|50069|",
            "|1|192.0.2.10|65536|",
            "|1|192.0.2.10|131072|",
            "|1|192.0.2.10|50069",
            "|1|192.0.2.010|50069|",
            "|1|1.2.3.4.5|222|",
            "|1|192.0.2.10!50069|",
            "||||",
            "||",
            "|1|192.0.2.10|-1|",
            "111192.0.2.10150069 1",
            " 1 192.0.2.10 50069 ",
            ".1.192.0.2.10.50069.",
            "a1a192.0.2.10a50069a",
        ] {
            assert!(extended_port(bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(extended_passive(b"(|||50069|)").unwrap().1, 50069);
        for bad in ["|||50069|", "(|2|2001:db8::5|50069|)", "(|||65558|)", "(|||4294967318|)", "(|||050069|)"] {
            assert!(extended_passive(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
