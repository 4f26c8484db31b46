//! Whether a file has changed since it was looked at.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

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
