//! `ftp-helper integrate`.

use std::{path::PathBuf, process::ExitCode};

use super::{
    output::{Out, OutputArgs},
    target, text,
};
use crate::{
    config::DEFAULT_PATH,
    doctor,
    error::{Code, Fault},
    nft::ruleset::{Manager, Ruleset},
};

/// Arguments of `integrate`.
#[derive(clap::Args, Debug)]
pub(super) struct IntegrateArgs {
    /// What manages the ruleset
    #[arg(value_enum)]
    with: With,

    /// Print what to change; nothing is changed here
    #[arg(long, required = true)]
    print: bool,

    /// Configuration file
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,

    #[command(flatten)]
    output: OutputArgs,
}

/// What manages a ruleset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum With {
    /// nft, or iptables-nft
    Nft,
    /// firewalld
    Firewalld,
}

/// Prints the rules to add and the rules to remove.
pub(super) fn run(args: IntegrateArgs) -> anyhow::Result<ExitCode> {
    let config = target::load(&args.config)?;
    if args.with == With::Firewalld && !Ruleset::read()?.tables.values().any(|m| *m == Manager::Firewalld) {
        let what = "firewalld has no table here: is it running, with FirewallBackend=nftables? Without it, `ftp-helper \
                    integrate nft --print`";
        return Err(Fault::new(Code::Failure, what).into());
    }
    let plan = doctor::plan(&config)?;
    let mut out = Out::new(args.output);
    out.value(&plan, |plan| {
        // Texts of rules come from elsewhere; tabs are ours.
        let lines = plan.script();
        lines.lines().map(|l| text::printable(&l.replace('\t', "    "))).collect::<Vec<_>>().join("\n")
    })?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
