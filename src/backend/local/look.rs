//! Looks at volumes of this host: resolves their names and checks them.

use nix::errno::Errno;

use super::{PROTOCOL, node};
use crate::backend::{BackendError, Presence, file, mount};
use crate::model::{HostPlan, HostVolume, LocalDevice, SourceKind};
use crate::sys::beneath;
use crate::sys::mountinfo::Mounts;

/// Directory of devices, where only the kernel and udev create anything.
pub(super) const DEVICES: &str = "/dev";

/// File systems, by the kernel's names, whose files may hang on a server or a user's program.
const REMOTE: &[&str] = &[
    "9p",
    "afs",
    "autofs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "orangefs",
    "smb3",
    "smbfs",
    "virtiofs",
];

/// Resolves the volume's path. Names of devices are mostly links, such as /dev/vg/lv to ../dm-0; they are followed, as QEMU will, since
/// only root and udev can make them, but never out of /dev. For files, no link is followed.
pub(super) fn real(plan: &HostPlan) -> Result<HostPlan, BackendError> {
    if plan.kind != SourceKind::Block {
        return Ok(plan.clone());
    }
    let path = std::fs::canonicalize(&plan.path).map_err(|error| {
        let errno = error.raw_os_error().unwrap_or_default();
        file::failure(
            &plan.clone().into(),
            None,
            "resolve its links",
            Errno::from_raw(errno),
        )
    })?;
    if !path.starts_with(DEVICES) {
        return Err(BackendError::PathUnsafe {
            path: plan.path.clone(),
            why: format!("it is a link out of {DEVICES}, to {}", path.display()),
        });
    }
    Ok(HostPlan {
        path,
        root: DEVICES.into(),
        ..plan.clone()
    })
}

/// The mount table as it is now.
pub(super) fn mount_table() -> Result<Mounts, BackendError> {
    Mounts::read().map_err(mount::host(|| "read the mount table".to_owned()))
}

/// Refuses a volume on a file system that may hang.
fn on_this_host(plan: &HostPlan, mounts: &Mounts) -> Result<(), BackendError> {
    // The mount table has the file system of every path; a link that would belie it is not followed.
    let on = mounts.containing(&plan.path).map(|m| m.fstype.as_str());
    match on.filter(|t| REMOTE.contains(t) || t.starts_with("fuse")) {
        None => Ok(()),
        Some(fstype) => Err(BackendError::PathUnsafe {
            path: plan.path.clone(),
            why: format!(
                "it lies on a file system of type {fstype}, which is not of this host alone: attach \
                 it by its own protocol"
            ),
        }),
    }
}

/// Refuses a file that others may replace. After this check the file is opened by its path again: by libvirt, which gives it to QEMU's
/// user, and by QEMU; both follow links.
fn only_ours(plan: &HostPlan) -> Result<(), BackendError> {
    if plan.kind != SourceKind::File || plan.protocol != PROTOCOL {
        return Ok(());
    }
    let own = nix::unistd::geteuid().as_raw();
    match beneath::changeable_by_others(&plan.path, own) {
        Ok(None) => Ok(()),
        Ok(Some(folder)) => Err(BackendError::PathUnsafe {
            path: plan.path.clone(),
            why: format!(
                "others than root may rename files in {}, and so put another one in its place: make the folder root's alone \
                 (chown root, chmod go-w)",
                folder.display()
            ),
        }),
        Err((step, errno)) => Err(file::failure(&plan.clone().into(), None, step, errno)),
    }
}

/// Checks the volume and returns its size in bytes.
pub(super) fn look(plan: &HostPlan) -> Result<u64, BackendError> {
    on_this_host(plan, &mount_table()?)?;
    let volume = HostVolume::from(plan.clone());
    let job = file::job(&real(plan)?.into(), None)?;
    let failed = |(step, errno)| file::failure(&volume, None, step, errno);
    let found = beneath::inspect(&job.root, &job.relative, job.write, job.head, job.tail)
        .map_err(failed)?;
    if plan.kind == SourceKind::Block {
        beneath::check_unused(&job.root, &job.relative).map_err(failed)?;
    }
    // Checked after the open, which has the better error for links on the way.
    only_ours(plan)?;
    file::judge(&volume, &found)?;
    Ok(found.size)
}

