//! The file system of a virtual machine: an archive in memory, with the programs and libraries that the tests need.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    command,
    host::{Host, output_of},
    setup::BUSYBOX,
};

/// What the machine prints when all tests ran, whether they passed or not.
pub(super) const END: &str = "== all tests ran";

/// The machine's first process. A test program that hangs is ended, and counts as one that did not run.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin FTP_HELPER_REQUIRE_ROOT=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
uname -r
for module in veth bridge tun sch_ingress cls_bpf nf_tables nft_ct; do modprobe "$module" || echo "no module $module"; done
ran=yes
for test in /t/deps/*; do
    echo "== ${test##*/}"
    timeout -k 5 600 "$test" --test-threads 1 2>&1
    status=$?
    # 101: a test failed, which it has said itself.
    [ $status = 0 ] || [ $status = 101 ] || { ran=no; echo "${test##*/}: ended by $status"; }
done
[ $ran = yes ] && echo "== all tests ran"
poweroff -f
"#;

/// A file system in the making.
pub(super) struct Image {
    root: PathBuf,
}

impl Image {
    /// One with the machine's first process, and nothing else. What was in the directory is removed.
    pub(super) fn new(host: &Host, root: &Path) -> Result<Self> {
        if root.exists() {
            fs::remove_dir_all(root).with_context(|| format!("can't remove {}", root.display()))?;
        }
        let image = Self { root: root.to_path_buf() };
        for dir in
            ["proc", "sys", "dev", "tmp", "run", "etc", "bin", "sbin", "root", "usr/lib", "usr/sbin", "var/empty"]
        {
            image.make_dir(Path::new(dir))?;
        }
        image.copy(&BUSYBOX.file(&host.lab_servers(), "bin/busybox"), Path::new("bin/busybox"))?;
        image.write("init", INIT)?;
        fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755)).context("can't mark init")?;
        // The servers of the lab serve as this user.
        image.write("etc/passwd", "root:x:0:0::/root:/bin/sh\ndaemon:x:1:1::/var/empty:/bin/false\n")?;
        image.write("etc/group", "root:x:0:\ndaemon:x:1:\nadm:x:4:\n")?;
        Ok(image)
    }

    /// Adds a program of this host with its libraries, at its own place.
    pub(super) fn program(&mut self, host: &Host, name: &str) -> Result<()> {
        let file = host.program(name).with_context(|| format!("{name} is not in PATH"))?;
        // Through links, as of /sbin to /usr/sbin, and of modprobe to kmod: the name it is started by decides.
        let place = Path::new("usr/sbin").join(name);
        self.with_libraries(&file, &place)
    }

    /// Adds a program that was built here, without what only debuggers read, as `/t/NAME`.
    pub(super) fn test_program(&mut self, file: &Path, name: &str) -> Result<()> {
        let place = Path::new("t").join(name);
        self.with_libraries(file, &place)?;
        command::run_quietly(Command::new("strip").arg(self.root.join(place)))
    }

    /// Adds the kernel's modules of the network.
    pub(super) fn modules(&mut self, host: &Host, modules: &Path) -> Result<()> {
        let release = modules.file_name().context("modules have a release")?;
        let place = Path::new("lib/modules").join(release);
        for part in ["kernel/net", "kernel/lib", "kernel/drivers/net", "kernel/crypto"] {
            if modules.join(part).is_dir() {
                self.copy_tree(&modules.join(part), &place.join(part))?;
            }
        }
        for list in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
            self.copy(&modules.join(list), &place.join(list))?;
        }
        let depmod = host.program("depmod").context("depmod is not in PATH")?;
        command::run_quietly(Command::new(depmod).arg("-b").arg(&self.root).arg(release))
    }

    /// Writes the archive.
    pub(super) fn pack(&self, host: &Host, archive: &Path) -> Result<()> {
        let mut names = Vec::new();
        list(&self.root, Path::new(""), &mut names)?;
        let output = File::create(archive).with_context(|| format!("can't write {}", archive.display()))?;
        let mut cpio = Command::new(host.program("cpio").context("cpio is not in PATH")?);
        cpio.current_dir(&self.root).args(["--null", "--create", "--format=newc", "--owner=0:0", "--quiet"]);
        let line = command::line(&cpio);
        let mut cpio =
            cpio.stdin(Stdio::piped()).stdout(output).spawn().with_context(|| format!("can't start: {line}"))?;
        let mut input = cpio.stdin.take().context("cpio has an input")?;
        for name in names {
            input
                .write_all(name.as_os_str().as_encoded_bytes())
                .and_then(|()| input.write_all(b"\0"))
                .context("cpio")?;
        }
        drop(input);
        let status = cpio.wait().with_context(|| format!("can't wait for: {line}"))?;
        if !status.success() {
            bail!("failed ({status}): {line}");
        }
        Ok(())
    }

    fn with_libraries(&self, file: &Path, place: &Path) -> Result<()> {
        self.copy(file, place)?;
        let libraries = output_of(Command::new("ldd").arg(file)).unwrap_or_default();
        for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            let place = Path::new(library).strip_prefix("/").context("it begins with a slash")?;
            if !self.root.join(place).exists() {
                self.copy(Path::new(library), place)?;
            }
        }
        Ok(())
    }

    fn make_dir(&self, dir: &Path) -> Result<()> {
        let dir = self.root.join(dir);
        fs::create_dir_all(&dir).with_context(|| format!("can't make {}", dir.display()))
    }

    fn write(&self, place: &str, text: &str) -> Result<()> {
        let file = self.root.join(place);
        fs::write(&file, text).with_context(|| format!("can't write {}", file.display()))
    }

    fn copy(&self, from: &Path, place: &Path) -> Result<()> {
        self.make_dir(place.parent().unwrap_or(Path::new("")))?;
        let to = self.root.join(place);
        fs::copy(from, &to).with_context(|| format!("can't copy {} to {}", from.display(), to.display())).map(drop)
    }

    fn copy_tree(&self, from: &Path, place: &Path) -> Result<()> {
        let mut names = Vec::new();
        list(from, Path::new(""), &mut names)?;
        for name in names {
            let (file, to) = (from.join(&name), place.join(&name));
            if file.is_symlink() {
                let target = fs::read_link(&file).with_context(|| format!("can't read {}", file.display()))?;
                symlink(target, self.root.join(to)).with_context(|| format!("can't link {}", name.display()))?;
            } else if file.is_dir() {
                self.make_dir(&to)?;
            } else {
                self.copy(&file, &to)?;
            }
        }
        Ok(())
    }
}

