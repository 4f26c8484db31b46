//! Block devices of this host that were made read-only for attachments that only read them, to be made writable again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use nix::errno::Errno;

use super::{look, node};
use crate::backend::{BackendError, release};
use crate::model::{HostVolume, LocalDevice};
use crate::sys::{beneath, block};

/// Key of a device until the next boot, independent of its name: the boot, its number and its `diskseq`.
type Key = (Option<String>, u64, Option<u64>);

/// Names by which attachments hold a read-only device. Locked while the device is made read-only or writable.
type Names = Arc<Mutex<BTreeSet<PathBuf>>>;

/// Devices that are read-only only because of attachments. Several claims may name one device differently, and no lock covers them all. The
/// next daemon restores the devices from the journal ([`crate::model::Found::protected`]).
#[derive(Debug, Default)]
pub(super) struct Protected(Mutex<BTreeMap<Key, Names>>);

impl Protected {
    /// Notes a device that an earlier daemon made read-only.
    pub(super) fn note(&self, device: &LocalDevice, name: &Path) {
        lock(&self.of(device)).insert(name.to_owned());
    }

    pub(super) fn has(&self, device: &LocalDevice) -> bool {
        !lock(&self.of(device)).is_empty()
    }

    /// Holds the device by the volume's name until the name is released, and makes it read-only if the volume is. May hang on the device.
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

    /// Releases the volume's name; makes the device writable again if this was its only name. May hang on the device.
    /// `force`: it may stay read-only if that fails.
    pub(super) fn let_go(
        &self,
        device: &LocalDevice,
        volume: &HostVolume,
        force: bool,
    ) -> Result<(), BackendError> {
        let names = self.of(device);
        let mut names = lock(&names);
        let name = &volume.plan.path;
        if names.len() == 1 && names.contains(name) && node::is_read_only(device) {
            match set(device, volume, false) {
                Err(error) if force => {
                    tracing::warn!(device = %name.display(), %error, "stays read-only");
                }
                set => set?, // on failure the name stays, to be released later
            }
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

/// What was tried if the kernel has no such device.
const GONE: &str = "find the device";

/// Makes exactly this device read-only or writable. Fails, without a change, for a device that this host itself uses.
fn set(device: &LocalDevice, volume: &HostVolume, read_only: bool) -> Result<(), BackendError> {
    let set = || {
        let path = node::path(device).map_err(|errno| (GONE, errno))?;
        if read_only {
            let dev = Path::new(look::DEVICES);
            beneath::check_unused(dev, path.strip_prefix(dev).unwrap_or(&path))?;
        }
        block::set_read_only(&path, device.sequence, read_only)
    };
    match set() {
        Ok(()) => Ok(()),
        // The device is gone. While the kernel has a disk offline, open(2) fails with ENXIO too.
        Err((GONE, _) | (_, Errno::ENOENT | Errno::ESTALE)) if !read_only => Ok(()),
        Err((_, Errno::EBUSY)) => {
            let path = &volume.plan.path;
            let name = path.strip_prefix("/dev").unwrap_or(path);
            Err(release::used_by_host(&name.to_string_lossy()))
        }
        Err((step, errno)) => Err(look::failure(volume, step, errno)),
    }
}
