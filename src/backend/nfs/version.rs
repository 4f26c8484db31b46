//! The protocol's versions.

use std::fmt;

/// A version of the protocol, ordered from the oldest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    /// NFS 3 (RFC 1813).
    V3,
    /// NFS 4 with a minor version (RFC 7530, 8881, 7862).
    V4(u32),
}

impl Version {
    /// The version of that name, as the kernel's `vers=` has it.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        match name {
            "3" => Some(Self::V3),
            "4.0" => Some(Self::V4(0)),
            "4.1" => Some(Self::V4(1)),
            "4.2" => Some(Self::V4(2)),
            _ => None,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V3 => f.write_str("3"),
            Self::V4(minor) => write!(f, "4.{minor}"),
        }
    }
}

/// `4.2, 4.1`
pub(super) fn names(versions: &[Version]) -> String {
    let names: Vec<_> = versions.iter().map(ToString::to_string).collect();
    names.join(", ")
}
