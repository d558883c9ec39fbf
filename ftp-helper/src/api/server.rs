//! The daemon's side of the control socket.

use std::{
    collections::HashMap,
    future::Future,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nix::unistd::Uid;
use serde::Serialize;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, broadcast, broadcast::error::RecvError},
    task::JoinSet,
    time::timeout,
};

use super::{
    Asked, ConnectionRow, ErrorKind, Filter, PinholeAdd, PinholeFilter, PinholeRow, REQUEST_MAX, ReloadReport, Request,
    Response, Selector, Session, Status, Story, VERSION, Versioned, Why,
    access::{Access, Peer},
    history::{History, REMEMBERED},
};
use crate::event::Event;

/// Connections at most.
const CONNECTIONS: usize = 64;

/// Connections of one user at most; root and the daemon's own user are not held to it.
const CONNECTIONS_OF_ONE: usize = 16;

/// How long a client may take to send a request, and how long one may take to read a line of an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the daemon knows and can do.
pub trait Backend {
    /// What is going on.
    fn status(&self) -> impl Future<Output = Status> + Send;
    /// The sessions.
    fn sessions(&self) -> impl Future<Output = Vec<Session>> + Send;
    /// The pinholes.
    fn pinholes(&self) -> impl Future<Output = Vec<PinholeRow>> + Send;
    /// Whether a connection would be let through. The error is the message for the one who asked.
    fn why(&self, asked: Asked) -> impl Future<Output = Result<Why, String>> + Send;
    /// Reads the configuration again. The error is the message for the one who asked; nothing has changed then.
    fn reload(&self) -> impl Future<Output = Result<ReloadReport, String>> + Send;
    /// The data connections that are running.
    fn connections(&self) -> impl Future<Output = Vec<ConnectionRow>> + Send;
    /// What was said in a session.
    fn story(&self, session: String) -> impl Future<Output = Result<Story, Refusal>> + Send;
    /// Changes something, and tells who has asked for it.
    fn act(&self, uid: u32, act: Act) -> impl Future<Output = Result<Done, Refusal>> + Send;
}

/// What an operator has changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Act {
    /// A pinhole is added.
    Add(PinholeAdd),
    /// A pinhole is taken back.
    Delete(Selector, String),
    /// Pinholes are taken back.
    Flush(PinholeFilter, String),
    /// The session with this id is killed.
    Kill(String, String),
}

/// What came of it.
#[derive(Clone, PartialEq, Debug)]
pub enum Done {
    /// The pinhole that was added or taken back.
    Pinhole(Box<PinholeRow>),
    /// The pinholes that were taken back.
    Pinholes(Vec<PinholeRow>),
    /// The session that was killed.
    Session(Box<Session>),
}

/// Why something was not done, for the one who asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// What kind of error.
    pub kind: ErrorKind,
    /// What is wrong, and what to do about it.
    pub message: String,
}

impl Refusal {
    /// That what was asked for is not there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::NotFound, message: message.into() }
    }

    /// That it was tried and failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Failed, message: message.into() }
    }
}

/// Answers requests until it is dropped; `history` is where the events come from.
///
/// Every connection has a task of its own; a client that is slow, silent or wrong harms nobody else.
pub async fn serve(
    listener: UnixListener,
    access: Access,
    history: History,
    backend: impl Backend + Send + Sync + 'static,
) {
    let server = Arc::new(Server { access, backend, history, users: Mutex::default() });
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut tasks = JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                // Out of descriptors, most likely: give those that run a chance to end.
                tracing::warn!(error = %e, "the control socket can't accept a connection");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        while tasks.try_join_next().is_some() {}
        let slot = slots.clone().try_acquire_owned();
        let server = server.clone();
        tasks.spawn(async move {
            let Ok(_slot) = slot else {
                refuse(stream, ErrorKind::Busy, "too many connections to the control socket; try again later").await;
                return;
            };
            if let Err(e) = server.connection(stream).await {
                tracing::debug!(error = %e, "a control connection ended early");
            }
        });
    }
}

/// What all connections share.
struct Server<B> {
    access: Access,
    backend: B,
    history: History,
    /// Connections by user.
    users: Mutex<HashMap<Uid, usize>>,
}

