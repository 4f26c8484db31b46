//! What `volattach cinder` takes.

use clap::{Args, Subcommand};
use uuid::Uuid;

use crate::cli::args::{DiskArgs, Mode, mode};
use crate::model::VolumeId;

#[derive(Debug, Args)]
pub(in crate::cli) struct CinderArgs {
    #[command(flatten)]
    pub(super) cloud: CloudArgs,
    #[command(subcommand)]
    pub(super) action: Action,
}

/// Whose credentials are used. The variables OS_* count where no cloud is named, as OpenStack's own clients have it.
#[derive(Debug, Args)]
pub(super) struct CloudArgs {
    /// The cloud of clouds.yaml whose credentials are used [default: the variables OS_*]
    #[arg(long, global = true, value_name = "NAME", env = "OS_CLOUD")]
    pub(super) os_cloud: Option<String>,
    /// The cloud of clouds.yaml with a service's own credentials, whose token is sent beside the other
    #[arg(long, global = true, value_name = "NAME", env = "OS_SERVICE_CLOUD")]
    pub(super) service_cloud: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Attach a volume of Cinder's to a domain: in Cinder and on this host, or in neither
    Attach(Box<AttachArgs>),
    /// Detach an attachment of Cinder's here, then end it in Cinder; one that either has no more is fine
    Detach {
        /// The attachment's id
        attachment: Uuid,
        /// Go on where what was written last cannot be flushed, and is lost
        #[arg(long)]
        force: bool,
    },
    /// Have Cinder grow a volume, then this host and the guest see it
    Extend {
        /// The volume's id
        volume: VolumeId,
        /// The new size, in GiB
        #[arg(value_parser = clap::value_parser!(u64).range(1..=MAX_GIB))]
        size: u64,
    },
    /// List Cinder's attachments of this host, with the daemon's state of each
    List,
    /// Compare Cinder's attachments of this host with the daemon's, and print what differs; with --yes mend it
    Reconcile {
        /// Mend what differs
        #[arg(long)]
        yes: bool,
    },
    /// Show who may use a volume, or set it in Cinder for attaches from now on
    Permissions {
        /// The volume's id
        volume: VolumeId,
        /// For owner, group and others, as chmod(1) has it, such as 640; none: forget what was set in Cinder
        #[arg(value_parser = mode)]
        mode: Option<Mode>,
    },
}

/// More than any storage has, and few enough that their bytes have a number.
const MAX_GIB: u64 = 1 << 33;

#[derive(Debug, Args)]
pub(super) struct AttachArgs {
    /// The volume's id
    pub(super) volume: VolumeId,
    /// The domain's name or UUID
    #[arg(long)]
    pub(super) domain: String,
    /// Attach read-only, whatever the volume allows
    #[arg(long, conflicts_with = "require_rw")]
    pub(super) read_only: bool,
    /// Fail rather than attach read-only
    #[arg(long)]
    pub(super) require_rw: bool,
    /// A domain boots from the volume, which its permissions must allow
    #[arg(long)]
    pub(super) boot: bool,
    #[command(flatten)]
    pub(super) disk: DiskArgs,
}
