//! The early part of a connect, on a task of its own.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::Error;
use super::inner::Inner;
use super::request::Wanted;
use crate::backend::{Backend, HeadStart};
use crate::journal::{Key, Record};
use crate::model::{Claim, HostPlan};

/// The claims whose connection has a head start under way: one at a time, as one call connects for all who come meanwhile.
#[derive(Debug, Clone, Default)]
pub(super) struct HeadStarts(Arc<Mutex<HashSet<Claim>>>);

/// The place of a head start among those under way, left by the drop.
#[derive(Debug)]
struct Place {
    all: HeadStarts,
    claims: Vec<Claim>,
}

impl HeadStarts {
    /// Returns a place for a connection with these claims, unless a head start of one of them is under way.
    fn enter(&self, claims: &[Claim]) -> Option<Place> {
        let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if claims.iter().any(|claim| under_way.contains(claim)) {
            return None;
        }
        under_way.extend(claims.iter().cloned());
        Some(Place {
            all: self.clone(),
            claims: claims.to_vec(),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut under_way = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        for claim in &self.claims {
            under_way.remove(claim);
        }
    }
}

/// A head start under way, which the drop ends.
pub(super) struct EarlyTask {
    task: AbortOnDropHandle<HeadStart>,
    _place: Place,
}

impl EarlyTask {
    /// Waits for the results.
    pub(super) async fn results(self) -> Result<HeadStart, Error> {
        self.task.await.map_err(Error::Internal)
    }
}

impl Inner {
    /// Starts the part of the connect that changes nothing, which then runs while the domain is read and the intent journaled. `None`: the volume
    /// needs no connection, or others use or make the connection.
    pub(super) async fn head_start(
        &self,
        wanted: &Wanted,
        host: &HostPlan,
        backend: Arc<dyn Backend>,
    ) -> Result<Option<EarlyTask>, Error> {
        let journal = &self.parts.journal;
        for claim in &host.claims {
            if journal
                .any(Key::Claim(claim), &Record::uses_connection)
                .await?
            {
                return Ok(None);
            }
        }
        if host.claims.is_empty() {
            return Ok(None);
        }
        let Some(place) = self.head_starts.enter(&host.claims) else {
            return Ok(None);
        };
        let (plan, info) = (host.clone(), wanted.info.protocol.clone());
        let run = async move { backend.head_start(&plan, &info).await };
        let task = tokio::spawn(run.in_current_span());
        Ok(Some(EarlyTask {
            task: AbortOnDropHandle::new(task),
            _place: place,
        }))
    }
}
