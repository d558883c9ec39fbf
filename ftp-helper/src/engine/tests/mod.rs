//! Dialogues through the engine, with and without the kernel's reader beside it.

mod adoption;
mod catalogue;
mod cuts;
mod dialogue;
mod life;
mod opaque;
mod operator;
mod pace;
mod subset;
mod survive;

use std::net::IpAddr;

use ftp_helper_common::{
    addr::Addr,
    canon::{
        Made, Segment, bit,
        host::{HostRules, Machine},
    },
    command::{Command, Outcome, op},
    key::{CLIENT, FlowKey, HOOK_IN, PinholeKey, SERVER, SessionKey},
    policy::{KernelPolicy, policy_flag},
    record::{FlowRecord, SegmentRecord, kind},
    state::flag,
    tcp,
};

use super::{Action, Engine, Nanos, Policy, Record};
use crate::event::{By, Event, Kind};

/// A second of simulated time.
const SECOND: Nanos = 1_000_000_000;
/// So long after it was opened the kernel is asked about a pinhole of the fast path.
const ASKED: Nanos = 5_000_000;
/// First sequence numbers, close to the wrap on purpose.
const START: [u32; 2] = [0xffff_fff0, 0xffff_ff00];
/// The session's id.
const ID: u64 = 0x51;
/// Port of [`PASV_OK`] and its like.
const PORT: u16 = 50069;
const PASV_OK: &str = "227 Entering Passive Mode (198,51,100,5,195,149).\r\n";

/// A segment on the wire.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Wire {
    side: u8,
    flags: u8,
    seq: u32,
    ack: u32,
    data: Vec<u8>,
}

/// The kernel's tables, as far as one session goes.
struct Kernel {
    machine: Machine,
    policy: KernelPolicy,
    pinhole: Option<(PinholeKey, u32)>,
    opened: Vec<PinholeKey>,
}

/// One session in the engine, simulated time, and perhaps the kernel's reader.
struct Sim {
    engine: Engine,
    kernel: Option<Kernel>,
    key: SessionKey,
    hook: u8,
    /// What both sides have sent.
    next: [u32; 2],
    now: Nanos,
    events: Vec<Event>,
    commands: Vec<(Command, Outcome)>,
    /// What commands come to where there is no kernel.
    outcome: Outcome,
}

fn addr(s: &str) -> Addr {
    s.parse::<IpAddr>().unwrap().into()
}

fn key() -> SessionKey {
    SessionKey { client: addr("192.0.2.10"), server: addr("198.51.100.5"), client_port: 40000, server_port: 21 }
}

fn policy() -> Policy {
    Policy { deny_ports: [3306].into(), active_inbound: true, ..Policy::default() }
}

fn kernel_policy(policy: &Policy) -> KernelPolicy {
    KernelPolicy {
        modes: policy.modes.0,
        active_open: policy.active_open as u8,
        flags: if policy.active_inbound { policy_flag::ACTIVE_INBOUND } else { 0 },
        ..KernelPolicy::default()
    }
}

impl Sim {
    /// A session after its handshake, read by the engine alone.
    fn new(policy: Policy) -> Self {
        Self::between(policy, key(), HOOK_IN, false)
    }

    /// The same with the kernel's reader in front.
    fn with_kernel(policy: Policy) -> Self {
        Self::between(policy, key(), HOOK_IN, true)
    }

    fn between(policy: Policy, key: SessionKey, hook: u8, kernel: bool) -> Self {
        let kernel = kernel.then(|| Kernel {
            machine: Machine::new(key, hook, START),
            policy: kernel_policy(&policy),
            pinhole: None,
            opened: Vec::new(),
        });
        let engine = Engine::new(policy, 1_700_000_000 * SECOND);
        let now = 1000 * SECOND;
        let (events, commands) = (Vec::new(), Vec::new());
        let mut sim = Self { engine, kernel, key, hook, next: START, now, events, commands, outcome: Outcome::Done };
        let record = SegmentRecord { kind: kind::SESSION, ..sim.blank() };
        sim.record(&Record::Session(record));
        sim
    }

    /// A session that is logged in.
    fn logged_in(policy: Policy) -> Self {
        Self::new(policy).login()
    }

    fn login(mut self) -> Self {
        self.talk(LOGIN);
        self.events.clear();
        self
    }

    fn blank(&self) -> SegmentRecord {
        SegmentRecord {
            session: ID,
            time: self.now,
            key: self.key,
            start: START,
            next: START,
            client_hook: self.hook,
            ..SegmentRecord::default()
        }
    }

    /// Lines, each sent when the one before it has arrived: `C: ` and `S: `.
    fn talk(&mut self, lines: &[&str]) {
        for line in lines {
            let (side, text) = parse(line);
            self.say(side, text.as_bytes());
        }
    }

    fn client(&mut self, text: &str) {
        self.say(CLIENT, text.as_bytes());
    }

    fn server(&mut self, text: &str) {
        self.say(SERVER, text.as_bytes());
    }

    /// Sends the next bytes of a side in one segment, acknowledging everything.
    fn say(&mut self, side: u8, data: &[u8]) {
        let i = usize::from(side);
        let wire = Wire { side, flags: tcp::ACK, seq: self.next[i], ack: self.next[1 - i], data: data.to_vec() };
        self.wire(&wire);
    }

