//! Manual pages of what is no command, made from the reference pages of the documentation.

use std::mem;

use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};
use roff::{Inline, Roff, bold, italic, roman};

/// A reference page that becomes a manual page.
pub(super) struct Page {
    /// The file's name: title and section of the manual.
    pub(super) name: &'static str,
    about: &'static str,
    text: &'static str,
}

/// All of them.
pub(super) const PAGES: [Page; 2] = [
    Page {
        name: "ftp-helper.toml.5",
        about: "configuration of ftp-helper",
        text: include_str!("../../../docs/configuration.md"),
    },
    Page { name: "ftp-helper-events.7", about: "what ftp-helper tells", text: include_str!("../../../docs/events.md") },
];

impl Page {
    /// The page in the language of man(1).
    pub(super) fn roff(&self) -> String {
        let (title, section) = self.name.rsplit_once('.').unwrap_or((self.name, "7"));
        let version = concat!("ftp-helper ", env!("CARGO_PKG_VERSION"));
        let mut writer = Writer::default();
        writer.roff.control("TH", [title, section, "", version]);
        writer.roff.control("SH", ["NAME"]).text([roman(format!("{title} - {}", self.about))]);
        writer.roff.control("SH", ["DESCRIPTION"]);
        for event in Parser::new_ext(self.text, Options::ENABLE_TABLES) {
            writer.take(event);
        }
        writer.roff.control("SH", ["SEE ALSO"]).text([roman(match self.name {
            "ftp-helper.toml.5" => "ftp-helper(1), ftp-helper-check(1), ftp-helper-events(7)",
            _ => "ftp-helper(1), ftp-helper-observe(1), ftp-helper.toml(5)",
        })]);
        writer.roff.render()
    }
}

/// What was read and not written yet.
#[derive(Default)]
struct Writer {
    roff: Roff,
    /// The text of the paragraph, heading or cell in hand.
    line: Vec<Inline>,
    /// The same without its emphasis.
    plain: String,
    emphasis: Emphasis,
    /// The lines of a block of code.
    code: Option<String>,
    header: Vec<String>,
    row: Vec<(Vec<Inline>, String)>,
    in_item: bool,
}

#[derive(Clone, Copy, Default)]
enum Emphasis {
    #[default]
    None,
    Strong,
    Slight,
}

impl Writer {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Start(Tag::Strong) => self.emphasis = Emphasis::Strong,
            Event::Start(Tag::Emphasis) => self.emphasis = Emphasis::Slight,
            Event::End(TagEnd::Strong | TagEnd::Emphasis) => self.emphasis = Emphasis::None,
            Event::Start(Tag::CodeBlock(_)) => self.code = Some(String::new()),
            Event::Start(Tag::Item) => self.in_item = true,
            Event::Text(text) => match &mut self.code {
                Some(code) => code.push_str(&text),
                None => self.say(&text, self.emphasis),
            },
            Event::Code(text) => self.say(&text, Emphasis::Strong),
            Event::SoftBreak | Event::HardBreak => self.say(" ", Emphasis::None),
            Event::End(TagEnd::Heading(level)) => {
                let (_, title) = self.line();
                match level {
                    // The page's own title stands in its head.
                    HeadingLevel::H1 => {}
                    HeadingLevel::H2 => drop(self.roff.control("SH", [title.to_uppercase().as_str()])),
                    _ => drop(self.roff.control("SS", [title.as_str()])),
                }
            }
            Event::End(TagEnd::Paragraph) if !self.in_item => {
                let (line, _) = self.line();
                self.roff.control("PP", []).text(line);
            }
            Event::End(TagEnd::Item) => {
                self.in_item = false;
                let (line, _) = self.line();
                self.roff.control("IP", ["\\(bu", "2"]).text(line);
            }
            Event::End(TagEnd::CodeBlock) => {
                let code = self.code.take().unwrap_or_default();
                self.roff.control("PP", []).control("RS", ["4"]).control("nf", []);
                for line in code.lines() {
                    self.roff.text([roman(line)]);
                }
                self.roff.control("fi", []).control("RE", []);
            }
            Event::End(TagEnd::TableCell) => {
                let cell = self.line();
                self.row.push(cell);
            }
            Event::End(TagEnd::TableHead) => {
                self.header = mem::take(&mut self.row).into_iter().map(|(_, plain)| plain).collect();
            }
            Event::End(TagEnd::TableRow) => self.row(),
            _ => {}
        }
    }

    /// A row of a table is an item of a list: the first cell, those between with their headers, and the last as its text.
    fn row(&mut self) {
        let mut cells = mem::take(&mut self.row);
        let text = cells.pop().map_or_else(Vec::new, |(line, _)| line);
        let mut tag: Vec<Inline> = Vec::new();
        for (i, (line, plain)) in cells.into_iter().enumerate() {
            match self.header.get(i) {
                Some(header) if i > 0 => tag.push(roman(format!("  ({header}: {plain})"))),
                _ => tag.extend(line),
            }
        }
        self.roff.control("TP", []).text(tag).text(text);
    }

    fn say(&mut self, text: &str, emphasis: Emphasis) {
        self.plain.push_str(text);
        self.line.push(match emphasis {
            Emphasis::None => roman(text),
            Emphasis::Strong => bold(text),
            Emphasis::Slight => italic(text),
        });
    }

    fn line(&mut self) -> (Vec<Inline>, String) {
        (mem::take(&mut self.line), mem::take(&mut self.plain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::KEYS, event::Kind};

    fn page(name: &str) -> String {
        PAGES.iter().find(|p| p.name == name).unwrap().roff()
    }

    #[test]
    fn the_page_of_the_configuration_has_every_key_as_an_item() {
        let page = page("ftp-helper.toml.5");
        assert!(page.contains(".TH ftp-helper.toml 5 "), "{page}");
        for key in KEYS {
            let name = key.rsplit('.').next().unwrap();
            assert!(page.contains(&format!(".TP\n\\fB{name}\\fR")), "{key} in\n{page}");
        }
        assert!(page.contains("(default: \"observe\")"), "{page}");
        assert!(page.contains(".nf\n"), "{page}");
        assert!(!page.contains("](") && !page.contains("| "), "{page}");
    }

    #[test]
    fn the_page_of_the_events_has_every_kind() {
        let page = page("ftp-helper-events.7");
        for kind in Kind::ALL {
            assert!(page.contains(&format!(".TP\n\\fB{}\\fR", kind.as_str())), "{kind:?} in\n{page}");
        }
    }
}
