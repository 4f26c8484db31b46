//! Whether a disk is still the volume that it was, by what came of asking it. Pure, so that tests over a made-up world decide by the
//! same.

use nix::errno::Errno;

use super::{PROTOCOL, by_path, volume_at};
use crate::backend::{BackendError, mount};
use crate::model::{TargetPath, Wwid};
use crate::sys::scsi::Told;
use crate::sys::worker::{Reply, WorkerError};

/// Who a block device is, by its own word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Who it is.
    pub wwid: Wwid,
    /// The number of the device that told; see [`crate::model::Device::sequence`].
    pub sequence: Option<u64>,
}

/// Who the disk `block` is, by what came of asking it.
///
/// # Errors
/// `DEVICE_IDENTITY` where its own word is that it is nobody; others where it was not heard.
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

/// Who a disk is that was first seen as `first`, and now was heard so; `None`: another volume, or none any more.
///
/// # Errors
/// Where it was not heard, which says nothing of it: whoever uses it is to have it still when it answers again.
pub fn still(
    first: Option<&Wwid>,
    now: Result<Identity, BackendError>,
) -> Result<Option<Identity>, BackendError> {
    match now {
        Ok(now) => Ok((Some(&now.wwid) == first).then_some(now)),
        // Its own word: it has no identity, or is no volume any more.
        Err(BackendError::DeviceIdentity { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// An identity, which every disk must have.
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

/// Why a disk that was asked who it is did not tell. An error of its own, `EIO`, says that the LUN is none any more. Others are this
/// host's and say nothing of it: EPERM, or `ENXIO` and `ENODEV`, which open(2) and the request give while the kernel has the disk offline
/// (drivers/scsi/sd.c, `sd_open`).
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
        },
        error => mount::host(|| format!("ask {disk} who it is"))(error),
    }
}

/// Why a disk was not looked at.
pub(super) fn silent(path: &TargetPath, disk: &str, error: WorkerError) -> BackendError {
    match error {
        WorkerError::Failed {
            step,
            errno: Errno::ETIMEDOUT,
        } => BackendError::ServerLost {
            path: by_path(path),
            why: format!("cannot {step}, of {disk}: ETIMEDOUT"),
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
        },
        error => mount::host(|| format!("ask {disk} who it is"))(error),
    }
}
