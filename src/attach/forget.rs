//! Forgets attachments that nothing can settle: the record goes, and this host stays as it is.
//!
//! Whatever is left is named with the command that removes it, in the words of [`super::diagnose`]. A thing that another record holds too
//! is that record's, and not left: its last holder takes it down. So an attachment is not forgotten while a domain has its disk and another
//! record holds the disk's device.

use std::path::PathBuf;

use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::Error;
use super::diagnose::{Finding, of_orphan, of_unseen};
use super::engine::Engine;
use super::inner::{Inner, volumes_of};
use super::orphans::{Orphan, Unseen};
use super::work::{Job, in_time, passed};
use crate::admission::{Admitted, Grant};
use crate::backend::Presence;
use crate::journal::{Key, Record, Unreadable};
use crate::model::{AttachmentError, AttachmentId, Claim, HostVolume, Reason, State};

/// Clause of the deadline's error.
const BEFORE: &str = "the record was removed";

/// Forget an attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForgetRequest {
    /// The attachment.
    pub id: AttachmentId,
    /// Whether to forget it. `false`: only tell what would be left.
    pub confirmed: bool,
}

/// What a forgotten attachment leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forgotten {
    /// Whether the record is gone.
    pub forgotten: bool,
    /// Each thing that no record has then, or may not have.
    pub left: Vec<Finding>,
    /// File with the record, if this build could not read it.
    pub kept: Option<PathBuf>,
}

/// Another record with a claim of the one to be forgotten.
#[derive(PartialEq, Eq)]
struct Holder {
    id: AttachmentId,
    claim: Claim,
}

/// A record that nothing settles.
enum Stuck {
    Record(Box<Record>),
    Unreadable(Unreadable),
}

impl Stuck {
    fn id(&self) -> &AttachmentId {
        match self {
            Self::Record(record) => &record.id,
            Self::Unreadable(unreadable) => &unreadable.id,
        }
    }

    fn claims(&self) -> &[Claim] {
        match self {
            Self::Record(record) => &record.host.plan.claims,
            Self::Unreadable(unreadable) => &unreadable.claims,
        }
    }
}

impl Engine {
    /// Removes the record of an attachment that cannot be detached, and nothing else; returns what is left on this host.
    ///
    /// # Errors
    /// `FORGET_REFUSED` if the attachment may be settled as usual or its guest would lose its disk by the end of another attachment,
    /// `OPERATION_IN_PROGRESS` if a call works on it, and where the journal fails.
    pub async fn forget(&self, request: Admitted<ForgetRequest>) -> Result<Forgotten, Error> {
        let deadline = request.deadline();
        let (grant, ForgetRequest { id, confirmed }) = request.into_parts();
        let engine = self.clone();
        // Touches no server.
        let job = Job::new(grant.actor(), Vec::new(), deadline);
        self.run(id.clone(), job, async move {
            engine.0.forget(&grant, id, confirmed, deadline).await
        })
        .await
    }

    /// Whether this build cannot read the record of that id.
    ///
    /// # Errors
    /// Where the journal fails.
    pub async fn is_unreadable(&self, id: &AttachmentId) -> Result<bool, Error> {
        let unreadable = self.0.parts.journal.unreadable().await?;
        Ok(unreadable.iter().any(|it| it.id == *id))
    }
}

impl Inner {
    async fn forget(
        &self,
        grant: &Grant,
        id: AttachmentId,
        confirmed: bool,
        deadline: Option<Instant>,
    ) -> Result<Forgotten, Error> {
        let stuck = self.stuck(grant, &id).await?;
        // Before the locks, for which others wait: domains and backends may be slow.
        let disk = self.disk_in_use(&stuck).await;
        let holders = self.holders(&stuck).await?;
        check_unshared(&id, disk.as_deref(), &holders)?;
        let mut left = self.left_by(&stuck).await?;
        if !confirmed {
            return Ok(Forgotten {
                forgotten: false,
                left,
                kept: None,
            });
        }
        // Those who share a thing count its holders one after another.
        let held = self.lock_claims(stuck.claims(), deadline).await?;
        let now = self.holders(&stuck).await?;
        if now != holders {
            check_unshared(&id, disk.as_deref(), &now)?;
            left = self.left_by(&stuck).await?;
        }
        in_time(deadline, BEFORE)?;
        let kept = self.remove_stuck(&stuck).await?;
        drop(held);
        tracing::warn!(
            ?kept,
            left = left.len(),
            "forgotten: nothing was changed on this host"
        );
        for Finding { what, mend, .. } in &left {
            tracing::warn!(what, mend, "left behind");
        }
        Ok(Forgotten {
            forgotten: true,
            left,
            kept,
        })
    }

