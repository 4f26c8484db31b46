//! Ids that callers choose, and how they name domains.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The longest id accepted, in bytes. A UUID has 36.
const MAX_ID: usize = 64;
/// The longest domain name accepted, in bytes: QEMU's socket paths leave no room for more.
const MAX_DOMAIN_NAME: usize = 200;

/// Why a string is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not valid: {rule}")]
pub struct InvalidId {
    what: &'static str,
    value: String,
    rule: &'static str,
}

fn check(what: &'static str, value: &str) -> Result<String, InvalidId> {
    let valid = !value.is_empty()
        && value.len() <= MAX_ID
        && value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if valid {
        return Ok(value.to_owned());
    }
    Err(InvalidId {
        what,
        value: value.chars().take(MAX_ID).collect(),
        rule: "use 1 to 64 of the characters A-Z a-z 0-9 - _ (a UUID is best)",
    })
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The id as the caller wrote it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(value: &str) -> Result<Self, InvalidId> {
                check($what, value).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(value: String) -> Result<Self, InvalidId> {
                value.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// Names one attachment; chosen by the caller, and the key by which every call is idempotent. The id is also part of the disk's alias
    /// in the domain, so its characters are those that libvirt takes in an alias (libvirt `formatdomain`, "alias").
    AttachmentId,
    "attachment id"
);
id!(
    /// Names a volume, as the control plane does. By default the disk's serial.
    VolumeId,
    "volume id"
);

/// Prefix of the alias of an attachment's disk.
const ALIAS: &str = "ua-volattach-";

impl AttachmentId {
    /// Alias of the attachment's disk in a domain; libvirt keeps aliases that begin with `ua-` as given. Derived from the attachment, not
    /// the volume: a domain may have two attachments of one volume, and other programs name disks by volume (Nova: `ua-<volume id>`).
    #[must_use]
    pub fn alias(&self) -> String {
        format!("{ALIAS}{}", self.0)
    }

    /// The attachment that an alias names.
    #[must_use]
    pub fn of_alias(alias: &str) -> Option<Self> {
        alias.strip_prefix(ALIAS)?.parse().ok()
    }

    /// Whether an alias names an attachment; no other program gives such an alias. Earlier builds named disks by their volume.
    #[must_use]
    pub fn names(alias: &str) -> bool {
        alias.starts_with(ALIAS)
    }
}

/// How a caller names a domain: by UUID, or else by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DomainRef {
    /// The domain's UUID.
    Uuid(Uuid),
    /// The domain's name.
    Name(String),
}

impl FromStr for DomainRef {
    type Err = InvalidId;

    fn from_str(value: &str) -> Result<Self, InvalidId> {
        if let Ok(uuid) = value.parse() {
            return Ok(Self::Uuid(uuid));
        }
        // libvirt's own rule for names: not empty, no slash, no control characters (virDomainDefPostParse).
        let valid = !value.is_empty()
            && value.len() <= MAX_DOMAIN_NAME
            && !value.contains('/')
            && !value.chars().any(char::is_control);
        if valid {
            return Ok(Self::Name(value.to_owned()));
        }
        Err(InvalidId {
            what: "domain",
            value: value.chars().take(MAX_ID).collect(),
            rule: "give its UUID or its name (at most 200 bytes, no slash, no control characters)",
        })
    }
}

impl fmt::Display for DomainRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(uuid) => uuid.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_is_a_short_token() {
        assert!("vol-1_A".parse::<VolumeId>().is_ok());
        for bad in ["", "a b", "ü", "a/b", "../x", "a\0", &"x".repeat(65)] {
            let error = bad.parse::<AttachmentId>().unwrap_err().to_string();
            assert!(
                error.contains("attachment id") && error.contains("1 to 64"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_domain_is_named_by_uuid_or_name() {
        let uuid = "6f2a7f52-3b1f-4d6c-9f0e-0d9f6f6a3c11";
        assert_eq!(
            uuid.parse::<DomainRef>().unwrap(),
            DomainRef::Uuid(uuid.parse().unwrap())
        );
        assert_eq!(
            "web 1".parse::<DomainRef>().unwrap(),
            DomainRef::Name("web 1".into())
        );
        assert!("a/b".parse::<DomainRef>().is_err());
        assert!("a\nb".parse::<DomainRef>().is_err());
    }

    proptest! {
        #[test]
        fn an_attachment_id_is_always_a_legal_alias(value in ".{0,80}") {
            if let Ok(id) = value.parse::<AttachmentId>() {
                prop_assert!(id.alias().bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)));
                prop_assert_eq!(id.as_str(), value);
            }
        }
    }
}
