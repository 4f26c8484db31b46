//! Devices made read-only for attachments that only read them: writable again once no such attachment uses the device.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

use super::fabric::Block;
use super::{DEVICES, INSPECT_TIMEOUT, NvmeBackend};
use crate::backend::BackendError;
use crate::backend::mount::host;
use crate::model::{Access, HostVolume, Wwid};
use crate::sys::worker::{Job, WorkerError};

/// Devices that are read-only only because of attachments, by identity and `diskseq`. The next daemon restores them from the journal
/// ([`crate::model::Found::protected`]).
#[derive(Debug, Default)]
pub(super) struct Protected(Mutex<BTreeSet<(Wwid, Option<u64>)>>);

impl Protected {
    pub(super) fn note(&self, identity: &Wwid, sequence: Option<u64>) {
        self.lock().insert((identity.clone(), sequence));
    }

    pub(super) fn has(&self, block: &Block) -> bool {
        self.lock().contains(&(block.wwid.clone(), block.sequence))
    }

    fn forget(&self, block: &Block) {
        self.lock().remove(&(block.wwid.clone(), block.sequence));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<(Wwid, Option<u64>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NvmeBackend {
    /// Makes the device read-only or writable; returns whether it is read-only only because of attachments.
    pub(super) async fn set_access(
        &self,
        block: &Block,
        access: Access,
    ) -> Result<bool, BackendError> {
        let node = Path::new(DEVICES).join(&block.name);
        // A device that was read-only before stays so: the storage or the operator wants that.
        let protected = access.is_read_only() && (!block.read_only || self.protected.has(block));
        let job = match access {
            Access::ReadOnly => Job::SetReadOnly(node.clone()),
            // The device stays while other volumes of the subsystem are connected, and keeps the access of its last user.
            Access::ReadWrite => Job::SetWritable(node.clone()),
        };
        if protected {
            // Note this first, as the worker may act after its deadline.
            self.protected.note(&block.wwid, block.sequence);
        }
        let set = self.workers.run(job, INSPECT_TIMEOUT).await;
        set.map_err(host(|| format!("set the access to {}", node.display())))?;
        if !access.is_read_only() {
            self.protected.forget(block);
        }
        Ok(protected)
    }

    /// Makes the volume's device writable again, if it stays: by controllers of others, or for other volumes of the subsystem.
    pub(super) async fn unprotect(&self, volume: &HostVolume) -> Result<(), BackendError> {
        let Some(block) = self.device(volume).await? else {
            return Ok(());
        };
        let node = Path::new(DEVICES).join(&block.name);
        let job = Job::SetWritable(node.clone());
        match self.workers.run(job, INSPECT_TIMEOUT).await {
            Ok(_) => tracing::info!(device = %node.display(), "writable again"),
            // The device went away meanwhile.
            Err(WorkerError::Failed {
                errno: Errno::ENOENT | Errno::ENXIO | Errno::ENODEV,
                ..
            }) => {}
            Err(error) => {
                let action = || format!("make {} writable again", node.display());
                return Err(host(action)(error));
            }
        }
        self.protected.forget(&block);
        Ok(())
    }
}