    /// Finds the record, and refuses one that can be settled.
    async fn stuck(&self, grant: &Grant, id: &AttachmentId) -> Result<Stuck, Error> {
        let unreadable = self.parts.journal.unreadable().await?;
        if let Some(unreadable) = unreadable.into_iter().find(|it| it.id == *id) {
            return Ok(Stuck::Unreadable(unreadable));
        }
        let record = self.granted(grant, id).await?;
        let record = record.ok_or_else(|| Error::NotFound { id: id.clone() })?;
        let attachment = record.to_attachment();
        let failed = attachment.error.is_some();
        match attachment.state {
            State::Failed | State::Lost => Ok(Stuck::Record(record.into())),
            State::Detaching | State::Disconnecting if failed => Ok(Stuck::Record(record.into())),
            state => Err(Error::NotStuck {
                id: id.clone(),
                state: state.as_str(),
            }),
        }
    }

    /// Says which domain has the attachment's disk, or may have it; `None`: no domain has.
    async fn disk_in_use(&self, stuck: &Stuck) -> Option<String> {
        match stuck {
            Stuck::Record(record) => {
                let domain = record.domain.as_ref()?;
                let hypervisor = &self.parts.hypervisor;
                match hypervisor.has_disk(domain.uuid, &record.disk).await {
                    Ok(false) => None,
                    Ok(true) => Some(format!("{domain} has its disk {}", record.disk.target)),
                    Err(error) => {
                        let error = crate::model::chain(&error);
                        Some(format!("{domain} may have its disk ({error})"))
                    }
                }
            }
            Stuck::Unreadable(unreadable) => {
                let (disks, unseen) = self.disks_of(&unreadable.id, None).await;
                let disks = disks.iter().map(|disk| disk.orphan(false).what);
                let unseen = unseen.into_iter();
                let unseen = unseen.map(|it| format!("{} may have its disk", it.what));
                disks.chain(unseen).next()
            }
        }
    }

    /// The other records with the claims of this one, claim by claim. A record that cannot be read counts as a holder.
    async fn holders(&self, stuck: &Stuck) -> Result<Vec<Holder>, Error> {
        let journal = &self.parts.journal;
        let unreadable = journal.unreadable().await?;
        let mut holders = Vec::new();
        for claim in stuck.claims() {
            let records = journal.of(Key::Claim(claim)).await?;
            let records = records.iter().filter(|it| it.uses_connection());
            let unread = unreadable.iter().filter(|it| it.claims.contains(claim));
            let ids = records.map(|it| &it.id).chain(unread.map(|it| &it.id));
            let others = ids.filter(|it| *it != stuck.id());
            holders.extend(others.map(|id| Holder {
                id: id.clone(),
                claim: claim.clone(),
            }));
        }
        Ok(holders)
    }

    async fn lock_claims(
        &self,
        claims: &[Claim],
        deadline: Option<Instant>,
    ) -> Result<Vec<OwnedMutexGuard<()>>, Error> {
        let lock = async {
            let mut locks = Vec::new();
            for claim in claims {
                locks.push(self.claims.lock(claim.clone()).await);
            }
            locks
        };
        tokio::select! {
            locks = lock => Ok(locks),
            () = passed(deadline) => Err(Error::DeadlinePassed { before: BEFORE }),
        }
    }

    /// Removes the record; returns the file that keeps an unreadable one.
    async fn remove_stuck(&self, stuck: &Stuck) -> Result<Option<PathBuf>, Error> {
        let journal = &self.parts.journal;
        match stuck {
            Stuck::Unreadable(unreadable) => Ok(Some(journal.set_aside(&unreadable.id).await?)),
            Stuck::Record(record) => {
                journal.remove(&record.id).await?;
                self.timers.forget(&record.id);
                let mut record = record.as_ref().clone();
                record.gone();
                let mut attachment = record.to_attachment();
                attachment.error = Some(AttachmentError {
                    reason: Reason::Forgotten.into(),
                    message: "forgotten: whatever is left of it on this host has no record"
                        .to_owned(),
                });
                self.changes.gone(attachment);
                Ok(None)
            }
        }
    }

    /// What no record has once this one is gone.
    async fn left_by(&self, stuck: &Stuck) -> Result<Vec<Finding>, Error> {
        let unreadable = self.parts.journal.unreadable().await?;
        let unreadable = unreadable.iter().any(|it| it.id != *stuck.id());
        let mut left = self.disks_left(stuck).await?;
        match stuck {
            Stuck::Record(record) => {
                left.extend(self.connection_left(record, unreadable).await?);
                left.extend(self.device_left(record, unreadable).await?);
            }
            Stuck::Unreadable(_) => left.extend(self.connections_left(unreadable).await?),
        }
        Ok(left)
    }

    /// The attachment's disks in domains: in its own, or for an unreadable record in any.
    async fn disks_left(&self, stuck: &Stuck) -> Result<Vec<Finding>, Error> {
        let lost = self.parts.journal.loss().await?.is_some();
        let domain = match stuck {
            Stuck::Record(record) => match &record.domain {
                Some(domain) => Some(domain.uuid),
                None => return Ok(Vec::new()),
            },
            Stuck::Unreadable(_) => None,
        };
        let id = stuck.id();
        let (disks, unseen) = self.disks_of(id, domain).await;
        let disks = disks.iter().map(|disk| of_orphan(disk.orphan(lost), false));
        let unseen = unseen.into_iter().map(|part| {
            let mut finding = of_unseen(part);
            let alias = id.alias();
            finding.what = format!("{}; a disk {alias} may be there", finding.what);
            finding
        });
        Ok(disks.chain(unseen).map(|finding| finding.of(id)).collect())
    }

