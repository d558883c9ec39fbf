//! From a snapshot to the text of the page.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::Registry,
};

use super::Snapshot;

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
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Snapshot {
            version: _,
            mode: _,
            uptime_seconds,
            sessions,
            pinholes,
            data_connections,
            heartbeat_age_seconds,
            interfaces,
            kernel,
            reasons,
            engine,
            nftables,
        } = &self.0;
        gauge(&mut encoder, "uptime_seconds", "Time since the daemon started", *uptime_seconds)?;
        gauge(
            &mut encoder,
            "heartbeat_age_seconds",
            "Age of the daemon's sign of life to the kernel",
            *heartbeat_age_seconds,
        )?;
        for (name, help, limit_name, limit_help, (live, limit)) in [
            ("sessions", "Sessions now", "sessions_limit", "Sessions at most", sessions),
            ("pinholes", "Unconsumed pinholes now", "pinholes_limit", "Unconsumed pinholes at most", pinholes),
            (
                "data_connections",
                "Data connections that are running",
                "data_connections_limit",
                "Data connections at most",
                data_connections,
            ),
        ] {
            gauge(&mut encoder, name, help, *live)?;
            gauge(&mut encoder, limit_name, limit_help, *limit)?;
        }
        gauge(&mut encoder, "interfaces", "Interfaces that the kernel side is attached to", *interfaces)?;
        counters(&mut encoder, "kernel", "What the kernel side counted, by verdict", "verdict", kernel)?;
        counters(
            &mut encoder,
            "reasons",
            "What the kernel side denied, dropped or left, by reason",
            "reason",
            reasons,
        )?;
        counters(&mut encoder, "engine", "What the daemon's engine counted", "counter", engine)?;
        if nftables.is_empty() {
            return Ok(());
        }
        counters(&mut encoder, "nftables", "Changes to the fed sets, by what came of them", "change", nftables)
    }
}

fn gauge<N>(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: N) -> Result<(), fmt::Error>
where
    ConstGauge<N>: EncodeMetric,
{
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
}

fn counters(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &'static str,
    values: &BTreeMap<String, u64>,
) -> Result<(), fmt::Error> {
    let kind = ConstCounter::new(0_u64).metric_type();
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    for (value_name, value) in values {
        let labels = [(label, value_name.as_str())];
        ConstCounter::new(*value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_a_snapshot() {
        let snapshot = Snapshot {
            version: "0.1.0".into(),
            mode: "drop".into(),
            uptime_seconds: 1.5,
            sessions: (3, 65536),
            pinholes: (1, 65536),
            data_connections: (2, 131072),
            heartbeat_age_seconds: 0.25,
            interfaces: 1,
            kernel: [("syn_denied".into(), 7)].into(),
            reasons: [("no_pinhole".into(), 6), ("expired".into(), 1)].into(),
            engine: [("records".into(), 99)].into(),
            nftables: [("added".into(), 5)].into(),
        };
        let page = encode(snapshot).unwrap();
        for line in [
            "ftp_helper_build_info{version=\"0.1.0\",mode=\"drop\"} 1",
            "# TYPE ftp_helper_sessions gauge",
            "ftp_helper_sessions 3",
            "ftp_helper_sessions_limit 65536",
            "ftp_helper_pinholes 1",
            "ftp_helper_data_connections 2",
            "ftp_helper_uptime_seconds 1.5",
            "ftp_helper_heartbeat_age_seconds 0.25",
            "# TYPE ftp_helper_kernel counter",
            "ftp_helper_kernel_total{verdict=\"syn_denied\"} 7",
            "ftp_helper_reasons_total{reason=\"no_pinhole\"} 6",
            "ftp_helper_reasons_total{reason=\"expired\"} 1",
            "ftp_helper_engine_total{counter=\"records\"} 99",
            "ftp_helper_nftables_total{change=\"added\"} 5",
            "# EOF",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} in\n{page}");
        }
    }
}
