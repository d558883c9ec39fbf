//! Where tables and links outlive the daemon: a folder in bpffs.
//!
//! `/sys/fs/bpf/ftp-helper/<network namespace>-<instance>/<layout>/`. The layout stands for the sizes of everything in
//! the tables: a daemon takes over only what it can read, and removes what another version left behind.
//!
//! The kernel gives the number of a network namespace that is gone to the next one. So each folder has a mark with the namespace's
//! cookie, which is given once: what was left in another namespace is taken over by nobody, and removed.

use std::{
    fs, io,
    os::{fd::AsRawFd as _, linux::fs::MetadataExt as _, unix::net::UnixDatagram},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{FsType, statfs},
};

use crate::error::{Code, Fault};

/// The root of the BPF file system.
const BPFFS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC` (linux/magic.h).
const BPF_FS_MAGIC: FsType = FsType(0xcafe_4a11);

/// How the mark begins that tells a folder's network namespace; its cookie follows.
const NAMESPACE: &str = "namespace-";

/// The folder of one instance.
#[derive(Clone, Debug)]
pub struct PinDir {
    instance: PathBuf,
    path: PathBuf,
}

impl PinDir {
    /// The folder of the instance that this network namespace and the control socket's path name, and of tables with
    /// this layout. It is made if it is not there, and bpffs is mounted if it is not.
    ///
    /// # Errors
    /// When there is no bpffs and it can't be mounted, or the folder can't be made.
    pub fn open(instance: &str, layout: u64) -> anyhow::Result<Self> {
        ensure_bpffs()?;
        let namespace = Namespace::here()?;
        let instance = namespace.folder(instance);
        namespace.bury(&instance)?;
        let path = instance.join(format!("{layout:016x}"));
        // Once more: the last of the others may remove the folder of all at this moment.
        fs::create_dir_all(&path).or_else(|_| fs::create_dir_all(&path)).map_err(|e| {
            let remedy = match e.kind() {
                io::ErrorKind::PermissionDenied => "; run as root, or make this user the owner of its parent",
                _ => "",
            };
            denied(&e, format!("can't make {}: {e}{remedy}", path.display()))
        })?;
        let pins = Self { instance, path };
        pins.mark(&namespace.mark())?;
        Ok(pins)
    }

    /// What daemons of an instance have pinned: one for each layout of tables; none if nothing is left of them.
    ///
    /// # Errors
    /// When the folder is there and can't be read.
    pub(super) fn left(instance: &str) -> anyhow::Result<Vec<Self>> {
        let namespace = Namespace::here()?;
        let instance = namespace.folder(instance);
        namespace.bury(&instance)?;
        Self::layouts(&instance).map_err(|e| denied(&e, format!("can't look into {}: {e}", instance.display())).into())
    }

    /// The folders of an instance.
    fn layouts(instance: &Path) -> io::Result<Vec<Self>> {
        let entries = match fs::read_dir(instance) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        entries.map(|entry| Ok(Self { path: entry?.path(), instance: instance.to_owned() })).collect()
    }

    /// A pin's path.
    pub fn pin(&self, name: &str) -> PathBuf {
        // bpffs reserves the dot.
        self.path.join(name.replace('.', "_"))
    }

    /// Whether something is pinned under this name.
    pub fn has(&self, name: &str) -> bool {
        self.pin(name).exists()
    }

    /// Names of what is pinned and begins with `prefix`.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.path) else { return Vec::new() };
        entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).filter(|n| n.starts_with(prefix)).collect()
    }

    /// Where daemons of other layouts may have pinned the same.
    pub fn others(&self, name: &str) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.instance) else { return Vec::new() };
        let layouts = entries.filter_map(|e| Some(e.ok()?.path())).filter(|path| *path != self.path);
        layouts.map(|path| path.join(name.replace('.', "_"))).collect()
    }

    /// Makes a mark: an empty folder.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn mark(&self, name: &str) -> anyhow::Result<()> {
        match fs::create_dir(self.pin(name)) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                Err(e).with_context(|| format!("can't make {}", self.pin(name).display()))
            }
            _ => Ok(()),
        }
    }

    /// Removes a pin or a mark; it is no error if it is not there.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn remove(&self, name: &str) -> anyhow::Result<()> {
        let path = self.pin(name);
        let result = if path.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) };
        match result {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("can't remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Removes what daemons of other layouts left behind: their links detach. Their marks are kept; how many layouts there were.
    ///
    /// # Errors
    /// When something can't be removed.
    pub fn remove_others(&self) -> anyhow::Result<usize> {
        let Ok(entries) = fs::read_dir(&self.instance) else { return Ok(0) };
        let mut removed = 0;
        for path in entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| *p != self.path) {
            let marks = fs::read_dir(&path).into_iter().flatten().filter_map(Result::ok);
            for mark in marks.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
                if let Ok(name) = mark.file_name().into_string() {
                    self.mark(&name)?;
                }
            }
            remove_tree(&path)?;
            removed += 1;
        }
        Ok(removed)
    }

    /// Removes everything, the folder included, and the folder of all instances if this was the last one.
    ///
    /// # Errors
    /// When something can't be removed.
    pub fn remove_all(&self) -> anyhow::Result<()> {
        remove_tree(&self.instance)?;
        // It stays where others are in it, or where somebody has made it for a user who may not remove it.
        if let Some(all) = self.instance.parent() {
            let _ = fs::remove_dir(all);
        }
        Ok(())
    }
}

/// A network namespace.
struct Namespace {
    /// The inode of its file in procfs, which no other has at the same time.
    number: u64,
    /// What no other has while the machine runs.
    cookie: u64,
}

impl Namespace {
    /// The one that this thread is in.
    fn here() -> anyhow::Result<Self> {
        let number = fs::metadata("/proc/thread-self/ns/net").context("can't tell the network namespace")?.st_ino();
        Ok(Self { number, cookie: cookie().context("can't tell the network namespace's cookie")? })
    }

    /// The folder of an instance.
    fn folder(&self, instance: &str) -> PathBuf {
        let name = format!("{}-{:08x}", self.number, fnv(instance.as_bytes()) as u32);
        Path::new(BPFFS).join("ftp-helper").join(name)
    }

    /// The mark of its folders.
    fn mark(&self) -> String {
        format!("{NAMESPACE}{:x}", self.cookie)
    }

    /// Removes what was left in a namespace that had this one's number before.
    fn bury(&self, instance: &Path) -> anyhow::Result<()> {
        // If it can't be looked at, whoever makes or reads it next says so.
        let layouts = PinDir::layouts(instance).unwrap_or_default();
        if layouts.iter().flat_map(|pins| pins.names(NAMESPACE)).any(|mark| mark != self.mark()) {
            remove_tree(instance)?;
            tracing::info!(
                "removed what a daemon had left in a network namespace that is gone ({})",
                instance.display()
            );
        }
        Ok(())
    }
}

/// The cookie of the network namespace that this thread is in (`SO_NETNS_COOKIE`, Linux 5.14).
fn cookie() -> io::Result<u64> {
    let socket = UnixDatagram::unbound()?;
    let (mut cookie, mut length) = (0_u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: the kernel writes as many bytes as `length` says, and there is room for them in `cookie`.
    let result = unsafe {
        let (value, length) = ((&raw mut cookie).cast(), &raw mut length);
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, value, length)
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// A short, stable hash (FNV-1a): for names, not for secrets.
pub(super) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

fn remove_tree(path: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("can't remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn ensure_bpffs() -> anyhow::Result<()> {
    let is_bpffs = |path: &str| statfs(path).is_ok_and(|s| s.filesystem_type() == BPF_FS_MAGIC);
    if is_bpffs(BPFFS) {
        return Ok(());
    }
    mount(
        Some("bpf"),
        BPFFS,
        Some("bpf"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some("mode=0700"),
    )
    .map_err(|e| {
        denied(
            &e.into(),
            format!("there is no BPF file system at {BPFFS} and it can't be mounted ({e}): mount -t bpf bpf {BPFFS}"),
        )
    })?;
    Ok(())
}

fn denied(e: &io::Error, message: String) -> Fault {
    let code = if e.kind() == io::ErrorKind::PermissionDenied { Code::NoPermission } else { Code::Failure };
    Fault::new(code, message)
}
