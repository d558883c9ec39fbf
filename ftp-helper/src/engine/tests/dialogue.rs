//! The dialogue alone: lines in, steps out.

use std::borrow::Cow;

use ftp_helper_common::reason::Reason;

use crate::engine::{
    dialogue::{ActiveAt, Dialogue, FIFO, Rules, Step},
    line::Line,
};

struct Talk {
    dialogue: Dialogue,
    at: [u32; 2],
    active: ActiveAt,
}

impl Talk {
    fn new(active: ActiveAt) -> Self {
        let mut t = Self { dialogue: Dialogue::new(0), at: [0; 2], active };
        assert!(t.server("220 hello").is_empty());
        t
    }

    fn logged_in(active: ActiveAt) -> Self {
        let mut t = Self::new(active);
        assert_eq!(t.client("USER me"), [Step::Revoke(Reason::Relogin)]);
        t.server("331 password");
        t.client("PASS x");
        t.server("230 in");
        assert!(t.dialogue.logged_in());
        t
    }

    fn line(&mut self, side: usize, text: &str, ack: u32) -> Vec<Step> {
        let seq = self.at[side];
        self.at[side] += text.len() as u32 + 2;
        let text = Cow::Borrowed(text.as_bytes());
        let line = Line { text, seq, end: self.at[side], ack, telnet: false, bare: false, long: false };
        let mut out = Vec::new();
        let rules =
            Rules { active: self.active, judge: &|a| if a.port < 1024 { Err(Reason::LowPort) } else { Ok(()) } };
        if side == 0 {
            self.dialogue.client(&line, &rules, &mut out);
        } else {
            self.dialogue.server(&line, &rules, &mut out);
        }
        out
    }

    fn client(&mut self, text: &str) -> Vec<Step> {
        self.line(0, text, self.at[1])
    }

    fn server(&mut self, text: &str) -> Vec<Step> {
        self.line(1, text, self.at[0])
    }
}

fn ports(steps: &[Step]) -> Vec<u16> {
    steps.iter().filter_map(|s| if let Step::Open(a, _) = s { Some(a.port) } else { None }).collect()
}

#[test]
fn replies_answer_the_oldest_command() {
    let mut t = Talk::logged_in(ActiveAt::Reply);
    for c in ["NLST x", "PASV", "EPSV"] {
        t.client(c);
    }
    assert_eq!(t.server("227 (1,2,3,4,200,1)"), [Step::Refuse(Reason::UnsolicitedReply, None)]);
    assert!(t.server("150 preliminary").is_empty());
    assert_eq!(ports(&t.server("227 (1,2,3,4,200,2)")), [51202]);
    assert_eq!(ports(&t.server("229 (|||51203|)")), [51203]);
    assert_eq!(t.server("229 (|||51203|)"), [Step::Refuse(Reason::UnsolicitedReply, None)]);
}

#[test]
fn an_early_reply_answers_nothing() {
    let mut t = Talk::logged_in(ActiveAt::Reply);
    let before = t.at[0];
    t.client("PASV");
    assert_eq!(t.line(1, "227 (1,2,3,4,200,2)", before), [Step::Refuse(Reason::EarlyReply, None)]);
    assert_eq!(ports(&t.server("227 (1,2,3,4,200,3)")), [51203]);
}

#[test]
fn active_modes() {
    for (active, at) in [(ActiveAt::Command, 0), (ActiveAt::Reply, 1), (ActiveAt::Transfer, 3)] {
        let mut t = Talk::logged_in(active);
        let mut opened = Vec::new();
        for (i, (side, text)) in
            [(0, "PORT 1,2,3,4,200,2"), (1, "200 ok"), (0, "TYPE I"), (1, "200 ok"), (0, "RETR x"), (1, "226 ok")]
                .into_iter()
                .enumerate()
        {
            let ack = t.at[1 - side];
            if !ports(&t.line(side, text, ack)).is_empty() {
                opened.push(i);
            }
        }
        assert_eq!(opened, [[0, 1, 9, 4][at]], "{active:?}");
        // Pipelined, the same opens.
        let mut t = Talk::logged_in(active);
        let mut all = Vec::new();
        for (side, text) in [(0, "TYPE I"), (0, "PORT 1,2,3,4,200,2"), (0, "RETR x"), (1, "200 a"), (1, "200 b")] {
            let ack = t.at[1 - side];
            all.extend(ports(&t.line(side, text, ack)));
        }
        assert_eq!(all, [51202], "{active:?}");
    }
    let mut t = Talk::logged_in(ActiveAt::Command);
    t.client("PORT 1,2,3,4,200,2");
    assert_eq!(t.server("500 no"), [Step::Revoke(Reason::NegativeReply)]);
    assert!(matches!(t.client("PORT 1,2,3,4,0,22")[..], [Step::Refuse(Reason::LowPort, Some(_))]));
    assert!(t.server("200 ok").is_empty());
}

