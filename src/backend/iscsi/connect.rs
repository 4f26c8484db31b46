//! Bringing a volume's disks up: every path, the map over several, and who they say they are.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use super::disk::{Live, agree};
use super::login::POLL;
use super::patience::Patience;
use super::repair::count;
use super::sysfs::Sysfs;
use super::verdict::Identity;
use super::{IscsiBackend, PROTOCOL, node, read, target_of, volume_at};
use crate::backend::{BackendError, Connected, Owners};
use crate::connection::IscsiVolume;
use crate::model::{Access, Device, Found, HostVolume, TargetPath, Wwid};

/// How often multipathd is asked for a map that it does not make: it may not know the paths yet.
const MAP: Duration = Duration::from_millis(500);

/// Whether a map's further paths must answer when a path is taken into the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    /// Each of them: the map is about to be given to a guest.
    Answer,
    /// A guest uses the map already, and a dead path stays a path of the map.
    MayBeDead,
}

impl IscsiBackend {
    /// Makes the map over the paths, if none exists. Returns its block device, its identity, and whether the map existed before.
    pub(super) async fn map(
        &self,
        path: &TargetPath,
        live: &[Live],
        wwid: &Wwid,
        others: Others,
    ) -> Result<(String, Identity, bool), BackendError> {
        let within = self.initiator.settings.device_timeout;
        let until = Instant::now() + within;
        let failed = |why: String| BackendError::MultipathFailed {
            volume: volume_at(path),
            why,
        };
        let silent = |error| failed(format!("multipathd does not answer ({error}): start it"));
        if !self.multipathd.rechecks().await.map_err(silent)? {
            return Err(failed(
                "multipathd would take a path back that leads to another volume by now: set recheck_wwid to yes in \
                 /etc/multipath.conf or beneath /etc/multipath/conf.d, and have it read that (multipathd reconfigure)"
                    .to_owned(),
            ));
        }
        // One that multipathd has just made of new disks by itself is nobody's.
        let old = self.map_of(wwid).await?.is_some_and(|(_, has)| {
            let mut old = live.iter().filter(|path| path.old);
            old.any(|path| has.contains(&path.block))
        });
        let mut next = Instant::now();
        let (map, mut devices) = loop {
            if let Some((map, has)) = self.map_of(wwid).await?
                && live.iter().all(|path| has.contains(&path.block))
            {
                break (map, has);
            }
            let now = Instant::now();
            if now >= until {
                return Err(failed(format!(
                    "multipathd made none for {wwid} within {} s: look at its log, and whether its configuration excludes the \
                     device",
                    within.as_secs_f64()
                )));
            }
            if now >= next {
                for path in live {
                    self.multipathd
                        .ask(&format!("add path {}", path.block))
                        .await
                        .map_err(silent)?;
                }
                let _ = self.multipathd.ask(&format!("add map {wwid}")).await;
                next = Instant::now() + MAP;
                continue;
            }
            tokio::time::sleep(POLL).await;
        };
        // Whatever else it goes to, of an earlier time or another's making, must be the same volume too.
        devices.retain(|block| live.iter().all(|path| path.block != *block));
        for block in &devices {
            self.check_other(path, block, wwid, others).await?;
        }
        let told = self.identify(path, &map.block).await?;
        let told = of_map(path, &map.block, wwid, told)?;
        Ok((map.block, told, old))
    }

    /// Asks a further path of a map for its identity: a different answer fails, and no answer where the path must give one.
    async fn check_other(
        &self,
        path: &TargetPath,
        block: &str,
        wwid: &Wwid,
        others: Others,
    ) -> Result<(), BackendError> {
        match self.identify(path, block).await {
            Err(error) if others == Others::MayBeDead => {
                tracing::warn!(block, error = %crate::model::chain(&error), "a path of the map does not report which volume it leads to");
                Ok(())
            }
            told => of_map(path, block, wwid, told?).map(drop),
        }
    }

    /// Whether a disk that was verified still is that volume.
    pub(super) async fn verify(
        &self,
        verified: Option<&Wwid>,
        path: &TargetPath,
        block: &str,
    ) -> Result<(), BackendError> {
        let identity = self.identify(path, block).await?.wwid;
        if Some(&identity) == verified {
            return Ok(());
        }
        Err(BackendError::DeviceIdentity {
            volume: volume_at(path),
            why: format!(
                "/dev/{block} says {identity} now: the storage has put another volume there"
            ),
        })
    }

    /// Returns whether the device is read-only, or is to be made so, only because of attachments. No writer uses an existing device: its
    /// identity belongs to one volume, and a volume that is written cannot be attached read-only.
    pub(super) fn protection(
        &self,
        device: &Device,
        block: &str,
        access: Access,
    ) -> Result<bool, BackendError> {
        let read_only = self.sysfs().read_only(block);
        if read_only && !access.is_read_only() {
            return Err(BackendError::DeviceBusy {
                device: device.path.display().to_string(),
                why: "it is read-only, for another attachment on this host or because its storage exports it so: detach that one, or \
                      have the storage let this host write"
                    .to_owned(),
            });
        }
        Ok(self.protected.is_due(device, access, read_only))
    }

