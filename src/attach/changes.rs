//! Index of the changes of attachments, by which a watcher goes on where it was.
//!
//! Each change has a number, its revision. Of each attachment that has a record, only the last change is kept, and by its id alone; of each
//! that is gone, the attachment as it was, up to [`TOMBSTONES`] of them. So the memory is bounded by the records and those, and a watcher
//! that was away is told the present state of what changed since, which costs as much as changed. The index is the memory of one daemon: the
//! journal has no revisions, since they would cost a write more for each change.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;
use uuid::Uuid;

use crate::model::{Attachment, AttachmentId, RecordedReason, State};

/// Changes that a watcher may fall behind before it is served from the index, which leaves out the steps between.
const LIVE: usize = 1024;

/// Attachments that are gone and can still be told of.
const TOMBSTONES: usize = 16_384;

/// Place in the order of changes: everything up to it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revision {
    /// The daemon's life that counts. Another has other numbers.
    pub life: Uuid,
    /// Number of the last change seen; 0: none.
    pub number: u64,
}

/// The changes since a revision are not known any more, or never were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expired;

/// The parts of an attachment that may differ from one change to the next and that filters ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Varying {
    pub(super) state: State,
    pub(super) reason: Option<RecordedReason>,
    /// Name of its domain.
    pub(super) domain: Option<String>,
}

impl From<&Attachment> for Varying {
    fn from(attachment: &Attachment) -> Self {
        let error = attachment.error.as_ref();
        Self {
            state: attachment.state,
            reason: error.map(|error| error.reason.clone()),
            domain: attachment.domain.as_ref().map(|it| it.name.clone()),
        }
    }
}

/// An attachment before a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Before {
    /// There was none.
    Absent,
    /// It was so since the change of that number.
    Since(u64, Varying),
    /// An earlier daemon changed it last.
    Unknown,
}

/// One change of an attachment.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) number: u64,
    pub(super) before: Before,
    /// The attachment after the change.
    pub(super) attachment: Attachment,
}

/// The last change of an attachment, in the index.
#[derive(Debug, Clone)]
pub(super) enum Last {
    /// The journal has the attachment.
    Present(AttachmentId),
    /// The attachment is gone.
    Gone(Arc<Change>),
}

#[derive(Debug, Default)]
struct Index {
    /// Number of the last change.
    last: u64,
    by_number: BTreeMap<u64, Last>,
    /// The attachments with a record that changed in this daemon's life.
    present: HashMap<AttachmentId, (u64, Varying)>,
    /// Numbers of the attachments gone, oldest first.
    gone: VecDeque<u64>,
    /// Up to this number, attachments that are gone are forgotten.
    forgotten: u64,
}

impl Index {
    /// Numbers a change; returns what was known of the attachment.
    fn next(&mut self, id: &AttachmentId) -> (u64, Before) {
        self.last += 1;
        let before = self.present.remove(id);
        let before = before.map_or(Before::Unknown, |(number, varying)| {
            self.by_number.remove(&number);
            Before::Since(number, varying)
        });
        (self.last, before)
    }

    fn bury(&mut self, change: Arc<Change>, most: usize) {
        self.gone.push_back(change.number);
        self.by_number.insert(change.number, Last::Gone(change));
        while self.gone.len() > most
            && let Some(oldest) = self.gone.pop_front()
        {
            self.by_number.remove(&oldest);
            self.forgotten = oldest;
        }
    }
}

/// The changes of one daemon's life.
pub(super) struct Changes {
    life: Uuid,
    index: Mutex<Index>,
    live: broadcast::Sender<Arc<Change>>,
}

impl Changes {
    pub(super) fn new() -> Self {
        Self {
            life: Uuid::new_v4(),
            index: Mutex::default(),
            live: broadcast::channel(LIVE).0,
        }
    }

    /// Tells the watchers of an attachment whose record was written. `new`: there was no record before.
    pub(super) fn put(&self, attachment: Attachment, new: bool) {
        let mut index = self.lock();
        let (number, mut before) = index.next(&attachment.id);
        if new {
            before = Before::Absent;
        }
        let id = attachment.id.clone();
        index.by_number.insert(number, Last::Present(id.clone()));
        index.present.insert(id, (number, (&attachment).into()));
        self.send(Arc::new(Change {
            number,
            before,
            attachment,
        }));
    }

    /// Tells the watchers of an attachment whose record was removed.
    pub(super) fn gone(&self, mut attachment: Attachment) {
        // The longest part, and of no use any more.
        attachment.disk_xml = None;
        let mut index = self.lock();
        let (number, before) = index.next(&attachment.id);
        let change = Arc::new(Change {
            number,
            before,
            attachment,
        });
        index.bury(change.clone(), TOMBSTONES);
        self.send(change);
    }

    /// Called under the lock of the index, so that changes come in the order of their numbers.
    fn send(&self, change: Arc<Change>) {
        // An error only says that nobody watches.
        let _ = self.live.send(change);
    }

    /// Every change from now on, and the number of the last one before.
    pub(super) fn subscribe(&self) -> (broadcast::Receiver<Arc<Change>>, u64) {
        let index = self.lock();
        (self.live.subscribe(), index.last)
    }

