//! What a watcher is told: everything as it is or what changed since it last looked, then each change.
//!
//! ```text
//! Listing ──▶ Live ◀──▶ CatchingUp        a watch that resumes begins with CatchingUp
//! ```
//!
//! A watcher that falls too far behind the live changes goes on by the index, which has the last change of each attachment: it is told
//! each that changed as it is now. What it holds in memory is one page, whatever changes.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::Error;
use super::changes::{Before, Change, Expired, Last, Revision, Varying};
use super::engine::Engine;
use super::inner::Inner;
use super::request::{Filter, WatchRequest};
use crate::admission::Admitted;
use crate::model::{Attachment, AttachmentId, State};

/// Changes that are taken from the index in one go.
const PAGE: usize = 256;

/// One attachment that a watcher is told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// As it is.
    pub attachment: Attachment,
    /// Whether it no longer matches the filter: the watcher may have it, and drops it.
    pub left: bool,
}

/// What happened next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Up to here, the watcher has seen everything. `None`: the list of what there is has not ended.
    pub revision: Option<Revision>,
    /// The attachment. `None`: a change that the filter leaves out, or nothing.
    pub event: Option<Event>,
    /// Whether the watcher is to learn of the revision even without an event: it has seen everything there is.
    pub up_to_date: bool,
}

#[derive(Debug)]
enum Place {
    /// After this attachment in the list of all.
    Listing(Option<AttachmentId>),
    /// In the index, up to this number; what comes after is live.
    CatchingUp(u64),
    /// With the live changes.
    Live,
}

/// What one watcher is told.
pub struct Feed {
    engine: Engine,
    filter: Filter,
    /// Taken and not told yet.
    ready: VecDeque<Told>,
    place: Place,
    /// Number up to which changes were taken.
    taken: u64,
    /// Up to this number, steps between were left out: what the watcher has of an attachment that was last changed before is not known.
    compacted: u64,
    live: broadcast::Receiver<Arc<Change>>,
}

impl Engine {
    /// The attachments that match as they are, or those that changed since a revision; then each change. The caller's rights
    /// are not looked at: the reader of the feed drops the attachments that the caller may not see.
    ///
    /// # Errors
    /// `WATCH_EXPIRED` if the changes since the revision are not known, and where the journal fails.
    pub async fn watch(&self, request: Admitted<WatchRequest>) -> Result<Feed, Error> {
        let (_, WatchRequest { filter, after }) = request.into_parts();
        let changes = &self.0.changes;
        // Subscribed before looking, so that no change falls between.
        let (live, last) = changes.subscribe();
        let (place, taken) = match after {
            Some(after) => (Place::CatchingUp(last), changes.number(after)?),
            None => (Place::Listing(None), last),
        };
        let mut feed = Feed {
            engine: self.clone(),
            filter,
            ready: VecDeque::new(),
            compacted: match place {
                Place::CatchingUp(until) => until,
                Place::Listing(_) | Place::Live => 0,
            },
            place,
            taken,
            live,
        };
        feed.fill().await?;
        Ok(feed)
    }
}

impl Feed {
    /// What happened next. Waits for a change where everything was told.
    ///
    /// # Errors
    /// `WATCH_EXPIRED` if the watcher is so late that changes are forgotten, `SHUTTING_DOWN` if there will be no more, and where the journal
    /// fails.
    pub async fn next(&mut self) -> Result<Told, Error> {
        loop {
            if let Some(told) = self.ready.pop_front() {
                return Ok(told);
            }
            match self.place {
                Place::Live => match self.live.recv().await {
                    Ok(change) => return Ok(self.of_change(&change)),
                    Err(RecvError::Lagged(_)) => self.catch_up(),
                    Err(RecvError::Closed) => return Err(Error::ShuttingDown),
                },
                Place::Listing(_) | Place::CatchingUp(_) => self.fill().await?,
            }
        }
    }

    /// Leaves the live changes, of which some are lost to this watcher, for the index.
    fn catch_up(&mut self) {
        let (live, last) = self.inner().changes.subscribe();
        self.live = live;
        self.compacted = last;
        self.place = Place::CatchingUp(last);
    }

    /// Takes the next page of the list or of the index.
    async fn fill(&mut self) -> Result<(), Error> {
        match &self.place {
            Place::Listing(after) => {
                let after = after.clone();
                self.list(after).await
            }
            Place::CatchingUp(until) => {
                let until = *until;
                self.take_changed(until).await
            }
            Place::Live => Ok(()),
        }
    }

    async fn list(&mut self, after: Option<AttachmentId>) -> Result<(), Error> {
        let engine = self.engine.clone();
        let records = engine.0.candidates(&self.filter, after.as_ref()).await?;
        let Some(last) = records.last() else {
            self.go_live();
            return Ok(());
        };
        self.place = Place::Listing(Some(last.id.clone()));
        let listed = records.iter().map(|record| record.to_attachment());
        let listed = listed.filter(|attachment| self.filter.matches(attachment));
        let listed = listed.map(|attachment| Told {
            revision: None,
            event: Some(Event {
                attachment,
                left: false,
            }),
            up_to_date: false,
        });
        self.ready.extend(listed);
        // A long list is no reason for others to wait.
        tokio::task::yield_now().await;
        Ok(())
    }

    async fn take_changed(&mut self, until: u64) -> Result<(), Error> {
        let engine = self.engine.clone();
        let page = engine.0.changes.between(self.taken, until, PAGE)?;
        if page.is_empty() {
            self.taken = until;
            self.go_live();
        }
        for (number, last) in page {
            let attachment = match last {
                Last::Gone(change) => Some(change.attachment.clone()),
                Last::Present(id) => {
                    let record = engine.0.parts.journal.get(&id).await?;
                    // A record that went meanwhile is told of by the live change.
                    record.map(|record| record.to_attachment())
                }
            };
            let event = attachment.and_then(|attachment| self.event(attachment, true));
            self.taken = number;
            let told = self.told(event);
            self.ready.push_back(told);
        }
        Ok(())
    }

    fn go_live(&mut self) {
        self.place = Place::Live;
        self.ready.push_back(Told {
            up_to_date: true,
            ..self.told(None)
        });
    }

    fn of_change(&mut self, change: &Change) -> Told {
        let had = match &change.before {
            Before::Absent => false,
            Before::Since(number, before) if *number > self.compacted => {
                self.filter.matches_varying(before)
            }
            Before::Since(..) | Before::Unknown => true,
        };
        self.taken = change.number;
        self.told(self.event(change.attachment.clone(), had))
    }

    /// `had`: whether the watcher may have the attachment as one that matches.
    fn event(&self, attachment: Attachment, had: bool) -> Option<Event> {
        if !self.filter.matches_fixed(&attachment) {
            return None;
        }
        let matches = self.filter.matches_varying(&Varying::from(&attachment));
        let left = !matches && attachment.state != State::Gone;
        (matches || had).then_some(Event { attachment, left })
    }

    fn told(&self, event: Option<Event>) -> Told {
        Told {
            revision: Some(self.inner().changes.revision(self.taken)),
            event,
            up_to_date: false,
        }
    }

    fn inner(&self) -> &Inner {
        &self.engine.0
    }
}

impl From<Expired> for Error {
    fn from(_: Expired) -> Self {
        Self::WatchExpired
    }
}
