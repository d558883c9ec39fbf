//! Which labs there are on this machine, whose they are, and how they go.
//!
//! A lab has a file in `/run/ftp-helper-lab` that its program holds a lock on. The lock goes with the program however it
//! ends, so that a lab without one is nobody's and may be removed. The file holds the path of the lab's directory.

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::fcntl::{Flock, FlockArg};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    error::{LabError, Result},
    netns, set_mode,
};

const REGISTRY: &str = "/run/ftp-helper-lab";
/// What every namespace's name begins with: `fh-<lab>-<host>`.
const PREFIX: &str = "fh-";
/// What every lab's directory begins with.
const DIRECTORY_PREFIX: &str = "ftp-helper-lab-";

/// The labs of this program.
static LIVE: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// A lab of this program: its name, its lock and its directory. Dropping it removes the lab.
#[derive(Debug)]
pub(crate) struct Entry {
    name: String,
    directory: PathBuf,
    kept: AtomicBool,
    _lock: Flock<File>,
}

impl Entry {
    /// Takes a name.
    pub(crate) fn claim(name: &str) -> Result<Self> {
        check_name(name)?;
        std::fs::create_dir_all(REGISTRY).map_err(LabError::io(format!("can't make {REGISTRY}")))?;
        let mut lock = lock(name)?.ok_or_else(|| LabError::Busy(name.to_owned()))?;
        let taken = namespaces(name)?;
        if !taken.is_empty() {
            return Err(LabError::Exists(name.to_owned()));
        }
        let directory = tempfile::Builder::new()
            .prefix(&format!("{DIRECTORY_PREFIX}{name}-"))
            .tempdir()
            .map_err(LabError::io(format!("can't make a directory in {}", std::env::temp_dir().display())))?
            .keep();
        let entry = Self {
            name: name.to_owned(),
            directory: directory.clone(),
            kept: AtomicBool::new(false),
            _lock: {
                let file: &mut File = &mut lock;
                file.set_len(0)
                    .and_then(|()| file.rewind())
                    .and_then(|()| file.write_all(directory.as_os_str().as_encoded_bytes()))
                    .map_err(LabError::io(format!("can't write {}", file_of(name).display())))?;
                lock
            },
        };
        live().insert(name.to_owned());
        // Servers that give up their rights serve from it.
        set_mode(&entry.directory, 0o755)?;
        Ok(entry)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The name of a host's namespace.
    pub(crate) fn namespace(&self, host: &str) -> String {
        format!("{PREFIX}{}-{host}", self.name)
    }

    pub(crate) fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        live().remove(&self.name);
        if self.kept.load(Ordering::Relaxed) {
            return;
        }
        if let Err(e) = remove(&self.name, Some(&self.directory)) {
            eprintln!("ftp-helper lab: can't remove the lab {}: {e}; `ftp-helper lab down` will", self.name);
        }
    }
}

/// What [`down`] removed.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Removed {
    /// The lab's name.
    pub lab: String,
    /// Its namespaces.
    pub namespaces: Vec<String>,
}

/// Removes labs that no running program owns, of this name or of any: those that were left standing, and those whose
/// program was killed. What still runs in their namespaces is ended.
///
/// # Errors
/// Without root; when there is no lab of this name, or its program is running.
pub fn down(name: Option<&str>) -> Result<Vec<Removed>> {
    if !nix::unistd::geteuid().is_root() {
        return Err(LabError::NotRoot);
    }
    if let Some(name) = name {
        check_name(name)?;
        if !known()?.contains(name) {
            return Err(LabError::Missing(name.to_owned()));
        }
        return Ok(vec![down_one(name)?.ok_or_else(|| LabError::Busy(name.to_owned()))?]);
    }
    let mut removed = Vec::new();
    for name in known()? {
        removed.extend(down_one(&name)?);
    }
    Ok(removed)
}

