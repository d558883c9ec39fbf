//! The dialogue: which command is unanswered, what a reply answers, and what follows from it.
//!
//! Commands are taken up one after the other, as the server does it: a command is *at the head* when all before it are
//! answered, and what it does (log out, open at the command, revoke) is done then. In lock-step that is when it arrives;
//! pipelined, it is when the reply before it came. So the same dialogue does the same however it is cut into segments.

mod server;

use ftp_helper_common::{addr::Addr, key::CLIENT, reason::Reason, state::pending, tcp::reaches};
use serde::{Deserialize, Serialize};

use super::{
    grammar::{Endpoint, command::Command},
    line::Line,
    resume::Snapshot,
};

/// Commands without a final reply at most; one more taints.
pub(super) const FIFO: usize = 16;

/// When PORT and EPRT open, in this session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ActiveAt {
    /// When the command is taken up.
    Command,
    /// At the server's positive reply.
    Reply,
    /// At the transfer command after that.
    Transfer,
}

/// An endpoint that was negotiated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Announcement {
    /// `pending::PASV`, `EPSV`, `PORT` or `EPRT`.
    pub(super) kind: u8,
    /// The address, where the text held one.
    pub(super) addr: Option<Addr>,
    /// The port.
    pub(super) port: u16,
    /// Whose line opens.
    pub(super) side: u8,
    /// Sequence number of that line.
    pub(super) seq: u32,
}

/// What follows from a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// An endpoint is negotiated and asked for: open, if the session may. True if it must be the kernel's opening too,
    /// since not everything before it was seen.
    Open(Announcement, bool),
    /// An announcement opens nothing.
    Refuse(Reason, Option<Announcement>),
    /// Whatever is unconsumed is taken back.
    Revoke(Reason),
    /// What the line at this sequence number opened is taken back.
    RevokeOf(u32, Reason),
    /// The session opens nothing any more.
    Taint(Reason),
    /// The session is encrypted from now on.
    Opaque(Reason),
}

/// What the dialogue needs to know of policy.
pub(super) struct Rules<'a> {
    /// When PORT and EPRT open.
    pub(super) active: ActiveAt,
    /// Whether an endpoint may be opened at all: addresses, ports, modes.
    pub(super) judge: &'a dyn Fn(&Announcement) -> Result<(), Reason>,
}

/// What an unanswered command is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Kind {
    Pasv,
    Epsv,
    Port,
    Eprt,
    EpsvAll,
    User,
    Pass,
    Rein,
    Quit,
    Abor,
    Auth,
    Transfer,
    Other,
    /// An announcement that was refused already: its reply says nothing more.
    Void,
}

/// A command without a final reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Entry {
    seq: u32,
    end: u32,
    /// What PORT and EPRT said.
    endpoint: Option<Endpoint>,
    kind: Kind,
    /// It has opened a pinhole.
    opened: bool,
    /// The client was logged in before this USER or REIN.
    was_logged_in: bool,
}

/// The dialogue of one session.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Dialogue {
    fifo: Vec<Entry>,
    /// The endpoint of a PORT or EPRT that waits for a transfer command.
    armed: Option<(Kind, Endpoint)>,
    /// First sequence number of the client.
    client_start: u32,
    /// Where the greeting ends in the server's stream.
    greeting_end: Option<u32>,
    multiline: u16,
    /// Whole exchanges until the state is trusted again, after records were missed.
    doubt: u8,
    server_spoke: bool,
    client_spoke: bool,
    logged_in: bool,
    epsv_all: bool,
}

impl Dialogue {
    /// Right after the handshake; the client's stream begins at `client_start`.
    pub(super) fn new(client_start: u32) -> Self {
        Self {
            fifo: Vec::new(),
            armed: None,
            client_start,
            greeting_end: None,
            multiline: 0,
            doubt: 0,
            server_spoke: false,
            client_spoke: false,
            logged_in: false,
            epsv_all: false,
        }
    }

