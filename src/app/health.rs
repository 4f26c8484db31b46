//! Health of the daemon, which is that of its journal: for gRPC health checks, systemd and the log.

use tokio::sync::watch;

use super::supervisor;
use crate::api::Health;

/// Reports each failure of the journal and each recovery. `failing`: why the last write failed.
pub(super) async fn report(health: Health, mut failing: watch::Receiver<Option<String>>) {
    while failing.changed().await.is_ok() {
        let why = failing.borrow_and_update().clone();
        health.set(why.is_none()).await;
        match why {
            Some(why) => {
                tracing::error!(
                    why,
                    "the journal cannot be written: calls fail until it can"
                );
                supervisor::status(&format!("the journal cannot be written: {why}"));
            }
            None => {
                tracing::info!("the journal is written again");
                supervisor::status(supervisor::SERVING);
            }
        }
    }
}
