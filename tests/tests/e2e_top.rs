//! `ftp-helper top` as an administrator sees it: in a terminal, by its keys, beside a real daemon with real sessions.
//!
//! `UPDATE_SNAPSHOTS=1` writes the screens in `snapshots/top` anew; numbers are masked in them.

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use ftp_helper::{
    api::Standing,
    event::Kind,
    lab::{
        Host, Lab, LabOptions,
        dialogue::Dialogue,
        require_root,
        servers::{Server, ServerKind, ServerOptions},
    },
};
use ftp_helper_tests::{
    gateway::{Gateway, PATIENCE, Settings, program, until},
    terminal::Terminal,
};
use nix::sys::signal::Signal;

/// A port of the server that nobody negotiates.
const UNASKED: u16 = 40_404;

/// Whether anything has a colour: sequences of "select graphic rendition" (ECMA-48 section 8.3.117) with one of 30 to 38, or
/// the bright ones behind 90.
fn has_colours(looks: &str) -> bool {
    let sequences = looks.split("\x1b[").skip(1).filter_map(|rest| rest.split_once('m'));
    let mut parameters = sequences.flat_map(|(sequence, _)| sequence.split(';')).filter_map(|n| n.parse::<u8>().ok());
    parameters.any(|n| matches!(n, 30..=38 | 90..=97))
}

