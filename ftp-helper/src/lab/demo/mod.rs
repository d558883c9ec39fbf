//! The demonstration: a story of a gateway that opens exactly what was negotiated, each step of it checked.
//!
//! It runs the program itself as the gateway's daemon and asks it through its control socket, as anybody would.

mod daemon;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use self::daemon::Daemon;
use super::{
    Host, Lab, LabError, LabOptions, OUTSIDE_INTERFACE, Result,
    clients::{ClientKind, Family, Job, Mode},
    dialogue::Dialogue,
    netns,
    scan::{ScanOptions, ranges, scan},
    servers::{Server, ServerKind, ServerOptions, pattern},
    subdirectory,
};
use crate::event::{By, Event, Kind};

/// Another service of the server's host: what nobody negotiates.
const SERVICE: u16 = 50_050;
/// The control port of the second server, the one that knows EPRT. A control port is never guarded, so it is none that
/// the scans look at.
const SECOND_PORT: u16 = 921;
/// How long a transfer or an event may take.
const LIMIT: Duration = Duration::from_secs(30);
/// How long a connection may take before it counts as blocked. The first SYN is sent again after a second.
const BLOCKED: Duration = Duration::from_millis(1500);
/// What scans look at.
const PORTS: std::ops::RangeInclusive<u16> = 1024..=65_535;

/// Tells the story line by line. `program` is this program, to run as the daemon.
///
/// # Errors
/// When something did not go as told, or the lab can't be built.
pub fn run(program: &Path, say: &mut dyn FnMut(&str)) -> Result<()> {
    let begun = Instant::now();
    let lab = Lab::new(&LabOptions::default())?;
    let name = lab.name().to_owned();
    say("A gateway, an FTP server behind it, and outside a client and a stranger, in network namespaces of their own:");
    say("");
    say(&format!("    client   {:<14} --+", lab.client().v4()));
    say(&format!("                            +-- {OUTSIDE_INTERFACE} [gateway] lan0 -- server {}", lab.server().v4()));
    say(&format!("    stranger {:<14} --+", lab.stranger().v4()));
    let result = Story { lab: &lab, say, mark: 0 }.tell(program);
    drop(lab);
    result?;
    let left: Vec<String> = netns::names()?.into_iter().filter(|n| n.starts_with(&format!("fh-{name}-"))).collect();
    told(left.is_empty(), || format!("namespaces are left: {}", left.join(", ")))?;
    say("The namespaces are removed too.");
    say("");
    say(&format!("All of it went as told, in {:.0} s.", begun.elapsed().as_secs_f64()));
    Ok(())
}

struct Story<'a> {
    lab: &'a Lab,
    say: &'a mut dyn FnMut(&str),
    /// How many events have been shown.
    mark: usize,
}

