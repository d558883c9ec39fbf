//! The package's units under a real systemd: what they do when they are started, read again, restarted, upgraded and stopped, and when
//! the daemon dies or hangs.
//!
//! The units are the package's, word by word, with their sandbox. What the drop-ins of the tests change: there is no journal, so that
//! services write to a file; limits that would take the time of a test, or hold it up, are others, each named where it is.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use ftp_helper::lab::{Lab, LabOptions, require_root};
use ftp_helper_tests::{
    gateway::{PATIENCE, Settings, engine, traces, until, within},
    manager::Manager,
    program::said,
    responder::{CONTENT, Responder},
    spinner::{Mode, Spinner},
    survival::{Crowd, probe},
};

const UNIT: &str = "ftp-helper.service";
const INSTANCE: &str = "ftp-helper@dmz.service";

/// Where the configurations have their control sockets.
const SOCKET: &str = "/run/ftp-helper/ftp-helper.sock";
const INSTANCE_SOCKET: &str = "/run/ftp-helper/dmz/ftp-helper.sock";

/// A port that is guarded and that nobody negotiates: listened on, so that only the guard keeps it closed.
const CLOSED: u16 = 2000;

/// Restarts under load, and an upgrade more.
const RESTARTS: usize = 3;

/// A daemon that hangs is found out within a test's time.
const WATCHED: &str = "[Service]\nWatchdogSec=2s\n";
/// More starts than five in ten seconds.
const OFTEN: &str = "[Unit]\nStartLimitIntervalSec=0\n";
/// A daemon that has to be killed at a stop, as one that hangs is after 90 s.
const KILLED: &str = "[Service]\nKillSignal=SIGKILL\n";

/// The configuration of a daemon that guards; the group is the unit's.
fn guarded(lab: &Lab, mode: &'static str, socket: &str) -> String {
    let mut settings = Settings::guarded(lab, mode);
    settings.api = "read_group = \"adm\"\n".to_owned();
    settings.text(Path::new(socket))
}

/// Whether somebody who has negotiated nothing gets through within a moment.
fn is_open(lab: &Lab) -> bool {
    let to = SocketAddr::from((lab.server().v4(), CLOSED));
    lab.stranger().run_in(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)).is_ok()).unwrap()
}

fn listen(lab: &Lab) -> TcpListener {
    lab.server().run_in(|| TcpListener::bind((lab.server().v4(), CLOSED))).unwrap().unwrap()
}

/// Waits until nothing is left on the gateway: the kernel lets go of a link a moment after its pin.
fn is_clean(lab: &Lab, clean: &[String]) {
    let gone = within(PATIENCE, || Ok(traces(lab.gateway())? == clean)).unwrap();
    assert!(gone, "{:?} is left", traces(lab.gateway()).unwrap());
}

