//! mount(2) and umount2(2) of network file systems.

use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};

/// The flags of every mount besides `ro` and `rw`, as /proc/self/mountinfo spells them. `nosymfollow` (Linux 5.10;
/// unknown to older kernels, which ignore it) keeps whoever later opens a checked path, such as QEMU, from being led
/// elsewhere by a link that took its place since.
pub const FLAGS: &str = "nosuid,nodev,noexec,nosymfollow";

/// `MS_NOSYMFOLLOW`, linux/mount.h.
const MS_NOSYMFOLLOW: MsFlags = MsFlags::from_bits_retain(1 << 8);

/// [`FLAGS`], as mount(2) takes them.
pub(super) const REQUIRED: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC)
    .union(MS_NOSYMFOLLOW);

/// The longest data string that mount(2) takes, in bytes: the kernel copies one page and silently cuts what is longer
/// (fs/namespace.c: `copy_mount_options`); the smallest page is 4096 bytes, its last one the terminating NUL.
pub const DATA_MAX: usize = 4095;

/// Mounts with [`FLAGS`].
///
/// # Errors
/// mount(2)'s; `E2BIG` for data longer than [`DATA_MAX`], `EINVAL` where a string has a NUL.
pub fn mount(
    source: &str,
    target: &Path,
    fstype: &str,
    read_only: bool,
    data: &str,
) -> Result<(), Errno> {
    if data.len() > DATA_MAX {
        return Err(Errno::E2BIG);
    }
    let mut flags = REQUIRED;
    flags.set(MsFlags::MS_RDONLY, read_only);
    nix::mount::mount(Some(source), target, Some(fstype), flags, Some(data))
}

/// Unmounts what is mounted last on a mount point, without following a link there. Neither forced nor lazy: of a
/// dead CIFS server both wait just as long, and a lazy one hides a mount that a guest still uses.
///
/// # Errors
/// umount2(2)'s; `EINVAL` where nothing is mounted.
pub fn unmount(target: &Path) -> Result<(), Errno> {
    nix::mount::umount2(target, MntFlags::UMOUNT_NOFOLLOW)
}
