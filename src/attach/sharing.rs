//! Decides which attachments may have the same volume at the same time.

use std::sync::Arc;

use super::Error;
use super::access::{Decided, KnownVolume, decide};
use super::inner::Inner;
use super::request::Asked;
use crate::journal::{Key, Record, Unreadable};
use crate::model::{AttachmentId, Dialect, ImageFormat, SetPermissions, SourceKind, VolumeId};

impl Inner {
    /// Reads the state of a volume on this host, without the attachment `but`.
    pub(super) async fn volume(
        &self,
        volume: &VolumeId,
        but: Option<&AttachmentId>,
    ) -> Result<KnownVolume, Error> {
        let (records, set) = self.recorded(volume).await?;
        Ok(KnownVolume::new(&records, set, but))
    }

    /// Loads a volume's records and the permissions set on this host.
    pub(super) async fn recorded(
        &self,
        volume: &VolumeId,
    ) -> Result<(Vec<Arc<Record>>, Option<SetPermissions>), Error> {
        let journal = &self.parts.journal;
        let records = journal.of(Key::Volume(volume)).await?;
        Ok((records, journal.permissions(volume).await?))
    }

    /// Journals a new record. Returns an error if another attachment is in its way, and `false` if the use by others has changed the
    /// decision meanwhile. The write is deferred: nothing was done yet that the disk must record.
    pub(super) async fn reserve(
        &self,
        new: &mut Record,
        asked: &Asked,
        decided: &Decided,
    ) -> Result<bool, Error> {
        let mut last = self.reserve.lock().await;
        let (records, set) = self.recorded(&new.volume).await?;
        let known = KnownVolume::new(&records, set, Some(&new.id));
        let now = decide(&self.backends(), &asked.wanted, &asked.asker, known)?;
        if !now.makes_the_same(decided) {
            return Ok(false);
        }
        new.access = now.access;
        new.rights = now.rights;
        let unreadable = self.parts.journal.unreadable().await?;
        let of_it = |it: &&Unreadable| it.volume.as_ref() == Some(&new.volume);
        if let Some(other) = unreadable.iter().find(of_it) {
            return Err(Error::VolumeInUse {
                volume: new.volume.clone(),
                other: other.id.clone(),
                why: "this build cannot read the record of that attachment: install the build that wrote it, and detach",
            });
        }
        for other in records.iter().filter(|other| other.id != new.id) {
            if let Some(why) = in_the_way(other, new) {
                return Err(Error::VolumeInUse {
                    volume: new.volume.clone(),
                    other: other.id.clone(),
                    why,
                });
            }
        }
        let order = match *last {
            Some(last) => last,
            None => self.last_order().await?,
        }
        .saturating_add(1);
        new.ordered(order);
        self.parts.journal.put_soon(new).await?;
        *last = Some(order);
        let again = records.iter().any(|record| record.id == new.id);
        self.changes.put(new.to_attachment(), !again);
        Ok(true)
    }

    /// Returns the highest place that the journal has given to a request; 0: none.
    async fn last_order(&self) -> Result<u64, Error> {
        let records = self.parts.journal.all().await?;
        let orders = records.iter().map(|record| record.course.order());
        Ok(orders.max().unwrap_or_default())
    }
}

/// Returns why two attachments may not have the same volume, if so.
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
    if [reader, writer]
        .iter()
        .all(|it| it.host.plan.kind == SourceKind::Block)
    {
        return Some(
            "a block device is one device on this host, which is read-only for all or for none: detach that one first, or attach on another \
             host",
        );
    }
    if [reader, writer]
        .iter()
        .any(|it| it.host.plan.format != ImageFormat::Raw)
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
