//! The reference pages say what the code says.
//!
//! `docs/reasons.md` is generated: `UPDATE_DOCS=1 cargo test -p ftp-helper --test docs` writes it anew.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path, process::Command};

use ftp_helper::{
    api::{Request, Response, Versioned, access::Right},
    config::Config,
    doctor::Code,
    engine::policy::Policy,
    event::{Event, Kind},
};
use ftp_helper_common::reason::Reason;
use serde_json::Value;

fn doc(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What the numbers of the reasons are grouped by.
const GROUPS: &[(u16, &str)] = &[
    (1, "A connection into a guarded range was denied"),
    (20, "A control connection is not followed, or a packet of one is dropped"),
    (40, "The kernel lost sight of a dialogue, and the daemon carries on alone"),
    (70, "An announcement opened nothing"),
    (110, "A session may open nothing any more"),
    (140, "A pinhole was taken back, or a session ended"),
    (170, "A session is encrypted"),
];

fn reasons() -> String {
    let mut page = String::from(
        "# Reasons\n\n\
         Whatever is refused, denied, revoked or left to the daemon is so for one of these reasons. The name stands in\n\
         events, in `sessions` and `status`, and in the metrics; the number in the kernel's records and counters. Both\n\
         are stable. This page is generated from the list in the code, and a test keeps it so.\n",
    );
    let mut groups = GROUPS.iter().peekable();
    for reason in Reason::ALL {
        let code = *reason as u16;
        while let Some((_, title)) = groups.next_if(|(first, _)| *first <= code) {
            let _ = write!(page, "\n## {title}\n\n| number | name | meaning |\n| --- | --- | --- |\n");
        }
        let _ = writeln!(page, "| {code} | `{reason}` | {} |", reason.describe().trim().replace('|', "\\|"));
    }
    page
}

#[test]
fn the_reasons_are_all_there() {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reasons.md"), reasons()).unwrap();
    }
    assert_eq!(doc("reasons.md"), reasons(), "run UPDATE_DOCS=1 cargo test -p ftp-helper --test docs");
}

/// The fenced blocks of a language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let (mut blocks, mut block) = (Vec::new(), None::<String>);
    for line in page.lines() {
        match (&mut block, line.strip_prefix("```")) {
            (None, Some(l)) if l == language => block = Some(String::new()),
            (Some(_), Some(_)) => blocks.extend(block.take()),
            (Some(text), None) => {
                let _ = writeln!(text, "{line}");
            }
            _ => {}
        }
    }
    blocks
}

#[test]
fn the_configuration_page_holds_what_is_read() {
    let page = doc("configuration.md");
    let examples = blocks(&page, "toml");
    assert!(examples.len() >= 2, "the examples are gone");
    for example in &examples {
        Config::parse(example, Path::new("docs/configuration.md")).unwrap_or_else(|e| panic!("{e}\nin\n{example}"));
    }
    // The first block shows every key with its default, beside what has none.
    let config = Config::parse(&examples[0], Path::new("x")).unwrap();
    assert_eq!(
        Config { guards: vec![], ..config.clone() }.policy,
        Policy { servers: config.policy.servers.clone(), ..Policy::default() }
    );
    assert_eq!(config.ring_bytes, 16 << 20);
    assert_eq!(config.api.metrics, Some("127.0.0.1:9167".parse().unwrap()));
    // And the tables name every key that it shows.
    let keys: BTreeSet<_> =
        examples[0].lines().filter_map(|l| l.split_once('=')).map(|(key, _)| key.trim().to_owned()).collect();
    assert!(keys.len() > 25, "{keys:?}");
    for key in keys {
        assert!(page.contains(&format!("| `{key}` |")), "no row for {key}");
    }
}

#[test]
fn the_page_about_translation_holds_configurations() {
    let examples = blocks(&doc("nat.md"), "toml");
    assert!(examples.len() >= 2, "the examples are gone");
    for example in &examples {
        let config = Config::parse(example, Path::new("docs/nat.md")).unwrap_or_else(|e| panic!("{e}\nin\n{example}"));
        assert!(config.policy.nat.is_some());
    }
}

#[test]
fn the_doctor_page_lists_every_finding() {
    let page = doc("doctor.md");
    let rows: Vec<&str> = page.lines().skip_while(|l| *l != "## Findings").filter(|l| l.starts_with("| `")).collect();
    let codes = Code::ALL.iter().map(|c| format!("| `{c}` | {} |", c.describe().trim()));
    assert_eq!(rows, codes.collect::<Vec<_>>());
}

