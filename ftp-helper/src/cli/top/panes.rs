//! The panes with rows: their columns, what stands in a cell, how rows are ordered, and which fit a filter.
//!
//! A cell is made only when it is drawn; ordering and filtering compare values, not texts, where that is cheaper.

use std::{cmp::Ordering, fmt::Write as _};

use super::{
    super::text,
    known::{Known, Moment},
    theme::Tone,
    words,
};
use crate::{
    api::{ConnectionRow, PinholeRow, Session, Standing},
    event::{Kind, PinholeState},
};

/// A part of the screen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pane {
    /// Control connections.
    Sessions,
    /// Pinholes that nobody has used yet.
    Pinholes,
    /// Data connections that are running.
    Transfers,
    /// Refusals by reason.
    Refusals,
    /// How the daemon is.
    Health,
}

/// A column of a pane.
#[derive(Debug)]
pub(super) struct Column {
    /// What stands above it.
    pub(super) title: &'static str,
    /// Its least width.
    pub(super) min: u16,
    /// The width from which more is of no use.
    pub(super) max: u16,
    /// Where the screen is narrow, those with the highest rank are left out; rank 0 never is.
    pub(super) rank: u8,
    /// Whether it holds numbers, which stand at its right, the largest first.
    pub(super) number: bool,
}

const fn text_column(title: &'static str, min: u16, max: u16, rank: u8) -> Column {
    Column { title, min, max, rank, number: false }
}

const fn number_column(title: &'static str, width: u16, rank: u8) -> Column {
    Column { title, min: width, max: width, rank, number: true }
}

/// An IPv4 address with its port, and the longest IPv6 address with its port.
const ENDPOINT: (u16, u16) = (21, 47);

static SESSIONS: [Column; 10] = [
    text_column("CLIENT", ENDPOINT.0, ENDPOINT.1, 0),
    text_column("SERVER", 18, ENDPOINT.1, 0),
    text_column("STATE", 9, 9, 0),
    text_column("MODE", 5, 5, 2),
    text_column("LAST EVENT", 13, 32, 1),
    text_column("KERNEL", 7, 7, 3),
    number_column("DATA", 4, 5),
    number_column("BYTES", 6, 6),
    number_column("IDLE", 6, 4),
    number_column("AGE", 6, 0),
];

static PINHOLES: [Column; 7] = [
    number_column("LEFT", 6, 0),
    text_column("MODE", 5, 5, 0),
    text_column("INITIATOR", 15, 39, 0),
    text_column("RESPONDER", ENDPOINT.0, ENDPOINT.1, 0),
    text_column("STATE", 11, 11, 1),
    text_column("CLIENT", ENDPOINT.0, ENDPOINT.1, 3),
    text_column("SESSION", 16, 16, 2),
];

static TRANSFERS: [Column; 9] = [
    text_column("INITIATOR", ENDPOINT.0, ENDPOINT.1, 0),
    text_column("RESPONDER", 18, ENDPOINT.1, 0),
    text_column("MODE", 5, 5, 2),
    number_column("RATE", 8, 0),
    number_column("BYTES", 6, 0),
    number_column("OUT", 6, 3),
    number_column("BACK", 6, 4),
    number_column("AGE", 6, 1),
    text_column("SESSION", 16, 16, 5),
];

static REFUSALS: [Column; 6] = [
    text_column("WHAT", 7, 8, 0),
    text_column("REASON", 18, 26, 0),
    number_column("COUNT", 7, 0),
    number_column("RATE", 8, 0),
    text_column("LAST", 8, 8, 1),
    text_column("ABOUT", 20, 97, 2),
];

impl Pane {
    /// All of them, in the order of their numbers.
    pub(super) const ALL: [Self; 5] = [Self::Sessions, Self::Pinholes, Self::Transfers, Self::Refusals, Self::Health];

