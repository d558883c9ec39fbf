//! `cargo xtask demo`: set-up, build, and `ftp-helper lab demo`.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result, bail};

use crate::{
    command,
    host::{Host, Rights},
    setup::{Purpose, Setup},
};

/// Runs it, in the place of this program: its exit code is the demo's.
///
/// # Errors
/// Something is missing, does not build or can't be started.
pub(crate) fn run(host: &Host, args: &[String]) -> Result<()> {
    if host.rights == Rights::None {
        bail!(
            "the demo makes network namespaces and loads programs into the kernel: run it as root, or have sudo without a password"
        );
    }
    Setup::of(host, &[Purpose::Build, Purpose::Lab, Purpose::Kernel]).install()?;
    println!("build: cargo build --package ftp-helper");
    command::run(command::cargo(host).args(["build", "--package", "ftp-helper", "--locked"]))?;
    let servers = format!("FTP_HELPER_LAB_SERVERS={}", host.lab_servers().display());
    let program = host.target()?.join("debug/ftp-helper").display().to_string();
    let words = ["env".to_owned(), servers, program, "lab".to_owned(), "demo".to_owned()];
    let mut demo = command::as_root(host, &words);
    let error = demo.args(args).exec();
    Err(error).with_context(|| format!("can't start: {}", command::line(&demo)))
}
