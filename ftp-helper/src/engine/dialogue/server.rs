//! What follows from a line of the server: which command a reply answers, and whether it announces anything.

use ftp_helper_common::{
    key::{CLIENT, SERVER},
    reason::Reason,
    state::pending,
    tcp::reaches,
};

use super::{ActiveAt, Announcement, Dialogue, Entry, Kind, Rules, Step, announcement};
use crate::engine::{
    grammar::reply::{self, ReplyLine},
    line::Line,
};

impl Dialogue {
    /// Takes a line of the server.
    pub(in crate::engine) fn server(&mut self, line: &Line<'_>, rules: &Rules<'_>, out: &mut Vec<Step>) {
        let first = !std::mem::replace(&mut self.server_spoke, true);
        if self.multiline != 0 {
            if reply::ends_multiline(&line.text, self.multiline) {
                let code = std::mem::take(&mut self.multiline);
                if line.telnet && is_passive(code) {
                    return out.push(Step::Taint(Reason::TelnetInCommand));
                }
                if code >= 200 {
                    self.answer(code, Text::Multiline, line, rules, out);
                }
            } else if self.awaits_passive() && reply::looks_passive(&line.text[..line.text.len().min(3)]) {
                out.push(Step::Refuse(Reason::MultilineReply, None));
            }
            return;
        }
        let parsed = ReplyLine::parse(&line.text);
        if let ReplyLine::Whole(code, _) | ReplyLine::Begins(code) | ReplyLine::Malformed(code) = parsed {
            if first && !greets(code) {
                return out.push(Step::Taint(Reason::NotFtp));
            }
            if line.telnet && is_passive(code) {
                return out.push(Step::Taint(Reason::TelnetInCommand));
            }
        }
        match parsed {
            ReplyLine::Whole(code, text) if code >= 200 => self.answer(code, Text::Line(text), line, rules, out),
            ReplyLine::Malformed(code) if code >= 200 => self.answer(code, Text::Malformed, line, rules, out),
            ReplyLine::Whole(..) | ReplyLine::Malformed(_) => {}
            ReplyLine::Begins(code) => self.multiline = code,
            ReplyLine::NoCode(_) if first => out.push(Step::Taint(Reason::NotFtp)),
            ReplyLine::NoCode(true) => out.push(Step::Taint(Reason::WrongDirection)),
            ReplyLine::NoCode(false) => {
                if self.awaits_passive() && reply::looks_passive(&line.text) {
                    out.push(Step::Refuse(Reason::BadSyntax, None));
                }
            }
        }
    }

    /// Takes a final reply.
    fn answer(&mut self, code: u16, text: Text<'_>, line: &Line<'_>, rules: &Rules<'_>, out: &mut Vec<Step>) {
        let passive = is_passive(code);
        if self.greeting_end.is_none() {
            if !reaches(line.ack, self.client_start) {
                return;
            }
            if !greets(code) {
                return out.push(Step::Taint(Reason::NotFtp));
            }
            self.logged_in = code == 230;
            self.greeting_end = Some(line.end);
            return;
        }
        let Some(&head) = self.fifo.first() else {
            if passive {
                out.push(Step::Refuse(Reason::UnsolicitedReply, None));
            }
            return;
        };
        if !reaches(line.ack, head.end) {
            // It was on its way before the command came: it answers nothing.
            if passive || self.awaits_passive() {
                out.push(Step::Refuse(Reason::EarlyReply, None));
            }
            return;
        }
        self.fifo.remove(0);
        let whole = self.fifo.is_empty() && matches!(text, Text::Line(_));
        if self.fifo.is_empty() {
            self.fifo = Vec::new();
        }
        let positive = (200..300).contains(&code);
        if self.doubt != 0 && (head.kind == Kind::Pass || matches!(code, 331 | 332 | 530)) {
            // Of a login whose USER was skipped.
            self.logged_in = false;
        }
        match head.kind {
            Kind::Pasv | Kind::Epsv => self.passive(&head, code, text, line, rules, out),
            Kind::Void => {}
            // Whatever its digits are: to the client it is accepted.
            Kind::Auth if code < 400 => return out.push(Step::Opaque(Reason::AuthAccepted)),
            _ if passive => out.push(Step::Refuse(Reason::UnsolicitedReply, None)),
            Kind::Port | Kind::Eprt if positive => self.accepted(&head, line, rules, out),
            Kind::Port | Kind::Eprt => {
                // Whichever it is: the client has given up what was announced before.
                out.push(Step::Revoke(Reason::NegativeReply));
                if !head.opened {
                    out.push(Step::Refuse(Reason::RefusedByServer, announcement(&head, CLIENT, head.seq)));
                }
            }
            Kind::Transfer if head.opened && code >= 400 => {
                out.push(Step::RevokeOf(head.seq, Reason::NegativeReply));
            }
            Kind::User | Kind::Pass if matches!(code, 202 | 230 | 232) => self.logged_in = true,
            // It was no new login after all (vsftpd has no REIN, and says so by 502).
            Kind::User | Kind::Rein if code >= 400 => self.logged_in = head.was_logged_in,
            Kind::EpsvAll => self.epsv_all |= positive,
            _ => {}
        }
        if whole {
            self.doubt = self.doubt.saturating_sub(1);
        }
        self.take_up(rules, out);
    }

