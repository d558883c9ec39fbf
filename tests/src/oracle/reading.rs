//! Commands and replies: which reply answers which command, and what opens.

use std::{collections::VecDeque, net::IpAddr};

use super::{Active, Hole, Rules, Verdict, Way, endpoint, line::Line};

/// Commands that may be unanswered at once.
const UNANSWERED: usize = 8;

/// Commands of FTP: RFC 959 and its successors. The first word of a client that speaks FTP is one of them.
const VERBS: &[&str] = &[
    // RFC 959
    "USER", "PASS", "ACCT", "CWD", "CDUP", "SMNT", "REIN", "QUIT", "PORT", "PASV", "TYPE", "STRU", "MODE", "RETR",
    "STOR", "STOU", "APPE", "ALLO", "REST", "RNFR", "RNTO", "ABOR", "DELE", "RMD", "MKD", "PWD", "LIST", "NLST",
    "SITE", "SYST", "STAT", "HELP", "NOOP", // RFC 1123 and RFC 775
    "XCUP", "XCWD", "XMKD", "XPWD", "XRMD", // RFC 2228
    "AUTH", "ADAT", "PROT", "PBSZ", "CCC", "MIC", "CONF", "ENC", // RFC 2389, 2428, 2640, 3659, 7151, 1639
    "FEAT", "OPTS", "EPRT", "EPSV", "LANG", "MDTM", "SIZE", "MLST", "MLSD", "HOST", "LPRT", "LPSV",
    // Not standardised, but what clients say first.
    "CLNT",
];

/// Commands that start a transfer.
const TRANSFERS: &[&str] = &["RETR", "STOR", "STOU", "APPE", "LIST", "NLST", "MLSD"];

/// What a command is to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asked {
    /// USER, PASS or ACCT.
    Login,
    /// PASV, well formed.
    Pasv,
    /// EPSV, well formed.
    Epsv,
    /// EPSV ALL.
    EpsvAll,
    /// PORT or EPRT that names a permitted endpoint; the number of the pinhole that it has opened already.
    Active(Hole, Option<u64>),
    /// AUTH.
    Auth,
    /// Anything else.
    Other,
}

/// A command without a final reply.
struct Unanswered {
    asked: Asked,
    /// Bytes of the client up to its end: a server that has seen less has not seen it.
    end: u64,
    /// The client has withdrawn it: USER, REIN, QUIT, ABOR or AUTH came behind it.
    withdrawn: bool,
}

/// A multi-line reply that is not over.
struct Multiline {
    code: u16,
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
    multiline: Option<Multiline>,
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
        if !known && (verb.contains(':') || text.to_ascii_uppercase().contains("HTTP/")) {
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

        // Rule 5: these take back what is unused, and what is being negotiated.
        if ["USER", "REIN", "QUIT", "ABOR", "AUTH"].contains(&verb.as_str()) {
            self.open = None;
            self.accepted = None;
            for earlier in &mut self.unanswered {
                earlier.withdrawn = true;
            }
        }
        if verb == "USER" || verb == "REIN" {
            self.logged_in = false;
        }
        if verb == "REIN" {
            // RFC 959 section 4.1.1: as it was right after the connection was made.
            self.epsv_all = false;
        }

        let accepted = self.accepted.take();
        if let Some(hole) = accepted.filter(|_| TRANSFERS.contains(&verb.as_str())) {
            self.opens(hole);
        }

        let asked = match (verb.as_str(), argument) {
            _ if line.bare_lf && negotiates => Asked::Other,
            ("USER" | "PASS" | "ACCT", _) => Asked::Login,
            ("AUTH", _) => Asked::Auth,
            ("PASV", None) => Asked::Pasv,
            ("EPSV", None) => Asked::Epsv,
            ("EPSV", Some("1")) if self.rules.server.is_ipv4() => Asked::Epsv,
            ("EPSV", Some("2")) if self.rules.server.is_ipv6() => Asked::Epsv,
            ("EPSV", Some(all)) if all.eq_ignore_ascii_case("ALL") => Asked::EpsvAll,
            ("PORT", Some(argument)) => self.active(Way::Port, endpoint::of_port(argument)),
            ("EPRT", Some(argument)) => self.active(Way::Eprt, endpoint::of_eprt(argument)),
            _ => Asked::Other,
        };
        self.unanswered.push_back(Unanswered { asked, end: line.end, withdrawn: false });
    }

