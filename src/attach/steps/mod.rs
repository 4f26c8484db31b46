//! The steps of a saga, each in a file of its own with its run, whether it is done, and its undo.
//!
//! | step | runs | is done | is undone |
//! |---|---|---|---|
//! | connect | `Backend::connect`, or joins what others connected | `Backend::find` | `Backend::disconnect` of what nobody else holds |
//! | inspect | `Backend::inspect` | changes nothing | |
//! | attach | `Hypervisor::plug` of what `Backend::pin` keeps in place | `Hypervisor::is_plugged` | `Hypervisor::request_unplug`, and a wait for the guest |

mod connect;
mod inspect;
mod plug;

use tokio::sync::OwnedMutexGuard;

use super::Error;
use super::inner::Inner;
use crate::journal::{Kind, Record, Step};

/// The steps of an attach or connect, in order.
pub(super) fn of(kind: Kind) -> &'static [Step] {
    match kind {
        Kind::Attach => &[Step::Connect, Step::Inspect, Step::Attach],
        Kind::Connect => &[Step::Connect, Step::Inspect],
    }
}

impl Inner {
    /// Whether what the record promises is there. A host that was rebooted has no mounts and no plugged disks; but the
    /// persistent configuration of a domain still has its disk.
    pub(super) async fn is_whole(&self, record: &Record) -> Result<bool, Error> {
        for &step in of(record.kind()) {
            let done = match step {
                Step::Connect => self.is_connected(record).await?,
                Step::Inspect => true,
                Step::Attach => self.is_plugged(record).await?,
            };
            if !done {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The locks that a step and its outcome in the journal are under. Those of claims in their order, so that no two steps wait for
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
