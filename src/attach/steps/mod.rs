//! Steps of a saga, one file each: run, check and undo.
//!
//! | step | run | check | undo |
//! |---|---|---|---|
//! | connect | `Backend::connect`, or `Backend::join` to others' connection | `Backend::find` | `Backend::disconnect` of unshared claims |
//! | inspect | `Backend::inspect` | none: changes nothing | none |
//! | attach | `Hypervisor::plug` of what `Backend::pin` holds | `Hypervisor::is_plugged` | `Hypervisor::request_unplug`, then a wait |

mod connect;
mod inspect;
mod plug;

use tokio::sync::OwnedMutexGuard;

use super::Error;
use super::inner::Inner;
use super::saga::{Forward, Why};
use crate::journal::{Kind, Record, Step};

/// The steps of an attach or connect, in order.
pub(super) fn of(kind: Kind) -> &'static [Step] {
    match kind {
        Kind::Attach => &[Step::Connect, Step::Inspect, Step::Attach],
        Kind::Connect => &[Step::Connect, Step::Inspect],
    }
}

impl Inner {
    /// Whether everything promised by the record exists. A rebooted host has no mounts and no plugged disks, but the persistent
    /// configuration of a domain still has its disk.
    pub(super) async fn is_whole(&self, record: &Record) -> Result<bool, Error> {
        for &step in of(record.kind()) {
            if !self.is_done(step, record).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Runs a step; returns whether the volume is inspected after it.
    pub(super) async fn run(
        &self,
        step: Step,
        record: &mut Record,
        forward: &Forward,
    ) -> Result<bool, Error> {
        match step {
            Step::Connect => self.connect(record, forward).await,
            Step::Inspect => self.inspect(&record.host).await.map(|()| true),
            Step::Attach => self.plug(record, forward).await.map(|()| true),
        }
    }

    /// Whether the result of a step exists.
    async fn is_done(&self, step: Step, record: &Record) -> Result<bool, Error> {
        match step {
            Step::Connect => self.is_connected(record).await,
            Step::Inspect => Ok(true),
            Step::Attach => self.is_plugged(record).await,
        }
    }

    pub(super) async fn undo(
        &self,
        step: Step,
        record: &mut Record,
        why: Why,
    ) -> Result<(), Error> {
        match step {
            Step::Connect => self.disconnect(record).await,
            Step::Inspect => Ok(()),
            Step::Attach => self.unplug(record, why).await,
        }
    }

    /// Takes the locks that cover a step and its outcome in the journal. Claims are locked in their order, so that no two steps wait for
    /// each other.
    pub(super) async fn lock(&self, record: &Record, step: Step) -> Vec<OwnedMutexGuard<()>> {
        let mut locks = Vec::new();
        match (step, &record.domain) {
            (Step::Connect, _) => {
                for claim in &record.host.plan.claims {
                    locks.push(self.claims.lock(claim.clone()).await);
                }
            }
            (Step::Attach, Some(domain)) => locks.push(self.domains.lock(domain.uuid).await),
            (Step::Inspect, _) | (Step::Attach, None) => {}
        }
        locks
    }
}
