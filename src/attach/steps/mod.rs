//! Steps of a saga, one file each: run, check and undo.
//!
//! | step | run | check | undo |
//! |---|---|---|---|
//! | connect | `Backend::connect`, or `Backend::join` to others' connection | `Backend::find` | `Backend::disconnect` of unshared claims |
//! | inspect | `Backend::inspect` | none | none: that of the connect takes a read-only setting back |
//! | attach | `Hypervisor::plug` of what `Backend::pin` holds | `Hypervisor::is_plugged` | `Hypervisor::request_unplug`, then a wait |

mod connect;
mod plug;

use std::path::Path;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::Error;
use super::early::EarlyTask;
use super::expected::Reading;
use super::inner::Inner;
use crate::backend::Backend;
use crate::connection::Protocol;
use crate::journal::{Kind, Record, Step};
use crate::model::{DiskSpec, HostPlan};

/// Why steps are undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// A caller asks for it. It is not begun where the journal cannot say so; and the guest is asked again as soon as another request
    /// cannot cancel the last one.
    Asked,
    /// Something was begun and is not wanted, or an earlier call asked for it. It is cleaned up even where the journal fails, for an undo
    /// needs no word there to be safe: whatever the journal says of a step begun, the next start looks for it. The guest is asked again
    /// after growing pauses.
    CleanUp,
}

/// What the steps need and the journal must not hold.
pub(super) struct Forward {
    /// How to reach the volume, with its secrets.
    pub(super) info: Protocol,
    /// The planned host side.
    pub(super) host: HostPlan,
    /// The backend that planned it. A reload does not change its settings, so each step goes by those of the plan.
    pub(super) backend: Arc<dyn Backend>,
    /// The disk as it is wanted.
    pub(super) spec: DiskSpec,
    /// Whether it needed no connection, and was inspected.
    pub(super) ready: bool,
    /// Whether SELinux confines the running domain.
    pub(super) confined: bool,
    /// Whether the attachment existed before, and part of it may still exist.
    pub(super) again: bool,
    /// When the volume was inspected, if it needs no connection.
    pub(super) inspected_at: Instant,
    /// The reading of domain and volume, if the plan did not wait for it.
    pub(super) reading: Option<Reading>,
    /// How many plugs there were before the look that the record's disk was planned from.
    pub(super) plugs: u64,
    /// The early part of the connect, if there is one.
    pub(super) head_start: Option<EarlyTask>,
    /// Until when the caller waits; `None`: for ever.
    pub(super) deadline: Option<Instant>,
}

impl Forward {
    /// The disk as it is wanted, of a volume that turned out to be there.
    pub(super) fn spec_at(&self, path: &Path) -> DiskSpec {
        DiskSpec {
            path: path.to_owned(),
            ..self.spec.clone()
        }
    }
}

/// What a step is to come to, as a clause.
pub(super) fn outcome(step: Step) -> &'static str {
    match step {
        Step::Connect => "the volume was connected",
        Step::Inspect => "the volume was inspected",
        Step::Attach => "the disk was plugged in",
    }
}

/// Locks of a step, released by the drop.
#[derive(Debug, Default)]
pub(super) struct Held {
    to_the_end: Vec<OwnedMutexGuard<()>>,
    /// Locks of the claims that their backend guards ([`crate::model::Claim::is_guarded_by_backend`]).
    until_recorded: Vec<OwnedMutexGuard<()>>,
}

impl Held {
    /// Releases the locks of claims that the journal shows as held by the record, and that the backend guards: whoever counts holders from
    /// now on counts this one.
    pub(super) fn recorded(&mut self) {
        self.until_recorded.clear();
    }

    /// Adds the locks of further claims.
    pub(super) fn extend(&mut self, more: Self) {
        self.to_the_end.extend(more.to_the_end);
        self.until_recorded.extend(more.until_recorded);
    }
}

/// The steps of an attach or connect, in order.
pub(super) fn of(kind: Kind) -> &'static [Step] {
    match kind {
        Kind::Attach => &[Step::Connect, Step::Inspect, Step::Attach],
        Kind::Connect => &[Step::Connect, Step::Inspect],
    }
}

impl Inner {
    /// Runs a step under the locks `held`; returns whether the volume is inspected after it. `looked_at`: time of the last look at the volume.
    pub(super) async fn run(
        &self,
        step: Step,
        record: &mut Record,
        forward: &mut Forward,
        held: &mut Held,
        looked_at: Instant,
    ) -> Result<bool, Error> {
        match step {
            Step::Connect => self.connect(record, forward, held).await,
            // Opens and checks the volume before a guest gets it. Changes nothing but the access to a device (`Found::protected`), which the
            // undo of the connect takes back.
            Step::Inspect => {
                forward.backend.inspect(&record.host).await?;
                Ok(true)
            }
            Step::Attach => self.plug(record, forward, looked_at).await.map(|()| true),
        }
    }

    /// Undoes a step. The locks that cover the undo and the record's removal are in `held` afterwards, also after an error.
    pub(super) async fn undo(
        &self,
        step: Step,
        record: &mut Record,
        why: Why,
        held: &mut Held,
    ) -> Result<(), Error> {
        match step {
            Step::Connect => self.disconnect(record, held).await,
            Step::Inspect => Ok(()),
            // Without the domain's lock: a guest that takes its time to release a disk must not keep another disk from being plugged.
            Step::Attach => self.unplug(record, why).await,
        }
    }

    /// Takes the locks that cover a step and its outcome in the journal. Claims are locked in their order, so that no two steps wait for
    /// each other.
    pub(super) async fn lock(&self, record: &Record, step: Step) -> Held {
        let mut held = Held::default();
        match (step, &record.domain) {
            (Step::Connect, _) => {
                for claim in &record.host.plan.claims {
                    let lock = self.claims.lock(claim.clone()).await;
                    match claim.is_guarded_by_backend() {
                        true => held.until_recorded.push(lock),
                        false => held.to_the_end.push(lock),
                    }
                }
            }
            (Step::Attach, Some(domain)) => {
                held.to_the_end.push(self.domains.lock(domain.uuid).await);
            }
            (Step::Inspect, _) | (Step::Attach, None) => {}
        }
        held
    }
}
