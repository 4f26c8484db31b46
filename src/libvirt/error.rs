//! Why the hypervisor failed, in words, and the stable reason of each.

use std::path::PathBuf;

use super::xen::store::StoreError;
use super::xml::XmlError;
use crate::model::{Bus, ImageFormat, Reason};

/// What libvirt said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("libvirt says: {message} (error {code})")]
pub struct LibvirtError {
    /// libvirt's error number (`virErrorNumber` in libvirt/virterror.h).
    pub code: u32,
    /// libvirt's message.
    pub message: String,
}

/// Why the hypervisor failed.
#[derive(Debug, thiserror::Error)]
pub enum HypervisorError {
    /// libvirt cannot be reached, or does not answer.
    #[error(
        "cannot reach libvirt at {uri}: {why}; check that its daemon runs and answers (`virsh -c {uri} list`)"
    )]
    Unavailable {
        /// The connection URI.
        uri: String,
        /// What happened.
        why: String,
        /// libvirt's word on it, where it had one.
        source: Option<LibvirtError>,
    },
    /// No such domain.
    #[error("no domain {domain} on this host; `virsh list --all` shows those there are")]
    DomainNotFound {
        /// The name or UUID that was asked for.
        domain: String,
    },
    /// The domain is not in the state that the scope needs.
    #[error("domain {domain} {state}, so its {scope} cannot change; {hint}")]
    DomainState {
        /// The domain.
        domain: String,
        /// How it is.
        state: &'static str,
        /// What was to be changed.
        scope: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// The target or address is taken.
    #[error(
        "{place} of domain {domain} is taken by {holder}; choose another, or none to get the first that is free"
    )]
    TargetInUse {
        /// The domain.
        domain: String,
        /// The target or address.
        place: String,
        /// Who has it.
        holder: String,
    },
    /// The domain has the volume's disk already.
    #[error("domain {domain} already has {disk}, at target {target}; detach it first")]
    VolumeInUse {
        /// The domain.
        domain: String,
        /// The disk.
        disk: String,
        /// Its target.
        target: String,
    },
    /// The bus has no free place, or is not there.
    #[error("domain {domain} has no free place for a {bus} disk: {why}")]
    BusFull {
        /// The domain.
        domain: String,
        /// The bus.
        bus: Bus,
        /// What is full or missing, and what to do.
        why: String,
    },
    /// A disk option is invalid.
    #[error("disk option {option} {value:?} is invalid: {rule}")]
    DiskOptionInvalid {
        /// The option's name.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        rule: String,
    },
    /// The volume's path cannot stand in the domain's AppArmor profile.
    #[error(
        "volume {} cannot be given to domain {domain} alone: AppArmor confines it by a profile into which libvirt writes the path as it is, \
         and {found:?} makes it a pattern there, which other files may fit and the volume itself may not; give the file or folder another name",
        path.display()
    )]
    Pattern {
        /// The domain.
        domain: String,
        /// The volume's path on the host.
        path: PathBuf,
        /// The character.
        found: char,
    },
    /// The hypervisor does not serve volumes of this format, or not so.
    #[error("a volume of format {format} cannot be plugged in: {why}")]
    FormatUnsupported {
        /// The format.
        format: ImageFormat,
        /// Why, and what to do.
        why: &'static str,
    },
    /// Xen's toolstack or the guest did not connect the disk.
    #[error("cannot plug disk {place}: {why}; {hint}")]
    NotConnected {
        /// Which disk, into which domain.
        place: String,
        /// What happened, in Xen's own words where it has any.
        why: String,
        /// The reason, by those words.
        reason: Reason,
        /// What to do.
        hint: &'static str,
        /// libvirt's word on it, where it had one.
        source: Option<LibvirtError>,
    },
    /// What Xen knows of the domain's disks cannot be read or changed.
    #[error(
        "cannot {action}; is this the host's control domain, and does xenstored run (`xenstore-ls /libxl`)?"
    )]
    Xenstore {
        /// What was tried, on what.
        action: String,
        /// What happened.
        source: StoreError,
    },
    /// A disk of a stale attach cannot be removed, or its loop device.
    #[error("cannot remove what is left of disk {target} of domain {domain}: {why}")]
    NotCleared {
        /// The domain.
        domain: String,
        /// The disk's target.
        target: String,
        /// What is left, and what to do.
        why: String,
    },
    /// libvirt refused or failed.
    #[error("cannot {action} on domain {domain}; {hint}")]
    Failed {
        /// What was tried, such as `plug disk vdb in`.
        action: String,
        /// The domain.
        domain: String,
        /// The reason, by libvirt's error.
        reason: Reason,
        /// What to do.
        hint: &'static str,
        /// libvirt's word on it.
        source: LibvirtError,
    },
    /// libvirt reported success, and the domain's XML does not show it.
    #[error(
        "libvirt reported success to {action} on domain {domain}, but the domain's XML does not show it; see libvirt's log"
    )]
    NotShown {
        /// What was tried.
        action: String,
        /// The domain.
        domain: String,
    },
    /// The hypervisor gives the new size of a disk to no guest that may only read it.
    #[error(
        "the guest of {domain} may only read disk {target} and sees {shown} bytes of it: QEMU tells a new size ({bytes} \
         bytes) only of a disk that may be written; detach and attach the volume, then the guest sees it"
    )]
    ReadOnlyDisk {
        /// The domain.
        domain: String,
        /// The disk's target.
        target: String,
        /// What the guest sees.
        shown: u64,
        /// What it was to see.
        bytes: u64,
    },
    /// The disk of a Xen domain cannot be made larger.
    #[error("cannot grow disk {target} of domain {domain}: {why}")]
    NotGrown {
        /// The domain.
        domain: String,
        /// The disk's target.
        target: String,
        /// The reason.
        reason: Reason,
        /// What happened, and what to do.
        why: String,
    },
    /// libvirt's Xen driver limits no I/O.
    #[error(
        "cannot limit the I/O of disk {target} of domain {domain}: libvirt has no such limits for Xen; limit it on the storage"
    )]
    NoIoTune {
        /// The domain.
        domain: String,
        /// The disk's target.
        target: String,
    },
    /// libvirt reported success, and the guest sees the old size.
    #[error(
        "libvirt reported success to grow disk {target} of domain {domain} to {bytes} bytes, but the guest sees {shown}; see \
         libvirt's log"
    )]
    NotResized {
        /// The domain.
        domain: String,
        /// The disk's target.
        target: String,
        /// What the guest sees.
        shown: u64,
        /// What it was to see.
        bytes: u64,
    },
    /// The XML of a disk or domain cannot be written or read.
    #[error("the XML of {what} cannot be used")]
    Xml {
        /// Whose XML.
        what: String,
        /// Why.
        source: XmlError,
    },
}

