//! An operator at work beside real transfers: pinholes added, taken back and flushed, a session shown and killed, events
//! chosen, a report written; and one who may only look.

use std::{
    io::Read as _,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    time::Duration,
};

use ftp_helper::{
    event::Kind,
    lab::{
        Host, Lab, LabOptions,
        dialogue::Dialogue,
        require_root,
        servers::{DIRECTORY, DOWNLOAD, Server, ServerKind, ServerOptions},
    },
};
use ftp_helper_tests::{
    gateway::{Gateway, PATIENCE, Settings, program, until},
    program::{Said, said},
};
use serde_json::Value;

/// A port of the server that nobody negotiates, with somebody who listens there.
const SERVICE: u16 = 40_404;
/// How long a connection that is dropped is tried: the SYN and one more of the kernel's own would take a second.
const SHORT: Duration = Duration::from_millis(300);

/// A password that a client sends.
const PASSWORD: &str = "correct-horse";

struct Ground {
    lab: Lab,
    server: Server,
    _services: Vec<TcpListener>,
}

impl Ground {
    fn new() -> Self {
        let lab = Lab::new(&LabOptions::default()).unwrap();
        let server = Server::start(lab.server(), ServerKind::Pyftpdlib, &ServerOptions::default()).unwrap();
        let listen = |ip: IpAddr| lab.server().run_in(|| TcpListener::bind((ip, SERVICE))).unwrap().unwrap();
        let services = [lab.server().v4().into(), lab.server().v6().into()].map(listen).into();
        Self { lab, server, _services: services }
    }

    fn start(&self, mode: &'static str) -> Gateway {
        let settings = Settings::guarded(&self.lab, mode).section("[pinhole]\ntimeout = \"60s\"");
        Gateway::start(&self.lab, &settings, &[]).unwrap()
    }

    /// The client's and the server's address of each family.
    fn families(&self) -> [(IpAddr, IpAddr); 2] {
        let (client, server) = (self.lab.client(), self.lab.server());
        [(client.v4().into(), server.v4().into()), (client.v6().into(), server.v6().into())]
    }

    fn connect(&self, to: SocketAddr, limit: Duration) -> Option<TcpStream> {
        connect(self.lab.client(), to, limit)
    }

    /// Logs in, and says one password more: that of the lab is a word that stands everywhere.
    fn log_in(&self, address: IpAddr) -> Dialogue {
        let mut dialogue = Dialogue::open(self.lab.client(), SocketAddr::new(address, 21), PATIENCE).unwrap();
        dialogue.login(self.server.login()).unwrap();
        assert_eq!(dialogue.ask(&format!("PASS {PASSWORD}")).unwrap().code, 503);
        dialogue
    }
}

fn connect(from: &Host, to: SocketAddr, limit: Duration) -> Option<TcpStream> {
    from.run_in(|| TcpStream::connect_timeout(&to, limit)).unwrap().ok()
}

/// Fetches the file through what was negotiated, and reads both replies.
fn fetch(ground: &Ground, dialogue: &mut Dialogue, to: SocketAddr) {
    let mut data = ground.connect(to, PATIENCE).unwrap();
    dialogue.send(&format!("RETR {DIRECTORY}/{DOWNLOAD}")).unwrap();
    let mut got = Vec::new();
    data.read_to_end(&mut got).unwrap();
    assert!(!got.is_empty());
    let codes = [dialogue.reply().unwrap().code, dialogue.reply().unwrap().code];
    assert!([[125, 226], [150, 226]].contains(&codes), "{codes:?}");
}

