//! What can go wrong in the lab.

use std::{io, path::PathBuf, time::Duration};

/// What went wrong. The text names the thing, the place and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// Namespaces need root.
    #[error("the lab makes network namespaces, which needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN): run it as root")]
    NotRoot,
    /// A name that can't be part of a namespace's name.
    #[error("`{0}` can't be a lab's name: use 1 to 24 letters, digits and underscores")]
    BadName(String),
    /// A lab of this name is there.
    #[error(
        "a lab named `{0}` is there already: remove it with `ftp-helper lab down --name {0}`, or choose another name"
    )]
    Exists(String),
    /// No lab of this name is there.
    #[error("there is no lab named `{0}`")]
    Missing(String),
    /// The lab is used by a running program.
    #[error("the lab `{0}` belongs to a program that is running: end it first")]
    Busy(String),
    /// A program could not be started.
    #[error("can't start `{program}`: {source}{}", start_remedy(source))]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A program failed.
    #[error("`{command}` failed ({status}): {output}")]
    Failed {
        /// The program and its arguments.
        command: String,
        /// How it ended.
        status: String,
        /// What it said.
        output: String,
    },
    /// A server did not become ready.
    #[error("{server} in {host} did not greet within {waited:?}; it said: {output}")]
    NotReady {
        /// The server.
        server: String,
        /// The host it is in.
        host: String,
        /// How long it was waited for.
        waited: Duration,
        /// What it said on its standard outputs.
        output: String,
    },
    /// A server's program is not there.
    #[error(
        "no {program} here: looked in {} and on PATH; `ftp-helper lab fetch` fetches it on Debian, or set \
         FTP_HELPER_LAB_SERVERS to the directory that holds it",
        looked.display()
    )]
    NoProgram {
        /// The program.
        program: String,
        /// The cache directory that was searched.
        looked: PathBuf,
    },
    /// Servers could not be fetched.
    #[error("{0}")]
    Fetch(String),
    /// Something the system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, and where.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// The FTP dialogue of the prober went another way.
    #[error("FTP dialogue with {peer}: {what}")]
    Dialogue {
        /// The server.
        peer: String,
        /// What was expected, and what came.
        what: String,
    },
    /// A step of the demonstration.
    #[error("the demo did not go as told: {0}")]
    Demo(String),
    /// The matrix was asked for nothing, or something that the lab does not have.
    #[error("{0}")]
    Usage(String),
}

impl LabError {
    /// For `map_err`: an [`LabError::Io`] that says what was tried.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Whether more rights would help.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        match self {
            Self::NotRoot => true,
            Self::Io { source, .. } | Self::Start { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            _ => false,
        }
    }
}

/// The lab's results.
pub type Result<T, E = LabError> = std::result::Result<T, E>;

fn start_remedy(e: &io::Error) -> &'static str {
    if e.kind() == io::ErrorKind::NotFound { "; is its package installed?" } else { "" }
}
