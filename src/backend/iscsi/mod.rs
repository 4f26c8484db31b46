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
mod lock;
mod login;
mod multipathd;
mod own;
mod patience;
mod record;
mod release;
mod repair;
mod seen;
mod sysfs;
mod unrecorded;
mod verdict;
mod wwids;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;

use super::{
    Backend, BackendError, Connected, Description, HeadStart, Owners, Pinned, Presence, Quarantine,
    Release, Setting, Unrecorded, device, each, file, mount, protect::Protected, workers_of,
};
use crate::config;
use crate::connection::{Discovery, IscsiVolume, Protocol};
use crate::model::{
    Access, Claim, Connection, ErrorPolicy, Found, HostPlan, HostVolume, ImageFormat, Scope,
    Server, SourceKind, TargetPath, TargetPlan, Wwid,
};
use crate::sys::worker::{Job, SysfsJob, Workers};
use late::Late;
use login::{Initiator, at};
use multipathd::Multipathd;
use own::Own;
use seen::FirstSeen;
use sysfs::{Map, Sysfs};
pub use verdict::{Identity, heard, still};

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
    own: Arc<Own>,
    protected: Arc<Protected>,
    late: Arc<Late>,
    multipathd: Multipathd,
}

impl IscsiBackend {
    /// Touches nothing.
    #[must_use]
    pub fn new(settings: config::Iscsi, workers: Workers, quarantine: Quarantine) -> Self {
        Self::beneath("/sys", settings, workers, quarantine)
    }

    /// A backend that reads a directory which looks like /sys.
    #[must_use]
    pub fn beneath(
        sys: impl Into<PathBuf>,
        settings: config::Iscsi,
        workers: Workers,
        quarantine: Quarantine,
    ) -> Self {
        Self {
            initiator: Initiator::new(settings, Sysfs::new(sys.into()), quarantine),
            workers,
            seen: Arc::default(),
            own: Arc::default(),
            protected: Arc::default(),
            late: Arc::default(),
            multipathd: Multipathd::default(),
        }
    }

    /// The same backend by other settings: both know of the same sessions and disks.
    #[must_use]
    pub fn with_settings(&self, settings: config::Iscsi) -> Self {
        let mut other = self.clone();
        other.initiator.settings = settings;
        other
    }

    fn sysfs(&self) -> &Sysfs {
        &self.initiator.sysfs
    }

    /// The same backend, for looks at many volumes as they are at this moment.
    fn indexed(&self) -> Self {
        let mut own = self.clone();
        own.initiator.sysfs = self.sysfs().indexed();
        own
    }

    /// The workers for a disk by that path.
    fn workers_at(&self, path: &TargetPath) -> Workers {
        let portal = Server::at(PROTOCOL, &path.portal);
        self.workers.of(&portal.to_string())
    }

    /// Whether the volume's connection exists.
    fn presence(&self, volume: &HostVolume) -> Result<Presence, BackendError> {
        let units = self.units(paths_of(volume)?, volume.identity());
        match (self.is_there(volume, &units), units.is_empty()) {
            (true, _) => self.completeness(volume, &units),
            (false, false) => Ok(Presence::Partial),
            (false, true) => Ok(Presence::Absent),
        }
    }

    /// The map for that WWID, and the block devices that it goes to.
    async fn map_of(&self, wwid: &Wwid) -> Result<Option<(Map, Vec<String>)>, BackendError> {
        let wwid = wwid.clone();
        let look = move |sysfs: &Sysfs| {
            let map = sysfs.map(&wwid)?;
            let paths = sysfs.paths_of(&map);
            Some((map, paths))
        };
        read(self.sysfs(), look).await
    }
}

/// Reads the kernel's files, or the initiator's, on a blocking thread. The locks of what was seen before are taken there alone, as they
/// are held for as long as a look takes.
async fn read<O: Clone + Send + 'static, T: Send + 'static>(
    own: &O,
    look: impl FnOnce(&O) -> T + Send + 'static,
) -> Result<T, BackendError> {
    let own = own.clone();
    let action = || "look at this host's iSCSI sessions and disks".to_owned();
    mount::blocking(action, move || Ok(look(&own))).await
}

/// `LUN 1 of iqn.2026-01.org.lab:t at 10.0.0.1:3260`
fn volume_at(path: &TargetPath) -> String {
    format!("LUN {} of {}", path.lun.unwrap_or_default(), at(path))
}

