//! What a service manager is told: ready, reading again, alive, stopping (`sd_notify(3)`). Without one nothing is sent.

use std::time::Duration;

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

fn tell(what: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(what) {
        tracing::warn!("can't tell the service manager: {e}");
    }
}
