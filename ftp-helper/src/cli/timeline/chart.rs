//! What is to be seen in a timeline: steps one below the other, and what lasts from one step to another.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};

use super::super::{colour::Paint, text};
use crate::event::{Connection, Event, Kind, NegotiatedBy, Pinhole};

/// A session's timeline.
#[derive(Debug)]
pub(super) struct Chart {
    /// The session's id.
    pub(super) session: String,
    /// Its client, where that is known.
    pub(super) client: Option<SocketAddr>,
    /// Its server.
    pub(super) server: Option<SocketAddr>,
    /// When the first step was, as the event tells it.
    pub(super) began: String,
    /// What happened, in the stream's order.
    pub(super) steps: Vec<Step>,
    /// What lasted.
    pub(super) spans: Vec<Span>,
}

/// Something that happened.
#[derive(Debug)]
pub(super) struct Step {
    /// Time since the first step.
    pub(super) at: Duration,
    /// The event's kind, as JSON has it.
    pub(super) kind: String,
    /// What is drawn for it.
    pub(super) sign: Sign,
    /// Whether it is good news.
    pub(super) tone: Tone,
    /// What it is, in a few words.
    pub(super) title: String,
    /// More about it.
    pub(super) note: String,
    /// The whole event in one line.
    pub(super) whole: String,
}

/// What is drawn for a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sign {
    /// An arrow through the gateway.
    Across(Lane, Lane),
    /// An arrow that ends at the gateway.
    Stopped(Lane),
    /// A mark at the gateway.
    Mark,
}

/// One of those who take part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lane {
    /// The control connection's client.
    Client,
    /// ftp-helper.
    Gateway,
    /// The control connection's server.
    Server,
}

/// How a step looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tone {
    /// Nothing special.
    Plain,
    /// Something was allowed.
    Good,
    /// Something was not, or not any more.
    Bad,
}

/// Something that lasted from one step to another.
#[derive(Debug)]
pub(super) struct Span {
    /// What.
    pub(super) kind: Lasting,
    /// The step where it began.
    pub(super) from: usize,
    /// The step where it ended; the last one if its end is not told.
    pub(super) to: usize,
}

/// What lasts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lasting {
    /// A pinhole that nobody has used yet.
    Pinhole,
    /// A data connection.
    Data,
}

impl Chart {
    /// The timeline of a session's events.
    ///
    /// # Errors
    /// There is no event.
    pub(super) fn new(events: &[Event]) -> Result<Self> {
        let first = events.first().context("there is no event")?;
        let began = first.ts.time();
        let ends = Ends { client: first.client, server: first.server };
        let steps = events.iter().map(|e| step(e, began, ends)).collect();
        let spans = spans(events);
        Ok(Self {
            session: first.session.as_ref().map_or_else(String::new, ToString::to_string),
            client: ends.client,
            server: ends.server,
            began: first.ts.to_string(),
            steps,
            spans,
        })
    }
}

/// The two ends of the control connection.
#[derive(Clone, Copy)]
struct Ends {
    client: Option<SocketAddr>,
    server: Option<SocketAddr>,
}

impl Ends {
    /// Where a data connection comes from. On one host, the addresses don't tell, but the negotiation does.
    fn lane(self, connection: &Connection, pinhole: Option<&Pinhole>) -> Lane {
        let from = connection.from.ip();
        match (self.client.map(|c| c.ip()), self.server.map(|s| s.ip())) {
            (Some(client), Some(server)) if client == server => match pinhole.map(|p| p.mode) {
                Some(NegotiatedBy::Port | NegotiatedBy::Eprt) => Lane::Server,
                _ => Lane::Client,
            },
            (_, Some(server)) if server == from => Lane::Server,
            _ => Lane::Client,
        }
    }
}

