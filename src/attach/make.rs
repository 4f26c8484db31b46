//! Makes attachments: answers for what is there already, and records and runs what is new.

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use super::Error;
use super::inner::Inner;
use super::plan::{disk_spec, plan_host};
use super::request::Wanted;
use super::saga::{Forward, Why};
use crate::journal::{Direction, Progress, Record, Step, StepRecord};
use crate::libvirt::{DomainView, plan_disk};
use crate::model::{Attachment, Domain, State};

/// What the journal knows of a repeated request.
enum Known {
    /// All of it is there: the answer.
    Whole(Box<Attachment>),
    /// It was there, and is no more: it is made again.
    Lost(Box<Record>),
}

impl Inner {
    /// Attaches, or connects where no domain is wanted.
    pub(super) async fn make(&self, wanted: Wanted) -> Result<Attachment, Error> {
        let fingerprint = wanted.fingerprint(&self.parts.key);
        let known = self.known(&wanted, &fingerprint).await?;
        if let Some(Known::Whole(attachment)) = known {
            return Ok(*attachment);
        }
        let (access, host) = plan_host(&self.parts.backends, &wanted.info, wanted.access)?;
        let ready = host.shared.is_none();
        let plugs = self.plugs.load(Ordering::Acquire);
        // What needs no connection is looked at while the domain is.
        let ((domain, view), inspected) = {
            let inspect = async {
                match ready {
                    true => self.inspect(&host).await,
                    false => Ok(()),
                }
            };
            let (looked, inspected) = tokio::join!(self.look(&wanted), inspect);
            (looked?, inspected)
        };
        let spec = disk_spec(&wanted.volume, &wanted.info, &wanted.disk, &host);
        let lost = match known {
            Some(Known::Lost(old)) => Some(old),
            _ => None,
        };
        let disk = match &lost {
            Some(old) if view.shows(&old.disk) => old.disk.clone(),
            // Refused now rather than after a mount.
            _ => plan_disk(&view, &spec)?,
        };
        inspected?;
        let again = lost.is_some();
        let now = SystemTime::now();
        let (created, mut steps) = match lost {
            // The configuration is another now, and what is left in the old place would be in no record.
            Some(old) if old.host.shared != host.shared => {
                let created = old.created;
                self.backward(*old, Why::CleanUp).await?;
                (created, Vec::new())
            }
            // What is left of it is this record's to undo.
            Some(old) => (old.created, old.steps),
            None => (now, Vec::new()),
        };
        for begun in &mut steps {
            begun.progress = Progress::Intent;
        }
        if ready {
            steps.retain(|begun| begun.step != Step::Connect);
            steps.insert(
                0,
                StepRecord {
                    step: Step::Connect,
                    progress: Progress::Done,
                },
            );
        }
        let record = Record {
            id: wanted.id,
            fingerprint,
            volume: wanted.volume,
            shareable: spec.options.shareable,
            domain,
            access,
            host,
            disk,
            steps,
            direction: Direction::Forward,
            state: State::Connecting,
            error: None,
            unplug_requested: None,
            created,
            updated: now,
        };
        self.reserve(&record).await?;
        let forward = Forward {
            info: wanted.info.protocol,
            spec,
            ready,
            again,
            plugs,
        };
        self.forward(record, forward).await
    }

    /// The domain that is wanted, as it is now.
    async fn look(&self, wanted: &Wanted) -> Result<(Option<Domain>, DomainView), Error> {
        let hypervisor = &self.parts.hypervisor;
        let Some(domain) = &wanted.domain else {
            return Ok((None, DomainView::empty(hypervisor.dialect())));
        };
        let view = hypervisor.domain(domain, wanted.disk.scope).await?;
        Ok((Some(view.domain.clone()), view))
    }

    /// What the journal knows of the id, where the request is the same.
    async fn known(&self, wanted: &Wanted, fingerprint: &str) -> Result<Option<Known>, Error> {
        let Some(record) = self.parts.journal.get(&wanted.id).await? else {
            return Ok(None);
        };
        let id = wanted.id.clone();
        if record.fingerprint != fingerprint {
            return Err(Error::Conflict { id });
        }
        match record.state {
            State::Attached | State::Connected if self.is_whole(&record).await? => {
                Ok(Some(Known::Whole(Box::new(record.to_attachment()))))
            }
            State::Attached | State::Connected => Ok(Some(Known::Lost(Box::new(record)))),
            State::Failed => Err(Error::CleanupRequired { id }),
            state => Err(Error::InProgress {
                id,
                state: state.as_str(),
            }),
        }
    }

    /// Puts a new record into the journal, unless another attachment has the volume. Nothing was done yet that the disk
    /// would have to know of.
    async fn reserve(&self, new: &Record) -> Result<(), Error> {
        let _held = self.reserve.lock().await;
        let in_the_way = self.parts.journal.all().await?.into_iter().find(|other| {
            other.id != new.id && other.volume == new.volume && !may_share(other, new)
        });
        if let Some(other) = in_the_way {
            return Err(Error::VolumeInUse {
                volume: new.volume.clone(),
                other: other.id,
            });
        }
        self.parts.journal.put_soon(new).await?;
        self.tell(new);
        Ok(())
    }
}

/// Whether two attachments may have one volume. The device of a target's volume is read-only for the whole host or not at
/// all.
fn may_share(a: &Record, b: &Record) -> bool {
    let same_access = a.access.access == b.access.access;
    let read_only = same_access && a.access.access.is_read_only();
    let one_device = a.host.target.is_some() && b.host.target.is_some();
    read_only || a.shareable && b.shareable && (same_access || !one_device)
}
