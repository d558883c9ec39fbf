//! The engine under test: segments in, pinholes out, and what must hold after every step.

use std::{net::IpAddr, time::Duration};

use arbitrary::{Result, Unstructured};
use ftp_helper::{
    engine::{
        Action, Engine, Policy, Record, Visible,
        policy::{ActiveOpen, LineEndings, Modes, Opaque, Server},
    },
    event::{Kind, NegotiatedBy},
};
use ftp_helper_common::{
    canon::{
        Made, Segment, bit,
        host::{HostRules, Machine},
        opened_kind,
    },
    command::{Command, Outcome, op},
    key::{CLIENT, FlowKey, HOOK_IN, PinholeKey, SessionKey},
    policy::KernelPolicy,
    record::{CHUNK, FlowRecord, SegmentRecord, kind},
    state::{flag, pending},
    tcp,
};

use crate::{
    oracle::{Active, Hole, Rules, Way},
    testrun::kernel_policy,
};

/// A second, in nanoseconds.
pub const SECOND: u64 = 1_000_000_000;
/// First sequence numbers of client and server, close to the wrap on purpose.
pub const START: [u32; 2] = [0xffff_fff0, 0xffff_ff00];
/// The session's id.
const ID: u64 = 0x51;
/// Bytes of the client that are remembered to look for its commands.
const HEARD: usize = 1 << 12;
/// What the client must have sent, for each way; in the order of `pending`.
const VERBS: [(Way, &[u8]); 4] =
    [(Way::Pasv, b"PASV"), (Way::Epsv, b"EPSV"), (Way::Port, b"PORT "), (Way::Eprt, b"EPRT ")];

/// Between whom, and by which policy.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The control connection.
    pub key: SessionKey,
    /// The hook that the client's packets pass: `HOOK_IN` if it is outside.
    pub hook: u8,
    /// What is allowed.
    pub policy: Policy,
}

/// A segment on the wire.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wire {
    /// `CLIENT` or `SERVER`.
    pub side: u8,
    /// TCP flags.
    pub flags: u8,
    /// Sequence number of the first byte.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// The payload.
    pub data: Vec<u8>,
}

/// One session in the engine, simulated time, and perhaps the kernel's reader in front.
pub struct Rig {
    /// The engine.
    pub engine: Engine,
    /// Every pinhole that was told to be open, in order.
    pub opened: Vec<Hole>,
    /// What both sides have sent.
    pub next: [u32; 2],
    setting: Setting,
    kernel: Option<Kernel>,
    now: u64,
    /// The client's stream: of each byte, every value that was ever sent for it, as a set. Which of them counts is not the
    /// rig's to say.
    heard: Vec<[u64; 4]>,
}

/// The kernel's tables, as far as one session goes.
struct Kernel {
    machine: Machine,
    policy: KernelPolicy,
    denied: Vec<u16>,
    range: (u16, u16),
    pinhole: Option<(PinholeKey, u32)>,
    opened: Vec<Hole>,
}

impl Setting {
    /// The hosts of one family, the default policy with active mode both ways; the client outside.
    pub fn new(v6: bool) -> Self {
        let [client, server]: [IpAddr; 2] = if v6 {
            ["2001:db8::10", "2001:db8:5::5"].map(|a| a.parse().expect("an address"))
        } else {
            ["192.0.2.10", "198.51.100.5"].map(|a| a.parse().expect("an address"))
        };
        let key = SessionKey { client: client.into(), server: server.into(), client_port: 40000, server_port: 21 };
        let policy = Policy { deny_ports: [3306, 5432].into(), active_inbound: true, ..Policy::default() };
        Self { key, hook: HOOK_IN, policy }
    }

    /// Any setting.
    ///
    /// # Errors
    /// Never for bytes: those that are missing are zeros.
    pub fn arbitrary(u: &mut Unstructured<'_>) -> Result<Self> {
        let bits: u16 = u.arbitrary()?;
        let bit = |n: u32| bits >> n & 1 != 0;
        let mut setting = Self::new(bit(0));
        setting.hook = HOOK_IN ^ u8::from(bit(1));
        let policy = &mut setting.policy;
        policy.active_open = [ActiveOpen::Auto, ActiveOpen::Command, ActiveOpen::Reply, ActiveOpen::Transfer]
            [usize::from(bits >> 2 & 3)];
        policy.active_inbound = !bit(4);
        if bit(5) && bit(6) {
            policy.line_endings = LineEndings::Lenient;
        }
        if bit(7) && bit(8) {
            policy.modes = Modes((bits >> 9) as u8 & Modes::ALL.0);
        }
        if bit(14) && bit(15) {
            let networks = vec![setting.key.server.to_ip().into()];
            policy.servers.push(Server { networks, passive_ports: Some(50000..=51000), opaque: Opaque::Deny });
        }
        Ok(setting)
    }

