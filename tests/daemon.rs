//! The real volattachd as a process: how it starts, what systemd hears of it, how it ends. libvirt is never there: the
//! daemon must not need it to start.

#![cfg(test)]

#[path = "daemon/figures.rs"]
mod figures;
#[path = "daemon/page.rs"]
mod page;
mod pki;
#[path = "daemon/reload.rs"]
mod reload;
mod skip;
mod socket;
#[path = "daemon/tls.rs"]
mod tls;
#[path = "daemon/trace.rs"]
mod trace;
mod web;

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tonic::transport::Endpoint;
use volattach::api::v1::ListAttachmentsRequest;
use volattach::api::v1::volume_attach_client::VolumeAttachClient;

const DAEMON: &str = env!("CARGO_BIN_EXE_volattachd");
const DOCTOR: &str = env!("CARGO_BIN_EXE_volattach");
const LONG: Duration = Duration::from_secs(30);

/// A place for a daemon: its configuration, state and sockets.
struct Place {
    dir: TempDir,
    notify: UnixDatagram,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let notify = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        notify.set_read_timeout(Some(LONG)).unwrap();
        let place = Self { dir, notify };
        let text = format!(
            "state_dir = {:?}\nmount_base = {:?}\n[listen]\nsocket = {:?}\n[libvirt]\nuri = {:?}\n",
            place.path("state"),
            place.path("mnt"),
            place.path("run/volattachd.sock"),
            format!(
                "qemu+unix:///system?socket={}",
                place.path("absent").display()
            ),
        );
        fs::write(place.path("volattachd.toml"), text).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The daemon's command, given what comes before it.
    fn command(&self, before: &[&str]) -> Command {
        let line = [before, &[DAEMON, "--config"]].concat();
        let mut command = Command::new(line[0]);
        command
            .args(&line[1..])
            .arg(self.path("volattachd.toml"))
            .env("NOTIFY_SOCKET", self.path("notify"))
            .stderr(Stdio::piped());
        command
    }

    /// Starts the daemon and waits until it says that it is ready.
    fn start(&self, mut command: Command) -> Daemon {
        let daemon = Daemon(command.spawn().unwrap());
        self.hear("READY=1");
        daemon
    }

    /// Waits until systemd would hear these words.
    fn hear(&self, words: &str) {
        let mut buffer = [0; 4096];
        loop {
            let length = self
                .notify
                .recv(&mut buffer)
                .unwrap_or_else(|error| panic!("no {words}: {error}"));
            let heard = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if heard.lines().any(|line| line == words) {
                return;
            }
        }
    }
}

/// A running daemon; killed if it is still there in the end.
struct Daemon(Child);

