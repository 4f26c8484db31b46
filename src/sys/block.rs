//! Operations on block devices of this host, of whatever kind: sequence number, hold, read-only, flush.
//!
//! Invariant: everything here may hang on a dead path, so it runs in a worker (see [`super::worker`]); for devices of this host itself, on
//! a blocking thread of the daemon.

#![allow(unsafe_code)] // ioctl(2)

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;

use super::beneath::Failed;

/// `BLKROSET`, linux/fs.h.
pub(super) const BLKROSET: libc::Ioctl = 0x125d;
/// `BLKFLSBUF`, linux/fs.h.
pub(super) const BLKFLSBUF: libc::Ioctl = 0x1261;
/// `BLKGETDISKSEQ`, linux/fs.h: `_IOR(0x12, 128, __u64)`.
pub(super) const BLKGETDISKSEQ: libc::Ioctl = 0x8008_1280_u32 as libc::Ioctl;

/// Sequence number of an open device, unique until the next boot, while the kernel reuses a name such as `sdb` (block/genhd.c,
/// `inc_diskseq`). `None`: the kernel is older than 5.15, or the file is no block device.
pub(super) fn sequence(file: &File) -> Option<u64> {
    let mut number = 0_u64;
    // SAFETY: the descriptor is open, and the kernel writes eight bytes to the address.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), BLKGETDISKSEQ, &raw mut number) };
    Errno::result(result).ok().map(|_| number)
}

/// Opens the device with that name and that number. The kernel gives the name to no other device while the file is open: a driver takes a
/// disk's name back only when nobody has the disk open any more (drivers/scsi/sd.c, `scsi_disk_release`; drivers/md/dm.c and
/// drivers/nvme/host/multipath.c do the same with their numbers).
///
/// # Errors
/// open(2)'s; `ESTALE` if another device has the name by now.
pub fn hold(device: &Path, number: u64) -> Result<File, Failed> {
    let file = open(device, 0)?;
    match sequence(&file) == Some(number) {
        true => Ok(file),
        false => Err(("find the device that was checked", Errno::ESTALE)),
    }
}

/// Makes the block device with that name and that number read-only for later opens, or writable again (BLKROSET). `None`: any device of that
/// name.
///
/// # Errors
/// As [`hold`]'s, and ioctl(2)'s.
pub fn set_read_only(device: &Path, number: Option<u64>, read_only: bool) -> Result<(), Failed> {
    let file = match number {
        Some(number) => hold(device, number)?,
        None => open(device, 0)?,
    };
    protect(&file, read_only)
}

pub(super) fn protect(file: &File, read_only: bool) -> Result<(), Failed> {
    let value = libc::c_int::from(read_only);
    // SAFETY: the descriptor is open, and the kernel reads one int at the address.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), BLKROSET, &raw const value) };
    Errno::result(result)
        .map(drop)
        .map_err(|errno| ("set read-only", errno))
}

/// Writes out the cache of the block device, and drops the cache (BLKFLSBUF). Unless `shared`, the device must be unused: not mounted, no
/// part of another device.
///
/// # Errors
/// `EBUSY` if the device is in use (open(2), `O_EXCL`); errors of writes since the device was last asked, which BLKFLSBUF does not report
/// (kernel, block/ioctl.c), so `sync_file_range(2)` is asked; and ioctl(2)'s. fsync(2) would send a flush to a server that has nothing to
/// write, and may be dead.
pub fn flush(device: &Path, shared: bool) -> Result<(), Failed> {
    if !shared {
        // Closed at once: a worker that sleeps in the flush of a dead server's device would otherwise count as a user of the device.
        open(device, libc::O_EXCL)?;
    }
    let file = open(device, 0)?;
    let all = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: the descriptor is open, and no memory is handed over.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, all) };
    Errno::result(result).map_err(|errno| ("write out what is cached", errno))?;
    // SAFETY: the descriptor is open, and the request takes no argument.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), BLKFLSBUF, 0) };
    Errno::result(result)
        .map(drop)
        .map_err(|errno| ("flush", errno))
}

/// Opens the device for reading.
pub(super) fn open(device: &Path, flags: libc::c_int) -> Result<File, Failed> {
    open_as(device, false, flags)
}

/// Opens the device for reading, and for writing if `write`. `O_NONBLOCK`: does not wait for a medium.
pub(super) fn open_as(device: &Path, write: bool, flags: libc::c_int) -> Result<File, Failed> {
    OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(libc::O_NONBLOCK | flags)
        .open(device)
        .map_err(|error| {
            let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
            ("open the device", errno)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_block_device_says_so() {
        let null = Path::new("/dev/null");
        assert_eq!(
            flush(Path::new("/dev/absent"), false),
            Err(("open the device", Errno::ENOENT))
        );
        assert!(set_read_only(null, None, true).is_err());
        let (_, errno) = set_read_only(null, Some(1), true).unwrap_err();
        assert_eq!(errno, Errno::ESTALE);
        let (_, errno) = hold(null, 1).unwrap_err();
        assert_eq!(errno, Errno::ESTALE);
    }
}
