//! `cargo xtask fuzz`: the fuzz targets, with libFuzzer through cargo-fuzz.
//!
//! cargo-fuzz asks for a nightly compiler only because of its sanitizers. Ours would find nothing that the code can do: it
//! is safe Rust but for a few lines. Without one, the stable compiler does, and the targets run twice as fast.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
    thread,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    command,
    host::{Host, output_of},
    setup::{Purpose, Setup},
};

/// Seconds for each target unless told otherwise, in `cargo xtask test` as well.
const SECONDS: u64 = 30;
/// Memory of a target, MiB: one that needs more has been made to grow.
const MEMORY: u32 = 1024;
/// Seconds for one input.
const PATIENCE: u32 = 10;

/// What `cargo xtask fuzz` knows.
#[derive(Args)]
pub(crate) struct Options {
    /// Only this target.
    target: Option<String>,
    /// How long each target runs; 30 unless told otherwise.
    #[arg(long, conflicts_with = "runs")]
    seconds: Option<u64>,
    /// How many inputs each target runs.
    #[arg(long)]
    runs: Option<u64>,
}

/// When a target has run enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Limit {
    Seconds(u64),
    Runs(u64),
}

/// What came of a target.
struct Outcome {
    target: String,
    ok: bool,
    /// Executions, as libFuzzer counts them.
    executions: u64,
    /// Edges covered.
    covered: u64,
    log: PathBuf,
}

/// Builds and runs the targets; what is found lies in `fuzz/artifacts`.
///
/// # Errors
/// Something is missing, a target does not build, there is none of that name, or one has found something.
pub(crate) fn run(host: &Host, options: &Options) -> Result<()> {
    Setup::of(host, &[Purpose::Fuzz]).install()?;
    let targets = targets(&host.root)?;
    let targets = match &options.target {
        Some(name) if targets.contains(name) => vec![name.clone()],
        Some(name) => bail!("there is no fuzz target {name:?}; there are {}", targets.join(", ")),
        None => targets,
    };
    let limit = match (options.seconds, options.runs) {
        (_, Some(runs)) => Limit::Runs(runs),
        (seconds, None) => Limit::Seconds(seconds.unwrap_or(SECONDS)),
    };
    println!("fuzz: {}", engine(host));
    command::run(&mut build(host, options.target.as_deref())?)?;
    let outcomes = all(host, &targets, limit)?;
    print!("{}", table(&outcomes));
    let found: Vec<_> = outcomes.iter().filter(|o| !o.ok).collect();
    for outcome in &found {
        println!("{}: {}", outcome.target, reason(&fs::read_to_string(&outcome.log).unwrap_or_default()));
        println!("  log: {}", outcome.log.display());
    }
    if !found.is_empty() {
        bail!("{} of {} targets found something; it lies in fuzz/artifacts", found.len(), outcomes.len());
    }
    Ok(())
}

/// Runs every target for [`SECONDS`]; returns how many inputs that were, and what was found. They are built already.
///
/// # Errors
/// A target can't be run.
pub(crate) fn briefly(host: &Host) -> Result<(u64, Vec<String>)> {
    let outcomes = all(host, &targets(&host.root)?, Limit::Seconds(SECONDS))?;
    let found = outcomes.iter().filter(|o| !o.ok).map(|o| {
        let log = fs::read_to_string(&o.log).unwrap_or_default();
        format!("{}: {}\n  log: {}", o.target, reason(&log), o.log.display())
    });
    Ok((outcomes.iter().map(|o| o.executions).sum(), found.collect()))
}

