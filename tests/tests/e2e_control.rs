//! The daemon is told to read its configuration again, is asked by those who may and those who may not, and is asked for
//! its metrics.

use std::{
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::Command,
    time::Duration,
};

use ftp_helper::lab::{Lab, LabOptions, dialogue::Dialogue, require_root, servers::*};
use ftp_helper_tests::{
    gateway::{Gateway, PATIENCE, Settings, program, until},
    metrics,
    program::{Said, said},
    prometheus::get,
};
use nix::sys::signal::Signal;
use serde_json::Value;

/// A port of the server that nobody negotiates, with somebody who listens there.
const SERVICE: u16 = 40_404;

/// A gateway in front of a server that has a service beside FTP.
struct Ground {
    lab: Lab,
    _listener: std::net::TcpListener,
}

impl Ground {
    fn new() -> Self {
        let lab = Lab::new(&LabOptions::default()).unwrap();
        let at = (lab.server().v4(), SERVICE);
        let listener = lab.server().run_in(|| std::net::TcpListener::bind(at)).unwrap().unwrap();
        Self { lab, _listener: listener }
    }

    /// Whether the service can be reached from outside.
    fn is_reachable(&self) -> bool {
        let to = SocketAddr::new(self.lab.server().v4().into(), SERVICE);
        let connect = || TcpStream::connect_timeout(&to, Duration::from_millis(500)).is_ok();
        self.lab.client().run_in(connect).unwrap()
    }
}

fn status(gateway: &Gateway) -> Value {
    gateway.data(&["status", "-o", "json"]).unwrap().json().unwrap()
}

/// Mistakes of a configuration file, and the places that are told for them.
const MISTAKES: &str = "mode = \"block\"\n[watch]\ninterfaces = [\"wan0\"]\nhok = 1\n";
const PLACES: [&str; 2] = [
    ":1:8: mode: \"block\" is not known; write \"observe\", \"drop\" or \"mark\"",
    ":4:1: watch.hok: unknown key; did you mean \"hook\"?",
];

#[test]
fn a_valid_configuration_takes_effect_and_an_invalid_one_changes_nothing() {
    if !require_root() {
        return;
    }
    let ground = Ground::new();
    let observe = Settings::guarded(&ground.lab, "observe");
    let gateway = Gateway::start(&ground.lab, &observe, &[]).unwrap();
    let write = |text: &str| std::fs::write(gateway.config(), text).unwrap();
    let drop = Settings { mode: "drop", ..observe.clone() }.text(gateway.socket());
    let observe = observe.text(gateway.socket());
    assert!(ground.is_reachable());

    // By the command, in each format.
    write(&drop);
    let said = gateway.data(&["reload", "-o", "json"]).unwrap();
    assert_eq!(said.json().unwrap(), serde_json::json!({ "changed": ["mode"], "needs_restart": [] }));
    assert_eq!(status(&gateway)["mode"], "drop");
    assert!(!ground.is_reachable());
    write(&observe.replace("[watch]", "[limits]\nring = \"1MiB\"\n[watch]"));
    let said = gateway.data(&["reload"]).unwrap();
    assert_eq!(said.out, "Reloaded.\nChanged: mode\nNeeds a restart: limits.ring\n");
    assert!(ground.is_reachable());
    write(&drop);
    let said = gateway.data(&["reload", "-o", "jsonl"]).unwrap();
    assert_eq!(said.out, "{\"changed\":[\"mode\"],\"needs_restart\":[]}\n");
    assert_eq!(gateway.data(&["reload"]).unwrap().out, "Reloaded; nothing has changed.\n");

    // A file with mistakes, and none at all.
    write(MISTAKES);
    let said = gateway.ask(&["reload"]).unwrap();
    assert_eq!((said.code, said.out.as_str()), (1, ""));
    let path = gateway.config().display();
    assert_eq!(said.err, format!("ftp-helper: {path}{}\n{path}{}\n", PLACES[0], PLACES[1]));
    assert_eq!(status(&gateway)["mode"], "drop");
    assert!(!ground.is_reachable());
    std::fs::remove_file(gateway.config()).unwrap();
    let said = gateway.ask(&["reload"]).unwrap();
    assert_eq!((said.code, said.out.as_str()), (1, ""));
    assert!(said.err.starts_with(&format!("ftp-helper: {path}: can't be read: No such file")), "{}", said.err);
    assert_eq!(status(&gateway)["mode"], "drop");

    // By SIGHUP, which answers in the log.
    let logged = |text: &str| {
        gateway.signal(Signal::SIGHUP).unwrap();
        until(text, || gateway.output().unwrap().contains(text).then_some(())).unwrap();
    };
    write(MISTAKES);
    logged("configuration not read again, the old one stays: ");
    for place in PLACES {
        assert!(gateway.output().unwrap().contains(&format!("{path}{place}")), "{}", gateway.output().unwrap());
    }
    assert_eq!(status(&gateway)["mode"], "drop");
    assert!(!ground.is_reachable());
    write(&observe);
    logged("configuration: mode");
    assert_eq!(status(&gateway)["mode"], "observe");
    assert!(ground.is_reachable());
    logged("configuration read again: nothing has changed");
}

