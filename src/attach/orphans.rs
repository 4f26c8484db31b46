//! Leftovers of a lost journal: disks in domains, and connections of this host, that no record has.
//!
//! No record is made of them: nothing on the host tells the volume, its owner, who may use it, or the fingerprint of the request
//! (docs/decisions/018-a-lost-journal.md).

use tokio::time::Instant;
use uuid::Uuid;

use super::Error;
use super::engine::Engine;
use super::inner::{Inner, volumes_of};
use crate::admission::Grant;
use crate::backend::{BackendError, Unrecorded};
use crate::journal::{Kind, Record};
use crate::libvirt::{DiskView, DomainView, HypervisorError, Unplug};
use crate::model::{AttachmentId, Dialect, DiskPlan, Domain, DomainRef, Reason, Scope};

/// Something that volattach made on this host, or may have made, and that no record has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// The thing and its place, as `disk vdb of attachment a1 in web (…), from /dev/sdb`.
    pub what: String,
    /// Command that removes it.
    pub mend: String,
    /// Whether volattach made it for sure.
    pub own: bool,
}

impl From<Unrecorded> for Orphan {
    fn from(it: Unrecorded) -> Self {
        Self {
            what: it.what,
            mend: it.mend,
            own: it.own,
        }
    }
}

/// Orphans, as far as this host can be looked at.
pub(super) struct Survey {
    pub(super) orphans: Vec<Orphan>,
    pub(super) unseen: Vec<Unseen>,
}

/// Part of this host that cannot be looked at.
pub(super) struct Unseen {
    /// The part.
    pub(super) what: String,
    /// Command that shows more.
    pub(super) mend: String,
    pub(super) error: Error,
}

/// A disk with the alias of an attachment that has no record.
pub(super) struct Disk {
    id: AttachmentId,
    domain: Domain,
    dialect: Dialect,
    scope: Scope,
    view: DiskView,
}

impl Disk {
    fn is_of(&self, record: &Record) -> bool {
        self.id == record.id
            || self.view.serial.as_deref() == Some(record.volume.as_str())
            || self.view.source.as_deref() == Some(record.host.path())
    }

    /// Command that unplugs the disk. libvirt's libxl driver knows no aliases, and by the target alone the daemon could take another's disk.
    /// `lost`: the journal was lost, and only then a detach looks for disks without a record.
    fn mend(&self, lost: bool) -> String {
        let config = if self.scope.config() { " --config" } else { "" };
        let live = if self.scope.live() { " --live" } else { "" };
        let domain = self.domain.uuid;
        match self.dialect {
            Dialect::Qemu if lost => format!("volattach detach {}", self.id),
            Dialect::Qemu => {
                let alias = self.id.alias();
                format!("virsh detach-device-alias {domain} {alias}{live}{config}")
            }
            Dialect::Xen => {
                let target = &self.view.target;
                format!("virsh detach-disk {domain} {target}{live}{config}")
            }
        }
    }

    /// `lost`: as for [`Self::mend`].
    pub(super) fn orphan(&self, lost: bool) -> Orphan {
        Orphan {
            what: format!(
                "disk {} of attachment {} in {}, from {}",
                self.view.target,
                self.id,
                self.domain,
                self.plan().source.display()
            ),
            mend: self.mend(lost),
            own: true,
        }
    }

    fn plan(&self) -> DiskPlan {
        DiskPlan {
            alias: self.id.alias(),
            source: self.view.source.clone().unwrap_or_default(),
            sequence: None,
            target: self.view.target.clone(),
            xml: String::new(),
            scope: self.scope,
            dialect: self.dialect,
            left_out: Vec::new(),
        }
    }
}

impl Engine {
    /// Finds what volattach made on this host, or may have made, and no record has.
    ///
    /// # Errors
    /// Where a domain or this host cannot be looked at: nothing is left out.
    pub async fn orphans(&self) -> Result<Vec<Orphan>, Error> {
        let survey = self.0.survey_host().await?;
        match survey.unseen.into_iter().next() {
            Some(unseen) => Err(unseen.error),
            None => Ok(survey.orphans),
        }
    }

