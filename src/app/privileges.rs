//! What the daemon may, and nothing else: its capabilities (capabilities(7)), dropped to the few that are needed before the
//! first call.
//!
//! The programs and workers that it starts get no more than it has: no_new_privs keeps execve(2) from granting anything, also
//! to root, also by a bounding set that could not be made smaller (security/commoncap.c, `cap_bprm_creds_from_file`).

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl::set_no_new_privs;

/// Each capability, and what fails without it. The unit's `CapabilityBoundingSet=` and docs/security-privileges.md name the same.
const NEEDED: &[(Capability, &str)] = &[
    (
        Capability::CAP_SYS_ADMIN,
        "no share can be mounted or unmounted: every attach of such a volume will fail",
    ),
    (
        Capability::CAP_DAC_READ_SEARCH,
        "volumes that belong to the hypervisor's user cannot be inspected: their attach will fail",
    ),
    (
        Capability::CAP_DAC_OVERRIDE,
        "read-write access to volumes that belong to the hypervisor's user cannot be checked: their attach will fail",
    ),
    (
        Capability::CAP_SETUID,
        "volumes on NFS exports cannot be opened as the hypervisor's user: their attach will fail",
    ),
    (
        Capability::CAP_SETGID,
        "volumes on NFS exports cannot be opened as the hypervisor's user: their attach will fail",
    ),
    // kill(2) and PR_SET_PDEATHSIG ask for it where the worker has become another user.
    (
        Capability::CAP_KILL,
        "a worker that opens a volume as the hypervisor's user cannot be killed: it outlives its deadline, and the daemon",
    ),
];

/// Why capabilities cannot be dropped.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrivilegeError {
    /// prctl(2) failed.
    #[error("cannot forbid programs to gain privileges (no_new_privs)")]
    NoNewPrivileges(#[source] nix::Error),
    /// capset(2) or prctl(2) failed.
    #[error("cannot change this thread's capabilities")]
    Capabilities(#[source] CapsError),
}

impl From<CapsError> for PrivilegeError {
    fn from(error: CapsError) -> Self {
        Self::Capabilities(error)
    }
}

/// Drops every capability that is not needed from all five sets, for good. To be called before there are other threads.
///
/// # Errors
/// Where the kernel refuses: then the daemon would have more rights than it should.
pub(super) fn drop_others() -> Result<(), PrivilegeError> {
    set_no_new_privs().map_err(PrivilegeError::NoNewPrivileges)?;
    let needed: CapsHashSet = NEEDED.iter().map(|(capability, _)| *capability).collect();
    // Only who has CAP_SETPCAP may do this, such as root; the unit has done it already.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        let bounding = caps::read(None, CapSet::Bounding)?;
        for capability in bounding.difference(&needed) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    let permitted = caps::read(None, CapSet::Permitted)?;
    let keep: CapsHashSet = permitted.intersection(&needed).copied().collect();
    caps::set(None, CapSet::Effective, &keep)?;
    caps::set(None, CapSet::Permitted, &keep)?;
    Ok(())
}

/// Warns of each capability that is missing. Not an error: volumes of the host itself may need none of them.
pub(super) fn check() {
    for (capability, consequence) in NEEDED {
        match caps::has_cap(None, CapSet::Effective, *capability) {
            Ok(true) => {}
            Ok(false) => tracing::warn!("this process lacks {capability}: {consequence}"),
            Err(error) => {
                tracing::warn!("cannot tell whether this process has {capability}: {error}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text after `key` on the line that begins with it.
    fn line<'a>(text: &'a str, key: &str) -> &'a str {
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix(key)).unwrap()
    }

    #[test]
    fn the_unit_and_the_documentation_name_the_same_capabilities() {
        let needed: Vec<String> = NEEDED.iter().map(|(name, _)| name.to_string()).collect();
        let unit = include_str!("../../systemd/volattachd.service");
        let mut given: Vec<&str> = line(unit, "CapabilityBoundingSet=").split(' ').collect();
        given.sort_unstable();
        let mut needed: Vec<&str> = needed.iter().map(String::as_str).collect();
        needed.sort_unstable();
        assert_eq!(given, needed);
        let documented = include_str!("../../docs/security-privileges.md");
        let daemon = documented
            .lines()
            .find(|line| line.starts_with("| `volattachd` "))
            .unwrap();
        for capability in needed {
            assert!(daemon.contains(capability), "{capability}: {daemon}");
        }
    }
}
