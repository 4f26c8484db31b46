use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;
use crate::backend::NoOthers;
use crate::model::{ImageFormat, Reason, Wwid};

/// Of a volume that nobody else shares anything with.
const LAST: Release = Release {
    held: Vec::new(),
    keeps_read_only: false,
    force: false,
};

fn backend(roots: &[&Path]) -> LocalBackend {
    LocalBackend::new(config::Local {
        roots: roots.iter().map(|root| root.to_path_buf()).collect(),
        error_policy: ErrorPolicy::Enospace,
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
    backend
        .connect(&volume, &info, &NoOthers, HeadStart::default())
        .await?;
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

/// A device that no machine has.
fn nowhere(sequence: u64) -> LocalDevice {
    LocalDevice {
        number: nix::sys::stat::makedev(4095, 4711),
        sequence: Some(sequence),
        boot: None,
        identity: None,
        connected: true,
    }
}

fn of_device(path: &str, access: Access, found: Found) -> HostVolume {
    let backend = backend(&[Path::new(DEVICES)]);
    let plan = backend.plan(&info(path, ImageFormat::Raw), access);
    let plan = plan.unwrap();
    HostVolume { plan, found }
}

/// A writable block device of this machine, by two names; tests may look at the device and must not change it.
fn writable_device() -> Option<[String; 2]> {
    let entries = std::fs::read_dir(DEVICES).unwrap();
    let names = entries.filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let mut paths = names.map(|name| [format!("/dev/{name}"), format!("/dev/shm/../{name}")]);
    let found = paths.find(|[path, other]| {
        let writable = |it: &LocalDevice| it.sequence.is_some() && !node::is_read_only(it);
        let device = node::at(Path::new(path)).unwrap_or(None);
        device.is_some_and(|it| writable(&it)) && Path::new(other).exists()
    });
    if found.is_none() {
        // Past the harness, as tests/all.sh counts it.
        let why = format!("this machine has no block device in {DEVICES} that may be written");
        writeln!(std::io::stderr(), "\nSKIPPED: {why}").unwrap();
    }
    found
}

/// As after an attach by an earlier build, or a new table from device-mapper.
#[tokio::test]
async fn a_device_that_may_be_written_again_is_not_lost() {
    let Some([device, _]) = writable_device() else {
        return;
    };
    let backend = backend(&[Path::new(DEVICES)]);
    let mut volume = of_device(&device, Access::ReadOnly, Found::default());
    assert_eq!(backend.find(&volume).await.unwrap(), Presence::Present);
    // A new attachment whose device appeared after the survey is not made without findings.
    backend.join(&volume).await.unwrap_err();
    volume.found = backend.survey(&volume.plan).await.unwrap();
    assert!(volume.found.protected);
    volume.found.local.as_mut().unwrap().connected = true;
    assert_eq!(backend.find(&volume).await.unwrap(), Presence::Present);
    // Nobody would make this device writable again.
    volume.found.protected = false;
    backend.protect(&volume).await.unwrap();
    let local = volume.found.local.unwrap();
    assert!(!node::is_read_only(&local) && !backend.protected.has(&local));
}

/// The device is made read-only before it is looked at: the error for /dev/null, which is no block device, shows the order.
#[tokio::test]
async fn whoever_uses_a_device_that_is_only_read_has_it_read_only() {
    let backend = backend(&[Path::new(DEVICES)]);
    let found = Found {
        protected: true,
        local: Some(nowhere(1)),
        ..Found::default()
    };
    let volume = of_device("/dev/null", Access::ReadOnly, found);
    let info = info("/dev/null", ImageFormat::Raw);
    for call in ["connect", "extend", "pin"] {
        let failed = match call {
            "connect" => backend
                .connect(&volume, &info, &NoOthers, HeadStart::default())
                .await
                .map(drop),
            "pin" => backend
                .pin(&volume, Scope::Live, Path::new(""))
                .await
                .map(drop),
            _ => backend.extend(&volume).await.map(drop),
        };
        let reason = failed.unwrap_err().reason();
        assert_eq!(reason, Reason::VolumeNotFound, "{call}");
    }
}

/// Two names of one device: the first attachment to end does not make the device writable under the second.
#[tokio::test]
async fn a_device_is_read_only_until_its_last_name_is_let_go() {
    let backend = backend(&[Path::new(DEVICES)]);
    let found = || Found {
        protected: true,
        local: Some(nowhere(1)),
        ..Found::default()
    };
    let names = ["/dev/vg/lv", "/dev/mapper/vg-lv"];
    let [first, second] = names.map(|name| of_device(name, Access::ReadOnly, found()));
    assert_ne!(first.plan.claims, second.plan.claims);
    // The next daemon restores both from the journal.
    backend.recall(std::slice::from_ref(&first));
    backend.recall(std::slice::from_ref(&second));
    let device = nowhere(1);
    assert!(!backend.protected.has(&nowhere(2)), "another of its number");
    let beside = Release {
        held: first.plan.claims.clone(),
        keeps_read_only: true,
        force: false,
    };
    backend.disconnect(&first, &beside).await.unwrap();
    backend.disconnect(&second, &LAST).await.unwrap();
    assert!(backend.protected.has(&device));
    backend.disconnect(&first, &LAST).await.unwrap();
    assert!(!backend.protected.has(&device));
}

#[tokio::test]
async fn a_reader_by_another_name_shares_what_makes_a_device_writable() {
    let Some([device, other]) = writable_device() else {
        return;
    };
    let backend = backend(&[Path::new(DEVICES)]);
    let mut first = of_device(&device, Access::ReadOnly, Found::default());
    first.found = backend.survey(&first.plan).await.unwrap();
    // Read-write access asks for no protection: the device is protected because of the other attachment.
    let second = of_device(&other, Access::ReadWrite, Found::default());
    assert!(!backend.survey(&second.plan).await.unwrap().protected);
    backend.recall(std::slice::from_ref(&first));
    assert!(backend.survey(&second.plan).await.unwrap().protected);
}

#[tokio::test]
async fn a_name_that_leads_to_another_device_is_not_the_volume() {
    let Some([device, _]) = writable_device() else {
        return;
    };
    let backend = backend(&[Path::new(DEVICES)]);
    let mut volume = of_device(&device, Access::ReadWrite, Found::default());
    volume.found = backend.survey(&volume.plan).await.unwrap();
    let local = volume.found.local.as_mut().unwrap();
    local.connected = true;
    local.sequence = local.sequence.map(|it| it + 1);
    assert_eq!(backend.find(&volume).await.unwrap(), Presence::Absent);
    volume.found.protected = true;
    for failed in [
        backend
            .pin(&volume, Scope::Live, Path::new(""))
            .await
            .map(drop),
        backend.extend(&volume).await.map(drop),
    ] {
        assert_eq!(failed.unwrap_err().reason(), Reason::DeviceIdentity);
    }
    volume.found.protected = false;
    let failed = backend
        .pin(&volume, Scope::Live, Path::new(""))
        .await
        .map(drop);
    assert_eq!(failed.unwrap_err().reason(), Reason::DeviceIdentity);
}

/// Owners in which another volume has every identity.
struct Taken;

#[async_trait]
impl Owners for Taken {
    async fn take(&self, identity: &Wwid, volume: String) -> Result<(), BackendError> {
        let why = identity.to_string();
        Err(BackendError::DeviceIdentity { volume, why })
    }
}

#[tokio::test]
async fn a_device_of_another_volume_is_refused() {
    let Some([device, _]) = writable_device() else {
        return;
    };
    let backend = backend(&[Path::new(DEVICES)]);
    let mut volume = of_device(&device, Access::ReadWrite, Found::default());
    volume.found = backend.survey(&volume.plan).await.unwrap();
    let info = info(&device, ImageFormat::Raw);
    // Only partially found, so that the connect runs and takes the identity.
    assert_eq!(backend.find(&volume).await.unwrap(), Presence::Partial);
    let identity = Some(Wwid::as_spelled("LVM-x".to_owned()));
    volume.found.local.as_mut().unwrap().identity = identity.clone();
    assert_eq!(volume.identity(), None);
    let refused = backend
        .connect(&volume, &info, &Taken, HeadStart::default())
        .await
        .unwrap_err();
    assert_eq!(refused.reason(), Reason::DeviceIdentity, "{refused}");
    let connected = backend
        .connect(&volume, &info, &NoOthers, HeadStart::default())
        .await
        .unwrap();
    volume.found = connected.found;
    assert_eq!(volume.identity(), identity.as_ref());
    assert_eq!(backend.find(&volume).await.unwrap(), Presence::Present);
}

#[tokio::test]
async fn a_persistent_configuration_takes_no_name_of_the_kernel() {
    let Some(names) = writable_device() else {
        return;
    };
    let backend = backend(&[Path::new(DEVICES)]);
    for name in names {
        let volume = of_device(&name, Access::ReadWrite, Found::default());
        for scope in [Scope::Config, Scope::LiveAndConfig] {
            let failed = backend
                .pin(&volume, scope, Path::new(""))
                .await
                .map(drop)
                .unwrap_err();
            assert_eq!(failed.reason(), Reason::DiskOptionInvalid, "{failed}");
        }
    }
}
