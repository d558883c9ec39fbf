//! `cargo xtask setup`: installs what this host lacks, and nothing else.

mod libraries;
mod need;
mod plan;
mod probe;
// One place says where the lab's servers come from, and fetches them.
#[path = "../../../ftp-helper/src/lab/servers/packages.rs"]
mod servers;
mod version;

use std::{
    fs::{self, File},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow, bail};

pub(crate) use self::{
    need::{BUSYBOX, Purpose},
    servers::Packages,
};
use self::{
    need::{NEEDS, Need},
    plan::{Action, Plan},
};
use crate::{
    command,
    host::{Host, Rights},
};

/// The set-up for some purposes.
pub(crate) struct Setup<'a> {
    host: &'a Host,
    needs: Vec<&'static Need>,
}

impl<'a> Setup<'a> {
    /// What these purposes need.
    pub(crate) fn of(host: &'a Host, purposes: &[Purpose]) -> Self {
        Self { host, needs: NEEDS.iter().filter(|need| purposes.contains(&need.purpose)).collect() }
    }

    /// Says what is missing and what would be done about it.
    ///
    /// # Errors
    /// Something is missing.
    pub(crate) fn check(&self) -> Result<()> {
        let missing = self.missing();
        if missing.is_empty() {
            println!("set-up: nothing is missing");
            return Ok(());
        }
        match self.plan(&missing) {
            Plan::Explain(text) => bail!("{}", text.trim_end()),
            Plan::Run(actions) => {
                println!("set-up: missing\n{}", plan::list(&missing));
                println!("`cargo xtask setup` would run");
                for action in actions {
                    println!("  {}", action.line());
                }
            }
        }
        bail!("{} of {} things are missing", missing.len(), self.needs.len());
    }

    /// Installs what is missing; says what and why.
    ///
    /// # Errors
    /// Something can't be installed by us, or could not be.
    pub(crate) fn install(&self) -> Result<()> {
        let start = Instant::now();
        let missing = self.missing();
        if missing.is_empty() {
            println!("set-up: nothing is missing");
            return Ok(());
        }
        // Whoever can't install may not be able to write the lock either.
        self.actions(&missing)?;
        let _lock = self.lock()?;
        // Another set-up may have been at work until now.
        let missing = self.missing();
        println!("set-up: missing\n{}", plan::list(&missing));
        for action in self.actions(&missing)? {
            println!("set-up: {}", action.line());
            self.act(&action)?;
        }
        let missing = self.missing();
        if !missing.is_empty() {
            self.actions(&missing)?;
            bail!("set-up did what it can, and this is still missing:\n{}", plan::list(&missing).trim_end());
        }
        println!("set-up: done in {:.1} s", start.elapsed().as_secs_f64());
        Ok(())
    }

    /// What to do; an error where the reader has to.
    fn actions(&self, missing: &[&Need]) -> Result<Vec<Action>> {
        match self.plan(missing) {
            Plan::Run(actions) => Ok(actions),
            Plan::Explain(text) => bail!("{}", text.trim_end()),
        }
    }

    fn missing(&self) -> Vec<&'static Need> {
        self.needs.iter().copied().filter(|need| !need.is_met(self.host)).collect()
    }

    fn plan(&self, missing: &[&Need]) -> Plan {
        plan::plan(missing, &self.host.os, self.host.rights, &self.host.lab_servers())
    }

    fn act(&self, action: &Action) -> Result<()> {
        match action {
            Action::Root(argv) if argv.last().is_some_and(|word| word == "update") => {
                // One broken source of packages must not stop what the others have: apt-get install tells what is missing.
                if let Err(error) = command::run_quietly(&mut command::as_root(self.host, argv)) {
                    println!("set-up: {error:#}; going on with the lists of packages that are here");
                }
                Ok(())
            }
            Action::Root(argv) => command::run_quietly(&mut command::as_root(self.host, argv)),
            Action::Cargo(args, _) => command::run(command::cargo(self.host).args(args)),
            Action::User(argv) => {
                let (program, args) = argv.split_first().context("an action has a program")?;
                command::run(Command::new(program).args(args).stdin(Stdio::null()))
            }
            Action::Unpack(server) => server
                .unpack(&self.host.lab_servers(), self.host.rights == Rights::Root)
                .map_err(|message| anyhow!("{message}")),
        }
    }

    /// Two set-ups at once would fight for apt's lock and for the servers' directory: the second one waits.
    fn lock(&self) -> Result<File> {
        let dir = self.host.root.join("target");
        let path = dir.join(".set-up.lock");
        fs::create_dir_all(&dir).with_context(|| format!("can't make {}", dir.display()))?;
        let file = File::create(&path).with_context(|| format!("can't write {}", path.display()))?;
        file.lock().with_context(|| format!("can't lock {}", path.display()))?;
        Ok(file)
    }
}
