//! What a service manager is told: ready, reading again, alive, stopping (`sd_notify(3)`). Without one nothing is sent. And what it is
//! asked: whether it stops a unit for good.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, ensure};
use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// The manager's watchdog, if it has set one: it takes us for hung, and starts another daemon in our place, when it does not
/// hear of us in time.
pub(super) struct Watchdog(Option<Interval>);

impl Watchdog {
    /// As the environment says. To be called inside a tokio runtime.
    pub(super) fn start() -> Self {
        Self(sd_notify::watchdog_enabled().map(|limit| {
            // Twice in the time that we have, as sd_watchdog_enabled(3) advises.
            let mut ticks = interval((limit / 2).max(Duration::from_millis(1)));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        }))
    }

    /// Says that the daemon's loop turns; never returns where nobody watches.
    pub(super) async fn alive(&mut self) {
        match &mut self.0 {
            Some(ticks) => {
                ticks.tick().await;
                tell(&[NotifyState::Watchdog]);
            }
            None => std::future::pending().await,
        }
    }
}

/// The programs are attached, and questions are answered.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// What it does has changed: the configuration was read again because somebody asked for it at the control socket, as the unit does.
pub(super) fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// The configuration is read again; [`ready`] follows.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(e) => tracing::warn!("can't tell the service manager that the configuration is read: {e}"),
    }
}

/// The end has begun.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Whether systemd is stopping a unit for good: it neither restarts it, nor waits to start it again after it has died.
///
/// # Errors
/// When systemd can't be asked.
pub fn is_stopping(unit: &str) -> anyhow::Result<bool> {
    let mut systemctl = Command::new("systemctl");
    // All of them: a name such as `ftp-helper@a\x2db.service` would be read as a pattern.
    systemctl.args(["list-jobs", "--no-legend", "--no-pager", "--full"]);
    let answer = systemctl.output().context("can't run systemctl")?;
    ensure!(
        answer.status.success(),
        "systemctl list-jobs: {}, {}",
        answer.status,
        String::from_utf8_lossy(&answer.stderr).trim()
    );
    Ok(job(&String::from_utf8_lossy(&answer.stdout), unit) == Some("stop"))
}

/// The kind of a unit's job in what `systemctl list-jobs` prints: number, unit, kind and state a line.
fn job<'a>(listed: &'a str, unit: &str) -> Option<&'a str> {
    listed.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        (words.next()? == unit).then(|| words.next())?
    })
}

fn tell(what: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(what) {
        tracing::warn!("can't tell the service manager: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_found_by_its_unit() {
        let listed =
            "  13 ftp-helper.service       restart running\n 4   ftp-helper@a\\x2db.service stop    waiting\n5 x\n";
        assert_eq!(job(listed, "ftp-helper.service"), Some("restart"));
        assert_eq!(job(listed, r"ftp-helper@a\x2db.service"), Some("stop"));
        for other in ["ftp-helper@.service", "x", "13", "No jobs running."] {
            assert_eq!(job(listed, other), None, "{other}");
        }
        assert_eq!(job("", "ftp-helper.service"), None);
    }
}
