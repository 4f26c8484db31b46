//! Cancels detaches, and keeps the attachments whose guests keep their disks.

use std::time::Duration;

use super::Error;
use super::engine::Engine;
use super::inner::Inner;
use super::saga::told;
use super::steps::Why;
use super::work::Job;
use crate::admission::{Admitted, Grant};
use crate::journal::{Direction, Kind, Record};
use crate::model::{Attachment, AttachmentId, DiskPlan, Scope, State};

/// Time for a call whose wait was ended to leave the attachment: it writes one record.
const LEAVE: Duration = Duration::from_secs(5);

impl Engine {
    /// Cancels a detach that waits for its turn, or whose guest has not released the disk: the attachment is `Attached` again, and its guest is asked no more. An
    /// attachment that nobody detaches is the answer as it is.
    ///
    /// # Errors
    /// `DISK_LOST` if the domain has no disk to keep: the detach goes on.
    pub async fn cancel_detach(&self, id: Admitted<AttachmentId>) -> Result<Attachment, Error> {
        let deadline = id.deadline();
        let (grant, id) = id.into_parts();
        if self.0.granted(&grant, &id).await?.is_some() && self.0.waits.end(&id) {
            let left = tokio::time::timeout(LEAVE, self.0.busy.left(&id));
            // A call that does not leave in time is an operation in progress.
            let _ = left.await;
        }
        let engine = self.clone();
        // Not counted for the servers: their turns may all be those of detaches that wait for their guests.
        let job = Job::new(grant.actor(), Vec::new(), deadline);
        self.run(id.clone(), job, async move {
            // Boxed: the saga's state would make every future around it large.
            Box::pin(engine.0.cancel_detach(&grant, id)).await
        })
        .await
    }
}

impl Inner {
    async fn cancel_detach(&self, grant: &Grant, id: AttachmentId) -> Result<Attachment, Error> {
        let Some(record) = self.granted(grant, &id).await? else {
            return Err(Error::NotFound { id });
        };
        if record.kind() == Kind::Connect {
            return Err(Error::Kind {
                id,
                made_by: "ConnectVolume",
                use_instead: "DisconnectVolume",
            });
        }
        match (record.course.direction(), record.course.state()) {
            (Direction::Forward, State::Attached) => return Ok(record.to_attachment()),
            (Direction::Forward, state) => {
                let state = state.as_str();
                return Err(Error::InProgress { id, state });
            }
            (Direction::Backward, _) => {}
        }
        if self.has_disk_to_keep(&record).await? {
            let attachment = self.keep(record, None).await?;
            tracing::info!("the detach is cancelled");
            return Ok(attachment);
        }
        if let Err(error) = self.backward(record, Why::CleanUp).await {
            tracing::warn!(reason = %error.reason(), error = %error.chain(), "the detach goes on");
        }
        Err(Error::NothingToKeep { id })
    }

    /// Whether the guest has the attachment's disk and is not about to release it. Withdraws the request to the guest if the hypervisor
    /// can.
    async fn has_disk_to_keep(&self, record: &Record) -> Result<bool, Error> {
        let Some(domain) = record.domain.as_ref().filter(|_| record.may_be_kept()) else {
            return Ok(false);
        };
        let hypervisor = &self.parts.hypervisor;
        Ok(hypervisor.has_disk(domain.uuid, &record.disk).await?
            && self.holds(record).await?
            && hypervisor
                .withdraw_unplug(domain.uuid, &record.disk)
                .await?)
    }

    /// Makes an attachment `Attached` again whose guest keeps the disk. `cause`: why the detach failed.
    pub(super) async fn keep(
        &self,
        mut record: Record,
        cause: Option<&Error>,
    ) -> Result<Attachment, Error> {
        self.configure_again(&record).await;
        self.timers.forget(&record.id);
        record.kept(cause.map(told));
        self.put(&record).await?;
        Ok(record.to_attachment())
    }

    /// Adds the disk to the persistent configuration again, from which an unplug request removes it first.
    async fn configure_again(&self, record: &Record) {
        let (Some(domain), true) = (&record.domain, record.disk.scope.config()) else {
            return;
        };
        let hypervisor = &self.parts.hypervisor;
        let config = DiskPlan {
            scope: Scope::Config,
            ..record.disk.clone()
        };
        let added = async {
            match hypervisor.is_plugged(domain.uuid, &config).await? {
                true => Ok(()),
                false => hypervisor.plug(domain.uuid, &config).await,
            }
        };
        if let Err(error) = added.await {
            // The next look reports the attachment as lost, and a repeated attach adds the disk.
            let error = crate::model::chain(&error);
            tracing::warn!(error, "the persistent configuration lacks the disk");
        }
    }
}
