//! Guests that SELinux confines, and shares: whether the one may use the other is up to a boolean for each kind.
//!
//! All files of a mount have one label, `cifs_t` or `nfs_t`: what a guest's own label keeps to itself elsewhere, categories, is not
//! on them. So the policy lets guests use all of them or none.

use crate::backend::BackendError;
use crate::host::Host;
use crate::model::HostPlan;

/// Each file system, and the boolean that lets guests use it (SELinux reference policy, virt.te; virt_selinux(8)).
const BOOLEANS: &[(&str, &str)] = &[("cifs", "virt_use_samba"), ("nfs", "virt_use_nfs")];

/// Whether a confined guest may use the plan's mount.
///
/// # Errors
/// Where its boolean is off.
pub(in crate::backend) fn check(host: &Host, plan: &HostPlan) -> Result<(), BackendError> {
    let fstype = plan.mount().map(|mount| mount.fstype.as_str());
    let boolean = BOOLEANS.iter().find(|(of, _)| Some(*of) == fstype);
    match boolean {
        Some((fstype, boolean)) if host.selinux_boolean_is_off(boolean) => {
            Err(BackendError::SelinuxBoolean {
                fstype: (*fstype).to_owned(),
                boolean,
            })
        }
        _ => Ok(()),
    }
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
            check(&host, &plan)
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
        let said = try_mount(Some("nfs")).unwrap_err().to_string();
        assert!(said.contains("virt_use_nfs on"), "{said}");
    }
}