    /// The client's address.
    pub fn client(&self) -> IpAddr {
        self.key.client.to_ip()
    }

    /// The server's address.
    pub fn server(&self) -> IpAddr {
        self.key.server.to_ip()
    }

    /// The same for the oracle.
    pub fn rules(&self) -> Rules {
        let Policy { modes, deny_ports, control_ports, active_open, active_inbound, line_endings, .. } = &self.policy;
        let outside = self.hook == HOOK_IN;
        let active = match active_open {
            _ if !outside && !active_inbound => Active::Never,
            ActiveOpen::Auto | ActiveOpen::Command if outside => Active::Command,
            ActiveOpen::Auto | ActiveOpen::Command | ActiveOpen::Reply => Active::Reply,
            ActiveOpen::Transfer => Active::Transfer,
        };
        let ways = [
            (Way::Pasv, pending::PASV),
            (Way::Epsv, pending::EPSV),
            (Way::Port, pending::PORT),
            (Way::Eprt, pending::EPRT),
        ];
        Rules {
            client: self.client(),
            server: self.server(),
            ways: ways.into_iter().filter(|(_, mode)| modes.allows(*mode)).map(|(way, _)| way).collect(),
            active,
            denied: deny_ports.union(control_ports).copied().collect(),
            passive: self.policy.passive_range(self.key.server).unwrap_or(1024..=65535),
            lenient: *line_endings == LineEndings::Lenient,
        }
    }
}

impl Rig {
    /// A session after its handshake; with `kernel`, the kernel's reader is in front.
    pub fn new(setting: Setting, kernel: bool) -> Self {
        let engine = Engine::new(setting.policy.clone(), 1_700_000_000 * SECOND);
        let kernel = kernel.then(|| Kernel::new(&setting));
        let (opened, heard) = (Vec::new(), Vec::new());
        let mut rig = Self { engine, opened, next: START, setting, kernel, now: 1000 * SECOND, heard };
        let record = SegmentRecord { kind: kind::SESSION, ..rig.blank() };
        rig.record(&Record::Session(record));
        rig
    }

    /// A segment of a side with its next bytes, which acknowledges everything.
    pub fn segment(&self, side: u8, data: &[u8]) -> Wire {
        let i = usize::from(side);
        Wire { side, flags: tcp::ACK, seq: self.next[i], ack: self.next[1 - i], data: data.to_vec() }
    }

    /// Puts a segment through.
    ///
    /// # Panics
    /// An invariant does not hold.
    pub fn wire(&mut self, wire: &Wire) {
        let i = usize::from(wire.side);
        let len = u32::try_from(wire.data.len()).expect("a segment is short");
        let end = wire.seq.wrapping_add(len).wrapping_add(u32::from(wire.flags & tcp::FIN != 0));
        if (1..1 << 20).contains(&tcp::distance(end, self.next[i])) {
            self.next[i] = end;
        }
        if wire.side == CLIENT {
            self.hear(wire);
        }
        let mut record = SegmentRecord {
            kind: kind::SEGMENT,
            side: wire.side,
            tcp_flags: wire.flags,
            seq: wire.seq,
            ack: wire.ack,
            segment_len: len,
            ..self.blank()
        };
        if let Some(kernel) = &mut self.kernel {
            let state = kernel.machine.state;
            (record.flags, record.epoch, record.next) = (state.flags, state.epoch, state.next);
            (record.pending, record.unanswered) = (state.pending, state.unanswered);
            record.made = kernel.segment(wire);
        }
        if wire.data.is_empty() {
            self.record(&Record::Segment(record, &[]));
        }
        for (n, part) in wire.data.chunks(CHUNK).enumerate() {
            let offset = u32::try_from(n * CHUNK).expect("a segment is short");
            self.record(&Record::Segment(SegmentRecord { offset, ..record }, part));
        }
    }

