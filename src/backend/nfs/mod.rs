//! Volumes on NFS exports: mounted by mount(2), one mount for all volumes with the same export, versions, options and
//! access.
//!
//! Invariants: no server is talked to in the daemon but by a probe with a deadline; a mount or unmount, and any look at
//! a file on an export, is a worker's job; a volume is opened as the user that QEMU runs as, since the server may take
//! root for nobody; who owns a file there is the server's business, and nothing here changes it.

mod failure;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod probe;
mod rpc;
mod share;
mod version;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use nix::errno::Errno;
use zeroize::Zeroizing;

use super::mount::probe::Outcome;
use super::mount::{self, Meaning, Mounter, Turns, for_kernel};
use super::{
    Backend, BackendError, Connected, Description, HeadStart, Owners, Pinned, Presence, Release,
    Unrecorded, file,
};
use crate::config::{self, Shares};
use crate::connection::{NfsVolume, Protocol};
use crate::host::Host;
use crate::model::{
    Access, Claim, Connection, ErrorPolicy, Found, HostKey, HostPlan, HostVolume, MountPlan, Scope,
    Server, SourceKind, TargetPath,
};
use crate::sys::mountinfo::Mounts;
use crate::sys::worker::{RunAs, Workers};
use probe::Offer;
use share::Export;
use version::Version;

/// The name in connection info (`driver_volume_type`).
const PROTOCOL: &str = "nfs";

/// The backend for NFS exports.
#[derive(Debug, Clone)]
pub struct NfsBackend {
    settings: config::Nfs,
    mount_base: PathBuf,
    key: HostKey,
    host: Arc<Host>,
    mounter: Mounter,
}

impl NfsBackend {
    /// Mounts beneath `mount_base`, in directories named under the host's key. Looks up the groups of the user that QEMU runs as.
    #[must_use]
    pub fn new(
        settings: config::Nfs,
        mount_base: PathBuf,
        key: HostKey,
        workers: Workers,
        host: Arc<Host>,
    ) -> Self {
        let user = RunAs::of_this_host(settings.shares.uid, settings.shares.gid);
        Self {
            settings,
            mount_base,
            key,
            host,
            mounter: Mounter::new(workers, Some(user)),
        }
    }

    /// The same backend by other settings: both know of the same mounts.
    #[must_use]
    pub fn with_settings(&self, settings: config::Nfs) -> Self {
        let (uid, gid) = (settings.shares.uid, settings.shares.gid);
        Self {
            settings,
            mounter: self.mounter.as_user(uid, gid),
            ..self.clone()
        }
    }

    fn mounting<'a>(
        &'a self,
        plan: &HostPlan,
        info: &'a Protocol,
    ) -> Result<Mounting<'a>, BackendError> {
        Ok(Mounting {
            settings: &self.settings,
            export: Export::new(&self.settings, volume(info)?, plan.access)?,
        })
    }
}

fn volume(info: &Protocol) -> Result<&NfsVolume, BackendError> {
    match info {
        Protocol::Nfs(volume) => Ok(volume),
        _ => Err(BackendError::foreign(PROTOCOL)),
    }
}

/// An export on its way to be mounted.
struct Mounting<'a> {
    settings: &'a config::Nfs,
    export: Export<'a>,
}

impl mount::Share for Mounting<'_> {
    type Offer = Offer;

    fn host(&self) -> &str {
        &self.export.volume.host
    }

    fn port(&self) -> Result<u16, BackendError> {
        self.export.port()
    }

    fn versions(&self) -> String {
        version::names(&self.export.versions)
    }

    fn settings(&self) -> &Shares {
        &self.settings.shares
    }

    fn turns(&self) -> Option<&Turns> {
        // The kernel lets a mount wait for none but those of its own server.
        None
    }

    async fn probe(&self, address: SocketAddr) -> Outcome<Vec<Offer>> {
        probe::probe(
            address,
            &self.export.versions,
            self.export.mount_port(),
            self.settings.shares.probe_timeout,
        )
        .await
    }

    fn data(&self, address: SocketAddr, offer: &Offer) -> Result<Zeroizing<String>, BackendError> {
        self.export
            .data(&for_kernel(address), offer.version, offer.mount_port)
            .map(Zeroizing::new)
    }

    fn meaning(&self, errno: Errno, target: &Path, offer: &Offer) -> Meaning {
        failure::meaning(errno, &self.export, target, offer.version)
    }
}

