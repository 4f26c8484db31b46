//! Functions shared by the backends of block devices.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use tokio::time::Instant;

use super::{BackendError, Pinned, mount, workers_of};
use crate::model::{HostVolume, Scope};
use crate::sys::worker::{HoldJob, WorkerError, Workers};

/// Time limit for opening a device.
const OPEN: Duration = Duration::from_secs(15);
/// Time limit for udev to name a new device.
const NAMED: Duration = Duration::from_secs(10);
/// Interval between looks for the names.
const LOOK: Duration = Duration::from_millis(50);
/// Directory of udev's names by identity.
const BY_ID: &str = "/dev/disk/by-id";

/// Keeps the volume's device open, so that its name stays its own. For a scope with the persistent configuration, the path is one of the
/// names that udev gives the device: the disk's source until now, if that is one, or else the first. `called` names the volume in errors.
/// Kernels before Linux 5.15 do not number devices: nothing is held then, as this device cannot be told from the next of its name.
pub(super) async fn pin(
    workers: &Workers,
    volume: &HostVolume,
    scope: Scope,
    lasting: &[String],
    before: &Path,
    called: String,
) -> Result<Pinned, BackendError> {
    let path = match scope.config() {
        true => named(Path::new(BY_ID), volume.path(), lasting, before).await?,
        false => volume.path().to_owned(),
    };
    let held: Box<dyn Send + Sync> = match volume.sequence() {
        Some(sequence) => {
            let workers = workers_of(workers, &volume.plan);
            Box::new(hold(&workers, &path, sequence, called).await?)
        }
        None => Box::new(()),
    };
    Ok(Pinned { path, held })
}

/// Waits until udev gives the device one of these names, and for the name that the disk had before while that may still come: udev makes
/// the names of a device one after the other.
async fn named(
    by_id: &Path,
    device: &Path,
    lasting: &[String],
    before: &Path,
) -> Result<PathBuf, BackendError> {
    let links: Vec<PathBuf> = lasting.iter().map(|name| by_id.join(name)).collect();
    let until = Instant::now() + NAMED;
    loop {
        // Links in /dev are udev's, on a file system in memory: following them asks no device.
        let (all, to) = (links.clone(), device.to_owned());
        let leads = move |link: &PathBuf| link.canonicalize().is_ok_and(|it| it == to);
        let look = move || Ok(all.into_iter().filter(leads).collect::<Vec<_>>());
        let there = mount::blocking(|| format!("look for names in {BY_ID}"), look).await?;
        let mut there = there.iter();
        let over = Instant::now() >= until;
        let found = match links.iter().any(|link| link == before) && !over {
            true => there.find(|link| *link == before),
            false => there.next(),
        };
        if let Some(link) = found {
            return Ok(link.clone());
        }
        if over {
            let links: Vec<String> = links
                .iter()
                .map(|link| link.display().to_string())
                .collect();
            return Err(BackendError::NoLastingName {
                device: device.to_owned(),
                why: format!(
                    "udev did not give it one of the names {} within {} s: look at its rules, or attach to the running domain alone",
                    links.join(", "),
                    NAMED.as_secs()
                ),
            });
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn hold(
    workers: &Workers,
    path: &Path,
    sequence: u64,
    volume: String,
) -> Result<impl Send + Sync + use<>, BackendError> {
    let device = path.to_owned();
    let job = HoldJob { device, sequence };
    workers.hold(job, OPEN).await.map_err(|error| match error {
        WorkerError::Failed {
            errno: Errno::ESTALE | Errno::ENOENT | Errno::ENXIO | Errno::ENODEV,
            ..
        } => BackendError::DeviceIdentity {
            volume,
            why: format!(
                "{} was its device when that was asked who it is, and is gone or another one's name by now: try again",
                path.display()
            ),
        },
        WorkerError::Deadline { within, .. } => BackendError::ServerLost {
            path: path.to_owned(),
            why: format!("it could not be opened within {} s", within.as_secs()),
            silent: true,
        },
        error => mount::host(|| format!("open {}", path.display()))(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Access, Connection, HostPlan, ImageFormat, Reason, SourceKind};

    #[tokio::test(start_paused = true)]
    async fn a_device_without_a_lasting_name_is_refused() {
        let workers = Workers::from_executable(PathBuf::new());
        let volume = HostVolume::from(HostPlan {
            protocol: "iscsi".into(),
            claims: Vec::new(),
            connection: Connection::None,
            path: "/dev/null".into(),
            root: "/dev".into(),
            kind: SourceKind::Block,
            format: ImageFormat::Raw,
            access: Access::ReadWrite,
            keeps_owner: false,
        });
        for scope in [Scope::Live, Scope::Config, Scope::LiveAndConfig] {
            let lasting = ["scsi-x".to_owned()];
            let (before, called) = (Path::new(""), "x".to_owned());
            let pinned = pin(&workers, &volume, scope, &lasting, before, called).await;
            let Err(error) = pinned else {
                assert_eq!(scope, Scope::Live);
                continue;
            };
            assert_eq!(error.reason(), Reason::DiskOptionInvalid);
            assert!(
                error.to_string().contains("/dev/disk/by-id/scsi-x"),
                "{error}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_keeps_the_name_that_it_had() {
        let dir = tempfile::tempdir().unwrap();
        let link = |name: &str| dir.path().join(name);
        let make = |name| std::os::unix::fs::symlink("/dev/null", link(name)).unwrap();
        let lasting = ["scsi-x", "wwn-x"].map(str::to_owned);
        let named = async |before: &str| {
            let before = link(before);
            named(dir.path(), Path::new("/dev/null"), &lasting, &before).await
        };
        make("scsi-x");
        assert_eq!(named("other").await.unwrap(), link("scsi-x"));
        assert_eq!(named("wwn-x").await.unwrap(), link("scsi-x"), "never made");
        let made = async {
            tokio::time::sleep(NAMED / 2).await;
            make("wwn-x");
        };
        let (found, ()) = tokio::join!(named("wwn-x"), made);
        assert_eq!(found.unwrap(), link("wwn-x"));
    }
}
