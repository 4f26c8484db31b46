//! What every backend that hands out a file (or block device) checks of it before a guest gets it. Pure.

use nix::errno::Errno;

use super::{BackendError, image, release};
use crate::model::{Access, HostPlan, HostVolume, ImageFormat, SourceKind};
use crate::sys::beneath::{FileKind, Found};
use crate::sys::worker::{InspectJob, RunAs};

/// What to look at, and as whom; `None`: as this process.
///
/// # Errors
/// The volume does not lie beneath its root.
pub(super) fn job(volume: &HostVolume, user: Option<&RunAs>) -> Result<InspectJob, BackendError> {
    let plan = &volume.plan;
    let relative =
        volume
            .path()
            .strip_prefix(&plan.root)
            .map_err(|_| BackendError::PathUnsafe {
                path: volume.path().to_owned(),
                why: format!("it does not lie beneath {}", plan.root.display()),
            })?;
    let (head, tail) = image::wanted(plan.format);
    Ok(InspectJob {
        root: plan.root.clone(),
        relative: relative.to_owned(),
        write: plan.access == Access::ReadWrite,
        head,
        tail,
        direct: false,
        user: user.cloned(),
    })
}

/// What [`judge`] holds a volume to, in words.
pub(super) fn describe(plan: &HostPlan) -> String {
    let format = match plan.format {
        ImageFormat::Raw => "raw, so its bytes are not looked at".to_owned(),
        format => format!("{format}, so its header must be of that format and name no other file"),
    };
    format!(
        "open {} beneath {} for {}; it must be {}; its format is {format}",
        plan.path.display(),
        plan.root.display(),
        mode(plan.access),
        wanted(plan.kind),
    )
}

fn wanted(kind: SourceKind) -> &'static str {
    match kind {
        SourceKind::File => "a regular file",
        SourceKind::Block => "a block device",
    }
}

fn mode(access: Access) -> &'static str {
    match access {
        Access::ReadOnly => "reading",
        Access::ReadWrite => "reading and writing",
    }
}

/// Whether a volume may be shown to a guest, by what was found at its path.
///
/// # Errors
/// Where it may not.
pub(super) fn judge(volume: &HostVolume, found: &Found) -> Result<(), BackendError> {
    let plan = &volume.plan;
    let path = || volume.path().to_owned();
    let kind = match found.kind {
        FileKind::Regular => Some(SourceKind::File),
        FileKind::Block => Some(SourceKind::Block),
        FileKind::Directory | FileKind::Other => None,
    };
    if kind != Some(plan.kind) {
        return Err(BackendError::NotRegular {
            path: path(),
            found: found.kind.as_str().to_owned(),
            wanted: wanted(plan.kind),
        });
    }
    image::check(plan.format, &found.head, &found.tail).map_err(|fault| match fault {
        image::Fault::References(names) => BackendError::ReferencesFile {
            path: path(),
            names,
        },
        image::Fault::Malformed(why) => BackendError::ImageMalformed {
            path: path(),
            format: plan.format,
            why,
        },
        image::Fault::Encrypted(how) => BackendError::ImageEncrypted { path: path(), how },
    })
}

