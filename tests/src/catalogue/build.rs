//! How stimuli are put together: the words that the families are written in.

use ftp_helper::engine::policy::Policy;
use ftp_helper_common::{
    key::{CLIENT, SERVER},
    tcp,
};

use super::{Begin, Data, Host, Knob, Places, Seen, Segment, Step, Stimulus, Verdict};
use crate::packet::Packet;

/// The default policy.
pub(crate) const DEFAULT: Knob = Knob { apply: |_| (), toml: ["", ""] };

/// A stimulus that begins logged in, over IPv4, in both places, and opens nothing.
pub(crate) fn stimulus(id: &'static str, about: &'static str) -> Stimulus {
    Stimulus {
        id,
        about,
        v6: false,
        places: Places::Both,
        knob: DEFAULT,
        begin: Begin::LoggedIn,
        steps: Vec::new(),
        verdict: Verdict::NoOpen,
        opens: Vec::new(),
        left: 0,
        reason: None,
        on_wire: false,
        by_epsv: false,
        sees_again: true,
    }
}

/// How a stimulus is put together.
impl Stimulus {
    pub(crate) fn v6(self) -> Self {
        Self { v6: true, ..self }
    }

    pub(crate) fn knob(self, apply: fn(&mut Policy), toml: [&'static str; 2]) -> Self {
        Self { knob: Knob { apply, toml }, ..self }
    }

    pub(crate) fn outside(self) -> Self {
        Self { places: Places::Outside, ..self }
    }

    pub(crate) fn inside(self) -> Self {
        Self { places: Places::Inside, ..self }
    }

    pub(crate) fn begin(self, begin: Begin) -> Self {
        Self { begin, ..self }
    }

    pub(crate) fn on_wire(self) -> Self {
        Self { on_wire: true, ..self }
    }

    /// A line of the client's.
    pub(crate) fn c(self, line: &str) -> Self {
        self.raw(CLIENT, format!("{line}\r\n").as_bytes())
    }

    /// A line of the server's.
    pub(crate) fn s(self, line: &str) -> Self {
        self.raw(SERVER, format!("{line}\r\n").as_bytes())
    }

    /// Bytes as they are, in one segment.
    pub(crate) fn raw(self, side: u8, payload: &[u8]) -> Self {
        self.segment(segment(side, payload))
    }

    /// The same, cut into pieces of so many bytes.
    pub(crate) fn cut(self, side: u8, payload: &[u8], size: usize) -> Self {
        payload.chunks(size).fold(self, |s, part| s.raw(side, part))
    }

    pub(crate) fn segment(mut self, segment: Segment) -> Self {
        self.steps.push(Step::Control(segment));
        self
    }

    pub(crate) fn by_epsv(self) -> Self {
        Self { by_epsv: true, ..self }
    }

    /// Bytes are missing: the kernel stays blind.
    pub(crate) fn blinds(self) -> Self {
        Self { sees_again: false, ..self }
    }

    /// Flags without payload.
    pub(crate) fn flags(self, side: u8, flags: u8) -> Self {
        self.segment(Segment { flags, ..segment(side, b"") })
    }

    pub(crate) fn data(mut self, data: Data) -> Self {
        self.steps.push(Step::Data(data));
        self
    }

    pub(crate) fn wait(mut self, milliseconds: u64) -> Self {
        self.steps.push(Step::Wait(milliseconds));
        self
    }

    /// PASV and its 227 for [`PORT`].
    pub(crate) fn pasv(self) -> Self {
        self.c("PASV").s("227 Entering Passive Mode (198,51,100,5,195,149).")
    }

    pub(crate) fn opens(self, ports: &[u16]) -> Self {
        Self { verdict: Verdict::Open, opens: ports.to_vec(), left: usize::from(!ports.is_empty()), ..self }
    }

    /// It opens, and nothing is left of that.
    pub(crate) fn verdict_open(self) -> Self {
        Self { verdict: Verdict::Open, ..self }
    }

    pub(crate) fn no_reason(self) -> Self {
        Self { reason: None, ..self }
    }

    pub(crate) fn opened(self, ports: &[u16], left: usize) -> Self {
        Self { opens: ports.to_vec(), left, ..self }
    }

    pub(crate) fn refused(self, reason: &'static str) -> Self {
        Self { reason: Some(reason), ..self }
    }

    pub(crate) fn verdict(self, verdict: Verdict, reason: &'static str) -> Self {
        Self { verdict, reason: Some(reason), ..self }
    }

    pub(crate) fn taints(self, reason: &'static str) -> Self {
        self.verdict(Verdict::Taint, reason)
    }

    pub(crate) fn kills(self) -> Self {
        self.verdict(Verdict::Kill, "overlap")
    }
}

/// A segment with the side's next bytes, acknowledging everything.
pub(crate) fn segment(side: u8, payload: &[u8]) -> Segment {
    Segment {
        side,
        payload: payload.to_vec(),
        flags: tcp::ACK,
        seq: 0,
        ack: 0,
        inserted: false,
        elsewhere: false,
        alter: None,
        seen: Seen::Pass,
    }
}

impl Segment {
    pub(crate) fn seq(self, seq: i64) -> Self {
        Self { seq, ..self }
    }

