//! The daemon under a service manager: what it tells it, and the rights and system calls that its unit leaves it.

use std::{
    os::unix::net::UnixDatagram,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use ftp_helper::lab::{Lab, LabOptions, process::Process, require_root};
use ftp_helper_tests::{
    gateway::{Gateway, PATIENCE, Settings, program, traces, until, within},
    program::said,
};
use nix::sys::signal::Signal;

/// A service manager's end of the line.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    fn bind(path: &Path) -> anyhow::Result<Self> {
        let socket = UnixDatagram::bind(path)?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        Ok(Self { socket })
    }

    /// The next message with such a line.
    fn hear(&self, wanted: &str) -> anyhow::Result<String> {
        let begun = Instant::now();
        let mut heard = Vec::new();
        while begun.elapsed() < PATIENCE {
            let mut buffer = [0; 4096];
            let Ok(n) = self.socket.recv(&mut buffer) else { continue };
            let message = String::from_utf8_lossy(&buffer[..n]).into_owned();
            if message.lines().any(|line| line == wanted) {
                return Ok(message);
            }
            heard.push(message);
        }
        anyhow::bail!("no {wanted} in {heard:?}")
    }
}

#[test]
fn the_service_manager_is_told_of_every_state() {
    if !require_root() {
        return;
    }
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let clean = traces(lab.gateway()).unwrap();
    let file = |name: &str| lab.directory().join(name);
    let manager = Manager::bind(&file("notify")).unwrap();
    std::fs::write(file("service.toml"), Settings::guarded(&lab, "drop").text(&file("service.sock"))).unwrap();
    let mut command = lab.gateway().command(program().unwrap());
    command.arg("run").arg("-c").arg(file("service.toml"));
    command.env("NOTIFY_SOCKET", file("notify")).env("WATCHDOG_USEC", "400000").env_remove("WATCHDOG_PID");
    let process = Process::spawn(command).unwrap();
    let ready = manager.hear("READY=1").unwrap();
    assert!(ready.contains("STATUS=drops what nobody negotiated; interfaces: wan0"), "{ready}");
    // Twice in the time that the manager gives it.
    for _ in 0..3 {
        let waited = Instant::now();
        manager.hear("WATCHDOG=1").unwrap();
        assert!(waited.elapsed() < PATIENCE);
    }
    process.signal(Signal::SIGHUP).unwrap();
    let reloading = manager.hear("RELOADING=1").unwrap();
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    manager.hear("READY=1").unwrap();
    process.signal(Signal::SIGTERM).unwrap();
    manager.hear("STOPPING=1").unwrap();
    let done = process.finish(PATIENCE).unwrap();
    assert!(done.success(), "{}", done.output);
    assert_eq!(traces(lab.gateway()).unwrap(), clean);
}

#[test]
fn what_a_daemon_has_left_to_a_next_one_can_be_detached() {
    if !require_root() {
        return;
    }
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let clean = traces(lab.gateway()).unwrap();
    let shielded = Settings { watch: "hook = \"xdp+tc\"\n".to_owned(), ..Settings::guarded(&lab, "drop") };
    for arguments in [&["--shield", "generic"][..], &["--attach", "clsact"]] {
        let mut gateway = Gateway::start(&lab, &shielded, arguments).unwrap();
        let attached = traces(lab.gateway()).unwrap();
        let detach = || {
            let mut command = lab.gateway().command(program().unwrap());
            command.arg("detach");
            command
        };
        let mut running = detach();
        running.arg("-c").arg(gateway.config());
        let refused = said(running).unwrap();
        assert!(refused.code == 1 && refused.err.contains("another ftp-helper is running"), "{refused:?}");
        // It ends, and leaves everything but its socket.
        gateway.signal(Signal::SIGUSR1).unwrap();
        until("the daemon has ended", || (!gateway.socket().exists()).then_some(())).unwrap();
        let done = gateway.stop().unwrap();
        assert!(done.success(), "{}", done.output);
        let left = traces(lab.gateway()).unwrap();
        assert_eq!(left, attached.into_iter().filter(|t| !t.starts_with("socket: ")).collect::<Vec<_>>());
        assert!(left.len() > clean.len());
        // Systemd knows of no such unit, or is not there to be asked: then nothing is done.
        let mut asked = detach();
        asked.args(["--when-stopped", "no-such.service", "--socket"]).arg(gateway.socket());
        said(asked).unwrap();
        assert_eq!(traces(lab.gateway()).unwrap(), left);
        let mut gone = detach();
        gone.arg("-c").arg(gateway.config());
        let said = said(gone).unwrap();
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
        assert!(within(PATIENCE, || Ok(traces(lab.gateway())? == clean)).unwrap(), "{:?}", traces(lab.gateway()));
    }
}

/// The value of a key of a unit's section `[Service]`, its lines joined.
fn value(unit: &str, key: &str) -> String {
    let lines = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    lines.collect::<Vec<_>>().join(" ")
}

#[test]
fn the_units_leave_little_to_an_attacker() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd");
    let analyze = || -> anyhow::Result<()> {
        for name in ["ftp-helper.service", "ftp-helper@.service"] {
            let unit = std::fs::read_to_string(units.join(name))?;
            ensure!(value(&unit, "ExecStart").contains("/usr/bin/ftp-helper run"), "{name}");
            let output = std::process::Command::new("systemd-analyze")
                .args(["security", "--offline=yes", "--threshold=25"])
                .arg(units.join(name))
                .output()
                .context("systemd-analyze can't be started")?;
            let said = String::from_utf8_lossy(&output.stdout);
            // It fails beyond the threshold, in tenths.
            ensure!(output.status.success(), "{name}: {said}{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    };
    analyze().unwrap();
}
