//! Volumes of this host: block devices and files beneath the directories that the deployer configured.
//!
//! Nothing is connected: find checks that the name still leads to the same device, and disconnect makes a block device writable again that
//! was read-only for the whole host, once nobody reads it any more. A file is inspected in the daemon itself, which is safe only on a local
//! file system: the mount table is checked before the file is touched, and a network file system is refused.

mod look;
mod node;
mod protect;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use super::{
    Backend, BackendError, Connected, Description, HeadStart, Owners, Pinned, Presence, Release,
    Unrecorded, each, file,
};
use crate::config;
use crate::connection::{LocalVolume, Protocol};
use crate::model::{
    Access, Claim, Connection, ErrorPolicy, Found, HostPlan, HostVolume, LocalDevice, Scope,
    Server, SourceKind, TargetPath,
};
use crate::sys::block;
use look::{DEVICES, blocking, device, failure, found, look, mount_table, real, verified};
pub(super) use look::{find, inspect, presence};
use protect::Protected;

/// The name in connection info (`driver_volume_type`).
const PROTOCOL: &str = "local";

/// The backend for volumes of this host.
#[derive(Debug, Clone)]
pub struct LocalBackend {
    settings: config::Local,
    protected: Arc<Protected>,
}

impl LocalBackend {
    /// Touches nothing.
    #[must_use]
    pub fn new(settings: config::Local) -> Self {
        Self {
            settings,
            protected: Arc::default(),
        }
    }

