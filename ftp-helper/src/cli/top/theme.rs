//! How things look, with colours and without.

use ratatui::style::{Color, Modifier, Style};

/// What a text tells beside its words.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Tone {
    /// Nothing.
    #[default]
    Plain,
    /// It matters less.
    Dim,
    /// It is as it should be.
    Good,
    /// It deserves a look.
    Warn,
    /// Something was refused, or is wrong.
    Bad,
    /// It names what stands below or behind it.
    Head,
}

/// Styles by tone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Theme {
    color: bool,
}

impl Theme {
    /// With or without colours. What matters is told by words as well, so that nothing is lost without.
    pub(super) fn new(color: bool) -> Self {
        Self { color }
    }

    /// The style of a tone.
    pub(super) fn style(self, tone: Tone) -> Style {
        let style = Style::new();
        match (tone, self.color) {
            (Tone::Plain, _) => style,
            (Tone::Dim, true) => style.fg(Color::DarkGray),
            (Tone::Dim | Tone::Good, false) => style,
            (Tone::Good, true) => style.fg(Color::Green),
            (Tone::Warn, true) => style.fg(Color::Yellow),
            (Tone::Bad, true) => style.fg(Color::Red),
            (Tone::Warn | Tone::Bad, false) => style.add_modifier(Modifier::BOLD),
            (Tone::Head, true) => style.fg(Color::Cyan).add_modifier(Modifier::BOLD),
            (Tone::Head, false) => style.add_modifier(Modifier::BOLD),
        }
    }

    /// The row that is chosen.
    pub(super) fn chosen(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// The frame of a pane.
    pub(super) fn frame(self, active: bool) -> Style {
        match (active, self.color) {
            (true, true) => Style::new().fg(Color::Cyan),
            (true, false) => Style::new().add_modifier(Modifier::BOLD),
            (false, true) => Style::new().fg(Color::DarkGray),
            (false, false) => Style::new(),
        }
    }
}
