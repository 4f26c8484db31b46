//! The journal in a redb file: records, and the permissions set here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use nix::sys::statvfs::statvfs;
use tokio::sync::watch;

use super::contents::{Change, Kept};
use super::file;
use super::store::{Shared, Store, lock};
use super::writer::{Cause, JournalFigures, Writer};
use super::{Condition, Journal, JournalError, Key, Loss, Record, Room, Unreadable};
use crate::model::{AttachmentId, SetPermissions, VolumeId};

/// A [`Journal`] in one file, which one process at a time may open.
pub struct RedbJournal {
    writer: Writer,
    path: PathBuf,
    contents: Shared,
}

impl RedbJournal {
    /// Opens the file, or makes it (mode 0600 is the state directory's business).
    ///
    /// A record that cannot be read, as of a later build, is kept as it is and refused to whoever asks for it. A file that is damaged is
    /// kept under another name, and [`Journal::loss`] has it; `existed`: the host had a journal before, and an absent file is a loss too.
    ///
    /// # Errors
    /// The file cannot be made or read, is of a later build, or is open in another process.
    pub fn open(path: &Path, existed: bool) -> Result<Self, JournalError> {
        let failed = |source| JournalError {
            action: "open",
            path: path.to_owned(),
            source,
        };
        let store = Store::open(path, existed).map_err(failed)?;
        let contents = store.contents().clone();
        {
            let contents = lock(&contents);
            if let Some(Loss { why, kept, .. }) = &contents.loss {
                tracing::error!(
                    why,
                    ?kept,
                    "the journal was lost: attachments made before have no record (docs/decisions/018-a-lost-journal.md)"
                );
            }
            for (attachment, kept) in &contents.unreadable {
                tracing::error!(%attachment, why = kept.why, "a record cannot be read: it is kept as it is");
            }
            for (volume, kept) in &contents.unreadable_permissions {
                tracing::error!(%volume, why = kept.why, "permissions cannot be read: they are kept as they are");
            }
        }
        let writer = Writer::start(store);
        Ok(Self {
            writer: writer.map_err(|error| failed(error.into()))?,
            path: path.to_owned(),
            contents,
        })
    }

    /// Why the last write failed; `None`: it did not. Tried again each second until one succeeds.
    #[must_use]
    pub fn failing(&self) -> watch::Receiver<Option<String>> {
        self.writer.failing()
    }

    /// What the journal counts.
    #[must_use]
    pub fn figures(&self) -> Arc<JournalFigures> {
        self.writer.figures()
    }

    fn failed(&self, action: &'static str, source: Cause) -> JournalError {
        JournalError {
            action,
            path: self.path.clone(),
            source,
        }
    }

    fn cannot_read(&self, key: &str, kept: &Kept) -> JournalError {
        let why = format!("the entry of {key} cannot be read: {}", kept.why);
        self.failed("read", why.into())
    }

    async fn write(&self, change: Change) -> Result<(), JournalError> {
        let written = self.writer.write(change).await;
        written.map_err(|source| self.failed("write", source))
    }
}

#[async_trait]
impl Journal for RedbJournal {
    async fn get(&self, id: &AttachmentId) -> Result<Option<Record>, JournalError> {
        let contents = lock(&self.contents);
        match contents.unreadable.get(id) {
            Some(kept) => Err(self.cannot_read(id.as_str(), kept)),
            None => Ok(contents
                .records
                .get(id)
                .map(|record| record.as_ref().clone())),
        }
    }

    async fn unreadable(&self) -> Result<Vec<Unreadable>, JournalError> {
        let contents = lock(&self.contents);
        let unreadable = contents.unreadable.iter();
        Ok(unreadable.map(|(id, kept)| kept.as_record(id)).collect())
    }

    async fn of(&self, key: Key<'_>) -> Result<Vec<Arc<Record>>, JournalError> {
        Ok(lock(&self.contents).records.of(key).cloned().collect())
    }

