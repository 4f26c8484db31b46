//! libvirt's errors in our words: which of our reasons each is, and what to do about it.
//!
//! libvirt's numbers are coarse (a full bus and QEMU's every refusal are both an "internal error"), so the message
//! counts too. A message that is not known is still told in full.

use super::error::{HypervisorError, LibvirtError};
use crate::model::Reason;

/// What marks an error, its reason, and what to do. The first that fits counts.
struct Rule {
    /// libvirt's number; `None`: any.
    code: Option<u32>,
    /// What the message holds; empty: anything.
    text: &'static str,
    reason: Reason,
    hint: &'static str,
}

const fn rule(code: Option<u32>, text: &'static str, reason: Reason, hint: &'static str) -> Rule {
    Rule {
        code,
        text,
        reason,
        hint,
    }
}

/// What to do about a block job.
const BLOCK_JOB: &str = "a block job (copy, commit, pull, backup) runs on the disk: end it (`virsh blockjob`), then ask again";

const RULES: &[Rule] = &[
    rule(
        None,
        "No more available PCI slots",
        Reason::BusFull,
        "detach a device, add PCI ports to the domain (pcie-root-port), or use bus scsi",
    ),
    rule(
        None,
        "non unique alias",
        Reason::VolumeInUse,
        "the domain already has a disk of that alias: detach it first",
    ),
    rule(
        Some(virt_sys::VIR_ERR_OPERATION_FAILED),
        "already exists",
        Reason::TargetInUse,
        "choose another target, or none to get the first that is free",
    ),
    rule(
        None,
        "duplicated for disk sources",
        Reason::TargetInUse,
        "choose another target, or none to get the first that is free",
    ),
    rule(
        None,
        "double use of PCI Address",
        Reason::TargetInUse,
        "choose another address, or none",
    ),
    rule(
        None,
        "already contains a disk with that address",
        Reason::TargetInUse,
        "choose another address, or none",
    ),
    rule(
        None,
        "Cannot grow device files",
        Reason::VolumeNotGrown,
        "the device is smaller still: grow the volume on its storage, then ask again",
    ),
    rule(
        None,
        "\" lock",
        Reason::VolumeInUse,
        // Do not suggest sharing, which would take the lock away from its holder. RFC 8881, 8.4.2: the server keeps a lock of a silent
        // client until its lease ends; Linux's are 90 s (nfsd(7)).
        "another process on some host uses the image, and QEMU locks it: stop that one. Where its host has just died, an NFS 4 server \
         keeps the lock until that host's lease ends (90 s where nobody set another): try again then",
    ),
    // A copy has an error number of its own, each other job that of every unsupported operation (qemuDomainDiskBlockJobIsActive in libvirt's
    // src/qemu/qemu_domain.c).
    rule(
        Some(virt_sys::VIR_ERR_BLOCK_COPY_ACTIVE),
        "",
        Reason::BlockJobActive,
        BLOCK_JOB,
    ),
    rule(
        None,
        "in active block job",
        Reason::BlockJobActive,
        BLOCK_JOB,
    ),
    // QEMU's own word (bdrv_op_is_blocked), such as that of a backup that libvirt does not know.
    rule(
        None,
        "is in use by block job",
        Reason::BlockJobActive,
        BLOCK_JOB,
    ),
    rule(
        None,
        "O_DIRECT",
        Reason::DiskOptionInvalid,
        "the file system cannot bypass the cache: ask for cache writeback or writethrough",
    ),
    rule(
        None,
        "to be a regular file",
        Reason::VolumeNotRegular,
        "attach a regular file, or a block device as such",
    ),
    rule(
        None,
        "Image is not in",
        Reason::ImageMalformed,
        "the connection info names another format than the image has",
    ),
    rule(
        None,
        "No such file or directory",
        Reason::VolumeNotFound,
        "the volume must be there for libvirt and QEMU too: check their mount namespace and AppArmor or SELinux",
    ),
    rule(
        None,
        "Permission denied",
        Reason::VolumeUnreadable,
        "QEMU's user must be able to open the volume, writing where it is read-write: check its owner and mode, those \
         of the directories above it, and AppArmor or SELinux (`dmesg`, `ausearch -m avc`)",
    ),
    // AppArmorSetSecurityImageLabel in libvirt's src/security/security_apparmor.c; the directories are those of `valid_path` in its
    // virt-aa-helper.c.
    rule(
        None,
        "cannot update AppArmor profile",
        Reason::VolumeUnreadable,
        "libvirt did not write the volume into the domain's AppArmor profile: it takes none beneath the system's own directories (such as /etc, \
         /usr/lib, /usr/share, /usr/local/lib); the journal of its daemon has what its virt-aa-helper says",
    ),
    rule(
        None,
        "Read-only file system",
        Reason::VolumeUnreadable,
        "the volume lies on something read-only: attach it read-only",
    ),
    rule(
        None,
        "per-device boot elements",
        Reason::DiskOptionInvalid,
        "the domain's boot order is in <os><boot>, and libvirt takes none of single disks then: leave boot_order out",
    ),
    rule(
        Some(virt_sys::VIR_ERR_NO_DOMAIN),
        "",
        Reason::DomainNotFound,
        "`virsh list --all` shows the domains there are",
    ),
    rule(
        Some(virt_sys::VIR_ERR_OPERATION_INVALID),
        "",
        Reason::DomainState,
        "`virsh domstate` shows the domain's state",
    ),
    rule(
        Some(virt_sys::VIR_ERR_OPERATION_TIMEOUT),
        "",
        Reason::OperationInProgress,
        "another operation on the domain is under way: try again when it has ended (`virsh domjobinfo` shows it)",
    ),
    rule(
        Some(virt_sys::VIR_ERR_XML_ERROR),
        "",
        Reason::DiskOptionInvalid,
        "change the disk options",
    ),
    rule(
        Some(virt_sys::VIR_ERR_CONFIG_UNSUPPORTED),
        "",
        Reason::DiskOptionInvalid,
        "change the disk options",
    ),
    rule(
        Some(virt_sys::VIR_ERR_OPERATION_UNSUPPORTED),
        "",
        Reason::DiskOptionInvalid,
        "change the disk options",
    ),
];

