//! Client and server over a real socket, with a backend of canned answers.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use super::{
    access::Access,
    client::{Client, Observed},
    server::{Act, Backend, Done, Refusal, serve},
    *,
};
use crate::{
    error::{Code, Fault},
    event::{Kind, NegotiatedBy, Pinhole, PinholeState, SessionId},
};

#[derive(Clone)]
struct Canned {
    events: History,
    reload: Arc<Mutex<Result<ReloadReport, String>>>,
    acts: Arc<Mutex<Vec<(u32, Act)>>>,
}

fn pinhole() -> Pinhole {
    Pinhole {
        mode: NegotiatedBy::Pasv,
        initiator: "192.0.2.10".parse().unwrap(),
        responder: "198.51.100.5".parse().unwrap(),
        port: 50069,
        state: PinholeState::Confirmed,
        expires_in_ms: 9000,
    }
}

fn pinhole_row() -> PinholeRow {
    PinholeRow {
        session: Some("00000000000000a1".into()),
        added: None,
        client: Some("192.0.2.10:40000".parse().unwrap()),
        server: Some("198.51.100.5:21".parse().unwrap()),
        inside: None,
        uid: None,
        note: None,
        pinhole: pinhole(),
    }
}

fn session_row(i: u64) -> Session {
    Session {
        session: format!("{i:016x}"),
        client: "192.0.2.10:40000".parse().unwrap(),
        server: "198.51.100.5:21".parse().unwrap(),
        inside: None,
        state: Standing::LoggedIn,
        sighted: true,
        reason: None,
        age_ms: i,
        idle_ms: 0,
        pinhole: Some(pinhole()),
        data_connections: 0,
        transfers: 1,
        bytes: 0,
    }
}

fn story_line(text: &str) -> StoryLine {
    StoryLine {
        ts: "2026-01-01T00:00:00.000000Z".parse().unwrap(),
        from: Speaker::Client,
        text: Some(text.into()),
        long: false,
        event: None,
    }
}

impl Backend for Canned {
    async fn status(&self) -> Status {
        Status { version: "9.9".into(), mode: "observe".into(), ..Status::default() }
    }

    async fn sessions(&self) -> Vec<Session> {
        // More than one line, and more than one buffer.
        (0..5000).map(session_row).collect()
    }

    async fn pinholes(&self) -> Vec<PinholeRow> {
        vec![pinhole_row()]
    }

    async fn connections(&self) -> Vec<ConnectionRow> {
        vec![ConnectionRow {
            session: Some("00000000000000a1".into()),
            added: None,
            client: None,
            server: None,
            mode: NegotiatedBy::Epsv,
            initiator: "[2001:db8::1]:5000".parse().unwrap(),
            responder: "[2001:db8::2]:50069".parse().unwrap(),
            bytes_out: 1 << 20,
            bytes_back: 0,
            rate: 1 << 20,
            age_ms: 1500,
            seen_ms: 500,
        }]
    }

    async fn story(&self, session: String) -> Result<Story, Refusal> {
        if session != "00000000000000a1" {
            return Err(Refusal::not_found(format!("no session {session}")));
        }
        let client = "192.0.2.10:40000".parse().unwrap();
        let server = "198.51.100.5:21".parse().unwrap();
        let head = StoryHead { session, client, server, ended: true, forgotten: 3 };
        Ok(Story { head, lines: vec![story_line("USER me"), story_line("PASS ***")] })
    }

    async fn act(&self, uid: u32, act: Act) -> Result<Done, Refusal> {
        self.acts.lock().unwrap().push((uid, act.clone()));
        match act {
            Act::Add(PinholeAdd { port: 22, .. }) => {
                Err(Refusal { kind: ErrorKind::Refused, message: "low_port".into() })
            }
            Act::Add(_) | Act::Delete(..) => Ok(Done::Pinhole(Box::new(pinhole_row()))),
            Act::Flush(..) => Ok(Done::Pinholes(vec![pinhole_row(), pinhole_row()])),
            Act::Kill(..) => Ok(Done::Session(Box::new(session_row(7)))),
        }
    }

