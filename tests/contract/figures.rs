//! The figures of a daemon at work, over fakes; and the listener that they are asked for at.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;
use volattach::api::v1;
use volattach::app::metrics::{Figures, IoFigures, MetricsSocket, PolicyFigures, Scraped};
use volattach::config::{Limits, MetricsIo, MetricsListen, Settings};
use volattach::model::{DiskIo, IoCounts};

use crate::server::{Server, attach, connect, detach, get, soon};

/// More than a scrape may take, and less than any deadline of a server.
const AT_ONCE: Duration = Duration::from_secs(2);

fn figures(server: &Server) -> Figures {
    Figures {
        engine: server.engine.clone(),
        api: server.api.figures(),
        journal: Arc::default(),
        journal_failing: watch::channel(None).1,
        policy: Arc::new(PolicyFigures::default()),
        started: SystemTime::UNIX_EPOCH,
        io: None,
    }
}

/// The samples of a figure, with their values; those of 0 left out.
async fn samples(server: &Server, name: &str) -> Vec<String> {
    let text = figures(server).text().await.unwrap();
    let is_its = |line: &&str| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' '])) && !line.ends_with(" 0")
    };
    let lines = text.lines().filter(is_its);
    lines.map(|line| line[name.len()..].to_owned()).collect()
}

#[tokio::test]
async fn calls_are_counted_by_rpc_and_reason() {
    let server = Server::start_with(Limits {
        watches: 1,
        ..Settings::built_in().limits
    })
    .await;
    let mut client = server.client().await;
    for _ in 0..2 {
        client.attach_volume(attach("a1")).await.unwrap();
    }
    let mut other = attach("a1");
    other.volume_id = "other".into();
    client.attach_volume(other).await.unwrap_err();
    let mut malformed = attach("a2");
    malformed.volume_id.clear();
    client.attach_volume(malformed).await.unwrap_err();
    client.get_attachment(get("nobody")).await.unwrap_err();
    let all = v1::WatchAttachmentsRequest::default();
    let watching = client.watch_attachments(all.clone()).await.unwrap();
    client.watch_attachments(all).await.unwrap_err();
    assert_eq!(samples(&server, "volattach_watches").await, [" 1"]);
    drop(watching);
    client.detach_volume(detach("a1")).await.unwrap();
    assert_eq!(
        samples(&server, "volattach_calls_total").await,
        [
            "{rpc=\"AttachVolume\",reason=\"ATTACHMENT_CONFLICT\"} 1",
            "{rpc=\"AttachVolume\",reason=\"INVALID_REQUEST\"} 1",
            "{rpc=\"AttachVolume\",reason=\"OK\"} 2",
            "{rpc=\"DetachVolume\",reason=\"OK\"} 1",
            "{rpc=\"GetAttachment\",reason=\"ATTACHMENT_NOT_FOUND\"} 1",
            "{rpc=\"WatchAttachments\",reason=\"OK\"} 1",
            "{rpc=\"WatchAttachments\",reason=\"TOO_MANY_WATCHES\"} 1",
        ]
    );
    assert_eq!(samples(&server, "volattach_calls_running").await, [""; 0]);
    let took = samples(&server, "volattach_call_duration_seconds_count").await;
    assert!(
        took.contains(&"{rpc=\"AttachVolume\"} 4".to_owned()),
        "{took:?}"
    );
    // A phase for each step that ran and each undo, none for the answer that was there already.
    assert_eq!(
        samples(&server, "volattach_phase_duration_seconds_count").await,
        [
            "{phase=\"turn\",result=\"ok\"} 4",
            "{phase=\"connect\",result=\"ok\"} 1",
            "{phase=\"inspect\",result=\"ok\"} 1",
            "{phase=\"plug\",result=\"ok\"} 1",
            "{phase=\"unplug\",result=\"ok\"} 1",
            "{phase=\"disconnect\",result=\"ok\"} 1",
        ]
    );
}

#[tokio::test]
async fn a_stranger_s_calls_are_counted_as_what_they_are_refused_for() {
    let server = Server::start_for_strangers(None).await;
    let mut client = server.client().await;
    client.get_attachment(get("a1")).await.unwrap_err();
    assert_eq!(
        samples(&server, "volattach_calls_total").await,
        ["{rpc=\"GetAttachment\",reason=\"UNAUTHENTICATED\"} 1"]
    );
}

