//! Lines for cargo, which build, test and measure for minutes: seen is that they name what there is.

use std::process::Command;

use ftp_helper_tests::{
    gateway::program,
    page::{Block, pages},
    program::said,
};

use super::root;

/// Whether it is one for cargo, with or without variables before it.
pub(super) fn is_cargo(line: &str) -> bool {
    words_of_cargo(line).is_some()
}

/// The variables before `cargo`, and the words behind it.
fn words_of_cargo(line: &str) -> Option<(Vec<&str>, Vec<&str>)> {
    let mut words = line.split_whitespace();
    let mut variables = Vec::new();
    loop {
        match words.next()? {
            "cargo" => return Some((variables, words.collect())),
            word => variables.push(word.split_once('=')?.0),
        }
    }
}

#[test]
fn every_line_for_cargo_names_what_there_is() {
    let mut seen = 0;
    for page in pages(&root()).unwrap() {
        let spans = page.spans.iter().map(|(number, span)| (*number, span.as_str(), false));
        let commands = page.blocks.iter().flat_map(Block::commands).map(|(number, line)| (number, line, true));
        for (number, line, whole) in commands.chain(spans) {
            let Some((variables, words)) = words_of_cargo(line) else { continue };
            let place = format!("{}:{number}: {line}", page.name);
            match words.as_slice() {
                ["xtask", task, rest @ ..] => task_is_there(&place, task, rest),
                ["test", "-p", package, rest @ ..] => tests_are_there(&place, package, rest, &variables),
                _ => assert!(!whole, "{place}: neither a task nor tests"),
            }
            seen += 1;
        }
    }
    assert!(seen > 40, "{seen} lines: the pages' form has changed");
}

/// The task, its options, and the names behind it.
fn task_is_there(place: &str, task: &str, rest: &[&str]) {
    let xtask = program().unwrap().with_file_name("xtask");
    assert!(xtask.is_file(), "{} is missing: cargo build -p xtask", xtask.display());
    let mut command = Command::new(xtask);
    command.args([task, "--help"]);
    let help = said(command).unwrap();
    assert_eq!(help.code, 0, "{place}\n{}", help.err);
    let sources = root();
    match (task, rest) {
        // What follows is the benchmark's.
        ("bench", [name, ..]) if !name.starts_with('-') => {
            let file = sources.join(format!("tests/src/bin/bench-{name}"));
            assert!(file.is_dir() || file.with_extension("rs").is_file(), "{place}: there is no such benchmark");
        }
        ("fuzz", [name, ..]) if !name.starts_with('-') && *name != "TARGET" => {
            assert!(sources.join(format!("fuzz/fuzz_targets/{name}.rs")).is_file(), "{place}: there is no such target");
        }
        _ => {}
    }
    let options = rest.iter().filter(|word| word.starts_with("--") && task != "bench");
    for option in options {
        assert!(
            help.out.split([' ', '\n', ',']).any(|word| word == *option),
            "{place}: {option} is not in\n{}",
            help.out
        );
    }
}

/// The tests' files, and variables that they look at.
fn tests_are_there(place: &str, package: &str, rest: &[&str], variables: &[&str]) {
    let directory = match package {
        "ftp-helper" => root().join("ftp-helper/tests"),
        "ftp-helper-tests" => root().join("tests/tests"),
        _ => panic!("{place}: there is no such package with tests"),
    };
    let names: Vec<&&str> =
        rest.iter().zip(rest.iter().skip(1)).filter(|(o, _)| **o == "--test").map(|(_, n)| n).collect();
    assert!(!names.is_empty(), "{place}: no test is named");
    for name in names {
        let file = directory.join(format!("{name}.rs"));
        let file = if file.is_file() { file } else { directory.join(name).join("main.rs") };
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{place}: {}: {e}", file.display()));
        for variable in variables {
            let read = if *variable == "FTP_HELPER_FULL" { "full()".to_owned() } else { format!("\"{variable}\"") };
            assert!(text.contains(&read), "{place}: {name} does not look at {variable}");
        }
    }
}

#[test]
fn words_of_cargo_are_told_from_others() {
    assert_eq!(words_of_cargo("A=1 cargo test -p x"), Some((vec!["A"], vec!["test", "-p", "x"])));
    assert_eq!((words_of_cargo("echo cargo test"), words_of_cargo("cargo")), (None, Some((vec![], vec![]))));
}