    /// A dialogue that was going on already: what the kernel knew of it.
    pub(super) fn resumed(snapshot: &Snapshot) -> Self {
        let [client, server] = snapshot.next;
        let mut d = Self { logged_in: snapshot.logged_in, epsv_all: snapshot.epsv_all, ..Self::new(client) };
        d.doubt = snapshot.doubt;
        d.multiline = snapshot.multiline;
        if snapshot.pending == pending::GREETING {
            d.client_start = snapshot.command_end;
            return d;
        }
        d.greeting_end = Some(server);
        d.server_spoke = true;
        d.client_spoke = true;
        let active = |kind| (Some(snapshot.active?).filter(|(k, _)| *k == kind)).map(|(_, e)| e);
        let (kind, endpoint) = match snapshot.pending {
            pending::NONE => (None, None),
            pending::PASV => (Some(Kind::Pasv), None),
            pending::EPSV => (Some(Kind::Epsv), None),
            pending::PORT => (Some(Kind::Port), active(pending::PORT)),
            pending::EPRT => (Some(Kind::Eprt), active(pending::EPRT)),
            pending::LOGIN => (Some(Kind::Pass), None),
            _ => (Some(Kind::Other), None),
        };
        if let Some(kind) = kind {
            let opened = snapshot.opened && matches!(kind, Kind::Port | Kind::Eprt);
            // Without its endpoint a PORT opens nothing any more.
            let kind = if matches!(kind, Kind::Port | Kind::Eprt) && endpoint.is_none() && !opened {
                Kind::Void
            } else {
                kind
            };
            let seq = snapshot.pinhole_seq;
            d.fifo.push(Entry { seq, end: snapshot.command_end, endpoint, kind, opened, was_logged_in: false });
        }
        if snapshot.armed
            && let Some((kind, endpoint)) = snapshot.active
        {
            d.armed = Some((if kind == pending::PORT { Kind::Port } else { Kind::Eprt }, endpoint));
        }
        d
    }

    /// Whether the client is logged in.
    pub(super) fn logged_in(&self) -> bool {
        self.logged_in
    }

    /// Whether EPSV ALL is in force.
    pub(super) fn epsv_all(&self) -> bool {
        self.epsv_all
    }

    /// Whether the greeting is complete.
    pub(super) fn greeted(&self) -> bool {
        self.greeting_end.is_some()
    }

    /// The endpoint that waits for a transfer command: `pending::PORT` or `EPRT`, and its port.
    pub(super) fn armed(&self) -> Option<(u8, u16)> {
        self.armed.map(|(kind, e)| (if kind == Kind::Port { pending::PORT } else { pending::EPRT }, e.port))
    }

    /// Whether an AUTH is unanswered.
    pub(super) fn auth_pending(&self) -> bool {
        self.fifo.iter().any(|e| e.kind == Kind::Auth)
    }

    /// Whether nothing is open: no command unanswered, no reply half said, nothing that the kernel couldn't take up.
    pub(super) fn is_quiet(&self) -> bool {
        self.greeted() && self.fifo.is_empty() && self.multiline == 0 && self.doubt == 0
    }

    /// Whether the kernel's table and records can't tell what this dialogue has come to, even while the kernel sees it: a reply
    /// half said, or an endpoint that waits for its reply or its transfer command.
    pub(super) fn is_intricate(&self) -> bool {
        let waits = |e: &Entry| matches!(e.kind, Kind::Port | Kind::Eprt) && !e.opened;
        self.multiline != 0 || self.armed.is_some() || self.fifo.first().is_some_and(waits)
    }

    /// Commands without a final reply.
    #[cfg(test)]
    pub(super) fn unanswered(&self) -> usize {
        self.fifo.len()
    }

    /// Heap that it uses.
    #[cfg(test)]
    pub(super) fn heap(&self) -> usize {
        self.fifo.capacity() * size_of::<Entry>()
    }

    /// Whether the client spoke too early: before the greeting, or without having seen it.
    pub(super) fn speaks_first(&self, ack: u32) -> bool {
        match self.greeting_end {
            None => true,
            Some(end) => !self.client_spoke && !reaches(ack, end),
        }
    }

    /// Whether `seq` is where the client begins to speak.
    pub(super) fn is_first_byte(&self, seq: u32) -> bool {
        !self.client_spoke && seq == self.client_start
    }