    async fn why(&self, asked: Asked) -> Result<Why, String> {
        let guards = vec![];
        let mode = "drop".into();
        Ok(Why { asked, verdict: Verdict::Allowed, mode, control_port: false, guards, near: vec![] })
    }

    async fn reload(&self) -> Result<ReloadReport, String> {
        self.reload.lock().unwrap().clone()
    }
}

/// A server on a thread of its own, so that the blocking client can be used as the commands use it.
struct Running {
    _dir: tempfile::TempDir,
    path: PathBuf,
    backend: Canned,
    _runtime: tokio::runtime::Runtime,
}

fn start(access: Option<Access>) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let backend = Canned {
        events: History::default(),
        reload: Arc::new(Mutex::new(Ok(ReloadReport { changed: vec!["mode".into()], needs_restart: vec![] }))),
        acts: Arc::default(),
    };
    let listener = {
        let _inside = runtime.enter();
        tokio::net::UnixListener::bind(&path).unwrap()
    };
    let access = access.unwrap_or_else(|| Access::resolve("root", "root").unwrap());
    runtime.spawn(serve(listener, access, backend.events.clone(), backend.clone()));
    Running { _dir: dir, path, backend, _runtime: runtime }
}

fn event(n: u64) -> Event {
    Event {
        v: 1,
        ts: "2026-01-01T00:00:00.000000Z".parse().unwrap(),
        event: if n.is_multiple_of(2) { Kind::Opened } else { Kind::Expired },
        session: Some(SessionId(n)),
        client: None,
        server: None,
        reason: None,
        pinhole: Some(pinhole()),
        connection: None,
        added: None,
        by: None,
        uid: None,
        note: None,
        detail: None,
    }
}

#[test]
fn questions_and_answers() {
    let server = start(None);
    let mut client = Client::connect(&server.path).unwrap();
    assert_eq!(client.status().unwrap().version, "9.9");
    let sessions = client.sessions().unwrap();
    assert_eq!(sessions.len(), 5000);
    assert_eq!(sessions[4999].session, format!("{:016x}", 4999));
    assert_eq!(client.pinholes().unwrap()[0].pinhole, pinhole());
    let asked =
        Asked { from: "192.0.2.10".parse().unwrap(), from_port: None, to: "[2001:db8::1]:50069".parse().unwrap() };
    let why = client.why(asked).unwrap();
    assert_eq!((why.asked, why.verdict), (asked, Verdict::Allowed));
    assert_eq!(client.reload().unwrap().changed, ["mode"]);
    *server.backend.reload.lock().unwrap() = Err("f.toml:1:1: no".into());
    let fault = client.reload().unwrap_err();
    assert_eq!((fault.code, fault.message.as_str()), (Code::Failure, "f.toml:1:1: no"));
    // The connection is still good.
    assert_eq!(client.status().unwrap().mode, "observe");
}

#[test]
fn a_row_of_pinholes_has_the_fields_of_an_event() {
    assert_eq!(
        serde_json::to_string(&pinhole_row()).unwrap(),
        r#"{"session":"00000000000000a1","client":"192.0.2.10:40000","server":"198.51.100.5:21","mode":"pasv","initiator":"192.0.2.10","responder":"198.51.100.5","port":50069,"state":"confirmed","expires_in_ms":9000}"#
    );
}

fn add(port: u16, reason: &str) -> PinholeAdd {
    PinholeAdd {
        initiator: "192.0.2.10".parse().unwrap(),
        responder: "198.51.100.5".parse().unwrap(),
        port,
        direction: None,
        seconds: Some(5),
        reason: reason.into(),
    }
}

#[test]
fn connections_and_stories_are_told() {
    let server = start(None);
    let mut client = Client::connect(&server.path).unwrap();
    assert_eq!(client.connections().unwrap()[0].rate, 1 << 20);
    let story = client.story("00000000000000a1").unwrap();
    assert_eq!((story.head.ended, story.head.forgotten), (true, 3));
    assert_eq!(story.lines, [story_line("USER me"), story_line("PASS ***")]);
    let fault = client.story("1").unwrap_err();
    assert_eq!((fault.code, fault.message.as_str()), (Code::Failure, "no session 1"));
    assert_eq!(client.status().unwrap().mode, "observe");
}

