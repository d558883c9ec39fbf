//! The catalogue of attacks and of what must work: stimuli with their verdicts, as data.
//!
//! A stimulus is a dialogue between C and S, segment by segment, with packets of data connections beside it. It is run by
//! three back ends that must agree: the engine alone ([`engine`]), the programs in the kernel with the engine behind them
//! ([`kernel`]), and, where the kernel's own TCP, fragments, checksums or interfaces matter, a gateway on the wire
//! ([`wire`]). `docs/threat-model.md` holds the table ([`table`]).
//!
//! C is 192.0.2.10 or 2001:db8::10, S is 198.51.100.5 or 2001:db8:1::5, A, another host on C's side, is 203.0.113.66 or
//! 2001:db8:2::66.

mod a1;
mod a10;
mod a2;
mod a3;
mod a4;
mod a5;
mod a6;
mod a7;
mod a8;
mod a9;
mod build;
pub mod capture;
pub mod engine;
pub mod kernel;
mod p;
pub mod table;
mod talk;
pub mod wire;

use std::{collections::BTreeSet, net::IpAddr};

use ftp_helper::{
    engine::policy::Policy,
    event::{Event, Kind},
};
use ftp_helper_common::key::{CLIENT, SERVER};

use crate::packet::Packet;

pub(crate) use build::{DEFAULT, answer, denied, segment, stimulus, syn};

/// The port that the announcements name, 195,149.
pub const PORT: u16 = 50069;

/// One stimulus and what must come of it.
#[derive(Clone, Debug)]
pub struct Stimulus {
    /// The catalogue's id, with what follows it where there are variants.
    pub id: &'static str,
    /// What is tried.
    pub about: &'static str,
    /// Over IPv6.
    pub v6: bool,
    /// Where the client is.
    pub places: Places,
    /// What differs from [`policy`].
    pub knob: Knob,
    /// How far the session is when it begins.
    pub begin: Begin,
    /// What happens.
    pub steps: Vec<Step>,
    /// What must come of it.
    pub verdict: Verdict,
    /// The ports that open, in order.
    pub opens: Vec<u16>,
    /// How many pinholes are open at its end.
    pub left: usize,
    /// A reason that must be told.
    pub reason: Option<&'static str>,
    /// It is run on the wire too.
    pub on_wire: bool,
    /// What follows negotiates with EPSV, whatever the address family.
    pub by_epsv: bool,
    /// The kernel reads by itself again once P1 is done.
    pub sees_again: bool,
}

/// What a stimulus comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It opens what it announces.
    Open,
    /// It passes and opens nothing; the session goes on.
    NoOpen,
    /// Its packets are dropped; the session goes on.
    Drop,
    /// The session opens nothing any more.
    Taint,
    /// And its control packets are dropped.
    Kill,
    /// It is encrypted.
    Opaque,
    /// The connection is not followed, and opens nothing.
    Unfollowed,
    /// The session is over: what was open is taken back.
    Close,
}

/// Where the client may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Places {
    /// Outside, and inside.
    Both,
    /// Outside only.
    Outside,
    /// Inside only.
    Inside,
}

/// What the policy has that [`policy`] has not.
#[derive(Clone, Copy, Debug)]
pub struct Knob {
    /// Changes it.
    pub apply: fn(&mut Policy),
    /// The same as lines of `[policy]` and further sections.
    pub toml: [&'static str; 2],
}

/// How far the session is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begin {
    /// There is nothing yet.
    Nothing,
    /// The handshake is done.
    Connected,
    /// The client is logged in.
    LoggedIn,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Step {
    /// A segment of the control connection.
    Control(Segment),
    /// A packet of a data connection, or of what pretends to be one.
    Data(Data),
    /// Milliseconds go by.
    Wait(u64),
}

/// A segment of the control connection.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Who sends it, or pretends to.
    pub side: u8,
    /// What it carries.
    pub payload: Vec<u8>,
    /// TCP flags.
    pub flags: u8,
    /// Its first byte, counted from the side's next.
    pub seq: i64,
    /// What it acknowledges, counted from the other side's next.
    pub ack: i64,
    /// The side does not know of it: somebody else sent it, or it will not arrive.
    pub inserted: bool,
    /// It passes by the hook of the other side.
    pub elsewhere: bool,
    /// What is odd about the packet.
    pub alter: Option<fn(&mut Packet)>,
    /// What becomes of it.
    pub seen: Seen,
}

/// What becomes of a packet, in `drop`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// It passes and, of the control connection, is read.
    Pass,
    /// It passes and counts for nothing.
    Unread,
    /// It is dropped as a packet of a session, for this reason.
    Drop(&'static str),
    /// It is dropped for its headers' sake.
    DropHeaders(&'static str),
}

/// A host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Host {
    /// The client.
    C,
    /// The server.
    S,
    /// Another host on the client's side.
    A,
}

