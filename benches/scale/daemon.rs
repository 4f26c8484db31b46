//! A real volattachd that waits for calls, connected to a libvirtd in another process: how long its start takes and what it weighs.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A process that ends with this value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A daemon at rest.
pub(super) struct Weight {
    /// From the start of the process until it serves calls (sd_notify(3), `READY=1`).
    pub(super) start: Duration,
    /// Resident memory (proc(5), VmRSS) after it has called libvirt, in KiB.
    pub(super) resident_kib: u64,
}

/// Weighs a daemon whose journal is filled by `fill`, which is given the journal's path and that of a volume.
pub(super) fn weigh(fill: impl FnOnce(&Path, &Path)) -> Weight {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (_libvirtd, uri) = libvirtd(dir);
    let socket = dir.join("volattachd.sock");
    let config = dir.join("volattachd.toml");
    let text = format!(
        "state_dir = {:?}\nmount_base = {:?}\nlisten = {{ socket = {socket:?} }}\nlibvirt = {{ uri = {uri:?} }}\nlocal = {{ roots = [{dir:?}] }}\n",
        dir.join("state"),
        dir.join("mnt"),
    );
    fs::write(&config, text).unwrap();
    let volume = dir.join("volume.raw");
    fs::write(&volume, [0; 512]).unwrap();
    fs::create_dir(dir.join("state")).unwrap();
    fill(&dir.join("state/journal.redb"), &volume);
    let notify = dir.join("notify");
    let notified = UnixDatagram::bind(&notify).unwrap();
    notified
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let begun = Instant::now();
    let daemon = Command::new(env!("CARGO_BIN_EXE_volattachd"))
        .arg("--config")
        .arg(&config)
        .env("MALLOC_ARENA_MAX", "2") // as its unit has it
        .env("VOLATTACH_LOG", "error")
        .env("NOTIFY_SOCKET", &notify)
        .spawn()
        .unwrap();
    let daemon = Process(daemon);
    let mut message = [0; 4096];
    while !String::from_utf8_lossy(&message).contains("READY=1") {
        message.fill(0);
        notified.recv(&mut message).unwrap();
    }
    let start = begun.elapsed();

    let info = dir.join("volume.json");
    let json = serde_json::json!({"driver_volume_type": "local", "data": {"device_path": volume}});
    fs::write(&info, json.to_string()).unwrap();
    // Only libvirt can know that there is no such domain.
    wait_for("volattachd reaches libvirtd", || {
        let output = Command::new(env!("CARGO_BIN_EXE_volattach"))
            .args([
                "plan",
                "-o",
                "json",
                "--volume",
                "v",
                "--domain",
                "none",
                "--connection-info",
            ])
            .arg(&info)
            .env("VOLATTACH_SOCKET", &socket)
            .output()
            .unwrap();
        let told = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&told).contains("DOMAIN_NOT_FOUND")
    });
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.0.id())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib = line.split_whitespace().nth(1).unwrap();
    Weight {
        start,
        resident_kib: kib.parse().unwrap(),
    }
}

/// A libvirtd for this alone, and the URI to reach it. Run by an ordinary user, it keeps all its files beneath its home.
fn libvirtd(dir: &Path) -> (Process, String) {
    const NOBODY: u32 = 65534;
    let home = dir.join("libvirt");
    fs::create_dir(&home).unwrap();
    let mut command = Command::new("/usr/sbin/libvirtd");
    if nix::unistd::geteuid().is_root() {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o711)).unwrap();
        chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();
        command.uid(NOBODY).gid(NOBODY);
    }
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", &home)
        .env("XDG_RUNTIME_DIR", &home)
        .env("XDG_CONFIG_HOME", home.join("config"))
        .env("XDG_CACHE_HOME", home.join("cache"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let process = Process(command.spawn().unwrap());
    let socket = home.join("libvirt/libvirt-sock");
    wait_for("libvirtd listens", || socket.exists());
    (
        process,
        format!("qemu+unix:///session?socket={}", socket.display()),
    )
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