/// What it means that a volume could not be looked at: as whom, which step failed, and with which error.
pub(super) fn failure(
    volume: &HostVolume,
    user: Option<&RunAs>,
    step: &str,
    errno: Errno,
) -> BackendError {
    let plan = &volume.plan;
    let path = volume.path().to_owned();
    match errno {
        Errno::ENOENT | Errno::ENOTDIR => BackendError::VolumeNotFound {
            path,
            why: "there is no such file: check the connection info's name, and whether it was made"
                .to_owned(),
        },
        Errno::ELOOP => BackendError::PathUnsafe {
            path,
            why: "a symbolic link is on the way, which could lead anywhere: name the file itself"
                .to_owned(),
        },
        Errno::EXDEV => BackendError::PathUnsafe {
            path,
            why: format!("it leads out of {}", plan.root.display()),
        },
        Errno::EHOSTDOWN | Errno::ETIMEDOUT | Errno::EAGAIN | Errno::ENOTCONN => {
            BackendError::ServerLost {
                path,
                why: format!("{errno:?}"),
                silent: errno == Errno::ETIMEDOUT,
            }
        }
        Errno::ESTALE => BackendError::ServerLost {
            path,
            why: "ESTALE: the server does not know any more what was mounted".to_owned(),
            silent: false,
        },
        Errno::EACCES | Errno::EPERM | Errno::EROFS => BackendError::Unreadable {
            path,
            mode: mode(plan.access),
            why: match user {
                Some(RunAs { uid, gid, .. }) if errno == Errno::EACCES => format!(
                    "the user that QEMU runs as (uid {uid}, gid {gid}) may not (EACCES), whatever root \
                     may: on the server, give it the file and a way through the folders above (chown, \
                     chmod), or export them with all_squash,anonuid={uid},anongid={gid}"
                ),
                _ => format!(
                    "{} ({errno:?}): check its permissions, and the share's",
                    errno.desc().to_lowercase()
                ),
            },
        },
        Errno::EBUSY if plan.kind == SourceKind::Block => {
            let name = path.strip_prefix("/dev").unwrap_or(&path);
            release::used_by_host(&name.to_string_lossy())
        }
        errno => BackendError::Unreadable {
            path,
            mode: mode(plan.access),
            why: format!("cannot {step}: {} ({errno:?})", errno.desc().to_lowercase()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Connection, Reason};

    fn volume(format: ImageFormat) -> HostVolume {
        HostVolume::from(HostPlan {
            keeps_owner: false,
            protocol: "smbfs".into(),
            claims: Vec::new(),
            connection: Connection::None,
            path: "/mnt/x/v 1".into(),
            root: "/mnt/x".into(),
            kind: SourceKind::File,
            format,
            access: Access::ReadWrite,
        })
    }

    fn found(kind: FileKind, head: &[u8]) -> Found {
        Found {
            kind,
            size: 4096,
            head: head.to_vec(),
            tail: vec![],
        }
    }

    #[test]
    fn a_job_is_relative_to_the_root() {
        let job = job(&volume(ImageFormat::Qcow2), None).unwrap();
        assert_eq!(job.relative.to_str(), Some("v 1"));
        assert!(job.write && job.head > 0);
        let mut outside = volume(ImageFormat::Raw);
        outside.plan.root = "/mnt/y".into();
        let error = super::job(&outside, None).map(drop).unwrap_err();
        assert_eq!(error.reason(), Reason::VolumePathUnsafe);
    }

    #[test]
    fn what_is_found_is_held_to_the_plan() {
        let raw = volume(ImageFormat::Raw);
        assert!(judge(&raw, &found(FileKind::Regular, b"")).is_ok());
        let reason =
            |volume: &HostVolume, found: Found| judge(volume, &found).unwrap_err().reason();
        for kind in [FileKind::Block, FileKind::Directory, FileKind::Other] {
            assert_eq!(reason(&raw, found(kind, b"")), Reason::VolumeNotRegular);
        }
        let qcow2 = volume(ImageFormat::Qcow2);
        assert_eq!(
            reason(&qcow2, found(FileKind::Regular, b"nothing")),
            Reason::ImageMalformed
        );
    }

    #[test]
    fn every_errno_has_its_reason() {
        let raw = volume(ImageFormat::Raw);
        for (errno, expected) in [
            (Errno::ENOENT, Reason::VolumeNotFound),
            (Errno::ELOOP, Reason::VolumePathUnsafe),
            (Errno::EXDEV, Reason::VolumePathUnsafe),
            (Errno::EHOSTDOWN, Reason::ServerTimeout),
            (Errno::EACCES, Reason::VolumeUnreadable),
            (Errno::EIO, Reason::VolumeUnreadable),
        ] {
            let error = failure(&raw, None, "open", errno);
            assert_eq!(error.reason(), expected, "{error}");
            assert!(error.to_string().contains("/mnt/x/v 1"), "{error}");
        }
    }

    #[test]
    fn a_user_that_may_not_is_named() {
        let user = RunAs {
            uid: 64055,
            gid: 108,
            groups: vec![108],
        };
        let error = failure(
            &volume(ImageFormat::Raw),
            Some(&user),
            "open",
            Errno::EACCES,
        );
        assert_eq!(error.reason(), Reason::VolumeUnreadable);
        let message = error.to_string();
        assert!(
            message.contains("uid 64055") && message.contains("anonuid=64055"),
            "{message}"
        );
    }
}
