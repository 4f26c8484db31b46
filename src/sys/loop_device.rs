//! Loop devices of this host (loop(4)): which file each has, and letting go of it.

#![allow(unsafe_code)] // ioctl(2)

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::beneath::Failed;

/// `LOOP_CLR_FD` and `LOOP_SET_CAPACITY`, linux/loop.h.
const LOOP_CLR_FD: libc::Ioctl = 0x4c01;
const LOOP_SET_CAPACITY: libc::Ioctl = 0x4c07;

/// The file behind a loop device such as `/dev/loop0`; `None` where it has none, or is no loop device.
#[must_use]
pub fn backing_file(device: &Path) -> Option<PathBuf> {
    let name = device.file_name()?;
    let file = Path::new("/sys/block").join(name).join("loop/backing_file");
    let path = fs::read_to_string(file).ok()?;
    Some(path.trim_end_matches('\n').into())
}

/// Has the device let go of its file: at once, or when its last user closes it. One that has none has done so.
///
/// # Errors
/// open(2)'s and ioctl(2)'s.
pub fn release(device: &Path) -> Result<(), Failed> {
    match ask(device, LOOP_CLR_FD) {
        Err((_, Errno::ENXIO)) => Ok(()),
        done => done,
    }
}

/// Has the device take its file's size anew.
///
/// # Errors
/// open(2)'s and ioctl(2)'s.
pub fn grow(device: &Path) -> Result<(), Failed> {
    ask(device, LOOP_SET_CAPACITY)
}

fn ask(device: &Path, request: libc::Ioctl) -> Result<(), Failed> {
    let file = fs::File::open(device).map_err(|error| {
        let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        ("open the loop device", errno)
    })?;
    // SAFETY: the descriptor is open, and neither request takes an argument.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request, 0) };
    Errno::result(result)
        .map(drop)
        .map_err(|errno| ("ask the loop device", errno))
}
