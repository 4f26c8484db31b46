//! What [`crate::reconcile`] may do to a record: look again under the record's own guard, then settle it.

use std::collections::BTreeMap;

use tokio::sync::broadcast;

use super::Error;
use super::engine::Engine;
use super::inner::Inner;
use super::saga::{lost, told};
use super::steps::Why;
use crate::backend::Presence;
use crate::journal::{Direction, Key, Record};
use crate::libvirt::{DeviceGone, in_background};
use crate::model::{AttachmentId, HostVolume};

/// What was found: for an attachment to a domain its disk, else its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reality {
    /// It is there.
    Whole,
    /// It is there, but paths to the volume are missing, or as many work as the record does not say.
    Degraded,
    /// It is not.
    Broken,
}

impl Reality {
    /// What an attachment is that has everything, by a connection found like this.
    pub(super) fn of(record: &Record, connection: Presence) -> Self {
        let degraded = connection.degraded();
        match degraded.is_none() && record.degraded.is_none() {
            true => Self::Whole,
            false => Self::Degraded,
        }
    }
}

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
    /// It is back.
    TellFound,
    /// Make the missing paths to the volume, and note how many work.
    Repair,
}

impl Engine {
    /// Every record there is, by id.
    ///
    /// # Errors
    /// Where the journal fails.
    pub(crate) async fn ids(&self) -> Result<Vec<AttachmentId>, Error> {
        let records = self.0.parts.journal.all().await?;
        Ok(records.iter().map(|record| record.id.clone()).collect())
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
            if let Ok(backend) = parts.backends.get(&protocol) {
                let backend = backend.clone();
                let recalled = tokio::task::spawn_blocking(move || backend.recall(&volumes));
                recalled.await.map_err(Error::Internal)?;
            }
        }
        Ok(())
    }

    /// The records that the news is about.
    ///
    /// # Errors
    /// Where the journal fails.
    pub(crate) async fn about(&self, gone: &DeviceGone) -> Result<Vec<AttachmentId>, Error> {
        let key = Key::Domain(&gone.domain);
        let mut records = self.0.parts.journal.of(key).await?;
        if let Some(alias) = &gone.alias {
            records.retain(|record| *alias == record.disk.alias);
        }
        Ok(records.iter().map(|record| record.id.clone()).collect())
    }

    /// The attachments whose guests are to be asked again to release their disks.
    pub(crate) fn due_unplugs(&self) -> Vec<AttachmentId> {
        self.0.timers.due()
    }

    /// Disks seen gone, as they go.
    pub(crate) fn device_events(&self) -> broadcast::Receiver<DeviceGone> {
        self.0.parts.hypervisor.events()
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
        decide: fn(&Record, Reality) -> Action,
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
        let action = decide(&seen, in_background(look).await?);
        if action == Action::Nothing {
            return Ok(action);
        }
        let busy = self.enter(&id)?;
        let turn = match action {
            Action::Undo => Some(self.0.work.try_reconcile(&seen)?),
            // Touches nothing but the journal.
            _ => None,
        };
        let engine = self.clone();
        let act = async move {
            if engine.0.parts.journal.get(&seen.id).await?.as_ref() != Some(&seen) {
                return Ok(Action::Nothing);
            }
            // Boxed: the saga's state would make every future around it large.
            Box::pin(engine.0.act(seen, action)).await
        };
        self.run_in(busy, turn, in_background(act)).await
    }
}

impl Inner {
    async fn reality(&self, record: &Record) -> Result<Reality, Error> {
        // What goes backward is looked at step by step: a libvirt that is down must not keep a share mounted.
        match record.course.direction() {
            Direction::Forward => self.observe(record).await,
            Direction::Backward => Ok(Reality::Broken),
        }
    }

    async fn act(&self, mut record: Record, action: Action) -> Result<Action, Error> {
        match action {
            Action::Nothing => {}
            Action::Complete | Action::TellFound => {
                record.whole();
                self.put(&record).await?;
            }
            Action::TellLost => {
                record.lost(told(&lost(&record)));
                self.put(&record).await?;
            }
            Action::Repair => self.repair(&mut record, None).await?,
            Action::Undo => self.backward(record, Why::CleanUp).await?,
        }
        Ok(action)
    }
}
