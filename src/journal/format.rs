//! A value in the journal's file: JSON behind a version.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::writer::Cause;
use super::{Record, upgrade};
use crate::model::SetPermissions;

/// Version that this build writes. A value of version 1 is upgraded when read; any other is refused, not misread.
pub(super) const VERSION: u32 = 2;

#[derive(Serialize)]
struct Out<'a, T> {
    version: u32,
    record: &'a T,
}

#[derive(Deserialize)]
struct In {
    version: u32,
    #[serde(default)]
    record: Value,
}

pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Out {
        version: VERSION,
        record: value,
    })
}

/// Reads the record of an attachment.
pub(super) fn decode_record(bytes: &[u8]) -> Result<Record, Cause> {
    decode(bytes, upgrade::from_1)
}

/// Reads the permissions of a volume, which have not changed since version 1.
pub(super) fn decode_permissions(bytes: &[u8]) -> Result<SetPermissions, Cause> {
    decode(bytes, |_| {})
}

/// Decodes a value; `from_1` upgrades a value of version 1.
fn decode<T: DeserializeOwned>(bytes: &[u8], from_1: fn(&mut Value)) -> Result<T, Cause> {
    let In {
        version,
        mut record,
    } = serde_json::from_slice(bytes)?;
    match version {
        VERSION => {}
        1 => from_1(&mut record),
        _ => {
            return Err(format!(
                "it has version {version}, and this build reads {VERSION} and 1: run the build that wrote it, detach its \
                 attachments, then install this one"
            )
            .into());
        }
    }
    Ok(serde_json::from_value(record)?)
}
