//! Every command that the documentation shows is one.

use std::{fs, path::Path};

use clap::{Parser as _, error::ErrorKind};

use super::Cli;

#[test]
fn documented_commands_are_understood() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut pages = vec![root.join("README.md")];
    pages.extend(fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    let (mut whole, mut named) = (0, 0);
    for page in pages.into_iter().filter(|page| page.extension().is_some_and(|e| e == "md")) {
        let text = fs::read_to_string(&page).unwrap();
        for (number, command, is_whole) in commands(&text) {
            let words =
                std::iter::once("ftp-helper").chain(command.split_whitespace().map(|word| word.trim_matches('\'')));
            let result = Cli::try_parse_from(words);
            let good = match &result {
                Ok(_) => true,
                // In running text a command may be named without its arguments.
                Err(e) => {
                    matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion)
                        || !is_whole
                            && matches!(
                                e.kind(),
                                ErrorKind::MissingRequiredArgument
                                    | ErrorKind::MissingSubcommand
                                    | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                            )
                }
            };
            assert!(good, "{}:{number}: ftp-helper {command}: {:?}", page.display(), result.map_err(|e| e.to_string()));
            *if is_whole { &mut whole } else { &mut named } += 1;
        }
    }
    assert!(whole > 20 && named > 10, "{whole} commands and {named} names of commands: the page's form has changed");
}

/// The commands of a page: line, words behind the program's name, and whether it is a line to be typed as it is.
fn commands(page: &str) -> Vec<(usize, String, bool)> {
    let mut found = Vec::new();
    let mut language = None;
    for (number, line) in (1..).zip(page.lines()) {
        if let Some(name) = line.trim_start().strip_prefix("```") {
            language = if language.is_none() { Some(name.to_owned()) } else { None };
        } else if language.as_deref() == Some("sh") {
            let line = line.split(" # ").next().unwrap_or_default();
            for part in line.split(['|', '>']).flat_map(|part| part.split("&&")) {
                let part = part.trim();
                let part = part.strip_prefix("sudo ").unwrap_or(part);
                if let Some(words) = part.strip_prefix("ftp-helper ") {
                    found.push((number, words.trim_end_matches('&').trim().to_owned(), true));
                }
            }
        } else if language.is_none() {
            let spans = line.split('`').skip(1).step_by(2).filter_map(|span| span.strip_prefix("ftp-helper "));
            found.extend(
                spans.filter(|span| !span.contains(['…', '|', '['])).map(|span| (number, span.to_owned(), false)),
            );
        }
    }
    found
}

#[test]
fn commands_are_found_in_a_page() {
    let page = "Say `ftp-helper reload` or `ftp-helper lab …`.\n```sh\nsudo ftp-helper run -c F   # starts\nftp-helper check && ftp-helper status | less\n```\n```\nftp-helper nonsense\n```\n";
    let found: Vec<_> = commands(page).into_iter().map(|(n, words, whole)| format!("{n} {words} {whole}")).collect();
    assert_eq!(found, ["1 reload false", "3 run -c F true", "4 check true", "4 status true"]);
}
