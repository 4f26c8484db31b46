//! What is known of a volume besides how to reach it: whose it is, who may use it, who uses it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Access;

/// Whose a volume is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct VolumeOwner {
    /// The project's id.
    pub project_id: Option<String>,
    /// The user's id.
    pub user_id: Option<String>,
    /// The group's id: one of Keystone's, a project's, or `gid:1000`.
    pub group_id: Option<String>,
    /// Whether it is a service's own, such as a cache of images: only a service on a user's behalf may touch it.
    pub service_owned: bool,
}

/// What a caller says of a volume. It counts only where the caller may vouch for it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VolumeFacts {
    /// Whose it is.
    pub owner: VolumeOwner,
    /// Who may use it; `None`: no say.
    pub permissions: Option<Permissions>,
    /// Who uses it already, here or on other hosts.
    pub attached: Vec<Use>,
}

/// One use of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// The id of the user for whom it is attached; empty: not known.
    pub user_id: String,
    /// What that use may do.
    pub access: Access,
}

/// Permissions as in Unix: three digits, each of read (4), write (2) and execute (1), for the owner, the group, and others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Permissions([u8; 3]);

/// No permissions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("permissions are three digits from 0 to 7, for owner, group and others, such as 640")]
pub struct InvalidPermissions;

impl Permissions {
    /// The owner's digit.
    #[must_use]
    pub fn owner(self) -> u8 {
        self.0[0]
    }

    /// The group's digit.
    #[must_use]
    pub fn group(self) -> u8 {
        self.0[1]
    }

    /// Everybody else's digit.
    #[must_use]
    pub fn others(self) -> u8 {
        self.0[2]
    }
}

impl FromStr for Permissions {
    type Err = InvalidPermissions;

    fn from_str(text: &str) -> Result<Self, InvalidPermissions> {
        let digits: [u8; 3] = text.as_bytes().try_into().map_err(|_| InvalidPermissions)?;
        if digits.iter().all(|digit| (b'0'..=b'7').contains(digit)) {
            Ok(Self(digits.map(|digit| digit - b'0')))
        } else {
            Err(InvalidPermissions)
        }
    }
}

impl TryFrom<String> for Permissions {
    type Error = InvalidPermissions;

    fn try_from(text: String) -> Result<Self, InvalidPermissions> {
        text.parse()
    }
}

impl From<Permissions> for String {
    fn from(permissions: Permissions) -> Self {
        permissions.to_string()
    }
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|digit| write!(f, "{digit}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_three_octal_digits() {
        for good in ["000", "640", "777"] {
            assert_eq!(good.parse::<Permissions>().unwrap().to_string(), good);
        }
        for bad in ["", "64", "0640", "648", "rw-", "6 0", "６40", "-40"] {
            assert_eq!(bad.parse::<Permissions>(), Err(InvalidPermissions), "{bad}");
        }
        let permissions: Permissions = "640".parse().unwrap();
        assert_eq!(
            (
                permissions.owner(),
                permissions.group(),
                permissions.others()
            ),
            (6, 4, 0)
        );
    }
}
