//! What the daemon tells about itself, and what a new configuration changes.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use ftp_helper_common::{
    key::{FlowKey, HOOK_IN},
    state::{ADDED_ID, FlowState},
};

use super::{clock, core::Daemon};
use crate::{
    api::{
        self, ConnectionRow, DeniedPort, Gauge, Heartbeat, HookKind, LinkType, PinholeRow, ReloadReport, Session,
        Standing, Status,
    },
    config::Config,
    dataplane::{AttachKind, Link, STALE_AFTER, ShieldKind},
    engine::{self, LATENCY_BOUNDS, Latency, Nanos, PinholeView, SessionView, Visible, policy::Mode},
    event::SessionId,
    metrics::{ByReason, Histogram, Program, Snapshot},
    nft::Fed,
};

/// What is going on. What can't be read is left out, and said in the log.
pub(super) fn status(d: &Daemon) -> Status {
    let now = clock::now();
    let limits = d.config.policy.limits;
    let counters = d.plane.counters().unwrap_or_else(|e| told("counters", &e));
    let live = |n: usize, limit: u64| Gauge { live: n as u64, limit };
    let flows = d.plane.flows().map(|f| f.len()).unwrap_or_else(|e| told("data connections", &e));
    let beat = d.plane.heartbeat().unwrap_or_else(|e| told("heartbeat", &e));
    let denied = d.plane.denied_by_port().unwrap_or_else(|e| told("denied ports", &e));
    let mut denied: Vec<_> = denied
        .into_iter()
        .map(|(port, [denied, would_be_denied])| DeniedPort { port, would_be_denied, denied })
        .collect();
    denied.sort_by_key(|d| std::cmp::Reverse(d.denied + d.would_be_denied));
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        mode: mode_name(d.config.policy.mode).into(),
        config: d.config.path.clone(),
        uptime_ms: millis(now.saturating_sub(d.started)),
        interfaces: d.plane.attached().iter().map(interface).collect(),
        waiting_for: d.waiting_for.clone(),
        sessions: live(d.engine.sessions().count(), limits.sessions.into()),
        pinholes: live(d.engine.pinholes(now).count(), limits.sessions.into()),
        data_connections: live(flows, u64::from(limits.sessions) * 2),
        heartbeat: Heartbeat { age_ms: millis(now.saturating_sub(beat)), stale_after_ms: millis(STALE_AFTER) },
        counters: counters.by_name(),
        reasons: counters.reasons(),
        engine: engine_counters(d),
        nftables: d.feeder().map(|f| {
            let Fed { elements, added, removed, failed } = f.fed();
            api::FedSets { table: f.sets().table(), elements, added, removed, failed }
        }),
        denied,
    }
}

/// The sessions, in the order in which they began.
pub(super) fn sessions(d: &Daemon) -> Vec<Session> {
    let now = clock::now();
    let mut views: Vec<SessionView> = d.engine.sessions().collect();
    views.sort_by_key(|v| (v.started, v.id));
    views.into_iter().map(|v| session(d, now, v)).collect()
}

/// The unconsumed pinholes.
pub(super) fn pinholes(d: &Daemon) -> Vec<PinholeRow> {
    let mut rows: Vec<_> = d.engine.pinholes(clock::now()).map(|v| row(d, v)).collect();
    rows.sort_by(|a, b| a.id().cmp(&b.id()));
    rows
}

/// One of them.
pub(super) fn row(d: &Daemon, v: PinholeView) -> PinholeRow {
    let inside = inside(d, &v);
    let PinholeView { owner, ends, order, pinhole, .. } = v;
    let (session, added) = names(owner);
    let (client, server) = ends.unzip();
    let (uid, note) = order.map(|o| (o.uid, o.note)).unzip();
    PinholeRow { session, added, client, server, inside, uid, note, pinhole }
}

/// The data connections that are running, in the order in which they began. What can't be read is left out, and said in the
/// log.
pub(super) fn connections(d: &Daemon) -> Vec<ConnectionRow> {
    let now = clock::now();
    let mut flows = d.plane.flows().unwrap_or_else(|e| told("data connections", &e));
    flows.sort_by_key(|(_, state)| state.start);
    flows.into_iter().map(|(key, state)| connection(d, now, &key.to_flow(state.hook), &state)).collect()
}

