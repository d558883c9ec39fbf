//! Programs that the lab starts: each in a process group of its own, ended by that group and by nothing else.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use super::error::{LabError, Result};

/// A running program and what it has said. Dropping it ends it and its group.
#[derive(Debug)]
pub struct Process {
    command: String,
    child: Child,
    output: File,
    ended: Option<ExitStatus>,
}

/// How a program ended, and what it said on both outputs.
#[derive(Debug)]
pub struct Finished {
    /// Its status; `None` when it was ended because its time was up.
    pub status: Option<ExitStatus>,
    /// Standard output and standard error, as they came.
    pub output: String,
    /// How long it ran.
    pub took: Duration,
}

impl Finished {
    /// Whether it ended by itself, with success.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status.is_some_and(|s| s.success())
    }
}

impl Process {
    /// Starts a program. Its standard input is empty unless the command says otherwise; both outputs go to one
    /// unlinked file, so that a program that says much never waits for a reader.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn spawn(mut command: Command) -> Result<Self> {
        let output = tempfile::tempfile().map_err(LabError::io("can't make a file for a program's output"))?;
        let clone = || output.try_clone().map_err(LabError::io("can't duplicate a descriptor"));
        command.stdout(clone()?).stderr(clone()?);
        Self::spawn_group(command, output)
    }

    /// As [`Process::spawn`], with a file as standard input.
    ///
    /// # Errors
    /// When the file can't be read or the program can't be started.
    pub fn spawn_with_input(mut command: Command, input: &str) -> Result<Self> {
        use std::io::Write as _;
        let mut file = tempfile::tempfile().map_err(LabError::io("can't make a file for a program's input"))?;
        file.write_all(input.as_bytes())
            .and_then(|()| file.rewind())
            .map_err(LabError::io("can't write a program's input"))?;
        let output = tempfile::tempfile().map_err(LabError::io("can't make a file for a program's output"))?;
        let clone = || output.try_clone().map_err(LabError::io("can't duplicate a descriptor"));
        command.stdin(file).stdout(clone()?).stderr(clone()?);
        let command_line = describe(&command);
        start(command, command_line, output)
    }

    fn spawn_group(mut command: Command, output: File) -> Result<Self> {
        command.stdin(Stdio::null());
        let command_line = describe(&command);
        start(command, command_line, output)
    }

    /// The process id, which is also that of its group.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The program and its arguments.
    #[must_use]
    pub fn command(&self) -> &str {
        &self.command
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().map_err(LabError::io(format!("can't wait for `{}`", self.command)))?;
        }
        Ok(self.ended)
    }

    /// What it has said so far.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn output(&self) -> Result<String> {
        let read = || -> io::Result<String> {
            // A descriptor of our own: the offset of `self.output` is the program's.
            let path = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.output)));
            let mut bytes = Vec::new();
            File::open(path)?.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().map_err(LabError::io(format!("can't read what `{}` said", self.command)))
    }

    /// Sends a signal to the program, not to its group.
    ///
    /// # Errors
    /// When the system refuses; a program that has ended is no error.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        if self.ended.is_some() {
            return Ok(());
        }
        match nix::sys::signal::kill(pid, signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(e) => {
                Err(LabError::Io { what: format!("can't send {signal} to `{}`", self.command), source: e.into() })
            }
        }
    }

    /// Waits until it ends by itself or its time is up; then it is ended, with its group.
    ///
    /// # Errors
    /// When the system does not tell how it ended, or its output can't be read.
    pub fn finish(mut self, limit: Duration) -> Result<Finished> {
        let begun = Instant::now();
        let pause = Pause::new();
        let status = loop {
            if let Some(status) = self.ended()? {
                break Some(status);
            }
            if begun.elapsed() >= limit {
                self.end();
                break None;
            }
            pause.wait(begun);
        };
        Ok(Finished { status, output: self.output()?, took: begun.elapsed() })
    }

    /// Ends the group now: there is nothing in it that the lab did not start.
    fn end(&mut self) {
        let group = Pid::from_raw(self.child.id().cast_signed());
        // Sent while the child has not been waited for, or else its number might be another's by now; children that
        // outlive their parent in the group keep the group's number taken.
        if let Err(e) = killpg(group, Signal::SIGKILL)
            && e != Errno::ESRCH
        {
            tracing::warn!("can't end the process group of `{}`: {e}", self.command);
        }
        if self.ended.is_none() {
            match self.child.wait() {
                Ok(status) => self.ended = Some(status),
                Err(e) => tracing::warn!("can't wait for `{}`: {e}", self.command),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.end();
        }
    }
}