/// Looks at this host's own disks on a blocking thread.
pub(super) async fn blocking<T: Send + 'static>(
    plan: &HostPlan,
    look: impl FnOnce(&HostPlan) -> Result<T, BackendError> + Send + 'static,
) -> Result<T, BackendError> {
    let plan = plan.clone();
    let action = format!("look at {}", plan.path.display());
    tokio::task::spawn_blocking(move || look(&plan))
        .await
        .map_err(|error| BackendError::Host {
            action,
            source: error.into(),
        })?
}

/// Whether the volume of a plan exists.
pub(in crate::backend) async fn find(plan: &HostPlan) -> Result<Presence, BackendError> {
    blocking(plan, |plan| presence(plan, &mount_table()?)).await
}

/// The same by this mount table. Blocks.
pub(in crate::backend) fn presence(
    plan: &HostPlan,
    mounts: &Mounts,
) -> Result<Presence, BackendError> {
    on_this_host(plan, mounts)?;
    Ok(match plan.path.try_exists() {
        Ok(true) => Presence::Present,
        Ok(false) | Err(_) => Presence::Absent,
    })
}

/// The same, and whether the name still leads to the volume's device.
pub(super) fn found(volume: &HostVolume, mounts: &Mounts) -> Result<Presence, BackendError> {
    // A writable device is no loss: earlier builds left devices writable, and device-mapper forgets the setting with each new table
    // (`lvextend`).
    let there = presence(&volume.plan, mounts)?;
    let Some(known) = &volume.found.local else {
        return Ok(there);
    };
    let now = device(&volume.plan)?;
    Ok(match now.filter(|now| known.is_same(now)) {
        // Not connected: at most the device must be made writable again.
        Some(_) if !known.connected => Presence::Partial,
        Some(_) => there,
        None => Presence::Absent,
    })
}

/// Checks the volume of a plan and returns its size in bytes.
pub(in crate::backend) async fn inspect(plan: &HostPlan) -> Result<u64, BackendError> {
    blocking(plan, look).await
}

/// The device that the plan's name leads to now; `None`: no block device, or the volume is a file.
pub(super) fn device(plan: &HostPlan) -> Result<Option<LocalDevice>, BackendError> {
    match plan.kind {
        SourceKind::File => Ok(None),
        SourceKind::Block => node::at(&plan.path).map_err(mount::host(|| {
            format!("look at the device {}", plan.path.display())
        })),
    }
}

/// The device that the volume's name leads to; fails unless it is the device found before. `None`: no device was found before, as for a
/// file or in a record of an earlier build.
pub(super) fn verified(volume: &HostVolume) -> Result<Option<LocalDevice>, BackendError> {
    let Some(known) = &volume.found.local else {
        return Ok(None);
    };
    match device(&volume.plan)? {
        Some(now) if known.is_same(&now) => Ok(Some(now)),
        Some(_) => Err(another(volume)),
        None => Err(file::failure(
            volume,
            None,
            "find the device",
            Errno::ENOENT,
        )),
    }
}

/// The error of a found device that cannot be opened or set.
pub(super) fn failure(volume: &HostVolume, step: &str, errno: Errno) -> BackendError {
    match errno {
        Errno::ENOENT | Errno::ENXIO | Errno::ENODEV | Errno::ESTALE => another(volume),
        errno => file::failure(volume, None, step, errno),
    }
}

fn another(volume: &HostVolume) -> BackendError {
    BackendError::DeviceIdentity {
        volume: volume.plan.path.display().to_string(),
        why: "that name led to another device when the volume was attached, which is gone or has another name by now: detach the \
              volume, and attach it again if the device is the one that is meant"
            .to_owned(),
    }
}
