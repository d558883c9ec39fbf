//! What goes into a report.

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;

use super::{super::target::TargetArgs, Part};
use crate::{
    api::{
        Filter,
        client::{Client, Observed},
    },
    config::{Config, DEFAULT_PATH},
    dataplane::{NEEDED, Platform},
    doctor,
    error::Fault,
    event::{Event, Kind},
};

/// How long the daemon must have run before its silence means anything to `doctor`, as that is by default.
const QUIET: Duration = Duration::from_secs(60);
/// How long the metrics may take, and how much of them is read.
const METRICS_WAIT: Duration = Duration::from_secs(5);
const METRICS_MAX: u64 = 16 << 20;

/// The parts, and what is not among them.
pub(super) struct Collected {
    pub(super) parts: Vec<Part>,
    pub(super) missing: Vec<String>,
}

/// All that there is to know.
pub(super) fn all(target: &TargetArgs) -> Collected {
    let mut all = Collected { parts: Vec::new(), missing: Vec::new() };
    all.add("versions.txt", Ok(versions()));
    all.add("kernel.txt", Ok(kernel()));
    let status = target.connect().and_then(|mut c| c.status());
    let file = target
        .config_file()
        .or_else(|| status.as_ref().ok().and_then(|s| s.config.clone()))
        .unwrap_or_else(|| DEFAULT_PATH.into());
    all.add("config.toml", configuration(&file));
    let config = Config::load(&file);
    let address = config.as_ref().ok().and_then(|c| c.api.metrics);
    if let Err(e) = &config {
        all.missing.push(format!("what the configuration means: {e}"));
    }
    match target.socket() {
        Ok(socket) => {
            let findings = doctor::examine(config.as_ref().ok(), &socket, QUIET);
            all.add("doctor.jsonl", lines(&findings));
        }
        Err(e) => all.missing.push(format!("doctor.jsonl: {e}")),
    }
    match status {
        Ok(status) => {
            all.add("status.json", serde_json::to_string_pretty(&status).map_err(|e| e.to_string()));
            all.ask(target, "sessions.jsonl", |c| c.sessions());
            all.ask(target, "pinholes.jsonl", |c| c.pinholes());
            all.ask(target, "connections.jsonl", |c| c.connections());
            all.add("events.jsonl", events(target).map_err(|e| e.to_string()).and_then(|e| lines(&e)));
            match address {
                Some(address) => all.add("metrics.txt", metrics(address)),
                None => all.missing.push("metrics.txt: no [api] metrics is configured".to_owned()),
            }
        }
        // One reason for all of them.
        Err(e) => all.missing.push(format!("status, sessions, pinholes, connections, events, metrics: {e}")),
    }
    all
}

impl Collected {
    fn add(&mut self, name: &'static str, text: Result<String, String>) {
        match text {
            Ok(text) => self.parts.push(Part { name, text }),
            Err(e) => self.missing.push(format!("{name}: {e}")),
        }
    }

    fn ask<T: Serialize>(
        &mut self,
        target: &TargetArgs,
        name: &'static str,
        ask: impl FnOnce(&mut Client) -> Result<Vec<T>, Fault>,
    ) {
        let rows = target.connect().and_then(|mut c| ask(&mut c));
        self.add(name, rows.map_err(|e| e.to_string()).and_then(|rows| lines(&rows)));
    }
}

/// What the daemon remembers. Lines of dialogues that were refused are left out: what a client has sent there nobody knows.
fn events(target: &TargetArgs) -> Result<Vec<Event>, Fault> {
    let mut events = Vec::new();
    target.connect()?.observe(Filter::default(), false, usize::MAX, |observed| {
        if let Observed::Event(mut event) = observed {
            if event.event == Kind::Refused && event.detail.is_some() {
                event.detail = Some("(left out)".to_owned());
            }
            events.push(*event);
        }
        Ok::<_, Fault>(true)
    })?;
    Ok(events)
}

fn versions() -> String {
    let mut s = format!("ftp-helper {}\n", env!("CARGO_PKG_VERSION"));
    if let Ok(uname) = nix::sys::utsname::uname() {
        // Without the host's name.
        let words = [uname.sysname(), uname.release(), uname.version(), uname.machine()];
        let words: Vec<_> = words.iter().map(|w| w.to_string_lossy()).collect();
        let _ = writeln!(s, "{}", words.join(" "));
    }
    s.push_str(&fs::read_to_string("/etc/os-release").unwrap_or_default());
    s
}

fn kernel() -> String {
    let here = Platform::here();
    let names = |caps: &[caps::Capability]| caps.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let mut s = format!("release {}\n", here.release);
    // Writing to a String does not fail.
    let _ = writeln!(s, "btf {} {}", here.btf.display(), if here.btf.exists() { "present" } else { "missing" });
    let _ = writeln!(s, "tcx {}", if here.has_tcx() { "yes" } else { "no" });
    let _ = writeln!(s, "capabilities needed {}", names(&NEEDED));
    let _ = writeln!(s, "capabilities missing {}", names(&here.missing));
    for (name, path) in [
        ("bpf_jit_enable", "/proc/sys/net/core/bpf_jit_enable"),
        ("unprivileged_bpf_disabled", "/proc/sys/kernel/unprivileged_bpf_disabled"),
        ("nf_conntrack_max", "/proc/sys/net/netfilter/nf_conntrack_max"),
    ] {
        let value = fs::read_to_string(path).map_or_else(|e| e.to_string(), |v| v.trim().to_owned());
        let _ = writeln!(s, "{name} {value}");
    }
    let pins = Path::new("/sys/fs/bpf/ftp-helper");
    match fs::read_dir(pins) {
        Ok(entries) => {
            let mut names: Vec<_> = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            let _ = writeln!(s, "pinned {}", names.join(" "));
        }
        Err(e) => {
            let _ = writeln!(s, "pinned: {}: {e}", pins.display());
        }
    }
    s
}

/// The file as it is, but for what a key calls a secret: the configuration knows none, and a file may hold anything.
fn configuration(file: &PathBuf) -> Result<String, String> {
    let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let mut s = format!("# {}\n", file.display());
    for line in text.lines() {
        let lower = line.to_ascii_lowercase();
        let secret = ["password", "passwd", "secret", "token"].iter().any(|word| lower.contains(word));
        s.push_str(if secret { "# (left out)" } else { line });
        s.push('\n');
    }
    Ok(s)
}

fn metrics(address: SocketAddr) -> Result<String, String> {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, METRICS_WAIT)?;
        stream.set_read_timeout(Some(METRICS_WAIT))?;
        stream.set_write_timeout(Some(METRICS_WAIT))?;
        write!(stream, "GET /metrics HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(METRICS_MAX).read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().map_err(|e| format!("{address}: {e}"))?;
    match answer.split_once("\r\n\r\n") {
        Some((head, page)) if head.starts_with("HTTP/1") && head.contains(" 200 ") => Ok(page.to_owned()),
        _ => Err(format!("{address} answers {:?}", answer.lines().next().unwrap_or_default())),
    }
}

/// One JSON object a line.
fn lines<T: Serialize>(rows: &[T]) -> Result<String, String> {
    let mut s = String::new();
    for row in rows {
        s.push_str(&serde_json::to_string(row).map_err(|e| e.to_string())?);
        s.push('\n');
    }
    Ok(s)
}
