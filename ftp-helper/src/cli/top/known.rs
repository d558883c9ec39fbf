//! What is known of the daemon: its last answers, and what events have told since. Nothing here asks or draws.
//!
//! Times are a [`Moment`], counted from the start of the program: ages and countdowns go on between two answers.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use ftp_helper_common::reason::Reason;

use super::super::text;
use crate::{
    api::{ConnectionRow, PinholeRow, Session, Status},
    event::{Event, Kind, NegotiatedBy, SessionId},
};

/// Time since the program started.
pub(super) type Moment = Duration;

/// What the daemon answers at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Fetched {
    /// When.
    pub(super) at: Moment,
    /// What is going on.
    pub(super) status: Status,
    /// The sessions.
    pub(super) sessions: Vec<Session>,
    /// The unconsumed pinholes.
    pub(super) pinholes: Vec<PinholeRow>,
    /// The data connections that are running.
    pub(super) transfers: Vec<ConnectionRow>,
}

/// What the last event of a session was.
#[derive(Clone, Debug)]
pub(super) struct LastEvent {
    /// What.
    pub(super) kind: Kind,
    /// Why.
    pub(super) reason: Option<Reason>,
    /// The mode of the session's last pinhole.
    pub(super) mode: Option<NegotiatedBy>,
}

/// How often something was refused for a reason.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Refusal {
    /// What was.
    pub(super) what: &'static str,
    /// Why.
    pub(super) reason: String,
    /// How often.
    pub(super) count: u64,
    /// How often a second, between the last two answers.
    pub(super) rate: f64,
}

/// The last event with a reason.
#[derive(Clone, Debug)]
pub(super) struct LastRefusal {
    /// Its time of day, UTC.
    pub(super) time: String,
    /// Whom it was about.
    pub(super) who: String,
}

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The last answers; nothing before the first.
    pub(super) fetched: Option<Box<Fetched>>,
    /// Refusals by what and why.
    pub(super) refusals: Vec<Refusal>,
    last_events: HashMap<SessionId, LastEvent>,
    last_refusals: HashMap<Reason, LastRefusal>,
}

impl Known {
    /// Takes new answers.
    pub(super) fn fetch(&mut self, fetched: Box<Fetched>) {
        let before: BTreeMap<_, _> = self.refusals.iter().map(|r| ((r.what, r.reason.clone()), r.count)).collect();
        let elapsed = self.fetched.as_ref().map(|f| fetched.at.saturating_sub(f.at).as_secs_f64());
        self.refusals = refusals(&fetched.status);
        for refusal in &mut self.refusals {
            let earlier = before.get(&(refusal.what, refusal.reason.clone())).copied().unwrap_or_default();
            // A daemon that has started again counts from 0 again.
            let more = refusal.count.checked_sub(earlier).unwrap_or(refusal.count);
            refusal.rate = elapsed.filter(|e| *e > 0.0).map_or(0.0, |e| more as f64 / e);
        }
        // Events of sessions that have ended are kept a while: an event may come before its session is listed.
        if self.last_events.len() > 2 * fetched.sessions.len() + 4096 {
            let live: HashSet<SessionId> = fetched.sessions.iter().filter_map(|s| s.session.parse().ok()).collect();
            self.last_events.retain(|id, _| live.contains(id));
        }
        self.fetched = Some(fetched);
    }

    /// Takes an event.
    pub(super) fn event(&mut self, event: &Event) {
        if let (Some(reason), Some(who)) = (event.reason, who(event)) {
            let time = event.ts.to_string().get(11..19).unwrap_or_default().to_owned();
            self.last_refusals.insert(reason, LastRefusal { time, who });
        }
        let Some(id) = event.session else { return };
        let mode = event.pinhole.as_ref().map(|p| p.mode);
        match self.last_events.get_mut(&id) {
            Some(last) => {
                *last = LastEvent { kind: event.event, reason: event.reason, mode: mode.or(last.mode) };
            }
            None => {
                self.last_events.insert(id, LastEvent { kind: event.event, reason: event.reason, mode });
            }
        }
    }

    /// The last event of a session.
    pub(super) fn last_event(&self, session: &str) -> Option<&LastEvent> {
        self.last_events.get(&session.parse().ok()?)
    }

    /// The last event with a reason.
    pub(super) fn last_refusal(&self, reason: &str) -> Option<&LastRefusal> {
        self.last_refusals.get(&Reason::from_name(reason)?)
    }

    /// The sessions.
    pub(super) fn sessions(&self) -> &[Session] {
        self.fetched.as_ref().map_or(&[], |f| &f.sessions)
    }

    /// The unconsumed pinholes.
    pub(super) fn pinholes(&self) -> &[PinholeRow] {
        self.fetched.as_ref().map_or(&[], |f| &f.pinholes)
    }