impl Daemon {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits for its end: its exit code, and all that it wrote to standard error.
    fn end(&mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + LONG;
        while self.0.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut said = String::new();
        self.0
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        (self.0.wait().unwrap().code(), said)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Makes a call: whether the daemon answers.
async fn call(socket: &Path) -> Result<(), tonic::Status> {
    let endpoint = Endpoint::from_static("http://localhost");
    let channel = socket::connect(endpoint, socket).await.unwrap();
    let listed = VolumeAttachClient::new(channel)
        .list_attachments(ListAttachmentsRequest::default())
        .await?;
    assert!(listed.into_inner().attachments.is_empty());
    Ok(())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_hears_of_its_start_life_and_end() {
    let place = Place::new();
    let mut command = place.command(&[]);
    command.env("WATCHDOG_USEC", "200000");
    let mut daemon = place.start(command);
    let socket = place.path("run/volattachd.sock");
    call(&socket).await.unwrap();
    assert_eq!(mode(&place.path("state")), 0o711);
    assert_eq!(mode(&place.path("state/host.key")), 0o600);
    assert_eq!(mode(&place.path("state/journal.redb")), 0o600);
    place.hear("WATCHDOG=1");
    place.hear("WATCHDOG=1");

    daemon.signal(Signal::SIGTERM);
    place.hear("STOPPING=1");
    let (code, said) = daemon.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(!socket.exists());
}

/// Whoever started it with whatever rights: each of its threads has those that it needs, and can get no others.
#[test]
fn each_thread_has_only_the_rights_that_are_needed() {
    if !nix::unistd::geteuid().is_root() {
        skip::skipped("root's rights are only root's to drop");
        return;
    }
    let place = Place::new();
    let daemon = place.start(place.command(&[]));
    // capabilities(7): CAP_DAC_OVERRIDE is bit 1, DAC_READ_SEARCH 2, KILL 5, SETGID 6, SETUID 7, SYS_ADMIN 21.
    let rights = format!(
        "{:016x}",
        1 << 1 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 21
    );
    let none = format!("{:016x}", 0);
    let process = PathBuf::from(format!("/proc/{}", daemon.0.id()));
    let threads: Vec<_> = fs::read_dir(process.join("task"))
        .unwrap()
        .map(|thread| fs::read_to_string(thread.unwrap().path().join("status")).unwrap())
        .collect();
    assert!(threads.len() > 1);
    for status in threads {
        for (set, wanted) in [
            ("CapInh", &none),
            ("CapPrm", &rights),
            ("CapEff", &rights),
            ("CapBnd", &rights),
            ("CapAmb", &none),
        ] {
            assert!(status.contains(&format!("{set}:\t{wanted}\n")), "{status}");
        }
        assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
    }
    let limits = fs::read_to_string(process.join("limits")).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let words: Vec<_> = core.unwrap().split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"], "{limits}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_is_followed_by_the_next() {
    let place = Place::new();
    let daemon = place.start(place.command(&[]));
    drop(daemon);
    assert!(
        place.path("run/volattachd.sock").exists(),
        "nothing stale to replace"
    );
    let _daemon = place.start(place.command(&[]));
    call(&place.path("run/volattachd.sock")).await.unwrap();
}

#[test]
fn a_second_daemon_is_refused() {
    let place = Place::new();
    let _daemon = place.start(place.command(&[]));
    let mut second = Daemon(place.command(&[]).spawn().unwrap());
    let (code, said) = second.end();
    assert_eq!(code, Some(1));
    assert!(said.contains("another volattachd has it open"), "{said}");
}

/// The socket is passed on as systemd does it (sd_listen_fds(3)): as descriptor 3, named, for that process.
#[tokio::test(flavor = "multi_thread")]
async fn it_serves_on_a_socket_that_systemd_passed_on() {
    let place = Place::new();
    let socket = place.path("activated");
    let listener: OwnedFd = UnixListener::bind(&socket).unwrap().into();
    let script =
        r#"LISTEN_FDS=1 LISTEN_FDNAMES=volattachd LISTEN_PID=$$ exec "$@" 3<&0 </dev/null"#;
    let mut command = place.command(&["sh", "-c", script, "sh"]);
    command.stdin(listener);
    let mut daemon = place.start(command);
    call(&socket).await.unwrap();
    assert!(!place.path("run").exists(), "it listens elsewhere too");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.end().0, Some(0));
    assert!(
        socket.exists(),
        "systemd's socket is not the daemon's to remove"
    );
}

#[test]
fn the_configuration_is_checked_without_starting() {
    let place = Place::new();
    let check = || place.command(&[]).arg("--check-config").output().unwrap();
    assert_eq!(check().status.code(), Some(0));
    fs::write(place.path("volattachd.toml"), "[listen]\nsockte = \"/x\"\n").unwrap();
    let output = check();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("sockte") && said.contains("socket"), "{said}");
    // A file that it names and that is not there keeps the daemon from starting as well.
    let keystone =
        "[keystone]\nurls = [\"http://127.0.0.1:5000\"]\npassword_file = \"/nowhere/password\"\n";
    fs::write(place.path("volattachd.toml"), keystone).unwrap();
    let output = check();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("/nowhere/password"), "{said}");
    assert!(!place.path("state").exists());
    assert_eq!(
        place
            .command(&[])
            .arg("--nonsense")
            .output()
            .unwrap()
            .status
            .code(),
        Some(2)
    );
}

#[tokio::test]
async fn a_call_is_audited_whatever_the_log_is_to_show() {
    let place = Place::new();
    let config = place.path("volattachd.toml");
    let file = place.path("audit.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("audit_file = {file:?}\n{text}")).unwrap();
    let mut lines = 0;
    for filter in [None, Some("off"), Some("error,audit=off")] {
        let mut command = place.command(&[]);
        command.envs(filter.map(|filter| ("VOLATTACH_LOG", filter)));
        let mut daemon = place.start(command);
        call(&place.path("run/volattachd.sock")).await.unwrap();
        daemon.signal(Signal::SIGTERM);
        let (code, said) = daemon.end();
        assert_eq!(code, Some(0), "{said}");
        let audited: Vec<_> = said
            .lines()
            .filter(|line| line.contains(" audit rule="))
            .collect();
        let [audited] = audited[..] else {
            panic!("{filter:?}: not one audit: {said}");
        };
        for part in [
            "request{rpc=\"ListAttachments\"",
            "rule=\"volume:attachment_get_all\"",
            "user=\"uid:",
            "decision=\"allow\"",
        ] {
            assert!(audited.contains(part), "{part}: {audited}");
        }
        let written = fs::read_to_string(&file).unwrap();
        lines += 1;
        assert_eq!(written.lines().count(), lines, "{written}");
        let last: serde_json::Value =
            serde_json::from_str(written.lines().last().unwrap()).unwrap();
        assert_eq!(last["rule"], "volume:attachment_get_all", "{last}");
        assert_eq!(last["span"]["rpc"], "ListAttachments", "{last}");
        assert!(last["timestamp"].is_string(), "{last}");
    }
}

/// Tries until it holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = std::time::Instant::now() + LONG;
    while !holds().await {
        assert!(std::time::Instant::now() < deadline, "not yet: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_policy_is_read_again_and_a_broken_one_is_told_of() {
    let place = Place::new();
    let (config, policy) = (place.path("volattachd.toml"), place.path("policy.yaml"));
    let text = fs::read_to_string(&config).unwrap();
    let figures = place.path("volattach.prom");
    let added = format!("metrics_file = {figures:?}\npolicy.file = {policy:?}\n");
    fs::write(&config, added + &text).unwrap();
    let wrong =
        "'volume:attachment_get_all': '!'\n'volume:extend': 'not role:cinder:reader-admn'\n";
    fs::write(&policy, wrong).unwrap();
    let mut daemon = place.start(place.command(&[]));
    let socket = place.path("run/volattachd.sock");
    assert!(call(&socket).await.is_err());
    fs::write(&policy, "'volume:attachment_get_all': 'rule:admin_api'\n").unwrap();
    until("the policy allows", async || call(&socket).await.is_ok()).await;
    fs::write(&policy, "'volume:attachment_get_all': 0\n").unwrap();
    until("it is told of", async || {
        fs::read_to_string(&figures).is_ok_and(|figures| {
            figures.contains("volattach_policy_broken 1\n")
                && figures.contains("volattach_policy_reloads_total{result=\"ok\"} 1\n")
                && figures.contains("volattach_policy_reloads_total{result=\"failed\"} 1\n")
        })
    })
    .await;
    call(&socket).await.unwrap();
    daemon.signal(Signal::SIGTERM);
    let (_, said) = daemon.end();
    let told = said.lines().find(|line| line.contains("cannot be used"));
    assert!(
        told.is_some_and(|line| line.contains("policy.yaml:1")),
        "{said}"
    );
    let warned = said.lines().find(|line| line.contains("likely wrong"));
    assert!(
        warned.is_some_and(|line| line.contains("cinder:reader-admn")),
        "{said}"
    );
    // With no earlier one to go on with, it does not start.
    let mut check = place.command(&[]);
    let checked = check.arg("--check-config").output().unwrap();
    assert_eq!(checked.status.code(), Some(1));
    let mut again = Daemon(place.command(&[]).spawn().unwrap());
    let (code, said) = again.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("policy.yaml:1"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_s_server_is_asked_while_others_are_served() {
    let (address, asked) = web::serve(|path| match path {
        "/yes" => web::ok("True"),
        "/no" => web::ok("False"),
        _ => String::new(),
    });
    let place = Place::new();
    let (config, policy) = (place.path("volattachd.toml"), place.path("policy.yaml"));
    let rule = |path: &str| {
        let text = format!("'volume:attachment_get_all': 'http://{address}/{path}'\n");
        fs::write(&policy, text).unwrap();
    };
    rule("yes");
    let text = fs::read_to_string(&config).unwrap();
    let text = format!("{text}[policy]\nfile = {policy:?}\nremote_timeout = \"60s\"\n");
    fs::write(&config, text).unwrap();
    let mut daemon = place.start(place.command(&[]));
    let socket = place.path("run/volattachd.sock");
    call(&socket).await.unwrap();
    assert!(
        asked
            .recv_timeout(LONG)
            .unwrap()
            .body
            .contains("attachment_get_all")
    );
    rule("no");
    until("the server denies", async || {
        let denied = call(&socket).await.err();
        denied.is_some_and(|status| status.code() == tonic::Code::PermissionDenied)
    })
    .await;
    // More calls than the daemon has threads wait for a server that never answers.
    rule("silent");
    let mut calls = Vec::new();
    let mut silent = 0;
    while silent < 8 {
        let socket = socket.clone();
        calls.push(tokio::spawn(async move { call(&socket).await }));
        while let Ok(asked) = asked.recv_timeout(Duration::from_millis(200)) {
            silent += usize::from(asked.line.contains("/silent "));
        }
    }
    // A call that was slow to ask has been followed by one more.
    let waiting = || calls.iter().filter(|call| !call.is_finished()).count();
    assert!(waiting() >= 8);
    rule("yes");
    until("another is answered", async || {
        let answered = tokio::time::timeout(Duration::from_secs(1), call(&socket)).await;
        answered.is_ok_and(|answer| answer.is_ok())
    })
    .await;
    assert!(waiting() >= 8);
    daemon.signal(Signal::SIGKILL);
    daemon.end();
}

/// The doctor's findings, from the real journal and host.
fn diagnose(place: &Place) -> Vec<String> {
    let mut doctor = Command::new(DOCTOR);
    let doctor = doctor.args(["doctor", "-o", "json", "--socket"]);
    let output = doctor.arg(place.path("run/volattachd.sock")).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(9), "{output:?}");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["daemon_version"], document["program_version"]);
    let findings = document["findings"].as_array().unwrap().iter();
    let what = findings.map(|finding| finding["what"].as_str().unwrap().to_owned());
    what.collect()
}

#[test]
fn the_doctor_finds_an_absent_libvirt_and_a_lost_journal() {
    let place = Place::new();
    let mut daemon = place.start(place.command(&[]));
    let has = |found: &[String], words: &str| found.iter().any(|what| what.contains(words));
    let found = diagnose(&place);
    assert!(has(&found, "cannot reach libvirt"), "{found:?}");
    assert!(!has(&found, "the journal was lost"), "{found:?}");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.end().0, Some(0));

    fs::remove_file(place.path("state/journal.redb")).unwrap();
    let _daemon = place.start(place.command(&[]));
    let found = diagnose(&place);
    assert!(has(&found, "the journal was lost"), "{found:?}");
    assert!(has(&found, "the file is missing"), "{found:?}");
}