    /// Logs in by every path and makes one device of what there is; what fails leaves nothing new.
    pub(super) async fn attach(
        &self,
        volume: &HostVolume,
        paths: &[TargetPath],
        given: &IscsiVolume,
        owners: &dyn Owners,
    ) -> Result<Connected, BackendError> {
        let several = paths.len() > 1 || given.enforce_multipath;
        let own = (!several).then_some(volume.plan.access);
        let (chap, patience) = (given.chap.as_ref(), Patience::default());
        let tried = paths.iter();
        let tried = tried.map(|path| self.path(path, chap, own, owners, &patience));
        let (mut live, mut errors) = (Vec::new(), Vec::new());
        for (path, result) in paths.iter().zip(join_all(tried).await) {
            match result {
                Ok(path) => live.push(path),
                Err(error) => {
                    tracing::warn!(target = path.name, portal = path.portal, error = %crate::model::chain(&error), "no path");
                    errors.push(error);
                }
            }
        }
        let joined = self.join(volume, paths, &live, errors, several).await;
        if joined.is_err() {
            // Not another attachment's: nobody is to find them.
            self.remove_new(paths, &live).await;
        }
        joined
    }

    /// Makes one device of the paths that there are.
    async fn join(
        &self,
        volume: &HostVolume,
        paths: &[TargetPath],
        live: &[Live],
        mut errors: Vec<BackendError>,
        several: bool,
    ) -> Result<Connected, BackendError> {
        let path = &paths[0];
        // A LUN that is another volume is no path to do without.
        let wrong = errors
            .iter()
            .position(|error| matches!(error, BackendError::DeviceIdentity { .. }));
        if let Some(wrong) = wrong {
            return Err(errors.swap_remove(wrong));
        }
        let Some(first) = live.first() else {
            return Err(worst(errors));
        };
        // A disk that already is a path of a map can only be used through the map, which keeps everybody else from opening its paths
        // exclusively.
        let found = live.iter().filter(|path| path.old);
        let found: Vec<String> = found.map(|path| path.block.clone()).collect();
        let in_map = move |sysfs: &Sysfs| found.iter().any(|it| sysfs.map_over(it).is_some());
        let several = several || read(self.sysfs(), in_map).await?;
        let expected = target_of(&volume.plan)?.expected.as_ref();
        let wwid = agree(expected, path, live)?;
        let (block, told, old) = match several {
            true => self.map(path, live, &wwid, Others::Answer).await?,
            false => (first.block.clone(), first.told.clone(), first.old),
        };
        let device = Device {
            path: node(&block),
            identity: wwid,
            sequence: told.sequence,
        };
        let (its, access) = (device.clone(), volume.plan.access);
        let look = move |own: &Self| own.protection(&its, &block, access);
        let protected = read(self, look).await??;
        Ok(Connected {
            degraded: count(live.len(), paths.len()),
            found: Found {
                device: Some(device),
                protected,
                ..volume.found.clone()
            },
            // A disk that is new was opened as it is to be used; raw, its bytes are not looked at.
            inspected: !several && !old && !protected,
        })
    }
}

/// Requires the map's identity of a map, or of one of its paths.
fn of_map(
    path: &TargetPath,
    block: &str,
    wwid: &Wwid,
    told: Identity,
) -> Result<Identity, BackendError> {
    match told.wwid == *wwid {
        true => Ok(told),
        false => Err(BackendError::DeviceIdentity {
            volume: volume_at(path),
            why: format!("/dev/{block}, of the map for {wwid}, says {}", told.wwid),
        }),
    }
}

/// Of several paths' errors the one that tells most; what the others tell of their portals is added.
pub(super) fn worst(mut errors: Vec<BackendError>) -> BackendError {
    let rank = |error: &BackendError| match error {
        BackendError::LoginRefused { .. } => 0,
        BackendError::LoginFailed { .. } => 1,
        BackendError::DeviceNotFound { .. } => 2,
        BackendError::Silent { .. } => 4,
        BackendError::Unreachable { .. } => 5,
        // Nobody has asked there.
        BackendError::Quarantined { .. } => 6,
        _ => 3,
    };
    errors.sort_by_key(rank);
    let mut errors = errors.into_iter();
    let mut worst = errors
        .next()
        .unwrap_or(BackendError::not_mine(PROTOCOL, "a plan without a path"));
    if let BackendError::Silent { attempts, .. } | BackendError::Unreachable { attempts, .. } =
        &mut worst
    {
        for error in errors {
            if let BackendError::Silent { attempts: more, .. }
            | BackendError::Unreachable { attempts: more, .. } = error
            {
                attempts.extend(more);
            }
        }
    }
    worst
}
