//! The JSON schema of the configuration: it is installed as the program prints it, knows every key, takes what is documented,
//! and refuses what the reader refuses.
//!
//! `UPDATE_DOCS=1 cargo test -p ftp-helper --test schema` writes `packaging/ftp-helper.schema.json` anew.

use std::{collections::BTreeSet, fs, path::Path};

use ftp_helper::config::{Config, KEYS, examine_text, schema};
use regex_automata::{
    Input,
    dfa::{Automaton as _, dense::DFA},
};
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What is wrong with a value, by the part of JSON Schema that the schema uses. A keyword that this does not know fails.
fn check(schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let number = |v: &Value| v.as_i64().expect("a whole number");
    for (keyword, says) in schema.as_object().expect("a schema is an object") {
        let holds = match keyword.as_str() {
            "$schema" | "title" | "description" | "default" => true,
            "type" => match says.as_str() {
                Some("object") => value.is_object(),
                Some("array") => value.is_array(),
                Some("string") => value.is_string(),
                Some("boolean") => value.is_boolean(),
                Some("integer") => value.is_i64() || value.is_u64(),
                _ => panic!("a type that is not known: {says}"),
            },
            "enum" => says.as_array().expect("a list").contains(value),
            "anyOf" => says.as_array().expect("a list").iter().any(|s| check(s, value, at).is_empty()),
            "pattern" => {
                let pattern = DFA::new(says.as_str().expect("a text")).expect("a pattern");
                let fits = |text: &str| pattern.try_search_fwd(&Input::new(text)).expect("a search").is_some();
                value.as_str().is_none_or(fits)
            }
            "minLength" => value.as_str().is_none_or(|t| t.chars().count() as i64 >= number(says)),
            "maxLength" => value.as_str().is_none_or(|t| t.chars().count() as i64 <= number(says)),
            "minimum" => value.as_i64().is_none_or(|n| n >= number(says)),
            "maximum" => value.as_i64().is_none_or(|n| n <= number(says)),
            "minItems" => value.as_array().is_none_or(|a| a.len() as i64 >= number(says)),
            "maxItems" => value.as_array().is_none_or(|a| a.len() as i64 <= number(says)),
            "items" => {
                for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                    wrong.extend(check(says, item, &format!("{at}/{i}")));
                }
                true
            }
            "required" => {
                let keys = says.as_array().expect("a list").iter().map(|k| k.as_str().expect("a key"));
                value.as_object().is_none_or(|o| keys.into_iter().all(|k| o.contains_key(k)))
            }
            "properties" => {
                for (key, says) in says.as_object().expect("properties are an object") {
                    if let Some(value) = value.get(key) {
                        wrong.extend(check(says, value, &format!("{at}/{key}")));
                    }
                }
                true
            }
            "additionalProperties" => {
                assert_eq!(*says, Value::Bool(false));
                let known = schema["properties"].as_object().expect("properties are an object");
                value.as_object().is_none_or(|o| o.keys().all(|k| known.contains_key(k)))
            }
            _ => panic!("a keyword that is not known: {keyword}"),
        };
        if !holds {
            wrong.push(format!("{at}: {keyword} {says} does not hold for {value}"));
        }
    }
    wrong
}

fn json(text: &str) -> Value {
    let value: toml::Value = toml::from_str(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    serde_json::to_value(value).unwrap()
}

#[test]
fn the_file_is_what_the_program_prints() {
    let path = root().join("packaging/ftp-helper.schema.json");
    let now = format!("{:#}\n", schema());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &now).unwrap();
    }
    assert!(read(&path) == now, "run UPDATE_DOCS=1 cargo test -p ftp-helper --test schema");
}

#[test]
fn it_knows_every_key_and_no_other_and_their_defaults() {
    let schema = schema();
    let mut keys = BTreeSet::new();
    let mut defaults = Vec::new();
    for (name, says) in schema["properties"].as_object().unwrap() {
        let table = if says["type"] == "array" { &says["items"] } else { says };
        let Some(inside) = table["properties"].as_object() else {
            keys.insert(name.clone());
            defaults.push((name.clone(), &says["default"]));
            continue;
        };
        for (key, says) in inside {
            keys.insert(format!("{name}.{key}"));
            defaults.push((format!("{name}.{key}"), &says["default"]));
        }
    }
    assert_eq!(keys, KEYS.iter().map(|k| (*k).to_owned()).collect());
    let least = "[watch]\ninterfaces = [\"wan0\"]\n[nftables]\ntable = \"inet filter\"\n[nat]\n";
    let read = examine_text(least, Path::new("x")).unwrap();
    let values = read.config.values(&read.lines);
    let mut compared = 0;
    for (key, default) in defaults.into_iter().filter(|(_, d)| !d.is_null()) {
        let Some(value) = values.iter().find(|v| v.key == key) else { continue };
        // A duration can be written in more than one way.
        let same = match (value.value.as_str(), default.as_str()) {
            (Some(a), Some(b)) if key.starts_with("limits.") && humantime(a).is_some() => humantime(a) == humantime(b),
            _ => value.value == *default,
        };
        assert!(same, "{key} is {} by default, and the schema says {default}", value.value);
        compared += 1;
    }
    assert!(compared > 15, "{compared}");
}

