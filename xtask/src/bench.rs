//! `cargo xtask bench [NAME]`: the benchmark programs `bench-NAME` of the tests' package, built for speed; without a name, the
//! comparison with the peers.

use std::{process::Command, str::FromStr};

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

impl Name {
    /// What is run without a name.
    const PEERS: &str = "peers";
}

/// Name and arguments: the first word is the name, unless it is an option.
pub(crate) fn split(words: &[String]) -> Result<(Name, &[String])> {
    match words.split_first() {
        Some((name, args)) if !name.starts_with('-') => Ok((name.parse().map_err(anyhow::Error::msg)?, args)),
        _ => Ok((Name(Name::PEERS.to_owned()), words)),
    }
}

/// The comparison's short form: the command that builds it as the tests are built, and those that run it over IPv4 and over IPv6.
pub(crate) fn briefly(host: &Host) -> Result<(Command, [Command; 2])> {
    let program = format!("bench-{}", Name::PEERS);
    let mut build = command::cargo(host);
    build.args(["build", "--package", "ftp-helper-tests", "--locked", "--bin", &program]);
    let file = |name: &str| Ok::<_, anyhow::Error>(host.target()?.join(name).display().to_string());
    let program = file(&format!("debug/{program}"))?;
    let run = |family: &str, json: &str| {
        let json = host.root.join("target/xtask").join(json).display().to_string();
        let words = [program.as_str(), "--short", "--family", family, "--json", &json];
        command::as_root(host, &words.map(ToOwned::to_owned))
    };
    Ok((build, [run("4", "bench.json"), run("6", "bench-ipv6.json")]))
}

/// Builds and runs one.
///
/// # Errors
/// Something is missing, there is no such benchmark, it does not build, or it fails.
pub(crate) fn run(host: &Host, name: &Name, args: &[String]) -> Result<()> {
    if host.rights == Rights::None {
        bail!("benchmarks load programs into the kernel: run them as root, or have sudo without a password");
    }
    Setup::of(host, &[Purpose::Build, Purpose::Kernel, Purpose::Lab]).install()?;
    let program = format!("bench-{}", name.0);
    // Some start the program itself.
    let packages =
        ["--package", "ftp-helper", "--package", "ftp-helper-tests", "--bin", "ftp-helper", "--bin", &program];
    command::run(command::cargo(host).args(["build", "--release", "--locked"]).args(packages))?;
    let file = host.target()?.join("release").join(&program).display().to_string();
    command::run(command::as_root(host, &[file]).args(args))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_name_it_is_the_comparison() {
        let words = |text: &str| text.split_whitespace().map(ToOwned::to_owned).collect::<Vec<_>>();
        let name = |text: &str| split(&words(text)).map(|(name, args)| (name.0, args.join(" "))).expect("a name");
        assert_eq!(name(""), ("peers".to_owned(), String::new()));
        assert_eq!(name("--short -o json"), ("peers".to_owned(), "--short -o json".to_owned()));
        assert_eq!(name("path -o json"), ("path".to_owned(), "-o json".to_owned()));
        assert!(split(&words("../x")).is_err());
    }

    #[test]
    fn a_name_is_no_path() {
        assert_eq!("path".parse(), Ok(Name("path".to_owned())));
        for bad in ["", "../x", "-x", "Path", "a b", "a/b"] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }
}
