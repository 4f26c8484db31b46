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

/// The version that this build writes. One of version 1 is rewritten when it is read; of another it is refused, not misread.
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
                let set = decode(set.value(), |_| {})?; // as it was
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

/// Reads an attachment's record.
pub(super) fn decode_record(bytes: &[u8]) -> Result<Record, Cause> {
    decode(bytes, upgrade::from_1)
}

/// `from_1`: makes of a value of version 1 one of this version.
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
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::journal::{Direction, Progress, Step, StepRecord};
    use crate::model::{
        Access, AccessDecision, AccessSource, Class, Dialect, DiskPlan, Holder, HostPlan,
        ImageFormat, Scope, SourceKind, State, VolumeOwner, VolumeRights,
    };

    fn record(id: &str) -> Record {
        Record {
            id: id.parse().unwrap(),
            fingerprint: "f".into(),
            volume: "v".parse().unwrap(),
            shareable: false,
            domain: None,
            access: AccessDecision::from_sources(vec![]),
            rights: VolumeRights::default(),
            holder: None,
            host: HostPlan {
                protected: false,
                keeps_owner: false,
                protocol: "local".into(),
                claims: Vec::new(),
                mount: None,
                target: None,
                path: "/r/v".into(),
                root: "/r".into(),
                kind: SourceKind::File,
                format: ImageFormat::Raw,
                access: Access::ReadWrite,
            },
            disk: DiskPlan {
                dialect: Dialect::Qemu,
                left_out: Vec::new(),
                alias: "ua-v".into(),
                source: "/r/v".into(),
                sequence: None,
                target: "vda".into(),
                xml: "<disk/>".into(),
                scope: Scope::Live,
            },
            steps: vec![StepRecord {
                step: Step::Connect,
                progress: Progress::Intent,
            }],
            direction: Direction::Forward,
            state: State::Connecting,
            error: None,
            unplug_requested: None,
            force: false,
            created: SystemTime::UNIX_EPOCH,
            updated: SystemTime::UNIX_EPOCH,
        }
    }

    #[tokio::test]
    async fn records_outlive_the_process_and_come_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.redb");
        let journal = RedbJournal::open(&path).unwrap();
        for id in ["b", "a", "c"] {
            journal.put(&record(id)).await.unwrap();
        }
        journal.remove(&"c".parse().unwrap()).await.unwrap();
        drop(journal);
        let journal = RedbJournal::open(&path).unwrap();
        assert_eq!(journal.all().await.unwrap(), [record("a"), record("b")]);
        assert_eq!(
            journal.get(&"a".parse().unwrap()).await.unwrap(),
            Some(record("a"))
        );
        assert_eq!(journal.get(&"c".parse().unwrap()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn permissions_outlive_the_process_and_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.redb");
        let journal = RedbJournal::open(&path).unwrap();
        let set = |permissions: &str| SetPermissions {
            permissions: permissions.parse().unwrap(),
            owner: VolumeOwner {
                user_id: Some("alice".into()),
                ..VolumeOwner::default()
            },
            by: Holder {
                user_id: "alice".into(),
                project_id: "p".into(),
            },
            at: SystemTime::UNIX_EPOCH,
        };
        let [v1, v2] = ["v1", "v2"].map(|id| id.parse().unwrap());
        for (volume, permissions) in [(&v1, "600"), (&v2, "640"), (&v1, "440")] {
            let set = set(permissions);
            journal.set_permissions(volume, Some(&set)).await.unwrap();
        }
        journal.set_permissions(&v2, None).await.unwrap();
        journal.put(&record("v1")).await.unwrap();
        drop(journal);
        let journal = RedbJournal::open(&path).unwrap();
        assert_eq!(journal.permissions(&v1).await.unwrap(), Some(set("440")));
        assert_eq!(journal.permissions(&v2).await.unwrap(), None);
        assert_eq!(journal.all().await.unwrap(), [record("v1")]);
    }

    /// What version 0.1 wrote before it knew of holders and permissions.
    #[test]
    fn a_record_without_holder_and_permissions_is_read() {
        let before = br#"{"version":1,"record":{"id":"a","fingerprint":"f","volume":"v","shareable":false,"domain":null,
            "access":{"access":"rw","read_only_by":[]},"host":{"protocol":"local","shared":null,"mount":null,"target":null,
            "path":"/r/v","root":"/r","kind":"file","format":"raw","access":"rw"},"disk":{"alias":"ua-v","target":"vda",
            "xml":"<disk/>","scope":"live","dialect":"qemu","left_out":[]},"steps":[{"step":"connect","progress":"intent"}],
            "direction":"forward","state":"connecting","error":null,"unplug_requested":null,
            "created":{"secs_since_epoch":0,"nanos_since_epoch":0},"updated":{"secs_since_epoch":0,"nanos_since_epoch":0}}}"#;
        let mut expected = record("a");
        expected.disk.source = "/r/v".into();
        assert_eq!(decode_record(before).unwrap(), expected);
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let mut record = record("a");
        record.access = AccessDecision::from_sources(vec![
            AccessSource::Request,
            AccessSource::Attached {
                user: "bob".to_owned(),
            },
            AccessSource::Permissions {
                permissions: "440".parse().unwrap(),
                class: Class::Group,
            },
        ]);
        record.rights.permissions = "440".parse().ok();
        record.holder = Some(Holder::default());
        let out = Out {
            version: VERSION,
            record: &record,
        };
        let bytes = serde_json::to_vec(&out).unwrap();
        assert_eq!(decode_record(&bytes).unwrap(), record);
    }

    #[tokio::test]
    async fn what_is_written_soon_is_read_at_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.redb");
        let journal = RedbJournal::open(&path).unwrap();
        journal.put_soon(&record("a")).await.unwrap();
        let read = journal.get(&"a".parse().unwrap()).await.unwrap();
        assert_eq!(read, Some(record("a")));
        drop(journal);
        let journal = RedbJournal::open(&path).unwrap();
        assert_eq!(journal.all().await.unwrap(), [record("a")]);
    }

    #[tokio::test]
    async fn a_second_process_and_another_version_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.redb");
        let journal = RedbJournal::open(&path).unwrap();
        assert_eq!(RedbJournal::open(&path).err().unwrap().action, "open");
        drop(journal);
        let database = Database::create(&path).unwrap();
        let other = Change {
            table: Table::Attachments,
            key: "x".into(),
            value: Some(br#"{"version":3}"#.into()),
        };
        commit(&database, &[other]).unwrap();
        drop(database);
        let error = RedbJournal::open(&path).err().unwrap();
        assert!(
            error.source.to_string().contains("version 3"),
            "{}",
            error.source
        );
    }

    #[test]
    fn a_file_that_is_no_journal_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.redb");
        std::fs::write(&path, "not a journal").unwrap();
        assert!(RedbJournal::open(&path).is_err());
    }
}