/// What Xen's hot-plug script (/etc/xen/scripts/block of Xen 4.17) leaves in xenstore, and what it means. A path may be part of
/// it, so each is more than a word.
const HOTPLUG_RULES: &[(&str, Reason, &str)] = &[
    (
        "cannot be mounted now",
        Reason::VolumeInUse,
        "Xen lets one domain alone write to a device: detach it there, or unmount it in this host",
    ),
    (
        "is read-only, and so I will not mount it read-write",
        Reason::VolumeUnreadable,
        "the volume may not be written: attach it read-only",
    ),
    (
        "Failed to find an unused loop device",
        Reason::HypervisorError,
        "the host has no loop device left: `losetup` shows what uses them",
    ),
    (
        "losetup",
        Reason::VolumeUnreadable,
        "the hot-plug script, as root, could not make a loop device of the volume: may root read it (an export with root \
         squashed lets it not)?",
    ),
    (
        " does not exist",
        Reason::VolumeNotFound,
        "the volume must be there for Xen's hot-plug script too",
    ),
];

/// What the hot-plug script has left no word of.
const HOTPLUG_LOG: &str = "see /var/log/libvirt/libxl/libxl-driver.log and the log of Xen's hot-plug scripts beneath /var/log/xen";

/// The reason and what to do, by what the hot-plug script has left; empty: nothing.
pub(super) fn explain_hotplug(error: &str) -> (Reason, &'static str) {
    HOTPLUG_RULES
        .iter()
        .find(|(text, ..)| error.contains(text))
        .map_or(
            (Reason::HypervisorError, HOTPLUG_LOG),
            |(_, reason, hint)| (*reason, *hint),
        )
}