    /// Logs each orphan of a lost journal that is not in `told`, and forgets the loss once nothing that volattach made is found.
    ///
    /// # Errors
    /// As [`Self::orphans`], and where the journal fails.
    pub(crate) async fn review_loss(&self, told: &mut Vec<Orphan>) -> Result<(), Error> {
        let journal = &self.0.parts.journal;
        if journal.loss().await?.is_none() {
            return Ok(());
        }
        let found = self.orphans().await?;
        for Orphan { what, mend, own } in found.iter().filter(|it| !told.contains(it)) {
            tracing::error!(what, own, mend, "no record of it: the journal was lost");
        }
        *told = found;
        // Unreadable records may have connections that look like orphans, so those are never taken down by the daemon.
        if !told.iter().any(|orphan| orphan.own) {
            journal.forget_loss().await?;
            tracing::info!("nothing is left of the lost journal's attachments");
        }
        Ok(())
    }
}

impl Inner {
    /// Looks for orphans everywhere. Calls go on meanwhile, so only an orphan found twice is one: a record is read at another time than its
    /// connection.
    pub(super) async fn survey_host(&self) -> Result<Survey, Error> {
        let mut survey = self.survey_host_once().await?;
        if survey.orphans.is_empty() {
            return Ok(survey);
        }
        let again = self.survey_host_once().await?;
        survey.orphans.retain(|it| again.orphans.contains(it));
        // A part seen only the second time may have orphans that the first look did not find.
        for unseen in again.unseen {
            if !survey.unseen.iter().any(|it| it.what == unseen.what) {
                survey.unseen.push(unseen);
            }
        }
        Ok(survey)
    }

    async fn survey_host_once(&self) -> Result<Survey, Error> {
        let parts = &self.parts;
        let lost = parts.journal.loss().await?.is_some();
        let (disks, unseen) = self.survey_disks().await;
        let orphans = disks.iter().map(|disk| disk.orphan(lost));
        let mut survey = Survey {
            orphans: orphans.collect(),
            unseen,
        };
        let connections = self.survey_connections().await?;
        survey.orphans.extend(connections.orphans);
        survey.unseen.extend(connections.unseen);
        Ok(survey)
    }

    /// The connections alone.
    pub(super) async fn survey_connections(&self) -> Result<Survey, Error> {
        let mut survey = Survey {
            orphans: Vec::new(),
            unseen: Vec::new(),
        };
        let records = self.parts.journal.all().await?;
        let volumes = volumes_of(records.iter()).await;
        for backend in self.backends().iter() {
            match backend.unrecorded(&volumes).await {
                Ok(found) => survey.orphans.extend(found.into_iter().map(Orphan::from)),
                Err(error) => {
                    let unseen = Unseen::connections(backend.protocol(), error);
                    survey.unseen.push(unseen);
                }
            }
        }
        Ok(survey)
    }

    /// Ends an attachment without a record: it is ended already, unless the journal was lost and a domain still has its disk. That disk is
    /// unplugged; its connection stays.
    pub(super) async fn end_unrecorded(
        &self,
        grant: &Grant,
        id: AttachmentId,
        kind: Kind,
    ) -> Result<(), Error> {
        if self.parts.journal.loss().await?.is_none() {
            return Ok(());
        }
        if kind == Kind::Connect {
            tracing::warn!(
                "it may still be connected: the journal was lost, and no connection shows its attachment"
            );
            return Ok(());
        }
        for disk in self.orphan_disks().await? {
            if disk.id != id {
                continue;
            }
            // Nothing tells the volume's owner, so a user alone could take another's disk.
            if disk.dialect == Dialect::Xen || !grant.may_vouch() {
                let (domain, target) = (disk.domain.clone(), disk.view.target.clone());
                return Err(Error::Orphan {
                    mend: disk.mend(true),
                    id,
                    domain,
                    target,
                });
            }
            self.unplug_orphan(disk).await?;
        }
        Ok(())
    }

    async fn unplug_orphan(&self, disk: Disk) -> Result<(), Error> {
        let plan = disk.plan();
        let hypervisor = &self.parts.hypervisor;
        let (domain, target) = (disk.domain, plan.target.clone());
        hypervisor.request_unplug(domain.uuid, &plan).await?;
        let deadline = Instant::now() + self.unplug_timeout();
        let waited = tokio::select! {
            waited = hypervisor.wait_unplugged(domain.uuid, &plan, deadline) => waited?,
            () = self.stopping.cancelled() => Unplug::Pending,
        };
        match waited {
            Unplug::Gone => {
                let source = &plan.source;
                tracing::warn!(%domain, target, ?source, "unplugged a disk without a record: its connection to this host stays");
                Ok(())
            }
            Unplug::Pending => Err(Error::UnplugPending { domain, target }),
            Unplug::Refused => Err(Error::UnplugRefused { domain, target }),
        }
    }

