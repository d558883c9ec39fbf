//! What an operator may ask for, carried out: each has a reason and the user who gave it, which the events keep.

use ftp_helper_common::key::{HOOK_IN, HOOK_OUT, PinholeKey};

use super::{clock, core::Daemon, status};
use crate::{
    api::{
        self, ErrorKind, PinholeAdd, PinholeRow, Selector, Session, Speaker, Story, StoryHead, StoryLine,
        server::{Act, Done, Refusal},
    },
    dataplane::{Direction, Guard},
    engine::{Entry, Nanos, NotKilled, Order},
    event::{SessionId, Timestamp},
};

/// Does it, and says what came of it.
pub(super) fn act(d: &mut Daemon, uid: u32, act: Act) -> Result<Done, Refusal> {
    let order = |note: &str| Order { uid, note: note.to_owned() };
    match act {
        Act::Add(wish) => add(d, &wish, &order(&wish.reason)).map(|row| Done::Pinhole(Box::new(row))),
        Act::Delete(selector, note) => delete(d, &selector, &order(&note)).map(|row| Done::Pinhole(Box::new(row))),
        Act::Flush(filter, note) => {
            let rows = status::pinholes(d).into_iter().filter(|row| filter.matches(row)).collect();
            revoke(d, rows, &order(&note)).map(Done::Pinholes)
        }
        Act::Kill(session, note) => kill(d, &session, &order(&note)).map(|row| Done::Session(Box::new(row))),
    }
}

/// What was said in a session.
pub(super) fn story(d: &Daemon, session: &str) -> Result<Story, Refusal> {
    let id = id(session)?;
    let Some(story) = d.engine.story(id) else {
        return Err(Refusal::not_found(format!(
            "no session {session} is known: it never was, or it ended too long ago; `ftp-helper sessions` lists those that go on"
        )));
    };
    let head = StoryHead {
        session: SessionId(id).to_string(),
        client: story.client,
        server: story.server,
        ended: story.ended,
        forgotten: story.forgotten,
    };
    let lines = story.entries.into_iter().map(|entry| match entry {
        Entry::Line { wall, server, text, long } => StoryLine {
            ts: Timestamp::from_wall(wall),
            from: if server { Speaker::Server } else { Speaker::Client },
            text: Some(text),
            long,
            event: None,
        },
        Entry::Event(event) => {
            StoryLine { ts: event.ts, from: Speaker::Daemon, text: None, long: false, event: Some(event) }
        }
    });
    Ok(Story { head, lines: lines.collect() })
}

fn add(d: &mut Daemon, wish: &PinholeAdd, order: &Order) -> Result<PinholeRow, Refusal> {
    let hook = match direction(&d.guards, wish)? {
        api::Direction::In => HOOK_IN,
        api::Direction::Out => HOOK_OUT,
    };
    let longest = d.config.policy.pinhole_timeout;
    let lives = match wish.seconds {
        None => longest,
        Some(0) => return Err(refused("a pinhole of no seconds would open nothing: give it one at least".to_owned())),
        Some(seconds) if u128::from(seconds) * 1000 > longest.as_millis() => {
            return Err(refused(format!(
                "{seconds} s is more than [pinhole] timeout, {}, for which a pinhole is open at most: ask for less, or raise that",
                humantime::format_duration(longest)
            )));
        }
        Some(seconds) => std::time::Duration::from_secs(seconds),
    };
    let lives = Nanos::try_from(lives.as_nanos()).unwrap_or(Nanos::MAX);
    let key = PinholeKey {
        initiator: wish.initiator.into(),
        responder: wish.responder.into(),
        port: wish.port,
        hook,
        pad: 0,
    };
    let why = |reason: ftp_helper_common::reason::Reason| {
        refused(format!("the pinhole was not opened: {reason}: {}", reason.describe().trim()))
    };
    let added = d.engine.add_pinhole(clock::now(), key, lives, order);
    carry_out(d)?;
    let id = added.map_err(why)?;
    match d.engine.pinhole_view(clock::now(), id) {
        Some(view) => Ok(status::row(d, view)),
        None => Err(d.engine.not_added(id).map_or_else(|| Refusal::failed("the kernel did not open the pinhole"), why)),
    }
}

fn delete(d: &mut Daemon, selector: &Selector, order: &Order) -> Result<PinholeRow, Refusal> {
    let selector = match selector {
        Selector::Id(name) => Selector::Id(SessionId(id(name)?).to_string()),
        Selector::Endpoint { .. } => selector.clone(),
    };
    let row = status::pinholes(d).into_iter().find(|row| selector.matches(row));
    let gone = || {
        Refusal::not_found(
            "there is no such pinhole, or not any more: `ftp-helper pinholes` lists those that are open".to_owned(),
        )
    };
    revoke(d, row.into_iter().collect(), order)?.pop().ok_or_else(gone)
}