    /// Where it is among them.
    pub(super) fn index(self) -> usize {
        self as usize
    }

    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sessions => "Sessions",
            Self::Pinholes => "Pinholes",
            Self::Transfers => "Data",
            Self::Refusals => "Refusals",
            Self::Health => "Health",
        }
    }

    /// Its name where there is little room.
    pub(super) fn short_name(self) -> &'static str {
        match self {
            Self::Sessions => "Sess",
            Self::Pinholes => "Pin",
            Self::Transfers => "Data",
            Self::Refusals => "Ref",
            Self::Health => "Health",
        }
    }

    /// Its columns.
    pub(super) fn columns(self) -> &'static [Column] {
        match self {
            Self::Sessions => &SESSIONS,
            Self::Pinholes => &PINHOLES,
            Self::Transfers => &TRANSFERS,
            Self::Refusals => &REFUSALS,
            Self::Health => &[],
        }
    }

    /// The column by which its rows are ordered at first, and whether the largest comes first.
    pub(super) fn first_order(self) -> (usize, bool) {
        match self {
            Self::Sessions => (9, false),
            Self::Pinholes => (0, false),
            Self::Transfers => (3, true),
            Self::Refusals => (2, true),
            Self::Health => (0, false),
        }
    }

    /// How many rows there are.
    pub(super) fn len(self, known: &Known) -> usize {
        match self {
            Self::Sessions => known.sessions().len(),
            Self::Pinholes => known.pinholes().len(),
            Self::Transfers => known.transfers().len(),
            Self::Refusals => known.refusals.len(),
            Self::Health => 0,
        }
    }

    /// What tells a row from all others, now and in the next answers.
    pub(super) fn key(self, known: &Known, row: usize) -> Option<String> {
        match self {
            Self::Sessions => known.sessions().get(row).map(|s| s.session.clone()),
            Self::Pinholes => {
                known.pinholes().get(row).map(|p| format!("{} {} {}", id(p.id()), p.pinhole.initiator, responder(p)))
            }
            Self::Transfers => known.transfers().get(row).map(|t| format!("{} {}", t.initiator, t.responder)),
            Self::Refusals => known.refusals.get(row).map(|r| format!("{} {}", r.what, r.reason)),
            Self::Health => None,
        }
    }

    /// The session that a row belongs to.
    pub(super) fn session(self, known: &Known, row: usize) -> Option<String> {
        match self {
            Self::Sessions => known.sessions().get(row).map(|s| s.session.clone()),
            Self::Pinholes => known.pinholes().get(row)?.session.clone(),
            Self::Transfers => known.transfers().get(row)?.session.clone(),
            Self::Refusals | Self::Health => None,
        }
    }

    /// What stands in a cell.
    pub(super) fn cell(self, known: &Known, row: usize, column: usize, now: Moment) -> (String, Tone) {
        let since = known.since(now);
        let cell = match self {
            Self::Sessions => known.sessions().get(row).map(|s| session_cell(known, s, column, since)),
            Self::Pinholes => known.pinholes().get(row).map(|p| pinhole_cell(p, column, since)),
            Self::Transfers => known.transfers().get(row).map(|t| transfer_cell(t, column, since)),
            Self::Refusals => known.refusals.get(row).map(|_| refusal_cell(known, row, column)),
            Self::Health => None,
        };
        cell.unwrap_or_default()
    }

    /// How two rows are ordered by a column, the smallest first.
    pub(super) fn compare(self, known: &Known, column: usize, a: usize, b: usize) -> Ordering {
        match self {
            Self::Sessions => compare_sessions(known, column, &known.sessions()[a], &known.sessions()[b]),
            Self::Pinholes => compare_pinholes(column, &known.pinholes()[a], &known.pinholes()[b]),
            Self::Transfers => compare_transfers(column, &known.transfers()[a], &known.transfers()[b]),
            Self::Refusals => {
                let (x, y) = (&known.refusals[a], &known.refusals[b]);
                match column {
                    0 => x.what.cmp(y.what),
                    1 => x.reason.cmp(&y.reason),
                    2 => x.count.cmp(&y.count),
                    3 => x.rate.total_cmp(&y.rate),
                    _ => {
                        let time = |reason| known.last_refusal(reason).map(|l| l.time.as_str());
                        time(&x.reason).cmp(&time(&y.reason))
                    }
                }
            }
            Self::Health => Ordering::Equal,
        }
    }

    /// Whether a row has a text, which is given in lower case. `line` is room to write in.
    pub(super) fn fits(self, known: &Known, row: usize, wanted: &str, line: &mut String) -> bool {
        line.clear();
        // Writing to a String does not fail.
        let _ = match self {
            Self::Sessions => {
                let s = &known.sessions()[row];
                let mode = known.mode(s).map(|m| text::name(&m)).unwrap_or_default();
                let sight = if s.sighted { "sighted" } else { "blind" };
                let event = known.last_event(&s.session).map(|l| text::name(&l.kind)).unwrap_or_default();
                let reason = s.reason.as_deref().unwrap_or_default();
                let state = standing(s.state);
                write!(line, "{} {} {} {state} {sight} {mode} {event} {reason}", s.session, s.client, s.server)
            }
            Self::Pinholes => {
                let p = &known.pinholes()[row];
                let (mode, state) = (text::name(&p.pinhole.mode), text::name(&p.pinhole.state));
                let (from, to) = (p.pinhole.initiator, responder(p));
                let (client, server) = (address(p.client), address(p.server));
                write!(line, "{} {client} {server} {mode} {from} {to} {state}", id(p.id()))
            }
            Self::Transfers => {
                let t = &known.transfers()[row];
                let owner = id(t.session.as_deref().or(t.added.as_deref()));
                write!(line, "{owner} {} {} {}", t.initiator, t.responder, text::name(&t.mode))
            }
            Self::Refusals => {
                let r = &known.refusals[row];
                let about = known.last_refusal(&r.reason).map_or("", |l| &l.who);
                write!(line, "{} {} {about}", r.what, r.reason)
            }
            Self::Health => Ok(()),
        };
        line.make_ascii_lowercase();
        line.contains(wanted)
    }
}