    /// Lets time pass, timers included.
    pub fn wait(&mut self, nanos: u64) {
        let until = self.now + nanos;
        while let Some(at) = self.engine.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.engine.handle_timeout(self.now);
            self.drain();
        }
        self.now = until;
        self.check();
    }

    /// Somebody uses the pinhole that is open, if one is.
    pub fn connect(&mut self) {
        let Some(hole) = self.open() else { return };
        let seq = self.kernel.as_ref().and_then(|k| k.pinhole.map(|p| p.1)).unwrap_or(0);
        let record = FlowRecord {
            kind: kind::FLOW_START,
            mode: pending::PASV + hole.way as u8,
            seq,
            session: ID,
            time: self.now,
            start: self.now,
            key: FlowKey {
                initiator: hole.initiator.into(),
                responder: hole.responder.into(),
                initiator_port: 45000,
                responder_port: hole.port,
            },
            ..FlowRecord::default()
        };
        if let Some(kernel) = &mut self.kernel {
            kernel.pinhole = None;
        }
        self.record(&Record::FlowStart(record));
    }

    /// The pinhole that is open now.
    pub fn open(&self) -> Option<Hole> {
        self.engine.pinhole(self.now, ID).map(|p| hole(&p))
    }

    /// Whether the session may open nothing any more.
    pub fn barred(&self) -> bool {
        let good = |state| matches!(state, Visible::Greeting | Visible::Login | Visible::Ready);
        !self.engine.sessions().any(|s| s.id == ID && good(s.state))
    }

    /// What the engine makes of the session now.
    pub fn state(&self) -> Option<Visible> {
        self.engine.sessions().next().map(|s| s.state)
    }

    /// What the kernel's reader has opened, if it is there.
    pub fn opened_by_kernel(&self) -> &[Hole] {
        self.kernel.as_ref().map_or(&[], |k| &k.opened)
    }

    fn blank(&self) -> SegmentRecord {
        SegmentRecord {
            session: ID,
            time: self.now,
            key: self.setting.key,
            start: START,
            next: START,
            client_hook: self.setting.hook,
            ..SegmentRecord::default()
        }
    }

    fn record(&mut self, record: &Record<'_>) {
        self.engine.handle_record(self.now, record);
        self.drain();
        self.check();
    }

    fn drain(&mut self) {
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::Event(event) => {
                    if event.event == Kind::Opened {
                        let pinhole = event.pinhole.as_ref().expect("what opens is told");
                        self.check_opened(&hole(pinhole));
                    }
                }
                Action::Command(command) => {
                    let outcome = self.kernel.as_mut().map_or(Outcome::Done, |k| k.command(&command));
                    self.engine.handle_outcome(self.now, &command, outcome);
                }
            }
        }
    }

    /// The catalogue's invariants I1 and I2, and the policy.
    fn check_opened(&mut self, hole: &Hole) {
        let (client, server) = (self.setting.client(), self.setting.server());
        let passive = matches!(hole.way, Way::Pasv | Way::Epsv);
        let ends = if passive { (client, server) } else { (server, client) };
        assert_eq!((hole.initiator, hole.responder), ends, "I2: only between the two hosts");
        let Policy { deny_ports, control_ports, .. } = &self.setting.policy;
        assert!(hole.port >= 1024 && !deny_ports.contains(&hole.port) && !control_ports.contains(&hole.port));
        if self.heard.len() < HEARD {
            let verb = VERBS.iter().find(|(way, _)| *way == hole.way).map_or(&[][..], |(_, verb)| verb);
            let said = |at: &[u64; 4], byte: u8| at[usize::from(byte >> 6)] >> (byte & 63) & 1 != 0;
            let fits = |at: &[u64; 4], byte: u8| said(at, byte) || said(at, byte.to_ascii_lowercase());
            let asked = self.heard.windows(verb.len()).any(|w| w.iter().zip(verb).all(|(at, byte)| fits(at, *byte)));
            assert!(asked, "I1: {hole:?} without the client's {}", verb.escape_ascii());
        }
        self.opened.push(*hole);
    }

    /// Invariants I3, I4 and I5.
    fn check(&self) {
        let limit = self.setting.policy.pinhole_timeout;
        let mut open = 0;
        for view in self.engine.pinholes(self.now) {
            open += 1;
            assert!(Duration::from_millis(view.pinhole.expires_in_ms) <= limit, "I4: it lives too long");
        }
        assert!(open <= 1, "I3: {open} pinholes of one session");
        assert!(open == 0 || !self.barred(), "I5: open although {:?}", self.state());
    }

    /// Remembers what the client sends.
    fn hear(&mut self, wire: &Wire) {
        let at = wire.seq.wrapping_sub(START[0]) as usize;
        if at >= HEARD {
            return;
        }
        let end = (at + wire.data.len()).min(HEARD);
        if self.heard.len() < end {
            self.heard.resize(end, [0; 4]);
        }
        for (said, byte) in self.heard[at..end].iter_mut().zip(&wire.data) {
            said[usize::from(byte >> 6)] |= 1 << (byte & 63);
        }
    }
}

