use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;

use super::*;
use crate::backend::NoOthers;
use crate::model::{ImageFormat, Reason};

/// Of a volume that nobody else shares anything with.
const LAST: Release = Release {
    held: Vec::new(),
    force: false,
};

fn backend(roots: &[&Path]) -> LocalBackend {
    LocalBackend::new(config::Local {
        roots: roots.iter().map(|root| root.to_path_buf()).collect(),
    })
}

fn info(path: impl Into<PathBuf>, format: ImageFormat) -> Protocol {
    Protocol::Local(LocalVolume {
        device_path: path.into(),
        format,
    })
}

fn plan_reason(roots: &[&Path], path: &str) -> Reason {
    let error = backend(roots)
        .plan(&info(path, ImageFormat::Raw), Access::ReadWrite)
        .unwrap_err();
    error.reason()
}

#[test]
fn only_what_lies_beneath_a_root_is_planned() {
    let roots = [
        Path::new("/srv"),
        Path::new("/srv/vols"),
        Path::new("/dev/vg"),
    ];
    let plan = |path: &str| {
        backend(&roots)
            .plan(&info(path, ImageFormat::Raw), Access::ReadOnly)
            .unwrap()
    };
    let file = plan("/srv/vols/a");
    assert_eq!(file.root, Path::new("/srv/vols"));
    assert_eq!(file.kind, SourceKind::File);
    assert_eq!(file.claims, []);
    assert_eq!(plan("/dev/vg/lv").kind, SourceKind::Block);
    for path in ["/srv", "/etc/shadow", "/srvx/a", "/dev/sda"] {
        assert_eq!(
            plan_reason(&roots, path),
            Reason::VolumePathUnsafe,
            "{path}"
        );
    }
    assert_eq!(plan_reason(&[], "/srv/a"), Reason::VolumePathUnsafe);
}

async fn inspect(root: &Path, name: &str, format: ImageFormat) -> Result<(), BackendError> {
    let backend = backend(&[root]);
    let info = info(root.join(name), format);
    let volume = backend.plan(&info, Access::ReadWrite)?.into();
    backend.connect(&volume, &info, &NoOthers).await?;
    let result = backend.inspect(&volume).await;
    backend.disconnect(&volume, &LAST).await?;
    result
}

#[tokio::test]
async fn files_are_looked_at_beneath_their_root() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir_all(root.join("sub")).unwrap();
    std::fs::write(root.join("v1"), b"raw bytes").unwrap();
    symlink("v1", root.join("link")).unwrap();
    symlink("..", root.join("out")).unwrap();
    inspect(&root, "v1", ImageFormat::Raw).await.unwrap();
    for (name, format, reason) in [
        ("v1", ImageFormat::Qcow2, Reason::ImageMalformed),
        ("absent", ImageFormat::Raw, Reason::VolumeNotFound),
        ("link", ImageFormat::Raw, Reason::VolumePathUnsafe),
        ("out/root/v1", ImageFormat::Raw, Reason::VolumePathUnsafe),
        ("sub", ImageFormat::Raw, Reason::VolumeNotRegular),
    ] {
        let error = inspect(&root, name, format).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{name}: {error}");
    }
}

#[tokio::test]
async fn a_file_must_lie_where_nobody_else_can_put_another_in_its_place() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let above = dir.path().join("above");
    let (root, folder) = (above.join("root"), above.join("root/a/b"));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("v1"), b"raw bytes").unwrap();
    let set = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let inspected = async || inspect(&root, "a/b/v1", ImageFormat::Raw).await;
    inspected().await.unwrap();
    let refused_in = async |place: &Path| {
        let error = inspected().await.unwrap_err();
        assert_eq!(error.reason(), Reason::VolumePathUnsafe);
        let said = error.to_string();
        assert!(
            said.contains(&format!("files in {},", place.display())),
            "{said}"
        );
    };
    let between = root.join("a");
    for place in [&above, &root, &between, &folder] {
        for mode in [0o775, 0o757] {
            set(place, mode);
            refused_in(place).await;
        }
        set(place, 0o755);
    }
    // Of what is in a sticky folder, others may rename what is theirs: the file perhaps, which is no folder of root's.
    set(&folder, 0o1777);
    refused_in(&folder).await;
    set(&folder, 0o755);
    set(&between, 0o1777);
    inspected().await.unwrap();
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(&folder, Some(4711), None).unwrap();
        refused_in(&folder).await;
    }
}

#[tokio::test]
async fn what_exists_is_found() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("v1"), b"").unwrap();
    let backend = backend(&[dir.path()]);
    let mut found = Vec::new();
    for name in ["v1", "absent"] {
        let info = info(dir.path().join(name), ImageFormat::Raw);
        let plan = backend.plan(&info, Access::ReadOnly).unwrap();
        found.push(backend.find(&plan.into()).await.unwrap());
    }
    assert_eq!(found, [Presence::Present, Presence::Absent]);
}

