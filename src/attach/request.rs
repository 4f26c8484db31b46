//! What callers ask for, decoded and valid.

use crate::connection::ConnectionInfo;
use crate::model::{Access, AttachmentId, DiskOptions, DomainRef, VolumeId};

/// Attach a volume to a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachRequest {
    /// The caller's id, the idempotency key.
    pub id: AttachmentId,
    /// The volume.
    pub volume: VolumeId,
    /// The domain.
    pub domain: DomainRef,
    /// How to reach the volume.
    pub info: ConnectionInfo,
    /// `None`: what the volume allows.
    pub access: Option<Access>,
    /// How the disk appears.
    pub disk: DiskOptions,
}

/// Connect a volume to this host only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectRequest {
    /// The caller's id, the idempotency key.
    pub id: AttachmentId,
    /// The volume.
    pub volume: VolumeId,
    /// How to reach the volume.
    pub info: ConnectionInfo,
    /// `None`: what the volume allows.
    pub access: Option<Access>,
    /// For the disk XML in the answer.
    pub disk: DiskOptions,
}