impl Kernel {
    fn new(setting: &Setting) -> Self {
        let Policy { deny_ports, control_ports, .. } = &setting.policy;
        let range = setting.policy.passive_range(setting.key.server).unwrap_or(0..=65535);
        Self {
            machine: Machine::new(setting.key, setting.hook, START),
            policy: kernel_policy(&setting.policy),
            denied: deny_ports.union(control_ports).copied().collect(),
            range: (*range.start(), *range.end()),
            pinhole: None,
            opened: Vec::new(),
        }
    }

    fn segment(&mut self, wire: &Wire) -> Made {
        let Wire { side, flags, seq, ack, ref data } = *wire;
        let segment = Segment { side, flags, fragment: false, seq, ack, len: data.len() as u32 };
        let rules = HostRules { denied: &self.denied, range: self.range };
        let before = self.machine.state;
        let (judgement, opened) = self.machine.feed(&segment, data, &self.policy, rules);
        if judgement.made.has(bit::REVOKE) {
            self.pinhole = None;
        }
        if let Some(key) = opened {
            self.pinhole = Some((key, seq));
            let kind = usize::from(opened_kind(&before, judgement.made));
            let way = VERBS[kind - usize::from(pending::PASV)].0;
            let (initiator, responder) = (key.initiator.to_ip(), key.responder.to_ip());
            self.opened.push(Hole { way, initiator, responder, port: key.port });
        }
        judgement.made
    }

    fn command(&mut self, c: &Command) -> Outcome {
        let state = &mut self.machine.state;
        let holds = self.pinhole.is_some_and(|(_, seq)| seq == c.seq);
        match c.op {
            op::OPEN if state.flags & flag::BARRED != 0 => Outcome::Barred,
            op::OPEN => {
                self.pinhole = Some((c.pinhole, c.seq));
                Outcome::Done
            }
            op::CONFIRM | op::REVOKE if !holds => Outcome::NoPinhole,
            op::CONFIRM => Outcome::Done,
            op::REVOKE => {
                self.pinhole = None;
                Outcome::Done
            }
            op::STANDING => {
                state.flags |= c.flags;
                Outcome::Done
            }
            op::RESYNC => {
                if state.flags & flag::BLIND == 0 || state.epoch != c.epoch || state.next != c.next {
                    return Outcome::MovedOn;
                }
                state.flags &= !(flag::BLIND | flag::LOGGED_IN | flag::EPSV_ALL | flag::ARMED);
                state.flags |= c.flags;
                (state.unanswered, state.pending, state.multiline) = (0, 0, 0);
                (state.active_kind, state.active_port) = (c.mode, c.pinhole.port);
                Outcome::Done
            }
            op::FORGET => Outcome::Done,
            _ => Outcome::Malformed,
        }
    }
}

fn hole(pinhole: &ftp_helper::event::Pinhole) -> Hole {
    let way = match pinhole.mode {
        NegotiatedBy::Pasv => Way::Pasv,
        NegotiatedBy::Epsv => Way::Epsv,
        NegotiatedBy::Port => Way::Port,
        NegotiatedBy::Eprt => Way::Eprt,
        NegotiatedBy::Range | NegotiatedBy::Added => panic!("nobody here opens such a thing: {pinhole:?}"),
    };
    Hole { way, initiator: pinhole.initiator, responder: pinhole.responder, port: pinhole.port }
}
