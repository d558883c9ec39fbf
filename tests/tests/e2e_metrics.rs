//! A real Prometheus reads a real daemon: what it has read is what `status` tells and what the lab did, every expression of
//! the dashboard and of the alert rules can be evaluated, and every metric is documented.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use ftp_helper::{
    event::PinholeState,
    lab::{Lab, LabOptions, clients::Family, dialogue::Dialogue, require_root, servers::*},
};
use ftp_helper_tests::{
    connect::connect,
    gateway::{Gateway, PATIENCE, Settings, until},
    metrics,
    prometheus::{Prometheus, Sample, get, promtool},
};
use serde_json::Value;

/// Where the daemon's metrics are.
const METRICS: &str = "127.0.0.1:9167";
/// A port of the server that nobody negotiates.
const UNASKED: u16 = 40_404;
/// The sets that are fed, so that they have a metric.
const RULESET: &str = "table inet filter {
	set ftp_pin4 { type ipv4_addr . ipv4_addr . inet_service; flags timeout; }
	set ftp_pin6 { type ipv6_addr . ipv6_addr . inet_service; flags timeout; }
}
";
/// What one upload sends.
const UPLOAD: &[u8] = b"twenty-four bytes of it\n";

fn packaging(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(file)
}

/// The expressions of the dashboard, with the panel's title, and what Grafana puts in for its variables.
fn dashboard() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(packaging("grafana/ftp-helper.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<&str> = variables.iter().map(|v| v["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["datasource", "instance"]);
    let mut all = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
            let expression = target["expr"].as_str().unwrap();
            let filled = expression.replace("$__rate_interval", "1m").replace("$instance", ".*");
            assert!(!filled.contains('$'), "{expression}");
            all.push((panel["title"].as_str().unwrap().to_owned(), filled));
        }
    }
    assert!(all.len() > 20, "{all:?}");
    all
}

/// A sample by its name with labels, without those that Prometheus adds.
fn written((labels, value): Sample) -> (String, f64) {
    let shown: Vec<String> = labels
        .iter()
        .filter(|(name, _)| !["__name__", "instance", "job"].contains(&name.as_str()))
        .map(|(name, value)| format!("{name}=\"{value}\""))
        .collect();
    let name = &labels["__name__"];
    (if shown.is_empty() { name.clone() } else { format!("{name}{{{}}}", shown.join(",")) }, value)
}

/// What Prometheus has read and `status` tells too.
fn scraped(prometheus: &Prometheus) -> BTreeMap<String, f64> {
    let all = prometheus.query("{__name__=~\"ftp_helper_.*\"}").unwrap();
    metrics::steady(all.into_iter().map(written).collect())
}

/// The lab, the daemon on its gateway, and who reads its metrics.
struct Ground {
    lab: Lab,
    server: Server,
    gateway: Gateway,
    prometheus: Prometheus,
}

impl Ground {
    fn new() -> Self {
        let lab = Lab::new(&LabOptions::default()).unwrap();
        let file = lab.directory().join("ruleset.nft");
        std::fs::write(&file, RULESET).unwrap();
        lab.load_ruleset(Some(&file)).unwrap();
        let server = Server::start(lab.server(), ServerKind::Pyftpdlib, &ServerOptions::default()).unwrap();
        let mut settings = Settings::guarded(&lab, "drop").section("[nftables]\ntable = \"inet filter\"");
        settings.api.push_str(&format!("metrics = \"{METRICS}\"\n"));
        let gateway = Gateway::start(&lab, &settings, &[]).unwrap();
        let rules = std::path::absolute(packaging("prometheus/ftp-helper.rules.yml")).unwrap();
        let prometheus = Prometheus::start(&lab, METRICS.parse().unwrap(), &rules).unwrap();
        Self { lab, server, gateway, prometheus }
    }