/// Takes these back; those that were still there.
fn revoke(d: &mut Daemon, rows: Vec<PinholeRow>, order: &Order) -> Result<Vec<PinholeRow>, Refusal> {
    let mut revoked = Vec::with_capacity(rows.len());
    for row in rows {
        let Some(SessionId(owner)) = row.id().and_then(|id| id.parse().ok()) else { continue };
        if d.engine.revoke_pinhole(clock::now(), owner, order) {
            revoked.push(row);
        }
    }
    carry_out(d)?;
    for SessionId(owner) in revoked.iter().filter_map(|row| row.session.as_deref()?.parse().ok()) {
        d.save(owner).map_err(|e| Refusal::failed(format!("{e:#}")))?;
    }
    Ok(revoked)
}

fn kill(d: &mut Daemon, session: &str, order: &Order) -> Result<Session, Refusal> {
    let id = id(session)?;
    d.engine.kill(clock::now(), id, order).map_err(|e| match e {
        NotKilled::NoSession => Refusal::not_found(format!(
            "there is no session {session}, or not any more: `ftp-helper sessions` lists those that are followed"
        )),
        NotKilled::Before => refused(format!("session {session} was killed before")),
    })?;
    carry_out(d)?;
    d.save(id).map_err(|e| Refusal::failed(format!("{e:#}")))?;
    match d.engine.session(id) {
        Some(view) => Ok(status::session(d, clock::now(), view)),
        None => Err(Refusal::not_found(format!("session {session} ended meanwhile"))),
    }
}

fn carry_out(d: &mut Daemon) -> Result<(), Refusal> {
    d.act().map_err(|e| Refusal::failed(format!("{e:#}")))
}

fn id(name: &str) -> Result<u64, Refusal> {
    let bad = || Refusal {
        kind: ErrorKind::BadRequest,
        message: format!(
            "{name:?} is not an id: up to sixteen hexadecimal digits, as `ftp-helper sessions` prints them"
        ),
    };
    name.parse().map(|SessionId(id)| id).map_err(|_| bad())
}

fn refused(message: String) -> Refusal {
    Refusal { kind: ErrorKind::Refused, message }
}

/// Which way the first SYN goes: as asked for, or as the guards that cover it say.
fn direction(guards: &[Guard], wish: &PinholeAdd) -> Result<api::Direction, Refusal> {
    if let Some(direction) = wish.direction {
        return Ok(direction);
    }
    let covers =
        |guard: &&Guard| guard.networks.iter().any(|n| n.contains(&wish.responder)) && guard.ports.contains(&wish.port);
    let mut ways = guards.iter().filter(covers).map(|g| g.direction);
    match ways.next() {
        None => Err(refused(format!(
            "no guard covers {} port {}, so that a connection there needs no pinhole; name a direction (in or out) to add one all the same",
            wish.responder, wish.port
        ))),
        Some(first) if ways.all(|way| way == first) => Ok(match first {
            Direction::In => api::Direction::In,
            Direction::Out => api::Direction::Out,
        }),
        Some(_) => Err(refused(format!(
            "guards of both directions cover {} port {}: name the direction, in or out",
            wish.responder, wish.port
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(direction: Direction, network: &str) -> Guard {
        Guard {
            direction,
            networks: vec![network.parse().unwrap()],
            initiators: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
            ports: 1024..=65535,
            except: vec![],
        }
    }

    #[test]
    fn the_guards_say_which_way() {
        let wish = |responder: &str, direction| PinholeAdd {
            initiator: "203.0.113.1".parse().unwrap(),
            responder: responder.parse().unwrap(),
            port: 50_000,
            direction,
            seconds: None,
            reason: "a test".into(),
        };
        let guards = [
            guard(Direction::In, "192.0.2.0/24"),
            guard(Direction::In, "192.0.2.10/32"),
            guard(Direction::Out, "198.51.100.0/24"),
            guard(Direction::Out, "10.0.0.0/8"),
            guard(Direction::In, "10.1.0.0/16"),
        ];
        let way = |responder, asked| direction(&guards, &wish(responder, asked));
        assert_eq!(way("192.0.2.10", None), Ok(api::Direction::In));
        assert_eq!(way("198.51.100.5", None), Ok(api::Direction::Out));
        assert_eq!(way("198.51.100.5", Some(api::Direction::In)), Ok(api::Direction::In));
        assert_eq!(way("10.2.0.1", None), Ok(api::Direction::Out));
        assert!(way("10.1.0.1", None).unwrap_err().message.contains("both directions"));
        assert!(way("8.8.8.8", None).unwrap_err().message.starts_with("no guard covers 8.8.8.8 port 50000"));
        assert_eq!(way("8.8.8.8", Some(api::Direction::Out)), Ok(api::Direction::Out));
    }
}