#[test]
fn a_new_policy_holds_for_the_next_announcement_of_a_session() {
    if !require_root() {
        return;
    }
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let server = Server::start(lab.server(), ServerKind::Pyftpdlib, &ServerOptions::default()).unwrap();
    let all = Settings::guarded(&lab, "drop");
    let mut gateway = Gateway::start(&lab, &all, &[]).unwrap();
    let to = SocketAddr::new(lab.server().v4().into(), 21);
    let mut dialogue = Dialogue::open(lab.client(), to, PATIENCE).unwrap();
    dialogue.login(server.login()).unwrap();
    let events = gateway.follow().unwrap();
    let mut announce = |allowed: bool| {
        let port = dialogue.epsv().unwrap();
        let to = SocketAddr::new(lab.server().v4().into(), port);
        let connect = || TcpStream::connect_timeout(&to, if allowed { PATIENCE } else { Duration::from_millis(500) });
        let connected = lab.client().run_in(connect).unwrap();
        assert_eq!(connected.is_ok(), allowed, "{connected:?}");
        events.wait("what was made of it", |e| e.pinhole.as_ref().is_some_and(|p| p.port == port)).unwrap()
    };
    assert_eq!(announce(true).event, ftp_helper::event::Kind::Opened);
    assert_eq!(gateway.reload(&all.clone().policy("modes = [\"pasv\"]")).unwrap().changed, ["policy.modes"]);
    let refused = announce(false);
    assert_eq!((refused.event, refused.reason.unwrap().as_str()), (ftp_helper::event::Kind::Refused, "mode_disabled"));
    assert_eq!(gateway.reload(&all).unwrap().changed, ["policy.modes"]);
    assert_eq!(announce(true).event, ftp_helper::event::Kind::Opened);
}

#[test]
fn the_metrics_agree_with_the_status() {
    if !require_root() {
        return;
    }
    let ground = Ground::new();
    let lab = &ground.lab;
    let server = Server::start(lab.server(), ServerKind::Pyftpdlib, &ServerOptions::default()).unwrap();
    for at in ["127.0.0.1:9167", "[::1]:9168"] {
        let mut settings = Settings::guarded(lab, "drop");
        settings.api.push_str(&format!("metrics = \"{at}\"\n"));
        let mut gateway = Gateway::start(lab, &settings, &[]).unwrap();
        let at: SocketAddr = at.parse().unwrap();
        let to = SocketAddr::new(lab.server().v4().into(), 21);
        let mut dialogue = Dialogue::open(lab.client(), to, PATIENCE).unwrap();
        dialogue.login(server.login()).unwrap();
        let port = dialogue.epsv().unwrap();
        let to = SocketAddr::new(lab.server().v4().into(), port);
        let _data = lab.client().run_in(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap().unwrap();
        let mut second = Dialogue::open(lab.client(), dialogue.peer(), PATIENCE).unwrap();
        second.login(server.login()).unwrap();
        second.epsv().unwrap();
        assert!(!ground.is_reachable());
        // Between the two questions nothing happens, sooner or later.
        let (page, told) = until("a quiet moment", || {
            let before = metrics::of_status(&status(&gateway));
            let page = metrics::of_page(&get(lab.gateway(), at, "/metrics").unwrap());
            (before == metrics::of_status(&status(&gateway))).then_some((page, before))
        })
        .unwrap();
        for volatile in ["ftp_helper_uptime_seconds", "ftp_helper_heartbeat_age_seconds"] {
            assert!((0.0..3600.0).contains(&page[volatile]), "{volatile} {}", page[volatile]);
        }
        assert_eq!(metrics::steady(page.clone()), told);
        let value = |name: &str| page[&format!("ftp_helper_{name}")];
        assert_eq!((value("sessions"), value("pinholes"), value("data_connections")), (2.0, 1.0, 1.0));
        assert!(value("kernel_total{verdict=\"syn_denied\"}") > 0.0);
        assert!(value("reasons_total{reason=\"no_pinhole\"}") > 0.0);
        assert_eq!(value("engine_total{counter=\"announcements\"}"), 2.0);
        gateway.stop().unwrap();
    }
}

#[test]
fn without_a_daemon_the_exit_code_says_so() {
    if !require_root() {
        return;
    }
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let mut gateway = Gateway::start(&lab, &Settings::guarded(&lab, "drop"), &[]).unwrap();
    let config = gateway.config().to_str().unwrap().to_owned();
    let all_say_so = |gateway: &Gateway| {
        for command in ["status", "sessions", "pinholes", "observe", "reload"] {
            let mut by_config = Command::new(program().unwrap());
            by_config.args([command, "-c", &config]);
            for said in [gateway.ask(&[command]).unwrap(), said(by_config).unwrap()] {
                assert_eq!((said.code, said.out.as_str()), (3, ""), "{command}: {said:?}");
                let begin = format!("ftp-helper: no daemon answers at {}: start it with", gateway.socket().display());
                assert!(said.err.starts_with(&begin), "{}", said.err);
            }
        }
    };
    // A killed one leaves its socket, on which nobody listens.
    gateway.kill().unwrap();
    assert!(gateway.socket().exists());
    all_say_so(&gateway);
    gateway.start_again().unwrap();
    let mut by_config = Command::new(program().unwrap());
    by_config.args(["status", "-o", "json", "-c", &config]);
    assert_eq!(said(by_config).unwrap().json().unwrap()["pid"], gateway.id().unwrap());
    gateway.stop().unwrap();
    assert!(!gateway.socket().exists());
    all_say_so(&gateway);
}

/// Somebody who is not root: a group, or none of any meaning.
#[derive(Clone, Copy)]
struct User<'a> {
    lab: &'a Lab,
    program: &'a PathBuf,
    group: &'a str,
}

