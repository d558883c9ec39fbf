//! `ftp-helper sessions`: those that are followed, what was said in one, and the end of one.

use std::{fmt::Write as _, process::ExitCode};

use serde::Serialize;

use super::{
    colour::{ColourArgs, Paint},
    filter,
    output::{Format, Out, OutputArgs},
    pinholes::ReasonArgs,
    target::TargetArgs,
    text,
};
use crate::api::{Session, Speaker, Story, StoryHead, StoryLine};

/// Arguments of `sessions`.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub(super) struct SessionsArgs {
    #[command(subcommand)]
    command: Option<SessionsCommand>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(clap::Subcommand, Debug)]
enum SessionsCommand {
    /// The control connections that are followed
    List(ListArgs),
    /// What was said in one, line by line, and what came of it; never a password
    Show(ShowArgs),
    /// End one: it opens nothing any more, and its packets are dropped
    Kill(KillArgs),
}

const EXAMPLES: &str = "\
Examples:
  ftp-helper sessions
  ftp-helper sessions show 00000000000000a1
  ftp-helper sessions kill 00000000000000a1 --reason 'a scan'";

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  ftp-helper sessions list\n  ftp-helper sessions list -o jsonl")]
struct ListArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  ftp-helper sessions show a1
  ftp-helper sessions show 00000000000000a1 -o json")]
struct ShowArgs {
    /// The session's id; leading zeros may be left out
    #[arg(value_name = "ID", value_parser = filter::id)]
    id: String,

    #[command(flatten)]
    colour: ColourArgs,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  ftp-helper sessions kill a1 --reason 'guesses passwords'")]
struct KillArgs {
    /// The session's id; leading zeros may be left out
    #[arg(value_name = "ID", value_parser = filter::id)]
    id: String,

    #[command(flatten)]
    reason: ReasonArgs,
    #[command(flatten)]
    list: ListArgs,
}

/// A story as one document.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    head: &'a StoryHead,
    lines: &'a [StoryLine],
}

/// Prints the sessions, or one's story, or ends one.
pub(super) fn run(args: SessionsArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        None => list(args.list),
        Some(SessionsCommand::List(args)) => list(args),
        Some(SessionsCommand::Show(args)) => show(args),
        Some(SessionsCommand::Kill(args)) => kill(args),
    }
}

fn list(args: ListArgs) -> anyhow::Result<ExitCode> {
    let rows = args.target.connect()?.sessions()?;
    let mut out = Out::new(args.output);
    let header =
        ["SESSION", "CLIENT", "SERVER", "STATE", "KERNEL", "AGE", "IDLE", "PINHOLE", "DATA", "DONE", "BYTES", "REASON"];
    out.rows(&rows, header, |s: &Session| {
        [
            s.session.clone(),
            s.client.to_string(),
            s.server.to_string(),
            text::name(&s.state),
            if s.sighted { "sighted" } else { "blind" }.to_owned(),
            text::milliseconds(s.age_ms),
            text::milliseconds(s.idle_ms),
            s.pinhole.as_ref().map_or("-".to_owned(), |p| format!("{} {}", text::name(&p.mode), p.port)),
            s.data_connections.to_string(),
            s.transfers.to_string(),
            s.bytes.to_string(),
            s.reason.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    })?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn show(args: ShowArgs) -> anyhow::Result<ExitCode> {
    let story = args.list.target.connect()?.story(&args.id)?;
    let mut out = Out::new(args.list.output);
    match out.format {
        Format::Table => out.line(&describe(&story, args.colour.paint()))?,
        Format::Json => out.value(&Document { head: &story.head, lines: &story.lines }, |_| String::new())?,
        Format::Jsonl => {
            out.json_line(&story.head)?;
            story.lines.iter().try_for_each(|line| out.json_line(line))?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn kill(args: KillArgs) -> anyhow::Result<ExitCode> {
    let session = args.list.target.connect()?.session_kill(&args.id, &args.reason.reason)?;
    let mut out = Out::new(args.list.output);
    out.value(&session, |s| format!("Killed: session {}, {} -> {}.", text::printable(&s.session), s.client, s.server))?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// The story for people: who said what, and between that what the daemon made of it.
fn describe(story: &Story, paint: Paint) -> String {
    let StoryHead { session, client, server, ended, forgotten } = &story.head;
    let mut s = format!("session {}, {client} -> {server}", text::printable(session));
    if *ended {
        s.push_str(", ended");
    }
    // Writing to a String does not fail.
    if *forgotten > 0 {
        let _ = write!(s, "\n{forgotten} older lines and events are not kept any more");
    }
    for StoryLine { ts, from, text: said, long, event } in &story.lines {
        let _ = write!(s, "\n{} ", paint.faint(&ts.to_string()));
        if let Some(said) = said {
            let said = text::printable(said);
            let who = format!("{:<7}", text::name(from));
            let said = if *from == Speaker::Client { paint.strong(&said) } else { said };
            let _ = write!(s, "{who} {said}{}", if *long { " ... (longer than what is kept)" } else { "" });
        }
        if let Some(event) = event {
            let kind = paint.kind(event.event, &format!("{:<13}", text::name(&event.event)));
            let _ = write!(s, "{:<7} {}", "", format!("{kind}{}", text::happening(event, paint)).trim_end());
        }
    }
    s
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Kind};

    #[test]
    fn a_story_reads_line_by_line() {
        let line = |from, text: &str, long| StoryLine {
            ts: "2026-01-01T12:00:00.000001Z".parse().unwrap(),
            from,
            text: Some(text.into()),
            long,
            event: None,
        };
        let (client, server) = ("192.0.2.10:40000".parse().unwrap(), "198.51.100.5:21".parse().unwrap());
        let opened = Event { detail: Some("x".into()), ..Event::new(Kind::Opaque, 0).of_session(161, client, server) };
        let event = StoryLine { text: None, event: Some(Box::new(opened)), ..line(Speaker::Daemon, "", false) };
        let head = StoryHead { session: "00000000000000a1".into(), client, server, ended: true, forgotten: 2 };
        let lines = vec![line(Speaker::Server, "220 hi", true), line(Speaker::Client, "PASS ***", false), event];
        assert_eq!(
            describe(&Story { head, lines }, Paint::PLAIN),
            "session 00000000000000a1, 192.0.2.10:40000 -> 198.51.100.5:21, ended\n\
             2 older lines and events are not kept any more\n\
             2026-01-01T12:00:00.000001Z server  220 hi ... (longer than what is kept)\n\
             2026-01-01T12:00:00.000001Z client  PASS ***\n\
             2026-01-01T12:00:00.000001Z         opaque         (x)"
        );
    }
}
