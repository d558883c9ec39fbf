//! How a dialogue is written, exchange by exchange.

use ftp_helper::engine::policy::ActiveOpen;
use ftp_helper_common::{addr::Addr, key::HOOK_IN, state::pending};

use super::{Ending, Exchange, NEVER, Offer, Opens, Parties, Plan, Ports, Script, Transfer};
use crate::sim::rng::Rng;

/// A dialogue that is being written.
struct Writer<'a> {
    rng: &'a mut Rng,
    parties: Parties<'a>,
    ports: &'a mut Ports,
    exchanges: Vec<Exchange>,
    opens: Vec<Opens>,
    logged_in: bool,
    epsv_all: bool,
    barred: bool,
    encrypted_at: Option<usize>,
    ranged: Vec<u16>,
    armed: Option<(u8, u16, bool)>,
    nasty: bool,
}

/// Writes a dialogue of about `length` exchanges. `nasty` ones hold what opens nothing, or bars the session.
pub fn write(rng: &mut Rng, parties: Parties<'_>, ports: &mut Ports, length: usize, nasty: bool) -> Script {
    let mut w = Writer {
        rng,
        parties,
        ports,
        exchanges: Vec::new(),
        opens: Vec::new(),
        logged_in: false,
        epsv_all: false,
        barred: false,
        encrypted_at: None,
        ranged: Vec::new(),
        armed: None,
        nasty,
    };
    let greeting =
        w.rng.pick(&["220 ready\r\n", "220-hello\r\n 220 you\r\n220 ready\r\n", "120 wait\r\n220 ready\r\n"]);
    w.plain("", greeting);
    w.login();
    for _ in 0..length {
        w.step();
    }
    let ending =
        w.rng.pick(&[Ending::Quit, Ending::Quit, Ending::Quit, Ending::Client, Ending::Reset, Ending::Silence]);
    if w.parties.policy.opens_ranges() && w.parties.may_be_barred && w.logged_in && w.rng.chance(400) {
        w.encrypt();
    }
    if ending == Ending::Quit {
        w.revoking("QUIT\r\n", "221 bye\r\n");
    }
    let Writer { exchanges, opens, barred, encrypted_at, ranged, .. } = w;
    Script { exchanges, opens, ending, barred, encrypted_at, ranged }
}

