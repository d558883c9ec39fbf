//! How a line is told: without a secret, and printable.

/// What a client's line is told as if it holds a secret: `None` of one that holds none.
///
/// Broader than what the grammar takes for such a command: what a server may take for one, or a person has mistyped, is
/// hidden as well.
pub(super) fn without_password(line: &[u8]) -> Option<Vec<u8>> {
    let start = line.iter().position(u8::is_ascii_alphabetic)?;
    let is = |at: usize, word: &[u8]| line.get(at..at + word.len()).is_some_and(|w| w.eq_ignore_ascii_case(word));
    let hide = |at: usize| {
        let secret = line.get(at..).is_some_and(|rest| rest.iter().any(|b| !b.is_ascii_whitespace()));
        secret.then(|| [&line[..at], b" ***"].concat())
    };
    if [&b"PASS"[..], b"ACCT", b"ADAT"].iter().any(|verb| is(start, verb)) {
        return hide(start + 4);
    }
    if !is(start, b"SITE") {
        return None;
    }
    // Servers that let users change their passwords: SITE PSWD, PASSWD, CPWD, CHPASS and their like.
    let words = line.get(start + 4..)?;
    let second = start + 4 + words.iter().position(|b| !b.is_ascii_whitespace())?;
    let length = line[second..].iter().position(u8::is_ascii_whitespace)?;
    let word = line[second..second + length].to_ascii_uppercase();
    let has = |part: &[u8]| word.windows(part.len()).any(|w| w == part);
    if has(b"PASS") || has(b"PSWD") || has(b"PWD") || has(b"ADDUSER") { hide(second + length) } else { None }
}

/// A line as printable ASCII, so that every byte of it can still be told.
pub(super) fn printable(line: &[u8]) -> String {
    line.iter().fold(String::with_capacity(line.len()), |mut s, byte| {
        match byte {
            b'\\' => s.push_str("\\\\"),
            b' '..=b'~' => s.push(char::from(*byte)),
            other => s.push_str(&format!("\\x{other:02x}")),
        }
        s
    })
}
