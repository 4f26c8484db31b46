//! Repairs an attachment that works, but not by all of its paths.

use tokio::time::Instant;

use super::Error;
use super::inner::Inner;
use super::work::passed;
use crate::backend::Backend;
use crate::connection::Protocol;
use crate::journal::{Record, Step};
use crate::model::PathCount;

impl Inner {
    /// Makes the missing paths that can be made now, and notes on the attachment how many of its paths work. `info`: of the request that
    /// made the attachment, if its caller repeats the request. `deadline`: until when that caller waits for others to release the connection.
    ///
    /// # Errors
    /// Where a path could not be made; the attachment works by the others.
    pub(super) async fn repair(
        &self,
        record: &mut Record,
        info: Option<&Protocol>,
        deadline: Option<Instant>,
    ) -> Result<(), Error> {
        let repaired = self.make_paths(record, info, deadline).await;
        let found = self.find(record).await?;
        let degraded = found.degraded();
        if found.is_connected() && record.degraded != degraded {
            record.degraded = degraded;
            self.put(record).await?;
            if let Some(paths) = record.paths() {
                tracing::info!(working = paths.working, planned = paths.planned, "paths");
            }
        }
        repaired
    }

    /// Notes how many paths work by a look at many volumes, unless a call works on the record or has changed the record since.
    pub(super) async fn note_paths(
        &self,
        seen: &Record,
        degraded: Option<PathCount>,
    ) -> Result<(), Error> {
        let Some(_busy) = self.busy.enter(&seen.id) else {
            return Ok(());
        };
        let journal = &self.parts.journal;
        if journal.get(&seen.id).await?.as_ref() != Some(seen) {
            return Ok(());
        }
        let record = Record {
            degraded,
            ..seen.clone()
        };
        journal.put_soon(&record).await?;
        self.tell(&record);
        if let Some(paths) = record.paths() {
            tracing::info!(attachment = %record.id, working = paths.working, planned = paths.planned, "paths");
        }
        Ok(())
    }

    async fn make_paths(
        &self,
        record: &mut Record,
        info: Option<&Protocol>,
        deadline: Option<Instant>,
    ) -> Result<(), Error> {
        let backend = self.backends().get(&record.host.plan.protocol)?;
        // Asks servers, so without the lock that callers wait for. The record keeps its claims meanwhile: nobody takes down what it uses.
        let paths = backend.repairable(vec![record.host.clone()]).await;
        let paths = paths.into_iter().next().unwrap_or_default();
        if paths.is_empty() {
            return Ok(());
        }
        let mut held = tokio::select! {
            held = self.lock(record, Step::Connect) => held,
            () = passed(deadline) => return Err(Error::DeadlinePassed { before: "the missing paths were made" }),
        };
        // Journaled before the paths are made: a crash must not make those of others look like the daemon's own.
        self.survey_again(backend.as_ref(), record).await?;
        held.recorded();
        let repaired = backend.repair(&record.host, &paths, info).await;
        // Another program may have been faster.
        self.survey_again(backend.as_ref(), record).await?;
        Ok(repaired?)
    }

    /// Journals the parts that others have made since the last survey: those stay when this attachment goes.
    async fn survey_again(&self, backend: &dyn Backend, record: &mut Record) -> Result<(), Error> {
        let before = record.host.clone();
        let now = self.survey(backend, before.plan.clone()).await?;
        record.host.found.renew(&now.found);
        match record.host == before {
            true => Ok(()),
            false => self.put(record).await,
        }
    }
}
