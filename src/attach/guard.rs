//! Who is working on what: one call at a time on an attachment.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::model::AttachmentId;

/// The attachments that a call is working on.
#[derive(Debug, Clone, Default)]
pub(super) struct Busy(Arc<BusyIds>);

#[derive(Debug, Default)]
struct BusyIds {
    ids: Mutex<HashSet<AttachmentId>>,
    /// Notified when a call leaves its attachment.
    left: Notify,
}

/// Held while a call works on an attachment.
#[derive(Debug)]
pub(super) struct BusyGuard {
    busy: Busy,
    id: AttachmentId,
}

impl Busy {
    /// Takes the attachment, or `None` where another call has it.
    pub(super) fn enter(&self, id: &AttachmentId) -> Option<BusyGuard> {
        self.lock().insert(id.clone()).then(|| BusyGuard {
            busy: self.clone(),
            id: id.clone(),
        })
    }

    /// Waits until no call has the attachment.
    pub(super) async fn left(&self, id: &AttachmentId) {
        loop {
            let left = self.0.left.notified();
            tokio::pin!(left);
            // Registered before the look, so that no notification falls between.
            left.as_mut().enable();
            if !self.has(id) {
                return;
            }
            left.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<AttachmentId>> {
        self.0.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a call has the attachment.
    pub(super) fn has(&self, id: &AttachmentId) -> bool {
        self.lock().contains(id)
    }
}

impl Drop for BusyGuard {
    fn drop(&mut self) {
        self.busy.lock().remove(&self.id);
        self.busy.0.left.notify_waiters();
    }
}

/// The detaches that wait for their turns or for guests to release disks, by attachment.
#[derive(Debug, Default)]
pub(super) struct Waits(Mutex<HashMap<AttachmentId, CancellationToken>>);

/// One wait, which [`Waits::end`] may end while this lives.
#[derive(Debug)]
pub(super) struct Wait<'a> {
    waits: &'a Waits,
    id: &'a AttachmentId,
    ended: CancellationToken,
}

impl Waits {
    /// Registers a wait. The caller has the attachment, so it is the only one.
    pub(super) fn enter<'a>(&'a self, id: &'a AttachmentId) -> Wait<'a> {
        let ended = CancellationToken::new();
        self.lock().insert(id.clone(), ended.clone());
        Wait {
            waits: self,
            id,
            ended,
        }
    }

    /// Ends the wait of the attachment's detach; returns whether there was one.
    pub(super) fn end(&self, id: &AttachmentId) -> bool {
        let ended = self.lock().get(id).cloned();
        ended.inspect(CancellationToken::cancel).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AttachmentId, CancellationToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wait<'_> {
    /// Resolves when the wait is ended from outside.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.waits.lock().remove(self.id);
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
    async fn a_wait_is_ended_once_and_by_its_attachment() {
        let (waits, busy) = (Waits::default(), Busy::default());
        let id = "a".parse().unwrap();
        assert!(!waits.end(&id));
        let guard = busy.enter(&id).unwrap();
        let left = busy.left(&id);
        tokio::pin!(left);
        {
            let wait = waits.enter(&id);
            assert!(!waits.end(&"b".parse().unwrap()));
            assert!(futures::poll!(Box::pin(wait.ended())).is_pending());
            assert!(waits.end(&id));
            wait.ended().await;
        }
        assert!(!waits.end(&id));
        assert!(futures::poll!(&mut left).is_pending());
        drop(guard);
        left.await;
    }
}
