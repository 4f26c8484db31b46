//! Opening a file beneath a directory, whatever else its path would lead to.

use std::fs::{File, FileType};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};

/// A file that was opened beneath a directory.
#[derive(Debug)]
pub struct Opened {
    /// Open for reading, or for both.
    pub file: File,
    /// What it is: asked of the open file, so that nothing can change it any more.
    pub kind: FileType,
    /// Bytes; 0 for what is not a regular file.
    pub size: u64,
}

/// What failed: `open`, `inspect` or `read`, and with which error.
pub type Failed = (&'static str, Errno);

/// Opens `relative` beneath the directory `root`; neither may lead through a symbolic link (openat2(2),
/// `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`), nor `relative` out of `root`.
///
/// The file is first looked at without opening it, so that a FIFO is not waited for and a device not woken; what is
/// neither a regular file nor a block device is returned as it is looked at, not open for anything.
///
/// # Errors
/// `ELOOP` for a symbolic link, `EXDEV` for a path that leaves `root`, and openat2(2)'s other errors.
pub fn open_beneath(root: &Path, relative: &Path, write: bool) -> Result<Opened, Failed> {
    let root = open_directory(root).map_err(|errno| ("open the root", errno))?;
    let looked_at = File::from(resolve(&root, relative, OFlag::O_PATH)?);
    let opened = opened(looked_at)?;
    if !wanted(opened.kind) {
        return Ok(opened);
    }
    let mode = if write {
        OFlag::O_RDWR
    } else {
        OFlag::O_RDONLY
    };
    let file = resolve(&root, relative, mode | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)?;
    self::opened(File::from(file))
}

fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(AT_FDCWD, path, how)
}

fn resolve(root: impl AsFd, relative: &Path, flags: OFlag) -> Result<OwnedFd, Failed> {
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(
        ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_MAGICLINKS,
    );
    // EAGAIN: the kernel could not rule out that a concurrent rename led out of the root (openat2(2)): try again.
    let mut tries = 0;
    loop {
        match openat2(root.as_fd(), relative, how) {
            Err(Errno::EAGAIN) if tries < 16 => tries += 1,
            result => return result.map_err(|errno| ("open", errno)),
        }
    }
}

fn wanted(kind: FileType) -> bool {
    use std::os::unix::fs::FileTypeExt;
    kind.is_file() || kind.is_block_device()
}

fn opened(file: File) -> Result<Opened, Failed> {
    let metadata = file.metadata().map_err(|e| ("inspect", errno(&e)))?;
    Ok(Opened {
        kind: metadata.file_type(),
        size: if metadata.is_file() {
            metadata.len()
        } else {
            0
        },
        file,
    })
}

/// The first and the last bytes of a regular file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ends {
    /// The first bytes: as many as asked for, or the whole file.
    pub head: Vec<u8>,
    /// The last bytes, likewise.
    pub tail: Vec<u8>,
}

impl Opened {
    /// Reads the first `head` and the last `tail` bytes.
    ///
    /// # Errors
    /// read(2)'s.
    pub fn ends(&self, head: usize, tail: usize) -> Result<Ends, Failed> {
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        let read = |length: usize, offset: u64| {
            let mut bytes = vec![0; length];
            self.file
                .read_exact_at(&mut bytes, offset)
                .map(|()| bytes)
                .map_err(|e| ("read", errno(&e)))
        };
        let tail = tail.min(size);
        Ok(Ends {
            head: read(head.min(size), 0)?,
            tail: read(tail, self.size - tail as u64)?,
        })
    }
}

/// The error's number; `EIO` for one of Rust's own, such as a file that became shorter while it was read.
fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, symlink};

    use super::*;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("sub")).unwrap();
        std::fs::write(root.join("sub/v1"), b"0123456789").unwrap();
        std::fs::write(dir.path().join("outside"), b"secret").unwrap();
        symlink("sub/v1", root.join("inner-link")).unwrap();
        symlink("../outside", root.join("outer-link")).unwrap();
        symlink("/etc/passwd", root.join("absolute-link")).unwrap();
        symlink("sub", root.join("sub-link")).unwrap();
        symlink(&root, dir.path().join("root-link")).unwrap();
        nix::unistd::mkfifo(&root.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        dir
    }

    #[test]
    fn a_regular_file_gives_its_ends() {
        let dir = tree();
        let opened = open_beneath(&dir.path().join("root"), Path::new("sub/v1"), true).unwrap();
        assert!(opened.kind.is_file());
        assert_eq!(opened.size, 10);
        let ends = opened.ends(4, 3).unwrap();
        assert_eq!(
            (ends.head.as_slice(), ends.tail.as_slice()),
            (&b"0123"[..], &b"789"[..])
        );
        let ends = opened.ends(100, 100).unwrap();
        assert_eq!(
            (ends.head.as_slice(), ends.tail.as_slice()),
            (&b"0123456789"[..], &b"0123456789"[..])
        );
    }

    #[test]
    fn links_and_ways_out_are_refused() {
        let dir = tree();
        let root = dir.path().join("root");
        let errno = |root: &Path, path: &str| {
            open_beneath(root, Path::new(path), false)
                .map(|_| ())
                .unwrap_err()
        };
        for link in ["inner-link", "outer-link", "absolute-link", "sub-link/v1"] {
            assert_eq!(errno(&root, link), ("open", Errno::ELOOP), "{link}");
        }
        for way_out in ["../outside", "sub/../../outside", "/etc/passwd"] {
            assert_eq!(errno(&root, way_out), ("open", Errno::EXDEV), "{way_out}");
        }
        assert_eq!(errno(&root, "absent"), ("open", Errno::ENOENT));
        let link = dir.path().join("root-link");
        assert_eq!(errno(&link, "sub/v1"), ("open the root", Errno::ELOOP));
    }

    #[test]
    fn a_fifo_is_not_waited_for() {
        let dir = tree();
        let opened = open_beneath(&dir.path().join("root"), Path::new("fifo"), false).unwrap();
        assert!(opened.kind.is_fifo());
        let opened = open_beneath(&dir.path().join("root"), Path::new("sub"), true).unwrap();
        assert!(opened.kind.is_dir());
    }
}