    /// A reply to PASV or EPSV.
    fn passive(
        &self,
        head: &Entry,
        code: u16,
        text: Text<'_>,
        line: &Line<'_>,
        rules: &Rules<'_>,
        out: &mut Vec<Step>,
    ) {
        let (kind, own) = if head.kind == Kind::Pasv { (pending::PASV, 227) } else { (pending::EPSV, 229) };
        if code >= 400 {
            return out.push(Step::Refuse(Reason::RefusedByServer, None));
        }
        if code != own {
            let reason = if is_passive(code) { Reason::UnsolicitedReply } else { Reason::BadSyntax };
            return out.push(Step::Refuse(reason, None));
        }
        let text = match text {
            Text::Multiline => return out.push(Step::Refuse(Reason::MultilineReply, None)),
            Text::Malformed => return out.push(Step::Refuse(Reason::BadSyntax, None)),
            Text::Line(_) if line.bare => return out.push(Step::Refuse(Reason::BareLf, None)),
            Text::Line(_) if line.long => return out.push(Step::Refuse(Reason::BadSyntax, None)),
            Text::Line(text) => text,
        };
        let parsed = if code == 227 {
            reply::passive(text).map(|e| (Some(e.addr), e.port))
        } else {
            reply::extended_passive(text).map(|port| (None, port))
        };
        match parsed {
            Ok((addr, port)) => {
                self.open(Announcement { kind, addr, port, side: SERVER, seq: line.seq }, rules, out);
            }
            Err(reason) => out.push(Step::Refuse(reason, None)),
        }
    }

    /// A positive reply to PORT or EPRT.
    fn accepted(&mut self, head: &Entry, line: &Line<'_>, rules: &Rules<'_>, out: &mut Vec<Step>) {
        if head.opened {
            return;
        }
        if rules.active == ActiveAt::Transfer {
            self.armed = head.endpoint.map(|e| (head.kind, e));
        } else if let Some(a) = announcement(head, SERVER, line.seq) {
            self.open(a, rules, out);
        }
    }

    /// Whether the reply to a PASV or EPSV is next.
    fn awaits_passive(&self) -> bool {
        matches!(self.fifo.first(), Some(Entry { kind: Kind::Pasv | Kind::Epsv, .. }))
    }
}

/// The text of a final reply.
#[derive(Clone, Copy)]
enum Text<'a> {
    Line(&'a [u8]),
    Malformed,
    Multiline,
}

/// Whether a reply of this code announces a passive port.
fn is_passive(code: u16) -> bool {
    code == 227 || code == 229
}

/// Whether a server's first reply can have this code: a greeting, "wait", "no", or "logged in already".
fn greets(code: u16) -> bool {
    matches!(code, 100..=199 | 220 | 230 | 400..=599)
}
