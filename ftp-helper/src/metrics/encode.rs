//! From a snapshot to the text of the page.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::{Registry, Unit},
};

use super::{ByReason, Histogram, Program, Snapshot};

/// The page: OpenMetrics 1.0 text.
///
/// # Errors
/// Only what the formatter reports; writing to memory does not fail.
pub fn encode(snapshot: Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("ftp_helper");
    registry.register(
        "build",
        "Version and mode of the daemon",
        Info::new([("version", snapshot.version.clone()), ("mode", snapshot.mode.clone())]),
    );
    registry.register_collector(Box::new(Page(snapshot)));
    let mut page = String::new();
    text::encode(&mut page, &registry)?;
    Ok(page)
}

#[derive(Debug)]
struct Page(Snapshot);

impl Collector for Page {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut page = Writer(encoder);
        gauges(&mut page, &self.0)?;
        counters(&mut page, &self.0)?;
        page.histogram(
            "confirm_latency",
            "Time from the fast path's opening of a pinhole to the daemon's word for it",
            &self.0.confirm_latency,
        )
    }
}

fn gauges(page: &mut Writer<'_>, s: &Snapshot) -> fmt::Result {
    page.seconds("uptime", "Time since the daemon started", s.uptime_seconds)?;
    page.seconds("heartbeat_age", "Age of the daemon's sign of life to the kernel", s.heartbeat_age_seconds)?;
    page.seconds(
        "heartbeat_stale_after",
        "From this age on the kernel takes the daemon for gone",
        s.heartbeat_stale_after_seconds,
    )?;
    for (name, help, limit_name, limit_help, (live, limit)) in [
        ("sessions", "Sessions now", "sessions_limit", "Sessions at most", s.sessions),
        ("pinholes", "Unconsumed pinholes now", "pinholes_limit", "Unconsumed pinholes at most", s.pinholes),
        (
            "data_connections",
            "Data connections that are running",
            "data_connections_limit",
            "Data connections at most",
            s.data_connections,
        ),
    ] {
        page.gauge(name, help, live)?;
        page.gauge(limit_name, limit_help, limit)?;
    }
    page.gauge("interfaces", "Interfaces that the kernel side is attached to", s.interfaces)?;
    page.gauge("interfaces_missing", "Configured names and patterns that no interface matches", s.interfaces_missing)?;
    let one = ConstGauge::new(1_u64);
    let mut metric =
        page.begin("program_attached", "Programs that are attached to the kernel's hooks", one.metric_type())?;
    for Program { interface, program, hook } in &s.programs {
        let labels = [("interface", interface.as_str()), ("program", program), ("hook", hook)];
        one.encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn counters(page: &mut Writer<'_>, s: &Snapshot) -> fmt::Result {
    let ByReason { refused, denied, revoked, standing, stray } = &s.by_reason;
    let all = |counts: &BTreeMap<String, u64>| counts.iter().map(|(name, n)| (name.clone(), *n)).collect::<Vec<_>>();
    let own = |counts: &[(&str, u64)]| counts.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect::<Vec<_>>();
    let kernel = |name: &str| s.kernel.get(name).copied().unwrap_or_default();
    let reason = |name: &str| s.reasons.get(name).copied().unwrap_or_default();
    for (name, help, label, values) in [
        ("kernel", "What the kernel side counted, by verdict", "verdict", all(&s.kernel)),
        ("reasons", "What the kernel side denied, dropped or left, by reason", "reason", all(&s.reasons)),
        ("engine", "What the daemon counted that has no metric of its own", "counter", all(&s.engine)),
        ("events", "Events, by what happened", "event", all(&s.events)),
        ("refused", "Announcements that opened nothing, by reason", "reason", all(refused)),
        ("denied", "Connections without a pinhole that the daemon was told of, by reason", "reason", all(denied)),
        ("revoked", "Pinholes taken back, by reason", "reason", all(revoked)),
        ("standing", "Sessions tainted, killed or opaque, by reason", "reason", all(standing)),
        ("stray", "Control packets not followed or dropped, by reason", "reason", all(stray)),
        ("opened", "Pinholes opened, by whom", "by", own(&[("kernel", s.opened.0), ("daemon", s.opened.1)])),
        (
            "ring_losses",
            "Records that found no room in a ring buffer, by what became of it",
            "what",
            own(&[
                ("telemetry", kernel("telemetry_lost")),
                ("dropped", reason("ring_full")),
                ("session", reason("unrecorded")),
                ("unread", kernel("passed_unrecorded")),
            ]),
        ),
    ] {
        page.counters(name, help, label, &values)?;
    }
    page.counter("transfers", "Data connections that have ended", s.transfers)?;
    let (initiator, responder) = s.data_bytes;
    page.bytes(
        "data",
        "Payload of data connections that have ended, by who sent it",
        "sender",
        &own(&[("initiator", initiator), ("responder", responder)]),
    )?;
    if s.nftables.is_empty() {
        return Ok(());
    }
    page.counters("nftables", "Changes to the fed sets, by what came of them", "change", &all(&s.nftables))
}

/// Writes metrics one by one.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn begin<'s>(&'s mut self, name: &'s str, help: &str, kind: MetricType) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, None, kind)
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let gauge = ConstGauge::new(value);
        gauge.encode(self.begin(name, help, gauge.metric_type())?)
    }

    fn seconds(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let gauge = ConstGauge::new(value);
        gauge.encode(self.0.encode_descriptor(name, help, Some(&Unit::Seconds), gauge.metric_type())?)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let counter = ConstCounter::new(value);
        counter.encode(self.begin(name, help, counter.metric_type())?)
    }

    fn counters(&mut self, name: &str, help: &str, label: &'static str, values: &[(String, u64)]) -> fmt::Result {
        family(self.begin(name, help, MetricType::Counter)?, label, values)
    }

    fn bytes(&mut self, name: &str, help: &str, label: &'static str, values: &[(String, u64)]) -> fmt::Result {
        family(self.0.encode_descriptor(name, help, Some(&Unit::Bytes), MetricType::Counter)?, label, values)
    }

    fn histogram(&mut self, name: &str, help: &str, value: &Histogram) -> fmt::Result {
        let count = value.buckets.iter().map(|(_, n)| n).sum();
        let mut metric = self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        metric.encode_histogram::<NoLabelSet>(value.sum_seconds, count, &value.buckets, None)
    }
}

