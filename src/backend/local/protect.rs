//! Block devices of this host that were made read-only for attachments that only read them, to be made writable again.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::libc::{major, minor};

use crate::backend::{BackendError, file};
use crate::model::HostPlan;
use crate::sys::block;

/// The devices that are read-only for attachments alone, by the names that callers give them. The next daemon has them from the journal
/// ([`crate::model::Found::protected`]).
#[derive(Debug, Default)]
pub(super) struct Protected(Mutex<BTreeSet<PathBuf>>);

impl Protected {
    pub(super) fn note(&self, device: &Path) {
        self.lock().insert(device.to_owned());
    }

    pub(super) fn has(&self, device: &Path) -> bool {
        self.lock().contains(device)
    }

    pub(super) fn forget(&self, device: &Path) {
        self.lock().remove(device);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the kernel lets nobody write the plan's device. One that is not there is not.
pub(super) fn is_read_only(plan: &HostPlan) -> bool {
    let number = std::fs::metadata(&plan.path).map(|it| it.rdev());
    let read = number.and_then(|number| {
        let (major, minor) = (major(number), minor(number));
        std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/ro"))
    });
    read.is_ok_and(|text| text.trim_end() == "1")
}

/// Makes the plan's device read-only, or writable again.
pub(super) fn set(plan: &HostPlan, read_only: bool) -> Result<(), BackendError> {
    match block::set_read_only(&plan.path, read_only) {
        Ok(()) => Ok(()),
        Err((_, Errno::ENOENT | Errno::ENXIO)) if !read_only => Ok(()), // it is gone
        Err((step, errno)) => Err(file::failure(&plan.clone().into(), None, step, errno)),
    }
}
