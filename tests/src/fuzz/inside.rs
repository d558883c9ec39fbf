//! Hosts behind a translation of addresses: what they announce goes through the rewriting of the kernel before anybody reads it.

use std::net::IpAddr;

use arbitrary::{Result, Unstructured};
use ftp_helper_common::{
    addr::Addr,
    canon::{
        Rewriting,
        host::{announced, rewritten},
    },
    key::{CLIENT, HOOK_IN, SERVER},
    state::pending,
};

use super::{rig::Setting, script::Turn};

/// The dialogue as it is outside where the inside host has an address of its own, or as it is.
///
/// What is announced in a line that the kernel can read is written for inside, and rewritten from there: other words may be left
/// of it, and it must mean what it meant.
///
/// # Errors
/// Never for bytes: those that are missing are zeros, and nothing is translated.
///
/// # Panics
/// A line means something else behind the translation.
pub(super) fn translated(u: &mut Unstructured<'_>, setting: &Setting, turns: &[Turn]) -> Result<Vec<Turn>> {
    let mut turns = turns.to_vec();
    let v4 = *u.choose(&[None, Some([10, 0, 0, 7]), Some([192, 168, 100, 200]), Some([172, 16, 1, 1])])?;
    // Whoever has not seen the last bytes would not have seen others.
    let Some(v4) = v4.filter(|_| turns.iter().all(|turn| turn.late == 0)) else { return Ok(turns) };
    let (side, public, kinds) = if setting.hook == HOOK_IN {
        (SERVER, setting.key.server, [pending::PASV, pending::EPSV])
    } else {
        (CLIENT, setting.key.client, [pending::PORT, pending::EPRT])
    };
    let inside: Addr =
        if public.is_v4() { IpAddr::from(v4) } else { IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 7]) }.into();
    for turn in turns.iter_mut().filter(|turn| turn.side == side) {
        let kind = kinds.into_iter().find(|kind| begins(&turn.bytes, *kind));
        if let Some(line) = kind.and_then(|kind| there_and_back(&turn.bytes, kind, &public, &inside)) {
            turn.bytes = line;
        }
    }
    Ok(turns)
}

/// A line that announces an endpoint, after it was written for inside and rewritten from there; none if it can't be.
fn there_and_back(line: &[u8], kind: u8, public: &Addr, inside: &Addr) -> Option<Vec<u8>> {
    let port = announced(line, kind, public);
    if port == 0 {
        return None;
    }
    let (n, bytes) = rewritten(line, kind, public, &Rewriting { addr: *inside, port });
    let own = bytes.get(..n).filter(|own| !own.is_empty())?;
    let (n, bytes) = rewritten(own, kind, inside, &Rewriting { addr: *public, port });
    let out = bytes.get(..n).filter(|out| !out.is_empty())?;
    let text = || format!("{} as {} as {}", line.escape_ascii(), own.escape_ascii(), out.escape_ascii());
    assert_eq!(announced(own, kind, inside), port, "{}", text());
    assert_eq!(announced(out, kind, public), port, "{}", text());
    Some(out.to_vec())
}

/// Whether a line begins as one of this kind does.
fn begins(line: &[u8], kind: u8) -> bool {
    let word: &[u8] = match kind {
        pending::PASV => b"227 ",
        pending::EPSV => b"229 ",
        pending::PORT => b"PORT ",
        _ => b"EPRT ",
    };
    line.get(..word.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_back_with_what_it_means() {
        let (public, inside) = (IpAddr::from([198, 51, 100, 5]).into(), IpAddr::from([10, 0, 0, 7]).into());
        let line = b"227 Entering Passive Mode (198,51,100,5,195,149)\r\n";
        // The blanks that made the inside one as long are cut again.
        let back = there_and_back(line, pending::PASV, &public, &inside).unwrap();
        assert_eq!((back.len(), announced(&back, pending::PASV, &public)), (line.len(), 50069));
        let port = b"PORT 198,51,100,5,195,149\r\n";
        assert_eq!(there_and_back(port, pending::PORT, &public, &inside).as_deref(), Some(&port[..]));
        for other in [&b"227 (198,51,100,6,195,149)\r\n"[..], b"227 (198,51,100,5,195,149)"] {
            assert_eq!(there_and_back(other, pending::PASV, &public, &inside), None);
        }
    }
}
