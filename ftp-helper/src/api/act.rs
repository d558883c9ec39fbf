//! What an operator may have changed: pinholes added and taken back, sessions killed.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::PinholeRow;
use crate::event::NegotiatedBy;

/// Bytes of a reason that an operator gives, at most.
pub const NOTE_MAX: usize = 256;

/// A pinhole that is to be added: of no session, for one connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PinholeAdd {
    /// Who may connect.
    pub initiator: IpAddr,
    /// To whom.
    pub responder: IpAddr,
    /// To which port.
    pub port: u16,
    /// Which way its first SYN goes; without it, the way of the guard that covers it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub direction: Option<Direction>,
    /// For how many seconds; without it, and at most, for as long as `[pinhole] timeout` says.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub seconds: Option<u64>,
    /// Why, for those who read the events: one line, [`NOTE_MAX`] bytes at most.
    pub reason: String,
}

/// Which way a first SYN goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// It arrives on an outside interface.
    In,
    /// It leaves by one.
    Out,
}

/// A pinhole that is meant.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selector {
    /// That of the session, or the added one, with this id.
    Id(String),
    /// That of these hosts and this port.
    Endpoint {
        /// Who may connect.
        initiator: IpAddr,
        /// To whom.
        responder: IpAddr,
        /// To which port.
        port: u16,
    },
}

/// Which pinholes: those that fit one value of each list. An empty list fits everything.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PinholeFilter {
    /// Networks of those who may connect.
    pub initiator: Vec<IpNet>,
    /// Networks of those whom they may connect to.
    pub responder: Vec<IpNet>,
    /// Ids of sessions, or of added pinholes.
    pub session: Vec<String>,
    /// How they were negotiated.
    pub mode: Vec<NegotiatedBy>,
}

impl Selector {
    /// Whether it is the one that is meant.
    pub fn matches(&self, row: &PinholeRow) -> bool {
        match self {
            Self::Id(id) => row.id() == Some(id.as_str()),
            Self::Endpoint { initiator, responder, port } => {
                let p = &row.pinhole;
                (p.initiator, p.responder, p.port) == (*initiator, *responder, *port)
            }
        }
    }
}

impl PinholeFilter {
    /// Whether the pinhole is among them.
    pub fn matches(&self, row: &PinholeRow) -> bool {
        let p = &row.pinhole;
        let within = |nets: &[IpNet], ip: IpAddr| nets.is_empty() || nets.iter().any(|n| n.contains(&ip));
        within(&self.initiator, p.initiator)
            && within(&self.responder, p.responder)
            && (self.session.is_empty() || row.id().is_some_and(|id| self.session.iter().any(|s| s == id)))
            && (self.mode.is_empty() || self.mode.contains(&p.mode))
    }
}

/// Whether a reason that an operator gives is one line that says something; if not, what is wrong with it.
///
/// # Errors
/// It is not: the message.
pub fn check_note(note: &str) -> Result<(), String> {
    /// Those that change the direction of what follows, and the ends of lines that are no control characters.
    const HIDDEN: [char; 13] = [
        '\u{200e}', '\u{200f}', '\u{2028}', '\u{2029}', '\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}',
        '\u{2066}', '\u{2067}', '\u{2068}', '\u{2069}',
    ];
    if note.trim().is_empty() {
        Err("the reason is empty: say in a few words why, it is kept in the events".to_owned())
    } else if note.len() > NOTE_MAX {
        Err(format!("the reason is {} bytes long: {NOTE_MAX} at most are kept in the events", note.len()))
    } else if note.chars().any(|c| c.is_control() || HIDDEN.contains(&c)) {
        Err("the reason holds a control character: write it as one line of plain text".to_owned())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Pinhole, PinholeState};

    fn row() -> PinholeRow {
        PinholeRow {
            session: None,
            added: Some("8000000000000001".into()),
            client: None,
            server: None,
            inside: None,
            uid: Some(0),
            note: Some("a test".into()),
            pinhole: Pinhole {
                mode: NegotiatedBy::Added,
                initiator: "192.0.2.10".parse().unwrap(),
                responder: "198.51.100.5".parse().unwrap(),
                port: 50069,
                state: PinholeState::Confirmed,
                expires_in_ms: 9000,
            },
        }
    }

    #[test]
    fn a_pinhole_is_meant_by_its_id_or_by_its_endpoint() {
        let endpoint = |port| Selector::Endpoint {
            initiator: "192.0.2.10".parse().unwrap(),
            responder: "198.51.100.5".parse().unwrap(),
            port,
        };
        assert!(endpoint(50069).matches(&row()) && !endpoint(50070).matches(&row()));
        assert!(Selector::Id("8000000000000001".into()).matches(&row()));
        assert!(!Selector::Id("0000000000000001".into()).matches(&row()));
    }

    #[test]
    fn every_list_of_a_filter_must_fit() {
        let all = PinholeFilter::default();
        assert!(all.matches(&row()));
        let from = |net: &str| PinholeFilter { initiator: vec![net.parse().unwrap()], ..all.clone() };
        assert!(from("192.0.2.0/24").matches(&row()) && !from("198.51.100.0/24").matches(&row()));
        let to = |net: &str| PinholeFilter { responder: vec![net.parse().unwrap()], ..all.clone() };
        assert!(to("198.51.100.0/24").matches(&row()) && !to("2001:db8::/32").matches(&row()));
        let mode = |mode| PinholeFilter { mode: vec![mode], ..all.clone() };
        assert!(mode(NegotiatedBy::Added).matches(&row()) && !mode(NegotiatedBy::Pasv).matches(&row()));
        let of = |id: &str| PinholeFilter { session: vec![id.into()], ..all.clone() };
        assert!(of("8000000000000001").matches(&row()) && !of("1").matches(&row()));
        let both = PinholeFilter { mode: vec![NegotiatedBy::Pasv], ..from("192.0.2.0/24") };
        assert!(!both.matches(&row()));
    }

    #[test]
    fn a_reason_is_one_line_that_says_something() {
        assert_eq!(check_note("ticket 4711: restoring Müller's backup"), Ok(()));
        assert_eq!(check_note(&"x".repeat(NOTE_MAX)), Ok(()));
        for (note, part) in [
            ("", "is empty"),
            (" \t ", "is empty"),
            ("two\nlines", "control character"),
            ("\u{1b}[2J", "control character"),
            ("a\u{202e}b", "control character"),
        ] {
            assert!(check_note(note).unwrap_err().contains(part), "{note:?}");
        }
        assert!(check_note(&"x".repeat(NOTE_MAX + 1)).unwrap_err().contains("257 bytes"));
    }
}