fn session_of(gateway: &Gateway, dialogue: &Dialogue) -> String {
    let find = || gateway.sessions().unwrap().into_iter().find(|s| s.client == dialogue.local());
    until("the session", find).unwrap().session
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

#[test]
fn a_pinhole_is_added_used_taken_back_and_flushed() {
    if !require_root() {
        return;
    }
    let ground = Ground::new();
    let mut gateway = ground.start("drop");
    let events = gateway.follow().unwrap();
    for (client, server) in ground.families() {
        let to = SocketAddr::new(server, SERVICE);
        let (from, there) = (client.to_string(), to.to_string());
        let add = |more: &[&str]| {
            gateway.ask(&[&["pinholes", "add", &from, &there, "--reason", "ticket 4711"], more].concat()).unwrap()
        };
        assert!(ground.connect(to, SHORT).is_none());

        // One connection, and no more.
        let row = add(&["--for", "30s", "-o", "json"]).json().unwrap();
        let id = text(&row["added"]).to_owned();
        assert_eq!((&row["mode"], &row["note"], &row["uid"]), (&"added".into(), &"ticket 4711".into(), &0.into()));
        assert!((1..=30_000).contains(&row["expires_in_ms"].as_u64().unwrap()), "{row}");
        let of_it = |e: &ftp_helper::event::Event| e.added.is_some_and(|added| added.to_string() == id);
        let opened = events.wait("opened", |e| e.event == Kind::Opened && of_it(e)).unwrap();
        assert_eq!((opened.uid, opened.note.as_deref()), (Some(0), Some("ticket 4711")));
        let connection = ground.connect(to, PATIENCE).unwrap();
        events.wait("used", |e| e.event == Kind::Used && of_it(e)).unwrap();
        assert!(ground.connect(to, SHORT).is_none());
        let rows = gateway.data(&["connections", "-o", "json"]).unwrap().json().unwrap();
        assert_eq!((rows[0]["added"].as_str(), rows[0]["mode"].as_str()), (Some(&*id), Some("added")));
        assert_eq!(gateway.data(&["connections"]).unwrap().out.lines().count(), 2);
        drop(connection);
        // The service ends its side too.
        let listener = &ground._services[usize::from(server.is_ipv6())];
        drop(listener.accept().unwrap());
        events.wait("its end", |e| e.event == Kind::DataEnd && of_it(e)).unwrap();

        // Taken back by its ends, and by its id.
        assert_eq!(add(&[]).code, 0);
        let said = gateway.data(&["pinholes", "del", &from, &there, "--reason", "a mistake"]).unwrap();
        assert!(said.out.starts_with(&format!("Taken back: added {client} -> {to} (8")), "{}", said.out);
        assert!(ground.connect(to, SHORT).is_none());
        let id = text(&add(&["-o", "json"]).json().unwrap()["added"]).to_owned();
        gateway.data(&["pinholes", "del", &id, "--reason", "a mistake"]).unwrap();
        let revoked = events
            .wait("taken back", |e| e.event == Kind::Revoked && e.added.is_some_and(|added| added.to_string() == id))
            .unwrap();
        assert_eq!(revoked.reason.unwrap().as_str(), "operator");
        assert_eq!((revoked.uid, revoked.note.as_deref()), (Some(0), Some("a mistake")));
        let said = gateway.ask(&["pinholes", "del", &id, "--reason", "again"]).unwrap();
        assert_eq!((said.code, said.out.as_str()), (1, ""));
        assert!(said.err.contains("there is no such pinhole"), "{}", said.err);

        // Flushed: those that fit.
        assert_eq!(add(&[]).code, 0);
        let flush = |filter: &[&str]| {
            gateway.data(&[&["pinholes", "flush", "--reason", "maintenance"], filter].concat()).unwrap().out
        };
        assert_eq!(flush(&["--mode", "pasv"]), "No pinhole fits; nothing was taken back.\n");
        assert_eq!(flush(&["--responder", &from]), "No pinhole fits; nothing was taken back.\n");
        assert!(flush(&["--initiator", &from, "--mode", "added"]).starts_with("Taken back: added "));
        assert!(gateway.pinholes().unwrap().is_empty());

        // What the policy does not allow is refused by its reason.
        for (port, reason) in [(21, "control_port"), (22, "low_port")] {
            let at = SocketAddr::new(server, port).to_string();
            let said =
                gateway.ask(&["pinholes", "add", &from, &at, "--direction", "in", "--reason", "a trial"]).unwrap();
            assert_eq!((said.code, said.out.as_str()), (1, ""));
            assert!(said.err.contains(&format!("not opened: {reason}: ")), "{}", said.err);
        }
        let said = add(&["--for", "61s"]);
        assert_eq!(said.code, 1);
        assert!(said.err.contains("61 s is more than [pinhole] timeout, 1m"), "{}", said.err);
        let said = gateway.ask(&["pinholes", "add", &there[..0], &there, "--reason", "x"]).unwrap();
        assert_eq!(said.code, 2, "{said:?}");
    }

    // It outlives the daemon, and is used up under the next one.
    let (client, server) = ground.families()[0];
    let to = SocketAddr::new(server, SERVICE);
    gateway.data(&["pinholes", "add", &client.to_string(), &to.to_string(), "--reason", "a restart"]).unwrap();
    gateway.kill().unwrap();
    gateway.start_again().unwrap();
    let rows = gateway.pinholes().unwrap();
    assert_eq!((rows.len(), rows[0].pinhole.port, &rows[0].note), (1, SERVICE, &None));
    assert!(ground.connect(to, PATIENCE).is_some());
    until("it is used up", || gateway.pinholes().unwrap().is_empty().then_some(())).unwrap();
    assert!(ground.connect(to, SHORT).is_none());
    gateway.stop().unwrap();
}

#[test]
fn a_session_is_shown_robbed_of_its_pinhole_and_killed() {
    if !require_root() {
        return;
    }
    let ground = Ground::new();
    for mode in ["drop", "observe"] {
        let mut gateway = ground.start(mode);
        let events = gateway.follow().unwrap();
        for (_, server) in ground.families() {
            let mut dialogue = ground.log_in(server);
            let id = session_of(&gateway, &dialogue);

            // Taken back before it is used: the next one is as good.
            let port = dialogue.epsv().unwrap();
            events.wait("open", |e| e.event == Kind::Opened && e.session.is_some_and(|s| s.to_string() == id)).unwrap();
            gateway.data(&["pinholes", "del", &id, "--reason", "not theirs"]).unwrap();
            let revoked = events
                .wait("taken back", |e| e.event == Kind::Revoked && e.session.is_some_and(|s| s.to_string() == id))
                .unwrap();
            assert_eq!((revoked.reason.unwrap().as_str(), revoked.note.as_deref()), ("operator", Some("not theirs")));
            if mode == "drop" {
                assert!(ground.connect(SocketAddr::new(server, port), SHORT).is_none());
            }
            let port = dialogue.epsv().unwrap();
            fetch(&ground, &mut dialogue, SocketAddr::new(server, port));

            // What was said; the password never.
            let stories = ["table", "json", "jsonl"].map(|format| {
                let said = gateway.data(&["sessions", "show", &id, "-o", format]).unwrap();
                assert!(!said.out.contains(PASSWORD), "{}", said.out);
                said
            });
            let story = &stories[0].out;
            for part in ["USER ", "PASS ***", "EPSV", "229 ", "RETR ", "opened ", "revoked ", "not theirs"] {
                assert!(story.contains(part), "no {part} in\n{story}");
            }
            let json = stories[1].json().unwrap();
            assert_eq!((text(&json["session"]), json["ended"].as_bool()), (&*id, Some(false)));
            let lines = json["lines"].as_array().unwrap();
            assert_eq!(stories[2].jsonl().unwrap().len(), lines.len() + 1);

            // Killed: in `drop` nothing of it passes any more; in `observe` all does.
            let said = gateway.data(&["sessions", "kill", &id, "--reason", "a scan"]).unwrap();
            assert!(said.out.starts_with(&format!("Killed: session {id}, ")), "{}", said.out);
            let killed = events
                .wait("killed", |e| e.event == Kind::Killed && e.session.is_some_and(|s| s.to_string() == id))
                .unwrap();
            assert_eq!((killed.reason.unwrap().as_str(), killed.uid), ("operator", Some(0)));
            assert_eq!(killed.note.as_deref(), Some("a scan"));
            let before = gateway.status().unwrap().reasons.get("killed").copied().unwrap_or_default();
            if mode == "drop" {
                dialogue.send("NOOP").unwrap();
            } else {
                assert_eq!(dialogue.ask("NOOP").unwrap().code, 200);
            }
            let reported = || {
                (gateway.status().unwrap().reasons.get("killed").copied().unwrap_or_default() > before).then_some(())
            };
            until("its packets are reported", reported).unwrap();
            let said = gateway.ask(&["sessions", "kill", &id, "--reason", "again"]).unwrap();
            assert_eq!((said.code, said.err.contains("was killed before")), (1, true), "{said:?}");
            let said = gateway.ask(&["sessions", "kill", "7", "--reason", "nobody"]).unwrap();
            assert_eq!((said.code, said.err.contains("there is no session")), (1, true), "{said:?}");
            assert!(gateway.pinholes().unwrap().is_empty());
        }

        // One that is over is still told.
        let mut dialogue = ground.log_in(ground.lab.server().v4().into());
        let id = session_of(&gateway, &dialogue);
        dialogue.ask("QUIT").unwrap();
        drop(dialogue);
        events
            .wait("its end", |e| e.event == Kind::SessionEnd && e.session.is_some_and(|s| s.to_string() == id))
            .unwrap();
        let story = gateway.data(&["sessions", "show", &id]).unwrap().out;
        assert!(story.lines().next().unwrap().ends_with(", ended") && story.contains("QUIT"), "{story}");
        gateway.stop().unwrap();
    }
}

#[test]
fn events_are_chosen_by_what_they_are_and_by_what_they_are_not() {
    if !require_root() {
        return;
    }
    let ground = Ground::new();
    let mut gateway = ground.start("drop");
    let (client, server) = ground.families()[0];
    let to = SocketAddr::new(server, SERVICE);
    gateway.data(&["pinholes", "add", &client.to_string(), &to.to_string(), "--reason", "one"]).unwrap();
    gateway.data(&["pinholes", "flush", "--reason", "two"]).unwrap();
    let mut dialogue = ground.log_in(server);
    let port = dialogue.epsv().unwrap();
    fetch(&ground, &mut dialogue, SocketAddr::new(server, port));
    assert!(ground.connect(to, SHORT).is_none());
    let kinds = |filter: &[&str]| -> Vec<String> {
        let events = gateway.data(&[&["observe", "-o", "jsonl"], filter].concat()).unwrap().jsonl().unwrap();
        events.iter().map(|e| text(&e["event"]).to_owned()).collect()
    };
    until("the denial is told", || kinds(&[]).contains(&"denied".to_owned()).then_some(())).unwrap();
    until("the transfer's end is told", || kinds(&[]).contains(&"data_end".to_owned()).then_some(())).unwrap();
    let all = kinds(&[]);
    assert_eq!(kinds(&["--mode", "added"]), ["opened", "revoked"]);
    assert_eq!(kinds(&["--mode", "added", "--not", "event=opened"]), ["revoked"]);
    assert_eq!(kinds(&["--reason", "operator"]), ["revoked"]);
    assert!(kinds(&["--mode", "epsv"]).contains(&"used".to_owned()));
    let without = kinds(&["--not", "event=denied", "--not", "mode=added"]);
    assert_eq!(without.len() + 2, all.iter().filter(|k| *k != "denied").count());
    assert!(kinds(&["--not", &format!("client={client}")]).is_empty());
    assert_eq!(kinds(&["--since", "1h"]), all);
    assert!(kinds(&["--since", "2200-01-01T00:00:00Z"]).is_empty());
    assert_eq!(kinds(&["--since", "1h", "-n", "2"]), all[all.len() - 2..]);

    // Colours are for people who want them, and columns for all.
    let plain = gateway.data(&["observe"]).unwrap().out;
    assert!(!plain.contains('\u{1b}'));
    let table = |when: &str| gateway.data(&["observe", "--color", when]).unwrap().out;
    assert_eq!(table("never"), plain);
    assert!(table("always").contains("\u{1b}[31mdenied "), "{}", table("always"));
    let of_sessions: Vec<&str> = plain.lines().filter(|l| l.contains(" -> ") && !l.contains("added")).collect();
    assert!(of_sessions.iter().filter(|l| !l.contains(" denied ")).all(|l| l.find(" -> ") < Some(100)), "{plain}");
    let begin = |l: &str| l.find(&format!("{client}:"));
    let columns: Vec<_> = of_sessions.iter().filter(|l| !l.contains(" denied ")).map(|l| begin(l)).collect();
    assert!(columns.windows(2).all(|w| w[0] == w[1]), "{plain}");
    drop(dialogue);
    gateway.stop().unwrap();
}

/// Asks as a user who is only in this group.
fn as_member(lab: &Lab, gateway: &Gateway, group: &str, arguments: &[&str]) -> Said {
    let copy = lab.directory().join("ftp-helper");
    if !copy.exists() {
        std::fs::copy(program().unwrap(), &copy).unwrap();
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--reuid=65534", "--regid=65534"]).arg(format!("--groups={group}"));
    setpriv.arg(copy).args(arguments).arg("--socket").arg(gateway.socket()).current_dir(lab.directory());
    said(setpriv).unwrap()
}

#[test]
fn who_may_only_look_changes_nothing() {
    if !require_root() {
        return;
    }
    let ground = Ground::new();
    let settings = Settings {
        api: "read_group = \"adm\"\nwrite_group = \"daemon\"\n".to_owned(),
        ..Settings::guarded(&ground.lab, "drop")
    };
    let mut gateway = Gateway::start(&ground.lab, &settings, &[]).unwrap();
    let (client, server) = ground.families()[0];
    let (from, there) = (client.to_string(), SocketAddr::new(server, SERVICE).to_string());
    let mut dialogue = ground.log_in(server);
    dialogue.epsv().unwrap();
    let id = session_of(&gateway, &dialogue);
    let ask = |group: &str, arguments: &[&str]| as_member(&ground.lab, &gateway, group, arguments);
    let looks: [&[&str]; 5] =
        [&["sessions"], &["sessions", "show", &id], &["pinholes"], &["connections"], &["observe"]];
    let acts: [&[&str]; 4] = [
        &["pinholes", "add", &from, &there, "--reason", "mine"],
        &["pinholes", "del", &id, "--reason", "mine"],
        &["pinholes", "flush", "--reason", "mine"],
        &["sessions", "kill", &id, "--reason", "mine"],
    ];
    for look in looks {
        let said = ask("adm", look);
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{look:?}");
    }
    for act in acts {
        let said = ask("adm", act);
        assert_eq!((said.code, said.out.as_str()), (5, ""), "{act:?}: {said:?}");
        assert!(said.err.contains("may not change anything here: be root or a member of group \"daemon\""), "{said:?}");
    }
    assert_eq!(gateway.pinholes().unwrap().len(), 1);
    // Who may change is named by the kernel, not by himself.
    for act in acts {
        let said = ask("daemon", act);
        let gone = act[1] == "flush" || said.err.is_empty();
        assert!(said.code == 0 && gone, "{act:?}: {said:?}");
    }
    let events = gateway.data(&["observe", "-o", "jsonl", "--event", "killed"]).unwrap().jsonl().unwrap();
    assert_eq!((&events[0]["uid"], &events[0]["note"]), (&65534.into(), &"mine".into()));
    drop(dialogue);
    gateway.stop().unwrap();
}

/// All text of a report.
fn unpack(file: &Path) -> String {
    let output = Command::new("tar").arg("-xzOf").arg(file).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn names(file: &Path) -> Vec<String> {
    let output = Command::new("tar").arg("-tzf").arg(file).output().unwrap();
    let names = String::from_utf8(output.stdout).unwrap();
    names.lines().map(|l| l.trim_start_matches("ftp-helper-bugreport/").to_owned()).collect()
}

#[test]
fn a_report_holds_everything_but_passwords_and_addresses() {
    if !require_root() {
        return;
    }
    let ground = Ground::new();
    let metrics = SocketAddr::new(ground.lab.gateway().v4().into(), 9167);
    let settings = Settings::guarded(&ground.lab, "drop");
    let api = format!("{}metrics = \"{metrics}\"\n", settings.api);
    let mut gateway = Gateway::start(&ground.lab, &Settings { api, ..settings }, &[]).unwrap();
    let mut dialogues = Vec::new();
    for (client, server) in ground.families() {
        let mut dialogue = ground.log_in(server);
        // Refused: the line names an address.
        assert!(
            dialogue
                .ask(&if client.is_ipv4() {
                    "PORT 203,0,113,77,9,9".to_owned()
                } else {
                    "EPRT |2|2001:db8::77|999|".to_owned()
                })
                .is_ok()
        );
        dialogue.epsv().unwrap();
        assert!(ground.connect(SocketAddr::new(server, SERVICE), SHORT).is_none());
        dialogues.push(dialogue);
    }
    let addresses: Vec<String> =
        ground.families().into_iter().flat_map(|(c, s)| [c.to_string(), s.to_string()]).collect();
    let (directory, config) = (ground.lab.directory(), gateway.config().to_owned());
    let report = |name: &str, more: &[&str]| {
        let file = directory.join(name);
        let mut command = ground.lab.gateway().command(program().unwrap());
        command.arg("bugreport").arg("-c").arg(&config).arg("--into").arg(&file).args(more);
        (said(command).unwrap(), file)
    };
    let (done, file) = report("hidden.tar.gz", &[]);
    assert_eq!((done.code, done.err.as_str()), (0, ""), "{done:?}");
    assert_eq!(done.out, format!("{}\n", file.display()));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(
        names(&file),
        [
            "README",
            "versions.txt",
            "kernel.txt",
            "config.toml",
            "doctor.jsonl",
            "status.json",
            "sessions.jsonl",
            "pinholes.jsonl",
            "connections.jsonl",
            "events.jsonl",
            "metrics.txt"
        ]
    );
    let hidden = unpack(&file);
    for secret in addresses.iter().map(String::as_str).chain([PASSWORD, "203,0,113", "2001:db8::77"]) {
        assert!(!hidden.contains(secret), "{secret} is in the report");
    }
    for part in
        ["interfaces = ", "\"event\":\"denied\"", "\"reason\":\"no_pinhole\"", "\"mode\":\"epsv\"", "ftp_helper_"]
    {
        assert!(hidden.contains(part), "{part} is not in the report");
    }
    let (done, file) = report("open.tar.gz", &["--with-addresses"]);
    assert_eq!(done.code, 0, "{done:?}");
    let open = unpack(&file);
    assert!(addresses.iter().all(|a| open.contains(a)) && !open.contains(PASSWORD));
    // What is there is not overwritten.
    let (done, _) = report("open.tar.gz", &[]);
    assert_eq!((done.code, done.err.contains("is there already")), (1, true), "{done:?}");
    assert_eq!(unpack(&file), open);

    // Without the daemon the rest is there, and what is missing is said.
    gateway.stop().unwrap();
    let (done, file) = report("alone.tar.gz", &["-o", "json"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(
        done.err.contains("not in the report: status, sessions") && done.err.contains("no daemon answers"),
        "{done:?}"
    );
    assert_eq!(done.json().unwrap()["missing"].as_array().unwrap().len(), 1);
    assert_eq!(names(&file), ["README", "versions.txt", "kernel.txt", "config.toml", "doctor.jsonl"]);
    assert!(unpack(&file).contains("Missing:"));
    let left = std::fs::read_dir(directory).unwrap().flatten();
    assert!(left.into_iter().all(|f| !f.file_name().to_string_lossy().starts_with(".ftp-helper-bugreport")));
}
