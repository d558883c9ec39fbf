//! What was said in each session and what came of it, for those who ask afterwards.
//!
//! A session keeps its last lines and events, [`STORY`] bytes of them at most, in one buffer that grows as it is needed. All
//! together keep [`TOTAL`] bytes: where that is too little, the oldest stories are dropped first, those of sessions that are
//! over before those of sessions that go on. A password is left out before a line is kept.

mod told;

use std::{collections::VecDeque, net::SocketAddr};

use ftp_helper_common::{
    key::{SERVER, SessionKey},
    reason::Reason,
};
use serde::{Deserialize, Serialize};

use self::told::{printable, without_password};
use super::{line::Line, table::BySession, view::ends};
use crate::event::{By, Connection, Event, Kind, Pinhole, SessionId};

/// Bytes that the story of one session takes at most, upkeep included.
const STORY: usize = 4 << 10;
/// Lines and events of one story at most.
const ENTRIES: u16 = 128;
/// Bytes that all stories together take at most.
const TOTAL: usize = 32 << 20;
/// Stories of sessions that are over, at most.
const ENDED: usize = 256;
/// Bytes in front of an entry: its length.
const LENGTH: usize = 2;

/// A session's story.
#[derive(Clone, PartialEq, Debug)]
pub struct Story {
    /// The client.
    pub client: SocketAddr,
    /// The server.
    pub server: SocketAddr,
    /// Whether the session is over.
    pub ended: bool,
    /// Older lines and events that are not kept any more.
    pub forgotten: u64,
    /// The others, oldest first.
    pub entries: Vec<Entry>,
}

/// A line, or an event.
#[derive(Clone, PartialEq, Debug)]
pub enum Entry {
    /// A side has said a line.
    Line {
        /// When, in nanoseconds since 1970-01-01 UTC.
        wall: u64,
        /// Whether it was the server.
        server: bool,
        /// The line, without a password, and made printable.
        text: String,
        /// It was longer than this.
        long: bool,
    },
    /// Something happened.
    Event(Box<Event>),
}

/// The stories.
#[derive(Debug, Default)]
pub(super) struct Stories {
    live: BySession<Kept>,
    ended: VecDeque<(u64, SessionKey, Kept)>,
    /// Sessions that go on and have a buffer, the oldest first, and some that have none any more.
    order: VecDeque<u64>,
    /// What all buffers take.
    bytes: usize,
    /// Where an entry is written before it is kept.
    room: Vec<u8>,
}

/// What is kept of one.
#[derive(Debug, Default)]
struct Kept {
    entries: u16,
    forgotten: u32,
    /// Entries, each behind its length.
    buffer: VecDeque<u8>,
}

/// An entry as it is kept.
#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    /// Microseconds since 1970-01-01 UTC.
    at: u64,
    #[serde(borrow)]
    what: What<'a>,
}

#[derive(Serialize, Deserialize)]
enum What<'a> {
    Line(bool, bool, #[serde(borrow)] &'a [u8]),
    Event {
        kind: Kind,
        reason: Option<u16>,
        pinhole: Option<Pinhole>,
        connection: Option<Ends>,
        by: Option<By>,
        uid: Option<u32>,
        #[serde(borrow)]
        note: Option<&'a str>,
        #[serde(borrow)]
        detail: Option<&'a str>,
    },
}

/// A connection as it is kept: as in events, but for the fields that are left out there.
#[derive(Serialize, Deserialize)]
struct Ends {
    from: SocketAddr,
    to: SocketAddr,
    bytes_out: Option<u64>,
    bytes_back: Option<u64>,
    duration_ms: Option<u64>,
    dropped: Option<bool>,
}

impl Stories {
    /// A session begins.
    pub(super) fn begin(&mut self, id: u64) {
        self.live.entry(id).or_default();
    }

    /// A side of a session has said a line, `wall` nanoseconds after 1970-01-01 UTC.
    pub(super) fn line(&mut self, id: u64, wall: u64, side: usize, line: &Line<'_>) {
        let server = side == usize::from(SERVER);
        let text = &line.text[..];
        let hidden = if server { None } else { without_password(text) };
        let what = What::Line(server, line.long, hidden.as_deref().unwrap_or(text));
        self.keep(id, &Stored { at: wall / 1000, what });
    }

