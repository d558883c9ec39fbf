//! The screen: header, panes, footer. Only the rows that are to be seen are made into text.

use ratatui::{
    Frame,
    buffer::Buffer,
    layout::Rect,
    style::{Modifier, Style},
    widgets::{Block, Widget as _},
};

use super::{
    super::text,
    app::{App, Link, Overlay},
    health,
    known::Moment,
    overlay,
    panes::{self, Pane},
    theme::{Theme, Tone},
    words,
};

/// From this size on all panes are on the screen at once.
const WIDE: (u16, u16) = (110, 34);
/// Below it nothing can be shown.
const LEAST: (u16, u16) = (40, 8);

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, app: &mut App, theme: Theme, now: Moment) {
    let area = frame.area();
    let buffer = frame.buffer_mut();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let say = format!("too small: {} by {} at least", LEAST.0, LEAST.1);
        put(buffer, area.x, area.y, area.width, &say, theme.style(Tone::Plain));
        return;
    }
    let shown = app.shown(now);
    header(buffer, row(area, 0), app, theme, shown, now);
    let body = Rect { y: area.y + 1, height: area.height - 2, ..area };
    if area.width >= WIDE.0 && area.height >= WIDE.1 {
        all_panes(buffer, body, app, theme, shown);
    } else {
        tabs(buffer, row(body, 0), app, theme);
        let below = Rect { y: body.y + 1, height: body.height - 1, ..body };
        pane(buffer, below, app, app.pane, theme, shown);
    }
    overlay::draw(buffer, body, app, theme);
    footer(buffer, row(area, area.height - 1), app, theme, now);
}

/// Writes a text at most `width` wide; where it ended.
pub(super) fn put(buffer: &mut Buffer, x: u16, y: u16, width: u16, text: &str, style: Style) -> u16 {
    buffer.set_stringn(x, y, text, width.into(), style).0
}

/// A frame around `area` with a title; what is left inside.
pub(super) fn framed(buffer: &mut Buffer, area: Rect, title: &str, style: Style) -> Rect {
    let title = words::fit(title, usize::from(area.width.saturating_sub(4)));
    let block = Block::bordered().border_style(style).title(format!(" {title} "));
    let inner = block.inner(area);
    block.render(area, buffer);
    inner
}

fn row(area: Rect, y: u16) -> Rect {
    Rect { y: area.y + y, height: 1, ..area }
}

fn header(buffer: &mut Buffer, area: Rect, app: &App, theme: Theme, shown: Moment, now: Moment) {
    let mut x = area.x;
    let mut say = |text: &str, tone: Tone| {
        let left = area.right().saturating_sub(x);
        x = put(buffer, x, area.y, left, text, theme.style(tone));
    };
    say("ftp-helper", Tone::Head);
    if let Link::Down(since, why) = &app.link {
        let gone = words::age(u64::try_from(now.saturating_sub(*since).as_millis()).unwrap_or(u64::MAX));
        say(&format!(" NO ANSWER for {gone}, trying again: {}", text::printable(why)), Tone::Bad);
        return;
    }
    let Some(fetched) = &app.known.fetched else {
        say(" asking the daemon", Tone::Dim);
        return;
    };
    let status = &fetched.status;
    if app.is_paused() {
        say(" PAUSED", Tone::Warn);
    }
    let mode_tone = if status.mode == "observe" { Tone::Warn } else { Tone::Good };
    say(&format!(" {}", text::printable(&status.mode)), mode_tone);
    say(&format!("  up {}", words::age(status.uptime_ms.saturating_add(app.known.since(shown)))), Tone::Plain);
    let beat = status.heartbeat;
    if beat.age_ms < beat.stale_after_ms {
        say("  heartbeat fresh", Tone::Good);
    } else {
        say("  heartbeat STALE", Tone::Bad);
    }
    let (fast, all) = health::fast_path(status);
    say(&format!("  fast path {}", words::share(fast, all)), Tone::Plain);
    let lost = health::losses(status);
    let tone = if lost > 0 { Tone::Bad } else { Tone::Plain };
    say(&format!("  lost {}", words::count(lost)), tone);
    say(&format!("  {}", text::printable(&status.version)), Tone::Dim);
}

