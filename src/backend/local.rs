//! Volumes of this host: block devices and files beneath the directories that the deployer configured.
//!
//! Nothing is connected, so finding and disconnecting come to nothing, but for a block device that is only read: it is read-only
//! for the whole host until nobody reads it any more. A file is looked at in the daemon itself, which
//! is safe only on a local file system: the mount table says, before the file is touched, and a network file system is
//! refused.

mod protect;

use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::{
    Backend, BackendError, Connected, Description, Owners, Pinned, Presence, Release, file,
};
use crate::config;
use crate::connection::{LocalVolume, Protocol};
use crate::model::{Access, Claim, Connection, Found, HostPlan, HostVolume, Scope, SourceKind};
use crate::sys::beneath;
use crate::sys::mountinfo::Mounts;
use protect::Protected;

/// The name in connection info (`driver_volume_type`).
const PROTOCOL: &str = "local";

/// Where devices are: nothing but the kernel and udev makes anything there.
const DEVICES: &str = "/dev";

/// File systems whose files may hang on a server (or on a user's program), by the kernel's names.
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

/// The backend for volumes of this host.
#[derive(Debug)]
pub struct LocalBackend {
    settings: config::Local,
    protected: Protected,
}

impl LocalBackend {
    /// Touches nothing.
    #[must_use]
    pub fn new(settings: config::Local) -> Self {
        Self {
            settings,
            protected: Protected::default(),
        }
    }

    /// The configured directory that a path lies beneath; of several the innermost.
    fn root(&self, path: &Path) -> Result<&Path, BackendError> {
        let why = if self.settings.roots.is_empty() {
            "this host offers no local volumes: its configuration names no directory for them \
             (local.roots)"
        } else {
            "it lies in none of the directories that this host's configuration names for local \
             volumes (local.roots)"
        };
        self.settings
            .roots
            .iter()
            .filter(|root| path != root.as_path() && path.starts_with(root))
            .max_by_key(|root| root.components().count())
            .map(PathBuf::as_path)
            .ok_or_else(|| BackendError::PathUnsafe {
                path: path.to_owned(),
                why: why.to_owned(),
            })
    }

    /// Makes the device of a volume that is only read read-only, also where it was and is no more. One that this attachment does not have to
    /// make writable again stays as it is: nobody would.
    async fn protect(&self, volume: &HostVolume) -> Result<(), BackendError> {
        let plan = &volume.plan;
        if !volume.found.protected || !wants_protection(plan) {
            return Ok(());
        }
        self.protected.note(&plan.path);
        blocking(plan, |plan| protect::set(plan, true)).await
    }
}

fn volume(info: &Protocol) -> Result<&LocalVolume, BackendError> {
    match info {
        Protocol::Local(volume) => Ok(volume),
        _ => Err(BackendError::foreign(PROTOCOL)),
    }
}

