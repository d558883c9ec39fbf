//! A minimal FTP server that answers as fast as it can, and cuts what it says as the client orders.
//!
//! It knows USER, PASS, PASV, EPSV, PORT, EPRT, RETR, QUIT, and answers everything else with 200. `SITE CUT n` has the replies
//! to PASV, EPSV, PORT and EPRT written in two segments, the first of n bytes; `SITE CUT 0` ends that; `SITE BYTES` has
//! them written byte by byte; `SITE EAGER` has it connect as soon as it has read PORT or EPRT, before it answers.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use ftp_helper::lab::Host;

use crate::spinner::hurry;

/// What a RETR sends, unless its path is a number: then so many zeros.
pub const CONTENT: &[u8] = b"a few bytes, and no more\n";
/// Listening sockets of a session; PASV and EPSV take them in turn.
const PASSIVE: usize = 4;
/// How long it waits for its client, whatever that does: loss and lost SYNs take their time.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running server. Dropping it ends it: its sessions end when their clients do.
#[derive(Debug)]
pub struct Responder {
    address: IpAddr,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    connects: Mutex<Vec<Duration>>,
    troubles: Mutex<Vec<String>>,
}

impl Responder {
    /// Starts it on port 21 of an address of this host.
    ///
    /// # Errors
    /// When it can't listen.
    pub fn start(host: &Host, address: IpAddr) -> anyhow::Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        let shared = Arc::new(Shared::default());
        let thread = host.run_in(|| -> anyhow::Result<_> {
            // Its threads inherit this.
            hurry()?;
            let listener = TcpListener::bind((address, 21)).context("the responder can't listen")?;
            let (ended, shared) = (Arc::clone(&ended), Arc::clone(&shared));
            // Threads that begin here are on this host too.
            Ok(std::thread::spawn(move || accept(&listener, &ended, &shared)))
        })??;
        Ok(Self { address, ended, thread: Some(thread), shared })
    }

    /// Its control port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (self.address, 21).into()
    }

    /// How long its active connections took to connect, since it was asked last.
    #[must_use]
    pub fn connects(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.shared.connects.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What went wrong in its sessions.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        self.shared.troubles.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it; `host` is where it was started.
    pub fn stop(mut self, host: &Host) {
        self.ended.store(true, Ordering::Relaxed);
        // Nothing else wakes it.
        let to = self.address();
        let _ = host.run_in(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)));
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
    }
}

fn accept(listener: &TcpListener, ended: &AtomicBool, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if ended.load(Ordering::Relaxed) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            let peer = stream.peer_addr();
            if let Err(e) = Talk::begin(stream, &shared).and_then(Talk::go_on) {
                let mut troubles = shared.troubles.lock().unwrap_or_else(PoisonError::into_inner);
                troubles.push(format!("{peer:?}: {e}"));
            }
        });
    }
}

/// How replies that announce something are written.
#[derive(Clone, Copy)]
enum Cut {
    Whole,
    At(usize),
    Bytes,
}

/// One session.
struct Talk<'a> {
    stream: TcpStream,
    local: SocketAddr,
    listeners: Vec<(TcpListener, u16)>,
    turn: usize,
    cut: Cut,
    eager: bool,
    /// Where the next transfer goes.
    data: Data,
    shared: &'a Shared,
}

enum Data {
    None,
    Passive(usize),
    Active(SocketAddr),
    Connected(TcpStream),
}

impl<'a> Talk<'a> {
    fn begin(mut stream: TcpStream, shared: &'a Shared) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let local = stream.local_addr()?;
        let listeners = (0..PASSIVE)
            .map(|_| {
                let listener = TcpListener::bind((local.ip(), 0))?;
                let port = listener.local_addr()?.port();
                Ok((listener, port))
            })
            .collect::<io::Result<_>>()?;
        stream.write_all(b"220 Ready\r\n")?;
        Ok(Self { stream, local, listeners, turn: 0, cut: Cut::Whole, eager: false, data: Data::None, shared })
    }

