//! Turns at libvirt: what no caller waits for holds a third of them at most, so that callers never queue behind it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::figures::Level;

tokio::task_local! {
    /// Set while a future runs for which no caller waits.
    static IN_BACKGROUND: ();
}

/// Runs a future for which no caller waits: its calls to the hypervisor leave most turns to those of callers. Tasks that the future spawns
/// are not covered.
pub async fn in_background<F: Future>(work: F) -> F::Output {
    IN_BACKGROUND.scope((), work).await
}

/// Whether this is called within a future for which no caller waits.
#[must_use]
pub fn is_in_background() -> bool {
    IN_BACKGROUND.try_with(|()| ()).is_ok()
}

/// Calls that may run at a time.
pub(super) struct Turns {
    all: Arc<Semaphore>,
    background: Arc<Semaphore>,
    waiting: Level,
}

/// A call's turn, until the drop.
pub(super) struct Turn {
    _all: Option<OwnedSemaphorePermit>,
    _background: Option<OwnedSemaphorePermit>,
}

impl Turns {
    pub(super) fn new(all: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(all)),
            background: Arc::new(Semaphore::new((all / 3).max(1))),
            waiting: Level::default(),
        }
    }

    /// Calls that wait for a turn.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting.get()
    }

    /// Waits for a turn. The semaphores are never closed.
    pub(super) async fn take(&self) -> Turn {
        let _waiting = self.waiting.enter();
        let background = match is_in_background() {
            true => Arc::clone(&self.background).acquire_owned().await.ok(),
            false => None,
        };
        Turn {
            _all: Arc::clone(&self.all).acquire_owned().await.ok(),
            _background: background,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn callers_have_their_turns_while_the_background_waits_for_its_own() {
        let turns = Turns::new(12);
        let background = || in_background(turns.take());
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(background().now_or_never().unwrap());
        }
        let mut waiting = Box::pin(background());
        assert!(futures::poll!(&mut waiting).is_pending());
        assert_eq!(turns.waiting(), 1);
        for _ in 0..8 {
            held.push(turns.take().now_or_never().unwrap());
        }
        assert!(turns.take().now_or_never().is_none(), "all are taken");
        held.clear();
        waiting.await;
        assert_eq!(turns.waiting(), 0);
    }
}