    /// Downloads over an address that the daemon has vouched for, uploads, and asks for what is refused; the bytes of the
    /// download.
    fn transfer(&self, family: Family) -> u64 {
        let server = self.lab.server().address(family);
        let mut dialogue = Dialogue::open(self.lab.client(), SocketAddr::new(server, 21), PATIENCE).unwrap();
        dialogue.login(self.server.login()).unwrap();
        let (client, other) = (dialogue.local().ip(), self.lab.stranger().address(family));
        let protocol = if family == Family::V4 { 1 } else { 2 };
        for refused in [format!("EPRT |{protocol}|{other}|{UNASKED}|"), format!("EPRT |{protocol}|{client}|80|")] {
            assert_eq!(dialogue.ask(&refused).unwrap().code / 100, 5);
        }
        let open = |dialogue: &mut Dialogue| {
            let port = dialogue.epsv().unwrap();
            let confirmed = || {
                let pinholes = self.gateway.pinholes().unwrap();
                pinholes
                    .iter()
                    .any(|p| p.pinhole.port == port && p.pinhole.state == PinholeState::Confirmed)
                    .then_some(())
            };
            until("the daemon has vouched for it", confirmed).unwrap();
            connect(self.lab.client(), client, SocketAddr::new(server, port), PATIENCE).unwrap()
        };
        let end = |dialogue: &mut Dialogue| {
            let codes = [dialogue.reply().unwrap().code, dialogue.reply().unwrap().code];
            assert!([[125, 226], [150, 226]].contains(&codes), "{codes:?}");
        };
        let mut data = open(&mut dialogue);
        dialogue.send(&format!("RETR {DIRECTORY}/{DOWNLOAD}")).unwrap();
        let mut got = Vec::new();
        data.read_to_end(&mut got).unwrap();
        drop(data);
        end(&mut dialogue);
        let mut data = open(&mut dialogue);
        dialogue.send(&format!("STOR {DIRECTORY}/upload-metrics")).unwrap();
        data.write_all(UPLOAD).unwrap();
        drop(data);
        end(&mut dialogue);
        dialogue.ask("QUIT").unwrap();
        let to = SocketAddr::new(server, UNASKED);
        assert!(connect(self.lab.stranger(), other, to, Duration::from_millis(300)).is_err());
        got.len() as u64
    }

    /// The page as the daemon gives it.
    fn page(&self) -> String {
        get(self.lab.gateway(), METRICS.parse().unwrap(), "/metrics").unwrap()
    }

    /// What one expression comes to.
    fn value(&self, expression: &str) -> f64 {
        let samples = self.prometheus.query(expression).unwrap();
        assert_eq!(samples.len(), 1, "{expression}: {samples:?}");
        samples[0].1
    }

    fn alerts(&self) -> BTreeSet<String> {
        let active = self.prometheus.query("ALERTS").unwrap();
        active.into_iter().map(|(labels, _)| labels["alertname"].clone()).collect()
    }
}

#[test]
fn prometheus_reads_what_the_lab_did() {
    if !require_root() {
        return;
    }
    let mut ground = Ground::new();
    until("the zeros are read", || {
        (ground.prometheus.query("ftp_helper_transfers_total").unwrap().first()?.1 == 0.0).then_some(())
    })
    .unwrap();
    let families = [Family::V4, Family::V6];
    let downloaded: u64 = families.iter().map(|f| ground.transfer(*f)).sum();
    let read = until("Prometheus has read what status tells", || {
        let status = || ground.gateway.data(&["status", "-o", "json"]).unwrap().json().unwrap();
        let before = metrics::of_status(&status());
        let done =
            before.get("ftp_helper_transfers_total") == Some(&4.0) && !before.contains_key("ftp_helper_sessions");
        let read = scraped(&ground.prometheus);
        (done && read == before && before == metrics::of_status(&status())).then_some(read)
    })
    .unwrap_or_else(|e| {
        let status = ground.gateway.data(&["status", "-o", "json"]).unwrap().json().unwrap();
        let (read, told) = (scraped(&ground.prometheus), metrics::of_status(&status));
        let differ = |a: &BTreeMap<String, f64>, b: &BTreeMap<String, f64>| {
            a.iter().filter(|(k, v)| b.get(*k) != Some(v)).map(|(k, v)| format!("{k} {v}")).collect::<Vec<_>>()
        };
        panic!("{e}: read {:?}, told {:?}", differ(&read, &told), differ(&told, &read))
    });

    // What the lab did.
    let of = |name: &str| read.get(&format!("ftp_helper_{name}")).copied().unwrap_or_default();
    let uploaded = (2 * UPLOAD.len()) as f64;
    assert_eq!((of("transfers_total"), of("events_total{event=\"data_end\"}")), (4.0, 4.0));
    assert_eq!(of("data_bytes_total{sender=\"responder\"}"), downloaded as f64);
    assert_eq!(of("data_bytes_total{sender=\"initiator\"}"), uploaded);
    assert_eq!((of("refused_total{reason=\"third_host\"}"), of("refused_total{reason=\"low_port\"}")), (2.0, 2.0));
    assert_eq!((of("denied_total{reason=\"no_pinhole\"}"), of("reasons_total{reason=\"no_pinhole\"}")), (2.0, 2.0));
    assert_eq!((of("events_total{event=\"session_start\"}"), of("events_total{event=\"session_end\"}")), (2.0, 2.0));
    assert_eq!(of("opened_total{by=\"kernel\"}") + of("opened_total{by=\"daemon\"}"), 4.0);
    assert_eq!((of("interfaces"), of("nftables_total{change=\"added\"}")), (1.0, 4.0));
    let confirmed = of("events_total{event=\"confirmed\"}");
    assert!(confirmed >= 1.0, "the fast path has opened nothing: {read:?}");
    assert_eq!(ground.value("ftp_helper_confirm_latency_seconds_count"), confirmed);
    let mean = ground.value("ftp_helper_confirm_latency_seconds_sum") / confirmed;
    assert!((0.000_001..1.0).contains(&mean), "{mean} s until confirmed");
    assert_eq!(ground.value("sum(ftp_helper_ring_losses_total)"), 0.0);
    assert_eq!(ground.value("count(ftp_helper_program_attached{program=~\"ingress|egress\"})"), 2.0);
    assert_eq!(ground.value("ftp_helper_build_info{mode=\"drop\"}"), 1.0);

    // Every expression of the dashboard, and of the rules.
    for (panel, expression) in dashboard() {
        let samples = ground.prometheus.query(&expression).unwrap_or_else(|e| panic!("{panel}: {e:#}"));
        assert!(!samples.is_empty(), "{panel}: nothing comes of {expression}");
    }
    let rules = until("every rule was evaluated", || {
        let rules = ground.prometheus.rules().unwrap();
        rules.iter().all(|r| r["health"] != "unknown").then_some(rules)
    })
    .unwrap();
    for rule in &rules {
        assert!(rule["health"] == "ok" && rule["lastError"].is_null(), "{rule}");
        ground.prometheus.query(rule["query"].as_str().unwrap()).unwrap();
        for text in ["summary", "description", "runbook"] {
            assert!(rule["annotations"][text].as_str().is_some_and(|t| t.len() > 10), "no {text}: {rule}");
        }
    }
    assert_eq!(ground.alerts(), BTreeSet::new());
    every_metric_is_documented(&ground.page(), &rules);

    // Nobody answers any more.
    ground.gateway.kill().unwrap();
    until("the alert", || (ground.alerts() == BTreeSet::from(["FtpHelperDown".to_owned()])).then_some(())).unwrap();
    ground.gateway.start_again().unwrap();
    until("the end of the alert", || ground.alerts().is_empty().then_some(())).unwrap();
    assert!(ground.value("ftp_helper_kernel_total{verdict=\"flows_ended\"}") >= 4.0, "the kernel's counters go on");
    ground.gateway.stop().unwrap();
}

