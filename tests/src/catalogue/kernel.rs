//! The back end (k): the programs by test runs, the engine behind them, fed from the real ring buffers, its commands run
//! by the command program.
//!
//! What every packet and every command must count is computed from the tables as they stand before it, with the reader
//! compiled for the host; after each step every counter is compared, those included that must not move, and so are the
//! session's entry and the two readers' sets of pinholes.

mod expected;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU16, Ordering},
};

use ftp_helper::{
    dataplane::{Direction, FastPath, Guard},
    engine::{Action, Engine, policy::Mode, policy::Nat, policy::Policy},
    event::Event,
};
use ftp_helper_common::{
    command::{Command, Outcome, op},
    key::{CLIENT, HOOK_IN, HOOK_OUT, PinholeKey, TupleKey},
    record::kind,
    state::{SessionState, flag},
    tcp,
};

use self::expected::command_counts;
use super::{
    BEHIND, Begin, Came, Data, Host, LOGIN, PORT, Seen, Segment, Step, Stimulus, address, engine, p1, policy,
    talk::Talk,
};
use crate::{
    packet::Packet,
    testrun::{Kernel, Verdict, everybody, monotonic, parse, wait_until},
};

const CONTROL_PORT: u16 = 21;

type Counts = BTreeMap<&'static str, u64>;

/// The programs and tables, and the policy that is in force there.
pub struct Bench<'a> {
    k: &'a mut Kernel,
    applied: Option<Policy>,
    nat: bool,
}

impl<'a> Bench<'a> {
    /// Nothing is in force yet.
    pub fn new(k: &'a mut Kernel) -> Self {
        Self { k, applied: None, nat: false }
    }

    /// The same where the inside host's address is translated; `k` is loaded for that.
    pub fn translating(k: &'a mut Kernel) -> Self {
        Self { nat: true, ..Self::new(k) }
    }
}

/// A stimulus at work.
struct Run<'a> {
    k: &'a mut Kernel,
    engine: Engine,
    talk: Talk,
    policy: Policy,
    events: Vec<Event>,
    /// The first sequence numbers of a handshake that waits for the client's ACK.
    half: Option<[u32; 2]>,
    data_in_syn: bool,
    /// The connection was told not to be followed.
    stray: bool,
    /// The inside host's address, where it has another one outside.
    inside: Option<IpAddr>,
}

/// Runs a stimulus, and what must follow it, in mode `drop` or `observe`.
///
/// # Errors
/// What is not as it must be.
pub fn run(bench: &mut Bench<'_>, s: &Stimulus, hook: u8, mode: Mode) -> Result<Came, String> {
    let Bench { k, applied, nat } = bench;
    let nat = *nat;
    k.clear();
    if nat {
        k.forget_translations();
    }
    let mut policy = Policy { mode, ..policy(s.knob) };
    let inside = nat.then(|| inside(hook, s.v6));
    // The only port that there is: what is announced has it.
    policy.nat = nat.then_some(Nat { active_ports: PORT..=PORT });
    if applied.as_ref() != Some(&policy) {
        let fast = FastPath { parking: false, ..FastPath::default() };
        k.plane().apply(&policy, &guards(), fast).expect("the policy fits");
        *applied = Some(policy.clone());
    }
    k.discard();
    let _ = k.records();
    let engine = Engine::new(policy.clone(), 0);
    let talk = Talk::new(s.v6, hook, client_port());
    let events = Vec::new();
    let mut run = Run { k, engine, talk, policy, events, half: None, data_in_syn: false, stray: false, inside };
    run.begin(s.begin).map_err(|e| format!("beginning: {e}"))?;
    run.events.clear();
    for (i, step) in s.steps.iter().enumerate() {
        run.step(step).map_err(|e| format!("step {i}, {step:?}: {e}"))?;
    }
    let came = run.came();
    if nat && came.reasons.contains("not_rewritten") {
        // A line that is not whole in its segment opens nothing there; what does is one of those that must.
        if let Some(port) = came.opened.iter().find(|p| !s.opens.contains(p)) {
            return Err(format!("{port} must not open: {came:?}"));
        }
    } else if nat && hook == HOOK_OUT {
        // There is one public port for whatever an inside client announces.
        let pairs = s.opens.iter().zip(&came.opened);
        let opens = pairs.map(|(must, is)| if *is == PORT { PORT } else { *must }).collect::<Vec<_>>();
        let same = opens.len() == s.opens.len();
        Stimulus { opens: if same { opens } else { s.opens.clone() }, ..s.clone() }.check(&came)?;
    } else {
        s.check(&came)?;
    }
    run.events.clear();
    run.p1(s.v6 || s.by_epsv, BEHIND[0]).map_err(|e| format!("P1 in the same session: {e}"))?;
    if s.goes_on() != (run.came().opened.len() == 1) {
        return Err(format!("P1 in the same session: {:?}", run.came()));
    }
    // A reader that gives up for good would pass for a careful one.
    let blind = run.state().is_some_and(|s| s.flags & flag::BLIND != 0);
    if s.goes_on() && blind == s.sees_again {
        return Err(format!("blind: {blind}\n{}", run.k.dump()));
    }
    run.again(s.v6, hook).map_err(|e| format!("P1 in a new session: {e}"))?;
    Ok(came)
}

