//! The journal's file, opened anew after a write that failed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::redb::{Database, ReadableTable, Table, TableDefinition, WriteTransaction};
use serde_json::Value;

use super::format::{decode_permissions, decode_record, encode};
use super::index::Records;
use super::writer::Cause;
use super::{Record, Unreadable};
use crate::model::{AttachmentId, SetPermissions, VolumeId};

const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("attachments");
const PERMISSIONS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("permissions");

/// Bytes of cache: a record is about 1 KiB, and the default (1 GiB) suits no agent.
const CACHE: usize = 1 << 20;

/// One entry written, or removed (`None`).
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// The record of an attachment.
    Record(AttachmentId, Option<Arc<Record>>),
    /// The permissions that were set here for a volume.
    Permissions(VolumeId, Option<Box<SetPermissions>>),
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
}

impl Contents {
    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::Record(_, Some(record)) => self.records.insert(record),
            Change::Record(id, None) => self.records.remove(&id),
            Change::Permissions(volume, Some(set)) => {
                self.permissions.insert(volume, *set);
            }
            Change::Permissions(volume, None) => {
                self.permissions.remove(&volume);
            }
        }
    }

    fn read(transaction: &WriteTransaction) -> Result<Self, Cause> {
        let mut contents = Self::default();
        for entry in transaction.open_table(RECORDS)?.iter()? {
            let (id, value) = entry?;
            match decode_record(value.value()) {
                Ok(record) => contents.records.insert(Arc::new(record)),
                Err(error) => {
                    let kept = Kept::new(value.value(), &error);
                    contents.unreadable.insert(id.value().parse()?, kept);
                }
            }
        }
        for entry in transaction.open_table(PERMISSIONS)?.iter()? {
            let (volume, value) = entry?;
            match decode_permissions(value.value()) {
                Ok(set) => {
                    contents.permissions.insert(volume.value().parse()?, set);
                }
                Err(error) => {
                    let kept = Kept::new(value.value(), &error);
                    let all = &mut contents.unreadable_permissions;
                    all.insert(volume.value().parse()?, kept);
                }
            }
        }
        Ok(contents)
    }

    /// The entries of both tables, encoded.
    fn encoded(&self) -> Result<[BTreeMap<String, Vec<u8>>; 2], Cause> {
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
}

/// The journal's contents, shared with the thread that writes the file.
pub(super) type Shared = Arc<Mutex<Contents>>;

pub(super) fn lock(contents: &Shared) -> MutexGuard<'_, Contents> {
    contents.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file, as the thread that writes to it has it.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    contents: Shared,
    /// `None` after a failed write: redb refuses every transaction after that until the file is opened anew.
    database: Option<Database>,
}

impl Store {
    /// Opens the file, or makes it, and reads its contents.
    ///
    /// # Errors
    /// The file cannot be made or read, is not a journal, or is open in another process.
    pub(super) fn open(path: &Path) -> Result<Self, Cause> {
        let database = open(path)?;
        let transaction = database.begin_write()?;
        let contents = Contents::read(&transaction)?;
        // A new file has its tables now.
        transaction.commit()?;
        Ok(Self {
            path: path.to_owned(),
            contents: Arc::new(Mutex::new(contents)),
            database: Some(database),
        })
    }

    pub(super) fn contents(&self) -> &Shared {
        &self.contents
    }

    /// Writes the changes in their order, all or none; they are on disk when this returns. After a failure the next call opens the file
    /// anew first.
    pub(super) fn write(&mut self, changes: &[Change]) -> Result<(), Cause> {
        let database = match self.database.take() {
            Some(database) => database,
            None => self.restore()?,
        };
        commit(&database, changes)?;
        self.database = Some(database);
        Ok(())
    }

    /// Opens the file anew, and makes it hold exactly the contents: a failed write may have come to the disk all the same, and its
    /// caller was told that it did not.
    fn restore(&self) -> Result<Database, Cause> {
        let [records, permissions] = lock(&self.contents).encoded()?;
        let database = open(&self.path)?;
        let transaction = database.begin_write()?;
        replace(&mut transaction.open_table(RECORDS)?, &records)?;
        replace(&mut transaction.open_table(PERMISSIONS)?, &permissions)?;
        transaction.commit()?;
        tracing::info!(path = %self.path.display(), "the journal is opened anew");
        Ok(database)
    }
}

fn open(path: &Path) -> Result<Database, Cause> {
    Ok(Database::builder().set_cache_size(CACHE).create(path)?)
}

/// Writes all the changes in one transaction. redb's default durability: on disk when commit returns.
fn commit(database: &Database, changes: &[Change]) -> Result<(), Cause> {
    let transaction = database.begin_write()?;
    {
        let mut records = transaction.open_table(RECORDS)?;
        let mut permissions = transaction.open_table(PERMISSIONS)?;
        for change in changes {
            match change {
                Change::Record(id, record) => {
                    let value = record.as_deref().map(encode).transpose()?;
                    set(&mut records, id.as_str(), value.as_deref())?;
                }
                Change::Permissions(volume, given) => {
                    let value = given.as_ref().map(encode).transpose()?;
                    set(&mut permissions, volume.as_str(), value.as_deref())?;
                }
            }
        }
    }
    Ok(transaction.commit()?)
}

type Entries<'t> = Table<'t, &'static str, &'static [u8]>;

fn set(table: &mut Entries<'_>, key: &str, value: Option<&[u8]>) -> Result<(), Cause> {
    match value {
        Some(value) => table.insert(key, value)?,
        None => table.remove(key)?,
    };
    Ok(())
}

/// Makes the table hold exactly these entries.
fn replace(table: &mut Entries<'_>, wanted: &BTreeMap<String, Vec<u8>>) -> Result<(), Cause> {
    table.retain(|key, value| wanted.get(key).is_some_and(|wanted| wanted == value))?;
    for (key, value) in wanted {
        if table.get(key.as_str())?.is_none() {
            table.insert(key.as_str(), value.as_slice())?;
        }
    }
    Ok(())
}
