//! What the daemon needs from the kernel, looked at before the first call does.

use caps::{CapSet, Capability};

/// Each capability, and what fails without it.
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
];

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
