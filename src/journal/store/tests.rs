//! Tests of the table of recent changes: a journal's contents are the same wherever its records are, and older builds meet no file that they
//! would misread.

use std::fs;

use ::redb::{ReadableDatabase, TableError};
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::journal::redb::tests::record;
use crate::journal::{Inspection, Journal, Record, RedbJournal};

/// Records by id, each known by its fingerprint.
type Model = BTreeMap<String, String>;

fn put(id: &str, fingerprint: &str) -> Change {
    let fingerprint = fingerprint.to_owned();
    let record = Record {
        fingerprint,
        ..record(id)
    };
    Change::Record(record.id.clone(), Some(Arc::new(record)))
}

fn remove(id: &str) -> Change {
    Change::Record(id.parse().unwrap(), None)
}

/// Writes changes that callers wait for.
fn write(store: &mut Store, changes: &[Change]) {
    store.write(changes).unwrap();
    for change in changes {
        store.apply(change.clone());
    }
}

fn model<'r>(records: impl Iterator<Item = &'r Record>) -> Model {
    let known = |record: &Record| (record.id.to_string(), record.fingerprint.clone());
    records.map(known).collect()
}

fn contents(store: &Store) -> Model {
    let contents = lock(store.contents());
    assert!(contents.unreadable.is_empty());
    model(contents.records.after(None).map(AsRef::as_ref))
}

/// A copy of the file as a kill at this moment would leave it.
fn killed(path: &Path) -> PathBuf {
    let copy = path.with_extension("killed");
    fs::copy(path, &copy).unwrap();
    copy
}

/// The file's records and its format, as `volattach journal` reads them.
fn inspected(path: &Path) -> (Model, Value) {
    let inspection = Inspection::read(path).unwrap();
    let format = inspection.to_json()["format"].clone();
    (model(inspection.records()), format)
}

/// What a build that does not know the table finds: the file's format and the ids in the big table; and the ids in this one.
fn raw(path: &Path) -> (String, Vec<String>, Vec<String>) {
    let database = Database::create(path).unwrap();
    let transaction = database.begin_read().unwrap();
    let ids = |table: TableDefinition<'_, &str, &[u8]>| -> Vec<String> {
        match transaction.open_table(table) {
            Err(TableError::TableDoesNotExist(_)) => Vec::new(),
            table => {
                let table = table.unwrap();
                let ids = table.iter().unwrap().map(|entry| {
                    let (id, _) = entry.unwrap();
                    id.value().to_owned()
                });
                ids.collect()
            }
        }
    };
    let about = transaction.open_table(ABOUT).unwrap();
    let format = about.get("format").unwrap().unwrap();
    let format = String::from_utf8(format.value().to_owned()).unwrap();
    (format, ids(RECORDS), ids(RECENT))
}

#[test]
fn the_journal_of_a_killed_daemon_is_read_right_and_refused_by_an_older_build() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.redb");
    let mut store = Store::open(&path, false).unwrap();
    write(&mut store, &[put("a", "1"), put("b", "1"), put("c", "1")]);
    store.fold().unwrap();
    let (format, records, recent) = raw(&killed(&path));
    assert_eq!((format.as_str(), records.len(), recent.len()), ("1", 3, 0));
    write(&mut store, &[put("b", "2"), put("d", "1")]);
    write(&mut store, &[remove("a"), remove("absent")]);
    let expected = contents(&store);
    let ids: Vec<&String> = expected.keys().collect();
    assert_eq!(ids, ["b", "c", "d"]);
    assert_eq!(expected["b"], "2");

    let killed = killed(&path);
    assert_eq!(inspected(&killed), (expected.clone(), 2.into()));
    let (format, records, recent) = raw(&killed);
    assert_eq!((format.as_str(), records.len(), recent.len()), ("2", 3, 4));
    // The next daemon has the same, before it folds and after.
    let mut next = Store::open(&killed, true).unwrap();
    assert_eq!((contents(&next), next.unfolded()), (expected.clone(), 4));
    next.fold().unwrap();
    assert_eq!((contents(&next), next.unfolded()), (expected.clone(), 0));
    drop(next);
    assert_eq!(inspected(&killed), (expected, 1.into()));
    let (format, records, recent) = raw(&killed);
    assert_eq!((format.as_str(), recent.len()), ("1", 0));
    assert_eq!(records, ["b", "c", "d"]);
}

