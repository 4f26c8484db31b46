//! The durable record of every attachment: what was asked, what was decided, how far it came; and of the permissions that
//! were set on this host.
//!
//! Invariants: a record is on disk before [`Journal::put`] returns; a step's intent is put before the step runs, its
//! outcome after; [`Journal::put_soon`] is for what a crash may take back because reality tells it again; no secret is
//! ever in a record (the request is remembered by a keyed hash); records carry a version.

mod contents;
mod file;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod index;
mod inspect;
mod recent;
mod record;
mod redb;
mod store;
mod transition;
mod upgrade;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use index::Key;
pub use inspect::Inspection;
pub use record::{Course, Direction, Kind, Progress, Record, Step, StepRecord};
pub use redb::RedbJournal;
pub use writer::JournalFigures;

use crate::model::{AttachmentId, Claim, Reason, SetPermissions, VolumeId};

/// A durable map of records by attachment id.
#[async_trait]
pub trait Journal: Send + Sync {
    /// The record of that id.
    async fn get(&self, id: &AttachmentId) -> Result<Option<Record>, JournalError>;
    /// The records with that key, in the order in which they came. Takes as long as there are such records.
    async fn of(&self, key: Key<'_>) -> Result<Vec<Arc<Record>>, JournalError>;
    /// Whether a record with that key is `wanted`. Takes as long as it takes to find one.
    async fn any(
        &self,
        key: Key<'_>,
        wanted: &(dyn for<'r> Fn(&'r Record) -> bool + Sync),
    ) -> Result<bool, JournalError>;
    /// At most `limit` records after that id (`None`: from the first), ordered by id.
    async fn after(
        &self,
        id: Option<&AttachmentId>,
        limit: usize,
    ) -> Result<Vec<Arc<Record>>, JournalError>;
    /// The records that this build cannot read, ordered by id: kept as they are, and in no other answer.
    async fn unreadable(&self) -> Result<Vec<Unreadable>, JournalError>;
    /// Every record, ordered by id.
    async fn all(&self) -> Result<Vec<Arc<Record>>, JournalError> {
        self.after(None, usize::MAX).await
    }
    /// Writes a record; when this returns, it is on disk.
    async fn put(&self, record: &Record) -> Result<(), JournalError>;
    /// Writes a record without waiting for the disk: every read shows it when this returns, and it is on disk with the
    /// next [`Self::put`] or [`Self::remove`] of any record, or moments later.
    async fn put_soon(&self, record: &Record) -> Result<(), JournalError>;
    /// Removes a record; an absent one is success.
    async fn remove(&self, id: &AttachmentId) -> Result<(), JournalError>;
    /// Removes a record that this build cannot read, and keeps it in a file beside the journal, whose path it returns.
    async fn set_aside(&self, id: &AttachmentId) -> Result<PathBuf, JournalError>;
    /// The permissions that were set here for a volume.
    async fn permissions(&self, volume: &VolumeId) -> Result<Option<SetPermissions>, JournalError>;
    /// Writes a volume's permissions, or (`None`) forgets them; when this returns, it is on disk.
    async fn set_permissions(
        &self,
        volume: &VolumeId,
        set: Option<&SetPermissions>,
    ) -> Result<(), JournalError>;
    /// The loss of an earlier journal, until it is forgotten.
    async fn loss(&self) -> Result<Option<Loss>, JournalError>;
    /// Forgets the loss: nothing is left of what the lost journal had.
    async fn forget_loss(&self) -> Result<(), JournalError>;
    /// Condition of the journal's storage, as it is now.
    async fn condition(&self) -> Condition;
}

/// Condition of a journal's storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Why the last write failed. `None`: it succeeded.
    pub write_failure: Option<String>,
    /// Volumes whose permissions this build cannot read, with the cause.
    pub unreadable_permissions: Vec<(VolumeId, String)>,
    /// Room on the file system, or why it is not known.
    pub room: Result<Room, String>,
}

/// Room on the file system of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// The directory.
    pub directory: PathBuf,
    /// Free bytes.
    pub free: u64,
    /// Size of the file system, in bytes.
    pub size: u64,
}

/// Loss of an earlier journal: attachments may exist that no record has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// When it was noticed.
    pub at: SystemTime,
    /// Why the earlier file could not be used.
    pub why: String,
    /// The earlier file. `None`: it is missing.
    pub kept: Option<PathBuf>,
}

/// A record that this build cannot read, such as one of a later build, and how it concerns others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Id of the attachment.
    pub id: AttachmentId,
    /// Volume, if it can be made out.
    pub volume: Option<VolumeId>,
    /// Claims, as far as they can be made out: the attachment holds them.
    pub claims: Vec<Claim>,
    /// Why the record cannot be read.
    pub why: String,
}

/// Why the journal failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the journal {path:?}")]
pub struct JournalError {
    /// What was tried: `open`, `read`, `write`.
    pub action: &'static str,
    /// The journal's file.
    pub path: std::path::PathBuf,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl JournalError {
    /// Always [`Reason::JournalFailed`].
    #[must_use]
    pub fn reason(&self) -> Reason {
        Reason::JournalFailed
    }
}
