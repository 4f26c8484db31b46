//! Cinder's JSON: nested under `data` as Nova has it, or flat as Cinder's attachments API gives it.

use serde_json::{Map, Value};
use zeroize::Zeroize;

use super::{
    Common, ConnectionError, ConnectionInfo, Given, IscsiVolume, LocalVolume, NvmeVolume, Protocol,
    QosSpecs, nfs,
};
use crate::model::{AccessSource, IoTune};

/// The longest text accepted, in bytes: real ones have less than one tenth.
const MAX_TEXT: usize = 64 * 1024;

/// The protocols there are.
pub(super) const PROTOCOLS: &str = "smbfs, local, iscsi, nvmeof or nfs";

/// Keys that are read or that are known to mean nothing here: others are told at debug level.
const KNOWN: &[&str] = &[
    "driver_volume_type",
    "data",
    "export",
    "name",
    "format",
    "options",
    "device_path",
    "access_mode",
    "attach_mode",
    "readonly",
    "qos_specs",
    "encrypted",
    "discard",
    "logical_block_size",
    "physical_block_size",
    "multiattach",
    "serial",
    "cacheable",
    "enforce_multipath",
    "volume_id",
    "status",
    "instance",
    "attached_at",
    "detached_at",
    "target_discovered",
    "target_portal",
    "target_iqn",
    "target_lun",
    "target_portals",
    "target_iqns",
    "target_luns",
    "addressing_mode",
    "auth_method",
    "auth_username",
    "auth_password",
    "auth_username_in",
    "auth_password_in",
    "discovery_auth_method",
    "discovery_auth_username",
    "discovery_auth_password",
    "discovery_auth_username_in",
    "discovery_auth_password_in",
    "wwn",
    "scsi_wwn",
    "nqn",
    "target_nqn",
    "transport_type",
    "target_port",
    "portals",
    "ns_id",
    "vol_uuid",
    "volume_nguid",
    "host_nqn",
];

impl ConnectionInfo {
    /// Reads what Cinder sends, nested under `data` or flat. Keys that are not known are ignored, and told at debug
    /// level by name.
    ///
    /// # Errors
    /// Where it is no JSON object, lacks a key, has a value that does not fit, or asks for what is not supported.
    pub fn from_cinder_json(text: &str) -> Result<Self, ConnectionError> {
        if text.len() > MAX_TEXT {
            return Err(ConnectionError::TooLong {
                bytes: text.len(),
                limit: MAX_TEXT,
            });
        }
        let value =
            Wiped(
                serde_json::from_str(text).map_err(|error| ConnectionError::NotJson {
                    line: error.line(),
                    column: error.column(),
                })?,
            );
        let Value::Object(top) = &value.0 else {
            return Err(ConnectionError::Invalid {
                key: "document".to_owned(),
                problem: "is not a JSON object",
                expected: "the object that Cinder gives, with driver_volume_type",
            });
        };
        let outer = Fields {
            at: "",
            object: top,
        };
        let nested = match top.get("data") {
            None | Some(Value::Null) => None,
            Some(Value::Object(data)) => Some(Fields {
                at: "data.",
                object: data,
            }),
            Some(_) => return Err(outer.invalid("data", "is not an object", "an object")),
        };
        let unknown: Vec<&str> = [Some(&outer), nested.as_ref()]
            .into_iter()
            .flatten()
            .flat_map(|fields| fields.object.keys())
            .map(String::as_str)
            .filter(|key| !KNOWN.contains(key))
            .collect();
        if !unknown.is_empty() {
            tracing::debug!(keys = ?unknown, "connection info has keys that are ignored");
        }

        let protocol = outer
            .text("driver_volume_type", PROTOCOLS)?
            .ok_or_else(|| outer.missing("driver_volume_type", PROTOCOLS))?;
        let levels: Vec<&Fields<'_>> = [nested.as_ref(), Some(&outer)]
            .into_iter()
            .flatten()
            .collect();
        let data = nested.as_ref().unwrap_or(&outer);
        match protocol {
            "smbfs" => {
                let common = common(data, &levels)?;
                let given = data.file_on_a_share("//host/share or //host/share/folder")?;
                Self::smb_from_cinder(&given, data.options()?, common)
            }
            "nfs" => {
                let common = common(data, &levels)?;
                let given = data.file_on_a_share(nfs::EXPORT)?;
                Self::nfs_from(&given, data.options()?, common)
            }
            "local" => {
                let common = common(data, &levels)?;
                let expected = "an absolute path such as /dev/vg/volume";
                let path = data
                    .text("device_path", expected)?
                    .ok_or_else(|| data.missing("device_path", expected))?;
                let format = data.text("format", "the image format's name")?;
                Ok(Self {
                    common,
                    protocol: Protocol::Local(LocalVolume::parse(data.at, path, format)?),
                })
            }
            "iscsi" => Ok(Self {
                common: common(data, &levels)?,
                protocol: Protocol::Iscsi(IscsiVolume::from_cinder(data)?),
            }),
            "nvmeof" => Ok(Self {
                common: common(data, &levels)?,
                protocol: Protocol::Nvme(NvmeVolume::from_cinder(data)?),
            }),
            other => Err(ConnectionError::Protocol {
                protocol: other.chars().take(32).collect(),
            }),
        }
    }
}