/// From now on SIGINT, SIGTERM and SIGHUP remove all labs of this program and end it, with 128 and the signal's number.
///
/// # Errors
/// When the thread that waits for them can't be started.
pub fn remove_on_signals() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LabError::io("can't start a runtime for signals"))?;
    let streams = {
        let _inside = runtime.enter();
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let open = |kind: SignalKind| signal(kind).map(|s| (kind, s));
        kinds.map(open).into_iter().collect::<std::io::Result<Vec<_>>>().map_err(LabError::io("can't catch signals"))?
    };
    let wait = move || {
        runtime.block_on(async {
            let mut set = tokio::task::JoinSet::new();
            for (kind, mut stream) in streams {
                set.spawn(async move {
                    stream.recv().await;
                    kind.as_raw_value()
                });
            }
            let Some(Ok(number)) = set.join_next().await else { return };
            // Held to the end: no lab is made or removed elsewhere meanwhile.
            let labs = live();
            for name in &*labs {
                if let Err(e) = remove(name, directory_of(name).as_deref()) {
                    eprintln!("ftp-helper lab: can't remove the lab {name}: {e}; `ftp-helper lab down` will");
                }
            }
            std::process::exit(128 + number);
        });
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(wait)
        .map(drop)
        .map_err(LabError::io("can't start a thread for signals"))
}

fn live() -> MutexGuard<'static, BTreeSet<String>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The labs there are: with namespaces, or with a file.
fn known() -> Result<BTreeSet<String>> {
    let of_namespace = |ns: String| Some(ns.strip_prefix(PREFIX)?.split_once('-')?.0.to_owned());
    let mut known: BTreeSet<String> = netns::names()?.into_iter().filter_map(of_namespace).collect();
    match std::fs::read_dir(REGISTRY) {
        Ok(entries) => {
            for entry in entries {
                let entry = entry.map_err(LabError::io(format!("can't read {REGISTRY}")))?;
                known.extend(entry.file_name().into_string());
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(LabError::io(format!("can't read {REGISTRY}"))(e)),
    }
    known.retain(|name| check_name(name).is_ok());
    Ok(known)
}

/// `None`: its program is running.
fn down_one(name: &str) -> Result<Option<Removed>> {
    let Some(_lock) = lock(name)? else { return Ok(None) };
    let removed = Removed { lab: name.to_owned(), namespaces: namespaces(name)? };
    remove(name, directory_of(name).as_deref())?;
    Ok(Some(removed))
}

fn remove(name: &str, directory: Option<&Path>) -> Result<()> {
    // One that fails must not keep the others.
    let mut result = Ok(());
    for ns in namespaces(name)? {
        result = result.and(netns::remove(&ns));
    }
    if let Some(directory) = directory {
        result = result.and(gone(std::fs::remove_dir_all(directory), directory));
    }
    let file = file_of(name);
    if result.is_ok() {
        result = gone(std::fs::remove_file(&file), &file);
    }
    result
}

fn gone(result: std::io::Result<()>, path: &Path) -> Result<()> {
    match result {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(LabError::io(format!("can't remove {}", path.display()))(e))
        }
        _ => Ok(()),
    }
}

/// The directory that a lab's file names, if it looks like one of ours.
fn directory_of(name: &str) -> Option<PathBuf> {
    let mut text = String::new();
    File::open(file_of(name)).ok()?.read_to_string(&mut text).ok()?;
    let path = PathBuf::from(text);
    let ours = path.file_name()?.to_str()?.starts_with(&format!("{DIRECTORY_PREFIX}{name}-"));
    (path.is_absolute() && ours).then_some(path)
}

fn namespaces(lab: &str) -> Result<Vec<String>> {
    let prefix = format!("{PREFIX}{lab}-");
    Ok(netns::names()?.into_iter().filter(|n| n.starts_with(&prefix)).collect())
}

fn file_of(name: &str) -> PathBuf {
    Path::new(REGISTRY).join(name)
}

/// The lock, or `None` if another holds it.
fn lock(name: &str) -> Result<Option<Flock<File>>> {
    let path = file_of(name);
    std::fs::create_dir_all(REGISTRY).map_err(LabError::io(format!("can't make {REGISTRY}")))?;
    // A lab whose file is lost is nobody's: the file is made anew to have something to lock.
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(LabError::io(format!("can't open {}", path.display())))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::Error::EWOULDBLOCK)) => Ok(None),
        Err((_, e)) => Err(LabError::Io { what: format!("can't lock {}", path.display()), source: e.into() }),
    }
}

fn check_name(name: &str) -> Result<()> {
    let good = !name.is_empty() && name.len() <= 24 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if good { Ok(()) } else { Err(LabError::BadName(name.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "r12x0", "my_lab", "abcdefghijklmnopqrstuvwx"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "a-b", "../x", "a b", "é", "abcdefghijklmnopqrstuvwxy"] {
            assert!(matches!(check_name(bad), Err(LabError::BadName(_))), "{bad}");
        }
    }
}
