//! Counts the workers that exist, by the server that they work for, and bounds those that outlived their kill.
//!
//! Invariants: a worker is counted until it is reaped, whoever waits for that; once a worker of a server is stuck, no more than
//! [`PER_SERVER`] of that server exist at a time; a server none of whose workers is stuck is never refused one, whatever another
//! server's workers do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::broadcast;

use super::WorkerError;

/// Workers of a server that may exist while at least one of them is stuck. A stuck worker costs a process, and the next one most
/// likely hangs in the same place; a few show whether each of the server's mounts or devices hangs, or one alone.
pub const PER_SERVER: usize = 4;

/// Stuck workers in all beyond which a server with a stuck worker gets no other: sixteen dead servers' worth, some hundred MiB, and far
/// below the number of processes that systemd lets a unit have by default.
pub const IN_ALL: usize = 64;

/// A worker that sleeps in the kernel beyond its deadline and its kill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StuckWorker {
    /// The process.
    pub pid: u32,
    /// The server that it works for, in words.
    pub server: String,
    /// Its jobs, in words.
    pub job: String,
    /// Time when it outlived its kill, UTC.
    pub since: SystemTime,
}

/// Stuck workers reaped that a slow listener may fall behind.
const BACKLOG: usize = 64;

/// The workers that exist. Clones are the same registry.
#[derive(Debug, Clone)]
pub struct Registry {
    entries: Arc<Mutex<Entries>>,
    freed: broadcast::Sender<Arc<str>>,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            entries: Arc::default(),
            freed: broadcast::channel(BACKLOG).0,
        }
    }
}

#[derive(Debug, Default)]
struct Entries {
    /// Number of the latest entry.
    latest: u64,
    workers: BTreeMap<u64, Worker>,
}

#[derive(Debug)]
struct Worker {
    server: Arc<str>,
    pid: u32,
    job: String,
    /// `None`: it has time left.
    stuck: Option<SystemTime>,
}

impl Entries {
    /// Stuck workers of the server, and all of the server.
    fn of(&self, server: &str) -> (Vec<u32>, usize) {
        let own = self.workers.values().filter(|it| *it.server == *server);
        let (mut stuck, mut all) = (Vec::new(), 0);
        for worker in own {
            all += 1;
            stuck.extend(worker.stuck.map(|_| worker.pid));
        }
        (stuck, all)
    }

    fn refusal(&self, server: &str) -> Option<WorkerError> {
        let (pids, all) = self.of(server);
        let in_all = || {
            self.workers
                .values()
                .filter(|it| it.stuck.is_some())
                .count()
        };
        let full = !pids.is_empty() && (all >= PER_SERVER || in_all() >= IN_ALL);
        full.then(|| WorkerError::Stuck {
            server: server.to_owned(),
            pids,
        })
    }
}

impl Registry {
    /// Counts a worker that is about to be started for a server.
    ///
    /// # Errors
    /// [`WorkerError::Stuck`] where too many of the server's are stuck.
    pub fn enter(&self, server: &Arc<str>) -> Result<Entry, WorkerError> {
        let mut entries = self.entries();
        if let Some(refusal) = entries.refusal(server) {
            return Err(refusal);
        }
        entries.latest += 1;
        let number = entries.latest;
        let worker = Worker {
            server: server.clone(),
            pid: 0,
            job: String::new(),
            stuck: None,
        };
        entries.workers.insert(number, worker);
        drop(entries);
        Ok(Entry {
            registry: self.clone(),
            number,
        })
    }

    /// The stuck workers, those that are stuck longest first.
    #[must_use]
    pub fn stuck(&self) -> Vec<StuckWorker> {
        let entries = self.entries();
        let stuck = entries.workers.values().filter_map(|worker| {
            Some(StuckWorker {
                pid: worker.pid,
                server: worker.server.as_ref().to_owned(),
                job: worker.job.clone(),
                since: worker.stuck?,
            })
        });
        let mut stuck: Vec<StuckWorker> = stuck.collect();
        stuck.sort_by_key(|worker| worker.since);
        stuck
    }

