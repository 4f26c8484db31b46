//! The executor: runs the steps, or undoes them, with the journal at every turn.

use tokio::time::Instant;
use tracing::Instrument;

use super::Error;
use super::figures::Phase;
use super::inner::Inner;
use super::observe::{Observed, Reality};
use super::steps::{self, Forward, Held, Why};
use super::work::{in_time, passed};
use crate::journal::{Kind, Record, Step};
use crate::model::{Attachment, AttachmentError, Reason};

impl Inner {
    /// Runs the steps of a journaled record. On an error, undoes the steps and removes the record, unless the undo fails. A reattached
    /// record is not undone: part of it may work.
    pub(super) async fn forward(
        &self,
        mut record: Record,
        mut forward: Forward,
    ) -> Result<Attachment, Error> {
        let ran = self.run_steps(&mut record, &mut forward).await;
        drop(forward.head_start.take()); // the undo needs no idle worker
        match ran {
            Ok(()) => {
                tracing::info!(state = %record.course.state(), access = %record.access.access, "done");
                Ok(record.to_attachment())
            }
            Err(cause) if forward.again => Err(self.stay_lost(record, cause).await),
            Err(cause) => Err(self.give_up(record, cause).await),
        }
    }

    /// Keeps the attachment as lost, notes why it could not be made whole, and returns that cause.
    async fn stay_lost(&self, mut record: Record, cause: Error) -> Error {
        tracing::warn!(reason = %cause.reason(), error = %cause.chain(), "still lost");
        let message = format!(
            "{}; the last time that failed: {}",
            Observed::from(Reality::Broken).lost(&record).chain(),
            cause.chain()
        );
        record.lost(AttachmentError {
            reason: Reason::DiskLost.into(),
            message,
        });
        if let Err(journal) = self.put(&record).await {
            tracing::error!(error = %journal.chain(), "and the journal cannot say so");
        }
        cause
    }

    /// Undoes what was begun, and gives back why it failed.
    pub(super) async fn give_up(&self, mut record: Record, cause: Error) -> Error {
        tracing::warn!(reason = %cause.reason(), error = %cause.chain(), "failed: undoing");
        record.given_up(told(&cause));
        match self.backward(record, Why::CleanUp).await {
            Ok(()) => cause,
            Err(undo) => Error::Undo {
                undo: undo.chain(),
                cause: Box::new(cause),
            },
        }
    }

    async fn run_steps(&self, record: &mut Record, forward: &mut Forward) -> Result<(), Error> {
        let mut inspected = forward.ready;
        let mut looked_at = forward.inspected_at;
        for &step in steps::of(record.kind()) {
            if forward.ready && step == Step::Connect || inspected && step == Step::Inspect {
                continue;
            }
            let mut held = tokio::select! {
                held = self.lock(record, step) => held,
                // Another call may hold the lock for as long as its server is silent.
                () = passed(forward.deadline) => Held::default(),
            };
            in_time(forward.deadline, steps::outcome(step))?;
            tracing::info!(step = step.as_str(), "step");
            let began = Instant::now();
            let run = self.run(step, record, forward, &mut held, looked_at);
            let span = tracing::debug_span!("step", step = step.as_str());
            let ran = run.instrument(span).await;
            let phase = Phase::of(step);
            self.figures.phase(phase, began, ran.is_ok());
            inspected = ran?;
            looked_at = Instant::now();
        }
        if record.kind() == Kind::Connect {
            in_time(forward.deadline, "the connect was over")?;
        }
        record.whole();
        match record.kind() {
            Kind::Attach => {
                // After a crash, the intent on disk and the disk in the domain say the same.
                self.parts.journal.put_soon(record).await?;
                self.tell(record);
                Ok(())
            }
            Kind::Connect => self.put(record).await,
        }
    }

    /// Undoes the steps, last first, until the record is gone.
    pub(super) async fn backward(&self, mut record: Record, why: Why) -> Result<(), Error> {
        if !record.course.is_begun() {
            // Nothing was begun.
            self.parts.journal.remove(&record.id).await?;
        }
        while let Some(last) = record.undo() {
            if let Err(error) = self.put(&record).await {
                match why {
                    Why::Asked => return Err(error),
                    Why::CleanUp => {
                        tracing::error!(error = %error.chain(), "cleaning up all the same")
                    }
                }
            }
            tracing::info!(step = last.as_str(), "undo");
            let mut held = Held::default();
            let began = Instant::now();
            let span = tracing::debug_span!("undo", step = last.as_str());
            let undo = self.undo(last, &mut record, why, &mut held);
            let undone = undo.instrument(span).await;
            if let Some(phase) = Phase::of_undo(last) {
                self.figures.phase(phase, began, undone.is_ok());
            }
            if let Err(error) = undone {
                return Err(match is_refusal(&error) && record.may_be_kept() {
                    true => self.refused(record, error).await,
                    false => self.undo_failed(record, error).await,
                });
            }
            record.undone();
            if !record.course.is_begun() {
                // Still under the shared lock: whoever counts users next must not count this one.
                self.parts.journal.remove(&record.id).await?;
            }
        }
        record.gone();
        self.changes.gone(record.to_attachment());
        tracing::info!("gone");
        Ok(())
    }

    /// Ends a detach that was refused: the caller was told, so nobody asks again but the next call.
    async fn refused(&self, record: Record, error: Error) -> Error {
        tracing::warn!(reason = %error.reason(), error = %error.chain(), "refused: the guest keeps the disk");
        if let Err(journal) = self.keep(record, Some(&error)).await {
            tracing::error!(error = %journal.chain(), "and the journal cannot say so");
        }
        error
    }

    /// Remembers why an undo failed, where operators look.
    async fn undo_failed(&self, mut record: Record, error: Error) -> Error {
        let waits = matches!(
            error.reason(),
            Reason::UnplugPending
                | Reason::UnplugRefused
                | Reason::DetachCancelled
                | Reason::OperationInProgress
        );
        if !waits {
            // The next look at everything tries again, and nobody before.
            self.timers.forget(&record.id);
        }
        record.undo_failed(told(&error), waits);
        tracing::warn!(state = %record.course.state(), reason = %error.reason(), error = %error.chain(), "undo failed");
        if let Err(journal) = self.put(&record).await {
            tracing::error!(error = %journal.chain(), "and the journal cannot say so");
        }
        error
    }
}

/// Whether nothing was begun, and nothing will be unless somebody changes something first.
fn is_refusal(error: &Error) -> bool {
    matches!(
        error.reason(),
        Reason::UnplugRefused | Reason::BlockJobActive
    )
}

/// The error as the journal keeps it.
pub(super) fn told(error: &Error) -> AttachmentError {
    AttachmentError {
        reason: error.reason().into(),
        message: error.chain(),
    }
}