#[test]
fn what_is_changed_is_changed_by_somebody_and_for_a_reason() {
    let server = start(None);
    let mut client = Client::connect(&server.path).unwrap();
    assert_eq!(client.pinhole_add(add(50069, "one")).unwrap(), pinhole_row());
    assert_eq!(client.pinhole_delete(Selector::Id("a1".into()), "two").unwrap(), pinhole_row());
    assert_eq!(client.pinholes_flush(PinholeFilter::default(), "three").unwrap().len(), 2);
    assert_eq!(client.session_kill("7", "four").unwrap(), session_row(7));
    let fault = client.pinhole_add(add(22, "five")).unwrap_err();
    assert_eq!((fault.code, fault.message.as_str()), (Code::Failure, "low_port"));
    let uid = nix::unistd::Uid::effective().as_raw();
    let acts = [
        Act::Add(add(50069, "one")),
        Act::Delete(Selector::Id("a1".into()), "two".into()),
        Act::Flush(PinholeFilter::default(), "three".into()),
        Act::Kill("7".into(), "four".into()),
        Act::Add(add(22, "five")),
    ];
    assert_eq!(*server.backend.acts.lock().unwrap(), acts.map(|act| (uid, act)));
    // Without a reason that can be printed nothing is done.
    for fault in [
        client.pinhole_add(add(50069, " ")).unwrap_err(),
        client.pinhole_delete(Selector::Id("a1".into()), "a\nb").unwrap_err(),
        client.pinholes_flush(PinholeFilter::default(), "\u{1b}").unwrap_err(),
        client.session_kill("7", &"x".repeat(300)).unwrap_err(),
    ] {
        assert!(fault.message.starts_with("the reason "), "{fault}");
    }
    assert_eq!(server.backend.acts.lock().unwrap().len(), 5);
}

#[test]
fn who_may_not_is_told_so() {
    // Groups that no test process is in, and no owner.
    let server = start(Some(Access::of_groups(u32::MAX - 7, u32::MAX - 8)));
    let mut client = Client::connect(&server.path).unwrap();
    let fault = client.status().unwrap_err();
    assert_eq!(fault.code, Code::NoPermission);
    assert!(fault.message.contains("member of group \"readers\""), "{fault}");
    let fault = client.reload().unwrap_err();
    assert_eq!(fault.code, Code::NoPermission);
    assert!(fault.message.contains("member of group \"writers\""), "{fault}");
}

#[test]
fn readers_may_not_change() {
    let own = nix::unistd::Gid::effective().as_raw();
    let server = start(Some(Access::of_groups(own, u32::MAX - 8)));
    let mut client = Client::connect(&server.path).unwrap();
    assert!(client.status().is_ok());
    assert_eq!(client.reload().unwrap_err().code, Code::NoPermission);
    assert!(client.connections().is_ok() && client.story("00000000000000a1").is_ok());
    for fault in [
        client.pinhole_add(add(50069, "one")).unwrap_err(),
        client.pinhole_delete(Selector::Id("a1".into()), "two").unwrap_err(),
        client.pinholes_flush(PinholeFilter::default(), "three").unwrap_err(),
        client.session_kill("7", "four").unwrap_err(),
    ] {
        assert_eq!(fault.code, Code::NoPermission, "{fault}");
    }
    assert!(server.backend.acts.lock().unwrap().is_empty());
}

#[test]
fn one_user_can_not_take_all_connections() {
    let own = nix::unistd::Gid::effective().as_raw();
    let server = start(Some(Access::of_groups(own, own)));
    let mut clients: Vec<_> = (0..16).map(|_| Client::connect(&server.path).unwrap()).collect();
    for client in &mut clients {
        client.status().unwrap();
    }
    let fault = Client::connect(&server.path).unwrap().status().unwrap_err();
    assert!(fault.message.contains("too many connections"), "{fault}");
    drop(clients);
    let deadline = Instant::now() + Duration::from_secs(20);
    while Client::connect(&server.path).unwrap().status().is_err() {
        assert!(Instant::now() < deadline, "the connections still count");
    }
}

