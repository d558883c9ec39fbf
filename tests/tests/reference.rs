//! The reference pages name everything that the program can say, and nothing else: what they are held against is taken from the
//! code, not from a list of this test.

use std::{collections::BTreeSet, fs, path::Path};

use ftp_helper::{config::KEYS, doctor, error::Code, event::Kind};
use ftp_helper_common::reason::Reason;

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The part of a page below a heading, to the next of that kind.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let level = heading.split(' ').next().unwrap_or_default();
    rest.split(&format!("\n{level} ")).next().unwrap_or(rest)
}

/// The cells of one column of all tables, without their backticks; heads of tables are none.
fn cells(text: &str, column: usize) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let is_head = |i: usize| lines.get(i + 1).is_some_and(|next| next.starts_with("| ---"));
    let rows = lines.iter().enumerate().filter(|(i, l)| l.starts_with("| ") && !l.starts_with("| ---") && !is_head(*i));
    rows.filter_map(|(_, l)| l.trim_matches('|').split(" | ").nth(column))
        .map(|cell| cell.trim().trim_matches('`').replace("\\|", "|"))
        .collect()
}

/// As a set; each only once.
fn once<T: Ord + std::fmt::Debug + Clone>(all: Vec<T>) -> BTreeSet<T> {
    let set: BTreeSet<T> = all.iter().cloned().collect();
    assert_eq!(set.len(), all.len(), "something is there twice: {all:?}");
    set
}

fn names<'a>(all: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    all.into_iter().map(str::to_owned).collect()
}

#[test]
fn every_exit_code_is_documented() {
    let documented = once(cells(section(&read("docs/commands.md"), "## Exit codes"), 0));
    let codes = Code::ALL.iter().map(|c| (*c as u8).to_string()).chain(["0".to_owned()]);
    assert_eq!(documented, codes.collect());
    // And the list is whole.
    let source = read("ftp-helper/src/error.rs");
    let declared =
        section(&source, "pub enum Code {").split("\n}").next().map_or(0, |body| body.matches(" = ").count());
    assert_eq!(declared, Code::ALL.len());
    // `--help` says them too.
    let help = read("ftp-helper/src/cli/mod.rs");
    let (_, help) = help.split_once("EXIT_CODES: &str").expect("the text about exit codes");
    for code in Code::ALL {
        assert!(help.contains(&format!(" {} ", *code as u8)), "{code:?} is not in --help");
    }
}

#[test]
fn every_reason_is_documented() {
    let page = read("docs/reasons.md");
    assert_eq!(once(cells(&page, 1)), names(Reason::ALL.iter().map(|r| r.as_str())));
    assert_eq!(once(cells(&page, 0)), Reason::ALL.iter().map(|r| (*r as u16).to_string()).collect());
}

#[test]
fn every_event_is_documented() {
    let documented = once(cells(section(&read("docs/events.md"), "## Kinds"), 0));
    assert_eq!(documented, names(Kind::ALL.iter().map(|k| k.as_str())));
}

#[test]
fn every_finding_of_doctor_is_documented() {
    let documented = once(cells(section(&read("docs/doctor.md"), "## Findings"), 0));
    assert_eq!(documented, names(doctor::Code::ALL.iter().map(|c| c.as_str())));
}

#[test]
fn every_key_is_documented_in_its_section() {
    let page = read("docs/configuration.md");
    let mut documented = BTreeSet::new();
    for part in section(&page, "## All keys").split("\n### ").skip(1) {
        let heading = part.lines().next().unwrap_or_default();
        let table = heading.split('`').nth(1).map(|name| name.trim_matches(['[', ']']));
        let key = |k: String| table.map_or_else(|| k.clone(), |table| format!("{table}.{k}"));
        documented.extend(once(cells(part, 0)).into_iter().map(key));
    }
    assert_eq!(documented, names(KEYS.iter().copied()));
}

/// The text of a literal, with `…` for each part that is filled in: in quotes where it is shown in quotes.
fn pattern(literal: &str) -> String {
    let mut text = String::new();
    let mut rest = literal;
    while let Some((before, after)) = rest.split_once('{') {
        let (inside, after) = after.split_once('}').expect("a place that is closed");
        text.push_str(before);
        text.push_str(if inside.ends_with(":?") { "\\\"…\\\"" } else { "…" });
        rest = after;
    }
    text.push_str(rest);
    // A line that goes on in the source.
    let joined = text.split("\\\n").map(str::trim_start).collect::<Vec<_>>().concat();
    joined.replace("\\\"", "\"")
}

/// The literal that an argument is, alone or as the pattern of `format!`.
fn literal(argument: &str) -> Option<&str> {
    let argument = argument.trim_start();
    let argument = argument.strip_prefix("format!(").map_or(argument, str::trim_start);
    let text = argument.strip_prefix('"')?;
    let mut escaped = false;
    let end = text.find(|c| {
        let end = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        end
    });
    text.get(..end?)
}

/// What the reader of the configuration says, by all places of its sources that say something.
fn messages() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut by_name = 0;
    for file in ["mod", "reader", "sections", "values"] {
        let source = read(&format!("ftp-helper/src/config/{file}.rs"));
        let source = source.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        // The message is the first argument of `refuse`, the second of `missing`, the third of `problem`.
        for (call, skip) in [(".refuse(", 0), (".refuse::<()>(", 0), (".missing(", 1), ("cx.problem(", 2)] {
            for (_, mut arguments) in source.match_indices(call).map(|(at, c)| source.split_at(at + c.len())) {
                for _ in 0..skip {
                    arguments = arguments.split_once(',').expect("arguments").1;
                }
                match literal(arguments) {
                    Some(text) => drop(found.insert(pattern(text))),
                    None => by_name += 1,
                }
            }
        }
        for (at, text) in source.match_indices("let problem = format!(") {
            found.insert(pattern(literal(&source[at + text.len()..]).expect("a pattern")));
        }
    }
    // Handed on by `refuse` and `missing` themselves, the TOML reader's words, and one that is said in two places.
    assert_eq!(by_name, 5, "a message that this test does not find");
    found
}

#[test]
fn every_message_about_a_configuration_is_documented() {
    let page = read("docs/configuration.md");
    let (mistakes, notes) = section(&page, "## What `check` says").split_once("\n| note |").expect("two tables");
    assert_eq!(once(cells(mistakes, 0)), messages());
    let mut said = BTreeSet::new();
    for file in ["ftp-helper/src/config/sections.rs", "ftp-helper/src/cli/check.rs"] {
        let source = read(file);
        let calls = source.match_indices("notes.push(");
        said.extend(calls.map(|(at, c)| pattern(literal(&source[at + c.len()..]).expect("a note is a pattern"))));
    }
    assert_eq!(once(cells(&format!("| note |{notes}"), 0)), said);
}

#[test]
fn patterns_are_read_from_literals() {
    assert_eq!(literal(" format!(\n  \"a {b} \\\"c\\\" d\", x)"), Some("a {b} \\\"c\\\" d"));
    assert_eq!(literal("problem, REMEDY"), None);
    assert_eq!(pattern("{text:?} is {n} \\\"x\\\" and \\\n    on {}"), "\"…\" is … \"x\" and on …");
    let table = "| a | b |\n| --- | --- |\n| `x\\|y` | 1 |\n\n| c |\n| --- |\n| `z` | 2 |\n";
    assert_eq!(
        (cells(table, 0), cells(table, 1)),
        (vec!["x|y".to_owned(), "z".into()], vec!["1".to_owned(), "2".into()])
    );
}