/// The widths of the columns that have room; 0 for the others.
pub(super) fn widths(columns: &[Column], room: u16) -> Vec<u16> {
    let mut chosen: Vec<usize> = (0..columns.len()).collect();
    chosen.sort_by_key(|&i| columns[i].rank);
    let mut widths = vec![0; columns.len()];
    // One space between two columns, and so none before the first.
    let mut used = 0;
    for i in chosen {
        let column = &columns[i];
        let wanted = column.min + u16::from(used > 0);
        if used + wanted <= room || column.rank == 0 {
            widths[i] = column.min;
            used += wanted;
        }
    }
    let mut left = room.saturating_sub(used);
    while left > 0 {
        let before = left;
        for (width, column) in widths.iter_mut().zip(columns) {
            if *width > 0 && *width < column.max && left > 0 {
                *width += 1;
                left -= 1;
            }
        }
        if left == before {
            break;
        }
    }
    widths
}

fn session_cell(known: &Known, s: &Session, column: usize, since: u64) -> (String, Tone) {
    let plain = |text: String| (text, Tone::Plain);
    match column {
        0 => plain(s.client.to_string()),
        1 => plain(s.server.to_string()),
        2 => {
            let tone = match s.state {
                Standing::LoggedIn => Tone::Good,
                Standing::Login | Standing::Closing => Tone::Dim,
                Standing::Opaque => Tone::Warn,
                Standing::Tainted | Standing::Killed => Tone::Bad,
            };
            (standing(s.state).to_owned(), tone)
        }
        3 => plain(known.mode(s).map_or_else(|| "-".to_owned(), |m| text::name(&m))),
        4 => match known.last_event(&s.session) {
            Some(last) => {
                let tone = match last.kind {
                    Kind::Refused | Kind::Denied | Kind::Tainted | Kind::Killed => Tone::Bad,
                    Kind::Revoked | Kind::Expired | Kind::Opaque => Tone::Warn,
                    Kind::Opened | Kind::Confirmed | Kind::Used => Tone::Good,
                    Kind::SessionStart | Kind::DataEnd | Kind::SessionEnd => Tone::Plain,
                };
                let reason = last.reason.map_or_else(String::new, |r| format!(" {r}"));
                (text::name(&last.kind) + &reason, tone)
            }
            None => ("-".to_owned(), Tone::Dim),
        },
        5 if s.sighted => ("sighted".to_owned(), Tone::Plain),
        5 => ("blind".to_owned(), Tone::Warn),
        6 => plain(s.data_connections.to_string()),
        7 => plain(words::bytes(s.bytes)),
        8 => plain(words::age(s.idle_ms.saturating_add(since))),
        _ => plain(words::age(s.age_ms.saturating_add(since))),
    }
}

