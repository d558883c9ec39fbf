//! The commands: arguments in, data on standard output, diagnostics on standard error, an exit code at the end.
//!
//! The commands, their formats and exit codes are documented in `docs/commands.md`.

mod bugreport;
mod check;
mod colour;
mod detach;
mod doctor;
#[cfg(test)]
mod documented;
mod examples;
mod filter;
mod ftpd;
mod generate;
mod integrate;
mod lab;
mod logging;
mod observe;
mod output;
mod pages;
mod pinholes;
mod query;
mod replay;
mod run;
mod sessions;
mod status;
mod target;
mod text;
mod timeline;
mod top;
mod why;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

use self::{logging::LogFormat, output::Gone};
use crate::error::Code;

/// Follows FTP control connections and opens exactly the negotiated data port.
#[derive(Parser, Debug)]
#[command(name = "ftp-helper", version, about, long_about = None, after_help = EXIT_CODES, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Say more on standard error; twice for everything. RUST_LOG overrides it
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the daemon in the foreground
    #[command(after_help = examples::RUN)]
    Run(run::RunArgs),
    /// Remove what a daemon that is gone has left in the kernel
    #[command(after_help = examples::DETACH)]
    Detach(detach::DetachArgs),
    /// Read the configuration, say what it means, change nothing
    #[command(after_help = examples::CHECK)]
    Check(check::CheckArgs),
    /// Can this host run it, and is the ruleset as it should be
    #[command(after_help = examples::DOCTOR)]
    Doctor(doctor::DoctorArgs),
    /// The rules to add to a ruleset, and the rules to remove
    #[command(after_help = examples::INTEGRATE)]
    Integrate(integrate::IntegrateArgs),
    /// What is going on: mode, interfaces, tables, counters
    #[command(after_help = examples::STATUS)]
    Status(status::StatusArgs),
    /// The control connections that are followed, what was said in one, the end of one
    Sessions(sessions::SessionsArgs),
    /// The pinholes that are open; one more, one less, none
    Pinholes(pinholes::PinholesArgs),
    /// The data connections that are running
    Connections(query::ConnectionsArgs),
    /// The events that the daemon remembers, or with -f those to come
    Observe(observe::ObserveArgs),
    /// What is going on, live and on the whole screen
    Top(top::TopArgs),
    /// Would a connection be let through now, and why (not)
    #[command(after_help = examples::WHY)]
    Why(why::WhyArgs),
    /// Have the daemon read its configuration again
    Reload(query::ReloadArgs),
    /// Run a capture through the engine and print the events
    #[command(after_help = examples::REPLAY)]
    Replay(replay::ReplayArgs),
    /// Draw a session of an event stream as a picture (SVG)
    Timeline(timeline::TimelineArgs),
    /// A network of namespaces to test firewalls with
    #[command(after_help = examples::LAB)]
    Lab(lab::LabArgs),
    /// The bundled FTP server
    #[command(after_help = examples::FTPD)]
    Ftpd(ftpd::FtpdArgs),
    /// Put all that there is to know into one archive that can be sent
    Bugreport(bugreport::BugreportArgs),
    /// Print the script by which a shell completes the arguments
    #[command(after_help = examples::COMPLETIONS)]
    Completions(generate::CompletionsArgs),
    /// Print the manual page, or write the pages of all commands
    #[command(after_help = examples::MAN)]
    Man(generate::ManArgs),
}

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 failure, 2 usage or invalid configuration, 3 daemon not running, \
                          4 problems found, 5 no permission, 10 denied (`why`)";

/// Runs the program with these arguments, its own name first.
pub fn main<I, T>(args: I) -> ExitCode
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are no errors: clap knows, and prints them to standard output. If that is closed,
            // nobody wants to know.
            let _ = e.print();
            return if e.use_stderr() { Code::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    let (daemon, format) = match &cli.command {
        Command::Run(args) => (true, args.log_format),
        _ => (false, LogFormat::Text),
    };
    logging::start(cli.verbose, daemon, format);
    match dispatch(cli.command) {
        Ok(code) => code,
        Err(e) if e.downcast_ref::<Gone>().is_some() => ExitCode::SUCCESS,
        Err(e) => {
            match format {
                LogFormat::Text => output::complain(&format!("{e:#}")),
                // Who collects the log takes no other lines.
                LogFormat::Json => tracing::error!("{e:#}"),
            }
            Code::of(&e).into()
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(args) => run::run(args),
        Command::Detach(args) => detach::run(args),
        Command::Check(args) => check::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Integrate(args) => integrate::run(args),
        Command::Status(args) => status::run(args),
        Command::Sessions(args) => sessions::run(args),
        Command::Pinholes(args) => pinholes::run(args),
        Command::Connections(args) => query::connections(args),
        Command::Observe(args) => observe::run(args),
        Command::Top(args) => top::run(args),
        Command::Why(args) => why::run(args),
        Command::Reload(args) => query::reload(args),
        Command::Replay(args) => replay::run(args),
        Command::Timeline(args) => timeline::run(args),
        Command::Lab(args) => Ok(lab::run(args)),
        Command::Bugreport(args) => bugreport::run(args),
        Command::Completions(args) => generate::completions(args),
        Command::Man(args) => generate::man(args),
        Command::Ftpd(args) => Ok(ftpd::run(args)),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_command_shows_how_it_is_used() {
        fn all(command: &clap::Command, path: &str) {
            for sub in command.get_subcommands() {
                let path = format!("{path} {}", sub.get_name());
                // The lab's have a page of their own.
                if path != " help" && !path.starts_with(" lab ") {
                    let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                    assert!(help.contains(&format!("ftp-helper{path}")), "{path}: {help}");
                    all(sub, &path);
                }
            }
        }
        all(&Cli::command(), "");
    }

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
