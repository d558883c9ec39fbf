//! `cargo xtask bench NAME`: the benchmark programs `bench-NAME` of the tests' package, built for speed.

use std::str::FromStr;

use anyhow::{Result, bail};

use crate::{
    command,
    host::{Host, Rights},
    setup::{Purpose, Setup},
};

/// The name of a benchmark: lower-case letters, digits and dashes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Name(String);

impl FromStr for Name {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(good) {
            Ok(Self(name.to_owned()))
        } else {
            Err("a benchmark is named by lower-case letters, digits and dashes, such as `path`".to_owned())
        }
    }
}

/// Builds and runs one.
///
/// # Errors
/// Something is missing, there is no such benchmark, it does not build, or it fails.
pub(crate) fn run(host: &Host, name: &Name, args: &[String]) -> Result<()> {
    if host.rights == Rights::None {
        bail!("benchmarks load programs into the kernel: run them as root, or have sudo without a password");
    }
    Setup::of(host, &[Purpose::Build, Purpose::Kernel]).install()?;
    let program = format!("bench-{}", name.0);
    command::run(command::cargo(host).args([
        "build",
        "--release",
        "--locked",
        "--package",
        "ftp-helper-tests",
        "--bin",
        &program,
    ]))?;
    let file = host.target()?.join("release").join(&program).display().to_string();
    command::run(command::as_root(host, &[file]).args(args))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_path() {
        assert_eq!("path".parse(), Ok(Name("path".to_owned())));
        for bad in ["", "../x", "-x", "Path", "a b", "a/b"] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }
}
