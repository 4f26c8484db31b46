//! What the kernel counts of shares that are mounted: /proc/fs/cifs/Stats and /proc/self/mountstats. Reading them asks no server.

mod nfs;
mod smb;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::mountinfo::Mounts;

/// A share, as it is mounted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share {
    /// `nfs` or `smbfs`.
    pub protocol: &'static str,
    /// The server's name or address.
    pub server: String,
    /// The share's name, or the export's path.
    pub share: String,
}

/// The counters of a share since it was mounted; `None`: the kernel does not count that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShareIo {
    /// Bytes that the server was asked for.
    pub read_bytes: Option<u64>,
    /// Bytes that the server was sent.
    pub written_bytes: Option<u64>,
    /// Operations.
    pub operations: u64,
    /// Operations that failed, those included that only found that a file is not there.
    pub failed: u64,
    /// Requests that were sent again because no answer came.
    pub retransmissions: Option<u64>,
}

impl ShareIo {
    fn add(&mut self, other: Self) {
        let sum = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.saturating_add(b)),
            (one, other) => one.or(other),
        };
        self.read_bytes = sum(self.read_bytes, other.read_bytes);
        self.written_bytes = sum(self.written_bytes, other.written_bytes);
        self.operations = self.operations.saturating_add(other.operations);
        self.failed = self.failed.saturating_add(other.failed);
        self.retransmissions = sum(self.retransmissions, other.retransmissions);
    }
}

/// Reads the counters of the shares that are mounted beneath a directory. A share that is mounted elsewhere as well is counted with what
/// goes over the connection that its mounts have in common.
///
/// # Errors
/// Where /proc cannot be read, or the mount table is malformed.
pub fn read(beneath: &Path) -> io::Result<BTreeMap<Share, ShareIo>> {
    let mounts = Mounts::read()?;
    // Absent where the kernel's module is not loaded.
    let text = |path: &str| match fs::read(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        read => Ok(String::from_utf8_lossy(&read.unwrap_or_default()).into_owned()),
    };
    let smb = smb::parse(&text("/proc/fs/cifs/Stats")?);
    let nfs = nfs::parse(&text("/proc/self/mountstats")?, beneath);
    Ok(of_mounts(&mounts, beneath, &smb, nfs))
}

/// Sorts the counters by the shares that are mounted beneath the directory.
fn of_mounts(
    mounts: &Mounts,
    beneath: &Path,
    smb: &BTreeMap<(String, String), ShareIo>,
    nfs: BTreeMap<(String, String), ShareIo>,
) -> BTreeMap<Share, ShareIo> {
    let named = |protocol, (server, share): (String, String), io| {
        let share = Share {
            protocol,
            server,
            share,
        };
        (share, io)
    };
    let ours = mounts.iter().filter(|mount| {
        matches!(mount.fstype.as_str(), "cifs" | "smb3") && mount.mount_point.starts_with(beneath)
    });
    let smb = ours.filter_map(|mount| {
        let name = smb::name(&mount.source.to_string_lossy())?;
        let io = smb.get(&name)?;
        Some(named("smbfs", name, *io))
    });
    let nfs = nfs.into_iter().map(|(name, io)| named("nfs", name, io));
    smb.chain(nfs).collect()
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use fuzz::{cifs_stats, mountstats};

#[cfg(any(test, feature = "fuzzing"))]
mod fuzz {
    use super::*;

    /// Any text as /proc/fs/cifs/Stats: no server and no share is without a name, and no sum overflows.
    pub(crate) fn cifs_stats(text: &str) {
        check(&smb::parse(text));
        if let Some((server, share)) = smb::name(text) {
            // What a share is called does not change what it is.
            assert_eq!(
                smb::name(&format!("//{server}/{share}")),
                Some((server, share))
            );
        }
    }

    /// Any text as /proc/self/mountstats: the same, and what is beneath a directory is beneath the root.
    pub(crate) fn mountstats(text: &str) {
        let all = nfs::parse(text, Path::new("/"));
        check(&all);
        for name in nfs::parse(text, Path::new("/mnt")).keys() {
            assert!(all.contains_key(name), "{name:?}");
        }
    }

    fn check(shares: &BTreeMap<(String, String), ShareIo>) {
        for (server, share) in shares.keys() {
            assert!(
                !server.is_empty() && !share.is_empty(),
                "{server:?} {share:?}"
            );
            assert!(
                !share.contains('\n') && !server.contains(['\n', '/']),
                "{server:?}"
            );
        }
    }
}

#[cfg(test)]
mod tests;
