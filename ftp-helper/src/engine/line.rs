//! Lines of the Telnet NVT (RFC 959 section 5.3, RFC 1123 section 4.1.2.10), cut out of a stream in order.

use std::borrow::Cow;

use ftp_helper_common::reason::Reason;
use serde::{Deserialize, Serialize};

/// Bytes of a line that are kept; the rest of a longer one is skipped up to its CRLF.
pub(super) const LINE_KEPT: usize = 1024;

/// A line without its ending and without Telnet sequences.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Line<'a> {
    /// Its bytes, [`LINE_KEPT`] at most.
    pub(super) text: Cow<'a, [u8]>,
    /// Sequence number of its first byte.
    pub(super) seq: u32,
    /// Sequence number just behind its ending.
    pub(super) end: u32,
    /// Acknowledgement number of the segment that brought its first byte.
    pub(super) ack: u32,
    /// It held a Telnet sequence.
    pub(super) telnet: bool,
    /// It ended in a bare LF.
    pub(super) bare: bool,
    /// It was longer than what is kept.
    pub(super) long: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Telnet {
    Ground,
    /// Behind IAC.
    Command,
    /// Behind IAC WILL, WONT, DO or DONT.
    Option,
}

/// Cuts lines.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Assembler {
    partial: Vec<u8>,
    seq: u32,
    ack: u32,
    state: Telnet,
    started: bool,
    cr: bool,
    telnet: bool,
    long: bool,
    /// Up to the next CRLF everything is the rest of a line whose beginning was not seen.
    skipping: bool,
}

const IAC: u8 = 255;
const SB: u8 = 250;
const WILL: u8 = 251;
const IP: u8 = 244;
const DM: u8 = 242;
/// The lowest Telnet command (RFC 854: SE).
const SE: u8 = 240;

impl Assembler {
    /// At the beginning of a line.
    pub(super) fn new() -> Self {
        Self {
            partial: Vec::new(),
            seq: 0,
            ack: 0,
            state: Telnet::Ground,
            started: false,
            cr: false,
            telnet: false,
            long: false,
            skipping: false,
        }
    }

    /// Somewhere in a line: everything up to the next CRLF is skipped.
    pub(super) fn midway() -> Self {
        Self { skipping: true, ..Self::new() }
    }

    /// Whether the stream is whole up to the end of a line.
    pub(super) fn is_whole(&self) -> bool {
        !self.started && !self.skipping
    }

    /// Heap that it uses.
    #[cfg(test)]
    pub(super) fn heap(&self) -> usize {
        self.partial.capacity()
    }

    /// Takes bytes up to the end of a line; returns how many, and the line.
    ///
    /// # Errors
    /// The reason why the stream can't be read as lines (a bare CR or, unless `lenient`, a bare LF; a Telnet
    /// subnegotiation, or a Telnet option that is a line end to others).
    pub(super) fn feed<'a>(
        &mut self,
        data: &'a [u8],
        seq: u32,
        ack: u32,
        lenient: bool,
    ) -> Result<(usize, Option<Line<'a>>), Reason> {
        if self.is_whole()
            && let Some(n) = clean_line(data)
        {
            let (text, end) = (Cow::Borrowed(&data[..n]), seq.wrapping_add(n as u32 + 2));
            return Ok((n + 2, Some(Line { text, seq, end, ack, telnet: false, bare: false, long: false })));
        }
        for (i, &byte) in data.iter().enumerate() {
            if !self.started {
                self.started = true;
                self.seq = seq.wrapping_add(i as u32);
                self.ack = ack;
            }
            if self.take(byte, lenient)? {
                let bare = byte == b'\n' && !self.cr;
                let line = Line {
                    text: Cow::Owned(std::mem::take(&mut self.partial)),
                    seq: self.seq,
                    end: seq.wrapping_add(i as u32 + 1),
                    ack: self.ack,
                    telnet: self.telnet,
                    bare,
                    long: self.long,
                };
                let skipped = self.skipping;
                *self = Self::new();
                return Ok((i + 1, (!skipped).then_some(line)));
            }
        }
        Ok((data.len(), None))
    }

    /// Takes one byte; true at the end of a line.
    fn take(&mut self, byte: u8, lenient: bool) -> Result<bool, Reason> {
        match self.state {
            Telnet::Option => {
                self.state = Telnet::Ground;
                // Options 10 and 13 exist (RFC 652, RFC 655), but one who knows no Telnet sees a line end there.
                return if matches!(byte, b'\r' | b'\n') { Err(Reason::TelnetInCommand) } else { Ok(false) };
            }
            Telnet::Command => {
                self.state = Telnet::Ground;
                match byte {
                    IAC => {
                        self.push(IAC);
                        return Ok(false);
                    }
                    // What lies within would have to be skipped, line endings included.
                    SB => return Err(Reason::TelnetInCommand),
                    WILL.. => {
                        self.state = Telnet::Option;
                        return Ok(false);
                    }
                    SE.. => return Ok(false),
                    // No Telnet command: 255 stood for itself.
                    _ => self.push(IAC),
                }
            }
            Telnet::Ground => {}
        }
        if self.cr {
            if byte == b'\n' {
                return Ok(true);
            }
            if !self.skipping {
                return Err(Reason::BareCr);
            }
            self.cr = false;
        }
        match byte {
            IAC => {
                self.telnet = true;
                self.state = Telnet::Command;
            }
            b'\r' => self.cr = true,
            b'\n' if lenient => return Ok(true),
            b'\n' if !self.skipping => return Err(Reason::BareLf),
            _ => self.push(byte),
        }
        Ok(false)
    }

    fn push(&mut self, byte: u8) {
        if self.skipping {
        } else if self.partial.len() < LINE_KEPT {
            self.partial.push(byte);
        } else {
            self.long = true;
        }
    }
}

