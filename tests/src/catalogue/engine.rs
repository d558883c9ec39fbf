//! The back end (e): the engine alone, in simulated time. What the kernel would drop or not read does not reach it.

use std::collections::BTreeSet;

use ftp_helper::{
    engine::{Action, Engine, Nanos, Record, Visible},
    event::Event,
};
use ftp_helper_common::{
    command::{Outcome, op},
    key::{FlowKey, SessionKey},
    record::{CHUNK, FlowRecord, SegmentRecord, kind},
};

use super::{BEHIND, Begin, Came, Data, LOGIN, Seen, Segment, Step, Stimulus, p1, policy, talk::Talk};

const MILLISECOND: Nanos = 1_000_000;

/// A session in the engine alone.
struct Run {
    engine: Engine,
    talk: Talk,
    now: Nanos,
    id: u64,
    events: Vec<Event>,
    /// The announcement that was opened last.
    seq: u32,
}

/// Runs a stimulus, and what must follow it.
///
/// # Errors
/// What is not as it must be.
pub fn run(s: &Stimulus, hook: u8) -> Result<Came, String> {
    let mut run = Run {
        engine: Engine::new(policy(s.knob), 0),
        talk: Talk::new(s.v6, hook, 40000),
        now: 1_000_000 * MILLISECOND,
        id: 1,
        events: Vec::new(),
        seq: 0,
    };
    run.begin(s.begin);
    run.events.clear();
    for (i, step) in s.steps.iter().enumerate() {
        run.step(step).map_err(|e| format!("step {i}, {step:?}: {e}"))?;
    }
    let mut came = run.came();
    // What the kernel alone tells.
    came.reasons.extend(s.steps.iter().filter_map(|step| match step {
        Step::Control(Segment { seen: Seen::Drop(reason), .. }) => Some(*reason),
        _ => None,
    }));
    s.check(&came)?;
    run.events.clear();
    run.p1(s.v6 || s.by_epsv, BEHIND[0]);
    if s.goes_on() != (run.came().opened.len() == 1) {
        return Err(format!("P1 in the same session: {:?}", run.came()));
    }
    run.talk = Talk::new(s.v6, hook, 40001);
    run.id = 2;
    run.begin(Begin::LoggedIn);
    run.events.clear();
    run.p1(s.v6, BEHIND[1]);
    if run.came().opened.len() != 1 {
        return Err(format!("P1 in a new session: {:?}", run.came()));
    }
    Ok(came)
}

impl Run {
    fn begin(&mut self, begin: Begin) {
        let record = SegmentRecord { kind: kind::SESSION, ..self.blank() };
        self.record(&Record::Session(record));
        if begin == Begin::LoggedIn {
            for (side, line) in LOGIN {
                self.control(&super::segment(side, format!("{line}\r\n").as_bytes()));
            }
        }
    }

    fn p1(&mut self, epsv: bool, port: u16) {
        for (side, line) in p1(epsv, port) {
            self.control(&super::segment(side, line.as_bytes()));
        }
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Control(segment) => self.control(segment),
            Step::Data(data) => self.data(data)?,
            Step::Wait(ms) => self.wait(ms * MILLISECOND),
        }
        if self.engine.pinholes(self.now).count() > 1 {
            return Err("two unconsumed pinholes in one session".to_owned());
        }
        Ok(())
    }

    fn control(&mut self, segment: &Segment) {
        let (packet, _) = self.talk.packet(segment);
        if segment.seen != Seen::Pass {
            return;
        }
        let record = SegmentRecord {
            kind: kind::SEGMENT,
            side: segment.side,
            tcp_flags: packet.flags,
            seq: packet.seq,
            ack: packet.ack,
            segment_len: packet.payload.len() as u32,
            ..self.blank()
        };
        if packet.payload.is_empty() {
            self.record(&Record::Segment(record, &[]));
        }
        for (i, part) in packet.payload.chunks(CHUNK).enumerate() {
            self.record(&Record::Segment(SegmentRecord { offset: (i * CHUNK) as u32, ..record }, part));
        }
    }

    fn data(&mut self, data: &Data) -> Result<(), String> {
        let counts = |name| data.counts.iter().any(|(n, _)| *n == name);
        let packet = self.talk.data(data).0;
        let open = self.engine.pinholes(self.now).find(|p| {
            let p = &p.pinhole;
            (p.initiator, p.responder, p.port) == (packet.from.ip(), packet.to.ip(), packet.to.port())
        });
        if counts("no_pinhole") && open.is_some() || counts("syn_passed") && open.is_none() && !counts("again") {
            return Err(format!("the pinhole of this SYN: {open:?}"));
        }
        if !counts("records") {
            return Ok(());
        }
        let (from, to) = if counts("used") { (packet.to, packet.from) } else { (packet.from, packet.to) };
        let record = FlowRecord {
            mode: 2,
            seq: self.seq,
            session: self.id,
            time: self.now,
            start: self.now,
            deadline: open.map_or(self.now + 9_000_000_000, |p| self.now + p.pinhole.expires_in_ms * 1_000_000),
            key: FlowKey {
                initiator: from.ip().into(),
                responder: to.ip().into(),
                initiator_port: from.port(),
                responder_port: to.port(),
            },
            ..FlowRecord::default()
        };
        self.record(&if counts("used") {
            Record::FlowStart(FlowRecord { kind: kind::FLOW_START, ..record })
        } else if counts("rearmed") {
            Record::FlowRearmed(FlowRecord { kind: kind::FLOW_REARMED, ..record })
        } else {
            Record::FlowEnd(FlowRecord { kind: kind::FLOW_END, reset: 1, ..record })
        });
        Ok(())
    }

    fn wait(&mut self, nanos: Nanos) {
        let until = self.now + nanos;
        while let Some(at) = self.engine.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.engine.handle_timeout(self.now);
            self.drain();
        }
        self.now = until;
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
                    if command.op == op::OPEN {
                        self.seq = command.seq;
                    }
                    self.engine.handle_outcome(self.now, &command, Outcome::Done);
                }
            }
        }
    }

    fn blank(&self) -> SegmentRecord {
        let d = &self.talk.dialogue;
        SegmentRecord {
            session: self.id,
            time: self.now,
            key: d.key(),
            start: d.start,
            next: d.start,
            client_hook: d.hook,
            ..SegmentRecord::default()
        }
    }

    fn came(&self) -> Came {
        came(&self.engine, &self.events, &self.talk.dialogue.key(), self.now)
    }
}

/// What the engine and its events say.
pub(super) fn came(engine: &Engine, events: &[Event], key: &SessionKey, now: Nanos) -> Came {
    let client = (key.client.to_ip(), key.client_port);
    let session = engine.sessions().find(|s| (s.client.ip(), s.client.port()) == client);
    let standing = match session.as_ref().map(|s| s.state) {
        None => "none",
        Some(Visible::Tainted(_)) => "tainted",
        Some(Visible::Killed(_)) => "killed",
        Some(Visible::Opaque(_)) => "opaque",
        Some(Visible::Closing) => "closing",
        Some(_) => "good",
    };
    let own = engine.pinholes(now).filter(|p| p.ends.is_some_and(|(c, _)| (c.ip(), c.port()) == client));
    let left: BTreeSet<u16> = own.map(|p| p.pinhole.port).collect();
    Came::of(events, left.into_iter().collect(), standing)
}
