//! LUNs of iSCSI targets: logged in to by open-iscsi, found by the kernel's own word, verified by the disks themselves, and
//! joined by multipathd where there are several paths.
//!
//! Invariants: a disk is handed out only after it told its identity to a fresh INQUIRY, the same on every path and on the map, and
//! the one that the connection info names; a disk found at the LUN that tells another identity than when it was first seen is a
//! leftover of another volume, and removed before the LUN is scanned; only that LUN is scanned; what may hang on a dead
//! target is a worker's or another program's, with a deadline; a disk that appears when nobody waits for it any more is removed;
//! nothing is reported gone before the kernel has it no more.
//!
//! Uses are counted per volume (target and LUN), whatever portals each came by: the last takes down what all came by. A session
//! is left when the kernel has no disk on it any more, whoever's it was.

mod connect;
mod disconnect;
mod discover;
mod disk;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod late;
mod login;
mod multipathd;
mod record;
mod seen;
mod sysfs;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;

use super::{
    Backend, BackendError, Connected, Description, Presence, Release, Setting, file, mount,
    target_of,
};
use crate::config;
use crate::connection::{Discovery, IscsiVolume, Protocol};
use crate::model::{Access, HostPlan, ImageFormat, SourceKind, TargetPath, TargetPlan};
use crate::sys::worker::{Job, SysfsJob, Workers};
use late::Late;
use login::{Initiator, at};
use seen::FirstSeen;
use sysfs::Sysfs;

/// The name in connection info (`driver_volume_type`).
const PROTOCOL: &str = "iscsi";
/// Where devices are.
const DEVICES: &str = "/dev";
/// How long a disk may take to tell who it is, to be flushed, or to be deleted.
const DEVICE: Duration = Duration::from_secs(15);

/// The backend for iSCSI.
#[derive(Debug, Clone)]
pub struct IscsiBackend {
    initiator: Initiator,
    workers: Workers,
    seen: Arc<FirstSeen>,
    late: Arc<Late>,
}

impl IscsiBackend {
    /// Touches nothing.
    #[must_use]
    pub fn new(settings: config::Iscsi, workers: Workers) -> Self {
        Self {
            initiator: Initiator::new(settings, Sysfs::new("/sys".into())),
            workers,
            seen: Arc::default(),
            late: Arc::default(),
        }
    }

    fn sysfs(&self) -> &Sysfs {
        &self.initiator.sysfs
    }
}

/// `LUN 1 of iqn.2026-01.org.lab:t at 10.0.0.1:3260`
fn volume_at(path: &TargetPath) -> String {
    format!("LUN {} of {}", path.lun.unwrap_or_default(), at(path))
}

fn node(block: &str) -> PathBuf {
    Path::new(DEVICES).join(block)
}

/// udev's name for the disk (systemd, src/udev/udev-builtin-path_id.c: `handle_scsi_iscsi`).
fn by_path(path: &TargetPath) -> PathBuf {
    let lun = path.lun.unwrap_or_default();
    let lun = match lun {
        0..=255 => lun.to_string(),
        lun => format!("0x{lun:04x}000000000000"),
    };
    let portal = path.portal.replace(['[', ']'], "");
    let name = format!("ip-{portal}-iscsi-{}-lun-{lun}", path.name);
    Path::new("/dev/disk/by-path").join(name)
}

fn volume(info: &Protocol) -> Result<&IscsiVolume, BackendError> {
    match info {
        Protocol::Iscsi(volume) => Ok(volume),
        _ => Err(BackendError::foreign(PROTOCOL)),
    }
}

