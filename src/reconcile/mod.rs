//! Journal against reality: at the start, when a disk goes, and from time to time.
//!
//! Invariants: what to do is decided by a pure function of one record and one look; a record that a call is working on
//! is left to that call; an act that fails is tried again, after pauses that grow to eight rounds, so nothing is given up.
//!
//! A round looks once at the host's state and once at each domain, at most eight at a time, and libvirt leaves most of its turns to callers
//! ([`crate::libvirt::in_background`]). The look only chooses the records to settle: each of those is looked at anew before anything is done.
//!
//! An attach that a crash cut short is undone (its secrets are gone, and its caller got no answer), unless the domain
//! already has the disk: then nothing was missing but the last word in the journal. A detach that was cut short, or whose guest
//! had not let go, goes on. One that was refused or cancelled is over: its attachment is `Attached`.

mod turns;

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::task::consume_budget;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::Instrument;

use crate::attach::{Action, Engine, Error, Looked, Observed, Reality, reports_stop, told_loss};
use crate::journal::{Direction, Progress, Record, Step};
use crate::libvirt::DomainEvent;
use crate::model::{AttachmentId, Reason, State};
use turns::Turns;

/// How often everything is looked at, whatever the events say.
const INTERVAL: Duration = Duration::from_secs(60);

/// How often guests are looked for that are to be asked again to release a disk.
const ASK: Duration = Duration::from_secs(5);

/// Records that are taken off a round at a time.
const ENDED: usize = 4096;

/// How often a record that a call is working on is looked at again before it is left to that call, and how soon.
const BUSY_LOOKS: usize = 10;
const BUSY: Duration = Duration::from_millis(500);

/// Decides what to do about a record that no call is working on.
#[must_use]
pub fn decide(record: &Record, seen: &Observed) -> Action {
    let course = &record.course;
    let loss = match seen.reality {
        Reality::Whole | Reality::Degraded => None,
        Reality::Broken => Some(Reason::DiskLost),
        Reality::Gone => Some(Reason::DomainGone),
    };
    match (course.direction(), course.state(), seen.reality) {
        (Direction::Backward, _, _) => Action::Undo,
        (Direction::Forward, State::Attached | State::Connected, _) => {
            if loss.is_some() {
                match told_loss(record) == loss {
                    true => keep_up(record, seen),
                    false => Action::TellLost,
                }
            } else if seen.io_stopped && record.course.error().is_none() {
                Action::ReportStopped
            } else if told_loss(record).is_some() || reports_stop(record) && !seen.io_stopped {
                Action::TellFound
            } else {
                keep_up(record, seen)
            }
        }
        (Direction::Forward, _, Reality::Whole | Reality::Degraded)
            if record.progress(Step::Attach) == Some(Progress::Intent) =>
        {
            Action::Complete
        }
        (Direction::Forward, _, _) => Action::Undo,
    }
}

/// Decides what to do about a record that is as it tells: its domain may have another name, its volume lack paths.
fn keep_up(record: &Record, seen: &Observed) -> Action {
    match (&record.domain, &seen.name, seen.reality) {
        (Some(domain), Some(name), _) if domain.name != *name => Action::Rename,
        (_, _, Reality::Degraded) => Action::Repair,
        _ => Action::Nothing,
    }
}

/// Settles every record once.
pub async fn once(engine: &Engine) {
    engine.figures().rounds.add();
    let ids = ids(engine.ids().await);
    round(engine, ids, |_, _| {}).await;
}

/// Settles every record now and from time to time, and at once those that the hypervisor has news of and those of a server whose quarantine
/// ends; asks quarantined servers for signs of life. Ends when the engine drains.
///
/// Records are settled beside each other and beside the loop: one whose server or guest is silent keeps neither the
/// others waiting nor the news of them.
pub async fn run(engine: &Engine) {
    let mut events = engine.domain_events();
    let mut clock = tokio::time::interval(INTERVAL);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asks = tokio::time::interval(ASK);
    asks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rounds = FuturesUnordered::new();
    let mut turns = Turns::default();
    let (done, mut ended) = mpsc::unbounded_channel();
    let mut just_ended = Vec::new();
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
    let probing = engine.keep_quarantine();
    tokio::pin!(probing);
    let resuming = engine.keep_resuming();
    tokio::pin!(resuming);
    let mut released = engine.released_servers();
    loop {
        let ids = tokio::select! {
            () = &mut reviewing => return,
            () = &mut probing => return,
            () = &mut resuming => return,
            () = engine.stopping() => return,
            _ = clock.tick() => {
                engine.figures().rounds.add();
                turns.next(ids(engine.ids().await))
            }
            _ = asks.tick() => turns.due(engine.due_unplugs()),
            event = events.recv() => match concerned(engine, &mut events, event).await {
                Some(ids) => turns.news(ids),
                None => return,
            },
            // Together: news of everything during a round is one more round, not a round for each record.
            _ = ended.recv_many(&mut just_ended, ENDED) => {
                let each = just_ended.drain(..);
                each.flat_map(|(id, settled)| turns.ended(id, settled)).collect()
            }
            server = released.recv() => match server {
                Ok(server) => turns.news(ids(engine.served_by(&server).await)),
                Err(RecvError::Lagged(_)) => turns.news(ids(engine.ids().await)),
                Err(RecvError::Closed) => return,
            },
            Some(()) = rounds.next() => continue,
        };
        if !ids.is_empty() {
            let done = done.clone();
            rounds.push(round(engine, ids, move |id, settled| {
                let _ = done.send((id, settled)); // the loop has ended otherwise
            }));
        }
    }
}

