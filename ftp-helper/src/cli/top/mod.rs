//! `ftp-helper top`: what is going on, on the whole screen.
//!
//! What is known ([`known`]) and what is chosen, sorted and filtered ([`app`]) are apart from how it is drawn ([`draw`])
//! and from where it comes from ([`feed`]): only this file and [`screen`] know a terminal.

mod app;
mod draw;
mod feed;
mod health;
mod known;
mod overlay;
mod panes;
mod screen;
mod story;
#[cfg(test)]
mod tests;
mod theme;
mod words;

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::sys::signal::{SigSet, Signal};
use ratatui::crossterm::style::force_color_output;

use self::{
    app::{App, Wish},
    feed::{Source, Told},
    screen::Screen,
    theme::{Theme, Tone},
};
use super::{colour::ColourArgs, target::TargetArgs};
use crate::error::{Code, Fault};

/// Arguments of `top`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct TopArgs {
    /// How often the screen is drawn, from 16ms (sixty times a second) to 1h
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    interval: Duration,

    #[command(flatten)]
    colour: ColourArgs,
    #[command(flatten)]
    target: TargetArgs,
}

const EXAMPLES: &str = "\
Examples:
  ftp-helper top
  ftp-helper top --interval 250ms --color never
  ssh -t gateway ftp-helper top -c /etc/ftp-helper/wan1.toml

Press ? for the keys.";

/// What the threads have told and nobody has taken in yet, at most.
const WAITING: usize = 4096;

/// Shows what is going on until a key ends it.
pub(super) fn run(args: TopArgs) -> anyhow::Result<ExitCode> {
    let TopArgs { interval, colour, target } = args;
    if !io::stdout().is_terminal() {
        let message = "top draws on a terminal, and standard output is none: use `ftp-helper status`, `sessions` or \
                       `observe -f` there, or `ssh -t` to get a terminal";
        return Err(Fault::new(Code::Usage, message).into());
    }
    // Who may not ask, or asks where nobody answers, is told so before the screen is taken over.
    let socket = target.socket()?;
    crate::api::client::Client::connect(&socket)?.status()?;
    let color = colour.paint().is_on();
    force_color_output(color);
    // Bounded: when events come faster than they can be taken in, the daemon is to notice, and leave some out.
    let (to, told) = mpsc::sync_channel(WAITING);
    let (wish, wishes) = mpsc::channel();
    // Before any thread is there, so that all of them leave the signals to the one that waits for them.
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
    signals.thread_block().context("can't set signals aside")?;
    let source = Source { socket, start: Instant::now() };
    let start = source.start;
    let mut screen = Screen::take().context("can't take the terminal over")?;
    let tell = to.clone();
    spawn("signals", move || {
        // Whichever comes, and whatever goes wrong, is a reason to end.
        let _ = signals.wait();
        let _ = tell.send(Told::End);
    })?;
    let tell = to.clone();
    spawn("keys", move || feed::keys(&tell))?;
    let (tell, from) = (to.clone(), source.clone());
    spawn("events", move || feed::events(&from, &tell))?;
    spawn("ask", move || feed::ask(&source, interval, &wishes, &to))?;
    show(&mut screen, Theme::new(color), interval, start, &told, &wish)?;
    Ok(ExitCode::SUCCESS)
}

/// Draws at every interval, and at once where somebody waits for it.
fn show(
    screen: &mut Screen,
    theme: Theme,
    interval: Duration,
    start: Instant,
    told: &Receiver<Told>,
    wish: &Sender<Wish>,
) -> anyhow::Result<()> {
    let mut app = App::new();
    let mut first = true;
    loop {
        let now = start.elapsed();
        screen.terminal.draw(|frame| draw::draw(frame, &mut app, theme, now)).context("can't draw")?;
        let due = start + now + interval;
        loop {
            let next = match told.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(next) => next,
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            let mut at_once = false;
            let mut next = Some(next);
            // What has come meanwhile belongs on the same picture, but a picture there must be.
            let mut more = WAITING;
            while let Some(one) = next {
                // The first answers are waited for as a key's effect is.
                at_once |= match one {
                    Told::Event(_) => false,
                    Told::Fetched(_) => std::mem::take(&mut first),
                    _ => true,
                };
                match hear(&mut app, one, start.elapsed())? {
                    Some(Wish::Quit) => return Ok(()),
                    Some(other) => wish.send(other).context("nobody asks the daemon any more")?,
                    None => {}
                }
                more -= 1;
                next = if more > 0 { told.try_recv().ok() } else { None };
            }
            if at_once || Instant::now() >= due {
                break;
            }
        }
    }
}

/// Takes what a thread tells; what is to be done about it.
fn hear(app: &mut App, told: Told, now: Duration) -> anyhow::Result<Option<Wish>> {
    match told {
        Told::Key(key) => return Ok(app.key(key, now)),
        Told::End => return Ok(Some(Wish::Quit)),
        Told::Hangup(why) => anyhow::bail!("the terminal can't be read any more: {why}"),
        Told::Resized => {}
        Told::Fetched(fetched) => app.fetch(fetched),
        Told::Event(event) => app.event(*event),
        Told::Lost(why) => app.lost(why, now),
        Told::Story(session, story) => app.story(&session, story, now),
        Told::Done(Ok(what)) => app.say(what, Tone::Good, now),
        Told::Done(Err(why)) => app.say(why, Tone::Bad, now),
    }
    Ok(None)
}

fn spawn(name: &str, what: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(what).with_context(|| format!("can't start thread {name}"))?;
    Ok(())
}

fn interval(value: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(value).map_err(|e| e.to_string())?;
    let range = Duration::from_millis(16)..=Duration::from_secs(3600);
    if range.contains(&interval) { Ok(interval) } else { Err("from 16ms to 1h".to_owned()) }
}
