//! Tasks of the project: set-up, tests, fuzzing, coverage, demo, benchmarks, soaking. `cargo xtask help` lists them.

mod bench;
mod book;
mod command;
mod coverage;
mod demo;
mod dist;
mod docs;
mod fuzz;
mod host;
mod kernels;
mod setup;
mod soak;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{
    host::Host,
    setup::{Purpose, Setup},
};

/// Set-up, tests, fuzzing, coverage, demo and benchmarks of ftp-helper.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what this host lacks to build, run and test ftp-helper (Debian 12; elsewhere: say what to install).
    Setup {
        /// Only say what is missing, and exit 1 if anything is.
        #[arg(long)]
        check: bool,
    },
    /// Run every check and every test.
    Test(test::Options),
    /// Fuzz the targets in fuzz/, two at a time: see docs/fuzzing.md.
    Fuzz(fuzz::Options),
    /// Report which lines of engine, grammar and recogniser the tests run.
    Coverage(coverage::Options),
    /// Build ftp-helper and show what it does, on a network of namespaces.
    Demo {
        /// Passed on to `ftp-helper lab demo`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Build the Debian package and the tarball, into target/dist.
    Dist {
        /// Instead, build the package around the program of the tests, and try it in a fresh Debian tree.
        #[arg(long)]
        check: bool,
    },
    /// Build the documentation as a book, into target/book.
    Book,
    /// Let many clients transfer through one daemon for long, and look whether its memory grows or its tables drift.
    Soak(soak::Options),
    /// Build and run a benchmark: the comparison with ftp-helper's peers, or the one that is named.
    Bench {
        /// A name (`path` is the program `bench-path` of the tests; without one, `bench-peers`), and what is passed on to it.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without a backtrace, whatever RUST_BACKTRACE says: the text is for people.
            eprintln!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let host = Host::read()?;
    match cli.task {
        Task::Setup { check } => {
            let setup = Setup::of(&host, &Purpose::ALL);
            if check { setup.check() } else { setup.install() }
        }
        Task::Test(options) => test::run(&host, &options),
        Task::Fuzz(options) => fuzz::run(&host, &options),
        Task::Coverage(options) => coverage::run(&host, &options),
        Task::Demo { args } => demo::run(&host, &args),
        Task::Dist { check: false } => dist::run(&host),
        Task::Dist { check: true } => dist::try_out(&host),
        Task::Book => book::run(&host),
        Task::Soak(options) => soak::run(&host, &options),
        Task::Bench { args } => {
            let (name, args) = bench::split(&args)?;
            bench::run(&host, &name, args)
        }
    }
}
