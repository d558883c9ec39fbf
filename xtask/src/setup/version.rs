//! Versions of tools and of the kernel, and which ones are known to do.

use std::{path::Path, process::Command};

use crate::host::output_of;

/// The version of bpf-linker that is known to work with the BPF compiler's LLVM.
pub(super) const BPF_LINKER: Version = Version([0, 10, 3]);
/// The version of cargo-deny that `deny.toml` is written for.
pub(super) const CARGO_DENY: Version = Version([0, 20, 2]);
/// The version of cargo-deb that the package is described for.
pub(super) const CARGO_DEB: Version = Version([3, 8, 0]);
/// The version of cargo-fuzz that builds with a stable compiler.
pub(super) const CARGO_FUZZ: Version = Version([0, 13, 2]);
/// The version of mdbook that the book is written for.
pub(super) const MDBOOK: Version = Version([0, 5, 4]);
/// The oldest kernel that ftp-helper runs on.
pub(super) const KERNEL: Version = Version([6, 1, 0]);

/// A version: major, minor, patch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Version(pub(crate) [u32; 3]);

impl Version {
    /// What `PROGRAM --version` says.
    pub(super) fn of(program: &Path) -> Option<Self> {
        Self::parse(&output_of(Command::new(program).arg("--version"))?)
    }

    /// The first version number in a text, such as `cargo-deny 0.20.2` or `6.1.0-25-amd64`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        // Some write v1.2.3.
        let mut words = text.split_whitespace().map(|word| word.strip_prefix('v').unwrap_or(word));
        let word = words.find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
        let mut parts = word.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().ok());
        let major = parts.next()??;
        Some(Self([major, parts.next().flatten().unwrap_or(0), parts.next().flatten().unwrap_or(0)]))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self([major, minor, patch]) = self;
        write!(f, "{major}.{minor}.{patch}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        assert_eq!(Version::parse("bpf-linker 0.10.3"), Some(Version([0, 10, 3])));
        assert_eq!(Version::parse("6.1.0-25-amd64\n"), Some(Version([6, 1, 0])));
        assert_eq!(Version::parse("6.18.44-fc-v445"), Some(Version([6, 18, 44])));
        assert_eq!(Version::parse("7"), Some(Version([7, 0, 0])));
        assert_eq!(Version::parse("0.21.0-rc.1"), Some(Version([0, 21, 0])));
        assert_eq!(Version::parse("no number"), None);
        assert!(
            Version([0, 9, 14]) < BPF_LINKER && Version([0, 10, 3]) >= BPF_LINKER && Version([1, 0, 0]) > BPF_LINKER
        );
        assert!(Version([5, 15, 999]) < KERNEL);
        assert_eq!(BPF_LINKER.to_string(), "0.10.3");
    }
}