/// Whether urgent data is what may be urgent: Telnet's IP and DM, alone or around an ABOR (RFC 959 section 4.1.3).
pub(super) fn may_be_urgent(data: &[u8]) -> bool {
    let text: Vec<u8> = data.iter().copied().filter(|b| ![IAC, IP, DM].contains(b)).collect();
    text.is_empty() || text.eq_ignore_ascii_case(b"ABOR\r\n")
}

/// Length of the line that `data` begins with, if it is whole and holds nothing that needs a second look.
fn clean_line(data: &[u8]) -> Option<usize> {
    let n = data.iter().take(LINE_KEPT + 1).position(|b| matches!(b, b'\r' | b'\n' | &IAC))?;
    data[n..].starts_with(b"\r\n").then_some(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines in `data`, fed `step` bytes at a time.
    fn lines(data: &[u8], step: usize, lenient: bool) -> Result<Vec<Line<'static>>, Reason> {
        let (mut a, mut out, mut at) = (Assembler::new(), Vec::new(), 0);
        while at < data.len() {
            let part = &data[at..data.len().min(at + step)];
            let (n, line) = a.feed(part, at as u32, 7, lenient)?;
            at += n;
            if let Some(l) = line {
                out.push(Line { text: Cow::Owned(l.text.into_owned()), ..l });
            }
        }
        Ok(out)
    }

    #[test]
    fn every_cut_gives_the_same_lines() {
        let data = b"USER x\r\n\xff\xf4\xff\xf2ABOR\r\n\r\nRETR \xff\xff\xffa\xff\xfb\x01b\r\n";
        let whole = lines(data, data.len(), false).unwrap();
        let texts: Vec<_> = whole.iter().map(|l| (&l.text[..], l.telnet)).collect();
        assert_eq!(texts, [(&b"USER x"[..], false), (b"ABOR", true), (b"", false), (b"RETR \xff\xffab", true)]);
        assert_eq!((whole[1].seq, whole[1].end), (8, 18));
        for step in 1..data.len() {
            assert_eq!(lines(data, step, false).unwrap(), whole, "{step}");
        }
    }

    #[test]
    fn what_is_no_line_ending() {
        for step in [1, 100] {
            for (data, reason) in [
                (&b"PORT 1\n"[..], Reason::BareLf),
                (b"PORT 1\rLIST\r\n", Reason::BareCr),
                (b"PORT 1\r\0", Reason::BareCr),
                (b"PORT 1\r\r\n", Reason::BareCr),
                (b"\n\r", Reason::BareLf),
                (b"A\xff\xfax\xff\xf0\r\n", Reason::TelnetInCommand),
                (b"A\xff\xfb\r\n", Reason::TelnetInCommand),
                (b"A\xff\xfd\nPASV\r\n", Reason::TelnetInCommand),
            ] {
                assert_eq!(lines(data, step, false), Err(reason), "{data:?}");
            }
            let lenient = lines(b"a\nb\r\n", step, true).unwrap();
            assert_eq!((lenient[0].bare, lenient[1].bare), (true, false));
        }
    }

    #[test]
    fn a_long_line_is_one_line() {
        let mut data = b"CWD ".to_vec();
        data.extend([b'A'; 20_000]);
        data.extend(b"PORT 1,2,3,4,5,6\r\nNOOP\r\n");
        for step in [1, 127, 1500, 30_000] {
            let got = lines(&data, step, false).unwrap();
            assert_eq!(got.len(), 2);
            assert!(got[0].long && got[0].text.len() == LINE_KEPT && got[0].text.starts_with(b"CWD A"));
            assert_eq!(&got[1].text[..], b"NOOP");
        }
    }

    #[test]
    fn midway_begins_behind_the_next_crlf() {
        let mut a = Assembler::midway();
        assert!(!a.is_whole());
        let data = b"rest\r of\n a line\r\nNOOP\r\n";
        let (n, line) = a.feed(data, 0, 0, false).unwrap();
        assert_eq!((n, line), (18, None));
        assert_eq!(&a.feed(&data[n..], 18, 0, false).unwrap().1.unwrap().text[..], b"NOOP");
    }

    #[test]
    fn urgent_data() {
        assert!(may_be_urgent(b"\xff\xf4\xff"));
        assert!(may_be_urgent(b"\xf2ABOR\r\n"));
        assert!(!may_be_urgent(b"X"));
        assert!(!may_be_urgent(b"PORTX 1"));
    }
}
