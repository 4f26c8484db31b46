//! Whose turn it is: bounds the work of each caller, for each server and in all, and keeps the rest in line.
//!
//! ```text
//!   enter ──▶ waiting ──▶ running ──▶ leave        no room to wait: refused, and nothing was begun
//!                └────── leave ──────────▲         (a waiting caller goes away, or its deadline passes)
//! ```
//!
//! A job has a place with each of its keys: its caller, its servers, the daemon. It runs if every key has room. Invariants:
//! - no key has more running jobs than its bound, and no more waiting ones than twice that;
//! - a waiting job holds no running place: a job that waits for a dead server takes nothing from its caller's other jobs, nor from the
//!   jobs of other callers. So there is no deadlock: nobody holds a place while waiting for another;
//! - after each change, the waiting jobs are looked at in the order of their arrival, and each that can run does: nobody waits while there is
//!   room, and among jobs of the same keys the first comes first;
//! - nobody waits for ever while running jobs end. Two keys of a job may have room at different times, and younger jobs take the last room
//!   of each meanwhile. The job counts how often that happens at each key. Once it has happened [`PASSES`] times at every key that is full
//!   now, younger jobs get no more room at those keys until the job runs. A job that waits for a dead server alone never comes to that: its
//!   turn at the server has not come, so nobody has taken it.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::model::{CallerId, WorkLimits};

/// How often younger jobs may take the last room of a key before a waiting job.
const PASSES: u32 = 8;

/// Something with a bound on the work under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// A storage server, by name or address as [`crate::model::HostPlan::servers`] gives it.
    Server(String),
    /// The work of reconcile for a server.
    Reconcile(String),
    /// A caller.
    Caller(CallerId),
    /// The whole daemon.
    Daemon,
}

/// A job, by its place in the order of arrival.
pub(super) type Ticket = u64;

/// No room: neither to run nor to wait.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} {running} calls at work and {waiting} that wait for their turn, and may have no more (limits.{}): nothing was begun, try \
     again when some have ended{}",
    self.subject(), self.setting(), self.advice()
)]
pub struct Full {
    /// The full key.
    pub(super) key: Key,
    running: u32,
    waiting: u32,
}

impl Full {
    fn subject(&self) -> String {
        match &self.key {
            Key::Server(name) | Key::Reconcile(name) => format!("the server {name} has"),
            Key::Caller(_) => "this caller has".to_owned(),
            Key::Daemon => "the callers of this host together have".to_owned(),
        }
    }

    fn setting(&self) -> &'static str {
        match self.key {
            Key::Server(_) | Key::Reconcile(_) => "work_per_server",
            Key::Caller(_) => "work_per_caller",
            Key::Daemon => "work",
        }
    }

    fn advice(&self) -> &'static str {
        match self.key {
            Key::Server(_) | Key::Reconcile(_) => ", and look whether the server answers",
            Key::Caller(_) | Key::Daemon => "",
        }
    }
}

/// The jobs of a key.
#[derive(Debug, Default)]
struct Load {
    running: u32,
    waiting: u32,
}

/// A key of a waiting job.
#[derive(Debug)]
struct Wanted {
    key: Key,
    /// How often a younger job has taken the last room of the key.
    passed: u32,
}

/// All jobs. Pure.
#[derive(Debug)]
pub(super) struct Schedule {
    limits: WorkLimits,
    loads: HashMap<Key, Load>,
    running: HashMap<Ticket, Vec<Key>>,
    /// In the order of arrival.
    waiting: BTreeMap<Ticket, Vec<Wanted>>,
    /// Keys whose room is kept for waiting jobs that were passed too often.
    kept: HashSet<Key>,
    last: Ticket,
}

impl Schedule {
    /// Without jobs.
    pub(super) fn new(limits: WorkLimits) -> Self {
        Self {
            limits,
            loads: HashMap::new(),
            running: HashMap::new(),
            waiting: BTreeMap::new(),
            kept: HashSet::new(),
            last: 0,
        }
    }

    /// Goes over to other limits; returns the waiting jobs that run now.
    pub(super) fn limit(&mut self, limits: WorkLimits) -> Vec<Ticket> {
        self.limits = limits;
        self.run_waiting()
    }

