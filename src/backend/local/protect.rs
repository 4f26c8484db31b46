//! Block devices of this host that were made read-only for attachments that only read them, to be made writable again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use nix::errno::Errno;

use super::{look, node};
use crate::backend::{BackendError, release};
use crate::model::{HostVolume, LocalDevice};
use crate::sys::{beneath, block};

/// A device until the next boot, whatever it is called: that boot, its number and its `diskseq`.
type Key = (Option<String>, u64, Option<u64>);

/// The names by which attachments have a device that is read-only for them. Locked while the device is made read-only or writable.
type Names = Arc<Mutex<BTreeSet<PathBuf>>>;

/// The devices that are read-only for attachments alone. Several claims may be of one device, each by another name of it, and no lock is
/// over both. The next daemon has them from the journal ([`crate::model::Found::protected`]).
#[derive(Debug, Default)]
pub(super) struct Protected(Mutex<BTreeMap<Key, Names>>);

impl Protected {
    /// Notes a device that is read-only by an earlier daemon.
    pub(super) fn note(&self, device: &LocalDevice, name: &Path) {
        lock(&self.of(device)).insert(name.to_owned());
    }

    pub(super) fn has(&self, device: &LocalDevice) -> bool {
        !lock(&self.of(device)).is_empty()
    }

    /// Has the device read-only until its last name is let go. May hang on the device.
    pub(super) fn hold(
        &self,
        device: &LocalDevice,
        volume: &HostVolume,
    ) -> Result<(), BackendError> {
        let names = self.of(device);
        let mut names = lock(&names);
        names.insert(volume.plan.path.clone());
        match volume.plan.access.is_read_only() && !node::is_read_only(device) {
            true => set(device, volume, true),
            false => Ok(()),
        }
    }

    /// Makes the device writable again, where it was read-only by this name alone. May hang on the device.
    pub(super) fn let_go(
        &self,
        device: &LocalDevice,
        volume: &HostVolume,
    ) -> Result<(), BackendError> {
        let names = self.of(device);
        let mut names = lock(&names);
        let name = &volume.plan.path;
        if names.len() == 1 && names.contains(name) && node::is_read_only(device) {
            set(device, volume, false)?; // where that fails, it is still to be done
        }
        names.remove(name);
        Ok(())
    }

    fn of(&self, device: &LocalDevice) -> Names {
        let mut all = lock(&self.0);
        all.retain(|_, names| match names.try_lock() {
            Ok(held) => !held.is_empty() || Arc::strong_count(names) > 1,
            Err(TryLockError::WouldBlock) => true,
            Err(TryLockError::Poisoned(held)) => !held.into_inner().is_empty(),
        });
        let key = (device.boot.clone(), device.number, device.sequence);
        all.entry(key).or_default().clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes this very device read-only, or writable again. What this host itself uses is left as it is.
fn set(device: &LocalDevice, volume: &HostVolume, read_only: bool) -> Result<(), BackendError> {
    let set = || {
        let path = node::path(device).map_err(|errno| ("find the device", errno))?;
        // Its name stays its own as long as it is open.
        let _held = match device.sequence {
            Some(sequence) => Some(block::hold(&path, sequence)?),
            None => None,
        };
        if read_only {
            let dev = Path::new(look::DEVICES);
            beneath::check_unused(dev, path.strip_prefix(dev).unwrap_or(&path))?;
        }
        block::set_read_only(&path, read_only)
    };
    match set() {
        Ok(()) => Ok(()),
        // It is gone.
        Err((_, Errno::ENOENT | Errno::ENXIO | Errno::ENODEV | Errno::ESTALE)) if !read_only => {
            Ok(())
        }
        Err((_, Errno::EBUSY)) => {
            let path = &volume.plan.path;
            let name = path.strip_prefix("/dev").unwrap_or(path);
            Err(release::used_by_host(&name.to_string_lossy()))
        }
        Err((step, errno)) => Err(look::failure(volume, step, errno)),
    }
}
