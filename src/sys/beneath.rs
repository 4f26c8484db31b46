//! Opening a file beneath a directory, whatever else its path would lead to.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, fstat};
use serde::{Deserialize, Serialize};

/// A file that was opened beneath a directory.
#[derive(Debug)]
pub struct Opened {
    /// Open for reading, or for both; what is neither a regular file nor a block device is open for nothing.
    pub file: File,
    /// What it is: asked of the open file, so that nothing can change it any more.
    pub kind: FileKind,
    /// Bytes; 0 for what is neither a regular file nor a block device.
    pub size: u64,
}

/// What failed: which step, and with which error.
pub type Failed = (&'static str, Errno);

/// Opens `relative` beneath the directory `root`; neither may lead through a symbolic link (openat2(2),
/// `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`), nor `relative` out of `root`.
///
/// The file is first looked at without opening it, so that a FIFO is not waited for and a device not woken.
///
/// # Errors
/// `ELOOP` for a symbolic link, `EXDEV` for a path that leaves `root`, and openat2(2)'s other errors.
pub fn open_beneath(root: &Path, relative: &Path, write: bool) -> Result<Opened, Failed> {
    let root = open_directory(root).map_err(|errno| ("open the directory", errno))?;
    let file = File::from(resolve(&root, relative, OFlag::O_PATH)?);
    let kind = kind(&file)?;
    if !matches!(kind, FileKind::Regular | FileKind::Block) {
        return Ok(Opened {
            file,
            kind,
            size: 0,
        });
    }
    let mode = if write {
        OFlag::O_RDWR
    } else {
        OFlag::O_RDONLY
    };
    let flags = mode | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let mut file = File::from(resolve(&root, relative, flags)?);
    // A block device's metadata say nothing of its size.
    let size = file
        .seek(SeekFrom::End(0))
        .map_err(|e| ("find the end", errno(&e)))?;
    Ok(Opened {
        kind: self::kind(&file)?,
        file,
        size,
    })
}

/// Checks that this host itself does not use the block device at `relative` beneath `root`: neither the device nor any of its partitions is
/// mounted, swapped to, or part of another device (open(2), `O_EXCL`).
///
/// # Errors
/// `EBUSY` if this host uses the device, and those of [`open_beneath`].
pub fn check_unused(root: &Path, relative: &Path) -> Result<(), Failed> {
    let root = open_directory(root).map_err(|errno| ("open the directory", errno))?;
    let alone = OFlag::O_RDONLY | OFlag::O_EXCL | OFlag::O_NONBLOCK;
    resolve(&root, relative, alone)
        .map(drop)
        .map_err(|(_, errno)| ("have it alone", errno))
}

/// The first folder on the way to `file` in which somebody else than root and the user `own` may rename what leads there, and
/// make links: whoever may can put another file in the place of one that was looked at. In a folder with the sticky bit nobody
/// may rename what is root's or `own`'s (inode(7)), such as another folder.
///
/// Each folder is opened in the one before it, so that of the folders above the first such one nobody can have changed any.
///
/// # Errors
/// `ENOTDIR` where a folder is none, or a symbolic link, and openat(2)'s other errors.
pub fn changeable_by_others(file: &Path, own: u32) -> Result<Option<PathBuf>, Failed> {
    let mut path = PathBuf::from("/");
    let mut folder = open_directory(&path).map_err(|errno| ("open the directory", errno))?;
    let names = file.parent().into_iter().flat_map(Path::components);
    let mut names = names
        .filter(|name| !matches!(name, Component::RootDir | Component::CurDir))
        .peekable();
    loop {
        let stat = fstat(&folder).map_err(|errno| ("inspect its folder", errno))?;
        let mode = Mode::from_bits_truncate(stat.st_mode);
        // The bits of the group stand for an access control list's too (acl(5), its mask).
        let by_others = mode.intersects(Mode::S_IWGRP | Mode::S_IWOTH);
        let sticky = mode.contains(Mode::S_ISVTX) && names.peek().is_some();
        let owned = stat.st_uid == 0 || stat.st_uid == own;
        if !owned || by_others && !sticky {
            return Ok(Some(path));
        }
        let Some(name) = names.next() else {
            return Ok(None);
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        folder = openat(&folder, name.as_os_str(), flags, Mode::empty())
            .map_err(|errno| ("open its folder", errno))?;
        path.push(name);
    }
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

fn kind(file: &File) -> Result<FileKind, Failed> {
    let metadata = file.metadata().map_err(|e| ("inspect", errno(&e)))?;
    Ok(FileKind::from(metadata.file_type()))
}

/// What a file was found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A block device.
    Block,
    /// A directory.
    Directory,
    /// A FIFO, socket or character device.
    Other,
}

impl FileKind {
    /// In words, with the article.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Regular => "a regular file",
            Self::Block => "a block device",
            Self::Directory => "a directory",
            Self::Other => "a FIFO, socket or character device",
        }
    }
}

