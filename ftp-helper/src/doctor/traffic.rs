//! Whether the daemon sees what there is to see.

use std::{fs, path::Path, time::Duration};

use super::finding::{Code, Finding, Severity};
use crate::{
    api::{Status, client::Client},
    error::Code as Exit,
    nft,
};

/// Asks the daemon and compares with what this host knows of connections to control ports.
pub(super) fn check(socket: &Path, ports: &[u16], quiet: Duration, findings: &mut Vec<Finding>) {
    let status = match Client::connect(socket).and_then(|mut c| c.status()) {
        Ok(status) => status,
        Err(e) if e.code == Exit::NotRunning => {
            let remedy = "start it: `ftp-helper run`";
            findings.push(Finding::new(Severity::Info, Code::NotRunning, e.message).remedy(remedy));
            return;
        }
        Err(e) => {
            findings.push(Finding::new(Severity::Warning, Code::NotRunning, e.message));
            return;
        }
    };
    let sockets: String = ["tcp", "tcp6"]
        .iter()
        .map(|f| fs::read_to_string(Path::new("/proc/self/net").join(f)).unwrap_or_default())
        .collect();
    let mut known = count(&sockets, ports);
    // Connections that are forwarded; without connection tracking there is nothing to compare with.
    known.connections += nft::connections_to(ports).unwrap_or(0);
    findings.extend(judge(&status, &known, ports, quiet));
}

/// Sockets on control ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Known {
    listeners: usize,
    connections: usize,
}

/// Counts listeners and established connections with a local or remote port in `/proc/net/tcp` and `tcp6` (proc(5)).
fn count(listing: &str, ports: &[u16]) -> Known {
    let port = |end: &str| end.rsplit_once(':').and_then(|(_, p)| u16::from_str_radix(p, 16).ok());
    let mut known = Known::default();
    for line in listing.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, local, remote, state, ..] = words[..] else { continue };
        let (local, remote) = (port(local), port(remote));
        let ours = |p: Option<u16>| p.is_some_and(|p| ports.contains(&p));
        match state {
            "0A" if ours(local) => known.listeners += 1,
            "01" if ours(local) || ours(remote) => known.connections += 1,
            _ => {}
        }
    }
    known
}

fn judge(status: &Status, known: &Known, ports: &[u16], quiet: Duration) -> Option<Finding> {
    let seen = |name: &str| status.counters.get(name).copied().unwrap_or(0);
    let any = seen("control_segments") + seen("half_open") + seen("sessions");
    let strays: u64 = status.reasons.get("midstream").copied().unwrap_or(0);
    if any + strays > 0 || u128::from(status.uptime_ms) < quiet.as_millis() {
        return None;
    }
    let Known { listeners, connections } = *known;
    if listeners + connections == 0 {
        return None;
    }
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    let what = format!(
        "no control packet was seen in {}, although there are {listeners} listeners and {connections} connections on \
         port {}",
        humantime::format_duration(Duration::from_secs(status.uptime_ms / 1000)),
        ports.join(", ")
    );
    // Listeners may just have no clients.
    let severity = if connections > 0 { Severity::Error } else { Severity::Warning };
    let interfaces: Vec<&str> = status.interfaces.iter().map(|i| i.name.as_str()).collect();
    let place = format!("watched: {}", if interfaces.is_empty() { "nothing".into() } else { interfaces.join(", ") });
    let remedy = "watch the interfaces by which FTP clients or servers are reached (`ip route get ADDRESS`)";
    Some(Finding::new(severity, Code::ControlUnseen, what).at(place).remedy(remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "  sl  local_address rem_address   st tx_queue rx_queue\n\
         0: 00000000:0015 00000000:0000 0A 00000000:00000000 00:00000000\n\
         1: 0100007F:0015 0100007F:C350 01 00000000:00000000 00:00000000\n\
         2: 0100007F:0016 0100007F:C351 01 00000000:00000000 00:00000000\n";

    #[test]
    fn sockets_are_counted() {
        assert_eq!(count(LISTING, &[21]), Known { listeners: 1, connections: 1 });
        assert_eq!(count(LISTING, &[2121]), Known::default());
    }

    #[test]
    fn silence_is_found_only_where_there_is_something_to_hear() {
        let quiet = Duration::from_secs(60);
        let status = Status { uptime_ms: 120_000, ..Status::default() };
        let both = Known { listeners: 1, connections: 2 };
        let found = judge(&status, &both, &[21], quiet).unwrap();
        assert_eq!((found.code, found.severity), (Code::ControlUnseen, Severity::Error));
        let listener = Known { listeners: 1, connections: 0 };
        assert_eq!(judge(&status, &listener, &[21], quiet).unwrap().severity, Severity::Warning);
        assert_eq!(judge(&status, &Known::default(), &[21], quiet), None);
        let young = Status { uptime_ms: 30_000, ..Status::default() };
        assert_eq!(judge(&young, &both, &[21], quiet), None);
        let seen = Status { counters: [("control_segments".into(), 1)].into(), ..status.clone() };
        assert_eq!(judge(&seen, &both, &[21], quiet), None);
        let midstream = Status { reasons: [("midstream".into(), 1)].into(), ..status };
        assert_eq!(judge(&midstream, &both, &[21], quiet), None);
    }
}