impl Writer<'_> {
    fn push(&mut self, e: Exchange) {
        self.exchanges.push(e);
    }

    fn plain(&mut self, command: &str, reply: &str) {
        let pause = if self.rng.chance(30) { self.rng.from_to(500_000_000, 4_000_000_000) } else { 0 };
        // Nobody goes on before a transfer is over.
        let behind_transfer = self.exchanges.last().is_some_and(|e| e.transfer.is_some());
        let pipelined = self.exchanges.len() > 4 && self.rng.chance(120) && !self.barred && !behind_transfer;
        self.push(Exchange {
            command: command.as_bytes().to_vec(),
            reply: [reply.as_bytes().to_vec(), Vec::new()],
            pipelined,
            pause,
            ..Exchange::default()
        });
    }

    /// In lock-step whatever chance says.
    fn alone(&mut self, command: &str, reply: &str) {
        self.plain(command, reply);
        if let Some(e) = self.exchanges.last_mut() {
            e.pipelined = false;
        }
    }

    fn revoking(&mut self, command: &str, reply: &str) {
        self.armed = None;
        self.plain(command, reply);
        if let Some(e) = self.exchanges.last_mut() {
            e.revokes = true;
        }
    }

    fn login(&mut self) {
        self.revoking("USER me\r\n", "331 password\r\n");
        if self.exchanges.len() == 2 {
            // The client has seen the greeting.
            self.exchanges[1].pipelined = false;
        }
        self.logged_in = false;
        if self.nasty && self.rng.chance(100) {
            self.plain("PASS wrong\r\n", "530 no\r\n");
            // Nothing opens for who is not logged in.
            self.announce(false);
            return self.login();
        }
        let reply = self.rng.pick(&["230 in\r\n", "230-hello\r\n230-you\r\n230 in\r\n", "230 in\r\n"]);
        self.plain("PASS secret\r\n", reply);
        self.logged_in = true;
    }

    fn step(&mut self) {
        match self.rng.below(if self.nasty { 20 } else { 13 }) {
            0..=6 => self.announce(true),
            7 => self.plain("TYPE I\r\n", "200 ok\r\n"),
            8 => self.plain("FEAT\r\n", "211-Features\r\n EPSV\r\n UTF8\r\n211 End\r\n"),
            9 => self.plain("XYZZY\r\n", "500 what\r\n"),
            10 => self.plain("NOOP\r\n", "200 ok\r\n"),
            11 => {
                // What was not used is gone.
                self.revoking("ABOR\r\n", "226 nothing to do\r\n");
            }
            12 => {
                if self.rng.chance(300) {
                    self.login();
                } else if self.rng.chance(300) {
                    self.revoking("REIN\r\n", "220 again\r\n");
                    self.logged_in = false;
                    self.login();
                } else {
                    self.plain(
                        "STAT .\r\n",
                        &format!("213-status\r\n227 Entering ({})\r\n x\r\n213 end\r\n", self.six(NEVER + 1)),
                    );
                }
            }
            13..=18 => self.refused(),
            _ => self.bar(),
        }
    }

    /// `h1,h2,h3,h4,p1,p2` with the server's address.
    fn six(&self, port: u16) -> String {
        six(self.parties.server, port)
    }

    /// An announcement as it should be, and perhaps a transfer.
    fn announce(&mut self, transfer: bool) {
        let Parties { client, hook, policy, .. } = self.parties;
        let v4 = client.is_v4();
        let kind = match self.rng.below(4) {
            0 if v4 => pending::PASV,
            1 if v4 => pending::PORT,
            0 | 2 => pending::EPSV,
            _ => pending::EPRT,
        };
        let port = self.ports.next();
        let passive = kind == pending::PASV || kind == pending::EPSV;
        let at_command =
            !passive && hook == HOOK_IN && matches!(policy.active_open, ActiveOpen::Auto | ActiveOpen::Command);
        let plan = match self.rng.below(12) {
            0 => Plan::Nobody,
            1 if self.nasty => Plan::Late,
            2 if passive && self.nasty => Plan::Refused,
            3 if at_command => Plan::Eager,
            _ => Plan::Use,
        };
        let plan = if transfer || plan == Plan::Nobody { plan } else { Plan::Nobody };
        let six = six(if passive { self.parties.server } else { client }, port);
        let (command, reply) = match kind {
            pending::PASV => {
                let form = self.rng.below(3);
                (
                    "PASV\r\n".to_owned(),
                    match form {
                        0 => format!("227 Entering Passive Mode ({six}).\r\n"),
                        1 => format!("227 Entering Passive Mode {six}\r\n"),
                        _ => format!("227 ={six}\r\n"),
                    },
                )
            }
            pending::EPSV => {
                let command = self.rng.pick(&["EPSV\r\n", "epsv\r\n", if v4 { "EPSV 1\r\n" } else { "EPSV 2\r\n" }]);
                (command.to_owned(), format!("229 Entering Extended Passive Mode (|||{port}|)\r\n"))
            }
            pending::PORT => (format!("PORT {six}\r\n"), "200 PORT ok\r\n".to_owned()),
            _ => {
                let family = if v4 { 1 } else { 2 };
                (format!("EPRT |{family}|{}|{port}|\r\n", client.to_ip()), "200 EPRT ok\r\n".to_owned())
            }
        };
        self.plain(&command, &reply);
        let here = self.exchanges.len() - 1;
        self.exchanges[here].offer = Some(Offer { port, passive, plan });
        let may = self.may(kind, port);
        self.armed = None;
        if !passive && policy.active_open == ActiveOpen::Transfer {
            // The judgement is made once more when the transfer command comes.
            if may || !self.logged_in || (self.epsv_all && kind != pending::EPSV) {
                self.armed = Some((kind, port, matches!(plan, Plan::Use | Plan::Eager)));
            }
        } else if may {
            let used = matches!(plan, Plan::Use | Plan::Eager);
            self.opens.push(Opens { exchange: here, at_command, kind, port, used });
        }
        if plan != Plan::Nobody {
            self.transfer();
        } else if transfer && self.rng.chance(300) {
            self.plain("RETR missing\r\n", "550 no such file\r\n");
            self.take_armed();
        }
    }

    fn transfer(&mut self) {
        let download = self.rng.chance(600);
        let size = self.rng.from_to(0, 3000) as usize;
        let command = if download { "RETR file\r\n" } else { "STOR file\r\n" };
        let first = self.rng.pick(&["150 go\r\n", "150-go\r\n150 there\r\n"]);
        self.alone(command, first);
        let here = self.exchanges.len() - 1;
        self.exchanges[here].reply[1] = b"226 Transfer done\r\n".to_vec();
        self.exchanges[here].transfer = Some(Transfer { download, size });
        self.take_armed();
    }

    fn take_armed(&mut self) {
        if let Some((kind, port, used)) = self.armed.take()
            && self.may(kind, port)
        {
            self.opens.push(Opens { exchange: self.exchanges.len() - 1, at_command: true, kind, port, used });
        }
    }

    /// Whether an announcement as it should be may open.
    fn may(&self, kind: u8, port: u16) -> bool {
        let Parties { hook, policy, server, .. } = self.parties;
        let passive = kind == pending::PASV || kind == pending::EPSV;
        let in_range = !passive || policy.passive_range(server).is_none_or(|r| r.contains(&port));
        let inward = passive || hook == HOOK_IN || policy.active_inbound;
        let all = !self.epsv_all || kind == pending::EPSV;
        self.logged_in && !self.barred && in_range && inward && all && policy.modes.allows(kind)
    }

    /// Something that opens nothing and changes nothing.
    fn refused(&mut self) {
        let v4 = self.parties.client.is_v4();
        let bad = NEVER + self.rng.below(500) as u16;
        let (own, client) = (self.six(bad), six(self.parties.client, bad));
        let third = "203,0,113,66,234,96";
        // An announcement of either kind ends the wait for a transfer command, understood or not.
        self.armed = None;
        match self.rng.below(18) {
            0 => self.plain("PASV\r\n", &format!("227 Entering Passive Mode ({third})\r\n")),
            1 => self.plain("PASV\r\n", &format!("227 Entering Passive Mode ({})\r\n", six(self.parties.server, 22))),
            2 => self.plain("PASV\r\n", &format!("227 Entering Passive Mode ({})\r\n", six(self.parties.server, 3306))),
            3 => self.plain("PASV\r\n", &format!("227 (1,2,3,4,5,6) ({own})\r\n")),
            4 => self.plain("PASV\r\n", &format!("227-x\r\n227 Entering Passive Mode ({own})\r\n")),
            5 => self.plain("PASV\r\n", "425 no\r\n"),
            6 => self.plain("EPSV\r\n", "229 Extended (|||21|)\r\n"),
            7 => self.plain("EPSV\r\n", &format!("227 Entering Passive Mode ({own})\r\n")),
            8 => self.plain(&format!("PORT {third}\r\n"), "200 ok\r\n"),
            9 => self.plain(&format!("PORT {}\r\n", six(self.parties.client, 80)), "200 ok\r\n"),
            10 => self.plain(&format!("EPRT |{}|::1|{bad}|\r\n", if v4 { 2 } else { 1 }), "522 (1,2)\r\n"),
            11 => self.plain(&format!("PORT 0{client}\r\n"), "501 what\r\n"),
            12 => self.plain("LPSV\r\n", &format!("228 (4,4,{own})\r\n")),
            13 => {
                // The reply of another command.
                self.plain("NOOP\r\n", &format!("227 Entering Passive Mode ({own})\r\n"));
                self.plain("NOOP\r\n", "200 ok\r\n");
            }
            14 => {
                // The echo of A01, with the announcement where a segment may begin.
                let pad = "a".repeat(20 + self.rng.below(400));
                let text = format!("{pad}227 Entering Passive Mode ({own})");
                self.plain(&format!("DELE {text}\r\n"), &format!("550 {text}: No such file\r\n"));
            }
            15 => {
                let pad = "a".repeat(20 + self.rng.below(1500));
                self.plain(&format!("CWD {pad}PORT {client}\r\n"), "550 no\r\n");
            }
            16 if self.rng.chance(300) => {
                // As with what bars: the next daemon may not know that it was said.
                let refused = self.rng.chance(500) || !self.parties.may_be_barred;
                self.alone("EPSV ALL\r\n", if refused { "501 no\r\n" } else { "200 ok\r\n" });
                self.epsv_all |= !refused;
            }
            _ => {
                self.revoking("AUTH TLS\r\n", "502 no\r\n");
                self.lock_step_behind();
            }
        }
    }

    /// From here on nothing may open.
    fn bar(&mut self) {
        if self.barred || !self.parties.may_be_barred || self.rng.chance(700) {
            return;
        }
        let own = self.six(NEVER + 2);
        match self.rng.below(5) {
            0 => {
                self.encrypt();
                for _ in 0..3 {
                    let noise: Vec<u8> = (0..self.rng.below(200) + 1).map(|_| self.rng.word() as u8).collect();
                    let back: Vec<u8> = (0..self.rng.below(200) + 1).map(|_| self.rng.word() as u8).collect();
                    self.push(Exchange { command: noise, reply: [back, Vec::new()], ..Exchange::default() });
                }
            }
            1 => {
                self.barred = true;
                self.alone("CWD x\nPASV\r\n", &format!("250 ok\r\n227 ({own})\r\n"));
            }
            2 => {
                self.barred = true;
                self.alone("CWD x\rPASV\r\n", &format!("250 ok\r\n227 ({own})\r\n"));
            }
            3 => {
                self.barred = true;
                self.alone("200 PORT ok\r\n", "500 what\r\n");
            }
            _ => {
                self.barred = true;
                self.alone("PA\u{7f}SV\r\n", "500 what\r\n");
                self.alone(&"NOOP\r\n".repeat(40), &"200 ok\r\n".repeat(40));
            }
        }
        self.armed = None;
        // It goes on talking.
        self.alone("PASV\r\n", &format!("227 Entering Passive Mode ({own})\r\n"));
        self.alone("NOOP\r\n", "200 ok\r\n");
    }

    /// AUTH, and what may follow behind TLS.
    fn encrypt(&mut self) {
        if self.barred {
            return;
        }
        self.revoking("AUTH TLS\r\n", "234 go\r\n");
        self.encrypted_at = Some(self.exchanges.len() - 1);
        self.lock_step_behind();
        self.barred = true;
        self.armed = None;
        for _ in 0..self.rng.below(4) {
            self.encrypted_transfer();
        }
    }

    /// What a session says that nobody can read, and a data connection that it leads to.
    fn encrypted_transfer(&mut self) {
        let noise = |rng: &mut Rng| (0..rng.below(200) + 1).map(|_| rng.word() as u8).collect::<Vec<u8>>();
        let (ask, tell, go, wait) = (noise(self.rng), noise(self.rng), noise(self.rng), noise(self.rng));
        // Of the length that the server's word at the end has.
        let done = b"226 Transfer done\r\n".to_vec();
        let port = self.ports.next();
        let range = self.parties.policy.opaque_range(self.parties.server);
        let reached = range.is_some_and(|r| r.contains(&port));
        if reached {
            self.ranged.push(port);
        }
        // Where it opens nothing nobody gets through, and the transfer is given up.
        let plan = if reached { Plan::Use } else { Plan::Nobody };
        let offer = Some(Offer { port, passive: true, plan });
        self.push(Exchange { command: ask, reply: [tell, Vec::new()], offer, ..Exchange::default() });
        if reached {
            let transfer = Some(Transfer { download: self.rng.chance(500), size: self.rng.from_to(0, 3000) as usize });
            self.push(Exchange { command: go, reply: [wait, done], transfer, ..Exchange::default() });
        }
    }

    /// The last command is not pipelined, and nothing is pipelined behind it.
    fn lock_step_behind(&mut self) {
        if let Some(e) = self.exchanges.last_mut() {
            e.pipelined = false;
        }
        self.alone("NOOP\r\n", "200 ok\r\n");
    }
}

fn six(addr: Addr, port: u16) -> String {
    let a = addr.0;
    format!("{},{},{},{},{},{}", a[12], a[13], a[14], a[15], port >> 8, port & 255)
}