/// Seconds of a duration such as `2m`.
fn humantime(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let factor = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        _ => return None,
    };
    Some(number.parse::<u64>().ok()? * factor)
}

#[test]
fn it_takes_every_documented_configuration() {
    let pages = fs::read_dir(root().join("docs")).unwrap().map(|e| e.unwrap().path());
    let mut texts = vec![
        ("packaging".to_owned(), read(&root().join("packaging/ftp-helper.toml"))),
        ("fuzz".to_owned(), read(&root().join("fuzz/seeds/config/full.toml"))),
    ];
    for page in pages.filter(|p| p.extension().is_some_and(|e| e == "md")).chain([root().join("README.md")]) {
        let text = read(&page);
        let blocks = text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
        texts.extend(blocks.filter(|b| b.contains("[watch]")).map(|b| (page.display().to_string(), b.to_owned())));
    }
    assert!(texts.len() > 10, "the documentation has lost its configurations");
    for (place, text) in texts {
        assert_eq!(check(&schema(), &json(&text), ""), Vec::<String>::new(), "{place}:\n{text}");
    }
}

#[test]
fn it_refuses_what_the_reader_refuses() {
    let watch = "[watch]\ninterfaces = [\"wan0\"]\n";
    let guard = format!("{watch}[[guard]]\nnetworks = [\"192.0.2.1\"]\n");
    let bad = [
        String::new(),
        "[watch]\n".into(),
        "[watch]\ninterfaces = []\n".into(),
        "[watch]\ninterfaces = \"wan0\"\n".into(),
        format!("mode = \"block\"\n{watch}"),
        format!("mode = 1\n{watch}"),
        format!("on_daemon_loss = \"open\"\n{watch}"),
        format!("wach = 1\n{watch}"),
        format!("{watch}hok = \"tc\"\n"),
        format!("{watch}hook = \"xdp\"\n"),
        format!("{watch}control_ports = [0]\n"),
        format!("{watch}control_ports = [\"21\"]\n"),
        format!("{watch}[guard]\nnetworks = [\"192.0.2.1\"]\n"),
        format!("{watch}[[guard]]\nnetworks = [\"wan0\"]\n"),
        format!("{watch}[[guard]]\n"),
        format!("{guard}direction = \"both\"\n"),
        format!("{guard}ports = \"high\"\n"),
        format!("{guard}ports = 70000\n"),
        format!("{guard}except_ports = 3389\n"),
        format!("{watch}[policy]\nmodes = [\"ftps\"]\n"),
        format!("{watch}[policy]\nactive_inbound = \"no\"\n"),
        format!("{watch}[policy]\nactive_source_port = 21\n"),
        format!("{watch}[policy]\ndeny_ports = [65536]\n"),
        format!("{watch}[[server]]\npassive_ports = \"4000-5000\"\n"),
        format!("{watch}[[server]]\naddress = [\"192.0.2.1\"]\nopaque = \"allow\"\n"),
        format!("{watch}[pinhole]\ntimeout = 10\n"),
        format!("{watch}[pinhole]\ntimeout = \"soon\"\n"),
        format!("{watch}[pinhole]\nper_client = 0\n"),
        format!("{watch}[limits]\nsessions = 0\n"),
        format!("{watch}[limits]\nring = \"lots\"\n"),
        format!("{watch}[mark]\nvalue = \"0x10\"\n"),
        format!("{watch}[nftables]\n"),
        format!("{watch}[nftables]\ntable = \"bridge filter\"\n"),
        format!("{watch}[nat]\nports = 5\n"),
        format!("{watch}[api]\nsocket = \"run/x\"\n"),
        format!("{watch}[api]\nread_group = \"\"\n"),
        format!("{watch}[api]\nmetrics = \"127.0.0.1\"\n"),
    ];
    for text in bad {
        assert!(Config::parse(&text, Path::new("x")).is_err(), "the reader takes\n{text}");
        assert!(!check(&schema(), &json(&text), "").is_empty(), "the schema takes\n{text}");
    }
}
