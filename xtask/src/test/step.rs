//! Steps of a run: each is timed, has a log of its own, and one line of summary.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Write as _},
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::command;

/// The steps of a run so far.
pub(crate) struct Steps {
    logs: PathBuf,
    verbose: bool,
    done: Vec<Done>,
}

/// A step that is over.
#[derive(Debug)]
struct Done {
    name: &'static str,
    ok: bool,
    took: Duration,
    note: String,
}

/// A step that runs beside others; [`Steps::join`] waits for it.
#[must_use = "it goes on until it is waited for"]
pub(crate) struct Beside {
    name: &'static str,
    thread: JoinHandle<Result<Ran>>,
}

/// What has become of a command.
struct Ran {
    ok: bool,
    output: String,
    took: Duration,
    log: PathBuf,
    /// The command as one would type it.
    line: String,
}

impl Steps {
    /// No step yet. Logs go to the directory `logs`; `verbose` shows the steps' output while they run.
    ///
    /// # Errors
    /// The directory can't be made.
    pub(crate) fn new(logs: PathBuf, verbose: bool) -> Result<Self> {
        fs::create_dir_all(&logs).with_context(|| format!("can't make {}", logs.display()))?;
        Ok(Self { logs, verbose, done: Vec::new() })
    }

    /// Runs a command as a step, and returns what it printed. That it fails is noted, and no error.
    ///
    /// # Errors
    /// It can't be started, or its log can't be written.
    pub(crate) fn command(&mut self, name: &'static str, command: &mut Command) -> Result<String> {
        let start = self.begin(name);
        let log = self.logs.join(format!("{}.log", name.replace(' ', "-")));
        let (ok, output) = capture(command, &log, self.verbose)?;
        if !ok && !self.verbose {
            println!("FAILED\n$ {}\n{}", command::line(command), output.trim_end());
        }
        let note = if ok { String::new() } else { format!("see {}", log.display()) };
        self.end(name, ok, start.elapsed(), note);
        Ok(output)
    }

    /// Runs commands at the same time, a step each, and returns what they printed.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub(crate) fn commands(&mut self, commands: &mut [(&'static str, Command)]) -> Result<Vec<String>> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<&str> = commands.iter().map(|(name, _)| *name).collect();
        println!("{} …", names.join(", "));
        let (logs, verbose) = (&self.logs, self.verbose);
        let results: Vec<_> = thread::scope(|scope| {
            let run = |one: &mut (&'static str, Command)| Ran::of(one.0, &mut one.1, logs, verbose);
            let running: Vec<_> = commands.iter_mut().map(|one| scope.spawn(move || run(one))).collect();
            running.into_iter().map(|thread| thread.join().unwrap_or_else(|e| resume_unwind(e))).collect()
        });
        commands.iter().zip(results).map(|((name, _), ran)| Ok(self.ended(name, ran?))).collect()
    }

    /// Begins a command as a step that runs beside those that follow.
    pub(crate) fn beside(&self, name: &'static str, mut command: Command) -> Beside {
        println!("{name} … goes on beside what follows");
        let (logs, verbose) = (self.logs.clone(), self.verbose);
        Beside { name, thread: thread::spawn(move || Ran::of(name, &mut command, &logs, verbose)) }
    }

