//! Everything in the journal, in memory, and how it is read from the file's tables.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use ::redb::{ReadableTable, WriteTransaction};
use serde_json::{Value, json};

use super::file::Fault;
use super::format::{decode_permissions, decode_record, encode};
use super::index::Records;
use super::recent::{self, FORMATS};
use super::store::{ABOUT, PERMISSIONS, RECORDS};
use super::writer::Cause;
use super::{Loss, Record, Unreadable};
use crate::model::{AttachmentId, InvalidId, SetPermissions, VolumeId};

/// This build.
const BUILD: &str = env!("CARGO_PKG_VERSION");

/// One entry written, or removed (`None`).
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// The record of an attachment.
    Record(AttachmentId, Option<Arc<Record>>),
    /// The permissions that were set here for a volume.
    Permissions(VolumeId, Option<Box<SetPermissions>>),
    /// Forgets the loss of an earlier journal.
    NoLoss,
}

/// A value that this build cannot read: kept in the file as it is.
#[derive(Debug)]
pub(super) struct Kept {
    bytes: Vec<u8>,
    /// Why.
    pub(super) why: String,
}

impl Kept {
    fn new(bytes: &[u8], why: &Cause) -> Self {
        Self {
            bytes: bytes.to_owned(),
            why: why.to_string(),
        }
    }

    /// The value.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The value as text, and why it cannot be read.
    pub(super) fn to_json(&self) -> Value {
        json!({"value": String::from_utf8_lossy(&self.bytes), "why": self.why})
    }

    /// The parts of a record that concern others, as far as they can be made out.
    pub(super) fn as_record(&self, id: &AttachmentId) -> Unreadable {
        let value: Value = serde_json::from_slice(&self.bytes).unwrap_or_default();
        let record = &value["record"];
        let claims = record["host"]["plan"]["claims"].as_array();
        let claim = |claim: &Value| serde_json::from_value(claim.clone()).ok();
        Unreadable {
            id: id.clone(),
            volume: record["volume"].as_str().and_then(|it| it.parse().ok()),
            claims: claims.into_iter().flatten().filter_map(claim).collect(),
            why: self.why.clone(),
        }
    }
}

/// Everything in the journal. Reads need no disk, as nobody else writes the file.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) records: Records,
    pub(super) permissions: BTreeMap<VolumeId, SetPermissions>,
    /// Records that this build cannot read, by attachment id.
    pub(super) unreadable: BTreeMap<AttachmentId, Kept>,
    /// Permissions that this build cannot read, by volume id.
    pub(super) unreadable_permissions: BTreeMap<VolumeId, Kept>,
    /// Loss of an earlier file.
    pub(super) loss: Option<Loss>,
}

impl Contents {
    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::Record(_, Some(record)) => self.records.insert(record),
            Change::Record(id, None) => {
                self.records.remove(&id);
                self.unreadable.remove(&id);
            }
            Change::Permissions(volume, Some(set)) => {
                self.permissions.insert(volume, *set);
            }
            Change::Permissions(volume, None) => {
                self.permissions.remove(&volume);
            }
            Change::NoLoss => self.loss = None,
        }
    }

    pub(super) fn read(transaction: &WriteTransaction) -> Result<Self, Fault> {
        let mut contents = Self::default();
        {
            let about = transaction.open_table(ABOUT)?;
            format(&about)?;
            contents.loss = about.get("loss")?.map(|loss| Loss::read(loss.value()));
        }
        let recent = recent::read(transaction)?;
        for entry in transaction.open_table(RECORDS)?.iter()? {
            let (id, value) = entry?;
            if !recent.contains_key(id.value()) {
                contents.read_record(id.value(), value.value())?;
            }
        }
        for (id, value) in &recent {
            if let Some(value) = value {
                contents.read_record(id, value)?;
            }
        }
        for entry in transaction.open_table(PERMISSIONS)?.iter()? {
            let (volume, value) = entry?;
            match decode_permissions(value.value()) {
                Ok(set) => {
                    contents.permissions.insert(key(volume.value())?, set);
                }
                Err(error) => {
                    let kept = Kept::new(value.value(), &error);
                    let all = &mut contents.unreadable_permissions;
                    all.insert(key(volume.value())?, kept);
                }
            }
        }
        Ok(contents)
    }

    fn read_record(&mut self, id: &str, value: &[u8]) -> Result<(), Fault> {
        match decode_record(value) {
            Ok(record) if record.id.as_str() != id => {
                let why = format!("it names itself {}", record.id).into();
                self.unreadable.insert(key(id)?, Kept::new(value, &why));
            }
            Ok(record) => self.records.insert(Arc::new(record)),
            Err(error) => {
                self.unreadable.insert(key(id)?, Kept::new(value, &error));
            }
        }
        Ok(())
    }

    /// The records and the permissions, encoded.
    pub(super) fn encoded(&self) -> Result<[BTreeMap<String, Vec<u8>>; 2], Cause> {
        let mut records = BTreeMap::new();
        for record in self.records.after(None) {
            records.insert(record.id.to_string(), encode(record.as_ref())?);
        }
        for (id, kept) in &self.unreadable {
            records.insert(id.to_string(), kept.bytes.clone());
        }
        let mut permissions = BTreeMap::new();
        for (volume, set) in &self.permissions {
            permissions.insert(volume.to_string(), encode(set)?);
        }
        for (volume, kept) in &self.unreadable_permissions {
            permissions.insert(volume.to_string(), kept.bytes.clone());
        }
        Ok([records, permissions])
    }

    /// The facts of a file with that many recent entries.
    pub(super) fn about(&self, recent: u64) -> Result<BTreeMap<String, Vec<u8>>, Cause> {
        let format = recent::format(recent).to_string();
        let mut about = BTreeMap::from([
            ("format".to_owned(), format.into_bytes()),
            ("build".to_owned(), BUILD.as_bytes().to_vec()),
        ]);
        if let Some(loss) = &self.loss {
            about.insert("loss".to_owned(), serde_json::to_vec(loss)?);
        }
        Ok(about)
    }
}

/// Reads the key of an entry.
fn key<T: FromStr<Err = InvalidId>>(text: &str) -> Result<T, Cause> {
    Ok(text.parse()?)
}

impl Loss {
    pub(super) fn now(why: String, kept: Option<PathBuf>) -> Self {
        Self {
            at: SystemTime::now(),
            why,
            kept,
        }
    }

    fn read(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes)
            .unwrap_or_else(|error| Self::now(format!("unknown: {error}"), None))
    }
}

/// Format of the file. A later one is refused, with the build that the file names; a file without a format is of a build before the first.
pub(super) fn format(
    about: &impl ReadableTable<&'static str, &'static [u8]>,
) -> Result<u32, Fault> {
    let text = |key: &str| -> Result<Option<String>, Fault> {
        let value = about.get(key)?;
        Ok(value.map(|it| String::from_utf8_lossy(it.value()).into_owned()))
    };
    let Some(format) = text("format")? else {
        return Ok(FORMATS[0]);
    };
    if let Some(known) = FORMATS.into_iter().find(|it| it.to_string() == format) {
        return Ok(known);
    }
    let build = text("build")?.unwrap_or_default();
    let why = format!(
        "it has format {format}, written by volattach {build}, and this build ({BUILD}) reads formats {} and {}: install volattach {build} \
         or a later one",
        FORMATS[0], FORMATS[1]
    );
    Err(Fault::Other(why.into()))
}
