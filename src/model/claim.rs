//! Things on this host that attachments share.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A thing on this host that several attachments may need. Records list their claims: holders of the same claim take turns, and the last
/// one takes the thing down.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Claim {
    /// A block device of this host, by the path in the connection info.
    Device(PathBuf),
    /// A mount, named by a keyed hash of export, credentials, options and access; a mount beside another one has a number added.
    Mount(String),
    /// A LUN of an iSCSI target, reached through any portal: its disks on this host.
    Lun {
        /// Name of the target (IQN).
        target: String,
        /// Number of the LUN on the target.
        lun: u64,
    },
    /// The namespaces of an NVMe subsystem, by its NQN.
    Subsystem(String),
    /// The controller through which this host reaches an NVMe subsystem at one portal.
    Controller {
        /// NQN of the subsystem.
        subsystem: String,
        /// Address and port of the portal.
        portal: String,
    },
}

impl Claim {
    /// Whether the backend makes and uses the claimed thing under a guard of its own. A call that connects then locks the claim only until the
    /// journal has its intent: other holders connect while the call waits for its own volume. The last holder locks the claim until the
    /// thing is gone.
    #[must_use]
    pub fn is_guarded_by_backend(&self) -> bool {
        matches!(self, Self::Subsystem(_) | Self::Controller { .. })
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(path) => write!(f, "{}", path.display()),
            Self::Mount(name) => f.write_str(name),
            Self::Lun { target, lun } => write!(f, "iscsi:{target}/{lun}"),
            Self::Subsystem(nqn) => write!(f, "nvmeof:{nqn}"),
            Self::Controller { subsystem, portal } => write!(f, "nvmeof:{subsystem}@{portal}"),
        }
    }
}
