//! Makes attachments: answers for what is there already, and records and runs what is new.

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use super::Error;
use super::access::{Decided, KnownVolume, decide, plan_host};
use super::inner::Inner;
use super::plan::{check_confined, disk_spec};
use super::request::Wanted;
use super::saga::{Forward, Why};
use crate::journal::{Direction, Progress, Record, Step, StepRecord};
use crate::libvirt::{DomainView, plan_disk};
use crate::model::{
    Actor, Asker, Attachment, AttachmentId, Dialect, Domain, Holder, ImageFormat, SetPermissions,
    State, VolumeId,
};

/// How often others may come and go between the decision and the word in the journal before a caller is told to ask again.
const TRIES: usize = 5;

/// Who asks, and for what.
struct Asked {
    asker: Asker,
    holder: Holder,
    wanted: Wanted,
    fingerprint: String,
}

/// What the journal knows of a repeated request.
enum Known {
    /// All of it is there: the answer.
    Whole(Box<Attachment>),
    /// It was there, and is no more: it is made again.
    Lost(Box<Record>),
}

impl Inner {
    /// Attaches, or connects where no domain is wanted.
    pub(super) async fn make(&self, actor: &Actor, wanted: Wanted) -> Result<Attachment, Error> {
        let asked = Asked {
            asker: Asker::from(actor),
            holder: actor.holder(),
            fingerprint: wanted.fingerprint(&self.parts.key),
            wanted,
        };
        for _ in 0..TRIES {
            if let Some(made) = self.try_make(&asked).await? {
                return Ok(made);
            }
            tracing::info!("others use the volume otherwise than a moment ago: deciding again");
        }
        Err(Error::InProgress {
            id: asked.wanted.id,
            state: "others attach and detach its volume",
        })
    }

    /// The same; `None` where others have changed what was decided by.
    async fn try_make(&self, asked: &Asked) -> Result<Option<Attachment>, Error> {
        let wanted = &asked.wanted;
        let known = self.known(asked).await?;
        if let Some(Known::Whole(attachment)) = known {
            return Ok(Some(*attachment));
        }
        let backends = &self.parts.backends;
        let volume = self.volume(&wanted.volume, Some(&wanted.id)).await?;
        let decided = decide(backends, wanted, &asked.asker, volume)?;
        let host = plan_host(backends, wanted, &decided)?;
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
            let (looked, inspected) = tokio::join!(self.look(wanted), inspect);
            (looked?, inspected)
        };
        let spec = disk_spec(wanted, &decided, &host, view.dialect);
        let lost = match known {
            Some(Known::Lost(old)) => Some(old),
            _ => None,
        };
        let disk = match &lost {
            Some(old) if view.shows(&old.disk) => old.disk.clone(),
            // Refused now rather than after a mount.
            _ => plan_disk(&view, &spec)?,
        };
        check_confined(&self.parts.backends, &view, &host)?;
        inspected?;
        let again = lost.is_some();
        let now = SystemTime::now();
        let (created, mut steps) = match lost {
            // The configuration is another now, and what is left in the old place would be in no record; or the access is, and
            // what is left would still have the old one.
            Some(old)
                if old.host.shared != host.shared || old.access.access != decided.access.access =>
            {
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
        let mut record = Record {
            id: wanted.id.clone(),
            fingerprint: asked.fingerprint.clone(),
            volume: wanted.volume.clone(),
            shareable: spec.options.shareable,
            domain,
            access: decided.access.clone(),
            rights: decided.rights.clone(),
            holder: Some(asked.holder.clone()),
            host,
            disk,
            steps,
            direction: Direction::Forward,
            state: State::Connecting,
            error: None,
            unplug_requested: None,
            force: false,
            created,
            updated: now,
        };
        if !self.reserve(&mut record, asked, &decided).await? {
            return Ok(None);
        }
        let forward = Forward {
            info: wanted.info.protocol.clone(),
            spec,
            ready,
            again,
            plugs,
        };
        self.forward(record, forward).await.map(Some)
    }

    /// What this host knows of a volume; the attachment `but` is no use of it.
    pub(super) async fn volume(
        &self,
        volume: &VolumeId,
        but: Option<&AttachmentId>,
    ) -> Result<KnownVolume, Error> {
        let (records, set) = self.recorded(volume).await?;
        Ok(KnownVolume::new(&records, set, but))
    }

    /// What the journal has of a volume: its attachments, and the permissions that were set here.
    pub(super) async fn recorded(
        &self,
        volume: &VolumeId,
    ) -> Result<(Vec<Record>, Option<SetPermissions>), Error> {
        let journal = &self.parts.journal;
        let records = journal.select(&|record| record.volume == *volume).await?;
        Ok((records, journal.permissions(volume).await?))
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

    /// What the journal knows of the id, where the request is the same and for the same.
    async fn known(&self, asked: &Asked) -> Result<Option<Known>, Error> {
        let id = asked.wanted.id.clone();
        let Some(record) = self.parts.journal.get(&id).await? else {
            return Ok(None);
        };
        let another = |holder: &Holder| *holder != asked.holder;
        if record.fingerprint != asked.fingerprint || record.holder.as_ref().is_some_and(another) {
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

    /// Puts a new record into the journal, unless another attachment is in its way: an error; or unless it would be another
    /// record by what others do with the volume now: `false`. Nothing was done yet that the disk would have to know of.
    async fn reserve(
        &self,
        new: &mut Record,
        asked: &Asked,
        decided: &Decided,
    ) -> Result<bool, Error> {
        let _held = self.reserve.lock().await;
        let (records, set) = self.recorded(&new.volume).await?;
        let known = KnownVolume::new(&records, set, Some(&new.id));
        let now = decide(&self.parts.backends, &asked.wanted, &asked.asker, known)?;
        if !now.makes_the_same(decided) {
            return Ok(false);
        }
        new.access = now.access;
        new.rights = now.rights;
        for other in records.iter().filter(|other| other.id != new.id) {
            if let Some(why) = in_the_way(other, new) {
                return Err(Error::VolumeInUse {
                    volume: new.volume.clone(),
                    other: other.id.clone(),
                    why,
                });
            }
        }
        self.parts.journal.put_soon(new).await?;
        self.tell(new);
        Ok(true)
    }
}

/// Why two attachments may not have one volume, if so.
fn in_the_way(there: &Record, new: &Record) -> Option<&'static str> {
    let consent = there.shareable && new.shareable;
    let (reader, writer) = match [there, new].map(|it| it.access.access.is_read_only()) {
        [true, true] => return None,
        [false, false] => {
            let why = "only attachments that all say shareable may write one volume";
            return (!consent).then_some(why);
        }
        [true, false] => (there, new),
        [false, true] => (new, there),
    };
    if reader.host.target.is_some() && writer.host.target.is_some() {
        return Some(
            "a volume on iSCSI or NVMe/TCP is one device on this host, which is read-only for all or for none: detach that one \
             first, or attach on another host",
        );
    }
    if [reader, writer]
        .iter()
        .any(|it| it.host.format != ImageFormat::Raw)
    {
        return Some(
            "who reads an image while it is written sees nonsense: only raw volumes can be read beside a writer",
        );
    }
    if reader.disk.dialect == Dialect::Xen && !consent {
        return Some("on Xen a volume is read beside a writer only where both say shareable");
    }
    (!reader.shareable).then_some(
        "it only reads the volume, and was attached when nobody wrote it and not as shareable: detach it first",
    )
}
