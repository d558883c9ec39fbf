//! Commands and replies: which reply answers which command, and what opens.

use std::{collections::VecDeque, net::IpAddr};

use super::{Active, Hole, Rules, Verdict, Way, endpoint, line::Line};

/// Commands that may be unanswered at once.
const UNANSWERED: usize = 16;

/// Commands of FTP: RFC 959 and its successors. The first word of a client that speaks FTP is one of them.
const VERBS: &[&str] = &[
    // RFC 959
    "USER", "PASS", "ACCT", "CWD", "CDUP", "SMNT", "REIN", "QUIT", "PORT", "PASV", "TYPE", "STRU", "MODE", "RETR",
    "STOR", "STOU", "APPE", "ALLO", "REST", "RNFR", "RNTO", "ABOR", "DELE", "RMD", "MKD", "PWD", "LIST", "NLST",
    "SITE", "SYST", "STAT", "HELP", "NOOP", // RFC 1123 and RFC 775
    "XCUP", "XCWD", "XMKD", "XPWD", "XRMD", // RFC 2228
    "AUTH", "ADAT", "PROT", "PBSZ", "CCC", "MIC", "CONF", "ENC", // RFC 2389, 2428, 2640, 3659, 7151, 1639
    "FEAT", "OPTS", "EPRT", "EPSV", "LANG", "MDTM", "SIZE", "MLST", "MLSD", "HOST", "LPRT", "LPSV",
    // IANA's registry, RFC 6384, and what clients say of which no RFC knows.
    "ALGS", "AVBL", "CLNT", "COMB", "CSID", "DSIZ", "HASH", "MFCT", "MFF", "MFMT", "MODB", "RANG", "RMDA", "THMB",
    "APSV", "CPSV", "PRET", "SPSV", "SSCN", "XCRC", "XMD5", "XSHA", "XRSQ", "XSEN", "XSEM", "XMAS",
];

/// Commands that start a transfer.
const TRANSFERS: &[&str] = &["RETR", "STOR", "STOU", "APPE", "LIST", "NLST", "MLSD"];

/// What a command is to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asked {
    User,
    /// PASS or ACCT.
    Password,
    Rein,
    /// QUIT or ABOR.
    Stop,
    Auth,
    /// PASV, well formed.
    Pasv,
    /// EPSV, well formed.
    Epsv,
    EpsvAll,
    /// PORT or EPRT that names this endpoint.
    Active(Way, IpAddr, u16),
    /// One of the four that negotiate, but nothing that could be opened.
    Nonsense,
    Transfer,
    /// Anything else.
    Other,
}

/// A command without a final reply.
struct Unanswered {
    asked: Asked,
    /// Bytes of the client up to its end: a server that has seen less has not seen it.
    end: u64,
    /// The pinhole that it has opened.
    number: Option<u64>,
    /// Whether the client was logged in before it.
    was_logged_in: bool,
}

pub(super) struct Reading {
    rules: Rules,
    barred: Option<&'static str>,
    greeted: bool,
    /// The server's first line was seen.
    server_began: bool,
    client_began: bool,
    logged_in: bool,
    epsv_all: bool,
    /// Code of a multi-line reply that is not over.
    multiline: Option<u16>,
    unanswered: VecDeque<Unanswered>,
    /// For [`Active::Transfer`]: an accepted PORT or EPRT that waits for its transfer.
    accepted: Option<Hole>,
    opened: Vec<Hole>,
    open: Option<(u64, Hole)>,
    number: u64,
}

