//! Network namespaces by name, as `ip netns` knows them.

use std::{
    fs::File,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::{fs::MetadataExt as _, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use nix::sched::{CloneFlags, setns};

use super::{
    error::{LabError, Result},
    process,
};

/// Where `ip netns` keeps the names.
const NAMES: &str = "/run/netns";

/// A network namespace that was made here, open.
#[derive(Clone, Debug)]
pub(crate) struct Namespace {
    name: String,
    file: Arc<File>,
}

impl Namespace {
    /// Makes it.
    pub(crate) fn create(name: &str) -> Result<Self> {
        process::run(ip(&["netns", "add", name]), None)?;
        let open = File::open(path(name)).map_err(LabError::io(format!("can't open the namespace {name}")));
        match open {
            Ok(file) => Ok(Self { name: name.to_owned(), file: Arc::new(file) }),
            Err(e) => {
                remove(name)?;
                Err(e)
            }
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run inside.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let file = Arc::clone(&self.file);
        // SAFETY: between fork and exec only setns is called, which is async-signal-safe, and nothing is allocated
        // unless it fails, when an io::Error is made from a number. The descriptor is open: the closure holds the file.
        unsafe {
            command.pre_exec(move || setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(Into::into));
        }
        command
    }

    /// Runs `f` on a thread of its own inside. Sockets made there stay in this namespace, whoever uses them later; threads
    /// started there begin there.
    pub(crate) fn run_in<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .name(format!("in {}", self.name))
                .spawn_scoped(scope, || {
                    setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)?;
                    Ok(f())
                })
                .map_err(LabError::io("can't start a thread"))?;
            let result = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result.map_err(|e: nix::Error| LabError::Io {
                what: format!("can't enter the namespace {}", self.name),
                source: e.into(),
            })
        })
    }

    /// Starts a thread inside that may outlive the caller's frame.
    pub(crate) fn spawn_in<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> Result<std::thread::JoinHandle<std::result::Result<T, nix::Error>>> {
        let file = Arc::clone(&self.file);
        std::thread::Builder::new()
            .name(format!("in {}", self.name))
            .spawn(move || {
                setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
                Ok(f())
            })
            .map_err(LabError::io("can't start a thread"))
    }

    /// Runs lines of `ip -batch` inside.
    pub(crate) fn ip_batch(&self, lines: &str) -> Result<()> {
        process::run(ip(&["-n", &self.name, "-batch", "-"]), Some(lines)).map(drop).map_err(|e| match e {
            // "Command failed -:3" tells a line of text that the reader of the message does not have.
            LabError::Failed { command, status, output } => {
                let numbered: Vec<String> = lines.lines().enumerate().map(|(i, l)| format!("{}: {l}", i + 1)).collect();
                LabError::Failed { command, status, output: format!("{output}\n{}", numbered.join("\n")) }
            }
            e => e,
        })
    }

    /// Writes kernel parameters of this namespace: pairs of a path below /proc/sys and a value.
    pub(crate) fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run_in(|| {
            for (key, value) in settings {
                let path = Path::new("/proc/sys").join(key);
                std::fs::write(&path, value).map_err(LabError::io(format!(
                    "can't write {value} to {} in {}",
                    path.display(),
                    self.name
                )))?;
            }
            Ok(())
        })?
    }
}

/// The names of all namespaces here.
pub(crate) fn names() -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(NAMES) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(LabError::io(format!("can't read {NAMES}"))(e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(LabError::io(format!("can't read {NAMES}")))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

/// Ends what still runs inside, then removes the name, and with it the interfaces.
pub(crate) fn remove(name: &str) -> Result<()> {
    for pid in pids(name)? {
        // Nothing is in a namespace of the lab but what the lab, or whoever entered it, started there.
        match nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL) {
            Ok(()) | Err(nix::Error::ESRCH) => {}
            Err(e) => {
                return Err(LabError::Io { what: format!("can't end process {pid} in {name}"), source: e.into() });
            }
        }
    }
    process::run(ip(&["netns", "del", name]), None).map(drop)
}

/// The processes inside, without this one.
fn pids(name: &str) -> Result<Vec<nix::unistd::Pid>> {
    let path = path(name);
    let ours = match std::fs::metadata(&path) {
        Ok(m) => (m.dev(), m.ino()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(LabError::io(format!("can't look at {}", path.display()))(e)),
    };
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc").map_err(LabError::io("can't read /proc"))? {
        let entry = entry.map_err(LabError::io("can't read /proc"))?;
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        // A process that has ended in between, or a kernel thread, has none.
        let Ok(m) = std::fs::metadata(entry.path().join("ns/net")) else { continue };
        if (m.dev(), m.ino()) == ours && pid != std::process::id() {
            pids.push(nix::unistd::Pid::from_raw(pid.cast_signed()));
        }
    }
    Ok(pids)
}

pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(NAMES).join(name)
}

fn ip(args: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(args);
    command
}

impl Namespace {
    /// The open file, for those that keep their own way in (`setns`).
    pub(crate) fn raw_fd(&self) -> std::os::fd::RawFd {
        self.file.as_raw_fd()
    }
}
