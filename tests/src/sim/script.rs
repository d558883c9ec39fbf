//! Dialogues, and what each of them may open: worked out from the script as it is written, by nothing that the product
//! uses.

mod writer;

use ftp_helper::engine::policy::Policy;
use ftp_helper_common::addr::Addr;

pub use self::writer::write;
use super::kernel::End;

/// One exchange: a command and its reply.
#[derive(Clone, Debug, Default)]
pub struct Exchange {
    /// What the client sends.
    pub command: Vec<u8>,
    /// What the server sends; behind the first part it waits for the data connection.
    pub reply: [Vec<u8>; 2],
    /// The command is sent without waiting for the reply before.
    pub pipelined: bool,
    /// How long the client thinks first, nanoseconds.
    pub pause: u64,
    /// The data connection that it asks for.
    pub offer: Option<Offer>,
    /// A transfer over the data connection that was offered.
    pub transfer: Option<Transfer>,
    /// It takes back what is unconsumed.
    pub revokes: bool,
}

/// A port on which somebody will really listen.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// The port.
    pub port: u16,
    /// The client connects.
    pub passive: bool,
    /// What comes of it.
    pub plan: Plan,
}

/// What comes of an offer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plan {
    /// It is used at once.
    Use,
    /// It is used by a server that does not wait for the transfer command (active mode).
    Eager,
    /// Nobody comes.
    Nobody,
    /// Somebody comes when its time is over.
    Late,
    /// The first attempt meets a closed port; the second comes through.
    Refused,
}

/// A transfer.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// The server sends.
    pub download: bool,
    /// Bytes.
    pub size: usize,
}

/// A pinhole that the dialogue opens by right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opens {
    /// The exchange whose command or reply opens it.
    pub exchange: usize,
    /// Whether the command opens it, or the reply.
    pub at_command: bool,
    /// `pending::PASV` and so on.
    pub kind: u8,
    /// The port.
    pub port: u16,
    /// Whether somebody is to get through.
    pub used: bool,
}

/// How a session ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// QUIT and 221.
    Quit,
    /// The client closes.
    Client,
    /// The client resets.
    Reset,
    /// Both vanish.
    Silence,
}

/// A whole dialogue.
#[derive(Clone, Debug)]
pub struct Script {
    /// The exchanges; the first is the greeting.
    pub exchanges: Vec<Exchange>,
    /// What it opens, in order.
    pub opens: Vec<Opens>,
    /// How it ends.
    pub ending: Ending,
    /// It becomes a dialogue that may open nothing more.
    pub barred: bool,
    /// The exchange that encrypts it.
    pub encrypted_at: Option<usize>,
    /// Ports that its client may reach then, since they are in the server's range for encrypted sessions.
    pub ranged: Vec<u16>,
}

/// Ports that a dialogue names and nothing may open: no offer uses them.
pub const NEVER: u16 = 60000;

/// What a dialogue is written for.
#[derive(Clone, Copy, Debug)]
pub struct Parties<'a> {
    /// The client's address.
    pub client: Addr,
    /// The server's.
    pub server: Addr,
    /// The hook of the client's packets.
    pub hook: u8,
    /// The policy.
    pub policy: &'a Policy,
    /// Whether the dialogue may come to where nothing may open any more. Not where the daemon dies: what it has not read
    /// of that when it does is not known to the next one.
    pub may_be_barred: bool,
}

/// Hands out ports, each once.
#[derive(Clone, Debug, Default)]
pub struct Ports(u16);

impl Ports {
    fn next(&mut self) -> u16 {
        self.0 = (self.0 + 1) % 9000;
        40000 + self.0
    }
}

/// Where data connections of an offer go.
#[must_use]
pub fn ends(offer: &Offer, client: Addr, server: Addr, source: u16) -> (End, End) {
    let (from, to) = if offer.passive { (client, server) } else { (server, client) };
    (End { addr: from, port: source }, End { addr: to, port: offer.port })
}
