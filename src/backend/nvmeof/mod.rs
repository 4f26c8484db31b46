//! Volumes by NVMe/TCP: namespaces of a subsystem, which the kernel connects to over one controller for each portal and
//! shows as one device (native multipath).
//!
//! Invariants: no server is talked to in the daemon but by a probe with a deadline; whatever the kernel may wait in for one
//! is a worker's job; a device is given out only after each of its live paths was asked, fresh, which volume it is, and all
//! said the same and what was expected; every controller that volattach makes fails I/O in time; controllers are shared by
//! all volumes of a subsystem and go with the last of them, those that others made never; a portal has one connect at a time, and nothing
//! else waits for it: while a volume is looked for, verified or written out, other volumes of its subsystem come and go.

mod fabric;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod look;
mod made;
mod path;
mod probe;
mod release;
mod repair;
#[cfg(test)]
mod tests;
mod verify;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::mount;
use super::protect::Protected;
use super::{
    Backend, BackendError, Connected, Description, HeadStart, Locks, Owners, Pinned, Presence,
    Quarantine, Release, Setting, Unrecorded, device, each, file, workers_of,
};
use crate::config;
use crate::connection::{NvmeVolume, Protocol};
use crate::host::{Host, NvmeHost};
use crate::model::{
    Access, Claim, Connection, ErrorPolicy, Found, HostPlan, HostVolume, Scope, Server, SourceKind,
    TargetPath, TargetPlan, Wwid,
};
use crate::sys::worker::Workers;
use fabric::Fabric;
use made::Made;
use verify::Wanted;

/// The name in connection info (`driver_volume_type`).
const PROTOCOL: &str = "nvmeof";

/// Where devices are.
const DEVICES: &str = "/dev";

/// How often the kernel's view is looked at while something is to appear there or to go: it tells of nothing.
const LOOK: Duration = Duration::from_millis(50);

/// How often the controllers are told to look for a namespace that is not there. A look that finds another volume in its place
/// removes that only, and the next one finds the volume (drivers/nvme/host/core.c, `nvme_validate_ns`).
const RESCAN: Duration = Duration::from_secs(1);

/// How long a connect whose volume has appeared waits for the volume's further paths: a path that comes later is counted in a minute.
const FURTHER_PATHS: Duration = Duration::from_secs(2);

/// How long opening and reading a volume's header may take, and any other look at a device.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(15);

/// The backend for NVMe/TCP.
#[derive(Debug, Clone)]
pub struct NvmeBackend {
    settings: config::Nvmeof,
    own: Arc<Host>,
    workers: Workers,
    quarantine: Quarantine,
    fabric: Fabric,
    made: Arc<Made>,
    /// Held while the kernel connects to a portal of a subsystem: by the subsystem's name and the portal.
    connects: Arc<Locks<(String, SocketAddr)>>,
    protected: Arc<Protected>,
}

impl NvmeBackend {
    /// Touches nothing.
    #[must_use]
    pub fn new(
        settings: config::Nvmeof,
        own: Arc<Host>,
        workers: Workers,
        quarantine: Quarantine,
    ) -> Self {
        Self {
            settings,
            own,
            workers,
            quarantine,
            fabric: Fabric::new(Path::new("/sys")),
            made: Arc::default(),
            connects: Arc::default(),
            protected: Arc::default(),
        }
    }

    /// The same backend by other settings: both know of the same controllers.
    #[must_use]
    pub fn with_settings(&self, settings: config::Nvmeof) -> Self {
        Self {
            settings,
            ..self.clone()
        }
    }

    /// The same backend, for looks at many volumes as they are at this moment.
    fn indexed(&self) -> std::io::Result<Self> {
        Ok(Self {
            fabric: self.fabric.indexed()?,
            ..self.clone()
        })
    }

    /// What this host is called; where the volume was made for a host, that one must be this.
    async fn this_host(&self, volume: &NvmeVolume) -> Result<NvmeHost, BackendError> {
        let own = self.own_name().await?;
        match &volume.host_nqn {
            Some(given) if *given != own.nqn => Err(BackendError::OtherHost {
                given: given.clone(),
                own: own.nqn,
            }),
            _ => Ok(own),
        }
    }
}

