//! How long a volume's missing paths are waited for, once one path is up.
//!
//! A volume's attach holds the lock of the volume. Without this limit, a portal that does not show the LUN would cost each attach the whole
//! `device_timeout`, although the guest could use the volume by another path at once.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// How long the other paths get. A login takes half a second and a disk appears within another half, on a slow host (open-iscsi 2.1.8, Linux
/// 6.1, LIO); a storage that maps a volume by several portals maps the LUN at all of them within seconds. Ten times the former, and a sixth
/// of the default `device_timeout`. Paths that come later are made by the next repair.
const GRACE: Duration = Duration::from_secs(5);

/// Shared by the paths of one volume while they are being made.
#[derive(Debug, Default)]
pub(super) struct Patience(watch::Sender<Option<Instant>>);

impl Patience {
    /// A path is up: the others, or what is left to do of a path beside others, have [`GRACE`] from the first such call on.
    pub(super) fn is_up(&self) {
        self.0.send_if_modified(|since| {
            let first = since.is_none();
            since.get_or_insert_with(Instant::now);
            first
        });
    }

    pub(super) fn is_over(&self) -> bool {
        self.0.borrow().is_some_and(|up| up.elapsed() >= GRACE)
    }

    /// Ends when the paths that are not up are given up.
    pub(super) async fn end(&self) {
        let mut first = self.0.subscribe();
        // The sender is borrowed, so it cannot be gone.
        let up = first.wait_for(Option::is_some).await.map(|up| *up);
        if let Ok(Some(up)) = up {
            tokio::time::sleep_until(up + GRACE).await;
        }
    }

    /// The outcome of an act that may be given up at any moment; `None`: it was given up.
    pub(super) async fn wait<T>(&self, act: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            outcome = act => Some(outcome),
            () = self.end() => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn others_are_waited_for_since_the_first_path_is_up() {
        let patience = Patience::default();
        let long = || tokio::time::sleep(Duration::from_secs(60));
        let start = Instant::now();
        assert!(patience.wait(long()).await.is_some(), "none is up");
        assert!(!patience.is_over() && start.elapsed() >= Duration::from_secs(60));
        patience.is_up();
        let up = Instant::now();
        tokio::time::sleep(GRACE / 2).await;
        patience.is_up(); // another, which changes nothing
        assert!(!patience.is_over());
        assert_eq!(patience.wait(std::future::ready(1)).await, Some(1));
        assert!(patience.wait(long()).await.is_none() && patience.is_over());
        assert_eq!(up.elapsed(), GRACE);
    }
}
