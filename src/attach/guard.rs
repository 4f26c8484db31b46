//! Who is working on what: one call at a time on an attachment, one at a time on whatever attachments share.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::model::AttachmentId;

/// The attachments that a call is working on.
#[derive(Debug, Clone, Default)]
pub(super) struct Busy(Arc<Mutex<HashSet<AttachmentId>>>);

/// Held while a call works on an attachment.
#[derive(Debug)]
pub(super) struct BusyGuard {
    busy: Busy,
    id: AttachmentId,
}

impl Busy {
    /// Takes the attachment, or `None` where another call has it.
    pub(super) fn enter(&self, id: &AttachmentId) -> Option<BusyGuard> {
        let mut ids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ids.insert(id.clone()).then(|| BusyGuard {
            busy: self.clone(),
            id: id.clone(),
        })
    }

    /// Whether a call has the attachment.
    pub(super) fn has(&self, id: &AttachmentId) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(id)
    }
}

impl Drop for BusyGuard {
    fn drop(&mut self) {
        self.busy
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.id);
    }
}

/// A lock per key, made when first wanted and forgotten when nobody holds it.
#[derive(Debug)]
pub(super) struct Locks<K>(Mutex<HashMap<K, Weak<AsyncMutex<()>>>>);

impl<K> Default for Locks<K> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<K: Hash + Eq> Locks<K> {
    /// Waits for the key's lock.
    pub(super) async fn lock(&self, key: K) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| lock.strong_count() > 0);
            if let Some(lock) = locks.get(&key).and_then(Weak::upgrade) {
                lock
            } else {
                let lock = Arc::new(AsyncMutex::new(()));
                locks.insert(key, Arc::downgrade(&lock));
                lock
            }
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_call_at_a_time_on_an_attachment() {
        let busy = Busy::default();
        let id = "a".parse().unwrap();
        let guard = busy.enter(&id).unwrap();
        assert!(busy.enter(&id).is_none() && busy.has(&id));
        assert!(busy.enter(&"b".parse().unwrap()).is_some());
        drop(guard);
        assert!(!busy.has(&id) && busy.enter(&id).is_some());
    }

    #[tokio::test]
    async fn a_key_is_held_by_one_and_forgotten_by_the_last() {
        let locks = Locks::default();
        let held = locks.lock("a").await;
        drop(locks.lock("b").await);
        let waiting = locks.lock("a");
        tokio::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(held);
        drop(waiting.await);
        drop(locks.lock("c").await);
        let left = locks.0.lock().unwrap().len();
        assert_eq!(left, 1, "only the last key asked for is remembered");
    }
}
