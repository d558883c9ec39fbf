//! The daemon's side of the view: threads that ask, listen and read keys, and tell the one that draws.

use std::{
    path::PathBuf,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender},
    thread,
    time::{Duration, Instant},
};

use ratatui::crossterm::event::{self, KeyEvent, KeyEventKind};

use super::{
    app::{StoryLine, Wish},
    known::Fetched,
    story,
};
use crate::{
    api::{
        Filter, Selector,
        client::{Client, Observed},
    },
    error::Fault,
    event::Event,
};

/// Asking takes at most one part in so many of the time, whatever the interval: a thousand sessions are a third of a
/// megabyte of JSON, and to read that sixty times a second would cost more than all the rest.
const SHARE: u32 = 25;
/// How long to wait before a daemon that does not answer is asked again.
const PATIENCE: Duration = Duration::from_secs(1);
/// The daemon hangs up on who asks nothing for half a minute; before that a connection is made anew.
const IDLE: Duration = Duration::from_secs(20);
/// Events that the daemon still remembers, and that the view begins with.
const REMEMBERED: usize = 1024;

/// What one of the threads tells.
#[derive(Debug)]
pub(super) enum Told {
    /// A key was pressed.
    Key(KeyEvent),
    /// The screen has another size.
    Resized,
    /// The terminal is gone; why.
    Hangup(String),
    /// A signal to end.
    End,
    /// New answers of the daemon.
    Fetched(Box<Fetched>),
    /// An event.
    Event(Box<Event>),
    /// The daemon does not answer; why.
    Lost(String),
    /// A session's story, or why there is none.
    Story(String, Result<Vec<StoryLine>, String>),
    /// Something was done, or why not.
    Done(Result<String, String>),
}

/// Where the daemon is, and since when the program runs.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// The control socket.
    pub(super) socket: PathBuf,
    /// When the program started.
    pub(super) start: Instant,
}

/// Reads keys until nobody wants them.
pub(super) fn keys(to: &SyncSender<Told>) {
    loop {
        let told = match event::read() {
            Ok(event::Event::Key(key)) if key.kind != KeyEventKind::Release => Told::Key(key),
            Ok(event::Event::Resize(..)) => Told::Resized,
            Ok(_) => continue,
            Err(e) => {
                // Nobody listens any more, most likely.
                let _ = to.send(Told::Hangup(e.to_string()));
                return;
            }
        };
        if to.send(told).is_err() {
            return;
        }
    }
}

/// Tells of every event, by a connection of its own, which is made again when it breaks.
pub(super) fn events(source: &Source, to: &SyncSender<Told>) {
    loop {
        // Why it broke is told by the one that asks.
        let _ = Client::connect(&source.socket).and_then(|client| {
            client.observe(Filter::default(), true, REMEMBERED, |observed| {
                let heard = match observed {
                    Observed::Event(event) => to.send(Told::Event(event)).is_ok(),
                    // What was left out is in the counters all the same.
                    Observed::Ready | Observed::Lagged(_) => true,
                };
                Ok::<_, Fault>(heard)
            })
        });
        thread::sleep(PATIENCE);
    }
}

/// Asks the daemon at an interval, does what is wished in between, and goes on when the daemon is away.
pub(super) fn ask(source: &Source, interval: Duration, wishes: &Receiver<Wish>, to: &SyncSender<Told>) {
    let mut connection = Connection { source, client: None };
    let mut next = Instant::now();
    loop {
        let told = match wishes.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(wish) => {
                let Some(told) = connection.fulfil(wish) else { continue };
                // What was done is to be seen at once.
                next = Instant::now();
                told
            }
            Err(RecvTimeoutError::Timeout) => {
                let begun = Instant::now();
                match connection.fetch() {
                    Ok(fetched) => {
                        next = Instant::now() + interval.max(begun.elapsed() * SHARE);
                        Told::Fetched(Box::new(fetched))
                    }
                    Err(e) => {
                        next = Instant::now() + PATIENCE;
                        Told::Lost(e.message)
                    }
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if to.send(told).is_err() {
            return;
        }
    }
}

/// A connection that is made when it is needed.
struct Connection<'a> {
    source: &'a Source,
    client: Option<(Client, Instant)>,
}

impl Connection<'_> {
    fn fetch(&mut self) -> Result<Fetched, Fault> {
        let start = self.source.start;
        self.with(|client| {
            let status = client.status()?;
            let sessions = client.sessions()?;
            let pinholes = client.pinholes()?;
            let transfers = client.connections()?;
            // Ages and countdowns are as of the answers, not as of the questions.
            Ok(Fetched { at: start.elapsed(), status, sessions, pinholes, transfers })
        })
    }

    fn fulfil(&mut self, wish: Wish) -> Option<Told> {
        Some(match wish {
            Wish::Quit => return None,
            Wish::Story(session) => {
                let story = self.with(|client| client.story(&session)).map(|s| story::lines(&s)).map_err(|e| e.message);
                Told::Story(session, story)
            }
            Wish::Revoke(row, reason) => {
                let p = &row.pinhole;
                let (initiator, responder, port) = (p.initiator, p.responder, p.port);
                let selector = Selector::Endpoint { initiator, responder, port };
                let done = self.with(|client| client.pinhole_delete(selector, &reason));
                Told::Done(done.map(|_| format!("revoked: {initiator} to port {port}")).map_err(|e| e.message))
            }
            Wish::Kill(session, reason) => {
                let done = self.with(|client| client.session_kill(&session, &reason));
                Told::Done(done.map(|_| format!("killed: session {session}")).map_err(|e| e.message))
            }
        })
    }

    /// Does something with a connection. What went wrong may have left half an answer in it, so that it is not used
    /// again then.
    fn with<T>(&mut self, what: impl FnOnce(&mut Client) -> Result<T, Fault>) -> Result<T, Fault> {
        let kept = self.client.take().filter(|(_, used)| used.elapsed() < IDLE);
        let mut client = match kept {
            Some((client, _)) => client,
            None => Client::connect(&self.source.socket)?,
        };
        let done = what(&mut client)?;
        self.client = Some((client, Instant::now()));
        Ok(done)
    }
}
