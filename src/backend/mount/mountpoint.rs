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
use crate::model::{Access, Claim, Connection, HostPlan, MountPlan};
use crate::sys::mountinfo::{Mount, Mounts};

/// What the mount table and the directory say.
pub(super) fn presence(mounts: &Mounts, plan: &MountPlan, access: Access) -> io::Result<Presence> {
    match mounts.at(&plan.target)[..] {
        [] => {}
        // The mount point's name is this mount's alone, so a mount on it is ours; but the mount may differ from the request.
        [mount]
            if same_kind(&mount.fstype, &plan.fstype)
                && mount.read_only == access.is_read_only() =>
        {
            return Ok(Presence::Present);
        }
        // Or another mount covers it.
        _ => return Ok(Presence::Partial),
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
    let why = match mounts.at(&plan.target).last() {
        Some(mount) => difference(mount, plan, access),
        None => Some(
            "mount(2) succeeded, but this process's mount table lacks it: is another mount \
             namespace in use?"
                .to_owned(),
        ),
    };
    Ok(why)
}

/// Describes how a mount differs from its plan; `None`: not at all.
fn difference(mount: &Mount, plan: &MountPlan, access: Access) -> Option<String> {
    let same_source = match plan.fstype.as_str() {
        "cifs" => cifs_source(mount.source.as_bytes()) == cifs_source(plan.source.as_bytes()),
        _ => mount.source.as_bytes() == plan.source.as_bytes(),
    };
    if !same_kind(&mount.fstype, &plan.fstype) || !same_source {
        return Some(format!(
            "something else is mounted there: {} of type {}",
            mount.source.display(),
            mount.fstype
        ));
    }
    (mount.read_only != access.is_read_only()).then(|| format!("it should be {access}, and is not"))
}

/// Whether a mount is of the kind that was asked for: the kernel calls an NFS mount of version 4 `nfs4`.
fn same_kind(mounted: &str, asked: &str) -> bool {
    mounted == asked || (mounted, asked) == ("nfs4", "nfs")
}

/// Normalizes a share's name for comparison: kernels show either the requested name or their own form of it, and servers ignore case.
fn cifs_source(source: &[u8]) -> Vec<u8> {
    let slashes = source.iter().map(|b| if *b == b'\\' { b'/' } else { *b });
    let mut name: Vec<u8> = slashes.collect();
    name.make_ascii_lowercase();
    while name.last() == Some(&b'/') {
        name.pop();
    }
    name
}

/// Most mounts of one share beside the first: a guest has files open on each mount but the last.
const BESIDE: u32 = 8;

/// Plans one more mount of the same share, on a mount point of its own.
pub(in crate::backend) fn beside(plan: &HostPlan) -> Option<HostPlan> {
    let mount = plan.mount()?;
    let relative = plan.path.strip_prefix(&plan.root).ok()?;
    let name = mount.target.file_name()?.to_str()?;
    let (id, number) = match name.split_once('-') {
        Some((id, number)) => (id, number.parse().ok()?),
        None => (name, 0),
    };
    let next = (number < BESIDE).then(|| format!("{id}-{}", number + 1))?;
    let claims = plan.claims.iter().map(|claim| match claim {
        Claim::Mount(claimed) => Claim::Mount(claimed.replace(name, &next)),
        other => other.clone(),
    });
    let target = mount.target.with_file_name(&next);
    Some(HostPlan {
        claims: claims.collect(),
        path: target.join(relative),
        root: target.clone(),
        connection: Connection::Mount(MountPlan {
            target,
            ..mount.clone()
        }),
        ..plan.clone()
    })
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
            login: None,
        }
    }

    fn look(plan: &MountPlan) -> Presence {
        presence(&Mounts::read().unwrap(), plan, Access::ReadWrite).unwrap()
    }

    #[test]
    fn a_directory_comes_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("mnt/abc");
        let presence = || look(&plan(&target));
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
    fn a_source_is_compared_as_its_file_system_names_it() {
        let is_the_same = |fstype: &str, asked: &str, shown: &str| {
            let mount = Mount {
                labelled: false,
                id: 2,
                parent: 1,
                device: (0, 9),
                mount_point: "/m".into(),
                fstype: fstype.into(),
                source: shown.into(),
                read_only: false,
            };
            let plan = MountPlan {
                source: asked.into(),
                fstype: fstype.trim_end_matches('4').into(),
                ..plan(Path::new("/m"))
            };
            difference(&mount, &plan, Access::ReadWrite).is_none()
        };
        assert!(is_the_same("cifs", "//files/vols/A", r"\\FILES\vols\a\"));
        assert!(!is_the_same("cifs", "//files/vols", "//files/other"));
        // The root of an NFSv4 server, and a folder whose name has a backslash.
        assert!(is_the_same("nfs4", "10.0.0.5:/", "10.0.0.5:/"));
        assert!(is_the_same("nfs4", r"10.0.0.5:/a\b", r"10.0.0.5:/a\b"));
        assert!(!is_the_same("nfs4", r"10.0.0.5:/a\b", "10.0.0.5:/a/b"));
        assert!(!is_the_same("nfs", "10.0.0.5:/a", "10.0.0.5:/A"));
    }

    #[test]
    fn a_mount_of_another_kind_is_not_whole() {
        let proc = plan(Path::new("/proc"));
        assert_eq!(look(&proc), Presence::Partial);
        let why = shortcoming(&proc, Access::ReadWrite).unwrap().unwrap();
        assert!(why.contains("something else is mounted there"), "{why}");
        let why = shortcoming(&plan(Path::new("/nowhere")), Access::ReadWrite).unwrap();
        assert!(why.unwrap().contains("lacks it"));
    }
}
