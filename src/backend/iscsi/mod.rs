//! LUNs of iSCSI targets: logged in to by open-iscsi, found by the kernel's own word, verified by the disks themselves, and
//! joined by multipathd where there are several paths.
//!
//! Invariants: a disk is handed out only after it told its identity to a fresh INQUIRY, the same on every path and on the map, and
//! the one that the connection info names; a disk found at the LUN that tells another identity than when it was scanned is a
//! leftover of another volume, and removed before the LUN is scanned; only that LUN is scanned; what may hang on a dead
//! target is a worker's or another program's, with a deadline; nothing is reported gone before the kernel has it no more.
//!
//! Uses are counted per volume (target and LUN), not per session: the session is left when the kernel has no disk on it any more,
//! whoever's it was.

mod disconnect;
mod login;
mod multipathd;
mod record;
mod sysfs;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use tokio::time::Instant;

use super::{Backend, BackendError, Connected, Description, Presence, Setting, file, mount};
use crate::config;
use crate::connection::{IscsiVolume, Protocol};
use crate::model::{Access, HostPlan, ImageFormat, SourceKind, TargetPath, TargetPlan};
use crate::sys::worker::{Job, Reply, SysfsJob, WorkerError, Workers};
use login::{Gate, Initiator, POLL, at};
use sysfs::{Session, Sysfs, Unit};

/// The name in connection info (`driver_volume_type`).
const PROTOCOL: &str = "iscsi";
/// Where devices are.
const DEVICES: &str = "/dev";
/// How long a disk may take to tell who it is, to be flushed, or to be deleted.
const DEVICE: Duration = Duration::from_secs(15);
/// How often the LUN is scanned for while it does not appear: the storage may map it a moment later.
const SCAN: Duration = Duration::from_secs(1);
/// How often multipathd is asked for a map that it does not make: it may not know the paths yet.
const MAP: Duration = Duration::from_millis(500);

/// The backend for iSCSI.
#[derive(Debug)]
pub struct IscsiBackend {
    initiator: Initiator,
    workers: Workers,
}

/// A path that is there: its disk told who it is.
struct Found {
    /// Such as `sdb`.
    block: String,
    /// Whether it was there before.
    old: bool,
    identity: String,
    _gate: Arc<Gate>,
}

impl IscsiBackend {
    /// Touches nothing.
    #[must_use]
    pub fn new(settings: config::Iscsi, workers: Workers) -> Self {
        Self {
            initiator: Initiator::new(settings, Sysfs::new("/sys".into())),
            workers,
        }
    }

    fn sysfs(&self) -> &Sysfs {
        &self.initiator.sysfs
    }

    /// One path's disk: logged in, scanned, and asked who it is.
    async fn path(&self, path: &TargetPath, volume: &IscsiVolume) -> Result<Found, BackendError> {
        let (session, gate) = self.initiator.login(path, volume.chap.as_ref()).await?;
        let old = match path.lun.and_then(|lun| session.unit(lun)) {
            None => false,
            Some(unit) => self.still_the_same(path, &unit).await?,
        };
        let block = self.scan(path, &session).await?;
        Ok(Found {
            identity: self.identify(path, &block).await?,
            block,
            old,
            _gate: gate,
        })
    }

    /// Whether a disk found at the LUN is the one that was scanned there. One that is not would show its guest, or the
    /// next, another volume: it is removed, also from under whoever uses it.
    async fn still_the_same(&self, path: &TargetPath, unit: &Unit) -> Result<bool, BackendError> {
        let scanned = unit.identity_at_scan();
        let now = match &unit.block {
            Some(block) => self.identify(path, block).await.ok(),
            None => None,
        };
        if now.is_some() && now == scanned {
            return Ok(true);
        }
        tracing::warn!(unit = %unit.dir.display(), ?scanned, ?now, "removing a leftover of another volume at this LUN");
        self.remove_unit(path, unit).await?;
        if let Some(map) = scanned.and_then(|wwid| self.sysfs().map(&wwid))
            && self.sysfs().paths_of(&map).is_empty()
        {
            // One that is open stays, without a path, until its volume is detached.
            let _ = self.remove_map(&map).await;
        }
        Ok(false)
    }

