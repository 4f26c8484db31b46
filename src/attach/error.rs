//! Why an attach, detach, connect or disconnect failed.

use std::path::PathBuf;
use std::time::Duration;

use super::Full;
use crate::admission::Denied as NotAdmitted;
use crate::backend::BackendError;
use crate::journal::JournalError;
use crate::libvirt::HypervisorError;
use crate::model::{AccessDenied, AttachmentId, Claim, Domain, ImageFormat, Reason, VolumeId};

/// How long to wait before a call is tried again that waits for others to end.
pub(crate) const LATER: Duration = Duration::from_secs(1);

/// Why a call failed. Each level says its own; `source()` has the rest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host's side failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The domain's side failed.
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The volume may not be used as it was asked for.
    #[error(transparent)]
    Denied(#[from] AccessDenied),
    /// It cannot be told which attachments the caller may see.
    #[error(transparent)]
    Undecided(#[from] NotAdmitted),
    /// The id is taken by another request.
    #[error(
        "attachment {id} exists already and was made by another request, or for another user: choose another id, or detach \
         it first"
    )]
    Conflict {
        /// The id.
        id: AttachmentId,
    },
    /// The name of an attachment's domain now belongs to another domain.
    #[error(
        "attachment {id} is of {was}, and its name is now that of {now}: name the domain by its UUID, or detach the attachment first"
    )]
    DomainChanged {
        /// The id.
        id: AttachmentId,
        /// Domain of the attachment.
        was: Domain,
        /// Domain that has the name now.
        now: Domain,
    },
    /// An input of a lost attachment has changed while its guest still uses the disk.
    #[error(
        "attachment {id} was made otherwise than it would be now ({what} has changed), and {domain} still has its disk: detach it, \
         then attach it again"
    )]
    Changed {
        /// The id.
        id: AttachmentId,
        /// The changed input.
        what: &'static str,
        /// Domain that still has the disk.
        domain: Domain,
    },
    /// A call on the same attachment is under way.
    #[error("attachment {id} is being worked on ({state}): wait, then ask again")]
    InProgress {
        /// The id.
        id: AttachmentId,
        /// What is going on.
        state: &'static str,
    },
    /// A volume has another owner than a moment ago.
    #[error("volume {volume} is somebody else's than a moment ago: ask again")]
    OwnerChanged {
        /// The volume.
        volume: VolumeId,
    },
    /// No such attachment.
    #[error("no attachment {id} on this host: list shows those there are")]
    NotFound {
        /// The id.
        id: AttachmentId,
    },
    /// The attachment was made by the other pair of calls.
    #[error("attachment {id} was made by {made_by}: use {use_instead}")]
    Kind {
        /// The id.
        id: AttachmentId,
        /// The call that made it.
        made_by: &'static str,
        /// The call that ends it.
        use_instead: &'static str,
    },
    /// A domain has the disk of an attachment whose record was lost, and this call may not or cannot unplug it.
    #[error(
        "the journal was lost, and with it the record of attachment {id}, whose disk {target} {domain} still has: on the host, as root, \
         {mend}"
    )]
    Orphan {
        /// The id.
        id: AttachmentId,
        /// Domain that has the disk.
        domain: Domain,
        /// The disk's target.
        target: String,
        /// Command that unplugs the disk.
        mend: String,
    },
    /// The guest is paused.
    #[error(
        "the guest of {domain} is paused since a request to volume {volume} failed, and goes on by itself once the volume can be read again: \
         see to the volume's server and the way to it"
    )]
    IoStopped {
        /// The domain.
        domain: Domain,
        /// The volume.
        volume: VolumeId,
    },
    /// The attachment has no disk in a domain.
    #[error(
        "attachment {id} is in no domain: ConnectVolume made it, and a disk has limits and counters only in a domain; AttachVolume plugs one in"
    )]
    NoDomain {
        /// The id.
        id: AttachmentId,
    },
    /// An earlier undo failed.
    #[error(
        "attachment {id} could not be cleaned up after an earlier failure: detach it (it shows why), then ask again"
    )]
    CleanupRequired {
        /// The id.
        id: AttachmentId,
    },
    /// Another attachment uses the volume.
    #[error("volume {volume} is attached on this host already, as {other}: {why}")]
    VolumeInUse {
        /// The volume.
        volume: VolumeId,
        /// The attachment that has it.
        other: AttachmentId,
        /// Why the two may not share it.
        why: &'static str,
    },
    /// The volume is an image that somebody writes, and could only be read.
    #[error(
        "volume {volume} is attached read-write already, and who reads an image (of the format {format}) while it is written \
         sees nonsense: detach it there first, or use a raw volume"
    )]
    ImageWritten {
        /// The volume.
        volume: VolumeId,
        /// Its format.
        format: ImageFormat,
    },
    /// The guest has not let go of the disk.
    #[error(
        "the guest of {domain} has not let go of disk {target} yet: it is asked again from time to time, and the detach completes by \
         itself when it lets go; if it never does, cancel the detach or stop the domain"
    )]
    UnplugPending {
        /// The domain.
        domain: Domain,
        /// The disk's target.
        target: String,
    },
    /// The guest or QEMU refused.
    #[error(
        "the guest of {domain} refused to let go of disk {target} and is not asked again: close what uses it there, then detach \
         again"
    )]
    UnplugRefused {
        /// The domain.
        domain: Domain,
        /// The disk's target.
        target: String,
    },
    /// Another call has cancelled the detach.
    #[error(
        "the detach of attachment {id} was cancelled by another call: detach it again if the guest is to release the disk"
    )]
    Cancelled {
        /// The id.
        id: AttachmentId,
    },
    /// The guest of a detach to be cancelled has no disk.
    #[error(
        "attachment {id} has no disk to keep: its guest released the disk or is about to, or never had it; the detach goes on, attach the \
         volume again after that"
    )]
    NothingToKeep {
        /// The id.
        id: AttachmentId,
    },
    /// What was attached or connected is not there any more.
    #[error(
        "{}: attach it again (the same request makes it anew), or detach it",
        match (domain, fate) {
            (Some(domain), Some(fate)) => {
                format!("{domain} {fate}, and no longer has the disk of attachment {id}")
            }
            (Some(domain), None) => format!("{domain} no longer has the disk of attachment {id}"),
            (None, _) => format!("the connection of attachment {id} is gone from this host"),
        }
    )]
    Lost {
        /// The id.
        id: AttachmentId,
        /// The domain that had it.
        domain: Option<Domain>,
        /// What happened to the domain, as the verb of a sentence about it; `None`: nothing is known.
        fate: Option<String>,
    },
    /// The domain of the attachment has left this host.
    #[error("{domain} {fate}, and with it the disk of attachment {id}: detach it on this host")]
    DomainGone {
        /// The id.
        id: AttachmentId,
        /// The domain.
        domain: Domain,
        /// What happened to the domain, as the verb of a sentence about it.
        fate: String,
    },
    /// The volume is smaller on its storage than it is to be.
    #[error(
        "the volume {path:?} has {stored} bytes on its storage, not the {wanted} asked for: grow it there first, then extend it"
    )]
    NotGrown {
        /// The volume on this host.
        path: PathBuf,
        /// Bytes that it has.
        stored: u64,
        /// Bytes that were asked for.
        wanted: u64,
    },
    /// The guest would see a smaller disk.
    #[error(
        "the guest sees {shown} bytes of the volume {path:?}, and at {smaller} it would lose data: a volume is never made smaller \
         while it is attached"
    )]
    Shrink {
        /// The volume on this host.
        path: PathBuf,
        /// Bytes that the guest sees.
        shown: u64,
        /// Bytes that were asked for, or that the storage has.
        smaller: u64,
    },
    /// An image that nobody here can make larger.
    #[error(
        "the volume {path:?} is an image of the format {format}, {why}: grow it with its own tools while nobody uses it"
    )]
    ResizeUnsupported {
        /// The volume on this host.
        path: PathBuf,
        /// Its format.
        format: ImageFormat,
        /// Why.
        why: &'static str,
    },
    /// A step failed, and so did the undo of the ones before it.
    #[error("cleaning up failed too ({undo}); the attachment is FAILED, detach it to try again")]
    Undo {
        /// Why the undo failed, as a chain in words.
        undo: String,
        /// Why the step failed in the first place.
        #[source]
        cause: Box<Error>,
    },
    /// Too much work is under way and waits.
    #[error(transparent)]
    TooMuchWork(#[from] Full),
    /// The caller's deadline has passed.
    #[error(
        "the deadline of the call passed before {before}, and the call was given up: ask again, with a later deadline if the server is slow"
    )]
    DeadlinePassed {
        /// What was to come next, as a clause.
        before: &'static str,
    },
    /// Nothing keeps the attachment from being settled as usual.
    #[error(
        "attachment {id} is not forgotten: it is {state}, and not FAILED, LOST, or DETACHING or DISCONNECTING with an error. Detach or \
         disconnect it, and forget it if that fails"
    )]
    NotStuck {
        /// The id.
        id: AttachmentId,
        /// Where it stands.
        state: &'static str,
    },
    /// A guest would lose its disk once another attachment ends.
    #[error(
        "attachment {id} is not forgotten: {disk}, and attachment {other} holds {claim} too; its detach would find no other holder, and take \
         the disk from the guest. Unplug the disk or stop the domain, then forget the attachment"
    )]
    DiskInUse {
        /// The id.
        id: AttachmentId,
        /// The domain that has the disk, or may have it, as a clause.
        disk: String,
        /// The other attachment.
        other: AttachmentId,
        /// The thing that both hold.
        claim: Claim,
    },
    /// The changes since a watch's revision are not known.
    #[error(
        "cannot tell what changed since that revision: it is of an earlier life of the daemon, or more attachments have ended since than the daemon \
         remembers. Watch again \
         without resume_after, which begins with everything as it is"
    )]
    WatchExpired,
    /// The daemon is stopping.
    #[error("the daemon is stopping and takes no new work: ask again when it is back")]
    ShuttingDown,
    /// A defect.
    #[error(
        "a defect in the daemon ended the call; what it had begun is in the journal and will be cleaned up"
    )]
    Internal(#[source] tokio::task::JoinError),
}

