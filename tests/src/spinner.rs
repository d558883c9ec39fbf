//! An FTP client that loses no time: it reads its control connection in a tight loop and connects the instant the 227 or 229
//! is there; and that writes its commands cut as it is told.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use ftp_helper::lab::Host;
use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::{TimeVal, TimeValLike as _},
};

/// How long a reply may take, loss and all.
const PATIENCE: Duration = Duration::from_secs(90);

/// How an endpoint is negotiated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// PASV.
    Pasv,
    /// EPSV.
    Epsv,
    /// PORT.
    Port,
    /// EPRT.
    Eprt,
}

/// How commands that negotiate are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// In one segment.
    Whole,
    /// The first so many bytes in a segment of their own.
    At(usize),
    /// Each byte by itself.
    Bytes,
    /// Behind a NOOP in the same segment.
    Pipelined,
}

/// A control connection. It is used on the host where it was made: in [`Host::run_in`].
#[derive(Debug)]
pub struct Spinner {
    stream: TcpStream,
    spin: bool,
    text: Vec<u8>,
    /// Room for what a transfer brings.
    room: Box<[u8]>,
    /// Listening sockets for active mode, as long as the session lives.
    listener: Option<(TcpListener, u16)>,
    /// How commands that negotiate are written.
    pub cut: Cut,
    /// How long to try to connect.
    pub connect_limit: Duration,
}

/// A transfer that came through.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// How long the data connection took to connect (passive modes; else 0).
    pub connect: Duration,
    /// The negotiated port.
    pub port: u16,
}