#[test]
fn the_events_page_names_every_event_and_its_examples_are_events() {
    let page = doc("events.md");
    for kind in Kind::ALL {
        assert!(page.contains(&format!("| `{}` |", kind.as_str())), "no row for {kind:?}");
    }
    let examples = blocks(&page, "json");
    assert!(!examples.is_empty());
    for line in examples.iter().flat_map(|b| b.lines()) {
        let event: Event = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        // Nothing in the example is unknown to the code.
        let written: serde_json::Value = serde_json::to_value(&event).unwrap();
        assert_eq!(written, serde_json::from_str::<serde_json::Value>(line).unwrap());
    }
}

/// Whether all that is written in an example is in what the code makes of it.
fn holds(value: &Value, example: &Value) -> bool {
    match (value, example) {
        (Value::Object(value), Value::Object(example)) => {
            example.iter().all(|(key, e)| value.get(key).is_some_and(|v| holds(v, e)))
        }
        _ => value == example,
    }
}

/// Names that serde knows for a tag: what it says of one that it does not know.
fn variants<T: serde::de::DeserializeOwned + std::fmt::Debug>(tag: &str) -> BTreeSet<String> {
    let error = serde_json::from_value::<T>(serde_json::json!({ tag: "?" })).unwrap_err().to_string();
    let names = error.split('`').skip(3).step_by(2).map(ToOwned::to_owned).collect::<BTreeSet<_>>();
    assert!(names.len() > 5, "{error}");
    names
}

#[test]
fn the_protocol_page_shows_every_request_and_every_answer() {
    let page = doc("protocol.md");
    let (mut asked, mut answered) = (BTreeSet::new(), BTreeSet::new());
    for line in blocks(&page, "json").iter().flat_map(|b| b.lines()) {
        let example: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        let again = if let Some(name) = example["request"].as_str() {
            let request: Versioned<Request> = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            assert_eq!(request.body.check(), Ok(()), "{line}");
            let right = if request.body.right() == Right::Read { "read" } else { "write" };
            assert!(page.contains(&format!("| `{name}` | {right} |")), "{name} needs {right}");
            asked.insert(name.to_owned());
            serde_json::to_value(&request).unwrap()
        } else {
            let response: Versioned<Response> = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            answered.insert(example["response"].as_str().unwrap_or_else(|| panic!("{line}")).to_owned());
            serde_json::to_value(&response).unwrap()
        };
        assert!(holds(&again, &example), "{line}\nbecame\n{again}");
    }
    assert_eq!(asked, variants::<Request>("request"));
    assert_eq!(answered, variants::<Response>("response"));
}

#[test]
fn the_commands_page_names_every_command_and_option() {
    let page = doc("commands.md");
    let help = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_ftp-helper")).args(args).arg("--help").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let top = help(&[]);
    let commands: Vec<_> = top
        .lines()
        .skip_while(|l| *l != "Commands:")
        .skip(1)
        .take_while(|l| !l.is_empty())
        .filter_map(|l| l.strip_prefix("  ")?.split_whitespace().next())
        .filter(|c| *c != "help")
        .collect();
    assert!(commands.len() >= 8, "{commands:?}");
    for command in commands {
        assert!(page.contains(&format!("`{command}")), "no word about {command}");
        for option in help(&[command]).split_whitespace().filter(|w| w.starts_with("--")) {
            let option = option.trim_end_matches(|c: char| !c.is_ascii_lowercase());
            assert!(page.contains(option), "{command} {option} is not documented");
        }
        if ["sessions", "pinholes"].contains(&command) {
            for action in ["show", "kill", "add", "del", "flush"]
                .into_iter()
                .filter(|a| help(&[command]).lines().any(|l| l.split_whitespace().next() == Some(*a)))
            {
                assert!(page.contains(&format!("`{command} {action}")), "no word about {command} {action}");
                for option in help(&[command, action]).split_whitespace().filter(|w| w.starts_with("--")) {
                    let option = option.trim_end_matches(|c: char| !c.is_ascii_lowercase());
                    assert!(page.contains(option), "{command} {action} {option} is not documented");
                }
            }
        }
    }
}
