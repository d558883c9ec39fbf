//! The server's side: a segment of reply lines (RFC 959 section 4.2).

use super::{
    number,
    text::{LINE_MAX, ONES, Text, digit, digits, equal, is_text, slot},
};
use crate::{addr::Addr, reason::Reason};

/// Lines in one segment at most.
pub const LINES_MAX: u32 = 64;

/// What a segment of replies says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Replies {
    /// Code of the final reply, or 0.
    pub(super) code: u32,
    /// Where its line begins.
    pub(super) at: u32,
    /// Whether it ended a multi-line reply.
    pub(super) multi: bool,
    /// Code of the multi-line reply that is still open, or 0.
    pub(super) open: u32,
    /// Why the segment is not canonical: a [`Reason`], or 0.
    pub(super) why: u32,
}

/// Reads a segment that is one printable line ended by CRLF, with no multi-line reply open.
#[inline(always)]
pub(super) fn read_single<T: Text>(t: T) -> Replies {
    let code = code(t, 0);
    let sep = t.at(3);
    let nothing = Replies { code: 0, at: 0, multi: false, open: 0, why: 0 };
    if code == 0 || (sep != b' ' && sep != b'\r' && sep != b'-') {
        return Replies { why: Reason::BadCode as u32, ..nothing };
    }
    if sep == b'-' {
        return Replies { open: code, ..nothing };
    }
    if code < 200 {
        return nothing;
    }
    Replies { code, ..nothing }
}

/// Reads a segment of `n` bytes with several lines, or with a multi-line reply open.
#[inline(always)]
pub(super) fn read_lines<T: Text>(t: T, n: u32, open: u16) -> Replies {
    t.put(slot::POSITION, 0);
    t.put(slot::MULTILINE, open as u32);
    t.put(slot::FINAL, 0);
    t.put(slot::FINAL_AT, 0);
    t.put(slot::FINAL_MULTI, 0);
    t.put(slot::WHY, 0);
    t.each_line(LINES_MAX);
    let mut why = t.get(slot::WHY);
    if why == 0 && t.get(slot::POSITION) != n {
        // A NUL within, or more lines than are read.
        why = Reason::TooLong as u32;
    }
    Replies {
        code: t.get(slot::FINAL),
        at: t.get(slot::FINAL_AT),
        multi: t.get(slot::FINAL_MULTI) != 0,
        open: t.get(slot::MULTILINE),
        why,
    }
}

/// Reads the line at `POSITION`; false when there is no more to read.
#[inline(always)]
pub fn read_line<T: Text>(t: T) -> bool {
    let at = t.get(slot::POSITION);
    if t.at(at) == 0 {
        return false;
    }
    // A final reply is the last line of a canonical segment.
    if t.get(slot::FINAL) != 0 {
        return refuse(t, Reason::Ambiguous);
    }
    let mut k = 0u32;
    while k < LINE_MAX {
        if !is_text(t.at(at + k)) {
            break;
        }
        k += 1;
    }
    let end = t.launder(at + k);
    if t.at(end) != b'\r' || t.at(end + 1) != b'\n' {
        let cut = t.at(end) == 0 || (t.at(end) == b'\r' && t.at(end + 1) == 0);
        return refuse(t, if cut { Reason::Split } else { Reason::NotText });
    }
    t.put(slot::POSITION, end + 2);
    let open = t.get(slot::MULTILINE);
    let code = code(t, at);
    let sep = t.at(at + 3);
    let coded = code != 0 && (sep == b' ' || sep == b'-' || sep == b'\r');
    if open == 0 {
        if !coded {
            return refuse(t, Reason::BadCode);
        }
        if sep == b'-' {
            t.put(slot::MULTILINE, code);
        } else if code >= 200 {
            t.put(slot::FINAL, code);
            t.put(slot::FINAL_AT, at);
        }
        return true;
    }
    if !coded || (code == open && sep == b'-') {
        return true;
    }
    // Another code inside a multi-line reply ends it for some readers and not for others.
    if code != open || sep == b'\r' {
        return refuse(t, Reason::Ambiguous);
    }
    t.put(slot::MULTILINE, 0);
    if code >= 200 {
        t.put(slot::FINAL, code);
        t.put(slot::FINAL_AT, at);
        t.put(slot::FINAL_MULTI, 1);
    }
    true
}

