//! The part of a connect that changes nothing and so may run before its turn: starting a worker process, and asking the server for a sign
//! of life.

use std::net::SocketAddr;

use tokio::time::Instant;

use super::probe::Outcome;
use super::{Mounter, Share};
use crate::backend::{BackendError, FRESH, workers_of};
use crate::model::HostPlan;
use crate::sys::worker::{Worker, WorkerError};

/// The results of the early part.
pub(super) struct Early<O> {
    pub(super) worker: Result<Worker, WorkerError>,
    /// The server's addresses.
    pub(super) addresses: Result<Vec<SocketAddr>, BackendError>,
    /// Outcomes of asking the first of these addresses, in their order.
    pub(super) outcomes: Vec<Outcome<Vec<O>>>,
    /// When the last address was asked.
    pub(super) ended: Instant,
}

impl<O> Early<O> {
    /// Whether the server's answers still count.
    pub(super) fn is_fresh(&self) -> bool {
        self.ended.elapsed() <= FRESH
    }
}

impl Mounter {
    /// Starts a worker, and asks the server's addresses in turn until one speaks.
    pub(super) async fn early<S: Share>(&self, share: &S, plan: &HostPlan) -> Early<S::Offer> {
        // Polled first: the server is at work while the process starts.
        let asked = self.ask(share);
        let start = async { workers_of(&self.workers, plan).start() };
        let ((addresses, outcomes), worker) = tokio::join!(biased; asked, start);
        Early {
            worker,
            addresses,
            outcomes,
            ended: Instant::now(),
        }
    }

    /// Asks the server's addresses in turn until one speaks; returns all addresses, and the outcomes of those that were asked.
    async fn ask<S: Share>(
        &self,
        share: &S,
    ) -> (
        Result<Vec<SocketAddr>, BackendError>,
        Vec<Outcome<Vec<S::Offer>>>,
    ) {
        let addresses = match share.port() {
            Ok(port) => self.resolve(share.host(), port).await,
            Err(error) => Err(error),
        };
        let mut outcomes = Vec::new();
        for address in addresses.iter().flatten() {
            let outcome = share.probe(*address).await;
            let speaks = matches!(outcome, Outcome::Speaks(_));
            outcomes.push(outcome);
            if speaks {
                break;
            }
        }
        (addresses, outcomes)
    }
}
