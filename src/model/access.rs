//! Read-only or read-write, and why.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Class, Permissions};

/// What a domain may do with a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Access {
    /// Reads only, on the host and in the guest.
    #[serde(rename = "ro")]
    ReadOnly,
    /// Reads and writes.
    #[serde(rename = "rw")]
    ReadWrite,
}

impl Access {
    /// `ro` or `rw`, as Cinder's `access_mode` has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReadOnly => "ro",
            Self::ReadWrite => "rw",
        }
    }

    /// `read-only` or `read-write`.
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Self::ReadOnly => "read-only",
            Self::ReadWrite => "read-write",
        }
    }

    /// Whether the volume must not be written.
    #[must_use]
    pub fn is_read_only(self) -> bool {
        self == Self::ReadOnly
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who has a say in whether a volume is read-only. The order is the order in which the reason is given.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessSource {
    /// The request asked for read-only.
    Request,
    /// The connection info's `access_mode`.
    AccessMode,
    /// `attach_mode` of Cinder's attachments API; `access_mode` beside it stays `rw`.
    AttachMode,
    /// The connection info's `readonly`.
    Readonly,
    /// `ro` among the share's mount options.
    MountOptions,
    /// The deployer's configuration.
    Configuration,
    /// Somebody else has the volume attached read-write.
    Attached {
        /// The user's id; empty: not known.
        user: String,
    },
    /// The volume's permissions.
    Permissions {
        /// As they were.
        permissions: Permissions,
        /// Whose digit counted.
        class: Class,
    },
}

impl fmt::Display for AccessSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Request => "the request asks for read-only",
            Self::AccessMode => "the connection info's access_mode is ro",
            Self::AttachMode => "the connection info's attach_mode is ro",
            Self::Readonly => "the connection info says readonly",
            Self::MountOptions => "the connection info's mount options say ro",
            Self::Configuration => "this host's configuration says ro",
            Self::Attached { user } if user.is_empty() => {
                "somebody else has the volume attached read-write"
            }
            Self::Attached { user } => {
                return write!(f, "user {user} has the volume attached read-write");
            }
            Self::Permissions { permissions, class } => {
                return write!(
                    f,
                    "the volume's permissions {permissions} do not let {class} write"
                );
            }
        })
    }
}

/// The access that was decided on. Any one source that says read-only wins; nothing turns it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessDecision {
    /// What the domain gets.
    pub access: Access,
    /// Every source that said read-only; empty when the access is read-write.
    pub read_only_by: Vec<AccessSource>,
}

impl AccessDecision {
    /// Decides: read-only if any source says so.
    #[must_use]
    pub fn from_sources(read_only_by: Vec<AccessSource>) -> Self {
        let access = if read_only_by.is_empty() {
            Access::ReadWrite
        } else {
            Access::ReadOnly
        };
        Self {
            access,
            read_only_by,
        }
    }

    /// Why, in words for people.
    #[must_use]
    pub fn reason(&self) -> String {
        if self.read_only_by.is_empty() {
            return "nothing says read-only".to_owned();
        }
        self.read_only_by
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_one_source_makes_it_read_only() {
        let all = [
            AccessSource::Request,
            AccessSource::AccessMode,
            AccessSource::Readonly,
            AccessSource::MountOptions,
            AccessSource::Configuration,
            AccessSource::Attached {
                user: "you".to_owned(),
            },
            AccessSource::Permissions {
                permissions: "440".parse().unwrap(),
                class: Class::Owner,
            },
        ];
        for source in all {
            let decision = AccessDecision::from_sources(vec![source.clone()]);
            assert_eq!(decision.access, Access::ReadOnly);
            assert_eq!(decision.reason(), source.to_string());
        }
        assert_eq!(
            AccessDecision::from_sources(vec![]).access,
            Access::ReadWrite
        );
    }
}
