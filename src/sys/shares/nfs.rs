//! /proc/self/mountstats, as Linux 6.1 writes it (`show_vfsstat` in fs/proc_namespace.c, `nfs_show_stats` in fs/nfs/super.c,
//! `rpc_clnt_show_stats` in net/sunrpc/stats.c).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::ShareIo;

/// The exports that are mounted beneath a directory, by server and path.
///
/// Mounts of one export that share their connection report the same counters, which count once.
pub(super) fn parse(text: &str, beneath: &Path) -> BTreeMap<(String, String), ShareIo> {
    let mut shares = BTreeMap::<_, ShareIo>::new();
    let mut seen = BTreeSet::new();
    // A section begins with its device; what comes before the first one is none.
    for section in format!("\n{text}").split("\ndevice ").skip(1) {
        let (heading, body) = section.split_once('\n').unwrap_or((section, ""));
        if let Some(name) = heading_of(heading, beneath)
            && seen.insert((name.clone(), body.to_owned()))
        {
            shares.entry(name).or_default().add(counters(body));
        }
    }
    shares
}

/// Server and path of `10.0.0.1:/export mounted on /mnt/x with fstype nfs4 statvers=1.1`.
fn heading_of(heading: &str, beneath: &Path) -> Option<(String, String)> {
    let (device, rest) = heading.split_once(" mounted on ")?;
    let (mount_point, kind) = rest.split_once(" with fstype ")?;
    let kind = kind.split(' ').next()?;
    if !matches!(kind, "nfs" | "nfs4") || !Path::new(mount_point).starts_with(beneath) {
        return None;
    }
    // The first, as an IPv6 address has colons itself.
    let at = device.find(":/")?;
    let (server, path) = (&device[..at], &device[at + 1..]);
    let is_name = |part: &str| !part.is_empty() && !part.contains(char::is_control);
    (is_name(server) && !server.contains('/') && is_name(path))
        .then(|| (server.to_owned(), path.to_owned()))
}

/// The counters of a mount.
fn counters(body: &str) -> ShareIo {
    let mut io = ShareIo {
        retransmissions: Some(0),
        ..ShareIo::default()
    };
    let mut operations = false;
    for line in body.lines() {
        let (name, numbers) = line.trim_start().split_once(':').unwrap_or_default();
        let numbers = numbers.split_ascii_whitespace();
        let numbers: Vec<u64> = numbers.map_while(|number| number.parse().ok()).collect();
        match (name, &numbers[..]) {
            // Applications', then those past the cache, then what went over the network.
            ("bytes", [_, _, _, _, read, written, ..]) => {
                io.read_bytes = Some(*read);
                io.written_bytes = Some(*written);
            }
            // Operations, transmissions, timeouts, bytes each way, three durations; errors since statvers=1.1.
            (_, [ended, sent, _, _, _, _, _, _, errors @ ..]) if operations => io.add(ShareIo {
                operations: *ended,
                failed: errors.first().copied().unwrap_or(0),
                retransmissions: Some(sent.saturating_sub(*ended)),
                ..ShareIo::default()
            }),
            _ => operations |= line.trim() == "per-op statistics",
        }
    }
    io
}
