//! What a server says (RFC 959 section 4.2).

use ftp_helper_common::reason::Reason;
use nom::{
    IResult, Parser,
    character::complete::{one_of, satisfy},
    combinator::map,
};

use super::{Endpoint, command::Command, number};

/// One line of a server, outside a multi-line reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplyLine<'a> {
    /// `xyz text`, or only the code.
    Whole(u16, &'a [u8]),
    /// `xyz-text`: a multi-line reply begins.
    Begins(u16),
    /// Three digits and then something else: a reply to most clients, but not one that says anything.
    Malformed(u16),
    /// No code. True if it reads as a command.
    NoCode(bool),
}

impl<'a> ReplyLine<'a> {
    /// Reads a line without its ending.
    pub fn parse(line: &'a [u8]) -> Self {
        let Ok((rest, code)) = code(line) else {
            return Self::NoCode(Command::parse(line).is_ftp());
        };
        match rest {
            // Codes above 599 are RFC 2228's protected replies, which say nothing in the clear.
            _ if code >= 600 => Self::Malformed(code),
            [] => Self::Whole(code, b""),
            [b' ', text @ ..] => Self::Whole(code, text),
            [b'-', ..] => Self::Begins(code),
            _ => Self::Malformed(code),
        }
    }
}

/// Whether a line ends the multi-line reply that `open` began: the same code and a space.
pub fn ends_multiline(line: &[u8], open: u16) -> bool {
    matches!(code(line), Ok(([b' ', ..], code)) if code == open)
}

/// Whether a line looks like the announcement of a passive port.
pub fn looks_passive(line: &[u8]) -> bool {
    line.windows(3).take(8).any(|w| w == b"227" || w == b"229")
}

/// The endpoint in the text of a 227, if there is exactly one that every client finds: the first digit begins it
/// (RFC 1123 section 4.1.2.6), and there are no digits behind it.
///
/// # Errors
/// `BadSyntax` or `AmbiguousReply`.
pub fn passive(text: &[u8]) -> Result<Endpoint, Reason> {
    let begin = text.iter().position(u8::is_ascii_digit).ok_or(Reason::BadSyntax)?;
    let Ok((rest, endpoint)) = number::six(&text[begin..]) else {
        // Another candidate further on is what other clients would read.
        let other = (begin + 1..text.len())
            .any(|i| !text[i - 1].is_ascii_digit() && text[i].is_ascii_digit() && number::six(&text[i..]).is_ok());
        return Err(if other { Reason::AmbiguousReply } else { Reason::BadSyntax });
    };
    if rest.iter().any(u8::is_ascii_digit) {
        return Err(Reason::AmbiguousReply);
    }
    Ok(endpoint)
}

/// The port in the text of a 229, if the only parenthesis holds one.
///
/// # Errors
/// `BadSyntax` or `AmbiguousReply`.
pub fn extended_passive(text: &[u8]) -> Result<u16, Reason> {
    let begin = text.iter().position(|c| *c == b'(').ok_or(Reason::BadSyntax)?;
    let rest = &text[begin + 1..];
    if rest.contains(&b'(') {
        return Err(Reason::AmbiguousReply);
    }
    number::extended_passive(&text[begin..]).map(|(_, port)| port).map_err(|_| Reason::BadSyntax)
}

/// Three digits, the first not 0.
fn code(line: &[u8]) -> IResult<&[u8], u16> {
    let digit = || satisfy(|c| c.is_ascii_digit());
    map((one_of("123456789"), digit(), digit()), |(a, b, c)| {
        [a, b, c].iter().fold(0, |v, d| v * 10 + (*d as u16 - u16::from(b'0')))
    })
    .parse(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        for (line, parsed) in [
            ("226 done", ReplyLine::Whole(226, b"done")),
            ("226", ReplyLine::Whole(226, b"")),
            ("211-Features", ReplyLine::Begins(211)),
            ("227Entering", ReplyLine::Malformed(227)),
            ("2270 x", ReplyLine::Malformed(227)),
            ("227\tx", ReplyLine::Malformed(227)),
            ("631 x", ReplyLine::Malformed(631)),
            ("0227 x", ReplyLine::NoCode(false)),
            (" 227 x", ReplyLine::NoCode(false)),
            ("SSH-2.0-OpenSSH", ReplyLine::NoCode(false)),
            ("PORT 1,2,3,4,5,6", ReplyLine::NoCode(true)),
            ("", ReplyLine::NoCode(false)),
        ] {
            assert_eq!(ReplyLine::parse(line.as_bytes()), parsed, "{line}");
        }
        assert!(ends_multiline(b"250 OK", 250) && ends_multiline(b"250 ", 250));
        for line in ["250", "250-x", "251 x", " 250 x", "2500 x"] {
            assert!(!ends_multiline(line.as_bytes(), 250), "{line}");
        }
    }

    #[test]
    fn announcements() {
        for text in ["Entering Passive Mode (198,51,100,5,195,149).", "=198,51,100,5,195,149", "198,51,100,5,195,149"] {
            assert_eq!(passive(text.as_bytes()).unwrap().port, 50069, "{text}");
        }
        for (text, reason) in [
            ("1,2,3 files (198,51,100,5,195,149)", Reason::AmbiguousReply),
            ("(1,2,3,4,5,6) (198,51,100,5,195,149)", Reason::AmbiguousReply),
            ("(198,51,100,5,195,149) 7", Reason::AmbiguousReply),
            ("(198,51,100,5,195,149,1)", Reason::AmbiguousReply),
            ("(1216,256,2,127,127,127)", Reason::BadSyntax),
            ("(198,51,100,5,195,256)", Reason::BadSyntax),
            ("none", Reason::BadSyntax),
        ] {
            assert_eq!(passive(text.as_bytes()), Err(reason), "{text}");
        }
        assert_eq!(extended_passive(b"Entering Extended Passive Mode (|||50069|)"), Ok(50069));
        assert_eq!(extended_passive(b"ok (!!!50069!) 7"), Ok(50069));
        for (text, reason) in [
            ("|||50069|", Reason::BadSyntax),
            ("(|2|2001:db8::5|50069|)", Reason::BadSyntax),
            ("((|||1|)|||50069|)", Reason::AmbiguousReply),
            ("(foo) (|||50069|)", Reason::AmbiguousReply),
        ] {
            assert_eq!(extended_passive(text.as_bytes()), Err(reason), "{text}");
        }
    }
}
