//! Keeps each identity to one volume, by the records in the journal.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::inner::Inner;
use crate::backend::{BackendError, Owners};
use crate::journal::{Key, Record};
use crate::model::Wwid;

/// Reserves an identity for a record's volume: nobody else gets it while this lives, so keep this until the record has the identity.
pub(super) struct Taking<'a> {
    inner: &'a Inner,
    record: &'a Record,
    /// The reserved identity and its lock.
    taken: Mutex<Option<(Wwid, OwnedMutexGuard<()>)>>,
}

impl<'a> Taking<'a> {
    pub(super) fn new(inner: &'a Inner, record: &'a Record) -> Self {
        Self {
            inner,
            record,
            taken: Mutex::default(),
        }
    }

    /// Returns the lock of the reserved identity, if any.
    pub(super) fn into_lock(self) -> Option<OwnedMutexGuard<()>> {
        self.taken.into_inner().map(|(_, lock)| lock)
    }
}

#[async_trait]
impl Owners for Taking<'_> {
    async fn take(&self, identity: &Wwid, device: String) -> Result<(), BackendError> {
        let mut taken = self.taken.lock().await;
        // Every path of a volume asks. The backend refuses a path with another identity; waiting for a second lock here could make two
        // connects wait for each other.
        if taken.is_some() {
            return Ok(());
        }
        let lock = self.inner.identities.lock(identity.clone()).await;
        let has =
            |other: &&Arc<Record>| other.volume != self.record.volume && other.uses_connection();
        let others = self.inner.parts.journal.of(Key::Identity(identity)).await;
        let others = others.map_err(|error| BackendError::Host {
            action: format!("look who has the identity {identity}"),
            source: error.into(),
        })?;
        if let Some(other) = others.iter().find(has) {
            return Err(BackendError::DeviceIdentity {
                volume: device,
                why: format!(
                    "it tells the identity {identity}, as does volume {}, which is attached on this host as {}: the two would be \
                     taken for one; have the storage give each volume an identity of its own",
                    other.volume, other.id
                ),
            });
        }
        *taken = Some((identity.clone(), lock));
        Ok(())
    }
}
