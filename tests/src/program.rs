//! Programs as users run them: both outputs apart, and an exit code at the end.

use std::{
    fs::File,
    io::Read as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::gateway::{PATIENCE, until};

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Program {
    child: Child,
    out: File,
    err: File,
    line: String,
}

/// What a program that has ended has said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Said {
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Program {
    /// Starts it. Nothing of the caller's environment changes what ftp-helper says.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(mut command: Command) -> Result<Self> {
        let (out, err) = (tempfile::tempfile()?, tempfile::tempfile()?);
        command.env_remove("RUST_LOG").env_remove("JOURNAL_STREAM").stdin(Stdio::null());
        command.stdout(out.try_clone()?).stderr(err.try_clone()?);
        let line = format!("{command:?}");
        let child = command.spawn().with_context(|| format!("can't start {line}"))?;
        Ok(Self { child, out, err, line })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its standard output so far.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn out(&self) -> Result<String> {
        read(&self.out)
    }

    /// Its standard error so far.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn err(&self) -> Result<String> {
        read(&self.err)
    }

    /// Waits until its standard error has a text.
    ///
    /// # Errors
    /// When it never has.
    pub fn wait_err(&self, text: &str) -> Result<()> {
        until(text, || self.err().ok().filter(|e| e.contains(text)).map(drop)).with_context(|| self.both())
    }

    /// Waits until its standard output has so many whole lines that fit; all of those.
    ///
    /// # Errors
    /// When it never has.
    pub fn wait_lines(&self, count: usize, fits: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        let what = format!("{count} lines of {}", self.line);
        let fitting = || -> Option<Vec<String>> {
            let out = self.out().ok()?;
            let whole = out.get(..out.rfind('\n')? + 1)?;
            let lines: Vec<_> = whole.lines().filter(|l| fits(l)).map(ToOwned::to_owned).collect();
            (lines.len() >= count).then_some(lines)
        };
        until(&what, fitting).with_context(|| self.both())
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).with_context(|| self.line.clone())
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When it does not, or is ended by a signal.
    pub fn finish(mut self) -> Result<Said> {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if begun.elapsed() > PATIENCE {
                bail!("{} does not end\n{}", self.line, self.both());
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        let code = status.code().with_context(|| format!("{}: {status}", self.line))?;
        Ok(Said { code, out: self.out()?, err: self.err()? })
    }

    fn both(&self) -> String {
        let text = |t: Result<String>| t.unwrap_or_else(|e| format!("{e:#}"));
        format!("standard output:\n{}\nstandard error:\n{}", text(self.out()), text(self.err()))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Ended already, most likely.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Said {
    /// Its standard output as one JSON document.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.out).with_context(|| format!("{self:?}"))
    }

    /// Its standard output as JSON, one value a line.
    ///
    /// # Errors
    /// When a line is none.
    pub fn jsonl(&self) -> Result<Vec<Value>> {
        self.out.lines().map(|l| serde_json::from_str(l).with_context(|| l.to_owned())).collect()
    }
}

/// Runs a program to its end.
///
/// # Errors
/// As [`Program::start`] and [`Program::finish`].
pub fn said(command: Command) -> Result<Said> {
    Program::start(command)?.finish()
}

fn read(file: &File) -> Result<String> {
    // A descriptor of our own: the offset of `file` is the program's.
    let path = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file)));
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