    /// Takes a line of the client.
    pub(super) fn client(&mut self, line: &Line<'_>, rules: &Rules<'_>, out: &mut Vec<Step>) {
        let command = Command::parse(&line.text);
        let first = !std::mem::replace(&mut self.client_spoke, true);
        match command {
            Command::Reply => return out.push(Step::Taint(Reason::WrongDirection)),
            Command::Foreign => return out.push(Step::Taint(Reason::NotFtp)),
            c if first && !c.is_ftp() => return out.push(Step::Taint(Reason::NotFtp)),
            c if line.telnet && (c.negotiates() || c == Command::Auth) => {
                return out.push(Step::Taint(Reason::TelnetInCommand));
            }
            _ => {}
        }
        if self.fifo.len() == FIFO {
            return out.push(Step::Taint(Reason::PipelineOverflow));
        }
        let mut endpoint = None;
        let mut kind = match command {
            Command::Pasv => Kind::Pasv,
            Command::Epsv => Kind::Epsv,
            Command::EpsvAll => Kind::EpsvAll,
            Command::Port(e) => {
                endpoint = Some(e);
                Kind::Port
            }
            Command::Eprt(e) => {
                endpoint = Some(e);
                Kind::Eprt
            }
            Command::Unreadable(reason) => {
                out.push(Step::Refuse(reason, None));
                Kind::Void
            }
            Command::Unsupported => {
                out.push(Step::Refuse(Reason::UnsupportedVerb, None));
                Kind::Void
            }
            Command::User => Kind::User,
            Command::Pass => Kind::Pass,
            Command::Rein => Kind::Rein,
            Command::Quit => Kind::Quit,
            Command::Abor => Kind::Abor,
            Command::Auth => Kind::Auth,
            Command::Transfer => Kind::Transfer,
            Command::Other | Command::Unknown | Command::Foreign | Command::Reply => Kind::Other,
        };
        if (line.bare || line.long) && matches!(kind, Kind::Pasv | Kind::Epsv | Kind::Port | Kind::Eprt) {
            out.push(Step::Refuse(if line.bare { Reason::BareLf } else { Reason::BadSyntax }, None));
            kind = Kind::Void;
        }
        self.fifo.push(Entry { seq: line.seq, end: line.end, endpoint, kind, opened: false, was_logged_in: false });
        if self.fifo.len() == 1 {
            self.take_up(rules, out);
        } else if let Some(reason) = revokes(kind) {
            // Not taken up yet, but asked for: what is open is closed at once.
            out.push(Step::Revoke(reason));
        }
    }

    /// Takes up the command at the head.
    fn take_up(&mut self, rules: &Rules<'_>, out: &mut Vec<Step>) {
        let Some(&head) = self.fifo.first() else { return };
        if let Some(reason) = revokes(head.kind) {
            self.armed = None;
            out.push(Step::Revoke(reason));
        }
        let mut now = head;
        match head.kind {
            Kind::User | Kind::Rein => {
                // In a dialogue that was joined in its middle, the reply may be that of a command that was skipped.
                now.was_logged_in = self.logged_in && self.doubt == 0;
                self.logged_in = false;
            }
            // What the server makes of a refused one nobody knows; it supersedes what was announced before all the same.
            // So does EPSV ALL, whatever comes of it: the client means to use nothing but EPSV (RFC 2428 section 4).
            Kind::Pasv | Kind::Epsv | Kind::EpsvAll | Kind::Void => self.armed = None,
            Kind::Port | Kind::Eprt => {
                self.armed = None;
                let Some(a) = announcement(&head, CLIENT, head.seq) else { return };
                if let Err(reason) = (rules.judge)(&a) {
                    out.push(Step::Refuse(reason, Some(a)));
                    now.kind = Kind::Void;
                } else if rules.active == ActiveAt::Command {
                    now.opened = self.open(a, rules, out);
                    if !now.opened {
                        now.kind = Kind::Void;
                    }
                }
            }
            Kind::Transfer => {
                if let Some((kind, endpoint)) = self.armed.take() {
                    let armed = Entry { kind, endpoint: Some(endpoint), ..head };
                    if let Some(a) = announcement(&armed, CLIENT, head.seq) {
                        now.opened = self.open(a, rules, out);
                    }
                }
            }
            _ => {}
        }
        if let Some(head) = self.fifo.first_mut() {
            *head = now;
        }
    }

    /// Opens what is negotiated, if the dialogue is where that may be.
    fn open(&self, a: Announcement, rules: &Rules<'_>, out: &mut Vec<Step>) -> bool {
        let verdict = if !self.logged_in {
            Err(Reason::NotLoggedIn)
        } else if self.epsv_all && a.kind != pending::EPSV {
            Err(Reason::EpsvAll)
        } else {
            (rules.judge)(&a)
        };
        match verdict {
            Ok(()) => out.push(Step::Open(a, self.doubt > 0)),
            Err(reason) => out.push(Step::Refuse(reason, Some(a))),
        }
        verdict.is_ok()
    }
}

/// What PORT and EPRT announce.
fn announcement(entry: &Entry, side: u8, seq: u32) -> Option<Announcement> {
    let Endpoint { addr, port } = entry.endpoint?;
    let kind = if entry.kind == Kind::Port { pending::PORT } else { pending::EPRT };
    Some(Announcement { kind, addr: Some(addr), port, side, seq })
}

/// Why a command takes back what is unconsumed.
fn revokes(kind: Kind) -> Option<Reason> {
    Some(match kind {
        Kind::User => Reason::Relogin,
        Kind::Rein => Reason::Rein,
        Kind::Quit => Reason::Quit,
        Kind::Abor => Reason::Abor,
        Kind::Auth => Reason::Auth,
        _ => return None,
    })
}