    /// Takes a job with these keys, each once; returns its ticket, and whether it runs. A job that `waits` may wait for its turn.
    ///
    /// # Errors
    /// Where it cannot run now, and does not wait or too many do.
    pub(super) fn enter(&mut self, keys: Vec<Key>, waits: bool) -> Result<(Ticket, bool), Full> {
        let full = |key: &&Key| !self.has_room(key) || self.kept.contains(key);
        let runs = !keys.iter().any(|key| full(&key));
        if !runs {
            let crowded = |key: &&Key| match waits {
                true => self.load(key).1 >= self.bound(key).saturating_mul(2),
                false => full(key),
            };
            if let Some(key) = keys.iter().find(crowded) {
                let (running, waiting) = self.load(key);
                return Err(Full {
                    key: key.clone(),
                    running,
                    waiting,
                });
            }
        }
        self.last += 1;
        if runs {
            self.run(self.last, keys);
        } else {
            for key in &keys {
                self.loads.entry(key.clone()).or_default().waiting += 1;
            }
            let wanted = keys.into_iter().map(|key| Wanted { key, passed: 0 });
            self.waiting.insert(self.last, wanted.collect());
        }
        Ok((self.last, runs))
    }

    /// Ends a job, running or waiting; returns those that run now.
    pub(super) fn leave(&mut self, ticket: Ticket) -> Vec<Ticket> {
        if let Some(keys) = self.running.remove(&ticket) {
            for key in keys {
                self.change(&key, |load| load.running = load.running.saturating_sub(1));
            }
        } else {
            self.take_waiting(ticket);
        }
        self.run_waiting()
    }

    /// Runs each waiting job that can, the oldest first.
    fn run_waiting(&mut self) -> Vec<Ticket> {
        self.kept.clear();
        let mut started = Vec::new();
        let tickets: Vec<Ticket> = self.waiting.keys().copied().collect();
        for ticket in tickets {
            let Some(wanted) = self.waiting.get(&ticket) else {
                continue;
            };
            let runs = wanted
                .iter()
                .all(|it| self.has_room(&it.key) && !self.kept.contains(&it.key));
            if runs {
                let keys = self.take_waiting(ticket);
                self.run(ticket, keys);
                started.push(ticket);
                continue;
            }
            let is_passed = |it: &&Wanted| it.passed >= PASSES;
            let is_next = wanted
                .iter()
                .all(|it| is_passed(&it) || self.has_room(&it.key));
            if is_next {
                let passed = wanted.iter().filter(is_passed);
                let keys: Vec<Key> = passed.map(|it| it.key.clone()).collect();
                self.kept.extend(keys);
            }
        }
        started
    }

    /// Removes a waiting job from the line; returns its keys.
    fn take_waiting(&mut self, ticket: Ticket) -> Vec<Key> {
        let wanted = self.waiting.remove(&ticket).unwrap_or_default();
        let keys: Vec<Key> = wanted.into_iter().map(|it| it.key).collect();
        for key in &keys {
            self.change(key, |load| load.waiting = load.waiting.saturating_sub(1));
        }
        keys
    }

    fn run(&mut self, ticket: Ticket, keys: Vec<Key>) {
        for key in &keys {
            let bound = self.bound(key);
            let load = self.loads.entry(key.clone()).or_default();
            load.running += 1;
            // Jobs of which none waits have nobody to pass.
            if load.running < bound || load.waiting == 0 {
                continue;
            }
            let older = self.waiting.range_mut(..ticket);
            for wanted in older.flat_map(|(_, wanted)| wanted) {
                wanted.passed += u32::from(wanted.key == *key);
            }
        }
        self.running.insert(ticket, keys);
    }

    fn change(&mut self, key: &Key, change: impl FnOnce(&mut Load)) {
        let load = self.loads.entry(key.clone()).or_default();
        change(load);
        if load.running == 0 && load.waiting == 0 {
            self.loads.remove(key);
        }
    }

    fn has_room(&self, key: &Key) -> bool {
        self.load(key).0 < self.bound(key)
    }

    /// How many jobs run, and how many wait.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.running.len(), self.waiting.len())
    }

    /// How many jobs of a key run, and how many wait.
    fn load(&self, key: &Key) -> (u32, u32) {
        self.loads
            .get(key)
            .map_or((0, 0), |load| (load.running, load.waiting))
    }

    /// How many jobs of a key may run.
    fn bound(&self, key: &Key) -> u32 {
        match key {
            Key::Server(_) => self.limits.per_server,
            Key::Reconcile(_) => (self.limits.per_server / 4).max(1),
            Key::Caller(_) => self.limits.per_caller,
            Key::Daemon => self.limits.all,
        }
    }
}

#[cfg(test)]
mod tests;
