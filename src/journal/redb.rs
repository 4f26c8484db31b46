//! The journal in a redb file: records, and the permissions set here, each as JSON behind a version.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ::redb::{Database, ReadableTable, TableDefinition};
use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::upgrade;
use super::writer::{Cause, Change, Table, Writer};
use super::{Journal, JournalError, Record};
use crate::model::{AttachmentId, SetPermissions, VolumeId};

const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("attachments");
const PERMISSIONS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("permissions");

/// Version that this build writes. A record of version 1 is upgraded when read; any other is refused, not misread.
const VERSION: u32 = 2;

/// Bytes of cache: a record is about 1 KiB, and the default (1 GiB) suits no agent.
const CACHE: usize = 1 << 20;

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

/// A [`Journal`] in one file, which one process at a time may open.
pub struct RedbJournal {
    writer: Writer,
    path: PathBuf,
    /// What is on disk, or will be: since nobody else writes there, reading needs no disk, and no thread to wait for it.
    records: Mutex<BTreeMap<AttachmentId, Record>>,
    /// What is on disk.
    permissions: Mutex<BTreeMap<VolumeId, SetPermissions>>,
}

impl RedbJournal {
    /// Opens the file, or makes it (mode 0600 is the state directory's business).
    ///
    /// # Errors
    /// Where the file cannot be made or read, is not a journal, holds a record of another version, or is open in
    /// another process.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let open = || -> Result<_, Cause> {
            let database = Database::builder().set_cache_size(CACHE).create(path)?;
            let transaction = database.begin_write()?;
            let mut records = BTreeMap::new();
            for entry in transaction.open_table(RECORDS)?.iter()? {
                let record = decode_record(entry?.1.value())?;
                records.insert(record.id.clone(), record);
            }
            let mut permissions = BTreeMap::new();
            for entry in transaction.open_table(PERMISSIONS)?.iter()? {
                let (volume, set) = entry?;
                let set = decode(set.value(), |_| {})?; // unchanged since version 1
                permissions.insert(volume.value().parse()?, set);
            }
            // A new file has its tables now.
            transaction.commit()?;
            let writer = Writer::start(move |changes| commit(&database, changes))?;
            Ok((writer, records, permissions))
        };
        let (writer, records, permissions) = open().map_err(|source| JournalError {
            action: "open",
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            writer,
            path: path.to_owned(),
            records: Mutex::new(records),
            permissions: Mutex::new(permissions),
        })
    }

    fn set(&self) -> MutexGuard<'_, BTreeMap<VolumeId, SetPermissions>> {
        self.permissions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn records(&self) -> MutexGuard<'_, BTreeMap<AttachmentId, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, source: Cause) -> JournalError {
        JournalError {
            action: "write",
            path: self.path.clone(),
            source,
        }
    }

    fn record(&self, id: &AttachmentId, record: Option<&Record>) -> Result<Change, JournalError> {
        self.change(Table::Attachments, id.as_str(), record)
    }

    fn change<T: Serialize>(
        &self,
        table: Table,
        key: &str,
        value: Option<&T>,
    ) -> Result<Change, JournalError> {
        Ok(Change {
            table,
            key: key.to_owned(),
            value: value.map(|value| self.encode(value)).transpose()?,
        })
    }

    fn encode<T: Serialize>(&self, record: &T) -> Result<Vec<u8>, JournalError> {
        encode(record).map_err(|error| self.failed(error.into()))
    }
}

/// Writes all the changes in one transaction. redb's default durability: on disk when commit returns.
fn commit(database: &Database, changes: &[Change]) -> Result<(), Cause> {
    let transaction = database.begin_write()?;
    {
        let mut records = transaction.open_table(RECORDS)?;
        let mut permissions = transaction.open_table(PERMISSIONS)?;
        for Change { table, key, value } in changes {
            let table = match table {
                Table::Attachments => &mut records,
                Table::Permissions => &mut permissions,
            };
            match value {
                Some(value) => table.insert(key.as_str(), value.as_slice())?,
                None => table.remove(key.as_str())?,
            };
        }
    }
    Ok(transaction.commit()?)
}

pub(super) fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Out {
        version: VERSION,
        record,
    })
}

/// Reads the record of an attachment.
pub(super) fn decode_record(bytes: &[u8]) -> Result<Record, Cause> {
    decode(bytes, upgrade::from_1)
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
                "a record has version {version}, this build reads {VERSION} and 1: run the build that wrote it, detach its \
                 attachments, then install this one"
            )
            .into());
        }
    }
    Ok(serde_json::from_value(record)?)
}

#[async_trait]
impl Journal for RedbJournal {
    async fn get(&self, id: &AttachmentId) -> Result<Option<Record>, JournalError> {
        Ok(self.records().get(id).cloned())
    }

    async fn select(
        &self,
        wanted: &(dyn for<'r> Fn(&'r Record) -> bool + Sync),
    ) -> Result<Vec<Record>, JournalError> {
        let records = self.records();
        let selected = records.values().filter(|record| wanted(record));
        Ok(selected.cloned().collect())
    }

    async fn put(&self, record: &Record) -> Result<(), JournalError> {
        let change = self.record(&record.id, Some(record))?;
        let written = self.writer.write(change).await;
        written.map_err(|source| self.failed(source))?;
        self.records().insert(record.id.clone(), record.clone());
        Ok(())
    }

    async fn put_soon(&self, record: &Record) -> Result<(), JournalError> {
        let change = self.record(&record.id, Some(record))?;
        self.records().insert(record.id.clone(), record.clone());
        self.writer.write_soon(change);
        Ok(())
    }

    async fn remove(&self, id: &AttachmentId) -> Result<(), JournalError> {
        let change = self.record(id, None)?;
        let written = self.writer.write(change).await;
        written.map_err(|source| self.failed(source))?;
        self.records().remove(id);
        Ok(())
    }

    async fn permissions(&self, volume: &VolumeId) -> Result<Option<SetPermissions>, JournalError> {
        Ok(self.set().get(volume).cloned())
    }

    async fn set_permissions(
        &self,
        volume: &VolumeId,
        set: Option<&SetPermissions>,
    ) -> Result<(), JournalError> {
        let change = self.change(Table::Permissions, volume.as_str(), set)?;
        let written = self.writer.write(change).await;
        written.map_err(|source| self.failed(source))?;
        match set {
            Some(set) => self.set().insert(volume.clone(), set.clone()),
            None => self.set().remove(volume),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests;
