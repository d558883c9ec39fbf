//! systemd of a test's own: the first process of fresh namespaces on a lab's gateway, with the package's units, and with the program
//! under test where the package puts it.
//!
//! It is the real one, and shares with the host what is not named here. Of its own it has a cgroup, `/run`, the configurations, the
//! units, and the targets that those name, which are empty. There is no journal: what a service says is in a file.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use ftp_helper::{
    api::client::Client,
    lab::{Host, process::Process},
};

use crate::{
    gateway::{PATIENCE, pins, program, until, within},
    program::{Said, said},
};

/// Takes a cgroup's place and leaves the host's namespaces, but for that of the network.
const LEAVE: &str = r#"
echo $$ >"$3/cgroup.procs"
exec unshare --mount --pid --cgroup --uts --ipc --fork --kill-child --mount-proc sh -ec "$4" sh "$1" "$2"
"#;

/// Lays the manager's own files over the host's, and becomes the manager.
const BECOME: &str = r#"
mount --make-rprivate /
umount --recursive /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t overlay -o "lowerdir=$1/bin:/usr/bin" overlay /usr/bin
mount --bind "$2" /usr/bin/ftp-helper
mount -t overlay -o "lowerdir=$1/etc:/etc" overlay /etc
mount --bind "$1/configurations" /etc/ftp-helper
mount --bind "$1/units" /etc/units
mount --bind "$1/run" /run
exec env -i container=lab LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH=/etc/units SYSTEMD_LOG_TARGET=console \
    /lib/systemd/systemd --system --unit=multi-user.target --show-status=no
"#;

/// What the units ask for, and what systemd wants to be there.
const TARGETS: [&str; 5] = ["sysinit", "basic", "shutdown", "network-pre", "multi-user"];

/// Where services say what they have to say.
const LOG: &str = "said";

/// A running systemd. Dropping it ends it and everything in it, and removes what daemons have left.
#[derive(Debug)]
pub struct Manager {
    host: Host,
    folder: PathBuf,
    cgroup: PathBuf,
    process: Option<Process>,
    /// The process before it: it has its namespaces, but for that of processes, which is its children's.
    id: u32,
}

impl Manager {
    /// Starts it. `configurations` are the files of `/etc/ftp-helper`, without `.toml`; `drop_in` is laid over both units.
    ///
    /// # Errors
    /// When there is no systemd, or it does not come up.
    pub fn start(host: &Host, configurations: &[(&str, &str)], drop_in: &str) -> Result<Self> {
        let folder = host.directory().join("systemd");
        for made in ["bin", "etc/ftp-helper", "etc/units", "configurations", "units", "run"] {
            std::fs::create_dir_all(folder.join(made))?;
        }
        std::fs::write(folder.join("bin/ftp-helper"), "")?;
        for target in TARGETS {
            std::fs::write(folder.join(format!("units/{target}.target")), "[Unit]\n")?;
        }
        let packaged = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd");
        for unit in ["ftp-helper.service", "ftp-helper@.service"] {
            std::fs::copy(packaged.join(unit), folder.join("units").join(unit)).with_context(|| unit.to_owned())?;
            let over = folder.join("units").join(format!("{unit}.d"));
            std::fs::create_dir(&over)?;
            std::fs::write(over.join("10-lab.conf"), format!("[Service]\nStandardOutput=append:/run/{LOG}\n"))?;
            std::fs::write(over.join("20-test.conf"), drop_in)?;
        }
        let cgroup = unified()?.join(format!("ftp-helper-{}", host.namespace_name()));
        std::fs::create_dir(&cgroup).with_context(|| format!("can't make {}", cgroup.display()))?;
        let mut this = Self { host: host.clone(), folder, cgroup, process: None, id: 0 };
        for (name, text) in configurations {
            this.configure(name, text)?;
        }
        let mut command = host.command("sh");
        command.args(["-ec", LEAVE, "sh"]).arg(&this.folder).arg(program()?).arg(&this.cgroup).arg(BECOME);
        let process = Process::spawn(command)?;
        this.id = process.id();
        this.process = Some(process);
        this.wait_up().with_context(|| this.output())?;
        Ok(this)
    }

    fn wait_up(&self) -> Result<()> {
        let private = self.run("systemd/private");
        until("systemd is up", || private.exists().then_some(()))?;
        let reached = || Ok(self.systemctl(&["is-active", "multi-user.target"])?.code == 0);
        ensure!(within(PATIENCE, reached)?, "systemd does not come up");
        Ok(())
    }

