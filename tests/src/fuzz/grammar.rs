//! Lines into the grammar, against the oracle's reading of the same text.

use ftp_helper::engine::grammar::{
    command::Command,
    reply::{self, ReplyLine},
};

use crate::oracle::endpoint;

/// Reads the bytes as a command and as a reply.
///
/// # Panics
/// The grammar reads an endpoint that the oracle does not, or another one.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Command::parse(data) {
        Command::Port(e) => {
            let argument = text.get(5..).unwrap_or_default();
            assert!(text[..5].eq_ignore_ascii_case("PORT "), "{text:?} is read as PORT");
            assert_eq!(endpoint::of_port(argument), Some((e.addr.to_ip(), e.port)), "{text:?}");
        }
        Command::Eprt(e) => {
            let argument = text.get(5..).unwrap_or_default();
            assert!(text[..5].eq_ignore_ascii_case("EPRT "), "{text:?} is read as EPRT");
            assert_eq!(endpoint::of_eprt(argument), Some((e.addr.to_ip(), e.port)), "{text:?}");
        }
        Command::Pasv => assert!(text.eq_ignore_ascii_case("PASV"), "{text:?} is read as PASV"),
        Command::Epsv => {
            assert!(
                ["EPSV", "EPSV 1", "EPSV 2"].iter().any(|t| text.eq_ignore_ascii_case(t)),
                "{text:?} is read as EPSV"
            );
        }
        Command::EpsvAll => assert!(text.eq_ignore_ascii_case("EPSV ALL"), "{text:?} is read as EPSV ALL"),
        _ => {}
    }
    let begins = data.len() >= 3 && data[..3].iter().all(u8::is_ascii_digit);
    match ReplyLine::parse(data) {
        ReplyLine::Whole(code, rest) => {
            assert!(begins && (100..600).contains(&code), "{text:?} is read as {code}");
            assert!(rest.is_empty() || data[3] == b' ', "{text:?} is read as {code}");
            let after = &text[text.len().min(4)..];
            // Whoever reads it, it is the only candidate.
            if let Ok(e) = reply::passive(rest) {
                assert_eq!(endpoint::of_227(after), Some((e.addr.to_ip(), e.port)), "{text:?}");
            }
            if let Ok(port) = reply::extended_passive(rest) {
                assert_eq!(endpoint::of_229(after), Some(port), "{text:?}");
            }
        }
        ReplyLine::Begins(code) => {
            assert!(begins && data[3] == b'-' && !reply::ends_multiline(data, code), "{text:?}");
        }
        ReplyLine::Malformed(_) => assert!(begins, "{text:?}"),
        ReplyLine::NoCode(_) => assert!(!begins || data[0] == b'0', "{text:?}"),
    }
    let _ = reply::looks_passive(data);
}
