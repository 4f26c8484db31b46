//! Sockets that the service manager opened for this process (sd_listen_fds(3)).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

static TAKEN: AtomicBool = AtomicBool::new(false);

/// The sockets that were passed on to this process, with their names, close-on-exec. The first call alone gets them.
///
/// # Errors
/// Where the variables that tell of them are malformed, or one of them is not open.
pub fn inherited_sockets() -> io::Result<Vec<(String, OwnedFd)>> {
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let passed = sd_notify::listen_fds_with_names()?;
    Ok(passed
        .map(|(fd, name)| {
            // SAFETY: the service manager opened the descriptor for this process (LISTEN_PID names it) and nothing
            // else; `listen_fds_with_names` has just set its flags, so it is open; and `TAKEN` makes this its one owner.
            (name, unsafe { OwnedFd::from_raw_fd(fd) })
        })
        .collect())
}