#[test]
fn login_is_needed_and_lost() {
    let mut t = Talk::new(ActiveAt::Command);
    t.client("PASV");
    assert!(matches!(t.server("227 (1,2,3,4,200,2)")[..], [Step::Refuse(Reason::NotLoggedIn, Some(_))]));
    let mut t = Talk::logged_in(ActiveAt::Command);
    for command in ["USER x", "REIN"] {
        assert!(matches!(t.client(command)[..], [Step::Revoke(_)]));
        assert!(!t.dialogue.logged_in());
        t.server("220 ok");
        t.client("USER x");
        t.server("230 in");
    }
    t.client("USER other");
    t.server("530 can't change user");
    assert!(t.dialogue.logged_in());
}

#[test]
fn bodies_of_multiline_replies_say_nothing() {
    let mut t = Talk::logged_in(ActiveAt::Command);
    t.client("STAT .");
    t.client("PASV");
    for line in ["213-status", "227 (1,2,3,4,200,2)", "226 x", "213", " 213 x", "213-x"] {
        assert!(t.server(line).is_empty(), "{line}");
    }
    t.server("213 end");
    assert_eq!(ports(&t.server("227 (1,2,3,4,200,3)")), [51203]);
    t.client("PASV");
    t.server("227-x");
    assert_eq!(t.server("227 (1,2,3,4,200,3)"), [Step::Refuse(Reason::MultilineReply, None)]);
}

#[test]
fn what_taints_and_what_is_opaque() {
    let mut t = Talk::logged_in(ActiveAt::Command);
    assert_eq!(t.client("227 x"), [Step::Taint(Reason::WrongDirection)]);
    assert_eq!(t.client("Host: x"), [Step::Taint(Reason::NotFtp)]);
    assert_eq!(t.server("PORT 1,2,3,4,5,6"), [Step::Taint(Reason::WrongDirection)]);
    assert!(t.server("hello").is_empty());
    t.client("AUTH TLS");
    assert!(t.dialogue.auth_pending());
    t.server("500 no");
    assert!(!t.dialogue.auth_pending());
    t.client("AUTH TLS");
    assert_eq!(t.server("234 go"), [Step::Opaque(Reason::AuthAccepted)]);
    assert_eq!(Talk::new(ActiveAt::Command).client("GET /"), [Step::Taint(Reason::NotFtp)]);
    let mut t = Talk::logged_in(ActiveAt::Command);
    for _ in 0..FIFO {
        assert!(t.client("NOOP").is_empty());
    }
    assert_eq!(t.client("NOOP"), [Step::Taint(Reason::PipelineOverflow)]);
}

#[test]
fn epsv_all_counts_when_accepted() {
    for (reply, opens) in [("200 ok", 0), ("501 no", 1)] {
        let mut t = Talk::logged_in(ActiveAt::Command);
        t.client("EPSV ALL");
        t.server(reply);
        t.client("PASV");
        assert_eq!(ports(&t.server("227 (1,2,3,4,200,2)")).len(), opens);
        t.client("EPSV");
        assert_eq!(ports(&t.server("229 (|||51203|)")), [51203]);
    }
}

#[test]
fn malformed_replies_are_replies() {
    for line in ["2270 (1,2,3,4,200,2)", "227Entering (1,2,3,4,200,2)", "227:(1,2,3,4,200,2)"] {
        let mut t = Talk::logged_in(ActiveAt::Command);
        t.client("PASV");
        assert_eq!(t.server(line), [Step::Refuse(Reason::BadSyntax, None)], "{line}");
        assert_eq!(t.dialogue.unanswered(), 0);
    }
    let mut t = Talk::logged_in(ActiveAt::Command);
    t.client("PASV");
    assert_eq!(t.server("0227 (1,2,3,4,200,2)"), [Step::Refuse(Reason::BadSyntax, None)]);
    assert_eq!(t.dialogue.unanswered(), 1);
}

#[test]
fn what_the_server_refuses_has_not_happened() {
    for command in ["REIN", "USER other"] {
        let mut t = Talk::logged_in(ActiveAt::Command);
        t.client(command);
        assert!(!t.dialogue.logged_in(), "{command}");
        t.server("502 no");
        t.client("PASV");
        assert_eq!(ports(&t.server("227 (1,2,3,4,200,2)")), [51202], "{command}");
    }
    let mut t = Talk::logged_in(ActiveAt::Command);
    t.client("REIN");
    t.server("220 again");
    assert!(!t.dialogue.logged_in());
}

#[test]
fn auth_is_accepted_by_the_first_digit() {
    for reply in ["234 go on", "334 go on", "227 (1,2,3,4,200,2)", "229 (|||51203|)"] {
        let mut t = Talk::logged_in(ActiveAt::Command);
        t.client("AUTH TLS");
        assert_eq!(t.server(reply), [Step::Opaque(Reason::AuthAccepted)], "{reply}");
    }
}
