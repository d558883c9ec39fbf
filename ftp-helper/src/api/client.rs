//! The commands' side of the control socket; blocking.

use std::{
    io::{self, BufRead, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Asked, ConnectionRow, ErrorKind, Filter, PinholeAdd, PinholeFilter, PinholeRow, RESPONSE_MAX, ReloadReport,
    Request, Response, Selector, Session, Status, Story, VERSION, Versioned, Why,
};
use crate::{
    error::{Code, Fault},
    event::Event,
};

/// How long the daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

/// What an observer sees.
#[derive(Clone, PartialEq, Debug)]
pub enum Observed {
    /// From here on no event is missed.
    Ready,
    /// An event.
    Event(Box<Event>),
    /// This many were left out since this reader is too slow.
    Lagged(u64),
}

impl Client {
    /// Connects to the daemon.
    ///
    /// # Errors
    /// [`Code::NotRunning`] if nobody answers there, [`Code::NoPermission`] if the socket may not be opened.
    pub fn connect(path: &Path) -> Result<Self, Fault> {
        let stream = UnixStream::connect(path).map_err(|e| {
            let socket = path.display();
            match e.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Fault::new(
                    Code::NotRunning,
                    format!(
                        "no daemon answers at {socket}: start it with `ftp-helper run`, or name its socket with --socket PATH or its configuration with -c FILE"
                    ),
                ),
                io::ErrorKind::PermissionDenied => Fault::new(
                    Code::NoPermission,
                    format!("no permission for {socket}: be root or a member of the group in [api] read_group"),
                ),
                _ => Fault::new(Code::Failure, format!("can't connect to {socket}: {e}")),
            }
        })?;
        let client = Self { path: path.to_owned(), stream: BufReader::new(stream) };
        client.patience(Some(PATIENCE))?;
        Ok(client)
    }

    /// What is going on.
    ///
    /// # Errors
    /// No permission, or no usable answer.
    pub fn status(&mut self) -> Result<Status, Fault> {
        self.send(&Request::Status)?;
        match self.receive()? {
            Response::Status(status) => Ok(*status),
            other => Err(self.unexpected(&other)),
        }
    }

    /// The sessions.
    ///
    /// # Errors
    /// No permission, or no usable answer.
    pub fn sessions(&mut self) -> Result<Vec<Session>, Fault> {
        self.rows(&Request::Sessions, |response| match response {
            Response::Session(row) => Ok(*row),
            other => Err(other),
        })
    }

    /// The pinholes.
    ///
    /// # Errors
    /// No permission, or no usable answer.
    pub fn pinholes(&mut self) -> Result<Vec<PinholeRow>, Fault> {
        self.rows(&Request::Pinholes, |response| match response {
            Response::Pinhole(row) => Ok(*row),
            other => Err(other),
        })
    }

    /// The data connections that are running.
    ///
    /// # Errors
    /// No permission, or no usable answer.
    pub fn connections(&mut self) -> Result<Vec<ConnectionRow>, Fault> {
        self.rows(&Request::Connections, |response| match response {
            Response::Connection(row) => Ok(*row),
            other => Err(other),
        })
    }

    /// What was said in the session with this id, and what came of it.
    ///
    /// # Errors
    /// No permission, no such session, or no usable answer.
    pub fn story(&mut self, session: &str) -> Result<Story, Fault> {
        self.send(&Request::Story { session: session.to_owned() })?;
        let head = match self.receive()? {
            Response::Story(head) => *head,
            other => return Err(self.unexpected(&other)),
        };
        let lines = self.rest(|response| match response {
            Response::Line(line) => Ok(*line),
            other => Err(other),
        })?;
        Ok(Story { head, lines })
    }

    /// Adds a pinhole; as it is then.
    ///
    /// # Errors
    /// No permission, or the policy does not allow it.
    pub fn pinhole_add(&mut self, add: PinholeAdd) -> Result<PinholeRow, Fault> {
        self.one_pinhole(&Request::PinholeAdd(add))
    }

    /// Takes back a pinhole; as it was.
    ///
    /// # Errors
    /// No permission, or there is no such pinhole.
    pub fn pinhole_delete(&mut self, selector: Selector, reason: &str) -> Result<PinholeRow, Fault> {
        self.one_pinhole(&Request::PinholeDelete { selector, reason: reason.to_owned() })
    }

    /// Takes back pinholes; as they were.
    ///
    /// # Errors
    /// No permission, or no usable answer.
    pub fn pinholes_flush(&mut self, filter: PinholeFilter, reason: &str) -> Result<Vec<PinholeRow>, Fault> {
        self.rows(&Request::PinholesFlush { filter, reason: reason.to_owned() }, |response| match response {
            Response::Pinhole(row) => Ok(*row),
            other => Err(other),
        })
    }

    /// Kills the session with this id; as it is then.
    ///
    /// # Errors
    /// No permission, or there is no such session.
    pub fn session_kill(&mut self, session: &str, reason: &str) -> Result<Session, Fault> {
        self.send(&Request::SessionKill { session: session.to_owned(), reason: reason.to_owned() })?;
        match self.receive()? {
            Response::Session(session) => Ok(*session),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Whether a connection would be let through now, and why.
    ///
    /// # Errors
    /// No permission, or no usable answer.
    pub fn why(&mut self, asked: Asked) -> Result<Why, Fault> {
        self.send(&Request::Why(asked))?;
        match self.receive()? {
            Response::Why(why) => Ok(*why),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Has the configuration read again.
    ///
    /// # Errors
    /// No permission, or the daemon refuses the new configuration and goes on with the old one.
    pub fn reload(&mut self) -> Result<ReloadReport, Fault> {
        self.send(&Request::Reload)?;
        match self.receive()? {
            Response::Reloaded(report) => Ok(report),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Hands events to `each` until there are no more (never, if `follow`) or it says stop with `false`.
    ///
    /// # Errors
    /// No permission, the daemon went away while following, or `each` failed.
    pub fn observe<E: From<Fault>>(
        mut self,
        filter: Filter,
        follow: bool,
        last: usize,
        mut each: impl FnMut(Observed) -> Result<bool, E>,
    ) -> Result<(), E> {
        self.send(&Request::Observe { filter, follow, last })?;
        loop {
            let observed = match self.receive()? {
                Response::Observing => {
                    if follow {
                        self.patience(None)?;
                    }
                    Observed::Ready
                }
                Response::Event(event) => Observed::Event(event),
                Response::Lagged { missed } => Observed::Lagged(missed),
                Response::End => return Ok(()),
                other => return Err(self.unexpected(&other).into()),
            };
            if !each(observed)? {
                return Ok(());
            }
        }
    }

    fn rows<T>(&mut self, request: &Request, row: impl Fn(Response) -> Result<T, Response>) -> Result<Vec<T>, Fault> {
        self.send(request)?;
        self.rest(row)
    }

    fn one_pinhole(&mut self, request: &Request) -> Result<PinholeRow, Fault> {
        self.send(request)?;
        match self.receive()? {
            Response::Pinhole(row) => Ok(*row),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Rows up to the end.
    fn rest<T>(&mut self, row: impl Fn(Response) -> Result<T, Response>) -> Result<Vec<T>, Fault> {
        let mut rows = Vec::new();
        loop {
            match self.receive()? {
                Response::End => return Ok(rows),
                other => rows.push(row(other).map_err(|other| self.unexpected(&other))?),
            }
        }
    }

    fn patience(&self, patience: Option<Duration>) -> Result<(), Fault> {
        self.stream.get_ref().set_read_timeout(patience).map_err(|e| self.failed(&e))
    }

    fn send(&mut self, request: &Request) -> Result<(), Fault> {
        let mut line = serde_json::to_vec(&Versioned::new(request))
            .map_err(|e| Fault::new(Code::Failure, format!("the request can't be written: {e}")))?;
        line.push(b'\n');
        match self.stream.get_mut().write_all(&line) {
            // A daemon that refuses the connection has said why before it hung up: read that.
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(self.failed(&e)),
            _ => Ok(()),
        }
    }

    fn receive(&mut self) -> Result<Response, Fault> {
        let mut line = Vec::new();
        let n =
            (&mut self.stream).take(RESPONSE_MAX as u64).read_until(b'\n', &mut line).map_err(|e| self.failed(&e))?;
        if n == 0 {
            return Err(Fault::new(Code::NotRunning, format!("the daemon at {} has gone away", self.path.display())));
        }
        let wrong = |what: String| {
            Fault::new(Code::Failure, format!("{} does not answer like ftp-helper: {what}", self.path.display()))
        };
        if line.last() != Some(&b'\n') {
            return Err(wrong("a line that does not end".into()));
        }
        let response: Versioned<Response> = serde_json::from_slice(&line).map_err(|e| wrong(e.to_string()))?;
        if response.v != VERSION {
            return Err(wrong(format!("protocol version {} instead of {VERSION}", response.v)));
        }
        match response.body {
            Response::Error { kind, message } => {
                let code = match kind {
                    ErrorKind::NoPermission => Code::NoPermission,
                    ErrorKind::BadRequest
                    | ErrorKind::Busy
                    | ErrorKind::NotFound
                    | ErrorKind::Refused
                    | ErrorKind::Failed => Code::Failure,
                };
                Err(Fault::new(code, message))
            }
            other => Ok(other),
        }
    }

    fn unexpected(&self, response: &Response) -> Fault {
        Fault::new(Code::Failure, format!("{} answers something else: {response:?}", self.path.display()))
    }

    fn failed(&self, e: &io::Error) -> Fault {
        let socket = self.path.display();
        match e.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Fault::new(
                Code::Failure,
                format!("the daemon at {socket} does not answer within {} s; is it stopped?", PATIENCE.as_secs()),
            ),
            _ => Fault::new(Code::Failure, format!("{socket}: {e}")),
        }
    }
}
