//! Tests of the thread that writes, over a disk that may be full.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;

fn change(key: &str) -> Change {
    Change::Record(key.parse().unwrap(), None)
}

fn key(change: &Change) -> String {
    match change {
        Change::Record(id, _) => id.to_string(),
        Change::Permissions(volume, _) => volume.to_string(),
        Change::NoLoss => "loss".to_owned(),
    }
}

type Log = Arc<Mutex<Vec<String>>>;

/// A disk that may be full, and what is on it; and what was applied.
#[derive(Clone, Default)]
struct Fake {
    full: Arc<AtomicBool>,
    written: Log,
    applied: Log,
    /// Whether folds fail.
    unfoldable: Arc<AtomicBool>,
    /// Records to be folded after each write.
    grows: u64,
    unfolded: Arc<AtomicU64>,
}

impl Fake {
    fn log(&self, entries: impl Iterator<Item = String>) -> Result<(), Cause> {
        if self.full.load(Ordering::Relaxed) {
            return Err("the disk is full".into());
        }
        self.written.lock().unwrap().extend(entries);
        Ok(())
    }

    fn written(&self) -> Vec<String> {
        self.written.lock().unwrap().clone()
    }
}

impl Disk for Fake {
    fn write(&mut self, changes: &[Change]) -> Result<(), Cause> {
        self.log(changes.iter().map(key))?;
        self.unfolded.fetch_add(self.grows, Ordering::Relaxed);
        Ok(())
    }

    fn apply(&self, change: Change) {
        self.applied.lock().unwrap().push(key(&change));
    }

    fn fold(&mut self) -> Result<(), Cause> {
        if self.unfoldable.load(Ordering::Relaxed) {
            return Err("it cannot be folded".into());
        }
        self.log(std::iter::once("fold".to_owned()))?;
        self.unfolded.store(0, Ordering::Relaxed);
        Ok(())
    }

    fn unfolded(&self) -> u64 {
        self.unfolded.load(Ordering::Relaxed)
    }
}

/// A writer, and its disk, which has so many records to fold after each write.
fn writer(grows: u64) -> (Writer, Fake) {
    let disk = Fake {
        grows,
        ..Fake::default()
    };
    (Writer::start(disk.clone()).unwrap(), disk)
}

#[tokio::test]
async fn deferred_writes_share_the_next_commit() {
    let (writer, disk) = writer(0);
    writer.write_soon(change("a"));
    writer.write(change("b")).await.unwrap();
    assert_eq!(disk.written(), ["a", "b"]);
    writer.write_soon(change("c"));
    drop(writer);
    assert_eq!(disk.written(), ["a", "b", "c"]);
    assert_eq!(*disk.applied.lock().unwrap(), ["b"]);
}

#[tokio::test]
async fn deferred_writes_are_retried_and_refused_writes_are_not() {
    let (writer, disk) = writer(0);
    disk.full.store(true, Ordering::Relaxed);
    writer.write_soon(change("a"));
    let error = writer.write(change("b")).await.unwrap_err();
    assert_eq!(error.to_string(), "the disk is full");
    let mut failing = writer.failing();
    assert_eq!(failing.borrow().as_deref(), Some("the disk is full"));
    disk.full.store(false, Ordering::Relaxed);
    // By itself: no other write asks for it.
    failing.wait_for(Option::is_none).await.unwrap();
    assert_eq!(disk.written(), ["a"]);
    writer.write(change("c")).await.unwrap();
    assert_eq!(disk.written(), ["a", "c"]);
    assert_eq!(*disk.applied.lock().unwrap(), ["c"]);
    let figures = writer.figures();
    // The failed write, and at least the retry that succeeded and the last write.
    assert!(figures.failures.get() >= 1 && figures.commits.read()[&()].count() >= 2);
    assert_eq!(figures.queued.get(), 0);
}

/// Waits until the disk has these writes and folds.
async fn until(disk: &Fake, expected: &[&str]) {
    let holds = async {
        while disk.written() != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), holds).await;
    assert!(waited.is_ok(), "{:?}", disk.written());
}

#[tokio::test]
async fn what_was_written_is_folded_when_nobody_waits_and_in_the_end() {
    let (writer, disk) = writer(1);
    writer.write(change("a")).await.unwrap();
    until(&disk, &["a", "fold"]).await;
    writer.write(change("b")).await.unwrap();
    drop(writer);
    assert_eq!(disk.written(), ["a", "fold", "b", "fold"]);
}

#[tokio::test]
async fn many_changes_are_folded_before_the_next() {
    let (writer, disk) = writer(BOUND / 2);
    for id in ["a", "b", "c"] {
        writer.write(change(id)).await.unwrap();
    }
    drop(writer);
    assert_eq!(disk.written(), ["a", "b", "fold", "c", "fold"]);
}

#[tokio::test]
async fn a_fold_that_fails_is_a_failed_write() {
    let (writer, disk) = writer(BOUND);
    disk.unfoldable.store(true, Ordering::Relaxed);
    writer.write(change("a")).await.unwrap();
    let mut failing = writer.failing();
    let why = failing.wait_for(Option::is_some).await.unwrap().clone();
    assert_eq!(why.as_deref(), Some("it cannot be folded"));
    disk.unfoldable.store(false, Ordering::Relaxed);
    // By itself, as after any other.
    failing.wait_for(Option::is_none).await.unwrap();
    until(&disk, &["a", "fold"]).await;
    assert!(writer.figures().failures.get() >= 1);
}