/// Sources of read-only, in the order in which they are reported.
const KEYS: [AccessSource; 3] = [
    AccessSource::AccessMode,
    AccessSource::AttachMode,
    AccessSource::Readonly,
];

/// What is common to all protocols. What restricts is heeded on every level, what describes on that of the data.
fn common(data: &Fields<'_>, levels: &[&Fields<'_>]) -> Result<Common, ConnectionError> {
    let mut read_only_by = Vec::new();
    let mut multiattach = false;
    for fields in levels {
        if fields.flag("encrypted")? {
            return Err(ConnectionError::Encrypted {
                key: fields.key("encrypted"),
            });
        }
        if fields.read_only("access_mode", &[])? {
            read_only_by.push(AccessSource::AccessMode);
        }
        // Cinder writes the word null if nobody set a mode (Attachment's `attach_mode` column, its default).
        if fields.read_only("attach_mode", &["null"])? {
            read_only_by.push(AccessSource::AttachMode);
        }
        if fields.flag("readonly")? {
            read_only_by.push(AccessSource::Readonly);
        }
        multiattach |= fields.flag("multiattach")?;
    }
    // Sorted by key, not by level.
    read_only_by.sort_by_key(|source| KEYS.iter().position(|key| key == source));
    read_only_by.dedup();
    let common = Common {
        read_only_by,
        iotune: iotune(data)?,
        discard: data.flag("discard")?,
        logical_block_size: data.block_size("logical_block_size")?,
        physical_block_size: data.block_size("physical_block_size")?,
        multiattach,
    };
    common.check(data.at)?;
    Ok(common)
}

/// `qos_specs`: limits by libvirt's names. A `consumer` of `back-end` keeps them to the storage.
fn iotune(data: &Fields<'_>) -> Result<Option<IoTune>, ConnectionError> {
    let specs = match data.object.get("qos_specs") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(specs)) => specs,
        Some(_) => return Err(data.invalid("qos_specs", "is not an object", "an object or null")),
    };
    let consumer = specs.get("consumer").and_then(Value::as_str);
    let at = data.key("qos_specs.");
    let specs = QosSpecs::read(consumer.unwrap_or_default(), &Fields::new(&at, specs))?;
    let limits = specs.fixed();
    Ok((limits != IoTune::default()).then_some(limits))
}

