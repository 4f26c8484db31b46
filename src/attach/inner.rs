//! What the calls share: the parts, the guards, and the way into the journal.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{Mutex, broadcast};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::Error;
use super::guard::{Busy, Locks};
use super::request::ListQuery;
use crate::admission::Grant;
use crate::backend::Backends;
use crate::journal::{Journal, Record};
use crate::libvirt::Hypervisor;
use crate::model::{Attachment, AttachmentId, Claim, HostKey, Wwid};

/// Changes that a slow watcher may fall behind before it is told to watch again.
const WATCH_BACKLOG: usize = 1024;

/// What an engine works with.
pub struct Parts {
    /// The durable record.
    pub journal: Arc<dyn Journal>,
    /// The ways to storage.
    pub backends: Backends,
    /// The domains.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Keys the fingerprints of requests.
    pub key: HostKey,
    /// How long a detach waits for the guest.
    pub unplug_timeout: Duration,
    /// This boot of the host ([`crate::model::Found::boot`]). `None`: unknown.
    pub boot: Option<String>,
}

/// The engine's inside.
pub(super) struct Inner {
    pub(super) parts: Parts,
    pub(super) busy: Busy,
    /// Held from the look for conflicting records until the new record is in the journal.
    pub(super) reserve: Mutex<()>,
    /// One lock per claim.
    pub(super) claims: Locks<Claim>,
    /// One lock per reported identity: held from the search for another volume with this identity until the record has it.
    pub(super) identities: Locks<Wwid>,
    /// By domain: choosing a target and plugging are one act.
    pub(super) domains: Locks<Uuid>,
    /// Counts plugs into any domain: a look at a domain is as good as new where none began since.
    pub(super) plugs: AtomicU64,
    pub(super) changes: broadcast::Sender<Attachment>,
    pub(super) tasks: TaskTracker,
    pub(super) stopping: CancellationToken,
}

impl Inner {
    /// At rest.
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            parts,
            busy: Busy::default(),
            reserve: Mutex::new(()),
            claims: Locks::default(),
            identities: Locks::default(),
            domains: Locks::default(),
            plugs: AtomicU64::new(0),
            changes: broadcast::channel(WATCH_BACKLOG).0,
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        }
    }

    /// The record of that id, which is still of the volume, and whose, as it was when the call was let in.
    pub(super) async fn granted(
        &self,
        grant: &Grant,
        id: &AttachmentId,
    ) -> Result<Option<Record>, Error> {
        let record = self.parts.journal.get(id).await?;
        match record {
            Some(record) if !grant.covers(&record.rights.owner, &record.volume) => {
                Err(Error::InProgress {
                    id: id.clone(),
                    state: "another call",
                })
            }
            record => Ok(record),
        }
    }

    /// A page of attachments that may be seen, ordered by id.
    pub(super) async fn page(
        &self,
        query: ListQuery,
        grant: &Grant,
    ) -> Result<Vec<Attachment>, Error> {
        let ListQuery {
            filter,
            after,
            limit,
        } = query;
        let wanted = |record: &Record| {
            after.as_ref().is_none_or(|after| record.id > *after)
                && filter.matches(
                    record.domain.as_ref(),
                    &record.volume,
                    record.course.state(),
                )
        };
        let mut found = Vec::new();
        for record in self.parts.journal.select(&wanted).await? {
            if found.len() == limit {
                break;
            }
            let attachment = record.to_attachment();
            if grant.sees(&(&attachment).into()).await? {
                found.push(attachment);
            }
        }
        Ok(found)
    }

    /// Writes the record, then tells the watchers.
    pub(super) async fn put(&self, record: &Record) -> Result<(), Error> {
        self.parts.journal.put(record).await?;
        self.tell(record);
        Ok(())
    }

    /// Tells the watchers.
    pub(super) fn tell(&self, record: &Record) {
        // An error only says that nobody watches.
        let _ = self.changes.send(record.to_attachment());
    }
}