    /// Waits for a step that was begun so, and returns what it printed.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub(crate) fn join(&mut self, step: Beside) -> Result<String> {
        let ran = step.thread.join().unwrap_or_else(|e| resume_unwind(e))?;
        Ok(self.ended(step.name, ran))
    }

    /// Tells of a command that ran beside others; what it printed.
    fn ended(&mut self, name: &'static str, ran: Ran) -> String {
        let Ran { ok, output, took, log, line } = ran;
        print!("{name} … ");
        if !ok && !self.verbose {
            println!("FAILED\n$ {line}\n{}", output.trim_end());
        }
        let note = if ok { String::new() } else { format!("see {}", log.display()) };
        self.end(name, ok, took, note);
        output
    }

    /// Runs a check of our own as a step: it returns what is wrong, nothing if all is well.
    ///
    /// # Errors
    /// What the check returns.
    pub(crate) fn check(&mut self, name: &'static str, check: impl FnOnce() -> Result<Vec<String>>) -> Result<()> {
        let start = self.begin(name);
        let wrong = check()?;
        if !wrong.is_empty() {
            println!("FAILED\n{}", wrong.join("\n"));
        }
        self.end(name, wrong.is_empty(), start.elapsed(), String::new());
        Ok(())
    }

    /// Adds to the line that the table has for a step that is over.
    pub(crate) fn note(&mut self, name: &str, note: &str) {
        if let Some(step) = self.done.iter_mut().find(|step| step.name == name) {
            let separator = if step.note.is_empty() { "" } else { "; " };
            step.note = format!("{note}{separator}{}", step.note);
        }
    }

    /// Makes a failure of a step that is over.
    pub(crate) fn fail(&mut self, name: &str, why: &str) {
        if let Some(step) = self.done.iter_mut().find(|step| step.name == name) {
            step.ok = false;
            println!("{name}: FAILED: {why}");
        }
        self.note(name, why);
    }

    /// The names of the steps that failed.
    pub(crate) fn failed(&self) -> Vec<&'static str> {
        self.done.iter().filter(|step| !step.ok).map(|step| step.name).collect()
    }

    /// One line a step.
    pub(crate) fn table(&self) -> String {
        let width = self.done.iter().map(|step| step.name.len()).max().unwrap_or(0);
        let line = |step: &Done| {
            let Done { name, ok, took, note } = step;
            let result = if *ok { "ok" } else { "FAILED" };
            let line = format!("{name:width$}  {result:6}  {:>7.1} s  {note}", took.as_secs_f64());
            line.trim_end().to_owned() + "\n"
        };
        self.done.iter().map(line).collect()
    }

    fn begin(&self, name: &str) -> Instant {
        print!("{name} … ");
        if self.verbose {
            println!();
        }
        // Only so that the name is seen before the step is over.
        let _ = io::stdout().flush();
        Instant::now()
    }

    fn end(&mut self, name: &'static str, ok: bool, took: Duration, note: String) {
        let result = if ok { "ok" } else { "FAILED" };
        println!(
            "{}{result} ({:.1} s)",
            if self.verbose || !ok { format!("{name}: ") } else { String::new() },
            took.as_secs_f64()
        );
        self.done.push(Done { name, ok, took, note });
    }
}

impl Ran {
    fn of(name: &str, command: &mut Command, logs: &Path, verbose: bool) -> Result<Self> {
        let start = Instant::now();
        let log = logs.join(format!("{}.log", name.replace(' ', "-")));
        let (ok, output) = capture(command, &log, verbose)?;
        Ok(Self { ok, output, took: start.elapsed(), log, line: command::line(command) })
    }
}

