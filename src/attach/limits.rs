//! Limits on the I/O of a disk that a guest uses, and what the guest did on it.
//!
//! Invariants: the journal has neither, since nothing is to be undone: limits last as long as the disk is plugged in, and a repeated call sets
//! the same limits again; reading either touches no storage; setting limits may wait for requests under way, in QEMU and so for the whole guest,
//! and so the volume is inspected first, as before a plug.

use super::Error;
use super::engine::Engine;
use super::inner::Inner;
use super::observe::{Observed, Reality};
use super::request::{IoLimits, IoTuneRequest};
use crate::admission::{Admitted, Grant};
use crate::journal::Record;
use crate::libvirt::{HypervisorError, check_io_tune};
use crate::model::{AttachmentId, DiskIo, Domain, IoTune, State};

/// A guest's use of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskStats {
    /// The attachment.
    pub id: AttachmentId,
    /// I/O since the disk was plugged in; `None`: the hypervisor does not count it, or no running domain has the disk.
    pub io: Option<DiskIo>,
    /// The limits in force.
    pub tune: IoTune,
}

impl Engine {
    /// Replaces the limits on the I/O of an attachment's disk, and returns those in force afterwards.
    ///
    /// # Errors
    /// If QEMU cannot have the limits, or the hypervisor fails: a disk in a running domain and in its persistent configuration may then have
    /// the new limits in the first alone, until the call is repeated.
    pub async fn set_io_tune(&self, request: Admitted<IoTuneRequest>) -> Result<IoTune, Error> {
        let engine = self.clone();
        let deadline = request.deadline();
        let (grant, request) = request.into_parts();
        let job = self.job_on(&request.id, &grant, deadline).await?;
        self.run(request.id.clone(), job, async move {
            engine.0.set_io_tune(&grant, request).await
        })
        .await
    }

    /// The guest's I/O on an attachment's disk, and the limits in force.
    ///
    /// # Errors
    /// If no domain has the disk, or the hypervisor fails.
    pub async fn stats(&self, id: Admitted<AttachmentId>) -> Result<DiskStats, Error> {
        let (grant, id) = id.into_parts();
        let (record, domain) = self.0.in_domain(&grant, id).await?;
        let hypervisor = &self.0.parts.hypervisor;
        let disk = &record.disk;
        let Some(tune) = hypervisor.io_tune(domain.uuid, disk).await? else {
            return Err(without_disk(&record));
        };
        let io = hypervisor
            .disk_io(domain.uuid, std::slice::from_ref(disk))
            .await?;
        Ok(DiskStats {
            io: io.into_iter().next().flatten(),
            tune,
            id: record.id,
        })
    }
}

impl Inner {
    async fn set_io_tune(&self, grant: &Grant, request: IoTuneRequest) -> Result<IoTune, Error> {
        let (record, domain) = self.in_domain(grant, request.id).await?;
        let hypervisor = &self.parts.hypervisor;
        let tune = match request.limits {
            IoLimits::Fixed(tune) => tune,
            IoLimits::Qos(specs) => match specs.needs_size() {
                true => match hypervisor.size(domain.uuid, &record.disk).await? {
                    Some(bytes) => specs.limits(bytes),
                    None => return Err(no_size(&domain)),
                },
                false => specs.limits(0),
            },
        };
        check_io_tune(&tune)?;
        let backend = self.backends().get(&record.host.plan.protocol)?;
        backend.inspect(&record.host).await?;
        let set = hypervisor
            .set_io_tune(domain.uuid, &record.disk, &tune)
            .await?;
        let in_force = match set {
            Some(()) => hypervisor.io_tune(domain.uuid, &record.disk).await?,
            None => None,
        };
        let in_force = in_force.ok_or_else(|| without_disk(&record))?;
        tracing::info!(limits = ?in_force.limits().collect::<Vec<_>>(), group = in_force.group_name, "limited");
        Ok(in_force)
    }

    /// The record of an attachment whose disk a domain is to have.
    async fn in_domain(&self, grant: &Grant, id: AttachmentId) -> Result<(Record, Domain), Error> {
        let Some(record) = self.granted(grant, &id).await? else {
            return Err(Error::NotFound { id });
        };
        let Some(domain) = record.domain.clone() else {
            return Err(Error::NoDomain { id });
        };
        match record.state() {
            State::Attached | State::Detaching => Ok((record, domain)),
            State::Lost => Err(without_disk(&record)),
            State::Failed => Err(Error::CleanupRequired { id }),
            state => {
                let state = state.as_str();
                Err(Error::InProgress { id, state })
            }
        }
    }
}

/// Limits by size need a guest that sees the disk.
fn no_size(domain: &Domain) -> Error {
    Error::Hypervisor(HypervisorError::DomainState {
        domain: domain.to_string(),
        state: "does not run",
        scope: "disk has no size to have limits by",
        hint: "start it first, or give limits that do not depend on the size",
    })
}

fn without_disk(record: &Record) -> Error {
    Observed::from(Reality::Broken).lost(record)
}
