//! With what each share was logged in to, where a file says how: who comes when the file says something else is another user, or one
//! with another password.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::HostVolume;

/// What the files said, as [`crate::model::Found::login`] has it, by mount point. The next daemon has it from the journal.
#[derive(Debug, Default)]
pub(super) struct Logins(Mutex<HashMap<PathBuf, String>>);

impl Logins {
    /// Notes a mount that was made.
    pub(super) fn note(&self, volume: &HostVolume) {
        if let (Some(mount), Some(said)) = (volume.plan.mount(), &volume.found.login) {
            self.lock().insert(mount.target.clone(), said.clone());
        }
    }

    /// Of the mount there; `None`: not known, as of a mount that an earlier build made.
    pub(super) fn at(&self, target: &Path) -> Option<String> {
        self.lock().get(target).cloned()
    }

    /// The mount is gone.
    pub(super) fn forget(&self, target: &Path) {
        self.lock().remove(target);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
