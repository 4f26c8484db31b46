//! Decides on an attachment's access: puts what request, journal and configuration know of the volume before the rules of
//! [`crate::model`].

use std::sync::Arc;

use super::Error;
use super::inner::Inner;
use super::request::Wanted;
use crate::backend::Backends;
use crate::journal::Record;
use crate::model::{
    Access, AccessDecision, AccessQuestion, AccessSource, Asker, AttachmentId, HostPlan,
    ImageFormat, SetPermissions, Use, VolumeFacts, VolumeOwner, VolumeRights,
};

/// What this host knows of a volume, whatever a request says of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KnownVolume {
    /// Who may use it.
    pub rights: VolumeRights,
    /// Who uses it on this host.
    pub uses: Vec<Use>,
}

impl KnownVolume {
    /// What the volume's records and the permissions set here tell. The attachment `but` is no use: it is the one that is asked about.
    pub(super) fn new(
        records: &[Arc<Record>],
        set: Option<SetPermissions>,
        but: Option<&AttachmentId>,
    ) -> Self {
        // Of those that say something, the last: it was told with the newest attachment.
        let mut newest: Vec<&Arc<Record>> = records.iter().collect();
        newest.sort_by_key(|record| record.course.rank());
        let mut told = newest.iter().rev().map(|record| &record.rights);
        let owner = told
            .clone()
            .map(|rights| &rights.owner)
            .find(|owner| **owner != VolumeOwner::default());
        let owner = owner.or(set.as_ref().map(|set| &set.owner));
        // What was set here and forgotten since does not come back by those who were attached by it.
        let permissions = told.find(|rights| rights.permissions.is_some() && !rights.set_here);
        let permissions = permissions.and_then(|rights| rights.permissions);
        let others = records.iter().filter(|record| Some(&record.id) != but);
        Self {
            rights: VolumeRights {
                owner: owner.cloned().unwrap_or_default(),
                permissions: set.as_ref().map(|set| set.permissions).or(permissions),
                set_here: set.is_some(),
            },
            uses: others.map(|record| record.to_use()).collect(),
        }
    }

    /// With what a request says. What was set here counts for more, and an owner is told whole or not at all.
    fn with(self, facts: Option<&VolumeFacts>) -> Self {
        let Self {
            mut rights,
            mut uses,
        } = self;
        if let Some(facts) = facts {
            if facts.owner != VolumeOwner::default() {
                rights.owner = facts.owner.clone();
            }
            if !rights.set_here {
                rights.permissions = facts.permissions.or(rights.permissions);
            }
            uses.extend(facts.attached.iter().cloned());
        }
        Self { rights, uses }
    }
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decided {
    /// Read-only or read-write, and why.
    pub(super) access: AccessDecision,
    /// What is known of who may use the volume.
    pub(super) rights: VolumeRights,
    /// Whether somebody writes the volume that is only read here.
    pub(super) beside_writer: bool,
}

impl Decided {
    /// Whether it makes the same attachment: for other reasons, perhaps.
    pub(super) fn makes_the_same(&self, other: &Self) -> bool {
        self.access.access == other.access.access && self.beside_writer == other.beside_writer
    }
}

/// Decides on the access.
pub(super) fn decide(
    backends: &Backends,
    wanted: &Wanted,
    asker: &Asker,
    known: KnownVolume,
) -> Result<Decided, Error> {
    let backend = backends.get(wanted.info.protocol.name())?;
    let mut read_only_by = Vec::new();
    if wanted.access == Some(Access::ReadOnly) {
        read_only_by.push(AccessSource::Request);
    }
    read_only_by.extend(wanted.info.common.read_only_by.iter().cloned());
    if backend.read_only(&wanted.info.protocol) {
        read_only_by.push(AccessSource::Configuration);
    }
    let KnownVolume { rights, uses } = known.with(wanted.facts.as_ref());
    let access = AccessQuestion {
        asker,
        rights: &rights,
        uses: &uses,
        boot: wanted.boots(),
        require_rw: wanted.require_rw,
        read_only_by,
    }
    .decide()?;
    let written = uses.iter().any(|it| !it.access.is_read_only());
    Ok(Decided {
        beside_writer: written && access.access.is_read_only(),
        access,
        rights,
    })
}

impl Inner {
    /// The servers of a request. They depend on the connection info alone, not on the access that is decided on later. None for a request that
    /// cannot be planned: a repeat may have its answer all the same, and any other fails before it touches a server.
    pub(super) fn servers_for(&self, wanted: &Wanted) -> Vec<String> {
        let protocol = &wanted.info.protocol;
        let access = wanted.access.unwrap_or(Access::ReadWrite);
        let backend = self.backends().get(protocol.name());
        let plan = backend.and_then(|backend| backend.plan(protocol, access));
        plan.map_or_else(|_| Vec::new(), |plan| plan.servers())
    }
}

/// Decides on the host's side.
pub(super) fn plan_host(
    backends: &Backends,
    wanted: &Wanted,
    decided: &Decided,
) -> Result<HostPlan, Error> {
    let backend = backends.get(wanted.info.protocol.name())?;
    let host = backend.plan(&wanted.info.protocol, decided.access.access)?;
    if decided.beside_writer && host.format != ImageFormat::Raw {
        return Err(Error::ImageWritten {
            volume: wanted.volume.clone(),
            format: host.format,
        });
    }
    Ok(host)
}
