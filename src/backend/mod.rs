//! Connects volumes to this host: one file per protocol, behind one trait.
//!
//! Invariants: nothing that can hang runs in the daemon (mounts, unmounts and file access on a share run in worker
//! processes with a deadline); a plan is pure and free of secrets; what a plan names is enough to take the
//! connection down again, also after a restart.
//!
//! Backends do not count the users of shared things: the executor in `attach` counts them in the journal and passes the claims held by
//! others to [`Backend::disconnect`], under a lock per [`Claim`].

#[cfg(test)]
mod closed;
mod device;
mod error;
mod file;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod image;
pub mod iscsi;
pub mod local;
mod locks;
mod lvm;
mod mount;
pub mod nfs;
pub mod nvmeof;
mod protect;
mod quarantine;
mod release;
pub mod smb;

use std::any::Any;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

pub use error::{Attempt, BackendError};
pub(crate) use locks::Locks;
pub use lvm::Lvm;
pub use quarantine::{Quarantine, Quarantined};

use crate::connection::Protocol;
use crate::model::{
    Access, Claim, ErrorPolicy, Found, HostPlan, HostVolume, PathCount, Scope, Server, TargetPath,
    Wwid, chain,
};
use crate::sys::worker::Workers;
use quarantine::Guarded;

/// Whether something that a plan names is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is there, whole.
    Present,
    /// The volume is connected, but not by all of its paths. [`Backend::repair`] makes the missing ones.
    Degraded(PathCount),
    /// It is there in part: a directory without its mount. `disconnect` removes it, `connect` completes it.
    Partial,
    /// Nothing is there.
    Absent,
}

impl Presence {
    /// Whether the volume can be used by the connection.
    #[must_use]
    pub fn is_connected(self) -> bool {
        matches!(self, Self::Present | Self::Degraded(_))
    }

    /// The count of paths, if some are missing.
    #[must_use]
    pub fn degraded(self) -> Option<PathCount> {
        match self {
            Self::Degraded(paths) => Some(paths),
            Self::Present | Self::Partial | Self::Absent => None,
        }
    }
}

/// What connecting came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    /// Findings of the connect.
    pub found: Found,
    /// Paths to the volume, if some of them could not be made.
    pub degraded: Option<PathCount>,
    /// Whether the volume was inspected with it; else [`Backend::inspect`] is still to come.
    pub inspected: bool,
}

/// How old a server's sign of life may be when the kernel is asked to talk to the server.
const FRESH: Duration = Duration::from_secs(1);

/// The results of [`Backend::head_start`], which the backend that made them alone can read. The drop ends what was started.
#[derive(Default)]
pub struct HeadStart(Option<Early>);

struct Early {
    results: Box<dyn Any + Send>,
    began: Instant,
    ended: Instant,
}

impl HeadStart {
    /// Holds results that have just come in.
    fn of(began: Instant, results: impl Send + 'static) -> Self {
        Self(Some(Early {
            results: Box::new(results),
            began,
            ended: Instant::now(),
        }))
    }

    /// Drops results that are not [`FRESH`].
    fn if_fresh(self) -> Self {
        Self(self.0.filter(|early| early.ended.elapsed() <= FRESH))
    }

    /// When the work for the results began: a silence that was found began then.
    fn began(&self) -> Option<Instant> {
        self.0.as_ref().map(|early| early.began)
    }

    /// Returns the results; `None`: there are none of this type.
    fn into_inner<T: 'static>(self) -> Option<T> {
        let results = self.0?.results.downcast().ok()?;
        Some(*results)
    }
}

/// How a connection is taken down.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Release {
    /// Claims that others hold too: their things stay.
    pub held: Vec<Claim>,
    /// Whether the volume's device stays read-only for another attachment, whose duty it is to make the device writable again.
    pub keeps_read_only: bool,
    /// What was written last may be lost: where it cannot be flushed, that is logged and gone past. It passes over nothing
    /// else: devices are taken down and seen gone, and who uses them is respected.
    pub force: bool,
}

