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
    /// For administrators with the part of `admin_metadata` that may be seen: `readonly` is in it.
    #[serde(default)]
    pub(super) metadata: BTreeMap<String, String>,
    /// Its complete attachments.
    #[serde(default)]
    pub(super) attachments: Vec<VolumeAttachment>,
}

impl Volume {
    /// Whether Cinder lets nobody write it (`os-update_readonly_flag`).
    pub(super) fn is_read_only(&self) -> bool {
        let flag = self.metadata.get("readonly");
        flag.is_some_and(|flag| flag.eq_ignore_ascii_case("true"))
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
    attach_mode: Option<String>,
    /// How to reach the volume: it holds passwords.
    #[serde(default)]
    pub(super) connection_info: Option<Wiped>,
}

impl Attachment {
    /// Whether it was completed.
    pub(super) fn is_complete(&self) -> bool {
        self.status == "attached"
    }

    /// Whether it holds the volume.
    pub(super) fn is_use(&self) -> bool {
        !matches!(self.status.as_str(), "detached" | "deleted")
    }

    /// Whether any of its modes is `ro`. Cinder does not carry one into the other.
    pub(super) fn is_read_only(&self) -> bool {
        let info = self.connection_info.as_ref().map(|info| &info.0);
        let word = |key| info.and_then(|info| info.get(key)).and_then(Value::as_str);
        self.attach_mode.as_deref() == Some("ro")
            || word("access_mode") == Some("ro")
            || word("attach_mode") == Some("ro")
    }

    /// The mode, for people and programs.
    pub(super) fn mode(&self) -> &'static str {
        if self.is_read_only() { "ro" } else { "rw" }
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
    fn read_only_is_what_any_of_the_modes_says() {
        for (mode, info, read_only) in [
            (json!("ro"), json!({ "access_mode": "rw" }), true),
            (json!("null"), json!({ "access_mode": "ro" }), true),
            (json!("rw"), json!({ "attach_mode": "ro" }), true),
            (json!("null"), json!({ "access_mode": "rw" }), false),
            (json!(null), json!(null), false),
            (json!("rw"), json!("odd"), false),
        ] {
            assert_eq!(
                attachment(mode, info.clone()).is_read_only(),
                read_only,
                "{info}"
            );
        }
        for flag in ["True", "true", "TRUE"] {
            let volume = json!({ "id": "v", "status": "available", "size": 1, "metadata": { "readonly": flag } });
            let volume: Volume = serde_json::from_value(volume).unwrap();
            assert!(volume.is_read_only());
        }
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
