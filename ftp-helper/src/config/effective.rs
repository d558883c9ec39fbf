//! What is in force, key by key, and where it comes from.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use serde_json::json;

use super::Config;

/// Every key that a configuration may have, with its sections, in the order of the reference page.
pub const KEYS: &[&str] = &[
    "mode",
    "on_daemon_loss",
    "watch.interfaces",
    "watch.control_ports",
    "watch.hook",
    "guard.direction",
    "guard.networks",
    "guard.initiators",
    "guard.ports",
    "guard.except_ports",
    "policy.modes",
    "policy.active_inbound",
    "policy.active_open",
    "policy.active_source_port",
    "policy.deny_ports",
    "policy.line_endings",
    "server.address",
    "server.passive_ports",
    "server.opaque",
    "pinhole.timeout",
    "pinhole.per_client",
    "limits.sessions",
    "limits.ring",
    "limits.login",
    "limits.idle",
    "mark.value",
    "nftables.table",
    "nftables.set4",
    "nftables.set6",
    "nat.active_ports",
    "api.socket",
    "api.read_group",
    "api.write_group",
    "api.metrics",
];

/// A key, what is in force for it, and where that comes from.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Value {
    /// The key with its sections, such as `watch.hook` or `guard[2].networks`.
    pub key: String,
    /// As it would be written in the file.
    pub value: serde_json::Value,
    /// The line of the file that says so; `None` where it is the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
}

impl Config {
    /// Everything that is in force; `lines` are those of the keys that stand in the file. What is off by default is left
    /// out.
    pub fn values(&self, lines: &BTreeMap<String, usize>) -> Vec<Value> {
        let said = self.explain();
        let mut all = Values { lines, all: Vec::new() };
        let Self { policy, ring_bytes, .. } = self;
        all.add("mode", json!(said.mode));
        all.add("on_daemon_loss", json!(said.on_daemon_loss));
        all.add("watch.interfaces", json!(said.interfaces));
        all.add("watch.control_ports", json!(said.control_ports));
        all.add("watch.hook", json!(said.hook));
        for (i, guard) in said.guards.iter().enumerate() {
            let mut add = |key: &str, value| all.add(&format!("guard[{}].{key}", i + 1), value);
            add("direction", json!(guard.direction));
            add("networks", json!(guard.networks));
            add("initiators", json!(guard.initiators));
            add("ports", json!(guard.ports));
            add("except_ports", json!(guard.except_ports));
        }
        all.add("policy.modes", json!(said.modes));
        all.add("policy.active_inbound", json!(said.active_inbound));
        all.add("policy.active_open", json!(said.active_open));
        all.add("policy.active_source_port", json!(said.active_source_port));
        all.add("policy.deny_ports", json!(said.deny_ports));
        all.add("policy.line_endings", json!(said.line_endings));
        for (i, server) in said.servers.iter().enumerate() {
            let mut add = |key: &str, value| all.add(&format!("server[{}].{key}", i + 1), value);
            add("address", json!(server.address));
            if let Some(ports) = &server.passive_ports {
                add("passive_ports", json!(ports));
            }
            add("opaque", json!(server.opaque));
        }
        all.add("pinhole.timeout", duration(policy.pinhole_timeout));
        all.add("pinhole.per_client", json!(said.per_client));
        all.add("limits.sessions", json!(said.sessions));
        all.add("limits.ring", json!(size(*ring_bytes)));
        all.add("limits.login", duration(policy.limits.login));
        all.add("limits.idle", duration(policy.limits.idle));
        all.add("mark.value", json!(policy.mark.to_string()));
        if let Some(sets) = said.nftables {
            all.add("nftables.table", json!(sets.table));
            for (key, set) in [("nftables.set4", sets.set4), ("nftables.set6", sets.set6)] {
                if let Some(set) = set {
                    all.add(key, json!(set));
                }
            }
        }
        if let Some(nat) = said.nat {
            all.add("nat.active_ports", json!(nat.active_ports));
        }
        all.add("api.socket", json!(said.socket));
        all.add("api.read_group", json!(said.read_group));
        all.add("api.write_group", json!(said.write_group));
        if let Some(metrics) = said.metrics {
            all.add("api.metrics", json!(metrics));
        }
        all.all
    }
}

