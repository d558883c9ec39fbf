//! How the daemon is, in lines.

use super::{
    super::text,
    known::{Known, Moment},
    theme::Tone,
    words,
};
use crate::api::{Gauge, Status};

/// A line: what, how much, and whether that is good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Line {
    /// What.
    pub(super) name: &'static str,
    /// How much.
    pub(super) value: String,
    /// Whether that is good.
    pub(super) tone: Tone,
}

/// Announcements that the fast path has opened, and all that were allowed.
pub(super) fn fast_path(status: &Status) -> (u64, u64) {
    let counter = |name| status.engine.get(name).copied().unwrap_or_default();
    (counter("taken_by_fast_path"), counter("announcements"))
}

/// What the ring buffers had no room for.
pub(super) fn losses(status: &Status) -> u64 {
    let lost = status.counters.get("telemetry_lost").copied().unwrap_or_default();
    let reason = |name| status.reasons.get(name).copied().unwrap_or_default();
    lost.saturating_add(reason("ring_full")).saturating_add(reason("unrecorded"))
}

/// Everything.
pub(super) fn lines(known: &Known, now: Moment) -> Vec<Line> {
    let Some(fetched) = &known.fetched else { return Vec::new() };
    let status = &fetched.status;
    let mut lines = Vec::new();
    let mut add = |name, value: String, tone| lines.push(Line { name, value, tone });
    let up = words::age(status.uptime_ms.saturating_add(known.since(now)));
    let tone = if status.mode == "observe" { Tone::Warn } else { Tone::Good };
    add("mode", text::printable(&status.mode), tone);
    add("daemon", format!("{}, process {}, up {up}", text::printable(&status.version), status.pid), Tone::Plain);
    let beat = status.heartbeat;
    let (word, tone) = if beat.age_ms < beat.stale_after_ms { ("fresh", Tone::Good) } else { ("stale", Tone::Bad) };
    add("heartbeat", format!("{word}, {} ms old of {} ms", beat.age_ms, beat.stale_after_ms), tone);
    let (fast, all) = fast_path(status);
    let of = format!("{} ({} of {} announcements)", words::share(fast, all), words::count(fast), words::count(all));
    add("fast path", of, Tone::Plain);
    let lost = |name| status.counters.get(name).copied().unwrap_or_default();
    let reason = |name| status.reasons.get(name).copied().unwrap_or_default();
    let (full, passed, told) = (reason("ring_full"), reason("unrecorded"), lost("telemetry_lost"));
    let tone = if full + passed + told > 0 { Tone::Bad } else { Tone::Good };
    add("ring losses", format!("{full} held back, {passed} passed unread, {told} untold"), tone);
    for (name, gauge) in
        [("sessions", status.sessions), ("pinholes", status.pinholes), ("data conns", status.data_connections)]
    {
        let (value, tone) = fill(gauge);
        add(name, value, tone);
    }
    let engine = |name| status.engine.get(name).copied().unwrap_or_default();
    let wrong = engine("divergences") + engine("audit_differences");
    let tone = if wrong > 0 { Tone::Bad } else { Tone::Good };
    add("disagreements", format!("{} fast path, {} audit", engine("divergences"), engine("audit_differences")), tone);
    if engine("commands_failed") > 0 {
        add("failed", format!("{} commands to the kernel", engine("commands_failed")), Tone::Bad);
    }
    for i in &status.interfaces {
        let shield = i.shield.map_or_else(String::new, |kind| format!(", {} XDP", text::name(&kind)));
        add("interface", format!("{} ({}{shield})", text::printable(&i.name), text::name(&i.hook)), Tone::Plain);
    }
    if status.interfaces.is_empty() {
        add("interface", "none".to_owned(), Tone::Bad);
    }
    for pattern in &status.waiting_for {
        add("waiting for", text::printable(pattern), Tone::Warn);
    }
    if let Some(fed) = &status.nftables {
        let tone = if fed.failed > 0 { Tone::Bad } else { Tone::Plain };
        let table = text::printable(&fed.table);
        add("nftables", format!("{table}: {} elements, {} failed", fed.elements, fed.failed), tone);
    }
    for port in &status.denied {
        let (denied, would) = (words::count(port.denied), words::count(port.would_be_denied));
        add("to port", format!("{}: {denied} denied, {would} would be", port.port), Tone::Plain);
    }
    lines
}

/// How full a table is, with a bar.
fn fill(gauge: Gauge) -> (String, Tone) {
    const BAR: u64 = 10;
    let Gauge { live, limit } = gauge;
    let part = live.saturating_mul(100) / limit.max(1);
    let filled = usize::try_from((live.saturating_mul(BAR)).div_ceil(limit.max(1)).min(BAR)).unwrap_or_default();
    let rest = usize::try_from(BAR).unwrap_or_default() - filled;
    let bar = "█".repeat(filled) + &"░".repeat(rest);
    let tone = match part {
        90.. => Tone::Bad,
        70..90 => Tone::Warn,
        _ => Tone::Good,
    };
    (format!("{bar} {live} of {limit}"), tone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_is_bad_news() {
        assert_eq!(fill(Gauge { live: 0, limit: 100 }), ("░░░░░░░░░░ 0 of 100".to_owned(), Tone::Good));
        assert_eq!(fill(Gauge { live: 1, limit: 65536 }).0, "█░░░░░░░░░ 1 of 65536");
        assert_eq!(fill(Gauge { live: 75, limit: 100 }).1, Tone::Warn);
        assert_eq!(fill(Gauge { live: 120, limit: 100 }), ("██████████ 120 of 100".to_owned(), Tone::Bad));
        assert_eq!(fill(Gauge::default()).0, "░░░░░░░░░░ 0 of 0");
    }

    #[test]
    fn losses_are_of_all_rings() {
        let status = Status {
            counters: [("telemetry_lost".into(), 3)].into(),
            reasons: [("ring_full".into(), 2), ("unrecorded".into(), 1), ("no_pinhole".into(), 99)].into(),
            ..Status::default()
        };
        assert_eq!(losses(&status), 6);
    }
}
