//! Taking a mount down, whatever is left of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use tokio::time::{Instant, sleep};

use super::{blocking, host, mountpoint};
use crate::backend::BackendError;
use crate::sys::mountinfo::Mounts;
use crate::sys::worker::{Job, WorkerError, Workers};

/// How long an unmount may take: of a dead server up to 77 s were seen, and neither force nor laziness help.
const DEADLINE: Duration = Duration::from_secs(90);

/// How long who has let go of a volume may take to close it: QEMU does so a moment after Xen has forgotten the disk that it served
/// (hw/xen/xen-bus.c, `xen_backend_device_destroy` follows a watch), and after its own end.
const CLOSING: Duration = Duration::from_secs(5);
/// How often the unmount is tried again meanwhile.
const AGAIN: Duration = Duration::from_millis(100);

/// Unmounts everything on and beneath the mount point (a DFS link mounts its target there), and removes it. Nothing
/// there is success.
pub(super) async fn take_down(workers: &Workers, target: &Path) -> Result<(), BackendError> {
    let started = Instant::now();
    let mut mounts = mount_table().await?;
    while let Some(mount_point) = uppermost(&mounts, target) {
        let result = workers
            .run(Job::Unmount(mount_point.clone()), DEADLINE)
            .await;
        let before = mounts.beneath(target).len();
        mounts = mount_table().await?;
        // The mount table has the last word: whoever else unmounted it, it is gone.
        if mounts.beneath(target).len() >= before {
            let busy = matches!(
                result,
                Err(WorkerError::Failed {
                    errno: Errno::EBUSY,
                    ..
                })
            );
            if busy && started.elapsed() < CLOSING {
                sleep(AGAIN).await;
                continue;
            }
            return Err(failure(target, &mount_point, result.err()));
        }
        tracing::info!(mount_point = %mount_point.display(), "unmounted");
    }
    let directory = target.to_owned();
    blocking(
        || format!("remove the mount point {}", target.display()),
        move || mountpoint::remove(&directory),
    )
    .await
}

/// The mount that must be unmounted first.
fn uppermost(mounts: &Mounts, target: &Path) -> Option<PathBuf> {
    let beneath = mounts.beneath(target);
    beneath.last().map(|mount| mount.mount_point.clone())
}

async fn mount_table() -> Result<Mounts, BackendError> {
    blocking(|| "read the mount table".to_owned(), Mounts::read).await
}

/// Why the mount is still there.
fn failure(target: &Path, mount_point: &Path, error: Option<WorkerError>) -> BackendError {
    let silent = matches!(error, Some(WorkerError::Deadline { .. }));
    let why = match error {
        None => {
            "umount2(2) succeeded, but the mount is still in the mount table; look for who mounts \
                 there, and try again"
                .to_owned()
        }
        Some(WorkerError::Failed {
            errno: Errno::EBUSY,
            ..
        }) => format!(
            "a process of this host uses it (EBUSY): find it with fuser -vm {}, end its use, and try \
             again",
            mount_point.display()
        ),
        Some(WorkerError::Failed { errno, .. }) => {
            format!("{} ({errno:?})", errno.desc().to_lowercase())
        }
        Some(WorkerError::Deadline { .. }) => format!(
            "its server is silent, and the kernel did not let go within {} s; try again when the \
             server answers",
            DEADLINE.as_secs()
        ),
        Some(error) => {
            return host(|| format!("unmount {}", mount_point.display()))(error);
        }
    };
    BackendError::UnmountFailed {
        target: target.to_owned(),
        why,
        silent,
    }
}