impl From<std::fs::FileType> for FileKind {
    fn from(kind: std::fs::FileType) -> Self {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_file() {
            Self::Regular
        } else if kind.is_block_device() {
            Self::Block
        } else if kind.is_dir() {
            Self::Directory
        } else {
            Self::Other
        }
    }
}

/// What [`inspect`] found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Found {
    /// What the file is.
    pub kind: FileKind,
    /// Its size in bytes.
    pub size: u64,
    /// Its first bytes: as many as asked for, or all. None of what is neither a regular file nor a block device.
    #[serde(with = "base64_text")]
    pub head: Vec<u8>,
    /// Its last bytes, likewise.
    #[serde(with = "base64_text")]
    pub tail: Vec<u8>,
}

/// A block of memory that O_DIRECT takes: aligned to each logical block size there is (open(2), "O_DIRECT").
#[repr(align(4096))]
struct Block([u8; 4096]);

/// Reads the first block of a file beneath a directory from its storage, past the page cache. A file system without O_DIRECT is read through its
/// cache: it is of this host.
///
/// # Errors
/// Those of [`open_beneath`], and read(2)'s.
pub fn read_direct(root: &Path, relative: &Path) -> Result<(), Failed> {
    let root = open_directory(root).map_err(|errno| ("open the directory", errno))?;
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = match resolve(&root, relative, flags | OFlag::O_DIRECT) {
        Err((_, Errno::EINVAL)) => resolve(&root, relative, flags)?,
        file => file?,
    };
    let mut block = Box::new(Block([0; 4096]));
    File::from(file)
        .read_at(&mut block.0, 0)
        .map(drop)
        .map_err(|e| ("read", errno(&e)))
}

/// Opens a file as [`open_beneath`] does, and reads its first `head` and last `tail` bytes.
///
/// # Errors
/// Those of [`open_beneath`], and read(2)'s.
pub fn inspect(
    root: &Path,
    relative: &Path,
    write: bool,
    head: usize,
    tail: usize,
) -> Result<Found, Failed> {
    let opened = open_beneath(root, relative, write)?;
    let size = usize::try_from(opened.size).unwrap_or(usize::MAX);
    let read = |length: usize, offset: u64| {
        let mut bytes = vec![0; length];
        opened
            .file
            .read_exact_at(&mut bytes, offset)
            .map(|()| bytes)
            .map_err(|e| ("read", errno(&e)))
    };
    let tail = tail.min(size);
    Ok(Found {
        kind: opened.kind,
        size: opened.size,
        head: read(head.min(size), 0)?,
        tail: read(tail, opened.size - tail as u64)?,
    })
}

/// The error's number; `EIO` for one of Rust's own, such as a file that became shorter while it was read.
fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// Bytes as base64 (RFC 4648): a JSON array of numbers would be four times as long.
mod base64_text {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        STANDARD
            .decode(String::deserialize(from)?)
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

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
        let ends = |head, tail| {
            inspect(
                &dir.path().join("root"),
                Path::new("sub/v1"),
                true,
                head,
                tail,
            )
            .unwrap()
        };
        let found = |head: &[u8], tail: &[u8]| Found {
            kind: FileKind::Regular,
            size: 10,
            head: head.to_vec(),
            tail: tail.to_vec(),
        };
        assert_eq!(ends(4, 3), found(b"0123", b"789"));
        assert_eq!(ends(100, 100), found(b"0123456789", b"0123456789"));
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
        assert_eq!(errno(&link, "sub/v1"), ("open the directory", Errno::ELOOP));
    }

    #[test]
    fn a_fifo_is_not_waited_for() {
        let dir = tree();
        for (name, kind) in [("fifo", FileKind::Other), ("sub", FileKind::Directory)] {
            let found = inspect(&dir.path().join("root"), Path::new(name), true, 9, 9).unwrap();
            assert_eq!((found.kind, found.head), (kind, vec![]));
        }
    }
}
