//! The configuration, read again.

use std::path::Path;

use anyhow::Context as _;

use super::Daemon;
use crate::{
    api::ReloadReport,
    config::{self, Config},
    daemon::{clock, guards, status},
    dataplane,
    nft::{self, Feeder},
};

impl Daemon {
    /// Reads the configuration again, and says in the log what came of it.
    pub(in crate::daemon) fn reload_and_tell(&mut self) {
        match self.reload() {
            Ok(report) if report.changed.is_empty() && report.needs_restart.is_empty() => {
                tracing::info!("configuration read again: nothing has changed");
            }
            Ok(report) => {
                for c in report.changed {
                    tracing::info!("configuration: {c}");
                }
                for c in report.needs_restart {
                    tracing::warn!("configuration: {c} needs a restart");
                }
            }
            Err(e) => tracing::error!("configuration not read again, the old one stays: {e:#}"),
        }
    }

    /// Reads the configuration again. Nothing has changed if it fails.
    pub(super) fn reload(&mut self) -> anyhow::Result<ReloadReport> {
        let path = self.config.path.clone().context("the daemon was not started from a file")?;
        let new = load(&path)?;
        let (merged, report) = status::merge(&self.config, new);
        let interfaces = dataplane::interfaces()?;
        let guards = guards::resolve(&merged, &interfaces);
        let policy = guards::policy(&merged, &interfaces);
        let other_sets = merged.nftables != self.config.nftables;
        if let Some(sets) = merged.nftables.as_ref() {
            nft::check(sets)?;
        }
        self.plane.apply(&policy, &guards, self.options.fast)?;
        self.engine.set_policy(clock::now(), policy.clone());
        (self.guards, self.policy) = (guards, policy);
        self.config = merged;
        self.follow_interfaces(&interfaces)?;
        self.act()?;
        if other_sets {
            self.feed_others()?;
        }
        Ok(report)
    }

    /// Leaves the sets that were fed, and feeds those of the configuration.
    fn feed_others(&mut self) -> anyhow::Result<()> {
        if let Some(feeder) = self.outlets.feeder.take() {
            feeder.stop();
        }
        if let Some(sets) = &self.config.nftables {
            let started = Feeder::start(sets).context("the rest of the configuration is in force, but no set is fed");
            self.outlets.feeder = Some(started?);
            self.feed_all(clock::now());
        }
        Ok(())
    }
}

fn load(path: &Path) -> anyhow::Result<Config> {
    let (config, notes) = config::load_with_notes(path)?;
    for note in notes {
        tracing::warn!("{}: {note}", path.display());
    }
    Ok(config)
}
