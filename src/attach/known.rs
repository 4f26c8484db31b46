//! Repeated calls: the record of their attachment, and whether everything of the attachment still exists.

use super::Error;
use super::access::Decided;
use super::inner::Inner;
use super::observe::{Reality, reports_stop};
use super::request::{Asked, Wanted};
use crate::backend::Backend;
use crate::journal::Record;
use crate::libvirt::{DomainView, HypervisorError};
use crate::model::{Attachment, Domain, DomainRef, Holder, HostPlan, SourceKind, State};

/// Existing attachment of a repeated request.
pub(super) enum Known {
    /// Everything exists: the answer to the call.
    Whole(Box<Attachment>),
    /// Something is lost: the attachment is made again.
    Lost(Box<Record>),
}

impl Inner {
    /// Returns the existing attachment of this id; refuses another request or holder.
    pub(super) async fn known(&self, asked: &Asked) -> Result<Option<Known>, Error> {
        let id = asked.wanted.id.clone();
        let Some(mut record) = self.parts.journal.get(&id).await? else {
            return Ok(None);
        };
        let another = |holder: &Holder| *holder != asked.holder;
        if record.fingerprint != asked.fingerprint || record.holder.as_ref().is_some_and(another) {
            return Err(Error::Conflict { id });
        }
        match record.course.state() {
            State::Attached | State::Connected => {
                self.check_domain(&record, &asked.wanted).await?;
                let observed = self.observe(&record).await?;
                match observed.reality {
                    Reality::Broken | Reality::Gone => {
                        return Ok(Some(Known::Lost(Box::new(record))));
                    }
                    Reality::Degraded => {
                        let info = &asked.wanted.info.protocol;
                        if let Err(error) =
                            self.repair(&mut record, Some(info), asked.deadline).await
                        {
                            // The attachment works by its other paths.
                            tracing::warn!(error = %error.chain(), "paths are missing");
                        }
                    }
                    Reality::Whole => (),
                }
                let stays_stopped = observed.io_stopped && reports_stop(&record);
                if record.course.error().is_some() && !stays_stopped || !record.course.is_done() {
                    // The attachment is back and nobody has looked since, or a crash cut short the repair.
                    record.whole();
                    self.put(&record).await?;
                }
                Ok(Some(Known::Whole(Box::new(record.to_attachment()))))
            }
            State::Failed => Err(Error::CleanupRequired { id }),
            state => Err(Error::InProgress {
                id,
                state: state.as_str(),
            }),
        }
    }

    /// Whether a guest may still use the disk of a lost connection. A lazily unmounted mount serves files that are open; a device that is
    /// gone serves nobody.
    pub(super) async fn works(&self, lost: &Record, view: &DomainView) -> Result<bool, Error> {
        let live = lost.host.plan.kind == SourceKind::File && view.live.find(&lost.disk).is_some();
        // A disk missing from the persistent configuration alone does not concern the guest.
        Ok(live && (!view.shows(&lost.disk) || self.is_plugged(lost).await?))
    }

    /// Refuses a domain name that now belongs to another domain.
    async fn check_domain(&self, record: &Record, wanted: &Wanted) -> Result<(), Error> {
        let Some(name @ DomainRef::Name(_)) = &wanted.domain else {
            return Ok(());
        };
        match self.parts.hypervisor.domain(name, wanted.disk.scope).await {
            Ok(view) => check_same(record, &view.domain),
            // The search for the disk decides whether a missing domain matters.
            Err(HypervisorError::DomainNotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Refuses a domain other than the record's.
pub(super) fn check_same(record: &Record, now: &Domain) -> Result<(), Error> {
    match &record.domain {
        Some(was) if was.uuid != now.uuid => Err(Error::DomainChanged {
            id: record.id.clone(),
            was: was.clone(),
            now: now.clone(),
        }),
        _ => Ok(()),
    }
}

/// Returns the plan, or the plan beside it, with the claims of the old attachment; the plan itself if none has these claims.
pub(super) fn as_it_was(backend: &dyn Backend, plan: HostPlan, old: &HostPlan) -> HostPlan {
    let mut plans = std::iter::successors(Some(plan.clone()), |plan| backend.beside(plan));
    plans.find(|plan| plan.claims == old.claims).unwrap_or(plan)
}

/// Returns the changed input of a lost attachment, if any: its access or its storage configuration.
pub(super) fn changed(old: &Record, host: &HostPlan, decided: &Decided) -> Option<&'static str> {
    if old.access.access != decided.access.access {
        return Some("the access to its volume");
    }
    (old.host.plan.claims != host.claims).then_some("this host's configuration of its storage")
}
