//! Figures of the engine: what it counts as it works, and a census of what it holds.
//!
//! Invariants: nothing here asks a server, the hypervisor or the journal's disk, so the figures are there while all of them are silent; the
//! keys are of few values, and none is a name that somebody chose.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;

use super::Error;
use super::engine::Engine;
use super::observe::reports_stop;
use crate::figures::{Counter, Timings};
use crate::journal::{Record, Step};
use crate::libvirt::HypervisorLoad;
use crate::model::{Server, State};

/// A part of an attach or detach that is timed by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The wait for the turn.
    Turn,
    /// The step `connect`, its head start included. On a mount the look at the volume is a part of it.
    Connect,
    /// The step `inspect`.
    Inspect,
    /// The step `attach`.
    Plug,
    /// Its undo, the wait for the guest included.
    Unplug,
    /// The undo of `connect`.
    Disconnect,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 6] = [
        Self::Turn,
        Self::Connect,
        Self::Inspect,
        Self::Plug,
        Self::Unplug,
        Self::Disconnect,
    ];

    /// Its name among the figures.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Turn => "turn",
            Self::Connect => "connect",
            Self::Inspect => "inspect",
            Self::Plug => "plug",
            Self::Unplug => "unplug",
            Self::Disconnect => "disconnect",
        }
    }

    pub(super) fn of(step: Step) -> Self {
        match step {
            Step::Connect => Self::Connect,
            Step::Inspect => Self::Inspect,
            Step::Attach => Self::Plug,
        }
    }

    /// The undo of a step; `None`: it has none.
    pub(super) fn of_undo(step: Step) -> Option<Self> {
        match step {
            Step::Connect => Some(Self::Disconnect),
            Step::Inspect => None,
            Step::Attach => Some(Self::Unplug),
        }
    }
}

/// What an engine counts as it works.
#[derive(Debug, Default)]
pub struct EngineFigures {
    /// How long phases took, and whether they succeeded.
    pub phases: Timings<(Phase, bool)>,
    /// Rounds of reconcile over all records that began.
    pub rounds: Counter,
    /// How long looks of reconcile took: at all records or, upon news, at some.
    pub looks: Timings<()>,
    /// Guests that went on once their volumes could be read again.
    pub resumed: Counter,
    /// Records that such a look left in order.
    pub records_settled: Counter,
    /// Records that could not be looked at, or whose repair failed.
    pub records_failed: Counter,
}

impl EngineFigures {
    pub(super) fn phase(&self, phase: Phase, began: Instant, succeeded: bool) {
        self.phases.note((phase, succeeded), began.elapsed());
    }
}

/// Servers by health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServerCounts {
    /// Attachments use them, and no operation on them was silent of late.
    pub ok: u64,
    /// One was.
    pub suspect: u64,
    /// Two in a row were: calls that need the server fail at once.
    pub quarantined: u64,
}

/// What an engine holds now.
#[derive(Debug, Clone, Default)]
pub struct Census {
    /// Attachments by backend, state and access; only what there is.
    pub attachments: BTreeMap<(&'static str, &'static str, &'static str), u64>,
    /// Paths by backend: those that work, and those that are planned.
    pub paths: BTreeMap<&'static str, (u64, u64)>,
    /// Attachments by backend whose guests are paused since requests to their volumes failed; only what there is.
    pub stopped: BTreeMap<&'static str, u64>,
    /// Servers by health.
    pub servers: ServerCounts,
    /// Records that this build cannot read.
    pub unreadable: u64,
    /// Worker processes.
    pub workers: u64,
    /// Worker processes that outlived their kill.
    pub stuck_workers: u64,
    /// Calls at work.
    pub work_running: u64,
    /// Calls that wait for their turn.
    pub work_waiting: u64,
    /// The way to the hypervisor.
    pub hypervisor: HypervisorLoad,
}

impl Engine {
    /// What the engine counts as it works.
    #[must_use]
    pub fn figures(&self) -> &EngineFigures {
        &self.0.figures
    }

    /// What the engine holds now, from memory alone.
    ///
    /// # Errors
    /// Where the journal fails.
    pub async fn census(&self) -> Result<Census, Error> {
        let parts = &self.0.parts;
        let mut census = Census {
            unreadable: parts.journal.unreadable().await?.len() as u64,
            hypervisor: parts.hypervisor.load(),
            ..Census::default()
        };
        let (running, waiting) = self.0.work.counts();
        census.work_running = running as u64;
        census.work_waiting = waiting as u64;
        let backends = self.0.backends();
        let quarantine = backends.quarantine();
        let (workers, stuck) = quarantine.workers();
        census.workers = workers as u64;
        census.stuck_workers = stuck as u64;
        let mut used = BTreeSet::<Server>::new();
        let paused = self.0.stopped.paused();
        let count = |record: Arc<Record>| {
            // A record of a later build may name a protocol that this build does not know.
            let backend = backends.get(&record.host.plan.protocol);
            let backend = backend.map_or("other", |backend| backend.protocol());
            let key = (
                backend,
                record.state().as_str(),
                record.access.access.as_str(),
            );
            *census.attachments.entry(key).or_default() += 1;
            let is_detaching = record.state() == State::Detaching;
            if reports_stop(&record) || is_detaching && paused.has(&record) {
                *census.stopped.entry(backend).or_default() += 1;
            }
            if let Some(paths) = record.shown_paths() {
                let (working, planned) = census.paths.entry(backend).or_default();
                *working += u64::from(paths.working);
                *planned += u64::from(paths.planned);
            }
            used.extend(record.host.plan.reached_by());
        };
        self.0.each_record(count).await?;
        let ill = quarantine.ill();
        let quarantined = ill.values().filter(|quarantined| **quarantined).count();
        census.servers = ServerCounts {
            ok: used.iter().filter(|it| !ill.contains_key(it)).count() as u64,
            suspect: (ill.len() - quarantined) as u64,
            quarantined: quarantined as u64,
        };
        Ok(census)
    }
}
