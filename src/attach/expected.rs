//! Attaches to a domain that was read before: planned by what the domain had then, while it is read anew.
//!
//! Reading a domain takes about as long as writing the intent to the disk, and neither needs the other as long as the domain is as expected.
//! Only a volume that needs no connection is planned so: a new connection's head start takes longer than both, and no claim is locked while
//! libvirt is waited for. Invariant: nothing is plugged in before the domain was read anew and the journal has the plan that fits it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::Instrument;
use uuid::Uuid;

use super::Error;
use super::inner::Inner;
use super::plan::check_domain;
use super::request::Wanted;
use super::steps::Forward;
use crate::backend::Backend;
use crate::journal::{Record, Step};
use crate::libvirt::{DiskView, DomainView, Hypervisor, HypervisorError, plan_disk};
use crate::model::{AttachmentId, Dialect, DiskPlan, DomainRef, HostPlan, Scope};

/// Domains that are remembered: the last ones that were attached to.
const DOMAINS: usize = 32;

/// The running configurations of QEMU's domains as they were read last, with what was plugged in and out since. A guess at what they are now.
#[derive(Debug, Default)]
pub(super) struct LastViews(Mutex<VecDeque<DomainView>>);

impl LastViews {
    /// Returns the domain's last view. `None`: no view is remembered, the scope is another one, or the domain is given by a name, which may
    /// belong to another domain by now.
    pub(super) fn of(&self, domain: &DomainRef, scope: Scope) -> Option<DomainView> {
        let DomainRef::Uuid(uuid) = domain else {
            return None;
        };
        let views = self.lock();
        let view = views.iter().find(|view| view.domain.uuid == *uuid);
        view.filter(|_| scope == Scope::Live).cloned()
    }

    /// Remembers a domain that was read. Not a Xen domain: its disks are known by their targets, which a plan must not guess.
    pub(super) fn note(&self, view: &DomainView) {
        self.forget(view.domain.uuid);
        if view.running && view.dialect == Dialect::Qemu {
            let mut views = self.lock();
            views.push_back(view.clone());
            if views.len() > DOMAINS {
                views.pop_front();
            }
        }
    }

    /// Forgets every domain.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    /// Forgets a domain, so that the next attach waits until it was read.
    pub(super) fn forget(&self, domain: Uuid) {
        self.lock().retain(|view| view.domain.uuid != domain);
    }

    /// Adds a disk that was plugged in.
    pub(super) fn plugged(&self, domain: Uuid, disk: &DiskPlan) {
        if disk.target.starts_with("sd") {
            // The next SCSI disk needs the units that are in use.
            self.forget(domain);
        } else if disk.scope.live() {
            self.change(domain, |disks| {
                disks.push(DiskView {
                    target: disk.target.clone(),
                    alias: Some(disk.alias.clone()),
                    source: Some(disk.source.clone()),
                    ..DiskView::default()
                });
            });
        }
    }

    /// Removes a device that the guest has released. The domain is forgotten if that is no disk of an attachment: a controller's
    /// disks and places go with it.
    pub(super) fn unplugged(&self, domain: Uuid, alias: &str) {
        if !AttachmentId::names(alias) {
            return self.forget(domain);
        }
        self.change(domain, |disks| {
            disks.retain(|disk| disk.alias.as_deref() != Some(alias));
        });
    }

