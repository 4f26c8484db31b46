//! The executor: runs the steps, or undoes them, with the journal at every turn.

use std::time::{Duration, SystemTime};

use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::Error;
use super::inner::Inner;
use crate::backend::Presence;
use crate::connection::Protocol;
use crate::journal::{Direction, Kind, Progress, Record, Step, StepRecord};
use crate::libvirt::{Unplug, plan_disk};
use crate::model::{Attachment, AttachmentError, DiskSpec, DomainRef, State};

/// A guest that was asked to let go of a disk is not asked again sooner: on some machine types a second request
/// cancels the first (PCIe's attention button, PCI Express Base 6.7.1.5: a press within 5 s takes it back).
const STALE: Duration = Duration::from_secs(30);

/// Why steps are undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// A caller asks for it. It is not begun where the journal cannot say so; and where the guest was asked so long
    /// ago that the request may be lost, it is asked again.
    Asked,
    /// Something was begun and is not wanted. It is cleaned up even where the journal fails, for an undo needs no word
    /// there to be safe: whatever the journal says of a step begun, the next start looks for it.
    CleanUp,
}

/// What the steps need and the journal must not hold.
pub(super) struct Forward {
    /// How to reach the volume, with its secrets.
    pub(super) info: Protocol,
    /// The disk as it is wanted.
    pub(super) spec: DiskSpec,
    /// Whether it was there before, so that a disk of its alias is its own.
    pub(super) again: bool,
}

/// The steps of an attach or connect, in order.
fn steps(kind: Kind) -> &'static [Step] {
    match kind {
        Kind::Attach => &[Step::Connect, Step::Inspect, Step::Attach],
        Kind::Connect => &[Step::Connect, Step::Inspect],
    }
}

impl Inner {
    /// Runs the steps of a record whose first intent is in the journal. On an error the steps are undone, and the
    /// record is gone unless that fails.
    pub(super) async fn forward(
        &self,
        mut record: Record,
        forward: Forward,
    ) -> Result<Attachment, Error> {
        match self.run_steps(&mut record, &forward).await {
            Ok(()) => {
                tracing::info!(state = %record.state, access = %record.access.access, "done");
                Ok(record.to_attachment())
            }
            Err(cause) => Err(self.give_up(record, cause).await),
        }
    }

    /// Undoes what was begun, and gives back why it failed.
    pub(super) async fn give_up(&self, mut record: Record, cause: Error) -> Error {
        tracing::warn!(reason = %cause.reason(), error = %cause.chain(), "failed: undoing");
        record.error = Some(told(&cause));
        match self.backward(record, Why::CleanUp).await {
            Ok(()) => cause,
            Err(undo) => Error::Undo {
                undo: undo.chain(),
                cause: Box::new(cause),
            },
        }
    }

    async fn run_steps(&self, record: &mut Record, forward: &Forward) -> Result<(), Error> {
        for &step in steps(record.kind()) {
            let _held = self.lock(record, step).await;
            if let (Step::Attach, Some(domain)) = (step, &record.domain) {
                // Under the domain's lock: nobody else takes this target between the look and the plug.
                let view = self
                    .parts
                    .hypervisor
                    .domain(&DomainRef::Uuid(domain.uuid))
                    .await?;
                if forward.again && view.shows(&record.disk) {
                    // It was the connection that was lost: the domain has the disk still.
                    record.steps.push(StepRecord {
                        step,
                        progress: Progress::Done,
                    });
                    continue;
                }
                record.disk = plan_disk(&view, &forward.spec)?;
                record.state = State::Attaching;
                record.updated = SystemTime::now();
            }
            // A step that changes nothing needs no intent, and no durable write: there is nothing to undo.
            if step != Step::Inspect && record.steps.last().is_none_or(|last| last.step != step) {
                record.steps.push(StepRecord {
                    step,
                    progress: Progress::Intent,
                });
                self.put(record).await?;
            }
            tracing::info!(step = step.as_str(), "step");
            self.run_step(record, step, forward).await?;
            if let Some(last) = record.steps.last_mut() {
                last.progress = Progress::Done;
            }
        }
        record.state = match record.kind() {
            Kind::Attach => State::Attached,
            Kind::Connect => State::Connected,
        };
        record.updated = SystemTime::now();
        self.put(record).await
    }

    async fn run_step(&self, record: &Record, step: Step, forward: &Forward) -> Result<(), Error> {
        let backend = self.parts.backends.get(&record.host.protocol)?;
        match step {
            // Present: the mount of others, or our own from before a crash. Equal keys are equal connections.
            Step::Connect => match backend.find(&record.host).await? {
                Presence::Present => Ok(()),
                Presence::Partial | Presence::Absent => {
                    Ok(backend.connect(&record.host, &forward.info).await?)
                }
            },
            Step::Inspect => Ok(backend.inspect(&record.host).await?),
            Step::Attach => match &record.domain {
                Some(domain) => Ok(self
                    .parts
                    .hypervisor
                    .plug(domain.uuid, &record.disk)
                    .await?),
                None => Ok(()),
            },
        }
    }

