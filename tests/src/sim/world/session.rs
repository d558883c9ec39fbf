//! A session of the world: what its two ends have come to in their script.

use ftp_helper_common::{
    canon::pinhole_key,
    key::{PinholeKey, SessionKey},
};

use crate::sim::{
    kernel::End,
    script::{Offer, Opens, Script},
};

/// A session of the world.
#[derive(Debug)]
pub(super) struct Session {
    /// Its dialogue.
    pub(super) script: Script,
    /// The client's end.
    pub(super) client: End,
    /// The server's.
    pub(super) server: End,
    /// The hook of the client's packets.
    pub(super) hook: u8,
    /// The client's socket.
    pub(super) c: Option<usize>,
    /// The server's.
    pub(super) v: Option<usize>,
    /// Exchanges whose command was sent.
    pub(super) sent: usize,
    /// Exchanges whose reply was received whole.
    pub(super) seen: usize,
    /// Exchanges whose reply was sent whole.
    pub(super) replied: usize,
    /// Whether the reply in hand waits for its data connection.
    pub(super) waiting: bool,
    /// The exchange before whose command the client has thought.
    pub(super) thought: usize,
    /// Until when it thinks.
    pub(super) pause: u64,
    /// When it is looked at again.
    pub(super) wake: u64,
    /// The data connection in hand.
    pub(super) data: Option<Data>,
    /// Where each command ends in the client's bytes.
    pub(super) command_ends: Vec<usize>,
    /// Where each reply ends in the server's.
    pub(super) reply_ends: Vec<usize>,
    /// Begun, in nanoseconds.
    pub(super) started: Option<u64>,
    /// Whether it has begun to end.
    pub(super) ending: bool,
    /// Whether nothing more comes of it.
    pub(super) over: bool,
    /// Whether an attacker has put bytes into it, or its client is somebody's victim.
    pub(super) disturbed: bool,
    /// Whether segments passed that the daemon has not seen.
    pub(super) unrecorded: bool,
    /// Whether a data connection of it went on although nobody was told.
    pub(super) untold: bool,
    /// Whether a connection of the same ends took its place in the kernel before the daemon had read all of it: the rest of it
    /// is told to nobody.
    pub(super) forgotten: bool,
    /// Whether two CPUs have judged it at once lately.
    pub(super) raced: bool,
    /// Its ids in the kernel.
    pub(super) ids: Vec<u64>,
    /// Ports that the engine has told to be open, in order.
    pub(super) told: Vec<u16>,
    /// Whether the kernel has ever opened each announcement.
    pub(super) opened: Vec<bool>,
    /// How often a data connection has used each announcement.
    pub(super) uses: Vec<u32>,
    /// The last announcement that was opened in the kernel.
    pub(super) last_open: usize,
}

/// A data connection in the making.
#[derive(Clone, Copy, Debug)]
pub(super) struct Data {
    /// What was offered.
    pub(super) offer: Offer,
    /// When.
    pub(super) since: u64,
    /// The initiator's socket.
    pub(super) initiator: Option<usize>,
    /// The responder's.
    pub(super) responder: Option<usize>,
    /// Attempts of the initiator.
    pub(super) attempts: u32,
    /// The exchange of the transfer, when its command has come.
    pub(super) transfer: Option<usize>,
    /// The sender has sent.
    pub(super) wrote: bool,
    /// How it came out.
    pub(super) outcome: Option<bool>,
}

/// How long the two ends wait for a data connection.
pub(super) const DATA_WAIT: u64 = 9_500_000_000;

impl Session {
    /// A session that has not begun.
    #[must_use]
    pub(super) fn new(script: Script, client: End, server: End, hook: u8) -> Self {
        let ends = |lengths: Vec<usize>| {
            lengths
                .iter()
                .scan(0, |sum, n| {
                    *sum += n;
                    Some(*sum)
                })
                .collect::<Vec<_>>()
        };
        let command_ends = ends(script.exchanges.iter().map(|e| e.command.len()).collect());
        let reply_ends = ends(script.exchanges.iter().map(|e| e.reply[0].len() + e.reply[1].len()).collect());
        let uses = vec![0; script.opens.len()];
        let opened = vec![false; script.opens.len()];
        Self {
            script,
            client,
            server,
            hook,
            c: None,
            v: None,
            sent: 1,
            seen: 0,
            replied: 0,
            waiting: false,
            thought: 0,
            pause: 0,
            wake: 0,
            data: None,
            command_ends,
            reply_ends,
            started: None,
            ending: false,
            over: false,
            disturbed: false,
            unrecorded: false,
            forgotten: false,
            raced: false,
            untold: false,
            ids: Vec::new(),
            told: Vec::new(),
            opened,
            uses,
            last_open: 0,
        }
    }

    /// Its key in the kernel.
    #[must_use]
    pub(super) fn key(&self) -> SessionKey {
        SessionKey {
            client: self.client.addr,
            server: self.server.addr,
            client_port: self.client.port,
            server_port: self.server.port,
        }
    }

    /// The announcement that opens this pinhole by right, if there is one.
    #[must_use]
    pub(super) fn announcement(&self, key: &PinholeKey) -> Option<(usize, Opens)> {
        let opens = self.script.opens.iter().enumerate();
        opens.map(|(i, o)| (i, *o)).find(|(_, o)| pinhole_key(&self.key(), self.hook, o.kind, o.port) == *key)
    }

    /// Whether the line that opens has been sent.
    #[must_use]
    pub(super) fn has_said(&self, o: &Opens) -> bool {
        if o.at_command {
            self.sent > o.exchange
        } else {
            self.replied > o.exchange || (self.replied == o.exchange && self.waiting)
        }
    }

    /// Whether a command behind this exchange takes back what is unconsumed, and the server has taken it up: the client has
    /// seen every reply before it, and the server the command.
    #[must_use]
    pub(super) fn revoked_since(&self, exchange: usize) -> bool {
        let behind = self.script.exchanges.iter().enumerate().skip(exchange + 1);
        behind.filter(|(_, e)| e.revokes).any(|(i, _)| self.seen >= i && self.replied > i)
    }
}
