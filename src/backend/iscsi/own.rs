//! Disks made by this daemon. Disks that the daemon only found belong to others, and stay after the disconnect.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::sysfs::{Sysfs, Unit};
use super::{IscsiBackend, paths_of};
use crate::model::{HostVolume, TargetPath};

/// Disks made here, by [`Sysfs::sequence`]. The next daemon restores the disks of attachments from the journal.
#[derive(Debug, Default)]
pub(super) struct Own(Mutex<HashSet<u64>>);

impl Own {
    /// Notes a disk that was made here.
    pub(super) fn note(&self, sysfs: &Sysfs, number: Option<u64>) {
        let mut own = self.lock();
        if let Some(there) = sysfs.sequences() {
            own.retain(|number| there.contains(number));
        }
        own.extend(number);
    }

    fn has(&self, number: u64) -> bool {
        self.lock().contains(&number)
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IscsiBackend {
    /// Sequence numbers of the disks at these paths that others made. Empty on a kernel without such numbers.
    pub(super) fn of_others(&self, paths: &[TargetPath]) -> Vec<u64> {
        let own = paths.iter().cloned();
        let units = own
            .chain(self.elsewhere(paths))
            .filter_map(|path| self.at(path));
        units
            .filter_map(|(_, unit)| self.number(&unit))
            .filter(|number| !self.own.has(*number))
            .collect()
    }

    /// Notes the disks of a connection in the journal.
    pub(super) fn recall_one(&self, volume: &HostVolume) {
        if let Some(device) = volume.found.protected_device() {
            self.protected.note(device);
        }
        if let Ok(paths) = paths_of(volume) {
            let paths = paths.iter().cloned().chain(self.elsewhere(paths));
            for (_, unit) in paths.filter_map(|path| self.at(path)) {
                if let Some(identity) = volume.identity() {
                    self.seen.recall(self.sysfs(), &unit, identity);
                }
                let number = self.number(&unit);
                if number.is_none_or(|it| !volume.found.disks_of_others.contains(&it)) {
                    self.own.note(self.sysfs(), number);
                }
            }
        }
    }

    /// Sequence number of a unit's disk.
    pub(super) fn number(&self, unit: &Unit) -> Option<u64> {
        self.sysfs().sequence(unit.block.as_deref()?)
    }
}