#[test]
fn nobody_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    assert_eq!(Client::connect(&path).unwrap_err().code, Code::NotRunning);
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let fault = Client::connect(&path).unwrap_err();
    assert_eq!(fault.code, Code::NotRunning);
    assert!(fault.message.starts_with(&format!("no daemon answers at {}", path.display())), "{fault}");
}

#[test]
fn nonsense_is_answered_and_hung_up_on() {
    let server = start(None);
    let ask = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(&server.path).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = String::new();
        // A reset after the answer is no failure of ours: the server does not read the rest.
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    for (sent, part) in [
        (b"hello\n".to_vec(), "not a request"),
        (b"{\"v\":1,\"request\":\"erase\"}\n".to_vec(), "unknown variant `erase`"),
        (b"{\"v\":2,\"request\":\"new\"}\n".to_vec(), "protocol version 2 is not known, this daemon speaks 1"),
        (b"\xff\xfe\n".to_vec(), "not a request"),
        (vec![b'x'; REQUEST_MAX], "more than 16384 bytes"),
    ] {
        let answer = ask(&sent);
        let response: Versioned<Response> = serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{answer}: {e}"));
        match response.body {
            Response::Error { kind: ErrorKind::BadRequest, message } => assert!(message.contains(part), "{message}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_last_events_are_remembered() {
    let server = start(None);
    // An observer that sees the last event proves that the server has taken all of them in.
    let follower = Client::connect(&server.path).unwrap();
    let events = server.backend.events.clone();
    let mut seen = Vec::new();
    follower
        .observe(Filter::default(), true, 0, |observed| {
            match observed {
                Observed::Ready => {
                    for n in 0..1500 {
                        events.push(event(n));
                    }
                }
                Observed::Event(e) => seen.push(*e),
                Observed::Lagged(n) => panic!("missed {n}"),
            }
            Ok::<_, Fault>(seen.len() < 1500)
        })
        .unwrap();
    assert_eq!(seen[0], event(0));
    let past = |filter: Filter, last: usize| {
        let mut past = Vec::new();
        let each = |observed| {
            if let Observed::Event(e) = observed {
                past.push(e.session.unwrap());
            }
            Ok::<_, Fault>(true)
        };
        Client::connect(&server.path).unwrap().observe(filter, false, last, each).unwrap();
        past
    };
    let all = past(Filter::default(), usize::MAX);
    assert_eq!(all.len(), 1024);
    assert_eq!(all[0], SessionId(1500 - 1024));
    assert_eq!(past(Filter::default(), 1), [SessionId(1499)]);
    assert_eq!(past(Filter { event: vec![Kind::Opened], ..Filter::default() }, 1), [SessionId(1498)]);
}

#[test]
fn a_slow_observer_is_told_what_it_missed_and_slows_nobody() {
    let server = start(None);
    let mut stream = UnixStream::connect(&server.path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(b"{\"v\":1,\"request\":\"observe\",\"follow\":true}\n").unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.contains("observing"), "{line}");
    // It does not read while far more is sent than its buffers hold; another client is served all the same.
    for n in 0..60_000 {
        server.backend.events.push(event(n));
    }
    server.backend.events.push(event(1 << 40));
    let mut past = None;
    let deadline = Instant::now() + Duration::from_secs(60);
    let last = Some(SessionId(1 << 40));
    while past != last {
        assert!(Instant::now() < deadline, "the events do not arrive");
        let each = |observed| {
            if let Observed::Event(e) = observed {
                past = e.session;
            }
            Ok::<_, Fault>(true)
        };
        Client::connect(&server.path).unwrap().observe(Filter::default(), false, 1, each).unwrap();
    }
    let (mut seen, mut missed) = (0, 0);
    while seen + missed < 60_001 {
        line.clear();
        reader.read_line(&mut line).unwrap();
        match serde_json::from_str::<Versioned<Response>>(&line).unwrap().body {
            Response::Event(_) => seen += 1,
            Response::Lagged { missed: n } => missed += n,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen + missed, 60_001);
    assert!(missed > 0);
}
