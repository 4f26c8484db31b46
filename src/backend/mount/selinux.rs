//! Guests that SELinux confines, and shares: whether the one may use the other is up to a boolean for each kind.
//!
//! All files of a mount have one label, `cifs_t` or `nfs_t`: what a guest's own label keeps to itself elsewhere, categories, is not
//! on them. So the policy lets guests use all of them or none. An NFS export with `security_label` (exports(5)) is the exception: each of
//! its files has a label of its own, as on a disk, and no boolean is asked for.

use std::io;

use crate::backend::BackendError;
use crate::host::Host;
use crate::model::{HostPlan, MountPlan};
use crate::sys::mountinfo::Mounts;

/// A file system, and the boolean that lets guests use it (SELinux reference policy, virt.te; virt_selinux(8)).
struct Kind {
    fstype: &'static str,
    boolean: &'static str,
    /// Whether a server may give each file a label.
    may_be_labelled: bool,
}

const KINDS: &[Kind] = &[
    Kind {
        fstype: "cifs",
        boolean: "virt_use_samba",
        may_be_labelled: false,
    },
    Kind {
        fstype: "nfs",
        boolean: "virt_use_nfs",
        may_be_labelled: true,
    },
];

/// Whether a confined guest may use the plan's mount. Of a mount that may turn out to have labels that is known once it is mounted: before,
/// it may.
///
/// # Errors
/// Where its boolean is off.
pub(in crate::backend) fn check(host: &Host, plan: &HostPlan) -> Result<(), BackendError> {
    check_by(host, plan, Mounts::read)
}

fn check_by(
    host: &Host,
    plan: &HostPlan,
    mounts: impl FnOnce() -> io::Result<Mounts>,
) -> Result<(), BackendError> {
    let Some(mount) = plan.mount() else {
        return Ok(());
    };
    let kind = KINDS.iter().find(|kind| kind.fstype == mount.fstype);
    let Some(kind) = kind.filter(|kind| host.selinux_boolean_is_off(kind.boolean)) else {
        return Ok(());
    };
    if kind.may_be_labelled && !is_known_without_labels(mount, mounts)? {
        return Ok(());
    }
    Err(BackendError::SelinuxBoolean {
        fstype: mount.fstype.clone(),
        boolean: kind.boolean,
    })
}

fn is_known_without_labels(
    mount: &MountPlan,
    mounts: impl FnOnce() -> io::Result<Mounts>,
) -> Result<bool, BackendError> {
    let looking = || format!("look for labels on the mount {}", mount.target.display());
    let mounts = mounts().map_err(super::host(looking))?;
    let uppermost = mounts.at(&mount.target).pop();
    Ok(uppermost.is_some_and(|mounted| !mounted.labelled))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Access, Connection, ImageFormat, MountPlan, Reason, SourceKind};

    #[test]
    fn each_kind_of_mount_has_its_boolean_and_what_is_no_mount_has_none() {
        let root = tempfile::tempdir().unwrap();
        let selinux = root.path().join("sys/fs/selinux");
        std::fs::create_dir_all(selinux.join("booleans")).unwrap();
        std::fs::write(selinux.join("enforce"), "1").unwrap();
        let set = |samba: &str, nfs: &str| {
            std::fs::write(selinux.join("booleans/virt_use_samba"), samba).unwrap();
            std::fs::write(selinux.join("booleans/virt_use_nfs"), nfs).unwrap();
        };
        let host = Host::beneath(root.path());
        let mounted = std::cell::Cell::new("");
        let try_mount = |fstype: Option<&str>| {
            let plan = HostPlan {
                keeps_owner: false,
                protocol: "x".into(),
                claims: Vec::new(),
                connection: fstype.map_or(Connection::None, |fstype| {
                    Connection::Mount(MountPlan {
                        source: "//nas/vols".into(),
                        fstype: fstype.into(),
                        options: String::new(),
                        target: "/m".into(),
                        login: None,
                    })
                }),
                root: "/m".into(),
                path: "/m/v".into(),
                kind: SourceKind::File,
                format: ImageFormat::Raw,
                access: Access::ReadOnly,
            };
            let table = Mounts::parse(mounted.get().as_bytes()).unwrap();
            check_by(&host, &plan, || Ok(table))
        };
        set("0 0", "1 1");
        let error = try_mount(Some("cifs")).unwrap_err();
        assert_eq!(error.reason(), Reason::SelinuxBoolean);
        let said = error.to_string();
        for word in [
            "setsebool -P virt_use_samba on",
            "every guest",
            "every cifs mount",
            "fail",
        ] {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert!(try_mount(Some("nfs")).is_ok() && try_mount(None).is_ok());
        set("1 1", "0 0");
        assert!(try_mount(Some("cifs")).is_ok());
        assert!(try_mount(Some("nfs")).is_ok(), "it is not mounted yet");
        mounted.set("9 1 0:9 / /m rw - nfs4 nas:/vols rw,seclabel,vers=4.2");
        assert!(try_mount(Some("nfs")).is_ok(), "its files have labels");
        mounted.set("9 1 0:9 / /m rw - nfs4 nas:/vols rw,vers=4.2");
        let said = try_mount(Some("nfs")).unwrap_err().to_string();
        assert!(said.contains("virt_use_nfs on"), "{said}");
    }
}
