//! What a client says.

use ftp_helper_common::reason::Reason;
use nom::{
    IResult, Parser,
    bytes::complete::take_while,
    character::complete::char,
    combinator::{all_consuming, opt, rest},
    sequence::preceded,
};

use super::{Endpoint, number};

/// A command, as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// PASV.
    Pasv,
    /// EPSV, for one connection.
    Epsv,
    /// EPSV ALL: nothing but EPSV from now on.
    EpsvAll,
    /// PORT.
    Port(Endpoint),
    /// EPRT.
    Eprt(Endpoint),
    /// One of the four above with an argument that can't be read.
    Unreadable(Reason),
    /// Negotiates in a way that is not followed.
    Unsupported,
    /// USER.
    User,
    /// PASS or ACCT.
    Pass,
    /// REIN.
    Rein,
    /// QUIT.
    Quit,
    /// ABOR.
    Abor,
    /// AUTH.
    Auth,
    /// A command that uses a data connection.
    Transfer,
    /// Another command of FTP.
    Other,
    /// No command of FTP that is known.
    Unknown,
    /// Looks like another protocol.
    Foreign,
    /// A reply, from the wrong side.
    Reply,
}

impl Command {
    /// Reads a line without its ending.
    pub fn parse(line: &[u8]) -> Self {
        let Ok((argument, verb)) = verb(line) else { return Self::Unknown };
        let mut upper = [0; 4];
        let Some(name) = upper.get_mut(..verb.len()) else { return unknown(line, verb) };
        name.copy_from_slice(verb);
        name.make_ascii_uppercase();
        let Ok((_, argument)) = argument_of(argument) else { return unknown(line, verb) };
        match (&*name, argument) {
            (b"PASV", None) => Self::Pasv,
            (b"PASV", _) => Self::Unreadable(Reason::BadSyntax),
            (b"EPSV", None | Some(b"1" | b"2")) => Self::Epsv,
            (b"EPSV", Some(all)) if all.eq_ignore_ascii_case(b"ALL") => Self::EpsvAll,
            (b"EPSV", _) => Self::Unreadable(Reason::BadSyntax),
            (b"PORT", argument) => match argument.map(|a| all_consuming(number::six).parse(a)) {
                Some(Ok((_, endpoint))) => Self::Port(endpoint),
                _ => Self::Unreadable(Reason::BadSyntax),
            },
            (b"EPRT", argument) => match argument.map(|a| all_consuming(number::extended_port).parse(a)) {
                Some(Ok((_, Ok(endpoint)))) => Self::Eprt(endpoint),
                Some(Ok((_, Err(_)))) => Self::Unreadable(Reason::AddressFamily),
                _ => Self::Unreadable(Reason::BadSyntax),
            },
            (b"LPRT" | b"LPSV" | b"SPSV" | b"CPSV" | b"APSV", _) => Self::Unsupported,
            (b"USER", _) => Self::User,
            (b"PASS" | b"ACCT", _) => Self::Pass,
            (b"REIN", _) => Self::Rein,
            (b"QUIT", _) => Self::Quit,
            (b"ABOR", _) => Self::Abor,
            (b"AUTH", _) => Self::Auth,
            (b"RETR" | b"STOR" | b"STOU" | b"APPE" | b"LIST" | b"NLST" | b"MLSD", _) => Self::Transfer,
            (name, _) if KNOWN.contains(&name) => Self::Other,
            _ => unknown(line, verb),
        }
    }

    /// Whether a data connection is negotiated by it.
    pub fn negotiates(self) -> bool {
        matches!(
            self,
            Self::Pasv
                | Self::Epsv
                | Self::EpsvAll
                | Self::Port(_)
                | Self::Eprt(_)
                | Self::Unreadable(..)
                | Self::Unsupported
        )
    }

    /// Whether it is a command of FTP.
    pub fn is_ftp(self) -> bool {
        !matches!(self, Self::Unknown | Self::Foreign | Self::Reply)
    }
}

