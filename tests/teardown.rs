//! What is mounted where a share belongs is taken down whole, whatever a crash left, by real mounts.
//!
//! The kernel need not know CIFS: for taking down, any file system will do. Each test runs in a mount namespace of its own
//! process, so that the host sees nothing and nothing is left when it fails.

#![cfg(test)]

mod skip;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use volattach::backend::smb::SmbBackend;
use volattach::backend::{Backend, Presence, Release};
use volattach::config;
use volattach::connection::{Protocol, SmbCredentials, SmbVolume};
use volattach::host::Host;
use volattach::model::{Access, HostKey, HostVolume, ImageFormat, Reason};
use volattach::sys::worker::Workers;

/// Release of a volume that shares nothing with others.
const LAST: Release = Release {
    held: Vec::new(),
    keeps_read_only: false,
    force: false,
};

/// Set in the process that is in the namespace.
const INSIDE: &str = "VOLATTACH_TEST_MOUNT_NAMESPACE";

/// Runs the test of that name again in a process with a mount namespace of its own; true there. Unsharing here would change
/// one thread alone, and the backend asks for the process's mounts.
fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let unshare = |arguments: &[&std::ffi::OsStr]| {
        std::process::Command::new("unshare")
            .args(["--mount", "--propagation=private", "--"])
            .args(arguments)
            .env(INSIDE, "1")
            .output()
            .expect("unshare(1) is of util-linux")
    };
    if !unshare(&["true".as_ref()]).status.success() {
        skip::skipped(&format!(
            "{test} needs root, for a mount namespace of its own"
        ));
        return false;
    }
    let own = std::env::current_exe().unwrap();
    let output = unshare(&[
        own.as_os_str(),
        "--exact".as_ref(),
        test.as_ref(),
        "--nocapture".as_ref(),
    ]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    false
}

fn backend(mount_base: &Path) -> SmbBackend {
    let mut settings = config::Settings::built_in().smb;
    (settings.shares.uid, settings.shares.gid) = (0, 0);
    let worker = PathBuf::from(env!("CARGO_BIN_EXE_volattachd-worker"));
    SmbBackend::new(
        settings,
        mount_base.into(),
        HostKey::new([1; 32]),
        Workers::from_executable(worker),
        Arc::new(Host::this()),
    )
}

fn plan(backend: &SmbBackend) -> HostVolume {
    let volume = SmbVolume {
        host: "127.0.0.1".into(),
        share: "vols".into(),
        folder: String::new(),
        name: "v1".into(),
        format: ImageFormat::Raw,
        credentials: SmbCredentials::Guest,
        options: vec![],
    };
    let info = Protocol::Smb(volume);
    backend.plan(&info, Access::ReadWrite).unwrap().into()
}

fn mount_tmpfs(target: &Path) {
    mount_tmpfs_with(target, "");
}

fn mount_tmpfs_with(target: &Path, options: &str) {
    std::fs::create_dir_all(target).unwrap();
    let flags = MsFlags::empty();
    mount(Some("none"), target, Some("tmpfs"), flags, Some(options)).unwrap();
}

/// A backend with a mount base in a directory of the test's own, and a volume that is planned beneath this base.
fn planned() -> (tempfile::TempDir, SmbBackend, HostVolume) {
    let dir = tempfile::tempdir().unwrap();
    let backend = backend(&dir.path().join("mnt"));
    let volume = plan(&backend);
    (dir, backend, volume)
}

#[tokio::test]
async fn mounts_over_and_beneath_each_other_all_go() {
    if !inside("mounts_over_and_beneath_each_other_all_go") {
        return;
    }
    let (_dir, backend, volume) = planned();
    mount_tmpfs(&volume.plan.root);
    mount_tmpfs(&volume.plan.root);
    mount_tmpfs(&volume.plan.root.join("dfs link"));
    // Its neighbour's name begins alike.
    let neighbour = volume.plan.root.with_extension("other");
    mount_tmpfs(&neighbour);
    assert_eq!(backend.find(&volume).await.unwrap(), Presence::Partial);
    backend.disconnect(&volume, &LAST).await.unwrap();
    assert_eq!(backend.find(&volume).await.unwrap(), Presence::Absent);
    assert!(!volume.plan.root.exists());
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(table.contains(neighbour.to_str().unwrap()));
    backend.disconnect(&volume, &LAST).await.unwrap();
}

