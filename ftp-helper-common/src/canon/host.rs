//! The reader on the host: for property tests, for the fuzzers, and for `fast ⊆ full`.

use core::cell::Cell;

use super::{
    Judgement, REWRITTEN_MAX, Rewriting, SHEET, Segment, apply, bit, judge, opened_kind, pinhole_key, reply,
    rewrite_byte, rewriting,
    text::{Rules, SEGMENT_MAX, Text},
};
use crate::{
    addr::Addr,
    key::{PinholeKey, SessionKey},
    policy::KernelPolicy,
    state::{SessionState, pending},
};

/// A segment in memory of our own, with the reader's slots beside it.
pub struct HostText {
    bytes: [u8; SEGMENT_MAX as usize + 8],
    slots: [Cell<u32>; 32],
    sheet: [Cell<u8>; SHEET as usize],
}

impl HostText {
    /// Takes the first [`SEGMENT_MAX`] bytes of a segment.
    pub fn new(segment: &[u8]) -> Self {
        let mut bytes = [0; SEGMENT_MAX as usize + 8];
        let n = segment.len().min(SEGMENT_MAX as usize);
        bytes[..n].copy_from_slice(&segment[..n]);
        Self { bytes, slots: [const { Cell::new(0) }; 32], sheet: [const { Cell::new(0) }; SHEET as usize] }
    }

    /// What the reader works with.
    pub fn handle(&mut self) -> HostHandle<'_> {
        HostHandle(self)
    }
}

/// A handle to a [`HostText`].
#[derive(Clone, Copy)]
pub struct HostHandle<'a>(&'a HostText);

impl Text for HostHandle<'_> {
    fn at(self, i: u32) -> u8 {
        self.0.bytes.get(i as usize).copied().unwrap_or(0)
    }

    fn word(self, i: u32) -> u64 {
        let at = 8 * i as usize;
        self.0.bytes.get(at..at + 8).map_or(0, |b| u64::from_le_bytes(b.try_into().expect("eight bytes")))
    }

    fn launder(self, v: u32) -> u32 {
        v
    }

    fn put(self, slot: u32, v: u32) {
        self.0.slots[(slot & 31) as usize].set(v);
    }

    fn get(self, slot: u32) -> u32 {
        self.0.slots[(slot & 31) as usize].get()
    }

    fn sheet(self, i: u32) -> u8 {
        self.0.sheet[(i & (SHEET - 1)) as usize].get()
    }

    fn write(self, i: u32, byte: u8) {
        self.0.sheet[(i & (SHEET - 1)) as usize].set(byte);
    }

    fn each_byte(self, n: u32) {
        for i in 0..n {
            rewrite_byte(self, i);
        }
    }

    fn each_line(self, max: u32) {
        for _ in 0..max {
            if !reply::read_line(self) {
                break;
            }
        }
    }
}

/// A line whose endpoint is replaced if it is the one of `from`, as the kernel sends it on: its length, and its bytes; 0 where
/// there is nothing to replace, or no way to.
pub fn rewritten(line: &[u8], kind: u8, from: &Addr, to: &Rewriting) -> (usize, [u8; REWRITTEN_MAX as usize]) {
    let mut text = HostText::new(line);
    let text = text.handle();
    let n = if read(text, kind, from) == 0 { 0 } else { rewriting(text, line.len() as u32, kind, to) };
    let mut out = [0; REWRITTEN_MAX as usize];
    for (i, byte) in out.iter_mut().enumerate().take(n as usize) {
        *byte = text.sheet(i as u32);
    }
    (n as usize, out)
}

/// The port that a line announces as an endpoint of `own` of this kind, as the kernel reads it where it rewrites; 0 if it does not.
pub fn announced(line: &[u8], kind: u8, own: &Addr) -> u16 {
    read(HostText::new(line).handle(), kind, own) as u16
}

fn read(text: HostHandle<'_>, kind: u8, own: &Addr) -> u32 {
    match kind {
        pending::PASV => text.read_227(0, own),
        pending::EPSV => text.read_229(0),
        pending::PORT => text.read_port(own),
        _ => text.read_eprt(own),
    }
}

/// Rules in memory of our own.
#[derive(Clone, Copy, Debug)]
pub struct HostRules<'a> {
    /// Ports that may never be a data port.
    pub denied: &'a [u16],
    /// The passive range of every server.
    pub range: (u16, u16),
}

impl Rules for HostRules<'_> {
    fn port_denied(self, port: u32) -> bool {
        self.denied.iter().any(|p| u32::from(*p) == port)
    }

    fn passive_range(self, _server: &Addr) -> (u32, u32) {
        (self.range.0.into(), self.range.1.into())
    }
}

/// One session as the kernel would follow it: the reader with a state of its own.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The two ends.
    pub key: SessionKey,
    /// The session's entry.
    pub state: SessionState,
}

impl Machine {
    /// A session right after its handshake; `start` are the first sequence numbers of client and server.
    pub fn new(key: SessionKey, client_hook: u8, start: [u32; 2]) -> Self {
        let state = SessionState {
            id: 1,
            next: start,
            start,
            command_end: start[0],
            unanswered: 1,
            pending: pending::GREETING,
            client_hook,
            ..SessionState::default()
        };
        Self { key, state }
    }

    /// Takes a segment; tells what was made of it, and the pinhole that it opened.
    pub fn feed(
        &mut self,
        segment: &Segment,
        bytes: &[u8],
        policy: &KernelPolicy,
        rules: HostRules<'_>,
    ) -> (Judgement, Option<PinholeKey>) {
        let mut text = HostText::new(bytes);
        let judgement = judge(text.handle(), segment, &self.key, &self.state, policy, rules);
        let opened = judgement.made.has(bit::OPEN).then(|| {
            let kind = opened_kind(&self.state, judgement.made);
            pinhole_key(&self.key, self.state.client_hook, kind, judgement.made.port())
        });
        apply(&mut self.state, segment, &judgement);
        (judgement, opened)
    }
}