/// Metrics with the names of their labels, as a page of metrics has them.
fn families(page: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut families: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let histograms: Vec<&str> =
        page.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.strip_suffix(" histogram")).collect();
    for line in page.lines().filter(|l| !l.starts_with('#')) {
        let (name, rest) = line.split_once(['{', ' ']).unwrap();
        let histogram = histograms.iter().find(|h| name.strip_prefix(**h).is_some_and(|end| end.starts_with('_')));
        let labels = families.entry(histogram.map_or(name, |h| *h).to_owned()).or_default();
        if line.contains('{') && histogram.is_none() {
            labels.extend(rest.split('}').next().unwrap().split(',').map(|l| l.split('=').next().unwrap().to_owned()));
        }
    }
    families
}

fn every_metric_is_documented(page: &str, rules: &[Value]) {
    let doc = std::fs::read_to_string(packaging("../docs/metrics.md")).unwrap();
    let rows = doc.lines().filter_map(|l| l.strip_prefix("| `")?.split('`').next());
    let documented: BTreeMap<String, BTreeSet<String>> = rows
        .clone()
        .filter(|row| row.starts_with("ftp_helper_"))
        .map(|row| match row.trim_end_matches('}').split_once('{') {
            Some((name, labels)) => (name.to_owned(), labels.split(',').map(str::to_owned).collect()),
            None => (row.to_owned(), BTreeSet::new()),
        })
        .collect();
    assert_eq!(families(page), documented, "the page of metrics and docs/metrics.md");
    // And each is to be seen.
    let shown: String = dashboard().into_iter().map(|(_, expression)| expression + " ").collect();
    for name in documented.keys() {
        assert!(shown.contains(name.as_str()), "{name} is on no panel");
    }
    let alerts: BTreeSet<&str> = rules.iter().filter_map(|r| r["name"].as_str()).collect();
    assert_eq!(alerts, rows.filter(|row| row.starts_with("FtpHelper")).collect());
}

#[test]
fn the_alert_rules_fire_on_what_they_are_for() {
    if !require_root() {
        return;
    }
    let rules = packaging("prometheus/ftp-helper.rules.yml");
    let said = promtool(&["check", "rules", rules.to_str().unwrap()]).unwrap();
    assert!(said.contains("SUCCESS"), "{said}");
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("prometheus/ftp-helper.test.yml");
    let said = promtool(&["test", "rules", tests.to_str().unwrap()]).unwrap();
    assert!(said.contains("SUCCESS"), "{said}");
}

#[test]
fn the_dashboard_is_laid_out() {
    let text = std::fs::read_to_string(packaging("grafana/ftp-helper.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels of one id: {panel}");
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        let (x, y, w, h) = (place("x"), place("y"), place("w"), place("h"));
        assert!(x + w <= 24, "{} is too wide", panel["title"]);
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{} is over another", panel["title"]);
        }
    }
    assert_eq!((dashboard["id"].is_null(), dashboard["uid"].as_str()), (true, Some("ftp-helper")));
}
