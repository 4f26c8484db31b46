//! The one thread that writes to the disk: what many calls want written at the same time costs one commit.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// How long a change that nobody waits for may wait for another with which to share its commit.
const LINGER: Duration = Duration::from_millis(10);

pub(super) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A map in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    /// Records of attachments, by attachment id.
    Attachments,
    /// Permissions that were set here, by volume id.
    Permissions,
}

/// One entry of a table written, or removed (`None`).
#[derive(Debug)]
pub(super) struct Change {
    pub(super) table: Table,
    pub(super) key: String,
    pub(super) value: Option<Vec<u8>>,
}

struct Order {
    change: Change,
    /// Who waits for the disk. Why a commit failed is told to several, so in words.
    done: Option<oneshot::Sender<Result<(), String>>>,
}

/// Hands changes to the thread. Dropping it writes what is left.
pub(super) struct Writer {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// `commit` writes changes in their order, all or none, and returns when they are on disk.
    pub(super) fn start(
        commit: impl Fn(&[Change]) -> Result<(), Cause> + Send + 'static,
    ) -> io::Result<Self> {
        let (orders, received) = channel();
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || run(&received, &commit))?;
        Ok(Self {
            orders: Some(orders),
            thread: Some(thread),
        })
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

    fn send(&self, change: Change, done: Option<oneshot::Sender<Result<(), String>>>) {
        // A thread that has panicked takes none; who waits is told so by the sender's end.
        if let Some(orders) = &self.orders {
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

fn run(orders: &Receiver<Order>, commit: &impl Fn(&[Change]) -> Result<(), Cause>) {
    let mut soon: Vec<Change> = Vec::new();
    while let Ok(first) = orders.recv() {
        let deadline = Instant::now() + LINGER;
        let (mut changes, mut waiting) = (std::mem::take(&mut soon), Vec::new());
        let mut kept = changes.len();
        let mut next = Some(first);
        while let Some(Order { change, done }) = next {
            // What is written soon comes before what is waited for, in each record's history too: a call on it waits
            // for the one before to end.
            match done {
                Some(done) => {
                    changes.push(change);
                    waiting.push(done);
                }
                None => {
                    changes.insert(kept, change);
                    kept += 1;
                }
            }
            next = if waiting.is_empty() {
                let left = deadline.saturating_duration_since(Instant::now());
                orders.recv_timeout(left).ok()
            } else {
                orders.try_recv().ok()
            };
        }
        let result = commit(&changes).map_err(|error| error.to_string());
        if let Err(error) = &result {
            tracing::error!(error, "the journal cannot be written");
            changes.truncate(kept);
            soon = changes;
        }
        for done in waiting {
            // Whoever does not wait any more needs no answer.
            let _ = done.send(result.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn change(key: &str) -> Change {
        Change {
            table: Table::Attachments,
            key: key.to_owned(),
            value: None,
        }
    }

    type Written = Arc<Mutex<Vec<String>>>;

    /// A writer that cannot commit what has that key in it, and what it has committed.
    fn writer(cannot: &'static str) -> (Writer, Written) {
        let written = Written::default();
        let log = Arc::clone(&written);
        let writer = Writer::start(move |changes| {
            if changes.iter().any(|change| change.key == cannot) {
                return Err("the disk is full".into());
            }
            let keys = changes.iter().map(|change| change.key.clone());
            log.lock().unwrap().extend(keys);
            Ok(())
        });
        (writer.unwrap(), written)
    }

    #[tokio::test]
    async fn what_can_wait_is_written_with_what_cannot_or_in_the_end() {
        let (writer, written) = writer("none");
        writer.write_soon(change("a"));
        writer.write(change("b")).await.unwrap();
        assert_eq!(*written.lock().unwrap(), ["a", "b"]);
        writer.write_soon(change("c"));
        drop(writer);
        assert_eq!(*written.lock().unwrap(), ["a", "b", "c"]);
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_tried_again_and_what_was_refused_is_not() {
        let (writer, written) = writer("b");
        writer.write_soon(change("a"));
        let error = writer.write(change("b")).await.unwrap_err();
        assert_eq!(error.to_string(), "the disk is full");
        writer.write(change("c")).await.unwrap();
        assert_eq!(*written.lock().unwrap(), ["a", "c"]);
    }
}
