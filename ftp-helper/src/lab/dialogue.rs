//! A small FTP client, to lead a dialogue line by line: what no real client lets one do is to stop between the
//! announcement and the transfer.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use super::{
    Host,
    error::{LabError, Result},
    servers::Credentials,
};

/// A control connection.
#[derive(Debug)]
pub struct Dialogue {
    local: SocketAddr,
    peer: SocketAddr,
    stream: BufReader<TcpStream>,
}

/// A final reply, RFC 959 section 4.2.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// The three digits.
    pub code: u16,
    /// All lines, without the last line's end.
    pub text: String,
}

/// No reply is longer: what a server sends is not believed.
const REPLY_LIMIT: u64 = 64 * 1024;

impl Dialogue {
    /// Connects from a host and reads the greeting.
    ///
    /// # Errors
    /// When it can't connect, or is not greeted, within `limit`, which holds for every reply later.
    pub fn open(from: &Host, to: SocketAddr, limit: Duration) -> Result<Self> {
        let connect = || -> std::io::Result<Self> {
            let stream = TcpStream::connect_timeout(&to, limit)?;
            stream.set_read_timeout(Some(limit))?;
            stream.set_write_timeout(Some(limit))?;
            stream.set_nodelay(true)?;
            Ok(Self { local: stream.local_addr()?, peer: to, stream: BufReader::new(stream) })
        };
        let mut dialogue = from.run_in(connect)?.map_err(|e| LabError::Dialogue {
            peer: to.to_string(),
            what: format!("can't connect from {}: {e}", from.name()),
        })?;
        dialogue.expect("the greeting", 220)?;
        Ok(dialogue)
    }

    /// This side's end of the control connection.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The server's end.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Sends a command, without waiting for its reply.
    ///
    /// # Errors
    /// When it can't be sent.
    pub fn send(&mut self, line: &str) -> Result<()> {
        let sent = self.stream.get_mut().write_all(format!("{line}\r\n").as_bytes());
        sent.map_err(|e| self.wrong(format!("can't send {line}: {e}")))
    }

    /// Reads a reply, preliminary ones (1yz) too.
    ///
    /// # Errors
    /// When none comes in time, or what comes is none.
    pub fn reply(&mut self) -> Result<Reply> {
        let mut text = String::new();
        let mut code = None;
        loop {
            let mut line = Vec::new();
            let left = REPLY_LIMIT.saturating_sub(text.len() as u64);
            let read = (&mut self.stream).take(left).read_until(b'\n', &mut line);
            match read {
                Ok(0) => return Err(self.wrong("the connection ended, or the reply has no end".to_owned())),
                Ok(_) => {}
                Err(e) => return Err(self.wrong(format!("no reply: {e}"))),
            }
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\r', '\n']);
            let begins = line.get(..3).and_then(|d| d.parse::<u16>().ok()).filter(|c| (100..700).contains(c));
            let first = *code.get_or_insert(begins.unwrap_or(0));
            text.push_str(line);
            if first == 0 {
                return Err(self.wrong(format!("not a reply: {text}")));
            }
            if begins == Some(first) && matches!(line.as_bytes().get(3), None | Some(b' ')) {
                return Ok(Reply { code: first, text });
            }
            text.push('\n');
        }
    }

    /// Sends a command and reads one reply.
    ///
    /// # Errors
    /// As [`Dialogue::send`] and [`Dialogue::reply`].
    pub fn ask(&mut self, line: &str) -> Result<Reply> {
        self.send(line)?;
        self.reply()
    }

    /// Logs in.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn login(&mut self, login: &Credentials) -> Result<()> {
        let reply = self.ask(&format!("USER {}", login.user))?;
        if reply.code == 331 {
            self.send(&format!("PASS {}", login.password))?;
            self.expect("PASS", 230)?;
        } else if reply.code != 230 {
            return Err(self.wrong(format!("USER: {}", reply.text)));
        }
        Ok(())
    }

    /// PASV; the port that the server announces.
    ///
    /// # Errors
    /// When the server refuses, or its 227 has no port.
    pub fn pasv(&mut self) -> Result<u16> {
        self.send("PASV")?;
        let reply = self.expect("PASV", 227)?;
        let numbers: Option<Vec<u8>> =
            reply.text.split(['(', ')']).nth(1).and_then(|n| n.split(',').map(|n| n.parse().ok()).collect());
        match numbers.as_deref() {
            Some(&[_, _, _, _, high, low]) => Ok(u16::from_be_bytes([high, low])),
            _ => Err(self.wrong(format!("no port in {}", reply.text))),
        }
    }

    /// EPSV; the port that the server announces.
    ///
    /// # Errors
    /// When the server refuses, or its 229 has no port.
    pub fn epsv(&mut self) -> Result<u16> {
        self.send("EPSV")?;
        let reply = self.expect("EPSV", 229)?;
        let port = reply.text.split("(|||").nth(1).and_then(|t| t.split('|').next()?.parse().ok());
        port.ok_or_else(|| self.wrong(format!("no port in {}", reply.text)))
    }

    /// PORT over IPv4, EPRT over IPv6, for a port of this side.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn active(&mut self, port: u16) -> Result<()> {
        let line = match self.local.ip() {
            IpAddr::V4(a) => {
                let ([a, b, c, d], [high, low]) = (a.octets(), port.to_be_bytes());
                format!("PORT {a},{b},{c},{d},{high},{low}")
            }
            IpAddr::V6(a) => format!("EPRT |2|{a}|{port}|"),
        };
        self.send(&line)?;
        self.expect(&line, 200).map(drop)
    }

    fn expect(&mut self, to: &str, code: u16) -> Result<Reply> {
        let reply = self.reply()?;
        if reply.code == code { Ok(reply) } else { Err(self.wrong(format!("to {to}: {}", reply.text))) }
    }

    fn wrong(&self, what: String) -> LabError {
        LabError::Dialogue { peer: self.peer.to_string(), what }
    }
}