/// The names of all targets.
fn targets(root: &Path) -> Result<Vec<String>> {
    let dir = root.join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("can't read {}", dir.display()))? {
        let path = entry.with_context(|| format!("can't read {}", dir.display()))?.path();
        if path.extension().is_some_and(|e| e == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// What the targets are built and run with.
fn engine(host: &Host) -> String {
    let version = |program: &str, args: &[&str]| {
        host.program(program).and_then(|p| output_of(Command::new(p).args(args))).unwrap_or_else(|| program.to_owned())
    };
    format!(
        "libFuzzer by {}, {}, without a sanitizer",
        version("cargo-fuzz", &["--version"]),
        version("rustc", &["--version"])
    )
}

/// The command that builds one target, or all.
///
/// # Errors
/// The directory of the build can't be written.
pub(crate) fn build(host: &Host, target: Option<&str>) -> Result<Command> {
    let mut build = command::cargo(host);
    build.args(["fuzz", "build", "--sanitizer", "none"]).args(target);
    // No target loads a program into the kernel, and none has to be compiled for them.
    build.env("FTP_HELPER_BPF_OBJECT", no_object(host)?);
    Ok(build)
}

/// An empty file that stands for the object for the kernel.
///
/// # Errors
/// The directory of the build can't be written.
pub(crate) fn no_object(host: &Host) -> Result<PathBuf> {
    let no_object = host.root.join("target/xtask/no-bpf-object");
    let dir = no_object.parent().unwrap_or(&host.root);
    fs::create_dir_all(dir).with_context(|| format!("can't make {}", dir.display()))?;
    if !no_object.is_file() {
        fs::write(&no_object, "").with_context(|| format!("can't write {}", no_object.display()))?;
    }
    Ok(no_object)
}

/// Runs targets, as many at a time as there are processors, two at most: they share memory and patience.
fn all(host: &Host, targets: &[String], limit: Limit) -> Result<Vec<Outcome>> {
    let at_once = thread::available_parallelism().map_or(1, |n| n.get().min(2));
    let (waiting, done) = (Mutex::new(targets.iter()), Mutex::new(Vec::new()));
    let next = || waiting.lock().ok()?.next();
    thread::scope(|scope| {
        for _ in 0..at_once.min(targets.len()) {
            scope.spawn(|| {
                while let Some(target) = next() {
                    let outcome = one(host, target, limit);
                    if let Ok(mut done) = done.lock() {
                        done.push(outcome);
                    }
                }
            });
        }
    });
    let outcomes = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut outcomes = outcomes.into_iter().collect::<Result<Vec<_>>>()?;
    outcomes.sort_by(|a, b| a.target.cmp(&b.target));
    if outcomes.len() < targets.len() {
        bail!("not every target was run");
    }
    Ok(outcomes)
}

fn one(host: &Host, target: &str, limit: Limit) -> Result<Outcome> {
    let triple = triple(host)?;
    let program = host.root.join("fuzz/target").join(triple).join("release").join(target);
    // What it learns stays out of the tree; what is committed is only read.
    let learnt = host.root.join("fuzz/corpus").join(target);
    let artifacts = host.root.join("fuzz/artifacts").join(target);
    for dir in [&learnt, &artifacts] {
        fs::create_dir_all(dir).with_context(|| format!("can't make {}", dir.display()))?;
    }
    let log = host.root.join("target/xtask").join(format!("fuzz-{target}.log"));
    let file = fs::File::create(&log).with_context(|| format!("can't write {}", log.display()))?;
    let twin = file.try_clone().with_context(|| format!("can't write {}", log.display()))?;
    let mut fuzz = Command::new(&program);
    fuzz.current_dir(&host.root).stdin(Stdio::null()).stdout(file).stderr(twin);
    fuzz.arg(format!("-rss_limit_mb={MEMORY}")).arg(format!("-timeout={PATIENCE}"));
    fuzz.arg(format!("-artifact_prefix={}/", artifacts.display())).arg("-print_final_stats=1");
    fuzz.arg(format!("-max_len={}", longest(target)));
    let dictionary = host.root.join("fuzz/dictionaries").join(target);
    if dictionary.is_file() {
        fuzz.arg(format!("-dict={}", dictionary.display()));
    }
    match limit {
        Limit::Seconds(seconds) => fuzz.arg(format!("-max_total_time={seconds}")),
        Limit::Runs(runs) => fuzz.arg(format!("-runs={runs}")),
    };
    fuzz.arg(&learnt);
    let seeds = host.root.join("fuzz/seeds").join(target);
    if seeds.is_dir() {
        fuzz.arg(seeds);
    }
    let status = fuzz.status().with_context(|| format!("can't start: {}", command::line(&fuzz)))?;
    let text = fs::read(&log).with_context(|| format!("can't read {}", log.display()))?;
    let text = String::from_utf8_lossy(&text);
    let executions = number_behind(&text, "stat::number_of_executed_units:").unwrap_or(0);
    let covered = text.lines().rev().find_map(|line| number_behind(line, " cov:")).unwrap_or(0);
    Ok(Outcome { target: target.to_owned(), ok: status.success() && executions > 0, executions, covered, log })
}

/// Bytes of an input at most. Dialogues are made of decisions, a byte or two each; what lies behind the last is not read.
fn longest(target: &str) -> usize {
    match target {
        "canon" | "dialogue" => 640,
        "segments" => 1024,
        _ => 4096,
    }
}

/// The host's target triple, which is in the path of what cargo-fuzz builds.
fn triple(host: &Host) -> Result<String> {
    let rustc =
        env::var_os("RUSTC").map(PathBuf::from).or_else(|| host.program("rustc")).context("no rustc in PATH")?;
    let version = output_of(Command::new(rustc).arg("-vV")).context("`rustc -vV` failed")?;
    let triple = version.lines().find_map(|line| line.strip_prefix("host: ")).context("`rustc -vV` names no host")?;
    Ok(triple.to_owned())
}

/// The number behind the last `word` of a text.
fn number_behind(text: &str, word: &str) -> Option<u64> {
    text.rsplit_once(word)?.1.split_whitespace().next()?.parse().ok()
}

/// The lines of a log that tell what was found.
fn reason(log: &str) -> String {
    let telling = |line: &&str| {
        ["panicked at", "ERROR: libFuzzer", "SUMMARY:", "Test unit written"].iter().any(|w| line.contains(w))
    };
    let lines: Vec<_> = log.lines().filter(telling).collect();
    if lines.is_empty() { "it ended without a word".to_owned() } else { lines.join("\n  ") }
}

fn table(outcomes: &[Outcome]) -> String {
    let width = outcomes.iter().map(|o| o.target.len()).max().unwrap_or(0);
    let line = |o: &Outcome| {
        let Outcome { target, ok, executions, covered, log: _ } = o;
        let found = if *ok { "nothing found" } else { "FOUND SOMETHING" };
        format!("{target:width$}  {executions:>10} executions  {covered:>6} edges  {found}\n")
    };
    outcomes.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
#2\tINITED cov: 12 ft: 13 corp: 1/1b exec/s: 0 rss: 40Mb
#4194304\tpulse  cov: 1234 ft: 3456 corp: 200/4Kb lim: 4096 exec/s: 1000 rss: 80Mb
thread '<unnamed>' panicked at tests/src/fuzz/rig.rs:1:1:
==7== ERROR: libFuzzer: deadly signal
stat::number_of_executed_units: 4194310
";

    #[test]
    fn a_log_tells_how_much_was_done_and_what_was_found() {
        assert_eq!(number_behind(LOG, "stat::number_of_executed_units:"), Some(4_194_310));
        assert_eq!(LOG.lines().rev().find_map(|line| number_behind(line, " cov:")), Some(1234));
        assert_eq!(number_behind("", " cov:"), None);
        assert!(reason(LOG).contains("rig.rs:1:1") && reason(LOG).contains("deadly signal"));
        assert_eq!(reason("nothing"), "it ended without a word");
    }

    #[test]
    fn every_target_is_a_program_and_a_function() {
        let root = Host::read().expect("/proc is there").root;
        let names = targets(&root).expect("a directory of targets");
        assert!(names.len() >= 7, "{names:?}");
        let manifest = fs::read_to_string(root.join("fuzz/Cargo.toml")).expect("a manifest");
        let module = fs::read_to_string(root.join("tests/src/fuzz/mod.rs")).expect("a module");
        for name in names {
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
            assert!(module.contains(&format!("name: \"{name}\", run: {name}::run")), "{name}");
        }
    }
}