    pub(crate) fn ack(self, ack: i64) -> Self {
        Self { ack, ..self }
    }

    pub(crate) fn inserted(self) -> Self {
        Self { inserted: true, ..self }
    }

    /// Sent by somebody who is on the other side.
    pub(crate) fn spoofed(self) -> Self {
        Self { inserted: true, elsewhere: true, seen: Seen::Drop("wrong_hook"), ..self }
    }

    pub(crate) fn alter(self, alter: fn(&mut Packet)) -> Self {
        Self { alter: Some(alter), ..self }
    }

    pub(crate) fn seen(self, seen: Seen) -> Self {
        Self { seen, ..self }
    }

    pub(crate) fn with(self, flags: u8) -> Self {
        Self { flags: self.flags | flags, ..self }
    }
}

/// Initial sequence number of the data connection from this port, and of what answers.
const fn isn(port: u16) -> [u32; 2] {
    [0xffff_0000 | port as u32, 0x7000_0000]
}

/// The first packet of a data connection through a pinhole: it passes.
pub(crate) fn syn(from: (Host, u16), to: (Host, u16)) -> Data {
    Data {
        from,
        to,
        flags: tcp::SYN,
        seq: isn(from.1)[0],
        ack: 0,
        alter: None,
        passes: true,
        counts: &[("syn_passed", 1)],
    }
}

/// The same, and it does not.
pub(crate) fn denied(from: (Host, u16), to: (Host, u16)) -> Data {
    Data { passes: false, counts: &[("no_pinhole", 1), ("syn_denied", 1)], ..syn(from, to) }
}

/// The answer to the SYN between these two, given as the SYN's own ends: it uses the pinhole.
pub(crate) fn answer(from: (Host, u16), to: (Host, u16)) -> Data {
    Data {
        from: to,
        to: from,
        flags: tcp::SYN | tcp::ACK,
        seq: isn(from.1)[1],
        ack: isn(from.1)[0].wrapping_add(1),
        alter: None,
        passes: true,
        counts: &[("records", 1), ("used", 1)],
    }
}

impl Data {
    pub(crate) fn counts(self, counts: &'static [(&'static str, u64)]) -> Self {
        Self { counts, ..self }
    }

    pub(crate) fn denied_for(self, counts: &'static [(&'static str, u64)]) -> Self {
        Self { passes: false, counts, ..self }
    }

    pub(crate) fn alter(self, alter: fn(&mut Packet)) -> Self {
        Self { alter: Some(alter), ..self }
    }

    pub(crate) fn flags(self, flags: u8) -> Self {
        Self { flags, ..self }
    }
}