fn step(event: &Event, began: SystemTime, ends: Ends) -> Step {
    // Events of two CPUs may be told a moment out of order.
    let at = event.ts.time().duration_since(began).unwrap_or_default();
    let pinhole = event.pinhole.as_ref();
    let connection = event.connection.as_ref();
    let reason = event.reason.map(|r| r.as_str().to_owned());
    let detail = event.detail.as_deref().map(text::printable);
    let because = |what: &str| reason.as_ref().map_or_else(|| what.to_owned(), |r| format!("{what}: {r}"));
    let initiator = connection.map_or(Lane::Client, |c| ends.lane(c, pinhole));
    let (sign, tone, title, note) = match event.event {
        Kind::SessionStart => {
            (Sign::Across(Lane::Client, Lane::Server), Tone::Plain, "control connection".to_owned(), None)
        }
        Kind::Opened => {
            let title = pinhole.map_or_else(
                || "opened".to_owned(),
                |p| format!("{} announces {}", text::name(&p.mode).to_uppercase(), endpoint(p)),
            );
            let by = event.by.map_or_else(String::new, |by| format!(" by {}", text::name(&by)));
            let long = pinhole.map_or_else(String::new, |p| {
                format!(", {}, for {}", text::name(&p.state), text::milliseconds(p.expires_in_ms))
            });
            (announcement(pinhole), Tone::Good, title, Some(format!("opened{by}{long}")))
        }
        Kind::Confirmed => {
            (Sign::Mark, Tone::Good, "confirmed".to_owned(), Some("the daemon vouches for it".to_owned()))
        }
        Kind::Used => {
            let to = if initiator == Lane::Client { Lane::Server } else { Lane::Client };
            let title =
                connection.map_or_else(|| "used".to_owned(), |c| format!("SYN {} to port {}", c.from, c.to.port()));
            (Sign::Across(initiator, to), Tone::Good, title, Some("used".to_owned()))
        }
        Kind::Expired => (Sign::Mark, Tone::Bad, "expired".to_owned(), pinhole.map(endpoint)),
        Kind::Revoked => (Sign::Mark, Tone::Bad, because("revoked"), pinhole.map(endpoint)),
        Kind::Refused => (Sign::Mark, Tone::Bad, because("refused"), pinhole.map(endpoint)),
        Kind::Denied => {
            let note = connection.map(|c| {
                let done = if c.dropped == Some(false) { "passed all the same" } else { "dropped" };
                format!("{} to port {}, {done}", c.from, c.to.port())
            });
            (Sign::Stopped(initiator), Tone::Bad, because("denied"), note)
        }
        Kind::Tainted => (Sign::Mark, Tone::Bad, because("tainted"), Some("may open nothing any more".to_owned())),
        Kind::Killed => (Sign::Mark, Tone::Bad, because("killed"), Some("control packets are dropped".to_owned())),
        Kind::Opaque => (Sign::Mark, Tone::Plain, because("opaque"), Some("encrypted: nothing is read".to_owned())),
        Kind::DataEnd => (Sign::Mark, Tone::Plain, because("data connection ends"), connection.map(carried)),
        Kind::SessionEnd => (Sign::Mark, Tone::Plain, because("session ends"), None),
    };
    let operator = event.note.as_deref().map(|n| format!("by an operator: {}", text::printable(n)));
    let note = [note, operator, detail].into_iter().flatten().collect::<Vec<_>>().join("; ");
    Step { at, kind: text::name(&event.event), sign, tone, title, note, whole: text::event(event, Paint::PLAIN) }
}

/// Who announces: the server in passive modes, the client in active ones.
fn announcement(pinhole: Option<&Pinhole>) -> Sign {
    match pinhole.map(|p| p.mode) {
        Some(NegotiatedBy::Pasv | NegotiatedBy::Epsv) => Sign::Across(Lane::Server, Lane::Client),
        Some(NegotiatedBy::Port | NegotiatedBy::Eprt) => Sign::Across(Lane::Client, Lane::Server),
        Some(NegotiatedBy::Range | NegotiatedBy::Added) | None => Sign::Mark,
    }
}

fn endpoint(pinhole: &Pinhole) -> String {
    SocketAddr::new(pinhole.responder, pinhole.port).to_string()
}

/// What a data connection has carried.
fn carried(c: &Connection) -> String {
    let mut parts = Vec::new();
    if let (Some(out), Some(back)) = (c.bytes_out, c.bytes_back) {
        parts.push(format!("{out} bytes out, {back} bytes back"));
    }
    parts.extend(c.duration_ms.map(|ms| format!("in {}", text::milliseconds(ms))));
    parts.join(" ")
}

