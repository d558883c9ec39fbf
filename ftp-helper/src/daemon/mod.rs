//! The daemon.

use crate::{
    config::Config,
    error::{Code, Fault},
};

/// What `run` is told beside the configuration.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {}

/// Runs until it is told to stop.
///
/// # Errors
/// Always, until there is a daemon.
pub fn run(_config: Config, _options: RunOptions) -> anyhow::Result<()> {
    Err(Fault::new(Code::Failure, "this build has no daemon").into())
}