/// The port in the 227 at `at` if it holds exactly one endpoint and that of `own`, or 0 (RFC 1123 section 4.1.2.6:
/// the first digit begins it, with or without parentheses).
#[inline(always)]
pub fn read_227<T: Text>(t: T, at: u32, own: &Addr) -> u32 {
    // From the separator on: where it is the CR, what follows is no part of this segment.
    let begin = find(t, at + 3, false);
    if t.at(begin) == b'\r' {
        return 0;
    }
    let (port, end) = number::six(t, begin, own);
    if port == 0 || t.at(find(t, end, false)) != b'\r' {
        return 0;
    }
    port
}

/// The port in the 229 at `at` if it holds exactly one, or 0 (RFC 2428 section 3).
#[inline(always)]
pub fn read_229<T: Text>(t: T, at: u32) -> u32 {
    let begin = find(t, at + 3, true);
    if t.at(begin) == b'\r' {
        return 0;
    }
    let (port, end) = number::extended(t, begin);
    if port == 0 || t.at(find(t, end, true)) != b'\r' {
        return 0;
    }
    port
}

/// Where the next digit (or opening parenthesis) or the line's CR stands.
///
/// The line is known to have a CR, so nothing is compared with its length. Eight bytes at a time.
#[inline(always)]
fn find<T: Text>(t: T, at: u32, parenthesis: bool) -> u32 {
    let mut w = at >> 3;
    // Of the first word only what is not before `at`.
    let mut keep = u64::MAX << ((at & 7) * 8);
    let mut marks = 0;
    let mut k = 0u32;
    while k <= LINE_MAX / 8 {
        let x = t.word(w);
        let wanted = if parenthesis { equal(x, b'(') } else { digits(x) };
        marks = (wanted | equal(x, b'\r')) & keep;
        if marks != 0 {
            break;
        }
        keep = u64::MAX;
        w += 1;
        k += 1;
    }
    // The bytes up to the lowest mark, that one included.
    let count = ((marks & marks.wrapping_neg()).wrapping_sub(1) & ONES).wrapping_mul(ONES) >> 56;
    t.launder(w * 8 + count as u32 - 1)
}

/// The reply code at `at` (100-599), or 0.
#[inline(always)]
fn code<T: Text>(t: T, at: u32) -> u32 {
    let (a, b, c) = (digit(t.at(at)), digit(t.at(at + 1)), digit(t.at(at + 2)));
    if a == 0 || a > 5 || b > 9 || c > 9 {
        return 0;
    }
    t.launder(a * 100 + b * 10 + c)
}