/// Whether an inside client announces what its rewriting makes longer or shorter: then the numbers of a stimulus would not be those
/// of both sides. (The tests of whole sessions have such.)
pub fn moves(s: &Stimulus) -> bool {
    const WHOLE: &[u8] = b"PORT 192,0,2,10,195,149\r\n";
    s.steps.iter().any(|step| match step {
        Step::Control(Segment { side: CLIENT, payload, .. }) => {
            let command = payload.get(..5).unwrap_or_default().to_ascii_uppercase();
            (command == *b"PORT " && payload.len() != WHOLE.len() && !s.opens.is_empty())
                || payload.windows(8).any(|w| w == b"EPRT |2|")
        }
        _ => false,
    })
}

/// The inside host's own address: one whose text is as long as that of the public one, so that nothing moves.
fn inside(hook: u8, v6: bool) -> IpAddr {
    let text = match (hook == HOOK_IN, v6) {
        (true, false) => "192.168.10.5",
        (false, false) => "10.77.0.55",
        (true, true) => "fd00:66:0:1::5",
        (false, true) => "fd00:77::510",
    };
    text.parse().expect("an address")
}

/// `text` with `new` in the place of each `old`; both are of one length.
fn replaced(text: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut text = text.to_vec();
    for at in 0..text.len() {
        if text[at..].starts_with(old) {
            text[at..at + new.len()].copy_from_slice(new);
        }
    }
    text
}

/// Both directions, the networks of all three hosts.
fn guards() -> Vec<Guard> {
    let hosts = [Host::C, Host::S, Host::A];
    let networks: Vec<_> = hosts.iter().flat_map(|h| [address(*h, false).into(), address(*h, true).into()]).collect();
    [Direction::In, Direction::Out]
        .map(|direction| Guard {
            direction,
            networks: networks.clone(),
            initiators: everybody(),
            ports: 1024..=65535,
            except: Vec::new(),
        })
        .to_vec()
}