    /// Has the session's host look for the one LUN, until its disk is there.
    async fn scan(&self, path: &TargetPath, session: &Session) -> Result<String, BackendError> {
        let within = self.initiator.settings.device_timeout;
        let until = Instant::now() + within;
        let lun = path.lun.unwrap_or_default();
        let mut next = Instant::now();
        loop {
            if let Some(block) = session.unit(lun).and_then(|unit| unit.block) {
                return Ok(block);
            }
            let now = Instant::now();
            if now >= until {
                return Err(BackendError::DeviceNotFound {
                    volume: volume_at(path),
                    within,
                    why: "the target shows this host no such LUN; look whether the storage maps the volume to this initiator"
                        .to_owned(),
                });
            }
            if now >= next && session.unit(lun).is_none() {
                let scan = SysfsJob {
                    path: self.sysfs().scan_file(session),
                    value: format!("- - {lun}"),
                };
                // A scan that fails or hangs is seen by its LUN not being there.
                let _ = self.workers.run(Job::WriteSysfs(scan), until - now).await;
                next = Instant::now() + SCAN;
                continue;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Asks a disk or a map who it is.
    async fn identify(&self, path: &TargetPath, block: &str) -> Result<String, BackendError> {
        let refused = |why: String| BackendError::DeviceIdentity {
            volume: volume_at(path),
            why,
        };
        match self.workers.run(Job::Identify(node(block)), DEVICE).await {
            Ok(Reply::Identity(Some(identity))) => Ok(identity),
            Ok(_) => Err(refused(format!(
                "/dev/{block} tells no identity of its own (VPD page 83h), so it could be any volume"
            ))),
            Err(WorkerError::Failed { step, errno }) => Err(refused(format!(
                "cannot {step} of /dev/{block}: {} ({errno:?}); the storage may not map the LUN any more",
                errno.desc().to_lowercase()
            ))),
            Err(WorkerError::Deadline { within, .. }) => Err(BackendError::ServerLost {
                path: node(block),
                why: format!("nothing within {} s", within.as_secs()),
            }),
            Err(error) => Err(mount::host(|| format!("ask /dev/{block} who it is"))(error)),
        }
    }

    /// The identity that all paths have, and that was asked for.
    fn agree(&self, plan: &TargetPlan, found: &[Found]) -> Result<String, BackendError> {
        let volume = plan.paths.first().map(volume_at).unwrap_or_default();
        let first = found
            .first()
            .map(|path| path.identity.clone())
            .unwrap_or_default();
        let told = || {
            let each: Vec<String> = found
                .iter()
                .map(|path| format!("/dev/{} says {}", path.block, path.identity))
                .collect();
            each.join(", ")
        };
        if found.iter().any(|path| path.identity != first) {
            return Err(BackendError::DeviceIdentity {
                volume,
                why: format!("its paths lead to different volumes: {}", told()),
            });
        }
        match &plan.expected {
            Some(expected) if *expected != first => Err(BackendError::DeviceIdentity {
                volume,
                why: format!("it must be {expected}, but {}", told()),
            }),
            _ => Ok(first),
        }
    }

    /// The map over the paths, made if need be; its block device.
    async fn map(
        &self,
        plan: &TargetPlan,
        found: &[Found],
        wwid: &str,
    ) -> Result<String, BackendError> {
        let within = self.initiator.settings.device_timeout;
        let until = Instant::now() + within;
        let path = &plan.paths[0];
        let failed = |why: String| BackendError::MultipathFailed {
            volume: volume_at(path),
            why,
        };
        let mut next = Instant::now();
        let map = loop {
            if let Some(map) = self.sysfs().map(wwid) {
                let has = self.sysfs().paths_of(&map);
                if found.iter().all(|path| has.contains(&path.block)) {
                    break map;
                }
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
                for path in found {
                    multipathd::ask(&format!("add path {}", path.block))
                        .await
                        .map_err(|error| {
                            failed(format!("multipathd does not answer ({error}): start it"))
                        })?;
                }
                let _ = multipathd::ask(&format!("add map {wwid}")).await;
                next = Instant::now() + MAP;
                continue;
            }
            tokio::time::sleep(POLL).await;
        };
        // Whatever else it goes to, of an earlier time or another's making, must be the same volume too.
        let mut devices = self.sysfs().paths_of(&map);
        devices.retain(|block| found.iter().all(|path| path.block != *block));
        devices.push(map.block.clone());
        for block in devices {
            let identity = self.identify(path, &block).await?;
            if identity != wwid {
                return Err(BackendError::DeviceIdentity {
                    volume: volume_at(path),
                    why: format!("/dev/{block}, of the map for {wwid}, says {identity}"),
                });
            }
        }
        Ok(map.block)
    }

    /// Makes the device read-only as the attachment is; `found` are its paths.
    async fn protect(&self, plan: &HostPlan, block: &str, old: bool) -> Result<(), BackendError> {
        let read_only = self.sysfs().read_only(block);
        if plan.access == Access::ReadWrite {
            return match read_only {
                false => Ok(()),
                true => Err(BackendError::DeviceBusy {
                    device: format!("/dev/{block}"),
                    why: "it is read-only for another attachment on this host: detach that first"
                        .to_owned(),
                }),
            };
        }
        if read_only || old {
            // One that was there may be another attachment's, which writes.
            return Ok(());
        }
        let set = self.workers.run(Job::SetReadOnly(node(block)), DEVICE);
        set.await
            .map(drop)
            .map_err(mount::host(|| format!("make /dev/{block} read-only")))
    }

    async fn attach(
        &self,
        plan: &HostPlan,
        target: &TargetPlan,
        volume: &IscsiVolume,
    ) -> Result<HostPlan, BackendError> {
        let tried = join_all(target.paths.iter().map(|path| self.path(path, volume))).await;
        let (mut found, mut errors) = (Vec::new(), Vec::new());
        for (path, result) in target.paths.iter().zip(tried) {
            match result {
                Ok(path) => found.push(path),
                Err(error) => {
                    tracing::warn!(target = path.name, portal = path.portal, error = %crate::model::chain(&error), "no path");
                    errors.push(error);
                }
            }
        }
        // A LUN that is another volume is no path to do without.
        let wrong = errors
            .iter()
            .position(|error| matches!(error, BackendError::DeviceIdentity { .. }));
        if let Some(wrong) = wrong {
            return Err(errors.swap_remove(wrong));
        }
        if found.is_empty() {
            return Err(worst(errors));
        }
        let wwid = self.agree(target, &found)?;
        let old = found.iter().any(|path| path.old);
        let several = target.paths.len() > 1 || volume.enforce_multipath;
        let block = match several {
            true => self.map(target, &found, &wwid).await?,
            false => found[0].block.clone(),
        };
        self.protect(plan, &block, old).await?;
        Ok(HostPlan {
            path: node(&block),
            target: Some(TargetPlan {
                verified: Some(wwid),
                ..target.clone()
            }),
            ..plan.clone()
        })
    }
}

/// Of several paths' errors the one that tells most; what the others tell of their portals is added.
fn worst(mut errors: Vec<BackendError>) -> BackendError {
    let rank = |error: &BackendError| match error {
        BackendError::LoginRefused { .. } => 0,
        BackendError::LoginFailed { .. } => 1,
        BackendError::DeviceNotFound { .. } => 2,
        BackendError::Silent { .. } => 4,
        BackendError::Unreachable { .. } => 5,
        _ => 3,
    };
    errors.sort_by_key(rank);
    let mut errors = errors.into_iter();
    let mut worst = errors.next().unwrap_or(BackendError::NotMine {
        protocol: PROTOCOL,
        what: "a plan without a path",
    });
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
        _ => Err(BackendError::NotMine {
            protocol: PROTOCOL,
            what: "connection info of another protocol",
        }),
    }
}

/// The plan's target, which every plan of this backend has, with a path at least.
fn target_of(plan: &HostPlan) -> Result<&TargetPlan, BackendError> {
    let target = plan
        .target
        .as_ref()
        .filter(|target| !target.paths.is_empty());
    target.ok_or(BackendError::NotMine {
        protocol: PROTOCOL,
        what: "a plan without a target",
    })
}

#[async_trait]
impl Backend for IscsiBackend {
    fn protocol(&self) -> &'static str {
        PROTOCOL
    }

    fn read_only(&self, _info: &Protocol) -> bool {
        false
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
                "log in {login}, scan for {}; the disk {identity}{map}",
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

    async fn find(&self, plan: &HostPlan) -> Result<Presence, BackendError> {
        let target = target_of(plan)?;
        let blocks: Vec<String> = self
            .units(target)
            .into_iter()
            .filter_map(|(_, unit)| unit.block)
            .collect();
        let wanted = |block: &String| node(block) == plan.path;
        let present = target.verified.as_ref().is_some_and(|wwid| {
            let map = self.sysfs().map(wwid).map(|map| map.block);
            !blocks.is_empty() && (blocks.iter().any(wanted) || map.iter().any(wanted))
        });
        Ok(match (present, blocks.is_empty()) {
            (true, _) => Presence::Present,
            (false, false) => Presence::Partial,
            (false, true) => Presence::Absent,
        })
    }

    async fn connect(&self, plan: &HostPlan, info: &Protocol) -> Result<Connected, BackendError> {
        let target = target_of(plan)?;
        let attached = self.attach(plan, target, volume(info)?).await;
        // Sessions that came to nothing; what is left after an error is `disconnect`'s.
        join_all(target.paths.iter().map(|path| self.initiator.release(path))).await;
        attached.map(|plan| Connected {
            plan,
            inspected: false,
        })
    }

    async fn inspect(&self, plan: &HostPlan) -> Result<(), BackendError> {
        mount::inspect(&self.workers, plan, None).await.map(drop)
    }

    async fn extend(&self, plan: &HostPlan) -> Result<u64, BackendError> {
        let target = target_of(plan)?;
        for (path, unit) in self.units(target) {
            let Some(block) = unit.block else { continue };
            let rescan = SysfsJob {
                path: unit.dir.join("rescan"),
                value: "1".to_owned(),
            };
            self.workers
                .run(Job::WriteSysfs(rescan), DEVICE)
                .await
                .map_err(mount::host(|| format!("rescan /dev/{block}")))?;
            let identity = self.identify(path, &block).await?;
            if Some(&identity) != target.verified.as_ref() {
                return Err(BackendError::DeviceIdentity {
                    volume: volume_at(path),
                    why: format!(
                        "/dev/{block} says {identity} now: the storage has put another volume there"
                    ),
                });
            }
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

    async fn disconnect(&self, plan: &HostPlan, last: bool) -> Result<(), BackendError> {
        let target = target_of(plan)?;
        match last {
            true => self.take_down(target).await,
            false => self.leave(target).await,
        }
    }
}

#[cfg(test)]
mod tests;
