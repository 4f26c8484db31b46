//! A real volattachd that waits for calls, connected to a libvirtd in another process: how long its start takes and what it weighs.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::node::{Process, Volattachd, wait_for};

/// A daemon at rest.
pub(super) struct Weight {
    /// From the start of the process until it serves calls (sd_notify(3), `READY=1`).
    pub(super) start: Duration,
    /// Resident memory (proc(5), VmRSS) after it has called libvirt and its figures were asked for, in KiB.
    pub(super) resident_kib: u64,
}

/// Weighs a daemon whose journal is filled by `fill`, which is given the journal's path and that of a volume.
pub(super) fn weigh(fill: impl FnOnce(&Path, &Path)) -> Weight {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (_libvirtd, uri) = libvirtd(dir);
    let volume = dir.join("volume.raw");
    fs::write(&volume, [0; 512]).unwrap();
    fs::create_dir(dir.join("state")).unwrap();
    fill(&dir.join("state/journal.redb"), &volume);
    let figures = dir.join("figures.sock");
    let listen = format!("metrics_listen = \"unix:{}\"\n", figures.display());
    let daemon = Volattachd::start(dir, dir, &uri, &listen);
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
            .env("VOLATTACH_SOCKET", &daemon.socket)
            .output()
            .unwrap();
        let told = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&told).contains("DOMAIN_NOT_FOUND")
    });
    scrape(&figures);
    Weight {
        start: daemon.start_took(),
        resident_kib: daemon.status("VmRSS:"),
    }
}

/// Asks for the figures, as Prometheus does.
fn scrape(socket: &Path) {
    let mut stream = UnixStream::connect(socket).unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: bench\r\n\r\n";
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.contains("\nvolattach_libvirt_connected 1\n"),
        "{answer}"
    );
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