    async fn any(
        &self,
        key: Key<'_>,
        wanted: &(dyn for<'r> Fn(&'r Record) -> bool + Sync),
    ) -> Result<bool, JournalError> {
        let contents = lock(&self.contents);
        Ok(contents.records.of(key).any(|record| wanted(record)))
    }

    async fn after(
        &self,
        id: Option<&AttachmentId>,
        limit: usize,
    ) -> Result<Vec<Arc<Record>>, JournalError> {
        let contents = lock(&self.contents);
        Ok(contents.records.after(id).take(limit).cloned().collect())
    }

    async fn put(&self, record: &Record) -> Result<(), JournalError> {
        let change = Change::Record(record.id.clone(), Some(Arc::new(record.clone())));
        self.write(change).await
    }

    async fn put_soon(&self, record: &Record) -> Result<(), JournalError> {
        let change = Change::Record(record.id.clone(), Some(Arc::new(record.clone())));
        lock(&self.contents).apply(change.clone());
        self.writer.write_soon(change);
        Ok(())
    }

    async fn remove(&self, id: &AttachmentId) -> Result<(), JournalError> {
        self.write(Change::Record(id.clone(), None)).await
    }

    async fn set_aside(&self, id: &AttachmentId) -> Result<PathBuf, JournalError> {
        let bytes = {
            let contents = lock(&self.contents);
            let kept = contents.unreadable.get(id);
            kept.map(|kept| kept.bytes().to_owned())
        };
        let Some(bytes) = bytes else {
            let why = format!("the entry of {id} can be read, or is not there");
            return Err(self.failed("write", why.into()));
        };
        let (path, name) = (self.path.clone(), id.to_string());
        // Kept before the entry goes.
        let kept = tokio::task::spawn_blocking(move || file::keep(&path, &name, &bytes)).await;
        let kept = kept.map_err(|error| self.failed("write", error.into()))?;
        let kept = kept.map_err(|error| self.failed("write", error.into()))?;
        self.write(Change::Record(id.clone(), None)).await?;
        Ok(kept)
    }

    async fn permissions(&self, volume: &VolumeId) -> Result<Option<SetPermissions>, JournalError> {
        let contents = lock(&self.contents);
        match contents.unreadable_permissions.get(volume) {
            Some(kept) => Err(self.cannot_read(volume.as_str(), kept)),
            None => Ok(contents.permissions.get(volume).cloned()),
        }
    }

    async fn set_permissions(
        &self,
        volume: &VolumeId,
        set: Option<&SetPermissions>,
    ) -> Result<(), JournalError> {
        let set = set.cloned().map(Box::new);
        self.write(Change::Permissions(volume.clone(), set)).await
    }

    async fn loss(&self) -> Result<Option<Loss>, JournalError> {
        Ok(lock(&self.contents).loss.clone())
    }

    async fn forget_loss(&self) -> Result<(), JournalError> {
        self.write(Change::NoLoss).await
    }

    async fn condition(&self) -> Condition {
        let directory = self.path.parent().unwrap_or(Path::new("/")).to_owned();
        // A disk that hangs must not stop other calls.
        let room = tokio::task::spawn_blocking(move || room(directory)).await;
        let contents = lock(&self.contents);
        let unreadable = contents.unreadable_permissions.iter();
        Condition {
            write_failure: self.failing().borrow().clone(),
            unreadable_permissions: unreadable
                .map(|(volume, kept)| (volume.clone(), kept.why.clone()))
                .collect(),
            room: room.unwrap_or_else(|error| Err(error.to_string())),
        }
    }
}

/// Reads the room on the file system of a directory.
fn room(directory: PathBuf) -> Result<Room, String> {
    match statvfs(&directory) {
        Ok(found) => Ok(Room {
            free: found.blocks_available() * found.fragment_size(),
            size: found.blocks() * found.fragment_size(),
            directory,
        }),
        Err(error) => Err(format!("cannot look at {}: {error}", directory.display())),
    }
}

#[cfg(test)]
pub(super) mod tests;