    /// The same backend by other settings: both know of the same devices.
    #[must_use]
    pub fn with_settings(&self, settings: config::Local) -> Self {
        Self {
            settings,
            ..self.clone()
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

    /// Makes the device of a read-only volume read-only, also if it became writable meanwhile. A device that this attachment need not make
    /// writable again stays as it is: nobody would do so.
    async fn protect(&self, volume: &HostVolume) -> Result<(), BackendError> {
        if !volume.found.protected {
            return Ok(());
        }
        let (protected, its) = (self.protected.clone(), volume.clone());
        let protect = move |_: &HostPlan| match verified(&its)? {
            Some(device) => protected.hold(&device, &its),
            None => Ok(()),
        };
        blocking(&volume.plan, protect).await
    }

    /// Checks the volume, and that its device is the one found before; returns its size in bytes.
    async fn look(&self, volume: &HostVolume) -> Result<u64, BackendError> {
        let its = volume.clone();
        blocking(&volume.plan, move |plan| {
            let size = look(plan)?;
            // Verified afterwards: no other device can get the same number meanwhile.
            verified(&its).map(|_| size)
        })
        .await
    }
}

fn volume(info: &Protocol) -> Result<&LocalVolume, BackendError> {
    match info {
        Protocol::Local(volume) => Ok(volume),
        _ => Err(BackendError::foreign(PROTOCOL)),
    }
}

/// Error for a device that the survey did not find: why it is missing, or that it appeared after the survey.
async fn appeared(plan: &HostPlan) -> BackendError {
    match inspect(plan).await {
        Err(missing) => missing,
        Ok(_) => BackendError::VolumeNotFound {
            path: plan.path.clone(),
            why: "its device has only now appeared: try again".to_owned(),
        },
    }
}

#[async_trait]
impl Backend for LocalBackend {
    fn protocol(&self) -> &'static str {
        PROTOCOL
    }

    fn read_only(&self, _info: &Protocol) -> bool {
        false // the configuration has no such setting for local volumes
    }

    fn error_policy(&self) -> ErrorPolicy {
        self.settings.error_policy
    }

    fn recall(&self, volumes: &[HostVolume]) {
        for volume in volumes {
            if let (true, Some(device)) = (volume.found.protected, &volume.found.local) {
                self.protected.note(device, &volume.plan.path);
            }
        }
    }

    async fn check_confined(&self, _plan: &HostPlan) -> Result<(), BackendError> {
        Ok(()) // libvirt labels local volumes for its domain
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

    async fn sign_of_life(&self, _server: &Server) -> Result<(), BackendError> {
        Ok(()) // has no server
    }

    async fn unrecorded(&self, _recorded: &[HostVolume]) -> Result<Vec<Unrecorded>, BackendError> {
        Ok(Vec::new()) // makes no connection
    }

    async fn find(&self, volume: &HostVolume) -> Result<Presence, BackendError> {
        let its = volume.clone();
        blocking(&volume.plan, move |_| found(&its, &mount_table()?)).await
    }

    async fn find_all(&self, volumes: Vec<HostVolume>) -> Vec<Result<Presence, BackendError>> {
        let Some(first) = volumes.first().map(|volume| volume.plan.clone()) else {
            return Vec::new();
        };
        let count = volumes.len();
        let look = move |_: &HostPlan| {
            let mounts = mount_table()?;
            Ok(volumes
                .iter()
                .map(|volume| found(volume, &mounts))
                .collect())
        };
        each(count, blocking(&first, look).await)
    }

    async fn survey(&self, plan: &HostPlan) -> Result<Found, BackendError> {
        let protected = self.protected.clone();
        let survey = move |plan: &HostPlan| {
            let local = device(plan)?;
            let wants = |it: &LocalDevice| plan.access.is_read_only() && !node::is_read_only(it);
            Ok(Found {
                protected: local
                    .as_ref()
                    .is_some_and(|it| wants(it) || protected.has(it)),
                local,
                ..Found::default()
            })
        };
        blocking(plan, survey).await
    }

    async fn head_start(&self, _plan: &HostPlan, _info: &Protocol) -> HeadStart {
        HeadStart::default() // no worker and no server
    }

    async fn connect(
        &self,
        volume: &HostVolume,
        _info: &Protocol,
        owners: &dyn Owners,
        _head_start: HeadStart,
    ) -> Result<Connected, BackendError> {
        let (plan, mut found) = (&volume.plan, volume.found.clone());
        if plan.kind == SourceKind::Block {
            let Some(local) = &mut found.local else {
                return Err(appeared(plan).await);
            };
            if let Some(identity) = &local.identity {
                owners
                    .take(identity, plan.path.display().to_string())
                    .await?;
            }
            self.protect(volume).await?;
            local.connected = true;
        }
        Ok(Connected {
            found,
            degraded: None,
            inspected: false,
        })
    }

    async fn join(&self, volume: &HostVolume) -> Result<(), BackendError> {
        // Only a device without findings needs no connect: the survey came too early.
        Err(appeared(&volume.plan).await)
    }

    fn beside(&self, _plan: &HostPlan) -> Option<HostPlan> {
        None // a device exists only once
    }

    async fn inspect(&self, volume: &HostVolume) -> Result<(), BackendError> {
        self.look(volume).await.map(drop)
    }

    async fn read(&self, volume: &HostVolume) -> Result<(), BackendError> {
        self.inspect(volume).await // nothing of this host is away for a while
    }

    async fn pin(
        &self,
        volume: &HostVolume,
        scope: Scope,
        _before: &Path,
    ) -> Result<Pinned, BackendError> {
        let plan = &volume.plan;
        if plan.kind == SourceKind::File {
            return Ok(Pinned {
                path: plan.path.clone(),
                held: Box::new(()), // root alone can rename files here
            });
        }
        if scope.config() {
            let device = blocking(plan, real).await?.path;
            if !node::lasts(&plan.path, &device) {
                return Err(BackendError::NoLastingName {
                    device: plan.path.clone(),
                    why: "it may be another device's after that: name the volume as LVM or /dev/disk/by-id has it"
                        .to_owned(),
                });
            }
        }
        self.protect(volume).await?;
        let its = volume.clone();
        // In the daemon itself, like everything done to devices of this host.
        let hold = move |plan: &HostPlan| match verified(&its)?.and_then(|it| it.sequence) {
            Some(sequence) => block::hold(&plan.path, sequence)
                .map(Some)
                .map_err(|(step, errno)| failure(&its, step, errno)),
            None => Ok(None), // the kernel does not number its devices
        };
        let held = blocking(plan, hold).await?;
        Ok(Pinned {
            path: plan.path.clone(),
            held: Box::new(held),
        })
    }

    async fn extend(&self, volume: &HostVolume) -> Result<u64, BackendError> {
        self.protect(volume).await?;
        self.look(volume).await
    }

    async fn repairable(&self, volumes: Vec<HostVolume>) -> Vec<Vec<TargetPath>> {
        vec![Vec::new(); volumes.len()] // a volume without paths
    }

    async fn repair(
        &self,
        _volume: &HostVolume,
        _paths: &[TargetPath],
        _info: Option<&Protocol>,
    ) -> Result<(), BackendError> {
        Ok(())
    }

    async fn disconnect(&self, volume: &HostVolume, how: &Release) -> Result<(), BackendError> {
        let Some(known) = &volume.found.local else {
            return Ok(());
        };
        if !volume.found.protected || how.keeps_read_only {
            return Ok(());
        }
        let (protected, its, known) = (self.protected.clone(), volume.clone(), known.clone());
        let force = how.force;
        let let_go = move |plan: &HostPlan| {
            // Release the device that was made read-only, whatever device has its name now; after a reboot, also the device made read-only
            // since.
            protected.let_go(&known, &its, force)?;
            match device(plan)? {
                Some(now) if now.boot != known.boot => protected.let_go(&now, &its, force),
                _ => Ok(()),
            }
        };
        blocking(&volume.plan, let_go).await
    }
}

#[cfg(test)]
mod tests;