impl Reading {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            barred: None,
            greeted: false,
            server_began: false,
            client_began: false,
            logged_in: false,
            epsv_all: false,
            multiline: None,
            unanswered: VecDeque::new(),
            accepted: None,
            opened: Vec::new(),
            open: None,
            number: 0,
        }
    }

    pub(super) fn verdict(&self) -> Verdict {
        Verdict {
            opened: self.opened.clone(),
            open: self.open.map(|(_, hole)| hole),
            barred: self.barred,
            logged_in: self.logged_in,
        }
    }

    /// Nothing opens any more.
    pub(super) fn bar(&mut self, why: &'static str) {
        self.barred.get_or_insert(why);
        self.open = None;
        self.accepted = None;
    }

    /// The control connection ends: what is unused goes with it (rule 5).
    pub(super) fn ended(&mut self) {
        self.bar("the control connection ended");
    }

    /// The client sent something, a whole line or not: the server speaks first (RFC 959 section 5.4).
    pub(super) fn client_spoke(&mut self) {
        if !self.greeted {
            self.bar("the client spoke before the greeting");
        }
    }

    pub(super) fn client_line(&mut self, line: &Line) {
        if !self.greeted {
            self.bar("the client spoke before the greeting");
        }
        if self.barred.is_some() {
            return;
        }
        let text = String::from_utf8_lossy(&line.text).into_owned();
        let (verb, argument) = match text.split_once(' ') {
            Some((verb, argument)) => (verb.to_ascii_uppercase(), Some(argument)),
            None => (text.to_ascii_uppercase(), None),
        };
        let known = VERBS.contains(&verb.as_str());
        if !self.client_began && !known {
            return self.bar("the client does not begin with a command of FTP");
        }
        self.client_began = true;
        if is_reply(&text) {
            return self.bar("a reply from the client");
        }
        let word = text.split(|c: char| c.is_ascii_whitespace()).next().unwrap_or_default();
        if !known && (word.contains(':') || text.contains("HTTP/")) {
            return self.bar("the client speaks another protocol");
        }
        if self.unanswered.iter().any(|u| u.asked == Asked::Auth) {
            return self.bar("a command behind an unanswered AUTH");
        }
        if self.unanswered.len() == UNANSWERED {
            return self.bar("too many unanswered commands");
        }
        let negotiates = ["PORT", "EPRT", "PASV", "EPSV"].contains(&verb.as_str());
        if negotiates && line.telnet {
            return self.bar("Telnet inside a command that negotiates");
        }
        let asked = match (verb.as_str(), argument) {
            _ if line.bare_lf && negotiates => Asked::Nonsense,
            ("USER", _) => Asked::User,
            ("PASS" | "ACCT", _) => Asked::Password,
            ("REIN", _) => Asked::Rein,
            ("QUIT" | "ABOR", _) => Asked::Stop,
            ("AUTH", _) => Asked::Auth,
            ("PASV", None) => Asked::Pasv,
            // RFC 2428 section 3: a server that can't do the protocol that is asked for says so (522).
            ("EPSV", None | Some("1" | "2")) => Asked::Epsv,
            ("EPSV", Some(all)) if all.eq_ignore_ascii_case("ALL") => Asked::EpsvAll,
            ("PORT", Some(argument)) => active(Way::Port, endpoint::of_port(argument)),
            ("EPRT", Some(argument)) => active(Way::Eprt, endpoint::of_eprt(argument)),
            // RFC 1639's and others' ways to negotiate supersede what was agreed, and open nothing.
            ("LPRT" | "LPSV" | "SPSV" | "CPSV" | "APSV", _) => Asked::Nonsense,
            _ if negotiates => Asked::Nonsense,
            (verb, _) if TRANSFERS.contains(&verb) => Asked::Transfer,
            _ => Asked::Other,
        };
        // Rule 5: the client wants these to take back what is unused, whatever it still waits for.
        if matches!(asked, Asked::User | Asked::Rein | Asked::Stop | Asked::Auth) {
            self.open = None;
        }
        self.unanswered.push_back(Unanswered { asked, end: line.end, number: None, was_logged_in: false });
        if self.unanswered.len() == 1 {
            self.next_command();
        }
    }

    /// The server takes commands one after the other: this one comes to its turn.
    fn next_command(&mut self) {
        let Some(&Unanswered { mut asked, .. }) = self.unanswered.front() else { return };
        let was_logged_in = self.logged_in;
        if matches!(asked, Asked::User | Asked::Rein | Asked::Stop | Asked::Auth) {
            self.open = None;
            self.accepted = None;
        }
        if matches!(asked, Asked::Pasv | Asked::Epsv | Asked::EpsvAll | Asked::Active(..) | Asked::Nonsense) {
            // RFC 959 section 4.1.2: it supersedes what was agreed before. RFC 2428 section 4: nothing but EPSV is to be
            // used behind EPSV ALL.
            self.accepted = None;
        }
        let mut number = None;
        match asked {
            Asked::User | Asked::Rein => self.logged_in = false,
            Asked::Active(way, host, port) => {
                let hole = self.active_hole(way, host, port);
                if self.rules.active == Active::Command
                    && let Some(hole) = hole.filter(|_| self.may_open(way))
                {
                    self.opens(hole);
                    number = Some(self.number);
                } else if hole.is_none() || self.rules.active == Active::Command {
                    // What may not open says nothing, whatever the server makes of it.
                    asked = Asked::Nonsense;
                }
            }
            Asked::Transfer => {
                if let Some(hole) = self.accepted.take().filter(|hole| self.may_open(hole.way)) {
                    self.opens(hole);
                    number = Some(self.number);
                }
            }
            _ => {}
        }
        if let Some(head) = self.unanswered.front_mut() {
            (head.asked, head.number, head.was_logged_in) = (asked, number, was_logged_in);
        }
    }

    pub(super) fn server_line(&mut self, line: &Line) {
        if self.barred.is_some() {
            return;
        }
        let text = String::from_utf8_lossy(&line.text).into_owned();
        let code = code_of(&text);
        let first = !std::mem::replace(&mut self.server_began, true);
        if first && !code.is_some_and(greets) {
            return self.bar("the server does not begin with a greeting");
        }
        if let Some(open) = self.multiline {
            // RFC 959 section 4.2: all lines are skipped up to the same code and a blank at the beginning of a line.
            if code == Some(open) && text[3..].starts_with(' ') {
                self.multiline = None;
                self.reply(open, None, line);
            }
            return;
        }
        let Some(code) = code else {
            let word = text.split(' ').next().unwrap_or_default().to_ascii_uppercase();
            if ["PORT", "EPRT", "PASV", "EPSV"].contains(&word.as_str()) {
                self.bar("a command from the server");
            }
            return;
        };
        match text[3..].chars().next() {
            // RFC 2228 section 4: codes from 600 are replies that are encrypted.
            Some('-') if code < 600 => self.multiline = Some(code),
            Some(' ') if code < 600 => self.reply(code, Some(&text[4..]), line),
            None if code < 600 => self.reply(code, Some(""), line),
            // Three digits make a reply (RFC 1123 section 4.1.2.11), but this one says nothing.
            _ => self.reply(code, None, line),
        }
    }

    /// A whole reply; its text if it is of a single line.
    fn reply(&mut self, code: u16, text: Option<&str>, line: &Line) {
        if (code == 227 || code == 229) && line.telnet {
            return self.bar("Telnet inside a reply that negotiates");
        }
        if code < 200 {
            return;
        }
        if !self.greeted {
            if !greets(code) {
                return self.bar("the server does not begin with a greeting");
            }
            self.greeted = true;
            // Some servers, with clients that they know.
            self.logged_in = code == 230;
            return;
        }
        // A reply answers the oldest unanswered command, and only if it was begun after that command had arrived.
        if self.unanswered.front().is_none_or(|oldest| line.seen < oldest.end) {
            return;
        }
        let Some(Unanswered { asked, number, was_logged_in, .. }) = self.unanswered.pop_front() else { return };
        let (positive, negative) = ((200..300).contains(&code), code >= 400);
        let passive = code == 227 || code == 229;
        match asked {
            Asked::Pasv if code == 227 && !line.bare_lf => {
                let found = text.and_then(endpoint::of_227).filter(|(host, _)| *host == self.rules.server);
                self.passive(Way::Pasv, found.map(|(_, port)| port));
            }
            Asked::Epsv if code == 229 && !line.bare_lf => {
                self.passive(Way::Epsv, text.and_then(endpoint::of_229));
            }
            // RFC 959 section 5.4: 230 and 202 end a login, RFC 2228 section 5 adds 232.
            Asked::User | Asked::Password if [202, 230, 232].contains(&code) => self.logged_in = true,
            // What is refused has not happened.
            Asked::User | Asked::Rein if negative => self.logged_in = was_logged_in,
            Asked::Auth if code < 400 => self.bar("encrypted"),
            Asked::EpsvAll => self.epsv_all |= positive && !passive,
            Asked::Active(way, host, port) if positive && !passive && number.is_none() => {
                match (self.rules.active, self.active_hole(way, host, port)) {
                    (Active::Reply, Some(hole)) if self.may_open(way) => self.opens(hole),
                    (Active::Transfer, Some(hole)) => self.accepted = Some(hole),
                    _ => {}
                }
            }
            // Refused or not understood: the client has given up what was agreed before, all the same.
            Asked::Active(..) if !positive => self.open = None,
            Asked::Transfer if negative && number.is_some() => {
                self.open = self.open.filter(|(open, _)| Some(*open) != number);
            }
            _ => {}
        }
        self.next_command();
    }

    /// What a PORT or EPRT may open now.
    fn active_hole(&self, way: Way, host: IpAddr, port: u16) -> Option<Hole> {
        let allowed = self.rules.active != Active::Never && self.rules.ways.contains(&way);
        let may = allowed && host == self.rules.client && self.is_free(port);
        may.then_some(Hole { way, initiator: self.rules.server, responder: host, port })
    }

    /// What a 227 or 229 comes to.
    fn passive(&mut self, way: Way, port: Option<u16>) {
        let Some(port) = port else { return };
        if self.is_free(port) && self.rules.passive.contains(&port) && self.may_open(way) {
            self.opens(Hole { way, initiator: self.rules.client, responder: self.rules.server, port });
        }
    }

    /// RFC 2577 section 3: no port below 1024; no service of ours.
    fn is_free(&self, port: u16) -> bool {
        port >= 1024 && !self.rules.denied.contains(&port)
    }

    fn may_open(&self, way: Way) -> bool {
        self.logged_in && self.rules.ways.contains(&way) && (way == Way::Epsv || !self.epsv_all)
    }

    fn opens(&mut self, hole: Hole) {
        self.number += 1;
        self.opened.push(hole);
        self.open = Some((self.number, hole));
    }
}

fn active(way: Way, endpoint: Option<(IpAddr, u16)>) -> Asked {
    endpoint.map_or(Asked::Nonsense, |(host, port)| Asked::Active(way, host, port))
}

/// The three digits that a reply begins with (RFC 959 section 4.2).
fn code_of(text: &str) -> Option<u16> {
    let [b'1'..=b'9', b'0'..=b'9', b'0'..=b'9', ..] = text.as_bytes() else { return None };
    text[..3].parse().ok()
}

/// RFC 959 section 5.4: a server greets by 220, after 120 or the like, or says no.
fn greets(code: u16) -> bool {
    matches!(code, 100..=199 | 220 | 230 | 400..=599)
}

/// Whether a line of the client is a reply.
fn is_reply(text: &str) -> bool {
    matches!(
        text.as_bytes(),
        [b'0'..=b'9', b'0'..=b'9', b'0'..=b'9'] | [b'0'..=b'9', b'0'..=b'9', b'0'..=b'9', b' ' | b'-', ..]
    )
}