impl<B: Backend + Sync> Server<B> {
    async fn connection(&self, stream: UnixStream) -> io::Result<()> {
        let peer = Peer::of(&stream)?;
        let Some(_counted) = self.count(&peer) else {
            let message = "this user has too many connections to the control socket; end some of them";
            refuse(stream, ErrorKind::Busy, message).await;
            return Ok(());
        };
        let (read, write) = stream.into_split();
        let mut reader = BufReader::new(read);
        let mut writer = Writer(write);
        loop {
            let request = match timeout(PATIENCE, read_request(&mut reader)).await {
                Ok(request) => request?,
                Err(_) => return writer.error(ErrorKind::BadRequest, "no request came in time").await,
            };
            let request = match request {
                None => return Ok(()),
                Some(Ok(request)) => request,
                // What follows can't be told apart from the rest of this: hang up.
                Some(Err(message)) => return writer.error(ErrorKind::BadRequest, &message).await,
            };
            if let Err(message) = self.access.check(&peer, request.right()) {
                tracing::info!(uid = %peer.uid, ?request, "refused: no permission");
                writer.error(ErrorKind::NoPermission, &message).await?;
                continue;
            }
            if let Err(message) = request.check() {
                writer.error(ErrorKind::BadRequest, &message).await?;
                continue;
            }
            let uid = peer.uid.as_raw();
            match request {
                Request::Status => writer.send(Response::Status(Box::new(self.backend.status().await))).await?,
                Request::Sessions => {
                    let rows = self.backend.sessions().await.into_iter().map(|s| Response::Session(Box::new(s)));
                    writer.rows(rows).await?;
                }
                Request::Pinholes => {
                    let rows = self.backend.pinholes().await.into_iter().map(|p| Response::Pinhole(Box::new(p)));
                    writer.rows(rows).await?;
                }
                Request::Connections => {
                    let rows = self.backend.connections().await.into_iter();
                    writer.rows(rows.map(|c| Response::Connection(Box::new(c)))).await?;
                }
                Request::Story { session } => match self.backend.story(session).await {
                    Ok(Story { head, lines }) => {
                        writer.send(Response::Story(Box::new(head))).await?;
                        writer.rows(lines.into_iter().map(|l| Response::Line(Box::new(l)))).await?;
                    }
                    Err(Refusal { kind, message }) => writer.error(kind, &message).await?,
                },
                Request::PinholeAdd(add) => self.act(uid, Act::Add(add), &mut writer).await?,
                Request::PinholeDelete { selector, reason } => {
                    self.act(uid, Act::Delete(selector, reason), &mut writer).await?;
                }
                Request::PinholesFlush { filter, reason } => {
                    self.act(uid, Act::Flush(filter, reason), &mut writer).await?;
                }
                Request::SessionKill { session, reason } => {
                    self.act(uid, Act::Kill(session, reason), &mut writer).await?;
                }
                Request::Why(asked) => match self.backend.why(asked).await {
                    Ok(why) => writer.send(Response::Why(Box::new(why))).await?,
                    Err(message) => writer.error(ErrorKind::Failed, &message).await?,
                },
                Request::Reload => match self.backend.reload().await {
                    Ok(report) => writer.send(Response::Reloaded(report)).await?,
                    Err(message) => writer.error(ErrorKind::Failed, &message).await?,
                },
                Request::Observe { filter, follow, last } => {
                    let (past, live) = self.history.observe();
                    writer.send(Response::Observing).await?;
                    let past: Vec<_> = past.into_iter().filter(|e| filter.matches(e)).collect();
                    for event in &past[past.len().saturating_sub(last.min(REMEMBERED))..] {
                        writer.event(event).await?;
                    }
                    if follow {
                        return self.follow(&mut reader, &mut writer, live, &filter).await;
                    }
                    writer.send(Response::End).await?;
                }
            }
        }
    }

    /// Changes something, and says what came of it.
    async fn act(&self, uid: u32, act: Act, writer: &mut Writer) -> io::Result<()> {
        match self.backend.act(uid, act).await {
            Ok(Done::Pinhole(row)) => writer.send(Response::Pinhole(row)).await,
            Ok(Done::Session(row)) => writer.send(Response::Session(row)).await,
            Ok(Done::Pinholes(rows)) => writer.rows(rows.into_iter().map(|p| Response::Pinhole(Box::new(p)))).await,
            Err(Refusal { kind, message }) => writer.error(kind, &message).await,
        }
    }