fn connection(d: &Daemon, now: Nanos, key: &FlowKey, state: &FlowState) -> ConnectionRow {
    let known = d.engine.connection(key);
    let (session, added) = names(known.map_or(state.session, |(owner, _)| owner));
    let (client, server) = known.and_then(|(_, ends)| ends).unzip();
    let [bytes_out, bytes_back] = state.bytes;
    let looked = state.last.saturating_sub(state.start);
    let rate = u128::from(bytes_out.saturating_add(bytes_back)) * 1_000_000_000 / u128::from(looked.max(1));
    ConnectionRow {
        session,
        added,
        client,
        server,
        mode: engine::negotiated_by(state.mode),
        initiator: SocketAddr::new(key.initiator.to_ip(), key.initiator_port),
        responder: SocketAddr::new(key.responder.to_ip(), key.responder_port),
        bytes_out,
        bytes_back,
        rate: u64::try_from(rate).unwrap_or(u64::MAX),
        age_ms: millis(now.saturating_sub(state.start)),
        seen_ms: millis(now.saturating_sub(state.last)),
    }
}

/// What an owner of pinholes is called as: a session, or an added pinhole.
fn names(owner: u64) -> (Option<String>, Option<String>) {
    let name = SessionId(owner).to_string();
    if owner & ADDED_ID == 0 { (Some(name), None) } else { (None, Some(name)) }
}

/// Where a pinhole's responder waits inside, where that is translated.
fn inside(d: &Daemon, v: &PinholeView) -> Option<SocketAddr> {
    let address = v.inside.filter(|_| v.key.hook == HOOK_IN)?;
    let state = d.plane.pinhole(&v.key).unwrap_or_else(|e| told("pinholes", &e));
    let port = state.map(|s| s.inside_port).filter(|p| *p != 0);
    Some(SocketAddr::new(address, port.unwrap_or(v.key.port)))
}

/// The same for the metrics.
pub(super) fn metrics(d: &Daemon) -> Snapshot {
    let mut s = status(d);
    let gauge = |g: Gauge| (g.live, g.limit);
    // What has a metric of its own is not told twice.
    let mut take = |name: &str| s.engine.remove(name).unwrap_or_default();
    let opened = (take("taken_by_fast_path"), take("opened_by_daemon"));
    let transfers = take("transfers");
    let data_bytes = (take("data_bytes_out"), take("data_bytes_back"));
    let mut families: BTreeMap<&str, BTreeMap<String, u64>> = BTreeMap::new();
    for (name, n) in &s.engine {
        let (family, name) = name.split_once('.').unwrap_or(("", name));
        families.entry(family).or_default().insert(name.to_owned(), *n);
    }
    let mut family = |name: &str| families.remove(name).unwrap_or_default();
    let snapshot = Snapshot {
        version: s.version,
        mode: s.mode,
        uptime_seconds: seconds(s.uptime_ms),
        sessions: gauge(s.sessions),
        pinholes: gauge(s.pinholes),
        data_connections: gauge(s.data_connections),
        heartbeat_age_seconds: seconds(s.heartbeat.age_ms),
        heartbeat_stale_after_seconds: seconds(s.heartbeat.stale_after_ms),
        interfaces: s.interfaces.len() as u64,
        interfaces_missing: s.waiting_for.len() as u64,
        programs: s.interfaces.iter().flat_map(programs).collect(),
        kernel: s.counters,
        reasons: s.reasons,
        by_reason: ByReason {
            refused: family("refused"),
            denied: family("denied"),
            revoked: family("revoked"),
            standing: family("standing"),
            stray: family("stray"),
        },
        events: family("event"),
        engine: family(""),
        opened,
        transfers,
        data_bytes,
        confirm_latency: histogram(&d.engine.stats().confirm_latency),
        nftables: s.nftables.map_or_else(BTreeMap::new, |n| {
            [("added", n.added), ("removed", n.removed), ("failed", n.failed)].map(|(k, v)| (k.to_owned(), v)).into()
        }),
    };
    snapshot.with_zeros()
}

/// What is attached to an interface.
fn programs(i: &api::Interface) -> Vec<Program> {
    let hook = match i.hook {
        HookKind::Tcx => "tcx",
        HookKind::Clsact => "clsact",
    };
    let shield = i.shield.map(|kind| match kind {
        api::ShieldKind::Native => ("shield", "native"),
        api::ShieldKind::Generic => ("shield", "generic"),
    });
    let all = [Some(("ingress", hook)), Some(("egress", hook)), shield].into_iter().flatten();
    all.map(|(program, hook)| Program { interface: i.name.clone(), program, hook }).collect()
}