fn volume(info: &Protocol) -> Result<&NvmeVolume, BackendError> {
    match info {
        Protocol::Nvme(volume) => Ok(volume),
        _ => Err(BackendError::foreign(PROTOCOL)),
    }
}

/// Claims of a volume: its subsystem, and the controller at each portal.
fn claims(volume: &NvmeVolume) -> Vec<Claim> {
    let controllers = volume.portals.iter().map(|portal| Claim::Controller {
        subsystem: volume.nqn.clone(),
        portal: portal.to_string(),
    });
    let mut claims: Vec<Claim> = controllers.collect();
    claims.push(Claim::Subsystem(volume.nqn.clone()));
    claims.sort();
    claims.dedup();
    claims
}

/// The target of a plan of this backend, with at least one path.
fn target(plan: &HostPlan) -> Result<&TargetPlan, BackendError> {
    match &plan.connection {
        Connection::Nvme(target) if !target.paths.is_empty() => Ok(target),
        _ => Err(BackendError::not_mine(PROTOCOL, "a plan without a target")),
    }
}

/// The subsystem, which is the same on all paths.
fn nqn(target: &TargetPlan) -> Result<&str, BackendError> {
    let path = target.paths.first();
    path.map(|path| path.name.as_str())
        .ok_or(BackendError::not_mine(PROTOCOL, "a target without a path"))
}

/// Portals of the paths.
fn portals(paths: &[TargetPath]) -> impl Iterator<Item = SocketAddr> {
    paths.iter().filter_map(|path| path.portal.parse().ok())
}

