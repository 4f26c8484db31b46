//! The file in which multipathd remembers every volume whose paths it ever joined (multipath(8), `-w` and `-W`). Nothing else removes a
//! detached volume from the file, and a device with that identity would be taken for a path of a map on every later boot.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::model::Wwid;

/// Path on Debian, Fedora and SUSE (libmultipath/defaults.h, `DEFAULT_WWIDS_FILE`).
pub(super) const FILE: &str = "/etc/multipath/wwids";
/// Longest wait for the lock while another process writes a line.
const LOCKED: Duration = Duration::from_secs(3);
/// Interval between attempts to lock.
const AGAIN: Duration = Duration::from_millis(10);

/// Removes a volume from the file, if present. As `multipath -W` does, under the lock that every writer takes (libmultipath/file.c,
/// `lock_file`), the file is rewritten in place: a process waiting for the lock would add its line to a replaced file, and the line would
/// be lost.
///
/// # Errors
/// open(2)'s and write(2)'s; `EAGAIN` if another process keeps the file locked.
pub(super) fn forget(path: &Path, wwid: &Wwid) -> io::Result<()> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path);
    let mut file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    lock(&file)?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    // libmultipath/wwids.h: each identity in slashes, on a line of its own.
    let line = format!("/{wwid}/");
    let mut kept = Vec::with_capacity(text.len());
    for other in text.lines().filter(|other| *other != line) {
        writeln!(kept, "{other}")?;
    }
    if kept.len() < text.len() {
        file.write_all_at(&kept, 0)?;
        file.set_len(kept.len() as u64)?;
    }
    Ok(())
}

/// Takes the lock, which is released when the file is closed.
fn lock(file: &File) -> io::Result<()> {
    let whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    let until = Instant::now() + LOCKED;
    loop {
        match fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&whole)) {
            Err(Errno::EAGAIN | Errno::EACCES) if Instant::now() < until => {
                std::thread::sleep(AGAIN);
            }
            locked => return Ok(locked.map(drop)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "# Multipath wwids, Version : 1.0\n# Valid WWIDs:\n";

    #[test]
    fn one_volume_is_taken_out_and_the_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wwids");
        let wwid = |text: &str| Wwid::as_spelled(text.to_owned());
        forget(&path, &wwid("3600a")).unwrap();
        assert!(!path.exists(), "there is none where there was none");
        let is = |text: &str| assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        std::fs::write(&path, format!("{HEADER}/3600a/\n/3600ab/\n/3600a/\n")).unwrap();
        forget(&path, &wwid("3600")).unwrap();
        is(&format!("{HEADER}/3600a/\n/3600ab/\n/3600a/\n"));
        forget(&path, &wwid("3600a")).unwrap();
        is(&format!("{HEADER}/3600ab/\n"));
    }

    #[test]
    fn whoever_writes_there_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wwids");
        std::fs::write(&path, "/3600a/\n").unwrap();
        let writer = OpenOptions::new().append(true).open(&path).unwrap();
        lock(&writer).unwrap();
        std::thread::scope(|scope| {
            let forgetting = scope.spawn(|| forget(&path, &Wwid::as_spelled("3600a".into())));
            std::thread::sleep(10 * AGAIN);
            assert!(!forgetting.is_finished());
            (&writer).write_all(b"/3600b/\n").unwrap();
            drop(writer);
            forgetting.join().unwrap().unwrap();
        });
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "/3600b/\n");
    }
}