impl User<'_> {
    fn ask(self, gateway: &Gateway, command: &str) -> Said {
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--reuid=65534", "--regid=65534"]);
        match self.group {
            "" => setpriv.arg("--clear-groups"),
            group => setpriv.arg(format!("--groups={group}")),
        };
        setpriv.arg(self.program).args([command, "--socket"]).arg(gateway.socket());
        setpriv.current_dir(self.lab.directory());
        said(setpriv).unwrap()
    }
}

#[test]
fn the_groups_of_the_caller_decide_what_he_may() {
    if !require_root() {
        return;
    }
    let lab = Lab::new(&LabOptions::default()).unwrap();
    // Where everybody may reach it.
    let program = {
        let copy = lab.directory().join("ftp-helper");
        std::fs::copy(program().unwrap(), &copy).unwrap();
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
        copy
    };
    let user = |group| User { lab: &lab, program: &program, group };
    let reads = ["status", "sessions", "pinholes", "observe"];
    // With one group for readers, the file system keeps strangers out; with two, the daemon does.
    for (write_group, refusal) in [("root", "no permission for "), ("daemon", "user 65534 may not ask here: ")] {
        let settings = Settings {
            api: format!("read_group = \"adm\"\nwrite_group = \"{write_group}\"\n"),
            ..Settings::guarded(&lab, "drop")
        };
        let mut gateway = Gateway::start(&lab, &settings, &[]).unwrap();
        for command in reads.into_iter().chain(["reload"]) {
            let said = user("").ask(&gateway, command);
            assert_eq!((said.code, said.out.as_str()), (5, ""), "{command}: {said:?}");
            let what = if command == "reload" { "may not change anything here: " } else { refusal };
            let what = if write_group == "root" { refusal } else { what };
            assert!(said.err.starts_with("ftp-helper: ") && said.err.contains(what), "{}", said.err);
            assert!(said.err.contains("be root or a member of "), "{}", said.err);
        }
        for command in reads {
            let said = user("adm").ask(&gateway, command);
            assert_eq!((said.code, said.err.as_str()), (0, ""), "{command}");
        }
        let said = user("adm").ask(&gateway, "reload");
        assert_eq!((said.code, said.out.as_str()), (5, ""));
        let message =
            format!("user 65534 may not change anything here: be root or a member of group \"{write_group}\"");
        assert!(said.err.contains(&message), "{}", said.err);
        if write_group != "root" {
            for command in reads.into_iter().chain(["reload"]) {
                let said = user(write_group).ask(&gateway, command);
                assert_eq!((said.code, said.err.as_str()), (0, ""), "{command}");
            }
        }
        assert_eq!(gateway.data(&["reload"]).unwrap().out, "Reloaded; nothing has changed.\n");
        gateway.stop().unwrap();
    }
}
