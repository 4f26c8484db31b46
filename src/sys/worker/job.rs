//! What goes through a worker's pipes: a list of jobs in, a reply to each out, as lines of JSON.

use std::ffi::CString;
use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::{Gid, Uid, User, getgrouplist};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::sys::beneath::{Failed, Found};
use crate::sys::nvme::Namespace;
use crate::sys::scsi::Told;

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
    /// Asks a SCSI disk who it is; see [`crate::sys::scsi`].
    Identify(PathBuf),
    /// Has a SCSI disk appear, opens it and asks who it is; see [`crate::sys::scsi`].
    Scan(ScanJob),
    /// Makes a block device read-only, or writable again; see [`crate::sys::block::set_read_only`].
    Protect(ProtectJob),
    /// Writes out the cache of a block device; see [`crate::sys::block`].
    Flush(FlushJob),
    /// Keeps a block device open until the worker is killed, so that the kernel gives the name to no other device; see
    /// [`crate::sys::block::hold`]. No other job may follow.
    Hold(HoldJob),
    /// Writes to a file of the kernel's, beneath /sys: a scan or a device's deletion, which may take as long as I/O.
    WriteSysfs(SysfsJob),
    /// Connects to an NVMe controller; see [`crate::sys::nvme`].
    ConnectNvme(String),
    /// Asks an NVMe controller which volume a namespace is; see [`crate::sys::nvme`].
    IdentifyNamespace(NamespaceJob),
}

impl Job {
    /// The job in words, without secrets: `unmount /mnt/x`.
    pub(super) fn in_words(&self) -> String {
        match self {
            Self::Mount(job) => format!("mount {} on {}", job.source, job.target.display()),
            Self::Unmount(target) => format!("unmount {}", target.display()),
            Self::Inspect(job) => {
                let volume = job.root.join(&job.relative);
                format!("open {}", volume.display())
            }
            Self::Identify(device) => format!("ask {} who it is", device.display()),
            Self::Scan(job) => format!("scan for {}", job.unit.display()),
            Self::Protect(job) if job.read_only => {
                format!("make {} read-only", job.device.display())
            }
            Self::Protect(job) => format!("make {} writable", job.device.display()),
            Self::Flush(job) => format!("flush {}", job.device.display()),
            Self::Hold(job) => format!("hold {} open", job.device.display()),
            Self::WriteSysfs(job) => format!("write to {}", job.path.display()),
            Self::ConnectNvme(_) => "connect an NVMe controller".to_owned(),
            Self::IdentifyNamespace(job) => format!(
                "ask {} for namespace {}",
                job.controller.display(),
                job.nsid
            ),
        }
    }
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
    /// Whether to read its first block from the storage too; see [`crate::sys::beneath::read_direct`].
    pub direct: bool,
    /// As whom; `None`: as the worker. The worker stays who it became: no other job may follow.
    pub user: Option<RunAs>,
}

/// A user to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunAs {
    /// Its number.
    pub uid: u32,
    /// Its group's.
    pub gid: u32,
    /// All groups that it is in.
    pub groups: Vec<u32>,
}

impl RunAs {
    /// A user of this host with its supplementary groups, where the host knows any. A look into the user database is too
    /// slow for a worker, which would do it at every volume.
    #[must_use]
    pub fn of_this_host(uid: u32, gid: u32) -> Self {
        let known = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        let groups = known
            .and_then(|user| CString::new(user.name).ok())
            .and_then(|name| getgrouplist(&name, Gid::from_raw(gid)).ok())
            .map(|groups| groups.into_iter().map(Gid::as_raw).collect());
        Self {
            uid,
            gid,
            groups: groups.unwrap_or_else(|| vec![gid]),
        }
    }
}

/// Which SCSI disk is to appear, and how it is to be opened.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScanJob {
    /// What has the kernel look for it.
    pub scan: SysfsJob,
    /// Its directory beneath /sys once it is there, named host:channel:target:LUN.
    pub unit: PathBuf,
    /// How long it may take to appear.
    pub within: Duration,
    /// Whether it must be writable.
    pub write: bool,
    /// Whether it is made read-only.
    pub read_only: bool,
}

/// What to write to a file beneath /sys.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SysfsJob {
    /// The file, whose last component is no link.
    pub path: PathBuf,
    /// Inode number that the file's directory must have: the kernel reuses names, but no inode number before the next boot (fs/kernfs/dir.c,
    /// `__kernfs_new_node`, Linux 5.5). `None`: any directory of that name.
    pub directory: Option<u64>,
    /// What the kernel is to read.
    pub value: String,
}

/// The block device to make read-only or writable.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProtectJob {
    /// The device's path, such as `/dev/sdb`.
    pub device: PathBuf,
    /// Sequence number that the device must have. `None`: the kernel is older than 5.15, and any device of that name is meant.
    pub sequence: Option<u64>,
    /// Whether it is made read-only.
    pub read_only: bool,
}

/// The block device to write out.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlushJob {
    /// The device's path, such as `/dev/sdb`.
    pub device: PathBuf,
    /// Whether the device may be part of another device.
    pub shared: bool,
}

/// The block device to keep open.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldJob {
    /// The device's path, such as `/dev/sdb`.
    pub device: PathBuf,
    /// Sequence number that the device must have.
    pub sequence: u64,
}

/// Which namespace to ask about, and whom.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamespaceJob {
    /// The controller's device: `/dev/nvme0`.
    pub controller: PathBuf,
    /// The namespace's number.
    pub nsid: u32,
}

/// What came of a job.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// It is done.
    Done,
    /// What a [`Job::Inspect`] found.
    Found(Found),
    /// The answer to a [`Job::Identify`].
    Identity(Told),
    /// What came of a [`Job::Scan`].
    Unit {
        /// The disk's block device, such as `sdb`; `None`: it did not appear.
        block: Option<String>,
        /// The disk's report about itself; empty if no disk appeared.
        told: Told,
    },
    /// What a [`Job::IdentifyNamespace`] was told.
    Namespace(Namespace),
    /// A system call failed.
    Failed {
        /// What was tried, such as `mount`.
        step: String,
        /// The error's number (errno(3)).
        errno: i32,
    },
}

impl From<Failed> for Reply {
    fn from((step, errno): Failed) -> Self {
        Self::Failed {
            step: step.to_owned(),
            errno: errno as i32,
        }
    }
}
