//! The oracle: a second, slow and plain reading of an FTP control connection, written from RFC 959, 1123, 2428 and 2577
//! and the product's rules, to hold the engine against. It shares no code with the engine, uses nothing but the standard
//! library, and copies whatever is easier to understand as a copy.
//!
//! Given what both sides said, in the order in which the gateway saw it, and how much of the other side each had
//! seen when it spoke, [`read`] tells which pinholes a strict reader opens. It knows no time, no segments and no tables:
//! expiry, overlapping retransmissions and quotas are not its business.

pub mod endpoint;
mod line;
mod reading;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, net::IpAddr, ops::RangeInclusive};

/// A side of the control connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Side {
    /// Who opened it.
    Client,
    /// Who answers.
    Server,
}

/// Something that happens on the control connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Happening {
    /// A side sends the next bytes of its stream.
    Said {
        /// Who.
        side: Side,
        /// What.
        bytes: Vec<u8>,
        /// How many bytes of the other side's stream the sender had seen (acknowledged) by then.
        seen: u64,
    },
    /// A side ends its stream.
    Ended(Side),
}

/// The way in which a pinhole was negotiated.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Way {
    /// PASV and 227.
    Pasv,
    /// EPSV and 229.
    Epsv,
    /// PORT.
    Port,
    /// EPRT.
    Eprt,
}

/// When active mode opens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Active {
    /// Never.
    Never,
    /// At the client's command; a refusal takes it back.
    Command,
    /// At the server's positive reply.
    Reply,
    /// At the transfer command that directly follows the positive reply.
    Transfer,
}

/// Between whom, and what is allowed.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The control connection's client.
    pub client: IpAddr,
    /// The control connection's server.
    pub server: IpAddr,
    /// Ways that may open.
    pub ways: BTreeSet<Way>,
    /// When active mode opens.
    pub active: Active,
    /// Ports that are never a data port, control ports among them.
    pub denied: BTreeSet<u16>,
    /// Ports that the server's passive mode may announce.
    pub passive: RangeInclusive<u16>,
    /// A bare LF ends a line too; such a line opens nothing.
    pub lenient: bool,
}

/// A pinhole.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Hole {
    /// How it was negotiated.
    pub way: Way,
    /// Who may connect.
    pub initiator: IpAddr,
    /// To whom.
    pub responder: IpAddr,
    /// To which port.
    pub port: u16,
}

/// What a strict reader makes of a dialogue.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verdict {
    /// Every pinhole that opens, in order.
    pub opened: Vec<Hole>,
    /// The one that is still open at the end, if nobody has used it and no time has passed.
    pub open: Option<Hole>,
    /// Why the session may open nothing any more.
    pub barred: Option<&'static str>,
    /// Whether the client is logged in at the end.
    pub logged_in: bool,
}

/// Reads a whole dialogue.
pub fn read(rules: &Rules, dialogue: &[Happening]) -> Verdict {
    let mut reader = Reader::new(rules.clone());
    for happening in dialogue {
        reader.hear(happening);
    }
    reader.verdict()
}

/// Reads a dialogue as it happens.
pub struct Reader {
    client: line::Lines,
    server: line::Lines,
    reading: reading::Reading,
}

impl Reader {
    /// Nothing has been said yet.
    pub fn new(rules: Rules) -> Self {
        let lenient = rules.lenient;
        Self {
            client: line::Lines::new(lenient),
            server: line::Lines::new(lenient),
            reading: reading::Reading::new(rules),
        }
    }

    /// Takes what happens next.
    pub fn hear(&mut self, happening: &Happening) {
        match happening {
            Happening::Said { side, bytes, seen } => {
                for &byte in bytes {
                    let lines = if *side == Side::Client { &mut self.client } else { &mut self.server };
                    match lines.byte(byte, *seen) {
                        line::Read::More => {}
                        line::Read::Wrong(why) => self.reading.bar(why),
                        line::Read::Line(line) if *side == Side::Client => self.reading.client_line(&line),
                        line::Read::Line(line) => self.reading.server_line(&line),
                    }
                }
                if *side == Side::Client && !bytes.is_empty() {
                    self.reading.client_spoke();
                }
            }
            Happening::Ended(_) => self.reading.ended(),
        }
    }

    /// What has come of it so far.
    pub fn verdict(&self) -> Verdict {
        self.reading.verdict()
    }
}
