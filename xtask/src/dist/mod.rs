//! `cargo xtask dist`: the Debian package and the tarball, each around the one binary with the BPF programs inside.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    command,
    host::{Host, output_of},
    setup::{Purpose, Setup},
};

/// The suite of Debian that the package is tried in.
const SUITE: &str = "bookworm";
/// What a gateway has beside the smallest system, and what stands in for systemd's filter of system calls.
const INCLUDED: &str = "--include=nftables,python3-seccomp";

/// Builds both, and says where they are.
///
/// # Errors
/// Something is missing, or does not build.
pub(crate) fn run(host: &Host) -> Result<()> {
    Setup::of(host, &[Purpose::Build, Purpose::Package]).install()?;
    command::run(command::cargo(host).args(["build", "--release", "--package", "ftp-helper", "--locked"]))?;
    let program = host.target()?.join("release/ftp-helper");
    make_pages(host, &program)?;
    println!("{}", package(host, "release")?.display());
    println!("{}", tarball(host, &program)?.display());
    Ok(())
}

/// The program of the tests, packed and tried: for a task of its own.
///
/// # Errors
/// Something is missing, does not build, or is wrong with the package.
pub(crate) fn try_out(host: &Host) -> Result<()> {
    Setup::of(host, &[Purpose::Build, Purpose::Kernel, Purpose::Package]).install()?;
    command::run(command::cargo(host).args(["build", "--package", "ftp-helper", "--locked"]))?;
    try_package(host)
}

/// Builds the package around the program of the tests, which is there, and tries it in a fresh Debian tree: it is installed,
/// run with its unit's rights, and removed. Returns what is wrong.
///
/// # Errors
/// A file can't be written.
pub(crate) fn check(host: &Host) -> Result<Vec<String>> {
    match try_package(host) {
        Ok(()) => Ok(Vec::new()),
        Err(error) => Ok(vec![format!("{error:#}")]),
    }
}

fn try_package(host: &Host) -> Result<()> {
    make_pages(host, &host.target()?.join("debug/ftp-helper"))?;
    let package = package(host, "dev")?;
    let tree = tree(host)?;
    let script = host.root.join("packaging/check-package.sh");
    let words = [script, package, tree].map(|path| path.display().to_string());
    command::run_quietly(&mut command::as_root(host, &words))
}

/// The manual pages and the shells' scripts, by the program itself.
fn make_pages(host: &Host, program: &Path) -> Result<()> {
    let made = dist(host).join("made");
    if made.exists() {
        fs::remove_dir_all(&made).with_context(|| format!("can't remove {}", made.display()))?;
    }
    let (man, completions) = (made.join("man"), made.join("completions"));
    fs::create_dir_all(&completions).with_context(|| format!("can't make {}", completions.display()))?;
    command::run_quietly(Command::new(program).arg("man").arg("--into").arg(&man))?;
    for (shell, name) in [("bash", "ftp-helper.bash"), ("zsh", "_ftp-helper"), ("fish", "ftp-helper.fish")] {
        let script = output_of(Command::new(program).args(["completions", shell]));
        let script = script.with_context(|| format!("{} prints no completions for {shell}", program.display()))?;
        let file = completions.join(name);
        fs::write(&file, script + "\n").with_context(|| format!("can't write {}", file.display()))?;
    }
    Ok(())
}

/// The package around the program of a profile.
fn package(host: &Host, profile: &str) -> Result<PathBuf> {
    let into = dist(host).join(profile);
    if into.exists() {
        fs::remove_dir_all(&into).with_context(|| format!("can't remove {}", into.display()))?;
    }
    fs::create_dir_all(&into).with_context(|| format!("can't make {}", into.display()))?;
    let mut cargo = command::cargo(host);
    cargo
        .args(["deb", "--package", "ftp-helper", "--no-build", "--locked", "--profile", profile, "--output"])
        .arg(&into);
    command::run_quietly(&mut cargo)?;
    let entries = fs::read_dir(&into).with_context(|| format!("can't read {}", into.display()))?;
    let mut packages =
        entries.filter_map(|e| e.ok().map(|e| e.path())).filter(|p| p.extension().is_some_and(|e| e == "deb"));
    packages.next().with_context(|| format!("cargo-deb has written no package into {}", into.display()))
}

