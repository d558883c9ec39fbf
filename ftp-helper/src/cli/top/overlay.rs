//! What lies over the panes: a session's story, a question, the keys.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Modifier, Style},
    widgets::{Clear, Widget as _},
};

use super::{
    super::text,
    app::{App, Confirm, Deed, Overlay, StoryView},
    draw::{framed, put},
    theme::{Theme, Tone},
    words,
};

/// The keys and what they do.
const KEYS: [(&str, &str); 11] = [
    ("1 … 5, Tab", "go to a pane, to the next one"),
    ("j k, arrows", "choose a row; in Health, scroll"),
    ("PgUp PgDn", "a page up or down"),
    ("g G, Home End", "the first row, the last"),
    ("/", "only rows with a text; Esc shows all"),
    ("s S", "sort by the next column; turn it round"),
    ("Enter", "the story of the row's session"),
    ("d", "revoke the pinhole; asks first"),
    ("K", "kill the row's session; asks first"),
    ("p", "pause; again to go on"),
    ("q, Ctrl-C", "quit"),
];

/// Draws what lies over the panes, if anything does.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, app: &mut App, theme: Theme) {
    match &mut app.overlay {
        Overlay::None | Overlay::Filter(_) => {}
        Overlay::Help => help(buffer, area, theme),
        Overlay::Story(view) => story(buffer, area, view, theme),
        Overlay::Confirm(confirm) => question(buffer, area, confirm, theme),
    }
}

fn help(buffer: &mut Buffer, area: Rect, theme: Theme) {
    let height = u16::try_from(KEYS.len()).unwrap_or(u16::MAX).saturating_add(2);
    let inner = boxed(buffer, area, 66, height, "Keys", theme);
    for ((key, what), y) in KEYS.iter().zip(inner.y..inner.bottom()) {
        let x =
            put(buffer, inner.x + 1, y, inner.width.saturating_sub(1), &format!("{key:<16}"), theme.style(Tone::Head));
        put(buffer, x, y, inner.right().saturating_sub(x), what, theme.style(Tone::Plain));
    }
}

fn story(buffer: &mut Buffer, area: Rect, view: &mut StoryView, theme: Theme) {
    Clear.render(area, buffer);
    let StoryView { session, lines, rows, offset, page } = view;
    let title = format!("Session {}", text::printable(session));
    let inner = framed(buffer, area, &title, theme.frame(true));
    *page = inner.height.into();
    let Some(lines) = lines else {
        put(buffer, inner.x, inner.y, inner.width, "asking the daemon", theme.style(Tone::Dim));
        return;
    };
    if lines.is_empty() {
        put(buffer, inner.x, inner.y, inner.width, "nothing has been told of it", theme.style(Tone::Dim));
    }
    let wrapped: Vec<(String, Tone)> = lines
        .iter()
        .flat_map(|line| wrap(&line.text, inner.width.into()).into_iter().map(|row| (row, line.tone)))
        .collect();
    *rows = wrapped.len();
    *offset = (*offset).min(rows.saturating_sub(*page));
    for ((row, tone), y) in wrapped.iter().skip(*offset).zip(inner.y..inner.bottom()) {
        put(buffer, inner.x, y, inner.width, row, theme.style(*tone));
    }
}

/// A text in rows, those after the first set in.
fn wrap(text: &str, width: usize) -> Vec<String> {
    const INDENT: &str = "    ";
    let mut rows = Vec::new();
    let mut row = String::new();
    let mut room = width;
    for c in text.chars() {
        if room == 0 {
            rows.push(std::mem::replace(&mut row, INDENT.to_owned()));
            room = width.saturating_sub(INDENT.len()).max(1);
        }
        row.push(c);
        room -= 1;
    }
    rows.push(row);
    rows
}

fn question(buffer: &mut Buffer, area: Rect, confirm: &Confirm, theme: Theme) {
    let (what, whom, then) = match &confirm.deed {
        Deed::Revoke(row) => {
            let p = &row.pinhole;
            let to = std::net::SocketAddr::new(p.responder, p.port);
            let what = format!("Revoke the {} pinhole", text::name(&p.mode).to_uppercase());
            (what, format!("{} → {to}", p.initiator), "The announced transfer will not come through.")
        }
        Deed::Kill(session, ends) => {
            let whom = if ends.is_empty() { session.clone() } else { ends.clone() };
            ("Kill the session".to_owned(), whom, "Control packets are dropped; in mode observe, only told.")
        }
    };
    let inner = boxed(buffer, area, 66, 8, &what, theme);
    let (x, width) = (inner.x + 1, inner.width.saturating_sub(2));
    let whom = words::fit(&text::printable(&whom), width.into());
    let mut y = inner.y;
    let mut line = |buffer: &mut Buffer, text: &str, tone| {
        let end = if y < inner.bottom() { put(buffer, x, y, width, text, theme.style(tone)) } else { x };
        y += 1;
        (end, y - 1)
    };
    line(buffer, &whom, Tone::Plain);
    line(buffer, then, Tone::Warn);
    line(buffer, "", Tone::Plain);
    // The end of a long reason is where it is being typed.
    let room = usize::from(width.saturating_sub(9));
    let length = confirm.reason.chars().count();
    let tail: String = confirm.reason.chars().skip(length.saturating_sub(room)).collect();
    let (end, at) = line(buffer, &format!("Reason: {tail}"), Tone::Plain);
    if at < inner.bottom() {
        put(buffer, end, at, 1, " ", Style::new().add_modifier(Modifier::REVERSED));
    }
    line(buffer, "", Tone::Plain);
    line(buffer, "Enter does it, Esc leaves it", Tone::Dim);
}

/// A box in the middle of `area`.
fn boxed(buffer: &mut Buffer, area: Rect, width: u16, height: u16, title: &str, theme: Theme) -> Rect {
    let (width, height) = (width.min(area.width), height.min(area.height));
    let x = area.x + (area.width - width) / 2;
    let y = area.y + (area.height - height) / 2;
    let place = Rect { x, y, width, height };
    Clear.render(place, buffer);
    framed(buffer, place, title, theme.frame(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_go_on_below() {
        assert_eq!(wrap("", 10), [""]);
        assert_eq!(wrap("0123456789", 10), ["0123456789"]);
        assert_eq!(wrap("0123456789abcdefg", 10), ["0123456789", "    abcdef", "    g"]);
        assert_eq!(wrap("abc", 1), ["a", "    b", "    c"]);
    }
}