#[async_trait]
impl Backend for IscsiBackend {
    fn protocol(&self) -> &'static str {
        PROTOCOL
    }

    fn plan(&self, info: &Protocol, access: Access) -> Result<HostPlan, BackendError> {
        let volume = volume(info)?;
        let paths: Vec<TargetPath> = volume
            .paths
            .iter()
            .map(|path| TargetPath {
                portal: path.portal.to_string(),
                name: path.target.clone(),
                lun: Some(path.lun),
            })
            .collect();
        // Not the portals, nor the access: whoever uses the LUN uses the same disks.
        let mut luns: Vec<String> = volume
            .paths
            .iter()
            .map(|path| format!("{}/{}", path.target, path.lun))
            .collect();
        luns.sort();
        luns.dedup();
        let interface = &self.initiator.settings.interface;
        Ok(HostPlan {
            protocol: PROTOCOL.to_owned(),
            shared: Some(format!("iscsi:{}", luns.join(","))),
            mount: None,
            path: paths.first().map(by_path).unwrap_or_default(),
            target: Some(TargetPlan {
                transport: "tcp".to_owned(),
                paths,
                interface: (interface != "default").then(|| interface.clone()),
                expected: volume.identity.clone(),
                verified: None,
            }),
            root: DEVICES.into(),
            kind: SourceKind::Block,
            format: ImageFormat::Raw,
            access,
        })
    }

    fn describe(&self, info: &Protocol, plan: &HostPlan) -> Description {
        let (Ok(volume), Some(target)) = (volume(info), &plan.target) else {
            return Description::default();
        };
        let each: Vec<String> = target.paths.iter().map(volume_at).collect();
        let login = match &volume.chap {
            None => "without credentials".to_owned(),
            Some(chap) => format!(
                "as {:?} by CHAP{}",
                chap.username,
                if chap.target.is_some() {
                    ", mutual"
                } else {
                    ""
                }
            ),
        };
        let identity = match &target.expected {
            Some(expected) => format!("must tell the identity {expected}"),
            None => "must tell its identity".to_owned(),
        };
        let ask = match &volume.discovery {
            Some(Discovery { chap: Some(chap) }) => format!(
                "ask the portal for the target's others as {:?} by CHAP, ",
                chap.username
            ),
            Some(_) => "ask the portal for the target's others, ".to_owned(),
            None => String::new(),
        };
        let map = match target.paths.len() > 1 || volume.enforce_multipath {
            true => ", the same on every path; have multipathd join the paths",
            false => "",
        };
        let settings = &self.initiator.settings;
        let seconds = |name: &str, value: Duration| Setting {
            name: name.to_owned(),
            value: format!("{} s", value.as_secs_f64()),
            origin: "configuration".to_owned(),
        };
        Description {
            connect: format!(
                "{ask}log in {login}, scan for {}; the disk {identity}{map}",
                each.join(" and for ")
            ),
            inspect: file::describe(plan),
            settings: vec![
                seconds("probe_timeout", settings.probe_timeout),
                seconds("login_timeout", settings.login_timeout),
                seconds("device_timeout", settings.device_timeout),
            ],
        }
    }

    fn recall(&self, plan: &HostPlan) {
        if let Some(target) = &plan.target
            && let Some(identity) = &target.verified
        {
            let paths = target.paths.iter().cloned().chain(self.elsewhere(target));
            for (_, unit) in paths.filter_map(|path| self.at(path)) {
                self.seen.recall(self.sysfs(), &unit, identity);
            }
        }
    }

    async fn find(&self, plan: &HostPlan) -> Result<Presence, BackendError> {
        let target = target_of(plan, PROTOCOL)?;
        let units = self.units(target);
        let wanted = |block: &String| node(block) == plan.path;
        let present = target.verified.as_ref().is_some_and(|wwid| {
            let map = self.sysfs().map(wwid).map(|map| map.block);
            // A name may be another disk's by now.
            units
                .iter()
                .filter(|(_, unit)| unit.identity_at_scan().as_ref() == Some(wwid))
                .any(|(_, unit)| unit.block.iter().chain(&map).any(wanted))
        });
        Ok(match (present, units.is_empty()) {
            (true, _) => Presence::Present,
            (false, false) => Presence::Partial,
            (false, true) => Presence::Absent,
        })
    }

    async fn connect(&self, plan: &HostPlan, info: &Protocol) -> Result<Connected, BackendError> {
        let (target, volume) = (target_of(plan, PROTOCOL)?, volume(info)?);
        let mut target = target.clone();
        if let (Some(discovery), [path]) = (&volume.discovery, &target.paths[..]) {
            target.paths = self
                .initiator
                .discover(path, discovery.chap.as_ref())
                .await?;
        }
        let attached = self.attach(plan, &target, volume).await;
        // Sessions that came to nothing; what is left after an error is `disconnect`'s.
        join_all(target.paths.iter().map(|path| self.initiator.release(path))).await;
        attached
    }

    async fn inspect(&self, plan: &HostPlan) -> Result<(), BackendError> {
        mount::inspect(&self.workers, plan, None).await.map(drop)
    }

    async fn extend(&self, plan: &HostPlan) -> Result<u64, BackendError> {
        let target = target_of(plan, PROTOCOL)?;
        let disks = self.units(target).into_iter();
        let disks: Vec<_> = disks
            .filter_map(|(path, unit)| Some((path, unit.dir, unit.block?)))
            .collect();
        // All of them before the kernel reads any anew: else it would take the other volume's identity for the disk's own.
        for (path, _, block) in &disks {
            self.verify(target, path, block).await?;
        }
        for (path, dir, block) in &disks {
            let rescan = SysfsJob {
                path: dir.join("rescan"),
                value: "1".to_owned(),
            };
            self.workers
                .run(Job::WriteSysfs(rescan), DEVICE)
                .await
                .map_err(mount::host(|| format!("rescan /dev/{block}")))?;
            self.verify(target, path, block).await?;
        }
        if let Some(map) = target
            .verified
            .as_ref()
            .and_then(|wwid| self.sysfs().map(wwid))
        {
            let resized = multipathd::ask(&format!("resize map {}", map.wwid)).await;
            if !resized.map_err(mount::host(|| "ask multipathd to resize a map".to_owned()))? {
                return Err(BackendError::MultipathFailed {
                    volume: volume_at(&target.paths[0]),
                    why: "multipathd did not resize it: look at its log".to_owned(),
                });
            }
        }
        mount::inspect(&self.workers, plan, None).await
    }

    async fn disconnect(&self, plan: &HostPlan, how: Release) -> Result<(), BackendError> {
        let target = target_of(plan, PROTOCOL)?;
        match how.last {
            true => self.take_down(target, how.force).await,
            false => self.leave(target).await,
        }
    }
}

#[cfg(test)]
mod tests;