/// The same files for other distributions, as they lie below `/`.
fn tarball(host: &Host, program: &Path) -> Result<PathBuf> {
    let version = output_of(Command::new(program).arg("--version")).context("the program tells no version")?;
    let version = version.rsplit(' ').next().unwrap_or_default();
    let name = format!("ftp-helper-{version}-{}-linux", std::env::consts::ARCH);
    let stage = dist(host).join(&name);
    if stage.exists() {
        fs::remove_dir_all(&stage).with_context(|| format!("can't remove {}", stage.display()))?;
    }
    let made = dist(host).join("made");
    let root = &host.root;
    let parts: [(PathBuf, &str); 10] = [
        (program.to_path_buf(), "usr/bin/ftp-helper"),
        (root.join("packaging/ftp-helper.toml"), "etc/ftp-helper/ftp-helper.toml"),
        (root.join("packaging/systemd"), "usr/lib/systemd/system"),
        (root.join("packaging/prometheus"), "usr/share/ftp-helper/prometheus"),
        (root.join("packaging/grafana"), "usr/share/ftp-helper/grafana"),
        (root.join("packaging/ftp-helper.schema.json"), "usr/share/ftp-helper/ftp-helper.schema.json"),
        (made.join("completions/ftp-helper.bash"), "usr/share/bash-completion/completions/ftp-helper"),
        (made.join("completions/_ftp-helper"), "usr/share/zsh/site-functions/_ftp-helper"),
        (made.join("completions/ftp-helper.fish"), "usr/share/fish/vendor_completions.d/ftp-helper.fish"),
        (root.join("docs"), "usr/share/doc/ftp-helper/docs"),
    ];
    for (from, to) in parts {
        let to = stage.join(to);
        let parent = to.parent().context("it has a parent")?;
        fs::create_dir_all(parent).with_context(|| format!("can't make {}", parent.display()))?;
        command::run_quietly(Command::new("cp").arg("--recursive").arg(&from).arg(&to))?;
    }
    for entry in fs::read_dir(made.join("man")).context("the manual pages are not there")? {
        let page = entry.context("the manual pages can't be read")?.path();
        let section = page.extension().unwrap_or_default().to_string_lossy().into_owned();
        let dir = stage.join(format!("usr/share/man/man{section}"));
        fs::create_dir_all(&dir).with_context(|| format!("can't make {}", dir.display()))?;
        command::run_quietly(Command::new("cp").arg(&page).arg(&dir))?;
    }
    for file in ["README.md", "LICENSE-MIT", "LICENSE-APACHE", "LICENSE-GPL-2.0"] {
        let to = stage.join("usr/share/doc/ftp-helper").join(file);
        fs::copy(root.join(file), &to).with_context(|| format!("can't write {}", to.display()))?;
    }
    command::run_quietly(Command::new("strip").arg(stage.join("usr/bin/ftp-helper")))?;
    let archive = dist(host).join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    tar.arg("--create").arg("--gzip").arg("--file").arg(&archive).arg("--directory").arg(dist(host));
    command::run_quietly(tar.args(["--owner=0", "--group=0", "--sort=name", &name]))?;
    fs::remove_dir_all(&stage).with_context(|| format!("can't remove {}", stage.display()))?;
    Ok(archive)
}

/// A fresh Debian system in a directory, made once.
fn tree(host: &Host) -> Result<PathBuf> {
    let tree = dist(host).join(format!("gateway-{SUITE}"));
    if tree.join("etc/debian_version").is_file() {
        return Ok(tree);
    }
    let debootstrap = host.program("debootstrap").context("debootstrap is not in PATH")?;
    let work = dist(host).join(format!(".tree-{}", std::process::id()));
    let mirror = mirror(&fs::read_to_string("/etc/apt/sources.list.d/debian.sources").unwrap_or_default());
    let mut words = ["--variant=minbase", INCLUDED, SUITE].map(str::to_owned).to_vec();
    words.insert(0, debootstrap.display().to_string());
    words.push(work.display().to_string());
    words.extend(mirror);
    let made = command::run_quietly(&mut command::as_root(host, &words));
    // Only what is whole gets the name.
    let moved = made.and_then(|()| {
        let words = ["mv".to_owned(), work.display().to_string(), tree.display().to_string()];
        command::run_quietly(&mut command::as_root(host, &words))
    });
    if moved.is_err() && work.exists() {
        let words = ["rm".to_owned(), "-rf".to_owned(), "--one-file-system".to_owned(), work.display().to_string()];
        command::run_quietly(&mut command::as_root(host, &words))?;
    }
    moved?;
    if !tree.join("etc/debian_version").is_file() {
        bail!("debootstrap has made no system in {}", tree.display());
    }
    Ok(tree)
}

/// Where this system has its packages from.
fn mirror(sources: &str) -> Option<String> {
    let line = sources.lines().find_map(|line| line.strip_prefix("URIs:"))?;
    Some(line.split_whitespace().next()?.to_owned())
}

fn dist(host: &Host) -> PathBuf {
    host.root.join("target/dist")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_that_of_this_system() {
        let sources = "Types: deb\nURIs: https://mirror.example/debian https://other.example\nSuites: bookworm\n";
        assert_eq!(mirror(sources).as_deref(), Some("https://mirror.example/debian"));
        assert_eq!(mirror("# nothing\n"), None);
    }
}
