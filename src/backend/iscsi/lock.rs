//! The lock of open-iscsi's database: a hard link, which stays behind when its holder is killed.
//!
//! iscsiadm, iscsid and whatever uses libopeniscsiusr make the link `lock.write` to the file `lock` and remove the link some milliseconds
//! later, having read or written a record (open-iscsi, usr/idbm.c and libopeniscsiusr/idbm.c: `idbm_lock`). Nothing in it names its holder.
//! Programs that find the link wait for 30 s. Then version 2.1.8 goes on as if it had the lock, and later versions fail (exit code 6).
//! volattach's iscsiadm never gets that far: its deadline comes first.
//!
//! Invariant: the link is removed only if it stayed the same link for as long as open-iscsi itself waits for a holder.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::sys::Stamp;

/// Path on Debian, Fedora and SUSE (usr/initiator.h: `LOCK_WRITE_FILE`).
const FILE: &str = "/run/lock/iscsi/lock.write";
/// How long open-iscsi waits for the holder of its lock (usr/idbm.c: 3000 times 10 ms).
const ABANDONED: Duration = Duration::from_secs(30);

/// Watches the lock.
#[derive(Debug)]
pub(super) struct DatabaseLock {
    file: PathBuf,
    /// The link that exists, and when this daemon first saw the link. Not by the link's own time: the clock may be set.
    seen: Mutex<Option<(Stamp, Instant)>>,
}

impl Default for DatabaseLock {
    fn default() -> Self {
        Self::new(FILE)
    }
}

impl DatabaseLock {
    pub(super) fn new(file: impl AsRef<Path>) -> Self {
        Self {
            file: file.as_ref().to_owned(),
            seen: Mutex::default(),
        }
    }

    /// Returns the link's stamp, which is another for each holder: link(2) changes the time of the file. `None`: nobody holds the lock.
    /// Removes the link if its holder died.
    pub(super) fn look(&self, now: Instant) -> Option<Stamp> {
        // Locked for the removal too: another call's iscsiadm may take the lock as soon as the link is gone.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(stamp) = Stamp::of(&self.file) else {
            *seen = None;
            return None;
        };
        let since = match &*seen {
            Some((known, since)) if *known == stamp => *since,
            _ => {
                *seen = Some((stamp.clone(), now));
                now
            }
        };
        if now.saturating_duration_since(since) < ABANDONED {
            return Some(stamp);
        }
        let file = self.file.display();
        match std::fs::remove_file(&self.file) {
            Ok(()) => tracing::warn!(
                "removed {file}, the lock of open-iscsi's database: it was held for {} s, so its holder was killed",
                ABANDONED.as_secs()
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (),
            Err(error) => tracing::error!(
                %error,
                "cannot remove {file}, the lock of open-iscsi's database, whose holder was killed: logins fail until it is removed"
            ),
        }
        *seen = None;
        None
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Takes the lock as open-iscsi does.
    fn take(dir: &Path) -> PathBuf {
        let (lock, link) = (dir.join("lock"), dir.join("lock.write"));
        fs::write(&lock, "").unwrap();
        fs::hard_link(&lock, &link).unwrap();
        link
    }

    #[test]
    fn a_lock_is_removed_once_it_was_one_link_for_as_long_as_its_users_wait() {
        let dir = tempfile::tempdir().unwrap();
        let link = take(dir.path());
        let lock = DatabaseLock::new(&link);
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let first = lock.look(start).unwrap();
        assert_eq!(lock.look(after(29)), Some(first.clone()));
        // Another holder by now, however long the lock was seen held.
        fs::remove_file(&link).unwrap();
        while Stamp::of(&take(dir.path())) == Some(first.clone()) {
            fs::remove_file(&link).unwrap(); // the file's time has the clock's resolution
        }
        assert!(lock.look(after(31)).is_some_and(|now| now != first));
        assert!(lock.look(after(60)).is_some());
        assert!(link.exists());
        assert_eq!(lock.look(after(61)), None);
        assert!(!link.exists() && dir.path().join("lock").exists());
        // The next holder's time begins anew.
        take(dir.path());
        assert!(lock.look(after(62)).is_some());
        fs::remove_file(&link).unwrap();
        assert_eq!(lock.look(after(63)), None);
        take(dir.path());
        assert!(lock.look(after(93)).is_some());
    }
}