impl Release {
    /// Whether nobody else holds any of these claims.
    #[must_use]
    pub fn is_last(&self, claims: &[Claim]) -> bool {
        !claims.iter().any(|claim| self.held.contains(claim))
    }
}

/// A setting that a plan came from: what it is, and who set it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Such as `vers`.
    pub name: String,
    /// Its value, secrets redacted; empty for a flag.
    pub value: String,
    /// Who set it: `built in`, `default`, `server`, `connection info`, `mandatory`.
    pub origin: String,
}

/// A plan in words, for a dry run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description {
    /// What the connect step does, on what.
    pub connect: String,
    /// What the inspect step does, on what.
    pub inspect: String,
    /// Where each setting came from.
    pub settings: Vec<Setting>,
}

/// A connected volume, held at its path.
pub struct Pinned {
    /// Path to plug the volume in by.
    pub path: PathBuf,
    /// Guard that holds the device at the path until dropped.
    pub held: Box<dyn Send + Sync>,
}

/// Connection of this host that no record has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unrecorded {
    /// The connection, as `mount /var/lib/volattach/mnt/… of //files/vols`.
    pub what: String,
    /// Command that takes it down.
    pub mend: String,
    /// Whether volattach made it for sure.
    pub own: bool,
}

/// Owners of identities according to the records; asked by a backend that connects a volume.
#[async_trait]
pub trait Owners: Send + Sync {
    /// Reserves an identity reported by a device for the volume being connected, for as long as it is connected: two volumes with the same
    /// identity would be joined into one by multipathd, by udev's names and by anybody else who goes by identities. `device` names the
    /// volume in errors.
    ///
    /// # Errors
    /// `DEVICE_IDENTITY` if another volume has the identity.
    async fn take(&self, identity: &Wwid, device: String) -> Result<(), BackendError>;
}

/// A way to connect volumes to this host.
#[async_trait]
pub trait Backend: Send + Sync {
    /// The protocol it serves, as [`Protocol::name`] has it.
    fn protocol(&self) -> &'static str;

    /// Whether this host's configuration makes the volume read-only.
    fn read_only(&self, info: &Protocol) -> bool;

    /// What becomes of a guest's failed requests to a volume of this kind, if the request to attach it does not say.
    fn error_policy(&self) -> ErrorPolicy;

    /// Decides what connecting comes to: the same input gives the same plan, and nothing is touched.
    ///
    /// # Errors
    /// Where the settings forbid it or the connection info cannot work.
    fn plan(&self, info: &Protocol, access: Access) -> Result<HostPlan, BackendError>;

    /// Tells a plan in words. Pure, like the plan.
    fn describe(&self, info: &Protocol, plan: &HostPlan) -> Description;

    /// Is told, at the start, of the connections in the journal. Changes nothing on this host; reads its state once for all of them, so it
    /// is called on a blocking thread.
    fn recall(&self, volumes: &[HostVolume]);

    /// Whether a guest that SELinux confines may use the plan's volume, as this host is set up now. Looks at this host alone. Called before the
    /// connect, which may be needed to know, and again after it.
    ///
    /// # Errors
    /// Where it may not.
    async fn check_confined(&self, plan: &HostPlan) -> Result<(), BackendError>;

    /// Asks a server that was silent for a sign of life, from user space and within the probe's deadline. `Ok`: it answers, or refuses
    /// promptly.
    ///
    /// # Errors
    /// A silence ([`BackendError::is_silence`]), or this host's trouble.
    async fn sign_of_life(&self, server: &Server) -> Result<(), BackendError>;

    /// Finds connections of this kind that volattach made, or may have made, and that none of these volumes has. Looks at this host alone.
    ///
    /// # Errors
    /// Where this host cannot be looked at.
    async fn unrecorded(&self, recorded: &[HostVolume]) -> Result<Vec<Unrecorded>, BackendError>;

