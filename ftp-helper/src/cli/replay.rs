//! `ftp-helper replay`.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::ValueEnum;

use super::{
    colour::Paint,
    output::{Format, Out, OutputArgs, complain},
    target, text,
};
use crate::{
    config::{Config, Network},
    daemon, dataplane,
    engine::policy::Policy,
    event::Event,
    replay::{self, Options, Passed},
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

    /// Have the BPF programs look at every packet; needs the rights of `run`
    ///
    /// The programs are loaded for this capture and attached to nothing. The guards are the configuration's; without one,
    /// every connection needs a pinhole.
    #[arg(long)]
    through_kernel: bool,

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
    let config = args.config.as_deref().map(target::load).transpose()?;
    let policy = config.as_ref().map_or_else(Policy::default, |c| c.policy.clone());
    let outside = match args.outside {
        Outside::Client => replay::Outside::Client,
        Outside::Server => replay::Outside::Server,
    };
    let options = Options { policy, outside };
    let mut out = Out::new(args.output);
    let mut progress = Progress::new();
    let show = |read, length| progress.show(read, length);
    let each = |event: Event| match out.format {
        Format::Table => out.line(&text::event(&event, Paint::PLAIN)),
        Format::Json | Format::Jsonl => out.json_line(&event),
    };
    let result = if args.through_kernel {
        let guards = config.as_ref().map_or_else(|| Ok(replay::guards()), guards)?;
        replay::through_kernel(&args.file, options, &guards, show, each)
    } else {
        replay::run(&args.file, options, show, each)
    };
    progress.clear();
    // What was found before a problem is worth printing.
    out.flush()?;
    let replay::Summary { packets, sessions, opened, used, still_open, fragments, short, kernel } = result?;
    complain(&format!(
        "{packets} packets, {sessions} control connections, {opened} pinholes opened, {used} used, {still_open} still open at the end"
    ));
    if fragments > 0 && kernel.is_none() {
        complain(&format!("{fragments} IP fragments were left out; they are not put together"));
    }
    if short > 0 {
        complain(&format!(
            "{short} packets of control connections are shorter than their IP header says; no host takes them"
        ));
    }
    if let Some(passed) = kernel {
        told_by_kernel(&passed, fragments);
    }
    Ok(ExitCode::SUCCESS)
}

/// The configuration's guards, with the addresses that interfaces have on this host.
fn guards(config: &Config) -> anyhow::Result<Vec<dataplane::Guard>> {
    let interfaces = dataplane::interfaces()?;
    for (i, guard) in config.guards.iter().enumerate() {
        for network in guard.networks.iter().chain(&guard.initiators) {
            if let Network::Interface(name) = network
                && !interfaces.contains_key(name)
            {
                complain(&format!(
                    "guard {}: this host has no interface {name}, so that @{name} guards nothing",
                    i + 1
                ));
            }
        }
    }
    Ok(daemon::guards(config, &interfaces))
}

/// What is to be said of a way through the kernel.
fn told_by_kernel(passed: &Passed, fragments: u64) {
    let &Passed { dropped, unplaced, pieces, cut, headerless, divergences } = passed;
    for (count, what) in [
        (dropped, "packets were dropped by the programs"),
        (fragments, "IP fragments were judged one by one; they are not put together"),
        (unplaced, "packets were left out: their hosts had no control connection until then, so that no side is known"),
        (pieces, "packets were too long for a test run and were run in pieces, as a network card cuts them"),
        (cut, "packets of data connections were not captured whole; their headers suffice"),
        (headerless, "packets were left out, since their TCP header was not captured; capture with `tcpdump -s 0`"),
        (divergences, "pinholes were opened by the programs and refused by the engine, which is a bug of ftp-helper"),
    ] {
        if count > 0 {
            complain(&format!("{count} {what}"));
        }
    }
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