impl Story<'_> {
    fn tell(&mut self, program: &Path) -> Result<()> {
        let lab = self.lab;
        let options = ServerOptions { bundled: Some(program.to_owned()), ..ServerOptions::default() };
        let server = Server::start(lab.server(), ServerKind::Bundled, &options)?;
        let second = self.second_server()?;
        let service = SocketAddr::new(lab.server().v4().into(), SERVICE);
        let _listener = lab
            .server()
            .run_in(|| TcpListener::bind(service))?
            .map_err(LabError::io(format!("can't listen on {service}")))?;

        self.title("Without ftp-helper");
        told(connects(lab.client(), service)?, || format!("{service} is not reachable without ftp-helper"))?;
        self.line(&format!(
            "The server's host has another service on port {SERVICE}. The client reaches it: {service} answers."
        ));

        self.title("1. The guard");
        let mut daemon = Daemon::start(lab, program, &[server.port(), SECOND_PORT])?;
        let told_all = self.guarded(&mut daemon, &server, second.as_ref(), service);
        // What the daemon said explains most of what can go wrong.
        told_all.map_err(|e| daemon.explain(e))?;

        self.title("5. The end");
        daemon.stop(lab)?;
        self.line("The daemon was told to stop (SIGTERM): no program, table or socket of it is left,");
        told(connects(lab.client(), service)?, || format!("{service} is still not reachable"))?;
        self.line(&format!("and port {SERVICE} answers as it did before."));
        Ok(())
    }

    /// Everything while the daemon runs.
    fn guarded(
        &mut self,
        daemon: &mut Daemon,
        server: &Server,
        second: Option<&Server>,
        service: SocketAddr,
    ) -> Result<()> {
        self.line(&format!(
            "ftp-helper runs on the gateway, mode drop: into the server's ports {}-{} only what was negotiated.",
            PORTS.start(),
            PORTS.end()
        ));
        told(!connects(self.lab.client(), service)?, || format!("{service} was reached through the guard"))?;
        self.line(&format!("The client tries port {SERVICE} again: no answer. The event:"));
        daemon.wait(self.mark, "the denial's event", |e| {
            e.event == Kind::Denied && e.connection.as_ref().is_some_and(|c| c.to == service && c.dropped == Some(true))
        })?;
        self.events(daemon);
        self.transfers(daemon, server, second)?;
        self.scans(daemon, server)
    }

    /// A transfer in each mode.
    fn transfers(&mut self, daemon: &Daemon, server: &Server, second: Option<&Server>) -> Result<()> {
        self.title("2. Transfers in every mode, by curl: upload, download, listing");
        for (mode, family) in [(Mode::Pasv, Family::V4), (Mode::Epsv, Family::V6), (Mode::Port, Family::V4)] {
            self.transfer(daemon, server, mode, family)?;
        }
        match second {
            Some(second) => self.transfer(daemon, second, Mode::Eprt, Family::V6),
            None => self.refused_eprt(daemon, server),
        }
    }

    fn transfer(&mut self, daemon: &Daemon, server: &Server, mode: Mode, family: Family) -> Result<()> {
        let upload = subdirectory(self.lab.directory(), "demo")?.join("upload.bin");
        std::fs::write(&upload, pattern(100_000)).map_err(LabError::io(format!("can't write {}", upload.display())))?;
        let from = self.lab.client();
        let job = Job { from, client: ClientKind::Curl, mode, family, server, upload: &upload, limit: LIMIT };
        let outcome = job.run()?;
        told(outcome.transferred_by(mode), || format!("the {mode} transfer failed; curl said:\n{}", outcome.output))?;
        let verb = mode.name().to_uppercase();
        self.line(&format!("{verb} over IPv{family}, {} server: all three are whole. The events:", server.kind()));
        let negotiated =
            |e: &Event| e.pinhole.as_ref().is_some_and(|p| format!("{:?}", p.mode).eq_ignore_ascii_case(&verb));
        let mine = |events: &[Event], kind| events.iter().filter(|e| e.event == kind && negotiated(e)).count();
        let kinds = [Kind::Opened, Kind::Used, Kind::DataEnd];
        for kind in kinds {
            let what = format!("{kind:?} of three data connections of the {mode} transfer");
            daemon.wait_for(self.mark, &what, |events| mine(events, kind) >= 3)?;
        }
        let (events, from) = (daemon.events(), self.mark);
        for kind in kinds {
            let n = mine(events.get(from..).unwrap_or_default(), kind);
            told(n == 3, || format!("{n} events {kind:?} of three data connections of the {mode} transfer"))?;
        }
        self.events(daemon);
        Ok(())
    }

    /// The bundled server knows no EPRT: what the gateway makes of its refusal.
    fn refused_eprt(&mut self, daemon: &Daemon, server: &Server) -> Result<()> {
        self.line(
            "EPRT over IPv6: no server that knows it is here (`ftp-helper lab fetch` fetches some), and the bundled",
        );
        self.line("one does not. So no transfer: the gateway opens at the client's command, and takes it back when the server refuses:");
        let to = SocketAddr::new(self.lab.server().v6().into(), server.port());
        let mut dialogue = Dialogue::open(self.lab.client(), to, LIMIT)?;
        dialogue.login(server.login())?;
        let command = format!("EPRT |2|{}|50060|", dialogue.local().ip());
        let reply = dialogue.ask(&command)?;
        told(reply.code >= 500, || format!("the bundled server took {command}: {}", reply.text))?;
        for kind in [Kind::Opened, Kind::Revoked] {
            daemon.wait(self.mark, &format!("an event {kind:?} of EPRT"), |e| e.event == kind)?;
        }
        dialogue.ask("QUIT")?;
        self.events(daemon);
        Ok(())
    }

    /// What is reachable while a pinhole is open, and afterwards.
    fn scans(&mut self, daemon: &mut Daemon, server: &Server) -> Result<()> {
        self.title("3. A scan while a pinhole is open");
        let to = SocketAddr::new(self.lab.server().v4().into(), server.port());
        let mut dialogue = Dialogue::open(self.lab.client(), to, LIMIT)?;
        dialogue.login(server.login())?;
        let port = dialogue.pasv()?;
        self.line(&format!("The client logs in, sends PASV, and waits. The server announced port {port}:"));
        daemon.wait(self.mark, "the pinhole's event", |e| {
            e.event == Kind::Opened && e.pinhole.as_ref().is_some_and(|p| p.port == port)
        })?;
        self.events(daemon);
        let pinholes = daemon.ask("pinholes", |c| c.pinholes())?;
        told(pinholes.len() == 1 && pinholes[0].pinhole.port == port, || {
            format!("the daemon tells of other pinholes: {pinholes:?}")
        })?;
        self.scan(self.lab.stranger(), &[])?;
        self.scan(self.lab.client(), &[port])?;

        self.title("4. And afterwards");
        dialogue.ask("QUIT")?;
        drop(dialogue);
        self.line("The client's scan has used the pinhole up, and it says QUIT:");
        self.scan(self.lab.client(), &[])?;
        let pinholes = daemon.ask("pinholes", |c| c.pinholes())?;
        told(pinholes.is_empty(), || format!("pinholes are left: {pinholes:?}"))?;
        let status = daemon.ask("status", |c| c.status())?;
        let denied: u64 = status.denied.iter().map(|d| d.denied).sum();
        let (taken, all) = (engine(&status.engine, "taken_by_fast_path"), engine(&status.engine, "announcements"));
        self.line(&format!(
            "`ftp-helper status` counts {denied} denied SYNs, most of them the scans'; the kernel itself"
        ));
        self.line(&format!("opened {taken} of {all} announcements, before the announcing packet went on."));
        told(denied > 0 && taken > 0, || "the counters tell of nothing".to_owned())
    }

    /// Scans the server, which must show exactly these ports.
    fn scan(&mut self, from: &Host, expected: &[u16]) -> Result<()> {
        let target = IpAddr::V4(self.lab.server().v4());
        let found = scan(from, target, PORTS, &ScanOptions::default())?;
        let name = from.name();
        self.line(&format!(
            "    {name:<8} scans ports {}-{}: open {}, closed {}, no answer from {}",
            PORTS.start(),
            PORTS.end(),
            ranges(&found.open),
            ranges(&found.closed),
            found.filtered
        ));
        told(found.open == expected && found.closed.is_empty(), || {
            format!("the {name} should have found {} open and nothing else", ranges(expected))
        })
    }

    /// A real server that knows EPRT, where one is here, beside the bundled one.
    fn second_server(&self) -> Result<Option<Server>> {
        let options = ServerOptions { port: SECOND_PORT, ..ServerOptions::default() };
        let real = [ServerKind::Vsftpd, ServerKind::Pyftpdlib, ServerKind::Pureftpd, ServerKind::Proftpd];
        let kind = real.into_iter().find(|k| k.is_available(&options));
        kind.map(|k| Server::start(self.lab.server(), k, &options)).transpose()
    }

    fn title(&mut self, text: &str) {
        (self.say)("");
        (self.say)(text);
        (self.say)("");
    }

    fn line(&mut self, text: &str) {
        (self.say)(text);
    }

    /// Shows the events that have come since the last time. Beginnings and ends of sessions are left out.
    fn events(&mut self, daemon: &Daemon) {
        let all = daemon.events();
        for event in all.iter().skip(self.mark) {
            if !matches!(event.event, Kind::SessionStart | Kind::SessionEnd | Kind::Confirmed) {
                (self.say)(&format!("    {}", summary(event)));
            }
        }
        self.mark = all.len();
    }
}

