//! A repeated call: what the journal knows of its id, and what of that is still there.

use super::Error;
use super::access::Decided;
use super::inner::Inner;
use super::make::Asked;
use super::request::Wanted;
use crate::backend::Backend;
use crate::journal::Record;
use crate::libvirt::{DomainView, HypervisorError};
use crate::model::{Attachment, Domain, DomainRef, Holder, HostPlan, SourceKind, State};

/// What the journal knows of a repeated request.
pub(super) enum Known {
    /// All of it is there: the answer.
    Whole(Box<Attachment>),
    /// It was there, and is no more: it is made again.
    Lost(Box<Record>),
}

impl Inner {
    /// What the journal knows of the id, where the request is the same and for the same.
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
                if !self.is_whole(&record).await? {
                    return Ok(Some(Known::Lost(Box::new(record))));
                }
                if record.course.error().is_some() || !record.course.is_done() {
                    // It is back, and nobody has looked since; or a crash cut short what made it whole.
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

    /// Whether a guest may use a disk still whose connection is lost. A mount that was taken away lazily serves who has a file open
    /// there; a device that is gone serves nobody.
    pub(super) async fn works(&self, lost: &Record, view: &DomainView) -> Result<bool, Error> {
        let live = lost.host.plan.kind == SourceKind::File && view.live.find(&lost.disk).is_some();
        // What the persistent configuration lacks says nothing of the guest.
        Ok(live && (!view.shows(&lost.disk) || self.is_plugged(lost).await?))
    }

    /// Refuses a domain's name that is another domain's by now.
    async fn check_domain(&self, record: &Record, wanted: &Wanted) -> Result<(), Error> {
        let Some(name @ DomainRef::Name(_)) = &wanted.domain else {
            return Ok(());
        };
        match self.parts.hypervisor.domain(name, wanted.disk.scope).await {
            Ok(view) => check_same(record, &view.domain),
            // Whether it matters that there is none is seen by who looks for the disk.
            Err(HypervisorError::DomainNotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Refuses another domain than the record's.
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

/// The plan, of the connection that an attachment has where that is one that stands beside the first.
pub(super) fn as_it_was(backend: &dyn Backend, plan: HostPlan, old: &HostPlan) -> HostPlan {
    let mut plans = std::iter::successors(Some(plan.clone()), |plan| backend.beside(plan));
    plans.find(|plan| plan.claims == old.claims).unwrap_or(plan)
}

/// What a lost attachment was made with that would be otherwise now, if anything.
pub(super) fn changed(old: &Record, host: &HostPlan, decided: &Decided) -> Option<&'static str> {
    if old.access.access != decided.access.access {
        return Some("the access to its volume");
    }
    (old.host.plan.claims != host.claims).then_some("this host's configuration of its storage")
}