#[tokio::test]
async fn what_there_is_is_counted_and_nothing_s_name_is_shown() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.attach_volume(attach("precious")).await.unwrap();
    let mut read_only = attach("readonly");
    read_only.access = v1::Access::ReadOnly.into();
    client.attach_volume(read_only).await.unwrap();
    client.connect_volume(connect("plain")).await.unwrap();
    assert_eq!(
        samples(&server, "volattach_attachments").await,
        [
            "{backend=\"smbfs\",state=\"attached\",access=\"ro\"} 1",
            "{backend=\"smbfs\",state=\"attached\",access=\"rw\"} 1",
            "{backend=\"smbfs\",state=\"connected\",access=\"rw\"} 1",
        ]
    );
    let health = async || samples(&server, "volattach_servers").await;
    assert_eq!(health().await, ["{health=\"ok\"} 1"]);
    let worker = server.world.workers.enter(&"files (smbfs)".into()).unwrap();
    assert_eq!(samples(&server, "volattach_workers").await, [" 1"]);
    worker.outlived();
    assert_eq!(samples(&server, "volattach_stuck_workers").await, [" 1"]);
    drop(worker);
    server.world.state().silent.insert("files".into());
    for expected in ["{health=\"suspect\"} 1", "{health=\"quarantined\"} 1"] {
        client.connect_volume(connect("more")).await.unwrap_err();
        assert_eq!(health().await, [expected]);
    }
    volattach::reconcile::once(&server.engine).await;
    assert_eq!(
        samples(&server, "volattach_reconcile_rounds_total").await,
        [" 1"]
    );
    assert_eq!(
        samples(&server, "volattach_reconcile_records_total").await,
        ["{result=\"ok\"} 3"]
    );
    let text = figures(&server).text().await.unwrap();
    for sample in text.lines().filter(|line| !line.starts_with('#')) {
        for name in ["precious", "files", "web", "hunter2", "uid:"] {
            assert!(!sample.contains(name), "{name} in {sample}");
        }
    }
}

#[tokio::test]
async fn the_number_of_series_does_not_grow_with_what_is_attached() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut lines = Vec::new();
    for number in 0..20 {
        let mut request = connect(&format!("c{number}"));
        let export = format!("//server{number}/vols");
        let info = crate::server::cinder("x").replace("//files/vols", &export);
        request.connection_info = crate::server::info(&info);
        client.connect_volume(request).await.unwrap();
        lines.push(figures(&server).text().await.unwrap().lines().count());
    }
    assert_eq!(lines[0], lines[19]);
    assert_eq!(
        samples(&server, "volattach_servers").await,
        ["{health=\"ok\"} 20"]
    );
}

/// A listener, and its socket.
struct Listening {
    path: PathBuf,
    _dir: tempfile::TempDir,
    serving: Scraped,
}

fn listen(server: &Server) -> Listening {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.sock");
    let socket = MetricsSocket::open(&MetricsListen::Unix(path.clone())).unwrap();
    Listening {
        path,
        _dir: dir,
        serving: socket.serve(figures(server)).unwrap(),
    }
}