/// Runs a command, both of its outputs in one, into a log and, if wished, onto our own output.
fn capture(command: &mut Command, log: &Path, show: bool) -> Result<(bool, String)> {
    let line = command::line(command);
    let mut file = File::create(log).with_context(|| format!("can't write {}", log.display()))?;
    let (reader, writer) = io::pipe().context("can't make a pipe")?;
    let twin = writer.try_clone().context("can't duplicate a pipe")?;
    command.stdin(Stdio::null()).stdout(writer).stderr(twin);
    let spawned = command.spawn().with_context(|| format!("can't start: {line}"));
    // The command keeps its ends of the pipe until then, and reading would never come to an end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = spawned?;
    let mut output = Vec::new();
    let mut reader = BufReader::new(reader);
    loop {
        let begin = output.len();
        if reader.read_until(b'\n', &mut output).with_context(|| format!("can't read what it prints: {line}"))? == 0 {
            break;
        }
        let line = &output[begin..];
        file.write_all(line).with_context(|| format!("can't write {}", log.display()))?;
        if show {
            io::stdout().write_all(line).context("can't write to the standard output")?;
        }
    }
    let status = child.wait().with_context(|| format!("can't wait for: {line}"))?;
    Ok((status.success(), String::from_utf8_lossy(&output).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of this test's own, removed at the end.
    struct Logs(PathBuf);

    impl Logs {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("ftp-helper-xtask-{name}-{}", std::process::id())))
        }
    }

    impl Drop for Logs {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_step_keeps_both_outputs_in_order_and_its_result() {
        let logs = Logs::new("both");
        let mut steps = Steps::new(logs.0.clone(), false).expect("a directory");
        let good = steps.command("good", Command::new("sh").args(["-c", "echo a; echo b >&2; printf c"]));
        assert_eq!(good.expect("it starts"), "a\nb\nc");
        let bad = steps.command("bad one", Command::new("sh").args(["-c", "echo no; exit 7"]));
        assert_eq!(bad.expect("it starts"), "no\n");
        steps.note("bad one", "1 passed");
        assert_eq!(steps.failed(), ["bad one"]);
        assert_eq!(fs::read_to_string(logs.0.join("bad-one.log")).expect("a log"), "no\n");
        let table = steps.table();
        assert!(table.lines().count() == 2 && table.contains("good     ok"), "{table}");
        assert!(table.contains("bad one  FAILED") && table.contains("1 passed; see "), "{table}");
    }

    #[test]
    fn steps_at_the_same_time_keep_their_results_apart() {
        let logs = Logs::new("together");
        let mut steps = Steps::new(logs.0.clone(), false).expect("a directory");
        let shell = |script: &str| {
            let mut shell = Command::new("sh");
            shell.args(["-c", script]);
            shell
        };
        // Each waits for the other.
        let (a, b) = (logs.0.join("a"), logs.0.join("b"));
        let meet = |mine: &Path, other: &Path| {
            format!("touch {0}; until [ -e {1} ]; do sleep 0.01; done; echo {0}", mine.display(), other.display())
        };
        let mut both = [("one", shell(&meet(&a, &b))), ("other", shell(&format!("{}; exit 3", meet(&b, &a))))];
        let said = steps.commands(&mut both).expect("they start");
        assert_eq!(said, [format!("{}\n", a.display()), format!("{}\n", b.display())]);
        assert_eq!(steps.failed(), ["other"]);
        assert_eq!(steps.commands(&mut []).expect("nothing to start"), [""; 0]);
    }

    #[test]
    fn a_step_beside_others_is_told_when_it_is_waited_for() {
        let logs = Logs::new("beside");
        let mut steps = Steps::new(logs.0.clone(), false).expect("a directory");
        // It ends only after the step that follows has run.
        let flag = logs.0.join("flag");
        let mut wait = Command::new("sh");
        wait.args(["-c", "until [ -e \"$0\" ]; do sleep 0.01; done; echo seen; exit 3"]).arg(&flag);
        let beside = steps.beside("beside", wait);
        steps.command("after", Command::new("touch").arg(&flag)).expect("it starts");
        assert_eq!(steps.failed(), [""; 0]);
        assert_eq!(steps.join(beside).expect("it starts"), "seen\n");
        assert_eq!(steps.failed(), ["beside"]);
        let missing = steps.beside("none", Command::new("no-such-program-anywhere"));
        assert!(steps.join(missing).is_err());
    }

    #[test]
    fn a_check_fails_by_what_it_finds() {
        let logs = Logs::new("check");
        let mut steps = Steps::new(logs.0.clone(), false).expect("a directory");
        steps.check("clean", || Ok(Vec::new())).expect("it runs");
        steps.check("dirty", || Ok(vec!["here".to_owned()])).expect("it runs");
        assert_eq!(steps.failed(), ["dirty"]);
        steps.check("empty", || Ok(Vec::new())).expect("it runs");
        steps.fail("empty", "nothing to do");
        assert_eq!(steps.failed(), ["dirty", "empty"]);
        assert!(steps.table().ends_with("nothing to do\n"));
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let logs = Logs::new("none");
        let mut steps = Steps::new(logs.0.clone(), false).expect("a directory");
        let error = steps.command("none", &mut Command::new("no-such-program-anywhere")).expect_err("it is not there");
        assert!(format!("{error:#}").contains("can't start: no-such-program-anywhere"), "{error:#}");
    }
}
