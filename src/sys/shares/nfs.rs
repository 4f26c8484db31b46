//! /proc/self/mountstats, as Linux 6.1 writes it (`show_vfsstat` in fs/proc_namespace.c, `nfs_show_stats` in fs/nfs/super.c,
//! `rpc_clnt_show_stats` in net/sunrpc/stats.c).
//!
//! It has a section for each mount point. The counters in a section are those of the superblock that is mounted there: bytes of its
//! `nfs_server` (`io_stats`), operations of the RPC client that no other superblock uses (`nfs_init_server_rpcclient` in fs/nfs/client.c). Bind
//! mounts, mounts that share a superblock and copies made by propagation repeat them. Which superblock that is, mountinfo alone reports.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::{Name, ShareIo, Tally};
use crate::sys::mountinfo::{Mounts, unescape};

/// The section of an NFS mount.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Section {
    mount_point: PathBuf,
    /// `None`: no label can have its name.
    pub(super) name: Option<Name>,
    /// Seconds since the superblock was made.
    age: u64,
    io: ShareIo,
    /// The lines of operations have begun.
    operations: bool,
}

fn is_nfs(fstype: &[u8]) -> bool {
    matches!(fstype, b"nfs" | b"nfs4")
}

/// The sections of the NFS mounts, in the kernel's order.
pub(super) fn parse(text: &[u8]) -> Vec<Section> {
    let mut sections = Vec::new();
    let mut current = None;
    for line in text.split(|byte| *byte == b'\n') {
        // Each line of a section's body begins with a tab.
        if line.starts_with(b"device ") || line.starts_with(b"no device ") {
            sections.extend(current.take());
            current = heading(line);
        } else if let Some(section) = &mut current {
            section.count(&String::from_utf8_lossy(line));
        }
    }
    sections.extend(current);
    sections
}

/// `device 10.0.0.1:/export mounted on /mnt/x with fstype nfs4 statvers=1.1`: blanks in names are escaped.
fn heading(line: &[u8]) -> Option<Section> {
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [
        b"device",
        device,
        b"mounted",
        b"on",
        mount_point,
        b"with",
        b"fstype",
        fstype,
        ..,
    ] = words[..]
    else {
        return None;
    };
    is_nfs(fstype).then(|| Section {
        mount_point: PathBuf::from(OsString::from_vec(unescape(mount_point))),
        name: name(&String::from_utf8_lossy(&unescape(device))),
        age: 0,
        io: ShareIo {
            retransmissions: Some(0),
            ..ShareIo::default()
        },
        operations: false,
    })
}

/// Server and path of `10.0.0.1:/export`.
fn name(device: &str) -> Option<Name> {
    // The first, as an IPv6 address has colons itself.
    let at = device.find(":/")?;
    let (server, path) = (&device[..at], &device[at + 1..]);
    let is_name = |part: &str| !part.is_empty() && !part.contains(char::is_control);
    (is_name(server) && !server.contains('/') && is_name(path))
        .then(|| (server.to_owned(), path.to_owned()))
}

impl Section {
    /// Takes over the counters of a line.
    fn count(&mut self, line: &str) {
        let (name, numbers) = line.trim_start().split_once(':').unwrap_or_default();
        let numbers = numbers.split_ascii_whitespace();
        let numbers: Vec<u64> = numbers.map_while(|number| number.parse().ok()).collect();
        match (name, &numbers[..]) {
            ("age", [age]) => self.age = *age,
            // Applications', then those past the cache, then what went over the network.
            ("bytes", [_, _, _, _, read, written, ..]) => {
                self.io.read_bytes = Some(*read);
                self.io.written_bytes = Some(*written);
            }
            // Operations, transmissions, timeouts, bytes each way, three durations; errors since statvers=1.1.
            (_, [ended, sent, _, _, _, _, _, _, errors @ ..]) if self.operations => {
                self.io.add(ShareIo {
                    operations: *ended,
                    failed: errors.first().copied().unwrap_or(0),
                    retransmissions: Some(sent.saturating_sub(*ended)),
                    ..ShareIo::default()
                });
            }
            _ => self.operations |= line.trim() == "per-op statistics",
        }
    }
}

/// The tallies of the superblocks that are mounted beneath a directory, by the name under which each is mounted first; `None`: the mount
/// table is not of the same time.
pub(super) fn of_mounts(
    mounts: &Mounts,
    beneath: &Path,
    sections: Vec<Section>,
) -> Option<BTreeMap<Name, Vec<Tally>>> {
    let mut shares = BTreeMap::<_, BTreeMap<_, Tally>>::new();
    let mut seen = BTreeSet::new();
    // The kernel lists mounts in one order in both files (`m_start` and `m_next` in fs/namespace.c).
    let mut mounts = mounts
        .iter()
        .filter(|mount| is_nfs(mount.fstype.as_bytes()) && mount.mount_point.starts_with(beneath));
    let mut sections = sections
        .into_iter()
        .filter(|section| section.mount_point.starts_with(beneath));
    loop {
        let (mount, section) = match (mounts.next(), sections.next()) {
            (None, None) => break,
            (Some(mount), Some(section)) if mount.mount_point == section.mount_point => {
                (mount, section)
            }
            _ => return None,
        };
        if let Some(name) = section.name
            && seen.insert(mount.device)
        {
            let (major, minor) = mount.device;
            let tally = Tally {
                id: format!("{major}:{minor}"),
                age: section.age,
                io: section.io,
            };
            shares.entry(name).or_default().insert(mount.device, tally);
        }
    }
    // A superblock keeps its place by its number, also when the first of its mount points goes.
    let shares = shares.into_iter();
    let shares = shares.map(|(name, tallies)| (name, tallies.into_values().collect()));
    Some(shares.collect())
}
