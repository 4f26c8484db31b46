//! Controllers made by volattach, the only ones that volattach ends. The kernel does not report who made a controller.
//!
//! Remembers controllers by number, not by portal: once volattach's controller is gone, another program may connect to the same portal,
//! even under the same host name.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::fabric::Controller;
use super::{NvmeBackend, portals};
use crate::backend::BackendError;
use crate::model::{TargetPath, TargetPlan};
use crate::sys::worker::{Reply, WorkerError};

/// Controllers made by volattach, by subsystem and portal. The next daemon restores them from the journal: those that the attachment did
/// not find on its survey ([`crate::model::Found::controllers_of_others`]).
#[derive(Debug, Default)]
pub(super) struct Made(Mutex<BTreeMap<(String, SocketAddr), Which>>);

/// A controller of volattach's at a portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// The next controller at the portal: the kernel was asked to connect, and has not answered.
    Next,
    /// The controller with that number ([`Controller::id`]).
    Is(u64),
}

impl Made {
    /// Notes which controller at the portal is volattach's, `None` for no controller; returns the earlier note.
    pub(super) fn note(
        &self,
        nqn: &str,
        portal: SocketAddr,
        which: impl Into<Option<Which>>,
    ) -> Option<Which> {
        let key = (nqn.to_owned(), portal);
        match which.into() {
            Some(which) => self.lock().insert(key, which),
            None => self.lock().remove(&key),
        }
    }

    /// Whether volattach made the subsystem's controller.
    pub(super) fn has(&self, nqn: &str, controller: &Controller) -> bool {
        controller
            .portal
            .is_some_and(|portal| match self.lock().get(&(nqn.to_owned(), portal)) {
                // The connect may have failed since: a controller of others seldom has the time-out.
                Some(Which::Next) => controller.as_ours,
                Some(Which::Is(id)) => *id == controller.id,
                None => false,
            })
    }

    /// Forgets the controllers at these portals, which are gone.
    pub(super) fn forget(&self, nqn: &str, portals: &[SocketAddr]) {
        self.lock()
            .retain(|(of, portal), _| of != nqn || !portals.contains(portal));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, SocketAddr), Which>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which of the controllers under this host's own name a connect to the portal made. The last of several, as numbers grow; unknown while
/// the kernel is connecting several, whose subsystems it does not report yet.
fn outcome(
    portal: SocketAddr,
    controllers: &[Controller],
    beginning: &[Controller],
) -> Option<Which> {
    // volattach sets this time-out on its controllers, and most other tools do not.
    let at = |it: &&Controller| it.portal == Some(portal) && it.as_ours;
    let made = controllers.iter().filter(at).map(|it| it.id).max();
    let begun: Vec<u64> = beginning.iter().filter(at).map(|it| it.id).collect();
    match begun.as_slice() {
        [] => made.map(Which::Is),
        [one] => Some(Which::Is(made.map_or(*one, |made| made.max(*one)))),
        _ => Some(Which::Next),
    }
}

/// Controllers that volattach made.
#[derive(Debug)]
pub(super) struct Ours {
    /// Controllers of the subsystem.
    pub(super) controllers: Vec<Controller>,
    /// Controllers that the kernel is connecting for the first time: each fails, or becomes a controller of the subsystem.
    pub(super) beginning: Vec<Controller>,
}

impl Ours {
    pub(super) fn all(&self) -> impl Iterator<Item = &Controller> {
        self.controllers.iter().chain(&self.beginning)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }
}

impl NvmeBackend {
    /// The controllers at these paths that volattach made, for this attachment or another.
    pub(super) async fn ours(&self, nqn: &str, paths: &[TargetPath]) -> Result<Ours, BackendError> {
        let portals: Vec<SocketAddr> = portals(paths).collect();
        let is_ours = |it: &Controller| {
            it.portal.is_some_and(|at| portals.contains(&at)) && self.made.has(nqn, it)
        };
        // Listed first: a connect that has begun may have become a controller by the second look.
        let mut beginning = self.own_beginning(&portals).await?;
        let mut controllers = self.own_controllers(nqn).await?;
        beginning.retain(is_ours);
        controllers.retain(is_ours);
        Ok(Ours {
            controllers,
            beginning,
        })
    }

    /// Notes the outcome of the kernel's connect to a portal, for which [`Which::Next`] was noted; `before`: the note until then.
    pub(super) async fn settle(
        &self,
        target: (&str, SocketAddr),
        connected: &Result<Reply, WorkerError>,
        before: Option<Which>,
    ) {
        let (nqn, portal) = target;
        // The kernel has made nothing; on EALREADY, another program was faster.
        if let Err(WorkerError::Failed { .. }) = connected {
            self.made.note(nqn, portal, before);
            return;
        }
        let look = async || {
            let beginning = match connected {
                Ok(_) => Vec::new(),
                Err(_) => self.own_beginning(&[portal]).await?,
            };
            let controllers = self.own_controllers(nqn).await?;
            Ok::<_, BackendError>(outcome(portal, &controllers, &beginning))
        };
        let which = match (look().await, connected) {
            (Ok(Some(which)), _) => Some(which),
            // A worker that sleeps in the kernel may not have made the controller yet.
            (Ok(None), Err(WorkerError::Deadline { reaped: false, .. })) => Some(Which::Next),
            (Ok(None), _) => before,
            (Err(error), _) => {
                tracing::warn!(%portal, %error, "which controller was made there is not known: the next one counts as it");
                Some(Which::Next)
            }
        };
        self.made.note(nqn, portal, which);
    }

    /// Notes an attachment's existing controllers: those at its portals that are not the `others` of its survey. Those of an
    /// earlier build, which surveyed no numbers, are recognized by their time-out alone.
    pub(super) fn recall_made(&self, target: &TargetPlan, nqn: &str, others: &[u64]) {
        let portals: Vec<_> = portals(&target.paths).collect();
        let look = || {
            let mut controllers = self.fabric.controllers(nqn)?;
            let mut beginning = self.fabric.beginning(&portals)?;
            // Ask for the own name, which would make it, only if a controller reports a host name.
            if controllers
                .iter()
                .chain(&beginning)
                .any(|it| !it.host.is_empty())
            {
                let own = self.own.nvme()?;
                controllers.retain(|it| it.is_by(&own.nqn));
                beginning.retain(|it| it.is_by(&own.nqn));
            }
            controllers.retain(|it| !others.contains(&it.id));
            beginning.retain(|it| !others.contains(&it.id));
            Ok::<_, std::io::Error>((controllers, beginning))
        };
        match look() {
            Ok((controllers, beginning)) => {
                for portal in portals {
                    if let Some(which) = outcome(portal, &controllers, &beginning) {
                        self.made.note(nqn, portal, which);
                    }
                }
            }
            Err(error) => {
                tracing::warn!(nqn, %error, "cannot list the NVMe controllers: those at the attachment's portals count as its own");
                for portal in portals {
                    self.made.note(nqn, portal, Which::Next);
                }
            }
        }
    }
}