    /// Checks whether the volume's connection exists, without touching the server.
    async fn find(&self, volume: &HostVolume) -> Result<Presence, BackendError>;

    /// The same for many volumes, in their order, from one look at this host's state: what it costs grows with the volumes, not with their
    /// square.
    async fn find_all(&self, volumes: Vec<HostVolume>) -> Vec<Result<Presence, BackendError>>;

    /// Finds the parts of the plan's connection that others have made, to be journaled before [`Backend::connect`]: afterwards those parts
    /// look the same as volattach's own.
    async fn survey(&self, plan: &HostPlan) -> Result<Found, BackendError>;

    /// Runs the parts of a connect that change neither this host nor its storage and take long enough to be worth an early start: a worker
    /// process, the server's sign of life. A failure is kept for the connect to report.
    async fn head_start(&self, plan: &HostPlan, info: &Protocol) -> HeadStart;

    /// Makes or completes the connection, and inspects the volume too if that costs less in one go. After an error, nothing is left over or
    /// [`Backend::find`] reports the rest. Adds its findings to those of the survey. Uses the results of a head start as long as they are
    /// fresh.
    ///
    /// Takes each device's identity from `owners` before joining the device with others or handing it out.
    async fn connect(
        &self,
        volume: &HostVolume,
        info: &Protocol,
        owners: &dyn Owners,
        head_start: HeadStart,
    ) -> Result<Connected, BackendError>;

    /// Inspects the volume through an existing connection made by others.
    ///
    /// # Errors
    /// A connection error ([`BackendError::is_of_connection`]) if the existing connection cannot serve this volume: its server is lost, or
    /// its login differs from a new one. And as [`Backend::inspect`].
    async fn join(&self, volume: &HostVolume) -> Result<(), BackendError>;

    /// Plans another connection beside one that others hold and that cannot be joined: for a share, a mount of its own. `None`: no second
    /// connection is possible.
    fn beside(&self, plan: &HostPlan) -> Option<HostPlan>;

    /// Opens the connected volume beneath its root and checks that it may be shown to a guest: a regular file (or
    /// block device) whose header names no other file. A device that is
    /// to be read-only for attachments ([`crate::model::Found::protected`]) is made so first.
    async fn inspect(&self, volume: &HostVolume) -> Result<(), BackendError>;

    /// The same for a volume whose requests failed: reads a block of it from its storage too, past this host's caches.
    async fn read(&self, volume: &HostVolume) -> Result<(), BackendError>;

    /// Keeps a path leading to the connected volume while the volume is plugged in by that path: the kernel gives the name of a removed
    /// block device to the next one, unless the removed device is held open. For a scope with the persistent configuration, returns a path
    /// that still leads to the volume after a reboot of the host: `before`, the disk's present source, if that is such a path.
    ///
    /// # Errors
    /// `DEVICE_IDENTITY` if the path already leads to another device; `DISK_OPTION_INVALID` if no path suits the scope.
    async fn pin(
        &self,
        volume: &HostVolume,
        scope: Scope,
        before: &Path,
    ) -> Result<Pinned, BackendError>;

    /// Makes this host see the size that the storage has given the connected volume, and gives it in bytes: the length of
    /// the file or device, whatever image is in it. A file is looked at anew; a block device's every path is read anew and
    /// its identity verified again before the device over them takes the size. Called again and again it comes to the same;
    /// on an error, guests see what they saw before. It never makes a volume larger or smaller itself.
    async fn extend(&self, volume: &HostVolume) -> Result<u64, BackendError>;

    /// Finds the missing paths of each of these connected volumes that can be made now: their servers answer. From one look at this host's
    /// state, and each server is asked once. Called without a lock, so it may wait for servers.
    async fn repairable(&self, volumes: Vec<HostVolume>) -> Vec<Vec<TargetPath>>;