#[async_trait]
impl Backend for NvmeBackend {
    fn protocol(&self) -> &'static str {
        PROTOCOL
    }

    fn read_only(&self, _info: &Protocol) -> bool {
        false // the configuration has no such setting for NVMe
    }

    fn error_policy(&self) -> ErrorPolicy {
        self.settings.error_policy
    }

    async fn check_confined(&self, _plan: &HostPlan) -> Result<(), BackendError> {
        Ok(()) // libvirt labels a device for its domain
    }

    fn recall(&self, volumes: &[HostVolume]) {
        let now = self.indexed();
        // Where that fails, each volume's own look says so.
        let now = now.as_ref().unwrap_or(self);
        for volume in volumes {
            if let Ok(target) = target(&volume.plan)
                && let Ok(nqn) = nqn(target)
            {
                let found = &volume.found;
                now.recall_made(target, nqn, &found.controllers_of_others);
                if let Some(device) = found.protected_device() {
                    now.protected.note(device);
                }
            }
        }
    }

    fn plan(&self, info: &Protocol, access: Access) -> Result<HostPlan, BackendError> {
        let volume = volume(info)?;
        let expected = Wwid::nvme(volume.uuid, volume.nguid, None);
        // udev names a device by its identity. Where only its number is known, nobody can tell its name beforehand.
        let number = || format!("nsid.{}", volume.nsid.unwrap_or_default());
        let known = expected.as_ref().map_or_else(number, Wwid::to_string);
        let path = |portal: &SocketAddr| TargetPath {
            portal: portal.to_string(),
            name: volume.nqn.clone(),
            lun: volume.nsid.map(u64::from),
        };
        Ok(HostPlan {
            protocol: PROTOCOL.to_owned(),
            claims: claims(volume),
            connection: Connection::Nvme(TargetPlan {
                transport: "tcp".to_owned(),
                paths: volume.portals.iter().map(path).collect(),
                interface: None,
                expected,
            }),
            path: PathBuf::from(format!("{DEVICES}/disk/by-id/nvme-{known}")),
            root: DEVICES.into(),
            kind: SourceKind::Block,
            format: volume.format,
            access,
            keeps_owner: false,
        })
    }

    fn describe(&self, info: &Protocol, plan: &HostPlan) -> Description {
        let Ok(volume) = volume(info) else {
            return Description::default();
        };
        let portals: Vec<String> = volume.portals.iter().map(ToString::to_string).collect();
        let configured = |name: &str, value: String| Setting {
            name: name.to_owned(),
            value,
            origin: "configuration".to_owned(),
        };
        let in_seconds = |value: Duration| format!("{} s", value.as_secs_f64());
        let setting = |name: &str, value: Duration| configured(name, in_seconds(value));
        let settings = &self.settings;
        Description {
            connect: format!(
                "connect by NVMe/TCP to {}; the {} must tell its identity, the same on every path; make its device {}",
                portals.join(", "),
                Wanted::new(volume),
                match plan.access {
                    Access::ReadOnly => "read-only",
                    Access::ReadWrite => "writable",
                },
            ),
            inspect: file::describe(plan),
            settings: vec![
                setting("probe_timeout", settings.probe_timeout),
                setting("connect_timeout", settings.connect_timeout),
                setting("device_timeout", settings.device_timeout),
                setting("keep_alive_tmo", settings.keep_alive_tmo),
                setting("reconnect_delay", settings.reconnect_delay),
                setting("fast_io_fail_tmo", settings.fast_io_fail_tmo),
                configured(
                    "ctrl_loss_tmo",
                    settings
                        .ctrl_loss_tmo
                        .map_or_else(|| "off".to_owned(), in_seconds),
                ),
            ],
        }
    }

    async fn unrecorded(&self, recorded: &[HostVolume]) -> Result<Vec<Unrecorded>, BackendError> {
        let portals = |volume: &HostVolume| match &volume.plan.connection {
            Connection::Nvme(target) => [&target.paths[..], &volume.found.paths].concat(),
            _ => Vec::new(),
        };
        let known: Vec<TargetPath> = recorded.iter().flat_map(portals).collect();
        let fabric = self.fabric.clone();
        let action = || "look for NVMe controllers that no record has".to_owned();
        let listed = mount::blocking(action, move || fabric.all()).await?;
        let unknown = listed.into_iter().filter(|(nqn, controller)| {
            let portal = controller.portal.map(|portal| portal.to_string());
            portal.is_some_and(|portal| {
                let same = |path: &TargetPath| path.name == *nqn && path.portal == portal;
                !known.iter().any(same)
            })
        });
        let found = unknown.map(|(nqn, controller)| Unrecorded {
            what: format!("NVMe controller {} of {nqn}", controller.name),
            mend: format!("nvme disconnect -d {}", controller.name),
            // The kernel does not report who made a controller.
            own: false,
        });
        Ok(found.collect())
    }

    async fn find(&self, volume: &HostVolume) -> Result<Presence, BackendError> {
        if let Some(block) = self.device(volume).await? {
            return self.presence(volume, &block).await;
        }
        let target = target(&volume.plan)?;
        let ours = self.ours(nqn(target)?, &target.paths).await?;
        Ok(match ours.is_empty() {
            true => Presence::Absent,
            false => Presence::Partial,
        })
    }

    async fn find_all(&self, volumes: Vec<HostVolume>) -> Vec<Result<Presence, BackendError>> {
        let own = self.clone();
        let action = || "list the NVMe controllers and namespaces in /sys".to_owned();
        let now = match mount::blocking(action, move || own.indexed()).await {
            Ok(now) => now,
            Err(error) => return each(volumes.len(), Err(error)),
        };
        let mut found = Vec::with_capacity(volumes.len());
        for volume in &volumes {
            found.push(now.find(volume).await);
        }
        found
    }

    async fn sign_of_life(&self, server: &Server) -> Result<(), BackendError> {
        path::sign_of_life(server, self.settings.probe_timeout).await
    }

    async fn survey(&self, plan: &HostPlan) -> Result<Found, BackendError> {
        Ok(Found {
            controllers_of_others: self.of_others(target(plan)?).await?,
            ..Found::default()
        })
    }

    async fn head_start(&self, _plan: &HostPlan, _info: &Protocol) -> HeadStart {
        HeadStart::default() // a connect takes many times as long as its portal's sign of life
    }

    async fn connect(
        &self,
        volume: &HostVolume,
        info: &Protocol,
        owners: &dyn Owners,
        _head_start: HeadStart,
    ) -> Result<Connected, BackendError> {
        let (given, target) = (self::volume(info)?, target(&volume.plan)?);
        let own = self.this_host(given).await?;
        let fabric = self.fabric.clone();
        let action = || "look whether the kernel joins the paths of NVMe volumes".to_owned();
        let look = move || Ok(fabric.joins_paths());
        if given.portals.len() > 1 && !mount::blocking(action, look).await? {
            return Err(BackendError::MultipathFailed {
                volume: Wanted::new(given).to_string(),
                why: "native NVMe multipath is off on this host, so several portals would be one path: boot with \
                      nvme_core.multipath=Y, or name one portal"
                    .to_owned(),
            });
        }
        self.connect_paths(given, &own).await?;
        // Survey again: controllers found before may have gone and been replaced, or another program was faster.
        let controllers_of_others = self.of_others(target).await?;
        let wanted = Wanted::new(given);
        let block = self.appear(target, &wanted).await?;
        let told = self.verify(target, &wanted, &block).await?;
        owners.take(&told.wwid, wanted.to_string()).await?;
        // Looked at again: until the identity was taken, another attachment of the volume may have made its device writable.
        let block = self.still(target, &block).await?;
        let device = look::device_of(&block);
        let access = volume.plan.access;
        let protected = self.protected.is_due(&device, access, block.read_only);
        if !access.is_read_only() && block.read_only {
            // The device stays while other volumes of the subsystem are connected, and keeps the access of its last user.
            let workers = workers_of(&self.workers, &volume.plan);
            self.protected.unset(&workers, &device, false).await?;
        }
        tracing::info!(device = %device.path.display(), identity = %device.identity, "connected");
        let connected = HostVolume {
            plan: volume.plan.clone(),
            found: Found {
                device: Some(device),
                controllers_of_others,
                protected,
                ..volume.found.clone()
            },
        };
        if !protected {
            mount::inspect(&self.workers, &connected, None).await?;
        }
        Ok(Connected {
            degraded: self.presence(&connected, &block).await?.degraded(),
            found: connected.found,
            inspected: !protected,
        })
    }

    async fn join(&self, volume: &HostVolume) -> Result<(), BackendError> {
        self.inspect(volume).await
    }

    fn beside(&self, _plan: &HostPlan) -> Option<HostPlan> {
        None // a device exists only once
    }

    async fn inspect(&self, volume: &HostVolume) -> Result<(), BackendError> {
        self.verify_again(volume).await?;
        if let Some(device) = volume.found.protected_device() {
            let workers = workers_of(&self.workers, &volume.plan);
            self.protected.set(&workers, device).await?;
        }
        let inspected = mount::inspect(&self.workers, volume, None).await;
        inspected.map(drop)
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
        let nqn = nqn(target(&volume.plan)?)?;
        let called = Wanted::connected(nqn, volume.identity()).to_string();
        // udev's name (systemd, rules.d/60-persistent-storage.rules).
        let name = volume.identity().map(|wwid| format!("nvme-{wwid}"));
        let lasting: Vec<String> = name.into_iter().collect();
        device::pin(&self.workers, volume, scope, &lasting, before, called).await
    }

    async fn extend(&self, volume: &HostVolume) -> Result<u64, BackendError> {
        let nqn = nqn(target(&volume.plan)?)?;
        self.rescan(&self.controllers(nqn).await?).await;
        let end = Instant::now() + self.settings.device_timeout;
        loop {
            // The kernel takes the size over some time after it was told to look.
            let (block, size) = self.verify_again(volume).await?;
            if block.size == size {
                return Ok(size);
            }
            if Instant::now() >= end {
                return Err(BackendError::ServerLost {
                    path: volume.path().to_owned(),
                    why: format!(
                        "the kernel takes it for {} bytes, and the storage for {size}",
                        block.size
                    ),
                    silent: false,
                });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn repairable(&self, volumes: Vec<HostVolume>) -> Vec<Vec<TargetPath>> {
        self.answering(&volumes).await
    }

    async fn repair(
        &self,
        volume: &HostVolume,
        paths: &[TargetPath],
        _info: Option<&Protocol>,
    ) -> Result<(), BackendError> {
        self.make_paths(volume, paths).await
    }

    async fn disconnect(&self, volume: &HostVolume, how: &Release) -> Result<(), BackendError> {
        self.release(volume, how).await
    }
}