#[async_trait]
impl Backend for NfsBackend {
    fn protocol(&self) -> &'static str {
        PROTOCOL
    }

    fn error_policy(&self) -> ErrorPolicy {
        self.settings.shares.error_policy
    }

    async fn check_confined(&self, plan: &HostPlan) -> Result<(), BackendError> {
        mount::selinux::check(&self.host, plan).await
    }

    fn read_only(&self, info: &Protocol) -> bool {
        matches!(info, Protocol::Nfs(volume) if self.settings.shares.read_only(&volume.host))
    }

    fn recall(&self, _volumes: &[HostVolume]) {} // remembers nothing of connections

    fn plan(&self, info: &Protocol, access: Access) -> Result<HostPlan, BackendError> {
        let volume = volume(info)?;
        let export = Export::new(&self.settings, volume, access)?;
        let id = export.id(&self.key);
        let target = self.mount_base.join(&id);
        Ok(HostPlan {
            protocol: PROTOCOL.to_owned(),
            claims: vec![Claim::Mount(format!("nfs:{id}"))],
            path: target.join(&volume.name),
            root: target.clone(),
            connection: Connection::Mount(MountPlan {
                source: export.source(),
                fstype: "nfs".to_owned(),
                options: export.shown(),
                target,
                login: None,
            }),
            kind: SourceKind::File,
            format: volume.format,
            access,
            keeps_owner: true,
        })
    }

    fn describe(&self, info: &Protocol, plan: &HostPlan) -> Description {
        let export =
            volume(info).and_then(|volume| Export::new(&self.settings, volume, plan.access));
        // Whoever has a plan has one that could be made.
        let Ok(export) = export else {
            return Description::default();
        };
        Description {
            connect: export.describe(&self.settings, &plan.root),
            inspect: format!(
                "as user {} and group {}, {}",
                self.settings.shares.uid,
                self.settings.shares.gid,
                file::describe(plan)
            ),
            settings: export.settings(),
        }
    }

    async fn sign_of_life(&self, server: &Server) -> Result<(), BackendError> {
        let shares = &self.settings.shares;
        let within = shares.probe_timeout;
        let (names, _) = shares.versions_for(&server.host);
        let names = names.iter().filter_map(|name| Version::from_name(name));
        let versions: Vec<Version> = names.collect();
        let ask = |address| probe::probe(address, &versions, None, within);
        self.mounter
            .sign_of_life(server, share::PORT, within, ask)
            .await
    }

    async fn unrecorded(&self, recorded: &[HostVolume]) -> Result<Vec<Unrecorded>, BackendError> {
        mount::unrecorded(&self.mount_base, &["nfs", "nfs4"], recorded).await
    }

    async fn find(&self, volume: &HostVolume) -> Result<Presence, BackendError> {
        let mount = mount::of(&volume.plan, PROTOCOL)?;
        self.mounter.find(mount, volume.plan.access).await
    }

    async fn find_all(&self, volumes: Vec<HostVolume>) -> Vec<Result<Presence, BackendError>> {
        let foreign = |_: &HostPlan, _: &Mounts| {
            Err(BackendError::not_mine(PROTOCOL, "a plan without a mount"))
        };
        self.mounter.find_all(volumes, foreign).await
    }

    async fn survey(&self, _plan: &HostPlan) -> Result<Found, BackendError> {
        Ok(Found::default()) // mount points belong to volattach alone
    }

    async fn head_start(&self, plan: &HostPlan, info: &Protocol) -> HeadStart {
        match self.mounting(plan, info) {
            Ok(asking) => self.mounter.head_start(&asking, plan).await,
            Err(_) => HeadStart::default(), // the connect reports the error
        }
    }

    async fn connect(
        &self,
        volume: &HostVolume,
        info: &Protocol,
        _owners: &dyn Owners,
        head_start: HeadStart,
    ) -> Result<Connected, BackendError> {
        let mount = mount::of(&volume.plan, PROTOCOL)?;
        let mounting = self.mounting(&volume.plan, info)?;
        let mounter = &self.mounter;
        mounter
            .connect(&mounting, volume, mount, head_start)
            .await?;
        Ok(Connected {
            found: volume.found.clone(),
            degraded: None,
            inspected: true,
        })
    }

    async fn join(&self, volume: &HostVolume) -> Result<(), BackendError> {
        self.mounter.join(volume).await.map(drop)
    }

    fn beside(&self, plan: &HostPlan) -> Option<HostPlan> {
        mount::beside(plan)
    }

    async fn inspect(&self, volume: &HostVolume) -> Result<(), BackendError> {
        self.mounter.inspect(volume).await.map(drop)
    }

    async fn read(&self, volume: &HostVolume) -> Result<(), BackendError> {
        self.mounter.read(volume).await
    }

    async fn pin(
        &self,
        volume: &HostVolume,
        _scope: Scope,
        _before: &Path,
    ) -> Result<Pinned, BackendError> {
        Ok(Pinned {
            path: volume.path().to_owned(),
            held: Box::new(()), // the mount stays, and the server decides which file has the name
        })
    }

    async fn extend(&self, volume: &HostVolume) -> Result<u64, BackendError> {
        // A file is as large as its server says when it is opened.
        self.mounter.inspect(volume).await
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
        let mount = mount::of(&volume.plan, PROTOCOL)?;
        if !how.is_last(&volume.plan.claims) {
            return Ok(());
        }
        self.mounter.take_down(&volume.plan, mount).await
    }
}

#[cfg(test)]
mod tests;
