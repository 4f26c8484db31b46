//! Journal against reality: at the start, when a disk goes, and from time to time.
//!
//! Invariants: what to do is decided by a pure function of one record and one look; a record that a call is working on
//! is left to that call; an act that fails is tried again the next time, so nothing is given up.
//!
//! An attach that a crash cut short is undone (its secrets are gone, and its caller got no answer), unless the domain
//! already has the disk: then nothing was missing but the last word in the journal. A detach that was cut short, or whose guest
//! had not let go, goes on. One that was refused or cancelled is over: its attachment is `Attached`.

use std::collections::HashSet;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::MissedTickBehavior;
use tracing::Instrument;

use crate::attach::{Action, Engine, Error, Reality};
use crate::journal::{Direction, Progress, Record, Step};
use crate::model::{AttachmentId, Reason, State};

/// How often everything is looked at, whatever the events say.
const INTERVAL: Duration = Duration::from_secs(60);

/// How often guests are looked for that are to be asked again to release a disk.
const ASK: Duration = Duration::from_secs(5);

/// How often a record that a call is working on is looked at again before it is left to that call, and how soon.
const BUSY_LOOKS: usize = 10;
const BUSY: Duration = Duration::from_millis(500);

/// Decides what to do about a record that no call is working on.
#[must_use]
pub fn decide(record: &Record, reality: Reality) -> Action {
    let course = &record.course;
    let told_lost = course
        .error()
        .is_some_and(|error| error.reason == Reason::DiskLost);
    match (course.direction(), course.state(), reality) {
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
        Ok(ids) => {
            let settled = ids.into_iter().map(|id| settle(engine, id));
            futures::future::join_all(settled).await;
        }
        Err(error) => tracing::error!(error = %error.chain(), "cannot reconcile"),
    }
}

/// Settles every record now and from time to time, and those that the hypervisor has news of at once. Ends when the engine
/// drains.
///
/// Records are settled beside each other and beside the loop: one whose server or guest is silent keeps neither the
/// others waiting nor the news of them.
pub async fn run(engine: &Engine) {
    let mut events = engine.device_events();
    let mut looks = tokio::time::interval(INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asks = tokio::time::interval(ASK);
    asks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut settling = FuturesUnordered::new();
    let mut under_way = HashSet::new();
    // Those that there was news of while they were settled: what was seen of them may be older.
    let mut again = HashSet::new();
    let mut orphans = Vec::new();
    let mut reviews = tokio::time::interval(INTERVAL);
    reviews.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let reviewing = async {
        loop {
            reviews.tick().await;
            if let Err(error) = engine.review_loss(&mut orphans).await {
                let error = error.chain();
                tracing::error!(
                    error,
                    "cannot tell what a lost journal has left: trying again"
                );
            }
        }
    };
    tokio::pin!(reviewing);
    loop {
        let (ids, news) = tokio::select! {
            () = &mut reviewing => return,
            () = engine.stopping() => return,
            _ = looks.tick() => (engine.ids().await, false),
            _ = asks.tick() => (Ok(engine.due_unplugs()), false),
            event = events.recv() => match event {
                Ok(gone) => (engine.about(&gone).await, true),
                // News was missed: look at everything.
                Err(RecvError::Lagged(_)) => (engine.ids().await, true),
                Err(RecvError::Closed) => return,
            },
            Some(id) = settling.next() => {
                under_way.remove(&id);
                (Ok(again.take(&id).into_iter().collect()), true)
            }
        };
        let ids = ids.unwrap_or_else(|error| {
            tracing::error!(error = %error.chain(), "cannot reconcile");
            Vec::new()
        });
        for id in ids {
            if under_way.insert(id.clone()) {
                settling.push(settle(engine, id));
            } else if news {
                again.insert(id);
            }
        }
    }
}

/// Settles one record, and gives its id back.
async fn settle(engine: &Engine, id: AttachmentId) -> AttachmentId {
    let span = tracing::info_span!("reconcile", attachment = %id);
    let mut looks = 1;
    let settled = loop {
        let settled = engine.settle(id.clone(), decide).instrument(span.clone());
        match settled.await {
            // A caller who asks again and again after a crash is turned away each time, and must not keep this away.
            Err(Error::InProgress { .. }) if looks < BUSY_LOOKS => looks += 1,
            settled => break settled,
        }
        tokio::time::sleep(BUSY).await;
    };
    span.in_scope(|| match settled {
        Ok(Action::Nothing) | Err(Error::ShuttingDown | Error::InProgress { .. }) => {}
        Ok(action) => tracing::info!(?action, "reconciled"),
        Err(error) => {
            tracing::warn!(reason = %error.reason(), error = %error.chain(), "not yet");
        }
    });
    id
}