impl Spinner {
    /// Connects, and is greeted. `spin`: reads in a tight loop; else waits as others do.
    ///
    /// # Errors
    /// When it can't connect or is not greeted.
    pub fn connect(to: SocketAddr, spin: bool) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, PATIENCE).context("can't connect")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nonblocking(spin)?;
        let mut this = Self {
            stream,
            spin,
            text: Vec::with_capacity(4096),
            room: vec![0; 1 << 17].into(),
            listener: None,
            cut: Cut::Whole,
            connect_limit: PATIENCE,
        };
        this.expect("the greeting", 220)?;
        Ok(this)
    }

    /// This side's end.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn local(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.stream.local_addr()?)
    }

    /// Logs in.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn login(&mut self, user: &str, password: &str) -> anyhow::Result<()> {
        self.ask(&format!("USER {user}"), 331)?;
        self.ask(&format!("PASS {password}"), 230)?;
        Ok(())
    }

    /// Sends a command and wants this code; the reply.
    ///
    /// # Errors
    /// When another one comes, or none.
    pub fn ask(&mut self, line: &str, code: u16) -> anyhow::Result<String> {
        self.write(format!("{line}\r\n").as_bytes())?;
        self.expect(line, code)
    }

    /// Fetches a file; the transfer is whole when it returns. `size` is the file's.
    ///
    /// # Errors
    /// When anything about it fails.
    pub fn fetch(&mut self, mode: Mode, path: &str, size: usize) -> anyhow::Result<Taken> {
        let (mut data, taken) = match mode {
            Mode::Pasv | Mode::Epsv => self.passive(mode, path)?,
            Mode::Port | Mode::Eprt => self.active(mode, path)?,
        };
        data.set_read_timeout(Some(PATIENCE))?;
        let mut n = 0;
        loop {
            match data.read(&mut self.room).context("the transfer")? {
                0 => break,
                more => n += more,
            }
        }
        drop(data);
        ensure!(n == size, "{n} bytes of {size} came");
        self.expect("RETR's end", 226)?;
        Ok(taken)
    }

    fn passive(&mut self, mode: Mode, path: &str) -> anyhow::Result<(TcpStream, Taken)> {
        let peer = self.stream.peer_addr()?.ip();
        let (line, code) = if mode == Mode::Pasv { ("PASV", 227) } else { ("EPSV", 229) };
        self.negotiate(line)?;
        let reply = self.expect(line, code)?;
        let port = announced(&reply).with_context(|| format!("no port in {reply}"))?;
        let begun = Instant::now();
        let data = if self.connect_limit == PATIENCE {
            TcpStream::connect((peer, port))
        } else {
            TcpStream::connect_timeout(&(peer, port).into(), self.connect_limit)
        };
        let data = data.with_context(|| format!("can't connect to {port}"))?;
        let connect = begun.elapsed();
        self.write(format!("RETR {path}\r\n").as_bytes())?;
        self.expect("RETR", 150)?;
        Ok((data, Taken { connect, port }))
    }

    fn active(&mut self, mode: Mode, path: &str) -> anyhow::Result<(TcpStream, Taken)> {
        let local = self.stream.local_addr()?.ip();
        // A new port each time, so that no connection is another's.
        let listener = TcpListener::bind((local, 0))?;
        let port = listener.local_addr()?.port();
        let line = match (mode, local) {
            (Mode::Port, IpAddr::V4(a)) => {
                let ([a, b, c, d], [high, low]) = (a.octets(), port.to_be_bytes());
                format!("PORT {a},{b},{c},{d},{high},{low}")
            }
            (_, IpAddr::V4(a)) => format!("EPRT |1|{a}|{port}|"),
            (_, IpAddr::V6(a)) => format!("EPRT |2|{a}|{port}|"),
        };
        self.listener = Some((listener, port));
        self.negotiate(&line)?;
        self.expect(&line, 200)?;
        self.write(format!("RETR {path}\r\n").as_bytes())?;
        self.expect("RETR", 150)?;
        let Some((listener, _)) = &self.listener else { bail!("nothing listens") };
        // One that is denied never comes.
        let limit = TimeVal::milliseconds(i64::try_from(self.connect_limit.as_millis())?);
        setsockopt(listener, ReceiveTimeout, &limit)?;
        let (data, _) = listener.accept().with_context(|| format!("nobody connects to {port}"))?;
        Ok((data, Taken { connect: Duration::ZERO, port }))
    }

    /// Writes a command that negotiates, cut as wanted. What was put before it is answered with 200 first.
    fn negotiate(&mut self, line: &str) -> anyhow::Result<()> {
        let text = format!("{line}\r\n");
        let text = text.as_bytes();
        match self.cut {
            Cut::Whole => self.write(text),
            Cut::At(n) => {
                let (first, second) = text.split_at(n.min(text.len()));
                self.write(first)?;
                self.write(second)
            }
            Cut::Bytes => text.chunks(1).try_for_each(|b| self.write(b)),
            Cut::Pipelined => {
                self.write(&[b"NOOP\r\n", text].concat())?;
                self.expect("NOOP", 200).map(drop)
            }
        }
    }

    /// Writes what need not be a whole line; nothing is awaited.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut left = bytes;
        while !left.is_empty() {
            match self.stream.write(left) {
                Ok(n) => left = &left[n..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::hint::spin_loop(),
                Err(e) => return Err(e).context("can't write"),
            }
        }
        Ok(())
    }

    /// Reads a reply, and wants this code.
    fn expect(&mut self, to: &str, code: u16) -> anyhow::Result<String> {
        let reply = self.reply().with_context(|| format!("no reply to {to}"))?;
        // Some servers answer 150 with 125.
        let alike = code == 150 && reply.starts_with("125");
        ensure!(alike || reply.starts_with(&code.to_string()), "to {to}: {reply}");
        Ok(reply)
    }

    /// One reply, RFC 959 section 4.2, the last line of it.
    fn reply(&mut self) -> anyhow::Result<String> {
        let mut open: Option<[u8; 3]> = None;
        loop {
            let line = self.line()?;
            let bytes = line.as_bytes();
            let code = bytes.first_chunk::<3>().copied().filter(|c| c.iter().all(u8::is_ascii_digit));
            match (open, code, bytes.get(3)) {
                (None, Some(code), Some(b'-')) => open = Some(code),
                (None, Some(_), _) => return Ok(line),
                (None, None, _) => bail!("not a reply: {line}"),
                (Some(open), Some(code), Some(b' ')) if open == code => return Ok(line),
                _ => {}
            }
        }
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let begun = Instant::now();
        let mut buffer = [0; 2048];
        let mut looks = 0_u32;
        loop {
            if let Some(end) = self.text.windows(2).position(|w| w == b"\r\n") {
                let line = String::from_utf8_lossy(&self.text[..end]).into_owned();
                self.text.drain(..end + 2);
                return Ok(line);
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => bail!("the control connection has ended"),
                Ok(n) => self.text.extend_from_slice(&buffer[..n]),
                Err(e) if self.spin && e.kind() == io::ErrorKind::WouldBlock => {
                    std::hint::spin_loop();
                    looks += 1;
                    if looks & 0xff == 0 {
                        // Whoever answers may have to share this core.
                        std::thread::yield_now();
                    }
                    if looks & 0xfff == 0 && begun.elapsed() > PATIENCE {
                        bail!("nothing came in {PATIENCE:?}");
                    }
                }
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Fetches `size` bytes `n` times, by these modes in turn, in a session of a host's that loses no time.
///
/// # Errors
/// When the session can't be had, or a transfer does not come through.
pub fn fetch_in_turn(from: &Host, to: SocketAddr, modes: [Mode; 2], size: usize, n: u64) -> anyhow::Result<()> {
    from.run_in(|| {
        hurry()?;
        let mut spinner = Spinner::connect(to, true)?;
        spinner.login("u", "p")?;
        for mode in modes.into_iter().cycle().take(n as usize) {
            spinner.fetch(mode, "x", size)?;
        }
        spinner.ask("QUIT", 221)?;
        anyhow::Ok(())
    })?
}

/// Keeps all cores busy while `f` runs, if `busy`.
pub fn with_busy_cores<T>(busy: bool, f: impl FnOnce() -> T) -> T {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let done = AtomicBool::new(false);
    let cores = if busy { std::thread::available_parallelism().map_or(2, usize::from) } else { 0 };
    std::thread::scope(|scope| {
        let _stop = Stop(&done);
        for _ in 0..cores {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        f()
    })
}

/// Has this thread run before all others, as if it had a machine of its own.
///
/// # Errors
/// Without the right to do so.
pub fn hurry() -> anyhow::Result<()> {
    // SAFETY: takes numbers only; 0 is the calling thread.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) } != 0 {
        return Err(io::Error::last_os_error()).context("can't raise a thread's priority");
    }
    Ok(())
}

/// SYNs that were sent again on this host since it was made (`TCPSynRetrans`).
///
/// # Errors
/// When the system does not tell.
pub fn syn_retransmissions(host: &Host) -> anyhow::Result<u64> {
    let text = host.run_in(|| std::fs::read_to_string("/proc/thread-self/net/netstat"))??;
    let mut lines = text.lines().filter(|l| l.starts_with("TcpExt:"));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { bail!("no TcpExt in netstat") };
    let at = names.split(' ').position(|n| n == "TCPSynRetrans").context("no TCPSynRetrans in netstat")?;
    Ok(values.split(' ').nth(at).context("netstat is cut")?.parse()?)
}

/// The value below which `part` of all lie (0.5 for the median); zero of none.
#[must_use]
pub fn quantile(values: &[Duration], part: f64) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let at = ((sorted.len() as f64 * part).ceil() as usize).clamp(1, sorted.len().max(1));
    sorted.get(at - 1).copied().unwrap_or_default()
}

/// The port of a 227 or 229.
fn announced(reply: &str) -> Option<u16> {
    let inside = reply.split(['(', ')']).nth(1)?;
    if let Some(port) = inside.strip_prefix("|||") {
        return port.strip_suffix('|')?.parse().ok();
    }
    let mut last = inside.rsplit(',');
    let (low, high): (u8, u8) = (last.next()?.parse().ok()?, last.next()?.parse().ok()?);
    Some(u16::from_be_bytes([high, low]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read() {
        assert_eq!(announced("227 Entering Passive Mode (192,0,2,1,195,80)."), Some(50000));
        assert_eq!(announced("229 Extended (|||50000|)"), Some(50000));
        assert_eq!(announced("227 no"), None);
    }

    #[test]
    fn quantiles_are_of_the_sorted() {
        let ms = |n| Duration::from_millis(n);
        let values: Vec<_> = (1..=100).rev().map(ms).collect();
        assert_eq!((quantile(&values, 0.5), quantile(&values, 0.99)), (ms(50), ms(99)));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
