//! Which attachments may have one volume at a time.

use super::Error;
use super::access::{Decided, KnownVolume, decide};
use super::inner::Inner;
use super::make::Asked;
use crate::journal::Record;
use crate::model::{AttachmentId, Dialect, ImageFormat, SetPermissions, SourceKind, VolumeId};

impl Inner {
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

    /// Puts a new record into the journal, unless another attachment is in its way: an error; or unless it would be another
    /// record by what others do with the volume now: `false`. Nothing was done yet that the disk would have to know of.
    pub(super) async fn reserve(
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
