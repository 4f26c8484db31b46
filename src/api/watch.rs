//! The stream of WatchAttachments: everything as it is or what changed since a revision, then each change.
//!
//! It ends with an error and never silently: `WATCH_EXPIRED` when the caller was so slow that changes are forgotten,
//! `SHUTTING_DOWN` when the daemon stops, `UNAUTHENTICATED` when the caller's token has expired, a caller over the network
//! was let in too long ago, or who may call was configured anew, `PERMISSION_DENIED` when the policy cannot be evaluated for a change: it is not left out as if it
//! had not been. Each change is shown by the policy of its moment.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::limit::Guard;
use super::status::{Subject, status};
use super::{encode, revision, v1};
use crate::admission::{Admission, Grant, Object};
use crate::attach::{Event, Feed, Revision, Told};
use crate::model::{Reason, Via};

/// How long a watch over the network, or by a token, goes on: certificates end, their authorities are changed, tokens are
/// revoked. To watch again takes one call.
const LIFE: Duration = Duration::from_secs(3600);

/// Changes of others after which a watcher is sent a revision, so that it does not come back with one that is long past.
const UNSAID: u32 = 1000;

/// How often the clock is looked at while a watch may go on.
const CLOCK: Duration = Duration::from_secs(60);

/// What the caller receives.
pub(super) type Stream =
    Pin<Box<dyn futures::Stream<Item = Result<v1::WatchAttachmentsResponse, Status>> + Send>>;

/// The daemon is stopping.
#[derive(Debug, thiserror::Error)]
#[error("the daemon is stopping and takes no new work: call again when it is back")]
pub(super) struct ShuttingDown;

/// What let the caller in no longer counts.
#[derive(Debug, thiserror::Error)]
#[error(
    "the token that the watch was begun with is no longer good, the watch was let in an hour ago, or the configuration of who may call has \
     changed: watch again"
)]
struct Expired;

/// What ends watches, whoever has them.
pub(super) struct Ends {
    /// The daemon stops.
    pub(super) stopping: CancellationToken,
    /// Who may call has changed.
    pub(super) callers: CancellationToken,
}

/// What one caller watches.
pub(super) struct Watch {
    feed: Feed,
    admission: Arc<Admission>,
    grant: Grant,
    until: Option<SystemTime>,
    ends: Ends,
    /// Changes since the last message.
    unsaid: u32,
    /// Counts it among its caller's.
    _held: Guard,
}

impl Watch {
    /// All of `feed` that the caller may see, until what let it in no longer counts.
    pub(super) fn new(
        feed: Feed,
        admission: Arc<Admission>,
        grant: Grant,
        ends: Ends,
        held: Guard,
    ) -> Self {
        let actor = grant.actor();
        let life = match actor.via {
            // The kernel's word.
            Via::LocalPeer { .. } => None,
            Via::Certificate(_) | Via::Keystone => SystemTime::now().checked_add(LIFE),
        };
        Self {
            feed,
            admission,
            until: actor.until.into_iter().chain(life).min(),
            grant,
            ends,
            unsaid: 0,
            _held: held,
        }
    }

    /// The stream of it.
    pub(super) fn stream(self) -> Stream {
        Box::pin(futures::stream::unfold(Some(self), |watch| async {
            let mut watch = watch?;
            match watch.next().await {
                Ok(message) => Some((Ok(message), Some(watch))),
                Err(status) => Some((Err(status), None)),
            }
        }))
    }

    async fn next(&mut self) -> Result<v1::WatchAttachmentsResponse, Status> {
        loop {
            let told = self.take().await?;
            let seen = match told.event {
                Some(event) => self.sees(event).await?,
                None => None,
            };
            self.unsaid += u32::from(told.revision.is_some());
            if seen.is_some() || told.up_to_date || self.unsaid >= UNSAID {
                self.unsaid = 0;
                return Ok(message(told.revision, seen));
            }
        }
    }

    /// What happened next.
    async fn take(&mut self) -> Result<Told, Status> {
        let until = self.until;
        // However fast changes come.
        let is_over = until.is_some_and(|until| until <= SystemTime::now());
        if is_over || self.ends.callers.is_cancelled() {
            return Err(expired());
        }
        let told = tokio::select! {
            biased;
            // A change that already happened is told before the end is.
            told = self.feed.next() => told,
            () = self.ends.stopping.cancelled() => return Err(shutting_down()),
            () = self.ends.callers.cancelled() => return Err(expired()),
            () = ended(until) => return Err(expired()),
        };
        told.map_err(|error| status(&error, error.reason(), &Subject::default()))
    }

    /// The event, if the caller may see its attachment.
    async fn sees(&mut self, event: Event) -> Result<Option<Event>, Status> {
        let (until, object) = (self.until, Object::from(&event.attachment));
        let sees = async {
            self.grant = self.admission.renewed(self.grant.clone()).await;
            self.grant.sees(&object).await
        };
        let sees = tokio::select! {
            biased;
            sees = sees => sees,
            () = self.ends.stopping.cancelled() => return Err(shutting_down()),
            () = self.ends.callers.cancelled() => return Err(expired()),
            () = ended(until) => return Err(expired()),
        };
        match sees {
            Ok(sees) => Ok(sees.then_some(event)),
            Err(undecided) => {
                let reason = undecided.reason();
                Err(status(&undecided, reason, &Subject::default()))
            }
        }
    }
}

fn message(revision: Option<Revision>, event: Option<Event>) -> v1::WatchAttachmentsResponse {
    v1::WatchAttachmentsResponse {
        revision: revision.map(revision::token).unwrap_or_default(),
        left_filter: event.as_ref().is_some_and(|event| event.left),
        attachment: event.map(|event| encode::attachment(event.attachment)),
    }
}

fn shutting_down() -> Status {
    status(&ShuttingDown, Reason::ShuttingDown, &Subject::default())
}

fn expired() -> Status {
    status(&Expired, Reason::Unauthenticated, &Subject::default())
}

/// Waits for the end of a token.
async fn ended(until: Option<SystemTime>) {
    match until {
        // By the clock on the wall, of which a timer knows nothing: it may be set while this waits.
        Some(until) => {
            while let Ok(left) = until.duration_since(SystemTime::now()) {
                tokio::time::sleep(left.min(CLOCK)).await;
            }
        }
        None => std::future::pending().await,
    }
}