    /// Something has happened; what belongs to no session that is known is nobody's story.
    pub(super) fn event(&mut self, event: &Event) {
        let Some(SessionId(id)) = event.session else { return };
        let what = What::Event {
            kind: event.event,
            reason: event.reason.map(|r| r as u16),
            pinhole: event.pinhole.clone(),
            connection: event.connection.as_ref().map(Ends::of),
            by: event.by,
            uid: event.uid,
            note: event.note.as_deref(),
            detail: event.detail.as_deref(),
        };
        self.keep(id, &Stored { at: event.ts.micros(), what });
    }

    /// A session is over.
    pub(super) fn end(&mut self, id: u64, key: SessionKey) {
        let Some(mut story) = self.live.remove(&id) else { return };
        self.bytes -= story.buffer.capacity();
        story.buffer.shrink_to_fit();
        self.bytes += story.buffer.capacity();
        if self.ended.len() == ENDED
            && let Some((.., oldest)) = self.ended.pop_front()
        {
            self.bytes -= oldest.buffer.capacity();
        }
        self.ended.push_back((id, key, story));
        if self.order.len() > 2 * self.live.len() + ENDED {
            let live = &self.live;
            self.order.retain(|id| live.get(id).is_some_and(|s| s.buffer.capacity() > 0));
        }
    }

    /// The story of a session, while it is known; `key` is that of one that goes on.
    pub(super) fn tell(&self, id: u64, key: Option<&SessionKey>) -> Option<Story> {
        if let (Some(key), Some(story)) = (key, self.live.get(&id)) {
            return Some(story.tell(id, key, false));
        }
        self.ended.iter().rev().find(|(ended, ..)| *ended == id).map(|(_, key, story)| story.tell(id, key, true))
    }

    /// Whether no session is going on.
    pub(super) fn is_idle(&self) -> bool {
        self.live.is_empty()
    }

    fn keep(&mut self, id: u64, entry: &Stored<'_>) {
        let story = match self.live.get_mut(&id) {
            Some(story) => {
                if story.buffer.capacity() == 0 {
                    self.order.push_back(id);
                }
                story
            }
            None => match self.ended.iter_mut().rev().find(|(ended, ..)| *ended == id) {
                Some((.., story)) => story,
                None => return,
            },
        };
        let before = story.buffer.capacity();
        story.push(entry, &mut self.room);
        self.bytes = self.bytes - before + story.buffer.capacity();
        while self.bytes > TOTAL && self.drop_oldest(id) {}
    }

    /// Drops the oldest story but this one; whether there was one.
    fn drop_oldest(&mut self, but: u64) -> bool {
        if let Some((.., story)) = self.ended.pop_front() {
            self.bytes -= story.buffer.capacity();
            return true;
        }
        while let Some(id) = self.order.pop_front() {
            if id == but {
                self.order.push_back(id);
                return self.order.len() > 1;
            }
            if let Some(story) = self.live.get_mut(&id)
                && story.buffer.capacity() > 0
            {
                self.bytes -= story.buffer.capacity();
                story.forgotten = story.forgotten.saturating_add(story.entries.into());
                (story.entries, story.buffer) = (0, VecDeque::new());
                return true;
            }
        }
        false
    }
}

impl Kept {
    /// Keeps an entry; `room` is where it is written first.
    fn push(&mut self, entry: &Stored<'_>, room: &mut Vec<u8>) {
        // The first time only: what was written there before is written over.
        room.resize(STORY - LENGTH, 0);
        // A line has 1024 bytes at most, what an event says less.
        let Ok(written) = postcard::to_slice(entry, room) else {
            self.forgotten = self.forgotten.saturating_add(1);
            return;
        };
        let Ok(length) = u16::try_from(written.len()) else { return };
        while self.entries >= ENTRIES || self.buffer.len() + LENGTH + written.len() > STORY {
            if !self.drop_first() {
                break;
            }
        }
        self.buffer.extend(length.to_le_bytes());
        self.buffer.extend(&*written);
        self.entries += 1;
    }

    fn drop_first(&mut self) -> bool {
        let (Some(low), Some(high)) = (self.buffer.front(), self.buffer.get(1)) else { return false };
        let length = LENGTH + usize::from(u16::from_le_bytes([*low, *high]));
        self.buffer.drain(..length.min(self.buffer.len()));
        self.entries = self.entries.saturating_sub(1);
        self.forgotten = self.forgotten.saturating_add(1);
        true
    }

