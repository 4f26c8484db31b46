//! A libvirtd as a node has it: a process of its own, privileged, with libvirt's defaults for disks.
//!
//! Inside the daemon's process, as in the tests, libvirt would make each page of the daemon's memory be copied with every helper that it
//! forks.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::fixture::Guests;
use super::node::{Process, wait_for};
use super::scratch::Scratch;

/// The directories of the machine's own libvirt, each with another one in its place.
const DIRECTORIES: [(&str, &str); 5] = [
    ("/etc/libvirt", "etc"),
    ("/run/libvirt", "run"),
    ("/var/cache/libvirt", "cache"),
    ("/var/lib/libvirt", "lib"),
    ("/var/log/libvirt", "log"),
];

/// What libvirt does to a disk on a node by default, it does here: it makes the disk's node in the guest's namespace, gives it to QEMU's
/// user and remembers its owner. (That user is root, who may read the guest's kernel wherever that is.)
const QEMU_CONF: &str = r#"
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
stdio_handler = "file"
"#;

/// Starts a libvirtd that shares neither files nor firewall with the machine's own. To be called before this process has threads: it moves
/// the process into namespaces of its own.
pub(super) fn start() -> (Process, Guests) {
    let scratch = Scratch::new("bench");
    let root = scratch.root();
    // It fails for everybody but root.
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    for (there, own) in DIRECTORIES {
        let own = root.join(own);
        fs::create_dir(&own).unwrap();
        fs::create_dir_all(there).unwrap(); // as libvirtd does
        mount(Some(&own), there, none, MsFlags::MS_BIND, none).unwrap();
    }
    fs::write("/etc/libvirt/qemu.conf", QEMU_CONF).unwrap();
    let process = libvirtd(root);
    let socket = root.join("run/libvirt-sock");
    wait_for("libvirtd listens", || socket.exists());
    let uri = format!("qemu+unix:///system?socket={}", socket.display());
    volattach::libvirt::run_event_loop().unwrap();
    (process, Guests::of(scratch, uri))
}

fn libvirtd(root: &Path) -> Process {
    let config = root.join("libvirtd.conf");
    fs::write(&config, "auth_unix_rw = \"none\"\nlog_level = 4\n").unwrap();
    let log = fs::File::create(root.join("libvirtd.log")).unwrap();
    let mut command = Command::new("/usr/sbin/libvirtd");
    command
        .arg("--config")
        .arg(&config)
        .arg("--pid-file")
        .arg(root.join("libvirtd.pid"))
        .stdout(Stdio::null())
        .stderr(log);
    Process(command.spawn().unwrap())
}
