//! What mount(2)'s errors mean for an NFS mount, in words. Pure; the meanings are measured.

use std::path::Path;

use nix::errno::Errno;

use super::share::Export;
use super::version::Version;
use crate::backend::BackendError;
use crate::backend::mount::{Meaning, words};

/// What mount(2)'s error means for an export, asked for with this version.
pub(super) fn meaning(
    errno: Errno,
    export: &Export<'_>,
    target: &Path,
    version: Version,
) -> Meaning {
    let source = export.source();
    let refused = |why: &str| BackendError::LogonRefused {
        share: source.clone(),
        who: "this host".to_owned(),
        why: why.to_owned(),
    };
    let missing = |why: &str| BackendError::ShareNotFound {
        share: source.clone(),
        why: why.to_owned(),
    };
    Meaning::Final(match errno {
        Errno::ENOTCONN => return Meaning::Silent(errno.desc().to_lowercase()),
        Errno::EPROTONOSUPPORT | Errno::EOPNOTSUPP => {
            return Meaning::OtherVersion(BackendError::VersionRefused {
                host: export.volume.host.clone(),
                offered: version.to_string(),
                answer: format!(
                    "the kernel and the server found no common ground at the mount itself ({errno:?}): \
                     this host's kernel may lack that version"
                ),
            });
        }
        Errno::EACCES if export.kerberos() => refused(
            "it does not export this path to this host with Kerberos, or takes not this host's \
             credentials (EACCES): check its exports (exportfs -v), the time on both, and that \
             rpc.gssd runs here with a keytab or a ticket",
        ),
        Errno::EACCES => refused(
            "it does not export this path to this host's address, or not with sec=sys (EACCES): check \
             its exports (exportfs -v)",
        ),
        // NFS4ERR_WRONGSEC (fs/nfs/nfs4proc.c, nfs4_map_errors).
        Errno::EPERM => refused(
            "it does not take this export's callers with the sec= that was asked for (EPERM): ask for another, as in \
             sec=krb5, in the connection info or the configuration; unless the daemon itself lacks CAP_SYS_ADMIN",
        ),
        Errno::ENOKEY | Errno::EKEYEXPIRED | Errno::EKEYREVOKED | Errno::EKEYREJECTED => refused(
            "there are no valid Kerberos credentials for the server: check that rpc.gssd runs here, \
             with a keytab or a ticket",
        ),
        Errno::ENOENT => missing(
            "the server has no such export, or does not export it to this host (ENOENT): check the \
             connection info's export, and the server's (exportfs -v)",
        ),
        Errno::ENOTDIR => {
            missing("what the server has there is no directory (ENOTDIR): export one")
        }
        Errno::ESTALE => missing(
            "the server lost the directory of this export (ESTALE): export it anew there (exportfs -ra)",
        ),
        errno => return words::meaning(errno, source, target, "nfs"),
    })
}
