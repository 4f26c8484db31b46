//! Connects volumes to this host: one file per protocol, behind one trait.
//!
//! Invariants: nothing that can hang runs in the daemon (mounts, unmounts and file access on a share run in worker
//! processes with a deadline); a plan is pure and free of secrets; what a plan names is enough to take the
//! connection down again, also after a restart.
//!
//! Who else uses a shared mount is not a backend's business: the executor in `attach` counts uses in the journal and
//! tells [`Backend::disconnect`] whether it was the last, under a lock per [`HostPlan::shared`].

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
use std::sync::Arc;

use async_trait::async_trait;

pub use error::{Attempt, BackendError};

use crate::connection::Protocol;
use crate::model::{Access, HostPlan, TargetPlan};

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
    /// The plan with what only connecting tells: a block device's path and identity.
    pub plan: HostPlan,
    /// Whether the volume was inspected with it; else [`Backend::inspect`] is still to come.
    pub inspected: bool,
}

/// How a connection is taken down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    /// Nobody else uses what the volume shares with others ([`HostPlan::shared`]); else that stays.
    pub last: bool,
    /// What was written last may be lost: where it cannot be flushed, that is logged and gone past. It passes over nothing
    /// else: devices are taken down and seen gone, and who uses them is respected.
    pub force: bool,
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

/// A way to connect volumes to this host.
#[async_trait]
pub trait Backend: Send + Sync {
    /// The protocol it serves, as [`Protocol::name`] has it.
    fn protocol(&self) -> &'static str;

    /// Whether this host's configuration makes the volume read-only.
    fn read_only(&self, _info: &Protocol) -> bool {
        false
    }

    /// Decides what connecting comes to: the same input gives the same plan, and nothing is touched.
    ///
    /// # Errors
    /// Where the settings forbid it or the connection info cannot work.
    fn plan(&self, info: &Protocol, access: Access) -> Result<HostPlan, BackendError>;

    /// Tells a plan in words. Pure, like the plan.
    fn describe(&self, info: &Protocol, plan: &HostPlan) -> Description;

    /// Is told, at the start, of a connection in the journal. Touches nothing.
    fn recall(&self, _plan: &HostPlan) {}

    /// Whether a guest that SELinux confines may use the plan's volume, as this host is set up now. Looks at this host alone.
    ///
    /// # Errors
    /// Where it may not.
    fn check_confined(&self, _plan: &HostPlan) -> Result<(), BackendError> {
        Ok(())
    }

    /// Looks whether the plan's connection is there, without touching the server.
    async fn find(&self, plan: &HostPlan) -> Result<Presence, BackendError>;

    /// Makes the connection, which is not there whole; where that costs less in one, inspects the volume too. On an
    /// error nothing is left over, or [`Backend::find`] tells. What the plan then has is what [`Backend::disconnect`] gets.
    async fn connect(&self, plan: &HostPlan, info: &Protocol) -> Result<Connected, BackendError>;

    /// Opens the connected volume beneath its root and checks that it may be shown to a guest: a regular file (or
    /// block device) whose header names no other file. Touches nothing.
    async fn inspect(&self, plan: &HostPlan) -> Result<(), BackendError>;

    /// Makes this host see the size that the storage has given the connected volume, and gives it in bytes: the length of
    /// the file or device, whatever image is in it. A file is looked at anew; a block device's every path is read anew and
    /// its identity verified again before the device over them takes the size. Called again and again it comes to the same;
    /// on an error, guests see what they saw before. It never makes a volume larger or smaller itself.
    async fn extend(&self, plan: &HostPlan) -> Result<u64, BackendError>;

    /// Takes the connection down, whole or partial; nothing there is success. Called for each volume.
    async fn disconnect(&self, plan: &HostPlan, how: Release) -> Result<(), BackendError>;
}

/// The plan's target, which every plan of a target's backend has, with a path at least.
fn target_of<'a>(
    plan: &'a HostPlan,
    protocol: &'static str,
) -> Result<&'a TargetPlan, BackendError> {
    let target = plan.target.as_ref();
    target
        .filter(|target| !target.paths.is_empty())
        .ok_or(BackendError::not_mine(protocol, "a plan without a target"))
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