/// An object, and where it is.
pub(super) struct Fields<'a> {
    at: &'a str,
    pub(super) object: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(at: &'a str, object: &'a Map<String, Value>) -> Self {
        Self { at, object }
    }

    pub(super) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.at)
    }

    pub(super) fn missing(&self, name: &str, expected: &'static str) -> ConnectionError {
        ConnectionError::Missing {
            key: self.key(name),
            expected,
        }
    }

    pub(super) fn invalid(
        &self,
        name: &str,
        problem: &'static str,
        expected: &'static str,
    ) -> ConnectionError {
        ConnectionError::Invalid {
            key: self.key(name),
            problem,
            expected,
        }
    }

    /// What names a file on a share; `export` is what an export looks like.
    fn file_on_a_share(&self, export: &'static str) -> Result<Given<'a>, ConnectionError> {
        let name = "the volume's file beneath the export";
        Ok(Given {
            at: self.at,
            export: self
                .text("export", export)?
                .ok_or_else(|| self.missing("export", export))?,
            name: self
                .text("name", name)?
                .ok_or_else(|| self.missing("name", name))?,
            format: self.text("format", "the image format's name")?,
        })
    }

    fn options(&self) -> Result<&'a str, ConnectionError> {
        let options = self.text("options", "mount options")?;
        Ok(options.unwrap_or_default())
    }

    /// A string; absent and null are `None`.
    pub(super) fn text(
        &self,
        name: &str,
        expected: &'static str,
    ) -> Result<Option<&'a str>, ConnectionError> {
        match self.object.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.invalid(name, "is not a string", expected)),
        }
    }

    /// Whether a mode is `ro`. Not so for `rw`, null, an absent mode and the words in `nothing`.
    fn read_only(&self, name: &str, nothing: &[&str]) -> Result<bool, ConnectionError> {
        let expected = "ro or rw";
        match self.text(name, expected)? {
            Some("ro") => Ok(true),
            None | Some("rw") => Ok(false),
            Some(word) if nothing.contains(&word) => Ok(false),
            Some(_) => Err(self.invalid(name, "is neither ro nor rw", expected)),
        }
    }

    /// A boolean, or Python's word for one; absent and null are false.
    pub(super) fn flag(&self, name: &str) -> Result<bool, ConnectionError> {
        match self.object.get(name) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
            Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
            Some(_) => Err(self.invalid(name, "is not a boolean", "true or false")),
        }
    }

    /// A whole number, or a string of digits; absent, null and the empty string are `None`.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, ConnectionError> {
        match self.object.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(value) => number(value).map(Some).ok_or_else(|| {
                self.invalid(name, "is not a whole number", "a number of 0 or more")
            }),
        }
    }

    /// Whether the key is given, and not null.
    pub(super) fn has(&self, name: &str) -> bool {
        self.object.get(name).is_some_and(|value| !value.is_null())
    }

    /// A list of strings; absent and null are `None`.
    pub(super) fn texts(
        &self,
        name: &str,
        expected: &'static str,
    ) -> Result<Option<Vec<&'a str>>, ConnectionError> {
        self.list(name, "is not a list of strings", expected, Value::as_str)
    }

    /// A list of whole numbers, or of strings of digits; absent and null are `None`.
    pub(super) fn numbers(
        &self,
        name: &str,
        expected: &'static str,
    ) -> Result<Option<Vec<u64>>, ConnectionError> {
        self.list(name, "is not a list of whole numbers", expected, number)
    }

    fn list<T>(
        &self,
        name: &str,
        problem: &'static str,
        expected: &'static str,
        item: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>, ConnectionError> {
        let items = match self.object.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Array(items)) => items.iter().map(item).collect(),
            Some(_) => None,
        };
        match items {
            Some(items) => Ok(Some(items)),
            None => Err(self.invalid(name, problem, expected)),
        }
    }

    /// A block size; absent, null and 0 are `None`.
    fn block_size(&self, name: &str) -> Result<Option<u32>, ConnectionError> {
        match self.number(name)?.filter(|size| *size != 0) {
            None => Ok(None),
            Some(size) => u32::try_from(size)
                .map(Some)
                .map_err(|_| self.invalid(name, "is too large", super::BLOCK_SIZE)),
        }
    }
}

/// A whole number, or a string of digits.
pub(super) fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    }
}

/// JSON whose strings are wiped when it is dropped: one of them holds the password.
#[derive(serde::Deserialize)]
pub(crate) struct Wiped(pub(crate) Value);

impl Drop for Wiped {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(object) => object.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