    /// Writes a configuration.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn configure(&self, name: &str, text: &str) -> Result<()> {
        Ok(std::fs::write(self.folder.join(format!("configurations/{name}.toml")), text)?)
    }

    /// A command where the manager is: its processes, its files, the gateway's network.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.id.to_string()).args(["--mount", "--cgroup", "--net"]);
        command.arg(format!("--pid=/proc/{}/ns/pid_for_children", self.id)).args(["--", program]);
        command.env("LC_ALL", "C");
        command
    }

    /// What systemctl says.
    ///
    /// # Errors
    /// When it can't be started, or does not end.
    pub fn systemctl(&self, arguments: &[&str]) -> Result<Said> {
        let mut command = self.command("systemctl");
        command.arg("--no-pager").args(arguments);
        said(command)
    }

    /// What systemctl says that has to succeed.
    ///
    /// # Errors
    /// When it does not.
    pub fn order(&self, arguments: &[&str]) -> Result<String> {
        let said = self.systemctl(arguments)?;
        ensure!(said.code == 0, "systemctl {arguments:?}: {said:?}\n{}", self.said());
        Ok(said.out)
    }

    /// What the program says there.
    ///
    /// # Errors
    /// When it can't be started, or does not end.
    pub fn ask(&self, arguments: &[&str]) -> Result<Said> {
        let mut command = self.command("ftp-helper");
        command.args(arguments);
        said(command)
    }

    /// A property of a unit.
    ///
    /// # Errors
    /// When systemd does not tell.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        Ok(self.order(&["show", "--value", "--property", name, unit])?.trim().to_owned())
    }

    /// Waits until properties of a unit have these values.
    ///
    /// # Errors
    /// When they never have.
    pub fn wait(&self, unit: &str, wanted: &[(&str, &str)]) -> Result<()> {
        let mut seen = Vec::new();
        let there = within(PATIENCE, || {
            seen = wanted.iter().map(|(name, _)| self.property(unit, name)).collect::<Result<_>>()?;
            Ok(seen.iter().zip(wanted).all(|(is, (_, wanted))| is == wanted))
        })?;
        ensure!(there, "{unit}: {seen:?} instead of {wanted:?}\n{}", self.said());
        Ok(())
    }

    /// A connection to a daemon that it has started.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn client(&self, socket: &Path) -> Result<Client> {
        Ok(Client::connect(Path::new(&format!("/proc/{}/root{}", self.id, socket.display())))?)
    }

    /// A path of the manager's `/run`, as the host sees it.
    #[must_use]
    pub fn run(&self, name: &str) -> PathBuf {
        self.folder.join("run").join(name)
    }

    /// What services have said.
    #[must_use]
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.run(LOG)).unwrap_or_default()
    }

    /// What the manager itself has said.
    fn output(&self) -> String {
        self.process.as_ref().and_then(|p| p.output().ok()).unwrap_or_default()
    }

    /// Removes what daemons have left whose services were not stopped.
    fn clean_up(&self) -> Result<()> {
        if pins(&self.host)?.is_empty() {
            return Ok(());
        }
        for entry in std::fs::read_dir(self.folder.join("configurations"))? {
            let mut command = self.host.command(program()?);
            command.arg("detach").arg("--config").arg(entry?.path());
            let said = said(command)?;
            ensure!(said.code == 0, "{said:?}");
        }
        Ok(())
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("services said:\n{}\nsystemd said:\n{}", self.said(), self.output());
        }
        // Its namespace of processes ends with its first one.
        drop(self.process.take());
        let gone = within(PATIENCE, || Ok(remove(&self.cgroup).is_ok()));
        if !gone.is_ok_and(|g| g) {
            eprintln!("{} can't be removed", self.cgroup.display());
        }
        if let Err(e) = self.clean_up() {
            eprintln!("what daemons left can't be detached: {e:#}");
        }
    }
}

/// Where the unified hierarchy of cgroups is mounted.
fn unified() -> Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found = fields.find(|f| f.get(2) == Some(&"cgroup2")).and_then(|f| f.get(1).map(PathBuf::from));
    found.context("no cgroup2 is mounted")
}

/// Removes a cgroup with those inside, in which no process is left.
fn remove(cgroup: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    std::fs::remove_dir(cgroup)
}