/// Sends this, and takes all that comes until the listener closes.
async fn ask(path: &Path, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    // The listener may close before it has read everything.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

const GET: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";

#[tokio::test]
async fn a_scrape_is_answered_while_servers_hang() {
    let server = Server::start().await;
    let listening = listen(&server);
    // One that leaves a call waiting, and one that is quarantined.
    server.world.state().mute.insert("files".into());
    let mut client = server.client().await;
    let hanging = tokio::spawn(async move { client.attach_volume(attach("a1")).await });
    soon(async {
        while server.world.state().kept_waiting == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let began = Instant::now();
    let answer = ask(&listening.path, GET).await;
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("\nvolattach_work_running 1\n"), "{answer}");
    assert!(answer.contains("\nvolattach_calls_running 1\n"), "{answer}");
    assert!(!hanging.is_finished());
    // Its caller goes away: the call ends as that, and its work goes on.
    hanging.abort();
    soon(async {
        let cancelled = "{rpc=\"AttachVolume\",reason=\"CANCELLED\"} 1";
        while samples(&server, "volattach_calls_total").await != [cancelled] {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(samples(&server, "volattach_work_running").await, [" 1"]);
    server.world.answer();
}

#[tokio::test]
async fn the_listener_answers_get_of_metrics_and_nothing_else() {
    let server = Server::start().await;
    let listening = listen(&server);
    let status = async |request: &str| {
        let answer = soon(ask(&listening.path, request.as_bytes())).await;
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    let answer = ask(&listening.path, GET).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{head}"
    );
    assert!(body.ends_with("\n# EOF\n"));
    assert_eq!(
        status("GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\n\r\n").await,
        "200"
    );
    for path in [
        "/",
        "/metrics/",
        "/volattach.v1.VolumeAttach/AttachVolume",
        "//metrics",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(status(&request).await, "404", "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "BREW"] {
        let request = format!("{method} /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(status(&request).await, "405", "{method}");
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(&listening.path).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o666);
    let path = listening.path.clone();
    drop(listening.serving);
    assert!(!path.exists());
}

#[tokio::test]
async fn garbage_and_large_heads_are_refused_at_once() {
    let server = Server::start().await;
    let listening = listen(&server);
    let large = format!(
        "GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n",
        "x".repeat(64 * 1024)
    );
    let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1000));
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice();
    for wrong in [
        b"\0\xff\x16\x03\x01\0\0\r\n\r\n".as_slice(),
        b"nonsense\r\n\r\n",
        preface,
        large.as_bytes(),
        many.as_bytes(),
    ] {
        let began = Instant::now();
        let answer = soon(ask(&listening.path, wrong)).await;
        assert!(began.elapsed() < AT_ONCE);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{answer}"
        );
    }
    assert!(ask(&listening.path, GET).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn slow_clients_are_bounded_in_number_and_time() {
    let server = Server::start().await;
    let listening = listen(&server);
    let mut slow = Vec::new();
    // Some say nothing, some never end, some never read.
    for number in 0..16 {
        let mut stream = UnixStream::connect(&listening.path).await.unwrap();
        match number % 3 {
            0 => {}
            1 => stream.write_all(b"GET /metr").await.unwrap(),
            _ => {
                let body = b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n";
                stream.write_all(body).await.unwrap();
            }
        }
        slow.push(stream);
    }
    let began = Instant::now();
    // Accepted in their order: the next one is too many.
    assert_eq!(soon(ask(&listening.path, GET)).await, "");
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    // They are let go by themselves, and their places are free.
    soon(async {
        while !ask(&listening.path, GET).await.starts_with("HTTP/1.1 200 ") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    let mut client = server.client().await;
    client.attach_volume(attach("a1")).await.unwrap();
    drop(slow);
}

#[tokio::test]
async fn the_io_of_attached_disks_is_there_as_it_was_read_last() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for id in ["a1", "a2"] {
        client.attach_volume(attach(id)).await.unwrap();
    }
    client.connect_volume(connect("c1")).await.unwrap();
    let io = DiskIo {
        write: IoCounts {
            bytes: Some(4096),
            requests: Some(1),
            nanoseconds: None,
        },
        ..DiskIo::default()
    };
    let alias = "ua-volattach-a1".to_owned();
    server.world.state().io.insert(alias, io);
    let directory = tempfile::tempdir().unwrap();
    let asked = IoFigures::new(MetricsIo::Attachments, directory.path().to_owned());
    let asked = Arc::new(asked.unwrap());
    let figures = Figures {
        io: Some(asked.clone()),
        ..figures(&server)
    };
    let text = async || {
        let text = figures.text().await.unwrap();
        let lines = text
            .lines()
            .filter(|line| line.starts_with("volattach_disk_"));
        lines.map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(text().await, [""; 0], "nothing was read yet");
    asked.read_disks(&server.engine).await.unwrap();
    let read = [
        "volattach_disk_bytes_total{attachment=\"a1\",operation=\"write\"} 4096",
        "volattach_disk_requests_total{attachment=\"a1\",operation=\"write\"} 1",
    ];
    assert_eq!(text().await, read);
    let callers = server.world.state().asked_for_callers;
    server.world.state().hypervisor_down = true;
    asked.read_disks(&server.engine).await.unwrap();
    assert_eq!(text().await, read);
    server.world.state().hypervisor_down = false;
    asked.read_disks(&server.engine).await.unwrap();
    assert_eq!(server.world.state().asked_for_callers, callers);
    client.detach_volume(detach("a1")).await.unwrap();
    asked.read_disks(&server.engine).await.unwrap();
    assert_eq!(text().await, [""; 0]);
}