    /// Makes missing paths of a connected volume, and verifies the identity of the device on each as [`Backend::connect`] does. What works
    /// stays untouched. A path that fails leaves nothing behind, but for an NVMe controller that is connected and has not shown the volume or its
    /// identity yet: the kernel compares the identity before it uses the path. `info`: the repeated request of the caller, with the secrets that no
    /// journal keeps.
    ///
    /// # Errors
    /// Why a path could not be made.
    async fn repair(
        &self,
        volume: &HostVolume,
        paths: &[TargetPath],
        info: Option<&Protocol>,
    ) -> Result<(), BackendError>;

    /// Takes the connection down, whole or partial; nothing there is success. Called for each volume. While others hold every claim, a
    /// block device is only written out.
    async fn disconnect(&self, volume: &HostVolume, how: &Release) -> Result<(), BackendError>;
}

/// The backends of this build, by protocol, each behind the quarantine of its servers. Clones are the same backends.
#[derive(Clone)]
pub struct Backends {
    by_protocol: Arc<BTreeMap<&'static str, Arc<dyn Backend>>>,
    quarantine: Quarantine,
}

impl Backends {
    /// A registry of these, behind this quarantine.
    pub fn new(
        backends: impl IntoIterator<Item = Arc<dyn Backend>>,
        quarantine: Quarantine,
    ) -> Self {
        let guarded = backends.into_iter().map(|backend| {
            let protocol = backend.protocol();
            let guarded: Arc<dyn Backend> = Arc::new(Guarded::new(backend, quarantine.clone()));
            (protocol, guarded)
        });
        Self {
            by_protocol: Arc::new(guarded.collect()),
            quarantine,
        }
    }

    /// The servers that hang.
    #[must_use]
    pub fn quarantine(&self) -> &Quarantine {
        &self.quarantine
    }

    /// Whether what failed for a server, in words ([`Quarantine::released`]), may have failed for the plan's volume.
    #[must_use]
    pub fn concerns(server: &str, plan: &HostPlan) -> bool {
        let mut servers = plan.reached_by().into_iter();
        servers.any(|it| it.to_string() == server) || counted_under(plan) == server
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Backend>> {
        self.by_protocol.values()
    }

    /// The backend of that protocol.
    ///
    /// # Errors
    /// Where there is none: the journal of a build that had it, or connection info that this one cannot serve.
    pub fn get(&self, protocol: &str) -> Result<Arc<dyn Backend>, BackendError> {
        let known = &self.by_protocol;
        known
            .get(protocol)
            .cloned()
            .ok_or_else(|| BackendError::UnknownProtocol {
                protocol: protocol.to_owned(),
                known: known.keys().copied().collect::<Vec<_>>().join(", "),
            })
    }
}

/// The workers for a volume, counted under its servers.
fn workers_of(workers: &Workers, plan: &HostPlan) -> Workers {
    workers.of(&counted_under(plan))
}

/// A volume's servers in words, or its root where it has none.
fn counted_under(plan: &HostPlan) -> String {
    let servers = plan.reached_by().into_iter();
    let names: Vec<String> = servers.map(|server| server.to_string()).collect();
    match names.is_empty() {
        true => plan.root.display().to_string(),
        false => names.join(", "),
    }
}

/// The findings of a look at so many volumes; where the look itself failed, that failure for each.
fn each(
    volumes: usize,
    looked: Result<Vec<Result<Presence, BackendError>>, BackendError>,
) -> Vec<Result<Presence, BackendError>> {
    looked.unwrap_or_else(|error| {
        let failed = || {
            Err(BackendError::Host {
                action: "look at this host's volumes".to_owned(),
                source: chain(&error).into(),
            })
        };
        (0..volumes).map(|_| failed()).collect()
    })
}

/// Owners with no other volume connected.
#[cfg(test)]
struct NoOthers;

#[cfg(test)]
#[async_trait]
impl Owners for NoOthers {
    async fn take(&self, _identity: &Wwid, _device: String) -> Result<(), BackendError> {
        Ok(())
    }
}
