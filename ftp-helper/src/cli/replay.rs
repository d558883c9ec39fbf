//! `ftp-helper replay`.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::ValueEnum;

use super::{
    output::{Format, Out, OutputArgs, complain},
    target, text,
};
use crate::{
    engine::policy::Policy,
    replay::{self, Options},
};

/// Arguments of `replay`.
#[derive(clap::Args, Debug)]
pub(super) struct ReplayArgs {
    /// Capture file, pcap or pcapng
    file: PathBuf,

    /// Configuration whose policy is applied; the default policy without it
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Which side of the control connections is outside
    #[arg(long, value_enum, default_value_t, value_name = "SIDE")]
    outside: Outside,

    #[command(flatten)]
    output: OutputArgs,
}

/// Which side of the control connections is outside.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Outside {
    /// The clients
    #[default]
    Client,
    /// The servers
    Server,
}

/// Replays a capture and prints the events.
pub(super) fn run(args: ReplayArgs) -> anyhow::Result<ExitCode> {
    let policy = match &args.config {
        Some(path) => target::load(path)?.policy,
        None => Policy::default(),
    };
    let outside = match args.outside {
        Outside::Client => replay::Outside::Client,
        Outside::Server => replay::Outside::Server,
    };
    let mut out = Out::new(args.output);
    let mut progress = Progress::new();
    let result = replay::run(
        &args.file,
        Options { policy, outside },
        |read, length| progress.show(read, length),
        |event| match out.format {
            Format::Table => out.line(&text::event(&event)),
            Format::Json | Format::Jsonl => out.json_line(&event),
        },
    );
    progress.clear();
    // What was found before a problem is worth printing.
    out.flush()?;
    let replay::Summary { packets, sessions, opened, used, still_open, fragments } = result?;
    complain(&format!(
        "{packets} packets, {sessions} control connections, {opened} pinholes opened, {used} used, {still_open} still open at the end"
    ));
    if fragments > 0 {
        complain(&format!("{fragments} IP fragments were left out; they are not put together"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows how far a long capture is, where somebody watches.
struct Progress {
    watched: bool,
    shown: Option<u64>,
}

impl Progress {
    /// Files up to this length are done before anybody wonders.
    const LONG: u64 = 64 << 20;

    fn new() -> Self {
        Self { watched: io::stderr().is_terminal(), shown: None }
    }

    fn show(&mut self, read: u64, length: u64) {
        if !self.watched || length <= Self::LONG {
            return;
        }
        let percent = read.saturating_mul(100) / length;
        if self.shown != Some(percent) {
            self.shown = Some(percent);
            // If the terminal is gone, so is whoever watched.
            let _ = write!(io::stderr().lock(), "\r{percent} %");
        }
    }

    fn clear(&mut self) {
        if self.shown.take().is_some() {
            let _ = write!(io::stderr().lock(), "\r      \r");
        }
    }
}