/// Other commands of RFC 959, 1639, 2228, 2389, 2428, 3659, 4217, 5797, 7151, and common ones of no RFC.
const KNOWN: &[&[u8]] = &[
    b"CWD", b"PWD", b"MKD", b"RMD", b"CCC", b"ENC", b"MIC", b"REST", b"MLST", b"CDUP", b"DELE", b"RNFR", b"RNTO",
    b"SIZE", b"MDTM", b"TYPE", b"MODE", b"STRU", b"ALLO", b"NOOP", b"SYST", b"STAT", b"HELP", b"SITE", b"FEAT",
    b"OPTS", b"LANG", b"HOST", b"CLNT", b"MFMT", b"XPWD", b"XCWD", b"XMKD", b"XRMD", b"XCUP", b"SMNT", b"ADAT",
    b"PBSZ", b"PROT", b"CONF", b"ALGS", b"AVBL", b"COMB", b"CSID", b"DSIZ", b"HASH", b"MFCT", b"MFF", b"MODB", b"PRET",
    b"RANG", b"RMDA", b"SSCN", b"THMB", b"XCRC", b"XMD5", b"XSHA", b"XRSQ", b"XSEN", b"XSEM", b"XMAS",
];

/// What stands before the first blank.
fn verb(line: &[u8]) -> IResult<&[u8], &[u8]> {
    take_while(|c: u8| !c.is_ascii_whitespace()).parse(line)
}

/// What stands behind the verb and one space; `None` without the space.
fn argument_of(input: &[u8]) -> IResult<&[u8], Option<&[u8]>> {
    all_consuming(opt(preceded(char(' '), rest))).parse(input)
}

/// What a line is that no command of FTP begins.
fn unknown(line: &[u8], verb: &[u8]) -> Command {
    if let [a, b, c, ..] = line
        && [a, b, c].iter().all(|d| d.is_ascii_digit())
        && matches!(line.get(3), None | Some(b' ' | b'-'))
    {
        return Command::Reply;
    }
    if verb.contains(&b':') || line.windows(5).any(|w| w == b"HTTP/") { Command::Foreign } else { Command::Unknown }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn verbs() {
        let own = Endpoint { addr: "192.0.2.10".parse::<IpAddr>().unwrap().into(), port: 50069 };
        for (line, command) in [
            ("pasv", Command::Pasv),
            ("EPSV 1", Command::Epsv),
            ("epsv all", Command::EpsvAll),
            ("pOrT 192,0,2,10,195,149", Command::Port(own)),
            ("EPRT !1!192.0.2.10!50069!", Command::Eprt(own)),
            ("PASV ", Command::Unreadable(Reason::BadSyntax)),
            ("EPSV 3", Command::Unreadable(Reason::BadSyntax)),
            ("PORT", Command::Unreadable(Reason::BadSyntax)),
            ("PORT  192,0,2,10,195,149", Command::Unreadable(Reason::BadSyntax)),
            ("PORT 192,0,2,10,195,149 ", Command::Unreadable(Reason::BadSyntax)),
            ("PORT 192,0,2,10,195,149xyz", Command::Unreadable(Reason::BadSyntax)),
            ("EPRT |3|192.0.2.10|50069|", Command::Unreadable(Reason::AddressFamily)),
            ("LPRT 4,4", Command::Unsupported),
            ("USER x", Command::User),
            ("acct", Command::Pass),
            ("Retr x", Command::Transfer),
            ("CWD /", Command::Other),
            ("MFF x", Command::Other),
            (" PORT 192,0,2,10,195,149", Command::Unknown),
            ("XPORT 192,0,2,10,195,149", Command::Unknown),
            ("PORTX 192,0,2,10,195,149", Command::Unknown),
            ("PORT\t192,0,2,10,195,149", Command::Unknown),
            ("", Command::Unknown),
            ("Host: a", Command::Foreign),
            ("POST / HTTP/1.1", Command::Foreign),
            ("227 Entering Passive Mode (1,2,3,4,5,6)", Command::Reply),
            ("227", Command::Reply),
            ("2026 x", Command::Unknown),
        ] {
            assert_eq!(Command::parse(line.as_bytes()), command, "{line}");
        }
    }
}