fn tabs(buffer: &mut Buffer, area: Rect, app: &App, theme: Theme) {
    let tab = |pane: Pane, short: bool| {
        let name = if short { pane.short_name() } else { pane.name() };
        let count = counted(app, pane).map_or_else(String::new, |count| format!(" {count}"));
        format!(" {} {name}{count} ", pane.index() + 1)
    };
    let length: usize = Pane::ALL.iter().map(|&pane| tab(pane, false).chars().count()).sum();
    let short = length > usize::from(area.width);
    let mut x = area.x;
    for pane in Pane::ALL {
        let style = if pane == app.pane { theme.chosen() } else { theme.style(Tone::Plain) };
        x = put(buffer, x, area.y, area.right().saturating_sub(x), &tab(pane, short), style);
    }
}

/// How many there are, as the daemon counts them.
fn counted(app: &App, pane: Pane) -> Option<String> {
    let status = &app.known.fetched.as_ref()?.status;
    let count = match pane {
        Pane::Sessions => status.sessions.live,
        Pane::Pinholes => status.pinholes.live,
        Pane::Transfers => status.data_connections.live,
        Pane::Refusals => app.known.refusals.iter().filter(|r| r.what != "blinded").map(|r| r.count).sum(),
        Pane::Health => return None,
    };
    Some(words::count(count))
}

/// Sessions over the whole width, the others in two columns below.
fn all_panes(buffer: &mut Buffer, area: Rect, app: &mut App, theme: Theme, shown: Moment) {
    let (top, half) = (area.height * 2 / 5, area.width / 2);
    let rest = area.height - top;
    let middle = rest / 2;
    let at = |x, y, width, height| Rect { x: area.x + x, y: area.y + y, width, height };
    for (which, place) in [
        (Pane::Sessions, at(0, 0, area.width, top)),
        (Pane::Pinholes, at(0, top, half, middle)),
        (Pane::Transfers, at(half, top, area.width - half, middle)),
        (Pane::Refusals, at(0, top + middle, half, rest - middle)),
        (Pane::Health, at(half, top + middle, area.width - half, rest - middle)),
    ] {
        pane(buffer, place, app, which, theme, shown);
    }
}

fn pane(buffer: &mut Buffer, area: Rect, app: &mut App, which: Pane, theme: Theme, now: Moment) {
    let active = which == app.pane;
    let inner = framed(buffer, area, &title(app, which), theme.frame(active));
    if which == Pane::Health {
        let lines = health::lines(&app.known, now);
        let list = &mut app.lists[which.index()];
        list.page = inner.height.into();
        list.offset = list.offset.min(lines.len().saturating_sub(list.page));
        for (line, y) in lines.iter().skip(list.offset).zip(inner.y..inner.bottom()) {
            let x = put(buffer, inner.x, y, inner.width, &format!("{:<15}", line.name), theme.style(Tone::Dim));
            put(buffer, x, y, inner.right().saturating_sub(x), &line.value, theme.style(line.tone));
        }
        return;
    }
    let columns = which.columns();
    let widths = panes::widths(columns, inner.width);
    let list = &mut app.lists[which.index()];
    list.page = usize::from(inner.height.saturating_sub(1)).max(1);
    // The chosen row is on the screen, and the screen is not half empty.
    list.offset = list.offset.clamp((list.chosen + 1).saturating_sub(list.page), list.chosen);
    list.offset = list.offset.min(list.order.len().saturating_sub(list.page));
    let list = &app.lists[which.index()];
    let mut x = inner.x;
    for (i, (column, &width)) in columns.iter().zip(&widths).enumerate().filter(|(_, (_, w))| **w > 0) {
        let mut name = column.title.to_owned();
        if i == list.column {
            name.push(if list.descending { '▼' } else { '▲' });
        }
        cell(buffer, (x, inner.y, width), &name, column.number, theme.style(Tone::Head));
        x += width + 1;
    }
    if list.order.is_empty() && inner.height > 1 {
        let text = if list.filter.is_empty() { "none" } else { "none that fits the filter" };
        put(buffer, inner.x, inner.y + 1, inner.width, text, theme.style(Tone::Dim));
    }
    for (place, y) in (list.offset..list.order.len()).zip(inner.y + 1..inner.bottom()) {
        let row = list.order[place];
        let chosen = active && place == list.chosen;
        let mut x = inner.x;
        for (i, (column, &width)) in columns.iter().zip(&widths).enumerate().filter(|(_, (_, w))| **w > 0) {
            let (text, tone) = which.cell(&app.known, row, i, now);
            let style = if chosen { Style::new() } else { theme.style(tone) };
            cell(buffer, (x, y, width), &text, column.number, style);
            x += width + 1;
        }
        if chosen {
            buffer.set_style(Rect { y, height: 1, ..inner }, theme.chosen());
        }
    }
}

