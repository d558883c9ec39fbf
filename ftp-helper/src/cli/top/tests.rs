//! The view without a terminal: screens against committed pictures in text, and what the keys do.
//!
//! `UPDATE_SNAPSHOTS=1 cargo test -p ftp-helper --lib cli::top` writes the pictures anew.

use std::{fmt::Write as _, path::Path, time::Duration};

use ratatui::{
    Terminal,
    backend::TestBackend,
    buffer::{Buffer, Cell},
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    style::{Color, Modifier},
};

use super::{
    app::{App, Overlay, StoryLine, Wish},
    draw,
    known::{Fetched, Moment},
    panes::Pane,
    theme::{Theme, Tone},
};
use crate::{
    api::{
        ConnectionRow, DeniedPort, Gauge, Heartbeat, HookKind, Interface, LinkType, PinholeRow, Session, ShieldKind,
        Standing, Status,
    },
    event::{Event, NegotiatedBy, Pinhole, PinholeState},
};

/// When everything is looked at: a second and a half after the daemon has answered.
const NOW: Moment = Duration::from_millis(3500);

fn id(n: u64) -> String {
    format!("{n:016x}")
}

fn session(n: u64, client: &str, server: &str, state: Standing) -> Session {
    Session {
        session: id(n),
        client: client.parse().unwrap(),
        server: server.parse().unwrap(),
        inside: None,
        state,
        sighted: state == Standing::LoggedIn,
        reason: None,
        age_ms: 1000 * n * n,
        idle_ms: 500 * n,
        pinhole: None,
        data_connections: u32::from(n == 2),
        transfers: n,
        bytes: 1 << (3 * n),
    }
}

fn pinhole(n: u64, mode: NegotiatedBy, initiator: &str, responder: &str, port: u16, left: u64) -> PinholeRow {
    let state = if n == 1 { PinholeState::Provisional } else { PinholeState::Confirmed };
    PinholeRow {
        session: Some(id(n)),
        added: None,
        client: Some(format!("{initiator}:40001").parse().unwrap()),
        server: Some(format!("{responder}:21").parse().unwrap()),
        inside: None,
        uid: None,
        note: None,
        pinhole: Pinhole {
            mode,
            initiator: initiator.parse().unwrap(),
            responder: responder.parse().unwrap(),
            port,
            state,
            expires_in_ms: left,
        },
    }
}

fn connection(n: u64, from: &str, to: &str, bytes: [u64; 2], rate: u64) -> ConnectionRow {
    ConnectionRow {
        session: Some(id(n)),
        added: None,
        client: None,
        server: None,
        mode: NegotiatedBy::Epsv,
        initiator: from.parse().unwrap(),
        responder: to.parse().unwrap(),
        bytes_out: bytes[0],
        bytes_back: bytes[1],
        rate,
        age_ms: 61_000,
        seen_ms: 10,
    }
}

