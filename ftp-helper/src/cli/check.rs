//! `ftp-helper check`.

use std::{path::PathBuf, process::ExitCode};

use nix::{net::if_::if_nameindex, unistd::Group};

use super::{
    output::{Out, OutputArgs},
    target,
};
use crate::config::{self, Config, DEFAULT_PATH, Examined, Network};

/// Arguments of `check`.
#[derive(clap::Args, Debug)]
pub(super) struct CheckArgs {
    /// Configuration file
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,

    /// Print the JSON schema of the configuration instead, for editors
    #[arg(long, conflicts_with = "config")]
    schema: bool,

    #[command(flatten)]
    output: OutputArgs,
}

/// Reads the configuration and says what it means.
pub(super) fn run(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let mut out = Out::new(args.output);
    if args.schema {
        out.value(&config::schema(), |schema| format!("{schema:#}"))?;
        out.flush()?;
        return Ok(ExitCode::SUCCESS);
    }
    let Examined { config, notes, lines } = config::examine(&args.config).map_err(|e| target::fault(&e))?;
    let mut explanation = config.explain();
    explanation.values = config.values(&lines);
    explanation.notes = notes;
    explanation.notes.extend(about_this_host(&config));
    out.value(&explanation, ToString::to_string)?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// What the configuration names and this host does not have (yet). No mistake: the file may be for another host, and
/// an interface is picked up when it appears.
fn about_this_host(config: &Config) -> Vec<String> {
    let mut notes = Vec::new();
    match if_nameindex() {
        Ok(list) => {
            let names: Vec<String> = list.iter().map(|i| i.name().to_string_lossy().into_owned()).collect();
            for pattern in &config.watch.interfaces {
                let matches = glob::Pattern::new(pattern).is_ok_and(|p| names.iter().any(|n| p.matches(n)));
                if !matches {
                    notes.push(format!(
                        "watch.interfaces: no interface {pattern:?} here now; it is picked up when it appears"
                    ));
                }
            }
            let named = config.guards.iter().flat_map(|g| [("networks", &g.networks), ("initiators", &g.initiators)]);
            for (key, network) in named.flat_map(|(key, all)| all.iter().map(move |n| (key, n))) {
                if let Network::Interface(name) = network
                    && !names.contains(name)
                {
                    notes.push(format!("guard.{key}: no interface {name:?} here now; it is followed when it appears"));
                }
            }
            for (_, name) in config.server_interfaces.iter().filter(|(_, name)| !names.contains(name)) {
                notes.push(format!("server.address: no interface {name:?} here now; it is followed when it appears"));
            }
        }
        Err(e) => notes.push(format!("the interfaces of this host can't be listed: {e}")),
    }
    for (key, group) in [("read_group", &config.api.read_group), ("write_group", &config.api.write_group)] {
        if matches!(Group::from_name(group), Ok(None)) {
            notes.push(format!("api.{key}: there is no group {group:?} here; `run` will refuse to start without it"));
        }
    }
    notes
}
