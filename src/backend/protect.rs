//! Devices of targets that are read-only for attachments that only read them, and would stay so after the last of them: writable again then.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;

use super::BackendError;
use super::mount::host;
use super::release::busy;
use crate::model::{Access, Device, Wwid};
use crate::sys::worker::{Job, ProtectJob, WorkerError, Workers};

/// Time limit for making a device read-only or writable.
const SET: Duration = Duration::from_secs(15);

/// Devices that are read-only only because of attachments, by identity and `diskseq`. The next daemon restores them from the journal, which
/// says so before a device is made read-only ([`crate::model::Found::protected`]).
#[derive(Debug, Default)]
pub(super) struct Protected(Mutex<BTreeSet<(Wwid, Option<u64>)>>);

impl Protected {
    pub(super) fn note(&self, device: &Device) {
        self.lock().insert(key(device));
    }

    pub(super) fn has(&self, device: &Device) -> bool {
        self.lock().contains(&key(device))
    }

    /// Whether the device becomes read-only by an attachment with that access, or is so by others alone. A device that was read-only before them
    /// stays so: the storage or the operator wants that.
    pub(super) fn is_due(&self, device: &Device, access: Access, read_only: bool) -> bool {
        access.is_read_only() && (!read_only || self.has(device))
    }

    /// Makes the device read-only, for an attachment whose record in the journal already says so.
    pub(super) async fn set(&self, workers: &Workers, device: &Device) -> Result<(), BackendError> {
        // Note this first, as the worker may act after its deadline.
        self.note(device);
        let set = set_read_only(workers, device, true).await;
        set.map_err(host(|| format!("make {} read-only", device.path.display())))
    }

    /// Makes the device writable again, unless it is gone. `force`: it may stay read-only if it does not answer.
    ///
    /// # Errors
    /// `DEVICE_BUSY` if it does not answer. open(2) also fails with `ENXIO` while the kernel has a disk offline, which may come back.
    pub(super) async fn unset(
        &self,
        workers: &Workers,
        device: &Device,
        force: bool,
    ) -> Result<(), BackendError> {
        let path = device.path.display();
        match set_read_only(workers, device, false).await {
            Ok(()) => tracing::info!(device = %path, "writable again"),
            Err(WorkerError::Failed {
                errno: Errno::ENOENT | Errno::ESTALE,
                ..
            }) => {}
            Err(error) if force => tracing::warn!(device = %path, %error, "stays read-only"),
            Err(error @ WorkerError::Stuck { .. }) => {
                return Err(BackendError::WorkersStuck(error));
            }
            Err(error) => {
                let device = path.to_string();
                let why = format!(
                    "it is to be writable again: {error}; try again when its server answers, or by force, which leaves it read-only"
                );
                return Err(match error {
                    WorkerError::Deadline { .. } => BackendError::DeviceTimeout { device, why },
                    _ => busy(device, why),
                });
            }
        }
        self.forget(device);
        Ok(())
    }

    /// Forgets a device that is gone.
    pub(super) fn forget(&self, device: &Device) {
        self.lock().remove(&key(device));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<(Wwid, Option<u64>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(device: &Device) -> (Wwid, Option<u64>) {
    (device.identity.clone(), device.sequence)
}

/// Makes exactly this device read-only or writable.
async fn set_read_only(
    workers: &Workers,
    device: &Device,
    read_only: bool,
) -> Result<(), WorkerError> {
    let job = ProtectJob {
        device: device.path.clone(),
        sequence: device.sequence,
        read_only,
    };
    workers.run(Job::Protect(job), SET).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_only_before_stays_so() {
        let protected = Protected::default();
        let device = |sequence| Device {
            path: "/dev/sda".into(),
            identity: Wwid::as_spelled("x".to_owned()),
            sequence: Some(sequence),
        };
        let is_due = |access, read_only| protected.is_due(&device(1), access, read_only);
        assert!(!is_due(Access::ReadOnly, true));
        assert!(is_due(Access::ReadOnly, false));
        protected.note(&device(2));
        assert!(!is_due(Access::ReadOnly, true), "another of its name");
        protected.note(&device(1));
        assert!(is_due(Access::ReadOnly, true), "by another attachment");
        assert!(!is_due(Access::ReadWrite, true));
    }
}
