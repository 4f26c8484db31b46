//! Finds the block device of this host that a name leads to. The kernel reuses names and numbers of devices, but not a number together with
//! its `diskseq` before the next boot.
//!
//! Reads sysfs only, never the device.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::libc::{major, minor};

use crate::host;
use crate::model::{LocalDevice, Wwid};

/// The kernel's directory of block devices by number.
const BY_NUMBER: &str = "/sys/dev/block";
const DISKS: &str = "/dev/disk";

/// The block device that the name leads to now, if any.
pub(super) fn at(path: &Path) -> io::Result<Option<LocalDevice>> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let is_block = metadata.file_type().is_block_device();
    Ok(is_block.then(|| read(Path::new(BY_NUMBER), metadata.rdev())))
}

fn read(by_number: &Path, number: u64) -> LocalDevice {
    let directory = by_number.join(name(number));
    // A partition has the number of its disk.
    let sequence = text(&directory.join("diskseq")).or_else(|| text(&directory.join("../diskseq")));
    LocalDevice {
        number,
        sequence: sequence.and_then(|text| text.parse().ok()),
        boot: host::boot(),
        identity: identity(&directory),
        connected: false,
    }
}

/// A device number as in sysfs, such as `253:0`.
fn name(number: u64) -> String {
    format!("{}:{}", major(number), minor(number))
}

fn text(file: &Path) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// The identity that the kernel holds for a device, spelled as by the backends of targets. First a map's UUID, which is the WWID of its
/// paths or names a logical volume; then the WWID of a SCSI disk or NVMe namespace, if unique in the world. Vendors' own WWIDs (`t10.`,
/// `nvme.`) are not always unique.
fn identity(directory: &Path) -> Option<Wwid> {
    if let Some(uuid) = text(&directory.join("dm/uuid")) {
        let uuid = uuid.strip_prefix("mpath-").unwrap_or(&uuid);
        return Some(Wwid::as_spelled(uuid.to_owned()));
    }
    if let Some(wwid) = text(&directory.join("device/wwid")) {
        let unique = wwid.starts_with("naa.") || wwid.starts_with("eui.");
        return unique.then(|| wwid.parse().ok()).flatten();
    }
    let wwid = text(&directory.join("wwid"))?;
    let unique = wwid.starts_with("eui.") || wwid.starts_with("uuid.");
    unique.then(|| Wwid::as_spelled(wwid))
}

/// The kernel's own name of a device in /dev.
pub(super) fn path(device: &LocalDevice) -> Result<PathBuf, Errno> {
    if device.boot != host::boot() {
        return Err(Errno::ESTALE); // its number is another device's by now
    }
    let file = format!("{BY_NUMBER}/{}/uevent", name(device.number));
    let uevent = std::fs::read_to_string(file).map_err(|_| Errno::ENXIO)?;
    let name = uevent.lines().find_map(|it| it.strip_prefix("DEVNAME="));
    let path = Path::new("/dev").join(name.ok_or(Errno::ENXIO)?);
    match std::fs::metadata(&path) {
        Ok(it) if it.rdev() == device.number => Ok(path),
        _ => Err(Errno::ENXIO),
    }
}

/// Whether the kernel forbids writing to the device.
pub(super) fn is_read_only(device: &LocalDevice) -> bool {
    let file = format!("{BY_NUMBER}/{}/ro", name(device.number));
    text(Path::new(&file)).is_some_and(|text| text == "1")
}