    pub(super) fn server_line(&mut self, line: &Line) {
        if self.barred.is_some() {
            return;
        }
        let text = String::from_utf8_lossy(&line.text).into_owned();
        if !self.server_began && !["220", "120"].iter().any(|code| text.starts_with(code)) {
            return self.bar("the server does not begin with a greeting");
        }
        self.server_began = true;
        if let Some(Multiline { code }) = self.multiline {
            // RFC 959 section 4.2: all lines are skipped up to the same code and a blank at the beginning of a line.
            if text.starts_with(&format!("{code:03} ")) {
                self.multiline = None;
                self.reply(code, None, line);
            }
            return;
        }
        if !is_reply(&text) {
            let word = text.split(' ').next().unwrap_or_default().to_ascii_uppercase();
            if ["PORT", "EPRT", "PASV", "EPSV"].contains(&word.as_str()) {
                self.bar("a command from the server");
            }
            return;
        }
        let code: u16 = text[..3].parse().expect("three digits");
        if text.as_bytes()[3] == b'-' {
            self.multiline = Some(Multiline { code });
            return;
        }
        self.reply(code, Some(&text[4..]), line);
    }

    /// A whole reply; its text if it is of a single line.
    fn reply(&mut self, code: u16, text: Option<&str>, line: &Line) {
        if (code == 227 || code == 229) && line.telnet {
            return self.bar("Telnet inside a reply that negotiates");
        }
        if !self.greeted {
            match code {
                120 => {}
                220 => self.greeted = true,
                _ => self.bar("the server does not begin with a greeting"),
            }
            return;
        }
        if code < 200 {
            return;
        }
        // A reply answers the oldest unanswered command, and only if it was begun after that command had arrived.
        if self.unanswered.front().is_none_or(|oldest| line.seen < oldest.end) {
            return;
        }
        let Some(Unanswered { asked, withdrawn, .. }) = self.unanswered.pop_front() else { return };
        let positive = (200..300).contains(&code);
        match asked {
            Asked::Login if code == 230 && !withdrawn => self.logged_in = true,
            Asked::Auth if (200..400).contains(&code) => self.bar("encrypted"),
            Asked::EpsvAll if positive && !withdrawn => self.epsv_all = true,
            Asked::Pasv if code == 227 && !withdrawn && !line.bare_lf => {
                let found = text.and_then(endpoint::of_227).filter(|(host, _)| *host == self.rules.server);
                self.passive(Way::Pasv, found.map(|(_, port)| port));
            }
            Asked::Epsv if code == 229 && !withdrawn && !line.bare_lf => {
                self.passive(Way::Epsv, text.and_then(endpoint::of_229));
            }
            Asked::Active(_, Some(number)) if !positive => {
                if self.open.is_some_and(|(open, _)| open == number) {
                    self.open = None;
                }
            }
            Asked::Active(hole, None) if positive && !withdrawn => match self.rules.active {
                Active::Reply if self.may_open(hole.way) => self.opens(hole),
                Active::Transfer if self.may_open(hole.way) => self.accepted = Some(hole),
                _ => {}
            },
            _ => {}
        }
    }

    /// What a PORT or EPRT comes to.
    fn active(&mut self, way: Way, endpoint: Option<(IpAddr, u16)>) -> Asked {
        let Some((host, port)) = endpoint else { return Asked::Other };
        let all_asked = self.unanswered.iter().any(|u| u.asked == Asked::EpsvAll && !u.withdrawn);
        let right = host == self.rules.client && self.is_free(port) && self.may_open(way) && !all_asked;
        if !right || self.rules.active == Active::Never {
            return Asked::Other;
        }
        let hole = Hole { way, initiator: self.rules.server, responder: host, port };
        if self.rules.active == Active::Command {
            self.opens(hole);
            return Asked::Active(hole, Some(self.number));
        }
        Asked::Active(hole, None)
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

/// Three digits, the first from 1 to 5, and a blank or a dash (RFC 959 section 4.2).
fn is_reply(text: &str) -> bool {
    matches!(text.as_bytes(), [b'1'..=b'5', b'0'..=b'9', b'0'..=b'9', b' ' | b'-', ..])
}