fn engine(counters: &BTreeMap<String, u64>, name: &str) -> u64 {
    counters.get(name).copied().unwrap_or_default()
}

/// What should have come true.
fn told(fact: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if fact { Ok(()) } else { Err(LabError::Demo(otherwise())) }
}

/// Whether somebody answers there.
fn connects(from: &Host, to: SocketAddr) -> Result<bool> {
    from.run_in(|| TcpStream::connect_timeout(&to, BLOCKED).is_ok())
}

/// An event in a few words; `ftp-helper observe` tells all.
fn summary(event: &Event) -> String {
    // As the event is written everywhere else.
    let kind = serde_json::to_value(event.event).ok().and_then(|v| v.as_str().map(ToOwned::to_owned));
    let mut text = format!("{:<9}", kind.unwrap_or_default());
    if let Some(p) = &event.pinhole {
        text.push_str(&format!(
            " {:<4} {} -> {}",
            format!("{:?}", p.mode).to_lowercase(),
            p.initiator,
            SocketAddr::new(p.responder, p.port)
        ));
    } else if let Some(c) = &event.connection {
        text.push_str(&format!(" {} -> {}", c.from, c.to));
    }
    if let Some(by) = event.by {
        text.push_str(if by == By::Kernel { ", by the kernel" } else { ", by the daemon" });
    }
    if let Some(c) = &event.connection
        && let (Some(out), Some(back)) = (c.bytes_out, c.bytes_back)
    {
        text.push_str(&format!(", {out} bytes out, {back} back"));
    }
    if let Some(reason) = event.reason {
        text.push_str(&format!(", {reason}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Connection;

    #[test]
    fn an_event_is_told_in_a_line() {
        let connection = Connection::new("203.0.113.10:5000".parse().unwrap(), "192.0.2.100:50050".parse().unwrap());
        let event = Event { connection: Some(connection), ..Event::new(Kind::Denied, 0) };
        let event = event.because(ftp_helper_common::reason::Reason::NoPinhole);
        assert_eq!(summary(&event), "denied    203.0.113.10:5000 -> 192.0.2.100:50050, no_pinhole");
    }

    #[test]
    fn what_did_not_come_true_is_an_error() {
        assert!(told(true, || "x".into()).is_ok());
        let e = told(false, || "the reason".into()).unwrap_err().to_string();
        assert!(e.contains("the reason"), "{e}");
    }
}
