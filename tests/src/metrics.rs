//! Metrics by their names with labels, as a page of metrics writes them, from wherever they were read.

use std::collections::BTreeMap;

use serde_json::Value;

/// What the page tells and `status` does not, or in another way, or what changes by itself.
const OTHER: [&str; 6] =
    ["build_info", "uptime_", "heartbeat_", "program_attached", "ring_losses_", "confirm_latency_"];

/// The samples of a page.
///
/// # Panics
/// When a line is none.
#[must_use]
pub fn of_page(page: &str) -> BTreeMap<String, f64> {
    let sample = |line: &str| -> Option<(String, f64)> {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    let lines = page.lines().filter(|l| !l.starts_with('#'));
    lines.map(|l| sample(l).unwrap_or_else(|| panic!("no sample: {l}"))).collect()
}

/// Those of them that `status` tells too. What is 0 is left out: `status` leaves out what was never counted.
#[must_use]
pub fn steady(mut samples: BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let other = |name: &str| OTHER.iter().any(|o| name.strip_prefix("ftp_helper_").is_some_and(|n| n.starts_with(o)));
    samples.retain(|name, n| *n != 0.0 && !other(name));
    samples
}

/// What `status -o json` tells, as metrics.
///
/// # Panics
/// When it is no status.
#[must_use]
pub fn of_status(status: &Value) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    let mut add = |name: String, value: &Value| {
        let value = value.as_f64().unwrap_or_else(|| panic!("{name} is no number: {value}"));
        all.insert(format!("ftp_helper_{name}"), value);
    };
    let entries = |name: &str| status[name].as_object().unwrap_or_else(|| panic!("no {name} in {status}")).iter();
    for gauge in ["sessions", "pinholes", "data_connections"] {
        add(gauge.to_owned(), &status[gauge]["live"]);
        add(format!("{gauge}_limit"), &status[gauge]["limit"]);
    }
    let count = |name: &str| Value::from(status[name].as_array().map_or(0, Vec::len));
    add("interfaces".to_owned(), &count("interfaces"));
    add("interfaces_missing".to_owned(), &count("waiting_for"));
    if status["nftables"].is_object() {
        for change in ["added", "removed", "failed"] {
            add(format!("nftables_total{{change=\"{change}\"}}"), &status["nftables"][change]);
        }
    }
    for (name, value) in entries("counters") {
        add(format!("kernel_total{{verdict=\"{name}\"}}"), value);
    }
    for (name, value) in entries("reasons") {
        add(format!("reasons_total{{reason=\"{name}\"}}"), value);
    }
    for (name, value) in entries("engine") {
        let metric = match (name.as_str(), name.split_once('.')) {
            ("taken_by_fast_path", _) => "opened_total{by=\"kernel\"}".to_owned(),
            ("opened_by_daemon", _) => "opened_total{by=\"daemon\"}".to_owned(),
            ("transfers", _) => "transfers_total".to_owned(),
            ("data_bytes_out", _) => "data_bytes_total{sender=\"initiator\"}".to_owned(),
            ("data_bytes_back", _) => "data_bytes_total{sender=\"responder\"}".to_owned(),
            (_, Some(("event", kind))) => format!("events_total{{event=\"{kind}\"}}"),
            (_, Some((family, reason))) => format!("{family}_total{{reason=\"{reason}\"}}"),
            (name, None) => format!("engine_total{{counter=\"{name}\"}}"),
        };
        add(metric, value);
    }
    steady(all)
}
