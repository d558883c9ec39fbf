//! `ftp-helper status`.

use std::{collections::BTreeMap, fmt::Write as _, process::ExitCode};

use super::{
    output::{Out, OutputArgs},
    target::TargetArgs,
    text,
};
use crate::api::{FedSets, Gauge, Status};

/// Arguments of `status`.
#[derive(clap::Args, Debug)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Prints what is going on.
pub(super) fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let status = args.target.connect()?.status()?;
    let mut out = Out::new(args.output);
    out.value(&status, describe)?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// The status for people. Names from elsewhere are made printable.
fn describe(status: &Status) -> String {
    let Status {
        version,
        pid,
        mode,
        config,
        uptime_ms,
        interfaces,
        waiting_for,
        sessions,
        pinholes,
        data_connections,
        heartbeat,
        counters,
        reasons,
        engine,
        nftables,
        denied,
    } = status;
    let mut s = format!(
        "ftp-helper {version}, process {pid}, mode {mode}, up {}",
        text::milliseconds(uptime_ms - uptime_ms % 1000)
    );
    if let Some(config) = config {
        let _ = write!(s, "\nconfiguration  {}", config.display());
    }
    for i in interfaces {
        let (hook, link) = (text::name(&i.hook), text::name(&i.link));
        let shield = i.shield.map_or_else(String::new, |kind| format!("{} XDP, ", text::name(&kind)));
        let _ =
            write!(s, "\ninterface      {} (index {}, {shield}{hook}, {link})", text::printable(&i.name), i.ifindex);
    }
    if interfaces.is_empty() {
        s.push_str("\ninterface      none");
    }
    for pattern in waiting_for {
        let _ = write!(s, "\nwaiting for    {pattern}");
    }
    for (name, Gauge { live, limit }) in
        [("sessions", sessions), ("pinholes", pinholes), ("data conns", data_connections)]
    {
        let _ = write!(s, "\n{name:<15}{live} of {limit}");
    }
    let state = if heartbeat.age_ms < heartbeat.stale_after_ms { "fresh" } else { "stale" };
    let _ = write!(
        s,
        "\nheartbeat      {state}: {} old, stale after {}",
        text::milliseconds(heartbeat.age_ms),
        text::milliseconds(heartbeat.stale_after_ms)
    );
    if let Some(FedSets { table, elements, added, removed, failed }) = nftables {
        let table = text::printable(table);
        let _ = write!(
            s,
            "\nnftables       table {table}: {elements} elements; {added} added, {removed} removed, {failed} failed"
        );
    }
    section(&mut s, "Kernel", counters);
    section(&mut s, "Reasons", reasons);
    section(&mut s, "Engine", engine);
    if !denied.is_empty() {
        s.push_str("\n\nConnections without a pinhole, by destination port");
        for d in denied {
            let _ = write!(s, "\n  {:<24}{} denied, {} would be denied", d.port, d.denied, d.would_be_denied);
        }
    }
    s
}

fn section(s: &mut String, title: &str, values: &BTreeMap<String, u64>) {
    if values.values().all(|v| *v == 0) {
        return;
    }
    let _ = write!(s, "\n\n{title}");
    for (name, value) in values.iter().filter(|(_, v)| **v != 0) {
        let _ = write!(s, "\n  {name:<24}{value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{DeniedPort, Heartbeat, HookKind, Interface, LinkType, ShieldKind};

    #[test]
    fn the_text_tells_everything() {
        let status = Status {
            version: "0.1.0".into(),
            pid: 4711,
            mode: "observe".into(),
            config: Some("/etc/x.toml".into()),
            uptime_ms: 61_500,
            interfaces: vec![
                Interface { name: "wan0".into(), ifindex: 3, hook: HookKind::Tcx, link: LinkType::RawIp, shield: None },
                Interface {
                    name: "wan1".into(),
                    ifindex: 4,
                    hook: HookKind::Tcx,
                    link: LinkType::Ethernet,
                    shield: Some(ShieldKind::Native),
                },
            ],
            waiting_for: vec!["ppp*".into()],
            sessions: Gauge { live: 2, limit: 65536 },
            heartbeat: Heartbeat { age_ms: 40, stale_after_ms: 2000 },
            counters: [("records".into(), 7), ("rearmed".into(), 0)].into(),
            reasons: [("no_pinhole".into(), 5)].into(),
            denied: vec![DeniedPort { port: 50069, would_be_denied: 5, denied: 0 }],
            ..Status::default()
        };
        assert_eq!(
            describe(&status),
            "ftp-helper 0.1.0, process 4711, mode observe, up 1m 1s\n\
             configuration  /etc/x.toml\n\
             interface      wan0 (index 3, tcx, raw_ip)\n\
             interface      wan1 (index 4, native XDP, tcx, ethernet)\n\
             waiting for    ppp*\n\
             sessions       2 of 65536\n\
             pinholes       0 of 0\n\
             data conns     0 of 0\n\
             heartbeat      fresh: 40ms old, stale after 2s\n\
             \n\
             Kernel\n  records                 7\n\
             \n\
             Reasons\n  no_pinhole              5\n\
             \n\
             Connections without a pinhole, by destination port\n  50069                   0 denied, 5 would be denied"
        );
    }
}
