//! `cargo xtask coverage`: which lines of engine, grammar and recogniser the tests run, by the compiler's own coverage.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    command, fuzz,
    host::{Host, output_of},
    setup::{Purpose, Setup},
};

/// The sources that read what comes from the network.
const SOURCES: &[&str] = &["ftp-helper/src/engine", "ftp-helper-common/src/canon"];
/// The packages they belong to.
const PACKAGES: &[&str] = &["ftp-helper", "ftp-helper-common"];
/// Tests of the package of tests that run them.
const TESTS: &[&str] = &["oracle_dialogue", "fuzz_corpus", "catalogue_engine"];
/// Tests, which are no sources of that kind.
const NOT: &[&str] = &["/tests/", "/tests.rs"];

/// What `cargo xtask coverage` knows.
#[derive(Args)]
pub(crate) struct Options {
    /// Only the unit tests beside the sources, and only the figures: a lower bound within minutes.
    #[arg(long)]
    short: bool,
}

/// Lines of a file: those that can run, and those that no test runs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Lines {
    all: BTreeSet<u32>,
    run: BTreeSet<u32>,
}

/// Builds the tests with counters, runs those that need no root, and reports.
///
/// # Errors
/// Something is missing, does not build, or a test fails.
pub(crate) fn run(host: &Host, options: &Options) -> Result<()> {
    Setup::of(host, &[Purpose::Build, Purpose::Coverage]).install()?;
    let major = llvm_major(host).context("`rustc -vV` does not tell its LLVM's version")?;
    let tool = |name: &str| {
        tool(host, name, major)
            .with_context(|| format!("no {name} of LLVM {major}, which this rustc is built with: install llvm-{major}"))
    };
    let (profdata, cov) = (tool("llvm-profdata")?, tool("llvm-cov")?);
    let dir = host.root.join("target/xtask/coverage");
    match fs::remove_dir_all(&dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("can't remove {}", dir.display()));
        }
        _ => fs::create_dir_all(&dir).with_context(|| format!("can't make {}", dir.display()))?,
    }
    let programs = build(host, &dir, options.short)?;
    for program in &programs {
        println!("coverage: {}", program.file_name().unwrap_or_default().to_string_lossy());
        let mut test = Command::new(program);
        let package = package_of(program);
        if package == "ftp-helper" {
            // Its other rooms need an object for the kernel, or a kernel, and read nothing of this kind.
            test.arg("engine::");
        }
        test.current_dir(host.root.join(package)).env("LLVM_PROFILE_FILE", dir.join("%p-%m.profraw"));
        command::run_quietly(&mut test)?;
    }
    let merged = dir.join("all.profdata");
    let mut merge = Command::new(profdata);
    merge.args(["merge", "--sparse", "-o"]).arg(&merged);
    for entry in fs::read_dir(&dir).with_context(|| format!("can't read {}", dir.display()))? {
        let path = entry.with_context(|| format!("can't read {}", dir.display()))?.path();
        if path.extension().is_some_and(|e| e == "profraw") {
            merge.arg(path);
        }
    }
    command::run_quietly(&mut merge)?;
    let mut export = Command::new(cov);
    export.args(["export", "--format=lcov", "--instr-profile"]).arg(&merged);
    for (n, program) in programs.iter().enumerate() {
        export.args((n > 0).then_some("--object")).arg(program);
    }
    export.args(SOURCES.iter().map(|source| host.root.join(source)));
    let output = export.output().with_context(|| format!("can't start: {}", command::line(&export)))?;
    if !output.status.success() {
        bail!("failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    print!("{}", report(&read(&String::from_utf8_lossy(&output.stdout)), &host.root, options.short));
    Ok(())
}

/// Builds the tests, our own packages with counters (a program without any in its own crate writes none) and the rest as always,
/// so that it need not be built again.
fn build(host: &Host, dir: &Path, short: bool) -> Result<Vec<PathBuf>> {
    let wrapper = dir.join("rustc");
    fs::write(&wrapper, "#!/bin/sh\nexec \"$@\" -Cinstrument-coverage\n")
        .with_context(|| format!("can't write {}", wrapper.display()))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&wrapper, mode).with_context(|| format!("can't make {} executable", wrapper.display()))?;
    let mut build = command::cargo(host);
    build.args(["test", "--no-run", "--locked", "--message-format=json-render-diagnostics", "--lib"]);
    for package in PACKAGES {
        build.args(["--package", package]);
    }
    if !short {
        build.args(["--package", "ftp-helper-tests"]);
        for test in TESTS {
            build.args(["--test", test]);
        }
    }
    // No test that is run loads a program into the kernel, and none has to be compiled for them.
    // Build scripts have counters too, and would leave them beside the sources.
    build.env("LLVM_PROFILE_FILE", dir.join("build/%p-%m.profraw"));
    build.env("RUSTC_WORKSPACE_WRAPPER", &wrapper).env("FTP_HELPER_BPF_OBJECT", fuzz::no_object(host)?);
    build.stderr(std::process::Stdio::inherit());
    let output = build.output().with_context(|| format!("can't start: {}", command::line(&build)))?;
    if !output.status.success() {
        bail!("failed ({}): {}", output.status, command::line(&build));
    }
    let programs = executables(&String::from_utf8_lossy(&output.stdout));
    if programs.is_empty() {
        bail!("no test was built by {}", command::line(&build));
    }
    Ok(programs)
}

