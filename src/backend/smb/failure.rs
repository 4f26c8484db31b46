//! What mount(2)'s errors mean for a CIFS mount, in words. Pure; the meanings are measured.

use std::path::Path;

use nix::errno::Errno;

use super::dialect::Dialect;
use super::share::Share;
use crate::backend::BackendError;
use crate::backend::mount::{Meaning, words};
use crate::connection::SmbCredentials;

/// What mount(2)'s error means for a share, asked for with this version.
pub(super) fn meaning(errno: Errno, share: &Share<'_>, target: &Path, dialect: Dialect) -> Meaning {
    let source = share.source();
    let kerberos = share.kerberos.as_ref().map(|(kerberos, _)| kerberos);
    let logon = |why: &str| BackendError::LogonRefused {
        share: source.clone(),
        who: share.who(),
        why: why.to_owned(),
    };
    Meaning::Final(match errno {
        Errno::EINPROGRESS => return Meaning::Silent(errno.desc().to_lowercase()),
        Errno::EACCES if share.volume.credentials == SmbCredentials::Guest => logon(
            "the server or the share admits no guests (EACCES); name a user in the connection info",
        ),
        Errno::EACCES if kerberos.is_some() => logon(
            "a disabled or locked account, or no right to the share (EACCES); correct it on the \
             server, or name another principal in the configuration",
        ),
        Errno::EACCES => logon(
            "a wrong user, domain or password, a disabled or locked account, or no right to the \
             share (EACCES); correct them on the server or in the connection info",
        ),
        // The server's own status, for every kind of login (kernel fs/smb/client/smb2maperror.c: STATUS_ACCOUNT_DISABLED;
        // STATUS_PASSWORD_EXPIRED, STATUS_PASSWORD_MUST_CHANGE, STATUS_ACCOUNT_EXPIRED). A Kerberos key may be revoked or expired as well.
        Errno::EKEYREVOKED if kerberos.is_none() => logon(
            "the account is disabled (EKEYREVOKED); enable it on the server, or name another user in the connection info",
        ),
        Errno::EKEYEXPIRED if kerberos.is_none() => logon(
            "the account or its password has expired, or the password must be changed before the first login (EKEYEXPIRED); \
             renew it on the server, or name another user in the connection info",
        ),
        Errno::ENOKEY | Errno::EKEYEXPIRED | Errno::EKEYREVOKED | Errno::EKEYREJECTED
            if kerberos.is_some() =>
        {
            BackendError::NoTicket {
                share: source,
                who: share.who(),
                why: format!(
                    "the kernel got no ticket for cifs/{} ({errno:?}): the credential cache of uid {} \
                     has none that is valid and the keytab no key of the principal; or the realm does \
                     not answer; or it has no service of that name, since the export must name the \
                     server as its service principal does; or request-key has no rule for cifs.spnego \
                     (package cifs-utils). cifs.upcall tells which in the system log. Or the server says that the account is \
                     disabled or has expired",
                    share.volume.host,
                    kerberos.map_or(0, |kerberos| kerberos.cruid)
                ),
            }
        }
        Errno::ENOENT => BackendError::ShareNotFound {
            share: source,
            why: "the server has no such share, or the share no such folder (ENOENT): check the \
                  connection info's export"
                .to_owned(),
        },
        Errno::EOPNOTSUPP => BackendError::VersionRefused {
            host: share.volume.host.clone(),
            offered: dialect.name().to_owned(),
            answer: "the kernel and the server found no common ground at the mount itself \
                     (EOPNOTSUPP): an option such as seal may need a newer version than the \
                     server has"
                .to_owned(),
        },
        errno => return words::meaning(errno, source, target, "cifs"),
    })
}