fn cell(buffer: &mut Buffer, (x, y, width): (u16, u16, u16), text: &str, number: bool, style: Style) {
    let text = words::fit(text, width.into());
    let length = u16::try_from(text.chars().count()).unwrap_or(width);
    let at = if number { x + width.saturating_sub(length) } else { x };
    put(buffer, at, y, width, &text, style);
}

fn title(app: &App, pane: Pane) -> String {
    let list = app.list(pane);
    let mut title = format!("{} {}", pane.index() + 1, pane.name());
    if pane == Pane::Health {
        return title;
    }
    let all = pane.len(&app.known);
    if list.filter.is_empty() {
        title.push_str(&format!(" {all}"));
    } else {
        title.push_str(&format!(" {} of {all}, with {:?}", list.order.len(), list.filter));
    }
    if let Some(column) = pane.columns().get(list.column) {
        title.push_str(&format!(", by {}", column.title.to_lowercase()));
    }
    title
}

fn footer(buffer: &mut Buffer, area: Rect, app: &App, theme: Theme, now: Moment) {
    if let Overlay::Filter(_) = &app.overlay {
        let text = format!("Filter: {}", app.list(app.pane).filter);
        let x = put(buffer, area.x, area.y, area.width.saturating_sub(1), &text, theme.style(Tone::Plain));
        put(buffer, x, area.y, 1, " ", Style::new().add_modifier(Modifier::REVERSED));
        let hint = "  Enter keeps it, Esc leaves it";
        put(buffer, x + 1, area.y, area.right().saturating_sub(x + 1), hint, theme.style(Tone::Dim));
        return;
    }
    if let Some((message, tone)) = app.message(now) {
        put(buffer, area.x, area.y, area.width, &text::printable(message), theme.style(tone));
        return;
    }
    let keys: &[(&str, &str)] = match &app.overlay {
        Overlay::Story(_) => &[("Esc", "back"), ("j k", "scroll"), ("r", "read again"), ("q", "quit")],
        Overlay::Confirm(_) => &[("Enter", "do it"), ("Esc", "leave it")],
        Overlay::Help => &[("any key", "back"), ("q", "quit")],
        Overlay::None | Overlay::Filter(_) => &[
            ("?", "help"),
            ("q", "quit"),
            ("/", "filter"),
            ("s", "sort"),
            ("Enter", "story"),
            ("d", "revoke"),
            ("K", "kill"),
            ("p", "pause"),
        ],
    };
    let mut x = area.x;
    for (key, what) in keys {
        let length = u16::try_from(key.len() + what.len() + 1).unwrap_or(u16::MAX);
        if x.saturating_add(length) > area.right() {
            break;
        }
        x = put(buffer, x, area.y, area.right() - x, key, theme.style(Tone::Head));
        x = put(buffer, x + 1, area.y, area.right().saturating_sub(x + 1), what, theme.style(Tone::Plain)) + 2;
    }
}
