//! Repairs an attachment that works, but not by all of its paths.

use super::Error;
use super::inner::Inner;
use crate::journal::{Record, Step};

impl Inner {
    /// Makes the missing paths that can be made now, and notes on the attachment how many of its paths work.
    ///
    /// # Errors
    /// Where a path could not be made; the attachment works by the others.
    pub(super) async fn repair(&self, mut record: Record) -> Result<(), Error> {
        let repaired = self.make_paths(&mut record).await;
        let degraded = self.find(&record).await?.degraded();
        if record.degraded != degraded {
            record.degraded = degraded;
            self.put(&record).await?;
            if let Some(paths) = record.paths() {
                tracing::info!(working = paths.working, planned = paths.planned, "paths");
            }
        }
        repaired
    }

    async fn make_paths(&self, record: &mut Record) -> Result<(), Error> {
        let backend = self.parts.backends.get(&record.host.plan.protocol)?;
        // Asks servers, so without the lock that callers wait for. The record keeps its claims meanwhile: nobody takes down what it uses.
        let paths = backend.repairable(&record.host).await?;
        if paths.is_empty() {
            return Ok(());
        }
        let _held = self.lock(record, Step::Connect).await;
        let before = record.host.clone();
        record
            .host
            .found
            .renew(&backend.survey(&before.plan).await?);
        if record.host != before {
            // Parts that others have made since stay when this attachment goes.
            self.put(record).await?;
        }
        Ok(backend.repair(&record.host, &paths).await?)
    }
}
