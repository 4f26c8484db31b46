//! Connects volumes to this host: one file per protocol, behind one trait.
//!
//! Invariants: nothing that can hang runs in the daemon (mounts, unmounts and file access on a share run in worker
//! processes with a deadline); a plan is pure and free of secrets; what a plan names is enough to take the
//! connection down again, also after a restart.
//!
//! Who else uses what is shared is not a backend's business: the executor in `attach` counts uses in the journal and
//! tells [`Backend::disconnect`] which others hold, under a lock per [`Claim`].

mod device;
mod error;
mod file;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod image;
pub mod iscsi;
pub mod local;
mod mount;
pub mod nfs;
pub mod nvmeof;
mod release;
pub mod smb;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

pub use error::{Attempt, BackendError};

use crate::connection::Protocol;
use crate::model::{Access, Claim, Found, HostPlan, HostVolume, Scope, Wwid};

/// Whether something that a plan names is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is there, whole.
    Present,
    /// It is there in part: a directory without its mount. `disconnect` removes it, `connect` completes it.
    Partial,
    /// Nothing is there.
    Absent,
}

/// What connecting came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    /// What only connecting tells.
    pub found: Found,
    /// Whether the volume was inspected with it; else [`Backend::inspect`] is still to come.
    pub inspected: bool,
}

/// How a connection is taken down.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Release {
    /// Which of its claims others hold too: that stays.
    pub held: Vec<Claim>,
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

/// A connected volume that stays where it is.
pub struct Pinned {
    /// The path by which it is plugged in.
    pub path: PathBuf,
    /// What keeps it there until it is dropped.
    pub held: Box<dyn Send + Sync>,
}

/// Who has which identity, as the records have it: asked by a backend that connects a volume.
#[async_trait]
pub trait Owners: Send + Sync {
    /// Takes the identity that a device has told, for the volume that is being connected. It is this volume's from then on, and no
    /// other's, for as long as it is connected: two volumes that tell one identity would be joined into one, by multipathd, by udev's
    /// names and by whoever else goes by identities. `device` names the volume where there is none but this to name it by.
    ///
    /// # Errors
    /// `DEVICE_IDENTITY` where it is another volume's.
    async fn take(&self, identity: &Wwid, device: String) -> Result<(), BackendError>;
}

/// A way to connect volumes to this host.
#[async_trait]
pub trait Backend: Send + Sync {
    /// The protocol it serves, as [`Protocol::name`] has it.
    fn protocol(&self) -> &'static str;

    /// Whether this host's configuration makes the volume read-only.
    fn read_only(&self, info: &Protocol) -> bool;

    /// Decides what connecting comes to: the same input gives the same plan, and nothing is touched.
    ///
    /// # Errors
    /// Where the settings forbid it or the connection info cannot work.
    fn plan(&self, info: &Protocol, access: Access) -> Result<HostPlan, BackendError>;

    /// Tells a plan in words. Pure, like the plan.
    fn describe(&self, info: &Protocol, plan: &HostPlan) -> Description;

    /// Is told, at the start, of a connection in the journal. Touches nothing.
    fn recall(&self, volume: &HostVolume);

    /// Whether a guest that SELinux confines may use the plan's volume, as this host is set up now. Looks at this host alone.
    ///
    /// # Errors
    /// Where it may not.
    fn check_confined(&self, plan: &HostPlan) -> Result<(), BackendError>;

    /// Looks whether the volume's connection is there, without touching the server.
    async fn find(&self, volume: &HostVolume) -> Result<Presence, BackendError>;

    /// What there is already of the plan's connection that is others': to be written down before [`Backend::connect`], after which
    /// nobody could tell.
    async fn survey(&self, plan: &HostPlan) -> Result<Found, BackendError>;

    /// Makes the connection, which is not there whole; where that costs less in one, inspects the volume too. On an
    /// error nothing is left over, or [`Backend::find`] tells. What is found adds to what a survey found.
    ///
    /// A device is joined with others, and handed out, only after its identity was taken from `owners`.
    async fn connect(
        &self,
        volume: &HostVolume,
        info: &Protocol,
        owners: &dyn Owners,
    ) -> Result<Connected, BackendError>;

    /// Inspects the volume of a connection that is there, made by others.
    ///
    /// # Errors
    /// Where that connection is none for this volume ([`BackendError::is_of_connection`]): its server is lost to it, or it was logged in
    /// to otherwise than one would be now. And as [`Backend::inspect`].
    async fn join(&self, volume: &HostVolume) -> Result<(), BackendError>;

    /// The plan of another connection beside one that cannot be joined and that others have: of a share, a mount of its own. `None`:
    /// there can be no other.
    fn beside(&self, plan: &HostPlan) -> Option<HostPlan>;

    /// Opens the connected volume beneath its root and checks that it may be shown to a guest: a regular file (or
    /// block device) whose header names no other file. Touches nothing.
    async fn inspect(&self, volume: &HostVolume) -> Result<(), BackendError>;

    /// Sees to it that a path leads to the connected volume while the volume is plugged in, which goes by the path: a block device that
    /// goes away leaves its name to the next one, unless somebody has it open. A persistent configuration outlives the host's
    /// start, after which the kernel gives its names anew: for that scope it is a path that is the volume's then too.
    ///
    /// # Errors
    /// `DEVICE_IDENTITY` where the volume's path leads to something else already; `DISK_OPTION_INVALID` where there is no path for the
    /// scope.
    async fn pin(&self, volume: &HostVolume, scope: Scope) -> Result<Pinned, BackendError>;

    /// Makes this host see the size that the storage has given the connected volume, and gives it in bytes: the length of
    /// the file or device, whatever image is in it. A file is looked at anew; a block device's every path is read anew and
    /// its identity verified again before the device over them takes the size. Called again and again it comes to the same;
    /// on an error, guests see what they saw before. It never makes a volume larger or smaller itself.
    async fn extend(&self, volume: &HostVolume) -> Result<u64, BackendError>;

    /// Takes the connection down, whole or partial; nothing there is success. Called for each volume.
    async fn disconnect(&self, volume: &HostVolume, how: &Release) -> Result<(), BackendError>;
}

/// The backends of this build, by protocol.
#[derive(Clone)]
pub struct Backends(BTreeMap<&'static str, Arc<dyn Backend>>);

impl Backends {
    /// A registry of these.
    pub fn new(backends: impl IntoIterator<Item = Arc<dyn Backend>>) -> Self {
        Self(
            backends
                .into_iter()
                .map(|backend| (backend.protocol(), backend))
                .collect(),
        )
    }

    /// The backend of that protocol.
    ///
    /// # Errors
    /// Where there is none: the journal of a build that had it, or connection info that this one cannot serve.
    pub fn get(&self, protocol: &str) -> Result<&Arc<dyn Backend>, BackendError> {
        self.0
            .get(protocol)
            .ok_or_else(|| BackendError::UnknownProtocol {
                protocol: protocol.to_owned(),
                known: self.0.keys().copied().collect::<Vec<_>>().join(", "),
            })
    }
}

/// No other volume is connected.
#[cfg(test)]
struct NoOthers;

#[cfg(test)]
#[async_trait]
impl Owners for NoOthers {
    async fn take(&self, _identity: &Wwid, _device: String) -> Result<(), BackendError> {
        Ok(())
    }
}