    /// Sends events until the client hangs up. What a slow client can't take is left out and counted.
    async fn follow(
        &self,
        reader: &mut BufReader<OwnedReadHalf>,
        writer: &mut Writer,
        mut live: broadcast::Receiver<Arc<Event>>,
        filter: &Filter,
    ) -> io::Result<()> {
        loop {
            let item = tokio::select! {
                item = live.recv() => item,
                // The client has nothing more to say: whatever comes, it is the end.
                _ = reader.read_u8() => return Ok(()),
            };
            match item {
                Ok(event) if filter.matches(&event) => writer.event(&event).await?,
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => {
                    writer.send(Response::Lagged { missed }).await?;
                }
                Err(RecvError::Closed) => return writer.send(Response::End).await,
            }
        }
    }

    fn count(&self, peer: &Peer) -> Option<Counted<'_>> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let count = users.entry(peer.uid).or_default();
        if *count >= CONNECTIONS_OF_ONE && !self.access.is_owner(peer) {
            return None;
        }
        *count += 1;
        Some(Counted { users: &self.users, uid: peer.uid })
    }
}

/// A connection that counts towards its user's limit while this lives.
struct Counted<'a> {
    users: &'a Mutex<HashMap<Uid, usize>>,
    uid: Uid,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = users.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                users.remove(&self.uid);
            }
        }
    }
}

/// Reads the next request of a client; `None` where it hung up. The inner error is the message for the client, behind
/// which nothing can be told apart any more.
///
/// # Errors
/// Reading failed.
pub async fn read_request(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Result<Request, String>>> {
    Ok(match read_line(reader).await? {
        Line::Whole(line) => Some(parse(&line)),
        Line::End => None,
        Line::TooLong => Some(Err(format!("a request of more than {REQUEST_MAX} bytes"))),
    })
}

enum Line {
    Whole(String),
    TooLong,
    End,
}

async fn read_line(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Line> {
    let mut line = Vec::new();
    let n = reader.take(REQUEST_MAX as u64).read_until(b'\n', &mut line).await?;
    Ok(match line.pop() {
        Some(b'\n') => match String::from_utf8(line) {
            Ok(line) => Line::Whole(line),
            Err(e) => Line::Whole(String::from_utf8_lossy(e.as_bytes()).into_owned()),
        },
        _ if n == REQUEST_MAX => Line::TooLong,
        // Half a line and no more: the client is gone.
        _ => Line::End,
    })
}

fn parse(line: &str) -> Result<Request, String> {
    #[derive(serde::Deserialize)]
    struct Version {
        v: u64,
    }
    // The version first: a request of another version need not be one of ours at all.
    let version: Version = serde_json::from_str(line).map_err(|e| format!("not a request: {e}"))?;
    if version.v != u64::from(VERSION) {
        return Err(format!(
            "protocol version {} is not known, this daemon speaks {VERSION}: use the ftp-helper that belongs to it",
            version.v
        ));
    }
    serde_json::from_str::<Versioned<Request>>(line).map(|r| r.body).map_err(|e| format!("not a request: {e}"))
}

async fn refuse(stream: UnixStream, kind: ErrorKind, message: &str) {
    let (_read, write) = stream.into_split();
    if let Err(e) = Writer(write).error(kind, message).await {
        tracing::debug!(error = %e, "a refused control connection ended early");
    }
}

struct Writer(OwnedWriteHalf);

impl Writer {
    async fn send(&mut self, response: Response) -> io::Result<()> {
        self.line(&Versioned::new(response)).await
    }

    async fn event(&mut self, event: &Arc<Event>) -> io::Result<()> {
        self.send(Response::Event(Box::new(Event::clone(event)))).await
    }

    async fn error(&mut self, kind: ErrorKind, message: &str) -> io::Result<()> {
        self.send(Response::Error { kind, message: message.to_owned() }).await
    }

    async fn rows(&mut self, rows: impl Iterator<Item = Response>) -> io::Result<()> {
        for row in rows {
            self.send(row).await?;
        }
        self.send(Response::End).await
    }

    async fn line(&mut self, value: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        timeout(PATIENCE, self.0.write_all(&line)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}