/// As on a real share: the hypervisor's user owns its folders, and nobody else may pass.
#[tokio::test]
async fn what_is_beneath_anothers_folders_goes_and_is_looked_at() {
    if !inside("what_is_beneath_anothers_folders_goes_and_is_looked_at") {
        return;
    }
    let (_dir, backend, volume) = planned();
    mount_tmpfs_with(&volume.plan.root, "uid=12345,mode=0700");
    mount_tmpfs(&volume.plan.root.join("dfs link"));
    std::fs::write(volume.path(), b"bytes").unwrap();
    std::os::unix::fs::chown(volume.path(), Some(12345), Some(12345)).unwrap();
    std::fs::set_permissions(
        volume.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let mut volume = volume.clone();
        volume.plan.access = access;
        backend.inspect(&volume).await.unwrap();
    }
    backend.disconnect(&volume, &LAST).await.unwrap();
    assert_eq!(backend.find(&volume).await.unwrap(), Presence::Absent);
}

/// As QEMU closes an image a moment after Xen has forgotten its disk.
#[tokio::test]
async fn a_mount_that_is_in_use_for_a_moment_goes() {
    if !inside("a_mount_that_is_in_use_for_a_moment_goes") {
        return;
    }
    let (_dir, backend, volume) = planned();
    mount_tmpfs(&volume.plan.root);
    let held = std::fs::File::create(volume.path()).unwrap();
    let closing = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        drop(held);
    };
    let last = LAST;
    let (gone, ()) = tokio::join!(backend.disconnect(&volume, &last), closing);
    gone.unwrap();
    assert_eq!(backend.find(&volume).await.unwrap(), Presence::Absent);
}

#[tokio::test]
async fn a_mount_in_use_stays_and_says_so() {
    if !inside("a_mount_in_use_stays_and_says_so") {
        return;
    }
    let (_dir, backend, volume) = planned();
    mount_tmpfs(&volume.plan.root);
    let held = std::fs::File::create(volume.path()).unwrap();
    let error = backend.disconnect(&volume, &LAST).await.unwrap_err();
    assert_eq!(error.reason(), Reason::UnmountFailed);
    assert!(error.to_string().contains("fuser -vm"), "{error}");
    assert_eq!(backend.find(&volume).await.unwrap(), Presence::Partial);
    drop(held);
    backend.disconnect(&volume, &LAST).await.unwrap();
    assert_eq!(backend.find(&volume).await.unwrap(), Presence::Absent);
}

#[tokio::test]
async fn a_volume_is_looked_at_by_the_worker() {
    if !inside("a_volume_is_looked_at_by_the_worker") {
        return;
    }
    let (_dir, backend, volume) = planned();
    mount_tmpfs(&volume.plan.root);
    let reason = async || backend.inspect(&volume).await.unwrap_err().reason();
    assert_eq!(reason().await, Reason::VolumeNotFound);
    std::os::unix::fs::symlink("/etc/shadow", volume.path()).unwrap();
    assert_eq!(reason().await, Reason::VolumePathUnsafe);
    std::fs::remove_file(volume.path()).unwrap();
    std::fs::create_dir(volume.path()).unwrap();
    assert_eq!(reason().await, Reason::VolumeNotRegular);
    std::fs::remove_dir(volume.path()).unwrap();
    std::fs::write(volume.path(), b"QFI\xfb: a raw volume may hold anything").unwrap();
    backend.inspect(&volume).await.unwrap();
    let mut qcow2 = volume.clone();
    qcow2.plan.format = ImageFormat::Qcow2;
    let error = backend.inspect(&qcow2).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ImageMalformed);
}