    /// The last changes of attachments after one number and up to another, in their order, at most `limit`.
    ///
    /// # Errors
    /// Where attachments that went since are forgotten.
    pub(super) fn between(
        &self,
        after: u64,
        until: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Last)>, Expired> {
        let index = self.lock();
        if after < index.forgotten {
            return Err(Expired);
        }
        if until <= after {
            return Ok(Vec::new());
        }
        let range = index.by_number.range(after + 1..=until).take(limit);
        Ok(range
            .map(|(number, last)| (*number, last.clone()))
            .collect())
    }

    /// The number of a revision of this daemon's life.
    ///
    /// # Errors
    /// Where it is of another life, or attachments that went since are forgotten.
    pub(super) fn number(&self, revision: Revision) -> Result<u64, Expired> {
        let index = self.lock();
        let known = (index.forgotten..=index.last).contains(&revision.number);
        match revision.life == self.life && known {
            true => Ok(revision.number),
            false => Err(Expired),
        }
    }

    /// The revision of that number.
    pub(super) fn revision(&self, number: u64) -> Revision {
        let life = self.life;
        Revision { life, number }
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;
    use crate::model::{AccessDecision, VolumeRights};

    fn attachment(number: u8, state: State) -> Attachment {
        Attachment {
            id: format!("a{number}").parse().unwrap(),
            volume: "v".parse().unwrap(),
            domain: None,
            protocol: "local".into(),
            servers: Vec::new(),
            paths: None,
            access: AccessDecision::from_sources(vec![]),
            rights: VolumeRights::default(),
            holder: None,
            state,
            host_path: None,
            target: None,
            disk_xml: None,
            error: None,
            created: SystemTime::UNIX_EPOCH,
            updated: SystemTime::UNIX_EPOCH,
        }
    }

    proptest! {
        /// Has of each attachment its last change, in their order, and of each that is gone its end.
        #[test]
        fn the_index_has_the_last_change_of_each(
            steps in proptest::collection::vec((0..4_u8, any::<bool>()), 0..60),
            after in 0..60_u64,
        ) {
            let changes = Changes::new();
            let (mut present, mut expected) = (BTreeMap::new(), BTreeMap::new());
            for (number, (id, stays)) in (1..).zip(&steps) {
                if let Some(old) = present.remove(id) {
                    expected.remove(&old);
                }
                match stays {
                    true => {
                        changes.put(attachment(*id, State::Attached), false);
                        present.insert(*id, number);
                    }
                    false => changes.gone(attachment(*id, State::Gone)),
                }
                expected.insert(number, (format!("a{id}"), *stays));
            }
            let until = changes.lock().last;
            prop_assert_eq!(until, steps.len() as u64);
            let found = changes.between(after, until, usize::MAX).unwrap();
            let found: Vec<_> = found.into_iter().map(|(number, last)| match last {
                Last::Present(id) => (number, (id.to_string(), true)),
                Last::Gone(change) => (number, (change.attachment.id.to_string(), false)),
            }).collect();
            let expected: Vec<_> = expected.into_iter().filter(|(number, _)| *number > after).collect();
            prop_assert_eq!(found, expected);
            let index = changes.lock();
            prop_assert_eq!(index.by_number.len(), present.len() + index.gone.len());
        }
    }

    #[test]
    fn who_was_away_for_too_many_ends_begins_anew() {
        let changes = Changes::new();
        changes.put(attachment(0, State::Attached), true);
        for _ in 0..=TOMBSTONES {
            changes.gone(attachment(1, State::Gone));
        }
        let until = changes.lock().last;
        // The second change of all is the end that is forgotten.
        assert_eq!(changes.number(changes.revision(1)), Err(Expired));
        assert!(changes.between(1, until, 1).is_err());
        assert_eq!(changes.number(changes.revision(2)), Ok(2));
        let found = changes.between(2, until, usize::MAX).unwrap();
        assert_eq!(found.len(), TOMBSTONES);
        let index = changes.lock();
        assert_eq!(index.by_number.len(), TOMBSTONES + 1);
    }

    #[test]
    fn a_revision_is_of_one_life() {
        let (changes, other) = (Changes::new(), Changes::new());
        assert_eq!(changes.number(changes.revision(0)), Ok(0));
        assert_eq!(changes.number(other.revision(0)), Err(Expired));
        assert_eq!(changes.number(changes.revision(1)), Err(Expired));
    }

    #[test]
    fn a_change_tells_what_was_before() {
        let changes = Changes::new();
        let (mut live, _) = changes.subscribe();
        changes.put(attachment(0, State::Attached), false);
        changes.put(attachment(0, State::Detaching), false);
        changes.gone(attachment(0, State::Gone));
        changes.put(attachment(0, State::Connecting), true);
        let attached = attachment(0, State::Attached);
        let detaching = attachment(0, State::Detaching);
        for expected in [
            Before::Unknown,
            Before::Since(1, (&attached).into()),
            Before::Since(2, (&detaching).into()),
            Before::Absent,
        ] {
            assert_eq!(live.try_recv().unwrap().before, expected);
        }
    }
}