    /// The record's connection, as far as no other record has it.
    async fn connection_left(
        &self,
        record: &Record,
        unreadable: bool,
    ) -> Result<Vec<Finding>, Error> {
        let protocol = &record.host.plan.protocol;
        let backend = match self.backends().get(protocol) {
            Ok(backend) => backend,
            Err(error) => return Ok(vec![of_unseen(Unseen::connections(protocol, error))]),
        };
        let records = self.parts.journal.all().await?;
        let others = records.iter().filter(|other| other.id != record.id);
        let mut volumes = volumes_of(others).await;
        let without = backend.unrecorded(&volumes).await;
        volumes.push(record.host.clone());
        // The second look has what calls have connected since the first.
        let with = backend.unrecorded(&volumes).await;
        match (without, with) {
            (Ok(without), Ok(with)) => {
                let left = without.into_iter().filter(|it| !with.contains(it));
                Ok(left.map(|it| of_orphan(it.into(), unreadable)).collect())
            }
            (Err(error), _) | (_, Err(error)) => {
                Ok(vec![of_unseen(Unseen::connections(protocol, error))])
            }
        }
    }

    /// The record's block device on this host, if no other record has a claim of this one; and that it stays read-only, if no other record
    /// has the device.
    async fn device_left(&self, record: &Record, unreadable: bool) -> Result<Vec<Finding>, Error> {
        let host = &record.host;
        if host.found.device.is_none() && !host.found.protected || !self.is_on_host(host).await {
            return Ok(Vec::new());
        }
        let shares = |other: &Record| other.id != record.id && other.uses_connection();
        let has_device = |other: &Record| shares(other) && other.host.identity() == host.identity();
        let path = host.path().display();
        let mut left = Vec::new();
        if let Some(device) = &host.found.device
            && !self.any_with_claims_of(record, &shares).await?
        {
            left.push(Orphan {
                what: format!("block device {path} of the volume ({})", device.identity),
                mend: format!("lsblk --inverse {path} shows the disks beneath it: remove those that nothing uses"),
                own: false,
            });
        }
        if host.found.protected && !self.any_with_claims_of(record, &has_device).await? {
            left.push(Orphan {
                what: format!("block device {path}, which stays read-only"),
                mend: format!("blockdev --setrw {path}"),
                own: true,
            });
        }
        let left = left.into_iter();
        Ok(left.map(|it| of_orphan(it, unreadable)).collect())
    }

    /// Whether the volume is found on this host, by the names of this boot: in another, other devices have them.
    async fn is_on_host(&self, host: &HostVolume) -> bool {
        let boot = self.parts.boot.as_ref();
        if boot.is_some_and(|boot| !host.is_of(boot)) {
            return false;
        }
        match self.backends().get(&host.plan.protocol) {
            Ok(backend) => backend.find(host).await.is_ok_and(Presence::is_connected),
            Err(_) => false,
        }
    }

    async fn any_with_claims_of(
        &self,
        record: &Record,
        wanted: &(dyn for<'r> Fn(&'r Record) -> bool + Sync),
    ) -> Result<bool, Error> {
        for claim in &record.host.plan.claims {
            if self.parts.journal.any(Key::Claim(claim), wanted).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The connections that no record has: one of them may be that of an unreadable record. Calls go on meanwhile, so what is found twice
    /// counts.
    async fn connections_left(&self, unreadable: bool) -> Result<Vec<Finding>, Error> {
        let first = self.survey_connections().await?;
        let again = self.survey_connections().await?;
        let found = first.orphans.into_iter();
        let found = found.filter(|orphan| again.orphans.contains(orphan));
        let found = found.map(|orphan| of_orphan(orphan, unreadable));
        Ok(found
            .chain(first.unseen.into_iter().map(of_unseen))
            .collect())
    }
}

/// Refuses an attachment whose disk a domain has while another record holds the disk's device: its end would find no other holder, and
/// take the device down under the guest. A mount that is in use cannot be taken down.
fn check_unshared(id: &AttachmentId, disk: Option<&str>, holders: &[Holder]) -> Result<(), Error> {
    let is_device = |claim: &Claim| match claim {
        Claim::Lun { .. } | Claim::Subsystem(_) | Claim::Controller { .. } => true,
        Claim::Device(_) | Claim::Mount(_) => false,
    };
    let shared = holders.iter().find(|it| is_device(&it.claim));
    match (disk, shared) {
        (Some(disk), Some(Holder { id: other, claim })) => Err(Error::DiskInUse {
            id: id.clone(),
            disk: disk.to_owned(),
            other: other.clone(),
            claim: claim.clone(),
        }),
        _ => Ok(()),
    }
}
