//! Who may use a volume, and how: permissions, owner, group and others as in Unix (chmod(1)), and who uses it already.
//!
//! Pure: what is known goes in, what is decided comes out. Nobody is exempt: administrators may change a volume's
//! permissions, not pass by them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Access, AccessDecision, AccessSource, Actor, Holder, Permissions, Use, VolumeOwner};

const READ: u8 = 4;
const WRITE: u8 = 2;
const EXECUTE: u8 = 1;

/// Whom access is decided for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asker {
    /// The user's id; empty: not known, and then it is nobody's.
    pub user_id: String,
    /// The ids of the user's groups, the project among them.
    pub groups: Vec<String>,
}

impl From<&Actor> for Asker {
    fn from(actor: &Actor) -> Self {
        let Some(principal) = actor.principal() else {
            return Self::default();
        };
        let groups = principal.groups.iter().chain(&principal.project_id);
        Self {
            user_id: principal.user_id.clone(),
            groups: groups.cloned().collect(),
        }
    }
}

/// Which of the three digits of a volume's permissions counts for somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The volume's owner.
    Owner,
    /// Whoever is in the volume's group, and is not its owner.
    Group,
    /// Everybody else.
    Others,
}

impl Class {
    /// The first that fits counts, as in Unix (path_resolution(7), "Permissions"): an owner whose digit denies is denied,
    /// whatever the others' says.
    fn of(asker: &Asker, owner: &VolumeOwner) -> Self {
        let is =
            |id: &Option<String>, asker: &String| !asker.is_empty() && id.as_ref() == Some(asker);
        if is(&owner.user_id, &asker.user_id) {
            Self::Owner
        } else if asker.groups.iter().any(|group| is(&owner.group_id, group)) {
            Self::Group
        } else {
            Self::Others
        }
    }

    fn digit(self, permissions: Permissions) -> u8 {
        match self {
            Self::Owner => permissions.owner(),
            Self::Group => permissions.group(),
            Self::Others => permissions.others(),
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Owner => "its owner",
            Self::Group => "its group",
            Self::Others => "others",
        })
    }
}

/// What is known of who may use a volume.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct VolumeRights {
    /// Whose it is.
    pub owner: VolumeOwner,
    /// Who may use it; `None`: nothing is known, and everybody may.
    pub permissions: Option<Permissions>,
    /// Whether the permissions were set on this host, rather than told with an attach.
    pub set_here: bool,
}

/// The permissions that somebody set on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetPermissions {
    /// Who may use the volume.
    pub permissions: Permissions,
    /// Whose the volume was then, as far as known.
    pub owner: VolumeOwner,
    /// Who set them.
    pub by: Holder,
    /// When.
    pub at: std::time::SystemTime,
}

/// What is to be decided.
#[derive(Debug, Clone)]
pub struct AccessQuestion<'a> {
    /// For whom.
    pub asker: &'a Asker,
    /// Whose the volume is, and its permissions.
    pub rights: &'a VolumeRights,
    /// Its other uses, on this host and elsewhere.
    pub uses: &'a [Use],
    /// Whether a domain is to boot from it.
    pub boot: bool,
    /// Whether nothing but read-write will do.
    pub require_rw: bool,
    /// Who else says read-only: the request, the connection info, the configuration.
    pub read_only_by: Vec<AccessSource>,
}

/// Why a volume may not be used as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessDenied {
    /// Its permissions give less than what no use can do without.
    #[error(
        "the volume's permissions {permissions} do not let {class} {what}: have its owner or an administrator change them"
    )]
    Permissions {
        /// The volume's permissions.
        permissions: Permissions,
        /// Whose digit counts.
        class: Class,
        /// What it does not let them do.
        what: &'static str,
    },
    /// It may be used, but only read.
    #[error("the volume can only be attached read-only, and read-write is required: {why}")]
    ReadOnly {
        /// Every reason why.
        why: String,
    },
}

impl AccessQuestion<'_> {
    /// Decides.
    ///
    /// # Errors
    /// Where the permissions do not let the asker read the volume, or boot from it, or where read-write is required and
    /// something says read-only.
    pub fn decide(self) -> Result<AccessDecision, AccessDenied> {
        let AccessQuestion {
            asker,
            rights,
            uses,
            boot,
            require_rw,
            mut read_only_by,
        } = self;
        let other = |other: &&Use| {
            !other.access.is_read_only()
                && (other.user_id.is_empty() || other.user_id != asker.user_id)
        };
        if let Some(writer) = uses.iter().find(other) {
            let user = writer.user_id.clone();
            read_only_by.push(AccessSource::Attached { user });
        }
        if let Some(permissions) = rights.permissions {
            let class = Class::of(asker, &rights.owner);
            let digit = class.digit(permissions);
            for (needed, bit, what) in [(true, READ, "read it"), (boot, EXECUTE, "boot from it")] {
                if needed && digit & bit == 0 {
                    return Err(AccessDenied::Permissions {
                        permissions,
                        class,
                        what,
                    });
                }
            }
            if digit & WRITE == 0 {
                read_only_by.push(AccessSource::Permissions { permissions, class });
            }
        }
        let decision = AccessDecision::from_sources(read_only_by);
        if require_rw && decision.access == Access::ReadOnly {
            return Err(AccessDenied::ReadOnly {
                why: decision.reason(),
            });
        }
        Ok(decision)
    }
}

#[cfg(test)]
mod tests;