    /// How many workers exist, and how many of them are stuck.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let entries = self.entries();
        let stuck = entries.workers.values().filter(|it| it.stuck.is_some());
        (entries.workers.len(), stuck.count())
    }

    /// The servers of stuck workers that are reaped, from now on.
    #[must_use]
    pub fn freed(&self) -> broadcast::Receiver<Arc<str>> {
        self.freed.subscribe()
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker's place in the registry; the drop says that the worker is reaped.
#[derive(Debug)]
pub struct Entry {
    registry: Registry,
    number: u64,
}

impl Entry {
    /// Notes the process.
    pub fn started(&self, pid: u32) {
        self.change(|worker| worker.pid = pid);
    }

    /// Notes the jobs, in words.
    pub(super) fn given(&self, job: String) {
        self.change(|worker| worker.job = job);
    }

    /// Notes that the worker outlived its kill.
    pub fn outlived(&self) {
        self.change(|worker| worker.stuck = Some(SystemTime::now()));
    }

    fn change(&self, change: impl FnOnce(&mut Worker)) {
        if let Some(worker) = self.registry.entries().workers.get_mut(&self.number) {
            change(worker);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let reaped = self.registry.entries().workers.remove(&self.number);
        if let Some(stuck) = reaped.filter(|worker| worker.stuck.is_some()) {
            // An error only means that nobody listens.
            let _ = self.registry.freed.send(stuck.server);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str) -> Arc<str> {
        name.into()
    }

    fn stuck(registry: &Registry, server: &Arc<str>, pid: u32) -> Entry {
        let entry = registry.enter(server).unwrap();
        entry.started(pid);
        entry.given("unmount".to_owned());
        entry.outlived();
        entry
    }

    #[test]
    fn a_server_with_stuck_workers_gets_a_few_and_then_none_until_one_is_reaped() {
        let registry = Registry::default();
        let (ill, well) = (server("ill"), server("well"));
        let mut entries: Vec<Entry> = (1..=3).map(|pid| stuck(&registry, &ill, pid)).collect();
        let working = registry.enter(&ill).unwrap();
        let refused = registry.enter(&ill).unwrap_err();
        let WorkerError::Stuck { server, pids } = &refused else {
            panic!("{refused}")
        };
        assert_eq!((server.as_str(), &pids[..]), ("ill", &[1, 2, 3][..]));
        drop(registry.enter(&well).unwrap());
        drop(working);
        entries.push(stuck(&registry, &ill, 4));
        assert!(registry.enter(&ill).is_err());
        let known = registry.stuck();
        assert_eq!(known.len(), 4);
        assert_eq!(registry.counts(), (4, 4));
        assert_eq!((known[0].pid, known[0].job.as_str()), (1, "unmount"));
        let mut freed = registry.freed();
        entries.remove(0);
        assert_eq!(freed.try_recv().unwrap().as_ref(), "ill");
        assert_eq!(registry.stuck().len(), 3);
        drop(registry.enter(&ill).unwrap());
    }

    #[test]
    fn a_server_without_a_stuck_worker_has_no_bound() {
        let registry = Registry::default();
        let one = server("one");
        let all: Vec<Entry> = (0..100).map(|_| registry.enter(&one).unwrap()).collect();
        assert!(registry.stuck().is_empty());
        all[0].outlived();
        assert!(registry.enter(&one).is_err());
    }

    #[test]
    fn beyond_the_bound_in_all_a_server_has_one_that_is_stuck() {
        let registry = Registry::default();
        let each: Vec<Entry> = (0..IN_ALL)
            .map(|number| stuck(&registry, &server(&number.to_string()), 1))
            .collect();
        assert!(registry.enter(&server("0")).is_err());
        let other = stuck(&registry, &server("other"), 1);
        assert!(registry.enter(&server("other")).is_err());
        drop(other);
        drop(each);
        assert!(registry.enter(&server("0")).is_ok());
    }
}
