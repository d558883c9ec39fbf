//! A control group whose memory is limited: what the kernel allocates for its members fails where the limit is reached, and for
//! tables of BPF programs this goes on when their maker has left the group.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result};

use crate::gateway::{PATIENCE, within};

/// A control group of its own, without members and without a limit. Dropping it removes it.
#[derive(Debug)]
pub struct MemoryGroup {
    path: PathBuf,
    /// The group that the tests were in before.
    home: PathBuf,
    /// Whether it is one of the unified hierarchy.
    unified: bool,
}

impl MemoryGroup {
    /// Makes one.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let root = Path::new(if unified { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/memory" });
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let of = |line: &str| -> Option<PathBuf> {
            // Number, controllers, group.
            let mut words = line.splitn(3, ':').skip(1);
            let (controllers, group) = (words.next()?, words.next()?);
            let right = if unified { controllers.is_empty() } else { controllers.split(',').any(|c| c == "memory") };
            right.then(|| root.join(group.trim_start_matches('/')))
        };
        let home = own.lines().find_map(of).with_context(|| format!("no group for memory in {own}"))?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("ftp-helper-test-{}-{number}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("can't make {}", path.display()))?;
        Ok(Self { path, home, unified })
    }

    /// The file that takes the ids of its members.
    pub fn members(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// Does something as a member; what it starts is one and stays one.
    ///
    /// # Errors
    /// As `f`, and when the group can't be entered or left.
    pub fn around<T>(&self, f: impl FnOnce() -> Result<T>) -> Result<T> {
        let me = std::process::id();
        fs::write(self.members(), me.to_string()).with_context(|| format!("can't enter {}", self.path.display()))?;
        let result = f();
        self.dismiss(me)?;
        result
    }

    /// Puts a process back where the tests are.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn dismiss(&self, process: u32) -> Result<()> {
        let members = self.home.join("cgroup.procs");
        fs::write(&members, process.to_string()).with_context(|| format!("can't write {}", members.display()))
    }

    /// Allows so many bytes, and `u64::MAX` as many as there are.
    ///
    /// # Errors
    /// When the kernel does not take the limit, as where more is in use.
    pub fn limit(&self, bytes: u64) -> io::Result<()> {
        let (file, all) = if self.unified { ("memory.max", "max") } else { ("memory.limit_in_bytes", "-1") };
        let text = if bytes == u64::MAX { all.to_owned() } else { bytes.to_string() };
        fs::write(self.path.join(file), text)
    }

    /// Allows no more than is in use and can't be given back.
    ///
    /// # Errors
    /// When the kernel tells nothing of it, or takes no limit at all.
    pub fn squeeze(&self) -> Result<()> {
        const PAGE: u64 = 4096;
        self.limit(self.usage()?).context("the kernel takes no limit")?;
        let mut step = 1 << 20;
        while step >= PAGE {
            let wanted = self.usage()?.saturating_sub(step);
            // The older kind of group refuses what is too little, the other one does what it can.
            if self.limit(wanted).is_err() || self.usage()? > wanted {
                step /= 2;
            }
        }
        Ok(())
    }

    fn usage(&self) -> Result<u64> {
        let file = self.path.join(if self.unified { "memory.current" } else { "memory.usage_in_bytes" });
        let text = fs::read_to_string(&file).with_context(|| format!("can't read {}", file.display()))?;
        Ok(text.trim().parse()?)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = within(PATIENCE, || Ok(fs::remove_dir(&self.path).is_ok()));
    }
}
