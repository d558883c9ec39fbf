//! Checks of the documentation: links lead somewhere, every page is linked, and nothing in the tree tells of the machine
//! that it was written on.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// What must not be in a file, and why. Put together here so that this file does not hold it.
const FORBIDDEN: &[(&str, &str)] = &[
    (concat!("/wo", "rk/"), "a path of one machine"),
    (concat!("../sh", "ared"), "a path outside the tree"),
    (concat!("deb.deb", "ian.org"), "the host name of a registry"),
    (concat!("index.cra", "tes.io"), "the host name of a registry"),
    (concat!("static.cra", "tes.io"), "the host name of a registry"),
    (concat!("pypi", ".org"), "the host name of a registry"),
];

/// The one file that may name what lies beside the tree.
const MAY_LOOK_OUTSIDE: &str = ".ci/run";

/// A configuration of ftp-helper that the documentation shows.
pub(crate) struct Example {
    /// Where: file and line.
    pub(crate) place: String,
    /// Its text.
    pub(crate) text: String,
}

/// Checks the tree at `root`; returns what is wrong, one thing a line.
///
/// # Errors
/// A file or directory can't be read.
pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let mut linked = BTreeSet::new();
    let mut pages = Vec::new();
    for file in files(root)? {
        let bytes = fs::read(root.join(&file)).with_context(|| format!("can't read {}", file.display()))?;
        let Ok(text) = String::from_utf8(bytes) else { continue };
        wrong.extend(forbidden(&file, &text));
        if file.extension() == Some(OsStr::new("md")) {
            pages.push((file, text));
        }
    }
    for (file, text) in &pages {
        for (number, link) in links(text) {
            match resolve(file, &link, &pages, root) {
                Ok(Some(target)) => drop(linked.insert(target)),
                Ok(None) => {}
                Err(why) => wrong.push(format!("{}:{number}: {why}: {link}", file.display())),
            }
        }
    }
    for (file, _) in &pages {
        if file.starts_with("docs") && !linked.contains(file) {
            wrong.push(format!("{}: no page links to it", file.display()));
        }
    }
    Ok(wrong)
}

/// The configurations that the documentation shows: blocks of TOML with a `[watch]` section.
///
/// # Errors
/// A file or directory can't be read.
pub(crate) fn configurations(root: &Path) -> Result<Vec<Example>> {
    let mut examples = Vec::new();
    for file in files(root)?.into_iter().filter(|file| file.extension() == Some(OsStr::new("md"))) {
        let text = fs::read_to_string(root.join(&file)).with_context(|| format!("can't read {}", file.display()))?;
        let blocks = blocks(&text).filter(|(_, language, text)| *language == "toml" && text.contains("[watch]"));
        examples.extend(blocks.map(|(line, _, text)| Example { place: format!("{}:{line}", file.display()), text }));
    }
    Ok(examples)
}

/// All files below `root`, relative to it, without what is built and what git keeps.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        let place = root.join(&dir);
        for entry in fs::read_dir(&place).with_context(|| format!("can't read {}", place.display()))? {
            let entry = entry.with_context(|| format!("can't read {}", place.display()))?;
            let path = dir.join(entry.file_name());
            let kind = entry.file_type().with_context(|| format!("can't read {}", path.display()))?;
            if kind.is_dir() && ![OsStr::new(".git"), OsStr::new("target")].contains(&&*entry.file_name()) {
                dirs.push(path);
            } else if kind.is_file() && path != Path::new(".git") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn forbidden(file: &Path, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for (word, why) in FORBIDDEN {
            let found = line.match_indices(word).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric()));
            if found && file != Path::new(MAY_LOOK_OUTSIDE) {
                wrong.push(format!("{}:{}: {why}: {word}", file.display(), number + 1));
            }
        }
    }
    wrong
}

/// Where a link leads, if it leads into the tree.
fn resolve(file: &Path, link: &str, pages: &[(PathBuf, String)], root: &Path) -> Result<Option<PathBuf>, &'static str> {
    if link.contains("://") || link.starts_with("mailto:") {
        return Ok(None);
    }
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = if path.is_empty() { file.to_path_buf() } else { normal(&file.with_file_name(""), path)? };
    if !root.join(&target).exists() {
        return Err("there is no such file");
    }
    if !anchor.is_empty() {
        let page = pages.iter().find(|(page, _)| *page == target).ok_or("a heading of what is no page")?;
        if !anchors(&page.1).iter().any(|a| a == anchor) {
            return Err("the page has no such heading");
        }
    }
    Ok(Some(target))
}

/// `dir/path` without `.` and `..`.
fn normal(dir: &Path, path: &str) -> Result<PathBuf, &'static str> {
    let mut normal = PathBuf::new();
    for component in dir.join(path).components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir if !normal.pop() => return Err("it leads out of the tree"),
            Component::ParentDir | Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return Err("it is no relative path"),
        }
    }
    Ok(normal)
}