    fn go_on(mut self) -> io::Result<()> {
        let mut text = Vec::new();
        let mut buffer = [0; 2048];
        loop {
            let n = match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                // A test that goes away before it has read everything resets the connection.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Err(e) => return Err(e),
            };
            text.extend_from_slice(&buffer[..n]);
            while let Some(end) = text.windows(2).position(|w| w == b"\r\n") {
                let line = String::from_utf8_lossy(&text[..end]).into_owned();
                text.drain(..end + 2);
                if !self.command(&line)? {
                    return Ok(());
                }
            }
        }
    }

    /// Whether the session goes on.
    fn command(&mut self, line: &str) -> io::Result<bool> {
        let (verb, argument) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "USER" => self.say("331 Password\r\n")?,
            "PASS" => self.say("230 Welcome\r\n")?,
            "PASV" => {
                let port = self.passive();
                let (IpAddr::V4(a), [high, low]) = (self.local.ip(), port.to_be_bytes()) else {
                    self.say("500 IPv4 only\r\n")?;
                    return Ok(true);
                };
                let [a, b, c, d] = a.octets();
                self.announce(&format!("227 Entering Passive Mode ({a},{b},{c},{d},{high},{low}).\r\n"))?;
            }
            "EPSV" => {
                let port = self.passive();
                self.announce(&format!("229 Entering Extended Passive Mode (|||{port}|)\r\n"))?;
            }
            "PORT" | "EPRT" => {
                let Some(to) = endpoint(argument) else {
                    self.say("501 What?\r\n")?;
                    return Ok(true);
                };
                self.data = if self.eager { Data::Connected(self.connect(to)?) } else { Data::Active(to) };
                self.announce("200 Active mode\r\n")?;
            }
            "RETR" => self.retrieve(argument)?,
            "QUIT" => {
                self.say("221 Bye\r\n")?;
                return Ok(false);
            }
            "SITE" => {
                match argument.split_once(' ').unwrap_or((argument, "")) {
                    ("CUT", n) => self.cut = n.parse().ok().filter(|&n| n > 0).map_or(Cut::Whole, Cut::At),
                    ("BYTES", _) => self.cut = Cut::Bytes,
                    ("EAGER", _) => self.eager = true,
                    _ => {}
                }
                self.say("200 As you wish\r\n")?;
            }
            _ => self.say("200 Fine\r\n")?,
        }
        Ok(true)
    }

    fn passive(&mut self) -> u16 {
        self.turn = (self.turn + 1) % PASSIVE;
        self.data = Data::Passive(self.turn);
        self.listeners[self.turn].1
    }

    fn retrieve(&mut self, path: &str) -> io::Result<()> {
        let mut data = match std::mem::replace(&mut self.data, Data::None) {
            Data::None => return self.say("425 No data connection\r\n"),
            Data::Passive(i) => {
                self.say("150 Here it comes\r\n")?;
                self.listeners[i].0.accept()?.0
            }
            Data::Active(to) => {
                self.say("150 Here it comes\r\n")?;
                self.connect(to)?
            }
            Data::Connected(stream) => {
                self.say("150 Here it comes\r\n")?;
                stream
            }
        };
        match path.parse() {
            Ok(size) => send(&mut data, size)?,
            Err(_) => data.write_all(CONTENT)?,
        }
        drop(data);
        self.say("226 Done\r\n")
    }

    fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let begun = Instant::now();
        let stream = TcpStream::connect(to)?;
        self.shared.connects.lock().unwrap_or_else(PoisonError::into_inner).push(begun.elapsed());
        Ok(stream)
    }

    fn say(&mut self, text: &str) -> io::Result<()> {
        self.stream.write_all(text.as_bytes())
    }

    fn announce(&mut self, text: &str) -> io::Result<()> {
        write_cut(&mut self.stream, text.as_bytes(), self.cut)
    }
}

/// Sends so many bytes.
fn send(stream: &mut TcpStream, size: u64) -> io::Result<()> {
    const ZEROS: &[u8] = &[0; 1 << 17];
    let mut left = size;
    while left > 0 {
        let n = left.min(ZEROS.len() as u64);
        stream.write_all(&ZEROS[..n as usize])?;
        left -= n;
    }
    Ok(())
}

fn write_cut(stream: &mut TcpStream, text: &[u8], cut: Cut) -> io::Result<()> {
    match cut {
        Cut::Whole => stream.write_all(text),
        Cut::At(n) => {
            let (first, second) = text.split_at(n.min(text.len()));
            stream.write_all(first)?;
            stream.write_all(second)
        }
        Cut::Bytes => text.chunks(1).try_for_each(|b| stream.write_all(b)),
    }
}

/// The argument of PORT (RFC 959) or EPRT (RFC 2428).
fn endpoint(text: &str) -> Option<SocketAddr> {
    if let Some(extended) = text.strip_prefix('|') {
        let mut parts = extended.split('|');
        let address = match parts.next()? {
            "1" => parts.next()?.parse::<Ipv4Addr>().ok()?.into(),
            "2" => parts.next()?.parse::<Ipv6Addr>().ok()?.into(),
            _ => return None,
        };
        return Some(SocketAddr::new(address, parts.next()?.parse().ok()?));
    }
    let numbers: Vec<u8> = text.split(',').map(|n| n.parse().ok()).collect::<Option<_>>()?;
    let [a, b, c, d, high, low] = numbers[..] else { return None };
    Some((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read() {
        assert_eq!(endpoint("192,0,2,1,4,1"), Some(([192, 0, 2, 1], 1025).into()));
        assert_eq!(endpoint("|1|192.0.2.1|1025|"), Some(([192, 0, 2, 1], 1025).into()));
        assert_eq!(endpoint("|2|2001:db8::1|1025|"), "[2001:db8::1]:1025".parse().ok());
        assert_eq!(endpoint("192,0,2,1,4"), None);
        assert_eq!(endpoint("|3|x|1|"), None);
    }
}