fn histogram(latency: &Latency) -> Histogram {
    let seconds = |ns: Nanos| Duration::from_nanos(ns).as_secs_f64();
    // The encoder writes the greatest number as infinite.
    let ends = LATENCY_BOUNDS.iter().map(|ns| seconds(*ns)).chain([f64::MAX]);
    Histogram { buckets: ends.zip(latency.buckets).collect(), sum_seconds: seconds(latency.sum) }
}

/// What of a new configuration comes into force now: everything but what programs and tables are made for when they are
/// loaded, and the control socket.
pub(super) fn merge(old: &Config, new: Config) -> (Config, ReloadReport) {
    let mut merged = new;
    let mut report = ReloadReport::default();
    let mut restart = |what: &str, differs: bool| {
        if differs {
            report.needs_restart.push(what.to_string());
        }
    };
    restart("watch.control_ports", merged.watch.control_ports != old.watch.control_ports);
    restart("watch.hook", merged.watch.hook != old.watch.hook);
    restart("limits.sessions", merged.policy.limits.sessions != old.policy.limits.sessions);
    restart("limits.ring", merged.ring_bytes != old.ring_bytes);
    restart("[nat]", merged.policy.nat.is_some() != old.policy.nat.is_some());
    restart("[api]", merged.api != old.api);
    merged.watch.control_ports.clone_from(&old.watch.control_ports);
    merged.watch.hook = old.watch.hook;
    merged.policy.control_ports.clone_from(&old.policy.control_ports);
    merged.policy.limits.sessions = old.policy.limits.sessions;
    merged.ring_bytes = old.ring_bytes;
    if merged.policy.nat.is_some() != old.policy.nat.is_some() {
        merged.policy.nat.clone_from(&old.policy.nat);
    }
    merged.api = old.api.clone();
    let (a, b) = (&old.policy, &merged.policy);
    for (what, differs) in [
        ("mode", a.mode != b.mode),
        ("[mark]", a.mark != b.mark),
        ("on_daemon_loss", a.on_daemon_loss != b.on_daemon_loss),
        ("watch.interfaces", old.watch.interfaces != merged.watch.interfaces),
        ("[[guard]]", old.guards != merged.guards),
        ("policy.modes", a.modes != b.modes),
        ("policy.active_inbound", a.active_inbound != b.active_inbound),
        ("policy.active_open", a.active_open != b.active_open),
        ("policy.active_source_port", a.active_source_port != b.active_source_port),
        ("policy.deny_ports", a.deny_ports != b.deny_ports),
        ("policy.line_endings", a.line_endings != b.line_endings),
        ("[[server]]", a.servers != b.servers || old.server_interfaces != merged.server_interfaces),
        ("[pinhole]", (a.pinhole_timeout, a.per_client) != (b.pinhole_timeout, b.per_client)),
        ("[limits]", a.limits != b.limits),
        ("[nat]", a.nat != b.nat),
        ("[nftables]", old.nftables != merged.nftables),
    ] {
        if differs {
            report.changed.push(what.to_string());
        }
    }
    (merged, report)
}

/// One session.
pub(super) fn session(d: &Daemon, now: Nanos, v: SessionView) -> Session {
    Session {
        session: SessionId(v.id).to_string(),
        client: v.client,
        server: v.server,
        inside: v.inside,
        state: match v.state {
            Visible::Greeting | Visible::Login => Standing::Login,
            Visible::Ready => Standing::LoggedIn,
            Visible::Tainted(_) => Standing::Tainted,
            Visible::Killed(_) => Standing::Killed,
            Visible::Opaque(_) => Standing::Opaque,
            Visible::Closing => Standing::Closing,
        },
        sighted: !v.blind,
        reason: v.state.reason().map(|r| r.to_string()),
        age_ms: millis(now.saturating_sub(v.started)),
        idle_ms: millis(now.saturating_sub(v.last)),
        pinhole: d.engine.pinhole(now, v.id),
        data_connections: v.running,
        transfers: v.transfers,
        bytes: v.bytes[0] + v.bytes[1],
    }
}

