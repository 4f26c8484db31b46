//! What callers ask for, decoded and valid.

use std::time::SystemTime;

use tokio::time::Instant;

use super::changes::{Revision, Varying};
use crate::connection::{ConnectionInfo, QosSpecs};
use crate::model::{
    Access, Asker, Attachment, AttachmentId, DiskOptions, DomainRef, Holder, HostKey, IoTune,
    Permissions, State, VolumeFacts, VolumeId,
};

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
    /// Whether read-only will not do.
    pub require_rw: bool,
    /// Whether a domain is to boot from it.
    pub boot: bool,
    /// What the caller says of the volume, where it may vouch for that.
    pub facts: Option<VolumeFacts>,
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
    /// Whether read-only will not do.
    pub require_rw: bool,
    /// Whether a domain is to boot from it.
    pub boot: bool,
    /// What the caller says of the volume, where it may vouch for that.
    pub facts: Option<VolumeFacts>,
    /// For the disk XML in the answer.
    pub disk: DiskOptions,
}

/// Take an attachment down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndRequest {
    /// The attachment.
    pub id: AttachmentId,
    /// Whether to go on where what the guest wrote last cannot be flushed.
    pub force: bool,
}

/// Change who may use a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PermissionsRequest {
    /// The volume.
    pub volume: VolumeId,
    /// `None`: whatever is told with attaches.
    pub permissions: Option<Permissions>,
}

/// Have host and guest see a volume that its storage has grown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtendRequest {
    /// The attachment.
    pub id: AttachmentId,
    /// The size that the volume is to have at least, in bytes; `None`: whatever it has.
    pub bytes: Option<u64>,
}

/// Limit the I/O of an attachment's disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IoTuneRequest {
    /// The attachment.
    pub id: AttachmentId,
    /// The limits.
    pub limits: IoLimits,
}

/// Limits, or a rule that has them by the size of the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IoLimits {
    /// These.
    Fixed(IoTune),
    /// Those of a volume type.
    Qos(QosSpecs),
}

/// Either of the two that make one: a connect is an attach without a domain.
pub(super) struct Wanted {
    pub(super) id: AttachmentId,
    pub(super) volume: VolumeId,
    pub(super) domain: Option<DomainRef>,
    pub(super) info: ConnectionInfo,
    pub(super) access: Option<Access>,
    pub(super) require_rw: bool,
    pub(super) boot: bool,
    pub(super) facts: Option<VolumeFacts>,
    pub(super) disk: DiskOptions,
}

impl From<AttachRequest> for Wanted {
    fn from(request: AttachRequest) -> Self {
        Self {
            id: request.id,
            volume: request.volume,
            domain: Some(request.domain),
            info: request.info,
            access: request.access,
            require_rw: request.require_rw,
            boot: request.boot,
            facts: request.facts,
            disk: request.disk,
        }
    }
}

impl From<ConnectRequest> for Wanted {
    fn from(request: ConnectRequest) -> Self {
        Self {
            id: request.id,
            volume: request.volume,
            domain: None,
            info: request.info,
            access: request.access,
            require_rw: request.require_rw,
            boot: request.boot,
            facts: request.facts,
            disk: request.disk,
        }
    }
}

impl Wanted {
    /// Whether a domain boots from the volume: a disk with a place in the boot order is one that it may boot from.
    pub(super) fn boots(&self) -> bool {
        self.boot || self.disk.boot_order.is_some()
    }

    /// A keyed hash of the whole request, secrets included: says whether a repeated call is the same one. What is said of
    /// the volume is no part of it: that somebody uses it now may be another answer a moment later.
    pub(super) fn fingerprint(&self, key: &HostKey) -> String {
        let domain = self.domain.as_ref().map(ToString::to_string);
        let mut rest = serde_json::json!([domain, self.access, self.disk]).to_string();
        // Where neither is said, it is what it was before they could be.
        if self.require_rw || self.boot {
            rest.push_str(&serde_json::json!([self.require_rw, self.boot]).to_string());
        }
        key.tag(&[
            self.id.as_str().as_bytes(),
            self.volume.as_str().as_bytes(),
            rest.as_bytes(),
            self.info.canonical().as_bytes(),
        ])
    }
}

/// Which attachments a list or watch is about; `None` matches all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// On this domain.
    pub domain: Option<DomainRef>,
    /// Of this volume.
    pub volume: Option<VolumeId>,
    /// In this state.
    pub state: Option<State>,
    /// Of this protocol.
    pub protocol: Option<String>,
    /// From this server, as [`Attachment::servers`] names it.
    pub server: Option<String>,
    /// With this error, by the name of its reason.
    pub reason: Option<String>,
    /// With any error.
    pub failing: bool,
    /// Asked for before this time.
    pub created_before: Option<SystemTime>,
}

impl Filter {
    /// Whether an attachment matches.
    #[must_use]
    pub fn matches(&self, attachment: &Attachment) -> bool {
        self.matches_fixed(attachment) && self.matches_varying(&attachment.into())
    }

    /// Whether the parts of an attachment match that stay the same while it lasts.
    pub(super) fn matches_fixed(&self, attachment: &Attachment) -> bool {
        let domain = match (&self.domain, &attachment.domain) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(DomainRef::Uuid(uuid)), Some(domain)) => domain.uuid == *uuid,
            // Compared with the parts that change.
            (Some(DomainRef::Name(_)), Some(_)) => true,
        };
        domain
            && is(self.volume.as_ref(), &attachment.volume)
            && is(self.protocol.as_ref(), &attachment.protocol)
            && self
                .server
                .as_ref()
                .is_none_or(|it| attachment.servers.contains(it))
            && self.created_before.is_none_or(|it| attachment.created < it)
    }

    /// Whether the parts of an attachment match that change while it lasts.
    pub(super) fn matches_varying(&self, varying: &Varying) -> bool {
        let reason = varying.reason.as_ref().map(ToString::to_string);
        let domain = match &self.domain {
            Some(DomainRef::Name(name)) => varying.domain.as_ref() == Some(name),
            Some(DomainRef::Uuid(_)) | None => true,
        };
        domain
            && is(self.state.as_ref(), &varying.state)
            && (self.reason.is_none() || self.reason == reason)
            && (!self.failing || reason.is_some())
    }
}

fn is<T: PartialEq>(wanted: Option<&T>, value: &T) -> bool {
    wanted.is_none_or(|wanted| wanted == value)
}

/// A watch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WatchRequest {
    /// Which attachments.
    pub filter: Filter,
    /// Only what changed after this. `None`: everything as it is first.
    pub after: Option<Revision>,
}

/// One page of attachments, ordered by id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListQuery {
    /// Which.
    pub filter: Filter,
    /// Only ids after this one.
    pub after: Option<AttachmentId>,
    /// At most so many.
    pub limit: usize,
}

/// A call to attach or connect, and its caller.
pub(super) struct Asked {
    pub(super) asker: Asker,
    pub(super) holder: Holder,
    pub(super) wanted: Wanted,
    pub(super) fingerprint: String,
    /// Until when the caller waits; `None`: for ever.
    pub(super) deadline: Option<Instant>,
}
