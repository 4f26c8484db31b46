//! What the calls share: the parts, the guards, and the way into the journal.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore, watch};
use tokio::task::{consume_budget, yield_now};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::Error;
use super::changes::Changes;
use super::diagnose::Finding;
use super::early::HeadStarts;
use super::expected::LastViews;
use super::figures::EngineFigures;
use super::guard::{Busy, Waits};
use super::request::{Filter, ListQuery};
use super::stopped::StoppedGuests;
use super::timers::UnplugTimers;
use super::work::Work;
use crate::admission::Grant;
use crate::backend::{Backends, Locks, Lvm};
use crate::journal::{Journal, JournalError, Key, Record};
use crate::libvirt::Hypervisor;
use crate::model::{
    Attachment, AttachmentId, Claim, DomainRef, HostKey, HostVolume, WorkLimits, Wwid,
};

/// Records that are looked at in one go before others get their turns.
const PAGE: usize = 256;
/// Looks of reconcile at a time: at a domain with all its records, or at one record.
const LOOKS: usize = 8;

/// What an engine works with.
pub struct Parts {
    /// The durable record.
    pub journal: Arc<dyn Journal>,
    /// What else of the host acts on disks.
    pub lvm: Lvm,
    /// The domains.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Keys the fingerprints of requests.
    pub key: HostKey,
    /// This boot of the host ([`crate::model::Found::boot`]). `None`: unknown.
    pub boot: Option<String>,
}

/// What an engine works by, and goes over to while calls are under way ([`super::Engine::retune`]).
#[derive(Clone)]
pub struct Tuning {
    /// The ways to storage.
    pub backends: Backends,
    /// How long a detach waits for the guest.
    pub unplug_timeout: Duration,
    /// How much work may be under way.
    pub work: WorkLimits,
}

/// The engine's inside.
pub(super) struct Inner {
    pub(super) parts: Parts,
    pub(super) tuning: watch::Sender<Tuning>,
    /// Findings about the daemon itself, made by those who run it.
    pub(super) standing: watch::Sender<Vec<Finding>>,
    pub(super) busy: Busy,
    /// The turns of calls.
    pub(super) work: Work,
    /// Detaches that a cancel may end: they wait for their turns or for guests.
    pub(super) waits: Waits,
    /// Times of the unplug requests.
    pub(super) timers: UnplugTimers,
    /// Held from the look for conflicting records until the new record is in the journal. Has the place given to the last request; `None`:
    /// not read from the journal yet.
    pub(super) reserve: Mutex<Option<u64>>,
    /// One lock per claim.
    pub(super) claims: Locks<Claim>,
    /// One lock per reported identity: held from the search for another volume with this identity until the record has it.
    pub(super) identities: Locks<Wwid>,
    /// By domain: choosing a target and plugging are one act.
    pub(super) domains: Locks<Uuid>,
    /// Counts plugs into any domain: a look at a domain is as good as new where none began since.
    pub(super) plugs: AtomicU64,
    /// The domains that are paused since requests to their disks failed.
    pub(super) stopped: StoppedGuests,
    /// How domains looked last.
    pub(super) views: LastViews,
    pub(super) head_starts: HeadStarts,
    /// Held for a look of reconcile.
    pub(super) looks: Semaphore,
    pub(super) changes: Changes,
    pub(super) figures: EngineFigures,
    pub(super) tasks: TaskTracker,
    pub(super) stopping: CancellationToken,
}

impl Inner {
    /// At rest.
    pub(super) fn new(parts: Parts, tuning: Tuning) -> Self {
        Self {
            work: Work::new(tuning.work),
            parts,
            tuning: watch::Sender::new(tuning),
            standing: watch::Sender::default(),
            busy: Busy::default(),
            waits: Waits::default(),
            timers: UnplugTimers::default(),
            reserve: Mutex::new(None),
            claims: Locks::default(),
            identities: Locks::default(),
            domains: Locks::default(),
            plugs: AtomicU64::new(0),
            stopped: StoppedGuests::default(),
            views: LastViews::default(),
            head_starts: HeadStarts::default(),
            looks: Semaphore::new(LOOKS),
            changes: Changes::new(),
            figures: EngineFigures::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        }
    }

    /// The backends of this moment. What one of them has planned, that one connects.
    pub(super) fn backends(&self) -> Backends {
        self.tuning.borrow().backends.clone()
    }

    /// How long a detach waits for the guest.
    pub(super) fn unplug_timeout(&self) -> Duration {
        self.tuning.borrow().unplug_timeout
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
        let (mut found, mut after) = (Vec::new(), after);
        loop {
            let records = self.candidates(&filter, after.as_ref()).await?;
            let Some(last) = records.last() else {
                return Ok(found);
            };
            after = Some(last.id.clone());
            for record in records {
                if found.len() == limit {
                    return Ok(found);
                }
                let attachment = record.to_attachment();
                if filter.matches(&attachment) && grant.sees(&(&attachment).into()).await? {
                    found.push(attachment);
                }
            }
            // A long list is no reason for others to wait.
            yield_now().await;
        }
    }

    /// Takes each record as it is when its turn comes. Others get theirs in between, so this is no picture of one moment.
    pub(super) async fn each_record(
        &self,
        mut take: impl FnMut(Arc<Record>),
    ) -> Result<(), JournalError> {
        let mut last = None;
        loop {
            let page = self.parts.journal.after(last.as_ref(), PAGE).await?;
            let Some(record) = page.last() else {
                return Ok(());
            };
            last = Some(record.id.clone());
            page.into_iter().for_each(&mut take);
            yield_now().await;
        }
    }

    /// The next records after that id that may match, ordered by id; none: there are no more.
    pub(super) async fn candidates(
        &self,
        filter: &Filter,
        after: Option<&AttachmentId>,
    ) -> Result<Vec<Arc<Record>>, Error> {
        let journal = &self.parts.journal;
        let key = match (&filter.volume, &filter.domain) {
            (Some(volume), _) => Key::Volume(volume),
            (None, Some(DomainRef::Uuid(uuid))) => Key::Domain(uuid),
            _ => return Ok(journal.after(after, PAGE).await?),
        };
        let mut records = journal.of(key).await?;
        records.retain(|record| after.is_none_or(|after| record.id > *after));
        records.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(records)
    }

    /// Writes the record, then tells the watchers.
    pub(super) async fn put(&self, record: &Record) -> Result<(), Error> {
        self.parts.journal.put(record).await?;
        self.tell(record);
        Ok(())
    }

    /// Tells the watchers of a record that was there before.
    pub(super) fn tell(&self, record: &Record) {
        self.changes.put(record.to_attachment(), false);
    }
}

/// The volumes of these records. To copy those of a host takes a while, in which others get their turns.
pub(super) async fn volumes_of(records: impl Iterator<Item = &Arc<Record>>) -> Vec<HostVolume> {
    let mut volumes = Vec::new();
    for record in records {
        consume_budget().await;
        volumes.push(record.host.clone());
    }
    volumes
}