#[test]
fn the_units_start_reload_and_stop_and_replace_what_dies_or_hangs() {
    if !require_root() {
        return;
    }
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let clean = traces(lab.gateway()).unwrap();
    let _listener = listen(&lab);
    assert!(is_open(&lab));
    let dropping = guarded(&lab, "drop", SOCKET);
    let dmz = guarded(&lab, "drop", INSTANCE_SOCKET);
    let manager = Manager::start(lab.gateway(), &[("ftp-helper", &dropping), ("dmz", &dmz)], WATCHED).unwrap();

    // It is started when it is attached and answers, and tells what it does.
    manager.order(&["start", UNIT]).unwrap();
    assert!(!is_open(&lab));
    assert_eq!(manager.client(Path::new(SOCKET)).unwrap().status().unwrap().interfaces[0].name, "wan0");
    let told = manager.systemctl(&["status", UNIT]).unwrap().out;
    assert!(told.contains("Active: active (running)"), "{told}");
    assert!(told.contains("Status: \"drops what nobody negotiated; interfaces: wan0\""), "{told}");
    let first = manager.property(UNIT, "MainPID").unwrap();

    // The same process reads another configuration, and keeps the old one where that has a mistake.
    manager.configure("ftp-helper", &guarded(&lab, "observe", SOCKET)).unwrap();
    manager.order(&["reload", UNIT]).unwrap();
    manager.wait(UNIT, &[("StatusText", "observes, drops nothing; interfaces: wan0")]).unwrap();
    assert!(is_open(&lab));
    manager.configure("ftp-helper", "mode = \"dorp\"\n").unwrap();
    let refused = manager.systemctl(&["reload", UNIT]).unwrap();
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(manager.said().contains("dorp"), "{}", manager.said());
    manager.configure("ftp-helper", &dropping).unwrap();
    manager.order(&["reload", UNIT]).unwrap();
    manager.wait(UNIT, &[("ActiveState", "active"), ("MainPID", &first), ("NRestarts", "0")]).unwrap();
    assert!(!is_open(&lab));

    // One that is killed, and one that stands still, are replaced; the guard is closed all the while.
    let closed = SocketAddr::from((lab.server().v4(), CLOSED));
    let replaced = || -> Result<()> {
        for (signal, restarts) in [("KILL", "1"), ("STOP", "2")] {
            manager.order(&["kill", "--kill-whom=main", &format!("--signal={signal}"), UNIT])?;
            manager.wait(UNIT, &[("NRestarts", restarts), ("ActiveState", "active")]).context(signal)?;
        }
        Ok(())
    };
    let ((), tries) = probe(lab.stranger(), closed, replaced).unwrap();
    assert!(tries > 0);
    assert_ne!(manager.property(UNIT, "MainPID").unwrap(), first);

    // Stopped, it leaves nothing.
    manager.order(&["stop", UNIT]).unwrap();
    manager.wait(UNIT, &[("ActiveState", "inactive"), ("Result", "success")]).unwrap();
    is_clean(&lab, &clean);
    assert!(!manager.run("ftp-helper").exists());
    assert!(is_open(&lab));

    // The instance unit does the same with a configuration of another name.
    let responder = Responder::start(lab.server(), lab.server().v4().into()).unwrap();
    manager.order(&["start", INSTANCE]).unwrap();
    assert!(!is_open(&lab));
    let spinner = || -> Result<Spinner> {
        let mut spinner = Spinner::connect(responder.address(), false)?;
        spinner.login("u", "p")?;
        Ok(spinner)
    };
    let mut spinner = lab.client().run_in(spinner).unwrap().unwrap();
    manager.order(&["reload", INSTANCE]).unwrap();
    manager.order(&["restart", INSTANCE]).unwrap();
    assert_eq!(manager.client(Path::new(INSTANCE_SOCKET)).unwrap().sessions().unwrap().len(), 1);
    lab.client().run_in(|| spinner.fetch(Mode::Epsv, "x", CONTENT.len())).unwrap().unwrap();
    drop(spinner);
    manager.order(&["stop", INSTANCE]).unwrap();
    is_clean(&lab, &clean);
    drop(manager);
    responder.stop(lab.server());
}

