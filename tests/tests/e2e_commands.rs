//! The commands that talk to the daemon, as users run them, while a real server and a real connection are at work.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use ftp_helper::lab::{
    Host, Lab, LabOptions, OUTSIDE_INTERFACE,
    dialogue::Dialogue,
    require_root,
    servers::{DIRECTORY, DOWNLOAD, Server, ServerKind, ServerOptions},
};
use ftp_helper_tests::{
    gateway::{Gateway, PATIENCE, Settings, until},
    program::{Program, Said},
};
use serde_json::Value;

/// A port of the server that nobody negotiates.
const UNASKED: u16 = 40_404;

/// What a command says that succeeds, and says nothing on standard error.
fn data(gateway: &Gateway, arguments: &[&str]) -> Said {
    gateway.data(arguments).unwrap()
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap_or_else(|| panic!("{value} is no object")).keys().map(String::as_str).collect()
}

/// Connects from a host; whether anybody answers.
fn connect(from: &Host, to: SocketAddr, limit: Duration) -> Option<TcpStream> {
    from.run_in(|| TcpStream::connect_timeout(&to, limit)).unwrap().ok()
}

/// Reads both replies of a transfer: 150, or 125 where the data connection was there first, and 226.
fn finish(dialogue: &mut Dialogue) {
    let codes = [dialogue.reply().unwrap().code, dialogue.reply().unwrap().code];
    assert!([[125, 226], [150, 226]].contains(&codes), "{codes:?}");
}

struct Ground {
    lab: Lab,
    server: Server,
}

impl Ground {
    fn new() -> Self {
        let lab = Lab::new(&LabOptions::default()).unwrap();
        let server = Server::start(lab.server(), ServerKind::Pyftpdlib, &ServerOptions::default()).unwrap();
        Self { lab, server }
    }

    fn log_in(&self, address: IpAddr) -> Dialogue {
        let mut dialogue = Dialogue::open(self.lab.client(), SocketAddr::new(address, 21), PATIENCE).unwrap();
        dialogue.login(self.server.login()).unwrap();
        dialogue
    }
}

/// The one row of a command that prints rows, with the row of each other format held against it; `volatile` names the
/// fields that change from one moment to the next.
fn one_row(gateway: &Gateway, command: &str, header: &[&str], volatile: &[&str]) -> Value {
    let steady = |mut row: Value| {
        for field in volatile {
            let at = row.pointer_mut(field).unwrap_or_else(|| panic!("no {field}"));
            assert!(at.is_u64(), "{field}: {at}");
            *at = Value::Null;
        }
        row
    };
    let rows = data(gateway, &[command, "-o", "json"]).json().unwrap();
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 1, "{rows:?}");
    let lines = data(gateway, &[command, "--output", "jsonl"]).jsonl().unwrap();
    let steady_lines: Vec<Value> = lines.into_iter().map(steady).collect();
    assert_eq!(steady_lines, [steady(rows[0].clone())]);
    let table = data(gateway, &[command]).out;
    let lines: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 2, "{table}");
    assert_eq!(lines[0], header);
    for field in ["session", "client", "server"] {
        assert!(lines[1].contains(&rows[0][field].as_str().unwrap()), "{field} in {table}");
    }
    rows[0].clone()
}

fn the_session(gateway: &Gateway) -> Value {
    let header =
        ["SESSION", "CLIENT", "SERVER", "STATE", "KERNEL", "AGE", "IDLE", "PINHOLE", "DATA", "DONE", "BYTES", "REASON"];
    let open = data(gateway, &["sessions", "-o", "json"]).json().unwrap()[0].get("pinhole").is_some();
    let volatile = ["/age_ms", "/idle_ms", "/pinhole/expires_in_ms"];
    one_row(gateway, "sessions", &header, if open { &volatile } else { &volatile[..2] })
}

fn the_pinhole(gateway: &Gateway) -> Value {
    let header = ["SESSION", "CLIENT", "SERVER", "MODE", "INITIATOR", "RESPONDER", "PORT", "STATE", "EXPIRES"];
    one_row(gateway, "pinholes", &header, &["/expires_in_ms"])
}