#[tokio::test]
async fn devices_may_be_links_within_dev_alone() {
    let reason = async |path: &str| {
        let dev = Path::new(DEVICES);
        let error = inspect(dev, path, ImageFormat::Raw).await.unwrap_err();
        error.reason()
    };
    // A character device, named by itself; what udev links to it; and one that leads out of /dev.
    assert_eq!(reason("null").await, Reason::VolumeNotRegular);
    assert_eq!(reason("fd").await, Reason::VolumePathUnsafe);
    assert_eq!(reason("absent").await, Reason::VolumeNotFound);
}

#[tokio::test]
async fn a_file_that_has_grown_tells_its_new_size() {
    let dir = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(dir.path().join("v1")).unwrap();
    let backend = backend(&[dir.path()]);
    let info = info(dir.path().join("v1"), ImageFormat::Raw);
    let volume = backend.plan(&info, Access::ReadOnly).unwrap().into();
    for size in [0, 1 << 20, 3 << 20] {
        file.set_len(size).unwrap();
        assert_eq!(backend.extend(&volume).await.unwrap(), size);
    }
    std::fs::remove_file(dir.path().join("v1")).unwrap();
    let error = backend.extend(&volume).await.unwrap_err();
    assert_eq!(error.reason(), Reason::VolumeNotFound);
}

/// A device that is only read is journaled as made read-only before it is, and made writable with the last who reads it. What the kernel
/// does with it, the lab shows.
#[tokio::test]
async fn a_device_that_is_only_read_is_surveyed_so() {
    let backend = backend(&[Path::new("/dev")]);
    let plan = |access| {
        let info = info("/dev/volattach-absent", ImageFormat::Raw);
        backend.plan(&info, access).unwrap()
    };
    let (reads, writes) = (plan(Access::ReadOnly), plan(Access::ReadWrite));
    assert_eq!(
        reads.claims,
        [Claim::Device("/dev/volattach-absent".into())]
    );
    assert_eq!(reads.claims, writes.claims);
    assert!(!backend.survey(&writes).await.unwrap().protected);
    let found = backend.survey(&reads).await.unwrap();
    assert!(found.protected);
    let surveyed = HostVolume { plan: reads, found };
    // The next daemon knows it from the journal.
    backend.recall(&surveyed);
    assert!(backend.survey(&writes).await.unwrap().protected);
    backend.disconnect(&surveyed, &LAST).await.unwrap();
    assert!(!backend.survey(&writes).await.unwrap().protected);
}

/// A block device of this machine, to look at and not to touch, that the kernel lets be written.
fn writable_device() -> Option<PathBuf> {
    let entries = std::fs::read_dir(DEVICES).unwrap();
    let mut paths = entries.map(|entry| entry.unwrap().path());
    paths.find(|path| {
        let info = info(path, ImageFormat::Raw);
        let plan = backend(&[Path::new(DEVICES)]).plan(&info, Access::ReadOnly);
        let of_disks = std::fs::metadata(path).is_ok_and(|it| it.file_type().is_block_device());
        of_disks && plan.is_ok_and(|plan| wants_protection(&plan))
    })
}

/// Attachments of earlier builds have it so, and those whose device got a new table from device-mapper.
#[tokio::test]
async fn a_device_that_may_be_written_again_is_not_lost() {
    let Some(device) = writable_device() else {
        eprintln!("not tested: this machine has no block device in {DEVICES} that may be written");
        return;
    };
    let backend = backend(&[Path::new(DEVICES)]);
    let info = info(&device, ImageFormat::Raw);
    let mut volume = HostVolume::from(backend.plan(&info, Access::ReadOnly).unwrap());
    for protected in [false, true] {
        volume.found.protected = protected;
        let found = backend.find(&volume).await.unwrap();
        assert_eq!(found, Presence::Present, "{}", device.display());
    }
    // Nobody would make that one writable again.
    volume.found.protected = false;
    backend.protect(&volume).await.unwrap();
    assert!(wants_protection(&volume.plan));
}

/// Connecting, joining and extending set it again: to see that they do, on a device that is not there.
#[tokio::test]
async fn whoever_uses_a_device_that_is_only_read_has_it_read_only() {
    let backend = backend(&[Path::new(DEVICES)]);
    let info = info("/dev/volattach-absent", ImageFormat::Raw);
    let plan = backend.plan(&info, Access::ReadOnly).unwrap();
    let found = backend.survey(&plan).await.unwrap();
    let volume = HostVolume { plan, found };
    let writable = HostVolume {
        plan: backend.plan(&info, Access::ReadWrite).unwrap(),
        found: Found::default(),
    };
    let protected = async || backend.survey(&writable.plan).await.unwrap().protected;
    for call in ["connect", "join", "extend"] {
        assert!(!protected().await);
        let failed = match call {
            "connect" => backend.connect(&volume, &info, &NoOthers).await.map(drop),
            "join" => backend.join(&volume).await,
            _ => backend.extend(&volume).await.map(drop),
        };
        assert_eq!(failed.unwrap_err().reason(), Reason::VolumeNotFound);
        assert!(protected().await, "{call}");
        backend.disconnect(&volume, &LAST).await.unwrap();
    }
}
