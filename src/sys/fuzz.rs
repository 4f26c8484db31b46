//! What holds of what the kernel, devices and workers say.

use std::path::Path;

use super::mountinfo::Mounts;
pub(crate) use super::shares::{cifs_stats, mountstats};
use super::worker::{Job, Reply};
use super::{nvme, scsi};

/// Any bytes as the mount table: what a line says is read-only is never anything else.
pub(crate) fn mountinfo(bytes: &[u8]) {
    let Some(mounts) = Mounts::parse(bytes) else {
        return;
    };
    let lines = bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    for (line, mount) in lines.zip(mounts.iter()) {
        let options = line.split(|byte| *byte == b' ').nth(5).unwrap_or_default();
        let read_only = options
            .split(|byte| *byte == b',')
            .any(|option| option == b"ro");
        assert!(mount.read_only || !read_only);
        // The walk ends even in a circular table.
        let _ = mounts.containing(&mount.mount_point);
    }
    for mount in mounts.beneath(Path::new("/")) {
        assert!(mounts.iter().any(|there| there == mount));
    }
}

/// Any bytes as a device identification page: an identity is one word that a file name or a command to multipathd can hold.
pub(crate) fn scsi_identity(page: &[u8]) {
    if let Some(identity) = scsi::identity(page) {
        let identity = identity.as_str();
        assert!(identity.len() > 1 && identity.starts_with(|kind: char| kind.is_ascii_digit()));
        assert!(
            !identity.contains(|c: char| c.is_control() || c.is_whitespace()),
            "{identity:?}"
        );
    }
}

/// Any bytes as both of a namespace's pages: no identity is all zero, and no size overflows.
pub(crate) fn nvme_identify(page: &[u8]) {
    let namespace = nvme::descriptors(page);
    assert!(!namespace.uuid.is_some_and(|uuid| uuid.is_nil()));
    assert!(!namespace.nguid.is_some_and(|nguid| nguid.is_nil()));
    assert_ne!(namespace.eui64, Some(0));
    if let Some(size) = nvme::size(page) {
        assert_eq!(size % 512, 0);
    }
}

/// Any bytes as a worker's reply, and as its jobs: what was read is written, and read again, as the same.
pub(crate) fn worker(bytes: &[u8]) {
    if let Ok(reply) = serde_json::from_slice::<Reply>(bytes) {
        let again = serde_json::to_vec(&reply).map(|bytes| serde_json::from_slice::<Reply>(&bytes));
        assert!(matches!(again, Ok(Ok(again)) if again == reply));
    }
    // A job holds secrets, and so compares to nothing but as it is written.
    if let Ok(jobs) = serde_json::from_slice::<Vec<Job>>(bytes) {
        let written = serde_json::to_vec(&jobs).unwrap_or_default();
        let again = serde_json::from_slice::<Vec<Job>>(&written);
        assert!(
            again.is_ok_and(|again| serde_json::to_vec(&again).is_ok_and(|again| again == written))
        );
    }
}