#[test]
fn a_restart_or_an_upgrade_is_noticed_by_nobody() {
    if !require_root() {
        return;
    }
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let clean = traces(lab.gateway()).unwrap();
    let _listener = listen(&lab);
    let closed = SocketAddr::from((lab.server().v4(), CLOSED));
    let server = lab.server();
    let responders = [server.v4().into(), server.v6().into()].map(|a| Responder::start(server, a).unwrap());
    let targets = responders.each_ref().map(Responder::address);
    // What waits for a whole restart is not to be over meanwhile.
    let dropping = format!("{}[pinhole]\ntimeout = \"60s\"\n", guarded(&lab, "drop", SOCKET));
    let manager = Manager::start(lab.gateway(), &[("ftp-helper", &dropping)], OFTEN).unwrap();
    manager.order(&["start", UNIT]).unwrap();
    let client = || manager.client(Path::new(SOCKET));
    // One that has negotiated and waits.
    let waiting = || -> Result<Spinner> {
        let mut spinner = Spinner::connect(targets[0], false)?;
        spinner.login("u", "p")?;
        spinner.ask("EPSV", 229)?;
        Ok(spinner)
    };
    let mut waiting = lab.client().run_in(waiting).unwrap().unwrap();
    let own = lab.client().run_in(|| waiting.local()).unwrap().unwrap();
    let open = || -> Result<Option<u16>> {
        Ok(client()?.pinholes()?.iter().find(|p| p.client == Some(own)).map(|p| p.pinhole.port))
    };
    // The kernel opens it by itself, and the daemon hears of it.
    let port = Some(until("the pinhole is told", || open().unwrap()).unwrap());

    let crowd = Crowd::default();
    let mut restored = 0;
    let mut replace = || -> Result<()> {
        let mut before = manager.property(UNIT, "MainPID")?;
        for n in 0..=RESTARTS {
            // Under way: everybody has transferred since the last one.
            let (transfers, _) = crowd.so_far();
            ensure!(within(PATIENCE, || Ok(crowd.so_far().0 > transfers + 16))?, "no transfers");
            if n < RESTARTS {
                manager.order(&["restart", UNIT])?;
            } else {
                // What the package does when it is put in the place of an earlier one.
                let mut upgrade = manager.command("sh");
                upgrade.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/debian/postinst"));
                upgrade.args(["configure", "0.0.1"]);
                let said = said(upgrade)?;
                ensure!(said.code == 0, "{said:?}");
            }
            let pid = manager.property(UNIT, "MainPID")?;
            ensure!(pid != before && pid != "0", "the same daemon after restart {n}");
            before = pid;
            restored += engine(&client()?.status()?, "sessions_restored");
            if n == 0 {
                // What was open before is open, and nobody has to ask again.
                ensure!(open()? == port, "{:?} instead of {port:?}", open()?);
            }
        }
        Ok(())
    };
    let ((), tries) = probe(lab.stranger(), closed, || crowd.run(&lab, &targets, 16, &mut replace)).unwrap();
    lab.client().run_in(|| waiting.fetch(Mode::Epsv, "x", CONTENT.len())).unwrap().unwrap();
    let (transfers, _) = crowd.so_far();
    let troubles = crowd.troubles();
    println!(
        "{RESTARTS} restarts and an upgrade: {transfers} transfers, {} failed; {restored} dialogues restored; {tries} probes, none let through",
        troubles.len()
    );
    assert_eq!(troubles, [""; 0], "{}", manager.said());
    assert!(tries > 0);
    let said = manager.said();
    assert_eq!(said.matches("programs and tables are left to the next daemon").count(), RESTARTS + 1, "{said}");
    assert_eq!(said.matches("took over ").count(), RESTARTS + 1, "{said}");
    assert!(!said.contains("detaching"), "{said}");
    let status = client().unwrap().status().unwrap();
    assert_eq!((engine(&status, "divergences"), engine(&status, "audit_differences")), (0, 0), "{status:?}");
    drop(waiting);
    manager.order(&["stop", UNIT]).unwrap();
    is_clean(&lab, &clean);
    drop(manager);
    for r in responders {
        assert_eq!(r.troubles(), [""; 0]);
        r.stop(lab.server());
    }
}

#[test]
fn what_a_daemon_could_not_remove_goes_with_the_stop() {
    if !require_root() {
        return;
    }
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let clean = traces(lab.gateway()).unwrap();
    let _listener = listen(&lab);
    let dropping = guarded(&lab, "drop", SOCKET);
    let manager = Manager::start(lab.gateway(), &[("ftp-helper", &dropping)], KILLED).unwrap();
    manager.order(&["start", UNIT]).unwrap();
    let refused = manager.ask(&["detach"]).unwrap();
    assert!(refused.code == 1 && refused.err.contains("another ftp-helper is running"), "{refused:?}");
    assert!(!is_open(&lab));
    manager.order(&["stop", UNIT]).unwrap();
    manager.wait(UNIT, &[("ActiveState", "failed"), ("Result", "signal")]).unwrap();
    is_clean(&lab, &clean);
    assert!(is_open(&lab));

    // A restart that ends in nothing, since the next one can't read its configuration: what is guarded stays so, until somebody says
    // that nobody is to follow.
    manager.order(&["start", UNIT]).unwrap();
    manager.configure("ftp-helper", "mode = \"dorp\"\n").unwrap();
    let failed = manager.systemctl(&["restart", UNIT]).unwrap();
    assert_ne!(failed.code, 0, "{failed:?}");
    manager.wait(UNIT, &[("ActiveState", "failed"), ("SubState", "failed")]).unwrap();
    assert!(!is_open(&lab));
    let unreadable = manager.ask(&["detach", "-c", "/etc/ftp-helper/ftp-helper.toml"]).unwrap();
    assert_eq!(unreadable.code, 2, "{unreadable:?}");
    let detached = manager.ask(&["detach", "--socket", SOCKET]).unwrap();
    assert_eq!((detached.code, detached.out.as_str()), (0, "Detached: nothing is left, and nothing is guarded.\n"));
    is_clean(&lab, &clean);
    assert!(is_open(&lab));
    let again = manager.ask(&["detach", "--socket", SOCKET]).unwrap();
    assert_eq!((again.code, again.out.as_str()), (0, "Nothing is left to detach in this network namespace.\n"));
}