/// A port that no other run has used: the table of connections that are not followed remembers them.
fn client_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(10_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Run<'_> {
    fn begin(&mut self, begin: Begin) -> Result<(), String> {
        if begin == Begin::Nothing {
            return Ok(());
        }
        for (side, packet) in self.talk.handshake() {
            let hook = self.talk.dialogue.hook_of(side);
            let expected = self.expect_read(side, &packet);
            self.send(&packet, hook, Verdict::Pass, &expected)?;
        }
        self.translate();
        if begin == Begin::LoggedIn {
            for (side, line) in LOGIN {
                self.control(&super::segment(side, format!("{line}\r\n").as_bytes()))?;
            }
        }
        Ok(())
    }

    /// Tells who the inside end is, as the daemon does.
    fn translate(&mut self) {
        let (Some(inside), Some(state)) = (self.inside, self.state()) else { return };
        let mut command =
            Command { op: op::ALIAS, session: state.id, key: self.talk.dialogue.key(), ..Command::default() };
        command.pinhole.initiator = inside.into();
        assert_eq!(self.k.command(&command), Outcome::Done);
        self.engine.translated(state.id, Some(inside.into()));
    }

    /// A packet as it is at the hook: what leaves comes from inside. Where the kernel's own translation has the connection, it
    /// has been there before: of the control connection only the text is what the inside host has written.
    fn as_inside(&self, packet: &Packet, hook: u8) -> Packet {
        let mut packet = packet.clone();
        let (Some(inside), HOOK_OUT) = (self.inside, hook) else { return packet };
        let d = &self.talk.dialogue;
        let public = if d.hook == HOOK_IN { d.server.ip() } else { d.client.ip() };
        if packet.from.ip() != public {
            return packet;
        }
        if [packet.from.port(), packet.to.port()].contains(&CONTROL_PORT) {
            for comma in [false, true] {
                let text = |ip: IpAddr| if comma { ip.to_string().replace('.', ",") } else { ip.to_string() };
                packet.payload = replaced(&packet.payload, text(public).as_bytes(), text(inside).as_bytes());
            }
            return packet;
        }
        let translations = self.k.plane_of().translations(HOOK_OUT).expect("translations");
        let is_its = |t: &TupleKey| t.outside == packet.to.ip().into() && t.outside_port == packet.to.port();
        if let Some((tuple, _)) = translations.iter().find(|(t, new)| is_its(t) && new.port == packet.from.port()) {
            packet.from = SocketAddr::new(tuple.inside.to_ip(), tuple.inside_port);
        }
        packet
    }

    fn p1(&mut self, epsv: bool, port: u16) -> Result<(), String> {
        for (side, line) in p1(epsv, port) {
            self.control(&super::segment(side, line.as_bytes()))?;
        }
        Ok(())
    }

    /// P1 in a session of its own, with its data connection.
    fn again(&mut self, v6: bool, hook: u8) -> Result<(), String> {
        self.talk = Talk::new(v6, hook, client_port());
        (self.half, self.stray, self.data_in_syn) = (None, false, false);
        self.begin(Begin::LoggedIn)?;
        self.events.clear();
        self.p1(v6, BEHIND[1])?;
        if self.came().opened.len() != 1 {
            return Err(format!("{:?}", self.came()));
        }
        let (from, to) = ((Host::C, 47_000), (Host::S, BEHIND[1]));
        self.data(&super::denied((Host::A, 47_000), to))?;
        self.data(&super::syn(from, to))?;
        self.data(&super::answer(from, to))?;
        self.data(&super::denied((Host::C, 47_001), to))
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Control(segment) => self.control(segment),
            Step::Data(data) => self.data(data),
            Step::Wait(ms) => {
                wait_until(monotonic() + ms * 1_000_000);
                self.engine.handle_timeout(monotonic());
                self.drain()
            }
        }?;
        self.agree()
    }

    fn control(&mut self, segment: &Segment) -> Result<(), String> {
        let (packet, hook) = self.talk.packet(segment);
        let killed = self.state().is_some_and(|s| s.flags & flag::KILLED != 0);
        let seen = if killed && segment.seen == Seen::Pass { Seen::Drop("killed") } else { segment.seen };
        let (verdict, expected) = match seen {
            Seen::Pass => (Verdict::Pass, self.expect_read(segment.side, &packet)),
            Seen::Unread => {
                if packet.flags & (tcp::SYN | tcp::ACK) == tcp::SYN && segment.side == CLIENT {
                    self.data_in_syn = !packet.payload.is_empty();
                }
                (Verdict::Pass, Counts::new())
            }
            Seen::Drop(reason) if self.policy.mode == Mode::Observe => (Verdict::Pass, Counts::from([(reason, 1)])),
            Seen::Drop(reason) => (Verdict::Drop, Counts::from([(reason, 1), ("control_dropped", 1)])),
            Seen::DropHeaders(reason) => (Verdict::Drop, Counts::from([(reason, 1)])),
        };
        self.send(&packet, hook, verdict, &expected)
    }

    fn data(&mut self, data: &Data) -> Result<(), String> {
        let (packet, hook) = self.talk.data(data);
        // In `mark` a SYN that nobody negotiated passes without the mark; what else does not pass is dropped.
        let unmarked = self.policy.mode == Mode::Mark && data.counts.iter().any(|(n, _)| *n == "syn_denied");
        let verdict = if data.passes || unmarked { Verdict::Pass } else { Verdict::Drop };
        let dropping = self.policy.mode == Mode::Drop;
        let name = |n| if !dropping && n == "syn_denied" { "syn_would_deny" } else { n };
        let expected = data.counts.iter().map(|(n, count)| (name(*n), *count)).collect();
        self.send(&packet, hook, verdict, &expected)
    }

    /// Sends a packet, compares, and lets the engine read what there is to read.
    fn send(&mut self, packet: &Packet, hook: u8, verdict: Verdict, expected: &Counts) -> Result<(), String> {
        let before = self.state();
        let got = self.k.send(hook, &self.as_inside(packet, hook));
        let verdict = if self.policy.mode == Mode::Observe { Verdict::Pass } else { verdict };
        let mut counted = self.k.counted();
        if self.inside.is_some() {
            // That they are is not what a stimulus is about.
            counted.retain(|name, _| !["rewritten", "translated"].contains(name));
            // A port that no rewriting is for stays behind an address that is not the sender's here.
            if expected.contains_key("left_to_daemon")
                && let Some(n) = counted.remove("bad_argument")
            {
                counted.insert("left_to_daemon", n);
            }
        }
        // An unread session tells once a second that it lives: when, a slow machine decides.
        if before.is_some_and(|s| s.flags & (flag::OPAQUE | flag::TAINTED) != 0)
            && expected.contains_key("control_segments")
            && !expected.contains_key("records")
        {
            counted.remove("records");
        }
        if got != verdict || counted != *expected {
            return Err(format!("{got:?}, counted {counted:?}\nmust be {verdict:?}, {expected:?}\n{}", self.k.dump()));
        }
        for raw in self.k.records() {
            if raw[0] != kind::PARKED {
                self.engine.handle_record(monotonic(), &parse(&raw));
                self.drain()?;
            }
        }
        Ok(())
    }

    /// Carries out what the engine asks for; each command counts as its outcome says.
    fn drain(&mut self) -> Result<(), String> {
        while let Some(action) = self.engine.poll_action() {
            let command = match action {
                Action::Event(event) => {
                    self.events.push(event);
                    continue;
                }
                Action::Command(command) => command,
            };
            let state = self.k.session(&command.key).filter(|s| s.id == command.session);
            let live = state.filter(|s| self.is_live(&s.pinhole, s.id));
            let outcome = self.k.command(&command);
            let expected = command_counts(&command, live.as_ref(), outcome);
            let counted = self.k.counted();
            if counted != expected {
                return Err(format!("{command:?}: {outcome:?}, counted {counted:?}, must be {expected:?}"));
            }
            self.engine.handle_outcome(monotonic(), &command, outcome);
        }
        Ok(())
    }

    /// The kernel's pinholes are the engine's; a session has one at most, between its own two ends.
    fn agree(&self) -> Result<(), String> {
        let now = monotonic();
        let kernel: BTreeSet<_> =
            self.k.pinholes().into_iter().map(|(p, _)| (p.initiator.to_ip(), p.responder.to_ip(), p.port)).collect();
        let engine: BTreeSet<_> =
            self.engine.pinholes(now).map(|v| (v.pinhole.initiator, v.pinhole.responder, v.pinhole.port)).collect();
        if kernel != engine {
            return Err(format!("the kernel has {kernel:?}, the engine {engine:?}\n{}", self.k.dump()));
        }
        let d = &self.talk.dialogue;
        let ends = BTreeSet::from([d.client.ip(), d.server.ip()]);
        match kernel.iter().find(|(i, r, port)| *port < 1024 || BTreeSet::from([*i, *r]) != ends) {
            Some(p) => Err(format!("{p:?} is no pinhole of this session")),
            None if self.engine.stats().divergences > 0 => {
                Err("the kernel opened what the engine would not".to_owned())
            }
            None => Ok(()),
        }
    }

    fn came(&self) -> Came {
        engine::came(&self.engine, &self.events, &self.talk.dialogue.key(), monotonic())
    }

    fn state(&self) -> Option<SessionState> {
        self.k.session(&self.talk.dialogue.key())
    }

    fn is_live(&self, key: &PinholeKey, session: u64) -> bool {
        key.port != 0 && self.k.pinholes().iter().any(|(k, p)| k == key && p.session == session)
    }
}
