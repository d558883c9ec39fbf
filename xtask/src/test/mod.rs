//! `cargo xtask test`: every check and every test, one line a step, and the sum of the tests at the very end.

mod count;
mod step;

use std::{
    env, fs,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

pub(crate) use self::{count::Count, step::Steps};
use crate::{
    bench, book, command, dist, docs, fuzz,
    host::{Host, Rights, output_of},
    kernels::{self, KERNELS, Kernel},
    setup::{Purpose, Setup},
    soak,
};

/// The package of the end-to-end tests.
pub(crate) const END_TO_END: &str = "ftp-helper-tests";

/// How long the soak of a whole run takes.
const SOAK_MINUTES: u64 = 5;

/// What `cargo xtask test` knows.
#[derive(Args)]
pub(crate) struct Options {
    /// The long forms of the tests as well.
    #[arg(long)]
    full: bool,
    /// Ask for known vulnerabilities of the dependencies as well; needs the advisory database from the network.
    #[arg(long)]
    advisories: bool,
    /// Show what the steps print while they run; always so where the variable CI is set.
    #[arg(long, short)]
    verbose: bool,
    /// Only what has to work on every kernel, on Debian's newest kernel of this series, in a virtual machine. May be given
    /// more than once.
    #[arg(long, value_name = "SERIES", value_parser = kernel, conflicts_with_all = ["full", "advisories", "filter"])]
    kernel: Vec<Kernel>,
    /// Only the tests with this in their names, and no other check.
    filter: Option<String>,
}

/// Reads a series of kernels.
fn kernel(series: &str) -> Result<Kernel, String> {
    let known = || KERNELS.map(|kernel| kernel.series).join(" and ");
    KERNELS.into_iter().find(|kernel| kernel.series == series).ok_or_else(|| format!("the tests know {}", known()))
}

/// Runs them.
///
/// # Errors
/// A step failed, or no test ran.
pub(crate) fn run(host: &Host, options: &Options) -> Result<()> {
    let machines = kernels::are_possible(host);
    if let (false, Err(why)) = (options.kernel.is_empty(), machines) {
        bail!("{why}");
    }
    let whole = options.filter.is_none() && options.kernel.is_empty();
    let mut purposes = vec![Purpose::Build, Purpose::Lab, Purpose::Kernel];
    if whole {
        purposes.extend([Purpose::Checks, Purpose::Fuzz]);
        // It takes two minutes to install; without it, only the contents are looked at.
        purposes.extend(options.full.then_some(Purpose::Book));
    }
    if machines.is_ok() && options.filter.is_none() {
        purposes.push(Purpose::Machines);
    }
    if whole && host.os.is_debian_12() {
        purposes.push(Purpose::Package);
    }
    Setup::of(host, &purposes).install()?;
    let verbose = options.verbose || env::var_os("CI").is_some();
    let mut steps = Steps::new(host.root.join("target/xtask"), verbose)?;
    let mut count = Count::default();
    if !options.kernel.is_empty() {
        kernels::run(host, &options.kernel, &mut steps, &mut count)?;
        return finish(&steps, &count);
    }
    if whole {
        checks(host, options, &mut steps)?;
    }
    // Only the end of the run needs the fuzz targets, and the tests wait more than they compute.
    let targets =
        if whole { Some(steps.beside("fuzz build", command::idly(host, &fuzz::build(host, None)?))) } else { None };
    let tested = suites(host, options, &mut steps, &mut count);
    // Even where those came to nothing, as the soak below.
    if let Some(targets) = targets {
        steps.join(targets)?;
    }
    tested?;
    if whole {
        // That it measures everything, and nothing fails: how fast this machine is today is no test.
        if host.rights == Rights::None {
            println!("comparison with the peers, soak: not run, they need root");
        } else {
            let (mut build, [mut v4, mut v6]) = bench::briefly(host)?;
            steps.command("bench build", &mut build)?;
            steps.command("bench", &mut v4)?;
            steps.command("bench over IPv6", &mut v6)?;
        }
        // The long form has soaked for two hours above.
        let soaks = host.rights != Rights::None && !options.full;
        let soak = if soaks { Some(steps.beside("soak", soak::command(host, SOAK_MINUTES, None)?)) } else { None };
        let rest = untimed(host, machines, &mut steps, &mut count);
        // Even where the others came to nothing: it would go on for itself.
        if let Some(soak) = soak {
            let output = steps.join(soak)?;
            count.add(counted("soak", &output, &mut steps));
        }
        rest?;
    }
    finish(&steps, &count)?;
    if let (Some(filter), 0) = (&options.filter, count.run()) {
        bail!("no test has {filter:?} in its name");
    }
    Ok(())
}

/// The tests themselves.
fn suites(host: &Host, options: &Options, steps: &mut Steps, count: &mut Count) -> Result<()> {
    let (unit, mut build, end_to_end) = tests(host, options)?;
    count.add(tested("unit and integration", unit, options, steps)?);
    steps.command("build", &mut build)?;
    count.add(tested("end to end", end_to_end, options, steps)?);
    Ok(())
}

/// The steps that measure no time, so that something may run beside them: other kernels, the package, and the fuzz targets.
fn untimed(host: &Host, machines: Result<(), &'static str>, steps: &mut Steps, count: &mut Count) -> Result<()> {
    match machines {
        Ok(()) => kernels::run(host, &KERNELS, steps, count)?,
        Err(why) => println!("other kernels: not tried: {why}"),
    }
    if host.os.is_debian_12() && host.rights != Rights::None {
        steps.check("package", || dist::check(host))?;
    } else {
        println!("package: not tried: that takes Debian 12 and root");
    }
    steps.check("documented configurations", || configurations(host))?;
    let mut executions = 0;
    steps.check("fuzz", || {
        let (count, found) = fuzz::briefly(host)?;
        executions = count;
        Ok(found)
    })?;
    steps.note("fuzz", &format!("{executions} executions"));
    Ok(())
}

/// Tells how it all went.
fn finish(steps: &Steps, count: &Count) -> Result<()> {
    println!("\n{}", steps.table());
    for name in &count.failures {
        println!("failed: {name}");
    }
    // What reads the end of the output takes this line for the whole run's.
    println!("{count}");
    let failed = steps.failed();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// Runs tests as a step. Without a filter, a step in which no test ran has failed.
fn tested(name: &'static str, mut tests: Command, options: &Options, steps: &mut Steps) -> Result<Count> {
    let output = steps.command(name, &mut tests)?;
    Ok(if options.filter.is_none() { counted(name, &output, steps) } else { noted(name, &output, steps) })
}

/// What a step's tests have told, which stands beside its name then.
fn noted(name: &'static str, output: &str, steps: &mut Steps) -> Count {
    let count = Count::of(output);
    if count.run() > 0 {
        steps.note(name, &count.to_string());
    }
    count
}

/// The same of a step that has failed if no test ran.
fn counted(name: &'static str, output: &str, steps: &mut Steps) -> Count {
    let count = noted(name, output, steps);
    if count.run() == 0 {
        steps.fail(name, "no test was run");
    }
    count
}

/// The checks of the sources, the cheap ones first.
fn checks(host: &Host, options: &Options, steps: &mut Steps) -> Result<()> {
    let cargo = |args: &[&str]| {
        let mut cargo = command::cargo(host);
        cargo.args(args);
        cargo
    };
    steps.command("fmt", &mut cargo(&["fmt", "--all", "--check"]))?;
    steps.check("docs", || docs::check(&host.root))?;
    steps.check("book", || book::check(host))?;
    steps.command("deny", &mut cargo(&["deny", "--all-features", "check", "licenses", "bans", "sources"]))?;
    // The fuzz targets are a workspace of their own.
    steps.command("fmt of fuzz", &mut cargo(&["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]))?;
    let deny = ["deny", "--manifest-path", "fuzz/Cargo.toml", "check", "licenses", "bans", "sources"];
    steps.command("deny of fuzz", &mut cargo(&deny))?;
    if options.advisories {
        steps.command("advisories", &mut cargo(&["deny", "check", "advisories"]))?;
    }
    let clippy = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    steps.command("clippy", &mut cargo(&clippy))?;
    let mut rustdoc = cargo(&["doc", "--workspace", "--no-deps", "--locked"]);
    steps.command("rustdoc", rustdoc.env("RUSTDOCFLAGS", "-D warnings"))?;
    Ok(())
}

/// `ftp-helper check` of every configuration that the documentation shows; returns what it says against them.
fn configurations(host: &Host) -> Result<Vec<String>> {
    let program = host.target()?.join("debug/ftp-helper");
    let file = host.root.join("target/xtask/documented.toml");
    let mut wrong = Vec::new();
    for example in docs::configurations(&host.root)? {
        fs::write(&file, &example.text).with_context(|| format!("can't write {}", file.display()))?;
        let mut check = Command::new(&program);
        check.arg("check").arg("-c").arg(&file).stdin(Stdio::null());
        let output = check.output().with_context(|| format!("can't start: {}", command::line(&check)))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            wrong.push(format!("{}: ftp-helper check says ({}):\n{}", example.place, output.status, said.trim_end()));
        }
    }
    Ok(wrong)
}

/// The commands that run the unit and integration tests, build the program, and run the end-to-end tests.
fn tests(host: &Host, options: &Options) -> Result<(Command, Command, Command)> {
    let filter = options.filter.as_deref();
    let mut unit = command::cargo(host);
    unit.args(["test", "--workspace", "--exclude", END_TO_END, "--locked", "--no-fail-fast", "--"]).args(filter);
    // Features are resolved for the packages that are named: so named, program and tests share all they depend on.
    let mut build = command::cargo(host);
    build.args(["build", "--package", "ftp-helper", "--locked"]);
    // They share the machine's time, and some measure it: one at a time unless told otherwise.
    let threads = env::var("FTP_HELPER_TEST_THREADS").unwrap_or_else(|_| "1".to_owned());
    if !threads.parse::<u16>().is_ok_and(|n| n > 0) {
        bail!("FTP_HELPER_TEST_THREADS is {threads:?}; it is a number of threads, 1 or more");
    }
    let mut end_to_end = command::cargo(host);
    end_to_end.args(["test", "--package", END_TO_END, "--locked", "--no-fail-fast", "--", "--test-threads", &threads]);
    match filter {
        // It has a step of its own.
        None if !options.full => end_to_end.args(["--skip", soak::TEST]),
        filter => end_to_end.args(filter),
    };
    let environment = environment(host, options.full);
    unit.envs(environment.iter().cloned());
    with_rights(host, &mut end_to_end, &environment)?;
    Ok((unit, build, end_to_end))
}

/// Has cargo run tests with this environment, as root where that is possible.
///
/// # Errors
/// When it can't be told how.
pub(crate) fn with_rights(host: &Host, cargo: &mut Command, environment: &[(&'static str, String)]) -> Result<()> {
    cargo.envs(environment.iter().cloned());
    if host.rights == Rights::Sudo {
        cargo.env(runner_variable(host)?, runner(environment));
    }
    Ok(())
}

/// What the tests read from the environment; `full` for their long forms.
pub(crate) fn environment(host: &Host, full: bool) -> Vec<(&'static str, String)> {
    let mut environment = vec![
        ("FTP_HELPER_LAB_SERVERS", host.lab_servers().display().to_string()),
        ("FTP_HELPER_FIGURES", host.root.join("target/xtask").display().to_string()),
    ];
    if host.rights != Rights::None {
        // Where we can be root, a test that skips itself for want of rights has failed.
        environment.push(("FTP_HELPER_REQUIRE_ROOT", "1".to_owned()));
    }
    if full {
        environment.push(("FTP_HELPER_FULL", "1".to_owned()));
    }
    environment
}

/// The variable that tells cargo by what to start the tests, such as `CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER`.
fn runner_variable(host: &Host) -> Result<String> {
    let rustc = host.program("rustc").context("rustc is not in PATH")?;
    let version = output_of(Command::new(rustc).arg("-vV")).context("`rustc -vV` failed")?;
    let triple = version.lines().find_map(|line| line.strip_prefix("host: ")).context("`rustc -vV` names no host")?;
    Ok(format!("CARGO_TARGET_{}_RUNNER", triple.replace(['-', '.'], "_").to_uppercase()))
}

/// Starts the tests as root. sudo clears the environment, and `-E` is a right that not everybody has: the variables are
/// set behind it.
fn runner(environment: &[(&'static str, String)]) -> String {
    let variables = environment.iter().map(|(name, value)| format!(" {name}={value}"));
    format!("sudo -n env{}", variables.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(full: bool) -> Options {
        Options { full, advisories: false, verbose: false, kernel: Vec::new(), filter: None }
    }

    fn host(rights: Rights) -> Host {
        Host { rights, ..Host::read().expect("/proc is there") }
    }

    #[test]
    fn tests_may_skip_themselves_only_where_nobody_can_be_root() {
        let has = |rights, full, name: &str| {
            environment(&host(rights), full).iter().any(|(n, value)| *n == name && value == "1")
        };
        assert!(
            has(Rights::Root, false, "FTP_HELPER_REQUIRE_ROOT") && has(Rights::Sudo, false, "FTP_HELPER_REQUIRE_ROOT")
        );
        assert!(!has(Rights::None, false, "FTP_HELPER_REQUIRE_ROOT"));
        assert!(has(Rights::None, true, "FTP_HELPER_FULL") && !has(Rights::Root, false, "FTP_HELPER_FULL"));
    }

    #[test]
    fn sudo_passes_the_variables_on() {
        assert_eq!(runner(&[("A", "1".to_owned()), ("B", "/x".to_owned())]), "sudo -n env A=1 B=/x");
        let variable = runner_variable(&host(Rights::Sudo)).expect("rustc is there");
        assert!(variable.starts_with("CARGO_TARGET_") && variable.ends_with("_RUNNER"), "{variable}");
        assert!(variable.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'), "{variable}");
    }

    #[test]
    fn the_filter_reaches_every_test_program() {
        let options = Options { filter: Some("a01".to_owned()), ..options(false) };
        let (unit, build, end_to_end) = tests(&host(Rights::Root), &options).expect("no variable is set to nonsense");
        let last = |command: &Command| command.get_args().last().map(ToOwned::to_owned);
        assert_eq!((last(&unit), last(&end_to_end)), (Some("a01".into()), Some("a01".into())));
        assert_ne!(last(&build), Some("a01".into()));
    }

    #[test]
    fn the_soak_is_run_once() {
        let skips = |options: &Options| {
            let (_, _, end_to_end) = tests(&host(Rights::Root), options).expect("no variable is set to nonsense");
            end_to_end.get_args().any(|argument| argument == soak::TEST)
        };
        // Beside other steps; by the test itself in the long form; and by name.
        assert!(skips(&options(false)) && !skips(&options(true)));
        assert!(!skips(&Options { filter: Some("memory".to_owned()), ..options(false) }));
    }
}
