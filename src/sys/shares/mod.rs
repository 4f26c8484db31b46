//! What the kernel counts of shares that are mounted: /proc/fs/cifs/Stats and /proc/self/mountstats. Reading them asks no server.
//!
//! ```text
//!   a superblock (NFS), a tree connection (SMB) ──▶ a tally each ──▶ totals by share, from one reading to the next
//! ```
//!
//! Invariants: a superblock counts once, however many mount points show it; a share's total never falls while the share is mounted.

mod nfs;
mod smb;
mod totals;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::mountinfo::Mounts;
pub use totals::Totals;

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

/// Server and path or share.
type Name = (String, String);

/// Counters of a share; `None`: the kernel does not count that.
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

/// The counters that the kernel keeps for one superblock (NFS) or one tree connection (SMB), from its begin.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// Name among the tallies of a share: the superblock's device number, or the time since which a tree connection is counted. Empty where
    /// the kernel reports neither; reused for another one once this one has gone.
    id: String,
    /// Seconds since it began, where the kernel reports them.
    age: u64,
    io: ShareIo,
}

/// The tallies of each share: those that stay keep their order.
pub type Tallies = BTreeMap<Share, Vec<Tally>>;

/// How often the mount table and the counters are read until they are of the same mounts.
const TRIES: usize = 5;

/// Reads the counters of the shares that are mounted beneath a directory.
///
/// NFS counts by superblock, so mounts elsewhere are left out unless they share the superblock of a mount beneath the directory. SMB counts by
/// tree connection and does not report which mount uses which, so all tree connections of this host to the server's share are included.
///
/// # Errors
/// Where /proc cannot be read, the mount table is malformed, or mounts come and go faster than they are read.
pub fn read(beneath: &Path) -> io::Result<Tallies> {
    for _ in 0..TRIES {
        let mounts = Mounts::read()?;
        let nfs = nfs::parse(&bytes("/proc/self/mountstats")?);
        if let Some(nfs) = nfs::of_mounts(&mounts, beneath, nfs) {
            let smb = smb::parse(&String::from_utf8_lossy(&bytes("/proc/fs/cifs/Stats")?));
            return Ok(by_share(&mounts, beneath, smb, nfs));
        }
    }
    Err(io::Error::other(
        "the mount table has changed at each look at /proc/self/mountstats",
    ))
}

/// The file's bytes; none where the file does not exist, as the kernel's module is not loaded.
fn bytes(path: &str) -> io::Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        read => Ok(read.unwrap_or_default()),
    }
}

/// Leaves out the SMB shares that are not mounted beneath the directory.
fn by_share(
    mounts: &Mounts,
    beneath: &Path,
    mut smb: BTreeMap<Name, Vec<Tally>>,
    nfs: BTreeMap<Name, Vec<Tally>>,
) -> Tallies {
    let named = |protocol, (server, share): Name, tallies| {
        let share = Share {
            protocol,
            server,
            share,
        };
        (share, tallies)
    };
    let ours = mounts.iter().filter(|mount| {
        matches!(mount.fstype.as_str(), "cifs" | "smb3") && mount.mount_point.starts_with(beneath)
    });
    let smb = ours.filter_map(|mount| {
        let name = smb::name(&mount.source.to_string_lossy())?;
        let tallies = smb.remove(&name)?;
        Some(named("smbfs", name, tallies))
    });
    let nfs = nfs
        .into_iter()
        .map(|(name, tallies)| named("nfs", name, tallies));
    smb.chain(nfs).collect()
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use fuzz::{cifs_stats, mountstats};

#[cfg(any(test, feature = "fuzzing"))]
mod fuzz {
    use super::*;

    /// Any text as /proc/fs/cifs/Stats: no server and no share is without a name, and no sum overflows.
    pub(crate) fn cifs_stats(text: &str) {
        let shares = smb::parse(text);
        shares.keys().for_each(check);
        if let Some((server, share)) = smb::name(text) {
            // What a share is called does not change what it is.
            assert_eq!(
                smb::name(&format!("//{server}/{share}")),
                Some((server, share))
            );
        }
        let shares = shares.into_iter().map(|((server, share), tallies)| {
            let share = Share {
                protocol: "smbfs",
                server,
                share,
            };
            (share, tallies)
        });
        let shares: Tallies = shares.collect();
        let mut totals = Totals::default();
        totals.update(shares.clone());
        let once: Vec<_> = totals.values().map(|(_, io)| *io).collect();
        totals.update(shares);
        // Nothing was done between two readings that are the same.
        assert!(totals.values().map(|(_, io)| *io).eq(once));
    }

    /// Any text as /proc/self/mountstats: the same of its names.
    pub(crate) fn mountstats(text: &str) {
        let sections = nfs::parse(text.as_bytes());
        let names = sections.iter().filter_map(|section| section.name.as_ref());
        names.for_each(check);
    }

    fn check((server, share): &Name) {
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

#[cfg(test)]
mod tests;
