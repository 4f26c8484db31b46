//! The login of each mounted share, if a file holds the login. A caller who comes after the file has changed is another user, or has
//! another password.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::HostVolume;

/// Hashes of the files' logins ([`crate::model::Found::login`]), by mount point. The next daemon restores them from the journal.
#[derive(Debug, Default)]
pub(super) struct Logins(Mutex<HashMap<PathBuf, String>>);

impl Logins {
    /// Notes the login of a mount.
    pub(super) fn note(&self, volume: &HostVolume) {
        if let (Some(mount), Some(said)) = (volume.plan.mount(), &volume.found.login) {
            self.lock().insert(mount.target.clone(), said.clone());
        }
    }

    /// The login of the mount at the target; `None`: unknown, as for a mount made by an earlier build.
    pub(super) fn at(&self, target: &Path) -> Option<String> {
        self.lock().get(target).cloned()
    }

    /// Forgets a mount that is gone.
    pub(super) fn forget(&self, target: &Path) {
        self.lock().remove(target);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