/// The links of a page, with their lines: `[text](target)` and `[name]: target`, outside of code.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    for (number, line) in prose(text) {
        let line = without_code(line);
        if let Some((_, target)) = line.strip_prefix('[').and_then(|rest| rest.split_once("]: ")) {
            links.push((number, target.trim().to_owned()));
        }
        let mut rest = line.as_str();
        while let Some((_, after)) = rest.split_once("](") {
            let Some((target, after)) = after.split_once(')') else { break };
            links.push((number, target.split(' ').next().unwrap_or_default().to_owned()));
            rest = after;
        }
    }
    links
}

/// What the headings of a page are called in links, as the usual forges make it.
fn anchors(text: &str) -> Vec<String> {
    let mut anchors: Vec<String> = Vec::new();
    for (_, line) in prose(text) {
        let heading = line.trim_start_matches('#');
        if heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        let anchor = kept.collect::<String>().to_lowercase().replace(' ', "-");
        let same = anchors.iter().filter(|a| **a == anchor).count();
        anchors.push(if same == 0 { anchor } else { format!("{anchor}-{same}") });
    }
    anchors
}

/// The lines outside of code blocks, numbered from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut code = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        (!code && !fence).then_some((index + 1, line))
    })
}

/// A line without what stands between backticks.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("`")
}

/// The code blocks of a page: line of the first line, language, text.
fn blocks(text: &str) -> impl Iterator<Item = (usize, &str, String)> {
    let mut lines = text.lines().enumerate();
    std::iter::from_fn(move || {
        let (start, language) = lines.find_map(|(i, line)| Some((i, line.trim_start().strip_prefix("```")?.trim())))?;
        let block = lines.by_ref().map(|(_, line)| line).take_while(|line| !line.trim_start().starts_with("```"));
        Some((start + 2, language, block.map(|line| format!("{line}\n")).collect()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_outside_of_code_are_found() {
        let text =
            "See [a](a.md) and [b](b.md#x \"title\").\n```\n[no](no.md)\n```\n`[no](no.md)` [c](<c>)\n[d]: d.md\n";
        let links = links(text);
        let links: Vec<_> = links.iter().map(|(line, link)| (*line, link.as_str())).collect();
        assert_eq!(links, [(1, "a.md"), (1, "b.md#x"), (5, "<c>"), (6, "d.md")]);
    }

    #[test]
    fn headings_become_anchors() {
        let text = "# One, two: `three`\n## A\n```\n# no\n```\n### A\n#no\n";
        assert_eq!(anchors(text), ["one-two-three", "a", "a-1"]);
    }

    #[test]
    fn paths_are_followed_within_the_tree() {
        assert_eq!(normal(Path::new("docs"), "../README.md"), Ok(PathBuf::from("README.md")));
        assert_eq!(normal(Path::new("docs"), "./a/../b.md"), Ok(PathBuf::from("docs/b.md")));
        assert!(normal(Path::new("docs"), "../../out.md").is_err());
        assert!(normal(Path::new("docs"), "/etc/passwd").is_err());
    }

    #[test]
    fn what_tells_of_a_machine_is_found() {
        let machine = concat!("see /wo", "rk/x\nnet/wo", "rk/x\nls ../sh", "ared/y\n");
        let wrong = forbidden(Path::new("README.md"), machine);
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(wrong[0].starts_with("README.md:1: a path of one machine"), "{wrong:?}");
        assert!(wrong[1].starts_with("README.md:3: a path outside"), "{wrong:?}");
        assert!(forbidden(Path::new(".ci/run"), machine).is_empty());
    }

    #[test]
    fn configurations_are_found_with_their_place() {
        let text = "x\n```toml\n[watch]\na = 1\n```\n```toml\n[other]\n```\n```sh\n[watch]\n```\n";
        let blocks: Vec<_> = blocks(text).collect();
        assert_eq!(blocks.len(), 3);
        assert_eq!(blocks[0], (3, "toml", "[watch]\na = 1\n".to_owned()));
        assert_eq!((blocks[1].0, blocks[2].1), (7, "sh"));
    }

    #[test]
    fn a_tree_with_broken_links_is_refused() {
        let root = std::env::temp_dir().join(format!("ftp-helper-xtask-docs-{}", std::process::id()));
        fs::create_dir_all(root.join("docs")).expect("a directory");
        let write = |name: &str, text: &str| fs::write(root.join(name), text).expect("a file");
        write(
            "README.md",
            "[a](docs/a.md#there) [b](docs/none.md) [c](docs/a.md#nowhere) [d](https://example.net/x)\n",
        );
        write("docs/a.md", "# There\n[up](../README.md)\n");
        write("docs/orphan.md", "# Alone\n```toml\n[watch]\n```\n");
        let wrong = check(&root);
        let examples = configurations(&root);
        fs::remove_dir_all(&root).expect("it was there");
        let wrong = wrong.expect("it can be read");
        assert_eq!(wrong.len(), 3, "{wrong:?}");
        assert_eq!(wrong[0], "README.md:1: there is no such file: docs/none.md");
        assert_eq!(wrong[1], "README.md:1: the page has no such heading: docs/a.md#nowhere");
        assert_eq!(wrong[2], "docs/orphan.md: no page links to it");
        let examples = examples.expect("it can be read");
        assert_eq!((examples.len(), examples[0].place.as_str()), (1, "docs/orphan.md:3"));
        assert_eq!(examples[0].text, "[watch]\n");
    }
}