impl Error {
    /// The stable reason.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Backend(error) => error.reason(),
            Self::Hypervisor(error) => error.reason(),
            Self::Journal(error) => error.reason(),
            Self::Denied(AccessDenied::Permissions { .. }) => Reason::PermissionDenied,
            Self::Denied(AccessDenied::ReadOnly { .. }) => Reason::ReadWriteRefused,
            Self::Undecided(denied) => denied.reason(),
            Self::Conflict { .. } | Self::DomainChanged { .. } => Reason::AttachmentConflict,
            Self::InProgress { .. } | Self::OwnerChanged { .. } => Reason::OperationInProgress,
            Self::NotFound { .. } => Reason::AttachmentNotFound,
            Self::Kind { .. } | Self::NoDomain { .. } => Reason::AttachmentKind,
            Self::IoStopped { .. } => Reason::IoStopped,
            Self::CleanupRequired { .. } | Self::Changed { .. } | Self::Orphan { .. } => {
                Reason::CleanupRequired
            }
            Self::VolumeInUse { .. } | Self::ImageWritten { .. } => Reason::VolumeInUse,
            Self::UnplugPending { .. } => Reason::UnplugPending,
            Self::UnplugRefused { .. } => Reason::UnplugRefused,
            Self::Cancelled { .. } => Reason::DetachCancelled,
            Self::Lost { .. } | Self::NothingToKeep { .. } => Reason::DiskLost,
            Self::DomainGone { .. } => Reason::DomainGone,
            Self::NotGrown { .. } => Reason::VolumeNotGrown,
            Self::Shrink { .. } => Reason::ShrinkRefused,
            Self::ResizeUnsupported { .. } => Reason::ResizeUnsupported,
            Self::Undo { .. } => Reason::UndoFailed,
            Self::TooMuchWork(_) => Reason::TooMuchWork,
            Self::DeadlinePassed { .. } => Reason::DeadlinePassed,
            Self::NotStuck { .. } | Self::DiskInUse { .. } => Reason::ForgetRefused,
            Self::WatchExpired => Reason::WatchExpired,
            Self::ShuttingDown => Reason::ShuttingDown,
            Self::Internal(_) => Reason::Internal,
        }
    }

    /// Time after which a repeat may succeed, where that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooMuchWork(_) => Some(LATER),
            Self::Backend(error) => error.retry_after(),
            Self::Undo { cause, .. } => cause.retry_after(),
            _ => None,
        }
    }

    /// The whole chain in words, for a place that keeps one string.
    #[must_use]
    pub fn chain(&self) -> String {
        crate::model::chain(self)
    }
}