/// The programs that cargo's messages name, one JSON object a line.
fn executables(messages: &str) -> Vec<PathBuf> {
    let key = "\"executable\":\"";
    messages.lines().filter_map(|line| Some(line.split_once(key)?.1.split_once('"')?.0.into())).collect()
}

/// The package of a test program, in whose directory cargo would run it.
fn package_of(program: &Path) -> &'static str {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    if name.starts_with("ftp_helper_common-") {
        "ftp-helper-common"
    } else if name.starts_with("ftp_helper-") {
        "ftp-helper"
    } else {
        "tests"
    }
}

/// The major version of rustc's LLVM: only its own tools read what its programs write.
fn llvm_major(host: &Host) -> Option<u32> {
    let rustc = env::var_os("RUSTC").map(PathBuf::from).or_else(|| host.program("rustc"))?;
    let version = output_of(Command::new(rustc).arg("-vV"))?;
    version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?.split('.').next()?.parse().ok()
}

/// A tool of that LLVM: as Debian calls it, or of rustup's component llvm-tools.
fn tool(host: &Host, name: &str, major: u32) -> Option<PathBuf> {
    if let Some(tool) = host.program(&format!("{name}-{major}")) {
        return Some(tool);
    }
    let sysroot = output_of(Command::new(host.program("rustc")?).args(["--print", "sysroot"]))?;
    let triple = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let tool = Path::new(&sysroot).join("lib/rustlib").join(triple).join("bin").join(name);
    tool.is_file().then_some(tool)
}

/// Whether the tools are there.
pub(crate) fn has_tools(host: &Host) -> bool {
    llvm_major(host)
        .is_some_and(|major| ["llvm-profdata", "llvm-cov"].iter().all(|name| tool(host, name, major).is_some()))
}

/// Reads lcov's format: `SF:` begins a file, `DA:line,count` is a line.
fn read(lcov: &str) -> BTreeMap<String, Lines> {
    let mut files = BTreeMap::<String, Lines>::new();
    let mut file = String::new();
    for line in lcov.lines() {
        if let Some(name) = line.strip_prefix("SF:") {
            file = name.to_owned();
        } else if let Some((number, count)) = line.strip_prefix("DA:").and_then(|rest| rest.split_once(','))
            && let Ok(number) = number.parse()
        {
            let lines = files.entry(file.clone()).or_default();
            lines.all.insert(number);
            if count != "0" {
                lines.run.insert(number);
            }
        }
    }
    files
}

fn report(files: &BTreeMap<String, Lines>, root: &Path, short: bool) -> String {
    let mut text = String::new();
    let (mut all, mut run) = (0, 0);
    for (name, lines) in files.iter().filter(|(name, _)| !NOT.iter().any(|not| name.contains(not))) {
        let name = Path::new(name).strip_prefix(root).unwrap_or(Path::new(name)).display().to_string();
        (all, run) = (all + lines.all.len(), run + lines.run.len());
        text += &format!("{:>6.1} %  {name}\n", percent(lines.run.len(), lines.all.len()));
        if !short {
            for range in ranges(&lines.all - &lines.run) {
                text += &format!("          {name}:{range}\n");
            }
        }
    }
    text + &format!("{:>6.1} %  {run} of {all} lines\n", percent(run, all))
}

fn percent(part: usize, whole: usize) -> f64 {
    if whole == 0 { 100.0 } else { 100.0 * part as f64 / whole as f64 }
}

/// Neighbouring numbers in one: `3-5`.
fn ranges(numbers: BTreeSet<u32>) -> Vec<String> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for n in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == n => *last = n,
            _ => ranges.push((n, n)),
        }
    }
    ranges.into_iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_several_programs_are_put_together() {
        let lcov = "SF:/r/a.rs\nDA:1,0\nDA:2,4\nDA:3,0\nend_of_record\nSF:/r/x/tests/b.rs\nDA:1,0\nSF:/r/a.rs\nDA:1,7\nDA:4,0\n";
        let files = read(lcov);
        assert_eq!(report(&files, Path::new("/r"), true), "  50.0 %  a.rs\n  50.0 %  2 of 4 lines\n");
        assert!(report(&files, Path::new("/r"), false).contains("a.rs:3-4\n"));
        assert_eq!(percent(0, 0), 100.0);
    }

    #[test]
    fn a_program_runs_in_the_directory_of_its_package() {
        assert_eq!(package_of("/t/ftp_helper-1".as_ref()), "ftp-helper");
        assert_eq!(package_of("/t/ftp_helper_common-1".as_ref()), "ftp-helper-common");
        assert_eq!(package_of("/t/ftp_helper_tests-1".as_ref()), "tests");
        assert_eq!(package_of("/t/oracle_dialogue-1".as_ref()), "tests");
    }

    #[test]
    fn the_programs_are_found_in_cargos_messages() {
        let messages = "{\"reason\":\"x\",\"executable\":null}\n{\"executable\":\"/t/a-1\",\"fresh\":true}\n";
        assert_eq!(executables(messages), [PathBuf::from("/t/a-1")]);
    }
}