/// Where the volume really is. Names of devices are mostly links, such as /dev/vg/lv to ../dm-0; they are followed, as
/// QEMU will, since only root and udev can make one, but nowhere out of /dev. Elsewhere no link is followed.
fn real(plan: &HostPlan) -> Result<HostPlan, BackendError> {
    if plan.kind != SourceKind::Block {
        return Ok(plan.clone());
    }
    let path = std::fs::canonicalize(&plan.path).map_err(|error| {
        let errno = error.raw_os_error().unwrap_or_default();
        file::failure(
            &plan.clone().into(),
            None,
            "resolve its links",
            nix::errno::Errno::from_raw(errno),
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

/// Refuses what is on a file system that may hang.
fn on_this_host(plan: &HostPlan) -> Result<(), BackendError> {
    // Whatever the path, the mount table knows what it is on; a link that would belie it is not followed.
    let mounts = Mounts::read().map_err(|error| BackendError::Host {
        action: "read the mount table".to_owned(),
        source: error.into(),
    })?;
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

/// Refuses a file that others may put something else in the place of. It is opened by its path again after it was looked at
/// here: by libvirt, which gives it to QEMU's user, and by QEMU, both of which follow links.
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

/// Checks the volume, and gives its size in bytes.
fn look(plan: &HostPlan) -> Result<u64, BackendError> {
    on_this_host(plan)?;
    let volume = HostVolume::from(plan.clone());
    let job = file::job(&real(plan)?.into(), None)?;
    let found = beneath::inspect(&job.root, &job.relative, job.write, job.head, job.tail)
        .map_err(|(step, errno)| file::failure(&volume, None, step, errno))?;
    // After it was opened, which tells better of links on the way.
    only_ours(plan)?;
    file::judge(&volume, &found)?;
    Ok(found.size)
}

/// Looks at this host's own disk.
async fn blocking<T: Send + 'static>(
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

/// Whether a plan's volume is there.
pub(super) async fn find(plan: &HostPlan) -> Result<Presence, BackendError> {
    let look = |plan: &HostPlan| {
        on_this_host(plan)?;
        Ok(match plan.path.try_exists() {
            Ok(true) => Presence::Present,
            Ok(false) | Err(_) => Presence::Absent,
        })
    };
    blocking(plan, look).await
}

/// Checks a plan's volume, and gives its size in bytes.
pub(super) async fn inspect(plan: &HostPlan) -> Result<u64, BackendError> {
    blocking(plan, look).await
}

/// Whether the plan's device is to be made read-only.
fn wants_protection(plan: &HostPlan) -> bool {
    plan.kind == SourceKind::Block && plan.access.is_read_only() && !protect::is_read_only(plan)
}

#[async_trait]
impl Backend for LocalBackend {
    fn protocol(&self) -> &'static str {
        PROTOCOL
    }

    fn read_only(&self, _info: &Protocol) -> bool {
        false // the configuration says nothing of these
    }

    fn recall(&self, volume: &HostVolume) {
        if volume.found.protected {
            self.protected.note(&volume.plan.path);
        }
    }

    fn check_confined(&self, _plan: &HostPlan) -> Result<(), BackendError> {
        Ok(()) // libvirt labels what is of this host for its domain
    }

    fn plan(&self, info: &Protocol, access: Access) -> Result<HostPlan, BackendError> {
        let volume = volume(info)?;
        let path = &volume.device_path;
        let root = self.root(path)?;
        let is_device = path.starts_with(DEVICES);
        let claim = is_device.then(|| Claim::Device(path.clone()));
        Ok(HostPlan {
            protocol: PROTOCOL.to_owned(),
            claims: claim.into_iter().collect(),
            connection: Connection::None,
            path: path.clone(),
            root: root.to_owned(),
            kind: match is_device {
                true => SourceKind::Block,
                false => SourceKind::File,
            },
            format: volume.format,
            access,
            keeps_owner: false,
        })
    }

    fn describe(&self, _info: &Protocol, plan: &HostPlan) -> Description {
        Description {
            connect: format!(
                "nothing to connect: {} is of this host",
                plan.path.display()
            ),
            inspect: file::describe(plan),
            settings: Vec::new(),
        }
    }

    async fn find(&self, volume: &HostVolume) -> Result<Presence, BackendError> {
        // Read-only or not: earlier builds left devices writable, and device-mapper forgets it with each new table (`lvextend`). A device
        // that works is not lost for that.
        find(&volume.plan).await
    }

    async fn survey(&self, plan: &HostPlan) -> Result<Found, BackendError> {
        Ok(Found {
            protected: self.protected.has(&plan.path) || wants_protection(plan),
            ..Found::default()
        })
    }

    async fn connect(
        &self,
        volume: &HostVolume,
        _info: &Protocol,
        _owners: &dyn Owners,
    ) -> Result<Connected, BackendError> {
        self.protect(volume).await?;
        Ok(Connected {
            found: volume.found.clone(),
            inspected: false,
        })
    }

    async fn join(&self, volume: &HostVolume) -> Result<(), BackendError> {
        self.protect(volume).await?;
        self.inspect(volume).await
    }

    fn beside(&self, _plan: &HostPlan) -> Option<HostPlan> {
        None // a device is one
    }

    async fn inspect(&self, volume: &HostVolume) -> Result<(), BackendError> {
        inspect(&volume.plan).await.map(drop)
    }

    async fn pin(&self, volume: &HostVolume, scope: Scope) -> Result<Pinned, BackendError> {
        let plan = &volume.plan;
        // The kernel's own names are no links, and those that last are links to them: of udev, or of LVM.
        if plan.kind == SourceKind::Block && scope.config() && !plan.path.is_symlink() {
            return Err(BackendError::NoLastingName {
                device: plan.path.clone(),
                why: "the kernel gives that name anew at every start of the host: name the volume as /dev/disk/by-id or LVM has it"
                    .to_owned(),
            });
        }
        Ok(Pinned {
            path: plan.path.clone(),
            held: Box::new(()), // the name is all that says which volume it is
        })
    }

    async fn extend(&self, volume: &HostVolume) -> Result<u64, BackendError> {
        self.protect(volume).await?;
        inspect(&volume.plan).await
    }

    async fn disconnect(&self, volume: &HostVolume, how: &Release) -> Result<(), BackendError> {
        let plan = &volume.plan;
        if volume.found.protected && how.is_last(&plan.claims) {
            blocking(plan, |plan| protect::set(plan, false)).await?;
            self.protected.forget(&plan.path);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
