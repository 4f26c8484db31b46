//! What [`crate::reconcile`] may do to a record: look again under the record's own guard, then settle it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::broadcast;

use super::Error;
use super::engine::Engine;
use super::inner::Inner;
use super::observe::{Observed, Reality};
use super::saga::told;
use super::steps::Why;
use crate::backend::Backends;
use crate::journal::{Direction, Key, Record};
use crate::libvirt::{DomainEvent, in_background};
use crate::model::{AttachmentId, HostVolume};

/// What to do about a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Journal and reality agree.
    Nothing,
    /// Everything was done but the last word: say it.
    Complete,
    /// Undo what was begun.
    Undo,
    /// What was promised is gone: tell the operator. Attaching again makes it anew, detaching clears it away.
    TellLost,
    /// Its guest is paused, since requests to the volume failed: report it.
    ReportStopped,
    /// It is back, or its guest goes on.
    TellFound,
    /// Make the missing paths to the volume, and note how many work.
    Repair,
    /// Its domain has another name now: note it.
    Rename,
}

impl Engine {
    /// Every record there is, by id.
    ///
    /// # Errors
    /// Where the journal fails.
    pub(crate) async fn ids(&self) -> Result<Vec<AttachmentId>, Error> {
        let mut ids = Vec::new();
        self.0
            .each_record(|record| ids.push(record.id.clone()))
            .await?;
        Ok(ids)
    }

    /// Tells the backends which connections the journal has of an earlier daemon in this boot of the host. To be called before anything else.
    ///
    /// # Errors
    /// Where the journal fails.
    pub async fn recall(&self) -> Result<(), Error> {
        let parts = &self.0.parts;
        let mut volumes: BTreeMap<String, Vec<HostVolume>> = BTreeMap::new();
        for before in parts.journal.all().await? {
            let mut record = before.as_ref().clone();
            if let Some(boot) = &parts.boot {
                record.host.enter(boot);
                if record != *before {
                    parts.journal.put_soon(&record).await?;
                }
                if !record.host.is_of(boot) {
                    continue;
                }
            }
            let protocol = record.host.plan.protocol.clone();
            volumes.entry(protocol).or_default().push(record.host);
        }
        for (protocol, volumes) in volumes {
            // A backend that this build has no more is told of by whoever needs it.
            if let Ok(backend) = self.0.backends().get(&protocol) {
                let recalled = tokio::task::spawn_blocking(move || backend.recall(&volumes));
                recalled.await.map_err(Error::Internal)?;
            }
        }
        Ok(())
    }

    /// The records that the news is about: of one disk, of its whole domain, or all.
    ///
    /// # Errors
    /// Where the journal fails.
    pub(crate) async fn about(&self, event: &DomainEvent) -> Result<Vec<AttachmentId>, Error> {
        let (domain, disk) = match event {
            DomainEvent::DiskGone { domain, alias } => {
                self.0.views.unplugged(*domain, alias);
                (domain, Some(alias))
            }
            DomainEvent::IoStopped { domain } => {
                // A domain without an attachment is somebody else's.
                if !self
                    .0
                    .parts
                    .journal
                    .of(Key::Domain(domain))
                    .await?
                    .is_empty()
                {
                    self.0.stopped.note(*domain);
                }
                (domain, None)
            }
            DomainEvent::Resumed { domain } => (domain, None),
            DomainEvent::Started { domain }
            | DomainEvent::Stopped { domain, .. }
            | DomainEvent::Defined { domain }
            | DomainEvent::Undefined { domain } => {
                self.0.views.forget(*domain);
                (domain, None)
            }
            DomainEvent::Missed => {
                self.0.views.clear();
                return self.ids().await;
            }
        };
        let mut records = self.0.parts.journal.of(Key::Domain(domain)).await?;
        if let Some(alias) = disk {
            records.retain(|record| *alias == record.disk.alias);
        }
        Ok(records.iter().map(|record| record.id.clone()).collect())
    }

    /// The attachments whose guests are to be asked again to release their disks.
    pub(crate) fn due_unplugs(&self) -> Vec<AttachmentId> {
        self.0.timers.due()
    }