fn status(gateway: &Gateway) -> Value {
    data(gateway, &["status", "-o", "json"]).json().unwrap()
}

#[test]
fn what_is_going_on_is_told_in_every_format() {
    if !require_root() {
        return;
    }
    let ground = Ground::new();
    let lab = &ground.lab;
    for family in [IpAddr::from(lab.server().v4()), lab.server().v6().into()] {
        let long = Settings::guarded(lab, "drop").section("[pinhole]\ntimeout = \"5min\"");
        let mut gateway = Gateway::start(lab, &long, &[]).unwrap();
        for command in ["sessions", "pinholes", "observe"] {
            assert_eq!(data(&gateway, &[command, "-o", "jsonl"]).out, "", "{command}");
        }
        assert_eq!(data(&gateway, &["sessions", "-o", "json"]).json().unwrap(), Value::Array(vec![]));

        // Announced.
        let mut dialogue = ground.log_in(family);
        let port = dialogue.epsv().unwrap();
        let (client, peer) = (dialogue.local().to_string(), dialogue.peer().to_string());
        until("the daemon has vouched for it", || {
            (gateway.pinholes().unwrap().first()?.pinhole.state == ftp_helper::event::PinholeState::Confirmed)
                .then_some(())
        })
        .unwrap();
        let pinhole = the_pinhole(&gateway);
        let of_pinhole = ["expires_in_ms", "initiator", "mode", "port", "responder", "state"];
        assert_eq!(keys(&pinhole), of_pinhole.into_iter().chain(["client", "server", "session"]).collect());
        assert_eq!(
            (&pinhole["client"], &pinhole["server"], &pinhole["mode"], &pinhole["port"], &pinhole["state"]),
            (&client.clone().into(), &peer.clone().into(), &"epsv".into(), &port.into(), &"confirmed".into())
        );
        assert_eq!(pinhole["initiator"], dialogue.local().ip().to_string());
        assert_eq!(pinhole["responder"], family.to_string());
        assert!((1..=300_000).contains(&pinhole["expires_in_ms"].as_u64().unwrap()), "{pinhole}");
        assert_eq!(pinhole["session"].as_str().unwrap().len(), 16);
        let session = the_session(&gateway);
        let of_session = [
            "age_ms",
            "bytes",
            "client",
            "data_connections",
            "idle_ms",
            "server",
            "session",
            "sighted",
            "state",
            "transfers",
        ];
        assert_eq!(keys(&session), of_session.into_iter().chain(["pinhole"]).collect());
        assert_eq!((&session["state"], &session["sighted"]), (&"logged_in".into(), &true.into()));
        assert_eq!((&session["session"], &session["client"]), (&pinhole["session"], &pinhole["client"]));
        assert_eq!(keys(&session["pinhole"]), of_pinhole.into());
        let gauges = |s: &Value| ["sessions", "pinholes", "data_connections"].map(|g| s[g]["live"].as_u64().unwrap());
        assert_eq!(gauges(&status(&gateway)), [1, 1, 0]);

        // Connected.
        let mut transfer = connect(lab.client(), SocketAddr::new(family, port), PATIENCE).unwrap();
        until("its use", || (gauges(&status(&gateway)) == [1, 0, 1]).then_some(())).unwrap();
        let header = data(&gateway, &["pinholes"]).out;
        assert_eq!(header.lines().count(), 1, "{header}");
        let session = the_session(&gateway);
        assert_eq!((keys(&session), &session["data_connections"]), (of_session.into(), &1.into()));

        // Transferred.
        dialogue.send(&format!("RETR {DIRECTORY}/{DOWNLOAD}")).unwrap();
        let mut got = Vec::new();
        transfer.read_to_end(&mut got).unwrap();
        finish(&mut dialogue);
        drop(transfer);
        until("its end", || (gauges(&status(&gateway)) == [1, 0, 0]).then_some(())).unwrap();
        let session = the_session(&gateway);
        assert_eq!((&session["transfers"], &session["bytes"]), (&1.into(), &got.len().into()));

        // Denied.
        assert!(connect(lab.stranger(), SocketAddr::new(family, UNASKED), Duration::from_millis(300)).is_none());
        status_in_every_format(&gateway, lab);
        dialogue.ask("QUIT").unwrap();
        drop(dialogue);
        until("the session's end", || gateway.sessions().unwrap().is_empty().then_some(())).unwrap();
        gateway.stop().unwrap();
    }
}

