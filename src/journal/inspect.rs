//! Reads a journal's file without a daemon, and never writes to it: what redb would write goes to a copy in memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ::redb::backends::InMemoryBackend;
use ::redb::{DatabaseError, StorageBackend};
use serde_json::{Value, json};

use super::contents::{self, Contents};
use super::file::{self, Fault};
use super::format::VERSION;
use super::store::ABOUT;
use super::{JournalError, Loss, Record, Unreadable};

/// Everything in a journal's file, every page of which was checked.
#[derive(Debug)]
pub struct Inspection {
    contents: Contents,
    /// Format of the file.
    format: u32,
}

impl Inspection {
    /// Reads the file.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, is of a later build, or a daemon has it open.
    pub fn read(path: &Path) -> Result<Self, JournalError> {
        file::guarded(|| read(path)).map_err(|fault| JournalError {
            action: "read",
            path: path.to_owned(),
            source: fault.into_cause(),
        })
    }

    /// The records, by id.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.contents.records.after(None).map(AsRef::as_ref)
    }

    /// The records that this build cannot read, by id.
    pub fn unreadable(&self) -> impl Iterator<Item = Unreadable> {
        let unreadable = self.contents.unreadable.iter();
        unreadable.map(|(id, kept)| kept.as_record(id))
    }

    /// The volumes whose permissions this build cannot read, and why.
    pub fn unreadable_permissions(&self) -> impl Iterator<Item = (&str, &str)> {
        let unreadable = self.contents.unreadable_permissions.iter();
        unreadable.map(|(volume, kept)| (volume.as_str(), kept.why.as_str()))
    }

    /// The loss of an earlier journal, if its attachments may still exist.
    #[must_use]
    pub fn loss(&self) -> Option<&Loss> {
        self.contents.loss.as_ref()
    }

    /// Everything, as one document.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let contents = &self.contents;
        let permissions: BTreeMap<_, _> = contents.permissions.iter().collect();
        let unreadable = |entries: &mut dyn Iterator<Item = (&str, Value)>| -> Vec<Value> {
            entries
                .map(|(key, kept)| json!({"key": key, "kept": kept}))
                .collect()
        };
        let mut records = contents
            .unreadable
            .iter()
            .map(|(id, kept)| (id.as_str(), kept.to_json()));
        let mut of_volumes = contents
            .unreadable_permissions
            .iter()
            .map(|(volume, kept)| (volume.as_str(), kept.to_json()));
        json!({
            "format": self.format,
            "version": VERSION,
            "loss": contents.loss,
            "records": self.records().collect::<Vec<_>>(),
            "permissions": permissions,
            "unreadable_records": unreadable(&mut records),
            "unreadable_permissions": unreadable(&mut of_volumes),
        })
    }
}

fn read(path: &Path) -> Result<Inspection, Fault> {
    file::refuse_newer(path)?;
    // Held while the file is copied. A damaged file may not open so, and the copy's check names the damage.
    let opened = file::guarded(|| Ok(file::builder().open_read_only(path)));
    if let Ok(Err(DatabaseError::DatabaseAlreadyOpen)) = opened {
        let why = "the daemon has it open: stop the daemon, or ask it by `volattach list`";
        return Err(Fault::Other(why.into()));
    }
    let bytes = fs::read(path)?;
    drop(opened);
    if bytes.is_empty() {
        return Err(Fault::Damaged("it is empty".to_owned()));
    }
    let memory = InMemoryBackend::new();
    memory.set_len(bytes.len() as u64)?;
    memory.write(0, &bytes)?;
    let database = file::builder().create_with_backend(memory)?;
    let transaction = database.begin_write()?;
    Ok(Inspection {
        contents: Contents::read(&transaction)?,
        format: contents::format(&transaction.open_table(ABOUT)?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::RedbJournal;

    #[tokio::test]
    async fn a_file_is_read_as_it_is_and_stays_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.redb");
        assert!(Inspection::read(&path).is_err());
        assert!(!path.exists());
        let old = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/journal-v1.redb");
        fs::copy(old, &path).unwrap();
        let before = fs::read(&path).unwrap();
        let inspection = Inspection::read(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), before);
        let read: Vec<_> = inspection.contents.records.after(None).cloned().collect();
        let document = inspection.to_json();
        assert_eq!(document["version"], 2);
        assert_eq!(document["records"].as_array().unwrap().len(), read.len());
        let journal = RedbJournal::open(&path, true).unwrap();
        let error = Inspection::read(&path).unwrap_err();
        assert!(error.source.to_string().contains("the daemon has it open"));
        assert_eq!(crate::journal::Journal::all(&journal).await.unwrap(), read);
        // Of a daemon that was killed: repaired in the copy alone.
        fs::copy(&path, dir.path().join("killed")).unwrap();
        let killed = Inspection::read(&dir.path().join("killed")).unwrap();
        assert_eq!(killed.records().count(), read.len());
        fs::write(dir.path().join("damaged"), &before[..before.len() / 2]).unwrap();
        let error = Inspection::read(&dir.path().join("damaged")).unwrap_err();
        assert!(error.source.to_string().contains("damaged"), "{error:?}");
    }
}
