//! The stable, machine-readable reasons of errors. docs/errors.md lists them for users; a test holds the two together.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a call failed: the `reason` of its `google.rpc.ErrorInfo`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Reason {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The reason as it goes over the wire.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

reasons! {
    /// A field of the request is missing or malformed.
    InvalidRequest = "INVALID_REQUEST",
    /// The connection info is malformed: a key is missing, of the wrong type, or contradicts another.
    InvalidConnectionInfo = "INVALID_CONNECTION_INFO",
    /// No backend for this protocol.
    ProtocolUnsupported = "PROTOCOL_UNSUPPORTED",
    /// A mount option is not on the list of those allowed.
    MountOptionRefused = "MOUNT_OPTION_REFUSED",
    /// The mount options cannot be parsed, or cannot be given to the kernel.
    MountOptionInvalid = "MOUNT_OPTION_INVALID",
    /// The credentials can never work: a password longer than the protocol carries, a file outside the configured directories.
    CredentialsInvalid = "CREDENTIALS_INVALID",
    /// The volume is encrypted, which this agent does not do.
    EncryptionUnsupported = "ENCRYPTION_UNSUPPORTED",
    /// The image format is unknown, or the hypervisor cannot serve it.
    FormatUnsupported = "FORMAT_UNSUPPORTED",
    /// The attachment id is taken by another request.
    AttachmentConflict = "ATTACHMENT_CONFLICT",
    /// Another call on the same attachment or volume is under way.
    OperationInProgress = "OPERATION_IN_PROGRESS",
    /// No attachment of that id.
    AttachmentNotFound = "ATTACHMENT_NOT_FOUND",
    /// The attachment was made by the other pair of calls (attach/detach, connect/disconnect).
    AttachmentKind = "ATTACHMENT_KIND",
    /// An earlier undo failed; detach or disconnect first.
    CleanupRequired = "CLEANUP_REQUIRED",
    /// The attachment may be settled as usual, or its guest would lose its disk: its record is not forgotten.
    ForgetRefused = "FORGET_REFUSED",
    /// The record of the attachment was removed by a call, and parts of the attachment may be left.
    Forgotten = "FORGOTTEN",
    /// Another attachment on this host uses the volume, and they may not share it.
    VolumeInUse = "VOLUME_IN_USE",
    /// The volume can only be attached read-only, and read-write was required.
    ReadWriteRefused = "READ_WRITE_REFUSED",
    /// No such domain.
    DomainNotFound = "DOMAIN_NOT_FOUND",
    /// The domain is not running, or not persistent, as the requested scope needs it to be.
    DomainState = "DOMAIN_STATE",
    /// The domain already has a disk at that target or address.
    TargetInUse = "TARGET_IN_USE",
    /// The domain's bus has no free place.
    BusFull = "BUS_FULL",
    /// A disk option is invalid, or the domain cannot have it.
    DiskOptionInvalid = "DISK_OPTION_INVALID",
    /// libvirt cannot be reached.
    HypervisorUnavailable = "HYPERVISOR_UNAVAILABLE",
    /// libvirt refused or failed.
    HypervisorError = "HYPERVISOR_ERROR",
    /// The guest has not let go of the disk in time; the detach completes by itself when it does.
    UnplugPending = "UNPLUG_PENDING",
    /// The guest or QEMU refused to let go of the disk.
    UnplugRefused = "UNPLUG_REFUSED",
    /// Another call has cancelled the detach.
    DetachCancelled = "DETACH_CANCELLED",
    /// A block job (copy, commit, backup) runs on the disk.
    BlockJobActive = "BLOCK_JOB_ACTIVE",
    /// The domain no longer has the disk: it was stopped, or somebody else unplugged it.
    DiskLost = "DISK_LOST",
    /// The domain has left this host, and its disk with it: it was migrated away, or exists no more.
    DomainGone = "DOMAIN_GONE",
    /// The storage has not grown the volume to the size asked for.
    VolumeNotGrown = "VOLUME_NOT_GROWN",
    /// The size asked for, or the volume's own, is smaller than what the guest sees.
    ShrinkRefused = "SHRINK_REFUSED",
    /// The volume's new size cannot be given to who uses it.
    ResizeUnsupported = "RESIZE_UNSUPPORTED",
    /// The guest is paused, since a request to the volume failed.
    IoStopped = "IO_STOPPED",
    /// The hypervisor cannot limit the disk's I/O.
    IoTuneUnsupported = "IO_TUNE_UNSUPPORTED",
    /// The server's name does not resolve.
    NameResolution = "NAME_RESOLUTION",
    /// The server refuses connections, or no route leads to it.
    ServerUnreachable = "SERVER_UNREACHABLE",
    /// The server did not answer within the deadline.
    ServerTimeout = "SERVER_TIMEOUT",
    /// The server was silent before, and is not asked again until it gives a sign of life.
    ServerQuarantined = "SERVER_QUARANTINED",
    /// Too many worker processes of the server are stuck in the kernel to start another.
    WorkersStuck = "WORKERS_STUCK",
    /// Client and server have no protocol version in common that both allow.
    ProtocolVersion = "PROTOCOL_VERSION",
    /// The server refuses the credentials, or their access to the share.
    LogonFailure = "LOGON_FAILURE",
    /// No such share or export on the server.
    ShareNotFound = "SHARE_NOT_FOUND",
    /// mount(2) failed otherwise.
    MountFailed = "MOUNT_FAILED",
    /// The mount cannot be taken down: busy, or its server is silent.
    UnmountFailed = "UNMOUNT_FAILED",
    /// The target does not let this host in, for another reason than its credentials.
    LoginFailed = "LOGIN_FAILED",
    /// The target is there, and no device of the volume appeared within the deadline.
    DeviceNotFound = "DEVICE_NOT_FOUND",
    /// The device is not the volume that was asked for, or its paths lead to different ones.
    DeviceIdentity = "DEVICE_IDENTITY",
    /// A device, map or session cannot be released: in use, or its server is silent.
    DeviceBusy = "DEVICE_BUSY",
    /// No multipath map can be made of the volume's paths.
    MultipathFailed = "MULTIPATH_FAILED",
    /// No such file or device.
    VolumeNotFound = "VOLUME_NOT_FOUND",
    /// The volume's path leaves the share or root, leads through a symbolic link, or would be a pattern to AppArmor.
    VolumePathUnsafe = "VOLUME_PATH_UNSAFE",
    /// The volume is not a regular file (or, locally, a block device).
    VolumeNotRegular = "VOLUME_NOT_REGULAR",
    /// The volume cannot be opened or read.
    VolumeUnreadable = "VOLUME_UNREADABLE",
    /// The image's header names another file: a backing file, a data file, a parent.
    ImageReferencesFile = "IMAGE_REFERENCES_FILE",
    /// The image's header is not of the format that the connection info names.
    ImageMalformed = "IMAGE_MALFORMED",
    /// An undo failed: something is left over, and the attachment is FAILED.
    UndoFailed = "UNDO_FAILED",
    /// Who calls is not known: a token is missing, wrong, expired or revoked.
    Unauthenticated = "UNAUTHENTICATED",
    /// Keystone cannot be asked who calls.
    IdentityUnavailable = "IDENTITY_UNAVAILABLE",
    /// The caller may not do this.
    PermissionDenied = "PERMISSION_DENIED",
    /// SELinux keeps the domain's QEMU from the kind of share that the volume is on.
    SelinuxBoolean = "SELINUX_BOOLEAN",
    /// The caller makes calls faster than it may.
    RateLimited = "RATE_LIMITED",
    /// As many calls of the caller are under way as may be.
    TooManyCalls = "TOO_MANY_CALLS",
    /// As much work of the caller, for a server or in all is under way and waits as may be.
    TooMuchWork = "TOO_MUCH_WORK",
    /// The deadline that the caller gave has passed, and the call was given up.
    DeadlinePassed = "DEADLINE_PASSED",
    /// The caller, or all callers together, watch as often as they may.
    TooManyWatches = "TOO_MANY_WATCHES",
    /// The daemon is stopping and takes no new work.
    ShuttingDown = "SHUTTING_DOWN",
    /// The changes since the revision of a watch are not known any more: watch anew.
    WatchExpired = "WATCH_EXPIRED",
    /// The configuration is invalid.
    ConfigurationInvalid = "CONFIGURATION_INVALID",
    /// The journal cannot be read or written.
    JournalFailed = "JOURNAL_FAILED",
    /// A defect in the daemon.
    Internal = "INTERNAL",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Reason that a record has: one of this build, or one that a later build wrote, as spelled there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RecordedReason {
    /// A reason of this build.
    Known(Reason),
    /// A reason unknown to this build: shown and written as spelled, and nothing is decided by it.
    Later(String),
}

impl From<Reason> for RecordedReason {
    fn from(reason: Reason) -> Self {
        Self::Known(reason)
    }
}

impl PartialEq<Reason> for RecordedReason {
    fn eq(&self, reason: &Reason) -> bool {
        matches!(self, Self::Known(known) if known == reason)
    }
}

impl fmt::Display for RecordedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(reason) => reason.fmt(f),
            Self::Later(spelled) => f.write_str(spelled),
        }
    }
}
