//! Connects volumes to this host: one file per protocol, behind one trait.
//!
//! Invariants: nothing that can hang runs in the daemon (mounts, unmounts and file access on a share run in worker
//! processes with a deadline); a plan is pure and free of secrets; what a plan names is enough to take the
//! connection down again, also after a restart.
//!
//! Who else uses a shared mount is not a backend's business: the executor in `attach` counts uses in the journal and
//! calls [`Backend::connect`] for the first and [`Backend::disconnect`] after the last, under a lock per
//! [`HostPlan::shared`].

use async_trait::async_trait;

use crate::connection::Protocol;
use crate::model::{Access, HostPlan, Reason};

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

/// A way to connect volumes to this host.
#[async_trait]
pub trait Backend: Send + Sync {
    /// Decides what connecting comes to: the same input gives the same plan, and nothing is touched.
    ///
    /// # Errors
    /// Where the settings forbid it or the connection info cannot work.
    fn plan(&self, info: &Protocol, access: Access) -> Result<HostPlan, BackendError>;

    /// Looks whether the plan's connection is there, without touching the server.
    async fn find(&self, plan: &HostPlan) -> Result<Presence, BackendError>;

    /// Makes the connection. On an error nothing is left over, or [`Backend::find`] tells.
    async fn connect(&self, plan: &HostPlan, info: &Protocol) -> Result<(), BackendError>;

    /// Opens the connected volume beneath its root and checks that it may be shown to a guest: a regular file (or
    /// block device) whose header names no other file. Touches nothing.
    async fn inspect(&self, plan: &HostPlan) -> Result<(), BackendError>;

    /// Takes the connection down, whole or partial; nothing there is success.
    async fn disconnect(&self, plan: &HostPlan) -> Result<(), BackendError>;
}

/// Why a backend failed.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {}

impl BackendError {
    /// The stable reason.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match *self {}
    }
}
