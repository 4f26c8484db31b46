//! Figures about the daemon, for Prometheus: served where it asks for them, or in a file for the node exporter.
//!
//! ```text
//!   engine, API, journal, policy ──▶ Figures ──▶ families ──▶ registry ──▶ OpenMetrics ──┬─▶ GET /metrics
//!     (plain counters, memory)                                                           └─▶ text 0.0.4 ──▶ metrics_file
//! ```
//!
//! Invariants: a scrape asks no server, not libvirt and not the journal's disk: it reads counters and memory, so it is answered while all of
//! them are silent; every label is of a set that this build knows, and none has a name that somebody chose, but for those of the I/O
//! (`io`), which is counted only where the configuration says so; docs/metrics.md lists all.

mod families;
mod file;
mod io;
mod listen;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, watch};

use crate::api::ApiFigures;
use crate::attach::Engine;
use crate::figures::Counter;
use crate::journal::JournalFigures;
use crate::model::chain;
use families::Snapshot;

pub(super) use file::keep_file;
pub use io::IoFigures;
pub use listen::{MetricsSocket, Scraped};

/// What the policy's files came to.
#[derive(Debug, Default)]
pub struct PolicyFigures {
    loaded: Counter,
    refused: Counter,
    broken: AtomicBool,
    /// Notified at each count, since a file would show it late.
    changed: Notify,
}

impl PolicyFigures {
    /// Counts files that have changed, and whether they could be used.
    pub fn reloaded(&self, ok: bool) {
        self.broken.store(!ok, Ordering::Relaxed);
        match ok {
            true => self.loaded.add(),
            false => self.refused.add(),
        }
        self.changed.notify_one();
    }
}

/// Where the figures come from. Clones are the same figures.
#[derive(Clone)]
pub struct Figures {
    /// The engine, what it holds, and reconcile.
    pub engine: Engine,
    /// The calls.
    pub api: ApiFigures,
    /// The journal's commits.
    pub journal: Arc<JournalFigures>,
    /// Why the journal cannot be written.
    pub journal_failing: watch::Receiver<Option<String>>,
    /// The policy's files.
    pub policy: Arc<PolicyFigures>,
    /// When the daemon was started.
    pub started: SystemTime,
    /// The I/O, where it is asked for.
    pub io: Option<Arc<IoFigures>>,
}

impl Figures {
    /// All figures as they are now, in the OpenMetrics text format 1.0.
    ///
    /// # Errors
    /// Where a value cannot be written as text.
    pub async fn text(&self) -> Result<String, fmt::Error> {
        let census = self.engine.census().await;
        let census = census
            .inspect_err(|error| {
                tracing::warn!(error = chain(error), "figures without the attachments")
            })
            .ok();
        let engine = self.engine.figures();
        let snapshot = Snapshot {
            census,
            calls: self.api.ended(),
            call_durations: self.api.took(),
            calls_running: self.api.running(),
            watches: self.api.watches(),
            phases: engine.phases.read(),
            commits: self.journal.commits.read().remove(&()).unwrap_or_default(),
            commit_failures: self.journal.failures.get(),
            journal_queued: self.journal.queued.get(),
            journal_failing: self.journal_failing.borrow().is_some(),
            rounds: engine.rounds.get(),
            looks: engine.looks.read().remove(&()).unwrap_or_default(),
            resumed: engine.resumed.get(),
            records_settled: engine.records_settled.get(),
            records_failed: engine.records_failed.get(),
            policy_loaded: self.policy.loaded.get(),
            policy_refused: self.policy.refused.get(),
            policy_broken: self.policy.broken.load(Ordering::Relaxed),
            started: self.started,
            io: self.io.as_ref().map(|io| io.snapshot()),
        };
        snapshot.text()
    }
}

impl Snapshot {
    fn text(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests;
