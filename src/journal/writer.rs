//! The one thread that writes to the disk: what many calls want written at the same time costs one commit.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::store::Change;
use crate::figures::{Counter, Level, Timings};

/// How long a change that nobody waits for may wait for another with which to share its commit.
const LINGER: Duration = Duration::from_millis(10);

/// How often a write that failed is tried again, though nobody asks for another.
const AGAIN: Duration = Duration::from_secs(1);

/// What the journal counts.
#[derive(Debug, Default)]
pub struct JournalFigures {
    /// How long the commits took that succeeded.
    pub commits: Timings<()>,
    /// Commits that failed, each try anew.
    pub failures: Counter,
    /// Changes that wait for a commit to begin.
    pub queued: Level,
}

pub(super) type Cause = Box<dyn std::error::Error + Send + Sync>;

struct Order {
    change: Change,
    /// Who waits for the disk.
    done: Option<Done>,
}

/// Answers a caller. Several may get the error of one commit: so in words.
type Done = oneshot::Sender<Result<(), String>>;

/// Hands changes to the thread. Dropping it writes what is left.
pub(super) struct Writer {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    failing: watch::Receiver<Option<String>>,
    figures: Arc<JournalFigures>,
}

impl Writer {
    /// `commit` writes changes in their order, all or none, and returns when they are on disk; `apply` is called for each of them that
    /// somebody waits for, before that one is answered.
    pub(super) fn start(
        commit: impl FnMut(&[Change]) -> Result<(), Cause> + Send + 'static,
        apply: impl Fn(Change) + Send + 'static,
    ) -> io::Result<Self> {
        let (orders, received) = channel();
        let (failed, failing) = watch::channel(None);
        let figures = Arc::<JournalFigures>::default();
        let mut thread = Thread {
            commit,
            apply,
            failed,
            figures: Arc::clone(&figures),
            soon: Vec::new(),
        };
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || thread.run(&received))?;
        Ok(Self {
            orders: Some(orders),
            thread: Some(thread),
            failing,
            figures,
        })
    }

    /// Why the last commit failed; `None`: it did not.
    pub(super) fn failing(&self) -> watch::Receiver<Option<String>> {
        self.failing.clone()
    }

    /// What the thread counts.
    pub(super) fn figures(&self) -> Arc<JournalFigures> {
        Arc::clone(&self.figures)
    }

    /// Writes a change, and with it whatever was to be written soon.
    pub(super) async fn write(&self, change: Change) -> Result<(), Cause> {
        let (done, written) = oneshot::channel();
        self.send(change, Some(done));
        // Not answered: the thread has panicked.
        Ok(written.await??)
    }

    /// Writes a change within moments. Where that fails it is tried again with the next.
    pub(super) fn write_soon(&self, change: Change) {
        self.send(change, None);
    }

    fn send(&self, change: Change, done: Option<Done>) {
        // A thread that has panicked takes none; who waits is told so by the sender's end.
        if let Some(orders) = &self.orders {
            self.figures.queued.up();
            let _ = orders.send(Order { change, done });
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread's own.
struct Thread<C, A> {
    commit: C,
    apply: A,
    failed: watch::Sender<Option<String>>,
    figures: Arc<JournalFigures>,
    /// Changes that nobody waits for, and that could not be written.
    soon: Vec<Change>,
}

impl<C: FnMut(&[Change]) -> Result<(), Cause>, A: Fn(Change)> Thread<C, A> {
    fn run(&mut self, orders: &Receiver<Order>) {
        loop {
            let failing = self.failed.borrow().is_some();
            let next = match failing {
                false => orders.recv().map_err(RecvTimeoutError::from),
                true => orders.recv_timeout(AGAIN),
            };
            match next {
                Ok(first) => self.write(first, orders),
                Err(RecvTimeoutError::Timeout) => {
                    let soon = std::mem::take(&mut self.soon);
                    self.write_out(soon, Vec::new());
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Writes the order, and with it those that come meanwhile.
    fn write(&mut self, first: Order, orders: &Receiver<Order>) {
        let deadline = Instant::now() + LINGER;
        // Changes to be written soon come before those that are waited for, in each record's history too: a call on a record waits for
        // the one before to end.
        let (mut soon, mut waiting) = (std::mem::take(&mut self.soon), Vec::new());
        let mut next = Some(first);
        while let Some(Order { change, done }) = next {
            self.figures.queued.down();
            match done {
                Some(done) => waiting.push((change, done)),
                None => soon.push(change),
            }
            next = if waiting.is_empty() {
                let left = deadline.saturating_duration_since(Instant::now());
                orders.recv_timeout(left).ok()
            } else {
                orders.try_recv().ok()
            };
        }
        self.write_out(soon, waiting);
    }

    fn write_out(&mut self, soon: Vec<Change>, waiting: Vec<(Change, Done)>) {
        let kept = soon.len();
        let mut changes = soon;
        let (waited, answers): (Vec<Change>, Vec<Done>) = waiting.into_iter().unzip();
        changes.extend(waited);
        let began = Instant::now();
        let result = (self.commit)(&changes).map_err(|error| error.to_string());
        match &result {
            Ok(()) => self.figures.commits.note((), began.elapsed()),
            Err(_) => self.figures.failures.add(),
        }
        match &result {
            Ok(()) => changes.into_iter().skip(kept).for_each(&self.apply),
            Err(_) => {
                changes.truncate(kept);
                self.soon = changes;
            }
        }
        let failed = result.clone().err();
        self.failed.send_if_modified(|before| {
            let changed = *before != failed;
            *before = failed;
            changed
        });
        for done in answers {
            // Nobody waits any more for an answer that cannot be sent.
            let _ = done.send(result.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

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
    struct Disk {
        full: Arc<AtomicBool>,
        written: Log,
        applied: Log,
    }

    fn writer() -> (Writer, Disk) {
        let disk = Disk {
            full: Arc::default(),
            written: Log::default(),
            applied: Log::default(),
        };
        let (full, written) = (disk.full.clone(), disk.written.clone());
        let applied = disk.applied.clone();
        let commit = move |changes: &[Change]| {
            if full.load(Ordering::Relaxed) {
                return Err("the disk is full".into());
            }
            written.lock().unwrap().extend(changes.iter().map(key));
            Ok(())
        };
        let apply = move |change| applied.lock().unwrap().push(key(&change));
        (Writer::start(commit, apply).unwrap(), disk)
    }

    #[tokio::test]
    async fn deferred_writes_share_the_next_commit() {
        let (writer, disk) = writer();
        writer.write_soon(change("a"));
        writer.write(change("b")).await.unwrap();
        assert_eq!(*disk.written.lock().unwrap(), ["a", "b"]);
        writer.write_soon(change("c"));
        drop(writer);
        assert_eq!(*disk.written.lock().unwrap(), ["a", "b", "c"]);
        assert_eq!(*disk.applied.lock().unwrap(), ["b"]);
    }

    #[tokio::test]
    async fn deferred_writes_are_retried_and_refused_writes_are_not() {
        let (writer, disk) = writer();
        disk.full.store(true, Ordering::Relaxed);
        writer.write_soon(change("a"));
        let error = writer.write(change("b")).await.unwrap_err();
        assert_eq!(error.to_string(), "the disk is full");
        let mut failing = writer.failing();
        assert_eq!(failing.borrow().as_deref(), Some("the disk is full"));
        disk.full.store(false, Ordering::Relaxed);
        // By itself: no other write asks for it.
        failing.wait_for(Option::is_none).await.unwrap();
        assert_eq!(*disk.written.lock().unwrap(), ["a"]);
        writer.write(change("c")).await.unwrap();
        assert_eq!(*disk.written.lock().unwrap(), ["a", "c"]);
        assert_eq!(*disk.applied.lock().unwrap(), ["c"]);
        let figures = writer.figures();
        // The failed write, and at least the retry that succeeded and the last write.
        assert!(figures.failures.get() >= 1 && figures.commits.read()[&()].count() >= 2);
        assert_eq!(figures.queued.get(), 0);
    }
}
