//! Whether files have changed since they were read.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What stat(2) tells a file, and its content, by: two that are equal are of a file that nobody has written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// That of the file or directory as it is now, links followed; `None`: it is not there, or cannot be looked at.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self {
            inode: (found.dev(), found.ino()),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// Files that are read again once they have changed, and are at rest: one that is being written has the same look at two
/// looks only when its writer is done, or has stopped.
#[derive(Debug)]
pub struct Watched {
    /// As they were when they were read last, for good.
    read: Stamps,
    /// As they were at the last look.
    seen: Stamps,
    /// Why they could not be used when that was tried last.
    failed: Option<String>,
}

/// Each file and directory, and what it looks like.
type Stamps = Vec<(PathBuf, Option<Stamp>)>;

fn stamps(paths: impl IntoIterator<Item = PathBuf>) -> Stamps {
    let stamped = paths.into_iter().map(|path| {
        let stamp = Stamp::of(&path);
        (path, stamp)
    });
    stamped.collect()
}

impl Watched {
    /// Files that are about to be read: a change from now on is a change.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let now = stamps(paths);
        Self {
            read: now.clone(),
            seen: now,
            failed: None,
        }
    }

    /// Looks at the files: whether they are to be read again, because they have changed since they were read and not since
    /// the last look.
    pub fn look(&mut self, paths: impl IntoIterator<Item = PathBuf>) -> bool {
        let now = stamps(paths);
        if now != self.seen {
            self.seen = now;
            return false;
        }
        self.seen != self.read
    }

    /// They are in use as they were at the last look, and need not be read again until they change.
    pub fn done(&mut self) {
        self.read.clone_from(&self.seen);
        self.failed = None;
    }

    /// They cannot be used, for now at least: they are read again at the next look. Whether that is news.
    pub fn failed(&mut self, why: &str) -> bool {
        let news = self.failed.as_deref() != Some(why);
        self.failed = Some(why.to_owned());
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_changed_and_is_at_rest_is_to_be_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let paths = || [dir.path().join("a"), dir.path().join("b")];
        let mut watched = Watched::new(paths());
        assert!(!watched.look(paths()) && !watched.look(paths()));
        fs::write(&paths()[0], "half").unwrap();
        assert!(!watched.look(paths()), "it may be under way");
        fs::write(&paths()[0], "half and half").unwrap();
        assert!(!watched.look(paths()), "it was");
        assert!(watched.look(paths()));
        assert!(watched.failed("broken") && watched.look(paths()));
        assert!(!watched.failed("broken") && watched.failed("otherwise"));
        watched.done();
        assert!(!watched.look(paths()));
        assert!(watched.failed("broken"), "it was good meanwhile");
        fs::remove_file(&paths()[0]).unwrap();
        assert!(!watched.look(paths()) && watched.look(paths()));
    }
}