fn pinhole_cell(row: &PinholeRow, column: usize, since: u64) -> (String, Tone) {
    let p = &row.pinhole;
    let plain = |text: String| (text, Tone::Plain);
    match column {
        0 => {
            let left = p.expires_in_ms.saturating_sub(since);
            let tone = if left < 3000 { Tone::Warn } else { Tone::Good };
            (words::countdown(left), tone)
        }
        1 => plain(text::name(&p.mode)),
        2 => plain(p.initiator.to_string()),
        3 => plain(responder(row).to_string()),
        4 => {
            let tone = if p.state == PinholeState::Provisional { Tone::Warn } else { Tone::Plain };
            (text::name(&p.state), tone)
        }
        5 => plain(address(row.client)),
        _ => (id(row.id()).to_owned(), Tone::Dim),
    }
}

fn transfer_cell(t: &ConnectionRow, column: usize, since: u64) -> (String, Tone) {
    let plain = |text: String| (text, Tone::Plain);
    match column {
        0 => plain(t.initiator.to_string()),
        1 => plain(t.responder.to_string()),
        2 => plain(text::name(&t.mode)),
        3 if t.rate > 0 => (words::bytes(t.rate) + "/s", Tone::Good),
        3 => ("-".to_owned(), Tone::Dim),
        4 => plain(words::bytes(t.bytes_out.saturating_add(t.bytes_back))),
        5 => plain(words::bytes(t.bytes_out)),
        6 => plain(words::bytes(t.bytes_back)),
        7 => plain(words::age(t.age_ms.saturating_add(since))),
        _ => (id(t.session.as_deref().or(t.added.as_deref())).to_owned(), Tone::Dim),
    }
}

fn refusal_cell(known: &Known, row: usize, column: usize) -> (String, Tone) {
    let r = &known.refusals[row];
    let plain = |text: String| (text, Tone::Plain);
    match column {
        0 => {
            let tone = match r.what {
                "denied" | "refused" | "barred" => Tone::Bad,
                _ => Tone::Dim,
            };
            (r.what.to_owned(), tone)
        }
        1 => plain(r.reason.clone()),
        2 => plain(words::count(r.count)),
        3 if r.rate >= 0.05 => (format!("{:.1}/s", r.rate), Tone::Warn),
        3 => ("-".to_owned(), Tone::Dim),
        4 => (known.last_refusal(&r.reason).map(|l| l.time.clone()).unwrap_or_default(), Tone::Dim),
        _ => plain(known.last_refusal(&r.reason).map(|l| l.who.clone()).unwrap_or_default()),
    }
}

