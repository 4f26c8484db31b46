//! Records in memory, each held once, and found by what it is of without a look at the others.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Bound;
use std::sync::Arc;

use uuid::Uuid;

use super::Record;
use crate::model::{AttachmentId, Claim, VolumeId, Wwid};

/// What records are looked up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key<'a> {
    /// Records of a volume.
    Volume(&'a VolumeId),
    /// Records that list a claim.
    Claim(&'a Claim),
    /// Records of a domain.
    Domain(&'a Uuid),
    /// Records whose device reported an identity.
    Identity(&'a Wwid),
}

impl Record {
    /// Everything that the record is found by, besides its id.
    pub fn keys(&self) -> impl Iterator<Item = Key<'_>> {
        let domain = self.domain.as_ref().map(|it| Key::Domain(&it.uuid));
        let identity = self.host.identity().map(Key::Identity);
        let claims = self.host.plan.claims.iter().map(Key::Claim);
        let volume = Key::Volume(&self.volume);
        [Some(volume), domain, identity]
            .into_iter()
            .flatten()
            .chain(claims)
    }

    /// Whether the record is found by that key.
    #[must_use]
    pub fn has(&self, key: Key<'_>) -> bool {
        self.keys().any(|its| its == key)
    }
}

/// A record and its place in the index.
#[derive(Debug)]
struct Held {
    /// Number of the record in the index: unique, in the order in which the records came.
    number: u64,
    record: Arc<Record>,
}

/// Records by id and by key.
#[derive(Debug, Default)]
pub(super) struct Records {
    by_id: BTreeMap<AttachmentId, Held>,
    /// By the hash of a key, which is smaller than the key, and by number. Keys of one hash are told apart at the look.
    by_key: BTreeMap<(u64, u64), Arc<Record>>,
    last: u64,
}

impl Records {
    pub(super) fn get(&self, id: &AttachmentId) -> Option<&Arc<Record>> {
        self.by_id.get(id).map(|held| &held.record)
    }

    /// Records after that id, ordered by id; `None`: from the first.
    pub(super) fn after(&self, id: Option<&AttachmentId>) -> impl Iterator<Item = &Arc<Record>> {
        let begin = id.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self
            .by_id
            .range::<AttachmentId, _>((begin, Bound::Unbounded));
        range.map(|(_, held)| &held.record)
    }

    /// Records with that key, in the order in which they came.
    pub(super) fn of<'r>(&'r self, key: Key<'r>) -> impl Iterator<Item = &'r Arc<Record>> {
        let hash = hash(key);
        let range = self.by_key.range((hash, 0)..=(hash, u64::MAX));
        range
            .map(|(_, record)| record)
            .filter(move |record| record.has(key))
    }

    pub(super) fn insert(&mut self, record: Arc<Record>) {
        let number = match self.by_id.entry(record.id.clone()) {
            Entry::Vacant(entry) => {
                self.last += 1;
                let number = self.last;
                let record = record.clone();
                entry.insert(Held { number, record });
                number
            }
            Entry::Occupied(mut entry) => {
                let held = entry.get_mut();
                let old = std::mem::replace(&mut held.record, record.clone());
                // Most changes of a record change no key.
                for key in old.keys().filter(|key| !record.has(*key)) {
                    self.by_key.remove(&(hash(key), held.number));
                }
                held.number
            }
        };
        for key in record.keys() {
            self.by_key.insert((hash(key), number), record.clone());
        }
    }

    pub(super) fn remove(&mut self, id: &AttachmentId) {
        if let Some(Held { number, record }) = self.by_id.remove(id) {
            for key in record.keys() {
                self.by_key.remove(&(hash(key), number));
            }
        }
    }
}

fn hash(key: Key<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::journal::redb::tests::record;
    use crate::model::Domain;

    /// A change of the journal: an id, and the volume, claim and domain that it has from then on; `None`: it goes.
    type Change = (u8, Option<(u8, u8, Option<u8>)>);

    fn change() -> impl Strategy<Value = Change> {
        let parts = (0..3_u8, 0..3_u8, proptest::option::of(0..3_u8));
        (0..6_u8, proptest::option::of(parts))
    }

    proptest! {
        /// Finds by each key what a look at every record finds.
        #[test]
        fn a_look_by_key_finds_what_a_walk_finds(changes in proptest::collection::vec(change(), 0..40)) {
            let mut records = Records::default();
            for (id, parts) in changes {
                let mut its = record(&format!("a{id}"));
                let Some((volume, claim, domain)) = parts else {
                    records.remove(&its.id);
                    continue;
                };
                its.volume = format!("v{volume}").parse().unwrap();
                its.host.plan.claims = vec![Claim::Mount(format!("m{claim}"))];
                its.domain = domain.map(|number| Domain {
                    uuid: Uuid::from_u128(number.into()),
                    name: "d".to_owned(),
                });
                records.insert(Arc::new(its));
            }
            let all: Vec<Arc<Record>> = records.after(None).cloned().collect();
            prop_assert!(all.is_sorted_by_key(|record| record.id.clone()));
            for number in 0..3_u8 {
                let volume: VolumeId = format!("v{number}").parse().unwrap();
                let claim = Claim::Mount(format!("m{number}"));
                let domain = Uuid::from_u128(number.into());
                for key in [Key::Volume(&volume), Key::Claim(&claim), Key::Domain(&domain)] {
                    let mut found: Vec<_> = records.of(key).cloned().collect();
                    found.sort_by_key(|record| record.id.clone());
                    let walked = all.iter().filter(|record| record.has(key));
                    prop_assert_eq!(found, walked.cloned().collect::<Vec<_>>());
                }
            }
            for record in &all {
                records.remove(&record.id);
            }
            prop_assert!(records.by_key.is_empty());
        }
    }
}
