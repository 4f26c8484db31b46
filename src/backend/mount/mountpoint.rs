//! A share's mount point: its directory on this host, and what the mount table says of it. Nothing here asks a server.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use crate::backend::Presence;
use crate::model::{Access, MountPlan};
use crate::sys::mountinfo::Mounts;

/// What the mount table and the directory say.
pub(super) fn presence(plan: &MountPlan, access: Access) -> io::Result<Presence> {
    let mounts = Mounts::read()?;
    if let Some(mount) = mounts.at(&plan.target).last() {
        // Its name is this mount's alone, so what is on it is ours; but a mount may cover it, or not be what was asked for.
        let whole = same_kind(&mount.fstype, &plan.fstype)
            && mount.read_only == access.is_read_only()
            && mounts.at(&plan.target).count() == 1;
        return Ok(if whole {
            Presence::Present
        } else {
            Presence::Partial
        });
    }
    // Only now: with a mount on it, the server would be asked.
    match std::fs::symlink_metadata(&plan.target) {
        Ok(_) => Ok(Presence::Partial),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Presence::Absent),
        Err(error) => Err(error),
    }
}

/// What a fresh mount lacks of what was planned; `None`: nothing.
pub(super) fn shortcoming(plan: &MountPlan, access: Access) -> io::Result<Option<String>> {
    let mounts = Mounts::read()?;
    let Some(mount) = mounts.at(&plan.target).last() else {
        let why = "mount(2) succeeded, but this process's mount table lacks it: is another mount \
                   namespace in use?";
        return Ok(Some(why.to_owned()));
    };
    let source = mount.source.as_bytes();
    // Kernels differ in whether they show what was asked for or what they made of it.
    let normal: Vec<u8> = source
        .iter()
        .map(|b| if *b == b'\\' { b'/' } else { *b })
        .collect();
    let same_source = normal
        .strip_suffix(b"/")
        .unwrap_or(&normal)
        .eq_ignore_ascii_case(plan.source.as_bytes());
    Ok(if !same_kind(&mount.fstype, &plan.fstype) || !same_source {
        Some(format!(
            "something else is mounted there: {} of type {}",
            String::from_utf8_lossy(source),
            mount.fstype
        ))
    } else if mount.read_only != access.is_read_only() {
        Some(format!("it should be {access}, and is not"))
    } else {
        None
    })
}

/// Whether a mount is of the kind that was asked for: the kernel calls an NFS mount of version 4 `nfs4`.
fn same_kind(mounted: &str, asked: &str) -> bool {
    mounted == asked || (mounted, asked) == ("nfs4", "nfs")
}

/// Makes the directory of a mount point beneath its base, which is made too: for root alone, but traversable, since
/// the hypervisor opens files beneath it. False: it is there already, with whatever is mounted on it.
pub(super) fn make(target: &Path) -> io::Result<bool> {
    let (base, name) = parts(target)?;
    DirBuilder::new().recursive(true).mode(0o711).create(base)?;
    let base = open(
        base,
        OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    let stat = fstat(&base)?;
    if stat.st_uid != geteuid().as_raw() || stat.st_mode & 0o022 != 0 {
        return Err(io::Error::other(
            "the base directory of mounts (mount_base) must belong to the daemon's user and be \
             writable by nobody else",
        ));
    }
    match mkdirat(&base, name, Mode::S_IRWXU) {
        Ok(()) => return Ok(true),
        Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let stat = fstatat(&base, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR {
        Ok(false)
    } else {
        Err(Errno::ENOTDIR.into())
    }
}

/// Removes the directory of a mount point that nothing is mounted on; none there is success.
pub(super) fn remove(target: &Path) -> io::Result<()> {
    let (base, name) = parts(target)?;
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let base = match open(base, flags, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(()),
        base => base?,
    };
    match unlinkat(&base, name, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn parts(target: &Path) -> io::Result<(&Path, &std::ffi::OsStr)> {
    target
        .parent()
        .zip(target.file_name())
        .ok_or_else(|| Errno::EINVAL.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn plan(target: &Path) -> MountPlan {
        MountPlan {
            source: "//files/vols".into(),
            fstype: "cifs".into(),
            options: "rw".into(),
            target: target.into(),
        }
    }

    #[test]
    fn a_directory_comes_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("mnt/abc");
        let presence = || presence(&plan(&target), Access::ReadWrite).unwrap();
        assert_eq!(presence(), Presence::Absent);
        remove(&target).unwrap();
        for _ in 0..2 {
            make(&target).unwrap();
            assert_eq!(presence(), Presence::Partial);
        }
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
        assert_eq!(mode(&target), 0o700);
        assert_eq!(mode(target.parent().unwrap()), 0o711);
        for _ in 0..2 {
            remove(&target).unwrap();
            assert_eq!(presence(), Presence::Absent);
        }
    }

    #[test]
    fn a_base_that_others_control_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("mnt");
        make(&base.join("abc")).unwrap();
        symlink(&base, base.join("link")).unwrap();
        assert!(
            make(&base.join("link")).is_err(),
            "a link is no mount point"
        );
        symlink(&base, dir.path().join("base-link")).unwrap();
        assert!(make(&dir.path().join("base-link/abc")).is_err());
        std::fs::set_permissions(&base, PermissionsExt::from_mode(0o733)).unwrap();
        assert!(make(&base.join("abc")).is_err());
    }

    #[test]
    fn a_mount_of_another_kind_is_not_whole() {
        let proc = plan(Path::new("/proc"));
        assert_eq!(
            presence(&proc, Access::ReadWrite).unwrap(),
            Presence::Partial
        );
        let why = shortcoming(&proc, Access::ReadWrite).unwrap().unwrap();
        assert!(why.contains("something else is mounted there"), "{why}");
        let why = shortcoming(&plan(Path::new("/nowhere")), Access::ReadWrite).unwrap();
        assert!(why.unwrap().contains("lacks it"));
    }
}
