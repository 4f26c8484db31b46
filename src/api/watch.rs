//! The stream of WatchAttachments: everything as it is, then each change.
//!
//! It ends with an error and never silently: `WATCH_LAGGED` when the caller was too slow and changes are lost,
//! `SHUTTING_DOWN` when the daemon stops.

use std::collections::VecDeque;
use std::pin::Pin;

use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::status::{Subject, status};
use super::{encode, v1};
use crate::attach::Filter;
use crate::model::{Attachment, Reason};

/// What the caller receives.
pub(super) type Stream =
    Pin<Box<dyn futures::Stream<Item = Result<v1::WatchAttachmentsResponse, Status>> + Send>>;

/// The daemon is stopping.
#[derive(Debug, thiserror::Error)]
#[error("the daemon is stopping and takes no new work: call again when it is back")]
pub(super) struct ShuttingDown;

/// The caller was too slow.
#[derive(Debug, thiserror::Error)]
#[error(
    "the watch was too slow and missed {missed} changes: watch again, which begins with everything as it is"
)]
struct Lagged {
    missed: u64,
}

struct Watch {
    now: VecDeque<Attachment>,
    changes: Receiver<Attachment>,
    filter: Filter,
    stopping: CancellationToken,
}

/// The stream of what matches `filter`: all of `now`, then of `changes`.
pub(super) fn stream(
    now: Vec<Attachment>,
    changes: Receiver<Attachment>,
    filter: Filter,
    stopping: CancellationToken,
) -> Stream {
    let watch = Watch {
        now: now.into(),
        changes,
        filter,
        stopping,
    };
    Box::pin(futures::stream::unfold(Some(watch), |watch| async {
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

impl Watch {
    async fn next(&mut self) -> Result<Attachment, Status> {
        if let Some(attachment) = self.now.pop_front() {
            return Ok(attachment);
        }
        loop {
            let change = tokio::select! {
                biased;
                // A change that already happened is told before the end is.
                change = self.changes.recv() => change,
                () = self.stopping.cancelled() => Err(RecvError::Closed),
            };
            match change {
                Ok(attachment) if self.filter.matches(&attachment) => return Ok(attachment),
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => {
                    let error = Lagged { missed };
                    return Err(status(&error, Reason::WatchLagged, &Subject::default()));
                }
                Err(RecvError::Closed) => {
                    let reason = Reason::ShuttingDown;
                    return Err(status(&ShuttingDown, reason, &Subject::default()));
                }
            }
        }
    }
}
