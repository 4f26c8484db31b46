//! The stream of WatchAttachments: everything as it is, then each change.
//!
//! It ends with an error and never silently: `WATCH_LAGGED` when the caller was too slow and changes are lost,
//! `SHUTTING_DOWN` when the daemon stops, `UNAUTHENTICATED` when the caller's token has expired, or a caller over the network
//! was let in too long ago, `PERMISSION_DENIED` when the policy cannot be evaluated for a change: it is not left out as if it
//! had not been. Each change is shown by the policy of its moment.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::limit::Guard;
use super::status::{Subject, status};
use super::{encode, v1};
use crate::admission::{Admission, Grant, Object};
use crate::attach::Filter;
use crate::model::{Attachment, Reason, Via};

/// How long a watch over the network, or by a token, goes on: certificates end, their authorities are changed, tokens are
/// revoked. To watch again takes one call.
const LIFE: Duration = Duration::from_secs(3600);

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
    "the token that the watch was begun with is no longer good, or the watch was let in an hour ago: watch again"
)]
struct Expired;

/// The caller was too slow.
#[derive(Debug, thiserror::Error)]
#[error(
    "the watch was too slow and missed {missed} changes: watch again, which begins with everything as it is"
)]
struct Lagged {
    missed: u64,
}

/// What one caller watches.
pub(super) struct Watch {
    now: VecDeque<Attachment>,
    changes: Receiver<Attachment>,
    filter: Filter,
    admission: Arc<Admission>,
    grant: Grant,
    until: Option<SystemTime>,
    stopping: CancellationToken,
    /// Counts it among its caller's.
    _held: Guard,
}

impl Watch {
    /// All of `now`, then of `changes`, that match `filter` and that the caller may see, until what let it in no longer
    /// counts.
    pub(super) fn new(
        now: Vec<Attachment>,
        changes: Receiver<Attachment>,
        filter: Filter,
        admission: Arc<Admission>,
        grant: Grant,
        stopping: CancellationToken,
        held: Guard,
    ) -> Self {
        let actor = grant.actor();
        let life = match actor.via {
            // The kernel's word.
            Via::LocalPeer { .. } => None,
            Via::Certificate(_) | Via::Keystone => SystemTime::now().checked_add(LIFE),
        };
        Self {
            now: now.into(),
            changes,
            filter,
            admission,
            until: actor.until.into_iter().chain(life).min(),
            grant,
            stopping,
            _held: held,
        }
    }

    /// The stream of it.
    pub(super) fn stream(self) -> Stream {
        Box::pin(futures::stream::unfold(Some(self), |watch| async {
            let mut watch = watch?;
            match watch.next().await {
                Ok(attachment) => {
                    let message = v1::WatchAttachmentsResponse {
                        attachment: Some(encode::attachment(attachment)),
                    };
                    Some((Ok(message), Some(watch)))
                }
                Err(status) => Some((Err(status), None)),
            }
        }))
    }

    async fn next(&mut self) -> Result<Attachment, Status> {
        if let Some(attachment) = self.now.pop_front() {
            return Ok(attachment);
        }
        let until = self.until;
        loop {
            // However fast changes come.
            if until.is_some_and(|until| until <= SystemTime::now()) {
                return Err(expired());
            }
            let change = tokio::select! {
                biased;
                // A change that already happened is told before the end is.
                change = self.changes.recv() => change,
                () = self.stopping.cancelled() => Err(RecvError::Closed),
                () = ended(until) => return Err(expired()),
            };
            match change {
                Ok(it) if self.filter.matches(&it) => {
                    let object = Object::from(&it);
                    let sees = async {
                        self.grant = self.admission.renewed(self.grant.clone()).await;
                        self.grant.sees(&object).await
                    };
                    let sees = tokio::select! {
                        biased;
                        sees = sees => sees,
                        () = self.stopping.cancelled() => return Err(shutting_down()),
                        () = ended(until) => return Err(expired()),
                    };
                    match sees {
                        Ok(true) => return Ok(it),
                        Ok(false) => {}
                        Err(undecided) => {
                            let reason = undecided.reason();
                            return Err(status(&undecided, reason, &Subject::default()));
                        }
                    }
                }
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => {
                    let error = Lagged { missed };
                    return Err(status(&error, Reason::WatchLagged, &Subject::default()));
                }
                Err(RecvError::Closed) => return Err(shutting_down()),
            }
        }
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
