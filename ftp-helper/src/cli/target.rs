//! Which daemon is meant.

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
};

use crate::{
    api::client::Client,
    config::{Config, ConfigError, DEFAULT_PATH, DEFAULT_SOCKET},
    error::{Code, Fault},
};

/// The options of everything that talks to the daemon.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct TargetArgs {
    /// Control socket of the daemon
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,

    /// Configuration of the daemon, which names its control socket
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl TargetArgs {
    /// Connects to the daemon.
    pub(super) fn connect(&self) -> Result<Client, Fault> {
        Client::connect(&self.socket()?)
    }

    /// The configuration that was named.
    pub(super) fn config_file(&self) -> Option<PathBuf> {
        self.config.clone()
    }

    /// Its control socket.
    pub(super) fn socket(&self) -> Result<PathBuf, Fault> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        if let Some(path) = &self.config {
            return Ok(load(path)?.api.socket);
        }
        match Config::load(Path::new(DEFAULT_PATH)) {
            Ok(config) => Ok(config.api.socket),
            Err(ConfigError::Read { .. }) => Ok(DEFAULT_SOCKET.into()),
            // Asking a running daemon must not fail because its file is being edited.
            Err(e) => {
                tracing::warn!("using the control socket {DEFAULT_SOCKET}, since the configuration is invalid: {e}");
                Ok(DEFAULT_SOCKET.into())
            }
        }
    }
}

/// Reads a configuration file, with the exit codes of the commands.
pub(super) fn load(path: &Path) -> Result<Config, Fault> {
    Config::load(path).map_err(|e| fault(&e))
}

/// What a mistake in the configuration means for the exit code.
pub(super) fn code(e: &ConfigError) -> Code {
    match e {
        ConfigError::Read { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => Code::NoPermission,
        _ => Code::Usage,
    }
}

/// A mistake in the configuration, for people.
pub(super) fn fault(e: &ConfigError) -> Fault {
    // Of the mistakes in a file each is shown in its line; see https://no-color.org.
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    Fault::new(code(e), e.report(colour))
}
