//! What Cinder answers (the block storage API, version 3), as far as it is needed.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::connection::Wiped;

/// The oldest microversion that is enough: `mode` of a new attachment.
const OLDEST: Microversion = Microversion(3, 54);
/// The newest that is known.
const NEWEST: Microversion = Microversion(3, 71);

/// A version of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Microversion(u16, u16);

impl Microversion {
    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self(major.parse().ok()?, minor.parse().ok()?))
    }
}

impl fmt::Display for Microversion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// The versions that a server has.
#[derive(Deserialize)]
pub(super) struct Versions {
    versions: Vec<Version>,
}

#[derive(Deserialize)]
struct Version {
    id: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    min_version: String,
}

impl Versions {
    /// The newest version that both sides know, or why there is none.
    pub(super) fn common(&self) -> Result<Microversion, String> {
        let third = self.versions.iter().find(|it| it.id.starts_with("v3"));
        let third = third.ok_or("it has no version 3 of the block storage API")?;
        let last = Microversion::parse(&third.version).ok_or("it has no microversions")?;
        let first = Microversion::parse(&third.min_version).unwrap_or(Microversion(3, 0));
        if last < OLDEST {
            return Err(format!(
                "it has microversions up to {last}, and {OLDEST} (Queens) is needed for an attachment's mode: upgrade Cinder"
            ));
        }
        if first > NEWEST {
            return Err(format!(
                "it has microversions from {first} on, and {NEWEST} is the newest known here: upgrade volattach"
            ));
        }
        Ok(last.min(NEWEST))
    }
}

#[derive(Deserialize)]
pub(super) struct OneVolume {
    pub(super) volume: Volume,
}

/// A volume.
#[derive(Deserialize)]
pub(super) struct Volume {
    pub(super) id: String,
    pub(super) status: String,
    /// In GiB.
    pub(super) size: u64,
    #[serde(default)]
    pub(super) user_id: Option<String>,
    /// Shown to the volume's project and to administrators.
    #[serde(default, rename = "os-vol-tenant-attr:tenant_id")]
    pub(super) project_id: Option<String>,
    /// With `readonly` of the administrators' metadata, which everybody is shown.
    #[serde(default)]
    pub(super) metadata: BTreeMap<String, String>,
    /// Its complete attachments.
    #[serde(default)]
    pub(super) attachments: Vec<VolumeAttachment>,
}

impl Volume {
    /// The flag of `os-update_readonly_flag`; `None`: never set.
    pub(super) fn read_only_flag(&self) -> Option<bool> {
        let flag = self.metadata.get("readonly")?;
        Some(!flag.eq_ignore_ascii_case("false"))
    }
}

/// An attachment as the volume shows it.
#[derive(Deserialize)]
pub(super) struct VolumeAttachment {
    pub(super) attachment_id: Uuid,
    /// The connector's `mountpoint`.
    #[serde(default)]
    pub(super) device: Option<String>,
    /// The connector's `host`; shown to administrators and services.
    #[serde(default)]
    pub(super) host_name: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct OneAttachment {
    pub(super) attachment: Attachment,
}

#[derive(Deserialize)]
pub(super) struct ManyAttachments {
    pub(super) attachments: Vec<Attachment>,
}

/// An attachment.
#[derive(Deserialize)]
pub(super) struct Attachment {
    pub(super) id: Uuid,
    pub(super) volume_id: String,
    /// `reserved`, `attaching`, `attached`, or one of errors and ends.
    pub(super) status: String,
    /// The server that Nova attached it to, or one that somebody named.
    #[serde(default)]
    pub(super) instance: Option<String>,
    /// `ro`, `rw`, or the word `null`.
    #[serde(default)]
    pub(super) attach_mode: Option<String>,
    /// How to reach the volume: it holds passwords.
    #[serde(default)]
    pub(super) connection_info: Option<Wiped>,
}

impl Attachment {
    /// Whether it was completed.
    pub(super) fn is_complete(&self) -> bool {
        self.status == "attached"
    }

    /// Whether it has no connector yet, and so no host: Cinder is at work on it, has failed at it, or somebody goes on with it.
    pub(super) fn is_reserved(&self) -> bool {
        self.status == "reserved"
    }

    /// Whether it holds the volume.
    pub(super) fn is_use(&self) -> bool {
        !matches!(self.status.as_str(), "detached" | "deleted")
    }

    /// Whether its mode is `ro`. It is for good, whatever was asked for, once the volume's flag was set: Cinder takes the flag's word
    /// "False" for true (volume/api.py, `attachment_create`).
    pub(super) fn has_mode_ro(&self) -> bool {
        self.attach_mode.as_deref() == Some("ro")
    }

    /// Whether anything says that it is read-only: the volume's flag, its connection info, or its mode where the flag is not cleared.
    pub(super) fn is_read_only(&self, volume: &Volume) -> bool {
        let info = self.connection_info.as_ref();
        let mode = info.and_then(|info| info.0.get("access_mode"));
        match (volume.read_only_flag(), mode.and_then(Value::as_str)) {
            (Some(true), _) | (_, Some("ro")) => true,
            (Some(false), _) => false,
            (None, _) => self.has_mode_ro(),
        }
    }