    /// Refuses a new record whose volume a disk without a record may have.
    pub(super) async fn check_orphans(&self, new: &Record) -> Result<(), Error> {
        if self.parts.journal.loss().await?.is_none() {
            return Ok(());
        }
        let disks = self.orphan_disks().await?;
        match disks.into_iter().find(|disk| disk.is_of(new)) {
            Some(disk) => Err(Error::VolumeInUse {
                volume: new.volume.clone(),
                other: disk.id,
                why: "the journal was lost, and with it the record of that attachment: detach it first",
            }),
            None => Ok(()),
        }
    }

    /// Finds the disks in all domains that have an attachment's alias and no record, readable or not.
    async fn orphan_disks(&self) -> Result<Vec<Disk>, Error> {
        let (disks, unseen) = self.survey_disks().await;
        match unseen.into_iter().next() {
            Some(unseen) => Err(unseen.error),
            None => Ok(disks),
        }
    }

    /// The same, as far as domains can be looked at.
    async fn survey_disks(&self) -> (Vec<Disk>, Vec<Unseen>) {
        let (disks, unseen) = self.marked_disks(None).await;
        let mut orphans = Vec::new();
        for disk in disks {
            // A record that cannot be read is a record too.
            if matches!(self.parts.journal.get(&disk.id).await, Ok(None)) {
                orphans.push(disk);
            }
        }
        (orphans, unseen)
    }

    /// Finds the disks of an attachment in its domain, or (`None`) in any.
    pub(super) async fn disks_of(
        &self,
        id: &AttachmentId,
        domain: Option<Uuid>,
    ) -> (Vec<Disk>, Vec<Unseen>) {
        let (mut disks, unseen) = self.marked_disks(domain).await;
        disks.retain(|disk| disk.id == *id);
        (disks, unseen)
    }

    /// Finds the disks with an attachment's alias, in one domain or (`None`) in all.
    async fn marked_disks(&self, domain: Option<Uuid>) -> (Vec<Disk>, Vec<Unseen>) {
        let hypervisor = &self.parts.hypervisor;
        let (mut found, mut unseen) = (Vec::new(), Vec::new());
        let domains = match domain {
            Some(domain) => vec![domain],
            None => match hypervisor.domains().await {
                Ok(domains) => domains,
                Err(error) => return (found, vec![Unseen::domains(error)]),
            },
        };
        for uuid in domains {
            let both = Scope::LiveAndConfig;
            match hypervisor.domain(&DomainRef::Uuid(uuid), both).await {
                Ok(view) => found.extend(marked_in(&view)),
                Err(HypervisorError::DomainNotFound { .. }) => {}
                // Each further domain would take as long to fail.
                Err(error) if error.reason() == Reason::HypervisorUnavailable => {
                    unseen.push(Unseen::domains(error));
                    break;
                }
                Err(error) => unseen.push(Unseen {
                    what: format!("domain {uuid}"),
                    mend: format!("virsh dumpxml {uuid}"),
                    error: error.into(),
                }),
            }
        }
        (found, unseen)
    }
}

/// The disks of one domain with an attachment's alias.
fn marked_in(view: &DomainView) -> Vec<Disk> {
    let mut found: Vec<Disk> = Vec::new();
    for disk in view.live.disks.iter().chain(&view.config.disks) {
        let Some(id) = disk.alias.as_deref().and_then(AttachmentId::of_alias) else {
            continue;
        };
        if found.iter().any(|it| it.id == id) {
            continue;
        }
        let has = |disks: &[DiskView]| disks.iter().any(|it| it.alias == disk.alias);
        found.push(Disk {
            id,
            domain: view.domain.clone(),
            dialect: view.dialect,
            scope: match (has(&view.live.disks), has(&view.config.disks)) {
                (true, true) => Scope::LiveAndConfig,
                (true, false) => Scope::Live,
                (false, _) => Scope::Config,
            },
            view: disk.clone(),
        });
    }
    found
}

impl Unseen {
    pub(super) fn connections(protocol: &str, error: BackendError) -> Self {
        Self {
            what: format!("connections of {protocol}"),
            mend: "journalctl -u volattachd".to_owned(),
            error: error.into(),
        }
    }

    fn domains(error: HypervisorError) -> Self {
        Self {
            what: "the domains".to_owned(),
            mend: "start libvirt's daemon (systemctl start libvirtd or virtqemud), on Xen xenstored too".to_owned(),
            error: error.into(),
        }
    }
}