/// The error of a call that tried to do `action` on the domain.
pub(super) fn explain(action: &str, domain: &str, source: LibvirtError) -> HypervisorError {
    let fits = |rule: &&Rule| {
        rule.code.is_none_or(|code| code == source.code) && source.message.contains(rule.text)
    };
    let (reason, hint) = RULES.iter().find(fits).map_or(
        (
            Reason::HypervisorError,
            "see the log of libvirt and that of the domain (/var/log/libvirt/qemu/)",
        ),
        |rule| (rule.reason, rule.hint),
    );
    HypervisorError::Failed {
        action: action.to_owned(),
        domain: domain.to_owned(),
        reason,
        hint,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages of Xen 4.17's script.
    #[test]
    fn what_the_hotplug_script_leaves_has_its_reason() {
        for (error, reason) in [
            ("/dev/sdz does not exist", Reason::VolumeNotFound),
            (
                "Device /dev/sda is mounted in a guest domain,\nand so cannot be mounted now.",
                Reason::VolumeInUse,
            ),
            (
                "File /v is read-only, and so I will not mount it read-write in a guest domain.",
                Reason::VolumeUnreadable,
            ),
            (
                "/etc/xen/scripts/block failed; error detected: losetup /dev/loop0 /v",
                Reason::VolumeUnreadable,
            ),
            (
                "Failed to find an unused loop device",
                Reason::HypervisorError,
            ),
            ("something mounted", Reason::HypervisorError),
            ("", Reason::HypervisorError),
        ] {
            assert_eq!(explain_hotplug(error).0, reason, "{error}");
        }
    }

    /// Messages of libvirt 9.0 over QEMU 7.2.
    #[test]
    fn known_errors_have_their_reasons() {
        for (code, message, reason) in [
            (
                1,
                "internal error: No more available PCI slots",
                Reason::BusFull,
            ),
            (
                67,
                "unsupported configuration: non unique alias detected: ua-v1",
                Reason::VolumeInUse,
            ),
            (
                27,
                "XML error: target 'vda' duplicated for disk sources '/a' and '/b'",
                Reason::TargetInUse,
            ),
            (
                9,
                "operation failed: target vda already exists",
                Reason::TargetInUse,
            ),
            (
                27,
                "XML error: Attempted double use of PCI Address 0000:01:00.0",
                Reason::TargetInUse,
            ),
            (
                55,
                "Requested operation is not valid: Domain already contains a disk with that address",
                Reason::TargetInUse,
            ),
            (
                38,
                "Cannot access storage file '/x': No such file or directory",
                Reason::VolumeNotFound,
            ),
            (
                38,
                "Cannot access storage file '/x' (as uid:64055, gid:64055): Permission denied",
                Reason::VolumeUnreadable,
            ),
            (
                1,
                "internal error: cannot update AppArmor profile 'libvirt-e5b5ea0c-33c6-4d6e-9a8a-4a8a3f3a3a3a'",
                Reason::VolumeUnreadable,
            ),
            (
                1,
                "internal error: unable to execute QEMU command 'blockdev-add': 'file' driver requires '/tmp' to be a \
                 regular file",
                Reason::VolumeNotRegular,
            ),
            (
                1,
                "internal error: unable to execute QEMU command 'blockdev-add': Image is not in qcow2 format",
                Reason::ImageMalformed,
            ),
            (
                1,
                "internal error: unable to execute QEMU command 'device_add': Failed to get \"write\" lock",
                Reason::VolumeInUse,
            ),
            (
                67,
                "unsupported configuration: per-device boot elements cannot be used together with os/boot elements",
                Reason::DiskOptionInvalid,
            ),
            (
                27,
                "XML error: Invalid PCI address 0000:40:00.0. Only PCI buses up to 4 are available",
                Reason::DiskOptionInvalid,
            ),
            (
                55,
                "Requested operation is not valid: domain is not running",
                Reason::DomainState,
            ),
            (
                42,
                "Domain not found: no domain with matching uuid",
                Reason::DomainNotFound,
            ),
            (
                83,
                "block copy still active: disk 'vdb' already in active block job",
                Reason::BlockJobActive,
            ),
            (
                84,
                "Operation not supported: disk 'vdb' already in active block job",
                Reason::BlockJobActive,
            ),
            (
                1,
                "internal error: unable to execute QEMU command 'block_resize': Node 'libvirt-1-format' is busy: block device is in \
                 use by block job: backup",
                Reason::BlockJobActive,
            ),
            (
                68,
                "Timed out during operation: cannot acquire state change lock (held by monitor=remoteDispatchDomainBackupBegin)",
                Reason::OperationInProgress,
            ),
            (1, "internal error: something new", Reason::HypervisorError),
        ] {
            let source = LibvirtError {
                code,
                message: message.into(),
            };
            let error = explain("plug disk vdb in", "web", source);
            assert_eq!(error.reason(), reason, "{message}");
            assert!(
                error
                    .to_string()
                    .starts_with("cannot plug disk vdb in on domain web; "),
                "{error}"
            );
        }
    }

    #[test]
    fn who_meets_a_lock_is_told_to_wait_and_not_to_share() {
        let source = LibvirtError {
            code: 1,
            message: "Failed to get \"write\" lock".into(),
        };
        let said = explain("plug disk vdb in", "web", source).to_string();
        assert!(
            said.contains("lease ends (90 s") && said.contains("try again"),
            "{said}"
        );
        assert!(!said.contains("shareable"), "{said}");
    }
}
