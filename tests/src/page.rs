//! Pages of the documentation: their blocks of code, line by line, and what their text has in backticks.

use std::path::Path;

use anyhow::{Context as _, Result};

/// A page, or the README.
#[derive(Clone, Debug)]
pub struct Page {
    /// Its path below the root of the sources, such as `docs/top.md`.
    pub name: String,
    /// Its blocks, in the page's order.
    pub blocks: Vec<Block>,
    /// What stands in backticks outside of blocks, with the number of its line.
    pub spans: Vec<(usize, String)>,
}

/// A fenced block of a page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block {
    /// What stands behind the fence, such as `sh`; nothing if nothing does.
    pub language: String,
    /// Its lines with their numbers in the page, without the blanks that its fence has before it.
    pub lines: Vec<(usize, String)>,
}

impl Block {
    /// The lines as one text.
    #[must_use]
    pub fn text(&self) -> String {
        self.lines.iter().map(|(_, line)| format!("{line}\n")).collect()
    }

    /// The commands of a block in `sh`, with their numbers. A command takes one line.
    pub fn commands(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.lines.iter().filter(|_| self.language == "sh");
        lines.map(|(number, line)| (*number, command(line))).filter(|(_, line)| !line.is_empty())
    }

    /// A block in `text` that begins with a prompt: the command's number, the command, and what it says.
    #[must_use]
    pub fn shown(&self) -> Option<(usize, &str, Vec<&str>)> {
        let ((number, first), said) = self.lines.split_first()?;
        let command = first.strip_prefix("$ ").filter(|_| self.language == "text")?;
        Some((*number, command, said.iter().map(|(_, line)| line.as_str()).collect()))
    }
}

/// A line without its comment.
fn command(line: &str) -> &str {
    if line.starts_with('#') { "" } else { line.split(" # ").next().unwrap_or_default().trim_end() }
}

/// The README and all pages of `docs`, by name.
///
/// # Errors
/// When they can't be read.
pub fn pages(root: &Path) -> Result<Vec<Page>> {
    let mut names = vec!["README.md".to_owned()];
    for entry in std::fs::read_dir(root.join("docs"))? {
        let name = entry?.file_name().into_string().ok().context("a page's name")?;
        if Path::new(&name).extension().is_some_and(|e| e == "md") {
            names.push(format!("docs/{name}"));
        }
    }
    names.sort();
    let read = |name: String| {
        let text = std::fs::read_to_string(root.join(&name)).with_context(|| name.clone())?;
        let (blocks, spans) = parts(&text);
        Ok(Page { name, blocks, spans })
    };
    names.into_iter().map(read).collect()
}

fn parts(text: &str) -> (Vec<Block>, Vec<(usize, String)>) {
    let (mut blocks, mut spans) = (Vec::new(), Vec::new());
    let mut open: Option<(usize, Block)> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let bare = line.trim_start();
        match (&mut open, bare.strip_prefix("```")) {
            (None, Some(language)) => {
                let block = Block { language: language.trim().to_owned(), lines: Vec::new() };
                open = Some((line.len() - bare.len(), block));
            }
            (Some(_), Some(_)) => blocks.extend(open.take().map(|(_, block)| block)),
            (Some((indent, block)), None) => {
                let blanks = line.len() - bare.len();
                block.lines.push((number, line[blanks.min(*indent)..].to_owned()));
            }
            (None, None) => spans.extend(line.split('`').skip(1).step_by(2).map(|span| (number, span.to_owned()))),
        }
    }
    (blocks, spans)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_with_their_lines() {
        let text = "a `b` c `d`\n```sh\n# first\nx | y   # why\n```\n1. b\n   ```toml\n   k = 1\n     l = 2\n   ```\n```text\n$ x\nsaid\n```\n```\n$ x\n```\n";
        let (found, spans) = parts(text);
        assert_eq!(spans, [(1, "b".to_owned()), (1, "d".to_owned())]);
        assert_eq!(found.len(), 4);
        assert_eq!(found[0].commands().collect::<Vec<_>>(), [(4, "x | y")]);
        assert_eq!((found[1].text().as_str(), found[1].commands().count()), ("k = 1\n  l = 2\n", 0));
        assert_eq!(found[2].shown(), Some((12, "x", vec!["said"])));
        assert_eq!((found[3].shown(), found[0].shown()), (None, None));
    }
}