/// Runs a program to its end.
///
/// # Errors
/// When it can't be started, fails, or is not done after 30 s.
pub(crate) fn run(command: Command, input: Option<&str>) -> Result<String> {
    let process = match input {
        Some(input) => Process::spawn_with_input(command, input)?,
        None => Process::spawn(command)?,
    };
    let line = process.command.clone();
    let done = process.finish(Duration::from_secs(30))?;
    if done.success() {
        return Ok(done.output);
    }
    let status = done.status.map_or_else(|| "not done after 30 s".to_owned(), |s| s.to_string());
    Err(LabError::Failed { command: line, status, output: done.output.trim().to_owned() })
}

/// Waits between two looks at a fact: shortly at first, longer later, so that what is quick is noticed at once and
/// what is slow costs nothing.
pub(crate) struct Pause;

impl Pause {
    pub(crate) fn new() -> Self {
        Self
    }

    pub(crate) fn wait(&self, begun: Instant) {
        let wait = (begun.elapsed() / 10).clamp(Duration::from_millis(2), Duration::from_millis(50));
        std::thread::sleep(wait);
    }
}

fn start(mut command: Command, line: String, output: File) -> Result<Process> {
    command.process_group(0);
    let child = command
        .spawn()
        .map_err(|source| LabError::Start { program: command.get_program().to_string_lossy().into_owned(), source })?;
    Ok(Process { command: line, child, output, ended: None })
}

fn describe(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for a in command.get_args() {
        line.push(' ');
        line.push_str(&a.to_string_lossy());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut c = Command::new("sh");
        c.args(["-c", script]);
        c
    }

    #[test]
    fn output_and_status_come_back() {
        let done = Process::spawn(sh("echo a; echo b >&2; exit 3")).unwrap().finish(Duration::from_secs(20)).unwrap();
        assert_eq!((done.output.as_str(), done.status.unwrap().code()), ("a\nb\n", Some(3)));
        assert!(!done.success());
        let done = Process::spawn_with_input(sh("cat"), "in").unwrap().finish(Duration::from_secs(20)).unwrap();
        assert_eq!(done.output, "in");
    }

    #[test]
    fn time_is_limited_and_children_go_too() {
        let begun = Instant::now();
        let p = Process::spawn(sh("sleep 600 & echo $!; wait")).unwrap();
        while !p.output().unwrap().ends_with('\n') {
            assert!(begun.elapsed() < Duration::from_secs(20));
            Pause::new().wait(begun);
        }
        let grandchild: i32 = p.output().unwrap().trim().parse().unwrap();
        assert!(p.finish(Duration::from_millis(10)).unwrap().status.is_none());
        let stat = || std::fs::read_to_string(format!("/proc/{grandchild}/stat"));
        while stat().is_ok_and(|s| !s.contains(" Z ")) {
            assert!(begun.elapsed() < Duration::from_secs(20), "the grandchild lives");
            Pause::new().wait(begun);
        }
    }

    #[test]
    fn errors_name_the_program() {
        let e = Process::spawn(Command::new("no-such-program")).unwrap_err().to_string();
        assert!(e.contains("no-such-program") && e.contains("installed"), "{e}");
        let e = run(sh("echo why; exit 1"), None).unwrap_err().to_string();
        assert!(e.contains("why"), "{e}");
    }
}