fn interface(a: &crate::dataplane::Attached) -> api::Interface {
    api::Interface {
        name: a.name.clone(),
        ifindex: a.index,
        hook: if a.kind == AttachKind::Clsact { HookKind::Clsact } else { HookKind::Tcx },
        link: match a.link {
            Link::Ethernet => LinkType::Ethernet,
            Link::None => LinkType::RawIp,
        },
        shield: a.shield.map(|kind| match kind {
            ShieldKind::Native => api::ShieldKind::Native,
            ShieldKind::Generic => api::ShieldKind::Generic,
        }),
    }
}

fn engine_counters(d: &Daemon) -> BTreeMap<String, u64> {
    let s = d.engine.stats();
    let mut all: BTreeMap<String, u64> = [
        ("records", s.records),
        ("sessions_started", s.sessions_started),
        ("sessions_adopted", s.adopted),
        ("sessions_restored", s.restored),
        ("sessions_refused", s.sessions_refused),
        ("announcements", s.announcements),
        ("taken_by_fast_path", s.taken_by_fast_path),
        ("opened_by_daemon", s.opened_by_daemon),
        ("added", s.added),
        ("confirmed", s.confirmed),
        ("divergences", s.divergences),
        ("used", s.used),
        ("expired", s.expired),
        ("resyncs_asked", s.resyncs_asked),
        ("resyncs_applied", s.resyncs_applied),
        ("commands_failed", s.commands_failed),
        ("refusals_untold", s.refusals_untold),
        ("transfers", s.transfers),
        ("data_bytes_out", s.data_bytes[0]),
        ("data_bytes_back", s.data_bytes[1]),
        ("audit_looks", d.audit.looks()),
        ("audit_differences", d.audit.differences()),
    ]
    .into_iter()
    .map(|(name, n)| (name.to_string(), n))
    .collect();
    for (what, counts) in [
        ("revoked", &s.revoked),
        ("refused", &s.refused),
        ("standing", &s.standing),
        ("denied", &s.denied),
        ("stray", &s.strays),
    ] {
        all.extend(counts.iter().map(|(reason, n)| (format!("{what}.{reason}"), *n)));
    }
    all.extend(s.events.iter().map(|(kind, n)| (format!("event.{kind}"), *n)));
    all
}

pub(super) fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Observe => "observe",
        Mode::Drop => "drop",
        Mode::Mark => "mark",
    }
}

fn seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

fn millis(ns: Nanos) -> u64 {
    ns / 1_000_000
}

/// Says what can't be read, and goes on with nothing in its place.
fn told<T: Default>(what: &str, e: &anyhow::Error) -> T {
    tracing::error!("can't read the {what}: {e:#}");
    T::default()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_new_configuration_changes_what_it_can() {
        let parse = |text: &str| Config::parse(text, Path::new("test.toml")).unwrap();
        let old = parse("[watch]\ninterfaces = [\"wan0\"]\n");
        let new = parse(
            "[watch]\ninterfaces = [\"wan1\"]\ncontrol_ports = [2121]\nhook = \"xdp+tc\"\n[policy]\nactive_inbound = true\n[limits]\nsessions = 10\nidle = \"2h\"\n",
        );
        let (merged, report) = merge(&old, new);
        assert_eq!(report.needs_restart, ["watch.control_ports", "watch.hook", "limits.sessions"]);
        assert_eq!(report.changed, ["watch.interfaces", "policy.active_inbound", "[limits]"]);
        assert_eq!(merged.watch.control_ports, [21]);
        assert!(merged.policy.control_ports.contains(&21) && !merged.policy.control_ports.contains(&2121));
        assert!(merged.policy.active_inbound);
        let (_, report) = merge(&merged, merged.clone());
        assert_eq!(report, ReloadReport::default());

        // The programs are loaded with or without translation; its ports are the policy's.
        let nat = |ports: &str| parse(&format!("[watch]\ninterfaces = [\"wan0\"]\n[nat]\n{ports}"));
        let (merged, report) = merge(&old, nat(""));
        assert_eq!((merged.policy.nat, report.needs_restart.as_slice()), (None, &["[nat]".to_owned()][..]));
        assert!(report.changed.is_empty(), "{report:?}");
        let (merged, report) = merge(&nat(""), nat("active_ports = \"50000-50010\"\n"));
        assert_eq!(
            (merged.policy.nat.unwrap().active_ports, report.changed),
            (50000..=50010, vec!["[nat]".to_owned()])
        );
        assert!(report.needs_restart.is_empty());
    }
}
