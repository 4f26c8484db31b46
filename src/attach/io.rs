//! The disks whose I/O may be counted.

use uuid::Uuid;

use super::Error;
use super::engine::Engine;
use crate::journal::Record;
use crate::libvirt::in_background;
use crate::model::{AttachmentId, DiskIo, DiskPlan, State, VolumeId};

/// A disk that a domain has.
#[derive(Debug, Clone)]
pub struct AttachedDisk {
    /// The attachment.
    pub id: AttachmentId,
    /// Its volume.
    pub volume: VolumeId,
    /// Its domain.
    pub domain: Uuid,
    /// The disk, as it was plugged in.
    pub disk: DiskPlan,
}

impl Engine {
    /// The disks of all volumes that are attached, in the order of their attachments' ids.
    ///
    /// # Errors
    /// Where the journal fails.
    pub async fn attached_disks(&self) -> Result<Vec<AttachedDisk>, Error> {
        let mut disks = Vec::new();
        self.0
            .each_record(|record| disks.extend(attached(&record)))
            .await?;
        Ok(disks)
    }

    /// The I/O of a domain's guest on these disks, in their order; `None`: nobody counts for that disk. No call waits for it.
    ///
    /// # Errors
    /// Where the hypervisor fails.
    pub async fn disk_io(
        &self,
        domain: Uuid,
        disks: &[DiskPlan],
    ) -> Result<Vec<Option<DiskIo>>, Error> {
        let asked = self.0.parts.hypervisor.disk_io(domain, disks);
        Ok(in_background(asked).await?)
    }
}

fn attached(record: &Record) -> Option<AttachedDisk> {
    let domain = record.domain.as_ref()?;
    (record.state() == State::Attached).then(|| AttachedDisk {
        id: record.id.clone(),
        volume: record.volume.clone(),
        domain: domain.uuid,
        disk: record.disk.clone(),
    })
}
