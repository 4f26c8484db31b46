//! What goes through a worker's pipes: one job in, one reply out, as JSON.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// One thing to do. Not `Debug`: it may hold a secret.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Job {
    /// mount(2); see [`crate::sys::mount`].
    Mount(MountJob),
    /// Unmounts what is mounted last on this directory.
    Unmount(PathBuf),
    /// Opens a file beneath a directory and reads its ends; see [`crate::sys::beneath`].
    Inspect(InspectJob),
}

/// What mount(2) gets. Wiped from memory when dropped.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct MountJob {
    /// `//host/share`.
    #[zeroize(skip)]
    pub source: String,
    /// The mount point.
    #[zeroize(skip)]
    pub target: PathBuf,
    /// `cifs`.
    #[zeroize(skip)]
    pub fstype: String,
    /// Whether the mount is read-only.
    #[zeroize(skip)]
    pub read_only: bool,
    /// The file system's options, secrets included.
    pub data: String,
}

/// Which file to open, and how much of it to read.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InspectJob {
    /// The directory.
    pub root: PathBuf,
    /// The file beneath it.
    pub relative: PathBuf,
    /// Whether it must be writable too.
    pub write: bool,
    /// How many of its first bytes to read.
    pub head: usize,
    /// How many of its last bytes to read.
    pub tail: usize,
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

/// What came of a job.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// It is done.
    Done,
    /// What an [`Job::Inspect`] found; the ends of regular files only.
    Found {
        /// What the file is.
        kind: FileKind,
        /// Its size in bytes.
        size: u64,
        /// Its first bytes.
        #[serde(with = "base64_text")]
        head: Vec<u8>,
        /// Its last bytes.
        #[serde(with = "base64_text")]
        tail: Vec<u8>,
    },
    /// A system call failed.
    Failed {
        /// What was tried, such as `mount`.
        step: String,
        /// The error's number (errno(3)).
        errno: i32,
    },
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
