//! `ftp-helper timeline`: an event stream as a picture.

mod chart;
mod draw;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;

use self::chart::Chart;
use super::output::{Format, Out, OutputArgs};
use crate::{
    error::{Code, Fault},
    event::{self, Event, SessionId},
};

/// Arguments of `timeline`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct TimelineArgs {
    /// Events, one JSON object a line, as `observe -o jsonl` and `replay -o jsonl` print them; - for standard input
    file: PathBuf,

    /// Draw the session with this id; needed where the stream tells of several
    #[arg(long, value_name = "ID")]
    session: Option<SessionId>,

    /// Draw the session's transfer of this number alone, the first being 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    transfer: Option<u32>,

    /// Write the picture into this file instead of standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  ftp-helper replay capture.pcap -o jsonl | ftp-helper timeline - --output session.svg
  ftp-helper observe -o jsonl --session 1a2b > events.jsonl
  ftp-helper timeline events.jsonl --session 1a2b --transfer 2 > transfer.svg";

/// Draws a session.
pub(super) fn run(args: TimelineArgs) -> anyhow::Result<ExitCode> {
    let name = if is_stdin(&args.file) { "standard input".to_owned() } else { args.file.display().to_string() };
    let events = if is_stdin(&args.file) {
        read(io::stdin().lock(), &name)?
    } else {
        let file = File::open(&args.file).with_context(|| format!("can't read {name}"))?;
        read(BufReader::new(file), &name)?
    };
    let svg = picture(events, args.session, args.transfer, &name)?;
    match args.output {
        Some(path) => write(&path, &svg)?,
        None => {
            let mut out = Out::new(OutputArgs { output: Format::Table });
            out.line(svg.trim_end())?;
            out.flush()?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The picture of one session of a stream.
fn picture(
    events: Vec<Event>,
    session: Option<SessionId>,
    transfer: Option<u32>,
    name: &str,
) -> anyhow::Result<String> {
    let mut events = of_session(events, session, name)?;
    if let Some(number) = transfer {
        events = of_transfer(&events, number).map_err(|known| {
            let message = format!("{name}: the session has {known} transfers, and so no transfer {number}");
            Fault::new(Code::Usage, message)
        })?;
    }
    let chart = Chart::new(&events).with_context(|| format!("{name} can't be drawn"))?;
    draw::svg(&chart).context("the picture can't be drawn")
}

/// Reads events; a mistake is told with its line and column.
fn read(from: impl BufRead, name: &str) -> anyhow::Result<Vec<Event>> {
    let mut events = Vec::new();
    for (index, line) in from.split(b'\n').enumerate() {
        let line = line.with_context(|| format!("can't read {name}"))?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let event: Event = serde_json::from_slice(&line).map_err(|e| {
            // serde_json ends its text with the place, which is in this line alone.
            let text = e.to_string();
            let what = text.split(" at line ").next().unwrap_or(&text).to_owned();
            let column = e.column().max(1);
            Fault::new(Code::Failure, format!("{name}:{}:{column}: this is no event of ftp-helper: {what}", index + 1))
        })?;
        if event.v != Event::VERSION {
            let (v, known) = (event.v, Event::VERSION);
            let message =
                format!("{name}:{}:1: an event of version {v}; this program reads version {known}", index + 1);
            return Err(Fault::new(Code::Failure, message).into());
        }
        events.push(event);
    }
    Ok(events)
}

/// The events of the session that is asked for, or of the only one.
fn of_session(events: Vec<Event>, wanted: Option<SessionId>, name: &str) -> Result<Vec<Event>, Fault> {
    let mut counts: BTreeMap<SessionId, usize> = BTreeMap::new();
    for id in events.iter().filter_map(|e| e.session) {
        *counts.entry(id).or_default() += 1;
    }
    let usage = |message: String| Err(Fault::new(Code::Usage, message));
    let chosen = match (wanted, counts.len()) {
        (Some(id), _) if counts.contains_key(&id) => id,
        (_, 0) => return usage(format!("{name}: no event belongs to a session, so that there is nothing to draw")),
        (None, 1) => return Ok(events.into_iter().filter(|e| e.session.is_some()).collect()),
        (wanted, n) => {
            let what = match wanted {
                Some(id) => format!("no event belongs to session {id}"),
                None => format!("the events are of {n} sessions"),
            };
            return usage(format!("{name}: {what}; choose one with --session: {}", listed(&counts)));
        }
    };
    Ok(events.into_iter().filter(|e| e.session == Some(chosen)).collect())
}

/// Sessions and how many events each has, the first of them.
fn listed(counts: &BTreeMap<SessionId, usize>) -> String {
    const SHOWN: usize = 8;
    let mut list: Vec<_> = counts.iter().take(SHOWN).map(|(id, n)| format!("{id} ({n} events)")).collect();
    if counts.len() > SHOWN {
        list.push(format!("{} more", counts.len() - SHOWN));
    }
    list.join(", ")
}

/// The events of a transfer: from the opening of its pinhole to the end of its data connection. The error is how many
/// transfers there are.
fn of_transfer(events: &[Event], number: u32) -> Result<Vec<Event>, usize> {
    let opening: Vec<_> = events.iter().enumerate().filter(|(_, e)| e.event == event::Kind::Opened).collect();
    let chosen = usize::try_from(number).ok().and_then(|n| n.checked_sub(1)).and_then(|n| opening.get(n));
    let Some(&(begin, first)) = chosen else { return Err(opening.len()) };
    let hole = |e: &Event| e.pinhole.as_ref().map(|p| (p.mode, p.initiator, p.responder, p.port));
    let again = |e: &Event| e.event == event::Kind::Opened && hole(e) == hole(first);
    let rest = events[begin + 1..].iter().take_while(|e| !again(e)).filter(|e| hole(e) == hole(first));
    Ok(std::iter::once(first).chain(rest).cloned().collect())
}

fn write(path: &Path, svg: &str) -> anyhow::Result<()> {
    std::fs::write(path, svg).with_context(|| format!("can't write {}", path.display()))
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream that `replay` has told: an upload, a listing and a download.
    const STREAM: &str = include_str!("../../../../tests/captures/vsftpd-curl-pasv-4.jsonl");

    fn events(text: &str) -> Vec<Event> {
        read(text.as_bytes(), "events.jsonl").unwrap()
    }

    fn code(e: &anyhow::Error) -> Code {
        Code::of(e)
    }

    #[test]
    fn a_picture_is_xml_that_has_every_event_and_is_always_the_same() {
        let svg = picture(events(STREAM), None, None, "events.jsonl").unwrap();
        assert_eq!(picture(events(STREAM), None, None, "events.jsonl").unwrap(), svg);
        let document = roxmltree::Document::parse(&svg).unwrap();
        assert_eq!(document.root_element().tag_name().name(), "svg");
        assert_eq!(document.root_element().tag_name().namespace(), Some("http://www.w3.org/2000/svg"));
        let drawn: Vec<_> = document.descendants().filter_map(|n| n.attribute("data-event")).collect();
        let told: Vec<_> = events(STREAM).iter().map(|e| super::super::text::name(&e.event)).collect();
        assert_eq!(drawn, told);
        let words: String = document.descendants().filter(|n| n.is_text()).filter_map(|n| n.text()).collect();
        for word in ["203.0.113.10:46956", "192.0.2.100:21", "50044", "50058", "50020", "+0.017078 s", "closed"] {
            assert!(words.contains(word), "{word} is missing");
        }
        // Three data connections, three pinholes.
        let spans = |class: &str| document.descendants().filter(|n| n.attribute("class") == Some(class)).count();
        assert_eq!((spans("data"), spans("hole")), (3, 3));
    }

    /// `UPDATE_SNAPSHOTS=1` draws it anew.
    #[test]
    fn the_picture_in_the_documentation_is_what_is_drawn() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/pictures/timeline.svg");
        let svg = picture(events(STREAM), None, None, "x").unwrap();
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some_and(|v| v == "1") {
            write(&path, &svg).unwrap();
        }
        assert!(std::fs::read_to_string(&path).unwrap() == svg, "{} is of another program", path.display());
    }

    #[test]
    fn every_stream_of_the_captures_can_be_drawn() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures");
        let mut drawn = 0;
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "jsonl") {
                let text = std::fs::read_to_string(&path).unwrap();
                let svg = picture(events(&text), None, None, "x").unwrap();
                let document = roxmltree::Document::parse(&svg).unwrap();
                let steps = document.descendants().filter(|n| n.attribute("data-event").is_some()).count();
                assert_eq!(steps, text.lines().count(), "{}", path.display());
                drawn += 1;
            }
        }
        assert!(drawn >= 16, "{drawn}");
    }

    #[test]
    fn text_from_elsewhere_is_text_in_the_picture() {
        let mut all = events(STREAM);
        let refused = r#"{"v":1,"ts":"2026-11-24T22:38:44.153370Z","event":"refused","session":"0000000000000001","client":"203.0.113.10:46956","server":"192.0.2.100:21","reason":"low_port","detail":"<g>&\"'\u0000\u001b]]>\uffff"}"#;
        all.extend(events(refused));
        let svg = picture(all, None, None, "x").unwrap();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let shown = document.descendants().filter(|n| n.is_text()).filter_map(|n| n.text());
        assert!(shown.into_iter().any(|t| t.contains(r#"<g>&"'\u{0}\u{1b}]]>"#)), "{svg}");
    }

    #[test]
    fn one_transfer_is_drawn_alone() {
        let one = of_transfer(&events(STREAM), 2).unwrap();
        let kinds: Vec<_> = one.iter().map(|e| e.event).collect();
        assert_eq!(kinds, [event::Kind::Opened, event::Kind::Used, event::Kind::DataEnd]);
        assert!(one.iter().all(|e| e.pinhole.as_ref().unwrap().port == 50058));
        let e = picture(events(STREAM), None, Some(4), "events.jsonl").unwrap_err();
        assert_eq!(e.to_string(), "events.jsonl: the session has 3 transfers, and so no transfer 4");
        assert_eq!(code(&e), Code::Usage);
    }

    #[test]
    fn a_mistake_is_told_with_its_place() {
        let wrong = |text: &str| read(text.as_bytes(), "events.jsonl").unwrap_err();
        let first = STREAM.lines().next().unwrap();
        let e = wrong(&format!("{first}\n\n{{\"v\":1,,}}\n"));
        assert_eq!(e.to_string(), "events.jsonl:3:8: this is no event of ftp-helper: key must be a string");
        assert_eq!(code(&e), Code::Failure);
        let e = wrong(&first.replace("session_start", "session_begin"));
        assert!(e.to_string().starts_with("events.jsonl:1:65: this is no event of ftp-helper: unknown variant"), "{e}");
        let e = wrong("{\"v\":1,\"ts\":\"");
        assert!(e.to_string().starts_with("events.jsonl:1:13: "), "{e}");
        let e = wrong(&first.replace("\"v\":1", "\"v\":2"));
        assert_eq!(e.to_string(), "events.jsonl:1:1: an event of version 2; this program reads version 1");
        let e = wrong(&first.replace("2026-11-24T", "yesterday"));
        assert!(e.to_string().contains("yesterday"), "{e}");
        let e = wrong(&first.replace("0000000000000001", "first"));
        assert!(e.to_string().contains("not the id of a session"), "{e}");
    }

    #[test]
    fn which_session_is_meant_is_never_guessed() {
        let text = format!("{STREAM}{}", STREAM.replace("0000000000000001", "00000000000000a2"));
        let e = picture(events(&text), None, None, "x").unwrap_err();
        assert_eq!(code(&e), Code::Usage);
        let list = "0000000000000001 (11 events), 00000000000000a2 (11 events)";
        assert_eq!(e.to_string(), format!("x: the events are of 2 sessions; choose one with --session: {list}"));
        let e = picture(events(&text), Some(SessionId(0xa3)), None, "x").unwrap_err();
        assert!(e.to_string().starts_with("x: no event belongs to session 00000000000000a3; choose"), "{e}");
        assert!(picture(events(&text), Some(SessionId(0xa2)), None, "x").unwrap().contains("00000000000000a2"));
        assert_eq!(code(&picture(Vec::new(), None, None, "x").unwrap_err()), Code::Usage);
    }
}