fn family(mut metric: MetricEncoder<'_>, label: &'static str, values: &[(String, u64)]) -> fmt::Result {
    for (name, value) in values {
        let labels = [(label, name.as_str())];
        ConstCounter::new(*value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_a_snapshot() {
        let counts = |name: &str, n: u64| BTreeMap::from([(name.to_owned(), n)]);
        let snapshot = Snapshot {
            version: "0.1.0".into(),
            mode: "drop".into(),
            uptime_seconds: 1.5,
            sessions: (3, 65536),
            pinholes: (1, 65536),
            data_connections: (2, 131_072),
            heartbeat_age_seconds: 0.25,
            heartbeat_stale_after_seconds: 5.0,
            interfaces: 1,
            interfaces_missing: 2,
            programs: vec![Program { interface: "wan0".into(), program: "shield", hook: "native" }],
            kernel: [("syn_denied".into(), 7), ("telemetry_lost".into(), 8)].into(),
            reasons: [("no_pinhole".into(), 6), ("expired".into(), 1), ("ring_full".into(), 4)].into(),
            engine: counts("records", 99),
            by_reason: ByReason {
                refused: counts("low_port", 11),
                denied: counts("no_pinhole", 12),
                revoked: counts("quit", 13),
                standing: counts("bare_lf", 14),
                stray: counts("midstream", 15),
            },
            events: counts("opened", 16),
            opened: (17, 18),
            transfers: 19,
            data_bytes: (20, 21),
            confirm_latency: Histogram { buckets: vec![(0.5, 2), (f64::MAX, 1)], sum_seconds: 2.25 },
            nftables: counts("added", 5),
        };
        let page = encode(snapshot).unwrap();
        for line in [
            "ftp_helper_build_info{version=\"0.1.0\",mode=\"drop\"} 1",
            "# TYPE ftp_helper_sessions gauge",
            "ftp_helper_sessions 3",
            "ftp_helper_sessions_limit 65536",
            "ftp_helper_pinholes 1",
            "ftp_helper_data_connections 2",
            "# UNIT ftp_helper_uptime_seconds seconds",
            "ftp_helper_uptime_seconds 1.5",
            "ftp_helper_heartbeat_age_seconds 0.25",
            "ftp_helper_heartbeat_stale_after_seconds 5.0",
            "ftp_helper_interfaces 1",
            "ftp_helper_interfaces_missing 2",
            "ftp_helper_program_attached{interface=\"wan0\",program=\"shield\",hook=\"native\"} 1",
            "# TYPE ftp_helper_kernel counter",
            "ftp_helper_kernel_total{verdict=\"syn_denied\"} 7",
            "ftp_helper_reasons_total{reason=\"no_pinhole\"} 6",
            "ftp_helper_reasons_total{reason=\"expired\"} 1",
            "ftp_helper_engine_total{counter=\"records\"} 99",
            "ftp_helper_events_total{event=\"opened\"} 16",
            "ftp_helper_refused_total{reason=\"low_port\"} 11",
            "ftp_helper_denied_total{reason=\"no_pinhole\"} 12",
            "ftp_helper_revoked_total{reason=\"quit\"} 13",
            "ftp_helper_standing_total{reason=\"bare_lf\"} 14",
            "ftp_helper_stray_total{reason=\"midstream\"} 15",
            "ftp_helper_opened_total{by=\"kernel\"} 17",
            "ftp_helper_opened_total{by=\"daemon\"} 18",
            "ftp_helper_ring_losses_total{what=\"telemetry\"} 8",
            "ftp_helper_ring_losses_total{what=\"dropped\"} 4",
            "ftp_helper_ring_losses_total{what=\"session\"} 0",
            "ftp_helper_transfers_total 19",
            "ftp_helper_data_bytes_total{sender=\"initiator\"} 20",
            "ftp_helper_data_bytes_total{sender=\"responder\"} 21",
            "# TYPE ftp_helper_confirm_latency_seconds histogram",
            "ftp_helper_confirm_latency_seconds_bucket{le=\"0.5\"} 2",
            "ftp_helper_confirm_latency_seconds_bucket{le=\"+Inf\"} 3",
            "ftp_helper_confirm_latency_seconds_count 3",
            "ftp_helper_confirm_latency_seconds_sum 2.25",
            "ftp_helper_nftables_total{change=\"added\"} 5",
            "# EOF",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} in\n{page}");
        }
    }

    #[test]
    fn what_was_not_counted_yet_is_zero_and_what_was_stays() {
        let mut snapshot = Snapshot::default();
        snapshot.by_reason.refused.insert("race".into(), 3);
        snapshot.by_reason.refused.insert("low_port".into(), 2);
        let page = encode(snapshot.with_zeros()).unwrap();
        for line in [
            "ftp_helper_refused_total{reason=\"race\"} 3",
            "ftp_helper_refused_total{reason=\"low_port\"} 2",
            "ftp_helper_refused_total{reason=\"third_host\"} 0",
            "ftp_helper_denied_total{reason=\"no_pinhole\"} 0",
            "ftp_helper_standing_total{reason=\"not_ftp\"} 0",
            "ftp_helper_standing_total{reason=\"auth_accepted\"} 0",
            "ftp_helper_revoked_total{reason=\"quit\"} 0",
            "ftp_helper_stray_total{reason=\"midstream\"} 0",
            "ftp_helper_events_total{event=\"data_end\"} 0",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} in\n{page}");
        }
        assert!(!page.contains("denied_total{reason=\"low_port\"}"), "{page}");
    }
}