fn spans(events: &[Event]) -> Vec<Span> {
    let last = events.len().saturating_sub(1);
    let hole = |e: &Event| e.pinhole.as_ref().map(|p| (p.mode, p.initiator, p.responder, p.port));
    let ends = |e: &Event| e.connection.as_ref().map(|c| (c.from, c.to));
    let find = |from: usize, is: &dyn Fn(&Event) -> bool| {
        events.iter().enumerate().skip(from + 1).find(|(_, e)| is(e)).map_or(last, |(i, _)| i)
    };
    let mut spans = Vec::new();
    for (from, event) in events.iter().enumerate() {
        match event.event {
            Kind::Opened => {
                let over = |e: &Event| {
                    matches!(e.event, Kind::Used | Kind::Expired | Kind::Revoked) && hole(e) == hole(event)
                        || e.event == Kind::SessionEnd
                };
                spans.push(Span { kind: Lasting::Pinhole, from, to: find(from, &over) });
            }
            Kind::Used => {
                let over = |e: &Event| e.event == Kind::DataEnd && ends(e) == ends(event);
                spans.push(Span { kind: Lasting::Data, from, to: find(from, &over) });
            }
            _ => {}
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, rest: &str) -> Event {
        let text = format!(
            r#"{{"v":1,"ts":"2026-01-01T00:00:00.000000Z","event":"{kind}","session":"0000000000000001","client":"192.0.2.1:1000","server":"198.51.100.1:21"{rest}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn hole(mode: &str, port: u16) -> String {
        format!(
            r#","mode":"{mode}","initiator":"192.0.2.1","responder":"198.51.100.1","port":{port},"state":"confirmed","expires_in_ms":10000"#
        )
    }

    #[test]
    fn announcements_come_from_whom_the_mode_says() {
        for (mode, sign) in [
            ("pasv", Sign::Across(Lane::Server, Lane::Client)),
            ("epsv", Sign::Across(Lane::Server, Lane::Client)),
            ("port", Sign::Across(Lane::Client, Lane::Server)),
            ("eprt", Sign::Across(Lane::Client, Lane::Server)),
            ("range", Sign::Mark),
        ] {
            let chart = Chart::new(&[event("opened", &hole(mode, 5000))]).unwrap();
            assert_eq!(chart.steps[0].sign, sign, "{mode}");
        }
    }

    #[test]
    fn a_connection_is_drawn_from_who_began_it() {
        let used = |from: &str| event("used", &format!(r#","from":"{from}","to":"203.0.113.1:5000""#));
        let sign = |e: Event| Chart::new(&[e]).unwrap().steps[0].sign;
        assert_eq!(sign(used("192.0.2.1:7")), Sign::Across(Lane::Client, Lane::Server));
        assert_eq!(sign(used("198.51.100.1:20")), Sign::Across(Lane::Server, Lane::Client));
        let denied =
            event("denied", r#","reason":"no_pinhole","from":"198.51.100.1:20","to":"192.0.2.1:5000","dropped":true"#);
        assert_eq!(sign(denied), Sign::Stopped(Lane::Server));
        // Client and server on one host.
        let mut local = event("used", &(hole("port", 5000) + r#","from":"192.0.2.1:7","to":"192.0.2.1:5000""#));
        local.server = Some("192.0.2.1:21".parse().unwrap());
        assert_eq!(sign(local), Sign::Across(Lane::Server, Lane::Client));
    }

    #[test]
    fn a_pinhole_lasts_until_it_is_used_or_taken_back() {
        let events = [
            event("opened", &hole("pasv", 5000)),
            event("opened", &hole("pasv", 5001)),
            event("revoked", &hole("pasv", 5000)),
            event("used", &(hole("pasv", 5001) + r#","from":"192.0.2.1:7","to":"198.51.100.1:5001""#)),
            event("session_end", ""),
        ];
        let chart = Chart::new(&events).unwrap();
        let spans: Vec<_> = chart.spans.iter().map(|s| (s.kind, s.from, s.to)).collect();
        assert_eq!(spans, [(Lasting::Pinhole, 0, 2), (Lasting::Pinhole, 1, 3), (Lasting::Data, 3, 4)]);
    }
}