    fn flags(&mut self, side: u8, flags: u8) {
        let i = usize::from(side);
        let wire = Wire { side, flags: flags | tcp::ACK, seq: self.next[i], ack: self.next[1 - i], data: Vec::new() };
        self.wire(&wire);
        self.next[i] = self.next[i].wrapping_add(u32::from(flags & tcp::FIN != 0));
    }

    /// Puts a segment through the kernel's reader, if there is one, and through the engine.
    fn wire(&mut self, wire: &Wire) {
        let len = wire.data.len() as u32;
        let i = usize::from(wire.side);
        let end = wire.seq.wrapping_add(len);
        if tcp::distance(end, self.next[i]) > 0 {
            self.next[i] = end;
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
        let parts = wire.data.chunks(ftp_helper_common::record::CHUNK);
        if wire.data.is_empty() {
            self.record(&Record::Segment(record, &[]));
        }
        for (n, part) in parts.enumerate() {
            let offset = (n * ftp_helper_common::record::CHUNK) as u32;
            self.record(&Record::Segment(SegmentRecord { offset, ..record }, part));
        }
    }

    fn record(&mut self, record: &Record<'_>) {
        self.engine.handle_record(self.now, record);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::Event(event) => self.events.push(event),
                Action::Command(command) => {
                    let outcome = self.kernel.as_mut().map_or(self.outcome, |k| k.command(&command));
                    self.commands.push((command, outcome));
                    self.engine.handle_outcome(self.now, &command, outcome);
                }
            }
        }
    }

    /// Lets time pass, timers included.
    fn wait(&mut self, nanos: Nanos) {
        let until = self.now + nanos;
        while let Some(at) = self.engine.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.engine.handle_timeout(self.now);
            self.drain();
        }
        self.now = until;
    }

    /// The initiator's SYN has been answered.
    fn flow_start(&mut self, port: u16) -> FlowRecord {
        let seq = self.kernel.as_ref().and_then(|k| k.pinhole.map(|p| p.1));
        let opened = self.commands.iter().rev().find(|(c, _)| c.op == op::OPEN);
        let seq = seq.or(opened.map(|(c, _)| c.seq)).unwrap_or(0);
        let record = FlowRecord {
            kind: kind::FLOW_START,
            mode: 2,
            seq,
            session: ID,
            time: self.now,
            start: self.now,
            deadline: self.now + 10 * SECOND,
            key: FlowKey {
                initiator: self.key.client,
                responder: self.key.server,
                initiator_port: 45000,
                responder_port: port,
            },
            ..FlowRecord::default()
        };
        if let Some(kernel) = &mut self.kernel {
            kernel.pinhole = None;
        }
        self.record(&Record::FlowStart(record));
        record
    }

    /// Ports of all pinholes that were told to be open, in order.
    fn opened(&self) -> Vec<u16> {
        self.of(Kind::Opened).filter_map(|e| Some(e.pinhole.as_ref()?.port)).collect()
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(move |e| e.event == kind)
    }

    /// Names of the reasons of all events of a kind.
    fn reasons(&self, kind: Kind) -> Vec<&'static str> {
        self.of(kind).map(|e| e.reason.map_or("", |r| r.as_str())).collect()
    }

    fn opened_by(&self, by: By) -> usize {
        self.of(Kind::Opened).filter(|e| e.by == Some(by)).count()
    }

    /// How many pinholes are open now.
    fn open_now(&self) -> usize {
        self.engine.pinholes(self.now).count()
    }

    fn live(&self) -> bool {
        self.engine.sessions().any(|s| s.id == ID)
    }
}

impl Kernel {
    fn segment(&mut self, wire: &Wire) -> Made {
        let segment = Segment {
            side: wire.side,
            flags: wire.flags,
            fragment: false,
            seq: wire.seq,
            ack: wire.ack,
            len: wire.data.len() as u32,
        };
        let rules = HostRules { denied: &[21, 3306], range: (0, 65535) };
        let (judgement, opened) = self.machine.feed(&segment, &wire.data, &self.policy, rules);
        if judgement.made.has(bit::REVOKE) {
            self.pinhole = None;
        }
        if let Some(key) = opened {
            self.pinhole = Some((key, wire.seq));
            self.opened.push(key);
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

const LOGIN: &[&str] =
    &["S: 220 ready", "C: USER me", "S: 331 password", "C: PASS x", "S: 230-hello\r\n230 in", "C: TYPE I", "S: 200 ok"];

/// `C: line` or `S: line`; the last line's CRLF is left out.
fn parse(line: &str) -> (u8, String) {
    let (side, text) = line.split_at(3);
    (if side == "C: " { CLIENT } else { SERVER }, format!("{text}\r\n"))
}

/// A script as segments, each sent when everything before it has arrived.
fn wires(script: &[(u8, Vec<u8>)]) -> Vec<Wire> {
    let mut next = START;
    let mut wires = Vec::new();
    for (side, data) in script {
        let i = usize::from(*side);
        wires.push(Wire { side: *side, flags: tcp::ACK, seq: next[i], ack: next[1 - i], data: data.clone() });
        next[i] = next[i].wrapping_add(data.len() as u32);
    }
    wires
}
