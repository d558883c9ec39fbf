//! Debian's packages of kernels, downloaded and unpacked, not installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{
    command,
    host::{Host, Rights, output_of},
    setup::Packages,
};

/// A kernel on this disk.
pub(super) struct Unpacked {
    /// What boots.
    pub(super) image: PathBuf,
    /// The directory `lib/modules/RELEASE`.
    pub(super) modules: PathBuf,
}

impl Unpacked {
    /// The newest kernel of a series, such as `6.1`, that Debian has for virtual machines: fetched unless one of the series is
    /// there already.
    ///
    /// # Errors
    /// There is none, or it can't be fetched.
    pub(super) fn get(host: &Host, series: &str) -> Result<Self> {
        let kernels = host.root.join("target/kernels");
        if let Some(here) = Self::find(&kernels.join(series)) {
            return Ok(here);
        }
        fs::create_dir_all(&kernels).with_context(|| format!("can't make {}", kernels.display()))?;
        if fetch(host, &kernels, series).is_err() {
            // The archive has only the newest kernels: an old list names one that is gone.
            command::run_quietly(&mut command::as_root(host, &["apt-get", "-qq", "update"].map(str::to_owned)))?;
            fetch(host, &kernels, series)?;
        }
        Self::find(&kernels.join(series)).with_context(|| format!("Debian's package of Linux {series} holds no kernel"))
    }

    fn find(dir: &Path) -> Option<Self> {
        let image = one_in(&dir.join("boot"), "vmlinuz-")?;
        let modules = one_in(&dir.join("lib/modules"), "")?;
        Some(Self { image, modules })
    }
}

fn fetch(host: &Host, kernels: &Path, series: &str) -> Result<()> {
    let names = output_of(Command::new("apt-cache").args(["pkgnames", "linux-image-"])).unwrap_or_default();
    let Some(name) = newest(names.lines(), series) else {
        bail!("the lists of packages name no linux-image-{series}…-cloud-amd64; `apt-get update` renews them");
    };
    let packages = Packages { name, dir: series, server: &[name], libraries: &[], files: &[] };
    packages.unpack(kernels, host.rights == Rights::Root).map_err(|message| anyhow!("{message}"))
}

/// The newest kernel of a series among names of packages, the one that Debian has signed before its unsigned twin.
fn newest<'a>(names: impl Iterator<Item = &'a str>, series: &str) -> Option<&'a str> {
    let kernel = |name: &'a str| {
        let rest = name.strip_prefix("linux-image-")?.strip_prefix(series)?;
        let (version, unsigned) = match rest.strip_suffix("-unsigned") {
            Some(rest) => (rest.strip_suffix("-cloud-amd64")?, true),
            None => (rest.strip_suffix("-cloud-amd64")?, false),
        };
        let version = version.strip_prefix('.')?;
        // Such as 0-53, and 113+deb12.
        let numbers = version.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
        Some((numbers.collect::<Vec<u32>>(), !unsigned, name))
    };
    names.filter_map(kernel).max().map(|(_, _, name)| name)
}

/// The first entry of a directory, in order, whose name begins so.
fn one_in(dir: &Path, prefix: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).ok()?.filter_map(|entry| entry.ok().map(|e| e.path()));
    entries.filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix))).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_of_a_series_is_found() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-53-cloud-amd64-unsigned",
            "linux-image-6.1.0-53-cloud-amd64",
            "linux-image-6.1.0-53-cloud-amd64-dbg",
            "linux-image-6.1.0-54-amd64",
            "linux-image-6.12.9+deb12-cloud-amd64-unsigned",
            "linux-image-6.12.113+deb12-cloud-amd64-unsigned",
            "linux-image-cloud-amd64",
        ];
        let newest = |series| newest(names.into_iter(), series);
        assert_eq!(newest("6.1"), Some("linux-image-6.1.0-53-cloud-amd64"));
        assert_eq!(newest("6.12"), Some("linux-image-6.12.113+deb12-cloud-amd64-unsigned"));
        assert_eq!(newest("6.2"), None);
    }
}