    fn tell(&self, id: u64, key: &SessionKey, ended: bool) -> Story {
        let bytes: Vec<u8> = self.buffer.iter().copied().collect();
        let (client, server) = ends(key);
        let (mut entries, mut rest) = (Vec::with_capacity(self.entries.into()), &bytes[..]);
        while let Some((length, behind)) = rest.split_first_chunk::<LENGTH>() {
            let Some((entry, behind)) = behind.split_at_checked(u16::from_le_bytes(*length).into()) else { break };
            rest = behind;
            if let Ok(stored) = postcard::from_bytes::<Stored<'_>>(entry) {
                entries.push(stored.tell(id, client, server));
            }
        }
        Story { client, server, ended, forgotten: self.forgotten.into(), entries }
    }
}

impl Ends {
    fn of(connection: &Connection) -> Self {
        let Connection { from, to, bytes_out, bytes_back, duration_ms, dropped } = *connection;
        Self { from, to, bytes_out, bytes_back, duration_ms, dropped }
    }

    fn tell(self) -> Connection {
        let Self { from, to, bytes_out, bytes_back, duration_ms, dropped } = self;
        Connection { from, to, bytes_out, bytes_back, duration_ms, dropped }
    }
}

impl Stored<'_> {
    fn tell(self, id: u64, client: SocketAddr, server: SocketAddr) -> Entry {
        let wall = self.at.saturating_mul(1000);
        match self.what {
            What::Line(server, long, text) => Entry::Line { wall, server, text: printable(text), long },
            What::Event { kind, reason, pinhole, connection, by, uid, note, detail } => Entry::Event(Box::new(Event {
                reason: reason.and_then(Reason::from_code),
                pinhole,
                connection: connection.map(Ends::tell),
                by,
                uid,
                note: note.map(ToOwned::to_owned),
                detail: detail.map(ToOwned::to_owned),
                ..Event::new(kind, wall).of_session(id, client, server)
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use ftp_helper_common::addr::Addr;

    use super::*;
    use crate::event::{NegotiatedBy, PinholeState};

    fn key(n: u8) -> SessionKey {
        SessionKey {
            client: Addr::v4([192, 0, 2, n]),
            server: Addr::v4([198, 51, 100, 5]),
            client_port: 4000,
            server_port: 21,
        }
    }

    fn line(text: &[u8]) -> Line<'_> {
        Line { text: Cow::Borrowed(text), seq: 0, end: 0, ack: 0, telnet: false, bare: false, long: false }
    }

    fn texts(stories: &Stories, id: u64) -> Vec<String> {
        let text = |e| match e {
            Entry::Line { text, .. } => Some(text),
            Entry::Event(_) => None,
        };
        stories.tell(id, Some(&key(1))).unwrap().entries.into_iter().filter_map(text).collect()
    }

    #[test]
    fn lines_and_events_come_back_in_order_and_whole() {
        let mut stories = Stories::default();
        stories.begin(7);
        let wall = 1_700_000_000_123_456_000;
        stories.line(7, wall, 1, &line(b"220 hi"));
        let (client, server) = ends(&key(1));
        let event = Event {
            reason: Some(Reason::LowPort),
            pinhole: Some(Pinhole {
                mode: NegotiatedBy::Pasv,
                initiator: client.ip(),
                responder: "2001:db8::5".parse().unwrap(),
                port: 80,
                state: PinholeState::Provisional,
                expires_in_ms: 10_000,
            }),
            connection: Some(Connection { bytes_out: Some(5), dropped: Some(true), ..Connection::new(client, server) }),
            by: Some(By::Operator),
            uid: Some(1000),
            note: Some("why".into()),
            detail: Some("what".into()),
            ..Event::new(Kind::Refused, wall + 1000).of_session(7, client, server)
        };
        stories.event(&event);
        stories.line(7, wall + 2000, 0, &line(b"RETR \xff\\\x1b[2J"));
        let story = stories.tell(7, Some(&key(1))).unwrap();
        let line = |wall, server, text: &str| Entry::Line { wall, server, text: text.into(), long: false };
        assert_eq!(
            story.entries,
            [
                line(wall, true, "220 hi"),
                Entry::Event(Box::new(event.clone())),
                line(wall + 2000, false, r"RETR \xff\\\x1b[2J")
            ]
        );
        assert_eq!((story.client, story.server, story.ended, story.forgotten), (client, server, false, 0));
        // Behind its end, too; and nobody else's.
        stories.end(7, key(1));
        stories.event(&event);
        let story = stories.tell(7, Some(&key(1))).unwrap();
        assert_eq!((story.ended, story.entries.len()), (true, 4));
        stories.event(&Event::new(Kind::SessionEnd, wall).of_session(8, client, server));
        assert!(stories.tell(8, None).is_none() && stories.is_idle());
    }

    #[test]
    fn a_password_is_never_kept() {
        for (said, told) in [
            (&b"PASS secret"[..], Some("PASS ***")),
            (b"pass secret", Some("pass ***")),
            (b" \x00PaSs\tsecret word", Some(r" \x00PaSs ***")),
            (b"PASSsecret", Some("PASS ***")),
            (b"PASS secret\xff", Some("PASS ***")),
            (b"ACCT secret", Some("ACCT ***")),
            (b"ADAT secret", Some("ADAT ***")),
            (b"SITE PSWD secret secret2", Some("SITE PSWD ***")),
            (b"site  chpass u secret", Some("site  chpass ***")),
            (b"SITE ADDUSER u secret", Some("SITE ADDUSER ***")),
            (b"PASS", None),
            (b"PASV", None),
            (b"USER pass", None),
            (b"SITE CHMOD 600 secret", None),
            (b"SITE", None),
            (b"SITE PSWD", None),
            (b"", None),
        ] {
            let mut stories = Stories::default();
            stories.begin(1);
            stories.line(1, 0, 0, &line(said));
            let told = told.map_or_else(|| printable(said), ToOwned::to_owned);
            assert_eq!(texts(&stories, 1), [told]);
            let kept: Vec<u8> = stories.live[&1].buffer.iter().copied().collect();
            let secret = kept.windows(6).any(|w| w == b"secret");
            assert_eq!(secret, said.starts_with(b"SITE CHMOD"), "{said:?}");
        }
        // What the server says is told as it is.
        let mut stories = Stories::default();
        stories.begin(1);
        stories.line(1, 0, 1, &line(b"PASS it on"));
        assert_eq!(texts(&stories, 1), ["PASS it on"]);
    }

    #[test]
    fn a_story_is_bounded_by_lines_and_by_bytes() {
        let mut stories = Stories::default();
        stories.begin(1);
        for i in 0..1000u32 {
            stories.line(1, 0, 0, &line(format!("NOOP {i}").as_bytes()));
        }
        let story = stories.tell(1, Some(&key(1))).unwrap();
        assert_eq!((story.entries.len(), story.forgotten), (ENTRIES.into(), 1000 - u64::from(ENTRIES)));
        assert_eq!(texts(&stories, 1).last().unwrap(), "NOOP 999");
        for i in 0..100u32 {
            stories.line(1, 0, 1, &line(format!("{i} {}", "x".repeat(1000)).as_bytes()));
        }
        let story = stories.tell(1, Some(&key(1))).unwrap();
        assert_eq!((story.entries.len(), story.forgotten + story.entries.len() as u64), (4, 1100));
        assert!(stories.live[&1].buffer.len() <= STORY && stories.bytes <= 2 * STORY);
    }

    #[test]
    fn the_oldest_stories_are_dropped_first() {
        let mut stories = Stories::default();
        let long = [b'x'; 1000];
        let sessions = 3 * TOTAL as u64 / STORY as u64;
        for id in 0..sessions {
            stories.begin(id);
            for _ in 0..3 {
                stories.line(id, 0, 0, &line(&long));
            }
            assert!(stories.bytes <= TOTAL);
        }
        let told = |id| stories.tell(id, Some(&key(1))).map(|s| (s.entries.len(), s.forgotten));
        assert_eq!((told(0), told(sessions - 1)), (Some((0, 3)), Some((3, 0))));
        // One that goes on is told again from there on.
        stories.line(0, 0, 0, &line(b"NOOP"));
        assert_eq!(stories.tell(0, Some(&key(1))).map(|s| (s.entries.len(), s.forgotten)), Some((1, 3)));
        // Of those that are over so many are kept, unless room is wanted for others.
        for id in 0..sessions {
            stories.end(id, key(1));
        }
        assert_eq!((stories.ended.len(), stories.is_idle()), (ENDED, true));
        assert!(stories.order.len() <= 2 * ENDED, "{}", stories.order.len());
        assert!(stories.tell(sessions - ENDED as u64 - 1, None).is_none());
        assert!(stories.tell(sessions - ENDED as u64, None).is_some());
        let total: usize = stories.ended.iter().map(|(.., s)| s.buffer.capacity()).sum();
        assert_eq!(stories.bytes, total);
    }
}
