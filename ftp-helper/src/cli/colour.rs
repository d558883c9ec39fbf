//! Colours for people, where standard output is a terminal and nobody has asked for none.

use std::{env, ffi::OsStr, io::IsTerminal as _};

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;

use crate::event::Kind;

/// The option of what prints in colours.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(super) struct ColourArgs {
    /// Colours: on a terminal unless NO_COLOR is set, always, or never
    #[arg(long = "color", value_enum, default_value_t, value_name = "WHEN")]
    when: When,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
enum When {
    #[default]
    Auto,
    Always,
    Never,
}

/// Paints, or does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Paint(bool);

impl ColourArgs {
    /// As was asked for, and as fits standard output.
    pub(super) fn paint(self) -> Paint {
        let (no_color, term) = (env::var_os("NO_COLOR"), env::var_os("TERM"));
        Paint(self.when.paints(no_color.as_deref(), term.as_deref(), std::io::stdout().is_terminal()))
    }
}

impl When {
    fn paints(self, no_color: Option<&OsStr>, term: Option<&OsStr>, terminal: bool) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            // https://no-color.org: set, and not to nothing.
            Self::Auto => terminal && no_color.is_none_or(OsStr::is_empty) && term.is_none_or(|t| t != "dumb"),
        }
    }
}

impl Paint {
    /// None.
    pub(super) const PLAIN: Self = Self(false);

    /// Whether it does.
    pub(super) fn is_on(self) -> bool {
        self.0
    }

    /// The name of a kind of event, by what it means for those who are waiting: open, taken back, or refused.
    pub(super) fn kind(self, kind: Kind, name: &str) -> String {
        let colour = match kind {
            Kind::Opened | Kind::Confirmed | Kind::Used | Kind::DataEnd => AnsiColor::Green,
            Kind::Expired | Kind::Revoked => AnsiColor::Yellow,
            Kind::Refused | Kind::Denied | Kind::Tainted | Kind::Killed => AnsiColor::Red,
            Kind::Opaque => AnsiColor::Magenta,
            Kind::SessionStart | Kind::SessionEnd => AnsiColor::Cyan,
        };
        self.with(Style::new().fg_color(Some(colour.into())), name)
    }

    /// What matters most in a line.
    pub(super) fn strong(self, text: &str) -> String {
        self.with(Style::new().bold(), text)
    }

    /// What matters least.
    pub(super) fn faint(self, text: &str) -> String {
        self.with(Style::new().dimmed(), text)
    }

    fn with(self, style: Style, text: &str) -> String {
        if self.0 { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_of_those_who_want_them() {
        let auto = |no_color: Option<&str>, term: &str, terminal| {
            When::Auto.paints(no_color.map(OsStr::new), Some(OsStr::new(term)), terminal)
        };
        assert!(auto(None, "xterm", true) && auto(Some(""), "xterm", true));
        assert!(!auto(None, "xterm", false) && !auto(Some("1"), "xterm", true) && !auto(None, "dumb", true));
        assert!(When::Always.paints(Some(OsStr::new("1")), None, false));
        assert!(!When::Never.paints(None, None, true));
    }

    #[test]
    fn what_is_painted_is_ended() {
        assert_eq!(Paint(true).kind(Kind::Denied, "denied"), "\u{1b}[31mdenied\u{1b}[0m");
        assert_eq!(Paint(true).strong("x"), "\u{1b}[1mx\u{1b}[0m");
        assert_eq!(Paint::PLAIN.kind(Kind::Denied, "denied") + &Paint::PLAIN.faint("x"), "deniedx");
    }
}