    /// What happens to domains, in order.
    pub(crate) fn domain_events(&self) -> broadcast::Receiver<DomainEvent> {
        self.0.parts.hypervisor.events()
    }

    /// Asks quarantined servers for signs of life. Never ends.
    pub(crate) async fn keep_quarantine(&self) {
        let quarantine = self.0.backends().quarantine().clone();
        quarantine.keep(|| self.0.backends()).await;
    }

    /// Servers, in words, that what failed before may succeed with now.
    pub(crate) fn released_servers(&self) -> broadcast::Receiver<Arc<str>> {
        self.0.backends().quarantine().released()
    }

    /// The records of volumes that a server serves.
    ///
    /// # Errors
    /// Where the journal fails.
    pub(crate) async fn served_by(&self, server: &str) -> Result<Vec<AttachmentId>, Error> {
        let mut ids = Vec::new();
        let concerned = |record: &Arc<Record>| Backends::concerns(server, &record.host.plan);
        self.0
            .each_record(|it| ids.extend(Some(it).filter(concerned).map(|it| it.id.clone())))
            .await?;
        Ok(ids)
    }

    /// Resolves when the engine drains.
    pub(crate) async fn stopping(&self) {
        self.0.stopping.cancelled().await;
    }

    /// Settles one record: looks, decides, acts. A record that a call is working on is left to it.
    ///
    /// The look keeps no call out: a caller who comes while everything is looked at after a start is not turned away for
    /// that. An act does, and is done only if the record is still the one that was looked at.
    ///
    /// # Errors
    /// `OPERATION_IN_PROGRESS` where a call is working on it, `TOO_MUCH_WORK` where callers have all turns of its servers, and where the look or the act fails; it is tried again the next
    /// time.
    pub(crate) async fn settle(
        &self,
        id: AttachmentId,
        decide: fn(&Record, &Observed) -> Action,
    ) -> Result<Action, Error> {
        let Some(seen) = self.0.parts.journal.get(&id).await? else {
            return Ok(Action::Nothing);
        };
        if self.0.busy.has(&id) {
            let state = seen.course.state().as_str();
            return Err(Error::InProgress { id, state });
        }
        let look = async {
            let _turn = self.0.looks.acquire().await;
            self.0.reality(&seen).await
        };
        let observed = in_background(look).await?;
        let action = decide(&seen, &observed);
        if action == Action::Nothing {
            return Ok(action);
        }
        let busy = self.enter(&id)?;
        let turn = match action {
            Action::Undo | Action::Repair => Some(self.0.work.try_reconcile(&seen)?),
            // Touches nothing but the journal.
            _ => None,
        };
        let engine = self.clone();
        let act = async move {
            if engine.0.parts.journal.get(&seen.id).await?.as_ref() != Some(&seen) {
                return Ok(Action::Nothing);
            }
            // Boxed: the saga's state would make every future around it large.
            Box::pin(engine.0.act(seen, action, &observed)).await
        };
        self.run_in(busy, turn, in_background(act)).await
    }
}

impl Inner {
    async fn reality(&self, record: &Record) -> Result<Observed, Error> {
        // What goes backward is looked at step by step: a libvirt that is down must not keep a share mounted.
        match record.course.direction() {
            Direction::Forward => self.observe(record).await,
            Direction::Backward => Ok(Reality::Broken.into()),
        }
    }

    async fn act(
        &self,
        mut record: Record,
        action: Action,
        observed: &Observed,
    ) -> Result<Action, Error> {
        if let Some(name) = &observed.name {
            record.domain_named(name);
        }
        match action {
            Action::Nothing => {}
            Action::Complete | Action::TellFound => {
                record.whole();
                self.put(&record).await?;
            }
            Action::TellLost => {
                record.lost(told(&observed.lost(&record)));
                self.put(&record).await?;
            }
            Action::ReportStopped => {
                if let Some(domain) = record.domain.clone() {
                    let volume = record.volume.clone();
                    record.stopped(told(&Error::IoStopped { domain, volume }));
                    self.put(&record).await?;
                }
            }
            Action::Repair => self.repair(&mut record, None, None).await?,
            Action::Rename => self.put(&record).await?,
            Action::Undo => self.backward(record, Why::CleanUp).await?,
        }
        Ok(action)
    }
}
