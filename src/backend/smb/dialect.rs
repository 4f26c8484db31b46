//! The protocol's versions.

use std::fmt;

use crate::model::mount_options::SMB_VERSIONS;

/// A version of the protocol, ordered from the oldest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Dialect {
    /// SMB 1, "NT LM 0.12".
    Smb1,
    /// A `DialectRevision` of MS-SMB2 2.2.3: SMB 2.0.2 and later.
    Smb2(u16),
}

/// SMB 3.1.1, whose negotiate carries contexts.
pub(super) const SMB_3_1_1: Dialect = Dialect::Smb2(0x0311);

impl Dialect {
    /// The version of that name, one of [`SMB_VERSIONS`].
    pub(super) fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "1.0" => Self::Smb1,
            "2.0" => Self::Smb2(0x0202),
            "2.1" => Self::Smb2(0x0210),
            "3.0" => Self::Smb2(0x0300),
            "3.0.2" => Self::Smb2(0x0302),
            "3.1.1" => SMB_3_1_1,
            _ => return None,
        })
    }

    /// Its name in the kernel's `vers=`.
    pub(super) fn name(self) -> &'static str {
        SMB_VERSIONS
            .names
            .iter()
            .find(|name| Self::from_name(name) == Some(self))
            .unwrap_or(&"unknown")
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `3.1.1, 3.0`
pub(super) fn names(dialects: &[Dialect]) -> String {
    let names: Vec<_> = dialects.iter().map(|d| d.name()).collect();
    names.join(", ")
}
