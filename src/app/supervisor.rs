//! What systemd is told: readiness, signs of life, the end (sd_notify(3)). Without systemd nothing is.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::journal::Journal;
use crate::model::AttachmentId;

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}

/// Calls are answered from now on.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// No new work is taken from now on.
pub(super) fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// Tells the watchdog that the daemon lives, where systemd wants to know (`WatchdogSec=`), and never returns.
///
/// Each sign of life is a look into the journal: every call needs what that needs, the async threads, a thread for
/// blocking work and the journal itself. As long as one is held up, none is sent.
pub(super) async fn keep_watchdog(journal: Arc<dyn Journal>) {
    let (Some(limit), Ok(id)) = (
        sd_notify::watchdog_enabled(),
        "volattachd-watchdog".parse::<AttachmentId>(),
    ) else {
        return std::future::pending().await;
    };
    let mut beat = tokio::time::interval(half(limit));
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        match journal.get(&id).await {
            Ok(_) => tell(&[NotifyState::Watchdog]),
            Err(error) => {
                tracing::error!(%error, "the journal cannot be read: no sign of life to systemd")
            }
        }
    }
}

/// As sd_watchdog_enabled(3) recommends.
fn half(limit: Duration) -> Duration {
    (limit / 2).max(Duration::from_millis(1))
}