/// Returns the records that an event and those that came with it concern: a host that shuts all its domains off is one round, not a
/// round for each domain. `None`: no more events come.
async fn concerned(
    engine: &Engine,
    events: &mut Receiver<DomainEvent>,
    first: Result<DomainEvent, RecvError>,
) -> Option<Vec<AttachmentId>> {
    let mut concerned = BTreeSet::new();
    let mut next = first;
    // Not those that come meanwhile: news must not be put off for ever.
    for left in (0..=events.len()).rev() {
        match next {
            Ok(event) => concerned.extend(ids(engine.about(&event).await)),
            // News was missed: look at everything.
            Err(RecvError::Lagged(_)) => return Some(ids(engine.ids().await)),
            Err(RecvError::Closed) => return None,
        }
        if left == 0 {
            break;
        }
        next = events.recv().await;
    }
    Some(concerned.into_iter().collect())
}

/// The ids; none where the journal fails.
fn ids(read: Result<Vec<AttachmentId>, Error>) -> Vec<AttachmentId> {
    read.unwrap_or_else(|error| {
        tracing::error!(error = %error.chain(), "cannot reconcile");
        Vec::new()
    })
}

/// Looks at these records, and settles beside each other those that need it. Reports each as it ends, and whether nothing failed.
async fn round(engine: &Engine, ids: Vec<AttachmentId>, done: impl Fn(AttachmentId, bool)) {
    let began = Instant::now();
    let figures = engine.figures();
    // Most are settled: others get their turns between these too.
    let looked = engine.screen(ids, decide).await.then(|looked| async {
        consume_budget().await;
        looked
    });
    let done = &done;
    let settle_each = looked.for_each_concurrent(None, |(id, looked)| async move {
        let settled = match looked {
            Looked::Settled => true,
            Looked::Unseen => false,
            Looked::Unsettled => settle(engine, &id).await,
        };
        match settled {
            true => figures.records_settled.add(),
            false => figures.records_failed.add(),
        }
        done(id, settled);
    });
    settle_each.await;
    figures.looks.note((), began.elapsed());
}

/// Settles one record; whether nothing failed.
async fn settle(engine: &Engine, id: &AttachmentId) -> bool {
    let span = tracing::info_span!("reconcile", attachment = %id);
    let mut looks = 1;
    let settled = loop {
        let settled = engine.settle(id.clone(), decide).instrument(span.clone());
        match settled.await {
            // A caller who asks again and again after a crash is turned away each time, and must not keep this away.
            // Nor must a server's other acts, which end soon if the server answers.
            Err(Error::InProgress { .. } | Error::TooMuchWork(_)) if looks < BUSY_LOOKS => {
                looks += 1;
            }
            settled => break settled,
        }
        tokio::time::sleep(BUSY).await;
    };
    span.in_scope(|| match settled {
        Ok(Action::Nothing) | Err(Error::ShuttingDown | Error::InProgress { .. }) => true,
        // Nothing was tried, so nothing has failed: the next round tries.
        Err(error @ Error::TooMuchWork(_)) => {
            tracing::info!(error = %error.chain(), "left for a later round");
            true
        }
        Ok(action) => {
            tracing::info!(?action, "reconciled");
            true
        }
        Err(error) => {
            tracing::warn!(reason = %error.reason(), error = %error.chain(), "not yet");
            // A guest is looked at in each round: not every hypervisor reports when the guest has let go.
            matches!(error, Error::UnplugPending { .. })
        }
    })
}
