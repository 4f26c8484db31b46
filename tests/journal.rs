//! The journal on a file system that runs full: in a process of its own, as the limit on file sizes is one of a process.

#![cfg(test)]

mod fakes;

use std::sync::Arc;

use fakes::{World, attach, by_root, smb};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use volattach::journal::{Journal, Record, RedbJournal};

/// Lets no file grow beyond that size; `None`: any.
fn limit_files(bytes: Option<u64>) {
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, bytes.unwrap_or(hard), hard).unwrap();
}

/// A record as an attach leaves it, with that id.
async fn record(id: &str) -> Record {
    let world = World::new();
    let request = attach(id, "v1", smb("v1"));
    world.engine().attach(by_root(request)).await.unwrap();
    world.records().remove(0)
}

#[tokio::test]
async fn a_full_disk_fails_writes_until_there_is_room_again() {
    // The journal's thread has the mask too: a write beyond the limit fails (EFBIG), and ends nobody.
    SigSet::from(Signal::SIGXFSZ).thread_block().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.redb");
    let journal = RedbJournal::open(&path, false).unwrap();
    let template = record("template").await;
    let with_id = |number: u32| {
        Arc::new(Record {
            id: format!("a{number}").parse().unwrap(),
            ..template.clone()
        })
    };
    journal.put(&with_id(0)).await.unwrap();
    limit_files(Some(std::fs::metadata(&path).unwrap().len()));
    let mut written = vec![with_id(0)];
    let refused = loop {
        let next = with_id(written.len().try_into().unwrap());
        match journal.put(&next).await {
            Ok(()) => written.push(next),
            Err(error) => break error,
        }
        assert!(written.len() < 100_000, "the file does not grow");
    };
    let mut failing = journal.failing();
    assert!(failing.borrow().is_some(), "{refused:?}");
    let condition = journal.condition().await;
    assert_eq!(condition.write_failure, *failing.borrow());
    let room = condition.room.unwrap();
    assert_eq!(room.directory, dir.path());
    assert!(room.size > 0 && room.free <= room.size, "{room:?}");
    written.sort_by(|one, other| one.id.cmp(&other.id));
    assert_eq!(journal.all().await.unwrap(), written, "reads go on");

    limit_files(None);
    failing.wait_for(Option::is_none).await.unwrap();
    assert_eq!(journal.condition().await.write_failure, None);
    journal.remove(&with_id(0).id).await.unwrap();
    written.retain(|record| record.id != with_id(0).id);
    drop(journal);
    let journal = RedbJournal::open(&path, false).unwrap();
    assert_eq!(journal.all().await.unwrap(), written);
}
