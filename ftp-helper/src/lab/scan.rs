//! A TCP connect scan: what of another host can be reached from here.

use std::{
    fmt::Write as _,
    io,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;
use tokio::{net::TcpSocket, sync::Semaphore, task::JoinSet};

use super::{
    Host,
    error::{LabError, Result},
};

/// How hard to try.
#[derive(Clone, Debug)]
pub struct ScanOptions {
    /// How long a port may take to answer before it counts as filtered. A lost SYN is sent again after one second.
    pub timeout: Duration,
    /// How many ports at once; fewer where the limit of open files is lower.
    pub concurrency: usize,
}

impl Default for ScanOptions {
    fn default() -> Self {
        Self { timeout: Duration::from_millis(800), concurrency: 16_384 }
    }
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Scan {
    /// Ports that took the connection.
    pub open: Vec<u16>,
    /// Ports that refused it: nothing listens, but the packets get there (or a rule rejects them).
    pub closed: Vec<u16>,
    /// How many ports did not answer, or were reported unreachable.
    pub filtered: usize,
}

/// Connects from `from` to each port once and closes at once, with a RST.
///
/// # Errors
/// When the sockets can't be made.
pub fn scan(from: &Host, target: IpAddr, ports: RangeInclusive<u16>, options: &ScanOptions) -> Result<Scan> {
    let concurrency = options.concurrency.clamp(1, descriptors()?);
    let timeout = options.timeout;
    let found = from.run_in(|| -> io::Result<Scan> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let permits = Arc::new(Semaphore::new(concurrency));
            let mut set = JoinSet::new();
            let mut scan = Scan::default();
            for port in ports {
                let permit = Arc::clone(&permits).acquire_owned().await.map_err(io::Error::other)?;
                set.spawn(async move {
                    let found = probe(SocketAddr::new(target, port), timeout).await;
                    drop(permit);
                    (port, found)
                });
                while let Some(done) = set.try_join_next() {
                    scan.note(done.map_err(io::Error::other)?)?;
                }
            }
            while let Some(done) = set.join_next().await {
                scan.note(done.map_err(io::Error::other)?)?;
            }
            scan.open.sort_unstable();
            scan.closed.sort_unstable();
            Ok(scan)
        })
    })?;
    found.map_err(LabError::io(format!("can't scan {target} from {}", from.name())))
}

enum Port {
    Open,
    Closed,
    Filtered,
}

impl Scan {
    fn note(&mut self, (port, found): (u16, io::Result<Port>)) -> io::Result<()> {
        match found? {
            Port::Open => self.open.push(port),
            Port::Closed => self.closed.push(port),
            Port::Filtered => self.filtered += 1,
        }
        Ok(())
    }
}

async fn probe(to: SocketAddr, timeout: Duration) -> io::Result<Port> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Closed by a RST: no connection is left waiting at either end.
    socket.set_zero_linger()?;
    match tokio::time::timeout(timeout, socket.connect(to)).await {
        Err(_) => Ok(Port::Filtered),
        Ok(Ok(_)) => Ok(Port::Open),
        Ok(Err(e)) => match e.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Ok(Port::Closed),
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::TimedOut
            | io::ErrorKind::PermissionDenied => Ok(Port::Filtered),
            _ => Err(e),
        },
    }
}

/// How many sockets may be open at once: the limit is raised as far as it goes, and some are left to others.
fn descriptors() -> Result<usize> {
    let failed =
        |e: nix::Error| LabError::Io { what: "can't read the limit of open files".to_owned(), source: e.into() };
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed)?;
    // Raising is a wish: the soft limit does where it is refused.
    let limit = if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    Ok(usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(512).max(64))
}

/// Sorted ports as text: `21, 50000-50099`, or `none`.
#[must_use]
pub fn ranges(ports: &[u16]) -> String {
    let mut text = String::new();
    for run in ports.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
        if !text.is_empty() {
            text.push_str(", ");
        }
        // Writing to a string does not fail.
        let _ = match run {
            [one] => write!(text, "{one}"),
            [first, .., last] => write!(text, "{first}-{last}"),
            [] => Ok(()),
        };
    }
    if text.is_empty() { "none".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::ranges;

    #[test]
    fn ports_are_shown_as_ranges() {
        assert_eq!(ranges(&[]), "none");
        assert_eq!(ranges(&[21]), "21");
        assert_eq!(ranges(&[21, 50_000, 50_001, 50_002, 65_535]), "21, 50000-50002, 65535");
    }
}