#[tokio::test]
async fn an_older_build_reads_the_journal_of_a_daemon_that_was_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.redb");
    let journal = RedbJournal::open(&path, false).unwrap();
    journal.put(&record("a")).await.unwrap();
    journal.put(&record("b")).await.unwrap();
    journal.remove(&"a".parse().unwrap()).await.unwrap();
    drop(journal);
    let (format, records, recent) = raw(&path);
    assert_eq!((format.as_str(), recent.len()), ("1", 0));
    assert_eq!(records, ["b"]);
}

#[test]
fn an_unreadable_value_among_the_recent_is_kept_and_set_aside() {
    const LATER: &[u8] = br#"{"version":9}"#;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.redb");
    let mut store = Store::open(&path, false).unwrap();
    write(&mut store, &[put("a", "1")]);
    let killed = killed(&path);
    let raw = Database::create(&killed).unwrap();
    let transaction = raw.begin_write().unwrap();
    let mut recent = transaction.open_table(RECENT).unwrap();
    recent.insert("later", LATER).unwrap();
    drop(recent);
    transaction.commit().unwrap();
    drop(raw);
    for unfolded in [2, 0] {
        let mut store = Store::open(&killed, true).unwrap();
        assert_eq!(store.unfolded(), unfolded);
        let later = "later".parse().unwrap();
        assert_eq!(lock(store.contents()).unreadable[&later].bytes(), LATER);
        store.fold().unwrap();
    }
    let mut store = Store::open(&killed, true).unwrap();
    write(&mut store, &[remove("later")]);
    let expected = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
    assert_eq!(contents(&store), expected);
    drop(store);
    assert_eq!(contents(&Store::open(&killed, true).unwrap()), expected);
}

#[derive(Debug, Clone)]
enum Act {
    Put(u8, u8),
    Remove(u8),
    /// Puts more than the table takes.
    PutMany(u8),
    Fold,
    Restart,
    Kill,
    /// A write that fails, though it came to the disk.
    Fail(u8, Option<u8>),
}

fn act() -> impl Strategy<Value = Act> {
    let id = || 0..6_u8;
    prop_oneof![
        6 => (id(), any::<u8>()).prop_map(|(id, to)| Act::Put(id, to)),
        4 => id().prop_map(Act::Remove),
        1 => any::<u8>().prop_map(Act::PutMany),
        3 => Just(Act::Fold),
        1 => Just(Act::Restart),
        1 => Just(Act::Kill),
        2 => (id(), any::<Option<u8>>()).prop_map(|(id, to)| Act::Fail(id, to)),
    ]
}

fn one(id: u8, to: Option<u8>) -> Change {
    let id = format!("a{id}");
    match to {
        Some(to) => put(&id, &to.to_string()),
        None => remove(&id),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn records_are_the_same_wherever_they_are(acts in proptest::collection::vec(act(), 1..20)) {
        // In memory, if this machine has such a directory: each check opens the file.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let mut path = dir.path().join("0.redb");
        let mut store = Store::open(&path, false).unwrap();
        let mut expected = Model::new();
        for (number, act) in acts.into_iter().enumerate() {
            let mut changes = Vec::new();
            match act {
                Act::Put(id, to) => changes.push(one(id, Some(to))),
                Act::Remove(id) => changes.push(one(id, None)),
                Act::PutMany(to) => {
                    let ids = 0..u8::try_from(BOUND).unwrap();
                    changes.extend(ids.map(|id| one(id, Some(to))));
                }
                Act::Fold => store.fold().unwrap(),
                Act::Restart => {
                    drop(store);
                    store = Store::open(&path, true).unwrap();
                }
                Act::Kill => {
                    let left = dir.path().join(format!("{}.redb", number + 1));
                    fs::copy(&path, &left).unwrap();
                    path = left;
                    store = Store::open(&path, true).unwrap();
                }
                Act::Fail(id, to) => {
                    store.write(&[one(id, to)]).unwrap();
                    store.database = None;
                    // The next try writes nothing more.
                    store.write(&[]).unwrap();
                }
            }
            write(&mut store, &changes);
            for change in changes {
                let Change::Record(id, record) = change else { unreachable!() };
                expected.remove(id.as_str());
                expected.extend(model(record.as_deref().into_iter()));
            }
            prop_assert_eq!(&contents(&store), &expected);
            let format = if store.unfolded() == 0 { 1 } else { 2 };
            prop_assert_eq!(inspected(&killed(&path)), (expected.clone(), format.into()));
        }
    }
}