    /// The server about which Cinder asks Nova before it deletes the attachment for anyone but a service (volume/api.py,
    /// `attachment_deletion_allowed`).
    pub(super) fn guard(&self) -> Option<&str> {
        self.connection_json()?;
        self.instance.as_deref()
    }

    /// How to reach the volume, as Cinder gave it; `None`: nothing was given.
    pub(super) fn connection_json(&self) -> Option<String> {
        match &self.connection_info.as_ref()?.0 {
            Value::Object(info) if info.is_empty() => None,
            info @ Value::Object(_) => Some(info.to_string()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn versions(min: &str, max: &str) -> Result<String, String> {
        let versions = json!({ "versions": [
            { "id": "v2.0", "version": "", "min_version": "" },
            { "id": "v3.0", "status": "CURRENT", "version": max, "min_version": min, "links": [] },
        ] });
        let versions: Versions = serde_json::from_value(versions).unwrap();
        versions.common().map(|version| version.to_string())
    }

    #[test]
    fn the_newest_version_that_both_know_is_taken() {
        assert_eq!(versions("3.0", "3.54").unwrap(), "3.54");
        assert_eq!(versions("3.0", "3.70").unwrap(), "3.70");
        assert_eq!(versions("3.0", "3.71").unwrap(), "3.71");
        assert_eq!(versions("3.0", "3.100").unwrap(), "3.71");
        assert!(versions("3.0", "3.53").unwrap_err().contains("up to 3.53"));
        assert!(versions("3.72", "3.80").unwrap_err().contains("from 3.72"));
        assert!(versions("", "").unwrap_err().contains("no microversions"));
        let none: Versions = serde_json::from_value(json!({ "versions": [] })).unwrap();
        assert!(none.common().is_err());
    }

    fn attachment(attach_mode: Value, info: Value) -> Attachment {
        let id = Uuid::from_u128(1);
        serde_json::from_value(json!({
            "id": id, "volume_id": "v", "status": "attaching", "instance": null,
            "attached_at": "", "attach_mode": attach_mode, "connection_info": info,
        }))
        .unwrap()
    }

    #[test]
    fn read_only_is_what_anything_says_but_the_mode_that_a_cleared_flag_left() {
        let volume = |flag: Option<&str>| -> Volume {
            let metadata = flag.map_or(json!({}), |flag| json!({ "readonly": flag }));
            let body = json!({ "id": "v", "status": "in-use", "size": 1, "metadata": metadata });
            serde_json::from_value(body).unwrap()
        };
        for (flag, mode, access_mode, read_only) in [
            (None, json!("ro"), "rw", true),
            (None, json!("null"), "ro", true),
            (None, json!("rw"), "rw", false),
            (None, json!(null), "rw", false),
            (Some("True"), json!("rw"), "rw", true),
            (Some("odd"), json!("rw"), "rw", true),
            (Some("False"), json!("ro"), "rw", false),
            (Some("False"), json!("ro"), "ro", true),
        ] {
            let attachment = attachment(mode, json!({ "access_mode": access_mode }));
            let found = attachment.is_read_only(&volume(flag));
            assert_eq!(found, read_only, "{flag:?} {access_mode}");
        }
    }

    #[test]
    fn nova_is_asked_about_connected_attachments_of_servers() {
        let with = |instance: Value, info: Value| -> Attachment {
            let mut body =
                json!({ "id": Uuid::from_u128(1), "volume_id": "v", "status": "attached" });
            body["instance"] = instance;
            body["connection_info"] = info;
            serde_json::from_value(body).unwrap()
        };
        let info = || json!({ "driver_volume_type": "nfs" });
        assert_eq!(with(json!("s"), info()).guard(), Some("s"));
        assert_eq!(with(json!("s"), json!({})).guard(), None);
        assert_eq!(with(json!(null), info()).guard(), None);
    }

    #[test]
    fn connection_info_is_passed_on_if_there_is_any() {
        assert_eq!(attachment(json!(null), json!({})).connection_json(), None);
        assert_eq!(attachment(json!(null), json!(null)).connection_json(), None);
        let info = attachment(json!(null), json!({ "driver_volume_type": "nfs" }));
        assert_eq!(
            info.connection_json().unwrap(),
            r#"{"driver_volume_type":"nfs"}"#
        );
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = serde_json::from_slice::<ManyAttachments>(&body);
            let _ = serde_json::from_slice::<OneVolume>(&body);
            let _ = serde_json::from_slice::<Versions>(&body);
        }

        #[test]
        fn any_version_is_between_the_bounds_or_refused(min in "[0-9.]{0,6}", max in "[0-9.]{0,6}") {
            if let Ok(version) = versions(&min, &max) {
                let version = Microversion::parse(&version).unwrap();
                prop_assert!((OLDEST..=NEWEST).contains(&version));
            }
        }

        #[test]
        fn the_id_of_an_attachment_is_no_part_of_another_path(id in "[0-9a-f/.?-]{0,40}") {
            let body = json!({ "id": id, "volume_id": "v", "status": "attached" });
            if let Ok(attachment) = serde_json::from_value::<Attachment>(body) {
                prop_assert!(!attachment.id.to_string().contains(['/', '.', '?']));
            }
        }
    }
}
