//! `ftp-helper observe`.

use std::process::ExitCode;

use super::{
    colour::ColourArgs,
    filter::FilterArgs,
    output::{Format, Out, OutputArgs, complain},
    target::TargetArgs,
    text,
};
use crate::api::client::Observed;

/// Arguments of `observe`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct ObserveArgs {
    /// Go on with the events to come
    #[arg(short, long)]
    follow: bool,

    /// Begin with the last N events that the daemon remembers; all of them unless -f is given
    #[arg(short = 'n', long, value_name = "N")]
    last: Option<usize>,

    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    colour: ColourArgs,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

const EXAMPLES: &str = "\
Examples:
  ftp-helper observe -f --event denied --event refused
  ftp-helper observe --since 10m --client 203.0.113.0/24
  ftp-helper observe -f -o jsonl --not event=confirmed --not client=192.0.2.7";

/// Prints events.
pub(super) fn run(args: ObserveArgs) -> anyhow::Result<ExitCode> {
    let ObserveArgs { follow, last, filter, colour, target, output } = args;
    // Who asks for a time wants what was then, too.
    let last = last.unwrap_or(if follow && !filter.has_time() { 0 } else { usize::MAX });
    let client = target.connect()?;
    let mut out = Out::new(output);
    let paint = colour.paint();
    client.observe(filter.into_filter(), follow, last, |observed| {
        match observed {
            Observed::Ready => tracing::info!("observing"),
            Observed::Event(event) => {
                match out.format {
                    Format::Table => out.line(&text::event(&event, paint))?,
                    Format::Json | Format::Jsonl => out.json_line(&*event)?,
                }
                if follow {
                    out.flush()?;
                }
            }
            Observed::Lagged(missed) => complain(&format!("{missed} events were left out: this reader is too slow")),
        }
        anyhow::Ok(true)
    })?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
