//! The records that a round is to look at: not those that are being settled, nor those that failed of late.

use std::collections::{HashMap, HashSet};

use crate::model::AttachmentId;

/// Longest pause after a failure, as a power of two, in rounds.
const LONGEST: u32 = 3;

/// State of the rounds.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Number of the latest round.
    round: u64,
    under_way: HashSet<AttachmentId>,
    /// Records that there was news of while they were settled: what was seen of them may be older.
    again: HashSet<AttachmentId>,
    failing: HashMap<AttachmentId, Failing>,
}

/// A record that failed.
#[derive(Debug, Default)]
struct Failing {
    times: u32,
    /// The next round to look at it.
    next: u64,
}

impl Turns {
    /// Begins a round with all records; returns those to look at.
    pub(super) fn next(&mut self, all: Vec<AttachmentId>) -> Vec<AttachmentId> {
        self.round += 1;
        let mut due = Vec::with_capacity(all.len());
        let mut failing = HashMap::new();
        for id in all {
            let pause = self.failing.remove_entry(&id);
            let waits = pause.as_ref().is_some_and(|(_, it)| it.next > self.round);
            failing.extend(pause);
            if !waits && self.under_way.insert(id.clone()) {
                due.push(id);
            }
        }
        // What is left here exists no more.
        self.failing = failing;
        due
    }

    /// Takes records whose time has come between two rounds; returns those that are not being settled.
    pub(super) fn due(&mut self, mut ids: Vec<AttachmentId>) -> Vec<AttachmentId> {
        ids.retain(|id| self.under_way.insert(id.clone()));
        ids
    }

    /// Takes news of records; returns those to look at now, whatever failed before.
    pub(super) fn news(&mut self, mut ids: Vec<AttachmentId>) -> Vec<AttachmentId> {
        ids.retain(|id| {
            let is_free = self.under_way.insert(id.clone());
            if !is_free {
                self.again.insert(id.clone());
            }
            is_free
        });
        ids
    }

    /// Notes how a look at a record ended; returns the record if it is to be looked at again.
    pub(super) fn ended(&mut self, id: AttachmentId, settled: bool) -> Vec<AttachmentId> {
        if settled {
            self.failing.remove(&id);
        } else {
            let failing = self.failing.entry(id.clone()).or_default();
            failing.next = self.round + (1 << failing.times.min(LONGEST));
            failing.times += 1;
        }
        self.under_way.remove(&id);
        let again = self.again.take(&id);
        self.news(again.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rounds, of thirty, in which a record is looked at that fails until one of them.
    fn looked_at(settled_in: u64, news_in: Option<u64>) -> Vec<u64> {
        let id: AttachmentId = "a".parse().unwrap();
        let mut turns = Turns::default();
        let mut looked_at = Vec::new();
        for round in 1..=30 {
            let mut due = turns.next(vec![id.clone()]);
            if Some(round) == news_in {
                due.extend(turns.news(vec![id.clone()]));
            }
            if !due.is_empty() {
                looked_at.push(round);
                assert!(turns.ended(id.clone(), round >= settled_in).is_empty());
            }
        }
        looked_at
    }

    #[test]
    fn a_record_that_fails_again_and_again_is_looked_at_less_and_less_until_it_does_not() {
        assert_eq!(looked_at(99, None), [1, 2, 4, 8, 16, 24]);
        assert_eq!(
            looked_at(24, None),
            [1, 2, 4, 8, 16, 24, 25, 26, 27, 28, 29, 30]
        );
        assert_eq!(
            looked_at(99, Some(10)),
            [1, 2, 4, 8, 10, 18, 26],
            "at once upon news"
        );
    }

    #[test]
    fn news_of_a_record_that_is_being_settled_has_it_looked_at_again() {
        let ids = || vec!["a".parse::<AttachmentId>().unwrap()];
        let mut turns = Turns::default();
        assert_eq!(turns.next(ids()), ids());
        assert!(turns.next(ids()).is_empty() && turns.news(ids()).is_empty());
        assert_eq!(turns.ended(ids().remove(0), true), ids());
        assert!(turns.ended(ids().remove(0), true).is_empty());
    }

    #[test]
    fn a_record_that_is_gone_is_forgotten() {
        let mut turns = Turns::default();
        for id in turns.next(vec!["a".parse().unwrap()]) {
            turns.ended(id, false);
        }
        turns.next(Vec::new());
        assert!(turns.failing.is_empty());
    }
}
