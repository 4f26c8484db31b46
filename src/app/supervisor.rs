//! What systemd is told: readiness, signs of life, the end (sd_notify(3)). Without systemd nothing is.

use std::time::Duration;

use sd_notify::NotifyState;

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}

/// Status while all is well.
pub(super) const SERVING: &str = "serving";

/// Calls are answered from now on.
pub(super) fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status(SERVING)]);
}

/// Shows the status beside the unit (`systemctl status`).
pub(super) fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// The configuration is being read again (sd_notify(3): with the time at which that began).
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "cannot tell systemd the time of the reload"),
    }
}

/// The reload is over, whatever it came to.
pub(super) fn reloaded() {
    tell(&[NotifyState::Ready]);
}

/// No new work is taken from now on.
pub(super) fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// Tells the watchdog that the daemon lives, where systemd wants to know (`WatchdogSec=`), and never returns.
///
/// Each sign of life needs what every call needs: the async thread, and one for blocking work. As long as either is
/// held up, none is sent.
pub(super) async fn keep_watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    let mut beat = tokio::time::interval(half(limit));
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        let told = tokio::task::spawn_blocking(|| tell(&[NotifyState::Watchdog]));
        if let Err(error) = told.await {
            tracing::error!(%error, "no sign of life to systemd");
        }
    }
}

/// As sd_watchdog_enabled(3) recommends.
fn half(limit: Duration) -> Duration {
    (limit / 2).max(Duration::from_millis(1))
}