#[test]
fn an_administrator_watches_revokes_and_kills() {
    if !require_root() {
        return;
    }
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let server = Server::start(lab.server(), ServerKind::Pyftpdlib, &ServerOptions::default()).unwrap();
    let settings = Settings::guarded(&lab, "drop").section("[pinhole]\ntimeout = \"5min\"");
    let mut gateway = Gateway::start(&lab, &settings, &[]).unwrap();
    let events = gateway.follow().unwrap();
    let log_in = |address: IpAddr| {
        let mut dialogue = Dialogue::open(lab.client(), SocketAddr::new(address, 21), PATIENCE).unwrap();
        dialogue.login(server.login()).unwrap();
        dialogue
    };
    let (v4, v6) = (IpAddr::from(lab.server().v4()), IpAddr::from(lab.server().v6()));
    // The younger one stands first.
    let mut second = log_in(v6);
    until("the session", || (gateway.sessions().unwrap().len() == 1).then_some(())).unwrap();
    let mut first = log_in(v4);
    let ports = [second.epsv().unwrap(), first.epsv().unwrap()];
    until("both pinholes", || (gateway.pinholes().unwrap().len() == 2).then_some(())).unwrap();
    let connect = |from: &Host, to: SocketAddr, limit: Duration| {
        from.run_in(|| TcpStream::connect_timeout(&to, limit)).unwrap().is_ok()
    };
    assert!(!connect(lab.stranger(), SocketAddr::new(v4, UNASKED), Duration::from_millis(300)));
    until("the denial", || (gateway.status().unwrap().reasons.get("no_pinhole") == Some(&1)).then_some(())).unwrap();

    let mut terminal = Terminal::open(lab.directory(), 80, 24);
    for session in gateway.sessions().unwrap() {
        terminal.masked.insert(session.session, "SESSION");
    }
    let top = format!("{} top --interval 50ms --socket {}", program().unwrap().display(), gateway.socket().display());
    let start = |before: &str| {
        terminal.write(&format!("{before} {top}"));
        terminal.press(&["Enter"]);
        terminal.wait("1 Sessions 2");
    };
    start("");

    // The panes, by their numbers and by Tab.
    terminal.wait_for("both events", |screen| screen.matches("confirmed").count() == 2);
    terminal.expect("sessions-80x24", "by age");
    terminal.press(&["2"]);
    terminal.expect("pinholes-80x24", "by left");
    terminal.press(&["Tab"]);
    terminal.expect("data-80x24", "by rate");
    terminal.press(&["4"]);
    terminal.wait_for("a rate that is over", |screen| screen.contains("no_pinhole") && !screen.contains("/s "));
    terminal.expect("refusals-80x24", "by count");
    terminal.press(&["5"]);
    terminal.expect("health-80x24", "ring losses");
    terminal.press(&["j", "k", "PgDn", "PgUp", "G", "g", "BTab"]);
    terminal.wait("by count");
    terminal.press(&["Tab", "Tab"]);
    terminal.wait("by age");
    terminal.press(&["?"]);
    terminal.expect("help-80x24", "the first row, the last");
    terminal.press(&["x"]);
    terminal.wait_for("no help", |screen| !screen.contains("the first row"));

    // Sorted and filtered.
    terminal.press(&["s"]);
    terminal.wait("CLIENT▲");
    terminal.press(&["S"]);
    terminal.wait("CLIENT▼");
    terminal.press(&["/"]);
    terminal.write("nobody");
    terminal.wait("Filter: nobody");
    terminal.press(&["Enter"]);
    terminal.wait("none that fits the filter");
    terminal.press(&["/", "C-u"]);
    terminal.write(&v6.to_string());
    terminal.wait("1 Sessions 1 of 2");
    terminal.press(&["Escape"]);
    terminal.wait("1 Sessions 0 of 2");
    terminal.press(&["Escape"]);
    terminal.wait("1 Sessions 2, by client");

    // The stories, of the row that is chosen by each key that chooses one: IPv6 stands first, as the greater.
    let story = |keys: &[&str], of: &Dialogue| {
        terminal.press(&[keys, &["Enter"]].concat());
        terminal.wait(&of.local().to_string());
        let screen = terminal.wait_for("a dialogue", |screen| screen.contains("C> EPSV") && screen.contains("<S 229"));
        assert!(!screen.contains(server.login().password.as_str()), "{screen}");
        // A key right behind it would be one with Alt.
        terminal.press(&["Escape"]);
        terminal.wait_for("no story", |screen| !screen.contains("read again"));
    };
    for (keys, of) in [
        (&["j"][..], &first),
        (&["k"], &second),
        (&["Down"], &first),
        (&["Up"], &second),
        (&["PgDn"], &first),
        (&["PgUp"], &second),
        (&["G"], &first),
        (&["g"], &second),
        (&["End"], &first),
        (&["Home"], &second),
    ] {
        story(keys, of);
    }
    terminal.press(&["Enter"]);
    terminal.wait("C> PASS ***");
    terminal.press(&["r", "j", "k", "g"]);
    terminal.expect("story-80x24", "read again");
    terminal.press(&["Escape"]);
    terminal.wait_for("no story", |screen| !screen.contains("read again"));

    // Paused, nothing moves, and then everything.
    terminal.press(&["p"]);
    terminal.wait("PAUSED");
    second.ask("NOOP").unwrap();
    let third = log_in(v4);
    until("the third session", || (gateway.sessions().unwrap().len() == 3).then_some(())).unwrap();
    terminal.press(&["1"]);
    terminal.wait("1 Sessions 2");
    terminal.press(&["p"]);
    terminal.wait("1 Sessions 3");
    drop(third);
    terminal.wait("1 Sessions 2");

    // A pinhole is revoked, with a reason, and not without one.
    terminal.press(&["2", "s", "s", "s", "g"]);
    terminal.wait("RESPONDER▲");
    terminal.press(&["d"]);
    terminal.expect("revoke-80x24", "Revoke the EPSV pinhole");
    terminal.press(&["Enter"]);
    terminal.wait("type a reason first");
    terminal.press(&["Escape"]);
    terminal.wait("nothing was done");
    assert_eq!(gateway.pinholes().unwrap().len(), 2);
    terminal.press(&["d"]);
    terminal.write("no use for it: d K q");
    terminal.press(&["Enter"]);
    terminal.wait("revoked: ");
    terminal.wait("2 Pinholes 1");
    let left = gateway.pinholes().unwrap();
    assert_eq!((left.len(), left[0].pinhole.responder, left[0].pinhole.port), (1, v6, ports[0]));
    let with_note = |kind: Kind, note: &str| {
        events.all().iter().any(|e| e.event == kind && e.note.as_deref() == Some(note) && e.uid == Some(0))
    };
    until("the event", || with_note(Kind::Revoked, "no use for it: d K q").then_some(())).unwrap();
    assert!(!connect(lab.client(), SocketAddr::new(v4, ports[1]), Duration::from_millis(300)), "it is still open");

    // A session is killed.
    terminal.press(&["K"]);
    terminal.wait("Kill the session");
    terminal.write("abuse");
    terminal.press(&["Enter"]);
    terminal.wait("killed: session");
    let killed = gateway.sessions().unwrap().into_iter().find(|s| s.client == second.local()).unwrap();
    assert_eq!(killed.state, Standing::Killed);
    until("the event", || with_note(Kind::Killed, "abuse").then_some(())).unwrap();
    terminal.press(&["1"]);
    terminal.wait_for("its state", |screen| screen.lines().any(|l| l.contains("killed") && l.contains("2001:db8")));

    // A smaller window.
    terminal.resize(60, 15);
    terminal.expect("sessions-60x15", "1 Sess 2");
    terminal.press(&["4"]);
    terminal.wait("by count");
    terminal.press(&["5"]);
    terminal.expect("health-60x15", "heartbeat");
    terminal.resize(120, 40);
    terminal.wait_for("all panes at once", |screen| {
        ["1 Sessions", "2 Pinholes", "3 Data", "4 Refusals", "5 Health"].iter().all(|p| screen.contains(p))
            && screen.contains("KERNEL")
    });
    terminal.resize(80, 24);

    // The daemon goes away, and comes back.
    gateway.kill().unwrap();
    terminal.wait("NO ANSWER");
    terminal.wait("trying again");
    gateway.start_again().unwrap();
    terminal.wait_for("an answer", |screen| !screen.contains("NO ANSWER") && screen.contains("heartbeat fresh"));

    // However it ends, the terminal is as before.
    terminal.press(&["q"]);
    terminal.is_restored(0);
    start("");
    terminal.press(&["C-c"]);
    terminal.is_restored(0);
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        start("");
        nix::sys::signal::kill(terminal.child(), signal).unwrap();
        terminal.is_restored(0);
    }

    // With colours, and without.
    for (before, after, colours) in [
        ("", "", true),
        ("NO_COLOR=1", "", false),
        ("", "--color never", false),
        ("NO_COLOR=1", "--color always", true),
    ] {
        terminal.write(&format!("{before} {top} {after}"));
        terminal.press(&["Enter"]);
        terminal.wait("heartbeat fresh");
        assert_eq!(has_colours(&terminal.looks()), colours, "{before} {after}: {:?}", terminal.looks());
        terminal.press(&["q"]);
        terminal.is_restored(0);
    }

    // What it is no use for.
    let said = gateway.ask(&["top"]).unwrap();
    assert_eq!((said.code, said.out.as_str()), (2, ""), "{said:?}");
    assert!(said.err.contains("standard output is none"), "{said:?}");

    // The daemon is stopped, and its socket goes with it.
    start("");
    gateway.stop().unwrap();
    terminal.wait("NO ANSWER");
    terminal.press(&["q"]);
    terminal.is_restored(0);
    terminal.write(&top);
    terminal.press(&["Enter"]);
    terminal.wait("no daemon answers at");
    terminal.is_restored(3);

    // The terminal goes away, as a connection of ssh does: nobody is left behind.
    gateway.start_again().unwrap();
    terminal.write(&top);
    terminal.press(&["Enter"]);
    terminal.wait("heartbeat fresh");
    let child = terminal.child();
    drop(terminal);
    until("its end", || (!Path::new(&format!("/proc/{child}")).exists()).then_some(())).unwrap();
    gateway.stop().unwrap();
}