impl HypervisorError {
    /// Whether a failed plug may have left the disk in the domain. A refusal leaves nothing: a disk with the same name existed before.
    #[must_use]
    pub fn leaves_open(&self) -> bool {
        match self {
            Self::Unavailable { .. }
            | Self::NotConnected { .. }
            | Self::Xenstore { .. }
            | Self::NotCleared { .. }
            | Self::NotShown { .. } => true,
            // libvirt has no more exact error: the call may have failed at any point.
            Self::Failed { reason, .. } => matches!(
                reason,
                Reason::HypervisorError
                    | Reason::HypervisorUnavailable
                    | Reason::OperationInProgress
            ),
            Self::DomainNotFound { .. }
            | Self::DomainState { .. }
            | Self::TargetInUse { .. }
            | Self::VolumeInUse { .. }
            | Self::BusFull { .. }
            | Self::DiskOptionInvalid { .. }
            | Self::Pattern { .. }
            | Self::FormatUnsupported { .. }
            | Self::ReadOnlyDisk { .. }
            | Self::NotGrown { .. }
            | Self::NoIoTune { .. }
            | Self::NotResized { .. }
            | Self::Xml { .. } => false,
        }
    }

    /// The stable reason.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unavailable { .. } => Reason::HypervisorUnavailable,
            Self::DomainNotFound { .. } => Reason::DomainNotFound,
            Self::DomainState { .. } => Reason::DomainState,
            Self::TargetInUse { .. } => Reason::TargetInUse,
            Self::VolumeInUse { .. } => Reason::VolumeInUse,
            Self::BusFull { .. } => Reason::BusFull,
            Self::DiskOptionInvalid { .. } => Reason::DiskOptionInvalid,
            Self::Failed { reason, .. }
            | Self::NotConnected { reason, .. }
            | Self::NotGrown { reason, .. } => *reason,
            Self::FormatUnsupported { .. } => Reason::FormatUnsupported,
            Self::Pattern { .. } => Reason::VolumePathUnsafe,
            Self::Xenstore { .. } => Reason::HypervisorUnavailable,
            Self::ReadOnlyDisk { .. } => Reason::ResizeUnsupported,
            Self::NoIoTune { .. } => Reason::IoTuneUnsupported,
            Self::NotShown { .. }
            | Self::NotResized { .. }
            | Self::NotCleared { .. }
            | Self::Xml { .. } => Reason::HypervisorError,
        }
    }
}
