//! What a mount is told of beforehand, and what mount(2)'s errors mean for every protocol, in words.

use std::net::IpAddr;
use std::path::Path;

use nix::errno::Errno;

use super::Meaning;
use crate::backend::BackendError;
use crate::config::Shares;
use crate::sys::mount;

/// What connecting does: ask for these versions, then mount as `how` says.
pub(in crate::backend) fn describe(
    settings: &Shares,
    host: &str,
    versions: &str,
    how: &str,
) -> String {
    format!(
        "ask {host} for {versions} (within {} s an address), then mount {how} (within {} s); or join that mount \
         where it is there already",
        settings.probe_timeout.as_secs_f64(),
        settings.mount_timeout.as_secs_f64(),
    )
}

/// A server's address as far as it is known before connecting.
pub(in crate::backend) fn known_address(host: &str) -> String {
    match host.parse::<IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => "[resolved when connecting]".into(),
    }
}

/// What is wrong with the length of mount(2)'s data string.
pub(in crate::backend) fn too_long(data: &str) -> Option<String> {
    (data.len() > mount::DATA_MAX).then(|| {
        format!(
            "together they are {} bytes long, and the kernel takes {}: shorten them",
            data.len(),
            mount::DATA_MAX
        )
    })
}

/// What an error means that has no meaning of the protocol's own; `module` is the file system's in the kernel.
pub(in crate::backend) fn meaning(
    errno: Errno,
    source: String,
    target: &Path,
    module: &str,
) -> Meaning {
    let failed = |why: String| BackendError::MountFailed {
        share: source.clone(),
        target: target.to_owned(),
        why,
    };
    let told = errno.desc().to_lowercase();
    Meaning::Final(match errno {
        Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::ECONNRESET => {
            return Meaning::Unreachable(told);
        }
        // The kernel's words for a server that took the connection and then said nothing.
        Errno::ETIMEDOUT | Errno::EHOSTDOWN => return Meaning::Silent(told),
        // Who waits for an answer on a connection that is made anew gets none (fs/smb/client/transport.c, MID_RETRY_NEEDED).
        Errno::EAGAIN => return Meaning::Broke(told),
        Errno::EINVAL => BackendError::OptionInvalid {
            share: source,
            option: "these options".to_owned(),
            why: "the kernel refuses one of them (EINVAL) and may tell which in its log (dmesg)"
                .to_owned(),
        },
        Errno::EPERM => failed(
            "this process may not mount (EPERM): it needs CAP_SYS_ADMIN, and a confinement that \
             lets mount(2) through"
                .to_owned(),
        ),
        Errno::ENODEV => failed(format!(
            "this kernel has no {module} (ENODEV): load or install that module"
        )),
        Errno::EBUSY => failed("the mount point is busy (EBUSY)".to_owned()),
        errno => failed(format!(
            "{told} ({errno:?}); the kernel's log (dmesg) may tell more"
        )),
    })
}