fn compare_sessions(known: &Known, column: usize, a: &Session, b: &Session) -> Ordering {
    match column {
        0 => a.client.cmp(&b.client),
        1 => a.server.cmp(&b.server).then_with(|| a.client.cmp(&b.client)),
        2 => (a.state as u8).cmp(&(b.state as u8)),
        3 => known.mode(a).map(|m| m as u8).cmp(&known.mode(b).map(|m| m as u8)),
        4 => {
            let last = |s: &Session| known.last_event(&s.session).map(|l| (l.kind as u8, l.reason));
            last(a).cmp(&last(b))
        }
        5 => a.sighted.cmp(&b.sighted),
        6 => a.data_connections.cmp(&b.data_connections),
        7 => a.bytes.cmp(&b.bytes),
        8 => a.idle_ms.cmp(&b.idle_ms),
        _ => a.age_ms.cmp(&b.age_ms),
    }
}

fn compare_pinholes(column: usize, a: &PinholeRow, b: &PinholeRow) -> Ordering {
    let (x, y) = (&a.pinhole, &b.pinhole);
    match column {
        0 => x.expires_in_ms.cmp(&y.expires_in_ms),
        1 => (x.mode as u8).cmp(&(y.mode as u8)),
        2 => x.initiator.cmp(&y.initiator),
        3 => responder(a).cmp(&responder(b)),
        4 => (x.state as u8).cmp(&(y.state as u8)),
        5 => a.client.cmp(&b.client),
        _ => a.id().cmp(&b.id()),
    }
}

fn compare_transfers(column: usize, a: &ConnectionRow, b: &ConnectionRow) -> Ordering {
    match column {
        0 => a.initiator.cmp(&b.initiator),
        1 => a.responder.cmp(&b.responder),
        2 => (a.mode as u8).cmp(&(b.mode as u8)),
        3 => a.rate.cmp(&b.rate),
        4 => a.bytes_out.saturating_add(a.bytes_back).cmp(&b.bytes_out.saturating_add(b.bytes_back)),
        5 => a.bytes_out.cmp(&b.bytes_out),
        6 => a.bytes_back.cmp(&b.bytes_back),
        7 => a.age_ms.cmp(&b.age_ms),
        _ => (&a.session, &a.added).cmp(&(&b.session, &b.added)),
    }
}

/// The id of a session or of an added pinhole.
fn id(id: Option<&str>) -> &str {
    id.unwrap_or("-")
}

/// An end of a control connection; an added pinhole has none.
fn address(address: Option<std::net::SocketAddr>) -> String {
    address.map_or_else(|| "-".to_owned(), |a| a.to_string())
}

fn responder(row: &PinholeRow) -> std::net::SocketAddr {
    std::net::SocketAddr::new(row.pinhole.responder, row.pinhole.port)
}

/// A state's name as JSON has it, without the way through JSON.
fn standing(state: Standing) -> &'static str {
    match state {
        Standing::Login => "login",
        Standing::LoggedIn => "logged_in",
        Standing::Tainted => "tainted",
        Standing::Killed => "killed",
        Standing::Opaque => "opaque",
        Standing::Closing => "closing",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_have_room_on_every_screen() {
        for pane in Pane::ALL {
            for room in [58, 78, 118, 200] {
                let widths = widths(pane.columns(), room);
                let shown: Vec<u16> = widths.iter().copied().filter(|w| *w > 0).collect();
                let used = shown.iter().sum::<u16>() + (shown.len() as u16).saturating_sub(1);
                assert!(used <= room, "{pane:?} takes {used} of {room}");
                for (column, width) in pane.columns().iter().zip(&widths) {
                    assert!(column.rank > 0 || *width >= column.min, "{pane:?} {} at {room}", column.title);
                }
            }
        }
        let wide = widths(Pane::Sessions.columns(), 118);
        assert!(wide.iter().all(|w| *w > 0), "{wide:?}");
    }

    #[test]
    fn names_are_those_of_the_other_commands() {
        for state in [
            Standing::Login,
            Standing::LoggedIn,
            Standing::Tainted,
            Standing::Killed,
            Standing::Opaque,
            Standing::Closing,
        ] {
            assert_eq!(standing(state), text::name(&state));
        }
    }
}