/// After one transfer and one denied connection.
fn status_in_every_format(gateway: &Gateway, lab: &Lab) {
    let denied = || Some(status(gateway)).filter(|s| s["counters"]["syn_denied"] == 1);
    let json = until("the denial is counted", denied).unwrap();
    let expected = [
        "version",
        "pid",
        "mode",
        "config",
        "uptime_ms",
        "interfaces",
        "waiting_for",
        "sessions",
        "pinholes",
        "data_connections",
        "heartbeat",
        "counters",
        "reasons",
        "engine",
        "denied",
    ];
    assert_eq!(keys(&json), expected.into());
    assert_eq!(json["pid"], gateway.id().unwrap());
    assert_eq!((&json["version"], &json["mode"]), (&env!("CARGO_PKG_VERSION").into(), &"drop".into()));
    assert_eq!(json["config"], gateway.config().to_str().unwrap());
    assert_eq!(json["waiting_for"], Value::Array(vec![]));
    let interface = &json["interfaces"][0];
    assert_eq!(keys(interface), ["name", "ifindex", "hook", "link"].into());
    let index = lab.gateway().run_in(|| nix::net::if_::if_nametoindex(OUTSIDE_INTERFACE)).unwrap().unwrap();
    assert_eq!((&interface["name"], &interface["ifindex"]), (&OUTSIDE_INTERFACE.into(), &index.into()));
    assert_eq!(interface["link"], "ethernet");
    assert_eq!(keys(&json["heartbeat"]), ["age_ms", "stale_after_ms"].into());
    assert!(json["heartbeat"]["age_ms"].as_u64() < json["heartbeat"]["stale_after_ms"].as_u64());
    let counter = |name: &str| json["counters"][name].as_u64().unwrap();
    assert_eq!([counter("opened_fast"), counter("used"), counter("flows_ended"), counter("sessions")], [1; 4]);
    assert_eq!(json["reasons"], serde_json::json!({ "no_pinhole": 1 }));
    assert_eq!(json["denied"], serde_json::json!([{ "port": UNASKED, "denied": 1, "would_be_denied": 0 }]));
    assert_eq!((&json["engine"]["announcements"], &json["engine"]["taken_by_fast_path"]), (&1.into(), &1.into()));

    let line = data(gateway, &["status", "-o", "jsonl"]);
    assert_eq!(line.out.lines().count(), 1);
    assert_eq!(keys(&line.json().unwrap()), expected.into());
    let table = data(gateway, &["status"]).out;
    for part in [
        format!("process {}, mode drop, up ", gateway.id().unwrap()),
        format!("interface      {OUTSIDE_INTERFACE} (index {index}, "),
        format!("sessions       1 of {}", json["sessions"]["limit"]),
        "heartbeat      fresh: ".to_owned(),
        format!("  {:<24}1 denied, 0 would be denied", UNASKED),
        format!("  {:<24}1", "no_pinhole"),
    ] {
        assert!(table.contains(&part), "{part:?} in\n{table}");
    }
}

