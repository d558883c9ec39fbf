//! Lines of the Network Virtual Terminal (RFC 854, RFC 959 section 5.3.1): text that ends in CRLF, with Telnet sequences
//! in between.

/// Telnet's "interpret as command".
const IAC: u8 = 255;
/// IAC SB begins a subnegotiation.
const SB: u8 = 250;

/// A line without its end and without Telnet sequences.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Line {
    /// The text.
    pub(super) text: Vec<u8>,
    /// Whether a Telnet sequence stood in it.
    pub(super) telnet: bool,
    /// Whether it ended in a bare LF, which only a lenient reader takes.
    pub(super) bare_lf: bool,
    /// How much of the other side the sender had seen when it began the line.
    pub(super) seen: u64,
    /// How many bytes the sender has sent up to the end of the line.
    pub(super) end: u64,
}

/// What the next byte of a stream comes to.
pub(super) enum Read {
    /// Nothing yet.
    More,
    /// A line is whole.
    Line(Line),
    /// What no strict reader takes.
    Wrong(&'static str),
}

/// One side's stream.
pub(super) struct Lines {
    lenient: bool,
    /// Bytes of the line so far, as they are on the wire.
    raw: Vec<u8>,
    /// `seen` of the first of them.
    seen: u64,
    sent: u64,
}

impl Lines {
    pub(super) fn new(lenient: bool) -> Self {
        Self { lenient, raw: Vec::new(), seen: 0, sent: 0 }
    }

    pub(super) fn byte(&mut self, byte: u8, seen: u64) -> Read {
        if self.raw.is_empty() {
            self.seen = seen;
        }
        let before = self.raw.last().copied();
        self.raw.push(byte);
        self.sent += 1;
        if before == Some(b'\r') && byte != b'\n' {
            return Read::Wrong("a CR without LF");
        }
        if byte != b'\n' {
            return Read::More;
        }
        let bare_lf = before != Some(b'\r');
        if bare_lf && !self.lenient {
            return Read::Wrong("a LF without CR");
        }
        let mut raw = std::mem::take(&mut self.raw);
        raw.truncate(raw.len() - if bare_lf { 1 } else { 2 });
        match without_telnet(&raw) {
            Some((text, telnet)) => Read::Line(Line { text, telnet, bare_lf, seen: self.seen, end: self.sent }),
            None => Read::Wrong("a Telnet sequence over the end of a line, or a subnegotiation"),
        }
    }
}

/// Takes the Telnet sequences out of a line: IAC IAC stands for one byte of 255, IAC WILL, WONT, DO and DONT have an
/// option behind them, all other commands are two bytes; below 240 there is no command, and 255 stands for itself. None
/// where a sequence is cut off by the line's end, so that one who does not know Telnet sees another line end than one
/// who does, and for a subnegotiation, which nobody sends in FTP.
fn without_telnet(raw: &[u8]) -> Option<(Vec<u8>, bool)> {
    let mut text = Vec::new();
    let mut telnet = false;
    let mut at = 0;
    while at < raw.len() {
        if raw[at] != IAC {
            text.push(raw[at]);
            at += 1;
            continue;
        }
        telnet = true;
        match raw.get(at + 1) {
            None | Some(0..240) => {
                text.push(IAC);
                at += 1;
            }
            Some(&SB) => return None,
            Some(&IAC) => {
                text.push(IAC);
                at += 2;
            }
            Some(251..=254) => {
                raw.get(at + 2)?;
                at += 3;
            }
            Some(_) => at += 2,
        }
    }
    Some((text, telnet))
}