    /// Undoes the steps, last first, until the record is gone.
    pub(super) async fn backward(&self, mut record: Record, why: Why) -> Result<(), Error> {
        record.direction = Direction::Backward;
        while let Some(last) = record.steps.last().copied() {
            let _held = match last.step {
                // Not the domain's: a guest that takes its time to let go of one disk must not keep another from being plugged.
                Step::Attach => None,
                step => self.lock(&record, step).await,
            };
            record.state = match last.step {
                Step::Attach => State::Detaching,
                _ => State::Disconnecting,
            };
            record.updated = SystemTime::now();
            if let Err(error) = self.put(&record).await {
                match why {
                    Why::Asked => return Err(error),
                    Why::CleanUp => {
                        tracing::error!(error = %error.chain(), "cleaning up all the same")
                    }
                }
            }
            tracing::info!(step = last.step.as_str(), "undo");
            let undone = match last.step {
                Step::Attach => self.unplug(&mut record, why).await,
                _ => self.disconnect(&record).await,
            };
            if let Err(error) = undone {
                return Err(self.undo_failed(record, error).await);
            }
            record.steps.pop();
            if record.steps.is_empty() {
                // Still under the shared lock: whoever counts users next must not count this one.
                self.parts.journal.remove(&record.id).await?;
            }
        }
        record.state = State::Gone;
        record.updated = SystemTime::now();
        let _ = self.changes.send(record.to_attachment());
        tracing::info!("gone");
        Ok(())
    }

    /// Remembers why an undo failed, where operators look.
    async fn undo_failed(&self, mut record: Record, error: Error) -> Error {
        if !matches!(
            error,
            Error::UnplugPending { .. } | Error::UnplugRefused { .. }
        ) {
            record.state = State::Failed;
        }
        tracing::warn!(state = %record.state, reason = %error.reason(), error = %error.chain(), "undo failed");
        record.error = Some(told(&error));
        record.updated = SystemTime::now();
        if let Err(journal) = self.put(&record).await {
            tracing::error!(error = %journal.chain(), "and the journal cannot say so");
        }
        error
    }

    async fn unplug(&self, record: &mut Record, why: Why) -> Result<(), Error> {
        let Some(domain) = record.domain.clone() else {
            return Ok(());
        };
        let disk = &record.disk;
        let hypervisor = &self.parts.hypervisor;
        if !hypervisor.has_disk(domain.uuid, disk).await? {
            return Ok(());
        }
        let pending = || Error::UnplugPending {
            domain: domain.clone(),
            target: disk.target.clone(),
        };
        let stale = |asked: SystemTime| asked.elapsed().is_ok_and(|age| age >= STALE);
        match (record.unplug_requested, why) {
            // The guest was asked, and has the disk still: there is nothing to do but to come again.
            (Some(_), Why::CleanUp) => return Err(pending()),
            (Some(asked), Why::Asked) if !stale(asked) => {}
            _ => {
                hypervisor.request_unplug(domain.uuid, disk).await?;
                record.unplug_requested = Some(SystemTime::now());
                // Now, not after the wait: a process that comes after a crash must not ask again within seconds.
                if let Err(error) = self.put(record).await {
                    tracing::error!(error = %error.chain(), "the guest was asked, and the journal cannot say so");
                }
            }
        }
        let deadline = Instant::now() + self.parts.unplug_timeout;
        let waited = tokio::select! {
            waited = hypervisor.wait_unplugged(domain.uuid, disk, deadline) => waited?,
            () = self.stopping.cancelled() => Unplug::Pending,
        };
        match waited {
            Unplug::Gone => Ok(()),
            Unplug::Pending => Err(pending()),
            Unplug::Refused => {
                record.unplug_requested = None;
                let target = disk.target.clone();
                Err(Error::UnplugRefused { domain, target })
            }
        }
    }

    async fn disconnect(&self, record: &Record) -> Result<(), Error> {
        if let Some(shared) = &record.host.shared {
            let others = self.parts.journal.all().await?;
            let used = others.iter().any(|other| {
                other.id != record.id
                    && other.host.shared.as_ref() == Some(shared)
                    && other.uses_connection()
            });
            if used {
                return Ok(());
            }
        }
        let backend = self.parts.backends.get(&record.host.protocol)?;
        Ok(backend.disconnect(&record.host).await?)
    }

    /// The lock that a step and its outcome in the journal are under.
    async fn lock(&self, record: &Record, step: Step) -> Option<OwnedMutexGuard<()>> {
        match (step, &record.host.shared, &record.domain) {
            (Step::Connect, Some(shared), _) => Some(self.shared.lock(shared.clone()).await),
            (Step::Attach, _, Some(domain)) => Some(self.domains.lock(domain.uuid).await),
            _ => None,
        }
    }
}

/// The error as the journal keeps it.
pub(super) fn told(error: &Error) -> AttachmentError {
    AttachmentError {
        reason: error.reason(),
        message: error.chain(),
    }
}