#[inline(always)]
fn refuse<T: Text>(t: T, why: Reason) -> bool {
    t.put(slot::WHY, why as u32);
    false
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::canon::host::HostText;

    fn lines(s: &str, open: u16) -> Replies {
        read_lines(HostText::new(s.as_bytes()).handle(), s.len() as u32, open)
    }

    /// The byte at every place of a word, at every beginning, with anything behind the line.
    #[test]
    fn what_is_looked_for_is_found_at_once() {
        for (parenthesis, wanted) in [(false, b"0123456789".as_slice()), (true, b"(".as_slice())] {
            for before in (0x20..=0x7eu8).filter(|c| !wanted.contains(c)) {
                for (length, at) in (0..20).flat_map(|length| (0..=length).map(move |at| (length, at))) {
                    for (i, c) in wanted.iter().chain(b"\r").enumerate() {
                        let behind = if i % 2 == 0 { [b'\n', 0, 0xff, b'1'] } else { [0x80; 4] };
                        let line = [vec![before; length], vec![*c], behind.repeat(6)].concat();
                        let mut text = HostText::new(&line);
                        assert_eq!(find(text.handle(), at as u32, parenthesis), length as u32, "{line:?} from {at}");
                    }
                }
            }
        }
    }

    #[test]
    fn several_lines() {
        let r = lines("220-Welcome\r\n 230 not a code\r\n220-more\r\n\r\n220 ready\r\n", 0);
        assert_eq!((r.code, r.multi, r.open, r.why), (220, true, 0, 0));
        let r = lines("150-Accepted data connection\r\n150 0.2 kbytes to download\r\n", 0);
        assert_eq!((r.code, r.open, r.why), (0, 0, 0));
        let r = lines("150 Opening\r\n226 done\r\n", 0);
        assert_eq!((r.code, r.at, r.multi, r.why), (226, 13, false, 0));
        let r = lines("211-Features\r\n EPSV\r\n", 0);
        assert_eq!((r.code, r.open, r.why), (0, 211, 0));
        let r = lines(" PASV\r\n211 End\r\n", 211);
        assert_eq!((r.code, r.multi, r.open, r.why), (211, true, 0, 0));
        let r = lines("2026-01-01 news\r\n", 211);
        assert_eq!((r.code, r.open, r.why), (0, 211, 0));
    }

    #[test]
    fn what_is_ambiguous_or_cut() {
        for (text, open, why) in [
            ("226 done\r\n227 Entering (1,2,3,4,5,6)\r\n", 0, Reason::Ambiguous),
            ("227 Entering (1,2,3,4,5,6)\r\n", 250, Reason::Ambiguous),
            ("250\r\n", 250, Reason::Ambiguous),
            ("226 do", 0, Reason::Split),
            ("226 done\r", 0, Reason::Split),
            ("226 done\n", 0, Reason::NotText),
            ("SSH-2.0-x\r\n", 0, Reason::BadCode),
            ("999 x\r\n", 0, Reason::BadCode),
            ("226\tx\r\n", 0, Reason::NotText),
            ("220-x\r\n\0\r\n", 0, Reason::TooLong),
        ] {
            assert_eq!(lines(text, open).why, why as u32, "{text:?}");
        }
        let long = format!("220 {}\r\n", "x".repeat(600));
        assert_eq!(lines(&long, 0).why, Reason::NotText as u32);
        assert_eq!(lines(&"150 x\r\n".repeat(65), 0).why, Reason::TooLong as u32);
        assert_eq!(lines(&"150 x\r\n".repeat(64), 0).why, 0);
    }

    #[test]
    fn announcements() {
        let me: Addr = "198.51.100.5".parse::<IpAddr>().unwrap().into();
        let pasv = |s: &str| read_227(HostText::new(format!("227 {s}\r\n").as_bytes()).handle(), 0, &me);
        assert_eq!(pasv("Entering Passive Mode (198,51,100,5,195,149)."), 50069);
        assert_eq!(pasv("Entering Passive Mode 198,51,100,5,195,149"), 50069);
        assert_eq!(pasv("=198,51,100,5,195,149"), 50069);
        for bad in [
            "Entering Passive Mode (198,51,100,6,195,149)",
            "1,2,3 files (198,51,100,5,195,149)",
            "(1,2,3,4,5,6) (198,51,100,5,195,149)",
            "(198,51,100,5,195,149) (1)",
            "(198,51,100,5,195,256)",
            "none",
            "",
        ] {
            assert_eq!(pasv(bad), 0, "{bad}");
        }
        let epsv = |s: &str| read_229(HostText::new(format!("229 {s}\r\n").as_bytes()).handle(), 0);
        assert_eq!(epsv("Entering Extended Passive Mode (|||50069|)"), 50069);
        for bad in ["|||50069|", "((|||1|)|||50069|)", "(foo) (|||50069|)", "(|||50069|) (x)", ""] {
            assert_eq!(epsv(bad), 0, "{bad}");
        }
    }

    #[test]
    fn a_bare_code_announces_nothing_whatever_lay_in_memory_before() {
        let me: Addr = "198.51.100.5".parse::<IpAddr>().unwrap().into();
        let stale = |s: &str| format!("{s}\r\n\0 (198,51,100,5,195,149)\r\n(|||50069|)\r\n");
        assert_eq!(read_227(HostText::new(stale("227").as_bytes()).handle(), 0, &me), 0);
        assert_eq!(read_229(HostText::new(stale("229").as_bytes()).handle(), 0), 0);
        assert_eq!(read_227(HostText::new(stale("227 ").as_bytes()).handle(), 0, &me), 0);
        assert_eq!(read_229(HostText::new(stale("229 ").as_bytes()).handle(), 0), 0);
    }

    #[test]
    fn one_line() {
        let one = |s: &str| read_single(HostText::new(s.as_bytes()).handle());
        assert_eq!(one("226 done\r\n").code, 226);
        assert_eq!(one("226\r\n").code, 226);
        assert_eq!(one("150 x\r\n").code, 0);
        assert_eq!(one("230-x\r\n").open, 230);
        for bad in ["22", "2260 x\r\n", "600 x\r\n", "0x\r\n", " 226 x\r\n", "226x\r\n", "099 x\r\n"] {
            assert_eq!(one(bad).why, Reason::BadCode as u32, "{bad}");
        }
    }
}
