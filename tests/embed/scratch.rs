//! A directory under /tmp for one test process, and what runs from it, gone with the process.
//!
//! Nothing is left over however the process ends, by a panic or kill(2) too: a helper process waits for the end of a
//! pipe from here, then ends every process that left a pid file in the directory, and removes it.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The directory.
pub(crate) struct Scratch {
    root: PathBuf,
    _reaper: Child,
}

/// What the helper process does. `$1` is the directory; a process counts as ours if its command line names it, for
/// pids are given again. The daemon first, or it would tidy up the pid files of its guests.
const REAPER: &str = r#"
while read -r _; do :; done
pids=$(find "$1" -name '*.pid' -exec grep -hoE '[0-9]+' {} +)
for pid in $pids; do
    if tr '\0' '\n' <"/proc/$pid/cmdline" | grep -qF "$1"; then
        kill -9 "$pid"
    fi
done
rm -rf "$1"
"#;

impl Scratch {
    /// Makes the directory; `name` is the test's.
    ///
    /// # Panics
    /// Where it cannot, or libvirt or QEMU are not installed, saying so.
    pub(crate) fn new(name: &str) -> Self {
        for needed in [
            "/usr/bin/qemu-system-x86_64",
            "/usr/sbin/libvirtd",
            "/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so",
        ] {
            assert!(
                Path::new(needed).exists(),
                "{needed} is missing: run `make deps`"
            );
        }
        // Monitor sockets lie in it, and their paths are short (unix(7): 108 bytes).
        let root = PathBuf::from(format!("/tmp/volattach-{name}-{}", std::process::id()));
        fs::create_dir(&root).expect("the directory");
        let reaper = Command::new("/bin/bash")
            .args(["-c", REAPER, "reaper"])
            .arg(&root)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0) // an interrupt from the terminal is not for it
            .spawn()
            .expect("the helper process");
        Self {
            root,
            _reaper: reaper,
        }
    }

    /// The directory's path.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A raw image that holds zeroes.
    pub(crate) fn image(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.root.join(name);
        let file = fs::File::create(&path).expect("the image");
        file.set_len(bytes).expect("the image's size");
        path
    }
}
