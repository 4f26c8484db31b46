//! The journal in a redb file: one table, records as JSON behind a version.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ::redb::{Database, ReadableTable, TableDefinition};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::writer::{Cause, Change, Writer};
use super::{Journal, JournalError, Record};
use crate::model::AttachmentId;

const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("attachments");

/// The version that this build writes. A record of another version is refused, not misread.
const VERSION: u32 = 1;

/// Bytes of cache: a record is about 1 KiB, and the default (1 GiB) suits no agent.
const CACHE: usize = 1 << 20;

#[derive(Serialize)]
struct Out<'a> {
    version: u32,
    record: &'a Record,
}

#[derive(Deserialize)]
struct VersionOf {
    version: u32,
}

#[derive(Deserialize)]
struct In {
    record: Record,
}

/// A [`Journal`] in one file, which one process at a time may open.
pub struct RedbJournal {
    writer: Writer,
    path: PathBuf,
    /// What is on disk, or will be: since nobody else writes there, reading needs no disk, and no thread to wait for it.
    records: Mutex<BTreeMap<AttachmentId, Record>>,
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
                let record = decode(entry?.1.value())?;
                records.insert(record.id.clone(), record);
            }
            // A new file has its table now.
            transaction.commit()?;
            let writer = Writer::start(move |changes| commit(&database, changes))?;
            Ok((writer, records))
        };
        let (writer, records) = open().map_err(|source| JournalError {
            action: "open",
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            writer,
            path: path.to_owned(),
            records: Mutex::new(records),
        })
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

    fn encode(&self, record: &Record) -> Result<Vec<u8>, JournalError> {
        let out = Out {
            version: VERSION,
            record,
        };
        serde_json::to_vec(&out).map_err(|error| self.failed(error.into()))
    }
}

/// Writes all the changes in one transaction. redb's default durability: on disk when commit returns.
fn commit(database: &Database, changes: &[Change]) -> Result<(), Cause> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(RECORDS)?;
        for Change { key, value } in changes {
            match value {
                Some(value) => table.insert(key.as_str(), value.as_slice())?,
                None => table.remove(key.as_str())?,
            };
        }
    }
    Ok(transaction.commit()?)
}

fn decode(bytes: &[u8]) -> Result<Record, Cause> {
    let VersionOf { version } = serde_json::from_slice(bytes)?;
    if version != VERSION {
        return Err(format!(
            "a record has version {version}, this build reads {VERSION}: run the build that wrote it, \
             detach its attachments, then upgrade"
        )
        .into());
    }
    Ok(serde_json::from_slice::<In>(bytes)?.record)
}

#[async_trait]
impl Journal for RedbJournal {
    async fn get(&self, id: &AttachmentId) -> Result<Option<Record>, JournalError> {
        Ok(self.records().get(id).cloned())
    }

    async fn all(&self) -> Result<Vec<Record>, JournalError> {
        Ok(self.records().values().cloned().collect())
    }

    async fn put(&self, record: &Record) -> Result<(), JournalError> {
        let change = Change {
            key: record.id.to_string(),
            value: Some(self.encode(record)?),
        };
        let written = self.writer.write(change).await;
        written.map_err(|source| self.failed(source))?;
        self.records().insert(record.id.clone(), record.clone());
        Ok(())
    }

    async fn put_soon(&self, record: &Record) -> Result<(), JournalError> {
        let change = Change {
            key: record.id.to_string(),
            value: Some(self.encode(record)?),
        };
        self.records().insert(record.id.clone(), record.clone());
        self.writer.write_soon(change);
        Ok(())
    }

    async fn remove(&self, id: &AttachmentId) -> Result<(), JournalError> {
        let change = Change {
            key: id.to_string(),
            value: None,
        };
        let written = self.writer.write(change).await;
        written.map_err(|source| self.failed(source))?;
        self.records().remove(id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::journal::{Direction, Progress, Step, StepRecord};
    use crate::model::{
        Access, AccessDecision, Dialect, DiskPlan, HostPlan, ImageFormat, Scope, SourceKind, State,
    };

    fn record(id: &str) -> Record {
        Record {
            id: id.parse().unwrap(),
            fingerprint: "f".into(),
            volume: "v".parse().unwrap(),
            shareable: false,
            domain: None,
            access: AccessDecision::from_sources(vec![]),
            host: HostPlan {
                protocol: "local".into(),
                shared: None,
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
            key: "x".into(),
            value: Some(br#"{"version":2}"#.into()),
        };
        commit(&database, &[other]).unwrap();
        drop(database);
        let error = RedbJournal::open(&path).err().unwrap();
        assert!(
            error.source.to_string().contains("version 2"),
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
