//! The documentation as a book.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    command,
    host::Host,
    setup::{Purpose, Setup},
};

/// Builds it, and says where it is.
///
/// # Errors
/// mdbook is missing and can't be installed, or finds a mistake.
pub(crate) fn run(host: &Host) -> Result<()> {
    Setup::of(host, &[Purpose::Book]).install()?;
    build(host)?;
    println!("{}", book(host).join("index.html").display());
    Ok(())
}

/// Looks whether every page is in it once, and builds it where mdbook is installed; returns what is wrong.
///
/// # Errors
/// A file can't be read.
pub(crate) fn check(host: &Host) -> Result<Vec<String>> {
    let docs = host.root.join("docs");
    let contents = fs::read_to_string(docs.join("SUMMARY.md")).context("can't read docs/SUMMARY.md")?;
    let mut pages = Vec::new();
    for entry in fs::read_dir(&docs).with_context(|| format!("can't read {}", docs.display()))? {
        let name = entry.with_context(|| format!("can't read {}", docs.display()))?.file_name();
        pages.extend(name.to_str().filter(|name| name.ends_with(".md") && *name != "SUMMARY.md").map(str::to_owned));
    }
    let mut wrong = misplaced(&contents, &pages);
    if host.program("mdbook").is_some()
        && let Err(error) = build(host)
    {
        wrong.push(format!("{error:#}"));
    }
    Ok(wrong)
}

fn build(host: &Host) -> Result<()> {
    let program = host.program("mdbook").context("mdbook is not in PATH")?;
    let mut mdbook = Command::new(program);
    command::run_quietly(mdbook.arg("build").arg(host.root.join("docs")).arg("--dest-dir").arg(book(host)))
}

fn book(host: &Host) -> PathBuf {
    host.root.join("target/book")
}

/// Pages that the table of contents names not once.
fn misplaced(contents: &str, pages: &[String]) -> Vec<String> {
    let mut named = BTreeMap::new();
    for link in contents.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        *named.entry(link).or_insert(0) += 1;
    }
    let mut wrong: Vec<String> = pages
        .iter()
        .filter(|page| named.get(page.as_str()) != Some(&1))
        .map(|page| format!("docs/SUMMARY.md: {page} is there {} times", named.get(page.as_str()).unwrap_or(&0)))
        .collect();
    wrong.sort();
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_there_once() {
        let pages = ["a.md", "b.md", "c.md"].map(str::to_owned);
        let contents = "# Summary\n- [A](a.md)\n- [B](b.md)\n- [B again](b.md)\n";
        assert_eq!(
            misplaced(contents, &pages),
            ["docs/SUMMARY.md: b.md is there 2 times", "docs/SUMMARY.md: c.md is there 0 times"]
        );
    }
}
