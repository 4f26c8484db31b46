//! The words that every layer shares: ids, access, attachments and their states, secrets, reasons of errors.
//!
//! Nothing here does any I/O or knows any other module. Every value that comes from outside is validated when
//! it is made, so a value of one of these types is a valid one.
//!
//! ```text
//!              AttachVolume                                     DetachVolume
//!   (none) ──▶ Connecting ──▶ Attaching ──▶ Attached ──▶ Detaching ──▶ Disconnecting ──▶ (none)
//!                  │              │                          ▲  │            ▲  │
//!                  │              ▼                          │  │            │  ▼
//!                  └────────▶ undo: Detaching, Disconnecting ┘  └──────────▶ Failed (an undo failed: retry)
//!
//!   Detaching, or Failed with the disk still in the guest ──▶ Attached       (the guest refused) CancelDetach
//!
//!   Failed, or anything lost or with a failed undo ──▶ (none)                ForgetAttachment: the host stays as it is
//!
//!   (none) ──▶ Connecting ──▶ Connected ──▶ Disconnecting ──▶ (none)        ConnectVolume, DisconnectVolume
//! ```

mod access;
mod actor;
mod attachment;
mod chain;
mod claim;
mod disk;
mod found;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod id;
mod io;
mod key;
pub mod mount_options;
mod nearest;
mod paths;
mod permission;
mod plan;
mod reason;
mod secret;
mod server;
mod visible;
mod volume;
mod work;
mod wwid;

pub use access::{Access, AccessDecision, AccessSource};
pub use actor::{Actor, CallerId, Holder, Identity, Via};
pub use attachment::{Attachment, AttachmentError, Domain, State};
pub use chain::chain;
pub use claim::Claim;
pub use disk::{
    Bus, Cache, DetectZeroes, Discard, DiskAddress, DiskOptions, ErrorPolicy, ImageFormat,
    InvalidAddress, IoMode, IoTune, ReadErrorPolicy, Scope, UnknownWord,
};
pub use found::{Device, Found, HostVolume, LocalDevice};
pub use id::{AttachmentId, DomainRef, InvalidId, VolumeId};
pub use io::{DiskIo, IoCounts};
pub use key::HostKey;
pub(crate) use nearest::{hint, nearest};
pub use paths::PathCount;
pub use permission::{AccessDenied, AccessQuestion, Asker, Class, SetPermissions, VolumeRights};
pub use plan::{
    Connection, Dialect, DiskPlan, DiskSpec, HostPlan, MountPlan, SourceKind, TargetPath,
    TargetPlan,
};
pub use reason::{Reason, RecordedReason};
pub use secret::Secret;
pub use server::{Server, server_name};
pub use visible::visible;
pub use volume::{InvalidPermissions, Permissions, Use, VolumeFacts, VolumeOwner};
pub use work::WorkLimits;
pub use wwid::Wwid;