/// The names of everything in `root`, each directory before what is in it.
fn list(root: &Path, dir: &Path, names: &mut Vec<PathBuf>) -> Result<()> {
    let here = root.join(dir);
    let mut entries = Vec::new();
    for entry in fs::read_dir(&here).with_context(|| format!("can't read {}", here.display()))? {
        entries.push(entry.with_context(|| format!("can't read {}", here.display()))?);
    }
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = dir.join(entry.file_name());
        names.push(name.clone());
        if entry.file_type().with_context(|| format!("can't look at {}", name.display()))?.is_dir() {
            list(root, &name, names)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_process_says_when_it_is_done() {
        assert!(INIT.contains(&format!("echo \"{END}\"")));
    }

    #[test]
    fn directories_come_before_what_is_in_them() {
        let root = std::env::temp_dir().join(format!("ftp-helper-image-{}", std::process::id()));
        fs::create_dir_all(root.join("b/c")).expect("a directory");
        for file in ["a", "b/c/d", "b/e"] {
            fs::write(root.join(file), "").expect("a file");
        }
        let mut names = Vec::new();
        let listed = list(&root, Path::new(""), &mut names);
        fs::remove_dir_all(&root).expect("it is there");
        listed.expect("it can be read");
        assert_eq!(names, ["a", "b", "b/c", "b/c/d", "b/e"].map(PathBuf::from));
    }
}
