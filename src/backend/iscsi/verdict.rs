//! Decides by a disk's answer whether the disk is still the same volume. Pure, so that tests over a simulated world share the decision.

use nix::errno::Errno;

use super::{PROTOCOL, by_path, volume_at};
use crate::backend::{BackendError, mount};
use crate::model::{TargetPath, Wwid};
use crate::sys::scsi::Told;
use crate::sys::worker::{Reply, WorkerError};

/// Identity of a block device, as reported by the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The identity.
    pub wwid: Wwid,
    /// Sequence number of the device that reported; see [`crate::model::Device::sequence`].
    pub sequence: Option<u64>,
}

/// Reads the identity of the disk `block` from the result of asking for it.
///
/// # Errors
/// `DEVICE_IDENTITY` if the disk's own answer shows no identity; another error if no answer was received.
pub fn heard(
    path: &TargetPath,
    block: &str,
    asked: Result<Reply, WorkerError>,
) -> Result<Identity, BackendError> {
    match asked {
        Ok(Reply::Identity(told)) => some(path, block, told),
        Ok(_) => Err(BackendError::not_mine(PROTOCOL, "another job's reply")),
        Err(error) => Err(untold(path, &format!("/dev/{block}"), error)),
    }
}

/// Returns the identity if the disk is still `first`; `None`: another volume, or no volume any more.
///
/// # Errors
/// No answer was received, which proves nothing: users keep the disk until it answers again.
pub fn still(
    first: Option<&Wwid>,
    now: Result<Identity, BackendError>,
) -> Result<Option<Identity>, BackendError> {
    match now {
        Ok(now) => Ok((Some(&now.wwid) == first).then_some(now)),
        // The disk's own answer: it has no identity, or is no volume any more.
        Err(BackendError::DeviceIdentity { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Requires the identity that every disk must report.
pub(super) fn some(path: &TargetPath, block: &str, told: Told) -> Result<Identity, BackendError> {
    let sequence = told.sequence;
    match told.identity {
        Some(wwid) => Ok(Identity { wwid, sequence }),
        None => Err(BackendError::DeviceIdentity {
            volume: volume_at(path),
            why: format!(
                "/dev/{block} tells no identity of its own (VPD page 83h), so it could be any volume"
            ),
        }),
    }
}

/// Why a disk did not report its identity. The disk's own error, `EIO`, means that no volume is at the LUN any more. Other errors come from
/// this host and prove nothing about the disk: EPERM, or `ENXIO` and `ENODEV`, which open(2) and the request return while the kernel has
/// the disk offline (drivers/scsi/sd.c, `sd_open`).
pub(super) fn untold(path: &TargetPath, disk: &str, error: WorkerError) -> BackendError {
    match error {
        WorkerError::Failed {
            errno: Errno::EIO | Errno::ETIMEDOUT,
            ..
        }
        | WorkerError::Deadline { .. } => silent(path, disk, error),
        WorkerError::Failed {
            errno: errno @ (Errno::ENXIO | Errno::ENODEV),
            ..
        } => BackendError::ServerLost {
            path: by_path(path),
            why: format!(
                "{disk} is gone, or the kernel has it offline ({errno:?}): if its target answers and /sys/block/*/device/state says \
                 offline, write running there"
            ),
            silent: false,
        },
        error => mount::host(|| format!("ask {disk} who it is"))(error),
    }
}

/// Why a disk could not be examined.
pub(super) fn silent(path: &TargetPath, disk: &str, error: WorkerError) -> BackendError {
    match error {
        WorkerError::Failed {
            step,
            errno: Errno::ETIMEDOUT,
        } => BackendError::ServerLost {
            path: by_path(path),
            why: format!("cannot {step}, of {disk}: ETIMEDOUT"),
            silent: true,
        },
        WorkerError::Failed { step, errno } => BackendError::DeviceIdentity {
            volume: volume_at(path),
            why: format!(
                "cannot {step}, of {disk}: {} ({errno:?}); the storage may not map the LUN any more, or not for writing",
                errno.desc().to_lowercase()
            ),
        },
        WorkerError::Deadline { within, .. } => BackendError::ServerLost {
            path: by_path(path),
            why: format!("nothing within {} s", within.as_secs()),
            silent: true,
        },
        error => mount::host(|| format!("ask {disk} who it is"))(error),
    }
}