/// Whether a name that leads to `device` still does so after the host's next boot. The kernel's own names do not, nor do links by its
/// numbers (`by-diskseq`, `/dev/block`), nor links by data on the disk (`by-uuid`, `by-label`), which a guest may write.
pub(super) fn lasts(name: &Path, device: &Path) -> bool {
    if name == device || name.components().any(|it| it == Component::ParentDir) {
        return false;
    }
    let beneath = |folder: &str| name.starts_with(folder);
    if beneath(DISKS) {
        return ["by-id", "by-path", "by-partuuid"]
            .iter()
            .any(|kind| name.starts_with(Path::new(DISKS).join(kind)));
    }
    let target = device.file_name().and_then(|it| it.to_str());
    let is_map = target.is_some_and(|it| it.starts_with("dm-"));
    // Names of LVM (/dev/VG/LV) and other maps; below, of RAIDs, ZFS and DRBD.
    let of_maps = is_map && !beneath("/dev/block") && name.components().count() == 4;
    of_maps
        || ["/dev/md", "/dev/zvol", "/dev/drbd/by-res"]
            .into_iter()
            .any(beneath)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The disk 8:0, read from a directory of the kernel with these files.
    fn with(files: &[(&str, &str)]) -> LocalDevice {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = dir.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::create_dir_all(dir.path().join("8:0")).unwrap();
            std::fs::write(file, format!("{text}\n")).unwrap();
        }
        read(dir.path(), nix::sys::stat::makedev(8, 0))
    }

    #[test]
    fn the_kernel_holds_identities_and_numbers() {
        let disk = with(&[("8:0/diskseq", "17"), ("8:0/device/wwid", "naa.600140512")]);
        assert_eq!(disk.sequence, Some(17));
        let partition = with(&[("diskseq", "17")]);
        assert_eq!((partition.sequence, partition.identity), (Some(17), None));
        for (file, text, identity) in [
            ("dm/uuid", "LVM-abc", Some("LVM-abc")),
            (
                "dm/uuid",
                "mpath-36001405000000000000000000000abcd",
                Some("36001405000000000000000000000abcd"),
            ),
            (
                "device/wwid",
                "naa.6001405000000000000000000000abcd",
                Some("36001405000000000000000000000abcd"),
            ),
            ("device/wwid", "t10.ATA     QEMU HARDDISK", None),
            ("wwid", "uuid.12", Some("uuid.12")),
            ("wwid", "nvme.1b36-64656164", None),
            ("dm/uuid", "", None),
        ] {
            let found = with(&[(&format!("8:0/{file}"), text)]).identity;
            assert_eq!(found.as_ref().map(Wwid::as_str), identity, "{text}");
        }
    }

    #[test]
    fn numbers_tell_devices_apart_within_a_boot_and_identities_beyond() {
        let known = LocalDevice {
            number: 7,
            sequence: Some(3),
            boot: Some("a".into()),
            identity: Some(Wwid::as_spelled("LVM-x".into())),
            connected: true,
        };
        assert!(known.is_same(&known));
        let reused = LocalDevice {
            sequence: Some(4),
            ..known.clone()
        };
        assert!(!known.is_same(&reused), "the same name again");
        let reused_again = reused.clone();
        let booted = LocalDevice {
            boot: Some("b".into()),
            ..reused
        };
        assert!(known.is_same(&booted));
        let other = LocalDevice {
            identity: Some(Wwid::as_spelled("LVM-y".into())),
            ..booted.clone()
        };
        assert!(!known.is_same(&other));
        let silent = LocalDevice {
            identity: None,
            ..booted
        };
        assert!(!known.is_same(&silent), "it had an identity");
        assert!(silent.is_same(&known), "by its name alone");
        // Deactivated and activated again.
        assert!(known.may_be(&reused_again) && !known.may_be(&other));
        let loop_device = LocalDevice {
            identity: None,
            ..known.clone()
        };
        assert!(!loop_device.may_be(&reused_again));
    }

    #[test]
    fn a_device_of_another_boot_has_no_path() {
        let device = LocalDevice {
            number: 7,
            sequence: None,
            boot: Some("another".to_owned()),
            identity: None,
            connected: true,
        };
        assert_eq!(path(&device), Err(Errno::ESTALE));
    }

    #[test]
    fn not_every_link_lasts() {
        let lasts = |name: &str, device: &str| super::lasts(Path::new(name), Path::new(device));
        for (name, device) in [
            ("/dev/disk/by-id/wwn-0x6001405", "/dev/sda"),
            ("/dev/disk/by-path/pci-0000:00:1f.2-ata-1", "/dev/sda"),
            ("/dev/disk/by-partuuid/5", "/dev/sda1"),
            ("/dev/vg/lv", "/dev/dm-0"),
            ("/dev/mapper/vg-lv", "/dev/dm-0"),
            ("/dev/md/data", "/dev/md127"),
            ("/dev/zvol/pool/a/b", "/dev/zd0"),
        ] {
            assert!(lasts(name, device), "{name}");
        }
        for (name, device) in [
            ("/dev/sda", "/dev/sda"),
            ("/dev/dm-0", "/dev/dm-0"),
            ("/dev/disk/by-diskseq/17", "/dev/dm-0"),
            ("/dev/disk/by-uuid/5", "/dev/dm-0"),
            ("/dev/disk/by-label/data", "/dev/sda"),
            ("/dev/block/253:0", "/dev/dm-0"),
            ("/dev/disk/by-id/../by-diskseq/17", "/dev/sda"),
            ("/dev/cdrom", "/dev/sr0"),
        ] {
            assert!(!lasts(name, device), "{name}");
        }
    }

    #[test]
    fn what_is_no_block_device_is_none() {
        for path in ["/dev/null", "/dev/volattach-absent", "/dev/null/x"] {
            assert_eq!(at(Path::new(path)).unwrap(), None, "{path}");
        }
    }
}
