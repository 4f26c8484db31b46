//! What comes of writing out a block device before it goes, for every backend that has devices.

use nix::errno::Errno;

use super::BackendError;
use crate::sys::worker::WorkerError;

/// Advice for a device that was not flushed.
const LATER: &str =
    "try again when its server answers, or by force, which gives up what was written last";

/// Who uses a device besides guests.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Nobody.
    None,
    /// This host: it is mounted, or part of another device.
    ByHost,
}

/// A device cannot be let go of.
pub(super) fn busy(device: String, why: String) -> BackendError {
    BackendError::DeviceBusy { device, why }
}

/// What this host itself uses stays.
pub(super) fn used_by_host(name: &str) -> BackendError {
    busy(
        format!("/dev/{name}"),
        format!(
            "this host itself uses it (EBUSY), such as for a mounted file system or LVM: find it with lsblk /dev/{name}, end its \
             use, and try again"
        ),
    )
}

/// What came of a device's flush; `force`: where that fails, what was written last is lost.
pub(super) fn judge<T>(
    name: &str,
    flushed: Result<T, WorkerError>,
    force: bool,
) -> Result<Use, BackendError> {
    let error = match flushed {
        Ok(_) => return Ok(Use::None),
        Err(error) => error,
    };
    match error {
        WorkerError::Failed {
            errno: Errno::EBUSY,
            ..
        } => Ok(Use::ByHost),
        // It went away meanwhile.
        WorkerError::Failed {
            errno: Errno::ENOENT | Errno::ENXIO | Errno::ENODEV,
            ..
        } => Ok(Use::None),
        // To go on may be what frees the workers that are stuck.
        WorkerError::Failed { .. } | WorkerError::Deadline { .. } | WorkerError::Stuck { .. }
            if force =>
        {
            tracing::warn!(device = name, error = %crate::model::chain(&error), "not flushed");
            Ok(Use::None)
        }
        // The kernel forgets what it could not write, and tells so once.
        error @ WorkerError::Failed { .. } => Err(busy(
            format!("/dev/{name}"),
            format!("{error}: what was written last is lost; detach it again to go on without"),
        )),
        error @ WorkerError::Stuck { .. } => Err(BackendError::WorkersStuck(error)),
        error @ WorkerError::Deadline { .. } => Err(BackendError::DeviceTimeout {
            device: format!("/dev/{name}"),
            why: format!("{error}; {LATER}"),
        }),
        error => Err(busy(format!("/dev/{name}"), format!("{error}; {LATER}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn force_gives_up_what_cannot_be_flushed_and_nothing_else() {
        let failed = |errno| {
            Err(WorkerError::Failed {
                step: "flush /dev/nvme0n1".to_owned(),
                errno,
            })
        };
        let silent = || {
            Err(WorkerError::Deadline {
                pid: 1,
                within: Duration::from_secs(15),
                reaped: false,
            })
        };
        for force in [false, true] {
            let judged = |flushed: Result<(), _>| judge("nvme0n1", flushed, force).ok();
            assert_eq!(judged(Ok(())), Some(Use::None));
            assert_eq!(judged(failed(Errno::ENODEV)), Some(Use::None));
            assert_eq!(judged(failed(Errno::EBUSY)), Some(Use::ByHost));
            let given_up = force.then_some(Use::None);
            assert_eq!(judged(failed(Errno::EIO)), given_up);
            assert_eq!(judged(silent()), given_up);
            let stuck = WorkerError::Stuck {
                server: "iscsi 10.0.0.1:3260".to_owned(),
                pids: vec![1],
            };
            assert_eq!(judged(Err(stuck)), given_up);
            // Nobody has tried to flush it.
            let no_worker = WorkerError::Start {
                executable: "/usr/sbin/volattachd-worker".into(),
                source: std::io::ErrorKind::NotFound.into(),
            };
            assert_eq!(judged(Err(no_worker)), None);
        }
    }
}
