//! What attachments share on this host.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Something on this host that more than one attachment may need. A record names those that it holds: who share one take turns with
/// it, and the last of them takes it down.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Claim {
    /// A block device of this host, by the name that callers give it.
    Device(PathBuf),
    /// A mount, by a name that is equal exactly where export, credentials, options and access are.
    Mount(String),
    /// A LUN of an iSCSI target, whatever portals it is reached by: its disks on this host.
    Lun {
        /// The target's name.
        target: String,
        /// The LUN.
        lun: u64,
    },
    /// An NVMe subsystem, by its NQN: its namespaces.
    Subsystem(String),
    /// The controller by which this host reaches an NVMe subsystem at one of its portals.
    Controller {
        /// The subsystem's NQN.
        subsystem: String,
        /// Address and port.
        portal: String,
    },
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