/// The claim that all users of the path's LUN share.
fn lun(path: &TargetPath) -> Claim {
    Claim::Lun {
        target: path.name.clone(),
        lun: path.lun.unwrap_or_default(),
    }
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

/// udev's names for the volume with that identity: of its map, or else of its disk (systemd, rules.d/60-persistent-storage.rules; lvm2,
/// udev/13-dm-disk.rules).
fn lasting(wwid: &Wwid) -> Vec<String> {
    let mut names = vec![format!("dm-uuid-mpath-{wwid}"), format!("scsi-{wwid}")];
    // A designator of type 3 (SPC-5 7.7.6.5) is a World Wide Name.
    names.extend(
        wwid.as_str()
            .strip_prefix('3')
            .map(|name| format!("wwn-0x{name}")),
    );
    names
}

/// The target of a plan of this backend, with at least one path.
fn target_of(plan: &HostPlan) -> Result<&TargetPlan, BackendError> {
    match &plan.connection {
        Connection::Iscsi(target) if !target.paths.is_empty() => Ok(target),
        _ => Err(BackendError::not_mine(PROTOCOL, "a plan without a target")),
    }
}

/// Paths to a volume: those that its portal reported, if the portal was asked, else those of the plan.
fn paths_of(volume: &HostVolume) -> Result<&[TargetPath], BackendError> {
    let planned = &target_of(&volume.plan)?.paths;
    Ok(match volume.found.paths.is_empty() {
        true => planned,
        false => &volume.found.paths,
    })
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

    fn read_only(&self, _info: &Protocol) -> bool {
        false // the configuration has no such setting for iSCSI
    }

    fn error_policy(&self) -> ErrorPolicy {
        self.initiator.settings.error_policy
    }

    async fn check_confined(&self, _plan: &HostPlan) -> Result<(), BackendError> {
        Ok(()) // libvirt labels a device for its domain
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
        // Claims contain neither portals nor access: all users of a LUN use the same disks.
        let mut claims: Vec<Claim> = paths.iter().map(lun).collect();
        claims.sort();
        claims.dedup();
        let interface = &self.initiator.settings.interface;
        Ok(HostPlan {
            protocol: PROTOCOL.to_owned(),
            claims,
            path: paths.first().map(by_path).unwrap_or_default(),
            connection: Connection::Iscsi(TargetPlan {
                transport: "tcp".to_owned(),
                paths,
                interface: (interface != "default").then(|| interface.clone()),
                expected: volume.identity.clone(),
            }),
            root: DEVICES.into(),
            kind: SourceKind::Block,
            format: ImageFormat::Raw,
            access,
            keeps_owner: false,
        })
    }

    fn describe(&self, info: &Protocol, plan: &HostPlan) -> Description {
        let (Ok(volume), Ok(target)) = (volume(info), target_of(plan)) else {
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

    fn recall(&self, volumes: &[HostVolume]) {
        // From now on: the daemon before may have been killed with its iscsiadm.
        self.initiator.lock.look(std::time::Instant::now());
        let now = self.indexed();
        for volume in volumes {
            now.recall_one(volume);
        }
    }

    async fn unrecorded(&self, recorded: &[HostVolume]) -> Result<Vec<Unrecorded>, BackendError> {
        let recorded = recorded.to_vec();
        read(self, move |own| own.initiator.unrecorded(&recorded)).await?
    }

    async fn find(&self, volume: &HostVolume) -> Result<Presence, BackendError> {
        let volume = volume.clone();
        read(self, move |own| own.presence(&volume)).await?
    }

    async fn find_all(&self, volumes: Vec<HostVolume>) -> Vec<Result<Presence, BackendError>> {
        let count = volumes.len();
        let look = move |own: &Self| {
            let now = own.indexed();
            volumes.iter().map(|volume| now.presence(volume)).collect()
        };
        each(count, read(self, look).await)
    }

    async fn sign_of_life(&self, server: &Server) -> Result<(), BackendError> {
        self.initiator.sign_of_life(server).await
    }

    async fn survey(&self, plan: &HostPlan) -> Result<Found, BackendError> {
        // Only disks need a survey: the node record of a session shows who made it.
        let paths = target_of(plan)?.paths.clone();
        Ok(Found {
            disks_of_others: read(self, move |own| own.of_others(&paths)).await?,
            ..Found::default()
        })
    }

    async fn head_start(&self, _plan: &HostPlan, _info: &Protocol) -> HeadStart {
        HeadStart::default() // a login takes many times as long as its portal's sign of life
    }

    async fn connect(
        &self,
        volume: &HostVolume,
        info: &Protocol,
        owners: &dyn Owners,
        _head_start: HeadStart,
    ) -> Result<Connected, BackendError> {
        let (target, given) = (target_of(&volume.plan)?, self::volume(info)?);
        let mut found = volume.found.clone();
        if let (Some(discovery), [path]) = (&given.discovery, &target.paths[..]) {
            found.paths = self
                .initiator
                .discover(path, discovery.chap.as_ref())
                .await?;
            let paths = found.paths.clone();
            found.disks_of_others = read(self, move |own| own.of_others(&paths)).await?;
        }
        let volume = HostVolume {
            plan: volume.plan.clone(),
            found,
        };
        let paths = paths_of(&volume)?;
        let mut attached = self.attach(&volume, paths, given, owners).await;
        if let Ok(connected) = &mut attached {
            // Survey again: a disk of others may have appeared since, and was used.
            let paths = paths.to_vec();
            connected.found.disks_of_others = read(self, move |own| own.of_others(&paths)).await?;
        }
        // Sessions that came to nothing; what is left after an error is `disconnect`'s.
        join_all(paths.iter().map(|path| self.initiator.release(path))).await;
        attached
    }

    async fn join(&self, volume: &HostVolume) -> Result<(), BackendError> {
        self.inspect(volume).await
    }

    fn beside(&self, _plan: &HostPlan) -> Option<HostPlan> {
        None // a device exists only once
    }

    async fn inspect(&self, volume: &HostVolume) -> Result<(), BackendError> {
        if let Some(device) = volume.found.protected_device() {
            let workers = workers_of(&self.workers, &volume.plan);
            self.protected.set(&workers, device).await?;
        }
        mount::inspect(&self.workers, volume, None).await.map(drop)
    }

    async fn read(&self, volume: &HostVolume) -> Result<(), BackendError> {
        self.inspect(volume).await?;
        mount::read(&self.workers, volume, None).await
    }

    async fn pin(
        &self,
        volume: &HostVolume,
        scope: Scope,
        before: &Path,
    ) -> Result<Pinned, BackendError> {
        let called = volume_at(&paths_of(volume)?[0]);
        let lasting = volume.identity().map(lasting).unwrap_or_default();
        device::pin(&self.workers, volume, scope, &lasting, before, called).await
    }

    async fn extend(&self, volume: &HostVolume) -> Result<u64, BackendError> {
        let (paths, identity) = (paths_of(volume)?, volume.identity());
        let disks: Vec<_> = self
            .units_of(paths, identity)
            .await?
            .into_iter()
            .filter_map(|(path, unit)| Some((path, unit.block.clone()?, unit)))
            .collect();
        // All of them before the kernel reads any anew: else it would take the other volume's identity for the disk's own.
        for (path, block, _) in &disks {
            self.verify(identity, path, block).await?;
        }
        for (path, block, unit) in &disks {
            let rescan = SysfsJob {
                path: unit.dir.join("rescan"),
                directory: Some(unit.id),
                value: "1".to_owned(),
            };
            self.workers_at(path)
                .run(Job::WriteSysfs(rescan), DEVICE)
                .await
                .map_err(mount::host(|| format!("rescan /dev/{block}")))?;
            self.verify(identity, path, block).await?;
        }
        if let Some(wwid) = identity
            && let Some((map, _)) = self.map_of(wwid).await?
        {
            let resized = self
                .multipathd
                .ask(&format!("resize map {}", map.wwid))
                .await;
            if !resized.map_err(mount::host(|| "ask multipathd to resize a map".to_owned()))? {
                return Err(BackendError::MultipathFailed {
                    volume: volume_at(&paths[0]),
                    why: "multipathd did not resize it: look at its log".to_owned(),
                });
            }
        }
        mount::inspect(&self.workers, volume, None).await
    }

    async fn repairable(&self, volumes: Vec<HostVolume>) -> Vec<Vec<TargetPath>> {
        self.makeable(volumes).await
    }

    async fn repair(
        &self,
        volume: &HostVolume,
        paths: &[TargetPath],
        info: Option<&Protocol>,
    ) -> Result<(), BackendError> {
        let its = volume.clone();
        let chap = match info {
            Some(info) => self::volume(info)?.chap.clone(),
            None => read(self, move |own| own.login_of(&its)).await??,
        };
        self.make_paths(volume, paths, chap.as_ref()).await
    }

    async fn disconnect(&self, volume: &HostVolume, how: &Release) -> Result<(), BackendError> {
        let paths = paths_of(volume)?;
        let mut own = paths.to_vec();
        own.retain(|path| !how.held.contains(&lun(path)));
        match own.is_empty() {
            true => self.remove_pathless(volume.identity()).await?,
            false => self.take_down(&own, volume, how.force).await?,
        }
        if let Some(device) = volume.found.protected_device()
            && !how.keeps_read_only
        {
            match self.find(volume).await?.is_connected() {
                true => {
                    let workers = workers_of(&self.workers, &volume.plan);
                    let unset = self.protected.unset(&workers, device, how.force);
                    unset.await?;
                }
                false => self.protected.forget(device),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