#[test]
fn events_are_told_in_every_format_and_by_every_filter() {
    if !require_root() {
        return;
    }
    let ground = Ground::new();
    let lab = &ground.lab;
    let mut gateway = Gateway::start(lab, &Settings::guarded(lab, "drop"), &[]).unwrap();
    let follow = |arguments: &[&str]| {
        let following =
            Program::start(gateway.command(&[&["observe", "-v", "-f"], arguments].concat()).unwrap()).unwrap();
        following.wait_err("observing").unwrap();
        following
    };
    let v4 = lab.client().v4().to_string();
    let following = [
        follow(&["-o", "jsonl"]),
        follow(&["-o", "json", "--event", "opened", "--event", "data_end"]),
        follow(&["--client", &v4]),
    ];

    // A transfer over each family, a stranger that is denied, and an announcement that is refused.
    for address in [IpAddr::from(lab.server().v4()), lab.server().v6().into()] {
        let mut dialogue = ground.log_in(address);
        assert_eq!(dialogue.ask(&format!("EPRT |1|{}|{UNASKED}|", lab.stranger().v4())).unwrap().code / 100, 5);
        let port = dialogue.epsv().unwrap();
        let mut transfer = connect(lab.client(), SocketAddr::new(address, port), PATIENCE).unwrap();
        dialogue.send(&format!("RETR {DIRECTORY}/{DOWNLOAD}")).unwrap();
        transfer.read_to_end(&mut Vec::new()).unwrap();
        finish(&mut dialogue);
        drop(transfer);
        dialogue.ask("QUIT").unwrap();
        drop(dialogue);
        assert!(connect(lab.stranger(), SocketAddr::new(address, UNASKED), Duration::from_millis(300)).is_none());
    }
    let is = |kind: &'static str| move |e: &Value| e["event"] == kind;
    let remembered = || data(&gateway, &["observe", "-o", "jsonl"]).jsonl().unwrap();
    let all = until("every event", || {
        let all = remembered();
        let enough = ["session_end", "denied", "data_end"].iter().all(|k| all.iter().filter(|e| is(k)(e)).count() == 2);
        enough.then_some(all)
    })
    .unwrap_or_else(|e| panic!("{e}: {:#?}, {:#}", remembered(), status(&gateway)));
    for event in &all {
        assert_eq!(event["v"], 1);
        assert!(is_timestamp(&event["ts"]), "{event}");
    }

    // What was followed is what is remembered.
    let lines = following[0].wait_lines(all.len(), |_| true).unwrap();
    let live: Vec<Value> = lines.iter().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(live, all);
    let lines = following[1].wait_lines(4, |_| true).unwrap();
    let live: Vec<Value> = lines.iter().map(|l| serde_json::from_str(l).unwrap()).collect();
    let some: Vec<Value> = all.iter().filter(|e| is("opened")(e) || is("data_end")(e)).cloned().collect();
    assert_eq!(live, some);
    let of_v4 =
        |e: &Value| ["client", "from"].iter().any(|f| e[f].as_str().is_some_and(|a| a.starts_with(&format!("{v4}:"))));
    let count = all.iter().filter(|e| of_v4(e)).count();
    let lines = following[2].wait_lines(count, |_| true).unwrap();
    assert_eq!(lines.len(), count);
    assert!(lines.iter().all(|l| l.contains(&v4)), "{lines:?}");

    // In the formats: JSON of events is one object a line too; the table has a line for each.
    assert_eq!(data(&gateway, &["observe", "-o", "json"]).jsonl().unwrap(), all);
    let table = data(&gateway, &["observe"]).out;
    for (line, event) in table.lines().zip(&all) {
        for field in ["ts", "event", "session", "client", "server", "reason"] {
            let Some(text) = event[field].as_str() else { continue };
            assert!(line.contains(text), "{field} of {event} in {line}");
        }
    }
    assert_eq!(table.lines().count(), all.len());

    // By the filters.
    let first = all[0]["session"].as_str().unwrap().to_owned();
    let (v6, server_v4) = (lab.client().v6().to_string(), lab.server().v4().to_string());
    let text = |e: &Value, field: &str| e[field].as_str().unwrap_or_default().to_owned();
    type Fits<'a> = Box<dyn Fn(&Value) -> bool + 'a>;
    let filters: [(&[&str], Fits<'_>); 8] = [
        (&["--event", "opened"], Box::new(is("opened"))),
        (&["--event", "denied", "--event", "used"], Box::new(|e| is("denied")(e) || is("used")(e))),
        (&["--client", &v4], Box::new(of_v4)),
        (
            &["--client", "2001:db8:a::/64", "--event", "session_start"],
            Box::new(|e| is("session_start")(e) && text(e, "client").contains(&v6)),
        ),
        (&["--server", &server_v4], Box::new(|e| ["server", "to"].iter().any(|f| text(e, f).contains(&server_v4)))),
        (&["--session", first.trim_start_matches('0')], Box::new(|e| e["session"] == first.as_str())),
        (&["--reason", "no_pinhole"], Box::new(|e| e["reason"] == "no_pinhole")),
        (
            &["--reason", "third_host", "--reason", "no_pinhole"],
            Box::new(|e| e["reason"] == "third_host" || e["reason"] == "no_pinhole"),
        ),
    ];
    for (arguments, fits) in filters {
        let expected: Vec<Value> = all.iter().filter(|e| fits(e)).cloned().collect();
        let found = data(&gateway, &[&["observe", "-o", "jsonl"], arguments].concat()).jsonl().unwrap();
        assert_eq!(found, expected, "{arguments:?}");
        assert!(!found.is_empty() && found.len() < all.len(), "{arguments:?} finds {} of {}", found.len(), all.len());
    }
    let last = data(&gateway, &["observe", "-o", "jsonl", "-n", "2", "--event", "denied", "--event", "data_end"]);
    let ends: Vec<Value> = all.iter().filter(|e| is("denied")(e) || is("data_end")(e)).cloned().collect();
    assert_eq!(last.jsonl().unwrap(), ends[ends.len() - 2..]);
    let replayed = follow(&["-o", "jsonl", "-n", "3"]);
    let lines = replayed.wait_lines(3, |_| true).unwrap();
    let live: Vec<Value> = lines.iter().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(live, all[all.len() - 3..]);
    gateway.stop().unwrap();
    for end in following.into_iter().map(|f| f.finish().unwrap()) {
        assert_eq!(end.code, 3);
        assert!(
            end.err.contains(&format!("the daemon at {} has gone away", gateway.socket().display())),
            "{}",
            end.err
        );
    }
}

/// A SYN between hosts whose dialogue the kernel can't read is kept; it is denied when no pinhole opens for it, not before.
#[test]
fn a_syn_that_is_kept_in_vain_is_told_as_denied_when_it_is_given_up() {
    if !require_root() {
        return;
    }
    let ground = Ground::new();
    let lab = &ground.lab;
    let mut gateway = Gateway::start(lab, &Settings::guarded(lab, "drop"), &[]).unwrap();
    let events = gateway.follow().unwrap();
    let counter = |name: &str| gateway.status().unwrap().counters[name];
    let control = SocketAddr::new(lab.server().v4().into(), 21);
    let mut dialogue = connect(lab.client(), control, PATIENCE).unwrap();
    let to = SocketAddr::new(lab.server().v4().into(), UNASKED);
    let mut tried = 0;
    until("a SYN is kept", || {
        // Half a line, and more of it: the kernel does not know what it will be.
        dialogue.write_all(b"N").unwrap();
        assert!(connect(lab.client(), to, Duration::from_millis(100)).is_none());
        tried += 1;
        (counter("syn_parked") > 0).then_some(())
    })
    .unwrap();
    // At this moment it is still kept, or the machine is slow and it is given up already.
    until("it is given up", || (counter("syn_denied") == tried).then_some(())).unwrap();
    let is_denial = |e: &ftp_helper::event::Event| {
        e.event == ftp_helper::event::Kind::Denied && e.connection.as_ref().is_some_and(|c| c.to == to)
    };
    until("each is told", || (events.all().iter().filter(|e| is_denial(e)).count() as u64 == tried).then_some(()))
        .unwrap();
    let status = gateway.status().unwrap();
    assert_eq!((status.counters["syn_denied"], status.reasons["no_pinhole"]), (tried, tried));
    assert_eq!((status.denied.len(), status.denied[0].port, status.denied[0].denied), (1, UNASKED, tried));
    assert_eq!(status.counters["syn_unparked"], 0);
    gateway.stop().unwrap();
}

/// RFC 3339 in UTC with microseconds.
fn is_timestamp(ts: &Value) -> bool {
    let ts = ts.as_str().unwrap_or_default();
    let shape: String = ts.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    shape == "0000-00-00T00:00:00.000000Z"
}
