//! Mistakes in a configuration file, each shown in the line where it is.

use std::fmt;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};

use super::{ConfigError, Problem};

impl ConfigError {
    /// The same for people: behind the line that says it, which is that of [`fmt::Display`], each mistake is marked in the
    /// text. `colour` says whether who reads it sees colours.
    pub fn report(&self, colour: bool) -> String {
        let Self::Invalid { path, problems, text } = self else { return self.to_string() };
        let name = path.display().to_string();
        let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme).with_links(false).with_width(usize::from(u16::MAX));
        let mut report = String::new();
        for problem in problems {
            let marked = Marked { problem, source: NamedSource::new(&name, text.clone()) };
            let mut shown = String::new();
            // Writing to a string does not fail; without the picture, the line says it all.
            let _ = handler.render_report(&mut shown, &marked);
            report.push_str(&format!("{name}:{problem}\n"));
            // What is above the picture is the line once more.
            for line in shown.lines().skip_while(|l| !l.contains('╭')) {
                report.push_str(line.trim_end());
                report.push('\n');
            }
        }
        report.truncate(report.trim_end().len());
        report
    }
}

/// A problem as the library takes it.
#[derive(Debug)]
struct Marked<'a> {
    problem: &'a Problem,
    source: NamedSource<String>,
}

impl fmt::Display for Marked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem.what)
    }
}

impl std::error::Error for Marked<'_> {}

impl Diagnostic for Marked<'_> {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let Problem { span, what, .. } = self.problem;
        // A value over many lines is marked where it begins.
        let length = self.source.inner().get(span.clone()).map_or(0, |t| t.lines().next().map_or(0, str::len));
        Some(Box::new(std::iter::once(LabeledSpan::new(Some(what.clone()), span.start, length))))
    }

    fn help(&self) -> Option<Box<dyn fmt::Display + '_>> {
        Some(Box::new(&self.problem.remedy))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Config;

    fn report(text: &str, colour: bool) -> String {
        Config::parse(text, Path::new("f.toml")).unwrap_err().report(colour)
    }

    #[test]
    fn each_mistake_is_marked_in_its_line_behind_the_line_that_says_it() {
        let said = report("mode = \"block\"\n[watch]\ninterfaces = [\"wan0\"]\nhok = 1\n", false);
        println!("{said}");
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[0], "f.toml:1:8: mode: \"block\" is not known; write \"observe\", \"drop\" or \"mark\"");
        let second =
            lines.iter().position(|l| *l == "f.toml:4:1: watch.hok: unknown key; did you mean \"hook\"?").unwrap();
        let (first, second) = lines.split_at(second);
        for (part, source, remedy) in [
            (first, "1 │ mode = \"block\"", "help: write \"observe\", \"drop\" or \"mark\""),
            (second, "4 │ hok = 1", "help: did you mean \"hook\"?"),
        ] {
            let at =
                part.iter().position(|l| l.trim().ends_with(source)).unwrap_or_else(|| panic!("{source} in {said}"));
            assert!(part[at + 1].contains('┬') || part[at + 1].contains('─'), "{said}");
            assert!(part.iter().any(|l| l.trim() == remedy), "{remedy} in {said}");
        }
        assert!(!said.contains('\u{1b}'), "{said:?}");
        assert!(report("mode = 1\n", true).contains('\u{1b}'));
    }

    #[test]
    fn what_is_missing_or_no_toml_or_long_is_shown_too() {
        for (text, source) in [
            ("", "f.toml:1:1: watch.interfaces: is missing"),
            ("# only\n[watch]\n", "2 │ [watch]"),
            ("[watch]\ninterfaces = [\"wan0\"\n", "interfaces = [\"wan0\""),
            ("mode = \"observe", "1 │ mode = \"observe"),
            ("[watch]\ninterfaces = [\n  \"wan 0\",\n]\n", "3 │   \"wan 0\","),
            ("[watch]\ninterfaces = [\"w\"]\n[policy]\nactive_open = [\n1,\n2,\n]\n", "4 │ active_open = ["),
        ] {
            let said = report(text, false);
            assert!(said.contains(source), "{source} in\n{said}");
            assert!(said.starts_with("f.toml:"), "{said}");
        }
    }
}
