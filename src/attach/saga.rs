//! The executor: runs the steps, or undoes them, with the journal at every turn.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::Error;
use super::inner::Inner;
use crate::backend::{Presence, Release};
use crate::connection::Protocol;
use crate::journal::{Direction, Kind, Progress, Record, Step};
use crate::libvirt::{DomainView, Unplug, plan_disk};
use crate::model::{Attachment, AttachmentError, DiskSpec, DomainRef, HostPlan, Reason, State};

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
    /// Whether it needed no connection, and was inspected.
    pub(super) ready: bool,
    /// Whether it was there before, so that a disk of its alias is its own.
    pub(super) again: bool,
    /// How many plugs there were before the look that the record's disk was planned from.
    pub(super) plugs: u64,
}

impl Forward {
    /// The disk as it is wanted, of a volume that turned out to be there.
    fn spec_at(&self, path: &Path) -> DiskSpec {
        DiskSpec {
            path: path.to_owned(),
            ..self.spec.clone()
        }
    }
}

/// The steps of an attach or connect, in order.
fn steps(kind: Kind) -> &'static [Step] {
    match kind {
        Kind::Attach => &[Step::Connect, Step::Inspect, Step::Attach],
        Kind::Connect => &[Step::Connect, Step::Inspect],
    }
}

impl Inner {
    /// Runs the steps of a record that is in the journal. On an error the steps are undone, and the
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
        let mut inspected = forward.ready;
        for &step in steps(record.kind()) {
            if forward.ready && step == Step::Connect || inspected && step == Step::Inspect {
                continue;
            }
            let _held = self.lock(record, step).await;
            tracing::info!(step = step.as_str(), "step");
            match step {
                Step::Connect => inspected = self.connect(record, forward).await?,
                // It changes nothing, so it needs no intent: there is nothing to undo.
                Step::Inspect => self.inspect(&record.host).await?,
                Step::Attach => self.plug(record, forward).await?,
            }
        }
        record.updated = SystemTime::now();
        match record.kind() {
            Kind::Attach => {
                record.state = State::Attached;
                // After a crash, the intent on disk and the disk in the domain say the same.
                self.parts.journal.put_soon(record).await?;
                self.tell(record);
                Ok(())
            }
            Kind::Connect => {
                record.state = State::Connected;
                self.put(record).await
            }
        }
    }

    /// Connects; whether the volume was inspected with it.
    async fn connect(&self, record: &mut Record, forward: &Forward) -> Result<bool, Error> {
        record.set(Step::Connect, Progress::Intent);
        self.put(record).await?;
        let backend = self.parts.backends.get(&record.host.protocol)?;
        let inspected = match backend.find(&record.host).await? {
            // The mount of others, or our own from before a crash. Equal keys are equal connections.
            Presence::Present => false,
            Presence::Partial | Presence::Absent => {
                let connected = backend.connect(&record.host, &forward.info).await?;
                record.host = connected.plan;
                connected.inspected
            }
        };
        record.set(Step::Connect, Progress::Done);
        if record.domain.is_none() && record.host.path != forward.spec.path {
            record.disk = plan_disk(
                &DomainView::empty(self.parts.hypervisor.dialect()),
                &forward.spec_at(&record.host.path),
            )?;
        }
        Ok(inspected)
    }

    pub(super) async fn inspect(&self, host: &HostPlan) -> Result<(), Error> {
        let backend = self.parts.backends.get(&host.protocol)?;
        Ok(backend.inspect(host).await?)
    }

    /// Plugs the disk in. Under the domain's lock: nobody else here plugs anything in between the look and the plug.
    async fn plug(&self, record: &mut Record, forward: &Forward) -> Result<(), Error> {
        let Some(domain) = record.domain.as_ref().map(|domain| domain.uuid) else {
            return Ok(());
        };
        let look = || async {
            let name = DomainRef::Uuid(domain);
            let scope = forward.spec.options.scope;
            self.parts.hypervisor.domain(&name, scope).await
        };
        let spec = forward.spec_at(&record.host.path);
        if forward.again
            || spec.path != forward.spec.path
            || forward.plugs != self.plugs.load(Ordering::Acquire)
        {
            let view = look().await?;
            if forward.again && view.shows(&record.disk) {
                let hypervisor = &self.parts.hypervisor;
                if hypervisor.is_plugged(domain, &record.disk).await? {
                    // It was the connection that was lost: the domain has the disk still.
                    record.set(Step::Attach, Progress::Done);
                    return Ok(());
                }
                // It is shown, and the guest has it no more: what is left is in the way.
                self.unplug(record, Why::CleanUp).await?;
                record.unplug_requested = None;
                record.disk = plan_disk(&look().await?, &spec)?;
            } else {
                record.disk = plan_disk(&view, &spec)?;
            }
        }
        if !record.disk.left_out.is_empty() {
            tracing::warn!(options = ?record.disk.left_out, "left out: its hypervisor has no such thing");
        }
        record.state = State::Attaching;
        record.updated = SystemTime::now();
        record.set(Step::Attach, Progress::Intent);
        self.put(record).await?;
        let mut plugged = self.parts.hypervisor.plug(domain, &record.disk).await;
        if plugged
            .as_ref()
            .is_err_and(|error| error.reason() == Reason::TargetInUse)
        {
            // Somebody else has plugged something in since the look.
            record.disk = plan_disk(&look().await?, &spec)?;
            self.put(record).await?;
            plugged = self.parts.hypervisor.plug(domain, &record.disk).await;
        }
        self.plugs.fetch_add(1, Ordering::Release);
        plugged?;
        record.set(Step::Attach, Progress::Done);
        Ok(())
    }

    /// Undoes the steps, last first, until the record is gone.
    pub(super) async fn backward(&self, mut record: Record, why: Why) -> Result<(), Error> {
        record.direction = Direction::Backward;
        if record.steps.is_empty() {
            // Nothing was begun.
            self.parts.journal.remove(&record.id).await?;
        }
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
        let mut last = true;
        if let Some(shared) = &record.host.shared {
            let others = |other: &Record| {
                other.id != record.id
                    && other.host.shared.as_ref() == Some(shared)
                    && other.uses_connection()
            };
            last = self.parts.journal.select(&others).await?.is_empty();
        }
        let backend = self.parts.backends.get(&record.host.protocol)?;
        let how = Release {
            last,
            force: record.force,
        };
        Ok(backend.disconnect(&record.host, how).await?)
    }

    /// The lock that a step and its outcome in the journal are under.
    pub(super) async fn lock(&self, record: &Record, step: Step) -> Option<OwnedMutexGuard<()>> {
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
