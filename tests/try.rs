//! `make try`: the daemon and the command line at work on this machine, with a real guest, in under a minute.
//!
//! The daemon runs in this process, because libvirt's QEMU driver does too (`qemu:///embed`): nothing of the machine's
//! own libvirt is touched. Two local volumes are attached with `volattach`, one of them read-only, to a guest that tells
//! what it sees and whether its writes succeed. The last line is the verdict, computed from what happened.
#![allow(
    clippy::unwrap_used,
    reason = "not a part of the product: a failure shows where it happened"
)]

#[allow(
    clippy::expect_used,
    dead_code,
    reason = "shared with tests/embed.rs, which uses all of it"
)]
#[path = "embed/fixture.rs"]
mod fixture;
#[allow(clippy::expect_used, dead_code, reason = "as above")]
#[path = "embed/scratch.rs"]
mod scratch;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use fixture::{Guest, Guests};
use serde::Serialize;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use volattach::app;
use volattach::config::Settings;
use volattach::sys::worker::Workers;

const SIZE: u64 = 8 << 20;
/// Where the guest writes, and what comes before the volume's serial: tests/lab/guest/init.
const WRITTEN_AT: usize = 8 * 512;
const WRITTEN: &str = "volattach-guest-was-here ";

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Verdict {
    attached: bool,
    guest_sees_readonly: bool,
    guest_write_rejected: bool,
    guest_write_accepted_rw: bool,
    detached: bool,
    left_over: usize,
}

const GOOD: Verdict = Verdict {
    attached: true,
    guest_sees_readonly: true,
    guest_write_rejected: true,
    guest_write_accepted_rw: true,
    detached: true,
    left_over: 0,
};

