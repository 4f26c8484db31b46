//! Guests that SELinux confines, and shares: whether the one may use the other is up to a boolean for each kind.
//!
//! All files of a mount have one label, `cifs_t` or `nfs_t`: what a guest's own label keeps to itself elsewhere, categories, is not
//! on them. So the policy lets guests use all of them or none. An NFS export with `security_label` (exports(5)) is the exception: each of
//! its files has a label of its own, as on a disk, and no boolean is asked for.

use std::io;
use std::sync::Arc;

use super::blocking;
use crate::backend::BackendError;
use crate::host::Host;
use crate::model::{HostPlan, MountPlan};
use crate::sys::mountinfo::Mounts;

/// A file system, and the boolean that lets guests use it (SELinux reference policy, virt.te; virt_selinux(8)).
struct Kind {
    fstype: &'static str,
    boolean: &'static str,
    /// Whether a server may give each file of such a mount a label.
    may_be_labelled: fn(&MountPlan) -> bool,
}

const KINDS: &[Kind] = &[
    Kind {
        fstype: "cifs",
        boolean: "virt_use_samba",
        may_be_labelled: |_| false,
    },
    Kind {
        fstype: "nfs",
        boolean: "virt_use_nfs",
        may_be_labelled: may_be_nfs_4_2,
    },
];

/// Labels came with NFS 4.2 (RFC 7862, 9): of an older version's server the kernel takes none (`_nfs4_server_capabilities` in fs/nfs/nfs4proc.c).
/// A plan has the newest version that is asked for.
fn may_be_nfs_4_2(mount: &MountPlan) -> bool {
    let mut options = mount.options.split(',');
    let newest = options.find_map(|option| option.strip_prefix("vers="));
    !matches!(newest, Some("3" | "4.0" | "4.1"))
}

/// Whether a confined guest may use the plan's mount. Of a mount that may turn out to have labels that is known once it is mounted: before,
/// it may.
///
/// # Errors
/// Where its boolean is off.
pub(in crate::backend) async fn check(
    host: &Arc<Host>,
    plan: &HostPlan,
) -> Result<(), BackendError> {
    check_by(host, plan, Mounts::read).await
}

async fn check_by(
    host: &Arc<Host>,
    plan: &HostPlan,
    mounts: impl FnOnce() -> io::Result<Mounts> + Send + 'static,
) -> Result<(), BackendError> {
    let Some(mount) = plan.mount() else {
        return Ok(());
    };
    let Some(kind) = KINDS.iter().find(|kind| kind.fstype == mount.fstype) else {
        return Ok(());
    };
    let looking = || format!("look for labels on the mount {}", mount.target.display());
    let closed = {
        let (host, mount) = (host.clone(), mount.clone());
        move || is_closed(&host, kind, &mount, mounts)
    };
    match blocking(looking, closed).await? {
        true => Err(BackendError::SelinuxBoolean {
            fstype: mount.fstype.clone(),
            boolean: kind.boolean,
        }),
        false => Ok(()),
    }
}

/// Whether the boolean is off and the mount without labels.
fn is_closed(
    host: &Host,
    kind: &Kind,
    mount: &MountPlan,
    mounts: impl FnOnce() -> io::Result<Mounts>,
) -> io::Result<bool> {
    if !host.selinux_boolean_is_off(kind.boolean) {
        return Ok(false);
    }
    if !(kind.may_be_labelled)(mount) {
        return Ok(true);
    }
    let mounts = mounts()?;
    let uppermost = mounts.at(&mount.target).pop();
    Ok(uppermost.is_some_and(|mounted| !mounted.labelled))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Access, Connection, ImageFormat, MountPlan, Reason, SourceKind};

    #[tokio::test]
    async fn each_kind_of_mount_has_its_boolean_and_what_is_no_mount_has_none() {
        let root = tempfile::tempdir().unwrap();
        let selinux = root.path().join("sys/fs/selinux");
        std::fs::create_dir_all(selinux.join("booleans")).unwrap();
        std::fs::write(selinux.join("enforce"), "1").unwrap();
        let set = |samba: &str, nfs: &str| {
            std::fs::write(selinux.join("booleans/virt_use_samba"), samba).unwrap();
            std::fs::write(selinux.join("booleans/virt_use_nfs"), nfs).unwrap();
        };
        let host = Arc::new(Host::beneath(root.path()));
        let runtime = std::thread::current().id();
        let mounted = std::cell::Cell::new("");
        let versions = std::cell::Cell::new("vers=4.2");
        let try_mount = async |fstype: Option<&str>| {
            let plan = HostPlan {
                keeps_owner: false,
                protocol: "x".into(),
                claims: Vec::new(),
                connection: fstype.map_or(Connection::None, |fstype| {
                    Connection::Mount(MountPlan {
                        source: "//nas/vols".into(),
                        fstype: fstype.into(),
                        options: format!("ro,nosuid,{},addr=192.0.2.1", versions.get()),
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
            let read = move || {
                // A long mount table holds up nobody else.
                assert_ne!(std::thread::current().id(), runtime);
                Ok(table)
            };
            check_by(&host, &plan, read).await
        };
        set("0 0", "1 1");
        let error = try_mount(Some("cifs")).await.unwrap_err();
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
        assert!(try_mount(Some("nfs")).await.is_ok() && try_mount(None).await.is_ok());
        set("1 1", "0 0");
        assert!(try_mount(Some("cifs")).await.is_ok());
        assert!(
            try_mount(Some("nfs")).await.is_ok(),
            "it is not mounted yet"
        );
        mounted.set("9 1 0:9 / /m rw - nfs4 nas:/vols rw,seclabel,vers=4.2");
        assert!(
            try_mount(Some("nfs")).await.is_ok(),
            "its files have labels"
        );
        mounted.set("9 1 0:9 / /m rw - nfs4 nas:/vols rw,vers=4.2");
        let said = try_mount(Some("nfs")).await.unwrap_err().to_string();
        assert!(said.contains("virt_use_nfs on"), "{said}");
        mounted.set("");
        for (newest, may) in [
            ("vers=3", false),
            ("vers=4.0", false),
            ("vers=4.1", false),
            ("vers=4.2", true),
        ] {
            versions.set(newest);
            assert_eq!(try_mount(Some("nfs")).await.is_ok(), may, "{newest}");
        }
    }
}
