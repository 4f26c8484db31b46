//! Journal against reality: at the start, when a disk goes, and from time to time.
//!
//! Invariants: what to do is decided by a pure function of one record and one look; a record that a call is working on
//! is left to that call; an act that fails is tried again the next time, so nothing is given up.
//!
//! An attach that a crash cut short is undone (its secrets are gone, and its caller got no answer), unless the domain
//! already has the disk: then nothing was missing but the last word in the journal. A detach that was cut short, or whose guest
//! had not let go, goes on.

use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tracing::Instrument;

use crate::attach::{Action, Engine, Error, Reality};
use crate::journal::{Direction, Progress, Record, Step};
use crate::model::{AttachmentId, Reason, State};

/// How often everything is looked at, whatever the events say.
const INTERVAL: Duration = Duration::from_secs(60);

/// Decides what to do about a record that no call is working on.
#[must_use]
pub fn decide(record: &Record, reality: Reality) -> Action {
    let told_lost = record
        .error
        .as_ref()
        .is_some_and(|error| error.reason == Reason::DiskLost);
    match (record.direction, record.state, reality) {
        (Direction::Backward, _, _) => Action::Undo,
        (Direction::Forward, State::Attached | State::Connected, Reality::Whole) => {
            if told_lost {
                Action::TellFound
            } else {
                Action::Nothing
            }
        }
        (Direction::Forward, State::Attached | State::Connected, Reality::Broken) => {
            if told_lost {
                Action::Nothing
            } else {
                Action::TellLost
            }
        }
        (Direction::Forward, _, Reality::Whole)
            if record.progress(Step::Attach) == Some(Progress::Intent) =>
        {
            Action::Complete
        }
        (Direction::Forward, _, _) => Action::Undo,
    }
}

/// Settles every record once.
pub async fn once(engine: &Engine) {
    match engine.ids().await {
        Ok(ids) => settle(engine, ids).await,
        Err(error) => tracing::error!(error = %error.chain(), "cannot reconcile"),
    }
}

/// Settles every record now and from time to time, and those that the hypervisor has news of at once. Ends when the engine
/// drains.
pub async fn run(engine: &Engine) {
    let mut events = engine.device_events();
    once(engine).await;
    loop {
        let news = tokio::select! {
            () = engine.stopping() => return,
            () = tokio::time::sleep(INTERVAL) => None,
            event = events.recv() => match event {
                Ok(gone) => Some(gone),
                // News was missed: look at everything.
                Err(RecvError::Lagged(_)) => None,
                Err(RecvError::Closed) => return,
            },
        };
        let ids = match &news {
            Some(gone) => engine.about(gone).await,
            None => engine.ids().await,
        };
        match ids {
            Ok(ids) => settle(engine, ids).await,
            Err(error) => tracing::error!(error = %error.chain(), "cannot reconcile"),
        }
    }
}

/// All at once: a record whose server is silent must not keep the others waiting.
async fn settle(engine: &Engine, ids: Vec<AttachmentId>) {
    let settled = ids.into_iter().map(|id| {
        let span = tracing::info_span!("reconcile", attachment = %id);
        settle_one(engine, id).instrument(span)
    });
    futures::future::join_all(settled).await;
}

async fn settle_one(engine: &Engine, id: AttachmentId) {
    match engine.settle(id, decide).await {
        Ok(Action::Nothing) | Err(Error::ShuttingDown) => {}
        Ok(action) => tracing::info!(?action, "reconciled"),
        Err(error) => {
            tracing::warn!(reason = %error.reason(), error = %error.chain(), "not yet");
        }
    }
}