struct Values<'a> {
    lines: &'a BTreeMap<String, usize>,
    all: Vec<Value>,
}

impl Values<'_> {
    fn add(&mut self, key: &str, value: serde_json::Value) {
        self.all.push(Value { key: key.to_owned(), value, line: self.lines.get(key).copied() });
    }
}

/// As the reader takes it: without spaces between its parts.
fn duration(duration: Duration) -> serde_json::Value {
    json!(humantime::format_duration(duration).to_string())
}

/// In the largest unit that needs no fraction.
fn size(bytes: u32) -> String {
    match bytes {
        n if n % (1 << 20) == 0 => format!("{}MiB", n >> 20),
        n if n % (1 << 10) == 0 => format!("{}KiB", n >> 10),
        n => format!("{n}B"),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use super::*;
    use crate::config::examine_text;

    /// A value as the file would have it: JSON's texts, numbers, booleans and lists are also TOML's.
    fn text(values: &[Value]) -> String {
        values.iter().filter(|v| !v.key.contains('[')).map(|v| format!("{} = {}\n", v.key, v.value)).collect()
    }

    #[test]
    fn what_is_in_force_reads_back_as_the_same() {
        let first = "mode = \"observe\"\non_daemon_loss = \"close\"\n\
            [watch]\ninterfaces = [\"wan0\", \"ppp*\"]\n[policy]\nactive_source_port = 20\nmodes = []\n\
            [pinhole]\ntimeout = \"1500ms\"\n[limits]\nring = \"3MiB\"\nlogin = \"90s\"\n[mark]\nvalue = \"1/1\"\n\
            [nftables]\ntable = \"inet filter\"\n[nat]\n[api]\nmetrics = \"[::1]:9167\"\n";
        let read = examine_text(first, Path::new("f.toml")).unwrap();
        let written = text(&read.config.values(&read.lines));
        let again = examine_text(&written, Path::new("f.toml")).unwrap_or_else(|e| panic!("{e}\n{written}"));
        assert_eq!(again.config, read.config, "{written}");
        assert!(again.notes.is_empty(), "{:?}", again.notes);
    }

    #[test]
    fn each_value_knows_its_line_or_is_the_default() {
        let said = "mode = \"drop\"\n[watch]\ninterfaces = [\"wan0\"]\n\n[[guard]]\nnetworks = [\"192.0.2.1\"]\n\
            [[guard]]\ndirection = \"in\"\nnetworks = [\"@wan0\"]\n[[server]]\naddress = [\"192.0.2.1\"]\n[limits]\nidle = \"2h\"\n";
        let read = examine_text(said, Path::new("f.toml")).unwrap();
        let values = read.config.values(&read.lines);
        let line = |key: &str| values.iter().find(|v| v.key == key).unwrap_or_else(|| panic!("no {key}")).line;
        assert_eq!((line("mode"), line("watch.interfaces")), (Some(1), Some(3)));
        assert_eq!((line("guard[1].networks"), line("guard[1].direction")), (Some(6), None));
        assert_eq!((line("guard[2].networks"), line("guard[2].direction")), (Some(9), Some(8)));
        assert_eq!((line("server[1].address"), line("limits.idle"), line("limits.login")), (Some(11), Some(13), None));
        assert_eq!(line("on_daemon_loss"), None);
        let idle = values.iter().find(|v| v.key == "limits.idle").unwrap();
        assert_eq!(serde_json::to_string(idle).unwrap(), "{\"key\":\"limits.idle\",\"value\":\"2h\",\"line\":13}");
    }

    #[test]
    fn the_list_of_keys_is_whole() {
        let said = "[watch]\ninterfaces = [\"wan0\"]\n[[guard]]\nnetworks = [\"192.0.2.1\"]\n\
            [[server]]\naddress = [\"192.0.2.1\"]\npassive_ports = \"4000-5000\"\n[nftables]\ntable = \"inet filter\"\n\
            [nat]\n[api]\nmetrics = \"[::1]:9167\"\n";
        let read = examine_text(said, Path::new("f.toml")).unwrap();
        let plain = |key: &str| key.replace("[1]", "");
        let values: BTreeSet<String> = read.config.values(&read.lines).iter().map(|v| plain(&v.key)).collect();
        assert_eq!(values, KEYS.iter().map(|k| (*k).to_owned()).collect());
    }
}