fn status() -> Status {
    let count = |pairs: &[(&str, u64)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
    Status {
        version: "0.1.0".into(),
        pid: 4711,
        mode: "drop".into(),
        uptime_ms: 3_723_000,
        interfaces: vec![Interface {
            name: "wan0".into(),
            ifindex: 3,
            hook: HookKind::Tcx,
            link: LinkType::Ethernet,
            shield: Some(ShieldKind::Native),
        }],
        waiting_for: vec!["ppp*".into()],
        sessions: Gauge { live: 6, limit: 65536 },
        pinholes: Gauge { live: 2, limit: 65536 },
        data_connections: Gauge { live: 2, limit: 131_072 },
        heartbeat: Heartbeat { age_ms: 212, stale_after_ms: 5000 },
        counters: count(&[("telemetry_lost", 7), ("records", 12_345)]),
        reasons: count(&[("no_pinhole", 1_234_567), ("pipelined", 3), ("midstream", 2), ("other_initiator", 9)]),
        engine: count(&[
            ("announcements", 840),
            ("taken_by_fast_path", 812),
            ("refused.third_host", 4),
            ("refused.low_port", 2),
            ("revoked.replaced", 11),
        ]),
        denied: vec![DeniedPort { port: 3389, denied: 1_200_000, would_be_denied: 0 }],
        ..Status::default()
    }
}

fn event(kind: &str, n: u64, rest: &str) -> Event {
    let text = format!(
        r#"{{"v":1,"ts":"2026-01-01T12:34:56.000000Z","event":"{kind}","session":"{}","client":"203.0.113.66:51000","server":"192.0.2.100:21"{rest}}}"#,
        id(n)
    );
    serde_json::from_str(&text).unwrap()
}

fn fetched() -> Box<Fetched> {
    let server = "192.0.2.100:21";
    let mut sessions = vec![
        session(1, "203.0.113.10:46956", server, Standing::LoggedIn),
        session(2, "[2001:db8:a::a]:55904", "[2001:db8:b::64]:21", Standing::LoggedIn),
        session(3, "203.0.113.99:1025", server, Standing::Login),
        session(4, "203.0.113.66:51000", server, Standing::Tainted),
        session(5, "[2001:db8:1111:2222:3333:4444:5555:6666]:65535", "[2001:db8:b::64]:2121", Standing::Opaque),
        session(6, "198.51.100.200:60123", server, Standing::LoggedIn),
    ];
    sessions[5].sighted = false;
    let pinholes = vec![
        pinhole(1, NegotiatedBy::Pasv, "203.0.113.10", "192.0.2.100", 50044, 9000),
        pinhole(6, NegotiatedBy::Port, "192.0.2.100", "198.51.100.200", 40623, 3900),
    ];
    sessions[0].pinhole = Some(pinholes[0].pinhole.clone());
    let transfers = vec![
        connection(2, "[2001:db8:a::a]:38433", "[2001:db8:b::64]:40623", [0, 734_003_200], 12_058_624),
        connection(1, "203.0.113.10:32806", "192.0.2.100:50020", [512, 0], 0),
    ];
    Box::new(Fetched { at: Duration::from_secs(2), status: status(), sessions, pinholes, transfers })
}

fn app() -> App {
    let mut app = App::new();
    let hole = r#","mode":"epsv","initiator":"203.0.113.66","responder":"192.0.2.100","port":5000,"state":"bound","expires_in_ms":0"#;
    app.event(event("used", 2, hole));
    app.event(event("refused", 4, r#","reason":"third_host""#));
    app.event(event("opaque", 5, r#","reason":"auth_accepted""#));
    let mut denied =
        event("denied", 0, r#","reason":"no_pinhole","from":"203.0.113.66:51000","to":"192.0.2.100:3389""#);
    denied.session = None;
    app.event(denied);
    app.fetch(fetched());
    app
}

fn screen(app: &mut App, width: u16, height: u16, color: bool) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw::draw(frame, app, Theme::new(color), NOW)).unwrap();
    terminal.backend().buffer().clone()
}

/// The text of a screen.
fn text(buffer: &Buffer) -> String {
    let mut text = String::new();
    for line in lines(buffer) {
        let line: String = line.iter().map(Cell::symbol).collect();
        writeln!(text, "{}", line.trim_end()).unwrap();
    }
    text
}

/// How its cells look, a letter each: the colour's first, `b` bold, `R` reversed.
fn looks(buffer: &Buffer) -> String {
    let mut text = String::new();
    for line in lines(buffer) {
        let line: String = line.iter().map(look).collect();
        writeln!(text, "{}", line.trim_end_matches('.')).unwrap();
    }
    text
}

fn look(cell: &Cell) -> char {
    if cell.modifier.contains(Modifier::REVERSED) {
        return 'R';
    }
    match cell.fg {
        Color::Reset if cell.modifier.contains(Modifier::BOLD) => 'b',
        Color::Reset => '.',
        Color::Green => 'g',
        Color::Yellow => 'y',
        Color::Red => 'r',
        Color::Cyan => 'c',
        Color::DarkGray => 'd',
        _ => '?',
    }
}

fn lines(buffer: &Buffer) -> impl Iterator<Item = &[Cell]> {
    buffer.content().chunks(buffer.area().width.into())
}

fn assert_snapshot(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/top/snapshots").join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some_and(|v| v == "1") {
        std::fs::write(&path, found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "{} differs; the screen is\n{found}", path.display());
}

fn press(app: &mut App, keys: &str) -> Vec<Wish> {
    let code = |c| match c {
        '\n' => KeyCode::Enter,
        '\u{1b}' => KeyCode::Esc,
        '\t' => KeyCode::Tab,
        '\u{8}' => KeyCode::Backspace,
        '↓' => KeyCode::Down,
        '↑' => KeyCode::Up,
        '⇟' => KeyCode::PageDown,
        '⇞' => KeyCode::PageUp,
        c => KeyCode::Char(c),
    };
    keys.chars().filter_map(|c| app.key(KeyEvent::new(code(c), KeyModifiers::NONE), NOW)).collect()
}

/// The sessions in the order in which they are shown, by the last digit of their ids.
fn shown(app: &App) -> String {
    app.list(Pane::Sessions).order.iter().map(|&i| app.known.sessions()[i].session.chars().last().unwrap()).collect()
}

#[test]
fn every_pane_has_its_picture_in_every_size() {
    for pane in Pane::ALL {
        for (width, height) in [(80, 24), (60, 15)] {
            let mut app = app();
            app.pane = pane;
            let name = format!("{}-{width}x{height}", pane.name().to_lowercase());
            assert_snapshot(&name, &text(&screen(&mut app, width, height, true)));
        }
    }
    assert_snapshot("all-120x40", &text(&screen(&mut app(), 120, 40, true)));
}

#[test]
fn the_screen_in_the_documentation_is_what_is_drawn() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/top.md");
    let page = std::fs::read_to_string(path).unwrap();
    let screen = text(&screen(&mut app(), 80, 24, false));
    assert!(page.contains(&format!("```text\n{screen}```\n")), "docs/top.md shows another screen than\n{screen}");
}

#[test]
fn colours_are_only_where_they_are_wanted() {
    for (width, height) in [(80, 24), (60, 15), (120, 40)] {
        let mut app = app();
        let (with, without) = (screen(&mut app, width, height, true), screen(&mut app, width, height, false));
        assert_eq!(text(&with), text(&without));
        assert!(without.content().iter().all(|c| c.fg == Color::Reset && c.bg == Color::Reset));
        assert_snapshot(&format!("colours-{width}x{height}"), &looks(&with));
        assert_snapshot(&format!("no-colours-{width}x{height}"), &looks(&without));
    }
}

#[test]
fn what_lies_over_the_panes_has_its_picture() {
    for (width, height) in [(80, 24), (60, 15)] {
        let size = format!("{width}x{height}");
        let picture = |app: &mut App, name: &str| {
            assert_snapshot(&format!("{name}-{size}"), &text(&screen(app, width, height, false)));
        };
        let mut app = app();
        press(&mut app, "?");
        picture(&mut app, "help");
        press(&mut app, "x2d");
        press(&mut app, "a typo");
        picture(&mut app, "revoke");
        press(&mut app, "\u{1b}1K");
        picture(&mut app, "kill");
        press(&mut app, "\u{1b}/pas");
        picture(&mut app, "filter");
        press(&mut app, "\u{1b}\n");
        picture(&mut app, "story-awaited");
        let line = |text: String| StoryLine { text, tone: Tone::Plain };
        let lines = (1..=40).map(|n| line(format!("12:34:{n:02}.000 C> NOOP {n}"))).collect();
        app.story(&id(1), Ok(lines), NOW);
        picture(&mut app, "story");
        press(&mut app, "\u{1b}p");
        app.lost("no daemon answers at /run/x.sock".to_owned(), NOW - Duration::from_secs(2));
        picture(&mut app, "lost");
        assert!(app.is_paused());
    }
}

#[test]
fn a_screen_that_is_too_small_says_so() {
    assert_eq!(text(&screen(&mut app(), 39, 3, false)), "too small: 40 by 8 at least\n\n\n");
    for (width, height) in [(1, 1), (40, 8), (41, 9), (300, 100), (110, 34)] {
        screen(&mut app(), width, height, true);
    }
}

#[test]
fn rows_are_sorted_and_filtered() {
    let mut app = app();
    assert_eq!(shown(&app), "123456");
    press(&mut app, "S");
    assert_eq!(shown(&app), "654321");
    // The first column, and then the second, of which the third's rows are equal.
    press(&mut app, "s");
    assert_eq!(shown(&app), "614325", "by client");
    press(&mut app, "sss");
    assert_eq!(app.list(Pane::Sessions).column, 3);
    press(&mut app, "/OPAQUE");
    assert_eq!(shown(&app), "5");
    press(&mut app, "\u{8}\u{8}\u{8}\u{8}\u{8}\u{8}2001:db8\n");
    assert_eq!(shown(&app).len(), 2);
    press(&mut app, "\u{1b}");
    assert_eq!(shown(&app).len(), 6);
    press(&mut app, "/third_host\n");
    assert_eq!(shown(&app), "", "a reason of an event is in no row");
    press(&mut app, "/\u{1b}");
    assert!(matches!(app.overlay, Overlay::None));
    assert_eq!(app.list(Pane::Sessions).filter, "third_host", "Esc leaves the filter as it was");
}

#[test]
fn the_chosen_row_stays_chosen_wherever_it_goes() {
    let mut app = app();
    press(&mut app, "jj");
    let chosen = |app: &App| app.known.sessions()[app.chosen().unwrap()].session.clone();
    assert_eq!(chosen(&app), id(3));
    press(&mut app, "S");
    assert_eq!((chosen(&app), app.list(Pane::Sessions).chosen), (id(3), 3));
    let mut more = fetched();
    more.sessions.remove(0);
    app.fetch(more);
    assert_eq!(chosen(&app), id(3));
    // It is gone: the one in its place.
    let mut without = fetched();
    without.sessions.remove(2);
    app.fetch(without);
    assert_eq!(chosen(&app), id(2));
    press(&mut app, "G");
    assert_eq!(chosen(&app), id(1));
    press(&mut app, "⇟↓jkk↑g");
    assert_eq!(chosen(&app), id(6));
    app.fetch(Box::default());
    assert_eq!(app.chosen(), None);
    press(&mut app, "jkGg\n");
    assert_eq!(app.message(NOW).unwrap().0, "no session is chosen here");
}

#[test]
fn nothing_is_done_without_a_reason() {
    let mut app = app();
    assert_eq!(press(&mut app, "d"), []);
    assert_eq!(app.message(NOW).unwrap().0, "choose a pinhole first, in pane 2");
    assert_eq!(press(&mut app, "2d\n  \n"), []);
    assert_eq!(app.message(NOW).unwrap().0, "type a reason first: it is kept in the events");
    // The port of session 6 has the least time left, and so stands first.
    let row = app.known.pinholes()[1].clone();
    assert_eq!(press(&mut app, "wrong d K q\n"), [Wish::Revoke(Box::new(row), "wrong d K q".to_owned())]);
    assert_eq!(press(&mut app, "d\u{1b}"), []);
    assert_eq!(app.message(NOW).unwrap().0, "nothing was done");
    assert_eq!(press(&mut app, "1Kx\u{8}abuse\n"), [Wish::Kill(id(1), "abuse".to_owned())]);
    assert_eq!(press(&mut app, "5K"), []);
    assert_eq!(app.message(NOW).unwrap().0, "choose a session first, in pane 1");
    assert_eq!(app.message(NOW + Duration::from_secs(7)), None);
}

#[test]
fn a_story_is_asked_for_and_scrolled() {
    let mut app = app();
    assert_eq!(press(&mut app, "3\n"), [Wish::Story(id(2))], "the fastest connection's session");
    let lines: Vec<_> = (0..40).map(|n| StoryLine { text: n.to_string(), tone: Tone::Plain }).collect();
    app.story(&id(9), Ok(lines.clone()), NOW);
    app.story(&id(2), Ok(lines), NOW);
    screen(&mut app, 80, 24, false);
    let offset = |app: &App| match &app.overlay {
        Overlay::Story(view) => view.offset,
        other => panic!("{other:?}"),
    };
    assert_eq!(offset(&app), 20, "the end of the dialogue first");
    press(&mut app, "kk⇞");
    assert_eq!(offset(&app), 0);
    press(&mut app, "j⇟⇟⇟");
    assert_eq!(offset(&app), 20);
    assert_eq!(press(&mut app, "r"), [Wish::Story(id(2))]);
    app.story(&id(2), Err("there is no session".to_owned()), NOW);
    assert!(matches!(app.overlay, Overlay::None));
    assert_eq!(app.message(NOW).unwrap().0, "there is no session");
}

#[test]
fn a_paused_view_stands_still_and_catches_up() {
    let mut app = app();
    let before = text(&screen(&mut app, 80, 24, false));
    press(&mut app, "p");
    let mut later = fetched();
    later.at = Duration::from_secs(3);
    later.sessions.truncate(1);
    app.fetch(later);
    app.event(event("killed", 1, ""));
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    let much_later = NOW + Duration::from_secs(60);
    terminal.draw(|frame| draw::draw(frame, &mut app, Theme::new(false), much_later)).unwrap();
    let paused = text(terminal.backend().buffer());
    assert_eq!(
        paused.replace(" PAUSED", "").lines().skip(1).collect::<Vec<_>>(),
        before.lines().skip(1).collect::<Vec<_>>()
    );
    assert!(paused.starts_with("ftp-helper PAUSED drop"), "{paused}");
    press(&mut app, "p");
    assert_eq!(shown(&app), "1");
    assert!(text(&screen(&mut app, 80, 24, false)).contains("killed"));
}

#[test]
fn every_pane_is_a_key_away() {
    let mut app = app();
    for (keys, pane) in [("2", Pane::Pinholes), ("5", Pane::Health), ("\t", Pane::Sessions), ("\t\t\t", Pane::Refusals)]
    {
        press(&mut app, keys);
        assert_eq!(app.pane, pane);
    }
    app.key(KeyEvent::new(KeyCode::BackTab, KeyModifiers::SHIFT), NOW);
    assert_eq!(app.pane, Pane::Transfers);
    assert_eq!(press(&mut app, "q"), [Wish::Quit]);
    let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    press(&mut app, "?");
    assert_eq!(app.key(control, NOW), Some(Wish::Quit));
}

#[test]
fn intervals_are_within_reason() {
    assert_eq!(super::interval("16ms"), Ok(Duration::from_millis(16)));
    for wrong in ["1ms", "2h", "soon"] {
        assert!(super::interval(wrong).is_err(), "{wrong}");
    }
}
