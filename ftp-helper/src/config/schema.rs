//! The configuration as a JSON schema: for editors, which complete and check while the file is written.
//!
//! It says what a key may hold by itself. What holds between keys (a mode that needs a guard, sets of two names) only
//! the reader knows.

use serde_json::{Value, json};

/// The schema (JSON Schema, draft 2020-12).
pub fn schema() -> Value {
    let port = json!({"type": "integer", "minimum": 1, "maximum": 65535});
    let range = |what: &str| {
        json!({
            "description": what,
            "anyOf": [port, {"type": "string", "pattern": "^ *[0-9]{1,5} *(- *[0-9]{1,5} *)?$"}],
        })
    };
    let networks = |what: &str| {
        json!({
            "description": what,
            "type": "array",
            "minItems": 1,
            "items": {"type": "string", "pattern": "^(@[^ /]{1,15}|[0-9.]+(/[0-9]{1,2})?|[0-9A-Fa-f:.]+(/[0-9]{1,3})?)$"},
        })
    };
    let duration = |what: &str, default: &str| json!({"description": what, "type": "string", "pattern": "^ *([0-9]+ *[a-zA-Zµ]+ *)+$", "default": default});
    let word =
        |what: &str, choices: &[&str], default: &str| json!({"description": what, "enum": choices, "default": default});
    let name =
        |what: &str, default: &str| json!({"description": what, "type": "string", "minLength": 1, "default": default});
    let ports = |what: &str| json!({"description": what, "type": "array", "items": port});
    let mut root = section(
        "Configuration of ftp-helper",
        json!({
            "mode": word("observe drops nothing and tells what would be dropped; drop drops it; mark marks what was negotiated",
                &["observe", "drop", "mark"], "observe"),
            "on_daemon_loss": word("without the daemon the kernel side goes on by the last policy, or opens nothing new",
                &["continue", "close"], "continue"),
            "watch": section("Where to look", json!({
                "interfaces": {
                    "description": "The outside interfaces: names, or patterns with *, ? and [ab]",
                    "type": "array",
                    "minItems": 1,
                    "items": {"type": "string", "minLength": 1},
                },
                "control_ports": {
                    "description": "TCP ports that speak FTP",
                    "type": "array",
                    "minItems": 1,
                    "items": port,
                    "default": [21],
                },
                "hook": word("Where packets are looked at", &["tc", "xdp+tc"], "tc"),
            }), &["interfaces"]),
            "guard": list("Where a new connection needs a pinhole", section("A guard", json!({
                "direction": word("in: connections that arrive on an outside interface; out: those that leave by one",
                    &["in", "out"], "in"),
                "networks": networks("Addresses and prefixes of the responder, or @ and the name of an interface"),
                "initiators": networks("Who is held to it; required with direction = \"out\""),
                "ports": range("The guarded ports: a port or a range"),
                "except_ports": {
                    "description": "Ports of other services of these hosts",
                    "type": "array",
                    "items": range("A port or a range"),
                },
            }), &["networks"]), 64),
            "policy": section("What may open", json!({
                "modes": {
                    "description": "The ways to negotiate that may open a pinhole",
                    "type": "array",
                    "items": {"enum": ["pasv", "epsv", "port", "eprt"]},
                    "default": ["pasv", "epsv", "port", "eprt"],
                },
                "active_inbound": {
                    "description": "Whether an outside server may connect in to an inside client",
                    "type": "boolean",
                    "default": false,
                },
                "active_open": word("When PORT and EPRT open", &["auto", "command", "reply", "transfer"], "auto"),
                "active_source_port": {
                    "description": "20 demands source port 20 of active data connections",
                    "enum": ["any", "20", 20],
                    "default": "any",
                },
                "deny_ports": ports("Never a data port"),
                "line_endings": word("lenient also reads lines that end in a bare LF", &["crlf", "lenient"], "crlf"),
            }), &[]),
            "server": list("What is known about single servers; the first that matches counts", section("A server", json!({
                "address": {
                    "description": "Its addresses and prefixes",
                    "type": "array",
                    "minItems": 1,
                    "items": {"type": "string", "pattern": "^([0-9.]+(/[0-9]{1,2})?|[0-9A-Fa-f:.]+(/[0-9]{1,3})?)$"},
                },
                "passive_ports": range("The range that its passive mode announces"),
                "opaque": word("What an encrypted session opens: nothing, or the server's passive_ports to its client",
                    &["deny", "range"], "deny"),
            }), &["address"]), 0),
            "pinhole": section("Pinholes", json!({
                "timeout": duration("How long an unused pinhole lives: 100ms to 5min", "10s"),
                "per_client": {
                    "description": "Unused pinholes of one client",
                    "type": "integer", "minimum": 1, "maximum": 65536, "default": 64,
                },
            }), &[]),
            "limits": section("Limits", json!({
                "sessions": {
                    "description": "Control connections that are followed at once",
                    "type": "integer", "minimum": 1, "maximum": super::sections::SESSIONS_MAX, "default": 65536,
                },
                "ring": {
                    "description": "Memory for what the kernel tells the daemon: 4KiB to 1GiB",
                    "anyOf": [
                        {"type": "integer", "minimum": 4096, "maximum": super::sections::RING_MAX},
                        {"type": "string", "pattern": "^ *[0-9.]+ *[kKmMgG]?[iI]?[bB]? *$"},
                    ],
                    "default": "16MiB",
                },
                "login": duration("How long a client may take to log in", "120s"),
                "idle": duration("How long a session may be silent", "1h"),
            }), &[]),
            "mark": section("What mode mark sets", json!({
                "value": {
                    "description": "Value and mask, hexadecimal or decimal",
                    "type": "string",
                    "pattern": "^ *(0[xX][0-9A-Fa-f]+|[0-9]+) */ *(0[xX][0-9A-Fa-f]+|[0-9]+) *$",
                    "default": "0x0f000000/0x0f000000",
                },
            }), &[]),
            "nftables": section("Sets of your own ruleset; off unless the section is there", json!({
                "table": {
                    "description": "Family and name of the table that holds the sets",
                    "type": "string",
                    "pattern": "^ *(inet|ip6?) +[^ ]+ *$",
                },
                "set4": name("The set of IPv4 pinholes", "ftp_pin4"),
                "set6": name("The set of IPv6 pinholes", "ftp_pin6"),
            }), &["table"]),
            "nat": section("Translated hosts; off unless the section is there", json!({
                "active_ports": range("Public ports for the data connections of inside clients in active mode"),
            }), &[]),
            "api": section("The control socket and the metrics", json!({
                "socket": {
                    "description": "The control socket",
                    "type": "string",
                    "pattern": "^/.*[^/]$",
                    "maxLength": 107,
                    "default": super::DEFAULT_SOCKET,
                },
                "read_group": name("Its members may ask", "adm"),
                "write_group": name("Its members may also change", "root"),
                "metrics": {
                    "description": "Address and port of the metrics page",
                    "type": "string",
                    "pattern": "^([0-9.]+|\\[[0-9A-Fa-f:.%]+\\]):[0-9]{1,5}$",
                },
            }), &[]),
        }),
        &["watch"],
    );
    root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    root["title"] = json!("ftp-helper.toml");
    root
}

/// A table: a key that is not known is a mistake.
fn section(what: &str, keys: Value, required: &[&str]) -> Value {
    json!({
        "description": what,
        "type": "object",
        "properties": keys,
        "required": required,
        "additionalProperties": false,
    })
}

/// An array of tables, of so many at most unless that is 0.
fn list(what: &str, of: Value, at_most: usize) -> Value {
    let mut list = json!({"description": what, "type": "array", "items": of});
    if at_most > 0 {
        list["maxItems"] = json!(at_most);
    }
    list
}