    /// The data connections that are running.
    pub(super) fn transfers(&self) -> &[ConnectionRow] {
        self.fetched.as_ref().map_or(&[], |f| &f.transfers)
    }

    /// How many milliseconds have passed since the last answers.
    pub(super) fn since(&self, now: Moment) -> u64 {
        let at = self.fetched.as_ref().map_or(now, |f| f.at);
        u64::try_from(now.saturating_sub(at).as_millis()).unwrap_or(u64::MAX)
    }

    /// The mode that a session negotiates in.
    pub(super) fn mode(&self, session: &Session) -> Option<NegotiatedBy> {
        let open = session.pinhole.as_ref().map(|p| p.mode);
        open.or_else(|| self.last_event(&session.session)?.mode)
    }
}

/// Whom an event is about.
fn who(event: &Event) -> Option<String> {
    let (from, to) = match &event.connection {
        Some(c) => (c.from, c.to),
        None => (event.client?, event.server?),
    };
    Some(format!("{from} → {to}"))
}

/// The counters of a status that count by reason, in the order of their names.
fn refusals(status: &Status) -> Vec<Refusal> {
    let mut all = Vec::new();
    let mut add = |what, reason: &str, count| {
        if count > 0 {
            all.push(Refusal { what, reason: text::printable(reason), count, rate: 0.0 });
        }
    };
    // The kernel counts every denied connection; the engine, only those that it was told of.
    for (reason, &count) in &status.reasons {
        let code = Reason::from_name(reason).map_or(0, |r| r as u16);
        let what = match code {
            1..=19 => "denied",
            20..=39 => "stray",
            40..=69 => "blinded",
            _ => continue,
        };
        add(what, reason, count);
    }
    for (name, &count) in &status.engine {
        let Some((what, reason)) = name.split_once('.') else { continue };
        let what = match what {
            "refused" => "refused",
            "revoked" => "revoked",
            "standing" => "barred",
            _ => continue,
        };
        add(what, reason, count);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(denied: u64, refused: u64) -> Status {
        Status {
            reasons: [("no_pinhole".into(), denied), ("pipelined".into(), 1), ("ring_full".into(), 0)].into(),
            engine: [("refused.low_port".into(), refused), ("records".into(), 9), ("denied.no_pinhole".into(), 4)]
                .into(),
            ..Status::default()
        }
    }

    fn fetched(at: u64, status: Status) -> Box<Fetched> {
        Box::new(Fetched { at: Duration::from_secs(at), status, ..Fetched::default() })
    }

    #[test]
    fn refusals_are_counted_by_reason_with_their_rate() {
        let mut known = Known::default();
        known.fetch(fetched(1, status(10, 1)));
        let shown =
            |k: &Known| -> Vec<_> { k.refusals.iter().map(|r| (r.what, r.reason.clone(), r.count, r.rate)).collect() };
        assert_eq!(
            shown(&known),
            [
                ("denied", "no_pinhole".to_owned(), 10, 0.0),
                ("blinded", "pipelined".to_owned(), 1, 0.0),
                ("refused", "low_port".to_owned(), 1, 0.0)
            ]
        );
        known.fetch(fetched(3, status(20, 1)));
        assert_eq!(shown(&known)[0], ("denied", "no_pinhole".to_owned(), 20, 5.0));
        assert_eq!(shown(&known)[2].3, 0.0);
        // The daemon has started again.
        known.fetch(fetched(4, status(2, 1)));
        assert_eq!(shown(&known)[0].3, 2.0);
    }

    #[test]
    fn a_session_keeps_the_mode_of_its_last_pinhole() {
        let line = |kind: &str, rest: &str| -> Event {
            let text = format!(
                r#"{{"v":1,"ts":"2026-01-01T12:34:56.000000Z","event":"{kind}","session":"00000000000000a1","client":"192.0.2.1:9","server":"198.51.100.1:21"{rest}}}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        let mut known = Known::default();
        let hole = r#","mode":"epsv","initiator":"192.0.2.1","responder":"198.51.100.1","port":5000,"state":"confirmed","expires_in_ms":5"#;
        known.event(&line("opened", hole));
        known.event(&line("refused", r#","reason":"low_port""#));
        let last = known.last_event("00000000000000a1").unwrap();
        assert_eq!(
            (last.kind, last.mode, last.reason),
            (Kind::Refused, Some(NegotiatedBy::Epsv), Some(Reason::LowPort))
        );
        let refusal = known.last_refusal("low_port").unwrap();
        assert_eq!((refusal.time.as_str(), refusal.who.as_str()), ("12:34:56", "192.0.2.1:9 → 198.51.100.1:21"));
    }
}
