//! The turns of calls: each call waits for its own before anything is begun, and has it until its task ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Error;
use super::engine::Engine;
use super::figures::Phase;
use super::inner::Inner;
use super::schedule::{Full, Key, Schedule, Ticket};
use crate::journal::Record;
use crate::model::{Actor, AttachmentId, CallerId, WorkLimits};

/// The work under way. Clones are the same work.
#[derive(Debug, Clone)]
pub(super) struct Work(Arc<Mutex<Line>>);

#[derive(Debug)]
struct Line {
    schedule: Schedule,
    /// Notified when the turn of a waiting job has come.
    waiting: HashMap<Ticket, oneshot::Sender<()>>,
}

impl Line {
    /// Notifies the jobs whose turns have come.
    fn notify(&mut self, runs: Vec<Ticket>) {
        for ticket in runs {
            if let Some(waiting) = self.waiting.remove(&ticket) {
                // A receiver that is gone is about to leave.
                let _ = waiting.send(());
            }
        }
    }
}

impl Work {
    /// No work yet.
    pub(super) fn new(limits: WorkLimits) -> Self {
        Self(Arc::new(Mutex::new(Line {
            schedule: Schedule::new(limits),
            waiting: HashMap::new(),
        })))
    }

    /// Goes over to other limits. What runs goes on, though there may be more of it than may begin.
    pub(super) fn limit(&self, limits: WorkLimits) {
        let mut line = self.line();
        let runs = line.schedule.limit(limits);
        line.notify(runs);
    }

    /// Gets in line; [`Turn::come`] waits for the turn.
    ///
    /// # Errors
    /// Where too many are in line.
    fn enter(&self, keys: Vec<Key>) -> Result<Turn, Full> {
        let mut line = self.line();
        let (ticket, runs) = line.schedule.enter(keys, true)?;
        let mut coming = None;
        if !runs {
            let (sender, receiver) = oneshot::channel();
            line.waiting.insert(ticket, sender);
            coming = Some(receiver);
        }
        Ok(Turn {
            work: self.clone(),
            ticket,
            coming,
        })
    }

    /// Takes a turn of reconcile for the record's servers, without a wait: callers come first.
    ///
    /// # Errors
    /// Where the callers, or reconcile itself, have all turns of a server.
    pub(super) fn try_reconcile(&self, record: &Record) -> Result<Turn, Full> {
        let servers = record.host.plan.servers().into_iter();
        let keys = servers.flat_map(|server| [Key::Server(server.clone()), Key::Reconcile(server)]);
        let (ticket, _) = self.line().schedule.enter(keys.collect(), false)?;
        Ok(Turn {
            work: self.clone(),
            ticket,
            coming: None,
        })
    }

    /// How many calls are at work, those of reconcile among them, and how many wait for their turn.
    pub(super) fn counts(&self) -> (usize, usize) {
        self.line().schedule.counts()
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among the work, left by the drop.
#[derive(Debug)]
pub(super) struct Turn {
    work: Work,
    ticket: Ticket,
    /// Resolves when the turn has come; `None`: the turn has come.
    coming: Option<oneshot::Receiver<()>>,
}

impl Turn {
    /// Waits for the turn.
    async fn come(&mut self) {
        if let Some(coming) = &mut self.coming {
            // The sender is dropped with this turn only.
            let _ = coming.await;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut line = self.work.line();
        line.waiting.remove(&self.ticket);
        let runs = line.schedule.leave(self.ticket);
        line.notify(runs);
    }
}

/// What a call is counted by, and until when its caller waits.
#[derive(Debug)]
pub(super) struct Job {
    keys: Vec<Key>,
    deadline: Option<Instant>,
}

impl Job {
    /// Work of a caller for these servers, each named once.
    pub(super) fn new(actor: &Actor, servers: Vec<String>, deadline: Option<Instant>) -> Self {
        let mut keys: Vec<Key> = servers.into_iter().map(Key::Server).collect();
        keys.extend([Key::Caller(CallerId::from(actor)), Key::Daemon]);
        Self { keys, deadline }
    }
}

impl Engine {
    /// Waits for a call's turn. Nothing has begun: a caller that goes away meanwhile leaves the line.
    ///
    /// # Errors
    /// Where too much work waits, the deadline passes, or the daemon stops.
    pub(super) async fn turn(&self, job: Job) -> Result<Turn, Error> {
        let began = Instant::now();
        let mut turn = self.0.work.enter(job.keys)?;
        if turn.coming.is_some() {
            tracing::info!("waiting for its turn: as much work as may be is under way");
        }
        let came = tokio::select! {
            biased;
            () = self.0.stopping.cancelled() => Err(Error::ShuttingDown),
            () = passed(job.deadline) => Err(Error::DeadlinePassed { before: "its turn came" }),
            () = turn.come() => Ok(turn),
        };
        self.0.figures.phase(Phase::Turn, began, came.is_ok());
        came
    }
}

impl Inner {
    /// The servers of a recorded attachment; none without a record.
    pub(super) async fn servers_of(&self, id: &AttachmentId) -> Result<Vec<String>, Error> {
        let record = self.parts.journal.get(id).await?;
        Ok(record.map_or_else(Vec::new, |record| record.host.plan.servers()))
    }
}

/// Resolves at the deadline; never without one.
pub(super) async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Refuses to go on after the deadline.
///
/// # Errors
/// Where the deadline has passed.
pub(super) fn in_time(deadline: Option<Instant>, before: &'static str) -> Result<(), Error> {
    match deadline {
        Some(deadline) if deadline <= Instant::now() => Err(Error::DeadlinePassed { before }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_turn_ends_with_its_drop_and_who_waits_no_more_leaves_the_line() {
        let work = Work::new(WorkLimits {
            all: 1,
            per_caller: 1,
            per_server: 1,
        });
        let enter = || work.enter(vec![Key::Daemon]).unwrap();
        let mut first = enter();
        assert!(futures::poll!(Box::pin(first.come())).is_ready());
        let (mut second, mut third) = (enter(), enter());
        assert!(work.enter(vec![Key::Daemon]).is_err());
        assert!(futures::poll!(Box::pin(second.come())).is_pending());
        drop(first);
        assert!(futures::poll!(Box::pin(second.come())).is_ready());
        assert!(futures::poll!(Box::pin(third.come())).is_pending());
        // Its turn comes while it leaves, and goes on to the next.
        let mut fourth = enter();
        drop(second);
        drop(third);
        assert!(futures::poll!(Box::pin(fourth.come())).is_ready());
        drop(fourth);
        assert!(work.line().waiting.is_empty());
        assert!(futures::poll!(Box::pin(enter().come())).is_ready());
    }
}