    fn change(&self, domain: Uuid, change: impl FnOnce(&mut Vec<DiskView>)) {
        let mut views = self.lock();
        if let Some(view) = views.iter_mut().find(|view| view.domain.uuid == domain) {
            change(&mut view.live.disks);
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<DomainView>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reading of a domain, and of a volume that needs no connection, under way on a task of its own. The task goes on when this is dropped: a
/// call of libvirt cannot be ended, and has its own deadline.
pub(super) struct Reading(JoinHandle<Findings>);

/// The results of a reading.
pub(super) struct Findings {
    /// The domain; of a connect, a domain without a name.
    pub(super) view: Result<DomainView, HypervisorError>,
    /// Whether the volume may be shown to a guest, if it needs no connection.
    pub(super) inspected: Result<(), Error>,
    /// When the volume was inspected.
    pub(super) inspected_at: Instant,
}

impl Reading {
    /// Waits for the results.
    pub(super) async fn findings(self) -> Result<Findings, Error> {
        self.0.await.map_err(Error::Internal)
    }
}

/// Reads a domain; without one, returns a domain without a name.
pub(super) async fn read_domain(
    hypervisor: &dyn Hypervisor,
    domain: Option<&DomainRef>,
    scope: Scope,
) -> Result<DomainView, HypervisorError> {
    match domain {
        Some(domain) => hypervisor.domain(domain, scope).await,
        None => Ok(DomainView::empty(hypervisor.dialect())),
    }
}

impl Inner {
    /// Begins to read the wanted domain, and inspects the volume if it needs no connection.
    pub(super) fn start_reading(
        &self,
        wanted: &Wanted,
        host: &HostPlan,
        backend: Arc<dyn Backend>,
    ) -> Reading {
        let hypervisor = Arc::clone(&self.parts.hypervisor);
        let (domain, scope) = (wanted.domain.clone(), wanted.disk.scope);
        let read = async move { read_domain(hypervisor.as_ref(), domain.as_ref(), scope).await };
        let volume = host.claims.is_empty().then(|| host.clone().into());
        let inspect = async move {
            let inspected = match &volume {
                Some(volume) => backend.inspect(volume).await,
                None => Ok(()),
            };
            (inspected.map_err(Error::from), Instant::now())
        };
        let reading = async {
            let (view, (inspected, inspected_at)) = tokio::join!(read, inspect);
            Findings {
                view,
                inspected,
                inspected_at,
            }
        };
        Reading(tokio::spawn(reading.in_current_span()))
    }

    /// Writes the intent to plug in while the reading that the plan did not wait for is under way, and has the record match the findings.
    /// Returns when the volume was inspected, if that was part of the reading.
    ///
    /// # Errors
    /// Where the write fails, and where the findings refuse the attach; then the step did nothing.
    pub(super) async fn put_and_read(
        &self,
        record: &mut Record,
        forward: &mut Forward,
    ) -> Result<Option<Instant>, Error> {
        let Some(reading) = forward.reading.take() else {
            self.put(record).await?;
            return Ok(None);
        };
        let (put, findings) = tokio::join!(self.put(record), reading.findings());
        let matched = match (put, findings) {
            (Ok(()), Ok(findings)) => self.match_findings(record, forward, findings).await,
            (Err(error), _) | (Ok(()), Err(error)) => Err(error),
        };
        matched
            .map(Some)
            .inspect_err(|_| record.came_to_nothing(Step::Attach))
    }

    /// Has the record match the domain, and writes it again if the domain is not as expected.
    async fn match_findings(
        &self,
        record: &mut Record,
        forward: &Forward,
        findings: Findings,
    ) -> Result<Instant, Error> {
        if let Some(domain) = &record.domain {
            // Until it was read without a surprise.
            self.views.forget(domain.uuid);
        }
        let view = findings.view?;
        let planned = plan_disk(&view, &forward.spec)?;
        check_domain(forward.backend.as_ref(), &view, &forward.host).await?;
        findings.inspected?;
        self.views.note(&view);
        let disk = DiskPlan {
            sequence: record.disk.sequence,
            ..planned
        };
        let domain = Some(view.domain);
        if record.disk != disk || record.domain != domain {
            record.disk = disk;
            record.domain = domain;
            self.put(record).await?;
        }
        Ok(findings.inspected_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(number: u128) -> DomainView {
        let mut view = DomainView::empty(Dialect::Qemu);
        view.domain.uuid = Uuid::from_u128(number);
        view
    }

    fn uuid(number: u128) -> DomainRef {
        DomainRef::Uuid(Uuid::from_u128(number))
    }

    #[test]
    fn running_domains_of_qemu_are_remembered_by_uuid() {
        let views = LastViews::default();
        views.note(&view(1));
        assert!(views.of(&uuid(1), Scope::Live).is_some());
        assert!(views.of(&uuid(1), Scope::LiveAndConfig).is_none());
        let name = DomainRef::Name(String::new()); // its name
        assert!(views.of(&name, Scope::Live).is_none());
        for change in [
            |view: &mut DomainView| view.running = false,
            |view: &mut DomainView| view.dialect = Dialect::Xen,
        ] {
            views.note(&view(1));
            let mut changed = view(1);
            change(&mut changed);
            views.note(&changed);
            assert!(views.of(&uuid(1), Scope::Live).is_none());
        }
    }

    #[test]
    fn the_domains_attached_to_last_are_remembered() {
        let views = LastViews::default();
        for number in 0..=DOMAINS as u128 {
            views.note(&view(number));
        }
        assert!(views.of(&uuid(0), Scope::Live).is_none());
        assert!(views.of(&uuid(1), Scope::Live).is_some());
    }
}