/// A packet of a data connection.
#[derive(Clone, Debug)]
pub struct Data {
    /// Sender.
    pub from: (Host, u16),
    /// Receiver.
    pub to: (Host, u16),
    /// TCP flags.
    pub flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// What is odd about the packet.
    pub alter: Option<fn(&mut Packet)>,
    /// Whether it passes in `drop`.
    pub passes: bool,
    /// Every counter of the kernel's that moves.
    pub counts: &'static [(&'static str, u64)],
}

/// What came of a stimulus on a back end.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Came {
    /// Ports that were opened, in order.
    pub opened: Vec<u16>,
    /// Ports that are open now.
    pub left: Vec<u16>,
    /// The name of what the session is: `good`, `tainted`, `killed`, `opaque` or `none`.
    pub standing: &'static str,
    /// Every reason that was told.
    pub reasons: BTreeSet<&'static str>,
}

impl Came {
    /// What events say of openings and reasons.
    #[must_use]
    pub fn of(events: &[Event], left: Vec<u16>, standing: &'static str) -> Self {
        let opened = events.iter().filter(|e| e.event == Kind::Opened);
        Self {
            opened: opened.filter_map(|e| Some(e.pinhole.as_ref()?.port)).collect(),
            left,
            standing,
            reasons: events.iter().filter_map(|e| e.reason.map(|r| r.as_str())).collect(),
        }
    }
}

impl Stimulus {
    /// Compares with what came of it; an error says what differs.
    ///
    /// # Errors
    /// What is not as it must be.
    pub fn check(&self, came: &Came) -> Result<(), String> {
        let standing = match self.verdict {
            Verdict::Open | Verdict::NoOpen | Verdict::Drop => "good",
            Verdict::Taint => "tainted",
            Verdict::Kill => "killed",
            Verdict::Opaque => "opaque",
            Verdict::Unfollowed => "none",
            Verdict::Close => "closing",
        };
        if came.opened != self.opens || came.left.len() != self.left {
            return Err(format!("must open {:?} and leave {}, came to {came:?}", self.opens, self.left));
        }
        if came.standing != standing {
            return Err(format!("the session must be {standing}, came to {came:?}"));
        }
        match self.reason {
            Some(reason) if !came.reasons.contains(reason) => Err(format!("must tell {reason}, came to {came:?}")),
            _ => Ok(()),
        }
    }

    /// Whether the session may open something afterwards.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        matches!(self.verdict, Verdict::Open | Verdict::NoOpen | Verdict::Drop)
    }
}

/// Every stimulus, in the catalogue's order.
#[must_use]
pub fn all() -> Vec<Stimulus> {
    [
        p::stimuli(),
        a1::stimuli(),
        a2::stimuli(),
        a3::stimuli(),
        a4::stimuli(),
        a5::stimuli(),
        a6::stimuli(),
        a7::stimuli(),
        a8::stimuli(),
        a9::stimuli(),
        a10::stimuli(),
    ]
    .concat()
}

/// The policy of all stimuli: `drop`, everything allowed that may be, some ports denied.
#[must_use]
pub fn policy(knob: Knob) -> Policy {
    let mut policy = Policy {
        active_inbound: true,
        deny_ports: DENIED.into_iter().collect(),
        control_ports: [21, 2121].into(),
        ..crate::testrun::policy()
    };
    (knob.apply)(&mut policy);
    policy
}

/// Ports that are never a data port (A15).
pub const DENIED: [u16; 7] = [2049, 3306, 3389, 5432, 6000, 6379, 8080];

/// The address of a host.
#[must_use]
pub fn address(host: Host, v6: bool) -> IpAddr {
    let text = match (host, v6) {
        (Host::C, false) => "192.0.2.10",
        (Host::S, false) => "198.51.100.5",
        (Host::A, false) => "203.0.113.66",
        (Host::C, true) => "2001:db8::10",
        (Host::S, true) => "2001:db8:1::5",
        (Host::A, true) => "2001:db8:2::66",
    };
    text.parse().expect("an address")
}

/// Greeting and login, line by line.
pub const LOGIN: [(u8, &str); 7] = [
    (SERVER, "220 ready"),
    (CLIENT, "USER me"),
    (SERVER, "331 password"),
    (CLIENT, "PASS x"),
    (SERVER, "230 in"),
    (CLIENT, "TYPE I"),
    (SERVER, "200 ok"),
];

/// P1 for a port, line by line: what must open after every stimulus; by EPSV over IPv6.
#[must_use]
pub fn p1(epsv: bool, port: u16) -> [(u8, String); 2] {
    if epsv {
        [(CLIENT, "EPSV\r\n".to_owned()), (SERVER, format!("229 ok (|||{port}|)\r\n"))]
    } else {
        let reply = format!("227 ok (198,51,100,5,{},{})\r\n", port >> 8, port & 255);
        [(CLIENT, "PASV\r\n".to_owned()), (SERVER, reply)]
    }
}

/// Ports of P1 behind a stimulus, in its session and in a new one.
pub const BEHIND: [u16; 2] = [PORT - 1, PORT - 2];
