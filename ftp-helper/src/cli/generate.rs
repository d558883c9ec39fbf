//! `ftp-helper completions` and `man`: what packages install beside the program, made from its own arguments.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{
    Cli,
    output::{Format, Out, OutputArgs},
    pages::PAGES,
};

/// Arguments of `completions`.
#[derive(clap::Args, Debug)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Arguments of `man`.
#[derive(clap::Args, Debug)]
pub(super) struct ManArgs {
    /// Write the pages of the program, of each command, of the configuration and of the events into this directory
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
}

/// Prints the script that a shell completes the arguments by.
pub(super) fn completions(args: CompletionsArgs) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ftp-helper", &mut script);
    print(&script)
}

/// Prints the manual page, or writes all of them.
pub(super) fn man(args: ManArgs) -> anyhow::Result<ExitCode> {
    if let Some(into) = args.into {
        std::fs::create_dir_all(&into)
            .and_then(|()| clap_mangen::generate_to(Cli::command(), &into))
            .and_then(|()| PAGES.iter().try_for_each(|page| std::fs::write(into.join(page.name), page.roff())))
            .with_context(|| format!("can't write the manual pages into {}", into.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    print(&page)
}

fn print(bytes: &[u8]) -> anyhow::Result<ExitCode> {
    let mut out = Out::new(OutputArgs { output: Format::Table });
    out.line(String::from_utf8_lossy(bytes).trim_end())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