fn main() -> ExitCode {
    let mut verdict = Verdict::default();
    let begun = Instant::now();
    // A panic has said what went wrong; the verdict still has its line.
    let finished = catch_unwind(AssertUnwindSafe(|| attempt(&mut verdict))).is_ok();
    say(&format!("took {} s", begun.elapsed().as_secs()));
    println!("{}", serde_json::to_string(&verdict).unwrap());
    if finished && verdict == GOOD {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn say(text: &str) {
    println!("-- {text}");
}

fn attempt(verdict: &mut Verdict) {
    say("starting a guest under software emulation, on a libvirt of its own");
    let guests = Guests::start(fixture::QEMU_CONF);
    let read_only = guests.image("read-only.raw", SIZE);
    let read_write = guests.image("read-write.raw", SIZE);
    let guest = guests.boot("guest", 2);

    say("starting volattachd");
    let daemon = Daemon::start(&guests, read_only.parent().unwrap());

    say("attaching two volumes, one of them read-only");
    let seen_ro = attach(&daemon, &guest, "vol-ro", &read_only, "ro");
    let seen_rw = attach(&daemon, &guest, "vol-rw", &read_write, "rw");
    daemon.run(&["list"]);
    daemon.run(&["show", "att-vol-ro"]);
    verdict.attached = daemon.listed()
        == [
            ["att-vol-ro", "ro", "attached"],
            ["att-vol-rw", "rw", "attached"],
        ];
    verdict.guest_sees_readonly = seen_ro.contains(" ro=1 ") && seen_rw.contains(" ro=0 ");

    say("detaching them");
    let before = guest.lines();
    let detached = ["att-vol-ro", "att-vol-rw"].map(|id| daemon.run(&["detach", id]));
    if detached == [true, true] {
        let first = guest.wait_for("GUEST gone=", before);
        say(&format!("the guest says: {first}"));
        let second = guest.wait_for("GUEST gone=", before + 1);
        say(&format!("the guest says: {second}"));
        verdict.detached = true;
    }
    daemon.run(&["list"]);

    let image = fs::read(&read_only).unwrap();
    verdict.guest_write_rejected = seen_ro.contains(" serial=vol-ro ")
        && seen_ro.contains(" write=failed:")
        && image.iter().all(|byte| *byte == 0);
    let image = fs::read(&read_write).unwrap();
    verdict.guest_write_accepted_rw = seen_rw.contains(" write=ok")
        && image[WRITTEN_AT..].starts_with(format!("{WRITTEN}vol-rw").as_bytes());
    verdict.left_over = daemon.listed().len()
        + guest.domain.xml_desc(0).unwrap().matches("<disk ").count()
        + daemon.stop();
}

/// Attaches a volume, and gives the guest's line about it; empty where the attach failed.
fn attach(daemon: &Daemon, guest: &Guest, volume: &str, image: &Path, access: &str) -> String {
    let before = guest.lines();
    if !daemon.attach(volume, image, access) {
        return String::new();
    }
    let line = guest.wait_for("GUEST disk=", before);
    say(&format!("the guest says: {line}"));
    line
}

/// volattachd in this process, and how to call it.
struct Daemon {
    dir: tempfile::TempDir,
    runtime: Runtime,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Daemon {
    fn start(guests: &Guests, volumes: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("volattachd.toml");
        let text = format!(
            "state_dir = {state:?}\nmount_base = {mounts:?}\n\n[listen]\nsocket = {socket:?}\n\n\
             [libvirt]\nuri = {uri:?}\n\n[local]\nroots = [{volumes:?}]\n",
            state = dir.path().join("state"),
            mounts = dir.path().join("mnt"),
            socket = dir.path().join("volattachd.sock"),
            uri = guests.uri(),
        );
        fs::write(&config, text).unwrap();
        let settings = Settings::load(&config).unwrap();
        let workers = Workers::from_executable(env!("CARGO_BIN_EXE_volattachd-worker").into());

        let runtime = Runtime::new().unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = runtime.spawn(async move {
            let stop = async {
                let _ = stopped.await;
                "the end"
            };
            app::serve(&settings, workers, Vec::new(), None, stop).await
        });
        let daemon = Self {
            dir,
            runtime,
            stop,
            task,
        };
        daemon.wait_until_it_answers();
        daemon
    }

    fn wait_until_it_answers(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self
            .call(&["list"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
        {
            assert!(!self.task.is_finished(), "volattachd ended");
            assert!(Instant::now() < deadline, "volattachd does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn call(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_volattach"));
        command
            .args(args)
            .env("VOLATTACH_SOCKET", self.dir.path().join("volattachd.sock"));
        command
    }

    /// Runs the command line for all to see; whether it succeeded.
    fn run(&self, args: &[&str]) -> bool {
        println!("$ volattach {}", args.join(" "));
        self.call(args).status().unwrap().success()
    }

    fn attach(&self, volume: &str, image: &Path, access: &str) -> bool {
        let info = self.dir.path().join(format!("{volume}.json"));
        let json = serde_json::json!({
            "driver_volume_type": "local",
            "data": { "device_path": image, "access_mode": access },
        });
        fs::write(&info, json.to_string()).unwrap();
        let id = format!("att-{volume}");
        self.run(&[
            "attach",
            "--id",
            &id,
            "--volume",
            volume,
            "--domain",
            "guest",
            "--connection-info",
            info.to_str().unwrap(),
        ])
    }

    /// Id, access and state of each attachment.
    fn listed(&self) -> Vec<[String; 3]> {
        let output = self.call(&["list", "-o", "json"]).output().unwrap();
        let list: Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = |attachment: &Value, key: &str| attachment[key].as_str().unwrap().to_owned();
        list["attachments"]
            .as_array()
            .unwrap()
            .iter()
            .map(|attachment| ["attachment_id", "access", "state"].map(|key| text(attachment, key)))
            .collect()
    }

    /// Stops the daemon as SIGTERM does; how many files it has left beneath its mount base and its socket.
    fn stop(self) -> usize {
        self.stop.send(()).unwrap();
        self.runtime.block_on(self.task).unwrap().unwrap();
        let mounts = fs::read_dir(self.dir.path().join("mnt")).unwrap().count();
        mounts + usize::from(self.dir.path().join("volattachd.sock").exists())
    }
}
