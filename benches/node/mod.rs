//! A compute node's processes, as the benches need them.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// A process that ends with this value.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A volattachd that serves calls.
pub(crate) struct Volattachd {
    process: Process,
    /// The socket that it listens on.
    pub(crate) socket: PathBuf,
    start: Duration,
}

impl Volattachd {
    /// Starts it with its files in `dir`, volumes in `volumes`, that libvirt, and further configuration.
    pub(crate) fn start(dir: &Path, volumes: &Path, uri: &str, further: &str) -> Self {
        let socket = dir.join("volattachd.sock");
        let config = dir.join("volattachd.toml");
        let text = format!(
            "state_dir = {:?}\nmount_base = {:?}\nlisten = {{ socket = {socket:?} }}\nlibvirt = {{ uri = {uri:?} }}\nlocal = {{ roots = [{volumes:?}] }}\n{further}",
            dir.join("state"),
            dir.join("mnt"),
        );
        fs::write(&config, text).unwrap();
        let notify = dir.join("notify");
        let notified = UnixDatagram::bind(&notify).unwrap();
        let within = Some(Duration::from_secs(30));
        notified.set_read_timeout(within).unwrap();
        let begun = Instant::now();
        let process = Command::new(env!("CARGO_BIN_EXE_volattachd"))
            .arg("--config")
            .arg(&config)
            .env("MALLOC_ARENA_MAX", "2") // as its unit has it
            .env("VOLATTACH_LOG", "error")
            .env("NOTIFY_SOCKET", &notify)
            .spawn()
            .unwrap();
        let process = Process(process);
        fs::write(dir.join("volattachd.pid"), process.0.id().to_string()).unwrap();
        let mut message = [0; 4096];
        while !String::from_utf8_lossy(&message).contains("READY=1") {
            message.fill(0);
            notified.recv(&mut message).unwrap();
        }
        Self {
            process,
            socket,
            start: begun.elapsed(),
        }
    }

    /// From the start of the process until it served calls (sd_notify(3), `READY=1`).
    pub(crate) fn start_took(&self) -> Duration {
        self.start
    }

    /// Returns a number of proc(5)'s `status`, such as `VmRSS` in KiB.
    pub(crate) fn status(&self, key: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }
}

/// Waits for what takes a moment.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
