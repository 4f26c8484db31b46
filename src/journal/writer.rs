//! The one thread that writes to the disk: what many calls want written at the same time costs one commit, and what can be done later is
//! done while nobody waits.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::contents::Change;
use crate::figures::{Counter, Level, Timings};

/// How long a change that nobody waits for may wait for another with which to share its commit.
const LINGER: Duration = Duration::from_millis(10);

/// How often a write that failed is tried again, though nobody asks for another.
const AGAIN: Duration = Duration::from_secs(1);

/// How long no change comes before those written are folded. Shorter, the pauses within one attach would be taken for idleness.
const IDLE: Duration = Duration::from_millis(100);

/// Records changed since the last fold with which the next does not wait for idleness. Beside 100,000 records a fold of so many took as long
/// as some four commits, and one of twice as many as ten (decision 001).
///
/// That fold is a commit of its own, after the callers of the one before are answered: in one commit with their changes those callers would
/// always wait for it, and so only those wait whose changes come meanwhile.
pub(super) const BOUND: u64 = 64;

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

/// What the thread writes to.
pub(super) trait Disk: Send + 'static {
    /// Writes changes in their order, all or none; they are on disk when this returns.
    fn write(&mut self, changes: &[Change]) -> Result<(), Cause>;
    /// Takes over a change that was written and that somebody waits for, before that caller is answered.
    fn apply(&self, change: Change);
    /// Writes records that were changed to their last place, all or none, which makes no change.
    fn fold(&mut self) -> Result<(), Cause>;
    /// Number of records to be folded.
    fn unfolded(&self) -> u64;
}

struct Order {
    change: Change,
    /// Who waits for the disk.
    done: Option<Done>,
}

/// Answers a caller. Several may get the error of one commit: so in words.
type Done = oneshot::Sender<Result<(), String>>;

/// Hands changes to the thread. Dropping it writes and folds what is left.
pub(super) struct Writer {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    failing: watch::Receiver<Option<String>>,
    figures: Arc<JournalFigures>,
}

impl Writer {
    pub(super) fn start(disk: impl Disk) -> io::Result<Self> {
        let (orders, received) = channel();
        let (failed, failing) = watch::channel(None);
        let figures = Arc::<JournalFigures>::default();
        let mut thread = Thread {
            disk,
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
struct Thread<D> {
    disk: D,
    failed: watch::Sender<Option<String>>,
    figures: Arc<JournalFigures>,
    /// Changes that nobody waits for, and that could not be written.
    soon: Vec<Change>,
}

impl<D: Disk> Thread<D> {
    fn run(&mut self, orders: &Receiver<Order>) {
        loop {
            let failing = self.failed.borrow().is_some();
            let next = match (failing, self.disk.unfolded()) {
                (true, _) => orders.recv_timeout(AGAIN),
                (false, 0) => orders.recv().map_err(RecvTimeoutError::from),
                (false, _) => orders.recv_timeout(IDLE),
            };
            match next {
                Ok(first) => self.write(first, orders),
                Err(RecvTimeoutError::Timeout) if failing => {
                    let soon = std::mem::take(&mut self.soon);
                    self.write_out(soon, Vec::new());
                }
                Err(RecvTimeoutError::Timeout) => self.fold(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if self.failed.borrow().is_some() || self.disk.unfolded() > 0 {
            self.fold();
        }
        if let Some(why) = &*self.failed.borrow() {
            tracing::warn!(
                why,
                "the journal's last write failed: changes that no caller waited for may be lost, and an older build may refuse the file"
            );
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
        let result = self.disk.write(&changes).map_err(|error| error.to_string());
        match &result {
            Ok(()) => {
                let waited = changes.into_iter().skip(kept);
                waited.for_each(|change| self.disk.apply(change));
            }
            Err(_) => {
                changes.truncate(kept);
                self.soon = changes;
            }
        }
        self.note(began, &result);
        for done in answers {
            // Nobody waits any more for an answer that cannot be sent.
            let _ = done.send(result.clone());
        }
        if result.is_ok() && self.disk.unfolded() >= BOUND {
            self.fold();
        }
    }

    /// Folds what was written. A failure is one like any other: health reports it, and the next try opens the file anew.
    fn fold(&mut self) {
        let began = Instant::now();
        let result = self.disk.fold().map_err(|error| error.to_string());
        self.note(began, &result);
    }

    /// Notes how a commit came out.
    fn note(&self, began: Instant, result: &Result<(), String>) {
        match result {
            Ok(()) => self.figures.commits.note((), began.elapsed()),
            Err(_) => self.figures.failures.add(),
        }
        let failed = result.clone().err();
        self.failed.send_if_modified(|before| {
            let changed = *before != failed;
            *before = failed;
            changed
        });
    }
}

#[cfg(test)]
mod tests;
