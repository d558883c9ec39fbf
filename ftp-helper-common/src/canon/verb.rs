//! The client's side: one command line.

use super::{
    made::{Made, bit},
    number,
    text::Text,
};
use crate::{addr::Addr, reason::Reason, state::pending};

/// Reads one canonical command line of `n` bytes (CRLF included) sent from `own`.
///
/// `PORT` and `EPRT` come back with their port and without [`bit::OPEN`]: whether they open is the policy's word.
/// [`bit::ARM`] marks a transfer command here.
#[inline(always)]
pub(super) fn read_command<T: Text>(t: T, n: u32, own: &Addr) -> Made {
    let raw = t.word(0) as u32;
    let verb = raw & UPPER;
    // Three letters, then a space or the end of the line.
    let fourth = (raw >> 24) as u8;
    if fourth == b' ' || fourth == b'\r' {
        return match verb & 0xff_ffff {
            CWD | PWD | MKD | RMD => Made::pending(pending::OTHER, 0),
            _ => Made::blind(Reason::UnknownVerb),
        };
    }
    let next = t.at(4);
    if next != b' ' && next != b'\r' {
        return Made::blind(Reason::UnknownVerb);
    }
    match verb {
        PASV if n == 6 => Made::pending(pending::PASV, 0),
        EPSV if n == 6 || (n == 8 && (t.at(5) == b'1' || t.at(5) == b'2')) => Made::pending(pending::EPSV, 0),
        PORT if next == b' ' => announced(pending::PORT, t.read_port(own)),
        EPRT if next == b' ' => announced(pending::EPRT, t.read_eprt(own)),
        PASV | EPSV | PORT | EPRT => Made::blind(Reason::BadArgument),
        USER => Made::pending(pending::LOGIN, bit::LOGOUT | bit::REVOKE),
        REIN => Made::pending(pending::OTHER, bit::LOGOUT | bit::REVOKE),
        PASS | ACCT => Made::pending(pending::LOGIN, 0),
        QUIT | ABOR => Made::pending(pending::OTHER, bit::REVOKE),
        RETR | STOR | STOU | APPE | LIST | NLST | MLSD => Made::pending(pending::OTHER, bit::ARM),
        REST | MLST | CDUP | DELE | RNFR | RNTO | SIZE | MDTM | TYPE | MODE | STRU | ALLO | NOOP | SYST | STAT
        | HELP | SITE | FEAT | OPTS | LANG | HOST | CLNT | MFMT | XPWD | XCWD | XMKD | XRMD | XCUP => {
            Made::pending(pending::OTHER, 0)
        }
        _ => Made::blind(Reason::UnknownVerb),
    }
}

/// The port of a `PORT h1,h2,h3,h4,p1,p2` whose argument ends the line and names `own`, or 0 (RFC 959 section 4.1.2).
#[inline(always)]
pub fn read_port<T: Text>(t: T, own: &Addr) -> u32 {
    let (port, end) = number::six(t, 5, own);
    if t.at(end) == b'\r' { port } else { 0 }
}

/// The port of an `EPRT <d>..<d>..<d>..<d>` whose argument ends the line and names `own`, or 0 (RFC 2428 section 2).
#[inline(always)]
pub fn read_eprt<T: Text>(t: T, own: &Addr) -> u32 {
    let (port, end) = number::eprt(t, 5, own);
    if t.at(end) == b'\r' { port } else { 0 }
}

#[inline(always)]
fn announced(kind: u8, port: u32) -> Made {
    if port == 0 { Made::blind(Reason::BadArgument) } else { Made::pending(kind, 0).with_port(port) }
}

/// Clears the bit that tells lower from upper case.
const UPPER: u32 = 0xdfdf_dfdf;

macro_rules! verbs {
    ($($name:ident)*) => { $( const $name: u32 = word(stringify!($name).as_bytes()); )* };
}

verbs!(CWD PWD MKD RMD);
verbs!(PASV EPSV PORT EPRT USER REIN PASS ACCT QUIT ABOR RETR STOR STOU APPE LIST NLST MLSD);
verbs!(REST MLST CDUP DELE RNFR RNTO SIZE MDTM TYPE MODE STRU ALLO NOOP SYST STAT HELP SITE FEAT OPTS LANG HOST CLNT MFMT);
verbs!(XPWD XCWD XMKD XRMD XCUP);

const fn word(name: &[u8]) -> u32 {
    let mut v = 0;
    let mut i = 0;
    while i < name.len() {
        v |= (name[i] as u32) << (8 * i);
        i += 1;
    }
    v
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::canon::host::HostText;

    fn read(line: &str) -> Made {
        let line = format!("{line}\r\n");
        read_command(
            HostText::new(line.as_bytes()).handle(),
            line.len() as u32,
            &"192.0.2.10".parse::<IpAddr>().unwrap().into(),
        )
    }

    #[test]
    fn commands() {
        assert_eq!(read("pasv"), Made::pending(pending::PASV, 0));
        assert_eq!(read("EPSV"), Made::pending(pending::EPSV, 0));
        assert_eq!(read("EPSV 2"), Made::pending(pending::EPSV, 0));
        assert_eq!(read("Port 192,0,2,10,195,149"), Made::pending(pending::PORT, 0).with_port(50069));
        assert_eq!(read("EPRT |1|192.0.2.10|50069|"), Made::pending(pending::EPRT, 0).with_port(50069));
        assert_eq!(read("CWD /pub"), Made::pending(pending::OTHER, 0));
        assert_eq!(read("PWD"), Made::pending(pending::OTHER, 0));
        assert_eq!(read("RETR x"), Made::pending(pending::OTHER, bit::ARM));
        assert_eq!(read("USER me"), Made::pending(pending::LOGIN, bit::LOGOUT | bit::REVOKE));
    }

    #[test]
    fn what_the_kernel_does_not_judge() {
        for line in ["PASV 1", "EPSV ALL", "EPSV 3", "PORT", "PORT 192,0,2,10,195,149 ", "PORT  192,0,2,10,195,149"] {
            assert_eq!(read(line), Made::blind(Reason::BadArgument), "{line}");
        }
        for line in ["AUTH TLS", " PASV", "PORTX 1", "LPRT 4", "PO", "", "XPORT 1", "PWDX", "CWDX y", "227 x", "P@SV"] {
            assert_eq!(read(line), Made::blind(Reason::UnknownVerb), "{line}");
        }
    }
}
