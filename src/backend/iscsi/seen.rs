//! Who each disk was when this agent first saw it. The kernel forgets that as soon as anybody has it look at the disk anew: multipathd
//! does so to a path that is another volume by now, os-brick and administrators to what has grown.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::sysfs::{Sysfs, Unit};
use crate::model::Wwid;

/// Identities, by [`Sysfs::sequence`]. The next daemon has those of the attachments from the journal, and else takes the
/// kernel's word.
#[derive(Debug, Default)]
pub(super) struct FirstSeen(Mutex<HashMap<u64, Wwid>>);

impl FirstSeen {
    /// Who a disk was when it was first seen, which may be now.
    pub(super) fn unit(&self, sysfs: &Sysfs, unit: &Unit) -> Option<Wwid> {
        let scanned = unit.identity_at_scan()?;
        Some(match &unit.block {
            Some(block) => self.first(sysfs, sysfs.sequence(block), scanned),
            None => scanned,
        })
    }

    /// Returns the first seen identity of the block device with that number; this is `now` if the device is seen for the first time.
    pub(super) fn first(&self, sysfs: &Sysfs, number: Option<u64>, now: Wwid) -> Wwid {
        let Some(number) = number else {
            return now;
        };
        let mut seen = self.lock();
        if let Some(first) = seen.get(&number) {
            return first.clone();
        }
        if let Some(there) = sysfs.sequences() {
            seen.retain(|number, _| there.contains(number));
        }
        seen.insert(number, now.clone());
        now
    }

    /// Who the disk is that an earlier process connected as a volume with that identity. Where several volumes had the LUN in
    /// turn, each with its attachment, it is the one whose identity the kernel tells.
    pub(super) fn recall(&self, sysfs: &Sysfs, unit: &Unit, identity: &Wwid) {
        let Some(number) = unit
            .block
            .as_deref()
            .and_then(|block| sysfs.sequence(block))
        else {
            return;
        };
        let is_told = unit.identity_at_scan().as_ref() == Some(identity);
        let mut seen = self.lock();
        let first = seen.entry(number).or_insert_with(|| identity.clone());
        if is_told {
            first.clone_from(identity);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Wwid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_disk_stays_who_it_was_and_the_next_of_its_name_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("block/sda/diskseq");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let (sysfs, seen) = (Sysfs::new(dir.path().to_owned()), FirstSeen::default());
        let see = |now: &str| {
            let now = Wwid::as_spelled(now.to_owned());
            seen.first(&sysfs, sysfs.sequence("sda"), now).to_string()
        };
        assert_eq!((see("x").as_str(), see("y").as_str()), ("x", "y"));
        for (number, now, first) in [(1, "a", "a"), (1, "b", "a"), (2, "b", "b")] {
            fs::write(&file, format!("{number}\n")).unwrap();
            assert_eq!(see(now), first);
        }
        assert_eq!(seen.0.lock().unwrap().len(), 1);
    }
}
