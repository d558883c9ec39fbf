//! What can be wrong with a configuration file.

use std::{
    fmt, io,
    ops::Range,
    path::{Path, PathBuf},
};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{}: can't be read: {source}; name another file with -c FILE, or create it (see docs/configuration.md)", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file says something that can't be meant. Every problem that was found, in the order of the file.
    #[error("{}", Lines(.path, .problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong; never empty.
        problems: Vec<Problem>,
        /// What the file says, as far as it is text.
        text: String,
    },
}

/// One thing that is wrong in a configuration file, and what to do about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What of the text it is about, in bytes; empty where something is missing.
    pub span: Range<usize>,
    /// The key it is about, with its sections; empty where the text is no TOML at all.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, span: _, key, what, remedy } = self;
        write!(f, "{line}:{column}: ")?;
        if !key.is_empty() {
            write!(f, "{key}: ")?;
        }
        write!(f, "{what}; {remedy}")
    }
}

/// All problems, one a line, each behind the file's name.
struct Lines<'a>(&'a Path, &'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.1.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:{problem}", self.0.display())?;
        }
        Ok(())
    }
}
