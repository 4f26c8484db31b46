//! An attachment as the world sees it.

use std::fmt;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    AccessDecision, AttachmentId, Holder, PathCount, Reason, RecordedReason, VolumeId, VolumeRights,
};

/// Where an attachment stands; see the diagram in [`crate::model`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The storage is being connected to the host.
    Connecting,
    /// Connected; the disk is being plugged into the domain.
    Attaching,
    /// The domain has the disk.
    Attached,
    /// Connected to the host only, as `ConnectVolume` promises.
    Connected,
    /// What was attached or connected is gone: the domain has no disk, or the connection broke. Records never hold this: it follows from
    /// their error.
    Lost,
    /// The guest was asked to let go of the disk.
    Detaching,
    /// The storage is being disconnected from the host.
    Disconnecting,
    /// An undo failed: something is left over, and a detach or disconnect tries again.
    Failed,
    /// The record is gone, and nothing is left unless the error is [`Reason::Forgotten`]. Only watchers see it.
    Gone,
}

impl State {
    /// The state in lower case, as the journal and the command line write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Attaching => "attaching",
            Self::Attached => "attached",
            Self::Connected => "connected",
            Self::Lost => "lost",
            Self::Detaching => "detaching",
            Self::Disconnecting => "disconnecting",
            Self::Failed => "failed",
            Self::Gone => "gone",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A domain that was found: both its names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Domain {
    /// Its UUID, which it keeps.
    pub uuid: Uuid,
    /// Its name at the time.
    pub name: String,
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.uuid)
    }
}

/// What went wrong last with an attachment, kept for the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentError {
    /// The stable reason.
    pub reason: RecordedReason,
    /// The whole chain of causes, in words.
    pub message: String,
}

impl AttachmentError {
    /// Whether the guest is paused by it.
    #[must_use]
    pub fn is_stop(&self) -> bool {
        self.reason == RecordedReason::Known(Reason::IoStopped)
    }

    /// The reason, if the attachment is lost by it.
    #[must_use]
    pub fn loss(&self) -> Option<Reason> {
        match self.reason {
            RecordedReason::Known(reason @ (Reason::DiskLost | Reason::DomainGone)) => Some(reason),
            _ => None,
        }
    }
}

/// One volume on one domain, or (connected only) on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The caller's id.
    pub id: AttachmentId,
    /// The volume.
    pub volume: VolumeId,
    /// The domain; `None` for `ConnectVolume`.
    pub domain: Option<Domain>,
    /// The connection info's protocol, such as `smbfs`.
    pub protocol: String,
    /// Servers of the volume, by name or address, without ports; none for a volume of this host.
    pub servers: Vec<String>,
    /// Paths to a connected volume on a target; `None` for any other volume.
    pub paths: Option<PathCount>,
    /// Read-only or read-write, and why.
    pub access: AccessDecision,
    /// What was known of who may use the volume when that was decided.
    pub rights: VolumeRights,
    /// For whom it is; `None`: not known, an earlier version made it.
    pub holder: Option<Holder>,
    /// Where it stands.
    pub state: State,
    /// The volume on this host, once connected.
    pub host_path: Option<PathBuf>,
    /// The disk's target in the domain, once that is chosen.
    pub target: Option<String>,
    /// The disk's XML, once that is written.
    pub disk_xml: Option<String>,
    /// What went wrong last.
    pub error: Option<AttachmentError>,
    /// When the caller asked for it.
    pub created: SystemTime,
    /// When its state last changed.
    pub updated: SystemTime,
}
