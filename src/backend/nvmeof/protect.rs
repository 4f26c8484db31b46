//! Devices made read-only for attachments that only read them: writable again once no attachment uses their subsystem.
//!
//! Not sooner, since another attachment may read the same namespace: attachments claim subsystems and portals, not namespaces.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

use super::fabric::Block;
use super::{DEVICES, INSPECT_TIMEOUT, NvmeBackend};
use crate::backend::BackendError;
use crate::backend::mount::host;
use crate::model::{Access, Device, Wwid};
use crate::sys::worker::{Job, WorkerError};

/// Devices that are read-only only because of attachments. The next daemon restores them from the journal
/// ([`crate::model::Found::protected`]).
#[derive(Debug, Default)]
pub(super) struct Protected(Mutex<Vec<Noted>>);

#[derive(Debug, PartialEq, Eq)]
struct Noted {
    nqn: String,
    identity: Wwid,
    sequence: Option<u64>,
}

impl Protected {
    pub(super) fn note(&self, nqn: &str, identity: &Wwid, sequence: Option<u64>) {
        let noted = Noted {
            nqn: nqn.to_owned(),
            identity: identity.clone(),
            sequence,
        };
        let mut all = self.lock();
        if !all.contains(&noted) {
            all.push(noted);
        }
    }

    /// Notes the device of an attachment in the journal.
    pub(super) fn recall(&self, nqn: &str, device: &Device) {
        self.note(nqn, &device.identity, device.sequence);
    }

    pub(super) fn has(&self, block: &Block) -> bool {
        self.lock().iter().any(|it| it.is(block))
    }

    fn forget(&self, block: &Block) {
        self.lock().retain(|it| !it.is(block));
    }

    fn forget_all(&self, nqn: &str) {
        self.lock().retain(|it| it.nqn != nqn);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Noted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Noted {
    fn is(&self, block: &Block) -> bool {
        self.identity == block.wwid && self.sequence == block.sequence
    }
}

impl NvmeBackend {
    /// Makes the device read-only or writable; returns whether it is read-only only because of attachments.
    pub(super) async fn set_access(
        &self,
        nqn: &str,
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
            self.protected.note(nqn, &block.wwid, block.sequence);
        }
        let set = self.workers.run(job, INSPECT_TIMEOUT).await;
        set.map_err(host(|| format!("set the access to {}", node.display())))?;
        if !access.is_read_only() {
            self.protected.forget(block);
        }
        Ok(protected)
    }

    /// Makes the subsystem's devices writable again if only attachments made them read-only: those kept by the controllers of others.
    pub(super) async fn unprotect(&self, nqn: &str) -> Result<(), BackendError> {
        let blocks = self.blocks(nqn).await?;
        for block in blocks.iter().filter(|it| self.protected.has(it)) {
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
        }
        self.protected.forget_all(nqn);
        Ok(())
    }
}
