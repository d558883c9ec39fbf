//! What a scan of the whole guarded range finds while a pinhole is open, and that it finds nothing afterwards.
//!
//! The short form scans the whole range from the client each time; from the stranger the whole range while the pinhole
//! is open, and afterwards the neighbourhood of its port only.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    ops::RangeInclusive,
};

use ftp_helper::{
    event::Kind,
    lab::{
        self, Host, Lab, LabOptions,
        clients::Family,
        dialogue::Dialogue,
        scan::{Scan, ScanOptions, ranges, scan},
        servers::{Server, ServerKind, ServerOptions},
    },
};
use ftp_helper_tests::gateway::{Gateway, PATIENCE, Settings, full, until};

const GUARDED: RangeInclusive<u16> = 1024..=65535;

struct Ground<'a> {
    lab: &'a Lab,
    server: &'a Server,
    family: Family,
}

impl Ground<'_> {
    fn control(&self) -> SocketAddr {
        SocketAddr::new(self.server.host().address(self.family), self.server.port())
    }

    fn announce(&self) -> (Dialogue, u16) {
        let mut d = Dialogue::open(self.lab.client(), self.control(), PATIENCE).unwrap();
        d.login(self.server.login()).unwrap();
        let port = if self.family == Family::V4 { d.pasv() } else { d.epsv() };
        (d, port.unwrap())
    }

    fn scan(&self, from: &Host, ports: RangeInclusive<u16>) -> Scan {
        scan(from, self.control().ip(), ports, &ScanOptions::default()).unwrap()
    }

    fn nothing(&self, port: u16, when: &str) {
        let near = port.saturating_sub(500).max(1024)..=port.saturating_add(500);
        for (from, ports) in [(self.lab.client(), GUARDED), (self.lab.stranger(), if full() { GUARDED } else { near })]
        {
            let all = ports.len();
            let found = self.scan(from, ports);
            let (open, closed) = (ranges(&found.open), ranges(&found.closed));
            let who = format!("from {} over IPv{} {when}", from.name(), self.family);
            assert_eq!(found.filtered, all, "{who}: open {open}, closed {closed}; {port} had been announced");
        }
    }
}

#[test]
fn only_the_announced_port_is_reachable_and_only_while_it_is() {
    if !lab::require_root() {
        return;
    }
    let lab = Lab::new(&LabOptions::default()).unwrap();
    // A process that serves many at once, and keeps its data port open until it is told otherwise.
    let server = Server::start(lab.server(), ServerKind::Pyftpdlib, &ServerOptions::default()).unwrap();
    let long = Settings::guarded(&lab, "drop").section("[pinhole]\ntimeout = \"5min\"");
    let short = Settings::guarded(&lab, "drop").section("[pinhole]\ntimeout = \"1s\"");
    let mut gateway = Gateway::start(&lab, &long, &[]).unwrap();
    for family in Family::ALL {
        let ground = Ground { lab: &lab, server: &server, family };
        let gone = |gateway: &Gateway| {
            until("the pinhole is gone", || gateway.pinholes().unwrap().is_empty().then_some(())).unwrap();
        };

        // Open: the stranger first, since the client's scan uses it up.
        let (mut dialogue, port) = ground.announce();
        let found = ground.scan(lab.stranger(), GUARDED);
        assert_eq!((&*found.open, &*found.closed), (&[][..], &[][..]), "the stranger over IPv{family}");
        assert_eq!(gateway.pinholes().unwrap().len(), 1, "a scan by others leaves it alone");
        let found = ground.scan(lab.client(), GUARDED);
        assert_eq!((&*found.open, &*found.closed), (&[port][..], &[][..]), "the client over IPv{family}");

        // Used, with the control connection still there.
        gone(&gateway);
        ground.nothing(port, "after use");
        dialogue.ask("NOOP").unwrap();
        drop(dialogue);

        // After QUIT.
        let (mut dialogue, port) = ground.announce();
        until("a pinhole", || (gateway.pinholes().unwrap().len() == 1).then_some(())).unwrap();
        dialogue.send("QUIT").unwrap();
        gone(&gateway);
        ground.nothing(port, "after QUIT");
        drop(dialogue);

        // After a RST of the control connection.
        let port = reset(&ground);
        gone(&gateway);
        ground.nothing(port, "after a RST");

        // After its time.
        assert_eq!(gateway.reload(&short).unwrap().changed, ["[pinhole]"]);
        let events = gateway.follow().unwrap();
        let (dialogue, port) = ground.announce();
        events.wait("it expires", |e| e.event == Kind::Expired).unwrap();
        gone(&gateway);
        ground.nothing(port, "after expiry");
        drop(dialogue);
        assert_eq!(gateway.reload(&long).unwrap().changed, ["[pinhole]"]);
    }
    gateway.stop().unwrap();
}

/// Announces a port and ends the control connection by a RST; the port.
fn reset(ground: &Ground<'_>) -> u16 {
    let connect = || TcpStream::connect_timeout(&ground.control(), PATIENCE);
    let stream = ground.lab.client().run_in(connect).unwrap().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = BufReader::new(stream);
    let mut reply = |command: String, code: &str| {
        stream.get_mut().write_all(command.as_bytes()).unwrap();
        loop {
            let mut line = String::new();
            assert!(stream.read_line(&mut line).unwrap() > 0, "no reply to {command}");
            if line.starts_with(&format!("{code} ")) {
                return line;
            }
        }
    };
    let login = ground.server.login();
    reply(String::new(), "220");
    reply(format!("USER {}\r\n", login.user), "331");
    reply(format!("PASS {}\r\n", login.password), "230");
    let line = reply("EPSV\r\n".to_owned(), "229");
    let port = line.split('|').nth(3).unwrap().parse().unwrap();
    // Closing sends a RST instead of a FIN.
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    nix::sys::socket::setsockopt(stream.get_ref(), nix::sys::socket::sockopt::Linger, &linger).unwrap();
    drop(stream);
    port
}
